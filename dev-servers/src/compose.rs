//! The root's `compose.yaml` offers the same servers as this crate.

use yaml_rust2::{Yaml, YamlLoader};

use crate::{dtm::http_port, kafka::properties, kind::Kind, ports::usual, site::Site};

fn services() -> Yaml {
    let documents = YamlLoader::load_from_str(include_str!("../../compose.yaml")).unwrap();
    assert_eq!(documents.len(), 1);
    documents[0]["services"].clone()
}

/// All but the one whose tables its launcher makes, which the image does not.
fn composed() -> impl Iterator<Item = Kind> {
    Kind::ALL.into_iter().filter(|kind| *kind != Kind::DtmMysql)
}

#[test]
fn compose_has_the_same_servers_in_the_same_versions() {
    let services = services();
    let names: Vec<&str> = services.as_hash().unwrap().keys().map(|name| name.as_str().unwrap()).collect();
    assert_eq!(names, composed().map(Kind::name).collect::<Vec<_>>());
    for kind in composed() {
        let service = &services[kind.name()];
        let (image, version) = service["image"].as_str().unwrap().rsplit_once(':').unwrap();
        assert_eq!(version, kind.version(), "{image}");
        assert!(service["healthcheck"]["test"].as_vec().is_some(), "`up --wait` waits for {kind}");
    }
}

#[test]
fn compose_listens_on_loopback_on_the_same_ports() {
    for kind in composed() {
        let services = services();
        let ports = services[kind.name()]["ports"].as_vec().unwrap();
        let expected = if kind == Kind::Dtm { vec![usual(kind), http_port(usual(kind))] } else { vec![usual(kind)] };
        assert_eq!(ports.len(), expected.len(), "{kind}: {ports:?}");
        for (port, expected) in ports.iter().zip(expected) {
            assert!(port.as_str().unwrap().starts_with(&format!("127.0.0.1:{expected}:")), "{kind}: {port:?}");
        }
        assert!(services[kind.name()]["network_mode"].is_badvalue(), "the host's network has no loopback of its own");
    }
}

#[test]
fn compose_gives_kafka_the_same_settings() {
    let services = services();
    let environment = &services["kafka"]["environment"];
    let controller = usual(Kind::Kafka) + 1;
    let site = Site {
        kind: Kind::Kafka,
        tools: "tools".into(),
        folder: "folder".into(),
        port: usual(Kind::Kafka),
        is_durable: true,
        settings: Vec::new(),
    };
    // Where it listens inside the container, and where it writes, are the container's own matter.
    let inside = ["listeners", "log.dirs"];
    let text = properties(&site, controller);
    for (name, value) in text.lines().map(|line| line.split_once('=').unwrap()) {
        let variable = format!("KAFKA_{}", name.replace('.', "_").to_uppercase());
        if !inside.contains(&name) {
            assert_eq!(environment[variable.as_str()].as_str(), Some(value), "{variable}");
        }
    }
}
