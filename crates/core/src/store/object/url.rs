//! The URL of an archive in object storage: `s3://bucket/prefix?option=value&...`.
//!
//! A URL stands in a setting, in logs and in process titles, so a secret in it is refused, and what is refused
//! is never repeated but for the name of an option.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;

use thiserror::Error as ThisError;

use super::text::{is_loopback, percent_decode};

const OPEN: &str =
    "is http, which everybody on the way can read and change: use https, or add allow_http=true";

/// The port of a scheme, where the endpoint names none.
const fn default_port(tls: bool) -> u16 {
    if tls { 443 } else { 80 }
}

/// Where an archive lies in S3, or in what speaks its language, and how it is spoken to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectUrl {
    /// The bucket.
    pub bucket: String,
    /// What every key begins with, without the slash behind it; empty for the whole bucket.
    pub prefix: String,
    /// The server; `None` for AWS's own of the region.
    pub endpoint: Option<Endpoint>,
    /// The region that requests are signed for; `None` if the environment is to say it.
    pub region: Option<String>,
    /// The bucket stands in the path of a request, and not in the name of the host.
    pub path_style: bool,
    /// The class that new objects are stored in.
    pub storage_class: Option<String>,
    /// How the server encrypts new objects.
    pub encryption: Option<Encryption>,
    /// The key that it encrypts them with, if that is not the bucket's own.
    pub kms_key: Option<String>,
    /// The reader pays for requests.
    pub requester_pays: bool,
    /// The account that the bucket must belong to.
    pub expected_owner: Option<String>,
    /// The certificates that the server's is checked by, in place of the system's.
    pub ca_file: Option<PathBuf>,
    /// The proxy to go by.
    pub proxy: Proxy,
}

/// A server by scheme, name and port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// It is spoken to under TLS.
    pub tls: bool,
    /// Its name or address; an IPv6 address without brackets.
    pub host: String,
    /// Its port.
    pub port: u16,
}

/// How the server encrypts new objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encryption {
    /// With a key of the storage's own (`AES256`).
    Storage,
    /// With a key of the key management service (`aws:kms`).
    Managed,
}

/// Which proxy is used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Proxy {
    /// What `HTTPS_PROXY` and `NO_PROXY` say.
    Environment,
    /// None, whatever the environment says.
    Never,
    /// This one.
    At(Endpoint),
}

/// Why a URL is refused. The text never holds more of the URL than the name of an option.
#[derive(Debug, Clone, PartialEq, Eq, ThisError)]
pub enum UrlError {
    /// It does not begin with `s3://`.
    #[error("it does not begin with \"s3://\"")]
    Scheme,
    /// It holds a user name or a password.
    #[error(
        "it holds credentials, which would be seen by everybody who sees settings and logs: put them into \"credentials_file\", and change them, since they are no longer secret"
    )]
    Secret,
    /// The name of the bucket cannot be one.
    #[error(
        "the name of its bucket is not one of 3 to 63 lower-case letters, digits, \".\" and \"-\""
    )]
    Bucket,
    /// The bucket is of a kind that knows no conditional PUT in order.
    #[error("S3 directory buckets (\"--x-s3\") are not supported: use a general purpose bucket")]
    DirectoryBucket,
    /// The prefix has an empty part.
    #[error("its path holds two slashes in a row")]
    EmptyPart,
    /// The prefix has a part that is `.` or `..`.
    #[error("its path holds \".\" or \"..\" as a part")]
    Dots,
    /// The prefix has a character that storage and tools read in different ways.
    #[error("its path holds a character other than letters, digits, \"/\" and !-_.*'()=+@:,~")]
    Character,
    /// The prefix is too long for the names under it.
    #[error("its path is longer than {} bytes", ObjectUrl::LONGEST_PREFIX)]
    TooLong,
    /// It has a fragment.
    #[error("it holds a \"#\"")]
    Fragment,
    /// An option is not known.
    #[error(
        "the option \"{0}\" is not known: there are endpoint, region, style, storage_class, sse, kms_key, requester_pays, expected_owner, ca_file, proxy and allow_http"
    )]
    UnknownOption(String),
    /// An option would make the server need a key of ours for each request.
    #[error("encryption with a key of the customer's (SSE-C) is not supported: use sse=aws:kms")]
    CustomerKey,
    /// An option stands there twice.
    #[error("the option \"{0}\" stands there twice")]
    Twice(&'static str),
    /// The value of an option is wrong.
    #[error("the option \"{0}\" {1}")]
    Value(&'static str, &'static str),
}

