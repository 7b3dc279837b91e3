//! What is generated: it is kept beside this file, compiled into this test, and used.

#![allow(missing_docs, unreachable_pub)]

use std::{env, fs};

use bytes::BytesMut;
use micro_core::event::Event;
use prost::Message as _;

use crate::fixture;

mod proto {
    include!("generated.rs");
}

/// `MICRO_UPDATE_EXPECTED=1 cargo test -p micro-build` writes the file anew.
#[test]
fn generated_code_is_the_file_that_this_test_compiles() {
    let folder = tempfile::tempdir().unwrap();
    let builder = micro_build::Builder::new().core_path("::micro_core").out_dir(folder.path());
    builder.compile(&[fixture("proto/order.proto")]).unwrap();
    let code = fs::read_to_string(folder.path().join("go.micro.service.rs")).unwrap();

    if env::var_os("MICRO_UPDATE_EXPECTED").is_some() {
        fs::write(fixture("generated.rs"), &code).unwrap();
    }
    assert_eq!(code, fs::read_to_string(fixture("generated.rs")).unwrap());
}

#[test]
fn a_message_with_the_option_is_an_event() {
    use proto::OnPaymentSuccess;
    let event = OnPaymentSuccess { order_id: -7, products: Vec::new() };

    assert_eq!(OnPaymentSuccess::TOPIC, "OrderEvent");
    assert_eq!(OnPaymentSuccess::EVENT_TYPE, "OnPaymentSuccess");
    assert_eq!(OnPaymentSuccess::SCHEMA_VERSION, "7.0.0");
    assert_eq!(event.key(), "-7");
    let mut payload = BytesMut::new();
    Event::encode_payload(&event, &mut payload).unwrap();
    assert_eq!(<OnPaymentSuccess as Event>::decode_payload(payload.freeze()).unwrap(), event);
}

#[test]
fn a_nested_message_and_a_field_named_like_a_keyword_work() {
    use proto::on_payment_success::Item;
    let event = Item { r#type: "shoe".into() };

    assert_eq!((Item::TOPIC, Item::EVENT_TYPE, Item::SCHEMA_VERSION), ("Items", "Item", ""));
    assert_eq!(event.key(), "shoe");
}

#[test]
fn go_names_become_snake_case_and_keep_their_numbers() {
    let request = proto::PayNotifyRequest { status_code: "0000".into(), ..Default::default() };
    assert_eq!(request.encode_to_vec(), b"\x3a\x040000");
}

#[test]
fn the_core_path_defaults_to_the_facade() {
    let folder = tempfile::tempdir().unwrap();
    micro_build::Builder::new().out_dir(folder.path()).compile(&[fixture("proto/order.proto")]).unwrap();
    let code = fs::read_to_string(folder.path().join("go.micro.service.rs")).unwrap();
    assert!(code.contains("impl ::micro_rs::core::event::Event for OnPaymentSuccess {"), "{code}");
}

#[test]
fn descriptors_hold_the_file_its_imports_and_the_option() {
    let folder = tempfile::tempdir().unwrap();
    let builder = micro_build::Builder::new().descriptors("reflection").out_dir(folder.path());
    builder.compile(&[fixture("proto/order.proto")]).unwrap();
    let bytes = fs::read(folder.path().join("reflection.bin")).unwrap();

    let pool = prost_reflect::DescriptorPool::decode(bytes.as_slice()).unwrap();
    let names: Vec<_> = pool.services().map(|service| service.full_name().to_owned()).collect();
    assert_eq!(names, ["go.micro.service.Order"]);
    let event = pool.get_message_by_name("go.micro.service.OnPaymentSuccess").unwrap();
    assert!(event.options().has_extension(&pool.get_extension_by_name("micro.event").unwrap()));
}

#[test]
fn protos_that_use_each_other_come_as_nested_modules() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("a.proto"), "syntax = \"proto3\"; package a.b; message A { int64 id = 1; }").unwrap();
    fs::write(
        folder.path().join("c.proto"),
        "syntax = \"proto3\"; package c; import \"a.proto\"; message C { a.b.A a = 1; }",
    )
    .unwrap();
    let builder = micro_build::Builder::new().modules("all.rs").include(folder.path()).out_dir(folder.path());
    builder.compile(&["c.proto"]).unwrap();

    let all = fs::read_to_string(folder.path().join("all.rs")).unwrap();
    assert!(all.contains("pub mod a {") && all.contains("pub mod b {") && all.contains("pub mod c {"), "{all}");
    assert!(fs::read_to_string(folder.path().join("c.rs")).unwrap().contains("super::a::b::A"));
}
