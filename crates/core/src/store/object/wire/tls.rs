//! TLS, by rustls with ring: the server's own libssl is not touched.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore};

use super::Failure;
use crate::server::url::Endpoint;

/// Where systems keep the certificates that they trust, in one file.
const SYSTEM: [&str; 6] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
    "/usr/local/share/certs/ca-root-nss.crt",
];

/// Which certificates are trusted. They are read with the first connection, and again after one was refused:
/// they may have been renewed.
#[derive(Debug)]
pub(in crate::store::object) struct Trust {
    file: Option<PathBuf>,
    read: Mutex<Option<Arc<ClientConfig>>>,
}

impl Trust {
    /// Trusts the certificates in a file, or those of the system.
    pub(in crate::store::object) fn new(file: Option<PathBuf>) -> Arc<Self> {
        Arc::new(Self { file, read: Mutex::default() })
    }

    pub(super) fn connection(&self, server: &Endpoint) -> Result<ClientConnection, Failure> {
        let refused = |reason: String| Failure::Certificate { host: server.with_port(), reason };
        let name = ServerName::try_from(server.host.clone())
            .map_err(|_| refused("no certificate can be for such a name".to_owned()))?;
        let config = self.config().map_err(refused)?;
        ClientConnection::new(config, name).map_err(|e| refused(e.to_string()))
    }

    /// Says why the beginning of TLS failed.
    pub(super) fn refused(&self, server: &Endpoint, error: io::Error) -> Failure {
        let host = server.with_port();
        let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
        match tls {
            Some(tls) => {
                *self.read.lock().unwrap_or_else(PoisonError::into_inner) = None;
                Failure::Certificate { host, reason: tls.to_string() }
            }
            None if error.kind() == io::ErrorKind::WouldBlock => {
                let source = io::Error::from_raw_os_error(libc::ETIMEDOUT);
                Failure::Unreachable { host, source }
            }
            None => Failure::Unreachable { host, source: error },
        }
    }

    fn config(&self) -> Result<Arc<ClientConfig>, String> {
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(config) = &*read {
            return Ok(Arc::clone(config));
        }
        let mut roots = RootCertStore::empty();
        match self.file.as_deref().or_else(|| system()) {
            Some(file) => add(&mut roots, file)?,
            None => {
                return Err("no file with the system's trusted certificates was found: install the package ca-certificates, or name one by ca_file".to_owned());
            }
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|e| e.to_string())?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Arc::clone(read.insert(Arc::new(config))))
    }
}

fn system() -> Option<&'static Path> {
    SYSTEM.iter().map(Path::new).find(|path| path.is_file())
}

fn add(roots: &mut RootCertStore, file: &Path) -> Result<(), String> {
    let shown = file.display();
    let certificates = CertificateDer::pem_file_iter(file)
        .map_err(|e| format!("the certificates in \"{shown}\" cannot be read: {e}"))?;
    // Systems carry certificates that only older software understands.
    let (added, _) = roots.add_parsable_certificates(certificates.filter_map(Result::ok));
    if added == 0 { Err(format!("\"{shown}\" holds no certificate")) } else { Ok(()) }
}
