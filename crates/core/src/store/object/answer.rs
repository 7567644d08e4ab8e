//! What an answer means. The one table, by code: a number alone decides nothing, because proxies and servers give
//! the same numbers for different reasons.

use std::time::{Duration, SystemTime};

use super::wire::{Failure, Reply};
use super::xml;
use crate::error::{ErrorKind, Refusal};
use crate::server::url::text::http_date;

/// What an answer means to the request that it answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Meaning {
    /// It was done.
    Success,
    /// Nothing was done: the name is taken.
    Exists,
    /// There is no such object, and its bucket is there.
    Absent,
    /// Nothing was done, because another request was under way: to be tried again.
    TryAgain,
    /// It may have been done or not: to be tried again, and then looked at.
    Unknown,
    /// The credentials may have run out, or been replaced: to be tried again with new ones, once.
    Renew(ErrorKind),
    /// It was not done, and will not be.
    Trouble(ErrorKind),
}

/// What was asked for, as far as answers differ in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asked {
    /// An object, or a listing.
    Read,
    /// The first byte of an object.
    FirstByte,
    /// A PUT that must not replace.
    Publish,
    /// A DELETE, of a probe.
    Remove,
}

/// Returns what an answer means, by its number and its code, which is empty if it has none.
pub(super) fn meaning(asked: Asked, status: u16, code: &str) -> Meaning {
    use Meaning::{Absent, Exists, Renew, Success, Trouble, TryAgain, Unknown};
    match (asked, status, code) {
        (Asked::Read | Asked::FirstByte | Asked::Publish, 200, "") => Success,
        // Of an empty object there is none, which a GET of all of it has to show.
        (Asked::FirstByte, 206, "") | (Asked::FirstByte, 416, _) => Success,
        (Asked::Publish, 412, "PreconditionFailed") => Exists,
        (Asked::Publish, 409, "ConditionalRequestConflict" | "OperationAborted") => TryAgain,
        // What is not there is removed.
        (Asked::Remove, 200 | 204, "") | (Asked::Remove, 404, "NoSuchKey") => Success,
        (Asked::Read | Asked::FirstByte, 404, "NoSuchKey") => Absent,
        // Nor has the bucket such rules.
        (
            Asked::Read,
            404,
            "NoSuchLifecycleConfiguration" | "ObjectLockConfigurationNotFoundError",
        ) => Absent,
        // A server without conditional PUTs says so at best.
        (Asked::Publish, 501, _) | (Asked::Publish, _, "NotImplemented") => {
            Trouble(ErrorKind::ConditionIgnored)
        }
        (_, _, "NoSuchBucket") => Trouble(ErrorKind::BucketMissing),
        (_, _, "RequestTimeTooSkewed") => Trouble(ErrorKind::ClockSkew),
        (
            _,
            _,
            "ExpiredToken"
            | "InvalidToken"
            | "TokenRefreshRequired"
            | "InvalidAccessKeyId"
            | "SignatureDoesNotMatch"
            | "RequestExpired"
            | "InvalidSecurity",
        ) => Renew(ErrorKind::CredentialsRefused),
        (_, _, "InvalidObjectState") => Trouble(ErrorKind::ColdObject),
        (_, _, "PermanentRedirect" | "TemporaryRedirect" | "AuthorizationHeaderMalformed")
        | (_, 300..=399, _) => Trouble(ErrorKind::WrongServer),
        (_, 401 | 403, _) => Renew(ErrorKind::RequestForbidden),
        (_, _, "RequestTimeout" | "SlowDown" | "InternalError" | "ServiceUnavailable")
        | (_, 408 | 429 | 500 | 502..=599, _) => Unknown,
        _ => Trouble(ErrorKind::RequestRefused),
    }
}

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
    pub(super) fn of(asked: Asked, reply: &mut Reply) -> Result<Self, Failure> {
        let is_object = match asked {
            Asked::Read => reply.status == 200,
            Asked::FirstByte => matches!(reply.status, 200 | 206),
            Asked::Publish | Asked::Remove => false,
        };
        let code = if is_object {
            String::new()
        } else {
            let host = || reply.host.clone();
            let body = reply.body.read_at_most(LONGEST);
            let body =
                body.map_err(|source| Failure::Cut { host: host(), source, reused: false })?;
            xml::error_code(&body)
        };
        let header = |name: &str| reply.header(name).map(shown);
        let seconds = reply.header("retry-after").and_then(|value| value.parse().ok());
        let status = reply.status;
        Ok(Self {
            meaning: meaning(asked, status, &code),
            status,
            request_id: header("x-amz-request-id").filter(|id| !id.is_empty()),
            host: reply.host.clone(),
            clock: reply.header("date").and_then(http_date),
            region: header("x-amz-bucket-region"),
            retry_after: seconds.map(Duration::from_secs),
            throttled: status == 429 || code == "SlowDown",
            code,
        })
    }

    /// Reads the code of an error that stands where a listing was to stand: the number was sent before.
    pub(super) fn instead_of_a_listing(host: &str, body: &[u8]) -> Option<Refusal> {
        let code = xml::error_code(body);
        let kind = match meaning(Asked::Read, 200, &code) {
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

/// Returns what of a server's word may be shown.
pub(super) fn shown(text: &str) -> String {
    text.chars().filter(char::is_ascii_graphic).take(100).collect()
}

/// Words the lack of an answer as the reason of an error.
pub(super) fn refusal(failure: &Failure) -> Refusal {
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
            (ErrorKind::RequestRefused, format!("the answer of {host} is not S3's: {what}"))
        }
    };
    Refusal { kind, text, request_id: None }
}

