//! The command line. Help, man page and completions are all made from what stands here.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

const EXAMPLES: &str = "\
Examples:
  # in postgresql.conf, for a recovery or a standby
  restore_command = 'walsafe restore --from /mnt/archive %f \"%p\"'
  # is the archive whole?
  walsafe verify /mnt/archive
  # what is in it?
  walsafe list /mnt/archive";

/// Gives a PostgreSQL WAL archive back, and proves that it is whole.
#[derive(Debug, Parser)]
#[command(name = "walsafe", version, about, after_help = EXAMPLES)]
#[command(subcommand_required = true, arg_required_else_help = false, max_term_width = 100)]
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
    Init(Init),
    Completions(Completions),
    Man(Man),
}

/// Gives one file back to a server: for `restore_command`.
#[derive(Debug, Args)]
#[command(
    long_about = "Gives one file back to a server in recovery: for restore_command.\n\n\
Finds the file in any compression, checks its digest, or else every page header and record in it, and that it is this \
cluster's, and puts it in place in one step. Prints nothing on success and one line otherwise.",
    after_help = "\
Exit status:
  0    delivered
  1    the archive is there and rightly does not have the file: recovery goes on without
  126  anything else (damage, an unreadable, missing or foreign archive, a hole, bad usage):
       recovery stops. In a standby (standby.signal) trouble with the archive is 1 instead, so
       that it retries or streams; --on-error changes that.

Examples:
  restore_command = 'walsafe restore --from /mnt/archive %f \"%p\"'
  # a standby that has nothing but the archive
  restore_command = 'walsafe restore --from /mnt/archive --on-error=stop %f \"%p\"'"
)]
pub(crate) struct Restore {
    /// The archive directory
    #[arg(long, value_name = "DIR")]
    pub(crate) from: PathBuf,
    /// What trouble with the archive does to the recovery
    #[arg(long, value_enum, default_value_t = OnError::Auto, value_name = "ACTION")]
    pub(crate) on_error: OnError,
    /// Accept an archive without an identity file, as cp makes
    #[arg(long)]
    pub(crate) allow_unmarked: bool,
    /// Write the line on standard error as JSON
    #[arg(long)]
    pub(crate) json: bool,
    /// The file's name, as the server gives it: %f
    #[arg(value_name = "FILE")]
    pub(crate) file: String,
    /// Where the server wants it: "%p"
    #[arg(value_name = "TARGET")]
    pub(crate) target: PathBuf,
}

/// What trouble does to a recovery.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum OnError {
    /// A standby retries, any other recovery stops
    Auto,
    /// Recovery stops (exit status 126)
    Stop,
    /// The server takes the file for missing (exit status 1)
    Retry,
}

/// Marks a directory as the archive of a cluster.
#[derive(Debug, Args)]
#[command(
    long_about = "Marks a directory as the archive of a cluster: writes its identity file, durably and without replacing one.\n\n\
The archiver does this by itself for a new, empty directory. Use it after a disk was replaced or an archive was moved, and for an \
archive that another tool made.",
    after_help = "\
Exit status: 0 the directory is marked as this cluster's, now or before; 2 it could not be done.

Example:
  walsafe init --pgdata /var/lib/postgresql/17/main /mnt/archive"
)]
pub(crate) struct Init {
    /// The cluster's data directory
    #[arg(long, value_name = "DIR")]
    pub(crate) pgdata: PathBuf,
    /// Permission of the identity file: 0600, 0640, 0400 or 0440
    #[arg(long, value_name = "MODE", default_value = "0600")]
    pub(crate) file_mode: String,
    /// Write the result as JSON
    #[arg(long)]
    pub(crate) json: bool,
    /// The archive directory
    #[arg(value_name = "DEST")]
    pub(crate) destination: PathBuf,
}

/// Proves that an archive is whole.
#[derive(Debug, Args)]
#[command(
    long_about = "Proves that an archive is whole: reads every file, checks digests, encodings, page headers and every record, names and \
cluster, and that no segment is missing on any timeline. Writes nothing. Reads past the page cache.\n\n\
With --from it proves what a base backup needs: every record from its start to the newest, over timeline switches.",
    after_help = "\
Exit status: 0 no findings; 1 findings; 2 it could not run.

Findings: corrupt, digest-mismatch, truncated, wrong-name, wrong-cluster, gap, duplicate,
stray-temporary, unreadable, unknown. Each says what to do.

