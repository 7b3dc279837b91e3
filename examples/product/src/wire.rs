//! The messages of the proto files, and the dead-letter events that share their payloads.

use launch::dead_letter_event;

/// Package `go.micro.service`: the calls.
#[allow(missing_docs, reason = "generated from commented protos")]
pub mod service {
    tonic::include_proto!("go.micro.service");
}

/// Package `order.event`: what the product service reads of the order service.
#[allow(missing_docs, reason = "generated from commented protos")]
pub mod order_event {
    tonic::include_proto!("order.event");
}

/// Package `product.event`: what the product service publishes.
#[allow(missing_docs, reason = "generated from commented protos")]
pub mod product_event {
    tonic::include_proto!("product.event");
}

/// The descriptors of all of them, for server reflection.
pub const DESCRIPTORS: &[u8] = tonic::include_file_descriptor_set!("descriptors");

/// On `OrderEventDLQ`: the goods of this payment cannot be deducted.
#[derive(Clone, Debug, PartialEq)]
pub struct OnPaymentSuccessDlq(pub order_event::OnPaymentSuccess);

/// On `ProductEventDLQ`: the order service could not confirm this deduction for good.
#[derive(Clone, Debug, PartialEq)]
pub struct OnInventoryDeductSuccessDlq(pub product_event::OnInventoryDeductSuccess);

dead_letter_event!(OnPaymentSuccessDlq of order_event::OnPaymentSuccess, "OrderEventDLQ", "OnPaymentSuccessDLQ");
dead_letter_event!(
    OnInventoryDeductSuccessDlq of product_event::OnInventoryDeductSuccess,
    "ProductEventDLQ",
    "OnInventoryDeductSuccessDLQ"
);
