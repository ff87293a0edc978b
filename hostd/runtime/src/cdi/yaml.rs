//! YAML as far as configuration files go: to JSON, without anchors, tags and merge keys.

use saphyr_parser::{Event, Parser, ScalarStyle};
use serde_json::{Map, Number, Value};

/// How deep a document may be nested.
const DEEPEST: usize = 32;

/// Something that is being read.
enum Open {
    List(Vec<Value>),
    /// What is there, and the key whose value comes next.
    Map(Map<String, Value>, Option<String>),
}

/// The one document in `text`.
pub(super) fn to_json(text: &str) -> Result<Value, String> {
    let (mut open, mut document) = (Vec::new(), None);
    for event in Parser::new_from_str(text) {
        let (event, at) = event.map_err(|error| error.to_string())?;
        let refuse = |what: &str| Err(format!("{what} in line {}", at.start.line()));
        let done = match event {
            Event::Nothing | Event::StreamStart | Event::StreamEnd => continue,
            Event::DocumentStart(_) | Event::DocumentEnd => {
                if matches!(event, Event::DocumentStart(_)) && document.is_some() {
                    return refuse("a second document");
                }
                continue;
            }
            Event::Alias(_) => return refuse("an alias"),
            Event::Scalar(_, _, anchor, ref tag) if anchor != 0 || tag.is_some() => {
                return refuse("an anchor or a tag");
            }
            Event::SequenceStart(anchor, ref tag) | Event::MappingStart(anchor, ref tag)
                if anchor != 0 || tag.is_some() =>
            {
                return refuse("an anchor or a tag");
            }
            Event::SequenceStart(..) | Event::MappingStart(..) if open.len() == DEEPEST => {
                return refuse("too deep a nesting");
            }
            Event::SequenceStart(..) => {
                open.push(Open::List(Vec::new()));
                continue;
            }
            Event::MappingStart(..) => {
                open.push(Open::Map(Map::new(), None));
                continue;
            }
            Event::Scalar(text, style, ..) => {
                if let Some(Open::Map(_, key @ None)) = open.last_mut() {
                    *key = Some(text.into_owned());
                    continue;
                }
                scalar(&text, style)
            }
            Event::SequenceEnd | Event::MappingEnd => match open.pop() {
                Some(Open::List(items)) => Value::Array(items),
                Some(Open::Map(map, None)) => Value::Object(map),
                _ => return refuse("a key without a value"),
            },
        };
        match open.last_mut() {
            None => document = Some(done),
            Some(Open::List(items)) => items.push(done),
            Some(Open::Map(map, key)) => match key.take() {
                Some(key) if map.contains_key(&key) => return refuse(&format!("{key:?} a second time")),
                Some(key) => drop(map.insert(key, done)),
                None => return refuse("a list or an object as a key"),
            },
        }
    }
    document.ok_or_else(|| "nothing is in it".to_owned())
}

/// A value by the core schema: what is quoted is text.
fn scalar(text: &str, style: ScalarStyle) -> Value {
    if style != ScalarStyle::Plain {
        return Value::String(text.to_owned());
    }
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Value::Null,
        "true" | "True" | "TRUE" => return Value::Bool(true),
        "false" | "False" | "FALSE" => return Value::Bool(false),
        _ => {}
    }
    let radix =
        |prefix, radix| text.strip_prefix(prefix).and_then(|digits| i64::from_str_radix(digits, radix).ok());
    let whole = text.parse::<i64>().ok().or_else(|| radix("0x", 16)).or_else(|| radix("0o", 8));
    if let Some(number) = whole {
        return Value::Number(number.into());
    }
    let numeric = text.starts_with(|c: char| c.is_ascii_digit() || "+-.".contains(c));
    match text.parse().ok().and_then(Number::from_f64) {
        Some(number) if numeric => Value::Number(number),
        _ => Value::String(text.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn documents_read_as_their_json() {
        let text = "---\n# a comment\nname: x\nquoted: \"0\"\nversion: 0.6.0\nempty:\non: true\n\
                    list:\n  - 1\n  - {a: b, c: [0x10, 1.5]}\n  - - nested\n";
        let expected = json!({
            "name": "x", "quoted": "0", "version": "0.6.0", "empty": null, "on": true,
            "list": [1, { "a": "b", "c": [16, 1.5] }, ["nested"]],
        });
        assert_eq!(to_json(text).unwrap(), expected);
        assert_eq!(to_json("{\"a\": [1, \"b\"]}").unwrap(), json!({ "a": [1, "b"] }));
    }

    #[test]
    fn what_is_not_configuration_is_refused() {
        let deep = "[".repeat(100);
        for text in
            ["a: &x 1\nb: *x\n", "a: !!str 1\n", "a: 1\na: 2\n", "a: [\n", "", "a: 1\n---\nb: 2\n", &deep]
        {
            assert!(to_json(text).is_err(), "{text:?}");
        }
    }
}
