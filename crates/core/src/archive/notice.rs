//! What an administrator should know of although the file was archived.

/// How loudly the server's log says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// Somebody has to decide something.
    Warning,
    /// It explains what was done, or what could not be checked.
    Log,
}

/// One message beside a success. The caller reports it, once, in the order in which they stand in
/// [`super::Receipt::notices`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    /// How loudly it is said.
    pub level: Level,
    /// The SQLSTATE of a warning; a line at [`Level::Log`] goes without.
    pub sqlstate: &'static str,
    /// What was found, in the server's style.
    pub message: String,
    /// Where, and what shows it: full sentences; may be empty.
    pub detail: String,
    /// What to do: full sentences; may be empty.
    pub hint: String,
}
