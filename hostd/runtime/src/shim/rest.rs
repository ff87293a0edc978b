//! What stays of a shim whose container is gone: clients that have not read to the end.

use super::server::poll_until;
use super::streams::ProcessStreams;
use std::io;

/// Gives them the rest, each as fast as it reads, and drops those that take nothing for too long.
pub(super) fn deliver(mut all: Vec<ProcessStreams>) -> io::Result<()> {
    all.retain(|streams| !streams.is_done());
    if all.is_empty() {
        return Ok(());
    }
    // The bundle, where we are, may be gone, and another shim's be there.
    std::env::set_current_dir("/")?;
    hostd_sys::fork::trim_heap();
    while !all.is_empty() {
        wait_and_serve(&mut all)?;
        all.retain(|streams| !streams.is_done());
    }
    Ok(())
}

fn wait_and_serve(all: &mut [ProcessStreams]) -> io::Result<()> {
    let (mut tokens, mut fds) = (Vec::new(), Vec::new());
    for (at, streams) in all.iter().enumerate() {
        streams.poll(|fd, source| {
            tokens.push((at, source));
            fds.push(fd);
        });
    }
    let deadline = all.iter().filter_map(ProcessStreams::deadline).min();
    for ((at, source), events) in poll_until(tokens, fds, deadline)? {
        all[at].ready(source, events);
    }
    all.iter_mut().for_each(ProcessStreams::sweep);
    Ok(())
}
