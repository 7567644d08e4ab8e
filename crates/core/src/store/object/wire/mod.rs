//! HTTP/1.1 over one connection at a time, on the calling thread.
//!
//! A client of a library's own would do for most of this, but for what publishing in order needs: a request
//! that has sent all of its body but the end is a value here, which waits for its turn in whatever thread has
//! it and is dropped when its turn does not come; a time limit is on progress and not on the whole; what was
//! answered before the body's end is read; and nothing is repeated or followed that the caller does not see.

mod body;
mod exchange;
mod head;
mod line;
mod lines;
mod tls;
mod via;

pub(super) use body::Body;
pub(super) use exchange::{Begun, Head, Reply};
pub(super) use lines::{Dial, Lines};
pub(super) use tls::Trust;
pub(super) use via::Via;

use std::io;

/// Why a request got no answer.
#[derive(Debug)]
pub(super) enum Failure {
    /// The server's name is not known.
    Unknown {
        /// The name.
        host: String,
        /// What the resolver says.
        source: io::Error,
    },
    /// No connection was made.
    Unreachable {
        /// The name and the port.
        host: String,
        /// What the last address said.
        source: io::Error,
    },
    /// The server's certificate is refused, or the certificates to check it by cannot be used.
    Certificate {
        /// The name and the port.
        host: String,
        /// Why.
        reason: String,
    },
    /// The proxy did not make the connection.
    Proxy {
        /// The proxy's name and port.
        host: String,
        /// What it answered.
        status: u16,
    },
    /// The connection ended, or nothing moved for too long, while the request was under way.
    Cut {
        /// The name and the port.
        host: String,
        /// How.
        source: io::Error,
        /// The connection had been used for another request, and may have been closed since then.
        reused: bool,
    },
    /// What came is not HTTP.
    Garbled {
        /// The name and the port.
        host: String,
        /// What is wrong with it.
        what: &'static str,
    },
}
