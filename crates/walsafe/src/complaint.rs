//! What is said when something went wrong: one line, or one JSON object.

use std::fmt::{self, Display};

use walsafe_core::error::{Activity, Error};

/// Why the program did not do what it was asked for.
#[derive(Debug, Clone)]
pub(crate) struct Complaint {
    message: String,
    /// Full sentences; may be empty.
    detail: String,
    /// What to do, in full sentences; may be empty.
    hint: String,
}

impl Complaint {
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), detail: String::new(), hint: String::new() }
    }

    /// Says an error of the core, with what to do about it.
    pub(crate) fn of(error: &Error, activity: Activity) -> Self {
        Self::new(error.to_string()).detail(error.detail()).hint(error.hint(activity))
    }

    pub(crate) fn detail(self, detail: impl Into<String>) -> Self {
        Self { detail: detail.into(), ..self }
    }

    pub(crate) fn hint(self, hint: impl Into<String>) -> Self {
        Self { hint: hint.into(), ..self }
    }

    /// Begins the message with these words.
    pub(crate) fn after(self, words: &str) -> Self {
        Self { message: format!("{words}{}", self.message), ..self }
    }

    /// Adds a sentence to the hint.
    pub(crate) fn and(mut self, sentence: &str) -> Self {
        if !self.hint.is_empty() {
            self.hint.push(' ');
        }
        self.hint.push_str(sentence);
        self
    }

    /// Returns what `error` is in JSON, beside the exit status with which the program ends.
    pub(crate) fn json(&self, status: u8) -> serde_json::Value {
        let given = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        serde_json::json!({
            "message": self.message,
            "detail": given(&self.detail),
            "hint": given(&self.hint),
            "exit_status": status,
        })
    }
}

impl Display for Complaint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        match (&*self.detail, &*self.hint) {
            ("", "") => Ok(()),
            (detail, "") => write!(f, ": {detail}"),
            ("", hint) => write!(f, ". {hint}"),
            (detail, hint) => write!(f, ": {detail} {hint}"),
        }
    }
}
