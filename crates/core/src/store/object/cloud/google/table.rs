//! What the answers of Google Cloud Storage mean.
//!
//! The codes are the reasons of the JSON API, in small letters, and the codes of the XML API, which begin with a
//! capital one.

use crate::error::ErrorKind;
use crate::store::object::ask::{Asked, Meaning};

/// Codes of what is too much at the moment.
pub(super) const LIMITS: [&str; 4] = [
    "rateLimitExceeded",
    "userRateLimitExceeded",
    "usageLimits.rateLimitExceeded",
    "usageLimits.userRateLimitExceeded",
];

/// Whoever may not remove objects is told this in place of "exists": to store under a name that is taken takes the
/// right to remove what has it, and the condition is looked at later. (So Google describes the request; it was not
/// tried.)
const MAY_NOT_REPLACE: &str = "forbidden storage.objects.delete";

/// An object that is held cannot be replaced, and it may be told so before the condition is looked at. (Not tried.)
const HELD: [&str; 3] =
    ["retentionPolicyNotMet", "objectUnderActiveHold", "forbidden retentionPolicy"];

/// Returns what an answer means, by its number and its code, which is empty if it has none.
pub(super) fn meaning(asked: Asked, status: u16, code: &str) -> Meaning {
    use Meaning::{Absent, Exists, Renew, Success, Trouble, Unknown};
    match (asked, status, code) {
        (Asked::Read | Asked::FirstByte | Asked::Publish, 200, "") => Success,
        // Of an empty object there is none, which a GET of all of it has to show.
        (Asked::FirstByte, 206, "") | (Asked::FirstByte, 416, _) => Success,
        (Asked::Publish, 412, "conditionNotMet") | (Asked::Publish, 403, MAY_NOT_REPLACE) => Exists,
        (Asked::Publish, 403, code) if HELD.contains(&code) => Exists,
        // What is not there is removed.
        (Asked::Remove, 200 | 204, "") | (Asked::Remove, 404, "NoSuchKey") => Success,
        (Asked::Read | Asked::FirstByte, 404, "NoSuchKey") => Absent,
        // By the JSON API nothing is asked for but buckets.
        (Asked::Publish | Asked::Read, 404, "notFound") | (_, 404, "NoSuchBucket") => {
            Trouble(ErrorKind::BucketMissing)
        }
        (_, 401, _) => Renew(ErrorKind::CredentialsRefused),
        (_, 403, code) if LIMITS.contains(&code) => Unknown,
        (_, 403, _) => Renew(ErrorKind::RequestForbidden),
        (_, _, "uploadBrokenConnection" | "backendError" | "internalError" | "InternalError")
        | (_, 408 | 429 | 500 | 502..=599, _) => Unknown,
        _ => Trouble(ErrorKind::RequestRefused),
    }
}

#[cfg(test)]
mod tests {
    use super::Asked::{FirstByte, Publish, Read, Remove};
    use super::*;

    #[test]
    fn a_meaning_is_by_code_and_not_by_number_alone() {
        let trouble = Meaning::Trouble;
        for (asked, status, code, expected) in [
            (Publish, 200, "", Meaning::Success),
            (Publish, 200, "backendError", Meaning::Unknown),
            (Publish, 200, "an error without a code", trouble(ErrorKind::RequestRefused)),
            (Publish, 201, "", trouble(ErrorKind::RequestRefused)),
            (Publish, 412, "conditionNotMet", Meaning::Exists),
            (Publish, 412, "orgPolicyConstraintFailed", trouble(ErrorKind::RequestRefused)),
            (Publish, 412, "", trouble(ErrorKind::RequestRefused)),
            (Publish, 400, "invalid", trouble(ErrorKind::RequestRefused)),
            (Publish, 404, "notFound", trouble(ErrorKind::BucketMissing)),
            (Publish, 404, "", trouble(ErrorKind::RequestRefused)),
            (Publish, 403, "forbidden", Meaning::Renew(ErrorKind::RequestForbidden)),
            (Publish, 403, "forbidden storage.objects.delete", Meaning::Exists),
            (
                Publish,
                403,
                "forbidden storage.objects.create",
                Meaning::Renew(ErrorKind::RequestForbidden),
            ),
            (Publish, 403, "retentionPolicyNotMet", Meaning::Exists),
            (Publish, 403, "objectUnderActiveHold", Meaning::Exists),
            (Publish, 403, "forbidden retentionPolicy", Meaning::Exists),
            (Remove, 403, "retentionPolicyNotMet", Meaning::Renew(ErrorKind::RequestForbidden)),
            (Publish, 403, "rateLimitExceeded", Meaning::Unknown),
            (Publish, 401, "authError", Meaning::Renew(ErrorKind::CredentialsRefused)),
            (Publish, 408, "uploadBrokenConnection", Meaning::Unknown),
            (Publish, 408, "", Meaning::Unknown),
            (Publish, 409, "conflict", trouble(ErrorKind::RequestRefused)),
            (Publish, 429, "rateLimitExceeded", Meaning::Unknown),
            (Publish, 503, "backendError", Meaning::Unknown),
            (Publish, 501, "", trouble(ErrorKind::RequestRefused)),
            (Publish, 307, "", trouble(ErrorKind::RequestRefused)),
            (Read, 200, "", Meaning::Success),
            (Read, 206, "", trouble(ErrorKind::RequestRefused)),
            (Read, 404, "NoSuchKey", Meaning::Absent),
            (Read, 404, "NoSuchBucket", trouble(ErrorKind::BucketMissing)),
            (Read, 404, "notFound", trouble(ErrorKind::BucketMissing)),
            (Read, 404, "", trouble(ErrorKind::RequestRefused)),
            (Read, 412, "PreconditionFailed", trouble(ErrorKind::RequestRefused)),
            // Who may not list a bucket is told this of a missing object: no absence.
            (Read, 403, "AccessDenied", Meaning::Renew(ErrorKind::RequestForbidden)),
            (Read, 403, "", Meaning::Renew(ErrorKind::RequestForbidden)),
            (Read, 503, "", Meaning::Unknown),
            (FirstByte, 206, "", Meaning::Success),
            (FirstByte, 416, "InvalidRange", Meaning::Success),
            (FirstByte, 404, "NoSuchKey", Meaning::Absent),
            (FirstByte, 404, "notFound", trouble(ErrorKind::RequestRefused)),
            (Remove, 204, "", Meaning::Success),
            (Remove, 404, "NoSuchKey", Meaning::Success),
            (Remove, 404, "", trouble(ErrorKind::RequestRefused)),
            (Remove, 403, "AccessDenied", Meaning::Renew(ErrorKind::RequestForbidden)),
        ] {
            assert_eq!(meaning(asked, status, code), expected, "{asked:?} {status} {code}");
        }
    }
}
