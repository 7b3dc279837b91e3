//! What a server knows of its methods by their descriptors.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use http::uri::PathAndQuery;
use micro_core::{Error, ErrorKind, Result};
use prost_reflect::{DescriptorPool, MessageDescriptor, MethodDescriptor};

/// One method of a service.
#[derive(Debug)]
pub(crate) struct Method {
    /// Its own, `/package.Service/Method`.
    pub(crate) path: PathAndQuery,
    /// It answers one message with a stream.
    pub(crate) takes_one_message: bool,
    /// Of its two sides one or both are streams.
    pub(crate) has_stream: bool,
    pub(crate) input: MessageDescriptor,
    pub(crate) output: MessageDescriptor,
}

/// The methods of a server's services.
#[derive(Debug, Default)]
pub(crate) struct Methods {
    by_path: HashMap<Box<str>, Arc<Method>>,
    by_name: HashMap<Box<str>, Named>,
    of_the_server: Vec<&'static str>,
    has_streams_of_one: bool,
}

/// The methods of one service, by name.
type ByName = HashMap<Box<str>, Arc<Method>>;

/// The services whose names have the same last part.
#[derive(Debug)]
pub(crate) enum Named {
    One(ByName),
    Several(Vec<String>),
}

impl Methods {
    /// The methods of these services; those that the descriptors do not have are left out.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` for bytes that are no descriptor set, or sets that contradict each other.
    pub(crate) fn read<'a>(sets: &[Vec<u8>], services: impl Iterator<Item = &'a str>) -> Result<Self> {
        let mut pool = DescriptorPool::new();
        for set in sets {
            pool.decode_file_descriptor_set(set.as_slice()).map_err(|error| {
                Error::new(ErrorKind::InvalidArgument, "grpc.build", "expected encoded file descriptor sets")
                    .with_source(error)
            })?;
        }
        let mut methods = Self::default();
        let mut by_name: BTreeMap<String, Vec<(String, ByName)>> = BTreeMap::new();
        for service in services.filter_map(|service| pool.get_service_by_name(service)) {
            let mut named = ByName::new();
            for method in service.methods() {
                let (name, method) = (method.name().to_owned(), Arc::new(Method::read(&method)?));
                methods.has_streams_of_one |= method.takes_one_message;
                methods.by_path.insert(method.path.path().into(), method.clone());
                named.insert(name.into_boxed_str(), method);
            }
            by_name.entry(service.name().to_owned()).or_default().push((service.full_name().to_owned(), named));
        }
        methods.by_name = by_name.into_iter().map(|(name, services)| (name.into(), Named::of(services))).collect();
        Ok(methods)
    }

    /// Names a service that is the server's own, and no caller's by another path.
    pub(crate) fn add_of_the_server(&mut self, service: &'static str) {
        self.of_the_server.push(service);
    }

    pub(crate) fn at(&self, path: &str) -> Option<&Arc<Method>> {
        self.by_path.get(path)
    }

    pub(crate) fn named(&self, name: &str) -> Option<&Named> {
        self.by_name.get(name)
    }

    /// Whether a service of this name is known, by its whole name.
    pub(crate) fn has_service(&self, service: &str) -> bool {
        match service.rsplit('.').next().and_then(|name| self.by_name.get(name)) {
            // Whose methods are here is told by any of their paths; one without methods needs none.
            Some(Named::One(methods)) => {
                methods.values().next().is_none_or(|method| service_of(method.path.path()) == Some(service))
            }
            Some(Named::Several(names)) => names.iter().any(|name| name == service),
            None => false,
        }
    }

    pub(crate) fn is_of_the_server(&self, path: &str) -> bool {
        service_of(path).is_some_and(|service| self.of_the_server.contains(&service))
    }

    /// Whether the request of a call to this path is over after one message.
    pub(crate) fn takes_one_message(&self, path: &str) -> bool {
        self.has_streams_of_one && self.at(path).is_some_and(|method| method.takes_one_message)
    }
}

impl Named {
    fn of(mut services: Vec<(String, ByName)>) -> Self {
        match services.pop() {
            Some((_, methods)) if services.is_empty() => Self::One(methods),
            last => {
                let mut names: Vec<_> = services.into_iter().chain(last).map(|(name, _)| name).collect();
                names.sort_unstable();
                Self::Several(names)
            }
        }
    }
}

