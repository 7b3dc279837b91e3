//! Generates the messages, the server and client, and the typed events from the protos.

fn main() -> Result<(), micro_build::Error> {
    micro_build::compile(&["proto/order.proto", "proto/order_event.proto", "proto/product_event.proto"])
}
