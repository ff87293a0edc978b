//! What marks a log: attributes from labels and environment, and a tag by template.

use super::options::Options;
use crate::error::{EngineError, Result};
use crate::model::ContainerRecord;
use crate::spec;
use regex_lite::Regex;
use std::collections::BTreeMap;

/// Refuses what is wrong whatever the container is: expressions, and fields that a template cannot name.
pub(super) fn check(options: &Options) -> Result<()> {
    for name in ["labels-regex", "env-regex"] {
        expression(options, name)?;
    }
    parse(options.get("tag").map_or("", String::as_str)).map(drop)
}

fn expression(options: &Options, name: &str) -> Result<Option<Regex>> {
    let Some(text) = options.get(name).filter(|text| !text.is_empty()) else { return Ok(None) };
    Regex::new(text).map(Some).map_err(|error| {
        EngineError::invalid(format!(
            "failed to initialize logging driver: error parsing regexp: {error}: `{text}`"
        ))
    })
}

/// What `labels`, `labels-regex`, `env` and `env-regex` choose; names go through `rename`.
pub(super) fn attributes(
    record: &ContainerRecord,
    options: &Options,
    rename: impl Fn(&str) -> String,
) -> Result<BTreeMap<String, String>> {
    let env = spec::environment(record, Vec::new());
    let env = env.iter().filter_map(|variable| variable.split_once('='));
    let labels = record.config.labels.iter().map(|(key, value)| (key.as_str(), value.as_str()));
    let mut chosen = BTreeMap::new();
    let sources: [(&str, BTreeMap<&str, &str>); 2] = [("labels", labels.collect()), ("env", env.collect())];
    for (kind, values) in sources {
        let names = options.get(kind).map_or("", String::as_str);
        let pattern = expression(options, &format!("{kind}-regex"))?;
        for (name, value) in values {
            if names.split(',').any(|one| one == name) || pattern.as_ref().is_some_and(|p| p.is_match(name)) {
                chosen.insert(rename(name), value.to_owned());
            }
        }
    }
    Ok(chosen)
}

/// A tag's template, taken apart.
#[derive(Debug, PartialEq)]
enum Part<'a> {
    Text(&'a str),
    Field(&'a str),
}

/// What a template may name, as Docker's.
const FIELDS: [&str; 17] = [
    "ID",
    "FullID",
    "Name",
    "ImageID",
    "ImageFullID",
    "ImageName",
    "Command",
    "Hostname",
    "DaemonName",
    "ContainerID",
    "ContainerName",
    "ContainerImageID",
    "ContainerImageName",
    "ContainerEntrypoint",
    "ContainerArgs",
    "LogPath",
    "ExtraAttributes nil",
];

fn parse(template: &str) -> Result<Vec<Part<'_>>> {
    let failed = |what: String| {
        Err(EngineError::invalid(format!("failed to initialize logging driver: template: log-tag:1:{what}")))
    };
    let (mut parts, mut rest) = (Vec::new(), template);
    while let Some(open) = rest.find("{{") {
        parts.push(Part::Text(&rest[..open]));
        let Some(close) = rest[open..].find("}}") else {
            return failed(" unclosed action".to_owned());
        };
        let action = rest[open + 2..open + close].trim();
        let column = template.len() - rest.len() + open + 2;
        match action.strip_prefix('.') {
            Some(field) if FIELDS.contains(&field) => parts.push(Part::Field(field)),
            Some(field) if !field.is_empty() && field.bytes().all(|b| b.is_ascii_alphanumeric()) => {
                return failed(format!(
                    "{column}: executing \"log-tag\" at <.{field}>: can't evaluate field {field} in type *logger.Info"
                ));
            }
            _ => {
                let known = FIELDS.map(|field| format!(".{field}")).join(", ");
                return failed(format!(
                    "{column}: \"{action}\" is not supported by hostd; a tag may name {known}"
                ));
            }
        }
        rest = &rest[open + close + 2..];
    }
    parts.push(Part::Text(rest));
    Ok(parts)
}

