use super::*;

const SIZE: SegmentSize = SegmentSize::DEFAULT;

/// An address in a segment.
fn within(segment: u64, offset: u64) -> Lsn {
    Lsn(segment * u64::from(SIZE.bytes()) + offset)
}

fn segments(from: u64, to: u64) -> Stretch {
    Stretch { from: within(from, 0), to: within(to, 0) }
}

fn ancestors(switches: &[(u32, Lsn)]) -> Option<Vec<Ancestor>> {
    Some(
        switches
            .iter()
            .map(|(timeline, switch)| Ancestor { timeline: *timeline, switch: *switch })
            .collect(),
    )
}

/// 2 branched off 1 in segment 5, 3 off 2 in segment 8, and 4 off 1 in segment 6.
fn family() -> Timelines {
    let mut timelines = Timelines::default();
    timelines.add(2, ancestors(&[(1, within(5, 100))]));
    timelines.add(3, ancestors(&[(1, within(5, 100)), (2, within(8, 0))]));
    timelines.add(4, ancestors(&[(1, within(6, 300))]));
    timelines
}

#[test]
fn a_timelines_parent_is_the_last_one_that_its_history_names() {
    let family = family();
    assert_eq!(family.parent(3), Some(Ancestor { timeline: 2, switch: within(8, 0) }));
    assert_eq!(family.parent(1), None);
    assert_eq!(family.parent(9), None);
}

#[test]
fn only_children_branched_off_a_timeline_and_grandchildren_did_not() {
    let family = family();
    let of_one: Vec<Branch> = family.branches_of(1).collect();
    let two = Branch { timeline: 2, switch: within(5, 100) };
    let four = Branch { timeline: 4, switch: within(6, 300) };
    assert_eq!(of_one, [two, four]);
    assert_eq!(family.branches_of(3).count(), 0);
}

#[test]
fn a_grandparent_is_an_ancestor_and_a_cousin_is_not() {
    let family = family();
    assert_eq!(family.left(1, 3), Some(within(5, 100)));
    assert!(family.is_ancestor(1, 3) && family.is_ancestor(2, 3));
    assert!(!family.is_ancestor(2, 4) && !family.is_ancestor(3, 2) && !family.is_ancestor(3, 3));
}

#[test]
fn a_record_leads_to_a_timeline_that_branched_off_behind_it() {
    let family = family();
    assert!(family.leads_to(1, within(5, 99), 3));
    assert!(!family.leads_to(1, within(5, 100), 3), "it was left there");
    assert!(family.leads_to(1, within(6, 0), 4));
    assert!(family.leads_to(1, within(9, 0), 1), "a timeline goes on without end");
}

#[test]
fn the_newest_timeline_is_the_newest_that_can_be_reached() {
    let family = family();
    assert_eq!(family.newest([1], None, within(3, 0)), Some(4));
    assert_eq!(family.newest([1, 2], Some(2), within(6, 0)), Some(3));
    assert_eq!(family.newest([1, 7], Some(1), within(7, 0)), Some(1), "7 has no history");
    assert_eq!(family.newest([7], None, within(7, 0)), Some(7));
    assert_eq!(Timelines::default().newest([], None, Lsn(0)), None);
}

#[test]
fn a_route_reads_the_segment_with_a_switch_under_the_newer_name() {
    let route = family().route(3, Lsn(0), SIZE);
    let one = Leg { timeline: 1, stretch: segments(0, 5) };
    let two = Leg { timeline: 2, stretch: segments(5, 8) };
    assert_eq!((route.legs.as_slice(), route.from), ([one, two].as_slice(), within(8, 0)));
    assert_eq!(route.start_timeline(), 1);
    assert!(route.needs_of_ancestor(1, within(4, 0)) && !route.needs_of_ancestor(1, within(5, 0)));
    assert!(route.needs_of_last(3, within(8, 0)) && !route.needs_of_last(3, within(7, 0)));
    assert!(!route.needs_of_last(2, within(8, 0)));
}

