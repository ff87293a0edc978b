//! `GET /system/df`: what images, containers and volumes take.

use crate::error::ApiError;
use crate::params::Params;
use crate::version::ApiVersion;
use crate::{images, summary, volumes};
use axum::Json;
use axum::extract::State;
use hostd_engine::{Engine, Filters, ListOptions};
use serde_json::{Value, json};

/// `type` limits the answer to some kinds of objects, from 1.42 on.
pub(crate) async fn df(
    State(engine): State<Engine>,
    version: ApiVersion,
    params: Params,
) -> Result<Json<Value>, ApiError> {
    let kinds = if version.since(42) { params.all("type") } else { Vec::new() };
    if let Some(other) =
        kinds.iter().find(|kind| !["container", "image", "volume", "build-cache"].contains(kind))
    {
        return Err(ApiError::bad_request(format!("unknown object type: {other}")));
    }
    let wanted = |kind| kinds.is_empty() || kinds.contains(&kind);
    let mut usage = json!({
        "LayersSize": 0, "Images": null, "Containers": null, "Volumes": null,
        // There is no builder yet, and so no cache.
        "BuildCache": if wanted("build-cache") { json!([]) } else { Value::Null },
    });
    if wanted("image") {
        usage["LayersSize"] = json!(engine.image_usage().layers);
        usage["Images"] = images::summaries(&engine, &Filters::new(), true, version)?;
    }
    if wanted("container") {
        let options = ListOptions { all: true, size: true, ..ListOptions::default() };
        usage["Containers"] = json!(summary::list(&engine, &options, version).await?);
    }
    if wanted("volume") {
        let mut items = Vec::new();
        for volume in engine.volumes(&Filters::new()).await? {
            items.push(volumes::encode(&volume, Some(engine.volume_usage(&volume).await?)));
        }
        usage["Volumes"] = Value::Array(items);
    }
    if !version.since(42) {
        usage["BuilderSize"] = json!(0);
    }
    Ok(Json(usage))
}
