//! Registries that lie, break off, ask for tokens, or have too much to do.

mod common;
#[path = "common/registry.rs"]
mod registry;

use common::*;
use hostd_image::{Auth, ErrorKind, Image, ImageError, Reference};
use registry::{Answer, Asked, Server};
use std::sync::Arc;

/// One image, as a registry would serve it.
struct Served {
    layer: Vec<u8>,
    config: Vec<u8>,
    manifest: Vec<u8>,
}

impl Served {
    fn new() -> Arc<Self> {
        let mut noise = Vec::new();
        let mut state = 1u32;
        for _ in 0..300_000 {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            noise.push((state >> 24) as u8);
        }
        let tar = Tar::new().file("noise", noise).done();
        let (layer, config) = (gzip(&tar), config(&[&tar], "amd64"));
        let manifest = serde_json::json!({
            "schemaVersion": 2, "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
            "config": {"mediaType": "application/vnd.docker.container.image.v1+json", "digest": sha256(&config),
                       "size": config.len()},
            "layers": [{"mediaType": "application/vnd.docker.image.rootfs.diff.tar.gzip", "digest": sha256(&layer),
                        "size": layer.len()}],
        });
        Arc::new(Self { layer, config, manifest: manifest.to_string().into_bytes() })
    }

    fn is_layer(&self, asked: &Asked) -> bool {
        asked.path.ends_with(&sha256(&self.layer))
    }

    fn is_config(&self, asked: &Asked) -> bool {
        asked.path.ends_with(&sha256(&self.config))
    }

    /// The honest answer.
    fn answer(&self, asked: &Asked) -> Answer {
        if asked.path == "/v2/" {
            Answer::ok("{}")
        } else if asked.path == "/v2/app/manifests/latest" {
            Answer::ok(&self.manifest)
                .with("Content-Type", "application/vnd.docker.distribution.manifest.v2+json")
        } else if self.is_config(asked) {
            Answer::ok(&self.config)
        } else if self.is_layer(asked) {
            match asked
                .header("range")
                .and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok())
            {
                Some(from) => Answer::status(206, &self.layer[from..]),
                None => Answer::ok(&self.layer),
            }
        } else {
            Answer::status(404, "{}")
        }
    }
}

async fn pull(test: &TestStore, server: &Server, auth: Option<&Auth>) -> Result<Image, ImageError> {
    let reference: Reference = format!("{}/app", server.address).parse()?;
    test.store.pull(&reference, None, auth, progress().0).await
}

