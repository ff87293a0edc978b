//! Which ids of the host stand for those of a container (user_namespaces(7)).

use serde::{Deserialize, Serialize};

/// A stretch of ids that follow one another on both sides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Extent {
    /// First id in the container.
    pub container: u32,
    /// First id on the host.
    pub host: u32,
    /// How many.
    pub count: u32,
}

/// Users and groups of a container, and those of the host that stand for them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct IdMap {
    /// Users.
    pub uids: Vec<Extent>,
    /// Groups.
    pub gids: Vec<Extent>,
}

impl IdMap {
    /// The host's id for a user of the container, where it has one.
    pub fn host_uid(&self, uid: u32) -> Option<u32> {
        inside_out(&self.uids, uid)
    }

    /// The host's id for a group of the container, where it has one.
    pub fn host_gid(&self, gid: u32) -> Option<u32> {
        inside_out(&self.gids, gid)
    }

    /// The container's id for a user of the host, where it has one.
    pub fn container_uid(&self, uid: u32) -> Option<u32> {
        outside_in(&self.uids, uid)
    }

    /// The container's id for a group of the host, where it has one.
    pub fn container_gid(&self, gid: u32) -> Option<u32> {
        outside_in(&self.gids, gid)
    }

    /// User and group that the container's root is on the host.
    pub fn root(&self) -> Option<(u32, u32)> {
        Some((self.host_uid(0)?, self.host_gid(0)?))
    }

    /// As `/proc/<pid>/uid_map` takes it.
    pub fn uid_lines(&self) -> String {
        lines(&self.uids)
    }

    /// As `/proc/<pid>/gid_map` takes it.
    pub fn gid_lines(&self) -> String {
        lines(&self.gids)
    }
}

fn inside_out(extents: &[Extent], id: u32) -> Option<u32> {
    let extent = extents.iter().find(|e| id >= e.container && id - e.container < e.count)?;
    extent.host.checked_add(id - extent.container)
}

fn outside_in(extents: &[Extent], id: u32) -> Option<u32> {
    let extent = extents.iter().find(|e| id >= e.host && id - e.host < e.count)?;
    extent.container.checked_add(id - extent.host)
}

fn lines(extents: &[Extent]) -> String {
    extents.iter().map(|e| format!("{} {} {}\n", e.container, e.host, e.count)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_go_both_ways_and_nowhere_where_there_are_none() {
        let uids = vec![
            Extent { container: 0, host: 100_000, count: 1000 },
            Extent { container: 1000, host: 300_000, count: 10 },
        ];
        let map = IdMap { gids: uids.clone(), uids };
        for (inside, outside) in [(0, 100_000), (999, 100_999), (1000, 300_000), (1009, 300_009)] {
            assert_eq!((map.host_uid(inside), map.container_gid(outside)), (Some(outside), Some(inside)));
        }
        assert_eq!(
            (map.host_gid(1010), map.container_uid(0), map.container_uid(101_000)),
            (None, None, None)
        );
        assert_eq!((map.root(), IdMap::default().root()), (Some((100_000, 100_000)), None));
        assert_eq!(map.uid_lines(), "0 100000 1000\n1000 300000 10\n");
    }
}
