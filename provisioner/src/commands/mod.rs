//! The commands. Each is a file: its clap arguments, and `run`.
//!
//! Machine commands stand in [`machine`], container commands in [`container`]; both are plain commands (`berth ls`,
//! `berth ps`) and stand in a group of their own too (`berth machine ls`, `berth container ps`). Verbs that exist for
//! both are told apart by `cli`.

pub(crate) mod completion;
pub(crate) mod container;
pub(crate) mod machine;
pub(crate) mod man;
pub(crate) mod version;