fn layer_requests(server: &Server, served: &Served) -> Vec<Asked> {
    server.asked().into_iter().filter(|asked| served.is_layer(asked)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn content_with_another_digest_is_refused_and_leaves_nothing() {
    if !is_root() {
        return;
    }
    type Lie = fn(&Served, &Asked) -> Option<Answer>;
    let lies: [(&str, Lie); 4] = [
        ("layer sha256:", |served, asked| {
            let mut other = served.layer.clone();
            *other.last_mut().unwrap() ^= 1;
            served.is_layer(asked).then(|| Answer::ok(&other))
        }),
        ("layer sha256:", |served, asked| {
            served.is_layer(asked).then(|| Answer::ok(vec![b'x'; served.layer.len()]))
        }),
        ("configuration of", |served, asked| {
            served.is_config(asked).then(|| Answer::ok(r#"{"os":"linux"}"#))
        }),
        ("manifest of", |served, asked| {
            let lie = || Answer::ok(&served.manifest).with("Docker-Content-Digest", sha256(b"another"));
            asked.path.contains("manifests").then(lie)
        }),
    ];
    for (what, lie) in lies {
        let served = Served::new();
        let truth = served.clone();
        let server =
            Server::start(move |asked, _| lie(&truth, asked).unwrap_or_else(|| truth.answer(asked))).await;
        let test = TestStore::new().await;
        let error = pull(&test, &server, None).await.unwrap_err();
        let ImageError::WrongDigest { what: named, expected, got } = &error else {
            panic!("{}", chain(&error))
        };
        assert!(named.contains(what), "{error}");
        assert_ne!(expected, got);
        assert!(error.to_string().contains(expected) && error.to_string().contains(got), "{error}");
        test.assert_empty();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_layer_that_does_not_hold_what_the_configuration_says_is_refused() {
    if !is_root() {
        return;
    }
    let served = Served::new();
    let other = config(&[b"another layer"], "amd64");
    let text = String::from_utf8(served.manifest.clone()).unwrap();
    let manifest = text
        .replace(&sha256(&served.config), &sha256(&other))
        .replace(&format!("\"size\":{}", served.config.len()), &format!("\"size\":{}", other.len()));
    let served =
        Arc::new(Served { layer: served.layer.clone(), config: other, manifest: manifest.into_bytes() });
    let truth = served.clone();
    let server = Server::start(move |asked, _| truth.answer(asked)).await;
    let test = TestStore::new().await;
    let error = pull(&test, &server, None).await.unwrap_err();
    assert!(error.to_string().starts_with("uncompressed layer sha256:"), "{error}");
    test.assert_empty();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_layer_that_breaks_off_goes_on_where_it_was() {
    if !is_root() {
        return;
    }
    for ranges in [true, false] {
        let served = Served::new();
        let truth = served.clone();
        let server = Server::start(move |asked, before| {
            if !truth.is_layer(asked) {
                return truth.answer(asked);
            }
            match before {
                0 => Answer::ok(&truth.layer).cut(100_000),
                _ if ranges => truth.answer(asked),
                _ => Answer::ok(&truth.layer),
            }
        })
        .await;
        let test = TestStore::new().await;
        let image = pull(&test, &server, None).await.unwrap();
        assert_eq!(std::fs::read(image.layers[0].join("noise")).unwrap().len(), 300_000);
        let requests = layer_requests(&server, &served);
        assert_eq!(requests.len(), 2);
        assert!(requests[1].header("range").is_some_and(|range| range.starts_with("bytes=")));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_layer_that_always_breaks_off_or_never_ends_fails() {
    if !is_root() {
        return;
    }
    let served = Served::new();
    let truth = served.clone();
    let server = Server::start(move |asked, _| match truth.is_layer(asked) {
        true => Answer::ok(&truth.layer[..1000]).with("X", "short"),
        false => truth.answer(asked),
    })
    .await;
    let test = TestStore::new().await;
    let error = pull(&test, &server, None).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{}", chain(&error));
    test.assert_empty();

    let truth = served.clone();
    let server = Server::start(move |asked, _| match truth.is_layer(asked) {
        true => Answer::ok([&truth.layer[..], &[0; 100_000]].concat()),
        false => truth.answer(asked),
    })
    .await;
    let error = pull(&test, &server, None).await.unwrap_err();
    assert!(error.to_string().contains("more than the"), "{}", chain(&error));
    test.assert_empty();
}

#[tokio::test(flavor = "multi_thread")]
async fn too_many_requests_and_server_errors_are_tried_again() {
    if !is_root() {
        return;
    }
    let served = Served::new();
    let truth = served.clone();
    let server = Server::start(move |asked, before| match (asked.path.as_str(), before) {
        ("/v2/app/manifests/latest", 0) => Answer::status(429, "").with("Retry-After", "0"),
        ("/v2/app/manifests/latest", 1) => Answer::status(503, ""),
        _ => truth.answer(asked),
    })
    .await;
    let test = TestStore::new().await;
    pull(&test, &server, None).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_stays_overloaded_is_told_so() {
    let served = Served::new();
    let server = Server::start(move |asked, _| match asked.path.contains("manifests") {
        true => Answer::status(429, r#"{"errors":[{"code":"TOOMANYREQUESTS","message":"slow down"}]}"#)
            .with("Retry-After", "0"),
        false => served.answer(asked),
    })
    .await;
    let test = TestStore::new().await;
    let error = pull(&test, &server, None).await.unwrap_err();
    assert_eq!(error.to_string(), "toomanyrequests: toomanyrequests: slow down");
    assert_eq!(server.asked().iter().filter(|asked| asked.path.contains("manifests")).count(), 5);
}

/// A registry that wants a bearer token, from a token server that takes `user`:`secret` or the refresh token `refresh`.
async fn guarded(served: Arc<Served>) -> (Server, Server) {
    let tokens = Server::start(|asked, _| {
        let basic = asked.header("authorization") == Some("Basic dXNlcjpzZWNyZXQ=");
        match (basic, asked.body.contains("refresh_token=refresh")) {
            (true, _) => Answer::ok(r#"{"token":"t0k"}"#),
            (_, true) => Answer::ok(r#"{"access_token":"t0k"}"#),
            _ if asked.header("authorization").is_some() => Answer::status(401, "{}"),
            _ => Answer::ok(r#"{"token":"anonymous"}"#),
        }
    })
    .await;
    let realm = format!(r#"Bearer realm="http://{}/token",service="the registry""#, tokens.address);
    let registry = Server::start(move |asked, _| match asked.header("authorization") {
        Some("Bearer t0k") => served.answer(asked),
        _ => Answer::status(
            401,
            r#"{"errors":[{"code":"DENIED","message":"requested access to the resource is denied"}]}"#,
        )
        .with("WWW-Authenticate", realm.clone()),
    })
    .await;
    (registry, tokens)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bearer_token_is_fetched_by_password_or_by_identity_token() {
    if !is_root() {
        return;
    }
    let password = Auth { username: "user".into(), password: "secret".into(), ..Auth::default() };
    let identity = Auth { identitytoken: "refresh".into(), ..Auth::default() };
    for auth in [&password, &identity] {
        let (registry, tokens) = guarded(Served::new()).await;
        let test = TestStore::new().await;
        pull(&test, &registry, Some(auth)).await.unwrap();
        let asked = &tokens.asked()[0];
        let said = format!("{}{}", asked.path, asked.body);
        assert!(
            said.contains("scope=repository%3Aapp%3Apull") && said.contains("service=the+registry"),
            "{said}"
        );
        assert!(!asked.path.contains("secret") && !asked.path.contains("refresh"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_credentials_and_with_wrong_ones_the_pull_is_denied_in_dockers_words() {
    let (registry, _tokens) = guarded(Served::new()).await;
    let test = TestStore::new().await;
    let error = pull(&test, &registry, None).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "pull access denied for {}/app, repository does not exist or may require 'docker login': denied: requested \
             access to the resource is denied",
            registry.address
        )
    );
    let wrong = Auth { username: "user".into(), password: "wrong".into(), ..Auth::default() };
    let error = pull(&test, &registry, Some(&wrong)).await.unwrap_err();
    assert_eq!(error.to_string(), "unauthorized: incorrect username or password");
    assert!(!format!("{wrong:?}").contains("wrong"));
    test.assert_empty();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_succeeds_with_the_right_password_alone() {
    let (bearer, _tokens) = guarded(Served::new()).await;
    let basic = Server::start(|asked, _| match asked.header("authorization") {
        Some("Basic dXNlcjpzZWNyZXQ=") => Answer::ok("{}"),
        _ => Answer::status(401, "").with("WWW-Authenticate", r#"Basic realm="x""#),
    })
    .await;
    let test = TestStore::new().await;
    for registry in [&bearer, &basic] {
        let mut auth = Auth { username: "user".into(), password: "secret".into(), ..Auth::default() };
        for server in [registry.address.clone(), format!("http://{}/v1/", registry.address)] {
            test.store.login(&server, &auth).await.unwrap();
        }
        auth.password = "wrong".to_owned();
        let error = test.store.login(&registry.address, &auth).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unauthorized, "{error}");
        assert!(!error.to_string().contains("wrong"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redirect_to_another_host_does_not_carry_the_credentials() {
    if !is_root() {
        return;
    }
    let served = Served::new();
    let truth = served.clone();
    let storage = Server::start(move |asked, _| truth.answer(asked)).await;
    let (truth, target) = (served.clone(), storage.address.clone());
    let registry = Server::start(move |asked, _| match asked.header("authorization") {
        None => Answer::status(401, "").with("WWW-Authenticate", r#"Basic realm="x""#),
        Some(_) if truth.is_layer(asked) => {
            Answer::status(307, "").with("Location", format!("http://{target}{}", asked.path))
        }
        Some(_) => truth.answer(asked),
    })
    .await;
    let test = TestStore::new().await;
    let auth = Auth { username: "user".into(), password: "secret".into(), ..Auth::default() };
    pull(&test, &registry, Some(&auth)).await.unwrap();
    let asked = layer_requests(&storage, &served);
    assert_eq!(asked.len(), 1);
    assert_eq!(asked[0].header("authorization"), None);
}

#[tokio::test]
async fn old_and_malformed_manifests_are_refused_by_name() {
    for (manifest, words) in [
        (r#"{"schemaVersion":1,"name":"app","fsLayers":[]}"#, "schema 1"),
        ("not json", "malformed manifest"),
        (r#"{"schemaVersion":2,"config":{"digest":"sha256:../../x"},"layers":[]}"#, "malformed"),
        (r#"{"schemaVersion":2,"mediaType":"text/plain"}"#, "unsupported manifest media type"),
    ] {
        let server = Server::start(move |asked, _| match asked.path.contains("manifests") {
            true => Answer::ok(manifest),
            false => Answer::ok("{}"),
        })
        .await;
        let test = TestStore::new().await;
        let error = pull(&test, &server, None).await.unwrap_err();
        assert!(error.to_string().contains(words), "{error}");
        assert_eq!(error.kind(), ErrorKind::Invalid);
        test.assert_empty();
    }
}
