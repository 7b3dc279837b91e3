//! The methods of services as the endpoints that a registry is told of: from their descriptors what
//! go-micro says of the Go code that protoc generates from the same protos.

use std::collections::{HashMap, HashSet};

use micro_core::{
    Error, ErrorKind, Result,
    registry::{Endpoint, EndpointValue},
};
use prost::Message as _;
use prost_types::{
    DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorProto, FileDescriptorSet,
    ServiceDescriptorProto,
    field_descriptor_proto::{Label, Type},
};

/// How deep go-micro shows a message: its fields, and theirs.
const DEPTH_MAX: usize = 3;

/// The endpoints of these services (`package.Service`), sorted by service and method, as go-micro's
/// gRPC server has them: `Service.Method`, the shapes of request and response by their Go types, at
/// most three levels deep. A streaming method has the metadata `stream` = `true`, and no shapes but
/// go-micro's `Context` and `Stream`. What the descriptors do not have is left out.
///
/// # Errors
///
/// `InvalidArgument` for bytes that are no encoded file descriptor set.
pub fn endpoints_of<'a>(descriptors: impl IntoIterator<Item = &'a [u8]>, services: &[&str]) -> Result<Vec<Endpoint>> {
    let mut files: Vec<FileDescriptorProto> = Vec::new();
    for set in descriptors {
        let set = FileDescriptorSet::decode(set).map_err(|cause| {
            let expected = "expected an encoded file descriptor set for the endpoints";
            Error::new(ErrorKind::InvalidArgument, "grpc.endpoints", expected).with_source(cause)
        })?;
        files.extend(set.file);
    }
    // Two sets may have a file both, an imported one say.
    let mut known = HashSet::new();
    files.retain(|file| known.insert(file.name().to_owned()));
    let types = Types::of(&files);
    let mut endpoints = Vec::new();
    for file in &files {
        for service in &file.service {
            let full_name = joined(file.package(), service.name());
            if services.contains(&full_name.as_str()) {
                endpoints.extend(types.endpoints(service));
            }
        }
    }
    endpoints.sort_by(|a, b| split(a).cmp(&split(b)));
    Ok(endpoints)
}

/// By service, then by method: a dot sorts behind some letters that a name may have.
fn split(endpoint: &Endpoint) -> (&str, &str) {
    endpoint.name.split_once('.').unwrap_or_default()
}

/// `.package.Outer.Inner` → what it is.
#[derive(Default)]
struct Types<'a> {
    messages: HashMap<String, Named<'a>>,
    /// By their full names, their names in Go.
    enums: HashMap<String, String>,
}

struct Named<'a> {
    go_name: String,
    message: &'a DescriptorProto,
}

impl<'a> Types<'a> {
    fn of(files: &'a [FileDescriptorProto]) -> Self {
        let mut types = Self::default();
        for file in files {
            types.add(file.package(), "", &file.message_type, &file.enum_type);
        }
        types
    }

    /// `outer` is the name within the package of the message that these stand in.
    fn add(&mut self, package: &str, outer: &str, messages: &'a [DescriptorProto], enums: &[EnumDescriptorProto]) {
        for declared in enums {
            let name = joined(outer, declared.name());
            self.enums.insert(format!(".{}", joined(package, &name)), go_name(&name));
        }
        for message in messages {
            let name = joined(outer, message.name());
            let named = Named { go_name: go_name(&name), message };
            self.messages.insert(format!(".{}", joined(package, &name)), named);
            self.add(package, &name, &message.nested_type, &message.enum_type);
        }
    }

    fn endpoints(&self, service: &ServiceDescriptorProto) -> impl Iterator<Item = Endpoint> {
        let handler = go_name(service.name());
        service.method.iter().map(move |method| {
            let endpoint = Endpoint::new(format!("{handler}.{}", go_name(method.name())));
            if method.client_streaming() || method.server_streaming() {
                let value = |name: &str| EndpointValue::new(name, name);
                let endpoint = endpoint.with_request(value("Context")).with_response(value("Stream"));
                return endpoint.with_metadata("stream", "true");
            }
            let shape = |name: &str| self.message(name, 0);
            endpoint.with_request(shape(method.input_type())).with_response(shape(method.output_type()))
        })
    }

    /// The message, named by its type.
    fn message(&self, full_name: &str, depth: usize) -> EndpointValue {
        match self.messages.get(full_name) {
            Some(Named { go_name, message }) => {
                EndpointValue::new(go_name, go_name).with_values(self.fields(message, depth + 1))
            }
            // A proto that the set does not have: what its own file would call it.
            None => {
                let name = go_name(full_name.rsplit('.').next().unwrap_or_default());
                EndpointValue::new(&*name, &*name)
            }
        }
    }

