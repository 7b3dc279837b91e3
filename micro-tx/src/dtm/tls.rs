//! The TLS side of the HTTP clients: rustls on ring with the system's certificates, without a setting
//! of the whole process.

use std::sync::Arc;

use rustls::{ClientConfig, RootCertStore, crypto::ring};
use rustls_platform_verifier::BuilderVerifierExt as _;

/// A client's builder. Also for plain HTTP: without a provider of its own reqwest would look for the
/// process's and panic where there is none.
pub(crate) fn builder() -> reqwest::ClientBuilder {
    let versions = || {
        ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("ring speaks the default versions")
    };
    let config = match versions().with_platform_verifier() {
        Ok(builder) => builder.with_no_client_auth(),
        // A system without certificates speaks plain HTTP as well as any; over HTTPS it trusts nobody.
        Err(_) => versions().with_root_certificates(RootCertStore::empty()).with_no_client_auth(),
    };
    reqwest::Client::builder().tls_backend_preconfigured(config)
}
