//! Kafka: jars by Maven, one node that is broker and controller.

use std::{
    fmt::Write as _,
    io::{self, Read as _, Write as _},
    path::{Path, PathBuf},
    process::Command,
};

use crate::{
    install::{self, find},
    kind::Program,
    ports::free_port,
    probe::connect,
    site::Site,
};

const POM: &str = include_str!("../kafka/pom.xml");

/// Exact, so that every machine gets the same plugin.
const COPY_DEPENDENCIES: &str = "org.apache.maven.plugins:maven-dependency-plugin:3.6.1:copy-dependencies";

pub(crate) struct Kafka;

impl Program for Kafka {
    fn missing(&self, tools: &Path) -> Option<String> {
        if find("java").is_none() {
            return Some("java is not installed: Kafka needs Java 17, Debian's default-jre-headless".to_owned());
        }
        (!install::is_finished(&folder(tools), POM))
            .then(|| "Kafka's jars are not there: `cargo xtask servers up kafka` fetches them".to_owned())
    }

    fn debian_packages(&self) -> Vec<&'static str> {
        [("java", "default-jre-headless"), ("mvn", "maven")]
            .into_iter()
            .filter(|(program, _)| find(program).is_none())
            .map(|(_, package)| package)
            .collect()
    }

    fn install(&self, tools: &Path) -> Result<(), String> {
        let folder = folder(tools);
        install::once(&folder, POM, || {
            if find("mvn").is_none() {
                return Err("mvn is not installed: Maven fetches Kafka's jars, Debian's maven".to_owned());
            }
            let pom = folder.join("pom.xml");
            install::write(&pom, POM)?;
            install::run(
                Command::new("mvn")
                    .args(["-q", "-B", "-ntp", "-f"])
                    .arg(pom)
                    .args([COPY_DEPENDENCIES, "-DincludeScope=runtime"])
                    .arg(format!("-DoutputDirectory={}", folder.join("lib").display()))
                    .current_dir(&folder),
            )
        })
    }

    fn prepare(&self, site: &Site) -> Result<(), String> {
        let properties = write_properties(site)?;
        let mut command = java(site);
        command.args(["kafka.tools.StorageTool", "format", "-t", &cluster_id(), "-c"]).arg(properties);
        for (name, value) in &site.settings {
            if name == ADD_SCRAM {
                command.args(["--add-scram", value]);
            }
        }
        install::run(&mut command)
    }

    fn command(&self, site: &Site) -> Result<Command, String> {
        // Written again at every start: the ports and settings may be others.
        let properties = write_properties(site)?;
        let mut command = java(site);
        command.arg("kafka.Kafka").arg(properties);
        Ok(command)
    }

    fn answers(&self, port: u16) -> bool {
        match brokers(port) {
            Ok(count) => count > 0,
            // A listener with SASL hangs up on who has not said who he is, but tells its versions.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => tells_versions(port).is_ok(),
            Err(_) => false,
        }
    }
}

/// What a broker has that may be killed: it is taken back when its old session has ended. With the
/// default, 9 s, it answers after 17 s instead of 6.
pub(crate) const SOON_TAKEN_BACK: (&str, &str) = ("broker.session.timeout.ms", "3000");

/// A setting that is none of the broker's: a user that the storage is formatted with.
const ADD_SCRAM: &str = "format.add-scram";

fn folder(tools: &Path) -> PathBuf {
    tools.join("kafka")
}

/// Java with the jars, small and quick to start.
fn java(site: &Site) -> Command {
    let mut command = Command::new("java");
    command
        .args(["-Xms64m", "-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"])
        .arg(format!("-Dlog4j.configuration=file:{}", site.folder.join("log4j.properties").display()))
        .arg("-cp")
        .arg(folder(&site.tools).join("lib/*"));
    command
}

fn write_properties(site: &Site) -> Result<PathBuf, String> {
    let log4j = "log4j.rootLogger=WARN, out\n\
                 log4j.appender.out=org.apache.log4j.ConsoleAppender\n\
                 log4j.appender.out.layout=org.apache.log4j.PatternLayout\n\
                 log4j.appender.out.layout.ConversionPattern=%d %p %m (%c)%n\n";
    install::write(&site.folder.join("log4j.properties"), log4j)?;
    let path = site.folder.join("server.properties");
    install::write(&path, &properties(site, free_port()))?;
    Ok(path)
}

