//! Where machines live: the [`driver::Driver`] trait, its implementations, and the [`registry`] that knows them.
//!
//! Vocabulary: a *driver* is one kind of place (`qemu`, `generic`, `none`), and a value of it one machine there;
//! its *configuration* is a TOML table that berth stores; its *features* are what it can do.
//!
//! The path that data takes: the user's flags → [`registry::from_flags`] → `check` → `create`, which saves the
//! configuration before it makes a thing → later commands use [`registry::open`] on what was saved. No SSH and no
//! certificates here: a driver says where to connect, berth connects.

pub mod driver;
pub mod generic;
pub mod none;
pub mod qemu;
pub mod registry;
pub mod testsuite;

mod download;
mod files;
mod options;
