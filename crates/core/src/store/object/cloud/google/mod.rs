//! Google Cloud Storage.
//!
//! An object is stored by one request of the JSON API, a multipart upload, whose condition is `ifGenerationMatch=0`:
//! there is no object of that name. Listings are of the JSON API too. Objects are read by the XML API: only there an
//! answer with the contents has the attributes too, and only there a missing object is told from a missing bucket by
//! a code. These are the requests that Google's own client for Go sends.

use serde_json::{Map, json};

use super::{Asking, Dialect, Page, Start};
use crate::encoding::digest::{CHECKED_ATTRIBUTE, CONTENT_ATTRIBUTE, STORED_ATTRIBUTE};
use crate::server::url::ObjectUrl;
use crate::server::url::text::percent_encode;
use crate::store::object::ask::{Around, Ask, Asked, Meaning};
use crate::store::object::keys::{Credentials, GoogleKeys, Kept, Sign, Way};
use crate::store::object::payload::Payload;
use crate::store::object::wire::Reply;
use crate::store::object::xml;
use crate::store::trials::Rules;

mod json;
mod rules;
mod table;
#[cfg(test)]
mod tests;

#[derive(Debug)]
pub(super) struct Google;

/// What the headers of attributes begin with.
const META: &str = "x-goog-meta-";

impl Dialect for Google {
    fn name(&self) -> &'static str {
        "Google Cloud Storage"
    }

    fn signer(&self, from: Credentials, url: &ObjectUrl, _: &str, way: Way) -> Box<dyn Sign> {
        Box::new(Kept::new(GoogleKeys::new(from, url.name()), way))
    }

    fn header(&self, attribute: &str) -> &'static str {
        match attribute {
            STORED_ATTRIBUTE => "x-goog-meta-walsafe-stored",
            CONTENT_ATTRIBUTE => "x-goog-meta-walsafe-content",
            CHECKED_ATTRIBUTE => "x-goog-meta-walsafe-checked",
            _ => "x-goog-meta-walsafe-unknown",
        }
    }

    fn publish<'p>(
        &self,
        url: &ObjectUrl,
        key: String,
        attributes: &[(&'static str, String)],
        payload: &'p Payload,
    ) -> Ask<'p> {
        let metadata: Map<_, _> = attributes
            .iter()
            .map(|(name, value)| (self.header(name).replace(META, ""), value.as_str().into()))
            .collect();
        let mut resource = json!({
            "name": key,
            "contentType": "application/octet-stream",
            "md5Hash": payload.md5(),
            "metadata": metadata,
        });
        if let (Some(class), Some(resource)) = (&url.storage_class, resource.as_object_mut()) {
            resource.insert("storageClass".to_owned(), class.as_str().into());
        }
        // No contents hold their own digest.
        let boundary = payload.sha256();
        let before = format!(
            "--{boundary}\r\ncontent-type: application/json; charset=UTF-8\r\n\r\n{resource}\r\n\
             --{boundary}\r\ncontent-type: application/octet-stream\r\n\r\n"
        );
        let behind = format!("\r\n--{boundary}--\r\n");
        let mut query = vec![("ifGenerationMatch", "0".to_owned())];
        query.extend(url.kms_key.clone().map(|key| ("kmsKeyName", key)));
        // The name stands here too, for who reads a proxy's log.
        query.extend([("name", key.clone()), ("uploadType", "multipart".to_owned())]);
        Ask {
            key: Some(key),
            query,
            headers: vec![("content-type", format!("multipart/related; boundary={boundary}"))],
            payload: Some(payload),
            around: Around { before: before.into_bytes(), behind: behind.into_bytes() },
            ..Ask::new(Asked::Publish, "POST")
        }
    }

    fn list(&self, prefix: &str, start: &Start) -> Ask<'static> {
        let mut query = vec![
            ("delimiter", "/".to_owned()),
            ("fields", json::FIELDS.to_owned()),
            ("prefix", prefix.to_owned()),
        ];
        // That key, if there is one, is given once more.
        query.extend(start.after.clone().map(|after| ("startOffset", after)));
        query.extend(start.token.clone().map(|token| ("pageToken", token)));
        Ask { query, ..Ask::new(Asked::Read, "GET") }
    }

    fn page(&self, text: &[u8]) -> Result<Page, &'static str> {
        json::page(text)
    }

    fn tag(&self, reply: &Reply) -> Option<String> {
        reply.header("x-goog-generation").map(str::to_owned)
    }

    fn only_if(&self, ask: &mut Ask<'_>, tag: String) {
        ask.headers.push(("x-goog-if-generation-match", tag));
    }

    fn path(&self, url: &ObjectUrl, ask: &Ask<'_>) -> String {
        let bucket = &url.bucket;
        match (ask.asked, &ask.key) {
            (Asked::Publish, _) => format!("/upload/storage/v1/b/{bucket}/o"),
            (_, Some(key)) => format!("/{bucket}/{}", percent_encode(key, true)),
            // The description of the bucket has no prefix.
            (_, None) if ask.query.iter().any(|(name, _)| *name == "prefix") => {
                format!("/storage/v1/b/{bucket}/o")
            }
            (_, None) => format!("/storage/v1/b/{bucket}"),
        }
    }

    fn headers(&self, _: &ObjectUrl, _: &Ask<'_>) -> Vec<(&'static str, String)> {
        Vec::new()
    }

    /// Of the JSON API or of the XML API.
    fn code(&self, _: &Reply, body: &[u8]) -> String {
        match json::error_code(body) {
            code if code.is_empty() => xml::error_code(body),
            code => code,
        }
    }

    fn code_in_page(&self, body: &[u8]) -> String {
        json::error_code(body)
    }

    fn request_id(&self) -> &'static str {
        "x-guploader-uploadid"
    }

    fn meaning(&self, asked: Asked, status: u16, code: &str) -> Meaning {
        table::meaning(asked, status, code)
    }

    fn confirms(&self, ask: &Ask<'_>, body: &[u8]) -> bool {
        let sent = ask.key.as_deref().zip(ask.payload);
        sent.is_some_and(|(key, payload)| json::is_of(body, key, payload.len(), &payload.md5()))
    }

    fn is_throttling(&self, status: u16, code: &str) -> bool {
        status == 429 || table::LIMITS.contains(&code)
    }

    fn keeps_versions(&self, bucket: &dyn Asking) -> Result<bool, String> {
        rules::rules(description(bucket), "").keeps_versions
    }

    fn rules(&self, bucket: &dyn Asking, directory: &str) -> Rules {
        rules::rules(description(bucket), directory)
    }
}

/// Reads what the bucket says of itself.
fn description(bucket: &dyn Asking) -> Result<Option<Vec<u8>>, String> {
    let query = vec![("fields", rules::FIELDS.to_owned())];
    bucket.ask(&Ask { query, ..Ask::new(Asked::Read, "GET") })
}
