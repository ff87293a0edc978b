//! `POST /commit`.

use crate::create;
use crate::error::ApiError;
use crate::fields::Fields;
use crate::images::with_tag;
use crate::params::Params;
use crate::request::JsonBody;
use crate::version::ApiVersion;
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use hostd_engine::{CommitRequest, Engine};
use serde_json::{Value, json};

/// The body is the configuration of the image's containers; without one it is the container's.
pub(crate) async fn commit(
    State(engine): State<Engine>,
    version: ApiVersion,
    params: Params,
    JsonBody(body): JsonBody,
) -> Result<(StatusCode, Json<Value>), ApiError> {
    let text = |name: &str| params.get(name).unwrap_or("").to_owned();
    let config =
        (!body.is_empty()).then(|| create::container_config(&Fields::root(&body), version)).transpose()?;
    let request = CommitRequest {
        reference: params.get("repo").map(|repository| with_tag(repository, params.get("tag"))),
        comment: text("comment"),
        author: text("author"),
        pause: params.flag_or("pause", true),
        config,
        changes: params.all("changes").into_iter().map(str::to_owned).collect(),
    };
    let container = params.get("container").unwrap_or("");
    let image = engine.commit(container, request).await?;
    Ok((StatusCode::CREATED, Json(json!({ "Id": image.id }))))
}
