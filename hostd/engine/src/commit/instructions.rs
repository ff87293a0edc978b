//! Dockerfile instructions that change an image's configuration and none of its files.

use super::words::{expand, split};
use crate::error::{EngineError, Result};
use crate::health;
use crate::model::{Healthcheck, Port};
use crate::signals;
use hostd_image::ContainerConfig as ImageConfig;
use serde_json::json;

/// Applies the instructions, one after the other.
pub(super) fn apply(config: ImageConfig, changes: &[String]) -> Result<ImageConfig> {
    let mut state = State { config, has_cmd: false };
    for line in lines(&changes.join("\n")) {
        state.instruction(&line)?;
    }
    Ok(state.config)
}

/// Without comments and empty lines; a backslash at a line's end goes on with the next.
fn lines(text: &str) -> Vec<String> {
    let (mut lines, mut open) = (Vec::new(), String::new());
    for line in text.lines().filter(|line| !line.trim_start().starts_with('#')) {
        match line.trim_end().strip_suffix('\\') {
            Some(part) => open.push_str(part),
            None => {
                open.push_str(line);
                lines.push(std::mem::take(&mut open));
            }
        }
    }
    lines.push(open);
    lines.retain(|line| !line.trim().is_empty());
    lines.into_iter().map(|line| line.trim().to_owned()).collect()
}

struct State {
    config: ImageConfig,
    /// Whether a CMD came before: then it outlives an ENTRYPOINT.
    has_cmd: bool,
}

