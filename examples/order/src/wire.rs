//! The messages of the proto files, and the dead-letter events that share their payloads.

use launch::dead_letter_event;

/// Package `go.micro.service`: the calls.
#[allow(missing_docs, reason = "generated from commented protos")]
pub mod service {
    tonic::include_proto!("go.micro.service");
}

/// Package `order.event`: what the order service publishes.
#[allow(missing_docs, reason = "generated from commented protos")]
pub mod order_event {
    tonic::include_proto!("order.event");
}

/// Package `product.event`: what the order service reads of the product service.
#[allow(missing_docs, reason = "generated from commented protos")]
pub mod product_event {
    tonic::include_proto!("product.event");
}

/// What the order service calls of the product service.
#[allow(missing_docs, reason = "generated from commented protos")]
pub mod product_calls {
    include!(concat!(env!("OUT_DIR"), "/calls/go.micro.service.rs"));
}

/// The descriptors of its own, for server reflection.
pub const DESCRIPTORS: &[u8] = tonic::include_file_descriptor_set!("descriptors");

/// On `OrderEventDLQ`: the product service refuses to deduct this payment's goods.
#[derive(Clone, Debug, PartialEq)]
pub struct OnPaymentSuccessDlq(pub order_event::OnPaymentSuccess);

/// On `ProductEventDLQ`: this deduction could not be confirmed for good.
#[derive(Clone, Debug, PartialEq)]
pub struct OnInventoryDeductSuccessDlq(pub product_event::OnInventoryDeductSuccess);

dead_letter_event!(OnPaymentSuccessDlq of order_event::OnPaymentSuccess, "OrderEventDLQ", "OnPaymentSuccessDLQ");
dead_letter_event!(
    OnInventoryDeductSuccessDlq of product_event::OnInventoryDeductSuccess,
    "ProductEventDLQ",
    "OnInventoryDeductSuccessDLQ"
);
