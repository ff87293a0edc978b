//! What marks a log: attributes from labels and environment, and a tag by template.

use super::options::Options;
use super::template::{self, Value};
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
    let any = |name: &str| {
        let map = MAPS.contains(&name).then(|| Value::Map(BTreeMap::new()));
        Ok(map.or_else(|| FIELDS.contains(&name).then(|| Value::Text(String::new()))))
    };
    template::fill(options.get("tag").map_or("", String::as_str), &any).map(drop)
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

/// What a template may name that is text, as Docker's.
const FIELDS: [&str; 16] = [
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
];
/// And what is a map.
const MAPS: [&str; 3] = ["Config", "ContainerLabels", "ExtraAttributes"];

/// The tag of a container's log.
pub(super) fn tag(record: &ContainerRecord, options: &Options, default: &str) -> Result<String> {
    let template = options.get("tag").filter(|tag| !tag.is_empty()).map_or(default, String::as_str);
    template::fill(template, &|name| field(record, options, name))
}

fn field(record: &ContainerRecord, options: &Options, name: &str) -> Result<Option<Value>> {
    let short = |text: &str| text.chars().take(12).collect();
    let text = match name {
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
        "Config" => return Ok(Some(Value::Map(options.clone()))),
        "ContainerLabels" => return Ok(Some(Value::Map(record.config.labels.clone()))),
        "ExtraAttributes" => return Ok(Some(Value::Map(attributes(record, options, str::to_owned)?))),
        _ => return Ok(None),
    };
    Ok(Some(Value::Text(text)))
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
        for name in FIELDS.into_iter().chain(MAPS) {
            let value = field(&record("aa", "web"), &Options::new(), name).unwrap();
            assert_eq!(matches!(value, Some(Value::Map(_))), MAPS.contains(&name), "{name}");
            assert!(value.is_some(), "{name}");
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
        assert_eq!(made("{{.Name | upper}}").unwrap(), "WEB");
        for bad in ["{{.Name", "{{if .Name}}x{{end}}", "{{.Name.First}}"] {
            assert!(made(bad).is_err() && check(&options(&[("tag", bad)])).is_err(), "{bad}");
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
