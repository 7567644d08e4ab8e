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
    Init(Init),
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