impl ObjectUrl {
    /// Keys have at most 1024 bytes, and names in an archive fewer than 128.
    const LONGEST_PREFIX: usize = 800;

    /// Returns whether a text is meant as the URL of object storage, right or wrong.
    #[must_use]
    pub fn is_meant(text: &str) -> bool {
        ["s3://", "gs://", "azure://"].iter().any(|scheme| {
            text.get(..scheme.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(scheme))
        })
    }

    /// Feeds a hasher with what tells the place from others.
    pub(super) fn hash_place(&self, hasher: &mut impl Hasher) {
        self.to_string().hash(hasher);
        self.endpoint.as_ref().map(Endpoint::with_port).hash(hasher);
    }

    /// Returns the region that requests are signed for. `environment` gives the variables of the process.
    ///
    /// # Errors
    /// Nothing says it, and the server is one of AWS.
    pub(super) fn region(
        &self,
        environment: impl Fn(&str) -> Option<String>,
    ) -> Result<String, UrlError> {
        let variable = |name| environment(name).filter(|value| !value.is_empty());
        let named = self.region.clone().or_else(|| variable("AWS_REGION"));
        match named.or_else(|| variable("AWS_DEFAULT_REGION")) {
            Some(region) => Ok(region),
            // What most other servers take.
            None if self.endpoint.is_some() => Ok("us-east-1".to_owned()),
            None => Err(UrlError::Value("region", "is missing: add region=... with the bucket's")),
        }
    }

    /// Returns the key of a name in the archive.
    #[must_use]
    pub(super) fn key(&self, name: &str) -> String {
        format!("{}{name}", self.directory())
    }

    /// Returns what the keys of the archive begin with, the slash included.
    #[must_use]
    pub(super) fn directory(&self) -> String {
        if self.prefix.is_empty() { String::new() } else { format!("{}/", self.prefix) }
    }

    /// Returns the server that requests go to, for a region.
    #[must_use]
    pub(super) fn server(&self, region: &str) -> Endpoint {
        let server = self.endpoint.clone().unwrap_or_else(|| {
            let domain =
                if region.starts_with("cn-") { "amazonaws.com.cn" } else { "amazonaws.com" };
            Endpoint { tls: true, host: format!("s3.{region}.{domain}"), port: 443 }
        });
        if self.is_path_style() {
            server
        } else {
            Endpoint { host: format!("{}.{}", self.bucket, server.host), ..server }
        }
    }

    /// Returns whether the bucket stands in the path. An address has no names under it, and the certificates of
    /// AWS do not fit a bucket with dots in its name.
    pub(super) fn is_path_style(&self) -> bool {
        let addressed = self.endpoint.as_ref().is_some_and(|at| {
            at.host.parse::<IpAddr>().is_ok() || at.host.eq_ignore_ascii_case("localhost")
        });
        let dotted =
            self.bucket.contains('.') && self.endpoint.as_ref().is_none_or(|endpoint| endpoint.tls);
        self.path_style || addressed || dotted
    }

    fn set(&mut self, name: &'static str, value: String) -> Result<(), UrlError> {
        let wrong = |why| Err(UrlError::Value(name, why));
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_.:/".contains(c);
        if value.is_empty() {
            return wrong("has no value");
        }
        match name {
            "endpoint" => self.endpoint = Some(Endpoint::parse(name, &value)?),
            "region" if !value.chars().all(|c| c.is_ascii_alphanumeric() || c == '-') => {
                return wrong("is not the name of a region");
            }
            "region" => self.region = Some(value),
            "style" if value == "path" => self.path_style = true,
            "style" => return wrong("is not \"path\""),
            "storage_class" if ["GLACIER", "DEEP_ARCHIVE", "SNOW"].contains(&value.as_str()) => {
                return wrong(
                    "is a cold class: what lies there must be brought back before a restore",
                );
            }
            "storage_class" if !value.chars().all(plain) => {
                return wrong("is not the name of a storage class");
            }
            "storage_class" => self.storage_class = Some(value),
            "sse" => match value.as_str() {
                "AES256" => self.encryption = Some(Encryption::Storage),
                "aws:kms" => self.encryption = Some(Encryption::Managed),
                _ => return wrong("is neither \"AES256\" nor \"aws:kms\""),
            },
            "kms_key" if !value.chars().all(plain) => return wrong("is not the name of a key"),
            "kms_key" => self.kms_key = Some(value),
            "requester_pays" => self.requester_pays = boolean(name, &value)?,
            "expected_owner" if value.len() != 12 || !value.bytes().all(|b| b.is_ascii_digit()) => {
                return wrong("is not the number of an account, which has 12 digits");
            }
            "expected_owner" => self.expected_owner = Some(value),
            "ca_file" if !value.starts_with('/') => return wrong("is not an absolute path"),
            "ca_file" => self.ca_file = Some(value.into()),
            "proxy" if value == "none" => self.proxy = Proxy::Never,
            "proxy" => {
                let at = Endpoint::parse(name, &value)?;
                if at.tls {
                    return wrong("does not begin with \"http://\"");
                }
                self.proxy = Proxy::At(at);
            }
            _ => return Err(UrlError::UnknownOption(name.to_owned())),
        }
        Ok(())
    }
}