    fn fields(&self, message: &DescriptorProto, depth: usize) -> Vec<EndpointValue> {
        if depth >= DEPTH_MAX {
            return Vec::new();
        }
        let mut told = Vec::new();
        let fields = message.field.iter().filter_map(|field| match field.oneof_index {
            Some(index) if !field.proto3_optional() => {
                // In Go one field of an interface stands for all of them, at the place of the first.
                let is_new = !told.contains(&index);
                told.push(index);
                let oneof = message.oneof_decl.get(usize::try_from(index).ok()?)?;
                let name = format!("is{}_{}", self.go_name_of(message), go_name(oneof.name()));
                is_new.then(|| EndpointValue::new(&*name, &*name))
            }
            _ => Some(self.field(field, depth)),
        });
        fields.collect()
    }

    fn go_name_of(&self, message: &DescriptorProto) -> String {
        let found = self.messages.values().find(|named| std::ptr::eq(named.message, message));
        found.map_or_else(|| go_name(message.name()), |named| named.go_name.clone())
    }

    fn field(&self, field: &FieldDescriptorProto, depth: usize) -> EndpointValue {
        let is_repeated = field.label() == Label::Repeated;
        let is_map =
            is_repeated && self.messages.get(field.type_name()).is_some_and(|entry| is_map_entry(entry.message));
        let mut value = match (field.r#type(), is_repeated) {
            // Go has no name for such a type.
            _ if is_map => EndpointValue::default(),
            (Type::Message | Type::Group, false) => self.message(field.type_name(), depth),
            (_, false) => EndpointValue::new("", self.scalar(field)),
            // Nor for the element of a list of bytes.
            (Type::Bytes, true) => EndpointValue::new("", "[]"),
            (Type::Message | Type::Group, true) => {
                EndpointValue::new("", format!("[]{}", self.message(field.type_name(), DEPTH_MAX).type_name))
            }
            (_, true) => EndpointValue::new("", format!("[]{}", self.scalar(field))),
        };
        field.name().clone_into(&mut value.name);
        value
    }

    fn scalar(&self, field: &FieldDescriptorProto) -> String {
        let name = match field.r#type() {
            Type::Double => "float64",
            Type::Float => "float32",
            Type::Int64 | Type::Sint64 | Type::Sfixed64 => "int64",
            Type::Uint64 | Type::Fixed64 => "uint64",
            Type::Int32 | Type::Sint32 | Type::Sfixed32 => "int32",
            Type::Uint32 | Type::Fixed32 => "uint32",
            Type::Bool => "bool",
            Type::String => "string",
            Type::Bytes => "[]uint8",
            Type::Enum => {
                let own = || go_name(field.type_name().rsplit('.').next().unwrap_or_default());
                return self.enums.get(field.type_name()).cloned().unwrap_or_else(own);
            }
            Type::Message | Type::Group => unreachable!("a message is no scalar"),
        };
        name.to_owned()
    }
}

fn is_map_entry(message: &DescriptorProto) -> bool {
    message.options.as_ref().is_some_and(prost_types::MessageOptions::map_entry)
}

fn joined(before: &str, name: &str) -> String {
    if before.is_empty() { name.to_owned() } else { format!("{before}.{name}") }
}

/// The name that protoc-gen-go gives: parts of nested names are joined by `_`, an underscore before a
/// small letter goes and the letter is raised, one at the beginning is an `X`.
fn go_name(name: &str) -> String {
    let mut go = String::with_capacity(name.len());
    let (mut before, mut is_raised) = ('.', true);
    let mut letters = name.chars().peekable();
    while let Some(letter) = letters.next() {
        let is_small_next = letters.peek().is_some_and(char::is_ascii_lowercase);
        match letter {
            '.' | '_' if is_small_next && !(letter == '_' && before == '.') => is_raised = true,
            '_' if before == '.' => go.push('X'),
            '.' => go.push('_'),
            _ if is_raised => go.push(letter.to_ascii_uppercase()),
            _ => go.push(letter),
        }
        // What follows a small letter or a capital stays small; what follows anything else is raised.
        is_raised = is_raised && matches!(letter, '.' | '_') || !letter.is_ascii_alphabetic();
        before = letter;
    }
    go
}

#[cfg(test)]
mod tests {
    use prost_types::MethodDescriptorProto;

    use super::*;

    fn field(name: &str, number: i32, r#type: Type) -> FieldDescriptorProto {
        FieldDescriptorProto {
            name: Some(name.to_owned()),
            number: Some(number),
            r#type: Some(r#type.into()),
            ..FieldDescriptorProto::default()
        }
    }

