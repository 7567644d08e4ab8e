//! What the calls of a try must show, so that a file that was there counts.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)]
#![allow(missing_docs, unreachable_pub, reason = "the names say it")]

use walsafe_core::sys::fault::Op;

pub fn is_creating(op: &Op) -> bool {
    matches!(op, Op::CreateNamed | Op::CreateUnnamed)
}

/// A file that was there counts only after it was flushed, read, and its directory flushed, all
/// through handles that this call has opened.
pub fn assert_proven(calls: &[Op], what: &str) {
    let at = |wanted: Op| calls.iter().position(|op| *op == wanted);
    let (opened, flushed) = (at(Op::OpenDirectory), at(Op::Flush));
    assert!(opened.is_some() && opened < flushed, "{what}: {calls:?}");
    let after = &calls[flushed.unwrap()..];
    let last = after.iter().rposition(|op| *op == Op::FlushDirectory);
    let reads = after[..last.unwrap()].iter().filter(|op| **op == Op::Read).count();
    assert!(reads >= 2, "{what}: not compared between the flushes: {calls:?}");
    assert!(!calls.iter().any(is_creating), "{what}: {calls:?}");
}
