//! Credentials of AWS.
//!
//! Signing and the chain of AWS (environment, profile files, web identity, container and instance metadata) are
//! reqsign's. Its futures need no runtime: what they wait for is done on the calling thread, before they are
//! asked again.

use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context as Task, Poll, Wake};
use std::thread::{self, Thread};

use bytes::Bytes;
use http::request::Parts;
use reqsign_aws_v4::{Credential, DefaultCredentialProvider, RequestSigner};
use reqsign_core::{
    Context, Env, FileRead, HttpSend, ProvideCredential, SignRequest, SigningCredential,
};

use super::{Chain, Credentials, file, metadata, none, refused};
use crate::error::Refusal;

/// The keys that a section of the file of credentials may have.
const KEYS: [&str; 3] = ["aws_access_key_id", "aws_secret_access_key", "aws_session_token"];

/// Credentials of AWS for an archive.
pub(in crate::store::object) struct AwsKeys {
    from: Credentials,
    location: String,
    chain: DefaultCredentialProvider,
    signer: RequestSigner,
    context: Context,
}

impl fmt::Debug for AwsKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AwsKeys").field("from", &self.from).finish_non_exhaustive()
    }
}

impl AwsKeys {
    pub(in crate::store::object) fn new(from: Credentials, location: String, region: &str) -> Self {
        // A process of another program's would be a fork of the server.
        let chain = DefaultCredentialProvider::builder().no_process().no_sso().build();
        let context =
            Context::new().with_env(Environment).with_file_read(Files).with_http_send(Metadata);
        let signer = RequestSigner::new("s3", region);
        Self { from, location, chain, signer, context }
    }
}

impl Chain for AwsKeys {
    type Credential = Credential;

    fn find(&self) -> Result<Credential, Refusal> {
        let section = file::section(&self.from, &self.location, &KEYS)?;
        if let Some(section) = section {
            let [id, secret] = ["aws_access_key_id", "aws_secret_access_key"]
                .map(|key| section.need(key).map(str::to_owned));
            let token = section.get("aws_session_token").map(str::to_owned);
            return Ok(Credential {
                access_key_id: id?,
                secret_access_key: secret?,
                session_token: token,
                expires_in: None,
            });
        }
        // Its errors may hold what a server has answered.
        match run(self.chain.provide_credential(&self.context)) {
            Ok(Some(credential)) if credential.is_valid() => Ok(credential),
            _ => Err(none(
                &self.from,
                "the environment, the profile files, web identity and the metadata of container and instance",
            )),
        }
    }

    fn is_good(&self, credential: &Credential) -> bool {
        credential.is_valid()
    }

    fn sign(
        &self,
        credential: &Credential,
        parts: &mut Parts,
        _: Option<u64>,
    ) -> Result<(), Refusal> {
        // What is signed is what is sent, whatever the signer makes of it.
        let uri = parts.uri.clone();
        run(self.signer.sign_request(&self.context, parts, Some(credential), None))
            .map_err(|e| refused(format!("the request cannot be signed: {e}")))?;
        parts.uri = uri;
        Ok(())
    }
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

#[derive(Debug, Clone, Copy)]
struct Metadata;

impl HttpSend for Metadata {
    async fn http_send(
        &self,
        request: http::Request<Bytes>,
    ) -> reqsign_core::Result<http::Response<Bytes>> {
        metadata::send(request).map_err(reqsign_core::Error::unexpected)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]

    use super::*;
    use crate::store::object::keys::{Kept, Sign};

    fn keys(from: Credentials, location: String, region: &str) -> Kept<AwsKeys> {
        Kept::new(AwsKeys::new(from, location, region))
    }

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
        let keys = keys(from, "s3://b/p".to_owned(), "eu-west-1");
        let parts = || {
            let request = http::Request::get("https://b.example.com/x").header("x-amz-a", "1");
            request.body(()).unwrap().into_parts().0
        };
        let mut signed = parts();
        keys.sign(&mut signed, None).unwrap();
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
        let id = |keys: &Kept<AwsKeys>| {
            let mut signed = parts();
            keys.sign(&mut signed, None).unwrap();
            signed.headers["authorization"].to_str().unwrap().contains("NEW/")
        };
        assert!(!id(&keys));
        keys.forget();
        assert!(id(&keys));
    }
}
