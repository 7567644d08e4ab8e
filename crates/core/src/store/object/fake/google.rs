//! The same server as Google's: what the JSON API wants is put into the words of S3, and answered in its own.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

use serde_json::{Map, Value, json};

use super::{Answer, Fake, Headers, State, header, options};
use crate::store::object::payload::Payload;

/// What it gives and takes for a token.
const TOKEN: &str = "t0k3n";

impl Fake {
    /// Returns where the archive is for Google's client, and where it gets its tokens.
    pub(in crate::store::object) fn google(&self, prefix: &str) -> (String, String) {
        let at = format!("http://127.0.0.1:{}", self.port);
        (format!("gs://bucket{prefix}?endpoint={at}"), format!("{at}/token"))
    }
}

/// Returns whether a request is of the JSON API, so that its errors are JSON.
pub(super) fn is_json(target: &str) -> bool {
    target.starts_with("/upload/") || target.starts_with("/storage/")
}

/// An error as the JSON API words it.
pub(super) fn refuse(status: u16, code: &str) -> Answer {
    let message = match code {
        // The permission stands in the message.
        "storage.objects.delete" => {
            "wal@p does not have storage.objects.delete access to the object."
        }
        _ => "the body",
    };
    let reason = if code.contains(".objects.") { "forbidden" } else { code };
    let body = json!({"error": {"code": status, "message": message,
        "errors": [{"domain": "global", "message": message, "reason": reason}]}});
    (status, Vec::new(), if code.is_empty() { Vec::new() } else { body.to_string().into_bytes() })
}

/// Serves what Google's client asks for; `None` if it is not from there.
pub(super) fn done(
    state: &mut State,
    method: &str,
    target: &str,
    asked: &[(String, String)],
    body: &[u8],
) -> Option<Answer> {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    if (method, path) == ("POST", "/token") {
        let token = json!({"access_token": TOKEN, "expires_in": 3600});
        return Some((200, Vec::new(), token.to_string().into_bytes()));
    }
    let is_known = header(asked, "authorization") == Some(&format!("Bearer {TOKEN}"));
    if !is_known {
        return is_json(target).then(|| refuse(401, "authError"));
    }
    let option = options(query);
    Some(match (method, path) {
        ("POST", "/upload/storage/v1/b/bucket/o") => {
            assert_eq!(option("uploadType").as_deref(), Some("multipart"));
            assert_eq!(option("ifGenerationMatch").as_deref(), Some("0"), "it would replace");
            let (resource, contents) = parts(asked, body);
            assert_eq!(resource["name"].as_str(), option("name").as_deref());
            let key = resource["name"].as_str().unwrap();
            let mut payload = Payload::new();
            payload.add(contents).unwrap();
            let mut headers: Headers = [
                ("authorization", "yes"),
                ("if-none-match", "*"),
                ("content-md5", resource["md5Hash"].as_str().unwrap()),
                ("x-amz-content-sha256", &payload.sha256()),
            ]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .to_vec();
            for (name, value) in resource["metadata"].as_object().unwrap_or(&Map::new()) {
                let value = value.as_str().unwrap().to_owned();
                headers.push((format!("x-amz-meta-{name}"), value));
            }
            let path = format!("/bucket/{}", crate::server::url::text::percent_encode(key, true));
            let len = contents.len();
            json_answer(state.stored("PUT", &path, &headers, contents), resource, len)
        }
        ("GET", "/storage/v1/b/bucket/o") => page(state, &option),
        ("GET", "/storage/v1/b/bucket") => match state.rules.get("bucket") {
            Some(rules) => (200, Vec::new(), rules.clone().into_bytes()),
            None => refuse(403, "forbidden"),
        },
        _ if is_json(target) => refuse(404, "notFound"),
        _ => {
            let (status, headers, body) = state.stored(method, target, asked, body);
            let renamed = headers.into_iter().map(|(name, value)| match name.as_str() {
                "etag" => ("x-goog-generation".to_owned(), "17".to_owned()),
                name => (name.replace("x-amz-meta-", "x-goog-meta-"), value),
            });
            (status, renamed.collect(), body)
        }
    })
}

/// Returns the two parts of an upload.
fn parts<'b>(asked: &[(String, String)], body: &'b [u8]) -> (Value, &'b [u8]) {
    let kind = header(asked, "content-type").unwrap();
    let boundary = kind.strip_prefix("multipart/related; boundary=").unwrap();
    let find = |text: &[u8], what: &str| {
        text.windows(what.len()).position(|window| window == what.as_bytes()).unwrap()
    };
    let part = |text: &'b [u8]| {
        let begin = find(text, "\r\n\r\n") + 4;
        let end = find(text, &format!("\r\n--{boundary}"));
        (&text[begin..end], &text[end + 2..])
    };
    assert!(body.starts_with(format!("--{boundary}\r\n").as_bytes()));
    let (resource, rest) = part(body);
    let (contents, rest) = part(rest);
    assert_eq!(rest, format!("--{boundary}--\r\n").as_bytes());
    (serde_json::from_slice(resource).unwrap(), contents)
}

/// Words an answer of S3's to a PUT as one of Google's to an upload.
fn json_answer((status, headers, body): Answer, mut resource: Value, len: usize) -> Answer {
    if status == 200 {
        resource["kind"] = "storage#object".into();
        resource["size"] = len.to_string().into();
        return (200, headers, resource.to_string().into_bytes());
    }
    let text = String::from_utf8(body).unwrap();
    refuse(
        status,
        match text.split("<Code>").nth(1).unwrap().split('<').next().unwrap() {
            "PreconditionFailed" => "conditionNotMet",
            "BadDigest" => "invalid",
            "AccessDenied" => "forbidden",
            other => panic!("{other}"),
        },
    )
}

fn page(state: &State, option: &dyn Fn(&str) -> Option<String>) -> Answer {
    // Inclusive.
    let start = option("pageToken").or_else(|| option("startOffset")).unwrap_or_default();
    let (prefix, mut names) = state.names_of(option, |_, name| *name >= *start);
    let most = state.page.unwrap_or(1000);
    let next = names.get(most).cloned();
    names.truncate(most);
    let (many, single): (Vec<_>, Vec<_>) =
        names.into_iter().partition(|name| name.ends_with('/') && *name != prefix);
    let items: Vec<_> = single
        .iter()
        .map(|name| {
            let size = state.objects[name].bytes.len().to_string();
            json!({"name": name, "size": size, "updated": "2026-11-29T10:11:12.000Z"})
        })
        .collect();
    let mut page = json!({"kind": "storage#objects"});
    // What is empty is left out.
    if !items.is_empty() {
        page["items"] = items.into();
    }
    if !many.is_empty() {
        page["prefixes"] = many.into();
    }
    if let Some(next) = next {
        page["nextPageToken"] = next.into();
    }
    (200, Vec::new(), page.to_string().into_bytes())
}
