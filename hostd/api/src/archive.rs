//! Handlers for a container's files: `docker cp`, `export`, `diff`.

use crate::error::ApiError;
use crate::params::Params;
use crate::request;
use crate::timestamps;
use axum::Json;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderName, HeaderValue, Response, StatusCode, header};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hostd_engine::{ChangeKind, Engine, PathStat, PutOptions};
use serde_json::{Value, json};

type Result<T, E = ApiError> = std::result::Result<T, E>;

const PATH_STAT: HeaderName = HeaderName::from_static("x-docker-container-path-stat");

/// The parameter that all of them need. Docker's words, with its missing space.
fn path_of(params: &Params) -> Result<&str> {
    params.get("path").ok_or_else(|| ApiError::bad_request("bad parameter: pathcannot be empty"))
}

/// `HEAD /containers/{id}/archive`.
pub(crate) async fn stat(
    State(engine): State<Engine>,
    Path(id): Path<String>,
    params: Params,
) -> Result<Response<Body>> {
    let stat = engine.stat_path(&id, path_of(&params)?).await?;
    let mut response = Response::new(Body::empty());
    response.headers_mut().insert(PATH_STAT, encode_stat(&stat)?);
    Ok(response)
}

/// `GET /containers/{id}/archive`.
pub(crate) async fn get(
    State(engine): State<Engine>,
    Path(id): Path<String>,
    params: Params,
) -> Result<Response<Body>> {
    let archive = engine.archive(&id, path_of(&params)?).await?;
    let mut response = Response::new(Body::from_stream(archive.content));
    let headers = response.headers_mut();
    headers.insert(PATH_STAT, encode_stat(&archive.stat)?);
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/x-tar"));
    if let Some(length) = archive.length {
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    }
    Ok(response)
}

/// `PUT /containers/{id}/archive`.
pub(crate) async fn put(
    State(engine): State<Engine>,
    Path(id): Path<String>,
    params: Params,
    body: Body,
) -> Result<StatusCode> {
    let options = PutOptions {
        no_overwrite_dir_non_dir: params.flag("noOverwriteDirNonDir"),
        copy_uid_gid: params.flag("copyUIDGID"),
    };
    let mut content = request::stream(body);
    let done = match path_of(&params) {
        Ok(path) => engine.extract(&id, path, options, &mut content).await.map_err(ApiError::from),
        Err(error) => Err(error),
    };
    if done.is_err() {
        request::drain(&mut content).await;
    }
    done.map(|()| StatusCode::OK)
}

/// `GET /containers/{id}/export`.
pub(crate) async fn export(State(engine): State<Engine>, Path(id): Path<String>) -> Result<Response<Body>> {
    let mut response = Response::new(Body::from_stream(engine.export(&id).await?));
    let kind = HeaderValue::from_static("application/octet-stream");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    Ok(response)
}

/// `GET /containers/{id}/changes`: `null` where there are none, as Go writes an empty list.
pub(crate) async fn changes(State(engine): State<Engine>, Path(id): Path<String>) -> Result<Json<Value>> {
    let changes = engine.changes(&id).await?;
    if changes.is_empty() {
        return Ok(Json(Value::Null));
    }
    let kind = |kind| match kind {
        ChangeKind::Modified => 0,
        ChangeKind::Added => 1,
        ChangeKind::Deleted => 2,
    };
    Ok(Json(changes.iter().map(|change| json!({ "Path": change.path, "Kind": kind(change.kind) })).collect()))
}

/// Base64 of JSON, with Go's `os.FileMode`.
fn encode_stat(stat: &PathStat) -> Result<HeaderValue> {
    let (seconds, nanos) = stat.mtime;
    let mtime = time::OffsetDateTime::from_unix_timestamp(seconds)
        .map(|at| timestamps::rfc3339(at + time::Duration::nanoseconds(i64::from(nanos))))
        .unwrap_or_else(|_| timestamps::NEVER.to_owned());
    let json = json!({
        "name": stat.name,
        "size": stat.size,
        "mode": stat.mode,
        "mtime": mtime,
        "linkTarget": stat.link_target,
    });
    HeaderValue::from_str(&STANDARD.encode(json.to_string()))
        .map_err(|error| ApiError::internal(format!("cannot encode what is at the path: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stat_is_as_docker_encodes_it() {
        let stat = PathStat {
            name: "passwd".to_owned(),
            size: 12,
            mode: 0o644,
            mtime: (1_700_000_000, 500_000_000),
            link_target: String::new(),
        };
        let text = STANDARD.decode(encode_stat(&stat).unwrap()).unwrap();
        let value: Value = serde_json::from_slice(&text).unwrap();
        assert_eq!(
            value,
            json!({ "name": "passwd", "size": 12, "mode": 420, "mtime": "2023-11-14T22:13:20.5Z", "linkTarget": "" })
        );
    }

    #[test]
    fn a_path_must_be_given() {
        let error = path_of(&Params::parse("path=")).unwrap_err();
        assert_eq!(error.status(), StatusCode::BAD_REQUEST);
        assert_eq!(path_of(&Params::parse("path=%2Fetc")).unwrap(), "/etc");
    }
}
