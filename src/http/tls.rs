//! The certificate of the listener: HTTPS without anything in front.
//!
//! Read at start, and again on SIGHUP, so that a renewed certificate needs no restart; one that can't be read then leaves
//! the old one in use.

use std::{
    convert::Infallible,
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
use tokio::{
    io::{AsyncRead, AsyncWrite},
    signal::unix::Signal,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use crate::config::TlsConfig;

/// What the listener shows to its callers. Clones are the same.
#[derive(Clone)]
pub struct Tls(Arc<Shared>);

struct Shared {
    files: TlsConfig,
    config: RwLock<Arc<ServerConfig>>,
}

/// Why there can be no TLS.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file is not there, or is no PEM.
    #[error("http.tls.{key} = {}: {source}", file.display())]
    File {
        /// The key of the configuration.
        key: &'static str,
        /// The file.
        file: PathBuf,
        /// What is wrong.
        source: pem::Error,
    },
    /// It holds no certificate.
    #[error("http.tls.certificate = {} holds no certificate", .0.display())]
    Empty(PathBuf),
    /// The two files do not belong together, or are of a kind that can't be used.
    #[error("http.tls can't be used: {0}")]
    Unusable(#[from] rustls::Error),
}

impl Tls {
    /// Reads both files.
    ///
    /// Errors: [`TlsError`]; says which file and why.
    pub fn load(files: TlsConfig) -> Result<Self, TlsError> {
        let config = RwLock::new(Arc::new(read(&files)?));
        Ok(Self(Arc::new(Shared { files, config })))
    }

    /// Reads the files again on each of `hangups`, until `stop`.
    pub async fn keep_up(self, mut hangups: Signal, stop: CancellationToken) -> Result<(), Infallible> {
        while stop.run_until_cancelled(hangups.recv()).await.flatten().is_some() {
            match read(&self.0.files) {
                Ok(config) => {
                    *self.0.config.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(config);
                    info!("the certificate was read again");
                }
                Err(error) => error!(%error, "the certificate stays as it was"),
            }
        }
        Ok(())
    }

    /// Makes the connection a secret one.
    pub(super) async fn handshake<S: AsyncRead + AsyncWrite + Unpin>(&self, stream: S) -> io::Result<TlsStream<S>> {
        let config = self.0.config.read().unwrap_or_else(PoisonError::into_inner).clone();
        TlsAcceptor::from(config).accept(stream).await
    }
}

fn read(TlsConfig { certificate, key }: &TlsConfig) -> Result<ServerConfig, TlsError> {
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
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}
