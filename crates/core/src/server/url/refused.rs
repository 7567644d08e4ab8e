//! Why the URL of an archive is refused.

use thiserror::Error as ThisError;

/// Keys have at most 1024 bytes, and names in an archive fewer than 128.
pub(super) const LONGEST_PREFIX: usize = 800;

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
    #[error("its path is longer than {} bytes", LONGEST_PREFIX)]
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
