//! fake-gcs-server, and somebody before it who words its errors as Google does, and gives tokens.
//!
//! It honours the condition of a multipart upload of the JSON API, and of nothing else. It checks neither tokens nor
//! checksums, and its errors have codes of their own, or none.

use std::fs;
use std::net::SocketAddr;
use std::process::Command;

use super::daemon::{Daemon, Place};
use super::google;
use super::http::{self, Answer, Head};
use super::proxy::Proxy;
use crate::command::run;
use crate::scratch::{self, make_dir};

pub(super) const PORT: u16 = 14_443;

/// What it takes for a token, and gives: unlike anything else, for whoever looks for it in logs.
pub(super) const TOKEN: &str = "walsafe.test-token_0123456789abcdef";

/// The file with the key of a service account, in the server's directory.
const KEY: &str = "key.json";

/// Who words its errors. The key is for tokens from there.
pub(super) fn prepare(place: &Place) -> Proxy {
    make_dir(&place.home.join("data"));
    let front = Proxy::with_clerk(place.address(), Some(clerk));
    let pem = place.home.join("key.pem");
    run(Command::new("openssl")
        .args(["genpkey", "-quiet", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"])
        .arg("-out")
        .arg(&pem));
    let key = serde_json::json!({
        "type": "service_account",
        "client_email": "wal@walsafe.test",
        "private_key_id": "walsafe",
        "private_key": fs::read_to_string(pem).expect("a key"),
        "token_uri": format!("http://{}/token", front.address()),
    });
    scratch::write(&place.home.join(KEY), key.to_string());
    scratch::chmod(&place.home.join(KEY), 0o600);
    front
}

/// What stands in a section of a file of credentials.
pub(super) fn credentials(place: &Place) -> String {
    format!("google_application_credentials = {}\n", place.home.join(KEY).display())
}

pub(super) fn launch(place: &Place) -> Vec<Daemon> {
    let address = place.address();
    let mut command = Command::new(place.programs.join("fake-gcs-server"));
    command
        .args(["-scheme", "http", "-host", &place.host.to_string(), "-port", &PORT.to_string()])
        .args(["-backend", "filesystem", "-log-level", "warn", "-filesystem-root"])
        .arg(place.home.join("data"))
        .args(["-external-url", &format!("http://{address}")])
        // Only of requests to this host, at any port, it takes the first part of the path for a bucket: requests
        // come by way of proxies.
        .args(["-public-host", "127.0.0.1"]);
    let mut server = place.start("fake-gcs-server", &mut command);
    server.wait_answering(address);
    vec![server]
}

/// Speaks as Google does where fake-gcs-server does not.
fn clerk(server: SocketAddr, head: &Head, answer: Option<&Answer>) -> Option<Answer> {
    let path = head.target().split('?').next().unwrap_or_default();
    let is_json = ["/storage/", "/upload/"].iter().any(|begin| path.starts_with(begin));
    let worded = |status, reason: &str, code: &str| {
        Some(if is_json { google::error(status, reason) } else { Answer::error(status, code) })
    };
    let Some(answer) = answer else {
        let is_known = head.header("authorization") == Some(&format!("Bearer {TOKEN}"));
        return match (head.method(), path) {
            ("POST", "/token") => Some(token()),
            _ if !is_known => worded(401, "authError", "AuthenticationRequired"),
            _ => None,
        };
    };
    match answer.status {
        404 if is_json => Some(google::error(404, "notFound")),
        404 => {
            let bucket = path.split('/').nth(1).unwrap_or_default();
            let ask = format!(
                "GET /storage/v1/b/{bucket} HTTP/1.1\r\nhost: {server}\r\nconnection: close\r\n\r\n"
            );
            let is_there =
                http::exchange(server, "GET", &ask, b"").is_ok_and(|bucket| bucket.status == 200);
            let code = if is_there { "NoSuchKey" } else { "NoSuchBucket" };
            Some(Answer::error(404, code))
        }
        412 => worded(412, "conditionNotMet", "PreconditionFailed"),
        _ => None,
    }
}

fn token() -> Answer {
    let token = serde_json::json!({
        "access_token": TOKEN, "expires_in": 3600, "token_type": "Bearer",
    });
    let body = token.to_string().into_bytes();
    Answer { body, ..Answer::new(200) }.with("Content-Type", "application/json")
}