impl Method {
    fn read(method: &MethodDescriptor) -> Result<Self> {
        let path = format!("/{}/{}", method.parent_service().full_name(), method.name());
        let path = path.parse().map_err(|error: http::uri::InvalidUri| {
            Error::new(ErrorKind::InvalidArgument, "grpc.build", "a method's name does not fit into a path")
                .with_context("path", &path)
                .with_source(error)
        })?;
        Ok(Self {
            path,
            takes_one_message: method.is_server_streaming() && !method.is_client_streaming(),
            has_stream: method.is_server_streaming() || method.is_client_streaming(),
            input: method.input(),
            output: method.output(),
        })
    }
}

/// `/package.Service/Method` → `package.Service`.
pub(crate) fn service_of(path: &str) -> Option<&str> {
    let (service, method) = path.strip_prefix('/')?.rsplit_once('/')?;
    (!method.is_empty()).then_some(service)
}

#[cfg(test)]
mod tests {
    use prost::Message as _;
    use prost_types::{
        DescriptorProto, FileDescriptorProto, FileDescriptorSet, MethodDescriptorProto, ServiceDescriptorProto,
    };

    use super::*;

    /// A file of this package with the service `Order`, whose method `Watch` answers with a stream.
    fn file(package: &str) -> FileDescriptorProto {
        let method = |name: &str, takes: bool, answers: bool| MethodDescriptorProto {
            name: Some(name.to_owned()),
            input_type: Some(format!(".{package}.Empty")),
            output_type: Some(format!(".{package}.Empty")),
            client_streaming: Some(takes),
            server_streaming: Some(answers),
            ..Default::default()
        };
        let methods = vec![method("Find", false, false), method("Watch", false, true), method("Talk", true, true)];
        FileDescriptorProto {
            name: Some(format!("{package}.proto")),
            package: Some(package.to_owned()),
            message_type: vec![DescriptorProto { name: Some("Empty".to_owned()), ..Default::default() }],
            service: vec![ServiceDescriptorProto { name: Some("Order".to_owned()), method: methods, options: None }],
            syntax: Some("proto3".to_owned()),
            ..Default::default()
        }
    }

    fn methods(packages: &[&str], services: &[&str]) -> Methods {
        let set = FileDescriptorSet { file: packages.iter().map(|package| file(package)).collect() };
        Methods::read(&[set.encode_to_vec()], services.iter().copied()).unwrap()
    }

    #[test]
    fn only_a_method_that_answers_one_message_with_a_stream_takes_one() {
        let methods = methods(&["shop"], &["shop.Order"]);
        assert!(methods.takes_one_message("/shop.Order/Watch"));
        for path in ["/shop.Order/Find", "/shop.Order/Talk", "/shop.Order/Nope", "/Order/Watch", ""] {
            assert!(!methods.takes_one_message(path), "{path}");
        }
    }

    #[test]
    fn a_name_that_several_services_have_is_nobodys() {
        let both = methods(&["a", "b"], &["a.Order", "b.Order"]);
        let Some(Named::Several(names)) = both.named("Order") else { panic!("{both:?}") };
        assert_eq!(names, &["a.Order", "b.Order"]);
        assert!(both.has_service("a.Order") && both.has_service("b.Order") && !both.has_service("c.Order"));
        assert!(both.at("/b.Order/Find").is_some());

        // Descriptors of a service that is not served count for nothing.
        let one = methods(&["a", "b"], &["b.Order"]);
        assert!(matches!(one.named("Order"), Some(Named::One(_))));
        assert!(one.has_service("b.Order") && !one.has_service("a.Order") && one.at("/a.Order/Find").is_none());
    }

    #[test]
    fn the_service_of_a_path_is_all_but_the_method() {
        assert_eq!(service_of("/go.micro.service.Order/PayNotify"), Some("go.micro.service.Order"));
        for path in ["", "/", "/Order", "/Order/", "Order/PayNotify"] {
            assert_eq!(service_of(path), None, "{path:?}");
        }
    }

    #[test]
    fn bytes_that_are_no_descriptors_are_refused() {
        let error = Methods::read(&[b"no descriptors".to_vec()], std::iter::empty()).unwrap_err();
        assert!(error.to_string().contains("file descriptor sets"), "{error}");
    }
}
