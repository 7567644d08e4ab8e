//! The command line. Help, manual pages and completions are all made from this file.
//!
//! The library wraps the help texts, so a paragraph is one line here. What follows the options stands under
//! headings, a line that ends with a colon, and is indented by two columns: [`crate::manual`] makes the
//! sections of a manual page of it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, Parser, Subcommand, ValueEnum};
use walsafe_core::encoding::codec::Compression;
use walsafe_core::prove::verify::{TargetTimeline, Until};
use walsafe_core::server::settings::FileMode;
use walsafe_core::store::location::Access;
use walsafe_core::wal::name::{FileKind, FileName, SegmentName};

/// Restores files from a PostgreSQL WAL archive, and proves that the archive is whole.
#[derive(Debug, Parser)]
#[command(name = "walsafe", version, term_width = 76, arg_required_else_help = true)]
#[command(
    long_about = "Restores files from a PostgreSQL WAL archive, and proves that the archive is whole.\n\n\
The archive is a directory that the archive module walsafe_archive fills, or that another tool made; or a place in object \
storage, by its URL: s3://bucket/prefix or azure://account/container/prefix. Commands take both.",
    after_help = "\
Exit status:
  Each command has its own: see its help. A command line that names no command ends with 126, so that a server that \
has it as its restore_command stops.

Environment:
  WALSAFE_CREDENTIALS_FILE is the file of --credentials-file where that is not given. Without either, the keys for object \
storage are found as other programs find them: in the environment (AWS_ACCESS_KEY_ID and so on), in ~/.aws, and so on.

Examples:
  # in postgresql.conf, for a recovery or a standby
  restore_command = 'walsafe restore --from /mnt/archive %f \"%p\"'
  # is the archive whole?
  walsafe verify /mnt/archive
  # what is in it?
  walsafe list /mnt/archive
  # bring what a standby, or a lost server, has and the archive lacks
  walsafe push --pgdata /var/lib/postgresql/17/standby /mnt/archive
  # bring what this archive has into a second one, and keep on
  walsafe copy --follow /mnt/archive /mnt/second"
)]
pub(crate) struct Program {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Restore(Restore),
    Verify(Verify),
    List(List),
    Check(Check),
    Manifest(Manifest),
    Push(Push),
    Copy(Copy),
    Init(Init),
    Completions(Completions),
    Man(Man),
}

/// What the commands that use an archive have in common.
#[derive(Debug, Args)]
pub(crate) struct Common {
    /// Give up when nothing has moved in the archive for so long; 0: never
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = number::<0, MAX>)]
    stall_timeout: u32,
    /// The file with the keys for object storage
    #[arg(long, value_name = "FILE", env = "WALSAFE_CREDENTIALS_FILE", hide_env_values = true)]
    credentials_file: Option<PathBuf>,
    /// Write the result, or the error, as JSON on standard output
    #[arg(long)]
    pub(crate) json: bool,
}

impl Common {
    /// Returns for how long nothing may move, `None` for as long as it takes.
    pub(crate) fn timeout(&self) -> Option<Duration> {
        (self.stall_timeout > 0).then(|| Duration::from_secs(self.stall_timeout.into()))
    }

    /// Returns what reaching an archive takes beside its location. The data directory, where there is one, must
    /// not hold the file with the keys.
    pub(crate) fn access(&self, data_directory: Option<&Path>) -> Access {
        let file = self.credentials_file.clone();
        Access {
            credentials_file: file.filter(|file| !file.as_os_str().is_empty()),
            data_directory: data_directory.map(Path::to_owned),
            stall_timeout: self.timeout(),
        }
    }
}

const MAX: u32 = u32::MAX;

/// More connections than this serve nobody.
const MOST_AHEAD: u32 = 64;

fn number<const LEAST: u32, const MOST: u32>(text: &str) -> Result<u32, String> {
    match text.parse() {
        Ok(number) if (LEAST..=MOST).contains(&number) => Ok(number),
        _ => Err(format!("it is a whole number from {LEAST} to {MOST}")),
    }
}

/// Gives one file back to a server, as its restore_command.
#[derive(Debug, Args)]
#[command(
    long_about = "Gives one file back to a server in recovery, as its restore_command.\n\n\
Finds the file in any compression. Checks its digest, every page header and every record in it, and that it belongs to this \
cluster. Puts it in place in one step. Prints nothing on success, and one line otherwise.\n\n\
With several archives, the first one that has the file, sound, gives it, and one line says what was wrong with those before. \
One that fails, or does not answer, is asked last for a minute. The end of the WAL needs all of them: leave out of --from \
what is lost for good.\n\n\
Never put timeout(1) before it: its exit status 124 means \"no more WAL\" to the server.",
    after_help = "\
Exit status:
  0    delivered
  1    the archive does not have the file, and should not: recovery goes on
  126  anything else: recovery stops

  126 is damage, a hole, bad usage, or an archive that is unreadable, missing, another cluster's, or one in which \
nothing moves for --stall-timeout.

  In a standby (standby.signal), trouble with the archive is 1 instead, so that the standby tries again or streams; \
