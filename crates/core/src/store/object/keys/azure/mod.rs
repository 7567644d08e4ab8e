//! Credentials of Azure: an account key, a SAS, or a token of Entra for an application, a workload or a machine.
//!
//! Signing is a dozen lines. The crate that has it (reqsign-azure-storage 3.3) comes with forty others, `rsa` with an
//! open advisory and second versions of half a dozen among them, for certificates that nobody here has.

use std::fmt;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderName, HeaderValue};
use http::request::Parts;
use ring::hmac;

use super::metadata::Search;
use super::{Chain, Credentials, Unsigned, file, none, not_in_clear, refused};
use crate::error::Refusal;
use crate::server::url::text::{http_date_of, percent_decode, percent_encode};

/// The names of Azure's variables; in lower case, the keys that a section of the file of credentials may have.
const KEY: &str = "AZURE_STORAGE_KEY";
const SAS: &str = "AZURE_STORAGE_SAS_TOKEN";
const TENANT: &str = "AZURE_TENANT_ID";
const CLIENT: &str = "AZURE_CLIENT_ID";
const SECRET: &str = "AZURE_CLIENT_SECRET";
const TOKEN_FILE: &str = "AZURE_FEDERATED_TOKEN_FILE";
const AUTHORITY: &str = "AZURE_AUTHORITY_HOST";

/// The keys that a section of the file of credentials may have.
const KEYS: [&str; 7] = [
    "azure_storage_key",
    "azure_storage_sas_token",
    "azure_tenant_id",
    "azure_client_id",
    "azure_client_secret",
    "azure_federated_token_file",
    "azure_authority_host",
];

/// Other names of the account key in the environment.
const OTHER_KEYS: [&str; 2] = ["AZURE_STORAGE_ACCOUNT_KEY", "AZURE_STORAGE_ACCESS_KEY"];

/// The account that keys in the environment are for, where it says so.
const ACCOUNT: &str = "AZURE_STORAGE_ACCOUNT";

/// What a token is asked for, in any cloud of Azure.
const RESOURCE: &str = "https://storage.azure.com/";

/// Who gives tokens, unless the environment names another.
const ENTRA: &str = "https://login.microsoftonline.com";

/// The metadata of an instance.
const INSTANCE: &str = "http://169.254.169.254/metadata/identity/oauth2/token";

/// How long before its end a token is not used any more.
const MARGIN: Duration = Duration::from_secs(120);

/// What requests are signed with. It is shown nowhere.
#[derive(Clone, PartialEq, Eq)]
pub(in crate::store::object) enum Credential {
    /// The account's key, decoded.
    Key(Vec<u8>),
    /// A shared access signature, without a question mark.
    Sas(String),
    /// A token, and when it ends.
    Token(String, SystemTime),
}

/// Credentials of Azure for an archive.
#[derive(Debug)]
pub(in crate::store::object) struct AzureKeys {
    from: Credentials,
    location: String,
    account: String,
}

impl AzureKeys {
    pub(in crate::store::object) fn new(
        from: Credentials,
        location: String,
        account: String,
    ) -> Self {
        Self { from, location, account }
    }
}

impl Chain for AzureKeys {
    type Credential = Credential;

    fn find(&self, search: &Search<'_>) -> Result<Credential, Unsigned> {
        let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        if let Some(section) = file::section(&self.from, &self.location, &KEYS)? {
            let said = |name: &str| section.get(&name.to_ascii_lowercase()).map(str::to_owned);
            let lacks = |key| Err(refused(section.lacks(key).to_string()).into());
            return match (given(&said, search)?, said(TENANT), said(CLIENT)) {
                (Some(credential), ..) => Ok(credential),
                (None, Some(_), None) => lacks("azure_client_id"),
                (None, Some(_), Some(_)) => {
                    lacks("azure_client_secret or azure_federated_token_file")
                }
                // A machine has several identities at times, and the section says which one.
                (None, None, Some(client)) => {
                    let found = Identity::new(&variable).token(Some(&client), search)?;
                    found.ok_or_else(|| {
                        let text = "the machine's metadata gives no token for azure_client_id";
                        refused(text.to_owned()).into()
                    })
                }
                (None, None, None) => lacks("azure_storage_key or azure_storage_sas_token"),
            };
        }
        let given = given(&|name| for_account(name, &self.account, &variable), search)?;
        let found = match given {
            Some(credential) => Some(credential),
            None => Identity::new(&variable).token(variable(CLIENT).as_deref(), search)?,
        };
        found.ok_or_else(|| {
            none(&self.from, "the environment, a workload identity and a managed identity").into()
        })
    }

