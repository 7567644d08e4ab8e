//! The base backups that an archive knows of, by their backup history files.
//!
//! The server writes one at the end of each backup of a primary. A backup of a standby leaves none.

use std::io::{self, Read};

use super::verify::{Start, label_value};
use crate::store::{StoredName, Visit};
use crate::wal::name::{FileName, SegmentName};

/// The server's own files are shorter than 2 kB: a label has at most 1024 bytes.
const MAX_LEN: u64 = 64 << 10;

/// A base backup, as its backup history file describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BaseBackup {
    /// The name of its backup history file, without the extension of a compression.
    pub file: String,
    /// What it was called when it was taken.
    pub label: String,
    /// Where a recovery from it begins, and up to where it needs WAL.
    pub start: Start,
    /// The segment in which it begins.
    pub first: SegmentName,
    /// The segment in which it ends, if the file says so.
    pub last: Option<SegmentName>,
    /// When it began, in the server's words: the time zone is that of its log.
    pub started: Option<String>,
    /// When it ended.
    pub stopped: Option<String>,
    /// Of which server it was taken: `primary` or `standby`.
    pub taken_from: Option<String>,
}

/// Reads a backup history file, through whatever compression it has, and none of it beyond 64 kB. `None` if it
/// was removed since its name was read.
///
/// # Errors
/// The file could not be read, or is not a backup history file. The text says which.
pub(super) fn read(
    visit: &dyn Visit,
    file: &StoredName,
    first: SegmentName,
) -> Result<Option<BaseBackup>, String> {
    let Some(text) = text_of(visit, file).map_err(|e| e.to_string())? else { return Ok(None) };
    let start = Start::from_label(&text).map_err(|e| e.to_string())?;
    let value = |key| label_value(&text, key).map(str::to_owned);
    let last = label_value(&text, "STOP WAL LOCATION").and_then(|location| {
        let name = location.split_once("(file ")?.1.strip_suffix(')')?;
        FileName::new(name).ok()?.segment()
    });
    Ok(Some(BaseBackup {
        file: file.name.as_str().to_owned(),
        label: value("LABEL").unwrap_or_default(),
        start,
        first,
        last,
        started: value("START TIME"),
        stopped: value("STOP TIME"),
        taken_from: value("BACKUP FROM"),
    }))
}

/// Reads the text of a backup history file. What is not UTF-8 in it is replaced: a label may be in any encoding
/// of a database.
pub(super) fn text_of(visit: &dyn Visit, file: &StoredName) -> io::Result<Option<String>> {
    let found = visit.find(&file.into());
    let found = found.map_err(|e| io::Error::other(format!("{e}: {}", e.detail())))?;
    let Some(found) = found else { return Ok(None) };
    let mut text = Vec::new();
    found.decode()?.take(MAX_LEN).read_to_end(&mut text)?;
    Ok(Some(String::from_utf8_lossy(&text).into_owned()))
}
