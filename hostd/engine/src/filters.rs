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

/// Docker's yes and no: `1`, `true`, `0`, `false`.
pub(crate) fn boolean(filters: &Filters, key: &str) -> Result<Option<bool>> {
    let Some(value) = filters.get(key).and_then(|values| values.first()) else { return Ok(None) };
    match value.as_str() {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(Some(true)),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(Some(false)),
        _ => Err(EngineError::invalid(format!("invalid filter '{key}={value}'"))),
    }
}
