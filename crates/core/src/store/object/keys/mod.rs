//! Credentials, and requests signed with them. Whose, and how, is the cloud's affair.

use std::fmt;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use http::request::Parts;

use self::metadata::Search;
use crate::error::{ErrorKind, Refusal};
#[cfg(any(feature = "azure", feature = "gcs"))]
use crate::server::url::text::is_loopback;

#[cfg(feature = "s3")]
mod aws;
#[cfg(feature = "azure")]
mod azure;
mod file;
#[cfg(feature = "gcs")]
mod google;
mod metadata;
#[cfg(test)]
mod tests;

#[cfg(feature = "s3")]
pub(super) use aws::AwsKeys;
#[cfg(feature = "azure")]
pub(super) use azure::AzureKeys;
#[cfg(feature = "gcs")]
pub(super) use google::GoogleKeys;
#[cfg(all(test, feature = "gcs"))]
pub(super) use google::tests::service as google_key;
pub(super) use metadata::Way;

/// Where credentials come from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Credentials {
    /// The file of `credentials_file`; without one, or without a section for the archive, the cloud's own chain.
    pub file: Option<PathBuf>,
    /// The data directory, in which the file must not lie.
    pub data_directory: Option<PathBuf>,
}

/// Why a request is not signed.
#[derive(Debug, Clone)]
pub(super) struct Unsigned {
    pub(super) refusal: Refusal,
    /// Credentials may be there a little later: to be tried again.
    pub(super) passes: bool,
    /// How long the server that gives them asks to be left alone.
    pub(super) retry_after: Option<Duration>,
}

impl From<Refusal> for Unsigned {
    /// For good.
    fn from(refusal: Refusal) -> Self {
        Self { refusal, passes: false, retry_after: None }
    }
}

/// Signs requests with credentials that it finds.
pub(super) trait Sign: fmt::Debug + Send + Sync {
    /// Signs a request, whose body is so long if it has one, with credentials that are good for a while. `moved` is
    /// called with each step of a search for them.
    ///
    /// # Errors
    /// There are none, or none now.
    fn sign(&self, parts: &mut Parts, len: Option<u64>, moved: &dyn Fn()) -> Result<(), Unsigned>;

    /// Has the credentials looked for again: these were refused.
    fn forget(&self);
}

/// Where a cloud's credentials are found, and how requests are signed with them. Nothing of them is shown.
pub(super) trait Chain: fmt::Debug + Send + Sync {
    type Credential: Clone + Send;

    /// Looks for credentials.
    ///
    /// # Errors
    /// There are none, or none now.
    fn find(&self, search: &Search<'_>) -> Result<Self::Credential, Unsigned>;

    /// Returns whether credentials will be good for a while.
    fn is_good(&self, credential: &Self::Credential) -> bool;

    /// Returns whether the storage still takes them.
    fn is_valid(&self, credential: &Self::Credential) -> bool;

    /// Signs a request, whose body is so long if it has one.
    ///
    /// # Errors
    /// It cannot be signed.
    fn sign(
        &self,
        credential: &Self::Credential,
        parts: &mut Parts,
        len: Option<u64>,
    ) -> Result<(), Refusal>;
}

/// The credentials for an archive, kept while they are good.
pub(super) struct Kept<C: Chain> {
    chain: C,
    way: Way,
    last: Mutex<Last<C::Credential>>,
}

/// What the last searches have come to.
struct Last<T> {
    found: Option<T>,
    /// The last one failed, then and so.
    failed: Option<(Instant, Unsigned)>,
}

impl<C: Chain> Kept<C> {
    /// For how long a search that failed speaks for others too: for less than the shortest pause between two tries.
    const FAILED: Duration = Duration::from_millis(50);

    /// The same while the storage still takes what was found before.
    const FAILED_EARLY: Duration = Duration::from_secs(10);

    pub(super) fn new(chain: C, way: Way) -> Self {
        Self { chain, way, last: Mutex::new(Last { found: None, failed: None }) }
    }

    fn last(&self) -> MutexGuard<'_, Last<C::Credential>> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One thread looks for credentials, and the others wait for what comes of it. What was found before is used as
    /// long as it can be if there is nothing new.
    fn credential(&self, moved: &dyn Fn()) -> Result<C::Credential, Unsigned> {
        let begun = Instant::now();
        let mut last = self.last();
        if let Some(good) = last.found.as_ref().filter(|found| self.chain.is_good(found)) {
            return Ok(good.clone());
        }
        let is_valid = |found: &&C::Credential| self.chain.is_valid(found);
        let counts = match last.found.as_ref().filter(is_valid) {
            Some(_) => Self::FAILED_EARLY,
            None => Self::FAILED,
        };
        // A thread that has waited for that search began before it failed.
        let is_fresh =
            |(at, _): &&(Instant, Unsigned)| begun.saturating_duration_since(*at) < counts;
        let unsigned = match last.failed.as_ref().filter(is_fresh) {
            Some((_, unsigned)) => unsigned.clone(),
            None => match self.search(moved) {
                Ok(found) => {
                    *last = Last { found: Some(found.clone()), failed: None };
                    return Ok(found);
                }
                Err(unsigned) => {
                    last.failed = Some((Instant::now(), unsigned.clone()));
                    unsigned
                }
            },
        };
        last.found.as_ref().filter(is_valid).cloned().ok_or(unsigned)
    }

    fn search(&self, moved: &dyn Fn()) -> Result<C::Credential, Unsigned> {
        // Not every chain can tell of its steps.
        moved();
        self.chain.find(&Search::new(&self.way, moved))
    }
}

impl<C: Chain> fmt::Debug for Kept<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kept").field("chain", &self.chain).finish_non_exhaustive()
    }
}

impl<C: Chain> Sign for Kept<C> {
    fn sign(&self, parts: &mut Parts, len: Option<u64>, moved: &dyn Fn()) -> Result<(), Unsigned> {
        Ok(self.chain.sign(&self.credential(moved)?, parts, len)?)
    }

    fn forget(&self) {
        *self.last() = Last { found: None, failed: None };
    }
}

fn refused(text: String) -> Refusal {
    Refusal { kind: ErrorKind::CredentialsRefused, text, request_id: None }
}

/// Refuses to show in clear what whoever reads it can use for requests of his own.
#[cfg(any(feature = "azure", feature = "gcs"))]
fn not_in_clear(parts: &Parts, what: &str, instead: &str) -> Result<(), Refusal> {
    let host = metadata::bare(parts.uri.host().unwrap_or_default());
    if parts.uri.scheme_str() != Some("http") || is_loopback(host) {
        return Ok(());
    }
    Err(refused(format!(
        "{what} is not sent to {host} without TLS, because everybody on the way could use it: {instead}"
    )))
}

/// Returns the refusal of an archive for which there are no credentials anywhere.
fn none(from: &Credentials, chain: &str) -> Refusal {
    let section = from.file.as_ref().map_or_else(String::new, |file| {
        format!("\"{}\" has no section for it, and ", file.display())
    });
    refused(format!("there are no credentials: {section}{chain} give none"))
}
