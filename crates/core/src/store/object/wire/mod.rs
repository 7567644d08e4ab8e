//! HTTP/1.1 over one connection at a time, on the calling thread.
//!
//! The protocol is that of ureq-proto: heads, bodies and their ends, and whether a connection may be used again.
//! The connections, with TLS, proxies and time limits, are our own, and so is what is repeated: nothing here.
//!
//! ureq itself, which is the same engine with connections, was tried (3.5.2) and does not do:
//! - It takes a body from a reader, in the call that waits for the answer. A body that waits for its turn would
//!   take a thread of its own beside each worker; here it is a value ([`Begun`]) that any thread ends or drops.
//! - It loses what was answered before the end of the body. Of 20 PUTs of 16 MB to a server that answers 403 by
//!   the head and closes, all 20 failed with "broken pipe" or "connection reset": an outcome that is not known,
//!   so that all of it would be sent again. Here all 20 are the 403.

mod body;
mod exchange;
mod head;
mod line;
mod lines;
#[cfg(test)]
mod tests;
mod tls;
mod via;

pub(super) use body::Body;
pub(super) use exchange::{Begun, Reply};
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
    /// The request cannot be put into HTTP.
    Unmade {
        /// Why.
        reason: String,
    },
    /// What came is not HTTP.
    Garbled {
        /// The name and the port.
        host: String,
        /// What is wrong with it.
        what: &'static str,
    },
}

fn unmade(reason: impl ToString) -> Failure {
    Failure::Unmade { reason: reason.to_string() }
}
