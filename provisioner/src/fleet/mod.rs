//! Fleets: machines that a file declares, and what is to be done so that there are exactly these.
//!
//! ```text
//! fleet.toml ─ file ─▶ Fleet ─ plan (with the store) ─▶ Plan ─▶ commands::machine::fleet
//! ```
//! A machine's record says which fleet made it. A fleet changes and removes its own machines alone, and a name that
//! somebody else's machine has is an error before anything is done.

mod file;
mod plan;

pub(crate) use file::{Declared, Fleet, read_fleet, read_fleet_name, read_machine};
pub(crate) use plan::{Action, Plan, of_fleet, plan};