impl FromStr for ObjectUrl {
    type Err = UrlError;

    fn from_str(text: &str) -> Result<Self, UrlError> {
        const KNOWN: [&str; 10] = [
            "endpoint",
            "region",
            "style",
            "storage_class",
            "sse",
            "kms_key",
            "requester_pays",
            "expected_owner",
            "ca_file",
            "proxy",
        ];
        let rest = text.strip_prefix("s3://").ok_or(UrlError::Scheme)?;
        if rest.contains('#') {
            return Err(UrlError::Fragment);
        }
        let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (bucket, prefix) = place.split_once('/').unwrap_or((place, ""));
        check_bucket(bucket)?;
        // "s3://bucket/prefix/" means what "s3://bucket/prefix" means.
        let prefix = prefix.strip_suffix('/').unwrap_or(prefix);
        check_prefix(prefix)?;
        let mut url = Self {
            bucket: bucket.to_owned(),
            prefix: prefix.to_owned(),
            endpoint: None,
            region: None,
            path_style: false,
            storage_class: None,
            encryption: None,
            kms_key: None,
            requester_pays: false,
            expected_owner: None,
            ca_file: None,
            proxy: Proxy::Environment,
        };
        let (mut seen, mut allow_http) = (Vec::new(), false);
        for option in query.split('&').filter(|option| !option.is_empty()) {
            let (name, value) = option.split_once('=').unwrap_or((option, ""));
            let value = percent_decode(value);
            let known = KNOWN.into_iter().chain(["allow_http"]).find(|known| *known == name);
            let Some(known) = known else { return Err(refused_option(name)) };
            if seen.contains(&known) {
                return Err(UrlError::Twice(known));
            }
            seen.push(known);
            let value = value.ok_or(UrlError::Value(known, "is not text"))?;
            match known {
                "allow_http" => allow_http = boolean(known, &value)?,
                _ => url.set(known, value)?,
            }
        }
        if url.kms_key.is_some() && url.encryption != Some(Encryption::Managed) {
            return Err(UrlError::Value("kms_key", "stands there without sse=aws:kms"));
        }
        match &url.endpoint {
            Some(at) if !at.tls && !allow_http && !is_loopback(&at.host) => {
                Err(UrlError::Value("endpoint", OPEN))
            }
            _ => Ok(url),
        }
    }
}

impl fmt::Display for ObjectUrl {
    /// The bucket and the prefix: by these an archive is known.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "s3://{}", self.bucket)?;
        if self.prefix.is_empty() { Ok(()) } else { write!(f, "/{}", self.prefix) }
    }
}

