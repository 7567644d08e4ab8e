//! What is noted of a file that was fetched ahead: it counts only with that.

use std::path::PathBuf;

use crate::encoding::digest::Digest;
use crate::store::location;

/// What is known of a file that an archive has given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Given {
    /// The archive that gave it, by its location.
    pub from: PathBuf,
    /// When that archive was begun, as its identity says.
    pub created: Option<String>,
    /// What tells the object from a later one of the same name, where storage says that.
    pub version: Option<String>,
    /// The digest of the WAL file's own bytes.
    pub content: Digest,
    /// Their number.
    pub len: u64,
    /// Its WAL ends before the segment does. That this is right was true when it was looked at, and may not be
    /// later.
    pub ends_early: bool,
    /// It was fetched before the server asked for it.
    pub fetched_ahead: bool,
}

impl Given {
    /// Writes the note of a file. `None` for what cannot be noted in lines.
    pub(super) fn to_note(&self) -> Option<String> {
        let from = self.from.to_str()?;
        if location::is_url(&self.from) && self.version.is_none() {
            return None;
        }
        let mut lines = vec![
            ("content", self.content.to_string()),
            ("length", self.len.to_string()),
            ("from", from.to_owned()),
        ];
        lines.extend(self.created.clone().map(|created| ("created", created)));
        lines.extend(self.version.clone().map(|version| ("version", version)));
        if self.ends_early || lines.iter().any(|(_, value)| value.contains('\n')) {
            return None;
        }
        Some(lines.iter().map(|(key, value)| format!("{key} = {value}\n")).collect())
    }

    /// Reads a note. `None` if it is not a whole one.
    pub(super) fn of_note(text: &str) -> Option<Self> {
        if !text.ends_with('\n') {
            return None;
        }
        let value = |key: &str| {
            let mut lines = text.lines().filter_map(|line| line.split_once(" = "));
            lines.find(|(name, _)| *name == key).map(|(_, value)| value.to_owned())
        };
        Some(Self {
            from: value("from")?.into(),
            created: value("created"),
            version: value("version"),
            content: value("content")?.parse().ok()?,
            len: value("length")?.parse().ok()?,
            ends_early: false,
            fetched_ahead: true,
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_note_is_read_as_it_was_written_and_only_whole() {
        let given = Given {
            from: "s3://wal/main?region=a = b".into(),
            created: Some("2026-11-29T12:00:00Z".to_owned()),
            version: Some("\"d41d8cd98f00b204e9800998ecf8427e\"".to_owned()),
            content: Digest::of(b"wal"),
            len: 3,
            ends_early: false,
            fetched_ahead: true,
        };
        let note = given.to_note().unwrap();
        assert_eq!(Given::of_note(&note), Some(given.clone()));
        // An object counts only with its version.
        assert_eq!(Given { version: None, ..given.clone() }.to_note(), None);
        let from = "/mnt/archive".into();
        let bare = Given { from, created: None, version: None, ..given.clone() };
        assert_eq!(Given::of_note(&bare.to_note().unwrap()), Some(bare));
        for cut in 0..note.len() {
            let cut = note.get(..cut).unwrap();
            assert!(Given::of_note(cut).is_none_or(|given| given.version.is_none()), "{cut}");
        }
        assert_eq!(Given { from: "/a\nb".into(), ..given.clone() }.to_note(), None);
        // What is right about its end was right then.
        assert_eq!(Given { ends_early: true, ..given }.to_note(), None);
    }
}