--on-error changes that. A standby prints the same line at most once a minute, and waits for a history file up to \
--stall-timeout while the archive is in trouble.

Examples:
  # in postgresql.conf
  restore_command = 'walsafe restore --from /mnt/archive %f \"%p\"'
  # add this for a second archive
  --from /mnt/second
  # or one in object storage, in quotes if the URL has options
  --from \"s3://bucket/prefix?region=eu-central-1\"
  # add this in a standby that has no server to stream from
  --on-error=stop
  # add this to give up what comes after a hole that nothing can fill
  --end-at-hole 000000010000000000000062"
)]
pub(crate) struct Restore {
    /// The archive, a directory or a URL; may be given several times, for several archives
    #[arg(long, value_name = "ARCHIVE", required = true)]
    pub(crate) from: Vec<PathBuf>,
    /// What the recovery does when there is trouble with the archive
    #[arg(long, value_enum, default_value_t = OnError::Auto, value_name = "ACTION")]
    pub(crate) on_error: OnError,
    /// Accept an archive without an identity file, such as one made by cp
    #[arg(long)]
    pub(crate) allow_unmarked: bool,
    /// Accept WAL of an unknown kind, such as encrypted WAL, although the archive does not say that it was
    /// let in so
    #[arg(long)]
    pub(crate) allow_unchecked: bool,
    /// How long to look again for a file that is missing although something shows that it must exist; not
    /// at all if what shows it is older than ten minutes
    #[arg(long, value_name = "SECONDS", default_value_t = 5, value_parser = number::<0, MAX>)]
    pub(crate) patience: u32,
    /// End the recovery before this segment if it is missing, and accept the loss of all that comes after it
    #[arg(long, value_name = "SEGMENT", value_parser = segment)]
    pub(crate) end_at_hole: Option<SegmentName>,
    /// How many segments to fetch before the server asks for them; 0: none. Unless it is given, 8 from object storage and
    /// none from directories
    #[arg(long, value_name = "SEGMENTS", value_parser = number::<0, MOST_AHEAD>)]
    pub(crate) ahead: Option<u32>,
    /// Where segments that were fetched ahead wait, on the file system of pg_wal; pg_wal/.walsafe-spool unless it is
    /// given
    #[arg(long, value_name = "DIRECTORY")]
    pub(crate) spool: Option<PathBuf>,
    /// Say which archive has given the file
    #[arg(long, short)]
    pub(crate) verbose: bool,
    #[command(flatten)]
    pub(crate) common: Common,
    /// The file's name, as the server gives it: %f
    #[arg(value_name = "FILE")]
    pub(crate) file: String,
    /// Where the server wants the file: "%p"
    #[arg(value_name = "TARGET")]
    pub(crate) target: PathBuf,
}

/// What a recovery does when there is trouble.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum OnError {
    /// A standby retries, any other recovery stops
    Auto,
    /// Recovery stops (exit status 126)
    Stop,
    /// The standby tries again, or streams (exit status 1); refused without standby.signal
    Retry,
}

fn segment(text: &str) -> Result<SegmentName, String> {
    match FileName::new(text).map(|name| name.kind()) {
        Ok(FileKind::Segment(segment)) => Ok(segment),
        _ => Err("not the name of a WAL segment, 24 digits from 0-9 and A-F".to_owned()),
    }
}

/// Marks a directory, or a place in object storage, as the archive of a cluster.
#[derive(Debug, Args)]
#[command(
    long_about = "Marks a directory, or a place in object storage, as the archive of a cluster: writes its identity file, durably, and never over another one.\n\n\
For a new, empty directory the archiver does this by itself. Use this command after a disk was replaced or an archive was moved, \
and for an archive that another tool made.",
    after_help = "\
Exit status:
  0    the directory is marked as this cluster's, now or already
  2    it could not be marked

Files:
  The identity file is walsafe_archive.id, in the archive directory.

