//! What Azure's answers mean. The one table, by code: a number alone decides nothing.

use crate::error::ErrorKind;
use crate::store::object::ask::{Asked, Meaning};

/// Returns what an answer means, by its number and its code, which is empty if it has none.
pub(super) fn meaning(asked: Asked, status: u16, code: &str) -> Meaning {
    use Meaning::{Absent, Exists, Renew, Success, Trouble, Unknown};
    match (asked, status, code) {
        (Asked::Read | Asked::FirstByte, 200, "") => Success,
        (Asked::Publish, 201, "") => Success,
        // Of an empty blob there is no first byte, which a GET of all of it has to show.
        (Asked::FirstByte, 206, "") | (Asked::FirstByte, 416, "InvalidRange") => Success,
        (Asked::Publish, 409, "BlobAlreadyExists") => Exists,
        // So who may create blobs and not write them, which is all that is needed, is told of one that is there.
        (Asked::Publish, 403, "UnauthorizedBlobOverwrite") => Exists,
        // A blob under a policy cannot be replaced, and it may be told so before the condition is looked at. (Not
        // tried.)
        (Asked::Publish, 409, "BlobImmutableDueToPolicy") => Exists,
        // What is not there is removed.
        (Asked::Remove, 202, "") | (Asked::Remove, 404, "BlobNotFound") => Success,
        (Asked::Read | Asked::FirstByte, 404, "BlobNotFound") => Absent,
        // A server without conditional PUTs says so at best.
        (Asked::Publish, 501, _) => Trouble(ErrorKind::ConditionIgnored),
        (_, _, "ContainerNotFound" | "ContainerBeingDeleted" | "ContainerDisabled") => {
            Trouble(ErrorKind::BucketMissing)
        }
        (
            _,
            _,
            "AuthenticationFailed"
            | "InvalidAuthenticationInfo"
            | "NoAuthenticationInformation"
            | "KeyBasedAuthenticationNotPermitted",
        ) => Renew(ErrorKind::CredentialsRefused),
        (_, _, "BlobArchived" | "BlobBeingRehydrated") => Trouble(ErrorKind::ColdObject),
        (_, 300..=399, _) => Trouble(ErrorKind::WrongServer),
        (_, 401 | 403, _) => Renew(ErrorKind::RequestForbidden),
        (_, _, "ServerBusy" | "OperationTimedOut" | "InternalError")
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
        let refused = trouble(ErrorKind::RequestRefused);
        let forbidden = Meaning::Renew(ErrorKind::RequestForbidden);
        let keys = Meaning::Renew(ErrorKind::CredentialsRefused);
        for (asked, status, code, expected) in [
            (Publish, 201, "", Meaning::Success),
            // Only one number says that a blob was made.
            (Publish, 200, "", refused),
            (Publish, 202, "", refused),
            (Publish, 201, "InternalError", Meaning::Unknown),
            (Publish, 409, "BlobAlreadyExists", Meaning::Exists),
            (Publish, 409, "", refused),
            (Publish, 409, "BlobImmutableDueToPolicy", Meaning::Exists),
            (Publish, 409, "InvalidBlobType", refused),
            (Publish, 409, "AccountBeingCreated", refused),
            (Publish, 412, "ConditionNotMet", refused),
            (Publish, 412, "LeaseIdMissing", refused),
            (Publish, 403, "UnauthorizedBlobOverwrite", Meaning::Exists),
            (Publish, 409, "ContainerBeingDeleted", trouble(ErrorKind::BucketMissing)),
            (Publish, 404, "ContainerNotFound", trouble(ErrorKind::BucketMissing)),
            (Publish, 404, "ResourceNotFound", refused),
            (Publish, 400, "Md5Mismatch", refused),
            (Publish, 501, "", trouble(ErrorKind::ConditionIgnored)),
            (Publish, 503, "ServerBusy", Meaning::Unknown),
            (Publish, 500, "OperationTimedOut", Meaning::Unknown),
            (Publish, 500, "InternalError", Meaning::Unknown),
            (Publish, 408, "", Meaning::Unknown),
            (Publish, 429, "TooManyRequests", Meaning::Unknown),
            (Publish, 307, "", trouble(ErrorKind::WrongServer)),
            (Read, 200, "", Meaning::Success),
            (Read, 206, "", refused),
            (Read, 404, "BlobNotFound", Meaning::Absent),
            (Read, 404, "", refused),
            (Read, 404, "ResourceNotFound", refused),
            (Read, 404, "ContainerNotFound", trouble(ErrorKind::BucketMissing)),
            (Read, 409, "BlobArchived", trouble(ErrorKind::ColdObject)),
            (Read, 409, "BlobBeingRehydrated", trouble(ErrorKind::ColdObject)),
            (Read, 412, "ConditionNotMet", refused),
            (Read, 416, "InvalidRange", refused),
            (Read, 403, "AuthenticationFailed", keys),
            (Read, 403, "KeyBasedAuthenticationNotPermitted", keys),
            (Read, 401, "NoAuthenticationInformation", keys),
            (Read, 403, "AuthorizationPermissionMismatch", forbidden),
            (Read, 403, "AuthorizationFailure", forbidden),
            (Read, 403, "", forbidden),
            (FirstByte, 206, "", Meaning::Success),
            (FirstByte, 416, "InvalidRange", Meaning::Success),
            (FirstByte, 416, "", refused),
            (FirstByte, 404, "BlobNotFound", Meaning::Absent),
            (Remove, 202, "", Meaning::Success),
            (Remove, 204, "", refused),
            (Remove, 404, "BlobNotFound", Meaning::Success),
            (Remove, 404, "ContainerNotFound", trouble(ErrorKind::BucketMissing)),
            (Remove, 409, "BlobImmutableDueToPolicy", refused),
        ] {
            assert_eq!(meaning(asked, status, code), expected, "{asked:?} {status} {code}");
        }
    }
}
