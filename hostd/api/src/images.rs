//! Handlers below `/images`. Names may hold slashes, so that the last word of a path is split off here.

use crate::containers::platform;
use crate::error::ApiError;
use crate::params::Params;
use crate::version::ApiVersion;
use crate::{progress, request, routes, timestamps};
use axum::Json;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, Method, Response, StatusCode, Uri};
use axum::response::IntoResponse;
use base64::Engine as _;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};
use base64::engine::{DecodePaddingMode, general_purpose};
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use hostd_engine::{Auth, Filters, Image, Progress, Removed};
use hostd_engine::{Engine, LoadEvent};
use serde_json::{Map, Value, json};
use std::convert::Infallible;

type Result<T, E = ApiError> = std::result::Result<T, E>;

/// `GET /images/json`.
pub(crate) async fn list(
    State(engine): State<Engine>,
    version: ApiVersion,
    params: Params,
) -> Result<Json<Value>> {
    params.refuse(&["manifests"])?;
    let mut filters = params.filters()?;
    if let Some(reference) = params.get("filter").filter(|_| !version.since(41)) {
        filters.entry("reference".to_owned()).or_default().push(reference.to_owned());
    }
    summaries(&engine, &filters, params.flag("shared-size"), version).map(Json)
}

/// The images that match; with `usage` what they share and how many containers have them.
pub(crate) fn summaries(
    engine: &Engine,
    filters: &Filters,
    usage: bool,
    version: ApiVersion,
) -> Result<Value> {
    let images = engine.images(filters)?;
    let usage = usage.then(|| engine.image_usage());
    let shown = images.iter().map(|image| {
        let mut shown = encode_summary(image, version);
        if let Some(usage) = &usage {
            shown["SharedSize"] = json!(usage.shared.get(&image.id).copied().unwrap_or(0));
            shown["Containers"] = json!(usage.containers.get(&image.id).copied().unwrap_or(0));
        }
        shown
    });
    Ok(shown.collect())
}

/// `POST /images/prune`.
pub(crate) async fn prune(State(engine): State<Engine>, params: Params) -> Result<Json<Value>> {
    let pruned = engine.prune_images(&params.filters()?).await?;
    Ok(Json(json!({ "ImagesDeleted": encode_removed(&pruned.removed), "SpaceReclaimed": pruned.reclaimed })))
}

fn encode_summary(image: &Image, version: ApiVersion) -> Value {
    // Before 1.43 an image without any name had both made up.
    let nameless = image.repo_tags.is_empty() && image.repo_digests.is_empty() && !version.since(43);
    let names = |names: &[String], made_up: &str| if nameless { json!([made_up]) } else { json!(names) };
    let mut value = json!({
        "Id": image.id,
        "ParentId": image.parent.as_deref().unwrap_or(""),
        "RepoTags": names(&image.repo_tags, "<none>:<none>"),
        "RepoDigests": names(&image.repo_digests, "<none>@<none>"),
        "Created": timestamps::unix(image.created.as_deref()),
        "Size": image.size,
        "SharedSize": -1,
        "Labels": image.config.labels,
        "Containers": -1,
    });
    if let Value::Object(map) = &mut value
        && !version.since(44)
    {
        map.insert("VirtualSize".to_owned(), json!(image.size));
    }
    value
}

/// `GET /images/{name}/json` and `GET /images/{name}/history`.
pub(crate) async fn get(
    State(engine): State<Engine>,
    Path(path): Path<String>,
    version: ApiVersion,
    params: Params,
    method: Method,
    uri: Uri,
) -> Result<Json<Value>> {
    params.refuse(&["manifests"])?;
    params.refuse_values(&["platform"])?;
    match path.rsplit_once('/') {
        Some((name, "json")) => Ok(Json(encode_image(&engine.image(name)?, version))),
        Some((name, "history")) => Ok(Json(encode_history(&engine.image(name)?))),
        _ => Err(routes::missing(method, uri).await),
    }
}

/// `POST /images/{name}/tag`.
pub(crate) async fn post(
    State(engine): State<Engine>,
    Path(path): Path<String>,
    params: Params,
    method: Method,
    uri: Uri,
) -> Result<StatusCode> {
    let Some((name, "tag")) = path.rsplit_once('/') else { return Err(routes::missing(method, uri).await) };
    let repository = params.get("repo").ok_or_else(|| ApiError::bad_request("invalid reference format"))?;
    engine.tag(name, &with_tag(repository, params.get("tag"))).await?;
    Ok(StatusCode::CREATED)
}

