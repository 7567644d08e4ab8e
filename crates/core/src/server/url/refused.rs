//! Why the URL of an archive is refused.

use thiserror::Error as ThisError;

use super::Cloud;

/// Keys have at most 1024 bytes, and names in an archive fewer than 128.
pub(super) const LONGEST_PREFIX: usize = 800;

/// Why a URL is refused. The text never holds more of the URL than the name of an option.
#[derive(Debug, Clone, PartialEq, Eq, ThisError)]
pub enum UrlError {
    /// It does not begin with `s3://`, `azure://` or `gs://`.
    #[error("it does not begin with \"s3://\", \"azure://\" or \"gs://\"")]
    Scheme,
    /// It is of a cloud that this program was built without.
    #[error("this program was built without {}", .0.name())]
    LeftOut(Cloud),
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
    /// The name of Azure's account cannot be one.
    #[error(
        "the name of its account is not one of 3 to 24 lower-case letters and digits: write \"azure://ACCOUNT/CONTAINER/PREFIX\""
    )]
    Account,
    /// The name of Azure's container cannot be one.
    #[error(
        "the name of its container is not one of 3 to 63 lower-case letters, digits and single \"-\": write \"azure://ACCOUNT/CONTAINER/PREFIX\""
    )]
    Container,
    /// The bucket is of a kind that knows no conditional PUT in order.
    #[error("S3 directory buckets (\"--x-s3\") are not supported: use a general purpose bucket")]
    DirectoryBucket,
    /// The prefix has an empty part.
    #[error("its path holds two slashes in a row")]
    EmptyPart,
    /// The prefix has a part that is `.` or `..`.
    #[error("its path holds \".\" or \"..\" as a part")]
    Dots,
    /// The prefix has a part that ends with a dot.
    #[error("its path holds a part that ends with \".\"")]
    LastDot,
    /// The prefix has a character that storage and tools read in different ways.
    #[error("its path holds a character other than letters, digits, \"/\" and !-_.*'()=+@:,~")]
    Character,
    /// The prefix is too long for the names under it.
    #[error("its path is longer than {} bytes", LONGEST_PREFIX)]
    TooLong,
    /// It has a fragment.
    #[error("it holds a \"#\"")]
    Fragment,
    /// An option is not known to the cloud.
    #[error("the option \"{name}\" is not known{}: there are {}", to(*.cloud), options(*.cloud))]
    UnknownOption {
        /// Whose.
        cloud: Cloud,
        /// Its name, or what of it may be shown.
        name: String,
    },
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

fn to(cloud: Cloud) -> String {
    if cloud == Cloud::S3 { String::new() } else { format!(" to {}", cloud.name()) }
}

fn options(cloud: Cloud) -> String {
    match cloud.options() {
        [others @ .., last] => format!("{} and {last}", others.join(", ")),
        [] => String::new(),
    }
}
