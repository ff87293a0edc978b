//! The part of Go's templates that tags are written in: fields, `index` into a map, and Docker's functions for text, in
//! pipelines. No conditions, loops or variables.

use crate::error::{EngineError, Result};
use std::collections::BTreeMap;

/// What an action comes to.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    Text(String),
    Number(usize),
    Map(BTreeMap<String, String>),
    Nil,
}

impl Value {
    /// As Go prints it.
    fn print(self) -> String {
        match self {
            Self::Text(text) => text,
            Self::Number(number) => number.to_string(),
            Self::Map(map) => {
                let pairs: Vec<_> = map.iter().map(|(key, value)| format!("{key}:{value}")).collect();
                format!("map[{}]", pairs.join(" "))
            }
            Self::Nil => "<no value>".to_owned(),
        }
    }
}

/// Fills a template in; `field` gives the value of a field, or `None` where there is none of that name.
pub(super) fn fill(template: &str, field: &dyn Fn(&str) -> Result<Option<Value>>) -> Result<String> {
    let (mut filled, mut rest) = (String::new(), template);
    while let Some((text, action)) = rest.split_once("{{") {
        filled.push_str(text);
        let Some((action, behind)) = action.split_once("}}") else {
            return failed(" unclosed action");
        };
        let column = template.len() - rest.len() + text.len() + 2;
        filled.push_str(&pipeline(action.trim(), column, field)?.print());
        rest = behind;
    }
    filled.push_str(rest);
    Ok(filled)
}

fn failed<T>(what: impl std::fmt::Display) -> Result<T> {
    Err(EngineError::invalid(format!("failed to initialize logging driver: template: log-tag:1:{what}")))
}

/// Commands by `|`; each gets the value of the one before as its last argument.
fn pipeline(action: &str, column: usize, field: &dyn Fn(&str) -> Result<Option<Value>>) -> Result<Value> {
    let strange = || {
        failed(format!(
            "{column}: \"{action}\" is not supported by hostd; a tag may hold fields such as {{{{.Name}}}}, \
             {{{{index .ContainerLabels \"name\"}}}}, and the functions {}",
            FUNCTIONS.join(", ")
        ))
    };
    let Some(words) = words(action) else { return strange() };
    let mut value = None;
    for command in words.split(|word| *word == Word::Pipe) {
        let Some((first, rest)) = command.split_first() else { return strange() };
        let mut arguments = Vec::new();
        for word in rest {
            match operand(word, column, field)? {
                Some(argument) => arguments.push(argument),
                None => return strange(),
            }
        }
        arguments.extend(value.take());
        let result = match first {
            Word::Name(name) if FUNCTIONS.contains(&name.as_str()) => call(name, arguments),
            // The one field that is a method, of one argument.
            Word::Field(name) if name == "ExtraAttributes" => match arguments[..] {
                [Value::Nil] => operand(first, column, field)?,
                _ => None,
            },
            _ if arguments.is_empty() => operand(first, column, field)?,
            _ => None,
        };
        match result {
            Some(result) => value = Some(result),
            None => return strange(),
        }
    }
    value.map_or_else(strange, Ok)
}

fn operand(
    word: &Word,
    column: usize,
    field: &dyn Fn(&str) -> Result<Option<Value>>,
) -> Result<Option<Value>> {
    Ok(match word {
        Word::Field(name) => match field(name)? {
            None => {
                return failed(format!(
                    "{column}: executing \"log-tag\" at <.{name}>: can't evaluate field {name} in type *logger.Info"
                ));
            }
            value => value,
        },
        Word::Text(text) => Some(Value::Text(text.clone())),
        Word::Number(number) => Some(Value::Number(*number)),
        Word::Name(name) if name == "nil" => Some(Value::Nil),
        Word::Name(_) | Word::Pipe => None,
    })
}

const FUNCTIONS: [&str; 7] = ["index", "json", "lower", "pad", "title", "truncate", "upper"];

/// `None` where the function does not take these arguments.
fn call(name: &str, arguments: Vec<Value>) -> Option<Value> {
    use Value::{Map, Number, Text};
    let text = match (name, arguments.as_slice()) {
        ("index", [Map(map), Text(key)]) => map.get(key).cloned().unwrap_or_default(),
        ("json", [Text(text)]) => serde_json::to_string(text).ok()?,
        ("json", [Map(map)]) => serde_json::to_string(map).ok()?,
        ("lower", [Text(text)]) => text.to_lowercase(),
        ("upper", [Text(text)]) => text.to_uppercase(),
        ("title", [Text(text)]) => title(text),
        ("truncate", [Text(text), Number(length)]) => text.chars().take(*length).collect(),
        ("pad", [Text(text), Number(_), Number(_)]) if text.is_empty() => String::new(),
        ("pad", [Text(text), Number(before), Number(behind)]) if before.max(behind) <= &MOST_PADDING => {
            format!("{}{text}{}", " ".repeat(*before), " ".repeat(*behind))
        }
        _ => return None,
    };
    Some(Text(text))
}

