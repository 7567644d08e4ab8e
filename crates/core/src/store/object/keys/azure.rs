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

use super::{Chain, Credentials, file, metadata, none, refused};
use crate::error::Refusal;
use crate::server::url::text::{http_date_of, percent_decode, percent_encode};
use crate::store::object::ask::shown;

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

    fn find(&self) -> Result<Credential, Refusal> {
        if let Some(section) = file::section(&self.from, &self.location, &KEYS)? {
            let said = |name: &str| section.get(&name.to_ascii_lowercase()).map(str::to_owned);
            let lacks = |key| Err(refused(section.lacks(key).to_string()));
            return match (given(&said)?, said(TENANT), said(CLIENT)) {
                (Some(credential), ..) => Ok(credential),
                (None, Some(_), None) => lacks("azure_client_id"),
                (None, Some(_), Some(_)) => {
                    lacks("azure_client_secret or azure_federated_token_file")
                }
                // A machine has several identities at times, and the section says which one.
                (None, None, Some(client)) => machine(Some(&client))?.ok_or_else(|| {
                    refused("the machine's metadata gives no token for azure_client_id".to_owned())
                }),
                (None, None, None) => lacks("azure_storage_key or azure_storage_sas_token"),
            };
        }
        let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let found = match given(&|name| for_account(name, &self.account, &variable))? {
            Some(credential) => Some(credential),
            None => machine(variable(CLIENT).as_deref())?,
        };
        found.ok_or_else(|| {
            none(&self.from, "the environment, a workload identity and a managed identity")
        })
    }

    fn is_good(&self, credential: &Credential) -> bool {
        match credential {
            Credential::Token(_, until) => SystemTime::now() + MARGIN < *until,
            Credential::Key(_) | Credential::Sas(_) => true,
        }
    }

    fn sign(
        &self,
        credential: &Credential,
        parts: &mut Parts,
        len: Option<u64>,
    ) -> Result<(), Refusal> {
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

/// Reads a variable of the environment, in which keys may be for another account.
fn for_account(
    name: &str,
    account: &str,
    variable: &dyn Fn(&str) -> Option<String>,
) -> Option<String> {
    let is_key = name == KEY || name == SAS;
    if is_key && variable(ACCOUNT).is_some_and(|named| named != account) {
        return None;
    }
    let others: &[&str] = if name == KEY { &OTHER_KEYS } else { &[] };
    variable(name).or_else(|| others.iter().find_map(|name| variable(name)))
}

/// Returns the credentials that a section or an environment gives; `None` if it gives none.
///
/// # Errors
/// What it gives is of no use.
fn given(said: &dyn Fn(&str) -> Option<String>) -> Result<Option<Credential>, Refusal> {
    if let Some(key) = said(KEY) {
        let key = BASE64_STANDARD.decode(key.trim());
        return match key {
            Ok(key) if !key.is_empty() => Ok(Some(Credential::Key(key))),
            _ => Err(refused("the account key is not whole: it is not base64".to_owned())),
        };
    }
    if let Some(sas) = said(SAS) {
        let sas = sas.trim().trim_start_matches('?').to_owned();
        let fits = |c: char| c.is_ascii_graphic() && c != '#';
        if !sas.split('&').any(|option| option.starts_with("sig=")) || !sas.chars().all(fits) {
            return Err(refused(
                "the shared access signature is not whole: it has no sig=, or other characters than those of a URL"
                    .to_owned(),
            ));
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
    token(request).map(Some)
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

/// Asks for the token of a managed identity: that of the container, or of the instance. `None` if there is no such
/// thing here.
///
/// # Errors
/// It is refused.
fn machine(client: Option<&str>) -> Result<Option<Credential>, Refusal> {
    let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let container = variable("IDENTITY_ENDPOINT").zip(variable("IDENTITY_HEADER"));
    let (at, version) = match &container {
        Some((at, _)) => (at.as_str(), "2019-08-01"),
        None => (INSTANCE, "2018-02-01"),
    };
    let resource = percent_encode(RESOURCE, false);
    let mut url = format!("{at}?api-version={version}&resource={resource}");
    if let Some(client) = client {
        url.push_str(&format!("&client_id={}", percent_encode(client, false)));
    }
    let request = http::Request::get(&url);
    let request = match &container {
        Some((_, header)) => request.header("x-identity-header", header),
        None => request.header("metadata", "true"),
    };
    let Ok(request) = request.body(Bytes::new()) else { return Ok(None) };
    // The instance is not there, or has no identity.
    let Ok(answer) = metadata::send_patiently(request) else { return Ok(None) };
    match answer.status().as_u16() {
        200 => parse(answer.body()).map(Some),
        status => match error_of(answer.body()) {
            // So answers the metadata of other clouds.
            code if code.is_empty() => Ok(None),
            code => Err(refused(format!(
                "the machine's metadata answered {status} {code} to the request for a token"
            ))),
        },
    }
}

/// Asks for a token.
fn token(request: http::Request<Bytes>) -> Result<Credential, Refusal> {
    let host = request.uri().host().unwrap_or_default().to_owned();
    let answer = metadata::send(request)
        .map_err(|what| refused(format!("{host} gave no token for Azure: {what}")))?;
    match answer.status().as_u16() {
        200 => parse(answer.body()),
        status => Err(refused(format!(
            "{host} answered {status} {} to the request for a token",
            error_of(answer.body())
        ))),
    }
}

fn json(body: &[u8]) -> serde_json::Value {
    serde_json::from_slice(body).unwrap_or_default()
}

/// Returns the code of a refusal.
fn error_of(body: &[u8]) -> String {
    json(body).get("error").and_then(|error| error.as_str()).map(shown).unwrap_or_default()
}

/// Reads a token. How long it is good is said in seconds from now, or as a time; as a number, or as a text.
fn parse(body: &[u8]) -> Result<Credential, Refusal> {
    let json = json(body);
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
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]

    use std::io::{Read, Write};

    use super::*;

    /// The one that Azurite has, and so no secret.
    const ACCOUNT_KEY: &str =
        "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";
    const DATE: &str = "Sun, 29 Nov 2026 20:00:00 GMT";

    fn parts(uri: &str) -> Parts {
        let request = http::Request::put(uri).header("x-ms-version", "2024-05-04");
        let request = request.header("x-ms-blob-type", "BlockBlob").header("if-none-match", "*");
        request.header("content-md5", "bWQ1").header("host", "h").body(()).unwrap().into_parts().0
    }

    fn signed(credential: &Credential, uri: &str) -> Parts {
        let mut parts = parts(uri);
        sign(credential, "walsafe1", &mut parts, Some(7), DATE).unwrap();
        parts
    }

    /// As Microsoft's "Authorize with Shared Key" has it. The signature is Python's of that text.
    #[test]
    fn an_account_key_signs_what_it_should() {
        let uri =
            "https://walsafe1.blob.core.windows.net/wal/a%20b?comp=list&prefix=p%2F&delimiter=%2F";
        let parts = signed(&Credential::Key(BASE64_STANDARD.decode(ACCOUNT_KEY).unwrap()), uri);
        assert_eq!(
            to_sign("walsafe1", &parts, Some(7)).unwrap(),
            "PUT\n\n\n7\nbWQ1\n\n\n\n\n*\n\n\nx-ms-blob-type:BlockBlob\n\
             x-ms-date:Sun, 29 Nov 2026 20:00:00 GMT\nx-ms-version:2024-05-04\n\
             /walsafe1/wal/a%20b\ncomp:list\ndelimiter:/\nprefix:p/"
        );
        let authorization = parts.headers["authorization"].to_str().unwrap();
        assert_eq!(
            authorization,
            "SharedKey walsafe1:K2FfpqmOJFU7QqR5i2fLH9pRvuj+YGO7zN/uCMYLfpc="
        );
        // Nothing has no length.
        assert!(to_sign("walsafe1", &parts, Some(0)).unwrap().starts_with("PUT\n\n\n\nbWQ1"));
        assert!(parts.headers["authorization"].is_sensitive());
    }

    #[test]
    fn a_signature_of_somebody_elses_joins_the_query_and_a_token_goes_into_a_header() {
        let sas = Credential::Sas("sv=2024&sig=a%2Fb".to_owned());
        let uri = |at: &str| signed(&sas, at).uri.to_string();
        assert_eq!(uri("https://h/wal/x"), "https://h/wal/x?sv=2024&sig=a%2Fb");
        assert_eq!(uri("https://h/wal?comp=list"), "https://h/wal?comp=list&sv=2024&sig=a%2Fb");
        let token = Credential::Token("t0ken".to_owned(), SystemTime::now());
        let parts = signed(&token, "https://h/wal/x");
        assert_eq!(parts.headers["authorization"], "Bearer t0ken");
        assert_eq!(parts.headers["x-ms-date"], DATE);
        assert_eq!(format!("{token:?}{sas:?}"), "CredentialCredential");
    }

    fn of(values: &[(&str, &str)]) -> Result<Option<Credential>, String> {
        let said = |name: &str| {
            let (_, value) = values.iter().find(|(known, _)| *known == name)?;
            Some((*value).to_owned())
        };
        given(&said).map_err(|refusal| refusal.text)
    }

    #[test]
    fn a_key_and_a_shared_access_signature_are_taken_as_they_are_copied() {
        let key = of(&[(KEY, &format!("{ACCOUNT_KEY}\n")), (SAS, "sig=x")]).unwrap();
        assert!(matches!(key, Some(Credential::Key(key)) if key.len() == 64));
        let sas = of(&[(SAS, "?sv=1&sig=hunter2%3D ")]).unwrap();
        assert!(sas == Some(Credential::Sas("sv=1&sig=hunter2%3D".to_owned())));
        assert!(of(&[(TENANT, "t"), (CLIENT, "c")]) == Ok(None));
        for wrong in [(KEY, "hunter2"), (SAS, "sv=1&hunter2"), (SAS, "sig=hunter2 x")] {
            let said = of(&[wrong]).unwrap_err();
            assert!(said.contains("is not whole") && !said.contains("hunter2"), "{said}");
        }
    }

    /// One server archives into two accounts at times, and the environment has the key of one.
    #[test]
    fn keys_in_the_environment_are_for_the_account_that_it_names() {
        let variable = |named: &'static str| {
            move |name: &str| match name {
                ACCOUNT => Some(named.to_owned()),
                "AZURE_STORAGE_ACCOUNT_KEY" => Some("k".to_owned()),
                CLIENT => Some("c".to_owned()),
                _ => None,
            }
        };
        assert_eq!(for_account(KEY, "one", &variable("one")).as_deref(), Some("k"));
        assert_eq!(for_account(KEY, "two", &variable("one")), None);
        assert_eq!(for_account(CLIENT, "two", &variable("one")).as_deref(), Some("c"));
    }

    /// Answers one request, and returns what was asked.
    fn answering(answer: &'static str) -> (String, std::thread::JoinHandle<String>) {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let at = format!("http://{}", listener.local_addr().unwrap());
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let (mut asked, mut some) = (String::new(), [0; 4096]);
            let whole = |asked: &str| {
                let (head, body) = asked.split_once("\r\n\r\n")?;
                let len = head.split("content-length: ").nth(1)?.split("\r\n").next()?;
                Some(body.len() >= len.parse().ok()?)
            };
            while whole(&asked) != Some(true) {
                let got = stream.read(&mut some).unwrap();
                asked.push_str(std::str::from_utf8(&some[..got]).unwrap());
            }
            let (status, body) = answer.split_once(' ').unwrap();
            let head = format!("HTTP/1.1 {status} X\r\ncontent-length: {}\r\n\r\n", body.len());
            stream.write_all(head.as_bytes()).unwrap();
            stream.write_all(body.as_bytes()).unwrap();
            asked
        });
        (at, server)
    }

    #[test]
    fn an_application_gets_a_token_by_its_secret() {
        let (at, server) = answering(r#"200 {"access_token": "t0ken", "expires_in": 3599}"#);
        let found = of(&[(TENANT, "t/1"), (CLIENT, "c"), (SECRET, "s&1"), (AUTHORITY, &at)]);
        let left = |until: SystemTime| until.duration_since(SystemTime::now()).unwrap().as_secs();
        assert!(matches!(found, Ok(Some(Credential::Token(token, until)))
                if token == "t0ken" && (3500..3600).contains(&left(until))));
        let asked = server.join().unwrap();
        assert!(asked.starts_with("POST /t%2F1/oauth2/v2.0/token HTTP/1.1\r\n"), "{asked}");
        let form = "client_id=c&grant_type=client_credentials&\
                    scope=https%3A%2F%2Fstorage.azure.com%2F.default&client_secret=s%261";
        assert!(asked.ends_with(form), "{asked}");
    }

    #[test]
    fn a_workload_shows_its_token_and_what_refuses_it_is_told_without_the_answer() {
        let temp = tempfile::tempdir().unwrap();
        let file = temp.path().join("token");
        std::fs::write(&file, "assert10n\n").unwrap();
        let file = file.to_str().unwrap();
        let (at, server) =
            answering(r#"401 {"error": "invalid_client", "error_description": "hunter2"}"#);
        let values = [(TENANT, "t"), (CLIENT, "c"), (TOKEN_FILE, file), (AUTHORITY, &*at)];
        let said = of(&values).unwrap_err();
        assert!(said.ends_with("answered 401 invalid_client to the request for a token"), "{said}");
        let asked = server.join().unwrap();
        assert!(asked.ends_with("jwt-bearer&client_assertion=assert10n"), "{asked}");
        let missing = of(&[(TENANT, "t"), (CLIENT, "c"), (TOKEN_FILE, "/none")]).unwrap_err();
        assert!(missing.starts_with("\"/none\" cannot be read"), "{missing}");
    }

    /// The metadata of an instance says it in texts, and as a time.
    #[test]
    fn the_end_of_a_token_is_read_as_it_comes() {
        for (text, good) in [
            (r#"{"access_token": "t", "expires_in": "3599", "expires_on": "1"}"#, true),
            (r#"{"access_token": "t", "expires_on": "99999999999"}"#, true),
            (r#"{"access_token": "t", "expires_in": 60}"#, false),
        ] {
            let keys = AzureKeys::new(Credentials::default(), String::new(), String::new());
            assert_eq!(keys.is_good(&parse(text.as_bytes()).unwrap()), good, "{text}");
        }
        for text in ["", "{}", r#"{"access_token": "t"}"#, r#"{"expires_in": 1}"#] {
            assert!(parse(text.as_bytes()).is_err(), "{text}");
        }
    }

    #[test]
    fn a_section_says_what_it_lacks() {
        let temp = tempfile::tempdir().unwrap();
        let file = temp.path().join("keys");
        let said = |text: &str| {
            std::fs::write(&file, format!("[azure://walsafe1]\n{text}\n")).unwrap();
            let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
            std::fs::set_permissions(&file, mode).unwrap();
            let from = Credentials { file: Some(file.clone()), data_directory: None };
            let at = "azure://walsafe1/wal/p".to_owned();
            let keys = AzureKeys::new(from, at, "walsafe1".to_owned());
            keys.find().map_err(|refusal| refusal.text)
        };
        assert!(
            matches!(said("azure_storage_key = aGk="), Ok(Credential::Key(key)) if key == b"hi")
        );
        for (text, lacks) in [
            ("", "lacks azure_storage_key or azure_storage_sas_token"),
            ("azure_tenant_id = t", "lacks azure_client_id"),
            (
                "azure_tenant_id = t\nazure_client_id = c",
                "lacks azure_client_secret or azure_federated_token_file",
            ),
            ("aws_access_key_id = hunter2", "has a key that is not known"),
        ] {
            let said = said(text).unwrap_err();
            assert!(said.ends_with(lacks), "{said}");
        }
    }
}
