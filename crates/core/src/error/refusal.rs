//! What object storage says when it does not do what it is asked for.

use super::ErrorKind;

/// Why a request to object storage was not done. Of an answer it holds status, code, request id and host, and
/// never a body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// What it means.
    pub kind: ErrorKind,
    /// What was answered and by whom, or why nothing was: half a sentence.
    pub text: String,
    /// The number by which the storage's own people find the request.
    pub request_id: Option<String>,
}
