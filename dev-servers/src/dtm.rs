//! DTM: built by Go from a launcher and a go.mod of our own, on loopback alone, with its data in a file
//! or in our MariaDB.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs,
    io::{Read, Write as _},
    path::{Path, PathBuf},
    process::Command,
};

use crate::{
    go::go,
    install::{self, make_folder},
    kind::{Kind, Program},
    probe::connect,
    site::Site,
};

const GO_MOD: &str = include_str!("../dtm/go.mod");
const GO_SUM: &str = include_str!("../dtm/go.sum");
const MAIN: &str = include_str!("../dtm/main.go");
const MODULE: &str = "github.com/dtm-labs/dtm";

/// Where the server takes its ports, on all interfaces, and what is put there instead: it has no
/// authentication, and no setting for its address.
const EVERYWHERE: &str = "\":%d\"";
const ON_LOOPBACK: &str = "\"127.0.0.1:%d\"";

/// With its data in a file of its own.
pub(crate) struct Dtm;

/// With its data in our MariaDB.
pub(crate) struct DtmMysql;

/// The port of the HTTP API, beside that of gRPC; DTM's own are 36789 and 36790.
pub(crate) fn http_port(port: u16) -> u16 {
    port - 1
}

/// The settings by which a store is found, from a URL of MySQL: `mysql://USER[:PASSWORD]@HOST:PORT`.
pub(crate) fn store_settings(url: &str) -> Result<Vec<(String, String)>, String> {
    let unreadable = || format!("DTM's store is a MySQL at mysql://USER[:PASSWORD]@HOST:PORT, and not at {url}");
    let (user, address) = url.strip_prefix("mysql://").and_then(|rest| rest.split_once('@')).ok_or_else(unreadable)?;
    let (user, password) = user.split_once(':').unwrap_or((user, ""));
    let address = address.split(['/', '?']).next().unwrap_or_default();
    let (host, port) = address.rsplit_once(':').ok_or_else(unreadable)?;
    let settings = [("Driver", "mysql"), ("Host", host), ("Port", port), ("User", user), ("Password", password)];
    Ok(settings.map(|(name, value)| (format!("Store.{name}"), value.to_owned())).to_vec())
}

/// Drops the database that a test's server had in MariaDB, where its client is there to do it.
pub(crate) fn drop_store(settings: &[(String, String)]) {
    let setting = |name: &str| settings.iter().rfind(|(found, _)| found == name).map(|(_, value)| value.as_str());
    let (Some(host), Some(port), Some(user), Some(database)) =
        (setting("Store.Host"), setting("Store.Port"), setting("Store.User"), setting("Store.Db"))
    else {
        return;
    };
    let mut client = Command::new("mariadb");
    client.args(["--no-defaults", "--connect-timeout=2", "-h", host, "-P", port, "-u", user]);
    client.args(["-e", &format!("DROP DATABASE IF EXISTS `{database}`")]);
    let _ = install::run(client.env("MYSQL_PWD", setting("Store.Password").unwrap_or_default()));
}

impl Program for Dtm {
    fn missing(&self, tools: &Path) -> Option<String> {
        (!install::is_finished(&folder(tools), &recipe()))
            .then(|| "DTM is not there: `cargo xtask servers up dtm` builds it".to_owned())
    }

