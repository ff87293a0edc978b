//! hostd as a whole: a real daemon on a temporary root, driven with the docker CLI, curl and plain sockets.
#![allow(clippy::unwrap_used)]

#[macro_use]
mod support;

mod containers;
mod listeners;
mod start;
