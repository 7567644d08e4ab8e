//! What S3's answers mean. The one table, by code: a number alone decides nothing, because proxies and servers give
//! the same numbers for different reasons.

use crate::error::ErrorKind;
use crate::store::object::ask::{Asked, Meaning};

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