    /// None: Debian's Go is too old to build it.
    fn debian_packages(&self) -> Vec<&'static str> {
        Vec::new()
    }

    fn install(&self, tools: &Path) -> Result<(), String> {
        let folder = folder(tools);
        // Both kinds are this one program, and may be wanted at the same time.
        let _held = install::lock(&tools.join("dtm.lock"))?;
        install::once(&folder, &recipe(), || {
            let go = go().ok_or("go is not installed: DTM is built from source, see https://go.dev/doc/install")?;
            install::write(&folder.join("go.mod"), GO_MOD)?;
            install::write(&folder.join("go.sum"), GO_SUM)?;
            install::write(&folder.join("main.go"), MAIN)?;
            let downloaded = download(&go, &folder)?;
            copy(&downloaded, &folder.join("source"))?;
            keep_on_loopback(&folder.join("source/dtmsvr/svr.go"))?;
            install::write(&folder.join("go.mod"), &format!("{GO_MOD}\nreplace {MODULE} => ./source\n"))?;
            install::run(
                Command::new(go)
                    .args(["build", "-mod=readonly", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w"])
                    .args(["-o", "dtm", "."])
                    .env("CGO_ENABLED", "0")
                    .current_dir(&folder),
            )
        })
    }

    fn prepare(&self, _site: &Site) -> Result<(), String> {
        Ok(())
    }

    fn command(&self, site: &Site) -> Result<Command, String> {
        let settings = site.folder.join("conf.yml");
        install::write(&settings, &yaml(site))?;
        let mut command = Command::new(folder(&site.tools).join("dtm"));
        // The store that is a file stands where the server is started.
        command.arg("-c").arg(settings).current_dir(site.data());
        Ok(command)
    }

    fn answers(&self, port: u16) -> bool {
        connect(port).is_ok() && new_gid(http_port(port)).is_some_and(|answer| answer.contains("SUCCESS"))
    }
}

impl Program for DtmMysql {
    fn missing(&self, tools: &Path) -> Option<String> {
        Dtm.missing(tools).or_else(|| Kind::Mariadb.program().missing(tools))
    }

    fn debian_packages(&self) -> Vec<&'static str> {
        Kind::Mariadb.program().debian_packages()
    }

    fn install(&self, tools: &Path) -> Result<(), String> {
        Dtm.install(tools)
    }

    fn prepare(&self, _site: &Site) -> Result<(), String> {
        Ok(())
    }

    fn command(&self, site: &Site) -> Result<Command, String> {
        Dtm.command(site)
    }

    fn answers(&self, port: u16) -> bool {
        Dtm.answers(port)
    }
}

fn folder(tools: &Path) -> PathBuf {
    tools.join("dtm")
}

fn recipe() -> String {
    [GO_MOD, GO_SUM, MAIN].concat()
}

/// Where Go keeps the module, which go.sum has vouched for.
fn download(go: &Path, folder: &Path) -> Result<PathBuf, String> {
    install::run(Command::new(go).args(["mod", "download", MODULE]).current_dir(folder))?;
    let listed = Command::new(go).args(["list", "-m", "-f", "{{.Dir}}", MODULE]).current_dir(folder).output();
    let listed = listed.map_err(|error| format!("go does not start ({error})"))?;
    let path = String::from_utf8_lossy(&listed.stdout).trim().to_owned();
    if path.is_empty() {
        return Err(format!("go does not say where {MODULE} is: {}", String::from_utf8_lossy(&listed.stderr)));
    }
    Ok(path.into())
}

/// A copy that may be changed: Go's own is read-only.
fn copy(from: &Path, to: &Path) -> Result<(), String> {
    let told = |error: std::io::Error| format!("{} cannot be copied ({error})", from.display());
    make_folder(to)?;
    for entry in fs::read_dir(from).map_err(told)? {
        let entry = entry.map_err(told)?;
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target)?;
        } else {
            fs::write(target, fs::read(entry.path()).map_err(told)?).map_err(told)?;
        }
    }
    Ok(())
}

fn keep_on_loopback(source: &Path) -> Result<(), String> {
    let text = fs::read_to_string(source).map_err(|error| format!("{} cannot be read ({error})", source.display()))?;
    if text.matches(EVERYWHERE).count() != 2 {
        return Err(format!("{} does not listen where it did: it would be open to the network", source.display()));
    }
    install::write(source, &text.replace(EVERYWHERE, ON_LOOPBACK))
}

