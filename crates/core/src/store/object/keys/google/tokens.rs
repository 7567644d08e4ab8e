//! Tokens, asked for as an account may ask.

use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use http::Request;
use serde_json::{Value, json};

use super::account::{Account, From, Subject};
use super::jwt;
use crate::server::url::text::percent_encode;
use crate::store::object::ask::shown;
use crate::store::object::keys::metadata::{Answer, Search};
use crate::store::object::keys::{Unsigned, refused};

/// What a token is for: objects, and nothing of buckets.
const OBJECTS: &str = "https://www.googleapis.com/auth/devstorage.read_write";
/// What a token is for that only gives others.
const PLATFORM: &str = "https://www.googleapis.com/auth/cloud-platform";

/// Where users' tokens are from.
const USERS: &str = "https://oauth2.googleapis.com/token";

/// How long before a token's end the next one is asked for. The metadata of an instance give the same one until
/// five minutes before.
const EARLY: Duration = Duration::from_secs(225);

/// No token is used for longer, whatever is said of it: Google's live for twelve hours at most.
const LONGEST: Duration = Duration::from_secs(12 * 3600);

/// A token, which stands in each request.
#[derive(Clone)]
pub(in crate::store::object) struct Token {
    text: String,
    renew: Instant,
    end: Instant,
}

impl Token {
    fn new(text: &str, life: Duration) -> Self {
        let (now, life) = (Instant::now(), life.min(LONGEST));
        Self { text: text.to_owned(), renew: now + life.saturating_sub(EARLY), end: now + life }
    }

    pub(super) fn text(&self) -> &str {
        &self.text
    }

    /// Returns whether it will be good for a while.
    pub(super) fn is_good(&self) -> bool {
        Instant::now() < self.renew
    }

    /// Returns whether it is good now.
    pub(super) fn is_valid(&self) -> bool {
        Instant::now() < self.end
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
pub(super) fn ask(account: &Account, name: &str, search: &Search<'_>) -> Result<Token, Unsigned> {
    let bad = |what: &str| refused(format!("{name} {what}"));
    match account {
        Account::Service { email, key, key_id, token_uri } => {
            let jwt =
                jwt::signed(email, key, key_id.as_deref(), token_uri, OBJECTS).map_err(bad)?;
            let grant = "urn:ietf:params:oauth:grant-type:jwt-bearer";
            given(token_uri, &[("grant_type", grant), ("assertion", &jwt)], search)
        }
        Account::User { client_id, client_secret, refresh_token } => given(
            USERS,
            &[
                ("grant_type", "refresh_token"),
                ("client_id", client_id),
                ("client_secret", client_secret),
                ("refresh_token", refresh_token),
            ],
            search,
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
                    ("subject_token", &of(subject, name, search)?),
                    ("subject_token_type", subject_token_type),
                ],
                search,
            )?;
            match impersonation_url {
                None => Ok(token),
                Some(url) => impersonated(url, &token, search),
            }
        }
    }
}

/// Asks the metadata of an instance for a token of its service account; `None` if there are none, or no account.
///
/// # Errors
/// It is refused, or not given now.
pub(super) fn of_instance(server: &str, search: &Search<'_>) -> Result<Option<Token>, Unsigned> {
    let path = "/computeMetadata/v1/instance/service-accounts/default/token";
    let request = Request::get(format!("http://{server}{path}"))
        .header("metadata-flavor", "Google")
        .body(Bytes::new());
    let request = request.map_err(|_| refused("GCE_METADATA_HOST is not a server".to_owned()))?;
    let answer = match search.send(request) {
        Ok(answer) if answer.status == 404 => return Ok(None),
        Ok(answer) => good(answer, server)?,
        Err(unanswered) if unanswered.is_nobody() => return Ok(None),
        Err(unanswered) => return Err(unanswered.unsigned("a token")),
    };
    let token = serde_json::from_slice(&answer.body).ok().and_then(|json| Token::of(&json));
    token.map(Some).ok_or_else(|| refused(format!("{server} gave no token")).into())
}

/// Asks a server for a token with a form.
fn given(url: &str, form: &[(&str, &str)], search: &Search<'_>) -> Result<Token, Unsigned> {
    let form: Vec<_> = form
        .iter()
        .map(|(name, value)| format!("{name}={}", percent_encode(value, false)))
        .collect();
    let request = Request::post(url)
        .header("content-type", "application/x-www-form-urlencoded")
        .body(Bytes::from(form.join("&")));
    let answer = answer(request, url, search)?;
    Token::of(&answer).ok_or_else(|| refused(format!("{} gave no token", host(url))).into())
}

/// Exchanges a token for one of a service account's.
fn impersonated(url: &str, token: &Token, search: &Search<'_>) -> Result<Token, Unsigned> {
    let body = json!({"scope": [OBJECTS], "lifetime": "3600s"}).to_string();
    let request = Request::post(url)
        .header("content-type", "application/json")
        .header("authorization", format!("Bearer {}", token.text))
        .body(Bytes::from(body));
    let answer = answer(request, url, search)?;
    let text = answer.get("accessToken").and_then(Value::as_str).filter(|text| !text.is_empty());
    let ends = answer.get("expireTime").and_then(Value::as_str);
    let ends = ends.and_then(|ends| humantime::parse_rfc3339(ends).ok());
    let life = ends.and_then(|ends| ends.duration_since(SystemTime::now()).ok());
    let token = text.zip(life).map(|(text, life)| Token::new(text, life));
    token.ok_or_else(|| refused(format!("{} gave no token", host(url))).into())
}

/// Fetches somebody else's token.
fn of(subject: &Subject, name: &str, search: &Search<'_>) -> Result<String, Unsigned> {
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
            let answer = send(request.body(Bytes::new()), url, search)?;
            (String::from_utf8_lossy(&answer.body).into_owned(), host(url))
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
        .ok_or_else(|| refused(format!("{giver} holds no token as {name} says")).into())
}

fn answer(
    request: http::Result<Request<Bytes>>,
    url: &str,
    search: &Search<'_>,
) -> Result<Value, Unsigned> {
    let answer = send(request, url, search)?;
    serde_json::from_slice(&answer.body)
        .map_err(|_| refused(format!("the answer of {} is not JSON", host(url))).into())
}

/// Sends a request to a server of tokens.
fn send(
    request: http::Result<Request<Bytes>>,
    url: &str,
    search: &Search<'_>,
) -> Result<Answer, Unsigned> {
    let request = request.map_err(|_| refused("the URL for tokens is none".to_owned()))?;
    let answer = search.send(request).map_err(|unanswered| unanswered.unsigned("a token"))?;
    good(answer, &host(url))
}

/// Takes an answer that is one. Of any other only its number and its code are told.
fn good(answer: Answer, host: &str) -> Result<Answer, Unsigned> {
    if answer.status == 200 {
        return Ok(answer);
    }
    let code = answer.code().unwrap_or_else(|| "without a code".to_owned());
    let text = format!("a token was not given: {host} answered {} {code}", answer.status);
    Err(answer.unsigned(answer.passes(), text))
}

/// Returns the host of a URL, for messages.
fn host(url: &str) -> String {
    let host = url.parse::<http::Uri>().ok().and_then(|uri| uri.host().map(shown));
    host.unwrap_or_else(|| "the server of tokens".to_owned())
}