impl State {
    fn instruction(&mut self, line: &str) -> Result<()> {
        let (name, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        let (name, rest) = (name.to_ascii_uppercase(), rest.trim());
        const KNOWN: [&str; 11] = [
            "CMD",
            "ENTRYPOINT",
            "ENV",
            "EXPOSE",
            "HEALTHCHECK",
            "LABEL",
            "ONBUILD",
            "STOPSIGNAL",
            "USER",
            "VOLUME",
            "WORKDIR",
        ];
        if !KNOWN.contains(&name.as_str()) {
            return Err(EngineError::invalid(format!("{name} is not a valid change command")));
        }
        if rest.is_empty() {
            let needs = if matches!(name.as_str(), "USER" | "WORKDIR" | "STOPSIGNAL") {
                "exactly one argument"
            } else {
                "at least one argument"
            };
            return Err(EngineError::invalid(format!("{name} requires {needs}")));
        }
        match name.as_str() {
            "CMD" => {
                self.config.cmd = Some(self.command(rest));
                self.has_cmd = true;
            }
            "ENTRYPOINT" => {
                self.config.entrypoint = Some(self.command(rest));
                if !self.has_cmd {
                    self.config.cmd = None;
                }
            }
            "ENV" => self.env(rest)?,
            "EXPOSE" => self.expose(rest)?,
            "HEALTHCHECK" => self.healthcheck(rest)?,
            "LABEL" => {
                for (key, value) in self.pairs("LABEL", rest)? {
                    self.config.labels.insert(key, value);
                }
            }
            "ONBUILD" => self.on_build(rest)?,
            "STOPSIGNAL" => {
                let signal = expand(rest, &self.config.env)?;
                signals::parse(&signal)?;
                self.config.stop_signal = Some(signal);
            }
            "USER" => self.config.user = self.one("USER", rest)?,
            "VOLUME" => self.volume(rest)?,
            _ => self.working_dir(rest)?,
        }
        Ok(())
    }

    /// The JSON form, or a line for the shell.
    fn command(&self, text: &str) -> Vec<String> {
        if let Some(list) = json_list(text) {
            return list;
        }
        let shell = self.config.shell.clone().filter(|shell| !shell.is_empty());
        let mut command = shell.unwrap_or_else(|| vec!["/bin/sh".to_owned(), "-c".to_owned()]);
        command.push(text.to_owned());
        command
    }

    fn one(&self, name: &str, text: &str) -> Result<String> {
        match &split(text, &self.config.env)?[..] {
            [only] => Ok(only.clone()),
            _ => Err(EngineError::invalid(format!("{name} requires exactly one argument"))),
        }
    }

    /// `key=value …`, or the older `key value`.
    fn pairs(&self, name: &str, text: &str) -> Result<Vec<(String, String)>> {
        let words = split(text, &self.config.env)?;
        let first = text.split(char::is_whitespace).next().unwrap_or("");
        if !first.contains('=') {
            let (key, value) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
            if value.trim().is_empty() {
                return Err(EngineError::invalid(format!("{name} must have two arguments")));
            }
            let env = &self.config.env;
            return Ok(vec![(expand(key, env)?, expand(value.trim(), env)?)]);
        }
        let pair = |word: String| match word.split_once('=') {
            Some(("", _)) => Err(EngineError::invalid(format!("{name} names can not be blank"))),
            Some((key, value)) => Ok((key.to_owned(), value.to_owned())),
            None => Err(EngineError::invalid(format!(
                "Syntax error - can't find = in {word:?}. Must be of the form: name=value"
            ))),
        };
        words.into_iter().map(pair).collect()
    }

    fn env(&mut self, text: &str) -> Result<()> {
        for (key, value) in self.pairs("ENV", text)? {
            let variable = format!("{key}={value}");
            match self.config.env.iter_mut().find(|own| own.split('=').next() == Some(&key)) {
                Some(own) => *own = variable,
                None => self.config.env.push(variable),
            }
        }
        Ok(())
    }

    fn expose(&mut self, text: &str) -> Result<()> {
        for word in split(text, &self.config.env)? {
            let bad = || EngineError::invalid(format!("invalid containerPort: {word}"));
            let (range, protocol) = word.split_once('/').unwrap_or((&word, "tcp"));
            let (first, last) = range.split_once('-').unwrap_or((range, range));
            let number = |text: &str| text.parse::<u16>().ok().filter(|port| *port > 0).ok_or_else(bad);
            let (first, last) = (number(first)?, number(last)?);
            if first > last {
                return Err(bad());
            }
            for number in first..=last {
                let port = format!("{number}/{protocol}").parse::<Port>().map_err(EngineError::invalid)?;
                self.config.exposed_ports.insert(port.to_string(), json!({}));
            }
        }
        Ok(())
    }

    fn on_build(&mut self, text: &str) -> Result<()> {
        let trigger = text.split(char::is_whitespace).next().unwrap_or("").to_ascii_uppercase();
        match trigger.as_str() {
            "ONBUILD" => {
                return Err(EngineError::invalid("Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed"));
            }
            "FROM" | "MAINTAINER" => {
                return Err(EngineError::invalid(format!("{trigger} isn't allowed as an ONBUILD trigger")));
            }
            _ => {}
        }
        self.config.on_build.get_or_insert_default().push(text.to_owned());
        Ok(())
    }

    fn volume(&mut self, text: &str) -> Result<()> {
        let paths = match json_list(text) {
            Some(list) => list,
            None => split(text, &self.config.env)?,
        };
        for path in paths {
            if path.trim().is_empty() {
                return Err(EngineError::invalid("VOLUME specified can not be an empty string"));
            }
            self.config.volumes.insert(path, json!({}));
        }
        Ok(())
    }

    fn working_dir(&mut self, text: &str) -> Result<()> {
        let path = expand(text, &self.config.env)?;
        let from = if path.starts_with('/') { "" } else { &self.config.working_dir };
        let whole = format!("{from}/{path}");
        let mut parts = Vec::new();
        for part in whole.split('/') {
            match part {
                "" | "." => {}
                ".." => drop(parts.pop()),
                part => parts.push(part),
            }
        }
        self.config.working_dir = format!("/{}", parts.join("/"));
        Ok(())
    }

    fn healthcheck(&mut self, text: &str) -> Result<()> {
        let mut check = Healthcheck::default();
        let mut rest = text;
        while let Some(flag) = rest.strip_prefix("--") {
            let (flag, after) = flag.split_once(char::is_whitespace).unwrap_or((flag, ""));
            let (name, value) = flag.split_once('=').unwrap_or((flag, ""));
            let bad = || EngineError::invalid(format!("invalid value for flag --{name}: {value:?}"));
            match name {
                "interval" => check.interval = nanoseconds(value).ok_or_else(bad)?,
                "timeout" => check.timeout = nanoseconds(value).ok_or_else(bad)?,
                "start-period" => check.start_period = nanoseconds(value).ok_or_else(bad)?,
                "start-interval" => check.start_interval = nanoseconds(value).ok_or_else(bad)?,
                "retries" => check.retries = value.parse().map_err(|_| bad())?,
                _ => return Err(EngineError::invalid(format!("unknown flag: --{name}"))),
            }
            rest = after.trim_start();
        }
        let (kind, command) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
        check.test = match (kind.to_ascii_uppercase().as_str(), command.trim()) {
            ("NONE", "") => vec!["NONE".to_owned()],
            ("NONE", _) => return Err(EngineError::invalid("HEALTHCHECK NONE takes no arguments")),
            ("CMD", "") => return Err(EngineError::invalid("missing command after HEALTHCHECK CMD")),
            ("CMD", command) => match json_list(command) {
                Some(list) => std::iter::once("CMD".to_owned()).chain(list).collect(),
                None => vec!["CMD-SHELL".to_owned(), command.to_owned()],
            },
            _ => {
                return Err(EngineError::invalid(format!("unknown type {kind:?} in HEALTHCHECK (try CMD)")));
            }
        };
        health::validate(&check)?;
        self.config.healthcheck = Some(
            serde_json::to_value(&check)
                .map_err(|error| EngineError::internal("cannot write the health check").caused_by(error))?,
        );
        Ok(())
    }
}

/// `["a", "b"]`.
fn json_list(text: &str) -> Option<Vec<String>> {
    text.starts_with('[').then(|| serde_json::from_str(text).ok()).flatten()
}

/// A duration as Go writes it: `1m30s`, `500ms`.
fn nanoseconds(text: &str) -> Option<i64> {
    let (mut total, mut rest) = (0_f64, text);
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..end].parse().ok()?;
        let units = [("ms", 1e6), ("us", 1e3), ("ns", 1.0), ("h", 3.6e12), ("m", 6e10), ("s", 1e9)];
        let (unit, factor) = units.into_iter().find(|(unit, _)| rest[end..].starts_with(unit))?;
        total += number * factor;
        rest = &rest[end + unit.len()..];
    }
    (!text.is_empty() && total < 9e18).then_some(total as i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(changes: &[&str]) -> Result<ImageConfig> {
        let base = ImageConfig {
            env: vec!["A=one".to_owned()],
            cmd: Some(vec!["old".to_owned()]),
            working_dir: "/srv".to_owned(),
            ..ImageConfig::default()
        };
        let changes: Vec<String> = changes.iter().map(|change| (*change).to_owned()).collect();
        apply(base, &changes)
    }

    fn list(items: &[&str]) -> Option<Vec<String>> {
        Some(items.iter().map(|item| (*item).to_owned()).collect())
    }

    #[test]
    fn every_instruction_changes_its_field() {
        let config = after(&[
            "# a comment",
            r#"ENV B=$A "C=c d" A=two"#,
            "ENV D e f",
            r#"ENTRYPOINT ["/entry", "x"]"#,
            "EXPOSE 80 53/udp 8000-8002",
            "label k=v l=\"a b\"",
            "ONBUILD RUN make",
            "USER nobody:nogroup",
            "VOLUME /data \\\n /more",
            r#"VOLUME ["/json dir"]"#,
            "WORKDIR sub/../dir",
            "STOPSIGNAL SIGQUIT",
            "HEALTHCHECK --interval=1m30s --retries=2 CMD curl -f localhost",
        ])
        .unwrap();
        assert_eq!(config.env, ["A=two", "B=one", "C=c d", "D=e f"]);
        assert_eq!((config.entrypoint, config.cmd), (list(&["/entry", "x"]), None));
        let ports: Vec<_> = config.exposed_ports.keys().cloned().collect();
        assert_eq!(ports, ["53/udp", "80/tcp", "8000/tcp", "8001/tcp", "8002/tcp"]);
        assert_eq!((config.labels["k"].as_str(), config.labels["l"].as_str()), ("v", "a b"));
        assert_eq!(config.on_build, list(&["RUN make"]));
        assert_eq!(config.user, "nobody:nogroup");
        let volumes: Vec<_> = config.volumes.keys().cloned().collect();
        assert_eq!(volumes, ["/data", "/json dir", "/more"]);
        assert_eq!(config.working_dir, "/srv/dir");
        assert_eq!(config.stop_signal.as_deref(), Some("SIGQUIT"));
        let check = config.healthcheck.unwrap();
        assert_eq!(check["Test"], json!(["CMD-SHELL", "curl -f localhost"]));
        assert_eq!((&check["Interval"], &check["Retries"]), (&json!(90_000_000_000_i64), &json!(2)));
    }

    #[test]
    fn commands_without_brackets_are_for_the_shell_and_outlive_an_entrypoint_after_them() {
        let config = after(&["CMD echo $A", "ENTRYPOINT run it"]).unwrap();
        assert_eq!(config.cmd, list(&["/bin/sh", "-c", "echo $A"]));
        assert_eq!(config.entrypoint, list(&["/bin/sh", "-c", "run it"]));
        assert_eq!(after(&["HEALTHCHECK NONE"]).unwrap().healthcheck.unwrap()["Test"], json!(["NONE"]));
    }

    #[test]
    fn what_cannot_be_meant_is_refused_in_dockers_words() {
        for (change, message) in [
            ("RUN rm -rf /", "RUN is not a valid change command"),
            ("FROM scratch", "FROM is not a valid change command"),
            ("USER", "USER requires exactly one argument"),
            ("USER a b", "USER requires exactly one argument"),
            ("ENV A", "ENV must have two arguments"),
            ("ENV =x", "ENV names can not be blank"),
            ("LABEL a=b c", "Syntax error - can't find = in \"c\". Must be of the form: name=value"),
            ("EXPOSE 99999", "invalid containerPort: 99999"),
            ("EXPOSE 9-8", "invalid containerPort: 9-8"),
            ("ONBUILD ONBUILD RUN x", "Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed"),
            ("ONBUILD FROM x", "FROM isn't allowed as an ONBUILD trigger"),
            ("HEALTHCHECK TEST x", "unknown type \"TEST\" in HEALTHCHECK (try CMD)"),
            ("HEALTHCHECK CMD", "missing command after HEALTHCHECK CMD"),
            ("HEALTHCHECK --often CMD x", "unknown flag: --often"),
        ] {
            assert_eq!(after(&[change]).unwrap_err().message, message, "{change}");
        }
        assert!(after(&["STOPSIGNAL SIGNONE"]).is_err());
    }
}