impl Endpoint {
    /// Reads `https://host:port`.
    pub(super) fn parse(option: &'static str, value: &str) -> Result<Self, UrlError> {
        let wrong = |why| Err(UrlError::Value(option, why));
        let (tls, rest) = match (value.strip_prefix("https://"), value.strip_prefix("http://")) {
            (Some(rest), _) => (true, rest),
            (_, Some(rest)) => (false, rest),
            _ => return wrong("does not begin with \"https://\""),
        };
        if rest.contains('@') {
            return Err(UrlError::Secret);
        }
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let (host, port) = match rest.strip_prefix('[').map(|rest| rest.split_once(']')) {
            Some(Some((host, ""))) => (host, None),
            Some(Some((host, port))) => (host, port.strip_prefix(':').or(Some(""))),
            Some(None) => return wrong("is not the URL of a server"),
            None => match rest.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (rest, None),
            },
        };
        let fits = |c: char| c.is_ascii_alphanumeric() || "-._:".contains(c);
        if host.is_empty() || !host.chars().all(fits) {
            return wrong("is not the URL of a server: a scheme, a name, and a port where needed");
        }
        let port = match port.map(str::parse) {
            None => default_port(tls),
            Some(Ok(port)) if port > 0 => port,
            Some(_) => return wrong("has a port that is not a number from 1 to 65535"),
        };
        Ok(Self { tls, host: host.to_owned(), port })
    }

    /// Returns what a request's `Host` says.
    #[must_use]
    pub(super) fn authority(&self) -> String {
        if self.port == default_port(self.tls) {
            self.name()
        } else {
            format!("{}:{}", self.name(), self.port)
        }
    }

    /// Returns the name with its port.
    #[must_use]
    pub(super) fn with_port(&self) -> String {
        format!("{}:{}", self.name(), self.port)
    }

    fn name(&self) -> String {
        if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() }
    }
}

fn check_bucket(bucket: &str) -> Result<(), UrlError> {
    if bucket.contains('@') || bucket.contains(':') {
        return Err(UrlError::Secret);
    }
    if bucket.ends_with("--x-s3") {
        return Err(UrlError::DirectoryBucket);
    }
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b".-".contains(&b);
    let ends = bucket.starts_with(['.', '-']) || bucket.ends_with(['.', '-']);
    let fits = (3..=63).contains(&bucket.len()) && bucket.bytes().all(inner) && !ends;
    if fits && !bucket.contains("..") { Ok(()) } else { Err(UrlError::Bucket) }
}

fn check_prefix(prefix: &str) -> Result<(), UrlError> {
    if prefix.len() > ObjectUrl::LONGEST_PREFIX {
        return Err(UrlError::TooLong);
    }
    if !prefix.bytes().all(|b| b.is_ascii_alphanumeric() || b"/!-_.*'()=+@:,~".contains(&b)) {
        return Err(UrlError::Character);
    }
    for part in prefix.split('/').filter(|_| !prefix.is_empty()) {
        match part {
            "" => return Err(UrlError::EmptyPart),
            "." | ".." => return Err(UrlError::Dots),
            _ => {}
        }
    }
    Ok(())
}

/// Names an option that is not known. One whose name promises a secret is called that.
fn refused_option(name: &str) -> UrlError {
    let lower = name.to_ascii_lowercase();
    let has = |word: &str| lower.contains(word);
    if has("sse_c") || has("sse-c") || has("customer") {
        return UrlError::CustomerKey;
    }
    if ["secret", "password", "token", "access_key", "accesskey", "key_id", "signature"]
        .into_iter()
        .any(has)
    {
        return UrlError::Secret;
    }
    let shown: String =
        name.chars().filter(|c| c.is_ascii_alphanumeric() || "_-".contains(*c)).take(32).collect();
    UrlError::UnknownOption(shown)
}

