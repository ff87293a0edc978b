//! The suite of `tests/python`, which drives hostd through docker-py and holds every answer against the API's description
//! where that lies beside the checkout. Each of its modules has a hostd of its own.
#![allow(missing_docs, clippy::unwrap_used)]

use e2e::{host, python, run};

#[track_caller]
fn module(name: &str) {
    let mut suite = match python::program("run") {
        Ok(suite) => suite,
        Err(reason) => {
            eprintln!("skipped: {reason}");
            return;
        }
    };
    let host = host!();
    let outcome = run(suite.arg(name).env("DOCKER_HOST", host.url())).success();
    // What was run, and whether answers were validated.
    println!("{}{}", outcome.stderr(), outcome.stdout());
}

#[test]
fn docker_py_lives_with_containers() {
    module("test_containers");
}

#[test]
fn docker_py_sets_options() {
    module("test_options");
}

#[test]
fn docker_py_reads_and_writes_streams() {
    module("test_streams");
}

#[test]
fn docker_py_asks_the_engine_about_itself() {
    module("test_system");
}

#[test]
fn docker_py_updates_limits() {
    module("test_update");
}

#[test]
fn docker_py_checks_health() {
    module("test_health");
}

#[test]
fn docker_py_copies_exports_and_commits() {
    module("test_files");
}

/// With `BERTH_FIELDS=--write` (`make fields`) the table is written instead.
#[test]
fn the_table_of_fields_is_up_to_date_and_no_field_is_silently_ignored() {
    let mut command = match python::program("fields.py") {
        Ok(command) => command,
        Err(reason) => {
            eprintln!("skipped: {reason}");
            return;
        }
    };
    let host = host!();
    let table = concat!(env!("CARGO_MANIFEST_DIR"), "/../hostd/docs/fields.md");
    command.args(std::env::var("BERTH_FIELDS")).arg(table).env("DOCKER_HOST", host.url());
    run(&mut command).success();
}
