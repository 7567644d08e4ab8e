//! Credentials, and requests signed with them.
//!
//! Signing and the chain of AWS (environment, profile files, web identity, container and instance metadata) are
//! reqsign's. Its futures need no runtime: what they wait for is done on the calling thread, before they are
//! asked again.

use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context as Task, Poll, Wake};
use std::thread::{self, Thread};

use http::request::Parts;
use reqsign_aws_v4::{Credential, DefaultCredentialProvider, RequestSigner};
use reqsign_core::{Context, Env, FileRead, ProvideCredential, SignRequest, SigningCredential};

use super::credentials_file;
use super::metadata::Metadata;
use crate::error::{ErrorKind, Refusal};

/// Where credentials come from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Credentials {
    /// The file of `credentials_file`; without one, or without a section for the archive, AWS's own chain.
    pub file: Option<PathBuf>,
    /// The data directory, in which the file must not lie.
    pub data_directory: Option<PathBuf>,
}

/// The credentials for an archive, kept while they are good.
pub(super) struct Keys {
    from: Credentials,
    location: String,
    chain: DefaultCredentialProvider,
    signer: RequestSigner,
    context: Context,
    kept: Mutex<Option<Credential>>,
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keys").field("from", &self.from).finish_non_exhaustive()
    }
}

impl Keys {
    pub(super) fn new(from: Credentials, location: String, region: &str) -> Self {
        // A process of another program's would be a fork of the server.
        let chain = DefaultCredentialProvider::builder().no_process().no_sso().build();
        let context =
            Context::new().with_env(Environment).with_file_read(Files).with_http_send(Metadata);
        let signer = RequestSigner::new("s3", region);
        Self { from, location, chain, signer, context, kept: Mutex::default() }
    }

    /// Signs a request with credentials that are good for a while.
    ///
    /// # Errors
    /// There are none.
    pub(super) fn sign(&self, parts: &mut Parts) -> Result<(), Refusal> {
        let credential = self.credential()?;
        run(self.signer.sign_request(&self.context, parts, Some(&credential), None))
            .map_err(|e| refused(format!("the request cannot be signed: {e}")))
    }

    /// Has the credentials looked for again: these were refused.
    pub(super) fn forget(&self) {
        *self.kept.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// One thread looks for credentials, and the others wait for what it finds.
    fn credential(&self) -> Result<Credential, Refusal> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(credential) = kept.as_ref().filter(|credential| credential.is_valid()) {
            return Ok(credential.clone());
        }
        let found = self.find()?;
        Ok(kept.insert(found).clone())
    }

    fn find(&self) -> Result<Credential, Refusal> {
        let Credentials { file, data_directory } = &self.from;
        if let Some(file) = file {
            let keys = credentials_file::read(file, &self.location, data_directory.as_deref())
                .map_err(|e| refused(e.to_string()))?;
            if let Some(keys) = keys {
                return Ok(Credential {
                    access_key_id: keys.access_key_id,
                    secret_access_key: keys.secret_access_key,
                    session_token: keys.session_token,
                    expires_in: None,
                });
            }
        }
        // Its errors may hold what a server has answered.
        match run(self.chain.provide_credential(&self.context)) {
            Ok(Some(credential)) if credential.is_valid() => Ok(credential),
            _ => {
                let section = file.as_ref().map_or_else(String::new, |file| {
                    format!("\"{}\" has no section for it, and ", file.display())
                });
                Err(refused(format!(
                    "there are no credentials: {section}the environment, the profile files, web identity and the metadata of container and instance give none"
                )))
            }
        }
    }
}

fn refused(text: String) -> Refusal {
    Refusal { kind: ErrorKind::CredentialsRefused, text, request_id: None }
}

/// Runs a future on this thread, to its end.
fn run<F: Future>(future: F) -> F::Output {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let mut future = pin!(future);
    let waker = Arc::new(Unpark(thread::current())).into();
    loop {
        match future.as_mut().poll(&mut Task::from_waker(&waker)) {
            Poll::Ready(output) => return output,
            Poll::Pending => thread::park(),
        }
    }
}

/// The environment, of which what is not text is left out: the library's own reading of it would panic.
#[derive(Debug, Clone, Copy)]
struct Environment;

impl Env for Environment {
    fn var(&self, key: &str) -> Option<String> {
        std::env::var(key).ok()
    }

    fn vars(&self) -> HashMap<String, String> {
        let text = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        };
        std::env::vars_os().filter_map(text).collect()
    }

    fn home_dir(&self) -> Option<PathBuf> {
        std::env::home_dir()
    }
}

#[derive(Debug, Clone, Copy)]
struct Files;

impl FileRead for Files {
    async fn file_read(&self, path: &str) -> reqsign_core::Result<Vec<u8>> {
        std::fs::read(path).map_err(|e| {
            reqsign_core::Error::config_invalid("a file cannot be read").with_source(e)
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]

    use super::*;

    #[test]
    fn a_request_is_signed_with_the_keys_of_the_file() {
        let temp = tempfile::tempdir().unwrap();
        let file = temp.path().join("keys");
        std::fs::write(
            &file,
            "[s3://b]\naws_access_key_id = AKID\naws_secret_access_key = hunter2\n",
        )
        .unwrap();
        std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o600))
            .unwrap();
        let from = Credentials { file: Some(file.clone()), data_directory: None };
        let keys = Keys::new(from, "s3://b/p".to_owned(), "eu-west-1");
        let parts = || {
            let request = http::Request::get("https://b.example.com/x").header("x-amz-a", "1");
            request.body(()).unwrap().into_parts().0
        };
        let mut signed = parts();
        keys.sign(&mut signed).unwrap();
        let authorization = signed.headers["authorization"].to_str().unwrap().to_owned();
        assert!(authorization.contains("Credential=AKID/"), "{authorization}");
        assert!(authorization.contains("/eu-west-1/s3/aws4_request"), "{authorization}");
        assert!(
            authorization.contains("host;x-amz-a;x-amz-content-sha256;x-amz-date"),
            "{authorization}"
        );
        assert!(!format!("{keys:?}{authorization}").contains("hunter2"));

        // They are kept, until they are refused.
        std::fs::write(&file, "[s3://b]\naws_access_key_id = NEW\naws_secret_access_key = x\n")
            .unwrap();
        let id = |keys: &Keys| {
            let mut signed = parts();
            keys.sign(&mut signed).unwrap();
            signed.headers["authorization"].to_str().unwrap().contains("NEW/")
        };
        assert!(!id(&keys));
        keys.forget();
        assert!(id(&keys));
    }
}