    fn message(name: &str, fields: &[(&str, Type)]) -> DescriptorProto {
        let fields = fields.iter().zip(1..).map(|((name, r#type), number)| field(name, number, *r#type));
        DescriptorProto { name: Some(name.to_owned()), field: fields.collect(), ..DescriptorProto::default() }
    }

    fn method(name: &str, request: &str, response: &str, is_stream: bool) -> MethodDescriptorProto {
        MethodDescriptorProto {
            name: Some(name.to_owned()),
            input_type: Some(format!(".hello.{request}")),
            output_type: Some(format!(".hello.{response}")),
            server_streaming: Some(is_stream),
            ..MethodDescriptorProto::default()
        }
    }

    fn set(messages: Vec<DescriptorProto>, methods: Vec<MethodDescriptorProto>) -> Vec<u8> {
        let service = |name: &str, method| ServiceDescriptorProto {
            name: Some(name.to_owned()),
            method,
            ..ServiceDescriptorProto::default()
        };
        let file = FileDescriptorProto {
            package: Some("hello".to_owned()),
            message_type: messages,
            service: vec![service("Other", vec![method("Hello", "A", "A", false)]), service("Greeter", methods)],
            ..FileDescriptorProto::default()
        };
        FileDescriptorSet { file: vec![file] }.encode_to_vec()
    }

    /// As go-micro 4.11 registered the greeter of the same proto.
    #[test]
    fn the_endpoints_of_a_service_are_those_that_go_micro_registers() {
        let hello = [("name", Type::String), ("payload", Type::Bytes)];
        let fail = [("code", Type::Int32), ("detail", Type::String), ("kind", Type::String)];
        let reply = [("greeting", Type::String), ("payload", Type::Bytes)];
        let messages =
            vec![message("HelloRequest", &hello), message("FailRequest", &fail), message("HelloResponse", &reply)];
        let methods = vec![
            method("Hello", "HelloRequest", "HelloResponse", false),
            method("Count", "HelloRequest", "HelloResponse", true),
            method("Fail", "FailRequest", "HelloResponse", false),
        ];
        let endpoints = endpoints_of([&*set(messages, methods)], &["hello.Greeter"]).unwrap();
        let text = include_str!("../../tests/vectors/gomicro-endpoints.json");
        let expected: Vec<Endpoint> = serde_json::from_str(text).unwrap();
        assert_eq!(endpoints, expected);
    }

    #[test]
    fn a_message_that_holds_itself_is_shown_three_levels_deep() {
        let mut tree = message("Tree", &[("value", Type::Int64), ("left", Type::Message), ("all", Type::Message)]);
        tree.field[1].type_name = Some(".hello.Tree".to_owned());
        tree.field[2].type_name = Some(".hello.Tree".to_owned());
        tree.field[2].set_label(Label::Repeated);
        let endpoints =
            endpoints_of([&*set(vec![tree], vec![method("Grow", "Tree", "Absent", false)])], &["hello.Greeter"])
                .unwrap();
        let value = || EndpointValue::new("value", "int64");
        let all = || EndpointValue::new("all", "[]Tree");
        let last = EndpointValue::new("left", "Tree");
        let inner = EndpointValue::new("left", "Tree").with_values([value(), last, all()]);
        let expected = EndpointValue::new("Tree", "Tree").with_values([value(), inner, all()]);
        assert_eq!(endpoints[0].request, Some(expected));
        assert_eq!(endpoints[0].response, Some(EndpointValue::new("Absent", "Absent")));
    }

    #[test]
    fn what_is_no_descriptor_set_is_refused() {
        let error = endpoints_of([&b"\xff"[..]], &["hello.Greeter"]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    }

    /// The names that protoc-gen-go 1.28 gave.
    #[test]
    fn names_are_those_of_protoc_gen_go() {
        for (name, go) in [
            ("one", "One"),
            ("one_two", "OneTwo"),
            ("_my_field_name_2", "XMyFieldName_2"),
            ("Something_Capped", "Something_Capped"),
            ("my_Name", "My_Name"),
            ("OneTwo", "OneTwo"),
            ("_", "X"),
            ("_a_", "XA_"),
            ("one.two", "OneTwo"),
            ("one.Two", "One_Two"),
            ("one_two.three_four", "OneTwoThreeFour"),
            ("one_two.Three_four", "OneTwo_ThreeFour"),
            ("_one._two", "XOne_XTwo"),
            ("SCREAMING_SNAKE_CASE", "SCREAMING_SNAKE_CASE"),
            ("double__underscore", "Double_Underscore"),
            ("camelCase", "CamelCase"),
            ("go2proto", "Go2Proto"),
        ] {
            assert_eq!(go_name(name), go, "{name}");
        }
    }
}
