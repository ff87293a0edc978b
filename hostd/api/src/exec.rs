//! Handlers below `/exec`, and `POST /containers/{id}/exec`.

use crate::connection::{Begun, Hijacker};
use crate::containers::{console_size, stdio_type};
use crate::error::{ApiError, chain};
use crate::fields::Fields;
use crate::params::Params;
use crate::request::JsonBody;
use crate::version::ApiVersion;
use axum::Json;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{Response, StatusCode};
use axum::response::IntoResponse;
use bytes::{BufMut, Bytes, BytesMut};
use futures_util::{StreamExt, stream};
use hostd_engine::{Engine, ExecRequest, ExecStart};
use serde_json::{Map, Value, json};

type Result<T, E = ApiError> = std::result::Result<T, E>;

/// `POST /containers/{id}/exec`.
pub(crate) async fn create(
    State(engine): State<Engine>,
    Path(id): Path<String>,
    version: ApiVersion,
    JsonBody(body): JsonBody,
) -> Result<(StatusCode, Json<Value>)> {
    let id = engine.exec_create(&id, decode(&body, version)?).await?;
    Ok((StatusCode::CREATED, Json(json!({ "Id": id }))))
}

fn decode(body: &Map<String, Value>, version: ApiVersion) -> Result<ExecRequest> {
    let fields = Fields::root(body);
    let cmd = fields.command("Cmd")?.unwrap_or_default();
    if cmd.is_empty() {
        return Err(ApiError::bad_request("No exec command specified"));
    }
    Ok(ExecRequest {
        cmd,
        env: fields.strings("Env")?.unwrap_or_default(),
        working_dir: fields.string("WorkingDir")?,
        user: fields.string("User")?,
        tty: fields.boolean("Tty")?,
        privileged: fields.boolean("Privileged")?,
        attach_stdin: fields.boolean("AttachStdin")?,
        attach_stdout: fields.boolean("AttachStdout")?,
        attach_stderr: fields.boolean("AttachStderr")?,
        detach_keys: fields.opt_string("DetachKeys")?.filter(|keys| !keys.is_empty()),
        console_size: if version.since(42) { console_size(&fields)? } else { None },
    })
}

/// `POST /exec/{id}/start`.
pub(crate) async fn start(
    State(engine): State<Engine>,
    Path(id): Path<String>,
    version: ApiVersion,
    hijacker: Hijacker,
    JsonBody(body): JsonBody,
) -> Result<Response<Body>> {
    let fields = Fields::root(&body);
    let start = ExecStart {
        detach: fields.boolean("Detach")?,
        tty: fields.boolean("Tty")?,
        console_size: if version.since(42) { console_size(&fields)? } else { None },
    };
    if start.detach {
        engine.exec_start(&id, start).await?;
        return Ok(StatusCode::OK.into_response());
    }
    engine.exec_check(&id)?;
    // What the start says goes, as with Docker, whatever the exec was created with.
    let tty = start.tty;
    let kind = stdio_type(tty || !hijacker.upgrade(), version);
    // The head goes out before the program starts, as with Docker: a client that reads the head through a buffer
    // (docker-py) loses output that comes along with it. What fails from here on is told on the stream.
    let begin = async move {
        match engine.exec_start(&id, start).await {
            Ok(attached) => Begun { replay: attached.replay, stream: attached.stream },
            Err(error) => {
                let text =
                    stream::once(async move { Ok(frame(tty, &format!("{}\r\n", chain(&error)))) }).boxed();
                Begun { replay: Some(text), stream: None }
            }
        }
    };
    Err(hijacker.take_over(kind, begin).await)
}

/// Text for a client's stdout: raw on a terminal, else in a frame.
fn frame(tty: bool, text: &str) -> Bytes {
    if tty {
        return Bytes::copy_from_slice(text.as_bytes());
    }
    let mut frame = BytesMut::with_capacity(8 + text.len());
    frame.put_slice(&[1, 0, 0, 0]);
    frame.put_u32(u32::try_from(text.len()).unwrap_or(u32::MAX));
    frame.put_slice(text.as_bytes());
    frame.freeze()
}

/// `POST /exec/{id}/resize`.
pub(crate) async fn resize(
    State(engine): State<Engine>,
    Path(id): Path<String>,
    params: Params,
) -> Result<StatusCode> {
    engine.exec_resize(&id, params.required("h")?, params.required("w")?).await?;
    Ok(StatusCode::OK)
}

/// `GET /exec/{id}/json`.
pub(crate) async fn inspect(State(engine): State<Engine>, Path(id): Path<String>) -> Result<Json<Value>> {
    let exec = engine.exec_inspect(&id).await?;
    let request = &exec.request;
    let (program, arguments) =
        request.cmd.split_first().map_or(("", &[][..]), |(first, rest)| (first.as_str(), rest));
    let mut process = json!({
        "tty": request.tty, "entrypoint": program, "arguments": arguments, "privileged": request.privileged,
    });
    if let Value::Object(map) = &mut process
        && !request.user.is_empty()
    {
        map.insert("user".to_owned(), json!(request.user));
    }
    Ok(Json(json!({
        "ID": exec.id,
        "Running": exec.running,
        "ExitCode": exec.exit_code,
        "ProcessConfig": process,
        "OpenStdin": request.attach_stdin,
        "OpenStderr": request.attach_stderr,
        "OpenStdout": request.attach_stdout,
        "CanRemove": exec.can_remove,
        "ContainerID": exec.container_id,
        "DetachKeys": request.detach_keys.as_deref().unwrap_or(""),
        "Pid": exec.pid,
    })))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exec_without_a_command_is_refused() {
        let body = |value: Value| decode(value.as_object().unwrap(), ApiVersion(50));
        assert_eq!(body(json!({ "Cmd": [] })).unwrap_err().message(), "No exec command specified");
        let request =
            body(json!({ "cmd": "ls", "Tty": true, "ConsoleSize": [24, 80], "Env": null })).unwrap();
        assert_eq!(request.cmd, ["ls"]);
        assert_eq!(request.console_size, Some((24, 80)));
        assert!(body(json!({ "Cmd": ["ls"], "ConsoleSize": [1] })).is_err());
    }

    #[test]
    fn text_is_framed_unless_for_a_terminal() {
        assert_eq!(&frame(false, "abc")[..], b"\x01\0\0\0\0\0\0\x03abc");
        assert_eq!(&frame(true, "abc")[..], b"abc");
    }
}
