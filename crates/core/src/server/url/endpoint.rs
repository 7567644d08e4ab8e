//! A server, by the URL of `endpoint`.

use super::refused::UrlError;

/// The port of a scheme, where the endpoint names none.
const fn default_port(tls: bool) -> u16 {
    if tls { 443 } else { 80 }
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

impl Endpoint {
    /// Reads `https://host:port`.
    pub(crate) fn parse(option: &'static str, value: &str) -> Result<Self, UrlError> {
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

    /// Returns the URL, as the option is written.
    pub(crate) fn url(&self) -> String {
        format!("{}://{}", if self.tls { "https" } else { "http" }, self.authority())
    }

    /// Returns what a request's `Host` says.
    #[must_use]
    pub(crate) fn authority(&self) -> String {
        if self.port == default_port(self.tls) {
            self.name()
        } else {
            format!("{}:{}", self.name(), self.port)
        }
    }

    /// Returns the name with its port.
    #[must_use]
    pub(crate) fn with_port(&self) -> String {
        format!("{}:{}", self.name(), self.port)
    }

    fn name(&self) -> String {
        if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() }
    }
}
