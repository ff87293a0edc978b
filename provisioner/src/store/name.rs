//! Names of machines: host names, since they become one.

use super::StoreError;
use std::fmt;
use std::str::FromStr;

/// A valid machine name: letters, digits, `-` and `.`, at most 63 characters, starting and ending with a letter or digit.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct MachineName(String);

impl MachineName {
    /// The name.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for MachineName {
    type Err = StoreError;
    fn from_str(name: &str) -> Result<Self, StoreError> {
        let edge = |c: Option<&u8>| c.is_some_and(u8::is_ascii_alphanumeric);
        let bytes = name.as_bytes();
        let inner = bytes.iter().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'.'));
        if inner && edge(bytes.first()) && edge(bytes.last()) && bytes.len() <= 63 && !name.contains("..") {
            Ok(Self(name.to_owned()))
        } else {
            Err(StoreError::InvalidName(name.to_owned()))
        }
    }
}

impl fmt::Display for MachineName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_host_names() {
        for good in ["a", "dev", "build-1", "a.b", "0", "DEV", &"x".repeat(63)] {
            assert!(good.parse::<MachineName>().is_ok(), "{good}");
        }
        for bad in
            ["", ".", "..", "-a", "a-", ".a", "a.", "a..b", "a/b", "../x", "a b", "ä", "a_b", &"x".repeat(64)]
        {
            assert!(bad.parse::<MachineName>().is_err(), "{bad}");
        }
    }
}
