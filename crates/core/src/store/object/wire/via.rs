//! The way to a server: by a proxy or not.

use std::fmt;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;

use crate::server::url::Endpoint;
use crate::server::url::Proxy;
use crate::server::url::text::{is_loopback, percent_decode};

/// The way to servers.
#[derive(Debug, Default)]
pub(in crate::store::object) struct Via {
    proxy: Option<Through>,
    /// The hosts that are not reached by the proxy.
    without: Vec<String>,
}

/// A proxy, and what it wants to be shown.
pub(super) struct Through {
    pub(super) at: Endpoint,
    pub(super) authorization: Option<String>,
}

impl fmt::Debug for Through {
    /// Without the password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Through").field("at", &self.at).finish_non_exhaustive()
    }
}

impl Via {
    /// Decides on the way, for servers under TLS or not. `environment` gives the variables of the process. A
    /// proxy in the environment that cannot be used is passed over.
    pub(in crate::store::object) fn new(
        proxy: &Proxy,
        tls: bool,
        environment: impl Fn(&str) -> Option<String>,
    ) -> Self {
        let variable = |names: &[&str]| {
            names.iter().copied().filter_map(&environment).find(|value| !value.is_empty())
        };
        let proxy = match proxy {
            Proxy::Never => None,
            Proxy::At(at) => Some(Through { at: at.clone(), authorization: None }),
            // HTTP_PROXY in capitals is what a web server's client can set.
            Proxy::Environment if tls => {
                variable(&["HTTPS_PROXY", "https_proxy"]).and_then(|value| Through::parse(&value))
            }
            Proxy::Environment => {
                variable(&["http_proxy"]).and_then(|value| Through::parse(&value))
            }
        };
        let without = variable(&["NO_PROXY", "no_proxy"]).unwrap_or_default();
        let without = without.split([',', ' ']).filter(|host| !host.is_empty());
        Self { proxy, without: without.map(str::to_ascii_lowercase).collect() }
    }

    /// Returns the proxy by which a server is reached; `None` if by none.
    pub(super) fn proxy(&self, server: &Endpoint) -> Option<&Through> {
        let host = server.host.to_ascii_lowercase();
        let spared = |entry: &String| {
            let entry = entry.strip_suffix(&format!(":{}", server.port)).unwrap_or(entry);
            let domain = entry.trim_start_matches("*.").trim_start_matches('.');
            entry == "*" || host == domain || host.ends_with(&format!(".{domain}"))
        };
        let direct = is_loopback(&host) || self.without.iter().any(spared);
        self.proxy.as_ref().filter(|_| !direct)
    }

    /// Returns what stands before the path of a request that a proxy is to forward, and the header that the
    /// proxy wants; `None` if a request goes to the server itself, or through a tunnel.
    pub(super) fn forwarded(&self, server: &Endpoint) -> Option<(String, Option<&str>)> {
        let proxy = self.proxy(server).filter(|_| !server.tls)?;
        Some((format!("http://{}", server.authority()), proxy.authorization.as_deref()))
    }
}

impl Through {
    /// Reads `http://user:password@host:port`. The environment may hold what a setting may not.
    fn parse(value: &str) -> Option<Self> {
        let rest = value.strip_prefix("http://").unwrap_or(value);
        let (user, host) = match rest.rsplit_once('@') {
            Some((user, host)) => (Some(user), host),
            None => (None, rest),
        };
        let at = Endpoint::parse("proxy", &format!("http://{host}")).ok()?;
        let authorization = match user {
            Some(user) => Some(format!("Basic {}", BASE64_STANDARD.encode(percent_decode(user)?))),
            None => None,
        };
        Some(Self { at, authorization })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn at(host: &str) -> Endpoint {
        Endpoint { tls: true, host: host.to_owned(), port: 443 }
    }

    #[test]
    fn the_environment_says_which_servers_are_reached_by_the_proxy() {
        let environment = |name: &str| match name {
            "HTTPS_PROXY" => Some("http://me:p%40ss@proxy:3128".to_owned()),
            "NO_PROXY" => Some("intern.example.com,.corp, 10.0.0.1".to_owned()),
            _ => None,
        };
        let via = Via::new(&Proxy::Environment, true, environment);
        let proxy = via.proxy(&at("s3.eu-west-1.amazonaws.com")).unwrap();
        assert_eq!(proxy.at.with_port(), "proxy:3128");
        assert_eq!(proxy.authorization.as_deref(), Some("Basic bWU6cEBzcw=="));
        assert!(!format!("{via:?}").contains("bWU6"), "{via:?}");
        for host in ["intern.example.com", "a.corp", "10.0.0.1", "127.0.0.1", "::1", "localhost"] {
            assert!(via.proxy(&at(host)).is_none(), "{host}");
        }
        assert!(Via::new(&Proxy::Never, true, environment).proxy(&at("x.example.com")).is_none());
        // A request that is sent without TLS is not what HTTPS_PROXY is for.
        assert!(Via::new(&Proxy::Environment, false, environment).proxy(&at("x")).is_none());
    }
}
