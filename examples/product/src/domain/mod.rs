//! The rules of products and their stock. No I/O: storage and publishing are ports.

mod catalogue;
mod money;
mod ports;
mod restock;
mod sales;
mod stock;
mod supplier;
mod time;

pub use catalogue::{NewProduct, SkuDetail, SkuImage, SkuLevel};
pub use money::Money;
pub use ports::{
    Catalogue, CatalogueQueries, Ledger, ProductEvents, RestockQueries, Restocks, SalesQueries, Stocks, SupplyQueries,
};
pub use restock::{Restock, RestockAudit, RestockWish};
pub use sales::{DailySales, SalesVolume};
pub use stock::{
    Decided, Deducted, LedgerEntry, PaidItem, PaidOrder, Quantity, Refused, Shelf, SkuStock, Source, StockChange,
    Verdict,
};
pub use supplier::{Supplier, Supply};
pub use time::{Day, Moment, Span};
