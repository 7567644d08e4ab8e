//! What the permissions say where the system has refused something.

/// Who may do what was refused, and what helps. Made by [`crate::store::access`], for messages only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Access {
    /// Which file or directory refuses, its owner and mode, and the server's user: for the DETAIL.
    pub found: String,
    /// What gives the permission: for the HINT.
    pub advice: String,
}
