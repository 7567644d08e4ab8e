//! Whose object storage it is.

/// Whose storage a URL names, and so which language is spoken there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Cloud {
    /// Amazon's, and whoever speaks S3.
    S3,
    /// Microsoft's: Azure Blob Storage.
    Azure,
    /// Google's.
    Google,
}

impl Cloud {
    /// All there are.
    pub const ALL: [Self; 3] = [Self::S3, Self::Azure, Self::Google];

    /// Returns how its URLs begin.
    #[must_use]
    pub const fn scheme(self) -> &'static str {
        match self {
            Self::S3 => "s3",
            Self::Azure => "azure",
            Self::Google => "gs",
        }
    }

    /// Returns its name, for messages.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::S3 => "S3",
            Self::Azure => "Azure Blob Storage",
            Self::Google => "Google Cloud Storage",
        }
    }

    /// Returns whether this program can speak to it.
    #[must_use]
    pub const fn is_built_in(self) -> bool {
        match self {
            Self::S3 => cfg!(feature = "s3"),
            Self::Azure => cfg!(feature = "azure"),
            Self::Google => cfg!(feature = "gcs"),
        }
    }

    /// Returns the options that its URLs may have, in the order in which messages name them.
    pub(super) const fn options(self) -> &'static [&'static str] {
        match self {
            Self::S3 => &[
                "endpoint",
                "region",
                "style",
                "storage_class",
                "sse",
                "kms_key",
                "requester_pays",
                "expected_owner",
                "ca_file",
                "proxy",
                "allow_http",
            ],
            Self::Azure => {
                &["endpoint", "style", "storage_class", "ca_file", "proxy", "allow_http"]
            }
            Self::Google => {
                &["endpoint", "storage_class", "kms_key", "ca_file", "proxy", "allow_http"]
            }
        }
    }

    /// Returns how a URL of this cloud begins, and the rest of it.
    pub(super) fn of(text: &str) -> Option<(Self, &str)> {
        Self::ALL.into_iter().find_map(|cloud| {
            Some((cloud, text.strip_prefix(cloud.scheme())?.strip_prefix("://")?))
        })
    }

    /// Returns the reason why a storage class is refused.
    pub(super) fn refuses_class(self, class: &str) -> Option<&'static str> {
        const COLD: &str = "is a cold class: what lies there must be brought back before a restore";
        const OTHER: &str = "is not the name of a storage class";
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_.:/".contains(c);
        match self {
            Self::S3 if ["GLACIER", "DEEP_ARCHIVE", "SNOW"].contains(&class) => Some(COLD),
            Self::Azure if class == "Archive" => Some(COLD),
            Self::Azure if !["Hot", "Cool", "Cold"].contains(&class) => {
                Some("is none of Hot, Cool and Cold")
            }
            // All of these are read at once.
            Self::Google if !["STANDARD", "NEARLINE", "COLDLINE", "ARCHIVE"].contains(&class) => {
                Some("is none of STANDARD, NEARLINE, COLDLINE and ARCHIVE")
            }
            _ => (!class.chars().all(plain)).then_some(OTHER),
        }
    }
}
