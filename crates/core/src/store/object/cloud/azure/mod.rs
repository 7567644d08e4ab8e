//! Azure Blob Storage: block blobs in a container of an account, by the REST interface.
//!
//! Put Blob stores a blob of up to 5000 MiB by one request. With `If-None-Match: *` it answers 409
//! `BlobAlreadyExists` where there is one. A blob's attributes are metadata, whose names must be identifiers of C#:
//! `walsafe_stored`, `walsafe_content`, `walsafe_checked`.

use super::{Asking, Dialect, Page, Start};
use crate::encoding::digest::{CHECKED_ATTRIBUTE, CONTENT_ATTRIBUTE, STORED_ATTRIBUTE};
use crate::server::url::ObjectUrl;
use crate::server::url::text::percent_encode;
use crate::store::object::ask::{Ask, Asked, Meaning};
use crate::store::object::keys::{AzureKeys, Credentials, Kept, Sign, Way};
use crate::store::object::payload::Payload;
use crate::store::object::wire::{Failure, Reply};
use crate::store::object::xml;
use crate::store::trials::Rules;

mod page;
mod table;
#[cfg(test)]
mod tests;

/// The version of the interface: new enough for the cold tier (2021-12-02) and for a blob of 5000 MiB in one request
/// (2019-12-12), and years old, so that every cloud of Azure has it.
const VERSION: &str = "2024-05-04";

#[derive(Debug)]
pub(super) struct Azure;

impl Dialect for Azure {
    fn name(&self) -> &'static str {
        "Azure"
    }

    fn signer(&self, from: Credentials, url: &ObjectUrl, _: &str, way: Way) -> Box<dyn Sign> {
        Box::new(Kept::new(AzureKeys::new(from, url.name(), url.account.clone()), way))
    }

    fn header(&self, attribute: &str) -> &'static str {
        match attribute {
            STORED_ATTRIBUTE => "x-ms-meta-walsafe_stored",
            CONTENT_ATTRIBUTE => "x-ms-meta-walsafe_content",
            CHECKED_ATTRIBUTE => "x-ms-meta-walsafe_checked",
            _ => "x-ms-meta-walsafe_unknown",
        }
    }

    fn publish<'p>(
        &self,
        _: &ObjectUrl,
        key: String,
        attributes: &[(&'static str, String)],
        payload: &'p Payload,
    ) -> Ask<'p> {
        let mut headers =
            vec![("if-none-match", "*".to_owned()), ("x-ms-blob-type", "BlockBlob".to_owned())];
        headers.extend(attributes.iter().map(|(name, value)| (self.header(name), value.clone())));
        Ask { key: Some(key), headers, payload: Some(payload), ..Ask::new(Asked::Publish, "PUT") }
    }

    /// A listing begins at its beginning, or at the storage's own marker.
    fn list(&self, prefix: &str, start: &Start) -> Ask<'static> {
        let mut query = vec![
            ("comp", "list".to_owned()),
            ("delimiter", "/".to_owned()),
            ("prefix", prefix.to_owned()),
            ("restype", "container".to_owned()),
        ];
        query.extend(start.token.clone().map(|token| ("marker", token)));
        Ask { query, ..Ask::new(Asked::Read, "GET") }
    }

    fn page(&self, text: &[u8]) -> Result<Page, &'static str> {
        page::parse(text)
    }

    fn path(&self, url: &ObjectUrl, ask: &Ask<'_>) -> String {
        let ObjectUrl { account, bucket, .. } = url;
        let account = if url.is_path_style() { format!("/{account}") } else { String::new() };
        match &ask.key {
            Some(key) => format!("{account}/{bucket}/{}", percent_encode(key, true)),
            None => format!("{account}/{bucket}"),
        }
    }

    fn headers(&self, url: &ObjectUrl, ask: &Ask<'_>) -> Vec<(&'static str, String)> {
        let mut headers = vec![("x-ms-version", VERSION.to_owned())];
        if let Some(payload) = ask.payload {
            headers.push(("content-md5", payload.md5()));
            headers.extend(url.storage_class.clone().map(|tier| ("x-ms-access-tier", tier)));
        }
        headers
    }

    fn code(&self, reply: &Reply, body: &[u8]) -> String {
        let code = xml::error_code(body);
        // Who answers without a body says it in a header.
        match reply.header("x-ms-error-code").filter(|_| code.is_empty()) {
            Some(code) => code.chars().filter(char::is_ascii_alphanumeric).take(64).collect(),
            None => code,
        }
    }

    fn request_id(&self) -> &'static str {
        "x-ms-request-id"
    }

    fn meaning(&self, asked: Asked, status: u16, code: &str) -> Meaning {
        table::meaning(asked, status, code)
    }

    fn is_throttling(&self, status: u16, code: &str) -> bool {
        status == 429 || code == "ServerBusy"
    }

    /// The one code for a wrong key and for a wrong clock.
    fn may_be_the_clock(&self, code: &str) -> bool {
        code == "AuthenticationFailed"
    }

    fn advice(&self, url: &ObjectUrl, failure: &Failure) -> Option<&'static str> {
        let (is_own, is_before) = (url.endpoint.is_none(), !url.is_path_style());
        match failure {
            Failure::Unknown { .. } if is_own => Some(
                "; look for the storage account's name in the URL: azure://ACCOUNT/CONTAINER/PREFIX",
            ),
            Failure::Unknown { .. } | Failure::Certificate { .. } if !is_own && is_before => Some(
                "; if there is no such name for each account of the server, add style=path to the URL",
            ),
            _ => None,
        }
    }

    fn keeps_versions(&self, _: &dyn Asking) -> Result<bool, String> {
        Err(NOT_TOLD.to_owned())
    }

    fn rules(&self, bucket: &dyn Asking, _: &str) -> Rules {
        let query = vec![("restype", "container".to_owned())];
        let ask = Ask { query, ..Ask::new(Asked::Read, "GET") };
        let locks = LOCKS.iter().try_fold(false, |on, name| {
            Ok(on || bucket.header(&ask, name)?.is_some_and(|value| value == "true"))
        });
        Rules { keeps_versions: Err(NOT_TOLD.to_owned()), locks, by_age: Err(NOT_TOLD.to_owned()) }
    }
}

/// In which properties of a container a lock shows.
const LOCKS: [&str; 3] = [
    "x-ms-has-immutability-policy",
    "x-ms-has-legal-hold",
    "x-ms-immutable-storage-with-versioning-enabled",
];

/// Of versions and lifecycle rules.
const NOT_TOLD: &str = "Azure shows it in the account's management alone";
