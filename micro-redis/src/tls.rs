//! The TLS side of a client: whom it trusts, and who it is.

use std::{fs, path::Path};

use micro_core::{Error, ErrorKind, Result};
use redis::{Client, ClientTlsConfig, ConnectionInfo, TlsCertificates};
use rustls::crypto::{CryptoProvider, ring};

use crate::RedisConfig;

/// # Errors
///
/// `InvalidArgument` for a file that cannot be read or holds something else.
pub(crate) fn client(info: ConnectionInfo, config: &RedisConfig) -> Result<Client> {
    // Redis's client takes the one of the whole process, and panics where there is none and more than one is
    // compiled in. Whoever has chosen one keeps it.
    if CryptoProvider::get_default().is_none() {
        // Lost against somebody who chose meanwhile: that is as good.
        drop(ring::default_provider().install_default());
    }
    let client_tls = match (&config.cert_file, &config.key_file) {
        (Some(cert_file), Some(key_file)) => {
            Some(ClientTlsConfig { client_cert: read(cert_file)?, client_key: read(key_file)? })
        }
        _ => None,
    };
    let root_cert = config.ca_file.as_deref().map(read).transpose()?;
    let certificates = TlsCertificates { client_tls, root_cert };
    Client::build_with_tls(info, certificates).map_err(|cause| {
        let message = "the certificates cannot be taken: expected PEM files in ca_file, cert_file and key_file";
        Error::new(ErrorKind::InvalidArgument, "redis.connect", message).with_source(cause)
    })
}

fn read(file: &Path) -> Result<Vec<u8>> {
    let refused = |message: &'static str| {
        Error::new(ErrorKind::InvalidArgument, "redis.connect", message).with_context("file", file.display())
    };
    let bytes = fs::read(file).map_err(|cause| refused("a file of TLS cannot be read").with_source(cause))?;
    // What has no block of PEM would be taken for no certificate, and nobody be trusted.
    let has_block = bytes.windows(11).any(|window| window == b"-----BEGIN ");
    if has_block { Ok(bytes) } else { Err(refused("expected a PEM file")) }
}
