//! Keys and certificates of one test, made when it begins by the program `openssl`.

use std::{fs, path::PathBuf, process::Command};

use micro_testkit::Missing;
use tempfile::TempDir;

/// What the client's key is encrypted with.
pub(crate) const KEY_PASSWORD: &str = "key-4712";

/// Complete, so that the machine's own settings of `openssl` do not count.
const SETTINGS: &str = "[req]\n\
                        distinguished_name = name\n\
                        [name]\n\
                        [authority]\n\
                        basicConstraints = critical, CA:TRUE\n\
                        keyUsage = critical, keyCertSign\n\
                        [broker]\n\
                        subjectAltName = IP:127.0.0.1\n\
                        extendedKeyUsage = serverAuth\n\
                        [client]\n\
                        extendedKeyUsage = clientAuth\n";

/// A folder with two authorities, `authority.pem` and `stranger.pem`; what the first has signed,
/// `broker.pem` for the address 127.0.0.1, with its key in the same file as Kafka wants it, and
/// `client.pem`; and the client's key, `client-key.pem`, encrypted.
pub(crate) struct Certificates(TempDir);

impl Certificates {
    pub(crate) fn make() -> Result<Self, Missing> {
        let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("the folder for tests' files is there");
        let made = Self(folder);
        fs::write(made.file("settings"), SETTINGS).expect("a file is written");
        for name in ["authority", "stranger"] {
            made.openssl(&format!("req -x509 -extensions authority {} -nodes -out {name}.pem", of_new_key(name)))?;
        }
        made.sign("broker", "-nodes")?;
        made.sign("client", &format!("-passout pass:{KEY_PASSWORD}"))?;
        let both = ["broker-key.pem", "broker.pem"].map(|name| fs::read(made.file(name)).expect("openssl wrote it"));
        fs::write(made.file("broker.pem"), both.concat()).expect("a file is written");
        Ok(made)
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn sign(&self, name: &str, protection: &str) -> Result<(), Missing> {
        self.openssl(&format!("req {} {protection} -out {name}-request.pem", of_new_key(name)))?;
        self.openssl(&format!(
            "x509 -req -in {name}-request.pem -out {name}.pem -CA authority.pem -CAkey authority-key.pem \
             -CAcreateserial -extfile settings -extensions {name}"
        ))
    }

    fn openssl(&self, arguments: &str) -> Result<(), Missing> {
        let mut command = Command::new("openssl");
        command.args(arguments.split(' ')).current_dir(self.0.path());
        let output = command.output().map_err(|error| Missing::new(format!("openssl does not start: {error}")))?;
        assert!(output.status.success(), "{arguments}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    }
}

/// Arguments for a key on a curve that Java knows as well, made in no time.
fn of_new_key(name: &str) -> String {
    format!("-config settings -subj /CN={name} -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -keyout {name}-key.pem")
}
