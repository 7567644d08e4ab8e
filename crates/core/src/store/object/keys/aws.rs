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
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context as Task, Poll, Wake};
use std::thread::{self, Thread};
use std::time::Instant;

use bytes::Bytes;
use http::request::Parts;
use reqsign_aws_v4::{Credential, DefaultCredentialProvider, RequestSigner};
use reqsign_core::time::Timestamp;
use reqsign_core::{
    Context, Env, FileRead, HttpSend, ProvideCredential, SignRequest, SigningCredential,
};

use super::metadata::{Search, Way};
use super::{Chain, Credentials, Unsigned, file, none, refused};
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
    metadata: Arc<Metadata>,
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
        let metadata = Arc::<Metadata>::default();
        let context = Context::new()
            .with_env(Environment)
            .with_file_read(Files)
            .with_http_send(Arc::clone(&metadata));
        let signer = RequestSigner::new("s3", region);
        Self { from, location, chain, signer, context, metadata }
    }
}

impl Chain for AwsKeys {
    type Credential = Credential;

    fn find(&self, search: &Search<'_>) -> Result<Credential, Unsigned> {
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
        *self.metadata.asked() = Asked { terms: Some(search.terms()), failed: None };
        // Its errors may hold what a server has answered.
        match run(self.chain.provide_credential(&self.context)) {
            Ok(Some(credential)) if credential.is_valid() => Ok(credential),
            _ => Err(self.metadata.asked().failed.take().unwrap_or_else(|| {
                none(
                    &self.from,
                    "the environment, the profile files, web identity and the metadata of container and instance",
                )
                .into()
            })),
        }
    }

    fn is_good(&self, credential: &Credential) -> bool {
        credential.is_valid()
    }

    fn is_valid(&self, credential: &Credential) -> bool {
        credential.is_valid_at(Timestamp::now())
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

/// Asks for the chain of credentials. The chain goes on after what fails, and tells nothing of it: that is kept here.
#[derive(Debug, Default)]
struct Metadata(Mutex<Asked>);

#[derive(Debug, Default)]
struct Asked {
    /// Those of the search that is under way.
    terms: Option<(Way, Instant)>,
    /// What has failed first that says more than that nothing is there.
    failed: Option<Unsigned>,
}

impl Metadata {
    fn asked(&self) -> MutexGuard<'_, Asked> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn failed(&self, unsigned: Unsigned) {
        self.asked().failed.get_or_insert(unsigned);
    }
}

impl HttpSend for Metadata {
    async fn http_send(
        &self,
        request: http::Request<Bytes>,
    ) -> reqsign_core::Result<http::Response<Bytes>> {
        let no = || reqsign_core::Error::unexpected("no answer");
        let host = request.uri().host().unwrap_or_default().to_owned();
        let is_named = request.uri().scheme_str() == Some("https");
        let terms = self.asked().terms.clone().ok_or_else(no)?;
        let answer = Search::quiet(&terms).send(request).map_err(|unanswered| {
            if !unanswered.is_nobody() {
                self.failed(unanswered.unsigned("keys"));
            }
            no()
        })?;
        // Metadata that have no keys say so by the number alone.
        if answer.passes() || (is_named && answer.status != 200) {
            let text = format!("{host} answered {} to the request for keys", answer.status);
            self.failed(answer.unsigned(answer.passes(), text));
        }
        let response = http::Response::builder().status(answer.status).body(answer.body);
        response.map_err(|_| no())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]

    use super::*;
    use crate::error::ErrorKind;
    use crate::store::object::keys::tests::{Does, searching, server};
    use crate::store::object::keys::{Kept, Sign};

    fn keys(from: Credentials, location: String, region: &str) -> Kept<AwsKeys> {
        let url = "s3://bucket/p?region=r".parse().unwrap();
        let way = Way::new(&url, std::time::Duration::from_secs(5));
        Kept::new(AwsKeys::new(from, location, region), way)
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
        keys.sign(&mut signed, None, &|| ()).unwrap();
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
            keys.sign(&mut signed, None, &|| ()).unwrap();
            signed.headers["authorization"].to_str().unwrap().contains("NEW/")
        };
        assert!(!id(&keys));
        keys.forget();
        assert!(id(&keys));
    }

    /// A server that was busy, or away, was called keys that are not there.
    #[test]
    fn what_the_chain_passes_over_is_kept_if_it_may_pass() {
        let sent = |does: Vec<Does>, path: &str| {
            let metadata = Metadata::default();
            let (at, asked) = server(does);
            searching(|search| metadata.asked().terms = Some(search.terms()));
            let request = http::Request::get(format!("{at}{path}")).body(Bytes::new()).unwrap();
            let status = run(metadata.http_send(request)).ok().map(|answer| answer.status());
            asked.join().unwrap();
            let failed = metadata.asked().failed.take();
            (status.map(|status| status.as_u16()), failed.map(|failed| failed.refusal.kind))
        };
        for (does, status, kind) in [
            (Does::Answer(200, "x"), Some(200), None),
            // There is no role.
            (Does::Answer(404, ""), Some(404), None),
            (Does::Answer(503, ""), Some(503), Some(ErrorKind::StorageBusy)),
            (Does::Answer(429, ""), Some(429), Some(ErrorKind::StorageBusy)),
            (Does::Cut, None, Some(ErrorKind::Unreachable)),
            // The metadata of a container ask elsewhere themselves.
            (Does::Late(std::time::Duration::from_millis(2500)), Some(200), None),
        ] {
            assert_eq!(sent(vec![does], "/x"), (status, kind), "{does:?}");
        }
        // Nobody is there.
        let metadata = Metadata::default();
        searching(|search| metadata.asked().terms = Some(search.terms()));
        let request = http::Request::get("http://127.0.0.1:1/x").body(Bytes::new()).unwrap();
        assert!(run(metadata.http_send(request)).is_err());
        assert!(metadata.asked().failed.is_none());
    }
}