/// The settings as DTM reads them: `Store.Driver` stands within `Store`.
fn yaml(site: &Site) -> String {
    // Looks for what is due every second instead of every third, notes the state of a branch at once and
    // not 200 ms later, and does not log each object whole.
    let ours = [("TransCronInterval", "1"), ("UpdateBranchSync", "1"), ("LogLevel", "warn")];
    let ports = [("GrpcPort", site.port.to_string()), ("HttpPort", http_port(site.port).to_string())];
    let mut settings: BTreeMap<String, String> = BTreeMap::new();
    settings.extend(ours.map(|(name, value)| (name.to_owned(), value.to_owned())));
    settings.extend(ports.map(|(name, value)| (name.to_owned(), value)));
    settings.extend(site.settings(0));
    let mut groups: BTreeMap<&str, String> = BTreeMap::new();
    let mut text = String::new();
    for (name, value) in &settings {
        let (group, name) = name.split_once('.').map_or((None, name.as_str()), |(group, name)| (Some(group), name));
        let (target, indent) = group.map_or((&mut text, ""), |group| (groups.entry(group).or_default(), "  "));
        let value = if value.parse::<i64>().is_ok() { value.clone() } else { format!("{value:?}") };
        writeln!(target, "{indent}{name}: {value}").expect("a string takes any text");
    }
    for (group, lines) in groups {
        write!(text, "{group}:\n{lines}").expect("a string takes any text");
    }
    text
}

fn new_gid(port: u16) -> Option<String> {
    let mut stream = connect(port).ok()?;
    stream.write_all(b"GET /api/dtmsvr/newGid HTTP/1.0\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    Some(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_the_one_of_the_go_mod_and_of_the_launcher() {
        let version = Kind::Dtm.version();
        assert!(GO_MOD.contains(&format!("{MODULE} v{version}\n")));
        assert!(MAIN.contains(&format!("\"v{version}\"")));
        assert_eq!(Kind::DtmMysql.version(), version);
    }

    #[test]
    fn settings_stand_in_their_groups() {
        let settings = [("Store.Driver", "mysql"), ("Store.Port", "13306"), ("LogLevel", "info")];
        let site = Site {
            kind: Kind::Dtm,
            tools: "tools".into(),
            folder: "folder".into(),
            port: 16_790,
            is_durable: true,
            settings: settings.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec(),
        };
        let expected = "GrpcPort: 16790\nHttpPort: 16789\nLogLevel: \"info\"\nTransCronInterval: 1\n\
                        UpdateBranchSync: 1\nStore:\n  Driver: \"mysql\"\n  Port: 13306\n";
        assert_eq!(yaml(&site), expected);
    }

    #[test]
    fn a_store_is_found_by_the_url_of_a_mysql() {
        let values = |url| store_settings(url).map(|all| all.into_iter().map(|(_, value)| value).collect::<Vec<_>>());
        assert_eq!(values("mysql://root@127.0.0.1:3306").unwrap(), ["mysql", "127.0.0.1", "3306", "root", ""]);
        assert_eq!(values("mysql://me:secret@db:1/x?y=z").unwrap(), ["mysql", "db", "1", "me", "secret"]);
        assert!(values("postgres://me@db:1").unwrap_err().contains("postgres://me@db:1"));
    }

    #[test]
    fn a_source_that_listens_elsewhere_is_not_built() {
        let folder = tempfile::tempdir().unwrap();
        let source = folder.path().join("svr.go");
        fs::write(&source, "app.Run(fmt.Sprintf(\":%d\", a)) net.Listen(\"tcp\", fmt.Sprintf(\":%d\", b))").unwrap();
        keep_on_loopback(&source).unwrap();
        assert_eq!(fs::read_to_string(&source).unwrap().matches(ON_LOOPBACK).count(), 2);
        let error = keep_on_loopback(&source).unwrap_err();
        assert!(error.contains("open to the network"), "{error}");
    }
}
