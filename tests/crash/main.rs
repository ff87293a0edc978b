//! Crash test: hostd and shims die by `kill -9` at random moments under mixed load, over and over. After each death,
//! every container that was acknowledged is there in a state that was acknowledged; after all of them, nothing is left.
//!
//! ```text
//! load     workers, each with containers of its own: create, start, stop, exec, rm … by random numbers
//! ledger   what each container may be like, by what hostd has answered and what it did not live to answer
//! ```
//! `BERTH_CRASH_ROUNDS` says how many deaths (25 unless told; `make crash` takes 400), `BERTH_CRASH_SPAN` within how many
//! milliseconds of load each comes (700; a slow machine wants more), `BERTH_CRASH_SEED` which random numbers. The same
//! seed asks for the same things; when they meet the death is up to the machine.
#![allow(missing_docs, clippy::unwrap_used)]

mod ledger;
mod load;
mod remains;

use e2e::{TestHost, eventually, host, run};
use load::Worker;
use remains::Remains;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

const WORKERS: u64 = 4;
/// Rounds after which everything is removed and what is left is looked for.
const CHECK: u64 = 25;

/// Numbers that are the same for the same seed (splitmix64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// One of `0..below`.
    fn below(&mut self, below: u64) -> u64 {
        self.next() % below
    }

    fn pick<'a, T>(&mut self, of: &'a [T]) -> Option<&'a T> {
        if of.is_empty() { None } else { of.get(self.below(of.len() as u64) as usize) }
    }
}

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap())
}

/// What dies in a round.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Death {
    Hostd,
    Shim,
    Both,
    /// An orderly end.
    Term,
}

#[test]
fn nothing_acknowledged_is_lost_and_nothing_is_left_whatever_dies_under_load() {
    let mut host = host!();
    let (rounds, seed) = (setting("BERTH_CRASH_ROUNDS", 25), setting("BERTH_CRASH_SEED", 20_260_117));
    let span = setting("BERTH_CRASH_SPAN", 700).max(1);
    println!("{rounds} rounds, seed {seed}");
    let mut random = Random(seed);
    let before = Remains::of(&host);
    let mut workers: Vec<_> = (0..WORKERS).map(|n| Worker::new(n, seed)).collect();
    let mut done = 0;
    for round in 1..=rounds {
        let death =
            [Death::Hostd, Death::Hostd, Death::Shim, Death::Both, Death::Term][random.below(5) as usize];
        let moment = Duration::from_millis(30 + random.below(span));
        workers = work_until(&host, workers, moment, death, &mut random);
        if death != Death::Shim {
            host.reap();
            host.up();
            workers.iter_mut().for_each(|worker| worker.ledger.hostd_is_back());
        }
        for worker in &mut workers {
            worker.ledger.check(&host, round);
        }
        done += workers.iter_mut().map(|worker| std::mem::take(&mut worker.answered)).sum::<u64>();
        if round % CHECK == 0 || round == rounds {
            for worker in &mut workers {
                worker.ledger.check_ports(&host);
                worker.clear(&host);
            }
            before.are_all_that_is_left(&host);
            println!("{round} rounds, {done} answered requests: nothing is lost or left");
        }
    }
    assert!(done > rounds, "the load did next to nothing");
    host.docker(["run", "--rm", "busybox", "echo", "sound"]).says("sound");
}

/// Lets the workers work, and kills something while they do.
fn work_until(
    host: &TestHost,
    workers: Vec<Worker>,
    moment: Duration,
    death: Death,
    random: &mut Random,
) -> Vec<Worker> {
    let pid = host.pid().to_string();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let stop = &stop;
        let threads: Vec<_> = workers
            .into_iter()
            .map(|mut worker| {
                scope.spawn(move || {
                    worker.work(host, stop);
                    worker
                })
            })
            .collect();
        std::thread::sleep(moment);
        let victims =
            if matches!(death, Death::Shim | Death::Both) { some_shims(host, random) } else { Vec::new() };
        for (shim, _) in &victims {
            // It may have ended by itself meanwhile.
            drop(run(Command::new("kill").args(["-KILL", &shim.to_string()])));
        }
        match death {
            Death::Hostd | Death::Both => drop(run(Command::new("kill").args(["-KILL", &pid])).success()),
            Death::Term => drop(run(Command::new("kill").args(["-TERM", &pid])).success()),
            Death::Shim => std::thread::sleep(Duration::from_millis(100)),
        }
        stop.store(true, Ordering::Relaxed);
        let mut workers: Vec<_> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
        for worker in &mut workers {
            victims.iter().for_each(|(_, id)| worker.ledger.lost_its_shim(id));
        }
        workers
    })
}

/// Up to two shims of this host, with the ids of their containers.
fn some_shims(host: &TestHost, random: &mut Random) -> Vec<(u32, String)> {
    let shims = remains::shims(host);
    (0..2).filter_map(|_| random.pick(&shims).cloned()).collect()
}

#[test]
fn a_container_that_lost_its_shim_can_be_started_again_at_once() {
    let host = host!();
    let id = host.docker(["run", "-d", "--name", "box", "-p", "8080:80", "busybox", "sleep", "1000"]).text();
    for _ in 0..5 {
        let (shim, _) =
            eventually("the shim", || remains::shims(&host).into_iter().find(|(_, of)| *of == id));
        run(Command::new("kill").args(["-KILL", &shim.to_string()])).success();
        eventually("hostd to notice", || {
            (host.field("box", "{{.State.Status}} {{.State.ExitCode}}") == "exited 137").then_some(())
        });
        host.docker(["start", "box"]).success();
    }
}