fn boolean(option: &'static str, value: &str) -> Result<bool, UrlError> {
    match value {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => Err(UrlError::Value(option, "is neither \"true\" nor \"false\"")),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn url(text: &str) -> ObjectUrl {
        text.parse().unwrap_or_else(|e| panic!("{text}: {e}"))
    }

    fn why(text: &str) -> String {
        text.parse::<ObjectUrl>().map(|url| url.to_string()).unwrap_err().to_string()
    }

    #[test]
    fn a_url_says_where_the_keys_are_and_which_server_has_them() {
        let aws = url("s3://bucket-1/pg/main/?region=eu-west-1");
        assert_eq!(aws.to_string(), "s3://bucket-1/pg/main");
        assert_eq!(aws.key("x"), "pg/main/x");
        let server = aws.server("eu-west-1");
        assert_eq!(server.with_port(), "bucket-1.s3.eu-west-1.amazonaws.com:443");
        assert_eq!(server.authority(), "bucket-1.s3.eu-west-1.amazonaws.com");
        // No certificate of AWS fits a name with dots before its own.
        assert_eq!(
            url("s3://a.b.c?region=us-east-1").server("us-east-1").authority(),
            "s3.us-east-1.amazonaws.com"
        );

        let own = url("s3://wal?endpoint=https%3A%2F%2Fstore.example.com:9000&style=path");
        assert_eq!(own.key("x"), "x");
        assert_eq!(own.server("us-east-1").authority(), "store.example.com:9000");
        let named = url("s3://wal?endpoint=https://store.example.com");
        assert_eq!(named.server("us-east-1").authority(), "wal.store.example.com");
        // There is no name under an address.
        assert_eq!(url("s3://wal?endpoint=http://[::1]:80").server("").authority(), "[::1]");
        assert_eq!(
            url("s3://wal?endpoint=http://127.0.0.1:1").server("").authority(),
            "127.0.0.1:1"
        );
    }

    #[test]
    fn the_region_is_the_urls_or_the_environments() {
        let set = |name: &str| (name == "AWS_REGION").then(|| "eu-west-3".to_owned());
        assert_eq!(url("s3://wal?region=x-1").region(set).unwrap(), "x-1");
        assert_eq!(url("s3://wal").region(set).unwrap(), "eu-west-3");
        let own = url("s3://wal?endpoint=https://store.example.com");
        assert_eq!(own.region(|_| None).unwrap(), "us-east-1");
        let error = url("s3://wal").region(|_| None).unwrap_err();
        assert!(error.to_string().contains("region=..."), "{error}");
    }

    #[test]
    fn options_are_read_and_wrong_ones_are_named() {
        let all = url(
            "s3://wal/p?region=x-1&sse=aws:kms&kms_key=arn:aws:kms:x:1:key/2&storage_class=STANDARD_IA&requester_pays=true&expected_owner=123456789012&ca_file=/etc/ca.pem&proxy=http://proxy:3128",
        );
        assert_eq!(all.encryption, Some(Encryption::Managed));
        assert_eq!(all.kms_key.as_deref(), Some("arn:aws:kms:x:1:key/2"));
        assert_eq!(all.proxy, Proxy::At(Endpoint { tls: false, host: "proxy".into(), port: 3128 }));
        assert!(all.requester_pays);
        for (text, says) in [
            ("S3://bucket", "begin"),
            ("s3://bucket//x?region=r", "two slashes"),
            ("s3://bucket/a/../b?region=r", "\"..\""),
            ("s3://bucket/a b?region=r", "character"),
            ("s3://Bucket?region=r", "lower-case"),
            ("s3://express--x-s3?region=r", "directory buckets"),
            ("s3://bucket?region=r&what=1", "\"what\" is not known"),
            ("s3://bucket?region=r&region=r", "twice"),
            ("s3://bucket?region=r&storage_class=DEEP_ARCHIVE", "cold"),
            ("s3://bucket?region=r&sse_customer_key=x", "SSE-C"),
            ("s3://bucket?region=r&kms_key=x", "sse=aws:kms"),
            ("s3://bucket?region=r&style=host", "\"path\""),
            ("s3://bucket?endpoint=http://store.example.com", "allow_http=true"),
            ("s3://bucket?endpoint=store.example.com", "https://"),
            ("s3://bucket?endpoint=https://store.example.com:x", "port"),
            ("s3://bucket?region=r&proxy=https://p", "http://"),
            ("s3://bucket?region=", "no value"),
            ("s3://bucket#x?region=r", "#"),
        ] {
            let said = why(text);
            assert!(said.contains(says), "{text}: {said}");
        }
        assert!(
            url("s3://bucket?endpoint=http://store.example.com&allow_http=true").endpoint.is_some()
        );
    }

    /// What is refused ends up in a log.
    #[test]
    fn a_secret_in_a_url_is_refused_and_not_repeated() {
        for text in [
            "s3://AKIAKEY:hunter2@bucket/x",
            "s3://bucket?region=r&secret_access_key=hunter2",
            "s3://bucket?region=r&session_token=hunter2",
            "s3://bucket?endpoint=https://me:hunter2@store",
            "s3://bucket?region=r&proxy=http://me:hunter2@proxy",
        ] {
            assert_eq!(text.parse::<ObjectUrl>(), Err(UrlError::Secret), "{text}");
            assert!(!why(text).contains("hunter2"), "{text}");
        }
        assert!(!why("s3://bucket?region=r&what=hunter2").contains("hunter2"));
    }
}
