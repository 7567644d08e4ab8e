//! How the tests themselves speak to Google Cloud Storage: the JSON API to make, to store and to list, and the XML API
//! for the rest.

use std::io;

use serde_json::{Value, json};

use super::bucket::Bucket;
use super::http::{self, Answer};
use super::sign::encode;

/// The head of a request of the XML API.
pub(super) fn head(
    bucket: &Bucket,
    method: &str,
    key: &str,
    headers: &[(&str, &str)],
    length: usize,
) -> String {
    let path = encode(&format!("/{}/{key}", bucket.name), b"/");
    written(bucket, method, &path, headers, length)
}

fn written(
    bucket: &Bucket,
    method: &str,
    target: &str,
    headers: &[(&str, &str)],
    length: usize,
) -> String {
    let lines: String =
        headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    format!(
        "{method} {target} HTTP/1.1\r\nhost: {}\r\nauthorization: Bearer {}\r\n{lines}\
         content-length: {length}\r\nconnection: close\r\n\r\n",
        bucket.address, bucket.keys.secret
    )
}

pub(super) fn create(bucket: &Bucket) -> io::Result<Answer> {
    let body = json!({"name": bucket.name}).to_string();
    let headers = [("content-type", "application/json")];
    let head = written(bucket, "POST", "/storage/v1/b", &headers, body.len());
    http::exchange(bucket.address, "POST", &head, body.as_bytes())
}

/// The head and the body of an upload, which makes an object only if there is none, or replaces one.
pub(super) fn upload(bucket: &Bucket, key: &str, contents: &[u8], new: bool) -> (String, Vec<u8>) {
    const BOUNDARY: &str = "of-a-test-of-walsafe";
    let mut body = format!(
        "--{BOUNDARY}\r\ncontent-type: application/json\r\n\r\n{}\r\n\
         --{BOUNDARY}\r\ncontent-type: application/octet-stream\r\n\r\n",
        json!({"name": key})
    )
    .into_bytes();
    body.extend_from_slice(contents);
    body.extend_from_slice(format!("\r\n--{BOUNDARY}--\r\n").as_bytes());
    let condition = if new { "&ifGenerationMatch=0" } else { "" };
    let target = format!(
        "/upload/storage/v1/b/{}/o?uploadType=multipart&name={}{condition}",
        bucket.name,
        encode(key, b"")
    );
    let kind = format!("multipart/related; boundary={BOUNDARY}");
    let head = written(bucket, "POST", &target, &[("content-type", &kind)], body.len());
    (head, body)
}

pub(super) fn put(bucket: &Bucket, key: &str, contents: &[u8], new: bool) -> io::Result<Answer> {
    let (head, body) = upload(bucket, key, contents, new);
    http::exchange(bucket.address, "POST", &head, &body)
}

#[track_caller]
pub(super) fn names(bucket: &Bucket, prefix: &str) -> Vec<String> {
    let mut names = Vec::new();
    let mut next = String::new();
    loop {
        let target = format!(
            "/storage/v1/b/{}/o?maxResults=100&prefix={}{next}",
            bucket.name,
            encode(prefix, b"")
        );
        let head = written(bucket, "GET", &target, &[], 0);
        let answer = bucket.must(http::exchange(bucket.address, "GET", &head, b""), "list");
        let page: Value = serde_json::from_slice(&answer.body).expect("JSON");
        let items = page["items"].as_array().into_iter().flatten();
        names.extend(items.map(|item| item["name"].as_str().expect("a name").to_owned()));
        match page["nextPageToken"].as_str() {
            Some(token) => next = format!("&pageToken={}", encode(token, b"")),
            None => break,
        }
    }
    names.sort();
    names
}

/// An error as the JSON API words it.
#[must_use]
pub fn error(status: u16, reason: &str) -> Answer {
    let message = "As the test wants it.";
    let error = json!({"error": {
        "code": status,
        "message": message,
        "errors": [{"message": message, "domain": "global", "reason": reason}],
    }});
    let body = error.to_string().into_bytes();
    Answer { body, ..Answer::new(status) }.with("Content-Type", "application/json")
}
