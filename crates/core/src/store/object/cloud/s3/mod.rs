//! S3: Amazon's, and that of whoever speaks its language.

use reqsign_aws_v4::EMPTY_STRING_SHA256;

use super::{Asking, Dialect, Next, Page, Start};
use crate::encoding::digest::{CHECKED_ATTRIBUTE, CONTENT_ATTRIBUTE, STORED_ATTRIBUTE};
use crate::server::url::text::percent_encode;
use crate::server::url::{Encryption, ObjectUrl};
use crate::store::object::ask::{Ask, Asked, Meaning};
use crate::store::object::keys::{AwsKeys, Credentials, Kept, Sign, Way};
use crate::store::object::payload::Payload;
use crate::store::object::wire::{Failure, Reply};
use crate::store::object::xml;
use crate::store::trials::Rules;

mod lifecycle;
mod page;
mod table;

#[derive(Debug)]
pub(super) struct S3;

impl Dialect for S3 {
    fn name(&self) -> &'static str {
        "S3"
    }

    fn signer(&self, from: Credentials, url: &ObjectUrl, region: &str, way: Way) -> Box<dyn Sign> {
        Box::new(Kept::new(AwsKeys::new(from, url.name(), region), way))
    }

    fn header(&self, attribute: &str) -> &'static str {
        match attribute {
            STORED_ATTRIBUTE => "x-amz-meta-walsafe-stored",
            CONTENT_ATTRIBUTE => "x-amz-meta-walsafe-content",
            CHECKED_ATTRIBUTE => "x-amz-meta-walsafe-checked",
            _ => "x-amz-meta-walsafe-unknown",
        }
    }

    fn publish<'p>(
        &self,
        _: &ObjectUrl,
        key: String,
        attributes: &[(&'static str, String)],
        payload: &'p Payload,
    ) -> Ask<'p> {
        let mut headers = vec![("if-none-match", "*".to_owned())];
        headers.extend(attributes.iter().map(|(name, value)| (self.header(name), value.clone())));
        Ask { key: Some(key), headers, payload: Some(payload), ..Ask::new(Asked::Publish, "PUT") }
    }

    fn list(&self, prefix: &str, start: &Start) -> Ask<'static> {
        // In the order of their names, as signatures want them.
        let mut query = vec![
            ("delimiter", "/".to_owned()),
            ("encoding-type", "url".to_owned()),
            ("list-type", "2".to_owned()),
            ("prefix", prefix.to_owned()),
        ];
        query.extend(start.after.clone().map(|after| ("start-after", after)));
        Ask { query, ..Ask::new(Asked::Read, "GET") }
    }

    fn page(&self, text: &[u8]) -> Result<Page, &'static str> {
        let page::Page { entries, more } = page::Page::parse(text)?;
        Ok(Page { entries, next: if more { Next::Behind } else { Next::Nowhere } })
    }

    fn path(&self, url: &ObjectUrl, ask: &Ask<'_>) -> String {
        let bucket = if url.is_path_style() { format!("/{}", url.bucket) } else { String::new() };
        match &ask.key {
            Some(key) => format!("{bucket}/{}", percent_encode(key, true)),
            None if bucket.is_empty() => "/".to_owned(),
            None => bucket,
        }
    }

    fn headers(&self, url: &ObjectUrl, ask: &Ask<'_>) -> Vec<(&'static str, String)> {
        let ObjectUrl {
            storage_class, encryption, kms_key, requester_pays, expected_owner, ..
        } = url;
        let mut headers = Vec::new();
        if *requester_pays {
            headers.push(("x-amz-request-payer", "requester".to_owned()));
        }
        if let Some(owner) = expected_owner {
            headers.push(("x-amz-expected-bucket-owner", owner.clone()));
        }
        let Some(payload) = ask.payload else {
            headers.push(("x-amz-content-sha256", EMPTY_STRING_SHA256.to_owned()));
            return headers;
        };
        headers.push(("x-amz-content-sha256", payload.sha256()));
        headers.push(("content-md5", payload.md5()));
        if let Some(class) = storage_class {
            headers.push(("x-amz-storage-class", class.clone()));
        }
        let (how, key) = match encryption {
            Some(Encryption::Storage) => (Some("AES256"), None),
            Some(Encryption::Managed) => (Some("aws:kms"), kms_key.clone()),
            None => (None, None),
        };
        headers.extend(how.map(|how| ("x-amz-server-side-encryption", how.to_owned())));
        headers.extend(key.map(|key| ("x-amz-server-side-encryption-aws-kms-key-id", key)));
        headers
    }

    fn code(&self, _: &Reply, body: &[u8]) -> String {
        xml::error_code(body)
    }

    fn code_in_page(&self, body: &[u8]) -> String {
        xml::error_code(body)
    }

    fn request_id(&self) -> &'static str {
        "x-amz-request-id"
    }

    fn region<'r>(&self, reply: &'r Reply) -> Option<&'r str> {
        reply.header("x-amz-bucket-region")
    }

    fn meaning(&self, asked: Asked, status: u16, code: &str) -> Meaning {
        table::meaning(asked, status, code)
    }

    fn is_throttling(&self, status: u16, code: &str) -> bool {
        status == 429 || code == "SlowDown"
    }

    /// Where the bucket's name stands before the server's, DNS and the certificate must know of that.
    fn advice(&self, url: &ObjectUrl, failure: &Failure) -> Option<&'static str> {
        let is_before = url.endpoint.is_some() && !url.is_path_style();
        let by_name = matches!(failure, Failure::Unknown { .. } | Failure::Certificate { .. });
        (is_before && by_name).then_some(
            "; if there is no such name for each bucket of the server, add style=path to the URL",
        )
    }

    fn shows_sha256(&self) -> bool {
        true
    }

    fn keeps_versions(&self, bucket: &dyn Asking) -> Result<bool, String> {
        is_on(bucket, "versioning", "Status")
    }

    fn rules(&self, bucket: &dyn Asking, directory: &str) -> Rules {
        let by_age = configuration(bucket, "lifecycle").and_then(|text| match text {
            None => Ok(Vec::new()),
            Some(text) => lifecycle::by_age(&text, directory),
        });
        Rules {
            keeps_versions: self.keeps_versions(bucket),
            locks: is_on(bucket, "object-lock", "ObjectLockEnabled"),
            by_age,
        }
    }
}

/// Reads what the bucket says of one kind of its rules; `None` if it has none.
fn configuration(bucket: &dyn Asking, kind: &'static str) -> Result<Option<Vec<u8>>, String> {
    bucket.ask(&Ask { query: vec![(kind, String::new())], ..Ask::new(Asked::Read, "GET") })
}

/// Returns whether one kind of the bucket's rules says that something is switched on.
fn is_on(bucket: &dyn Asking, kind: &'static str, element: &str) -> Result<bool, String> {
    let Some(text) = configuration(bucket, kind)? else { return Ok(false) };
    let mut on = false;
    xml::elements(&text, &mut |path, text| {
        on |= path.last().is_some_and(|last| last == element) && text == "Enabled";
    })?;
    Ok(on)
}