Examples:
  walsafe verify /mnt/archive
  # can this base backup be recovered, up to the newest WAL?
  walsafe verify --from /backup/base/backup_label /mnt/archive
  walsafe verify --from 16/B374D848 --json /mnt/archive"
)]
pub(crate) struct Verify {
    /// Prove what a recovery from here needs, and no more: a backup_label, a .backup file or an LSN
    #[arg(long, value_name = "BACKUP_LABEL_OR_LSN")]
    pub(crate) from: Option<String>,
    /// The timeline of an LSN given with --from; without, the newest timeline's history tells
    #[arg(long, value_name = "NUMBER", requires = "from")]
    pub(crate) timeline: Option<u32>,
    /// How many files to read at a time; without, one for each processor, at most 8
    #[arg(long, short, value_name = "NUMBER", value_parser = clap::value_parser!(u16).range(1..=64))]
    pub(crate) jobs: Option<u16>,
    /// Write the report as JSON
    #[arg(long)]
    pub(crate) json: bool,
    /// Show no progress bar, also on a terminal
    #[arg(long, short)]
    pub(crate) quiet: bool,
    /// The archive directory
    #[arg(value_name = "DIR")]
    pub(crate) archive: PathBuf,
}

/// Lists what an archive holds: timelines, ranges, counts, sizes and times.
#[derive(Debug, Args)]
#[command(after_help = "\
Reads names, lengths and times, and no contents: use verify to know whether the files are good.

Exit status: 0 listed; 1 entries could not be looked up; 2 it could not run.

Examples:
  walsafe list /mnt/archive
  walsafe list --json /mnt/archive")]
pub(crate) struct List {
    /// Write the list as JSON
    #[arg(long)]
    pub(crate) json: bool,
    /// The archive directory
    #[arg(value_name = "DIR")]
    pub(crate) archive: PathBuf,
}

/// Checks that a directory is fit to archive to, and to recover from.
#[derive(Debug, Args)]
#[command(after_help = "\
Exit status, as Nagios and its kin expect it: 0 all is well; 1 a warning; 2 an error; 3 it could
not run.

Writes small probe files with temporary names, and removes them. With --read-only it writes
nothing: run that on a standby before it is promoted.

Examples:
  walsafe check --pgdata /var/lib/postgresql/17/main /mnt/archive
  walsafe check --read-only --pgdata /var/lib/postgresql/17/standby /mnt/archive")]
pub(crate) struct Check {
    /// The cluster's data directory, for the checks that compare with it
    #[arg(long, value_name = "DIR")]
    pub(crate) pgdata: Option<PathBuf>,
    /// Warn when so many megabytes are not free; without, when less than 5 percent are
    #[arg(long, value_name = "MB", default_value_t = 0)]
    pub(crate) min_free: u32,
    /// Write nothing
    #[arg(long)]
    pub(crate) read_only: bool,
    /// Write the checks as JSON
    #[arg(long)]
    pub(crate) json: bool,
    /// The archive directory
    #[arg(value_name = "DIR")]
    pub(crate) archive: PathBuf,
}

/// Prints BLAKE3 digests of the files, for `b3sum --check`.
#[derive(Debug, Args)]
#[command(after_help = "\
A file that carries its digest from the time it was archived is listed with that; others are read.
So \"b3sum --check\" also finds what was damaged before this was printed.

Exit status: 0 every file is listed; 1 some could not be read; 2 it could not run.

Examples:
  walsafe manifest /mnt/archive > archive.b3
  (cd /mnt/archive && b3sum --check) < archive.b3")]
pub(crate) struct Manifest {
    /// Read every file, also those that carry a digest
    #[arg(long)]
    pub(crate) read: bool,
    /// Write the digests as JSON
    #[arg(long)]
    pub(crate) json: bool,
    /// The archive directory
    #[arg(value_name = "DIR")]
    pub(crate) archive: PathBuf,
}

/// Prints a script that completes this program's arguments in a shell.
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  walsafe completions bash > /etc/bash_completion.d/walsafe")]
pub(crate) struct Completions {
    /// The shell
    pub(crate) shell: clap_complete::Shell,
}

/// Prints the manual page of this program, or of one of its commands.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  walsafe man | man -l -
  walsafe man restore > /usr/local/share/man/man1/walsafe-restore.1")]
pub(crate) struct Man {
    /// The command
    #[arg(value_name = "COMMAND")]
    pub(crate) command: Option<String>,
}