    fn is_good(&self, credential: &Credential) -> bool {
        match credential {
            Credential::Token(_, until) => SystemTime::now() + MARGIN < *until,
            Credential::Key(_) | Credential::Sas(_) => true,
        }
    }

    fn is_valid(&self, credential: &Credential) -> bool {
        match credential {
            Credential::Token(_, until) => SystemTime::now() < *until,
            Credential::Key(_) | Credential::Sas(_) => true,
        }
    }

    fn sign(
        &self,
        credential: &Credential,
        parts: &mut Parts,
        len: Option<u64>,
    ) -> Result<(), Refusal> {
        let instead = "use https, or the account's key, which only signs";
        match credential {
            // It stays here.
            Credential::Key(_) => {}
            Credential::Sas(_) => not_in_clear(parts, "a shared access signature", instead)?,
            Credential::Token(..) => not_in_clear(parts, "a token", instead)?,
        }
        let date = http_date_of(SystemTime::now());
        sign(credential, &self.account, parts, len, &date)
            .ok_or_else(|| refused("the request cannot be signed".to_owned()))
    }
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credential")
    }
}

/// Reads a variable of the environment, in which keys may be for another account. A key is not sent; a signature is,
/// and goes to no account that the environment does not name.
fn for_account(
    name: &str,
    account: &str,
    variable: &dyn Fn(&str) -> Option<String>,
) -> Option<String> {
    let named = variable(ACCOUNT);
    let is_for_it = match name {
        KEY => named.is_none_or(|named| named == account),
        SAS => named.is_some_and(|named| named == account),
        _ => true,
    };
    if !is_for_it {
        return None;
    }
    let others: &[&str] = if name == KEY { &OTHER_KEYS } else { &[] };
    variable(name).or_else(|| others.iter().find_map(|name| variable(name)))
}

/// Returns the credentials that a section or an environment gives; `None` if it gives none.
///
/// # Errors
/// What it gives is of no use, or of none now.
fn given(
    said: &dyn Fn(&str) -> Option<String>,
    search: &Search<'_>,
) -> Result<Option<Credential>, Unsigned> {
    if let Some(key) = said(KEY) {
        let key = BASE64_STANDARD.decode(key.trim());
        return match key {
            Ok(key) if !key.is_empty() => Ok(Some(Credential::Key(key))),
            _ => Err(refused("the account key is not whole: it is not base64".to_owned()).into()),
        };
    }
    if let Some(sas) = said(SAS) {
        let sas = sas.trim().trim_start_matches('?').to_owned();
        let fits = |c: char| c.is_ascii_graphic() && c != '#';
        if !sas.split('&').any(|option| option.starts_with("sig=")) || !sas.chars().all(fits) {
            return Err(refused(
                "the shared access signature is not whole: it has no sig=, or other characters than those of a URL"
                    .to_owned(),
            )
            .into());
        }
        return Ok(Some(Credential::Sas(sas)));
    }
    let (Some(tenant), Some(client)) = (said(TENANT), said(CLIENT)) else { return Ok(None) };
    let authority = said(AUTHORITY).unwrap_or_else(|| ENTRA.to_owned());
    let scope = format!("{RESOURCE}.default");
    let mut form = vec![
        ("client_id", client),
        ("grant_type", "client_credentials".to_owned()),
        ("scope", scope),
    ];
    match (said(SECRET), said(TOKEN_FILE)) {
        (Some(secret), _) => form.push(("client_secret", secret)),
        (None, Some(path)) => {
            let kind = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";
            form.push(("client_assertion_type", kind.to_owned()));
            form.push(("client_assertion", read_token(Path::new(&path))?));
        }
        (None, None) => return Ok(None),
    }
    let form: Vec<_> = form
        .iter()
        .map(|(name, value)| format!("{name}={}", percent_encode(value, false)))
        .collect();
    let tenant = percent_encode(&tenant, false);
    let url = format!("{}/{tenant}/oauth2/v2.0/token", authority.trim_end_matches('/'));
    let request = http::Request::post(&url)
        .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
        .body(Bytes::from(form.join("&")));
    let request =
        request.map_err(|_| refused(format!("{AUTHORITY} is not the URL of a server")))?;
    token(request, search).map(Some)
}

