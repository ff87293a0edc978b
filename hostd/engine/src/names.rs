//! Ids and names of containers: random ones, and what a valid one looks like.

use crate::error::{EngineError, Result};

const ADJECTIVES: &[&str] = &[
    "able", "amber", "ample", "balmy", "bold", "brave", "breezy", "bright", "brisk", "calm", "candid",
    "careful", "cheerful", "clear", "clever", "coastal", "cosy", "crisp", "curious", "daring", "deft",
    "eager", "early", "earnest", "easy", "fair", "faithful", "fleet", "fresh", "frosty", "gentle", "glad",
    "golden", "grand", "hardy", "hearty", "honest", "humble", "jolly", "keen", "kind", "lively", "lucid",
    "lucky", "mellow", "merry", "mild", "modest", "nimble", "noble", "patient", "placid", "plucky", "polite",
    "proud", "quick", "quiet", "ready", "salty", "serene", "sharp", "silver", "sincere", "sleek", "smooth",
    "snug", "sober", "spry", "stable", "steady", "stout", "sturdy", "sunny", "swift", "tidal", "tidy",
    "trusty", "upbeat", "vivid", "warm", "wise", "witty", "zesty",
];

/// Navigators, shipbuilders, scientists, engineers.
const SURNAMES: &[&str] = &[
    "ampere",
    "anning",
    "babbage",
    "baret",
    "barents",
    "bell",
    "bering",
    "bohr",
    "boole",
    "brunel",
    "cabot",
    "cook",
    "curie",
    "dalton",
    "darwin",
    "diaz",
    "dirac",
    "drake",
    "earhart",
    "eriksson",
    "euler",
    "faraday",
    "fermi",
    "fitzroy",
    "flinders",
    "franklin",
    "fulton",
    "galileo",
    "gauss",
    "germain",
    "goodall",
    "halley",
    "hamilton",
    "harrison",
    "heyerdahl",
    "hopper",
    "hubble",
    "hudson",
    "humboldt",
    "hypatia",
    "joule",
    "kepler",
    "kovalevskaya",
    "lamarr",
    "lovelace",
    "magellan",
    "maury",
    "maxwell",
    "mclean",
    "meitner",
    "mendel",
    "mercator",
    "morse",
    "nansen",
    "newton",
    "nobel",
    "noether",
    "ohm",
    "pascal",
    "pasteur",
    "planck",
    "polo",
    "ptolemy",
    "raman",
    "ramanujan",
    "ritchie",
    "ross",
    "sagan",
    "scoresby",
    "shackleton",
    "shannon",
    "slocum",
    "somerville",
    "tasman",
    "tesla",
    "thompson",
    "torvalds",
    "turing",
    "vespucci",
    "volta",
    "watt",
    "wegener",
    "weddell",
    "wiles",
    "zheng",
];

/// A new id: 64 hex digits.
pub(crate) fn random_id() -> Result<String> {
    let mut bytes = [0; 32];
    fill(&mut bytes)?;
    Ok(hex::encode(bytes))
}

/// A name such as `steady_lovelace`; from the sixth attempt on with a number behind it.
pub(crate) fn random_name(attempt: u32) -> Result<String> {
    let mut bytes = [0; 6];
    fill(&mut bytes)?;
    let pick =
        |list: &[&'static str], a: u8, b: u8| list[usize::from(u16::from_le_bytes([a, b])) % list.len()];
    let name = format!("{}_{}", pick(ADJECTIVES, bytes[0], bytes[1]), pick(SURNAMES, bytes[2], bytes[3]));
    Ok(if attempt < 6 { name } else { format!("{name}{}", u16::from_le_bytes([bytes[4], bytes[5]])) })
}

fn fill(bytes: &mut [u8]) -> Result<()> {
    getrandom::fill(bytes)
        .map_err(|error| EngineError::internal(format!("no random numbers from the system: {error}")))
}

/// Takes the slash off that clients may put before a name, and refuses what is none.
pub(crate) fn validate(name: &str) -> Result<&str> {
    let bare = name.strip_prefix('/').unwrap_or(name);
    let mut chars = bare.chars();
    let good = chars.next().is_some_and(|c| c.is_ascii_alphanumeric())
        && bare.len() >= 2
        && bare.len() <= 255
        && chars.all(|c| c.is_ascii_alphanumeric() || "_.-".contains(c));
    if good {
        Ok(bare)
    } else {
        Err(EngineError::invalid(format!(
            "Invalid container name ({name}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed"
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_held_to_dockers_alphabet() {
        for good in ["web", "/web", "a1", "my.app_x-2"] {
            assert!(validate(good).is_ok(), "{good}");
        }
        for bad in ["", "/", "a", "-web", "_web", "we b", "wéb", "a/b"] {
            let error = validate(bad).unwrap_err();
            assert!(error.message.starts_with(&format!("Invalid container name ({bad}), only ")), "{bad}");
        }
    }

    #[test]
    fn random_names_are_valid() {
        for attempt in 0..8 {
            assert!(validate(&random_name(attempt).unwrap()).is_ok());
        }
    }
}
