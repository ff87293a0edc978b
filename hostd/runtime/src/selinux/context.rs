//! A label's parts.

use std::fmt;
use std::str::FromStr;

/// `user:role:type[:level]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Context {
    /// SELinux user.
    pub user: String,
    /// Role; `object_r` for files.
    pub role: String,
    /// Type, which rules are about.
    pub kind: String,
    /// Sensitivity and categories; absent in policies that have neither.
    pub level: Option<String>,
}

impl FromStr for Context {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        // A level has colons of its own.
        let parts: Vec<&str> = text.splitn(4, ':').collect();
        match parts[..] {
            [user, role, kind, ref level @ ..] if parts.iter().all(|part| !part.is_empty()) => Ok(Self {
                user: user.to_owned(),
                role: role.to_owned(),
                kind: kind.to_owned(),
                level: level.first().map(|level| (*level).to_owned()),
            }),
            _ => Err(format!("invalid SELinux label {text:?}")),
        }
    }
}

impl fmt::Display for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.user, self.role, self.kind)?;
        self.level.as_ref().map_or(Ok(()), |level| write!(f, ":{level}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_read_and_write() {
        for text in ["u:r:t", "u:r:t:s0", "u:r:t:s0-s0:c0.c1023", "u:r:t:s0:c1,c2"] {
            assert_eq!(text.parse::<Context>().unwrap().to_string(), text);
        }
        assert_eq!("u:r:t:s0:c1,c2".parse::<Context>().unwrap().level.unwrap(), "s0:c1,c2");
        for bad in ["", "u", "u:r", "u:r:", ":r:t"] {
            assert!(bad.parse::<Context>().is_err(), "{bad}");
        }
    }
}