Examples:
  walsafe init --pgdata /var/lib/postgresql/17/main /mnt/archive"
)]
pub(crate) struct Init {
    /// The cluster's data directory
    #[arg(long, value_name = "DIR")]
    pub(crate) pgdata: PathBuf,
    /// Permission of the identity file
    #[arg(long, value_name = "MODE", default_value = "0600", value_parser = file_mode())]
    pub(crate) file_mode: FileMode,
    #[command(flatten)]
    pub(crate) common: Common,
    /// The archive: a directory or a URL
    #[arg(value_name = "DEST")]
    pub(crate) destination: PathBuf,
}

fn file_mode() -> impl TypedValueParser<Value = FileMode> {
    PossibleValuesParser::new(["0600", "0640", "0400", "0440"]).try_map(|mode| mode.parse())
}

/// Proves that an archive is whole.
#[derive(Debug, Args)]
#[command(
    long_about = "Proves that an archive is whole: reads every file; checks digests, compression, page headers, every record, names and \
cluster; and checks that no segment is missing on any timeline. Writes nothing. Reads past the page cache.\n\n\
With --from it proves what a recovery from a base backup needs, as the server will do it: for which timeline it heads, the history \
files that the server asks for, every record from the backup's start on, across timeline switches, the end of the backup, and with \
--until whether the recovery target is reached.",
    after_help = "\
Exit status:
  0    no findings
  1    findings
  2    the command could not run

Findings:
  corrupt, digest-mismatch, truncated, wrong-name, wrong-cluster, gap, duplicate, stray-temporary, unreadable, \
unknown, orphan-history; with --from also unrecoverable. Each says what to do.

Recovery targets:
  A target of --until is one of the server's recovery targets: a whole number is a transaction, an address an LSN, \
what begins like a date a time with its offset from UTC, and anything else the name of a restore point. The prefixes \
time:, lsn:, name: and xid: decide where that is not so.

Examples:
  walsafe verify /mnt/archive
  # can this base backup be recovered, up to the newest WAL?
  walsafe verify --from /backup/base/backup_label /mnt/archive
  walsafe verify --from 16/B374D848 --json /mnt/archive
  # does a recovery get that far, on the backup's own timeline?
  walsafe verify --from /backup/base/backup_label \\
      --until '2026-11-29 07:30:00+01' \\
      --target-timeline current /mnt/archive
  # every week, with a gap in the past and a new base backup behind it
  walsafe verify --accept-gaps /mnt/archive"
)]
pub(crate) struct Verify {
    /// Prove only what a recovery from here needs: a backup_label file, a .backup file or an LSN
    #[arg(long, value_name = "BACKUP_LABEL_OR_LSN")]
    pub(crate) from: Option<String>,
    /// The timeline of the LSN of --from [default: from the history of the newest timeline]
    #[arg(long, value_name = "NUMBER", requires = "from", value_parser = number::<1, MAX>)]
    pub(crate) timeline: Option<u32>,
    /// Where the recovery is to end: TIME, LSN, NAME or XID [default: at the end of the WAL]
    #[arg(long, value_name = "TARGET", requires = "from")]
    pub(crate) until: Option<Until>,
    /// The recovery's recovery_target_timeline: latest, current or a number
    #[arg(long, value_name = "latest|current|NUMBER", requires = "from", default_value = "latest")]
    pub(crate) target_timeline: TargetTimeline,
    /// Accept a gap if a base backup behind it can be recovered, to the end of the WAL
    #[arg(long, conflicts_with = "from")]
    pub(crate) accept_gaps: bool,
    /// How many files to read at a time [default: one for each processor, at most 8]
    #[arg(long, short, value_name = "NUMBER", value_parser = number::<1, 64>)]
    pub(crate) jobs: Option<u32>,
    #[command(flatten)]
    pub(crate) common: Common,
    /// Show no progress bar, not even on a terminal
    #[arg(long, short)]
    pub(crate) quiet: bool,
    /// The archive: a directory or a URL
    #[arg(value_name = "ARCHIVE")]
    pub(crate) archive: PathBuf,
}

/// Lists what an archive holds: timelines, ranges, counts, sizes and times.
#[derive(Debug, Args)]
#[command(
    long_about = "Lists what an archive holds: timelines, ranges, counts, sizes and times.\n\n\
Reads names, lengths and times, but not the contents: use verify to find out whether the files are good. With --times it also reads \
segments at both ends of each timeline until it finds a commit.",
    after_help = "\
Exit status:
  0    listed
  1    some entries could not be looked up
  2    the command could not run

Examples:
  walsafe list /mnt/archive
  walsafe list --json /mnt/archive"
)]
pub(crate) struct List {
    /// Show when the first and the last transaction of each timeline were committed
    #[arg(long)]
    pub(crate) times: bool,
    #[command(flatten)]
    pub(crate) common: Common,
    /// The archive: a directory or a URL
    #[arg(value_name = "ARCHIVE")]
    pub(crate) archive: PathBuf,
}

