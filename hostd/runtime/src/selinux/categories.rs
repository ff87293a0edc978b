//! Which levels containers have, so that no two get the same one.

use super::Context;
use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// How many categories policies have.
const CATEGORIES: u32 = 1024;
/// How often a pair is drawn; with half of all half a million pairs taken, all would be with a chance of one in a million.
const DRAWS: usize = 1000;

/// The levels that are in use, and by how many: a level that was asked for by name several may have.
#[derive(Debug, Default)]
pub struct Levels(Mutex<HashMap<String, usize>>);

impl Levels {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a level that nobody has.
    ///
    /// # Errors
    /// None is left, or there is no randomness to be had.
    pub fn unique(&self) -> Result<String, String> {
        let mut used = self.lock();
        let mut random =
            File::open("/dev/urandom").map_err(|error| format!("cannot open /dev/urandom: {error}"))?;
        for _ in 0..DRAWS {
            let mut bytes = [0; 8];
            random.read_exact(&mut bytes).map_err(|error| format!("cannot read /dev/urandom: {error}"))?;
            let Some(level) = pair(bytes) else { continue };
            if !used.contains_key(&level) {
                used.insert(level.clone(), 1);
                return Ok(level);
            }
        }
        Err("no pair of SELinux categories is left for another container".to_owned())
    }

    /// Takes a level that was asked for, or that a container on record has.
    pub fn reserve(&self, level: String) -> String {
        *self.lock().entry(level.clone()).or_insert(0) += 1;
        level
    }

    /// Takes the level of a label on record.
    pub fn reserve_label(&self, label: &str) {
        if let Some(level) = level_of(label) {
            self.reserve(level);
        }
    }

    /// Gives back the level of a container's process label.
    pub fn release(&self, label: &str) {
        let Some(level) = level_of(label) else { return };
        let mut used = self.lock();
        if let Some(users) = used.get_mut(&level) {
            *users -= 1;
            if *users == 0 {
                used.remove(&level);
            }
        }
    }
}

fn level_of(label: &str) -> Option<String> {
    label.parse::<Context>().ok()?.level
}

/// A level of two categories, the smaller first; `None` where they are the same, or the last pair, which none gets.
fn pair(bytes: [u8; 8]) -> Option<String> {
    let [a, b, c, d, e, f, g, h] = bytes;
    let (one, two) =
        (u32::from_ne_bytes([a, b, c, d]) % CATEGORIES, u32::from_ne_bytes([e, f, g, h]) % CATEGORIES);
    let (low, high) = (one.min(two), one.max(two));
    (low != high && low != CATEGORIES - 2).then(|| format!("s0:c{low},c{high}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn no_two_containers_have_the_same_pair() {
        let levels = Levels::default();
        let all: HashSet<String> = (0..2000).map(|_| levels.unique().unwrap()).collect();
        assert_eq!(all.len(), 2000);
        for level in &all {
            let (low, high) = level.strip_prefix("s0:c").unwrap().split_once(",c").unwrap();
            let (low, high): (u32, u32) = (low.parse().unwrap(), high.parse().unwrap());
            assert!(low < high && high < CATEGORIES, "{level}");
        }
    }

    #[test]
    fn a_level_is_free_when_its_last_container_is_gone() {
        let levels = Levels::default();
        levels.reserve_label("u:r:t:s0:c1,c2");
        levels.reserve("s0:c1,c2".to_owned());
        levels.reserve_label("");
        levels.release("u:r:other:s0:c1,c2");
        assert!(levels.lock().contains_key("s0:c1,c2"));
        levels.release("u:r:t:s0:c1,c2");
        levels.release("u:r:t:s0:c1,c2");
        assert!(levels.lock().is_empty());
    }

    #[test]
    fn a_pair_has_two_categories_in_order() {
        let of = |one: u32, two: u32| {
            let mut bytes = [0; 8];
            bytes[..4].copy_from_slice(&one.to_ne_bytes());
            bytes[4..].copy_from_slice(&two.to_ne_bytes());
            pair(bytes)
        };
        assert_eq!(of(9, 1024 + 3).unwrap(), "s0:c3,c9");
        assert!(of(5, 5).is_none() && of(1022, 1023).is_none() && of(1023, 1022).is_none());
    }
}
