//! Which key an instance has, what stands there, and back: all that knows how the fleets of other
//! frameworks use etcd.

use micro_core::registry::Instance;

use crate::{
    EtcdConfig, Layout,
    record::{self, Reader},
};

impl EtcdConfig {
    /// What the keys of a service's instances begin with.
    pub(crate) fn service_prefix(&self, service: &str) -> String {
        match self.layout {
            Layout::GoMicro => format!("{}{}/", self.root(), dashed(service)),
            Layout::GoZero => format!("{service}/"),
        }
    }

    /// What the keys of all instances begin with; empty where other keys do not differ from them.
    pub(crate) fn root(&self) -> String {
        match self.layout {
            Layout::GoMicro => format!("{}/", self.prefix.trim_end_matches('/')),
            Layout::GoZero => String::new(),
        }
    }

    /// The key of an instance that is kept by this lease.
    pub(crate) fn key(&self, service: &str, id: &str, lease: i64) -> String {
        let name = match self.layout {
            Layout::GoMicro => dashed(id),
            Layout::GoZero => lease.to_string(),
        };
        format!("{}{name}", self.service_prefix(service))
    }

    /// The key by which an instance can be withdrawn without its lease.
    pub(crate) fn key_of_id(&self, service: &str, id: &str) -> String {
        match self.layout {
            Layout::GoMicro => self.key(service, id, 0),
            Layout::GoZero => format!("{}{id}", self.service_prefix(service)),
        }
    }

    pub(crate) fn value(&self, instance: &Instance) -> Vec<u8> {
        match self.layout {
            Layout::GoMicro => record::encode(instance),
            Layout::GoZero => instance.address.clone().into_bytes(),
        }
    }

    /// The instances of `service` that a key and its value tell of, and why something is left out.
    pub(crate) fn read(
        &self,
        reader: &mut Reader,
        service: &str,
        key: &[u8],
        value: &[u8],
    ) -> (Vec<Instance>, Vec<String>) {
        match self.layout {
            // A slash and a dash are the same in keys, not in names: it may be another service's.
            Layout::GoMicro => match reader.decode(service, value) {
                Ok(read) => read,
                Err(reason) => (Vec::new(), vec![reason]),
            },
            Layout::GoZero => {
                let id = String::from_utf8_lossy(&key[key.len().min(self.service_prefix(service).len())..]);
                let address = String::from_utf8_lossy(value);
                let instance = Instance::new(service, address).with_id(id).with_version("");
                match instance.validate() {
                    Ok(()) => (vec![instance], Vec::new()),
                    Err(refusal) => (Vec::new(), vec![format!("it is no instance: {refusal}")]),
                }
            }
        }
    }
}

fn dashed(name: &str) -> String {
    name.replace('/', "-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_of_an_instance_is_go_micros() {
        let config = EtcdConfig::default();
        let (key, value) = crate::vectors::captured();
        let (instances, _) =
            config.read(&mut Reader::default(), "go.micro.service.greeter", key.as_bytes(), value.as_bytes());
        assert_eq!(config.key(&instances[0].service, &instances[0].id, 7), key);
        assert_eq!(config.key("a/b", "a/b-1/2", 7), "/micro/registry/a-b/a-b-1-2");
        assert_eq!(config.service_prefix("a/b"), "/micro/registry/a-b/");
    }

    #[test]
    fn services_whose_names_differ_by_a_slash_do_not_mix() {
        let config = EtcdConfig::default();
        let value = config.value(&Instance::new("a/b", "h:1"));
        assert_eq!(config.read(&mut Reader::default(), "a/b", b"k", &value).0.len(), 1);
        assert_eq!(config.read(&mut Reader::default(), "a-b", b"k", &value), (Vec::new(), Vec::new()));
    }

    #[test]
    fn the_key_of_go_zero_is_its_name_and_lease_and_the_value_an_address() {
        let config = EtcdConfig { layout: Layout::GoZero, ..EtcdConfig::default() };
        let instance = Instance::new("user.rpc", "10.0.0.1:8080").with_id("7587899049437600777").with_version("");
        let key = config.key("user.rpc", "anything", 7_587_899_049_437_600_777);
        assert_eq!(key, "user.rpc/7587899049437600777");
        assert_eq!(config.value(&instance), b"10.0.0.1:8080");
        assert_eq!(
            config.read(&mut Reader::default(), "user.rpc", key.as_bytes(), b"10.0.0.1:8080"),
            (vec![instance], Vec::new())
        );
        let (instances, complaints) = config.read(&mut Reader::default(), "user.rpc", b"x", b"\xff");
        assert_eq!((instances.len(), complaints.len()), (0, 1));
    }
}
