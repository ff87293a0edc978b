//! Labels of machines, and selectors that pick machines by them.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

/// What a user says of a machine: `role=ci`.
pub(crate) type Labels = BTreeMap<String, String>;

const LONGEST_KEY: usize = 63;
const LONGEST_VALUE: usize = 255;

/// One label as it is given: `key=value`, or `key` with an empty value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Label {
    /// Letters, digits, `-`, `_`, `.` and `/`.
    pub(crate) key: String,
    /// Anything on one line, without commas.
    pub(crate) value: String,
}

impl FromStr for Label {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let (key, value) = text.split_once('=').unwrap_or((text, ""));
        Ok(Self { key: valid_key(key)?, value: valid_value(value)? })
    }
}

fn valid_key(key: &str) -> Result<String, String> {
    let edge = |c: Option<&u8>| c.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = key.as_bytes();
    let inner = bytes.iter().all(|c| c.is_ascii_alphanumeric() || b"-_./".contains(c));
    if inner && edge(bytes.first()) && edge(bytes.last()) && bytes.len() <= LONGEST_KEY {
        return Ok(key.to_owned());
    }
    Err(format!(
        "`{key}` is no key of a label: letters, digits, `-`, `_`, `.` and `/`, at most {LONGEST_KEY}, with a letter or digit at both ends"
    ))
}

fn valid_value(value: &str) -> Result<String, String> {
    if value.len() <= LONGEST_VALUE && !value.chars().any(|c| c.is_control() || c == ',') {
        return Ok(value.to_owned());
    }
    Err(format!(
        "`{value}` is no value of a label: one line of at most {LONGEST_VALUE} bytes, without commas"
    ))
}

/// Checks labels that come from a file.
pub(crate) fn check(labels: &Labels) -> Result<(), String> {
    labels.iter().try_for_each(|(key, value)| valid_key(key).and(valid_value(value)).map(drop))
}

/// What is done to a machine's labels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum LabelChange {
    /// `key=value`.
    Set(Label),
    /// `key-`.
    Remove(String),
}

impl LabelChange {
    /// The change, or `None` where the word is none: a machine's name has no `=` and does not end in `-`.
    pub(crate) fn parse(word: &str) -> Option<Result<Self, String>> {
        if word.contains('=') {
            return Some(word.parse().map(Self::Set));
        }
        word.strip_suffix('-').map(|key| valid_key(key).map(Self::Remove))
    }

    /// Does it.
    pub(crate) fn apply(&self, labels: &mut Labels) {
        match self {
            Self::Set(label) => drop(labels.insert(label.key.clone(), label.value.clone())),
            Self::Remove(key) => drop(labels.remove(key)),
        }
    }
}

/// Labels on one line: `role=ci,tier=front`.
pub(crate) fn line(labels: &Labels) -> String {
    let one = |(key, value): (&String, &String)| {
        if value.is_empty() { key.clone() } else { format!("{key}={value}") }
    };
    labels.iter().map(one).collect::<Vec<_>>().join(",")
}

/// Conditions on labels, all of which must hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Selector(Vec<Condition>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Condition {
    Is(Label),
    /// Also of machines without the label.
    IsNot(Label),
    Has(String),
}

impl Selector {
    /// Whether labels meet all conditions.
    pub(crate) fn matches(&self, labels: &Labels) -> bool {
        self.0.iter().all(|condition| match condition {
            Condition::Is(label) => labels.get(&label.key) == Some(&label.value),
            Condition::IsNot(label) => labels.get(&label.key) != Some(&label.value),
            Condition::Has(key) => labels.contains_key(key),
        })
    }
}

impl FromStr for Selector {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let condition = |term: &str| {
            let term = term.trim();
            if let Some((key, value)) = term.split_once("!=") {
                return Ok(Condition::IsNot(Label { key: valid_key(key)?, value: valid_value(value)? }));
            }
            if term.contains('=') {
                term.parse().map(Condition::Is)
            } else {
                valid_key(term).map(Condition::Has)
            }
        };
        text.split(',').map(condition).collect::<Result<_, String>>().map(Self)
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, condition) in self.0.iter().enumerate() {
            f.write_str(if at == 0 { "" } else { "," })?;
            match condition {
                Condition::Is(label) => write!(f, "{}={}", label.key, label.value)?,
                Condition::IsNot(label) => write!(f, "{}!={}", label.key, label.value)?,
                Condition::Has(key) => f.write_str(key)?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(text: &[&str]) -> Labels {
        text.iter().map(|one| one.parse::<Label>().unwrap()).map(|label| (label.key, label.value)).collect()
    }

    #[test]
    fn selectors_are_conditions_that_all_must_hold() {
        let machine = labels(&["role=web", "zone=eu", "spot"]);
        for (selector, matches) in [
            ("role=web", true),
            ("role=ci", false),
            ("role!=ci", true),
            ("role!=web", false),
            ("absent!=x", true),
            ("spot", true),
            ("spot=", true),
            ("absent", false),
            ("role=web,zone=eu", true),
            ("role=web,zone=us", false),
            ("role=web, spot", true),
        ] {
            assert_eq!(selector.parse::<Selector>().unwrap().matches(&machine), matches, "{selector}");
        }
        for wrong in ["", ",", "role=web,", "=web", "-a=b", "a b", "role=a\nb", "!role"] {
            assert!(wrong.parse::<Selector>().is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_word_is_a_change_of_labels_or_a_name() {
        assert_eq!(LabelChange::parse("web-1"), None);
        assert_eq!(LabelChange::parse("role-"), Some(Ok(LabelChange::Remove("role".into()))));
        assert!(LabelChange::parse("role=ci").unwrap().is_ok());
        assert!(LabelChange::parse("ro le=ci").unwrap().is_err());
        assert!(LabelChange::parse("role=a,b").unwrap().is_err());
        let mut of = labels(&["role=web", "spot"]);
        LabelChange::parse("role=ci").unwrap().unwrap().apply(&mut of);
        LabelChange::parse("spot-").unwrap().unwrap().apply(&mut of);
        assert_eq!(line(&of), "role=ci");
    }
}
