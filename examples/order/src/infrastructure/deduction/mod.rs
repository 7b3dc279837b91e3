//! The ways to have goods deducted that answer through no event: by a saga, and by a call.

mod direct;
mod saga;

pub use direct::DirectDeduction;
pub use saga::{BranchAddresses, SagaDeduction};

use crate::{
    domain::Order,
    wire::product_calls::{OrderDetailReq, ProductInvetoryItem},
};

fn request_of(order: &Order) -> OrderDetailReq {
    let products = order.lines.iter().map(|line| ProductInvetoryItem {
        product_id: line.product_id,
        product_num: i64::from(line.quantity),
        product_size_id: line.sku_id,
    });
    OrderDetailReq { order_id: order.id, products: products.collect() }
}
