//! The times of directories, which are set last: what is put into a directory changes its own.

use rustix::fs::Timestamps;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Most that is kept in memory. A real tree's directories take a few megabytes.
const MOST: usize = if cfg!(test) { 1 << 20 } else { 256 << 20 };
/// What one takes besides its path.
const EACH: usize = 128;

/// Times that wait to be set, by path.
#[derive(Default)]
pub(crate) struct DirTimes {
    times: BTreeMap<PathBuf, Timestamps>,
    bytes: usize,
}

impl DirTimes {
    pub(crate) fn insert(&mut self, path: PathBuf, times: Timestamps) {
        self.bytes += path.as_os_str().len() + EACH;
        self.times.insert(path, times);
    }

    /// Whether those that wait are to be set before more come. What is put into these directories later will show in their
    /// times.
    pub(crate) fn is_full(&self) -> bool {
        self.bytes > MOST
    }

    /// All that wait, each before the directory that it is in.
    pub(crate) fn take(&mut self) -> impl Iterator<Item = (PathBuf, Timestamps)> + use<> {
        self.bytes = 0;
        std::mem::take(&mut self.times).into_iter().rev()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::Timespec;

    #[test]
    fn no_archive_makes_the_times_of_directories_take_any_memory_it_likes() {
        let none = Timespec { tv_sec: 0, tv_nsec: 0 };
        let times = || Timestamps { last_access: none, last_modification: none };
        let (mut waiting, long, mut count) = (DirTimes::default(), "x".repeat(4000), 0);
        waiting.insert("a".into(), times());
        while !waiting.is_full() {
            waiting.insert(format!("a/{count}-{long}").into(), times());
            count += 1;
        }
        assert!(count <= MOST / 4000);
        let taken: Vec<_> = waiting.take().map(|(path, _)| path).collect();
        assert_eq!((taken.len(), taken.last().unwrap().to_str()), (count + 1, Some("a")));
        assert!(!waiting.is_full() && waiting.take().next().is_none());
    }
}