/// `repository:tag`, or `repository@sha256:…` where the tag is a digest.
pub(crate) fn with_tag(repository: &str, tag: Option<&str>) -> String {
    match tag {
        None => repository.to_owned(),
        Some(digest) if digest.contains(':') => format!("{repository}@{digest}"),
        Some(tag) => format!("{repository}:{tag}"),
    }
}

/// `DELETE /images/{name}`.
pub(crate) async fn remove(
    State(engine): State<Engine>,
    Path(name): Path<String>,
    params: Params,
) -> Result<Json<Value>> {
    params.refuse_values(&["platforms"])?;
    let removed = engine.remove_image(&name, params.flag("force"), params.flag("noprune")).await?;
    Ok(Json(encode_removed(&removed)))
}

fn encode_removed(removed: &[Removed]) -> Value {
    let items = removed.iter().map(|item| match item {
        Removed::Untagged(name) => json!({ "Untagged": name }),
        Removed::Deleted(id) => json!({ "Deleted": id }),
    });
    items.collect()
}

/// `POST /images/create`: a pull with `fromImage`, an import with `fromSrc`.
pub(crate) async fn create(
    State(engine): State<Engine>,
    params: Params,
    headers: HeaderMap,
    body: Body,
) -> Result<Response<Body>> {
    match (params.get("fromImage"), params.get("fromSrc")) {
        (Some(image), _) => pull(&engine, image, &params, &headers).await,
        (None, Some("-")) => import(&engine, &params, body).await,
        (None, Some(_)) => Err(ApiError::not_implemented("fromSrc with a URL")),
        (None, None) => Err(ApiError::bad_request("one of fromImage and fromSrc is required")),
    }
}

async fn pull(engine: &Engine, image: &str, params: &Params, headers: &HeaderMap) -> Result<Response<Body>> {
    let reference = with_tag(image, params.get("tag"));
    let last = reference.rsplit('/').next().unwrap_or("");
    if !last.contains([':', '@']) {
        return Err(ApiError::not_implemented(format_args!(
            "pulling all tags of {image}: name one with tag="
        )));
    }
    let platform = params.get("platform").map(platform).transpose()?;
    let mut progress = engine.pull(&reference, platform, registry_auth(headers))?;
    // What fails before anything was done (no such image, wrong password) is told by the status.
    let first = progress::first(&mut progress).await?;
    let lines = stream::iter(first.map(Ok)).chain(progress).map(|item| {
        Ok::<_, Infallible>(match item {
            Ok(progress) => progress::line(&progress),
            Err(error) => progress::error_line(&error),
        })
    });
    Ok(progress::json_stream(Body::from_stream(lines)))
}

/// Clients write base64 with the URL alphabet, with padding or without, and some with the plain one.
fn decode_base64(text: &str) -> Option<Vec<u8>> {
    let config = GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    let url = GeneralPurpose::new(&base64::alphabet::URL_SAFE, config);
    url.decode(text).or_else(|_| general_purpose::STANDARD.decode(text)).ok()
}

/// `X-Registry-Auth`. What cannot be read counts as none, as in Docker: the registry will say whether it wants one.
fn registry_auth(headers: &HeaderMap) -> Option<Auth> {
    let text = headers.get("x-registry-auth")?.to_str().ok()?;
    let auth: Auth = serde_json::from_slice(&decode_base64(text)?).ok()?;
    let empty = auth.username.is_empty() && auth.identitytoken.is_empty() && auth.registrytoken.is_empty();
    (!empty).then_some(auth)
}

async fn import(engine: &Engine, params: &Params, body: Body) -> Result<Response<Body>> {
    params.refuse_values(&["changes", "platform"])?;
    let reference = params.get("repo").map(|repository| with_tag(repository, params.get("tag")));
    let message = params.get("message").unwrap_or("");
    let image = engine.import(request::stream(body), reference.as_deref(), message).await?;
    let line = progress::line(&Progress { id: None, status: image.id, current: None, total: None });
    Ok(progress::json_stream(Body::from(line)))
}

