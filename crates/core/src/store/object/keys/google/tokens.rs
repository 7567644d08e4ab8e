//! Tokens, asked for as an account may ask.

use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use http::Request;
use serde_json::{Value, json};

use super::account::{Account, From, Subject};
use super::jwt;
use crate::error::{ErrorKind, Refusal};
use crate::server::url::text::percent_encode;
use crate::store::object::ask::shown;
use crate::store::object::keys::{metadata, refused};

/// What a token is for: objects, and nothing of buckets.
const OBJECTS: &str = "https://www.googleapis.com/auth/devstorage.read_write";
/// What a token is for that only gives others.
const PLATFORM: &str = "https://www.googleapis.com/auth/cloud-platform";

/// Where users' tokens are from.
const USERS: &str = "https://oauth2.googleapis.com/token";

/// How long before a token's end the next one is asked for. The metadata of an instance give the same one until
/// five minutes before.
const EARLY: Duration = Duration::from_secs(225);

/// A token, which stands in each request.
#[derive(Clone)]
pub(in crate::store::object) struct Token {
    text: String,
    renew: Instant,
}

impl Token {
    fn new(text: &str, life: Duration) -> Self {
        Self { text: text.to_owned(), renew: Instant::now() + life.saturating_sub(EARLY) }
    }

    pub(super) fn text(&self) -> &str {
        &self.text
    }

    /// Returns whether it will be good for a while.
    pub(super) fn is_good(&self) -> bool {
        Instant::now() < self.renew
    }

    /// Takes what a server of tokens gives (RFC 6749, section 5.1).
    fn of(answer: &Value) -> Option<Self> {
        let text = answer.get("access_token")?.as_str().filter(|text| !text.is_empty())?;
        let life = answer.get("expires_in").and_then(Value::as_u64).unwrap_or(0);
        Some(Self::new(text, Duration::from_secs(life)))
    }
}

/// Asks for a token as an account may.
///
/// # Errors
/// There is none. The reason repeats nothing secret.
pub(super) fn ask(account: &Account, name: &str) -> Result<Token, Refusal> {
    let bad = |what: &str| refused(format!("{name} {what}"));
    match account {
        Account::Service { email, key, key_id, token_uri } => {
            let jwt =
                jwt::signed(email, key, key_id.as_deref(), token_uri, OBJECTS).map_err(bad)?;
            let grant = "urn:ietf:params:oauth:grant-type:jwt-bearer";
            given(token_uri, &[("grant_type", grant), ("assertion", &jwt)])
        }
        Account::User { client_id, client_secret, refresh_token } => given(
            USERS,
            &[
                ("grant_type", "refresh_token"),
                ("client_id", client_id),
                ("client_secret", client_secret),
                ("refresh_token", refresh_token),
            ],
        ),
        Account::External {
            audience,
            subject_token_type,
            token_url,
            subject,
            impersonation_url,
        } => {
            let scope = if impersonation_url.is_some() { PLATFORM } else { OBJECTS };
            let token = given(
                token_url,
                &[
                    ("grant_type", "urn:ietf:params:oauth:grant-type:token-exchange"),
                    ("audience", audience),
                    ("scope", scope),
                    ("requested_token_type", "urn:ietf:params:oauth:token-type:access_token"),
                    ("subject_token", &of(subject, name)?),
                    ("subject_token_type", subject_token_type),
                ],
            )?;
            match impersonation_url {
                None => Ok(token),
                Some(url) => impersonated(url, &token),
            }
        }
    }
}

/// Asks the metadata of an instance for a token of its service account; `None` if there are none.
pub(super) fn of_instance(server: &str) -> Option<Token> {
    let path = "/computeMetadata/v1/instance/service-accounts/default/token";
    let request = Request::get(format!("http://{server}{path}"))
        .header("metadata-flavor", "Google")
        .body(Bytes::new());
    let answer = metadata::send(request.ok()?).ok().filter(|answer| answer.status() == 200)?;
    Token::of(&serde_json::from_slice(answer.body()).ok()?)
}

