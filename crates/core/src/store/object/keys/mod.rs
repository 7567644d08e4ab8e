//! Credentials, and requests signed with them. Whose, and how, is the cloud's affair.

use std::fmt;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use http::request::Parts;

use crate::error::{ErrorKind, Refusal};

#[cfg(feature = "s3")]
mod aws;
#[cfg(feature = "azure")]
mod azure;
mod file;
#[cfg(feature = "gcs")]
mod google;
mod metadata;

#[cfg(feature = "s3")]
pub(super) use aws::AwsKeys;
#[cfg(feature = "azure")]
pub(super) use azure::AzureKeys;
#[cfg(feature = "gcs")]
pub(super) use google::GoogleKeys;
#[cfg(all(test, feature = "gcs"))]
pub(super) use google::tests::service as google_key;

/// Where credentials come from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Credentials {
    /// The file of `credentials_file`; without one, or without a section for the archive, the cloud's own chain.
    pub file: Option<PathBuf>,
    /// The data directory, in which the file must not lie.
    pub data_directory: Option<PathBuf>,
}

/// Signs requests with credentials that it finds.
pub(super) trait Sign: fmt::Debug + Send + Sync {
    /// Signs a request, whose body is so long if it has one, with credentials that are good for a while.
    ///
    /// # Errors
    /// There are none.
    fn sign(&self, parts: &mut Parts, len: Option<u64>) -> Result<(), Refusal>;

    /// Has the credentials looked for again: these were refused.
    fn forget(&self);
}

/// Where a cloud's credentials are found, and how requests are signed with them. Nothing of them is shown.
pub(super) trait Chain: fmt::Debug + Send + Sync {
    type Credential: Clone + Send;

    /// Looks for credentials.
    ///
    /// # Errors
    /// There are none.
    fn find(&self) -> Result<Self::Credential, Refusal>;

    /// Returns whether credentials will be good for a while.
    fn is_good(&self, credential: &Self::Credential) -> bool;

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
    kept: Mutex<Option<C::Credential>>,
}

impl<C: Chain> Kept<C> {
    pub(super) fn new(chain: C) -> Self {
        Self { chain, kept: Mutex::default() }
    }

    /// One thread looks for credentials, and the others wait for what it finds.
    fn credential(&self) -> Result<C::Credential, Refusal> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(credential) = kept.as_ref().filter(|kept| self.chain.is_good(kept)) {
            return Ok(credential.clone());
        }
        let found = self.chain.find()?;
        Ok(kept.insert(found).clone())
    }
}

impl<C: Chain> fmt::Debug for Kept<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kept").field("chain", &self.chain).finish_non_exhaustive()
    }
}

impl<C: Chain> Sign for Kept<C> {
    fn sign(&self, parts: &mut Parts, len: Option<u64>) -> Result<(), Refusal> {
        self.chain.sign(&self.credential()?, parts, len)
    }

    fn forget(&self) {
        *self.kept.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

fn refused(text: String) -> Refusal {
    Refusal { kind: ErrorKind::CredentialsRefused, text, request_id: None }
}

/// Returns the refusal of an archive for which there are no credentials anywhere.
fn none(from: &Credentials, chain: &str) -> Refusal {
    let section = from.file.as_ref().map_or_else(String::new, |file| {
        format!("\"{}\" has no section for it, and ", file.display())
    });
    refused(format!("there are no credentials: {section}{chain} give none"))
}
