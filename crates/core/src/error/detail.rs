//! The DETAIL of an error: paths, the system's words and numbers.

use std::fmt;
use std::io;
use std::path::Path;

use super::{Error, ErrorKind, Nature};
use crate::sys::Space;
use crate::words;

/// Writes an error's DETAIL.
pub(super) struct Detail<'a>(pub(super) &'a Error);

impl fmt::Display for Detail<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Error::Io { path, space: Some(space), source, .. }
                if self.0.kind() == ErrorKind::OutOfInodes =>
            {
                let Space { total, free, .. } = space;
                write!(
                    f,
                    "\"{}\": {}. No inode is left there for another file; {} MB of {} MB are free.",
                    path.display(),
                    system_text(source),
                    free >> 20,
                    total >> 20
                )
            }
            Error::Io { path, space, access, source, .. } => {
                f.write_str(&on_file_system(path, *space, source))?;
                access.as_ref().map_or(Ok(()), |access| write!(f, " {}", access.found))
            }
            Error::Remote { path, refusal, .. } => {
                f.write_str(&of_refusal(path, &refusal.text))?;
                let id = refusal.request_id.as_ref();
                id.map_or(Ok(()), |id| write!(f, " The request's number is {id}."))
            }
            Error::BadSetting { reason } | Error::BadLocation { reason } => {
                f.write_str(&words::sentence(reason))
            }
            Error::NotConfigured => f.write_str("\"walsafe_archive.destination\" is empty."),
            Error::SourceNotAFile { path, found } | Error::NotAFile { path, found } => {
                write!(f, "\"{}\" is {found}.", path.display())
            }
            Error::BadControlFile { path, reason } => {
                write!(f, "\"{}\": {reason}.", path.display())
            }
            Error::Vanished { path } => {
                write!(f, "\"{}\" was there a moment ago, and no longer is.", path.display())
            }
            Error::Replaced { path } => write!(
                f,
                "\"{}\" leads to another directory than at the start of the copy.",
                path.display()
            ),
            Error::Name { source, .. } => f.write_str(&words::sentence(&source.to_string())),
            Error::Segment { path, source } => write!(f, "\"{}\": {source}.", path.display()),
            Error::OtherCluster { path, ours, theirs } => write!(
                f,
                "\"{}\" carries the system identifier {theirs}, and this cluster's is {ours}.",
                path.display()
            ),
            Error::BadIdentity { path, reason } | Error::NotContinued { path, reason } => {
                write!(f, "\"{}\": {reason}.", path.display())
            }
            Error::IdentityLost { file } => write!(
                f,
                "\"{}\" was used by this cluster before, and \"{}\" is no longer there.",
                file.parent().unwrap_or(file).display(),
                file.file_name().unwrap_or_default().display()
            ),
            Error::NotAdoptable { path, reason } => write!(f, "\"{}\": {reason}.", path.display()),
            Error::InsideData { path } => {
                write!(f, "\"{}\" leads into the data directory or its \"pg_wal\".", path.display())
            }
            Error::Conflict { path, difference }
            | Error::HistoryConflict { path, difference, .. } => {
                write!(f, "\"{}\": {difference}", path.display())
            }
            Error::NoReplaceUnsupported { path, source } => {
                write!(f, "\"{}\": {}.", path.display(), system_text(source))
            }
            Error::ReadBackDiffers { path, reason } => {
                write!(f, "\"{}\": {reason}.", path.display())
            }
            Error::SourceChanged { path, expected, read } => write!(
                f,
                "\"{}\" had {} at the start, and {read} could be read.",
                path.display(),
                words::count(*expected, "byte")
            ),
            Error::SourceMoved { path } => write!(
                f,
                "\"{}\" is no longer the file that was opened under this name.",
                path.display()
            ),
            Error::Stalled { path, seconds } => write!(
                f,
                "The copy into \"{}\" has made no progress for {}.",
                path.display(),
                words::count(*seconds, "second")
            ),
            Error::StorageHangs { path, seconds, left } => {
                let (path, time) = (path.display(), words::count(*seconds, "second"));
                write!(f, "Nothing has moved at \"{path}\" for {time}.")?;
                left.map_or(Ok(()), |id| {
                    write!(f, " Process {id} stays until the kernel ends its call.")
                })
            }
            Error::Panicked { message } => f.write_str(&words::sentence(message)),
        }
    }
}

/// Words what makes an error the same as an earlier one: see [`Error::gist`].
pub(super) fn gist(error: &Error) -> String {
    let place = |path: &Path| path.display().to_string();
    match error {
        // Space changes while everybody else writes.
        Error::Io { path, space: Some(_), source, .. } => on_file_system(path, None, source),
        // Each request has a number of its own.
        Error::Remote { path, refusal, .. } => of_refusal(path, &refusal.text),
        Error::Stalled { path, .. }
        | Error::StorageHangs { path, .. }
        | Error::SourceChanged { path, .. } => place(path),
        // The archive's newest segment, where the other server goes on.
        Error::Conflict { path, difference } => match difference.nature {
            Nature::Ahead { first_record, .. } => format!("{} {first_record}", place(path)),
            _ => error.detail(),
        },
        _ => error.detail(),
    }
}

/// Words an error of the system at a path; where space is short, says how much there is.
pub(crate) fn on_file_system(path: &Path, space: Option<Space>, source: &io::Error) -> String {
    let room = space.map_or_else(String::new, |Space { total, free, .. }| {
        format!(" {} MB of {} MB are free there.", free >> 20, total >> 20)
    });
    format!("\"{}\": {}.{room}", path.display(), system_text(source))
}

fn of_refusal(path: &Path, text: &str) -> String {
    format!("\"{}\": {}.", path.display(), text.trim_end_matches('.'))
}

/// The system's words for an error, with its number.
fn system_text(error: &io::Error) -> String {
    error.to_string().trim_end_matches('.').to_owned()
}
