//! System calls, and the only `unsafe` code of the core.
//!
//! Each function makes one call, on a handle that its caller owns, and turns the result into an
//! [`io::Result`](std::io::Result). A call that a signal has interrupted is made again, a bounded number of
//! times. [`fault`], the seam through which a test fails any call, is below all of them.

mod attributes;
#[forbid(unsafe_code)]
pub mod buffer;
mod cache;
mod call;
mod dir;
#[forbid(unsafe_code)]
pub mod fault;
#[forbid(unsafe_code)]
mod file;
mod late;
mod memory;
mod orphan;
#[forbid(unsafe_code)]
pub mod pipeline;
mod process;
#[forbid(unsafe_code)]
pub mod slice;
mod space;
#[forbid(unsafe_code)]
mod text;
pub mod worker;

pub use self::attributes::{attribute, offer_attribute};
pub use self::cache::{begin_write_out, cached_bytes, drop_cached, set_direct};
pub use self::dir::Dir;
pub use self::file::{
    Entry, allocated, entry, flush, open_source, read_full, read_full_at, set_len, set_mode,
    set_owner, source_entry, write_all_at, write_pieces_at,
};
pub use self::late::{close_second, keeps_flush_of_unnamed};
pub use self::memory::{
    DIRECT_ALIGNMENT, HUGE_PAGE, give_memory_back, headroom, prefer_huge_pages, shared, zeroed,
};
pub use self::orphan::{adopter, detach, end_after_parent, leave, uncollected};
pub(crate) use self::process::start_scoped;
pub use self::process::{
    become_user, host_name, is_asked_to_end, note_requests_to_end, process_runs, process_started,
    start_thread, user, with_signals_blocked,
};
pub use self::space::Space;
