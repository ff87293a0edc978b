//! `--storage-opt size=`: how much a container may write into its layer.

use super::options::parse_size;
use crate::Engine;
use crate::error::{EngineError, Result};
use crate::model::ContainerRecord;
use hostd_image::Snapshot;
use std::collections::BTreeMap;

/// Refuses what means nothing, and a limit that the file system does not keep. Docker's words.
pub(super) fn check(options: &BTreeMap<String, String>, can_limit: impl FnOnce() -> bool) -> Result<()> {
    let Some(_) = limit(options)? else { return Ok(()) };
    if can_limit() {
        return Ok(());
    }
    Err(EngineError::invalid(
        "--storage-opt is supported only for overlay over xfs with 'pquota' mount option, or ext4 with 'prjquota'",
    ))
}

/// Bytes, where there is a limit.
fn limit(options: &BTreeMap<String, String>) -> Result<Option<u64>> {
    let mut limit = None;
    for (key, value) in options {
        if !key.eq_ignore_ascii_case("size") {
            return Err(EngineError::invalid(format!("Unknown option {key}")));
        }
        let size =
            parse_size(value).ok_or_else(|| EngineError::invalid(format!("invalid size: '{value}'")))?;
        limit = (size > 0).then_some(size);
    }
    Ok(limit)
}

impl Engine {
    /// Where the container's layers are; its own may not be made yet. `None` where its image is gone.
    pub fn layer_dirs(&self, record: &ContainerRecord) -> Option<Snapshot> {
        self.0.images.layer_dirs(&record.id, &record.image_id)
    }

    /// The container's writable layer, within its limit.
    pub(crate) fn snapshot_of(&self, record: &ContainerRecord) -> Result<Snapshot> {
        let snapshot = self.0.images.snapshot(&record.id, &record.image_id)?;
        if let Some(bytes) = limit(&record.host.storage_opt)? {
            self.0.images.limit_snapshot(&record.id, bytes)?;
        }
        Ok(snapshot)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_a_size_and_needs_a_file_system_that_keeps_it() {
        let read = |key: &str, value: &str, can: bool| {
            check(&BTreeMap::from([(key.to_owned(), value.to_owned())]), || can).map_err(|e| e.message)
        };
        assert_eq!(read("size", "1G", true), Ok(()));
        assert_eq!(read("size", "0", false), Ok(()), "no limit needs nothing");
        assert!(read("size", "1G", false).unwrap_err().contains("supported only for overlay over xfs"));
        assert_eq!(read("size", "big", true).unwrap_err(), "invalid size: 'big'");
        assert_eq!(read("inodes", "1", true).unwrap_err(), "Unknown option inodes");
        assert_eq!(limit(&BTreeMap::new()).unwrap(), None);
    }
}
