//! The rules of products and their stock. No I/O: storage and publishing are ports.

mod catalogue;
mod money;
mod ports;
mod stock;

pub use catalogue::{NewProduct, SkuDetail, SkuImage, SkuLevel};
pub use money::Money;
pub use ports::{Catalogue, Ledger, ProductEvents, Stocks};
pub use stock::{
    Decided, Deducted, LedgerEntry, PaidItem, PaidOrder, Quantity, Refused, Shelf, SkuStock, Source, StockChange,
    Verdict,
};
