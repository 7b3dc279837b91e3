//! Where a run keeps its rows and its operation log: made ready before it, cleaned up after it.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use micro_rs::{
    backends,
    prelude::*,
    tx::{SqlConfig, SqlDatabase},
};

use crate::options::Options;

const OPERATION: &str = "payment_chain.database";
/// How long one step of a run may take: a connection, a call, a stop. Generous: a slow machine is no failed run.
pub(crate) const STEP_TIMEOUT: Duration = Duration::from_secs(30);

/// The databases of a run, and the folder of its operation log.
pub struct Site {
    name: String,
    databases: Databases,
    folder: Folder,
}

enum Databases {
    /// SQLite files in the folder.
    Files(PathBuf),
    /// On a server.
    Server(Server),
}

/// A server's URL around the name of a database.
struct Server {
    /// `mysql://user:password@host:port`; may hold a secret.
    address: String,
    /// With its `?`, or empty.
    query: String,
    /// Whether the databases are of this run alone and go when it ends.
    is_dropped: bool,
}

enum Folder {
    Kept(PathBuf),
    Temporary(tempfile::TempDir),
}

impl Site {
    /// What the options name; databases that are not there are created.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` for a URL that names no database; those of the server and the folder.
    pub async fn open(options: &Options) -> Result<Self> {
        let url = options.database.as_deref();
        let files = url.and_then(|url| url.strip_prefix("sqlite:"));
        if files == Some("") {
            return Err(unknown(backends::scheme("sqlite:")));
        }
        let folder = match options.operations.as_deref().or(files.map(Path::new)) {
            Some(path) => Folder::kept(path)?,
            None => Folder::temporary()?,
        };
        let (databases, name) = match url {
            None => (Databases::Files(folder.path().to_owned()), None),
            Some(url) if files.is_none() => server(url, options.keep)?,
            Some(_) => {
                let path = PathBuf::from(files.unwrap_or_default());
                make_folder(&path)?;
                (Databases::Files(path), None)
            }
        };
        let name = match name {
            Some(name) => name,
            None => folder.run_name()?,
        };
        let site = Self { name, databases, folder };
        site.create_databases().await?;
        Ok(site)
    }

    /// What keeps this run apart from others on the same servers. A run that goes on where an
    /// earlier one ended has its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The folder of the operation log.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Whether one transaction writes at a time.
    pub fn has_one_writer(&self) -> bool {
        matches!(self.databases, Databases::Files(_))
    }

    /// The URL of the run's database of this name: `orders`, `products`.
    pub fn database_url(&self, name: &str) -> String {
        match &self.databases {
            Databases::Files(folder) => format!("sqlite:{}", folder.join(format!("{name}.db")).display()),
            Databases::Server(server) => format!("{}/{}_{name}{}", server.address, self.name, server.query),
        }
    }

    /// Drops databases that were made for this run alone.
    ///
    /// # Errors
    ///
    /// Those of the server.
    pub async fn clean_up(&self) -> Result<()> {
        let Databases::Server(server) = &self.databases else { return Ok(()) };
        if !server.is_dropped {
            return Ok(());
        }
        // With those that are still connected: nobody else knows these databases.
        let force = if server.is_postgres() { " WITH (FORCE)" } else { "" };
        let database = server.connect().await?;
        for name in self.database_names() {
            database.execute(&format!("DROP DATABASE {name}{force}"), &[]).await?;
        }
        database.close().await;
        Ok(())
    }

    async fn create_databases(&self) -> Result<()> {
        let Databases::Server(server) = &self.databases else { return Ok(()) };
        let database = server.connect().await?;
        let catalogue = if server.is_postgres() {
            "SELECT datname FROM pg_database WHERE datname = ?"
        } else {
            "SELECT schema_name FROM information_schema.schemata WHERE schema_name = ?"
        };
        for name in self.database_names() {
            if database.fetch_optional(catalogue, &[(&name).into()]).await?.is_none() {
                database.execute(&format!("CREATE DATABASE {name}"), &[]).await?;
            }
        }
        database.close().await;
        Ok(())
    }

    fn database_names(&self) -> [String; 2] {
        ["orders", "products"].map(|name| format!("{}_{name}", self.name))
    }
}

impl Server {
    fn is_postgres(&self) -> bool {
        self.address.starts_with("postgres")
    }

    async fn connect(&self) -> Result<SqlDatabase> {
        // The database that every PostgreSQL has; MySQL needs none.
        let name = if self.is_postgres() { "/postgres" } else { "" };
        SqlDatabase::connect(patient(&format!("{}{name}{}", self.address, self.query))).await
    }
}

/// The settings of a database of a run, with limits that are generous: a slow machine is no failed run.
pub fn patient(url: &str) -> SqlConfig {
    let mut config = SqlConfig::new(url);
    config.connect_timeout = STEP_TIMEOUT;
    config.acquire_timeout = STEP_TIMEOUT;
    config.write_acquire_timeout = STEP_TIMEOUT;
    config
}

