//! The TLS side of a client: whom it trusts, and who it is. rustls on ring, without a setting of
//! the whole process.

use std::{path::Path, sync::Arc};

use micro_core::{Error, ErrorKind, Result};
use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
};
use rustls_platform_verifier::BuilderVerifierExt as _;

use crate::ConsulConfig;

/// For plain HTTP too, where it is not used: without one, reqwest would look for the process's own
/// provider and panic where there is none.
///
/// # Errors
///
/// `InvalidArgument` for a file that cannot be read or holds something else.
pub(crate) fn client(config: &ConsulConfig) -> Result<ClientConfig> {
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("ring speaks the default versions");
    let builder = match &config.ca_file {
        Some(file) => builder.with_root_certificates(roots(file)?),
        None if !config.https => builder.with_root_certificates(RootCertStore::empty()),
        None => builder.with_platform_verifier().map_err(|cause| refused("the system has no certificates", cause))?,
    };
    match (&config.cert_file, &config.key_file) {
        (Some(cert_file), Some(key_file)) => builder
            .with_client_auth_cert(certificates(cert_file)?, key(key_file)?)
            .map_err(|cause| refused("certificate and key do not belong together", cause)),
        _ => Ok(builder.with_no_client_auth()),
    }
}

fn roots(file: &Path) -> Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(file)? {
        let added = roots.add(certificate);
        added
            .map_err(|cause| refused("a certificate cannot be trusted", cause).with_context("file", file.display()))?;
    }
    Ok(roots)
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let expected = "expected a PEM file with certificates";
    let read = CertificateDer::pem_file_iter(file).and_then(Iterator::collect::<std::result::Result<Vec<_>, _>>);
    match read {
        Ok(certificates) if certificates.is_empty() => {
            Err(Error::new(ErrorKind::InvalidArgument, "registry.connect", expected)
                .with_context("file", file.display()))
        }
        read => read.map_err(|cause| refused(expected, cause).with_context("file", file.display())),
    }
}

fn key(file: &Path) -> Result<PrivateKeyDer<'static>> {
    let read = PrivateKeyDer::from_pem_file(file);
    read.map_err(|cause| refused("expected a PEM file with a private key", cause).with_context("file", file.display()))
}

fn refused(message: &'static str, cause: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::new(ErrorKind::InvalidArgument, "registry.connect", message).with_source(cause)
}