/// No token is longer.
const LONGEST: u64 = 64 << 10;

fn read_token(path: &Path) -> Result<String, Refusal> {
    use std::io::Read;
    let mut text = String::new();
    let read =
        std::fs::File::open(path).and_then(|file| file.take(LONGEST).read_to_string(&mut text));
    match read {
        Ok(_) => Ok(text.trim().to_owned()),
        Err(e) => Err(refused(format!("\"{}\" cannot be read: {e}", path.display()))),
    }
}

/// Where the token of a managed identity is asked for: that of the container, or of the instance.
struct Identity {
    /// With its version.
    url: String,
    header: (&'static str, String),
    /// The environment speaks of Azure Arc.
    is_arc: bool,
}

impl Identity {
    fn new(variable: &dyn Fn(&str) -> Option<String>) -> Self {
        let (at, secret) = (variable("IDENTITY_ENDPOINT"), variable("IDENTITY_HEADER"));
        match (at, secret) {
            (Some(at), Some(secret)) => Self {
                url: format!("{at}?api-version=2019-08-01"),
                header: ("x-identity-header", secret),
                is_arc: false,
            },
            (at, _) => Self {
                url: format!("{INSTANCE}?api-version=2018-02-01"),
                header: ("metadata", "true".to_owned()),
                is_arc: at.is_some(),
            },
        }
    }

