//! What an answer means. Each cloud has one table for that, by code (`cloud`): a number alone decides nothing, because
//! proxies and servers give the same numbers for different reasons.

use std::time::{Duration, SystemTime};

use super::ask::{Ask, Asked, Meaning, shown};
use super::cloud::Dialect;
use super::wire::{Failure, Reply};
use crate::error::{ErrorKind, Refusal};
use crate::server::url::text::http_date;

/// What an answer, or the lack of one, says of itself. No more of it is ever shown.
#[derive(Debug, Clone)]
pub(super) struct Said {
    pub(super) meaning: Meaning,
    status: u16,
    code: String,
    request_id: Option<String>,
    host: String,
    /// What the server's clock said.
    clock: Option<SystemTime>,
    /// The region that the bucket is in, if the server says it.
    region: Option<String>,
    /// How long it asks to be left alone.
    pub(super) retry_after: Option<Duration>,
    /// It is a request too many.
    pub(super) throttled: bool,
}

/// No error is longer than this.
const LONGEST: usize = 64 << 10;

impl Said {
    /// Reads an answer that is no object: the body of one that is is left alone.
    ///
    /// # Errors
    /// The answer ended before its end.
    pub(super) fn of(
        dialect: &dyn Dialect,
        ask: &Ask<'_>,
        reply: &mut Reply,
    ) -> Result<Self, Failure> {
        let asked = ask.asked;
        let is_object = match asked {
            Asked::Read => reply.status == 200,
            Asked::FirstByte => matches!(reply.status, 200 | 206),
            Asked::Publish | Asked::Remove => false,
        };
        let body = if is_object {
            Vec::new()
        } else {
            let host = || reply.host.clone();
            let body = reply.body.read_at_most(LONGEST);
            body.map_err(|source| Failure::Cut { host: host(), source, reused: false })?
        };
        let mut code = if is_object { String::new() } else { dialect.code(reply, &body) };
        let header = |name: &str| reply.header(name).map(shown);
        let status = reply.status;
        let clock = reply.header("date").and_then(http_date);
        let mut meaning = dialect.meaning(asked, status, &code);
        if dialect.may_be_the_clock(&code) && clock.is_some_and(is_far) {
            meaning = Meaning::Trouble(ErrorKind::ClockSkew);
        }
        // Anything between here and the storage may say 200 as well.
        let is_stored = asked == Asked::Publish && meaning == Meaning::Success;
        if is_stored && !dialect.confirms(ask, &body) {
            meaning = Meaning::Unknown;
            code = "without what was stored".to_owned();
        }
        Ok(Self {
            meaning,
            status,
            request_id: header(dialect.request_id()).filter(|id| !id.is_empty()),
            host: reply.host.clone(),
            clock,
            region: dialect.region(reply).map(shown),
            retry_after: reply.retry_after(),
            throttled: dialect.is_throttling(status, &code),
            code,
        })
    }

    /// Reads the code of an error that stands where a listing was to stand: the number was sent before.
    pub(super) fn instead_of_a_listing(
        dialect: &dyn Dialect,
        host: &str,
        body: &[u8],
    ) -> Option<Refusal> {
        let code = dialect.code_in_page(body);
        let kind = match dialect.meaning(Asked::Read, 200, &code) {
            Meaning::Trouble(kind) | Meaning::Renew(kind) => kind,
            Meaning::TryAgain | Meaning::Unknown => ErrorKind::StorageBusy,
            Meaning::Success | Meaning::Exists | Meaning::Absent => return None,
        };
        Some(Refusal { kind, text: format!("{host} answered 200 {code}"), request_id: None })
    }

    /// Words the answer as the reason of an error.
    pub(super) fn refusal(&self, kind: ErrorKind) -> Refusal {
        let code = if self.code.is_empty() { "without a code" } else { &self.code };
        let mut text = format!("{} answered {} {code}", self.host, self.status);
        match (kind, self.clock, &self.region) {
            (ErrorKind::ClockSkew, Some(theirs), _) => {
                let [theirs, ours] = [theirs, SystemTime::now()]
                    .map(|clock| humantime::format_rfc3339_seconds(clock).to_string());
                text.push_str(&format!("; its clock says {theirs}, and this machine's {ours}"));
            }
            (ErrorKind::WrongServer, _, Some(region)) => {
                text.push_str(&format!("; the bucket is in region {region}"));
            }
            _ => {}
        }
        Refusal { kind, text, request_id: self.request_id.clone() }
    }
}

/// Returns whether a server's clock is so far from ours that it refuses what we sign.
fn is_far(theirs: SystemTime) -> bool {
    const FAR: Duration = Duration::from_secs(15 * 60);
    let ours = SystemTime::now();
    let apart = ours.duration_since(theirs).or_else(|_| theirs.duration_since(ours));
    apart.is_ok_and(|apart| apart > FAR)
}

/// Words the lack of an answer, which was to be one of this server's, as the reason of an error.
pub(super) fn refusal(whose: &str, failure: &Failure) -> Refusal {
    let (kind, text) = match failure {
        Failure::Unknown { host, source } => {
            (ErrorKind::Unreachable, format!("the name of {host} cannot be looked up: {source}"))
        }
        Failure::Unreachable { host, source } => {
            (ErrorKind::Unreachable, format!("{host} cannot be reached: {source}"))
        }
        Failure::Certificate { host, reason } => {
            (ErrorKind::CertificateRefused, format!("the certificate of {host}: {reason}"))
        }
        Failure::Proxy { host, status } => {
            (ErrorKind::Unreachable, format!("the proxy {host} answered {status}"))
        }
        Failure::Cut { host, source, .. } => (
            ErrorKind::Unreachable,
            format!("the connection to {host} broke before the answer: {source}"),
        ),
        Failure::Unmade { reason } => {
            (ErrorKind::RequestRefused, format!("the request cannot be made: {reason}"))
        }
        Failure::Garbled { host, what } => {
            (ErrorKind::RequestRefused, format!("the answer of {host} is not {whose}'s: {what}"))
        }
    };
    Refusal { kind, text, request_id: None }
}

/// Returns whether a request without an answer may help when it is sent again.
pub(super) fn may_pass(failure: &Failure) -> bool {
    use Failure::{Certificate, Garbled, Unmade};
    !matches!(failure, Certificate { .. } | Garbled { .. } | Unmade { .. })
}
