//! The registry that is written down: fixed addresses from one line of text, nothing to run.

use std::{collections::BTreeMap, str::FromStr};

use async_trait::async_trait;

use crate::{Error, ErrorKind, Result};

use super::{Instance, InstanceChange, InstanceWatch, RegisterOptions, Registration, Registry};

/// A read-only registry whose instances stand in its text.
///
/// The text is `name=host:port`, several separated by `,` or `;`. An address without a name
/// belongs to the name before it, and a name may come again: a service has all its addresses.
/// A leading `static:` and spaces around the parts are ignored. An instance's id is
/// `<name>-<address>`, so that it stays the same in every process.
///
/// # Examples
///
/// ```
/// use micro_core::registry::{Registry, StaticRegistry};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> micro_core::Result<()> {
/// let registry: StaticRegistry = "static:product=127.0.0.1:9000,127.0.0.1:9001;order=[::1]:9100".parse()?;
/// assert_eq!(registry.services().await?, ["order", "product"]);
/// assert_eq!(registry.instances("product").await?[1].address, "127.0.0.1:9001");
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StaticRegistry {
    services: BTreeMap<String, Vec<Instance>>,
}

impl FromStr for StaticRegistry {
    type Err = Error;

    /// Reads the text.
    ///
    /// # Errors
    ///
    /// `InvalidArgument`, naming the part that is wrong and its place.
    fn from_str(text: &str) -> Result<Self> {
        let list = text.strip_prefix("static:").unwrap_or(text);
        let mut services: BTreeMap<String, Vec<Instance>> = BTreeMap::new();
        let mut service = None;
        for (index, part) in list.split([',', ';']).map(str::trim).enumerate() {
            let address = match part.split_once('=') {
                Some((name, address)) => {
                    service = Some(name.trim());
                    address.trim()
                }
                None => part,
            };
            let instance = instance(service, address)
                .map_err(|error| error.with_context("part", shown(part)).with_context("number", index + 1))?;
            let known = services.entry(instance.service.clone()).or_default();
            known.retain(|other| other.id != instance.id);
            known.push(instance);
        }
        services.values_mut().for_each(|instances| instances.sort_by(|a, b| a.id.cmp(&b.id)));
        Ok(Self { services })
    }
}

/// What of a part can be shown: where there is an `@`, it may be a URL with a password.
fn shown(part: &str) -> &str {
    part.rsplit_once('@').map_or(part, |(_, behind)| behind)
}

fn instance(service: Option<&str>, address: &str) -> Result<Instance> {
    let expected = "expected name=host:port, further ones separated by , or ;";
    let refused = || Error::new(ErrorKind::InvalidArgument, "registry.parse", expected);
    let service = service.filter(|name| !name.is_empty()).ok_or_else(refused)?;
    if address.contains('@') {
        // Without the cause, which would repeat what stands before the `@`.
        return Err(refused());
    }
    let instance = Instance::new(service, address).with_id(format!("{service}-{address}"));
    instance.validate().map_err(|cause| refused().with_source(cause))?;
    Ok(instance)
}

#[async_trait]
impl Registry for StaticRegistry {
    async fn register(&self, instance: Instance, _options: RegisterOptions) -> Result<Registration> {
        instance.validate()?;
        Err(read_only("registry.register").with_context("service", instance.service))
    }

    async fn deregister(&self, service: &str, id: &str) -> Result<()> {
        let is_listed = self.services.get(service).is_some_and(|known| known.iter().any(|known| known.id == id));
        if is_listed { Err(read_only("registry.deregister").with_context("id", id)) } else { Ok(()) }
    }

    async fn instances(&self, service: &str) -> Result<Vec<Instance>> {
        Ok(self.services.get(service).cloned().unwrap_or_default())
    }

    async fn services(&self) -> Result<Vec<String>> {
        Ok(self.services.keys().cloned().collect())
    }

    async fn watch(&self, service: &str) -> Result<InstanceWatch> {
        let (changes, watch) = InstanceWatch::channel();
        let snapshot = InstanceChange::Snapshot(self.instances(service).await?);
        tokio::spawn(async move {
            if changes.send(snapshot).await.is_ok() {
                // Nothing ever changes; a dropped sender would say that the registry is gone.
                changes.closed().await;
            }
        });
        Ok(watch)
    }
}

fn read_only(operation: &'static str) -> Error {
    let message =
        "a static registry is read-only: list the address in its text, or use a registry that takes instances";
    Error::new(ErrorKind::Unimplemented, operation, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_name_may_come_again_and_both_separators_do() {
        let registry: StaticRegistry = "static: product = b:2 , a:1 ; order=c:3, product=d:4".parse().unwrap();
        let addresses = |instances: Vec<Instance>| instances.into_iter().map(|i| i.address).collect::<Vec<_>>();
        assert_eq!(addresses(registry.instances("product").await.unwrap()), ["a:1", "b:2", "d:4"]);
        assert_eq!(addresses(registry.instances("order").await.unwrap()), ["c:3"]);
    }

    #[test]
    fn bad_text_names_the_part_that_is_wrong() {
        for (text, part) in [
            ("", "(part=, number=1)"),
            ("static:", "(part=, number=1)"),
            ("127.0.0.1:9000", "(part=127.0.0.1:9000, number=1)"),
            ("=127.0.0.1:9000", "(part==127.0.0.1:9000, number=1)"),
            ("order=a:1;product=a", "(part=product=a, number=2)"),
            ("order=a:1,", "(part=, number=2)"),
            ("order=a:99999", "(part=order=a:99999, number=1)"),
            ("app:canary@a:1", "(part=a:1, number=1)"),
            ("order=app:canary@a:1", "(part=a:1, number=1)"),
        ] {
            let error = text.parse::<StaticRegistry>().expect_err(text);
            assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{text}");
            assert!(error.to_string().contains(part), "{text}: {error}");
            assert!(!error.report().contains("canary"), "{error:?}");
        }
    }

    #[tokio::test]
    async fn registering_says_what_to_do_instead() {
        let registry: StaticRegistry = "order=a:1".parse().unwrap();
        let error = registry.register(Instance::new("x", "b:2"), RegisterOptions::default()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unimplemented);
        assert!(error.to_string().contains("read-only"), "{error}");
        assert_eq!(registry.deregister("order", "order-a:1").await.unwrap_err().kind(), ErrorKind::Unimplemented);
    }
}