/// Checks that a directory or a bucket can be archived to, and recovered from.
#[derive(Debug, Args)]
#[command(
    long_about = "Checks that a directory or a bucket can be archived to, and recovered from, for Nagios and similar programs.\n\n\
Writes small probe files with temporary names, and removes them; in object storage, a few stay if the keys may not remove objects. \
With --read-only it writes nothing: run that on a standby before it \
is promoted. Of a standby, or a server that does not run, it says which complete segments the archive lacks: \"walsafe push\" brings \
them.",
    after_help = "\
Exit status:
  0    all is well
  1    a warning
  2    an error
  3    the command could not run

Examples:
  walsafe check --pgdata /var/lib/postgresql/17/main /mnt/archive
  walsafe check --read-only --pgdata /srv/standby /mnt/archive"
)]
pub(crate) struct Check {
    /// The cluster's data directory, for the checks that compare with it
    #[arg(long, value_name = "DIR")]
    pub(crate) pgdata: Option<PathBuf>,
    /// Warn when fewer megabytes than this are free; 0: when less than 5 percent are
    #[arg(long, value_name = "MB", default_value_t = 0, value_parser = number::<0, MAX>)]
    pub(crate) min_free: u32,
    /// Write nothing
    #[arg(long)]
    pub(crate) read_only: bool,
    /// Remove temporary files of other hosts, and of dead processes of this one, untouched for a day
    #[arg(long, conflicts_with = "read_only")]
    pub(crate) remove_stray: bool,
    #[command(flatten)]
    pub(crate) common: Common,
    /// The archive: a directory or a URL
    #[arg(value_name = "ARCHIVE")]
    pub(crate) archive: PathBuf,
}

/// Brings into an archive what a stopped server or a standby has and the archive lacks.
#[derive(Debug, Args)]
#[command(
    long_about = "Brings into an archive what a server has in pg_wal and the archive lacks: history files, segments that wait to be \
archived, segments that a standby received and marked as done, backup history files that wait. For failovers and lost servers.\n\n\
Goes in the server's order, along the server's own history. Checks every record of a segment, and that it continues the archived \
ones beside it. Never replaces a file: what is there already is compared. Each file is durable before the next one. Leaves out the \
segment that is still being written, .partial files, files that are not what their name says, and the rest of an old timeline \
behind the switch. Writes nothing into the data directory.\n\n\
Run as root, it works as the user that owns the archive's identity file. After trouble, run it again: it goes on where it stopped.",
    after_help = "\
Exit status:
  0    the archive has all that the server has
  1    a file was left out or differs from the archive's, or WAL is missing
  2    the command could not run, or the archive failed

Examples:
  # before a standby is promoted, or right after: what the archive lacks
  walsafe push --pgdata /var/lib/postgresql/17/standby /mnt/archive
  # the history file that walsafe restore asks for
  walsafe push --history 2 --pgdata /var/lib/postgresql/17/main \\
      /mnt/archive"
)]
pub(crate) struct Push {
    /// The server's data directory
    #[arg(long, value_name = "DIR")]
    pub(crate) pgdata: PathBuf,
    /// Bring the history file of this timeline, and nothing else
    #[arg(long, value_name = "NUMBER", value_parser = number::<2, MAX>)]
    pub(crate) history: Option<u32>,
    /// Compression, as the archive's other files have it: none, lz4, zstd, zstd:LEVEL, gzip or gzip:LEVEL
    #[arg(long, value_name = "COMPRESSION", default_value = "none")]
    pub(crate) compression: Compression,
    #[command(flatten)]
    pub(crate) common: Common,
    /// Show no progress bar, not even on a terminal
    #[arg(long, short)]
    pub(crate) quiet: bool,
    /// The archive: a directory or a URL
    #[arg(value_name = "DEST")]
    pub(crate) destination: PathBuf,
}

/// Copies the files of one archive into another.
#[derive(Debug, Args)]
#[command(
    long_about = "Copies the files of one archive into another: what SOURCE has and DEST lacks, in the archiver's order, history files \
first. With --follow it keeps on.\n\n\
Never replaces a file. Reads each file once, past the page cache, and checks digest, compression, page headers and every record on the \
way. Files keep their compression, and what they carry. Each is durable, digest and name included, before it counts. What DEST has \
already is not read where the digests of both files agree. After trouble, or a kill at any moment, run it again: it goes on where it \
stopped.\n\n\
A DEST that is empty becomes an archive of SOURCE's cluster. A damaged file of SOURCE is left out, and everything else is copied; if a \
later run finds it sound, it is copied then. Where DEST holds other contents under a name, nothing is copied from there on. The files \
that pg_receivewal is still writing are left for a later run.\n\n\
Run as root, it works as the user that owns DEST's identity file, or SOURCE's if DEST has none, or else DEST. Objects in a bucket belong to \
nobody.",
    after_help = "\
Exit status:
  0    DEST has all that SOURCE has; with --follow, it was asked to end (SIGTERM, SIGINT)
  1    a file was left out or is damaged, or DEST holds other contents under a name
  2    the command could not run, or one of the archives failed