/// `POST /images/load`.
pub(crate) async fn load(State(engine): State<Engine>, params: Params, body: Body) -> Result<Response<Body>> {
    params.refuse_values(&["platform"])?;
    let quiet = params.flag_or("quiet", false);
    let mut events = engine.load(request::stream(body));
    let first = progress::first(&mut events).await?;
    let lines = stream::iter(first.map(Ok)).chain(events).filter_map(move |event| {
        let line = match event {
            Ok(LoadEvent::Progress(_)) if quiet => None,
            Ok(LoadEvent::Progress(progress)) => Some(progress::line(&progress)),
            Ok(LoadEvent::Loaded(name)) => Some(progress::output_line(&loaded(&name))),
            Err(error) => Some(progress::error_line(&error)),
        };
        std::future::ready(line.map(Ok::<Bytes, Infallible>))
    });
    Ok(progress::json_stream(Body::from_stream(lines)).into_response())
}

fn loaded(name: &str) -> String {
    if name.starts_with("sha256:") {
        format!("Loaded image ID: {name}")
    } else {
        format!("Loaded image: {name}")
    }
}

fn encode_image(image: &Image, version: ApiVersion) -> Value {
    let mut value = json!({
        "Id": image.id,
        "RepoTags": image.repo_tags,
        "RepoDigests": image.repo_digests,
        "Parent": image.parent.as_deref().unwrap_or(""),
        "Comment": image.comment,
        "DockerVersion": "",
        "Author": image.author,
        "Config": encode_config(image, version),
        "Architecture": image.architecture,
        "Os": image.os,
        "Size": image.size,
        "GraphDriver": encode_layers(image),
        "RootFS": { "Type": "layers", "Layers": image.diff_ids },
        "Metadata": { "LastTagTime": timestamps::NEVER },
    });
    let Value::Object(map) = &mut value else { return value };
    if let Some(variant) = &image.variant {
        map.insert("Variant".to_owned(), json!(variant));
    }
    match &image.created {
        Some(created) => drop(map.insert("Created".to_owned(), json!(created))),
        None if !version.since(44) => drop(map.insert("Created".to_owned(), json!(timestamps::NEVER))),
        None => {}
    }
    if !version.since(44) {
        map.insert("VirtualSize".to_owned(), json!(image.size));
    }
    if !version.since(45) {
        map.insert("Container".to_owned(), json!(image.container));
        let config = image.container_config.clone().unwrap_or_else(|| json!({}));
        map.insert("ContainerConfig".to_owned(), config);
    }
    value
}

/// Where the layers lie. An image has no writable directories, so there are none of them.
fn encode_layers(image: &Image) -> Value {
    let mut data = Map::new();
    let mut layers = image.layers.iter().map(|layer| layer.to_string_lossy());
    if let Some(top) = layers.next() {
        data.insert("UpperDir".to_owned(), json!(top));
    }
    let lower: Vec<_> = layers.collect();
    if !lower.is_empty() {
        data.insert("LowerDir".to_owned(), json!(lower.join(":")));
    }
    json!({ "Name": "overlay2", "Data": data })
}

fn encode_config(image: &Image, version: ApiVersion) -> Value {
    let config = &image.config;
    let set = |map: &std::collections::BTreeMap<String, Value>| {
        if map.is_empty() { Value::Null } else { json!(map) }
    };
    let mut value = json!({
        "User": config.user,
        "Env": config.env,
        "Cmd": config.cmd,
        "Volumes": set(&config.volumes),
        "WorkingDir": config.working_dir,
        "Entrypoint": config.entrypoint,
        "OnBuild": config.on_build,
        "Labels": config.labels,
    });
    let Value::Object(map) = &mut value else { return value };
    for (name, value, present) in [
        ("ExposedPorts", json!(config.exposed_ports), !config.exposed_ports.is_empty()),
        ("StopSignal", json!(config.stop_signal), config.stop_signal.is_some()),
        ("Shell", json!(config.shell), config.shell.is_some()),
        ("Healthcheck", json!(config.healthcheck), config.healthcheck.is_some()),
    ] {
        if present {
            map.insert(name.to_owned(), value);
        }
    }
    // A container's fields stood here, always empty.
    if !version.since(50) {
        for name in ["Hostname", "Domainname", "Image"] {
            map.insert(name.to_owned(), json!(""));
        }
        for name in ["AttachStdin", "AttachStdout", "AttachStderr", "Tty", "OpenStdin", "StdinOnce"] {
            map.insert(name.to_owned(), json!(false));
        }
    }
    value
}

