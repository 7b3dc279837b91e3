//! `kafka://…`: a URL as settings.

use micro_core::{Error, ErrorKind, Result};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;
use url::form_urlencoded;

use crate::config::{KafkaConfig, Sasl, SaslMechanism, Tls};

const OPERATION: &str = "broker.connect";

/// See [`KafkaConfig::from_url`]. Errors name options and show no value: any of them may be a
/// secret.
pub(crate) fn parse(url: &str) -> Result<KafkaConfig> {
    let (scheme, rest) = url.split_once("://").unwrap_or((url, ""));
    let mut config = KafkaConfig::default();
    match scheme {
        "kafka" => {}
        "kafka+tls" => config.tls = Some(Tls::default()),
        _ => return Err(refused("expected kafka://host:port or kafka+tls://host:port")),
    }
    let (authority, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (account, servers) = match authority.rsplit_once('@') {
        Some((account, servers)) => (Some(account), servers),
        None => (None, authority),
    };
    servers.trim_end_matches('/').clone_into(&mut config.servers);
    if let Some(account) = account {
        let (user, password) =
            account.split_once(':').ok_or_else(|| refused("expected user:password before the @ of the URL"))?;
        let (user, password) = (percent_decoded(user)?, percent_decoded(password)?);
        config.sasl = Some(Sasl { mechanism: SaslMechanism::default(), user, password });
    }
    for (name, value) in form_urlencoded::parse(query.as_bytes()) {
        config = with_option(config, &name, &value).map_err(|error| error.with_context("option", &name))?;
    }
    config.check()?;
    Ok(config)
}

fn with_option(mut config: KafkaConfig, name: &str, value: &str) -> Result<KafkaConfig> {
    match name {
        _ if name.contains('.') => {
            config.properties.insert(name.to_owned(), value.to_owned());
        }
        "sasl_mechanism" => {
            let sasl = config.sasl.ok_or_else(|| refused("a SASL mechanism needs user:password@ in the URL"))?;
            config.sasl = Some(with_field(sasl, "mechanism", value)?);
        }
        // Structures have no form in a query.
        "servers" | "sasl" | "tls" | "properties" => return Err(refused("this is no option of a URL")),
        _ => match name.strip_prefix("tls_") {
            Some(field) => config.tls = Some(with_field(config.tls.unwrap_or_default(), field, value)?),
            None => config = with_field(config, name, value)?,
        },
    }
    Ok(config)
}

/// The settings with one field replaced, read by the rules of a settings file.
fn with_field<T: Serialize + DeserializeOwned>(settings: T, name: &str, value: &str) -> Result<T> {
    let Ok(Value::Object(fields)) = serde_json::to_value(&settings) else {
        return Err(refused("these settings have no fields"));
    };
    // A name may be all digits, a number is no text: the text is tried first.
    let list = value.split(',').map(str::trim).collect::<Vec<_>>();
    let candidates = [Some(Value::from(value)), value.parse::<u64>().ok().map(Value::from), Some(Value::from(list))];
    candidates
        .into_iter()
        .flatten()
        .find_map(|value| {
            let mut fields = fields.clone();
            fields.insert(name.to_owned(), value);
            serde_json::from_value(Value::Object(fields)).ok()
        })
        .ok_or_else(|| refused("there is no such option, or not with this value"))
}

fn percent_decoded(text: &str) -> Result<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        rest = tail;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let digits = tail.get(..2).and_then(|digits| std::str::from_utf8(digits).ok());
        let byte = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok());
        bytes.push(byte.ok_or_else(|| refused("a % in user or password is not followed by two hex digits"))?);
        rest = &tail[2..];
    }
    String::from_utf8(bytes).map_err(|_| refused("user or password is not UTF-8"))
}

fn refused(message: &'static str) -> Error {
    Error::new(ErrorKind::InvalidArgument, OPERATION, message)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::config::{Assignment, Partitioner};

    #[test]
    fn a_url_names_servers_account_and_options() {
        let config = parse(
            "kafka://order:p%40ss%2F%3A@a:9092,b:9092/?linger_ms=2&partitioner=murmur2&assignment=range\
             &client_id=17&envelope_topics=OrderEvent,OrderEventDLQ&instance_id=order-0&socket.keepalive.enable=true&message_bytes_max=5000",
        )
        .unwrap();
        assert_eq!(config.servers, "a:9092,b:9092");
        assert_eq!(config.sasl.as_ref().map(|sasl| (&*sasl.user, &*sasl.password)), Some(("order", "p@ss/:")));
        assert_eq!(config.linger, Duration::from_millis(2));
        assert_eq!((config.partitioner, config.assignment), (Partitioner::Murmur2, Assignment::Range));
        assert_eq!((&*config.client_id, config.instance_id.as_deref()), ("17", Some("order-0")));
        assert_eq!(config.properties["socket.keepalive.enable"], "true");
        assert_eq!(config.message_bytes_max, 5000);
    }

    #[test]
    fn what_is_no_setting_is_named_without_its_value() {
        for (url, named) in [
            ("kafka://a:1?liner_ms=canary", "liner_ms"),
            ("kafka://a:1?linger_ms=canary", "linger_ms"),
            ("kafka://a:1?partitioner=canary", "partitioner"),
            ("kafka://a:1?sasl=canary", "sasl"),
            ("kafka://a:1?sasl_mechanism=canary", "sasl_mechanism"),
            ("kafka://a:1?tls_canary_file=canary", "tls_canary_file"),
            ("kafka://a:1?acks=0&enable.idempotence=canary", "acks"),
            ("kafka://a:1?enable.auto.commit=canary", "enable.auto.commit"),
            ("kafka://canary@a:1", "user:password"),
            ("kafka://u:canary%4@a:1", "hex digits"),
            ("kafka://u:canary@", "servers"),
            ("kafka:canary", "kafka://host:port"),
            ("amqp://u:canary@a:1", "kafka://host:port"),
        ] {
            let error = parse(url).unwrap_err();
            let text = format!("{} {error:?}", error.report());
            assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{url}: {text}");
            assert!(text.contains(named), "{url}: {text}");
            assert!(!text.replace("tls_canary_file", "").contains("canary"), "{url}: {text}");
        }
    }
}
