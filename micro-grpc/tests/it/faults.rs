//! What goes away in mid work: the registry, the network between caller and callee.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use micro_core::{
    Error, ErrorKind, Result,
    registry::{Instance, InstanceWatch, MemoryRegistry, RegisterOptions, Registration, Registry},
};
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    sync::watch,
    time::Instant,
};
use tonic::{Code, Request};

use crate::fixture::{
    Greeter, SERVICE, builder, client_config, client_of, config, eventually, hello,
    proto::{HelloRequest, greeter_client::GreeterClient},
    run, serve,
};

/// A registry that can be away: watches end then, and everything else is refused.
#[derive(Clone)]
struct Leaving {
    inner: MemoryRegistry,
    is_away: Arc<watch::Sender<bool>>,
    refused_count: Arc<watch::Sender<u32>>,
}

impl Leaving {
    fn new(inner: MemoryRegistry) -> Self {
        Self { inner, is_away: Arc::new(watch::Sender::new(false)), refused_count: Arc::default() }
    }

    fn answers(&self) -> Result<()> {
        if !*self.is_away.borrow() {
            return Ok(());
        }
        self.refused_count.send_modify(|count| *count += 1);
        Err(Error::new(ErrorKind::Unavailable, "registry", "away"))
    }
}

#[async_trait]
impl Registry for Leaving {
    async fn register(&self, instance: Instance, options: RegisterOptions) -> Result<Registration> {
        self.answers()?;
        self.inner.register(instance, options).await
    }

    async fn deregister(&self, service: &str, id: &str) -> Result<()> {
        self.answers()?;
        self.inner.deregister(service, id).await
    }

    async fn instances(&self, service: &str) -> Result<Vec<Instance>> {
        self.answers()?;
        self.inner.instances(service).await
    }

    async fn services(&self) -> Result<Vec<String>> {
        self.answers()?;
        self.inner.services().await
    }

    async fn watch(&self, service: &str) -> Result<InstanceWatch> {
        self.answers()?;
        let mut inner = self.inner.watch(service).await?;
        let (changes, watch) = InstanceWatch::channel();
        let mut is_away = self.is_away.subscribe();
        tokio::spawn(async move {
            let passing_on = async {
                while let Some(change) = inner.next().await {
                    let _ = changes.send(change).await;
                }
            };
            tokio::select! {
                () = passing_on => {}
                _ = is_away.wait_for(|is_away| *is_away) => {}
                () = changes.closed() => {}
            }
        });
        Ok(watch)
    }
}

#[tokio::test]
async fn a_stale_list_goes_on_serving_while_the_registry_is_away() {
    let instances = MemoryRegistry::new();
    let registry = Leaving::new(instances.clone());
    let one = serve("one", &instances).await;
    let client = client_of(registry.clone(), SERVICE).connect().await.unwrap();
    let client = GreeterClient::new(client);
    assert_eq!(hello(&client, "John").await.unwrap(), "one");

    registry.is_away.send_replace(true);
    let mut refused = registry.refused_count.subscribe();
    refused.wait_for(|count| *count >= 2).await.unwrap();
    for _ in 0..20 {
        assert_eq!(hello(&client, "John").await.unwrap(), "one");
    }

    let _two = serve("two", &instances).await;
    drop(one);
    registry.is_away.send_replace(false);
    eventually(|| async { hello(&client, "John").await.is_ok_and(|name| name == "two") }).await;
}

#[tokio::test]
async fn without_an_instance_a_call_names_the_registrys_last_error() {
    let instances = MemoryRegistry::new();
    let registry = Leaving::new(instances.clone());
    registry.is_away.send_replace(true);
    let began = Instant::now();
    let client = client_of(registry.clone(), SERVICE).connect().await.unwrap();
    assert!(began.elapsed() < client_config().connect_timeout / 2, "a refusal is told at once");
    let client = GreeterClient::new(client);
    let status = hello(&client, "John").await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert!(status.message().contains("registry=registry: away"), "{}", status.message());

    let _one = serve("one", &instances).await;
    registry.is_away.send_replace(false);
    eventually(|| async { hello(&client, "John").await.is_ok_and(|name| name == "one") }).await;
}

/// Passes bytes on between callers and one server until it is frozen; then it keeps the connections
/// and passes on nothing, as a network that lost a route does.
struct Proxy {
    address: String,
    is_frozen: watch::Sender<bool>,
}

impl Proxy {
    async fn to(server: std::net::SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let is_frozen = watch::Sender::new(false);
        let frozen = is_frozen.subscribe();
        tokio::spawn(async move {
            while let Ok((mut near, _)) = listener.accept().await {
                let mut frozen = frozen.clone();
                tokio::spawn(async move {
                    let mut far = TcpStream::connect(server).await.unwrap();
                    let is_closed = tokio::select! {
                        _ = copy_bidirectional(&mut near, &mut far) => true,
                        _ = frozen.wait_for(|is_frozen| *is_frozen) => false,
                    };
                    if !is_closed {
                        std::future::pending::<()>().await;
                    }
                });
            }
        });
        Self { address, is_frozen }
    }
}

#[tokio::test]
async fn a_frozen_peer_is_given_up_by_keepalive_on_both_sides() {
    const INTERVAL: Duration = Duration::from_secs(2);
    const TIMEOUT: Duration = Duration::from_secs(4);
    let mut of_server = config();
    (of_server.keepalive_interval, of_server.keepalive_timeout) = (INTERVAL, TIMEOUT);
    let server = run(builder(Greeter::default()).config(of_server).build().unwrap(), &MemoryRegistry::new()).await;
    let proxy = Proxy::to(server.server.local_addr().unwrap()).await;
    let registry = MemoryRegistry::new();
    let instance = Instance::new(SERVICE, &proxy.address);
    let _registration = registry.register(instance, RegisterOptions::default()).await.unwrap();
    let mut of_client = client_config();
    (of_client.keepalive_interval, of_client.keepalive_timeout) = (INTERVAL, TIMEOUT);
    let client = client_of(registry, SERVICE).config(of_client).connect().await.unwrap();
    let mut client = GreeterClient::new(client);

    let held = tokio::spawn(async move {
        let mut request = Request::new(HelloRequest { name: "sleep".into() });
        request.set_timeout(Duration::from_secs(60));
        client.hello(request).await
    });
    eventually(|| async { server.server.in_flight_count() == 1 }).await;
    proxy.is_frozen.send_replace(true);
    let frozen = Instant::now();
    assert_eq!(held.await.unwrap().unwrap_err().code(), Code::Unavailable);
    eventually(|| async { server.server.in_flight_count() == 0 }).await;
    assert!(frozen.elapsed() < Duration::from_secs(30), "{:?}", frozen.elapsed());
}
