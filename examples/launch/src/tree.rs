//! The keys of a document in Consul, laid over each other as go-micro's configuration lays them, and
//! the environment's variables in it.

use micro_core::{Error, ErrorKind, Result};
use serde_json::{Map, Value};

/// The tree of the document `name`, from keys and their values in the keys' order: `name` itself has
/// the tree, `name/service` what is below `service`, and a later one counts for more. `None` where no
/// key is of this document.
///
/// # Errors
///
/// `InvalidArgument` for a value that is no JSON object and, below `name`, no list either; it names
/// the key and shows no value.
pub(crate) fn merged<'a>(name: &str, keys: impl IntoIterator<Item = (&'a str, &'a [u8])>) -> Result<Option<Value>> {
    let mut tree = None;
    for (key, text) in keys {
        let Some(below) = key.strip_prefix(name) else { continue };
        // `order_archive` is another document; and a folder, as Consul's pages make them, has no value.
        if !(below.is_empty() || below.starts_with('/')) || text.is_empty() {
            continue;
        }
        let value = value_of(text, below.is_empty()).map_err(|error| error.with_context("document", key))?;
        let parts = below.split('/').filter(|part| !part.is_empty());
        let value = parts.rev().fold(value, |value, part| Value::Object(Map::from_iter([(part.to_owned(), value)])));
        lay(tree.get_or_insert(Value::Null), value);
    }
    Ok(tree)
}

fn value_of(text: &[u8], is_root: bool) -> Result<Value> {
    let value: Value = serde_json::from_slice(text).map_err(|error| {
        // Where it is wrong, and not what stands there: it may be a password.
        refused(is_root).with_context("line", error.line()).with_context("column", error.column())
    })?;
    if value.is_object() || (value.is_array() && !is_root) { Ok(value) } else { Err(refused(is_root)) }
}

fn refused(is_root: bool) -> Error {
    let expected = if is_root { "expected a JSON object" } else { "expected a JSON object or a list" };
    Error::new(ErrorKind::InvalidArgument, "launch.document", expected)
}

/// Objects are merged; of anything else the later one stays.
fn lay(tree: &mut Value, over: Value) {
    match (tree, over) {
        (Value::Object(tree), Value::Object(over)) => {
            for (name, value) in over {
                lay(tree.entry(name).or_insert(Value::Null), value);
            }
        }
        (tree, over) => *tree = over,
    }
}

/// Puts variables where a text says `${NAME}`; one that is not set is empty, as in go-micro.
pub(crate) fn substitute(value: &mut Value, variable: &impl Fn(&str) -> Option<String>) {
    match value {
        Value::String(text) => *text = substituted(text, variable),
        Value::Array(values) => values.iter_mut().for_each(|value| substitute(value, variable)),
        Value::Object(members) => members.values_mut().for_each(|value| substitute(value, variable)),
        _ => {}
    }
}

fn substituted(text: &str, variable: &impl Fn(&str) -> Option<String>) -> String {
    let is_name =
        |name: &str| !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    let (mut done, mut rest) = (String::new(), text);
    while let Some((before, after)) = rest.split_once("${") {
        done.push_str(before);
        match after.split_once('}').filter(|(name, _)| is_name(name)) {
            Some((name, after)) => {
                done.push_str(&variable(name).unwrap_or_default());
                rest = after;
            }
            None => {
                done.push_str("${");
                rest = after;
            }
        }
    }
    done + rest
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn of(keys: &[(&str, &str)]) -> Result<Option<Value>> {
        merged("micro/order", keys.iter().map(|(key, text)| (*key, text.as_bytes())))
    }

    #[test]
    fn keys_below_a_document_are_laid_over_it() {
        let tree = of(&[
            ("micro/order", r#"{"service": {"name": "a", "qps": 1}, "list": [1, 2]}"#),
            ("micro/order/", ""),
            ("micro/order/broker/kafka", r#"{"hosts": ["k:1"]}"#),
            ("micro/order/list", "[3]"),
            ("micro/order/service", r#"{"name": "b"}"#),
            ("micro/order_archive", "canary"),
            ("micro/ordersheet/x", "7"),
        ]);
        let expected =
            json!({"service": {"name": "b", "qps": 1}, "list": [3], "broker": {"kafka": {"hosts": ["k:1"]}}});
        assert_eq!(tree.unwrap(), Some(expected));
        assert_eq!(of(&[("micro/order_archive", "{}"), ("micro/order/", "")]).unwrap(), None);
    }

    #[test]
    fn a_value_that_is_no_object_is_refused_by_its_key() {
        for (key, text) in [("micro/order", "[1]"), ("micro/order", "canary"), ("micro/order/scalar", "\"canary\"")] {
            let error = of(&[(key, text)]).unwrap_err();
            let said = format!("{} {error:?}", error.report());
            assert!(said.contains(&format!("document={key}")) && !said.contains("canary"), "{said}");
        }
    }

    #[test]
    fn variables_stand_where_texts_name_them() {
        let variable = |name: &str| match name {
            "HOST_1" => Some("db".to_owned()),
            "ODD" => Some("\"${HOST_1}".to_owned()),
            _ => None,
        };
        let mut value = json!({"a": ["x${HOST_1}${NONE}y"], "b": "${ODD}", "c": "$HOST_1 ${} ${a b} ${HOST_1", "d": 1});
        substitute(&mut value, &variable);
        assert_eq!(value, json!({"a": ["xdby"], "b": "\"${HOST_1}", "c": "$HOST_1 ${} ${a b} ${HOST_1", "d": 1}));
    }
}
