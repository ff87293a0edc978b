//! Query parameters, read as Docker reads them: the first value counts, and a flag is false only in a few words.

use crate::error::ApiError;
use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use hostd_engine::Filters;
use percent_encoding::percent_decode_str;
use serde_json::Value;
use std::convert::Infallible;

/// The query of a request.
#[derive(Debug, Default)]
pub(crate) struct Params(Vec<(String, String)>);

impl<S: Sync> FromRequestParts<S> for Params {
    type Rejection = Infallible;
    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(Self::parse(parts.uri.query().unwrap_or("")))
    }
}

impl Params {
    pub(crate) fn parse(query: &str) -> Self {
        let decode =
            |text: &str| percent_decode_str(&text.replace('+', " ")).decode_utf8_lossy().into_owned();
        let pairs = query.split('&').filter(|pair| !pair.is_empty());
        Self(
            pairs
                .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
                .map(|(k, v)| (decode(k), decode(v)))
                .collect(),
        )
    }

    /// The value, `None` where it is absent or empty.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        let found = self.0.iter().find(|(key, _)| key == name);
        found.map(|(_, value)| value.as_str()).filter(|value| !value.is_empty())
    }

    /// All values, where a parameter may be given more than once.
    pub(crate) fn all(&self, name: &str) -> Vec<&str> {
        self.0.iter().filter(|(key, _)| key == name).map(|(_, value)| value.as_str()).collect()
    }

    /// Refuses parameters that take a value and that hostd does not honour, unless they are empty.
    pub(crate) fn refuse_values(&self, names: &[&str]) -> Result<(), ApiError> {
        match names.iter().find(|name| self.get(name).is_some()) {
            Some(name) => Err(ApiError::not_implemented(format_args!("the parameter {name}"))),
            None => Ok(()),
        }
    }

    /// Docker's rule: everything is true but these words.
    pub(crate) fn flag(&self, name: &str) -> bool {
        self.get(name).is_some_and(|text| {
            !["", "0", "no", "false", "none"].contains(&text.trim().to_ascii_lowercase().as_str())
        })
    }

    /// A flag that is `default` where it is absent.
    pub(crate) fn flag_or(&self, name: &str, default: bool) -> bool {
        if self.get(name).is_some() { self.flag(name) } else { default }
    }

    /// A number, refused where it is none.
    pub(crate) fn number<T: std::str::FromStr>(&self, name: &str) -> Result<Option<T>, ApiError> {
        let Some(text) = self.get(name) else { return Ok(None) };
        let number = text.trim().parse().map_err(|_| {
            ApiError::bad_request(format!(
                "invalid value for parameter {name}: \"{text}\" is not a number in range"
            ))
        })?;
        Ok(Some(number))
    }

    /// A parameter that must be there.
    pub(crate) fn required<T: std::str::FromStr>(&self, name: &str) -> Result<T, ApiError> {
        self.number(name)?.ok_or_else(|| ApiError::bad_request(format!("parameter {name} is missing")))
    }

    /// Refuses parameters that Docker knows and hostd does not honour, unless they are empty or off.
    pub(crate) fn refuse(&self, names: &[&str]) -> Result<(), ApiError> {
        match names.iter().find(|name| self.flag(name)) {
            Some(name) => Err(ApiError::not_implemented(format_args!("the parameter {name}"))),
            None => Ok(()),
        }
    }

    /// `filters`: `{"name":{"value":true}}`, or `{"name":["value"]}` as older clients send it.
    pub(crate) fn filters(&self) -> Result<Filters, ApiError> {
        let Some(text) = self.get("filters") else { return Ok(Filters::new()) };
        let invalid = || ApiError::bad_request("invalid filter");
        let map = match serde_json::from_str(text) {
            Ok(Value::Object(map)) => map,
            Ok(Value::Null) => return Ok(Filters::new()),
            _ => return Err(invalid()),
        };
        let mut filters = Filters::new();
        for (name, values) in map {
            let values = match values {
                Value::Object(values) => values
                    .into_iter()
                    .filter(|(_, on)| *on != Value::Bool(false))
                    .map(|(value, _)| value)
                    .collect(),
                Value::Array(values) => values
                    .into_iter()
                    .map(|value| value.as_str().map(str::to_owned).ok_or_else(invalid))
                    .collect::<Result<_, _>>()?,
                Value::Null => Vec::new(),
                _ => return Err(invalid()),
            };
            filters.insert(name, values);
        }
        Ok(filters)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_true_but_for_dockers_few_words() {
        let params = Params::parse("a=1&b=0&c=False&d=none&e=yes&f=&g&h=no");
        let on: Vec<_> = ["a", "b", "c", "d", "e", "f", "g", "h", "i"]
            .into_iter()
            .filter(|name| params.flag(name))
            .collect();
        assert_eq!(on, ["a", "e"]);
        assert!(params.flag_or("i", true));
        assert!(!params.flag_or("b", true));
    }

    #[test]
    fn filters_come_as_maps_and_as_lists() {
        let map = Params::parse("filters=%7B%22label%22%3A%7B%22a%3Db%22%3Atrue%2C%22c%22%3Afalse%7D%7D")
            .filters()
            .unwrap();
        assert_eq!(map["label"], ["a=b"]);
        let list = Params::parse("filters={\"status\":[\"exited\",\"dead\"]}").filters().unwrap();
        assert_eq!(list["status"], ["exited", "dead"]);
        assert!(Params::parse("filters=null").filters().unwrap().is_empty());
        for bad in ["filters=x", "filters=[]", "filters={\"a\":[1]}", "filters={\"a\":1}"] {
            assert!(Params::parse(bad).filters().is_err(), "{bad}");
        }
    }

    #[test]
    fn numbers_out_of_range_are_refused() {
        let params = Params::parse("h=70000&w=80&t=x");
        assert_eq!(params.number::<u16>("w").unwrap(), Some(80));
        assert!(params.number::<u16>("h").is_err());
        assert!(params.number::<i64>("t").is_err());
        assert_eq!(params.number::<u16>("none").unwrap(), None);
    }
}