const MOST_PADDING: usize = 256;

/// With a capital at the beginning of each word.
fn title(text: &str) -> String {
    let mut inside = false;
    let capital = |c: char| {
        let begins = !std::mem::replace(&mut inside, c.is_alphanumeric() || c == '_' || c == '\'');
        if begins { c.to_uppercase().collect() } else { c.to_string() }
    };
    text.chars().map(capital).collect()
}

#[derive(Debug, PartialEq)]
enum Word {
    Field(String),
    Name(String),
    Text(String),
    Number(usize),
    Pipe,
}

/// Takes an action apart; `None` where it holds something else.
fn words(action: &str) -> Option<Vec<Word>> {
    let (mut words, mut rest) = (Vec::new(), action.trim_start());
    while let Some(first) = rest.chars().next() {
        let (word, behind) = match first {
            '|' => (Word::Pipe, &rest[1..]),
            '"' | '`' => {
                let (text, behind) = rest[1..].split_once(first)?;
                // Escapes are not read.
                (!(first == '"' && text.contains('\\'))).then_some(())?;
                (Word::Text(text.to_owned()), behind)
            }
            _ => {
                let end = rest.find(|c: char| c.is_whitespace() || "|\"`()".contains(c));
                let (word, behind) = rest.split_at(end.unwrap_or(rest.len()));
                let plain = |name: &str| {
                    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
                };
                let word = match (word.strip_prefix('.'), word.parse()) {
                    (Some(name), _) if plain(name) => Word::Field(name.to_owned()),
                    (None, Ok(number)) => Word::Number(number),
                    (None, Err(_)) if plain(word) => Word::Name(word.to_owned()),
                    _ => return None,
                };
                (word, behind)
            }
        };
        words.push(word);
        rest = behind.trim_start();
    }
    Some(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field(name: &str) -> Result<Option<Value>> {
        let labels = BTreeMap::from([("com.x".to_owned(), "one".to_owned())]);
        Ok(match name {
            "Name" => Some(Value::Text("web box".to_owned())),
            "ContainerLabels" | "ExtraAttributes" => Some(Value::Map(labels)),
            _ => None,
        })
    }

    #[test]
    fn actions_come_to_what_they_do_in_go() {
        for (template, filled) in [
            ("plain", "plain"),
            ("{{.Name}}", "web box"),
            ("<{{ .Name | upper }}>", "<WEB BOX>"),
            ("{{upper .Name | lower | title}}", "Web Box"),
            ("{{truncate .Name 3}}!", "web!"),
            ("{{pad .Name 1 2}}|", " web box  |"),
            ("{{json .Name}}", "\"web box\""),
            ("{{index .ContainerLabels \"com.x\"}}{{index .ContainerLabels `no`}}", "one"),
            ("{{\"com.x\" | index .ContainerLabels | upper}}", "ONE"),
            ("{{.ContainerLabels}} {{.ExtraAttributes nil}}", "map[com.x:one] map[com.x:one]"),
        ] {
            assert_eq!(fill(template, &field).unwrap(), filled, "{template}");
        }
    }

    #[test]
    fn what_is_not_supported_is_refused_and_named() {
        for bad in [
            "{{if .Name}}x{{end}}",
            "{{.Name | nope}}",
            "{{nope}}",
            "{{}}",
            "{{|}}",
            "{{.Name |}}",
            "{{.Name .Name}}",
            "{{.ExtraAttributes}}",
            "{{upper}}",
            "{{upper 3}}",
            "{{index .Name \"x\"}}",
            "{{pad .Name 1 100000}}",
            "{{- .Name -}}",
            "{{(.Name)}}",
            "{{\"a\\\"\"}}",
            "{{$x := .Name}}",
            "{{.Name.First}}",
        ] {
            let message = fill(bad, &field).unwrap_err().message;
            assert!(message.contains("is not supported by hostd"), "{bad}: {message}");
        }
        assert!(fill("{{.Name", &field).unwrap_err().message.ends_with("unclosed action"));
        assert!(
            fill("x{{.Foo}}", &field).unwrap_err().message.contains("1:3: executing \"log-tag\" at <.Foo>")
        );
    }
}
