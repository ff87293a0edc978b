//! Thin, safe faces of kernel calls that neither `rustix` nor `nix` has; the only home of `unsafe`.
//!
//! One file per family of calls. A wrapper adds no policy: it takes what the call takes, owns what it
//! returns, and says in a comment why it is sound.
#![allow(unsafe_code)]

pub mod bpf;
pub mod fork;
pub mod hold;
pub mod idmap;
pub mod mount;
pub mod process;
pub mod quota;
pub mod socket;
