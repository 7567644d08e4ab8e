//! The URL of an archive in object storage: `s3://bucket/prefix?option=value&...`, and likewise
//! `gs://bucket/prefix` and `azure://account/container/prefix`.
//!
//! A URL stands in a setting, in logs and in process titles, so a secret in it is refused, and what is refused
//! is never repeated but for the name of an option.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;

pub use self::cloud::Cloud;
pub use self::endpoint::Endpoint;
use self::refused::LONGEST_PREFIX;
pub use self::refused::UrlError;
use self::text::{is_loopback, percent_decode};

mod cloud;
mod endpoint;
mod refused;
#[cfg(test)]
mod tests;
pub(crate) mod text;

const OPEN: &str =
    "is http, which everybody on the way can read and change: use https, or add allow_http=true";

/// Where an archive lies in object storage, and how that is spoken to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectUrl {
    /// Whose storage it is.
    pub cloud: Cloud,
    /// The account that the container belongs to, where that is a part of the URL: Azure's. Otherwise empty.
    pub account: String,
    /// The bucket, which Azure calls a container.
    pub bucket: String,
    /// What every key begins with, without the slash behind it; empty for the whole bucket.
    pub prefix: String,
    /// The server; `None` for the cloud's own, at AWS of the region.
    pub endpoint: Option<Endpoint>,
    /// The region that requests are signed for; `None` if the environment is to say it.
    pub region: Option<String>,
    /// The bucket, and Azure's account, stand in the path of a request and not in the name of the host.
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
        // An endpoint may be written with the account before it.
        let host = host.strip_prefix(&format!("{}.", self.account)).unwrap_or(&host);
        let own: &[&str] = match self.cloud {
            Cloud::S3 => &[".amazonaws.com", ".amazonaws.com.cn"],
            Cloud::Azure => &["blob.core.windows.net"],
            Cloud::Google => &["storage.googleapis.com"],
        };
        let region = self.region.as_deref().unwrap_or_default();
        match (&self.endpoint, self.cloud) {
            (Some(at), _) if host == "localhost" => format!("127.0.0.1:{}", at.port),
            (Some(at), _) if !own.iter().any(|own| host.ends_with(own)) => {
                format!("{host}:{}", at.port)
            }
            (_, Cloud::Azure) => "azure".to_owned(),
            (_, Cloud::Google) => "google".to_owned(),
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
        let bucket = |url: &Self| (url.cloud, url.account.clone(), url.bucket.clone());
        if bucket(self) != bucket(other) || self.owner_of_buckets() != other.owner_of_buckets() {
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

    /// Returns the region that requests are signed for, which is empty where that plays no part. `environment`
    /// gives the variables of the process.
    ///
    /// # Errors
    /// Nothing says it, and the server is one of AWS.
    pub(crate) fn region(
        &self,
        environment: impl Fn(&str) -> Option<String>,
    ) -> Result<String, UrlError> {
        if self.cloud != Cloud::S3 {
            return Ok(String::new());
        }
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
            let host = match self.cloud {
                Cloud::S3 if region.starts_with("cn-") => format!("s3.{region}.amazonaws.com.cn"),
                Cloud::S3 => format!("s3.{region}.amazonaws.com"),
                Cloud::Azure => "blob.core.windows.net".to_owned(),
                Cloud::Google => "storage.googleapis.com".to_owned(),
            };
            Endpoint { tls: true, host, port: 443 }
        });
        let before = match self.cloud {
            Cloud::S3 => &self.bucket,
            Cloud::Azure => &self.account,
            Cloud::Google => return server,
        };
        let is_there = self.cloud == Cloud::Azure && server.host.starts_with(&format!("{before}."));
        if self.is_path_style() || is_there {
            server
        } else {
            Endpoint { host: format!("{before}.{}", server.host), ..server }
        }
    }

    /// Returns whether the bucket, and Azure's account, stand in the path. An address has no names under it, and
    /// the certificates of AWS do not fit a bucket with dots in its name.
    pub(crate) fn is_path_style(&self) -> bool {
        let addressed = self.endpoint.as_ref().is_some_and(|at| {
            at.host.parse::<IpAddr>().is_ok() || at.host.eq_ignore_ascii_case("localhost")
        });
        let dotted = self.cloud == Cloud::S3
            && self.bucket.contains('.')
            && self.endpoint.as_ref().is_none_or(|endpoint| endpoint.tls);
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
            "storage_class" => match self.cloud.refuses_class(&value) {
                Some(why) => return wrong(why),
                None => self.storage_class = Some(value),
            },
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
            _ => return Err(UrlError::UnknownOption { cloud: self.cloud, name: name.to_owned() }),
        }
        Ok(())
    }
}

impl FromStr for ObjectUrl {
    type Err = UrlError;