Examples:
  walsafe copy /mnt/archive /mnt/second
  # into a bucket; and back with the two exchanged
  walsafe copy /mnt/archive \"s3://bucket/prefix?region=eu-central-1\"
  # in a job: DEST may not be mounted
  walsafe copy --no-begin --quiet /mnt/archive /mnt/second
  # as a service, with figures for node_exporter
  walsafe copy --follow --no-begin --metrics \\
      /var/lib/prometheus/node-exporter/walsafe-copy.prom \\
      /mnt/archive /mnt/second"
)]
pub(crate) struct Copy {
    /// Keep on: copy what comes, and wait for an archive that is away, until it is asked to end
    #[arg(long)]
    pub(crate) follow: bool,
    /// How often --follow looks for new files
    #[arg(long, value_name = "SECONDS", default_value_t = 5, requires = "follow", value_parser = number::<1, 3600>)]
    pub(crate) interval: u32,
    /// Write how far DEST is behind into this file, for node_exporter's textfile collector
    #[arg(long, value_name = "FILE")]
    pub(crate) metrics: Option<PathBuf>,
    /// Refuse a DEST that has no identity file: it may not be mounted
    #[arg(long)]
    pub(crate) no_begin: bool,
    /// How many files to copy at a time [default: one for each processor, at most 8]
    #[arg(long, short, value_name = "NUMBER", value_parser = number::<1, 64>)]
    pub(crate) jobs: Option<u32>,
    #[command(flatten)]
    pub(crate) common: Common,
    /// Show no progress bar, not even on a terminal
    #[arg(long, short)]
    pub(crate) quiet: bool,
    /// The archive to read: a directory or a URL
    #[arg(value_name = "SOURCE")]
    pub(crate) source: PathBuf,
    /// The archive to write: a directory or a URL
    #[arg(value_name = "DEST")]
    pub(crate) destination: PathBuf,
}

/// Prints BLAKE3 digests of the files, for b3sum --check.
#[derive(Debug, Args)]
#[command(
    long_about = "Prints BLAKE3 digests of the files, for b3sum --check.\n\n\
A file that carries a digest from when it was archived is listed with that digest; others are read. So \"b3sum --check\" also finds \
files that were damaged before this command ran.",
    after_help = "\
Exit status:
  0    every file is listed
  1    some files could not be read
  2    the command could not run

Examples:
  walsafe manifest /mnt/archive > archive.b3
  (cd /mnt/archive && b3sum --check) < archive.b3"
)]
pub(crate) struct Manifest {
    /// Read every file, even those that carry a digest
    #[arg(long)]
    pub(crate) read: bool,
    #[command(flatten)]
    pub(crate) common: Common,
    /// The archive: a directory or a URL
    #[arg(value_name = "ARCHIVE")]
    pub(crate) archive: PathBuf,
}

/// Prints a script with which a shell completes this program's arguments.
#[derive(Debug, Args)]
#[command(after_help = "\
Exit status:
  0    printed
  2    it could not be printed

Examples:
  walsafe completions bash > /etc/bash_completion.d/walsafe")]
pub(crate) struct Completions {
    /// The shell
    pub(crate) shell: clap_complete::Shell,
}

/// Prints the manual page of this program, or of one of its commands.
#[derive(Debug, Args)]
#[command(after_help = "\
Exit status:
  0    printed
  2    it could not be printed

Examples:
  walsafe man | man -l -
  walsafe man restore > /usr/local/share/man/man1/walsafe-restore.1")]
pub(crate) struct Man {
    /// The command
    #[arg(value_name = "COMMAND", value_parser = COMMANDS)]
    pub(crate) command: Option<String>,
}

/// The commands that have a manual page of their own: all of them.
const COMMANDS: [&str; 10] = [
    "restore",
    "verify",
    "list",
    "check",
    "manifest",
    "push",
    "copy",
    "init",
    "completions",
    "man",
];

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn every_command_has_a_manual_page() {
        let program = Program::command();
        let commands: Vec<_> = program.get_subcommands().map(clap::Command::get_name).collect();
        assert_eq!(commands, COMMANDS);
    }
}
