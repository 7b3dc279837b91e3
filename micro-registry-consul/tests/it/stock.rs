//! What a stock Consul shows of what is registered here.

use micro_core::registry::{Instance, RegisterOptions, Registry as _};
use micro_testkit::{eventually, ready};

use crate::agent::{Agent, PATIENCE, becomes, blocking, consul};

#[tokio::test]
async fn the_command_line_lists_services_tags_and_nodes() {
    let Some(agent) = ready::<Agent>().await else { return };
    let registry = agent.registry().await;
    let instance = Instance::new("go.micro.service.Order", "127.0.0.1:9000")
        .with_version("8.2.0")
        .with_metadata("protocol", "grpc");
    let _registration = registry.register(instance.clone(), RegisterOptions::default()).await.unwrap();
    becomes(&registry, &instance.service, std::slice::from_ref(&instance)).await;

    let (program, url) = (agent.program(), agent.server.url().to_owned());
    let [services, watched] = blocking(move || {
        [
            consul(&program, &url, &["catalog", "services", "-tags"]),
            consul(&program, &url, &["watch", "-type=service", "-service=go.micro.service.Order", "-passingonly=true"]),
        ]
    })
    .await;
    let line = services.lines().find(|line| line.starts_with("go.micro.service.Order")).expect(&services);
    assert!(line.contains("t-789c") && line.contains("v-789c"), "{services}");

    let watched: serde_json::Value = serde_json::from_str(&watched).unwrap();
    let service = &watched[0]["Service"];
    assert_eq!(service["ID"], *instance.id);
    assert_eq!((&service["Address"], &service["Port"]), (&"127.0.0.1".into(), &9000.into()));
    assert_eq!(service["Meta"]["protocol"], "grpc");
    assert_eq!(watched[0]["Checks"][1]["Name"], "Service 'go.micro.service.Order' check");
    eventually(PATIENCE, "the agent's own service is there too", || async {
        let services = registry.services().await.map_err(|error| error.report())?;
        if services == ["consul", "go.micro.service.Order"] { Ok(()) } else { Err(format!("{services:?}")) }
    })
    .await;
}

#[tokio::test]
async fn metadata_that_consul_refuses_comes_back_from_the_tags() {
    let Some(agent) = ready::<Agent>().await else { return };
    let registry = agent.registry().await;
    let mut instance = Instance::new("greeter", "127.0.0.1:9000")
        .with_metadata("two words", "x")
        .with_metadata("consul-version", "x")
        .with_metadata("long", "x".repeat(513));
    for number in 0..70 {
        instance = instance.with_metadata(format!("name-{number}"), "x");
    }
    let _registration = registry.register(instance.clone(), RegisterOptions::default()).await.unwrap();
    becomes(&registry, "greeter", &[instance]).await;
}

#[tokio::test]
async fn a_heartbeat_that_comes_too_late_is_refused_with_its_reason() {
    let Some(agent) = ready::<Agent>().await else { return };
    let registry = agent.registry().await;
    let mut options = RegisterOptions::default();
    options.heartbeat = options.ttl;
    let error = registry.register(Instance::new("greeter", "127.0.0.1:9000"), options).await.unwrap_err();
    assert_eq!(error.kind(), micro_core::ErrorKind::InvalidArgument);
}
