//! Docker's `filters`: which names a call knows, and how labels match.

use crate::error::{EngineError, Result};
use std::collections::BTreeMap;

/// Docker's `filters`: name to values.
pub type Filters = BTreeMap<String, Vec<String>>;

/// Refuses filters that are not `known`.
pub(crate) fn check(filters: &Filters, known: &[&str]) -> Result<()> {
    match filters.keys().find(|key| !known.contains(&key.as_str())) {
        Some(key) => Err(EngineError::invalid(format!("invalid filter '{key}'"))),
        None => Ok(()),
    }
}

/// Whether `labels` has every one of `wanted` (`key` or `key=value`).
pub(crate) fn labels_match(labels: &BTreeMap<String, String>, wanted: &[String]) -> bool {
    wanted.iter().all(|want| match want.split_once('=') {
        Some((key, value)) => labels.get(key).is_some_and(|v| v == value),
        None => labels.contains_key(want),
    })
}

/// Whether `labels` fits the filters `label` and `label!` (none of those).
pub(crate) fn labels_fit(labels: &BTreeMap<String, String>, wanted: &Filters) -> bool {
    let has = |want: &String| labels_match(labels, std::slice::from_ref(want));
    wanted.get("label").is_none_or(|wanted| labels_match(labels, wanted))
        && wanted.get("label!").is_none_or(|unwanted| !unwanted.iter().any(has))
}

/// Docker's yes and no: `1`, `true`, `0`, `false`; neither both nor none of them.
pub(crate) fn boolean(filters: &Filters, key: &str) -> Result<Option<bool>> {
    let Some(values) = filters.get(key) else { return Ok(None) };
    let given = |words: [&str; 2]| values.iter().any(|value| words.contains(&value.as_str()));
    match (given(["1", "true"]), given(["0", "false"])) {
        (yes, no) if yes != no => Ok(Some(yes)),
        _ if values.is_empty() => Err(EngineError::invalid(format!("invalid filter '{key}'"))),
        _ => Err(EngineError::invalid(format!("invalid filter '{key}=[{}]'", values.join(" ")))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn yes_and_no_are_dockers() {
        let asked = |values: &[&str]| {
            let values = values.iter().map(|value| (*value).to_owned()).collect();
            boolean(&Filters::from([("dangling".to_owned(), values)]), "dangling").map_err(|e| e.message)
        };
        assert_eq!(asked(&["1"]), Ok(Some(true)));
        assert_eq!(asked(&["x", "false"]), Ok(Some(false)));
        assert_eq!(asked(&["T"]), Err("invalid filter 'dangling=[T]'".to_owned()));
        assert_eq!(asked(&["0", "1"]), Err("invalid filter 'dangling=[0 1]'".to_owned()));
        assert_eq!(asked(&[]), Err("invalid filter 'dangling'".to_owned()));
        assert_eq!(boolean(&Filters::new(), "dangling").unwrap(), None);
    }
}
