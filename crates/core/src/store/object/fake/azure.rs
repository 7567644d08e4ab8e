//! The same server as Azure's: its bucket is a container of the account "walsafe1".

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

use super::{Answer, Fake, Headers, State, header, options, refuse};
use crate::server::url::text::{percent_decode, percent_encode};
use crate::store::object::payload::Payload;

impl Fake {
    /// Returns where the archive is for Azure's client.
    pub(in crate::store::object) fn azure(&self, prefix: &str) -> String {
        format!("azure://walsafe1/bucket{prefix}?endpoint=http://127.0.0.1:{}", self.port)
    }
}

/// Serves what Azure's client asks for; `None` if it is not from there.
pub(super) fn done(
    state: &mut State,
    method: &str,
    target: &str,
    asked: &[(String, String)],
    body: &[u8],
) -> Option<Answer> {
    header(asked, "x-ms-version")?;
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    if !query.contains("sig=") && header(asked, "authorization").is_none() {
        return Some(refuse(401, "NoAuthenticationInformation"));
    }
    let Some(path) = path.strip_prefix("/walsafe1") else {
        return Some(refuse(400, "InvalidUri"));
    };
    let key = percent_decode(path).unwrap();
    let Some(key) = key.strip_prefix("/bucket") else {
        return Some(refuse(404, "ContainerNotFound"));
    };
    let key = key.trim_start_matches('/');
    Some(match (method, key) {
        ("PUT", key) => put(state, key, asked, body),
        ("GET", "") if query.contains("comp=list") => page(state, query),
        ("GET", "") => match state.rules.get("container") {
            Some(name) => (200, vec![(name.clone(), "true".to_owned())], Vec::new()),
            None => refuse(403, "AuthorizationPermissionMismatch"),
        },
        _ => {
            let mut asked = asked.to_vec();
            asked.push(("authorization".to_owned(), "yes".to_owned()));
            let path = format!("/bucket/{}", percent_encode(key, true));
            match state.stored(method, &path, &asked, body) {
                (404, ..) => refuse(404, "BlobNotFound"),
                (204, ..) => (202, Vec::new(), Vec::new()),
                (403, ..) => refuse(403, "AuthorizationPermissionMismatch"),
                answer => answer,
            }
        }
    })
}

fn put(state: &mut State, key: &str, asked: &[(String, String)], body: &[u8]) -> Answer {
    assert_eq!(header(asked, "if-none-match"), Some("*"), "it would replace");
    assert_eq!(header(asked, "x-ms-blob-type"), Some("BlockBlob"));
    let mut payload = Payload::new();
    payload.add(body).unwrap();
    let mut asked = asked.to_vec();
    asked.push(("authorization".to_owned(), "yes".to_owned()));
    asked.push(("x-amz-content-sha256".to_owned(), payload.sha256()));
    let path = format!("/bucket/{}", percent_encode(key, true));
    match state.stored("PUT", &path, &asked, body) {
        (200, ..) => {
            let meta = asked.iter().filter(|(name, _)| name.starts_with("x-ms-meta-"));
            let meta: Headers = meta.cloned().collect();
            state.objects.get_mut(key).unwrap().headers = meta;
            (201, Vec::new(), Vec::new())
        }
        (412, ..) => refuse(409, "BlobAlreadyExists"),
        (400, ..) => refuse(400, "Md5Mismatch"),
        answer => panic!("{answer:?}"),
    }
}

/// A page of the listing. Its marker is a word of the server's own, and the first page has nothing else now and then.
fn page(state: &State, query: &str) -> Answer {
    let option = options(query);
    assert_eq!(option("restype").as_deref(), Some("container"));
    let (prefix, names) = state.names_of(&option, |_, _| true);
    let most = state.page.unwrap_or(5000);
    let from = match option("marker").as_deref() {
        None if state.page.is_some() => return answer("", "2!0!+/="),
        None => 0,
        Some(marker) => {
            marker.strip_prefix("2!").unwrap().split('!').next().unwrap().parse().unwrap()
        }
    };
    let more = names.len() > from + most;
    let next = if more { format!("2!{}!+/=", from + most) } else { String::new() };
    let mut blobs = String::new();
    for name in names.iter().skip(from).take(most) {
        let text = name.replace('&', "&amp;");
        blobs += &if name.ends_with('/') && *name != prefix {
            format!("<BlobPrefix><Name>{text}</Name></BlobPrefix>")
        } else {
            let len = state.objects[name].bytes.len();
            format!(
                "<Blob><Name>{text}</Name><Properties><Last-Modified>Sun, 29 Nov 2026 10:11:12 GMT\
                 </Last-Modified><Content-Length>{len}</Content-Length></Properties></Blob>"
            )
        };
    }
    answer(&blobs, &next)
}

fn answer(blobs: &str, next: &str) -> Answer {
    let text = format!(
        "\u{feff}<?xml version=\"1.0\" encoding=\"utf-8\"?><EnumerationResults><Blobs>{blobs}</Blobs>\
         <NextMarker>{next}</NextMarker></EnumerationResults>"
    );
    (200, Vec::new(), text.into_bytes())
}
