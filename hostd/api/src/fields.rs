//! JSON objects as Docker reads them: field names in any case, null for absent, unknown fields ignored.
//!
//! Go's decoder matches field names without regard to case, so clients send what they like; only the keys of free-form
//! maps (labels, sysctls) keep their case. A value of the wrong type is refused by the field's name.

use crate::error::ApiError;
use serde_json::{Map, Value};
use std::collections::BTreeMap;

type Result<T, E = ApiError> = std::result::Result<T, E>;

/// One object, and where in the request it stands.
#[derive(Debug)]
pub(crate) struct Fields<'a> {
    path: String,
    map: &'a Map<String, Value>,
}

impl<'a> Fields<'a> {
    /// The request's outermost object.
    pub(crate) fn root(map: &'a Map<String, Value>) -> Self {
        Self { path: String::new(), map }
    }

    /// The field's name with the names of the objects around it.
    pub(crate) fn path(&self, name: &str) -> String {
        if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) }
    }

    fn wrong(&self, name: &str, wanted: &str) -> ApiError {
        ApiError::bad_request(format!("invalid JSON: {} must be {wanted}", self.path(name)))
    }

    /// The value under that name: as written, else in another case. Null reads as absent.
    pub(crate) fn get(&self, name: &str) -> Option<&'a Value> {
        let exact = self.map.get(name);
        let found = exact.or_else(|| {
            self.map.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value)
        });
        found.filter(|value| !value.is_null())
    }

    /// Absent reads as empty.
    pub(crate) fn string(&self, name: &str) -> Result<String> {
        Ok(self.opt_string(name)?.unwrap_or_default())
    }

    pub(crate) fn opt_string(&self, name: &str) -> Result<Option<String>> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.clone())),
            Some(_) => Err(self.wrong(name, "a string")),
        }
    }

    /// Absent reads as false.
    pub(crate) fn boolean(&self, name: &str) -> Result<bool> {
        Ok(self.opt_boolean(name)?.unwrap_or(false))
    }

    pub(crate) fn opt_boolean(&self, name: &str) -> Result<Option<bool>> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::Bool(on)) => Ok(Some(*on)),
            Some(_) => Err(self.wrong(name, "true or false")),
        }
    }

    /// Absent reads as 0.
    pub(crate) fn integer(&self, name: &str) -> Result<i64> {
        Ok(self.opt_integer(name)?.unwrap_or(0))
    }

    /// Numbers written with a fraction of zero (`1.0`) are taken, since not every language writes integers.
    pub(crate) fn opt_integer(&self, name: &str) -> Result<Option<i64>> {
        let Some(value) = self.get(name) else { return Ok(None) };
        let whole = |number: f64| (number.fract() == 0.0 && number.abs() < 9e15).then_some(number as i64);
        match value.as_i64().or_else(|| value.as_f64().and_then(whole)) {
            Some(number) => Ok(Some(number)),
            None => Err(self.wrong(name, "an integer")),
        }
    }

    /// A list of strings.
    pub(crate) fn strings(&self, name: &str) -> Result<Option<Vec<String>>> {
        let wrong = || self.wrong(name, "a list of strings");
        match self.get(name) {
            None => Ok(None),
            Some(Value::Array(items)) => items
                .iter()
                .map(|item| item.as_str().map(str::to_owned).ok_or_else(wrong))
                .collect::<Result<_>>()
                .map(Some),
            Some(_) => Err(wrong()),
        }
    }

    /// A list of lists of strings; absent reads as empty.
    pub(crate) fn lists(&self, name: &str) -> Result<Vec<Vec<String>>> {
        match self.get(name) {
            None => Ok(Vec::new()),
            Some(value) => serde_json::from_value(value.clone())
                .map_err(|_| self.wrong(name, "a list of lists of strings")),
        }
    }

    /// A command: a list, or one string for its only item.
    pub(crate) fn command(&self, name: &str) -> Result<Option<Vec<String>>> {
        match self.get(name) {
            Some(Value::String(only)) => Ok(Some(vec![only.clone()])),
            _ => self.strings(name),
        }
    }

    /// A map of strings, keys as written.
    pub(crate) fn string_map(&self, name: &str) -> Result<BTreeMap<String, String>> {
        let wrong = || self.wrong(name, "a map of strings");
        let entries = self.entries(name)?;
        entries
            .map(|(key, value)| match value {
                Value::String(text) => Ok((key.clone(), text.clone())),
                Value::Null => Ok((key.clone(), String::new())),
                _ => Err(wrong()),
            })
            .collect()
    }

    /// The keys of a Go set (`{"80/tcp":{}}`).
    pub(crate) fn keys(&self, name: &str) -> Result<Vec<&'a str>> {
        Ok(self.entries(name)?.map(|(key, _)| key.as_str()).collect())
    }

    /// A map's entries.
    pub(crate) fn entries(
        &self,
        name: &str,
    ) -> Result<impl Iterator<Item = (&'a String, &'a Value)> + use<'a>> {
        let map = match self.get(name) {
            None => None,
            Some(Value::Object(map)) => Some(map),
            Some(_) => return Err(self.wrong(name, "an object")),
        };
        Ok(map.into_iter().flatten())
    }

    /// An object inside this one.
    pub(crate) fn object(&self, name: &str) -> Result<Option<Fields<'a>>> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::Object(map)) => Ok(Some(Fields { path: self.path(name), map })),
            Some(_) => Err(self.wrong(name, "an object")),
        }
    }

    /// A list of objects.
    pub(crate) fn objects(&self, name: &str) -> Result<Vec<Fields<'a>>> {
        let items = match self.get(name) {
            None => return Ok(Vec::new()),
            Some(Value::Array(items)) => items,
            Some(_) => return Err(self.wrong(name, "a list")),
        };
        items.iter().enumerate().map(|(index, item)| self.item(&format!("{name}[{index}]"), item)).collect()
    }

    /// `value`, which stands in this object under `name`, as an object of its own.
    pub(crate) fn item(&self, name: &str, value: &'a Value) -> Result<Fields<'a>> {
        let map = value.as_object().ok_or_else(|| self.wrong(name, "an object"))?;
        Ok(Fields { path: self.path(name), map })
    }

    /// Refuses fields that Docker honours and hostd does not, unless they hold what they hold when unset.
    pub(crate) fn refuse(&self, names: &[&str]) -> Result<()> {
        match names.iter().find(|name| self.get(name).is_some_and(|value| !is_zero(value))) {
            Some(name) => Err(ApiError::not_implemented(self.path(name))),
            None => Ok(()),
        }
    }
}

