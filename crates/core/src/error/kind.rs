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

    /// Returns whether the server's own file is what is wrong. That says nothing of any destination.
    #[must_use]
    pub const fn is_of_the_file(self) -> bool {
        matches!(
            self,
            Self::SourceUnreadable
                | Self::SourceMissing
                | Self::SourceNotAFile
                | Self::SourceChanged
                | Self::SourceMoved
                | Self::WrongSegment
        )
    }

    /// Returns whether the archive holds WAL, or a timeline, of another history than the server's: a clone or a
    /// second primary may be at work. A copy that was cut short, contents that cannot be read, and what differs
    /// where no WAL is, or behind the end of a timeline, show nothing of the kind.
    #[must_use]
    pub const fn shows_another_history(self) -> bool {
        self.is_conflict()
            && !matches!(
                self,
                Self::ConflictTruncated
                    | Self::ConflictPadding
                    | Self::ConflictTimelineTail
                    | Self::ConflictUnreadable
            )
    }
}

impl ErrorKind {
    /// Returns whether the cause lies in the destination or on the way there, and archiving could go on without
    /// it. Not so where the archive holds what speaks against the server's file.
    #[must_use]
    pub const fn is_of_destination(self) -> bool {
        matches!(
            self,
            Self::OutOfSpace
                | Self::OutOfInodes
                | Self::NoDirectoryFlush
                | Self::QuotaExceeded
                | Self::ReadOnly
                | Self::PermissionDenied
                | Self::StaleHandle
                | Self::DestinationMissing
                | Self::IoError
                | Self::Vanished
                | Self::Replaced
                | Self::OtherCluster
                | Self::BadIdentity
                | Self::IdentityLost
                | Self::NotAdoptable
                | Self::InsideData
                | Self::NotAFile
                | Self::Unsupported
                | Self::StorageLied
                | Self::Stalled
                | Self::Unreachable
                | Self::CertificateRefused
                | Self::CredentialsRefused
                | Self::RequestForbidden
                | Self::ClockSkew
                | Self::BucketMissing
                | Self::WrongServer
                | Self::StorageBusy
                | Self::RequestRefused
                | Self::ConditionIgnored
                | Self::ColdObject
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
    BegunLater,
    UnknownWal,
    UnknownName,
    IntoArchive,
    BadTarget,
    Internal,
}