    /// Asks for the token. `None` if there is no such thing here.
    ///
    /// # Errors
    /// It is refused, or not given now.
    fn token(
        &self,
        client: Option<&str>,
        search: &Search<'_>,
    ) -> Result<Option<Credential>, Unsigned> {
        let mut url = format!("{}&resource={}", self.url, percent_encode(RESOURCE, false));
        if let Some(client) = client {
            url.push_str(&format!("&client_id={}", percent_encode(client, false)));
        }
        let (name, value) = &self.header;
        let request = http::Request::get(&url).header(*name, value).body(Bytes::new());
        let request = request
            .map_err(|_| refused("IDENTITY_ENDPOINT is not the URL of a server".to_owned()))?;
        let nobody = || {
            match self.is_arc {
            true => Err(refused(
                "IDENTITY_ENDPOINT is set without IDENTITY_HEADER, as by Azure Arc, whose identities are not supported"
                    .to_owned(),
            )
            .into()),
            false => Ok(None),
        }
        };
        let answer = match search.send(request) {
            Ok(answer) => answer,
            Err(unanswered) if unanswered.is_nobody() => return nobody(),
            Err(unanswered) => return Err(unanswered.unsigned("a token")),
        };
        let code = answer.code();
        // Metadata that are being updated say 404, too.
        let passes = answer.passes() || answer.status == 404;
        match answer.status {
            200 => return Ok(parse(&answer.body).map(Some)?),
            // So answer the metadata of other clouds.
            _ if !passes && code.is_none() => return nobody(),
            _ => {}
        }
        let code = code.unwrap_or_else(|| "without a code".to_owned());
        let text = format!(
            "the machine's metadata answered {} {code} to the request for a token",
            answer.status
        );
        Err(answer.unsigned(passes, text))
    }
}

/// Asks for a token.
fn token(request: http::Request<Bytes>, search: &Search<'_>) -> Result<Credential, Unsigned> {
    let host = request.uri().host().unwrap_or_default().to_owned();
    let answer = search.send(request).map_err(|unanswered| unanswered.unsigned("a token"))?;
    if answer.status == 200 {
        return Ok(parse(&answer.body)?);
    }
    let code = answer.code().unwrap_or_else(|| "without a code".to_owned());
    let text = format!("{host} answered {} {code} to the request for a token", answer.status);
    Err(answer.unsigned(answer.passes(), text))
}

/// Reads a token. How long it is good is said in seconds from now, or as a time; as a number, or as a text.
fn parse(body: &[u8]) -> Result<Credential, Refusal> {
    let json: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
    let number = |name: &str| {
        let value = json.get(name)?;
        value.as_u64().or_else(|| value.as_str()?.parse().ok()).map(Duration::from_secs)
    };
    let until = match (number("expires_in"), number("expires_on")) {
        (Some(left), _) => SystemTime::now().checked_add(left),
        (None, Some(at)) => UNIX_EPOCH.checked_add(at),
        (None, None) => None,
    };
    let token = json.get("access_token").and_then(|token| token.as_str());
    match token.map(str::to_owned).zip(until) {
        Some((token, until)) => Ok(Credential::Token(token, until)),
        None => Err(refused("an answer to the request for a token holds none".to_owned())),
    }
}

/// Signs a request; `None` if it holds what cannot be signed.
fn sign(
    credential: &Credential,
    account: &str,
    parts: &mut Parts,
    len: Option<u64>,
    date: &str,
) -> Option<()> {
    parts.headers.insert(HeaderName::from_static("x-ms-date"), HeaderValue::from_str(date).ok()?);
    let authorization = match credential {
        Credential::Key(key) => {
            let text = to_sign(account, parts, len)?;
            let key = hmac::Key::new(hmac::HMAC_SHA256, key);
            let signature = BASE64_STANDARD.encode(hmac::sign(&key, text.as_bytes()));
            format!("SharedKey {account}:{signature}")
        }
        Credential::Token(token, _) => format!("Bearer {token}"),
        Credential::Sas(sas) => {
            let uri = parts.uri.to_string();
            let joint = if parts.uri.query().is_some() { '&' } else { '?' };
            parts.uri = format!("{uri}{joint}{sas}").parse().ok()?;
            return Some(());
        }
    };
    let mut authorization = HeaderValue::from_str(&authorization).ok()?;
    authorization.set_sensitive(true);
    parts.headers.insert(AUTHORIZATION, authorization);
    Some(())
}

/// Returns the text that an account key signs (Shared Key, since version 2015-02-21).
fn to_sign(account: &str, parts: &Parts, len: Option<u64>) -> Option<String> {
    let header = |name: &str| match parts.headers.get(name) {
        Some(value) => value.to_str().ok(),
        None => Some(""),
    };
    let len = len.filter(|len| *len > 0).map(|len| len.to_string()).unwrap_or_default();
    let first = [
        parts.method.as_str(),
        header("content-encoding")?,
        header("content-language")?,
        &len,
        header("content-md5")?,
        header("content-type")?,
        // The date stands in a header of Azure's own.
        "",
        header("if-modified-since")?,
        header("if-match")?,
        header("if-none-match")?,
        header("if-unmodified-since")?,
        header("range")?,
    ];
    let mut lines: Vec<String> = first.into_iter().map(str::to_owned).collect();
    let mut own: Vec<_> =
        parts.headers.iter().filter(|(name, _)| name.as_str().starts_with("x-ms-")).collect();
    own.sort_by(|(one, _), (other, _)| one.as_str().cmp(other.as_str()));
    for (name, value) in own {
        lines.push(format!("{name}:{}", value.to_str().ok()?.trim()));
    }
    lines.push(format!("/{account}{}", parts.uri.path()));
    let mut query = Vec::new();
    for option in parts.uri.query().unwrap_or_default().split('&').filter(|o| !o.is_empty()) {
        let (name, value) = option.split_once('=').unwrap_or((option, ""));
        query.push(format!("{name}:{}", percent_decode(value)?));
    }
    query.sort();
    lines.extend(query);
    Some(lines.join("\n"))
}

#[cfg(test)]
mod tests;
