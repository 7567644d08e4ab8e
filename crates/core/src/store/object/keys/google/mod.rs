//! Credentials for Google Cloud Storage: a token in each request (RFC 6750).
//!
//! They are found as Google's own programs find them, but for what would start a program inside the server. The part
//! of reqsign for this was looked at (reqsign-google 3.2.0) and does not do: it brings the crate rsa, with a weakness
//! that has no fix (RUSTSEC-2023-0071), and with it second versions of five others, and tokio. RSA is ring's here.

use std::fmt;
use std::path::{Path, PathBuf};

use http::HeaderValue;
use http::header::AUTHORIZATION;
use http::request::Parts;

use self::account::Account;
use self::tokens::Token;
use super::metadata::Search;
use super::{Chain, Credentials, Unsigned, file, none, not_in_clear, refused};
use crate::error::Refusal;

mod account;
mod jwt;
mod tokens;

/// The one key of a section.
const FILE: &str = "google_application_credentials";

/// Where the metadata of an instance are.
const METADATA: &str = "169.254.169.254";

/// Where tokens for Google come from.
pub(in crate::store::object) struct GoogleKeys {
    from: Credentials,
    location: String,
    /// Gives the variables of the process.
    variable: fn(&str) -> Option<String>,
}

impl fmt::Debug for GoogleKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GoogleKeys").field("from", &self.from).finish_non_exhaustive()
    }
}

impl GoogleKeys {
    pub(in crate::store::object) fn new(from: Credentials, location: String) -> Self {
        Self { from, location, variable: |name| std::env::var(name).ok() }
    }

    fn variable(&self, name: &str) -> Option<String> {
        (self.variable)(name).filter(|value| !value.is_empty())
    }

    /// Returns the file that `gcloud auth application-default login` writes.
    fn well_known(&self) -> Option<PathBuf> {
        let directory = self
            .variable("CLOUDSDK_CONFIG")
            .map(PathBuf::from)
            .or_else(|| Some(PathBuf::from(self.variable("HOME")?).join(".config/gcloud")));
        Some(directory?.join("application_default_credentials.json"))
    }
}

impl Chain for GoogleKeys {
    type Credential = Token;

    fn find(&self, search: &Search<'_>) -> Result<Token, Unsigned> {
        if let Some(section) = file::section(&self.from, &self.location, &[FILE])? {
            let path = Path::new(section.need(FILE)?);
            if !path.is_absolute() {
                return Err(refused(format!("{FILE} is not an absolute path")).into());
            }
            // It is as secret as the file that names it.
            let text = file::text(path, self.from.data_directory.as_deref())
                .map_err(|e| refused(e.to_string()))?;
            return of_file(path, &text, search);
        }
        if let Some(path) = self.variable("GOOGLE_APPLICATION_CREDENTIALS").map(PathBuf::from) {
            let text = std::fs::read_to_string(&path)
                .map_err(|e| refused(format!("\"{}\" cannot be read: {e}", path.display())))?;
            return of_file(&path, &text, search);
        }
        if let Some((path, text)) = self
            .well_known()
            .and_then(|path| std::fs::read_to_string(&path).ok().map(|text| (path, text)))
        {
            return of_file(&path, &text, search);
        }
        let has_no_metadata = self.variable("NO_GCE_CHECK").is_some_and(|value| value == "true");
        // What the names stand for is always at this address.
        let server = self
            .variable("GCE_METADATA_HOST")
            .filter(|host| !["metadata.google.internal", "metadata"].contains(&host.as_str()));
        let server = server.unwrap_or_else(|| METADATA.to_owned());
        let found = if has_no_metadata { None } else { tokens::of_instance(&server, search)? };
        found.ok_or_else(|| {
            none(
                &self.from,
                "GOOGLE_APPLICATION_CREDENTIALS, the file of gcloud and the metadata of the instance",
            )
            .into()
        })
    }

    fn is_good(&self, token: &Token) -> bool {
        token.is_good()
    }

    fn is_valid(&self, token: &Token) -> bool {
        token.is_valid()
    }

    fn sign(&self, token: &Token, parts: &mut Parts, _: Option<u64>) -> Result<(), Refusal> {
        not_in_clear(parts, "a token", "use https")?;
        let mut value = HeaderValue::try_from(format!("Bearer {}", token.text()))
            .map_err(|_| refused("the token is not one that a request can hold".to_owned()))?;
        value.set_sensitive(true);
        parts.headers.insert(AUTHORIZATION, value);
        Ok(())
    }
}

fn of_file(path: &Path, text: &str, search: &Search<'_>) -> Result<Token, Unsigned> {
    let name = format!("\"{}\"", path.display());
    let account = Account::parse(text).map_err(|what| refused(format!("{name} {what}")))?;
    tokens::ask(&account, &name, search)
}

#[cfg(test)]
pub(super) mod tests;