/// The tag of a container's log.
pub(super) fn tag(record: &ContainerRecord, options: &Options, default: &str) -> Result<String> {
    let template = options.get("tag").filter(|tag| !tag.is_empty()).map_or(default, String::as_str);
    let mut tag = String::new();
    for part in parse(template)? {
        match part {
            Part::Text(text) => tag.push_str(text),
            Part::Field(name) => tag.push_str(&field(record, options, name)?),
        }
    }
    Ok(tag)
}

fn field(record: &ContainerRecord, options: &Options, name: &str) -> Result<String> {
    let short = |text: &str| text.chars().take(12).collect();
    Ok(match name {
        "ID" => short(&record.id),
        "FullID" | "ContainerID" => record.id.clone(),
        "Name" => record.name.clone(),
        "ContainerName" => format!("/{}", record.name),
        "ImageID" => short(&record.image_id),
        "ImageFullID" | "ContainerImageID" => record.image_id.clone(),
        "ImageName" | "ContainerImageName" => record.config.image.clone(),
        "Command" => record.args.join(" "),
        "ContainerEntrypoint" => record.args.first().cloned().unwrap_or_default(),
        "ContainerArgs" => format!("[{}]", record.args.get(1..).unwrap_or_default().join(" ")),
        "Hostname" => rustix::system::uname().nodename().to_string_lossy().into_owned(),
        "DaemonName" => "docker".to_owned(),
        "LogPath" => record.log_path.clone(),
        "ExtraAttributes nil" => {
            let chosen = attributes(record, options, str::to_owned)?;
            let pairs: Vec<_> = chosen.iter().map(|(key, value)| format!("{key}:{value}")).collect();
            format!("map[{}]", pairs.join(" "))
        }
        other => return Err(EngineError::invalid(format!("a tag cannot name .{other}"))),
    })
}

/// A name as the journal takes it: capital letters, digits, underscores, none of these in front.
pub(super) fn journal_name(name: &str) -> String {
    let sane = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' };
    let name: String = name.chars().map(sane).collect();
    name.trim_start_matches('_').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::container::tests::record;

    fn options(pairs: &[(&str, &str)]) -> Options {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn every_field_has_a_value() {
        for name in FIELDS {
            field(&record("aa", "web"), &Options::new(), name).unwrap();
        }
    }

    #[test]
    fn tags_follow_their_template() {
        let record = record(&"ab".repeat(32), "web");
        let made = |text: &str| tag(&record, &options(&[("tag", text)]), "{{.ID}}");
        assert_eq!(made("").unwrap(), "abababababab");
        assert_eq!(made("x/{{.Name}}/{{ .ImageName }}!").unwrap(), "x/web/busybox!");
        let error = made("{{.Foo}}").unwrap_err().message;
        assert!(
            error.ends_with("executing \"log-tag\" at <.Foo>: can't evaluate field Foo in type *logger.Info")
        );
        for bad in ["{{.Name", "{{if .Name}}x{{end}}", "{{upper .Name}}"] {
            assert!(made(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn labels_and_environment_are_chosen_by_name_and_expression() {
        let mut record = record("aa", "web");
        for (key, value) in [("a.b", "1"), ("com.x", "2"), ("other", "3")] {
            record.config.labels.insert(key.to_owned(), value.to_owned());
        }
        record.config.env = vec!["ONE=1".to_owned(), "TWO=2".to_owned()];
        let options =
            options(&[("labels", "a.b,nope"), ("labels-regex", "^com"), ("env-regex", "^T"), ("env", "ONE")]);
        let got = attributes(&record, &options, journal_name).unwrap();
        let got: Vec<_> = got.iter().map(|(key, value)| format!("{key}={value}")).collect();
        assert_eq!(got, ["A_B=1", "COM_X=2", "ONE=1", "TWO=2"]);
        assert!(check(&self::options(&[("env-regex", "(")])).is_err());
    }
}