#[test]
fn a_route_begins_with_the_segment_of_its_first_record() {
    let route = family().route(3, within(6, 40), SIZE);
    assert_eq!(route.legs, [Leg { timeline: 2, stretch: segments(6, 8) }]);
    assert_eq!((route.from, route.start_timeline()), (within(8, 0), 2));
    let route = family().route(3, within(9, 40), SIZE);
    assert_eq!((route.legs.len(), route.from, route.start_timeline()), (0, within(9, 0), 3));
}

/// The record before the switch lies in the segment that only the newer timeline has.
#[test]
fn a_route_that_begins_in_the_segment_of_a_switch_needs_nothing_of_the_ancestor() {
    let route = family().route(2, within(5, 40), SIZE);
    assert_eq!(route.legs, [Leg { timeline: 1, stretch: segments(5, 5) }]);
    assert_eq!((route.from, route.start_timeline()), (within(5, 0), 1));
}

#[test]
fn two_switches_in_one_segment_leave_nothing_of_the_timeline_between() {
    let mut timelines = Timelines::default();
    timelines.add(3, ancestors(&[(1, within(5, 100)), (2, within(5, 200))]));
    let route = timelines.route(3, Lsn(0), SIZE);
    let two = Leg { timeline: 2, stretch: segments(5, 5) };
    assert_eq!(route.legs, [Leg { timeline: 1, stretch: segments(0, 5) }, two]);
    assert!(two.stretch.is_empty());
    assert_eq!(route.from, within(5, 0));
}

/// No server writes one; a damaged file may still be parsed.
#[test]
fn a_history_whose_switches_fall_has_no_leg_that_runs_backwards() {
    let mut timelines = Timelines::default();
    timelines.add(3, ancestors(&[(1, within(5, 0)), (2, within(3, 0))]));
    let route = timelines.route(3, Lsn(0), SIZE);
    assert!(route.legs.iter().all(|leg| leg.stretch.from <= leg.stretch.to));
    assert_eq!(route.from, within(3, 0));
}

#[test]
fn a_history_that_cannot_be_understood_is_there_and_says_nothing() {
    let mut timelines = Timelines::default();
    timelines.add(2, None);
    assert!(timelines.has_history(2) && !timelines.has_history(3));
    assert_eq!((timelines.parent(2), timelines.newest([], None, Lsn(0))), (None, None));
    // Another encoding of it is whole, whichever comes first.
    timelines.add(2, ancestors(&[(1, within(5, 0))]));
    timelines.add(2, None);
    assert_eq!(timelines.left(1, 2), Some(within(5, 0)));
}

/// As `tliOfPointInHistory` finds it.
#[test]
fn an_address_belongs_to_the_timeline_that_was_left_after_it() {
    let family = family();
    for (at, timeline, owner) in [
        (within(5, 99), 3, Some(1)),
        (within(5, 100), 3, Some(2)),
        (within(8, 0), 3, Some(3)),
        (within(6, 299), 4, Some(1)),
        (within(6, 300), 4, Some(4)),
        (within(9, 0), 1, Some(1)),
        (within(9, 0), 7, Some(7)),
    ] {
        assert_eq!(family.owner(at, timeline), owner, "{at} on {timeline}");
    }
    // Switches that do not rise, as a server writes them that went on with an older timeline's WAL.
    let mut odd = Timelines::default();
    odd.add(3, ancestors(&[(1, within(5, 0)), (2, within(4, 0))]));
    assert_eq!(odd.owner(within(4, 7), 3), Some(3));
    assert_eq!(odd.owner(within(3, 0), 3), Some(1));
}

/// As `findNewestTimeLine` does it.
#[test]
fn the_search_for_the_latest_timeline_ends_at_the_first_number_that_is_missing() {
    let mut family = family();
    assert_eq!(family.heads_for(1), 4);
    family.add(6, ancestors(&[(1, within(7, 0))]));
    assert_eq!(family.heads_for(1), 4);
    assert_eq!(family.heads_for(5), 6);
    assert_eq!(family.heads_for(6), 6);
    assert_eq!(family.heads_for(u32::MAX), u32::MAX);
    let branches: Vec<u32> = family.descendants_of(2).map(|branch| branch.timeline).collect();
    assert_eq!(branches, [3]);
}