/// Go's zero value: what clients written in Go send for a field that nobody set.
fn is_zero(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(on) => !on,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(map) => map.is_empty(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read<T>(value: Value, read: impl FnOnce(&Fields<'_>) -> T) -> T {
        read(&Fields::root(value.as_object().unwrap()))
    }

    #[test]
    fn names_match_in_any_case_and_the_exact_one_wins() {
        read(json!({"cmd": ["a"], "IMAGE": "x", "tTy": true, "User": "right", "user": "wrong"}), |fields| {
            assert_eq!(fields.strings("Cmd").unwrap(), Some(vec!["a".to_owned()]));
            assert_eq!(fields.string("Image").unwrap(), "x");
            assert!(fields.boolean("Tty").unwrap());
            assert_eq!(fields.string("User").unwrap(), "right");
        });
    }

    #[test]
    fn labels_keep_their_case_and_nulls_read_as_absent() {
        read(
            json!({"labels": {"Key": "V", "key": "v", "nil": null}, "Cmd": null, "Memory": null, "Env": null}),
            |fields| {
                let labels = fields.string_map("Labels").unwrap();
                assert_eq!(labels.len(), 3);
                assert_eq!(labels["Key"], "V");
                assert_eq!(fields.strings("Cmd").unwrap(), None);
                assert_eq!(fields.integer("Memory").unwrap(), 0);
                assert_eq!(fields.strings("Env").unwrap(), None);
            },
        );
    }

    #[test]
    fn a_command_may_be_one_string() {
        read(json!({"Entrypoint": "/bin/x", "Cmd": ["a", "b"], "Env": "A=b"}), |fields| {
            assert_eq!(fields.command("Entrypoint").unwrap(), Some(vec!["/bin/x".to_owned()]));
            assert_eq!(fields.command("Cmd").unwrap().unwrap().len(), 2);
            assert_eq!(
                fields.strings("Env").unwrap_err().message(),
                "invalid JSON: Env must be a list of strings"
            );
        });
    }

    #[test]
    fn wrong_types_are_refused_by_the_name_of_the_field() {
        read(json!({"HostConfig": {"Memory": "64m", "CpuShares": 1.5, "NanoCpus": 2.0}}), |fields| {
            let host = fields.object("hostconfig").unwrap().unwrap();
            assert_eq!(
                host.integer("Memory").unwrap_err().message(),
                "invalid JSON: hostconfig.Memory must be an integer"
            );
            assert!(host.integer("CpuShares").is_err());
            assert_eq!(host.integer("NanoCpus").unwrap(), 2);
        });
    }

    #[test]
    fn unset_fields_pass_and_set_ones_are_refused() {
        let unset = json!({"Links": null, "VolumesFrom": [], "BlkioWeight": 0, "OomKillDisable": false, "UsernsMode": "", "StorageOpt": {}});
        let names =
            ["Links", "VolumesFrom", "BlkioWeight", "OomKillDisable", "UsernsMode", "StorageOpt", "Absent"];
        read(unset, |fields| fields.refuse(&names).unwrap());
        read(json!({"links": ["a:b"]}), |fields| {
            let error = fields.refuse(&names).unwrap_err();
            assert_eq!(error.message(), "Links is not supported by hostd yet");
            assert_eq!(error.status(), axum::http::StatusCode::NOT_IMPLEMENTED);
        });
    }
}
