//! The one table of what users are told about each kind of error: SQLSTATE, HINT, and how
//! `walsafe restore` ends.

use super::ErrorKind;

/// What was being done when an error came up. For the same cause, different things may help.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Activity {
    /// The server archives a file.
    Archiving,
    /// `walsafe restore` gives a file back.
    Restoring,
    /// An archive is looked at, or prepared: `walsafe verify`, `list`, `check`, `init` and `manifest`,
    /// and the functions of the extension.
    Checking,
}

/// What `walsafe restore` does to a standby. Any other recovery stops at every error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Standby {
    /// Status 1: the standby tries again, or streams.
    Retries,
    /// Status 126, as for any other recovery: `restore_command` is wrong, and a new try would be, too.
    Stops,
}

/// A row of the table: what a user is told about an error of one kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Advice {
    /// The SQLSTATE of the server's report.
    pub sqlstate: &'static str,
    /// The HINT of the server's report; `None` for what archiving never meets.
    pub archiving: Option<&'static str>,
    /// What `walsafe restore` says to do; `None` for what it never meets.
    pub restoring: Option<&'static str>,
    /// What other commands say to do; `None` for what they never meet.
    pub checking: Option<&'static str>,
    /// What `walsafe restore` does to a standby.
    pub standby: Standby,
}

impl Advice {
    /// Returns what a command that writes into an archive says to do: the archiver's words where the other commands
    /// have none.
    #[must_use]
    pub fn writing(&self) -> &'static str {
        self.checking.or(self.archiving).unwrap_or_default()
    }

    const fn new(sqlstate: &'static str) -> Self {
        let (archiving, restoring, checking) = (None, None, None);
        Self { sqlstate, archiving, restoring, checking, standby: Standby::Retries }
    }

    const fn archiving(self, hint: &'static str) -> Self {
        Self { archiving: Some(hint), ..self }
    }

    const fn restoring(self, hint: &'static str) -> Self {
        Self { restoring: Some(hint), ..self }
    }

    const fn checking(self, hint: &'static str) -> Self {
        Self { checking: Some(hint), ..self }
    }

    const fn stops(self) -> Self {
        Self { standby: Standby::Stops, ..self }
    }
}

const IS_IT_MOUNTED: &str = "Is this the archive, and is its file system mounted?";
const MOUNT_AND_RECOVER: &str =
    "Is the archive's file system mounted? Recovery can be started again once it is.";
const PASS_F_AND_P: &str = "Check restore_command: it must pass %f and \"%p\".";
const REPLACE_IDENTITY: &str = "Look at the identity file. If the archive is this cluster's, move the file away and run \"walsafe init --pgdata DATA_DIRECTORY ARCHIVE_DIRECTORY\".";
/// The HINT for an object that is not what was sent: it has its name already.
pub(super) const MOVE_OBJECT: &str = "Check the storage. The object has its name already, and no other takes its place: the file is refused as different as long as it stands there. Move this one object to another key. The server still has the file in \"pg_wal\", and sends it again.";
const MARK_AGAIN: &str = "Is the archive's file system mounted? In a bucket, look for a lifecycle rule that deletes or moves objects by their age, and exclude the identity file from it. If the archive was replaced or moved on purpose, or such a rule has taken the file, run \"walsafe init --pgdata DATA_DIRECTORY ARCHIVE\".";
const AHEAD: &str = "The data directory was put back to an earlier state, or it is a copy of a server that went on. Do not move single files out of the archive: that mixes two histories. Set \"walsafe_archive.destination\" to another directory, and take a new base backup; or move the whole archive aside and begin a new one with \"walsafe init\" and a new base backup.";
const CORRECT_SETTING: &str = "Correct the setting, and reload the configuration.";
const CONDITION: &str = "The object storage ignores \"If-None-Match: *\", so that one server could replace what another has archived. Use storage that honours it; some does so only in a bucket without versioning.";
const NO_REPLACE: &str =
    "Use a file system with hard links (link) or with renameat2 and RENAME_NOREPLACE.";

