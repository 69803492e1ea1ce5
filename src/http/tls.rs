//! TLS for the listener, so that HTTPS needs no proxy in front.
//!
//! The certificate can be replaced while connections are open, so that a renewal needs no restart.

use std::{
    io,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
};

use rustls::{
    ServerConfig,
    crypto::ring,
    pki_types::{
        CertificateDer, PrivateKeyDer,
        pem::{self, PemObject as _},
    },
};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use crate::config::TlsConfig;

/// The TLS configuration of the listener. Clones share it.
#[derive(Clone)]
pub struct Tls(Arc<RwLock<Arc<ServerConfig>>>);

/// A certificate that was read and can be used.
pub struct Certificate(ServerConfig);

/// Why the TLS files can't be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file can't be read, or is not PEM.
    #[error("http.tls.{key} = {}: {source}", file.display())]
    File {
        /// The key of the configuration.
        key: &'static str,
        /// The file.
        file: PathBuf,
        /// The cause.
        source: pem::Error,
    },
    /// The certificate file contains no certificate.
    #[error("http.tls.certificate = {} holds no certificate", .0.display())]
    Empty(PathBuf),
    /// The certificate and the key do not match, or have an unsupported type.
    #[error("http.tls can't be used: {0}")]
    Unusable(#[from] rustls::Error),
}

impl Tls {
    /// Reads the certificate and its key.
    ///
    /// Errors: [`TlsError`], which names the file and the cause.
    pub fn load(files: &TlsConfig) -> Result<Self, TlsError> {
        let Certificate(config) = Certificate::read(files)?;
        Ok(Self(Arc::new(RwLock::new(Arc::new(config)))))
    }

    /// Uses another certificate for new connections.
    pub fn replace(&self, Certificate(config): Certificate) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(config);
    }

    /// Performs the TLS handshake.
    pub(super) async fn handshake<S: AsyncRead + AsyncWrite + Unpin>(&self, stream: S) -> io::Result<TlsStream<S>> {
        let config = self.0.read().unwrap_or_else(PoisonError::into_inner).clone();
        TlsAcceptor::from(config).accept(stream).await
    }
}

impl Certificate {
    /// Reads a certificate and its key.
    ///
    /// Errors: [`TlsError`], which names the file and the cause.
    pub fn read(TlsConfig { certificate, key }: &TlsConfig) -> Result<Self, TlsError> {
        let broken = |key, file: &Path| {
            let file = file.to_owned();
            move |source| TlsError::File { key, file, source }
        };
        let chain = CertificateDer::pem_file_iter(certificate)
            .and_then(Iterator::collect::<Result<Vec<_>, _>>)
            .map_err(broken("certificate", certificate))?;
        if chain.is_empty() {
            return Err(TlsError::Empty(certificate.clone()));
        }
        let key = PrivateKeyDer::from_pem_file(key).map_err(broken("key", key))?;
        let builder = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()));
        let builder = builder.with_safe_default_protocol_versions()?.with_no_client_auth();
        let mut config = builder.with_single_cert(chain, key)?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Self(config))
    }
}
