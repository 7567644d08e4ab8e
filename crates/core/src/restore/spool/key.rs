//! What a spool belongs to.

use crate::encoding::digest::Digest;

/// What a spool belongs to. Of anything else, it is emptied before use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    /// The start of the server: its process, and when it was started.
    pub server: String,
    /// The data directory, by what no other has.
    pub data_directory: String,
    /// The archives in their order, and what is accepted of them, as a digest.
    pub archives: Digest,
}

/// Who fetches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// A process of its own.
    Process,
    /// The calls themselves: the orphan of a call would be taken over by the server.
    Calls,
}

impl Way {
    pub(super) const ALL: [Self; 2] = [Self::Process, Self::Calls];

    const fn name(self) -> &'static str {
        match self {
            Self::Process => "process",
            Self::Calls => "calls",
        }
    }
}

impl Key {
    /// Returns what each note begins with: another recovery's files never count, whenever they come.
    pub(super) fn mark(&self) -> String {
        format!("key = {}\n", Digest::of(self.text(Way::Process).as_bytes()))
    }

    /// Returns the lines of the key.
    pub(super) fn text(&self, way: Way) -> String {
        let Self { server, data_directory, archives } = self;
        let way = way.name();
        format!(
            "server = {server}\ndata directory = {data_directory}\narchives = {archives}\nfetched by = {way}\n"
        )
    }

    /// Returns whether the text of a key is one of the same data directory's.
    pub(super) fn is_of_same_server(&self, text: &str) -> bool {
        let line = format!("data directory = {}", self.data_directory);
        text.lines().any(|other| other == line)
    }
}
