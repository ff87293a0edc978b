//! Handlers below `/containers`.

use crate::connection::{Begun, Hijacker};
use crate::error::ApiError;
use crate::hostconfig;
use crate::params::Params;
use crate::request::JsonBody;
use crate::version::ApiVersion;
use crate::{create, inspect as shape, summary, timestamps};
use axum::Json;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use hostd_engine::Platform;
use hostd_engine::{
    AttachOptions, Changed, Engine, ListOptions, LogOptions, RemoveOptions, WaitCondition, WaitResult,
};
use serde_json::{Value, json};
use std::convert::Infallible;

type Result<T, E = ApiError> = std::result::Result<T, E>;

/// 204 where something happened, 304 where there was nothing to do.
fn changed(changed: Changed) -> StatusCode {
    match changed {
        Changed::Now => StatusCode::NO_CONTENT,
        Changed::Before => StatusCode::NOT_MODIFIED,
    }
}

/// `GET /containers/json`.
pub(crate) async fn list(
    State(engine): State<Engine>,
    version: ApiVersion,
    params: Params,
) -> Result<Json<summary::List>> {
    // A limit shows stopped containers too, and one of 0 or less is none; so does Docker.
    let limit = params
        .number::<i64>("limit")?
        .filter(|limit| *limit > 0)
        .and_then(|limit| usize::try_from(limit).ok());
    let options = ListOptions {
        all: params.flag("all") || limit.is_some(),
        limit,
        size: params.flag("size"),
        filters: params.filters()?,
    };
    summary::list(&engine, &options, version).await.map(Json)
}

/// `POST /containers/prune`.
pub(crate) async fn prune(State(engine): State<Engine>, params: Params) -> Result<Json<Value>> {
    let pruned = engine.prune_containers(&params.filters()?).await?;
    Ok(Json(json!({ "ContainersDeleted": pruned.removed, "SpaceReclaimed": pruned.reclaimed })))
}

/// `GET /containers/{id}/top`.
pub(crate) async fn top(
    State(engine): State<Engine>,
    Path(id): Path<String>,
    params: Params,
) -> Result<Json<Value>> {
    let processes = engine.top(&id, params.get("ps_args").unwrap_or("")).await?;
    Ok(Json(json!({ "Titles": processes.titles, "Processes": processes.rows })))
}

/// `POST /containers/create`.
pub(crate) async fn create(
    State(engine): State<Engine>,
    version: ApiVersion,
    params: Params,
    JsonBody(body): JsonBody,
) -> Result<(StatusCode, Json<Value>)> {
    let mut request = create::decode(&body, version)?;
    request.name = params.get("name").map(str::to_owned);
    if version.since(41) {
        request.platform = params.get("platform").map(platform).transpose()?;
    }
    let created = engine.create(request).await?;
    Ok((StatusCode::CREATED, Json(json!({ "Id": created.id, "Warnings": created.warnings }))))
}

/// `linux/arm64/v8`, `linux/amd64`, `linux`.
pub(crate) fn platform(text: &str) -> Result<Platform> {
    let mut parts = text.split('/');
    let (os, architecture, variant) = (parts.next().unwrap_or(""), parts.next(), parts.next());
    let sane = |part: &str| {
        !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
    };
    if parts.next().is_some() || ![Some(os), architecture, variant].into_iter().flatten().all(sane) {
        return Err(ApiError::bad_request(format!("\"{text}\" is an invalid OS/architecture specification")));
    }
    let own = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
    Ok(Platform {
        os: os.to_owned(),
        architecture: architecture.unwrap_or(own).to_owned(),
        variant: variant.map(str::to_owned),
    })
}

/// `GET /containers/{id}/json`.
pub(crate) async fn inspect(
    State(engine): State<Engine>,
    Path(id): Path<String>,
    version: ApiVersion,
    params: Params,
) -> Result<Json<Value>> {
    let record = engine.inspect(&id)?;
    shape::encode(&engine, &record, params.flag("size"), version).await.map(Json)
}

/// `POST /containers/{id}/start`: 204 once started, 304 where it already ran.
pub(crate) async fn start(
    State(engine): State<Engine>,
    Path(id): Path<String>,
    params: Params,
    headers: HeaderMap,
) -> Result<StatusCode> {
    params.refuse_values(&["checkpoint", "checkpoint-dir"])?;
    let length =
        headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    // Docker lets what is too short to say anything (`{}`, `""`, `null`) pass: some clients send that for nothing.
    if length.is_some_and(|length| length > 7) {
        return Err(ApiError::bad_request(
            "starting container with non-empty request body was deprecated since API v1.22 and removed in v1.24",
        ));
    }
    Ok(changed(engine.start(&id).await?))
}