pub(crate) fn properties(site: &Site, controller: u16) -> String {
    let port = site.port;
    let mut all: Vec<(String, String)> = [
        ("process.roles", "broker,controller".to_owned()),
        ("node.id", "1".to_owned()),
        ("controller.quorum.voters", format!("1@127.0.0.1:{controller}")),
        ("controller.listener.names", "CONTROLLER".to_owned()),
        ("listeners", format!("PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}")),
        ("advertised.listeners", format!("PLAINTEXT://127.0.0.1:{port}")),
        (
            "listener.security.protocol.map",
            "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,SSL:SSL,SASL_PLAINTEXT:SASL_PLAINTEXT,SASL_SSL:SASL_SSL"
                .to_owned(),
        ),
        ("log.dirs", site.data().display().to_string()),
        ("auto.create.topics.enable", "false".to_owned()),
        ("num.partitions", "4".to_owned()),
        ("default.replication.factor", "1".to_owned()),
        ("offsets.topic.replication.factor", "1".to_owned()),
        ("offsets.topic.num.partitions", "1".to_owned()),
        ("transaction.state.log.replication.factor", "1".to_owned()),
        ("transaction.state.log.min.isr", "1".to_owned()),
        ("transaction.state.log.num.partitions", "1".to_owned()),
        ("group.initial.rebalance.delay.ms", "0".to_owned()),
        // Twice the default: a machine that stands still for seconds ends no session.
        ("broker.session.timeout.ms", "18000".to_owned()),
        ("broker.heartbeat.interval.ms", "500".to_owned()),
        // Tests of lost members choose short sessions.
        ("group.min.session.timeout.ms", "500".to_owned()),
        ("num.network.threads", "2".to_owned()),
        ("num.io.threads", "4".to_owned()),
        // The default is half of the heap above.
        ("log.cleaner.dedupe.buffer.size", "4194304".to_owned()),
    ]
    .into_iter()
    .map(|(name, value)| (name.to_owned(), value))
    .collect();
    for (name, value) in site.settings(controller).filter(|(name, _)| name != ADD_SCRAM) {
        all.retain(|(known, _)| *known != name);
        all.push((name, value));
    }
    all.into_iter().fold(String::new(), |mut text, (name, value)| {
        writeln!(text, "{name}={value}").expect("a string takes any text");
        text
    })
}

/// Sixteen random bytes in URL-safe base64 without padding, as Kafka writes its ids.
fn cluster_id() -> String {
    base64_id(fastrand::u128(..))
}

fn base64_id(bits: u128) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    // The first letter is one of the lower half: the storage tool would take a leading `-` for an
    // option, one id in 64 (Kafka's own `Uuid.randomUuid` draws again for the same reason).
    let id = bits & (u128::MAX >> 1);
    // 128 bits are 21 letters of six and one of two, which stand first in the last letter.
    let letter = |index: u32| match index {
        21 => (id << 4) & 63,
        _ => id >> (122 - 6 * index) & 63,
    };
    (0..22).map(|index| char::from(LETTERS[usize::try_from(letter(index)).expect("six bits")])).collect()
}

/// How many brokers the cluster says it has: it has none until the one has registered itself, and
/// then takes requests.
fn brokers(port: u16) -> io::Result<i32> {
    // Metadata (3), version 1, correlation id 1, no client id, no topics.
    let request: &[u8] = &[0, 0, 0, 14, 0, 3, 0, 1, 0, 0, 0, 1, 0xff, 0xff, 0, 0, 0, 0];
    // Length, correlation id, number of brokers.
    let answer: [u8; 12] = ask(port, request)?;
    Ok(i32::from_be_bytes(answer[8..].try_into().expect("four of twelve bytes")))
}

fn tells_versions(port: u16) -> io::Result<()> {
    // ApiVersions (18), version 0, correlation id 1, no client id.
    ask::<10>(port, &[0, 0, 0, 10, 0, 18, 0, 0, 0, 0, 0, 1, 0xff, 0xff]).map(drop)
}

/// The first bytes of the answer to a request.
fn ask<const COUNT: usize>(port: u16, request: &[u8]) -> io::Result<[u8; COUNT]> {
    let mut stream = connect(port)?;
    stream.write_all(request)?;
    let mut answer = [0; COUNT];
    stream.read_exact(&mut answer)?;
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kind::Kind;

    #[test]
    fn a_setting_of_the_users_wins_and_names_are_filled_in() {
        let site = Site {
            kind: Kind::Kafka,
            tools: "tools".into(),
            folder: "here".into(),
            port: 20_001,
            is_durable: true,
            settings: vec![
                ("num.partitions".to_owned(), "7".to_owned()),
                ("listeners".to_owned(), "A://h:${port},CONTROLLER://h:${other}".to_owned()),
                (ADD_SCRAM.to_owned(), "SCRAM-SHA-256=[name=a,password=b]".to_owned()),
            ],
        };
        let text = properties(&site, 20_002);
        assert!(text.contains("\nnum.partitions=7\n") && !text.contains("num.partitions=4"));
        assert!(text.contains("\nlisteners=A://h:20001,CONTROLLER://h:20002\n"));
        assert!(!text.contains("scram"));
    }

    #[test]
    fn a_cluster_id_has_the_length_and_letters_of_kafkas() {
        let id = cluster_id();
        assert_eq!(id.len(), 22);
        assert!(id.chars().all(|letter| letter.is_ascii_alphanumeric() || "-_".contains(letter)));
        // Of the last letter only the upper two of six bits are the id's.
        assert!("AQgw".contains(id.chars().next_back().unwrap()));
    }

    #[test]
    fn a_cluster_id_is_never_taken_for_an_option() {
        assert!(!base64_id(u128::MAX).starts_with('-'), "{}", base64_id(u128::MAX));
        assert!(!base64_id(62 << 122).starts_with('-'), "{}", base64_id(62 << 122));
    }

    #[test]
    fn the_version_is_the_one_of_the_pom() {
        assert!(POM.contains(&format!("<kafka.version>{}</kafka.version>", Kind::Kafka.version())));
    }
}
