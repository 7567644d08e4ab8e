//! walsafe_archive: a PostgreSQL archive module that is durable, atomic and never overwrites.
//!
//! A thin shell around `walsafe_core`: settings in, one report out. `module` has the callbacks of
//! each server version, `archiver` what they do, `waiting` how the main thread waits, `settings` the
//! configuration parameters, `configuration` what the server's own parameters say, `report` the one place
//! that calls ereport, `told` what the log says once of each destination, `watch` what other sessions are told,
//! `raised` the one that catches what the server raises, `sql` the functions, `state` what the view says of a
//! destination as a whole, `end_to_end` what the test among them does.

#![allow(unsafe_code, reason = "the server's interface is C; every block has its argument")]

mod archiver;
mod background;
mod configuration;
mod damage;
mod end_to_end;
mod last;
mod module;
mod raised;
mod reload;
mod report;
mod settings;
mod sql;
mod state;
mod told;
mod wait_event;
mod waiting;
mod watch;

pgrx::pg_module_magic!(name, version);

/// Runs when the library is loaded: by the archiver, by the postmaster (`shared_preload_libraries`), or by a
/// session that says `LOAD` or calls one of the extension's functions.
#[pgrx::pg_guard]
pub extern "C-unwind" fn _PG_init() {
    settings::register();
}
