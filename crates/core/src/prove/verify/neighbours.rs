//! Files compared with their neighbours: records that cross, and encodings of one name.

use std::collections::HashMap;

use super::reading::Read;
use crate::encoding::digest::Digest;
use crate::prove::finding::{FindingKind, Problem};
use crate::wal::name::FileKind;
use crate::wal::{Damage, Edges, Lsn};

/// Joins the end of each segment with the beginning of the next, partial or not, over timeline
/// switches too.
pub(super) fn join_edges(read: &mut [Read]) {
    // By address, so that a record that runs through many segments is resolved on the way. At one address,
    // the older timeline comes first.
    let mut order: Vec<(Lsn, u32, usize, &mut Read)> = Vec::new();
    for (index, file) in read.iter_mut().enumerate() {
        // What is damaged or another cluster's has a finding, and says nothing of its neighbours.
        if let (Some(segment), Some(size)) = (file.segment, file.size)
            && let Some(start) = segment.start(size)
            && file.problem.is_none()
        {
            order.push((start, segment.timeline, index, file));
        }
    }
    order.sort_unstable_by_key(|(start, timeline, index, _)| (*start, *timeline, *index));
    let mut edges = Edges::new(usize::MAX);
    let mut damaged: Vec<(Damage, usize)> = Vec::new();
    for (start, _, index, file) in order {
        // If the WAL continues, it does so behind the whole segment, not behind a partial one.
        let whole = matches!(file.listed.name.kind(), FileKind::Segment(_));
        let (head, tail) = (file.head.take(), file.tail.take().filter(|_| whole));
        edges.forget_before(start);
        let met = edges.add_edges(head, tail);
        damaged.extend(met.into_iter().filter_map(|met| Some((met.damage?, index))));
    }
    for (damage, second) in damaged {
        blame(read, &damage, second);
    }
}

/// Attributes damage to the file that it names: the second of the two, or the whole one before it.
fn blame(read: &mut [Read], damage: &Damage, second: usize) {
    let named = |file: &Read| {
        let segment = file.segment.filter(|segment| segment.timeline == damage.timeline);
        segment.and_then(|segment| segment.start(file.size?)) == Some(damage.segment)
    };
    let whole = |file: &Read| matches!(file.listed.name.kind(), FileKind::Segment(_));
    let index = if read.get(second).is_some_and(named) {
        Some(second)
    } else {
        read.iter().position(|file| whole(file) && named(file))
    };
    debug_assert!(index.is_some(), "{damage} is in neither of the files that met");
    if let Some(file) = read.get_mut(index.unwrap_or(second))
        && file.problem.is_none()
    {
        let reason = format!("{damage}, where it meets its neighbour");
        file.problem = Some(Problem::new(FindingKind::Corrupt, reason));
    }
}

/// Finds encodings of one name that hold different contents. The input is sorted by name.
pub(super) fn compare_encodings(read: &mut [Read]) {
    let mut first: HashMap<String, (String, Digest)> = HashMap::new();
    for file in read.iter_mut().filter(|file| file.problem.is_none()) {
        let Some(content) = file.content else { continue };
        let name = file.listed.name.to_string();
        match first.get(&name) {
            None => {
                first.insert(name, (file.listed.to_string(), content));
            }
            Some((_, same)) if *same == content => {}
            Some((other, _)) => {
                let reason = format!("its contents differ from those of {other}");
                file.problem = Some(Problem::new(FindingKind::Duplicate, reason));
            }
        }
    }
}
