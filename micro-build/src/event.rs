//! Typed events: reads the option `micro.event` of messages and writes their `Event` impls.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

use heck::{ToSnakeCase as _, ToUpperCamelCase as _};
use prost_reflect::{Cardinality, DescriptorPool, DynamicMessage, FieldDescriptor, Kind, MessageDescriptor, Value};

use crate::Error;

const KEY_KINDS: &str = "an integer, string or bool field that is neither repeated nor optional nor part of a oneof";

/// A message with the option, checked.
pub(crate) struct EventType {
    package: String,
    rust_path: String,
    topic: String,
    event_type: String,
    schema_version: String,
    key_field: String,
}

pub(crate) fn find(pool: &DescriptorPool) -> Result<Vec<EventType>, Error> {
    let Some(option) = pool.get_extension_by_name("micro.event") else { return Ok(Vec::new()) };
    let mut events = Vec::new();
    for message in pool.all_messages() {
        let options = message.options();
        if !options.has_extension(&option) {
            continue;
        }
        if let Value::Message(settings) = options.get_extension(&option).as_ref() {
            events.push(EventType::read(&message, settings)?);
        }
    }
    Ok(events)
}

/// Appends the impls to the files the messages were generated into.
pub(crate) fn append(events: &[EventType], core: &str, out_dir: &Path) -> Result<(), Error> {
    let mut additions: BTreeMap<PathBuf, String> = BTreeMap::new();
    for event in events {
        event.write(core, additions.entry(out_dir.join(event.file_name())).or_default());
    }
    for (path, addition) in additions {
        let code = fs::read_to_string(&path).map_err(|error| Error::write(&path, error))?;
        fs::write(&path, code + &addition).map_err(|error| Error::write(&path, error))?;
    }
    Ok(())
}

impl EventType {
    fn read(message: &MessageDescriptor, settings: &DynamicMessage) -> Result<Self, Error> {
        let topic = text(settings, "topic");
        if topic.is_empty() {
            return Err(refuse(message, "topic is missing; expected the name of the topic it is published on"));
        }
        let event_type = Some(text(settings, "type")).filter(|name| !name.is_empty());
        Ok(Self {
            package: message.package_name().to_owned(),
            rust_path: rust_path(message),
            topic,
            event_type: event_type.unwrap_or_else(|| message.name().to_owned()),
            schema_version: text(settings, "schema_version"),
            key_field: rust_field(key_field(message, &text(settings, "key"))?.name()),
        })
    }

    fn file_name(&self) -> String {
        // `_` is prost's file of protos without a package.
        format!("{}.rs", if self.package.is_empty() { "_" } else { &self.package })
    }

    fn write(&self, core: &str, code: &mut String) {
        let Self { rust_path, topic, event_type, schema_version, key_field, .. } = self;
        write!(
            code,
            r#"
impl {core}::event::Event for {rust_path} {{
    const TOPIC: &'static str = {topic:?};
    const EVENT_TYPE: &'static str = {event_type:?};
    const SCHEMA_VERSION: &'static str = {schema_version:?};

    fn key(&self) -> ::std::string::String {{
        ::std::string::ToString::to_string(&self.{key_field})
    }}

    fn encode_payload(&self, payload: &mut {core}::event::__private::BytesMut) -> {core}::Result<()> {{
        {core}::event::encode_protobuf(self, payload)
    }}

    fn decode_payload(payload: {core}::event::__private::Bytes) -> {core}::Result<Self> {{
        {core}::event::decode_protobuf(payload)
    }}
}}
"#
        )
        .expect("writing to a String cannot fail");
    }
}

fn text(settings: &DynamicMessage, field: &str) -> String {
    let value = settings.get_field_by_name(field);
    value.and_then(|value| value.as_str().map(str::to_owned)).unwrap_or_default()
}

fn key_field(message: &MessageDescriptor, name: &str) -> Result<FieldDescriptor, Error> {
    let Some(field) = message.get_field_by_name(name) else {
        let what =
            if name.is_empty() { "key is missing".to_owned() } else { format!("key: there is no field {name:?}") };
        return Err(refuse(message, &format!("{what}; expected {}", allowed(message))));
    };
    if !is_key(&field) {
        let what = format!("key: the field {name:?} cannot be a key, it is {}", describe(&field));
        return Err(refuse(message, &format!("{what}; expected {}", allowed(message))));
    }
    Ok(field)
}

fn is_key(field: &FieldDescriptor) -> bool {
    let scalar = matches!(
        field.kind(),
        Kind::Int32
            | Kind::Int64
            | Kind::Uint32
            | Kind::Uint64
            | Kind::Sint32
            | Kind::Sint64
            | Kind::Fixed32
            | Kind::Fixed64
            | Kind::Sfixed32
            | Kind::Sfixed64
            | Kind::String
            | Kind::Bool
    );
    // A field that can be absent is an `Option` in Rust, and an event always has a key.
    let always_there = match field.cardinality() {
        Cardinality::Required => true,
        Cardinality::Optional => !field.supports_presence(),
        Cardinality::Repeated => false,
    };
    scalar && always_there
}

fn describe(field: &FieldDescriptor) -> String {
    let shape = if field.is_list() || field.is_map() {
        "repeated "
    } else if field.containing_oneof().is_some() || field.supports_presence() {
        "optional "
    } else {
        ""
    };
    let kind = match field.kind() {
        Kind::Message(message) => format!("message {}", message.full_name()),
        Kind::Enum(enumeration) => format!("enum {}", enumeration.full_name()),
        scalar => format!("{scalar:?}").to_lowercase(),
    };
    format!("{shape}{kind}")
}

fn allowed(message: &MessageDescriptor) -> String {
    let fields: Vec<_> = message.fields().filter(is_key).map(|field| field.name().to_owned()).collect();
    if fields.is_empty() { KEY_KINDS.to_owned() } else { format!("{KEY_KINDS}: {}", fields.join(", ")) }
}

fn refuse(message: &MessageDescriptor, what: &str) -> Error {
    let file = message.parent_file();
    let line = file
        .file_descriptor_proto()
        .source_code_info
        .as_ref()
        .and_then(|info| info.location.iter().find(|location| location.path == message.path()))
        .and_then(|location| location.span.first())
        .map_or(1, |line| line + 1);
    Error::new(format!("{}:{line}: message {}, option (micro.event): {what}", file.name(), message.full_name()))
}

/// prost's names: a message within a message is in a module named after the outer one.
fn rust_path(message: &MessageDescriptor) -> String {
    let mut path = rust_type(message.name());
    let mut parent = message.parent_message();
    while let Some(outer) = parent {
        path = format!("{}::{path}", rust_field(outer.name()));
        parent = outer.parent_message();
    }
    path
}

fn rust_type(name: &str) -> String {
    match name.to_upper_camel_case() {
        name if name == "Self" => "Self_".to_owned(),
        name => name,
    }
}

/// Always a raw identifier, which is the same name: so a field called `type` needs no list of
/// keywords here. The five that cannot be raw get prost's underscore.
fn rust_field(name: &str) -> String {
    match name.to_snake_case() {
        name if ["_", "super", "self", "extern", "crate"].contains(&name.as_str()) => format!("{name}_"),
        name => format!("r#{name}"),
    }
}