/// `POST /containers/{id}/stop`.
pub(crate) async fn stop(
    State(engine): State<Engine>,
    Path(id): Path<String>,
    version: ApiVersion,
    params: Params,
) -> Result<StatusCode> {
    let signal = params.get("signal").filter(|_| version.since(42));
    Ok(changed(engine.stop(&id, signal, params.number("t")?).await?))
}

/// `POST /containers/{id}/restart`.
pub(crate) async fn restart(
    State(engine): State<Engine>,
    Path(id): Path<String>,
    version: ApiVersion,
    params: Params,
) -> Result<StatusCode> {
    let signal = params.get("signal").filter(|_| version.since(42));
    engine.restart(&id, signal, params.number("t")?).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// `POST /containers/{id}/kill`.
pub(crate) async fn kill(
    State(engine): State<Engine>,
    Path(id): Path<String>,
    params: Params,
) -> Result<StatusCode> {
    engine.kill(&id, params.get("signal")).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// `POST /containers/{id}/pause`.
pub(crate) async fn pause(State(engine): State<Engine>, Path(id): Path<String>) -> Result<StatusCode> {
    engine.pause(&id).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// `POST /containers/{id}/unpause`.
pub(crate) async fn unpause(State(engine): State<Engine>, Path(id): Path<String>) -> Result<StatusCode> {
    engine.unpause(&id).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// `POST /containers/{id}/rename`.
pub(crate) async fn rename(
    State(engine): State<Engine>,
    Path(id): Path<String>,
    params: Params,
) -> Result<StatusCode> {
    let name =
        params.get("name").ok_or_else(|| ApiError::bad_request("Neither old nor new names may be empty"))?;
    engine.rename(&id, name).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// `POST /containers/{id}/resize`.
pub(crate) async fn resize(
    State(engine): State<Engine>,
    Path(id): Path<String>,
    params: Params,
) -> Result<StatusCode> {
    engine.resize(&id, params.required("h")?, params.required("w")?).await?;
    Ok(StatusCode::OK)
}

/// `DELETE /containers/{id}`.
pub(crate) async fn remove(
    State(engine): State<Engine>,
    Path(id): Path<String>,
    params: Params,
) -> Result<StatusCode> {
    if params.flag("link") {
        // The name of a link has two parts, and a route of its own.
        return Err(ApiError::bad_request("Conflict, cannot remove the default link name of the container"));
    }
    engine.remove(&id, RemoveOptions { force: params.flag("force"), volumes: params.flag("v") }).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// `DELETE /containers/{parent}/{alias}`: the link (`link=1`), or the container that it leads to.
pub(crate) async fn remove_linked(
    State(engine): State<Engine>,
    Path((parent, alias)): Path<(String, String)>,
    params: Params,
) -> Result<StatusCode> {
    if params.flag("link") {
        engine.remove_link(&parent, &alias).await?;
    } else {
        let options = RemoveOptions { force: params.flag("force"), volumes: params.flag("v") };
        engine.remove(&engine.linked(&parent, &alias)?, options).await?;
    }
    Ok(StatusCode::NO_CONTENT)
}

/// `GET /containers/{parent}/{alias}/json`: a container by the name of a link to it.
pub(crate) async fn inspect_linked(
    State(engine): State<Engine>,
    Path((parent, alias)): Path<(String, String)>,
    version: ApiVersion,
    params: Params,
) -> Result<Json<Value>> {
    let record = engine.inspect(&engine.linked(&parent, &alias)?)?;
    shape::encode(&engine, &record, params.flag("size"), version).await.map(Json)
}

fn encode_wait(result: &WaitResult) -> Bytes {
    let mut value = json!({ "StatusCode": result.code });
    if let (Some(error), Value::Object(map)) = (&result.error, &mut value) {
        map.insert("Error".to_owned(), json!({ "Message": error }));
    }
    Bytes::from(format!("{value}\n"))
}

/// `POST /containers/{id}/wait`. The head goes out once the wait stands, since the CLI starts the container only then.
pub(crate) async fn wait(
    State(engine): State<Engine>,
    Path(id): Path<String>,
    version: ApiVersion,
    params: Params,
) -> Result<Response<Body>> {
    let condition = match params.get("condition").filter(|_| version.since(30)) {
        None | Some("not-running") => WaitCondition::NotRunning,
        Some("next-exit") => WaitCondition::NextExit,
        Some("removed") => WaitCondition::Removed,
        Some(other) => return Err(ApiError::bad_request(format!("invalid condition: \"{other}\""))),
    };
    let ended = engine.wait(&id, condition).await?;
    let body = if version.since(30) {
        Body::from_stream(stream::once(async move { Ok::<_, Infallible>(encode_wait(&ended.await)) }))
    } else {
        Body::from(encode_wait(&ended.await))
    };
    let mut response = Response::new(body);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(response)
}

/// The content type of stdio: frames from 1.42 on say so.
pub(crate) fn stdio_type(tty: bool, version: ApiVersion) -> &'static str {
    if !tty && version.since(42) {
        "application/vnd.docker.multiplexed-stream"
    } else {
        "application/vnd.docker.raw-stream"
    }
}

/// `POST /containers/{id}/attach`.
pub(crate) async fn attach(
    State(engine): State<Engine>,
    Path(id): Path<String>,
    version: ApiVersion,
    params: Params,
    hijacker: Hijacker,
) -> Result<Response<Body>> {
    let options = AttachOptions {
        stream: params.flag("stream"),
        logs: params.flag("logs"),
        stdin: params.flag("stdin"),
        stdout: params.flag("stdout"),
        stderr: params.flag("stderr"),
        detach_keys: params.get("detachKeys").map(str::to_owned),
    };
    let attached = engine.attach(&id, options).await?;
    let kind = stdio_type(attached.tty || !hijacker.upgrade(), version);
    let begin = async { Begun { replay: attached.replay, stream: attached.stream } };
    Err(hijacker.take_over(kind, begin).await)
}

/// `GET /containers/{id}/attach/ws`.
pub(crate) async fn attach_by_websocket(
    State(engine): State<Engine>,
    Path(id): Path<String>,
    version: ApiVersion,
    params: Params,
    headers: HeaderMap,
    hijacker: Hijacker,
) -> Result<Response<Body>> {
    let header = |name| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or("");
    let key = header(header::SEC_WEBSOCKET_KEY);
    let asked = header(header::UPGRADE).eq_ignore_ascii_case("websocket") && !key.is_empty();
    if !asked || header(header::SEC_WEBSOCKET_VERSION) != "13" {
        return Err(ApiError::bad_request("a WebSocket handshake of version 13 (RFC 6455) is expected"));
    }
    // Before 1.42 all three were attached, whatever was asked for.
    let wants = |name| !version.since(42) || params.flag(name);
    let options = AttachOptions {
        stream: params.flag("stream"),
        logs: params.flag("logs"),
        stdin: wants("stdin"),
        stdout: wants("stdout"),
        stderr: wants("stderr"),
        detach_keys: params.get("detachKeys").map(str::to_owned),
    };
    let attached = engine.attach(&id, options).await?;
    let tty = attached.tty;
    let begin = async { Begun { replay: attached.replay, stream: attached.stream } };
    Err(hijacker.take_over_by_websocket(key, tty, begin).await)
}

/// `GET /containers/{id}/logs`.
pub(crate) async fn logs(
    State(engine): State<Engine>,
    Path(id): Path<String>,
    version: ApiVersion,
    params: Params,
) -> Result<Response<Body>> {
    let options = LogOptions {
        follow: params.flag("follow"),
        stdout: params.flag("stdout"),
        stderr: params.flag("stderr"),
        since: timestamps::parse("since", params.get("since"))?,
        until: timestamps::parse("until", params.get("until"))?,
        timestamps: params.flag("timestamps"),
        details: params.flag("details"),
        // Docker reads everything that is no number as `all`.
        tail: params.get("tail").and_then(|tail| tail.parse().ok()),
    };
    if !options.stdout && !options.stderr {
        return Err(ApiError::bad_request("Bad parameters: you must choose at least one stream"));
    }
    let (tty, lines) = engine.logs(&id, options).await?;
    let mut response = Response::new(Body::from_stream(lines.map(|line| {
        line.inspect_err(|error| tracing::warn!("logs broke off: {}", crate::error::chain(error)))
    })));
    let kind = HeaderValue::from_static(stdio_type(tty, version));
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    Ok(response)
}

/// `ConsoleSize` of exec, which stands beside the container's.
pub(crate) use hostconfig::console_size;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn platforms_are_read_as_clients_write_them() {
        let read =
            |text| platform(text).map(|platform| (platform.os, platform.architecture, platform.variant));
        assert_eq!(
            read("linux/arm64/v8").unwrap(),
            ("linux".to_owned(), "arm64".to_owned(), Some("v8".to_owned()))
        );
        assert_eq!(read("linux/amd64").unwrap().2, None);
        for bad in ["a/b/c/d", "linux/", "lin ux", "{}"] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn frames_are_announced_from_1_42_on() {
        assert_eq!(stdio_type(false, ApiVersion(42)), "application/vnd.docker.multiplexed-stream");
        assert_eq!(stdio_type(false, ApiVersion(41)), "application/vnd.docker.raw-stream");
        assert_eq!(stdio_type(true, ApiVersion(50)), "application/vnd.docker.raw-stream");
    }
}
