//! The URL of an archive in object storage: `s3://bucket/prefix?option=value&...`.
//!
//! A URL stands in a setting, in logs and in process titles, so a secret in it is refused, and what is refused
//! is never repeated but for the name of an option.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;

pub use self::endpoint::Endpoint;
use self::refused::LONGEST_PREFIX;
pub use self::refused::UrlError;
use self::text::{is_loopback, percent_decode};

mod endpoint;
mod refused;
#[cfg(test)]
mod tests;
pub(crate) mod text;

const OPEN: &str =
    "is http, which everybody on the way can read and change: use https, or add allow_http=true";

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

/// How the server encrypts new objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encryption {
    /// With a key of the storage's own (`AES256`).
    Storage,
    /// With a key of the key management service (`aws:kms`).
    Managed,
}

/// How two archives in object storage lie to each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Relation {
    /// Neither has a key of the other.
    Apart,
    /// Both are one.
    Same,
    /// The keys of the first begin with what those of the other begin with, and more.
    Inside,
    /// The other way round.
    Outside,
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

impl ObjectUrl {
    /// Returns the name by which the place is told from every other: the server belongs to it.
    #[must_use]
    pub fn name(&self) -> String {
        match &self.endpoint {
            Some(at) => format!("{self}?endpoint={}", at.url()),
            None => self.to_string(),
        }
    }

    /// Returns whose buckets they are, as far as URLs tell: two of them with the same bucket and prefix are one
    /// place, whatever else they say.
    fn owner_of_buckets(&self) -> String {
        let host = self.endpoint.as_ref().map_or(String::new(), |at| at.host.to_ascii_lowercase());
        let region = self.region.as_deref().unwrap_or_default();
        match &self.endpoint {
            Some(at) if host == "localhost" => format!("127.0.0.1:{}", at.port),
            Some(at)
                if ![".amazonaws.com", ".amazonaws.com.cn"]
                    .iter()
                    .any(|aws| host.ends_with(aws)) =>
            {
                format!("{host}:{}", at.port)
            }
            // Whatever the region, a bucket has its name alone, but for these, which are apart.
            _ if host.ends_with(".cn") || region.starts_with("cn-") => "aws-cn".to_owned(),
            _ if host.contains("us-gov-") || region.starts_with("us-gov-") => {
                "aws-us-gov".to_owned()
            }
            _ => "aws".to_owned(),
        }
    }

    /// Returns what all URLs of one place have in common, and those of no other.
    #[must_use]
    pub fn place(&self) -> String {
        format!("{} {self}", self.owner_of_buckets())
    }

    /// Returns how two archives lie to each other.
    #[must_use]
    pub fn relation(&self, other: &Self) -> Relation {
        if self.bucket != other.bucket || self.owner_of_buckets() != other.owner_of_buckets() {
            return Relation::Apart;
        }
        match (self.directory(), other.directory()) {
            (a, b) if a == b => Relation::Same,
            (a, b) if a.starts_with(&b) => Relation::Inside,
            (a, b) if b.starts_with(&a) => Relation::Outside,
            _ => Relation::Apart,
        }
    }

    /// Returns whether one place is another, or lies in it: every name in it would be a stranger there.
    #[must_use]
    pub fn lies_in(&self, other: &Self) -> bool {
        matches!(self.relation(other), Relation::Same | Relation::Inside)
    }

    /// Returns the region that requests are signed for. `environment` gives the variables of the process.
    ///
    /// # Errors
    /// Nothing says it, and the server is one of AWS.
    pub(crate) fn region(
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
    pub(crate) fn key(&self, name: &str) -> String {
        format!("{}{name}", self.directory())
    }

    /// Returns what the keys of the archive begin with, the slash included.
    #[must_use]
    pub(crate) fn directory(&self) -> String {
        if self.prefix.is_empty() { String::new() } else { format!("{}/", self.prefix) }
    }

    /// Returns the server that requests go to, for a region.
    #[must_use]
    pub(crate) fn server(&self, region: &str) -> Endpoint {
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
    pub(crate) fn is_path_style(&self) -> bool {
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
    if prefix.len() > LONGEST_PREFIX {
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
