//! Every driver, held to the one contract.
#![allow(clippy::unwrap_used)]

mod common;

use common::tiny::Tiny;
use drivers::driver::FlagValues;
use drivers::{registry, testsuite};
use std::net::TcpListener;

fn flags(values: &[(&str, &str)]) -> FlagValues {
    values.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
}

#[test]
fn qemu_keeps_the_driver_contract() {
    let Some(tiny) = Tiny::get() else { return };
    testsuite::run(|context| {
        // A guest that is restarted at once has not come up far enough to hear the power button.
        let mut flags = tiny.flags();
        flags.insert("qemu-stop-timeout".into(), "2".into());
        registry::from_flags("qemu", &flags, context).unwrap()
    });
}

#[test]
fn generic_keeps_the_driver_contract() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port().to_string();
    let flags = flags(&[("generic-ip-address", "127.0.0.1"), ("generic-ssh-port", &port)]);
    testsuite::run(|context| registry::from_flags("generic", &flags, context).unwrap());
}

#[test]
fn none_keeps_the_driver_contract() {
    let flags = flags(&[("none-url", "tcp://127.0.0.1:2376")]);
    testsuite::run(|context| registry::from_flags("none", &flags, context).unwrap());
}
