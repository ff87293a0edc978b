//! Handlers below `/volumes`.

use crate::error::ApiError;
use crate::fields::Fields;
use crate::params::Params;
use crate::request::JsonBody;
use crate::version::ApiVersion;
use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use hostd_engine::{Engine, Volume, VolumeUsage};
use serde_json::{Value, json};

type Result<T, E = ApiError> = std::result::Result<T, E>;

/// Docker marks volumes that were made without a name by this label.
const ANONYMOUS: &str = "com.docker.volume.anonymous";

/// `GET /volumes`.
pub(crate) async fn list(State(engine): State<Engine>, params: Params) -> Result<Json<Value>> {
    let volumes = engine.volumes(&params.filters()?).await?;
    let volumes: Value = volumes.iter().map(|volume| encode(volume, None)).collect();
    Ok(Json(json!({ "Volumes": volumes, "Warnings": null })))
}

/// `GET /volumes/{name}`.
pub(crate) async fn inspect(State(engine): State<Engine>, Path(name): Path<String>) -> Result<Json<Value>> {
    Ok(Json(encode(&engine.volume(&name)?, None)))
}

/// `POST /volumes/create`: what is there already is answered in the same way.
pub(crate) async fn create(
    State(engine): State<Engine>,
    JsonBody(body): JsonBody,
) -> Result<(StatusCode, Json<Value>)> {
    let fields = Fields::root(&body);
    fields.refuse(&["ClusterVolumeSpec"])?;
    let name = fields.opt_string("Name")?;
    let driver = fields.string("Driver")?;
    let (options, labels) = (fields.string_map("DriverOpts")?, fields.string_map("Labels")?);
    let volume = engine.create_volume(name.as_deref(), &driver, options, labels).await?;
    Ok((StatusCode::CREATED, Json(encode(&volume, None))))
}

/// `DELETE /volumes/{name}`.
pub(crate) async fn remove(
    State(engine): State<Engine>,
    Path(name): Path<String>,
    params: Params,
) -> Result<StatusCode> {
    engine.remove_volume(&name, params.flag("force")).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// `POST /volumes/prune`: from 1.42 on only anonymous volumes, unless `all` is asked for.
pub(crate) async fn prune(
    State(engine): State<Engine>,
    version: ApiVersion,
    params: Params,
) -> Result<Json<Value>> {
    let mut filters = params.filters()?;
    if !version.since(42) {
        filters.insert("all".to_owned(), vec!["true".to_owned()]);
    }
    let pruned = engine.prune_volumes(&filters).await?;
    Ok(Json(json!({ "VolumesDeleted": pruned.removed, "SpaceReclaimed": pruned.reclaimed })))
}

/// A volume as clients see it; `usage` is for `/system/df`.
pub(crate) fn encode(volume: &Volume, usage: Option<VolumeUsage>) -> Value {
    let mut labels = volume.labels.clone();
    if volume.anonymous {
        labels.entry(ANONYMOUS.to_owned()).or_default();
    }
    let or_null = |map: &std::collections::BTreeMap<String, String>| {
        if map.is_empty() { Value::Null } else { json!(map) }
    };
    let mut value = json!({
        "CreatedAt": volume.created_at,
        "Driver": volume.driver,
        "Labels": or_null(&labels),
        "Mountpoint": volume.mountpoint,
        "Name": volume.name,
        "Options": or_null(&volume.options),
        "Scope": "local",
    });
    if let (Some(usage), Value::Object(map)) = (usage, &mut value) {
        map.insert("UsageData".to_owned(), json!({ "RefCount": usage.containers, "Size": usage.size }));
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inspect::tests::{description, fits};

    #[test]
    fn a_volume_reads_as_in_docker() {
        let mut volume = Volume {
            name: "data".to_owned(),
            driver: "local".to_owned(),
            mountpoint: "/v/data/_data".into(),
            created_at: "2024-05-01T10:00:00Z".to_owned(),
            labels: Default::default(),
            options: Default::default(),
            anonymous: false,
        };
        let shown = encode(&volume, None);
        assert_eq!((&shown["Labels"], &shown["Mountpoint"]), (&Value::Null, &json!("/v/data/_data")));
        if let Some(description) = description() {
            fits(&description, "Volume", &shown, &["Status", "ClusterVolume", "UsageData"], &[]);
        }
        volume.anonymous = true;
        let shown = encode(&volume, Some(VolumeUsage { size: 5, containers: 1 }));
        assert_eq!(shown["Labels"], json!({ ANONYMOUS: "" }));
        assert_eq!(shown["UsageData"], json!({ "RefCount": 1, "Size": 5 }));
    }
}
