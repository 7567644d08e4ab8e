//! The classes of errors.

macro_rules! kinds {
    ($($kind:ident,)*) => {
        /// The stable classes of errors, of archiving, restoring and checking alike.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[allow(missing_docs, reason = "each is explained by its advice")]
        pub enum ErrorKind {
            $($kind,)*
        }

        impl ErrorKind {
            /// Every kind.
            pub const ALL: [Self; [$(Self::$kind),*].len()] = [$(Self::$kind),*];
        }
    };
}

impl ErrorKind {
    /// Returns whether what the archive holds speaks against the server's file.
    #[must_use]
    pub const fn is_conflict(self) -> bool {
        matches!(
            self,
            Self::ConflictTruncated
                | Self::ConflictPadding
                | Self::ConflictTimelineTail
                | Self::ConflictBranch
                | Self::ConflictAhead
                | Self::ConflictHistory
                | Self::ConflictUnreadable
                | Self::Conflict
                | Self::NotContinued
        )
    }
}

kinds! {
    NotConfigured,
    BadSetting,
    OutOfSpace,
    OutOfInodes,
    NoDirectoryFlush,
    QuotaExceeded,
    ReadOnly,
    PermissionDenied,
    StaleHandle,
    DestinationMissing,
    TooManyOpenFiles,
    OutOfMemory,
    NoThread,
    NoSocket,
    IoError,
    Vanished,
    Replaced,
    SourceUnreadable,
    SourceMissing,
    SourceNotAFile,
    DataDirectory,
    DataDirectoryFull,
    DataDirectoryForbidden,
    BadControlFile,
    InvalidName,
    WrongSegment,
    OtherCluster,
    BadIdentity,
    IdentityLost,
    NotAdoptable,
    InsideData,
    ConflictTruncated,
    ConflictPadding,
    ConflictTimelineTail,
    ConflictBranch,
    ConflictAhead,
    ConflictHistory,
    ConflictUnreadable,
    Conflict,
    NotContinued,
    NotAFile,
    Unsupported,
    StorageLied,
    Unreachable,
    CertificateRefused,
    CredentialsRefused,
    RequestForbidden,
    ClockSkew,
    BucketMissing,
    WrongServer,
    StorageBusy,
    RequestRefused,
    ConditionIgnored,
    ColdObject,
    SourceChanged,
    SourceMoved,
    Stalled,
    Unmarked,
    NothingThere,
    Damaged,
    Hole,
    HistoryHole,
    UnknownWal,
    UnknownName,
    IntoArchive,
    BadTarget,
    Internal,
}
