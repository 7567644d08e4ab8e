//! Whether a segment continues the one before it, as far as the two prove it.

use super::damage::{Damage, DamageKind};
use super::edge::{Fate, Head, Prev, Tail, TailState, join};
use super::lsn::Lsn;
use super::report::{End, SegmentReport};

/// Whether one segment continues another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fit {
    /// The record that crosses is whole, or the first record names the last one before it.
    Continues,
    /// Both are sound, and the WAL of the second was not written behind that of the first: the record that
    /// crosses cannot be put together, or the first record names one before it that is not there.
    Breaks(Damage),
    /// Nothing is proved, for this reason.
    Unknown(Doubt),
}

/// Why two segments cannot be compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Doubt {
    /// The first of the two is damaged.
    #[error("the earlier one is damaged")]
    BeforeDamaged,
    /// The second of the two is damaged.
    #[error("it is damaged")]
    AfterDamaged,
    /// Pages of a version that is not known here, or none at all, as in a segment that is encrypted.
    #[error("the earlier one holds no WAL of a known version")]
    BeforeUnknown,
    /// The same of the second one.
    #[error("it holds no WAL of a known version")]
    AfterUnknown,
    /// Its WAL ends before its last byte, as in the last segment that a standby received.
    #[error("the WAL of the earlier one ends within it")]
    BeforeEnds,
    /// The WAL of the second one ends before its first record does.
    #[error("its WAL ends before its first record does")]
    AfterEnds,
    /// The first record has no `xl_prev`: `pg_resetwal` was used.
    #[error("its first record names no record before it, as after pg_resetwal")]
    Reset,
    /// A record fills one of the two.
    #[error("one record fills a whole segment")]
    Filled,
    /// What does not fit may have another reason: another version, or a record that a crash broke off.
    #[error("its beginning neither fits nor shows what was before it")]
    Ambiguous,
}

impl Fit {
    /// Compares the end of a segment with the beginning of the one at the next address. That the second
    /// belongs behind the first, over a switch of timelines too, is what the caller knows: both were
    /// checked alone, without the segments around them.
    #[must_use]
    pub fn of(before: &SegmentReport, after: &SegmentReport) -> Self {
        match compare(before, after) {
            Ok(fit) => fit,
            Err(doubt) => Self::Unknown(doubt),
        }
    }
}

fn compare(before: &SegmentReport, after: &SegmentReport) -> Result<Fit, Doubt> {
    let unknown = |report: &SegmentReport| {
        // Without one good page there is no WAL: it may be encrypted.
        matches!(report.end, End::UnknownVersion(_)) || report.head.is_none()
    };
    if unknown(before) {
        return Err(Doubt::BeforeUnknown);
    }
    if unknown(after) {
        return Err(Doubt::AfterUnknown);
    }
    if !before.is_sound() {
        return Err(Doubt::BeforeDamaged);
    }
    if !after.is_sound() {
        return Err(Doubt::AfterDamaged);
    }
    let tail = before.tail.as_ref().ok_or(Doubt::BeforeEnds)?;
    let head = after.head.as_ref().ok_or(Doubt::AfterUnknown)?;
    if tail.next != head.start {
        return Err(Doubt::Ambiguous);
    }
    if matches!(tail.state, TailState::Ended(_)) {
        return Err(Doubt::BeforeEnds);
    }
    if head.first.is_some_and(|(_, prev)| prev == Lsn::INVALID) {
        return Err(Doubt::Reset);
    }
    // What follows no record that can be read may be anything.
    if after.records == 0 && matches!(after.end, End::EndsAt { .. }) {
        return Err(Doubt::AfterEnds);
    }
    if head.has_fragment() {
        match head.fragment.fate {
            Fate::Through => return Err(Doubt::Filled),
            Fate::Broken => return Err(Doubt::AfterEnds),
            Fate::Complete | Fate::Overwritten(_) => {}
        }
    }
    // The caller has followed the history of timelines, where a timeline may begin with a segment.
    let led = Tail { timeline: head.timeline, ..tail.clone() };
    let joined = join(&led, head, None).ok_or(Doubt::Filled)?;
    let Some(damage) = joined.damage else {
        let whole = matches!(tail.state, TailState::Boundary)
            || matches!(head.fragment.fate, Fate::Overwritten(_));
        let linked = whole && head.first.is_some() && matches!(tail.prev, Prev::Known(_));
        return if joined.record.is_some() || linked {
            Ok(Fit::Continues)
        } else {
            Err(Doubt::Filled)
        };
    };
    let proved = match damage.kind {
        DamageKind::Checksum { .. }
        | DamageKind::PrevLink { .. }
        | DamageKind::ContinuationLength { .. }
        | DamageKind::UnexpectedContinuation { .. } => true,
        // A crash breaks records off. What was before it decides.
        DamageKind::MissingContinuation
        | DamageKind::OverwriteRecord
        | DamageKind::UnexpectedOverwrite => names_another(tail, head),
        _ => false,
    };
    if !proved {
        return Err(Doubt::Ambiguous);
    }
    let timeline = if damage.segment < head.start { tail.timeline } else { damage.timeline };
    Ok(Fit::Breaks(Damage { timeline, ..damage }))
}

/// Returns whether the first record names, as the one before it, neither the last whole record of the
/// segment before nor the one that was open at its end.
fn names_another(tail: &Tail, head: &Head) -> bool {
    let (Some((_, named)), Prev::Known(last)) = (head.first, tail.prev) else { return false };
    let open = match &tail.state {
        TailState::Open(open) => Some(open.start),
        _ => None,
    };
    named != last && Some(named) != open
}