    fn from_str(text: &str) -> Result<Self, UrlError> {
        let Some((cloud, rest)) = Cloud::of(text) else {
            // Whoever writes the storage's own URL may have written its secrets, too.
            let query = text.split_once('?').map_or("", |(_, query)| query);
            let secret = names_of(query).any(is_secret);
            return Err(if secret { UrlError::Secret } else { UrlError::Scheme });
        };
        let secret = rest.split_once('?').is_some_and(|(_, query)| names_of(query).any(is_secret));
        if secret {
            return Err(UrlError::Secret);
        }
        if rest.contains('#') {
            return Err(UrlError::Fragment);
        }
        let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (account, place) = match cloud {
            Cloud::Azure => {
                let (account, place) = place.split_once('/').unwrap_or((place, ""));
                check_account(account)?;
                (account, place)
            }
            _ => ("", place),
        };
        let (bucket, prefix) = place.split_once('/').unwrap_or((place, ""));
        check_bucket(cloud, bucket)?;
        // "s3://bucket/prefix/" means what "s3://bucket/prefix" means.
        let prefix = prefix.strip_suffix('/').unwrap_or(prefix);
        check_prefix(cloud, prefix)?;
        let mut url = Self {
            cloud,
            account: account.to_owned(),
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
            let known = cloud.options().iter().copied().find(|known| *known == name);
            let Some(known) = known else { return Err(refused_option(cloud, name)) };
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
        if cloud == Cloud::S3
            && url.kms_key.is_some()
            && url.encryption != Some(Encryption::Managed)
        {
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
        write!(f, "{}://", self.cloud.scheme())?;
        if !self.account.is_empty() {
            write!(f, "{}/", self.account)?;
        }
        f.write_str(&self.bucket)?;
        if self.prefix.is_empty() { Ok(()) } else { write!(f, "/{}", self.prefix) }
    }
}

fn check_account(account: &str) -> Result<(), UrlError> {
    if account.contains('@') || account.contains(':') {
        return Err(UrlError::Secret);
    }
    let fits = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let fits = (3..=24).contains(&account.len()) && account.bytes().all(fits);
    if fits { Ok(()) } else { Err(UrlError::Account) }
}

fn check_bucket(cloud: Cloud, bucket: &str) -> Result<(), UrlError> {
    if bucket.contains('@') || bucket.contains(':') {
        return Err(UrlError::Secret);
    }
    if cloud == Cloud::S3 && bucket.ends_with("--x-s3") {
        return Err(UrlError::DirectoryBucket);
    }
    let (others, doubled, wrong): (&[u8], _, _) = match cloud {
        Cloud::S3 => (b".-", "..", UrlError::Bucket),
        Cloud::Azure => (b"-", "--", UrlError::Container),
        Cloud::Google => (b".-_", "..", UrlError::Bucket),
    };
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || others.contains(&b);
    let ends = bucket.starts_with(['.', '-']) || bucket.ends_with(['.', '-']);
    let fits = (3..=63).contains(&bucket.len()) && bucket.bytes().all(inner) && !ends;
    if fits && !bucket.contains(doubled) { Ok(()) } else { Err(wrong) }
}

fn check_prefix(cloud: Cloud, prefix: &str) -> Result<(), UrlError> {
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
            // Some of Azure's own ways to it drop the dot.
            part if cloud == Cloud::Azure && part.ends_with('.') => return Err(UrlError::LastDot),
            _ => {}
        }
    }
    Ok(())
}

fn names_of(query: &str) -> impl Iterator<Item = &str> {
    query.split('&').map(|option| option.split_once('=').map_or(option, |(name, _)| name))
}

/// Returns whether the name of an option promises a secret. Those of a signature are seldom the first ones.
fn is_secret(name: &str) -> bool {
    let lower = name.to_ascii_lowercase();
    let has = |word: &str| lower.contains(word);
    let is_customers = has("sse_c") || has("sse-c") || has("customer");
    let words = [
        "secret",
        "password",
        "token",
        "access_key",
        "accesskey",
        "account_key",
        "accountkey",
        "key_id",
        "signature",
    ];
    !is_customers && (lower == "sig" || words.into_iter().any(has))
}

/// Names an option that is not known.
fn refused_option(cloud: Cloud, name: &str) -> UrlError {
    let lower = name.to_ascii_lowercase();
    let has = |word: &str| lower.contains(word);
    if cloud == Cloud::S3 && (has("sse_c") || has("sse-c") || has("customer")) {
        return UrlError::CustomerKey;
    }
    let shown: String =
        name.chars().filter(|c| c.is_ascii_alphanumeric() || "_-".contains(*c)).take(32).collect();
    UrlError::UnknownOption { cloud, name: shown }
}

fn boolean(option: &'static str, value: &str) -> Result<bool, UrlError> {
    match value {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => Err(UrlError::Value(option, "is neither \"true\" nor \"false\"")),
    }
}
