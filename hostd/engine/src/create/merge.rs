//! What a container gets from its image's configuration, by Docker's rules.

use crate::error::{EngineError, Result};
use crate::model::{ContainerConfig, Healthcheck, Port};
use hostd_image::ContainerConfig as ImageConfig;

/// `asked` with what it leaves open taken from `image`.
pub(super) fn merge(mut asked: ContainerConfig, image: &ImageConfig) -> Result<ContainerConfig> {
    fill(&mut asked.user, &image.user);
    fill(&mut asked.working_dir, &image.working_dir);
    if !asked.working_dir.is_empty() && !asked.working_dir.starts_with('/') {
        return Err(EngineError::invalid(format!(
            "the working directory '{}' is invalid, it needs to be an absolute path",
            asked.working_dir
        )));
    }
    if !asked.working_dir.is_empty() {
        asked.working_dir = super::mounts::clean(&asked.working_dir);
    }
    for port in image.exposed_ports.keys() {
        let port = port
            .parse::<Port>()
            .map_err(|e| EngineError::invalid(format!("{e} in the image's ExposedPorts")))?;
        asked.exposed_ports.insert(port);
    }
    for variable in &image.env {
        let name = variable_name(variable);
        if !asked.env.iter().any(|own| variable_name(own) == name) {
            asked.env.push(variable.clone());
        }
    }
    for (key, value) in &image.labels {
        asked.labels.entry(key.clone()).or_insert_with(|| value.clone());
    }
    asked.volumes.extend(image.volumes.keys().cloned());
    // An entrypoint of one's own makes the image's arguments meaningless.
    if asked.entrypoint.as_ref().is_none_or(Vec::is_empty) {
        if asked.cmd.as_ref().is_none_or(Vec::is_empty) {
            asked.cmd.clone_from(&image.cmd);
        }
        if asked.entrypoint.is_none() {
            asked.entrypoint.clone_from(&image.entrypoint);
        }
    }
    // `--entrypoint ""` arrives as [""].
    if asked.entrypoint.as_ref().is_some_and(|e| e.len() == 1 && e[0].is_empty()) {
        asked.entrypoint = None;
    }
    if asked.stop_signal.as_ref().is_none_or(String::is_empty) {
        asked.stop_signal = image.stop_signal.clone().filter(|signal| !signal.is_empty());
    }
    if asked.shell.is_none() {
        asked.shell.clone_from(&image.shell);
    }
    if let Some(json) = image.healthcheck.as_ref().filter(|json| !json.is_null()) {
        let of_image: Healthcheck = serde_json::from_value(json.clone())
            .map_err(|e| EngineError::invalid("the image's Healthcheck makes no sense").caused_by(e))?;
        asked.healthcheck = Some(match asked.healthcheck {
            Some(own) => merge_healthcheck(own, of_image),
            None => of_image,
        });
    }
    Ok(asked)
}

/// Field by field: `docker run --health-interval=5s` keeps the image's test.
fn merge_healthcheck(own: Healthcheck, image: Healthcheck) -> Healthcheck {
    let or = |own: i64, image: i64| if own == 0 { image } else { own };
    Healthcheck {
        test: if own.test.is_empty() { image.test } else { own.test },
        interval: or(own.interval, image.interval),
        timeout: or(own.timeout, image.timeout),
        start_period: or(own.start_period, image.start_period),
        start_interval: or(own.start_interval, image.start_interval),
        retries: or(own.retries, image.retries),
    }
}

/// The name of `NAME=value`.
pub(crate) fn variable_name(variable: &str) -> &str {
    variable.split('=').next().unwrap_or(variable)
}

fn fill(slot: &mut String, default: &str) {
    if slot.is_empty() {
        default.clone_into(slot);
    }
}