/// Returns whether a request without an answer may help when it is sent again.
pub(super) fn may_pass(failure: &Failure) -> bool {
    use Failure::{Certificate, Garbled, Unmade};
    !matches!(failure, Certificate { .. } | Garbled { .. } | Unmade { .. })
}

#[cfg(test)]
mod tests {
    use super::Asked::{Publish, Read, Remove};
    use super::*;

    #[test]
    fn a_meaning_is_by_code_and_not_by_number_alone() {
        let trouble = Meaning::Trouble;
        for (asked, status, code, expected) in [
            (Publish, 200, "", Meaning::Success),
            // AWS may find out after it has begun to answer.
            (Publish, 200, "InternalError", Meaning::Unknown),
            (Publish, 201, "", trouble(ErrorKind::RequestRefused)),
            (Publish, 204, "", trouble(ErrorKind::RequestRefused)),
            (Publish, 412, "PreconditionFailed", Meaning::Exists),
            (Publish, 412, "", trouble(ErrorKind::RequestRefused)),
            (Publish, 409, "ConditionalRequestConflict", Meaning::TryAgain),
            (Publish, 409, "BucketAlreadyExists", trouble(ErrorKind::RequestRefused)),
            (Publish, 409, "", trouble(ErrorKind::RequestRefused)),
            (Publish, 501, "NotImplemented", trouble(ErrorKind::ConditionIgnored)),
            (Publish, 404, "NoSuchKey", trouble(ErrorKind::RequestRefused)),
            (Publish, 404, "NoSuchBucket", trouble(ErrorKind::BucketMissing)),
            (Publish, 400, "RequestTimeout", Meaning::Unknown),
            (Publish, 408, "", Meaning::Unknown),
            (Publish, 429, "", Meaning::Unknown),
            (Publish, 500, "InternalError", Meaning::Unknown),
            (Publish, 503, "SlowDown", Meaning::Unknown),
            (Publish, 307, "TemporaryRedirect", trouble(ErrorKind::WrongServer)),
            (Publish, 302, "", trouble(ErrorKind::WrongServer)),
            (Publish, 400, "InvalidDigest", trouble(ErrorKind::RequestRefused)),
            (Read, 200, "", Meaning::Success),
            (Read, 206, "", trouble(ErrorKind::RequestRefused)),
            (Read, 404, "NoSuchKey", Meaning::Absent),
            (Read, 404, "", trouble(ErrorKind::RequestRefused)),
            (Read, 404, "NoSuchBucket", trouble(ErrorKind::BucketMissing)),
            (Read, 412, "PreconditionFailed", trouble(ErrorKind::RequestRefused)),
            (Read, 403, "InvalidObjectState", trouble(ErrorKind::ColdObject)),
            // Who may not list a bucket is told this of a missing key: no absence.
            (Read, 403, "AccessDenied", Meaning::Renew(ErrorKind::RequestForbidden)),
            (Read, 403, "", Meaning::Renew(ErrorKind::RequestForbidden)),
            (Read, 400, "ExpiredToken", Meaning::Renew(ErrorKind::CredentialsRefused)),
            (Read, 403, "SignatureDoesNotMatch", Meaning::Renew(ErrorKind::CredentialsRefused)),
            (Read, 403, "RequestTimeTooSkewed", trouble(ErrorKind::ClockSkew)),
            (Read, 501, "NotImplemented", trouble(ErrorKind::RequestRefused)),
            (Read, 503, "", Meaning::Unknown),
            (Read, 404, "NoSuchLifecycleConfiguration", Meaning::Absent),
            (Remove, 204, "", Meaning::Success),
            (Remove, 404, "NoSuchKey", Meaning::Success),
            (Remove, 404, "NoSuchBucket", trouble(ErrorKind::BucketMissing)),
            (Remove, 403, "AccessDenied", Meaning::Renew(ErrorKind::RequestForbidden)),
        ] {
            assert_eq!(meaning(asked, status, code), expected, "{asked:?} {status} {code}");
        }
    }
}
