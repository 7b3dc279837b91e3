//! Each refusal names file, line, message or symbol, and what is allowed.

use crate::compile;

const HEAD: &str = "syntax = \"proto3\";\npackage shop;\nimport \"micro/event.proto\";\n";

fn refusal(message: &str) -> String {
    compile(&format!("{HEAD}{message}")).unwrap_err()
}

#[test]
fn an_unknown_type_is_named_with_file_and_line() {
    let text = compile("syntax = \"proto3\";\nmessage Order {\n  Missing item = 1;\n}\n").unwrap_err();
    assert_eq!(text, "orders.proto:3:3: name 'Missing' is not defined");
}

#[test]
fn a_syntax_error_is_named_with_file_and_line() {
    let text = compile("syntax = \"proto3\";\nmessage Order {\n  int64 id 1;\n}\n").unwrap_err();
    assert!(text.starts_with("orders.proto:3:12: expected '='"), "{text}");
}

#[test]
fn a_missing_import_is_named() {
    let text = compile("syntax = \"proto3\";\nimport \"common.proto\";\n").unwrap_err();
    assert!(text.starts_with("orders.proto:2:1: import 'common.proto' not found"), "{text}");
}

#[test]
fn a_missing_file_is_named() {
    let text = micro_build::Builder::new().out_dir("/nowhere").compile(&["proto/none.proto"]).unwrap_err().to_string();
    assert!(text.contains("proto/none.proto") && text.contains("include folders"), "{text}");
}

#[test]
fn a_missing_topic_is_refused() {
    let text = refusal("message Paid {\n  option (micro.event) = { key: \"id\" };\n  int64 id = 1;\n}\n");
    assert_eq!(
        text,
        "orders.proto:4: message shop.Paid, option (micro.event): topic is missing; \
         expected the name of the topic it is published on"
    );
}

#[test]
fn a_missing_key_is_refused_with_the_fields_that_can_be_one() {
    let text = refusal(
        "\nmessage Paid {\n  option (micro.event) = { topic: \"T\" };\n  int64 id = 1; bytes raw = 2; string no = 3;\n}\n",
    );
    assert!(
        text.starts_with("orders.proto:5: message shop.Paid, option (micro.event): key is missing; expected"),
        "{text}"
    );
    assert!(text.ends_with(": id, no"), "{text}");
}

#[test]
fn an_unknown_key_field_is_refused() {
    let text = refusal("message Paid {\n  option (micro.event) = { topic: \"T\" key: \"Id\" };\n  int64 id = 1;\n}\n");
    assert!(text.contains("key: there is no field \"Id\"; expected") && text.ends_with(": id"), "{text}");
}

#[test]
fn a_key_that_is_no_plain_scalar_is_refused_with_its_type() {
    for (field, described) in [
        ("repeated int64 k = 1;", "repeated int64"),
        ("optional int64 k = 1;", "optional int64"),
        ("Paid k = 1;", "optional message shop.Paid"),
        ("map<string, int64> k = 1;", "repeated message shop.Paid.KEntry"),
        ("oneof either { int64 k = 1; }", "optional int64"),
        ("bytes k = 1;", "bytes"),
        ("double k = 1;", "double"),
    ] {
        let text =
            refusal(&format!("message Paid {{ option (micro.event) = {{ topic: \"T\" key: \"k\" }}; {field} }}\n"));
        assert!(text.contains(&format!("the field \"k\" cannot be a key, it is {described}; expected")), "{text}");
    }
}

#[test]
fn a_setting_that_does_not_exist_is_refused_with_its_line_and_the_allowed_ones() {
    let text = refusal("message Paid {\n  option (micro.event) = { topics: \"T\" };\n}\n");
    assert_eq!(
        text,
        "orders.proto:5:3: invalid value of type 'micro.EventOptions' for option '(micro.event)'; \
         expected the texts topic, type, key and schema_version"
    );
}