/// The program and its arguments.
pub(super) fn args(config: &ContainerConfig) -> Result<Vec<String>> {
    let parts = [&config.entrypoint, &config.cmd];
    let args: Vec<String> = parts.into_iter().flatten().flatten().cloned().collect();
    if args.is_empty() { Err(EngineError::invalid("no command specified")) } else { Ok(args) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(items: &[&str]) -> Option<Vec<String>> {
        Some(items.iter().map(|item| (*item).to_owned()).collect())
    }

    #[test]
    fn entrypoint_and_command_follow_dockers_table() {
        let image =
            ImageConfig { entrypoint: list(&["/entry"]), cmd: list(&["serve"]), ..ImageConfig::default() };
        for (entrypoint, cmd, expected) in [
            (None, None, &["/entry", "serve"][..]),
            (None, list(&["x"]), &["/entry", "x"]),
            (list(&["/own"]), None, &["/own"]),
            (list(&["/own"]), list(&["x"]), &["/own", "x"]),
            (list(&[""]), list(&["x"]), &["x"]),
            (list(&[]), None, &["serve"]),
        ] {
            let asked = ContainerConfig { entrypoint, cmd, ..ContainerConfig::default() };
            assert_eq!(args(&merge(asked, &image).unwrap()).unwrap(), expected);
        }
        let asked = ContainerConfig { entrypoint: list(&[""]), ..ContainerConfig::default() };
        assert_eq!(args(&merge(asked, &image).unwrap()).unwrap_err().message, "no command specified");
    }

    #[test]
    fn the_clients_values_win_and_the_images_fill_in() {
        let image = ImageConfig {
            env: vec!["A=image".to_owned(), "B=image".to_owned()],
            user: "nobody".to_owned(),
            working_dir: "/srv".to_owned(),
            exposed_ports: [("80/tcp".to_owned(), serde_json::Value::Null)].into(),
            labels: [("a".to_owned(), "image".to_owned()), ("b".to_owned(), "image".to_owned())].into(),
            stop_signal: Some("SIGQUIT".to_owned()),
            volumes: [("/data".to_owned(), serde_json::Value::Null)].into(),
            ..ImageConfig::default()
        };
        let asked = ContainerConfig {
            env: vec!["A=own".to_owned(), "C".to_owned()],
            user: "root".to_owned(),
            labels: [("a".to_owned(), "own".to_owned())].into(),
            ..ContainerConfig::default()
        };
        let merged = merge(asked, &image).unwrap();
        assert_eq!(merged.env, ["A=own", "C", "B=image"]);
        assert_eq!(merged.user, "root");
        assert_eq!(merged.working_dir, "/srv");
        assert_eq!(merged.labels["a"], "own");
        assert_eq!(merged.labels["b"], "image");
        assert_eq!(merged.stop_signal.as_deref(), Some("SIGQUIT"));
        assert!(merged.volumes.contains("/data"));
        assert_eq!(merged.exposed_ports.first().unwrap().to_string(), "80/tcp");
    }

    #[test]
    fn a_health_check_takes_from_the_image_what_it_leaves_open() {
        let image = ImageConfig {
            healthcheck: Some(serde_json::json!({ "Test": ["CMD", "true"], "Interval": 5, "Retries": null })),
            ..ImageConfig::default()
        };
        let merged = |own: Option<Healthcheck>| {
            let asked = ContainerConfig { healthcheck: own, ..ContainerConfig::default() };
            merge(asked, &image).unwrap().healthcheck.unwrap()
        };
        assert_eq!(
            (merged(None).test, merged(None).interval),
            (vec!["CMD".to_owned(), "true".to_owned()], 5)
        );
        let own = Healthcheck { interval: 7, retries: 2, ..Healthcheck::default() };
        let got = merged(Some(own));
        assert_eq!((got.test.len(), got.interval, got.retries), (2, 7, 2));
        let none = Healthcheck { test: vec!["NONE".to_owned()], ..Healthcheck::default() };
        assert_eq!(merged(Some(none)).test, ["NONE"]);
    }

    #[test]
    fn a_relative_working_directory_is_refused() {
        let asked = ContainerConfig { working_dir: "srv".to_owned(), ..ContainerConfig::default() };
        assert!(merge(asked, &ImageConfig::default()).is_err());
    }
}