/// Asks a server for a token with a form.
fn given(url: &str, form: &[(&str, &str)]) -> Result<Token, Refusal> {
    let form: Vec<_> = form
        .iter()
        .map(|(name, value)| format!("{name}={}", percent_encode(value, false)))
        .collect();
    let request = Request::post(url)
        .header("content-type", "application/x-www-form-urlencoded")
        .body(Bytes::from(form.join("&")));
    let answer = answer(request, url)?;
    Token::of(&answer).ok_or_else(|| refused(format!("{} gave no token", host(url))))
}

/// Exchanges a token for one of a service account's.
fn impersonated(url: &str, token: &Token) -> Result<Token, Refusal> {
    let body = json!({"scope": [OBJECTS], "lifetime": "3600s"}).to_string();
    let request = Request::post(url)
        .header("content-type", "application/json")
        .header("authorization", format!("Bearer {}", token.text))
        .body(Bytes::from(body));
    let answer = answer(request, url)?;
    let text = answer.get("accessToken").and_then(Value::as_str).filter(|text| !text.is_empty());
    let ends = answer.get("expireTime").and_then(Value::as_str);
    let ends = ends.and_then(|ends| humantime::parse_rfc3339(ends).ok());
    let life = ends.and_then(|ends| ends.duration_since(SystemTime::now()).ok());
    let token = text.zip(life).map(|(text, life)| Token::new(text, life));
    token.ok_or_else(|| refused(format!("{} gave no token", host(url))))
}

/// Fetches somebody else's token.
fn of(subject: &Subject, name: &str) -> Result<String, Refusal> {
    let (text, giver) = match &subject.from {
        From::File(path) => {
            let text = std::fs::read_to_string(path).map_err(|e| {
                refused(format!("{name} names \"{path}\", which cannot be read: {e}"))
            })?;
            (text, format!("\"{path}\""))
        }
        From::Server { url, headers } => {
            let mut request = Request::get(url);
            for (name, value) in headers {
                request = request.header(name, value);
            }
            let answer = send(request.body(Bytes::new()), url)?;
            (String::from_utf8_lossy(answer.body()).into_owned(), host(url))
        }
    };
    let text = match &subject.field {
        None => Some(text.trim().to_owned()),
        Some(field) => {
            let json = serde_json::from_str::<Value>(&text).ok();
            json.and_then(|json| Some(json.get(field)?.as_str()?.to_owned()))
        }
    };
    text.filter(|text| !text.is_empty())
        .ok_or_else(|| refused(format!("{giver} holds no token as {name} says")))
}

fn answer(request: http::Result<Request<Bytes>>, url: &str) -> Result<Value, Refusal> {
    let answer = send(request, url)?;
    serde_json::from_slice(answer.body())
        .map_err(|_| refused(format!("the answer of {} is not JSON", host(url))))
}

/// Sends a request to a server of tokens. Of an answer that is none only its number and its code are told.
fn send(
    request: http::Result<Request<Bytes>>,
    url: &str,
) -> Result<http::Response<Bytes>, Refusal> {
    let host = host(url);
    let request = request.map_err(|_| refused("the URL for tokens is none".to_owned()))?;
    let answer = metadata::send(request).map_err(|e| Refusal {
        kind: ErrorKind::Unreachable,
        text: format!("a token could not be asked for: {host}: {e}"),
        request_id: None,
    })?;
    let status = answer.status().as_u16();
    if status == 200 {
        return Ok(answer);
    }
    let json: Value = serde_json::from_slice(answer.body()).unwrap_or_default();
    let error = json.get("error").unwrap_or(&Value::Null);
    // RFC 6749 has a word; Google's other services have an object.
    let code = error.as_str().or_else(|| error.get("status")?.as_str()).unwrap_or("without a code");
    let busy = matches!(status, 408 | 429 | 500..=599);
    let kind = if busy { ErrorKind::StorageBusy } else { ErrorKind::CredentialsRefused };
    let code: String = code.split(' ').map(shown).collect::<Vec<_>>().join(" ");
    let text = format!("a token was not given: {host} answered {status} {code}");
    Err(Refusal { kind, text, request_id: None })
}

/// Returns the host of a URL, for messages.
fn host(url: &str) -> String {
    let host = url.parse::<http::Uri>().ok().and_then(|uri| uri.host().map(shown));
    host.unwrap_or_else(|| "the server of tokens".to_owned())
}