impl Folder {
    fn kept(path: &Path) -> Result<Self> {
        make_folder(path)?;
        Ok(Self::Kept(path.to_owned()))
    }

    fn temporary() -> Result<Self> {
        tempfile::tempdir()
            .map(Self::Temporary)
            .map_err(|error| Error::new(ErrorKind::Internal, OPERATION, "no temporary folder").with_source(error))
    }

    fn path(&self) -> &Path {
        match self {
            Self::Kept(path) => path,
            Self::Temporary(folder) => folder.path(),
        }
    }

    /// A name that no other run has, the same for all runs on this folder.
    fn run_name(&self) -> Result<String> {
        let path = self.path().join("run");
        let failed = |error: std::io::Error| {
            Error::new(ErrorKind::Internal, OPERATION, "the name of the run cannot be kept")
                .with_context("file", path.display())
                .with_source(error)
        };
        if path.exists() {
            let name = std::fs::read_to_string(&path).map_err(failed)?;
            return checked_name(name.trim()).map(str::to_owned);
        }
        let name = random_name();
        std::fs::write(&path, &name).map_err(failed)?;
        Ok(name)
    }
}

/// The server of a URL, and the name that stands in it.
fn server(url: &str, keep: bool) -> Result<(Databases, Option<String>)> {
    let scheme = backends::scheme(url);
    let rest = url.strip_prefix(scheme).and_then(|rest| rest.strip_prefix("://"));
    let is_server = matches!(scheme, "mysql" | "mariadb" | "postgres" | "postgresql");
    let rest = rest.filter(|_| is_server).ok_or_else(|| unknown(scheme))?;
    let (rest, query) = rest.find('?').map_or((rest, ""), |position| rest.split_at(position));
    let (host, name) = rest.rsplit_once('/').unwrap_or((rest, ""));
    let server = |is_dropped| {
        let (address, query) = (format!("{scheme}://{host}"), query.to_owned());
        Databases::Server(Server { address, query, is_dropped })
    };
    if name.is_empty() {
        return Ok((server(!keep), Some(random_name())));
    }
    Ok((server(false), Some(checked_name(name)?.to_owned())))
}

/// A name that can stand in a statement as it is, with room for what is put behind it.
fn checked_name(name: &str) -> Result<&str> {
    let is_word = name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_');
    if is_word && (1..=40).contains(&name.len()) {
        return Ok(name);
    }
    // Without the name: a URL that is cut in the wrong place may show a password there.
    let message = "the name of a run has lower-case letters, digits and _, at most 40";
    Err(Error::new(ErrorKind::InvalidArgument, OPERATION, message))
}

fn random_name() -> String {
    format!("payment_chain_{:012x}", fastrand::u64(..1 << 48))
}

fn make_folder(path: &Path) -> Result<()> {
    std::fs::create_dir_all(path).map_err(|error| {
        Error::new(ErrorKind::InvalidArgument, OPERATION, "the folder cannot be made")
            .with_context("folder", path.display())
            .with_source(error)
    })
}

fn unknown(scheme: &str) -> Error {
    // The scheme alone: the rest may hold a password.
    let message = "this version has no such database: expected sqlite:FOLDER, mysql://HOST[/NAME] or postgres://…";
    Error::new(ErrorKind::InvalidArgument, OPERATION, message).with_context("scheme", scheme)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn site(url: &str) -> Site {
        let (databases, name) = server(url, false).unwrap();
        Site { name: name.unwrap(), databases, folder: Folder::temporary().unwrap() }
    }

    #[test]
    fn the_databases_of_a_server_are_named_after_the_one_in_its_url() {
        let site = site("mysql://root:a/b@h:1/shop?ssl-mode=disabled");
        assert_eq!(site.name(), "shop");
        assert_eq!(site.database_url("orders"), "mysql://root:a/b@h:1/shop_orders?ssl-mode=disabled");
        assert!(matches!(site.databases, Databases::Server(Server { is_dropped: false, .. })));
    }

    #[test]
    fn without_a_name_a_run_has_databases_of_its_own() {
        let (one, other) = (site("postgres://h"), site("postgres://h/"));
        assert_ne!(one.name(), other.name());
        assert_eq!(one.database_url("orders"), format!("postgres://h/{}_orders", one.name()));
        assert!(matches!(one.databases, Databases::Server(Server { is_dropped: true, .. })));
    }

    #[test]
    fn names_that_cannot_stand_in_a_statement_are_refused() {
        for url in ["mysql://h/a b", "mysql://h/a;drop", "mysql://h/A", &format!("mysql://h/{}", "a".repeat(41))] {
            assert_eq!(server(url, false).err().unwrap().kind(), ErrorKind::InvalidArgument, "{url}");
        }
    }

    #[test]
    fn runs_on_one_folder_have_one_name() {
        let folder = tempfile::tempdir().unwrap();
        let name = || Folder::kept(folder.path()).unwrap().run_name().unwrap();
        assert_eq!(name(), name());
        assert_ne!(name(), Folder::temporary().unwrap().run_name().unwrap());
    }
}