/// Newest first; only the newest has the image's id, since older ones are no images of their own.
fn encode_history(image: &Image) -> Value {
    let entries = image.history.iter().rev().enumerate().map(|(age, entry)| {
        json!({
            "Id": if age == 0 { &image.id } else { "<missing>" },
            "Created": timestamps::unix(entry.created.as_deref()),
            "CreatedBy": entry.created_by,
            "Tags": if age == 0 && !image.repo_tags.is_empty() { json!(image.repo_tags) } else { Value::Null },
            "Size": entry.size,
            "Comment": entry.comment,
        })
    });
    entries.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inspect::tests::{description, fits};
    use hostd_engine::HistoryEntry;

    fn image() -> Image {
        let entry = |created_by: &str| HistoryEntry {
            created: Some("2024-05-01T10:00:00Z".to_owned()),
            created_by: created_by.to_owned(),
            comment: String::new(),
            author: String::new(),
            empty_layer: false,
            size: 5,
        };
        Image {
            id: format!("sha256:{}", "a".repeat(64)),
            parent: None,
            repo_tags: vec!["busybox:latest".to_owned()],
            repo_digests: Vec::new(),
            config: Default::default(),
            container: String::new(),
            container_config: None,
            architecture: "amd64".to_owned(),
            variant: None,
            os: "linux".to_owned(),
            author: String::new(),
            comment: String::new(),
            created: Some("2024-05-01T10:00:00Z".to_owned()),
            size: 10,
            diff_ids: vec!["sha256:1".to_owned()],
            layers: vec!["/top".into(), "/middle".into(), "/base".into()],
            history: vec![entry("first"), entry("second")],
        }
    }

    #[test]
    fn shapes_hold_every_field_of_the_description() {
        let Some(description) = description() else { return };
        let rare = ["Descriptor", "Manifests", "Variant", "OsVersion"];
        fits(&description, "ImageInspect", &encode_image(&image(), ApiVersion(50)), &rare, &[]);
        fits(
            &description,
            "ImageSummary",
            &encode_summary(&image(), ApiVersion(50)),
            &["Descriptor", "Manifests"],
            &[],
        );
    }

    #[test]
    fn old_clients_get_the_fields_of_their_time() {
        let mut image = image();
        image.repo_tags.clear();
        assert_eq!(encode_summary(&image, ApiVersion(42))["RepoTags"], json!(["<none>:<none>"]));
        assert_eq!(encode_summary(&image, ApiVersion(43))["RepoTags"], json!([]));
        let tagged = Image { repo_tags: vec!["a:1".to_owned()], ..image.clone() };
        assert_eq!(encode_summary(&tagged, ApiVersion(42))["RepoDigests"], json!([]));
        assert_eq!(encode_summary(&image, ApiVersion(43))["VirtualSize"], 10);
        assert_eq!(encode_summary(&image, ApiVersion(44)).get("VirtualSize"), None);
        assert_eq!(encode_image(&image, ApiVersion(49))["Config"]["Hostname"], "");
        assert_eq!(encode_image(&image, ApiVersion(50))["Config"].get("Hostname"), None);
    }

    #[test]
    fn history_is_newest_first_and_only_the_newest_has_an_id() {
        let history = encode_history(&image());
        assert_eq!((&history[0]["CreatedBy"], &history[1]["CreatedBy"]), (&json!("second"), &json!("first")));
        assert_eq!(history[0]["Tags"], json!(["busybox:latest"]));
        assert_eq!((&history[1]["Id"], &history[1]["Tags"]), (&json!("<missing>"), &Value::Null));
    }

    #[test]
    fn credentials_are_read_in_every_base64_that_clients_write() {
        for text in
            ["eyJ1c2VybmFtZSI6ImEiLCJwYXNzd29yZCI6Ij8_PyJ9", "eyJ1c2VybmFtZSI6ImEiLCJwYXNzd29yZCI6Ij8/PyJ9"]
        {
            let mut headers = HeaderMap::new();
            headers.insert("X-Registry-Auth", text.parse().unwrap());
            let auth = registry_auth(&headers).unwrap();
            assert_eq!((auth.username.as_str(), auth.password.as_str()), ("a", "???"));
        }
        for text in ["e30=", "e30", "!!", ""] {
            let mut headers = HeaderMap::new();
            headers.insert("X-Registry-Auth", text.parse().unwrap());
            assert!(registry_auth(&headers).is_none(), "{text}");
        }
    }

    #[test]
    fn tags_and_digests_join_their_repository() {
        assert_eq!(with_tag("a/b", Some("1")), "a/b:1");
        assert_eq!(with_tag("a/b", Some("sha256:1")), "a/b@sha256:1");
        assert_eq!(with_tag("a/b:2", None), "a/b:2");
    }
}
