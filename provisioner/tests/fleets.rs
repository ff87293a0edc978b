//! Fleets from a file.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use common::{Laptop, Said, Sshd, in_own_world, keygen};
use std::fs;
use std::path::PathBuf;

const SHOP: &str = "name = 'shop'
[defaults]
driver = 'none'
labels = { stage = 'test' }
flags = { none-url = 'tcp://127.0.0.1:1' }
[machine.'web-{1..3}']
labels = { role = 'web' }
[machine.db]
";

fn file(laptop: &Laptop, text: &str) -> String {
    let path = laptop.dir.path().join("fleet.toml");
    fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

fn names(laptop: &Laptop) -> String {
    laptop.berth(&["ls", "-q"]).success().stdout.replace('\n', " ")
}

fn record(laptop: &Laptop, name: &str) -> String {
    fs::read_to_string(laptop.home().join("machines").join(name).join("machine.toml")).unwrap()
}

#[test]
fn a_fleet_is_created_changed_and_removed_to_what_its_file_says() {
    let laptop = Laptop::new();
    laptop.create_none("mine").success();
    let shop = file(&laptop, SHOP);
    laptop.berth(&["fleet", "diff", &shop]).exits(2).says("+ web-1: create").says("4 to create, 0 to change");
    laptop.berth(&["fleet", "apply", &shop]).exits(2).says("refusing to change fleet `shop` unasked");
    assert_eq!(names(&laptop), "mine ");
    laptop.berth(&["fleet", "apply", "--yes", &shop]).success();
    assert_eq!(names(&laptop), "db mine web-1 web-2 web-3 ");
    assert_eq!(laptop.berth(&["ls", "-q", "-l", "role=web,stage=test"]).success().stdout.lines().count(), 3);

    // Again, it does nothing.
    let before = record(&laptop, "web-1");
    laptop
        .berth(&["fleet", "apply", "--yes", &shop])
        .success()
        .says("0 to create, 0 to change, 0 to replace, 0 to remove, 4 as declared");
    laptop.berth(&["fleet", "diff", &shop]).success();
    assert_eq!(record(&laptop, "web-1"), before);

    // What was changed by hand comes back; what is not declared any more goes, and nothing else does.
    laptop.berth(&["label", "web-1", "role=ci"]).success();
    let fewer = file(&laptop, &SHOP.replace("{1..3}", "{1..2}"));
    laptop
        .berth(&["fleet", "diff", &fewer])
        .exits(2)
        .says("~ web-1: change: labels role=ci,stage=test → role=web,stage=test")
        .says("- web-3: remove");
    laptop.berth(&["fleet", "apply", "--yes", &fewer]).success();
    assert_eq!(names(&laptop), "db mine web-1 web-2 ");
    assert_eq!(record(&laptop, "web-1"), before);

    laptop.berth(&["fleet", "destroy", &fewer]).exits(2).says("--yes");
    laptop.berth(&["fleet", "destroy", "--yes", "--name", "shop"]).success();
    assert_eq!(names(&laptop), "mine ");
    laptop.berth(&["fleet", "destroy", "--yes", &fewer]).success().says("has no machines");
}

#[test]
fn a_machine_that_would_have_to_be_made_anew_is_only_replaced_when_that_is_asked_for() {
    let laptop = Laptop::new();
    laptop.berth(&["fleet", "apply", "--yes", &file(&laptop, SHOP)]).success();
    let before = record(&laptop, "db");
    let other = SHOP.replace("[machine.db]", "[machine.db]\nflags = { none-url = 'tcp://127.0.0.1:2' }");
    let other = file(&laptop, &other.replace("'web' }", "'www' }"));
    let said = laptop.berth(&["fleet", "apply", "--yes", &other]).exits(1);
    said.says("! db: replace (only with --replace): none-url tcp://127.0.0.1:1 → tcp://127.0.0.1:2")
        .says("not as declared: db");
    assert_eq!(record(&laptop, "db"), before);
    assert_eq!(laptop.berth(&["ls", "-q", "-l", "role=www"]).success().stdout.lines().count(), 3);
    laptop.berth(&["fleet", "apply", "--yes", "--replace", &other]).success();
    laptop.berth(&["url", "db"]).success().says("127.0.0.1:2");
    laptop.berth(&["fleet", "diff", &other]).success();
}

#[test]
fn machines_of_others_and_files_that_are_not_understood_change_nothing() {
    let laptop = Laptop::new();
    laptop.create_none("db").success();
    let shop = file(&laptop, SHOP);
    laptop
        .berth(&["fleet", "apply", "--yes", &shop])
        .exits(1)
        .says("`db` is not of fleet `shop`")
        .says("belongs to no fleet");
    assert_eq!(names(&laptop), "db ");
    laptop.berth(&["fleet", "diff", "/nowhere/fleet.toml"]).exits(1).says("/nowhere/fleet.toml");
    let wrong = file(&laptop, &SHOP.replace("labels", "lables"));
    laptop
        .berth(&["fleet", "apply", "--yes", &wrong])
        .exits(1)
        .says("unknown key `lables`; did you mean `labels`?");
    laptop.berth(&["fleet", "diff", &file(&laptop, "name = ")]).exits(1).says("fleet.toml");
    let wrong = file(&laptop, &SHOP.replace("labels", "lables"));
    // The file needs no more than its name for the fleet to be removed.
    laptop.berth(&["fleet", "destroy", "--yes", &wrong]).success().says("has no machines");
    assert_eq!(names(&laptop), "db ");
}

#[test]
fn a_create_of_a_fleet_that_was_interrupted_is_gone_on_with() {
    let laptop = Laptop::new();
    let shop = file(&laptop, SHOP);
    laptop.berth(&["fleet", "apply", "--yes", &shop]).success();
    let path = laptop.home().join("machines/web-2/machine.toml");
    fs::write(&path, record(&laptop, "web-2").replace("\"ready\"", "\"creating\"")).unwrap();
    laptop.berth(&["fleet", "diff", &shop]).exits(2).says("+ web-2: go on with create");
    laptop.berth(&["fleet", "apply", "--yes", &shop]).success();
    assert!(record(&laptop, "web-2").contains("\"ready\""));
    laptop.berth(&["fleet", "diff", &shop]).success();
}

#[test]
fn one_machine_is_created_as_a_file_says() {
    let laptop = Laptop::new();
    let text = "name = 'solo'\ndriver = 'none'\nlabels = { role = 'ci' }\nflags = { none-url = 'tcp://127.0.0.1:1' }\n";
    let solo = file(&laptop, text);
    laptop.berth(&["create", "-f", &solo, "--driver", "none"]).exits(2).says("--driver stands beside --file");
    laptop.berth(&["create", "-f", &solo, "other"]).exits(2);
    laptop.berth(&["create", "-f", &solo]).success();
    assert_eq!(laptop.berth(&["label", "solo"]).success().stdout, "solo: role=ci\n");
    laptop.berth(&["create", "-f", &solo]).exits(1).says("already exists");
    let wrong = file(&laptop, &text.replace("flags", "flag"));
    laptop.berth(&["create", "-f", &wrong]).exits(1).says("did you mean `flags`?");
}

#[test]
fn hostds_options_are_set_and_changed_on_a_live_machine() {
    let built = std::env::var_os("BERTH_HOSTD").map(PathBuf::from);
    let hostd = built.unwrap_or_else(|| PathBuf::from(env!("CARGO_BIN_EXE_berth")).with_file_name("hostd"));
    if !hostd.is_file() {
        eprintln!("skipped: hostd has not been built");
        return;
    }
    if !in_own_world("hostds_options_are_set_and_changed_on_a_live_machine") {
        return;
    }
    let laptop = Laptop::new();
    let key = laptop.dir.path().join("key");
    keygen(&key, "");
    let sshd = Sshd::start(2201, &key);
    let text = format!(
        "name = 'one'\n[machine.m]\ndriver = 'generic'\nhostd = {{ debug = true }}\n[machine.m.flags]\ngeneric-ip-address = '127.0.0.1'\n\
         generic-ssh-port = {}\ngeneric-ssh-key = '{}'\n",
        sshd.port,
        key.display()
    );
    let apply = |text: &str| {
        let path = file(&laptop, text);
        let mut command = laptop.command(&["fleet", "apply", "--yes", &path]);
        Said::of(command.env("BERTH_HOSTD", &hostd))
    };
    let config = || fs::read_to_string("/etc/hostd/hostd.json").unwrap();
    apply(&text).success();
    assert!(config().contains("\"debug\": true"), "{}", config());
    let changed = text.replace("debug = true", "debug = false");
    laptop.berth(&["fleet", "diff", &file(&laptop, &changed)]).exits(2).says("~ m: change: hostd's debug");
    apply(&changed).success();
    assert!(config().contains("\"debug\": false"), "{}", config());
    laptop.berth(&["status", "m"]).success();
    apply(&changed).success().says("1 as declared");
}
