//! The promises of a store, over every way of staging, and how one way is left for the next.

#![allow(clippy::unwrap_used)]

use super::temporary::Owner;
use super::{Directory, Staging};
use crate::store::conformance::conforms;

#[test]
fn a_directory_keeps_every_promise_with_every_way_of_staging() {
    for staging in Staging::ALL {
        conforms(&|path| Box::new(Directory::new(path, Owner::this_process(), staging)));
    }
}

#[cfg(feature = "fault-injection")]
mod refusals {
    use super::*;
    use crate::error::ErrorKind;
    use crate::store::{FinalName, Progress, Publication, Seal, Store};
    use crate::sys::buffer::Buffer;
    use crate::sys::fault::{Effect, Fault, Op, Plan};

    /// Publishes a file where these operations are refused, and returns how often each was called.
    fn publish(store: &Directory, name: &str, refused: &[Op], counted: Op) -> usize {
        let effect = Effect::Fail(libc::EPERM);
        let fault = |op: &Op| Fault { op: *op, skip: 0, times: usize::MAX, effect };
        let plan = Plan::new(refused.iter().map(fault).collect());
        let progress = Progress::default();
        let visit = store.visit(&progress).unwrap();
        let mut draft = visit.stage(FinalName::Probe(name.to_owned())).unwrap();
        draft.put(Buffer::new().unwrap().fill(b"contents")).unwrap();
        let seal = Seal { digests: None, checked: None, mode: 0o640, flush: true, verify: false };
        let sealed = draft.seal(&seal).unwrap();
        assert_eq!(sealed.publish(&progress).unwrap(), Publication::Published);
        plan.calls().into_iter().filter(|op| *op == counted).count()
    }

    /// Each file was copied and flushed twice, as long as the archiver ran.
    #[test]
    fn a_directory_that_refuses_to_link_unnamed_files_has_one_file_copied_twice_and_no_other() {
        let temp = tempfile::tempdir_in(".").unwrap();
        let store = Directory::new(temp.path(), Owner::this_process(), Staging::Unnamed);
        assert_eq!(publish(&store, "a", &[Op::LinkUnnamed], Op::Flush), 2);
        assert_eq!(publish(&store, "b", &[Op::LinkUnnamed], Op::Flush), 1);
        assert_eq!(publish(&store, "c", &[Op::LinkUnnamed], Op::CreateUnnamed), 0);
        for name in ["a", "b", "c"] {
            assert_eq!(std::fs::read(temp.path().join(name)).unwrap(), b"contents");
        }
        assert_eq!(std::fs::read_dir(temp.path()).unwrap().count(), 3, "nothing else is left");
    }

    #[test]
    fn a_directory_without_any_links_is_renamed_into_and_that_is_remembered() {
        let temp = tempfile::tempdir_in(".").unwrap();
        let store = Directory::new(temp.path(), Owner::this_process(), Staging::Unnamed);
        let refused = [Op::LinkUnnamed, Op::Link];
        assert_eq!(publish(&store, "a", &refused, Op::Link), 1);
        assert_eq!(publish(&store, "b", &refused, Op::Link), 0);
        assert_eq!(publish(&store, "c", &refused, Op::Rename), 1);
        assert_eq!(std::fs::read_dir(temp.path()).unwrap().count(), 3, "nothing else is left");
    }

    /// Another file system may come to the path. What the first one refused was refused to it for as long as
    /// the archiver ran: every file failed with "cannot publish without replacing".
    #[test]
    fn a_file_system_that_comes_later_and_refuses_to_rename_is_linked_into() {
        let temp = tempfile::tempdir_in(".").unwrap();
        let store = Directory::new(temp.path(), Owner::this_process(), Staging::Unnamed);
        assert_eq!(publish(&store, "a", &[Op::LinkUnnamed, Op::Link], Op::Rename), 1);
        assert_eq!(publish(&store, "b", &[Op::LinkUnnamed, Op::Rename], Op::Link), 1);
        assert_eq!(std::fs::read_dir(temp.path()).unwrap().count(), 2, "nothing else is left");
    }

    /// The second copy stood beside the first, and where there was no room for both, each try was the same.
    #[test]
    fn a_refusal_to_link_is_remembered_also_if_there_is_no_room_for_a_second_copy() {
        let temp = tempfile::tempdir_in(".").unwrap();
        let store = Directory::new(temp.path(), Owner::this_process(), Staging::Unnamed);
        let fault =
            |op, errno, skip| Fault { op, skip, times: usize::MAX, effect: Effect::Fail(errno) };
        let plan = Plan::new(vec![
            fault(Op::LinkUnnamed, libc::EPERM, 0),
            fault(Op::Write, libc::ENOSPC, 1),
        ]);
        let progress = Progress::default();
        let visit = store.visit(&progress).unwrap();
        let mut draft = visit.stage(FinalName::Probe("a".to_owned())).unwrap();
        draft.put(Buffer::new().unwrap().fill(b"contents")).unwrap();
        let seal = Seal { digests: None, checked: None, mode: 0o640, flush: true, verify: false };
        let error = draft.seal(&seal).unwrap().publish(&progress).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::OutOfSpace);
        drop(plan);
        assert_eq!(std::fs::read_dir(temp.path()).unwrap().count(), 0, "nothing is left");
        assert_eq!(publish(&store, "a", &[Op::LinkUnnamed], Op::CreateUnnamed), 0);
    }
}
