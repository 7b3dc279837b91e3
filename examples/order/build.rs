//! Generates the messages, the server and client, and the typed events from the protos.

use std::{env, fs, path::Path};

fn main() -> Result<(), micro_build::Error> {
    micro_build::compile(&[
        "proto/order.proto",
        "proto/settlement.proto",
        "proto/order_event.proto",
        "proto/product_event.proto",
    ])?;
    // Apart: they share a package with our own, and are not among the services that we describe.
    let calls = Path::new(&env::var_os("OUT_DIR").expect("cargo sets OUT_DIR")).join("calls");
    fs::create_dir_all(&calls).expect("OUT_DIR can be written to");
    micro_build::Builder::new().server(false).out_dir(calls).compile(&["proto/product.proto"])
}