impl ErrorKind {
    /// Returns the SQLSTATE of the server's report.
    #[must_use]
    pub const fn sqlstate(self) -> &'static str {
        self.advice().sqlstate
    }

    /// Returns what to do about the error, in full sentences. One that never comes up in this
    /// activity is a mistake in this program, and the hint says that.
    #[must_use]
    pub const fn hint(self, activity: Activity) -> &'static str {
        let Advice { archiving, restoring, checking, .. } = self.advice();
        let (hint, otherwise) = match activity {
            Activity::Archiving => {
                (archiving, "Please report this with the server's log. The file is tried again.")
            }
            Activity::Restoring => (restoring, "Please report this with the server's log."),
            Activity::Checking => (checking, "Please report this with what was called."),
        };
        match hint {
            Some(hint) => hint,
            None => otherwise,
        }
    }

    /// The table.
    #[must_use]
    pub const fn advice(self) -> Advice {
        match self {
            Self::NotConfigured => Advice::new("55000").archiving(
                "Set \"walsafe_archive.destination\" to the archive directory, and reload the configuration.",
            ),
            Self::BadSetting => Advice::new("22023")
                .archiving(CORRECT_SETTING)
                .restoring("Correct the location of the archive.")
                .checking(CORRECT_SETTING)
                .stops(),
            Self::OutOfSpace => Advice::new("53100")
                .archiving("Free space in the archive, or give it more. Archiving resumes by itself once there is room.")
                .checking("Free space in the archive, or give it more."),
            Self::OutOfInodes => Advice::new("53100")
                .archiving("Move files that are not WAL out of the archive's file system, or use one with more inodes. Archiving resumes by itself once there is an inode.")
                .checking("Move files that are not WAL out of the archive's file system, or use one with more inodes (mkfs.ext4 -N)."),
            Self::NoDirectoryFlush => Advice::new("0A000")
                .archiving("The file system does not flush directories, which \"walsafe_archive.fsync_policy\" = \"full\" needs. Use another file system; or set the policy to \"file\": then it depends on the file system whether the name of an archived file survives a power cut.")
                .checking("The file system does not flush directories, which archiving with \"fsync_policy\" = \"full\" needs. Use another file system; under \"file\" it depends on the file system whether the name of an archived file survives a power cut."),
            Self::QuotaExceeded => Advice::new("53100")
                .archiving("Raise the quota of the server's user in the archive, or free space there. Archiving resumes by itself once there is room.")
                .checking("Raise the quota of the user in the archive, or free space there."),
            Self::ReadOnly => Advice::new("25006")
                .archiving("The file system is mounted read-only, often after an error: check the kernel's log, then mount it writable. Archiving resumes by itself once it is.")
                .checking("The file system is mounted read-only, often after an error: check the kernel's log, then mount it writable."),
            Self::PermissionDenied => Advice::new("42501")
                .archiving("Give the user that runs the server permission to read, write and search the archive directory. Archiving resumes by itself once the user has it.")
                .restoring("Give the user that runs the server permission to read the archive and its files.")
                .checking("Run this as the user that runs the server, and give that user permission to read, write and search the archive directory."),
            Self::StaleHandle => Advice::new("58030")
                .archiving("The network file system lost the directory: check the export and mount it again. Archiving resumes by itself once it is mounted.")
                .restoring(MOUNT_AND_RECOVER)
                .checking("The network file system lost the directory: check the export and mount it again."),
            Self::DestinationMissing => Advice::new("58P01")
                .archiving("Create or mount the directory of \"walsafe_archive.destination\". Archiving resumes by itself once it is there.")
                .restoring(MOUNT_AND_RECOVER)
                .checking("Create or mount the directory, or correct its path."),
            Self::TooManyOpenFiles => Advice::new("53000")
                .archiving("Raise the limit of open files of the server's user or of the system. Archiving resumes by itself once it is high enough.")
                .restoring("Raise the limit of open files of the server's user or of the system, then start recovery again.")
                .checking("Raise the limit of open files of the user or of the system."),
            Self::OutOfMemory => Advice::new("53200")
                .archiving("Give the machine more memory, lower \"walsafe_archive.workers\", or stop something else that runs there. Archiving resumes by itself once there is enough.")
                .restoring("Give the machine more memory, or stop something else that runs there, then start recovery again.")
                .checking("Give the machine more memory, or stop something else that runs there."),
            Self::NoThread => Advice::new("53000")
                .archiving("Raise the limits of processes and threads of the server's user, its service or its container. Archiving resumes by itself once a thread can be started.")
                .checking("Raise the limits of processes and threads of the user, the service or the container."),
            Self::NoSocket => Advice::new("53000").archiving(
                "The system refuses a pair of connected sockets. Check the limits of the server's user, and what its service or its container forbids. Archiving resumes by itself once there is one.",
            ),
            Self::IoError => Advice::new("58030")
                .archiving("Check the storage of the archive and the kernel's log. The file is copied anew at the next try.")
                .restoring("Check the storage of the archive and the kernel's log, then start recovery again.")
                .checking("Check the storage of the archive and the kernel's log."),
            Self::Vanished => Advice::new("58P01")
                .archiving("Something removes files from the archive while the server archives into it: find out what. The file is tried again.")
                .restoring("Something removes files from the archive: find out what, and put the file back before recovery is started again.")
                .checking("Something removes files from the archive: find out what, then try again."),
            Self::Replaced => Advice::new("55000")
                .archiving("Another file system was mounted or unmounted there, or the directory was moved. The file is archived anew where the path leads now.")
                .checking("Another file system was mounted or unmounted there, or the directory was moved. Run the command again, on the directory that the path leads to now."),
            Self::SourceUnreadable => Advice::new("58030")
                .archiving("Check the storage of \"pg_wal\" and the kernel's log. The file stays there until it is archived.")
                .checking("Check the storage of \"pg_wal\" and the kernel's log."),
            Self::SourceMissing => Advice::new("58P01").archiving(
                "Only the server may remove files from \"pg_wal\": find out what else did. Put the file back if there is a copy of it. If there is none, take a new base backup, because the archive lacks the file.",
            ),
            Self::SourceNotAFile => Advice::new("42809").archiving(
                "Check \"pg_wal\" for what came from elsewhere. If this was put there by mistake, move it away together with its \".ready\" file.",
            ),
            Self::DataDirectory => Advice::new("58030")
                .archiving("Check the storage of the data directory and the kernel's log. Archiving resumes by itself once the data directory is sound.")
                .restoring("Check the directory that the file is written into, \"pg_wal\" in a recovery: that it is there, and its storage.")
                .checking("Is this the cluster's data directory? Check that it is there, and its storage."),
            Self::DataDirectoryFull => Advice::new("53100")
                .archiving("Free space on the file system of the data directory, or give it more, but remove nothing from \"pg_wal\". Archiving resumes by itself once there is room.")
                .restoring("Free space on the file system that the file is written to, or give it more, then start recovery again."),
            Self::DataDirectoryForbidden => Advice::new("42501")
                .archiving("Give the user that runs the server permission to read, write and search its data directory, \"pg_wal\" included. Archiving resumes by itself once the user has it.")
                .restoring("Give the user that runs the server permission to write into the directory of the restored file, \"pg_wal\" in a recovery.")
                .checking("Run this as the user that runs the server, or as another user who may read the data directory."),
            Self::BadControlFile => Advice::new("XX001").checking(
                "Is this the cluster's data directory? If it is, check its storage and the kernel's log.",
            ),
            Self::InvalidName => Advice::new("22023")
                .archiving("Only files of \"pg_wal\" are archived. Remove the foreign \".ready\" file from \"pg_wal/archive_status\".")
                .restoring(PASS_F_AND_P)
                .stops(),
            Self::WrongSegment => Advice::new("XX001").archiving(
                "Check \"pg_wal\" for files that came from elsewhere. If this file was put there by mistake, move it away together with its \".ready\" file.",
            ),
            Self::OtherCluster => Advice::new("55000")
                .archiving("Give this cluster an archive of its own in \"walsafe_archive.destination\". After pg_upgrade or a new initdb the cluster needs a new, empty archive and a new base backup.")
                .restoring("Name this cluster's own archive in restore_command.")
                .checking("Name the archive and the data directory of one and the same cluster. After pg_upgrade or a new initdb a cluster needs a new, empty archive and a new base backup."),
            Self::BadIdentity => Advice::new("XX001")
                .archiving(REPLACE_IDENTITY)
                .restoring(REPLACE_IDENTITY)
                .checking(REPLACE_IDENTITY),
            Self::IdentityLost => Advice::new("55000").archiving(MARK_AGAIN).checking(MARK_AGAIN),
            Self::NotAdoptable => Advice::new("55000").archiving(
                "Use an empty directory. If the archive is this cluster's all the same, run \"walsafe init --pgdata DATA_DIRECTORY ARCHIVE_DIRECTORY\".",
            ),
            Self::InsideData => Advice::new("55000")
                .archiving("Set \"walsafe_archive.destination\" to a directory outside of the data directory and of \"pg_wal\", on other storage.")
                .checking("Name a directory outside of the data directory and of \"pg_wal\", on other storage."),
            Self::ConflictTruncated => Advice::new("58P02").archiving(
                "An interrupted copy by another tool left a beginning of this file. Move it out of the archive; the file is then archived anew.",
            ),
            Self::ConflictPadding => Advice::new("58P02").archiving(
                "Both hold the same WAL and differ only after its last record. Compare them with pg_waldump; to keep this server's file, move the archived one out of the archive.",
            ),
            Self::ConflictTimelineTail => Advice::new("58P02").archiving(
                "A recovery that follows the switch needs neither tail. Keep the archived file, and on this server rename the file's \".ready\" in \"pg_wal/archive_status\" to \".done\".",
            ),
            Self::ConflictBranch => Advice::new("58P02").archiving(
                "A standby was promoted there, and this server has stayed on its timeline. This server's file may be the only whole copy: keep it, and its \".ready\" file. If the promotion was a mistake, stop that server, and move its files (those of the newer timeline, its \".history\" file, and this one) out of the archive together; the file is then archived. If it was not, stop this server and rebuild it from the other.",
            ),
            Self::ConflictAhead => Advice::new("58P02").archiving(AHEAD),
            Self::ConflictHistory => Advice::new("58P02").archiving(
                "Another server was promoted to the same timeline. Only one of the two may go on using this archive: give this server an archive of its own and take a new base backup, or rebuild it from the other.",
            ),
            Self::ConflictUnreadable => Advice::new("58P02").archiving(
                "The archived file is damaged. Move it out of the archive; the file is then archived anew. Run \"walsafe verify\" on the archive, and check its storage.",
            ),
            Self::Conflict => Advice::new("58P02").archiving(
                "Make sure that no other server writes into this directory. Compare the two files with pg_waldump, and move the wrong one away.",
            ),
            Self::NotContinued => Advice::new("58P02").archiving(
                "Another server, or another state of this data directory, has written the archived segment: a clone, or a snapshot that was put back. Do not move single files out of the archive: that mixes two histories. Set \"walsafe_archive.destination\" to another directory, and take a new base backup; or move the whole archive aside and begin a new one with \"walsafe init\" and a new base backup.",
            ),
            Self::NotAFile => Advice::new("42809")
                .archiving("Move it out of the archive; the file is then archived.")
                .restoring("Put the file itself there: links and other things are not followed.")
                .checking("Put the file itself there, or move it out of the archive: links and other things are not followed."),
            Self::Unsupported => {
                Advice::new("0A000").archiving(NO_REPLACE).checking(NO_REPLACE)
            }
            Self::StorageLied => Advice::new("XX001")
                .archiving("Check the storage of the archive. The file is copied anew at the next try.")
                .checking("Check the storage of the archive, then run the command again."),
            Self::Unreachable => Advice::new("08006")
                .archiving("Check the network, the name in \"endpoint\", and the proxy. Archiving resumes by itself once the object storage answers.")
                .restoring("Check the network, the name in \"endpoint\", and the proxy, then start recovery again.")
                .checking("Check the network, the name in \"endpoint\", and the proxy."),
            Self::CertificateRefused => Advice::new("08006")
                .archiving("If the object storage's certificate is signed by an authority of your own, name the authority's certificate by \"ca_file\" in the URL. Otherwise check that the name in \"endpoint\" is the one in the certificate, and that the certificate has not run out. Archiving resumes by itself once it is accepted.")
                .restoring("If the object storage's certificate is signed by an authority of your own, name the authority's certificate by \"ca_file\" in the URL. Otherwise check that the name in \"endpoint\" is the one in the certificate, and that the certificate has not run out.")
                .checking("If the object storage's certificate is signed by an authority of your own, name the authority's certificate by \"ca_file\" in the URL. Otherwise check that the name in \"endpoint\" is the one in the certificate, and that the certificate has not run out."),
            Self::CredentialsRefused => Advice::new("28000")
                .archiving("Check the keys in the credentials file or the environment of the server, and whether they have run out. They are read again at the next try.")
                .restoring("Check the keys in the credentials file or the environment of restore_command, and whether they have run out, then start recovery again.")
                .checking("Check the keys in the credentials file or the environment, and whether they have run out."),
            Self::RequestForbidden => Advice::new("42501")
                .archiving("Give the keys the right to put and get objects under this prefix, and to list the bucket (s3:ListBucket) or the container: without the last, a missing object is answered like a forbidden one. Archiving resumes by itself once they have it.")
                .restoring("Give the keys the right to get objects under this prefix, and to list the bucket (s3:ListBucket) or the container: without the last, a missing object is answered like a forbidden one.")
                .checking("Give the keys the right to get objects under this prefix, and to list the bucket (s3:ListBucket) or the container: without the last, a missing object is answered like a forbidden one."),
            Self::ClockSkew => Advice::new("55000")
                .archiving("Set this machine's clock: the object storage refuses requests whose time is wrong. Archiving resumes by itself once it is right.")
                .restoring("Set this machine's clock: the object storage refuses requests whose time is wrong.")
                .checking("Set this machine's clock: the object storage refuses requests whose time is wrong."),
            Self::BucketMissing => Advice::new("58P01")
                .archiving("Create the bucket, or correct its name or \"endpoint\" in the URL. Archiving resumes by itself once it is there.")
                .restoring("Correct the name of the bucket or \"endpoint\" in the URL.")
                .checking("Create the bucket, or correct its name or \"endpoint\" in the URL."),
            Self::WrongServer => Advice::new("55000")
                .archiving("Correct \"region\" or \"endpoint\" in the URL: the bucket is elsewhere, and no redirect is followed.")
                .restoring("Correct \"region\" or \"endpoint\" in the URL: the bucket is elsewhere, and no redirect is followed.")
                .checking("Correct \"region\" or \"endpoint\" in the URL: the bucket is elsewhere, and no redirect is followed."),
            Self::StorageBusy => Advice::new("58030")
                .archiving("The object storage is overloaded or in trouble. The file is sent again at the next try.")
                .restoring("The object storage is overloaded or in trouble. Start recovery again once it answers.")
                .checking("The object storage is overloaded or in trouble: try again once it answers."),
            Self::RequestRefused => Advice::new("58030")
                .archiving("Look for the code in the documents of the object storage. The file is sent again at the next try.")
                .restoring("Look for the code in the documents of the object storage.")
                .checking("Look for the code in the documents of the object storage."),
            Self::ConditionIgnored => Advice::new("0A000")
                .archiving(CONDITION)
                .checking(CONDITION),
            Self::ColdObject => Advice::new("55000")
                .archiving("The object lies in a cold storage class and cannot be compared. Bring it back first, and take the rule away that moved it there.")
                .restoring("The object lies in a cold storage class. Bring it back first, then start recovery again.")
                .checking("The object lies in a cold storage class. Bring it back first, and take the rule away that moved it there."),
            Self::SourceChanged => Advice::new("XX001")
                .archiving("Something other than this server writes into \"pg_wal\": find out what. The file is copied anew at the next try.")
                .checking("Something other than the server writes into \"pg_wal\": find out what, then run the command again."),
            Self::SourceMoved => Advice::new("55000").archiving(
                "If this copy began before a setting was changed, the file was archived meanwhile under the new settings, and the server has recycled it. Otherwise find out what else renames files in \"pg_wal\".",
            ),
            Self::Stalled => Advice::new("58030").archiving(
                "Check the storage of the archive and the network to it. Nothing more is started there until the call that hangs returns; archiving then resumes by itself. A call that the kernel cannot interrupt holds up a shutdown of the server until it returns.",
            )
            .restoring("Check the storage of the archive and the network to it, then start recovery again. If it is only slow, raise --stall-timeout.")
            .checking("Check the storage of the archive and the network to it. If it is only slow, raise --stall-timeout."),
            Self::Unmarked => Advice::new("55000").restoring(
                "Is the archive's file system mounted? For an archive that cp made, run \"walsafe init\" once, or use --allow-unmarked.",
            ),
            Self::NothingThere => {
                Advice::new("55000").restoring(IS_IT_MOUNTED).checking(IS_IT_MOUNTED)
            }
            Self::Damaged => Advice::new("XX001").restoring(
                "Put a good copy there, from a second archive or a standby's pg_wal, and start recovery again. \"walsafe verify\" shows what else is wrong.",
            ),
            Self::Hole => Advice::new("58P01").restoring(
                "Put the missing file there, and start recovery again. \"walsafe push --pgdata DATA_DIRECTORY ARCHIVE_DIRECTORY\" brings it from a server that has it; otherwise take it from a second archive. \"walsafe verify\" shows what else is missing. To end recovery before the hole, set a recovery target, or add \"--end-at-hole SEGMENT\" with the name of the missing segment to restore_command.",
            ),
            Self::HistoryHole => Advice::new("58P01").restoring(
                "Put the file there: \"walsafe push --pgdata DATA_DIRECTORY --history N ARCHIVE_DIRECTORY\" takes that of timeline N from a server that has it. Then start recovery again. To stay on the timeline of the base backup, set recovery_target_timeline to 'current'.",
            ),
            Self::BegunLater => Advice::new("58P01").restoring(
                "Look for the file in another archive: name that one in restore_command too, with a further --from, and start recovery again. To end recovery before the file, set a recovery target, or add \"--end-at-hole SEGMENT\" with its name to restore_command.",
            ),
            Self::UnknownWal => Advice::new("XX001").restoring(
                "If a newer server wrote this WAL or another tool encrypts it, use a newer walsafe, or add --allow-unchecked to restore_command. Otherwise the file is damaged: put a good copy there, from a second archive or a standby's pg_wal.",
            ),
            Self::UnknownName => Advice::new("22023").restoring(PASS_F_AND_P),
            Self::IntoArchive => Advice::new("55000")
                .restoring("Check restore_command: it must pass %f and \"%p\". To look at a file, restore it to another directory.")
                .stops(),
            Self::BadTarget => Advice::new("22023").restoring(PASS_F_AND_P).stops(),
            Self::Internal => Advice::new("XX000")
                .archiving("Please report this with the server's log. The file is tried again.")
                .restoring("Please report this with the server's log.")
                .checking("Please report this with what was called."),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_a_sqlstate_of_five_characters_and_hints_in_full_sentences() {
        for kind in ErrorKind::ALL {
            let Advice { sqlstate, archiving, restoring, checking, .. } = kind.advice();
            assert_eq!(sqlstate.len(), 5, "{kind:?}");
            let hints: Vec<_> = [archiving, restoring, checking].into_iter().flatten().collect();
            assert!(!hints.is_empty(), "{kind:?}");
            for hint in hints {
                assert!(hint.ends_with(['.', '?']), "{kind:?}: {hint}");
                assert!(hint.starts_with(|c: char| c.is_uppercase()), "{kind:?}: {hint}");
            }
        }
    }

    /// `walsafe verify` told whoever it ran for that archiving would go on, and `restore` had a table of
    /// its own.
    #[test]
    fn nobody_but_the_archiver_speaks_of_archiving_that_resumes() {
        for kind in ErrorKind::ALL {
            let Advice { archiving, restoring, checking, .. } = kind.advice();
            for hint in [restoring, checking].into_iter().flatten() {
                assert!(!hint.contains("resumes") && !hint.contains("next try"), "{hint}");
                assert!(!hint.contains("walsafe_archive."), "{hint}");
            }
            // While it fails it does not "go on".
            assert!(!archiving.is_some_and(|hint| hint.contains("goes on")), "{kind:?}");
            assert!(!archiving.is_some_and(|hint| hint.contains("recovery again")), "{kind:?}");
        }
    }

    /// `walsafe push` says what the archiver says where there is nothing of its own: "the file is copied anew at the
    /// next try", "archiving resumes by itself", when there was no next try.
    #[test]
    fn what_push_takes_from_the_archiver_is_true_of_a_command() {
        // A command neither archives ahead nor reads settings, and writes nothing into the data directory.
        let never = [ErrorKind::NotConfigured, ErrorKind::NoSocket, ErrorKind::DataDirectoryFull];
        for kind in ErrorKind::ALL.into_iter().filter(|kind| !never.contains(kind)) {
            let Advice { archiving, checking, .. } = kind.advice();
            let Some(hint) = checking.or(archiving) else { continue };
            for word in ["resumes", "next try", "tried again", "stays there until"] {
                assert!(!hint.contains(word), "{kind:?}: {hint}");
            }
        }
    }

    #[test]
    fn an_error_that_an_activity_never_meets_is_to_be_reported() {
        let hint = ErrorKind::Conflict.hint(Activity::Restoring);
        assert_eq!(hint, ErrorKind::Internal.hint(Activity::Restoring));
    }
}
