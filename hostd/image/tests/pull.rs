//! Pulling from Debian's docker-registry.

mod common;
#[path = "common/registry.rs"]
mod registry;

use common::*;
use hostd_image::{ErrorKind, Platform, Reference};
use registry::Registry;

fn layer(name: &str, size: usize) -> Vec<u8> {
    Tar::new().dir("data/").file(&format!("data/{name}"), vec![name.as_bytes()[0]; size]).done()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_is_pulled_with_gzip_zstd_and_plain_layers() {
    if !is_root() {
        return;
    }
    let Some(registry) = Registry::start().await else { return };
    let (a, b, c) = (layer("a", 1_000_000), layer("b", 50_000), layer("c", 10));
    let two_members = [gzip(&a[..1000]), gzip(&a[1000..])].concat();
    let layers = [
        ("tar+gzip", two_members, a),
        ("tar+zstd", zstd::encode_all(&b[..], 3).unwrap(), b),
        ("tar", c.clone(), c),
    ];
    let digest = registry.push_image("team/app", "v1", "amd64", &layers).await;
    let test = TestStore::new().await;
    let reference: Reference = format!("{}/team/app:v1", registry.address).parse().unwrap();
    let (tx, mut rx) = progress();
    let image = test.store.pull(&reference, None, None, tx).await.unwrap();
    assert_eq!(image.repo_tags, [reference.familiar()]);
    assert_eq!(image.repo_digests, [format!("{}/team/app@{digest}", registry.address)]);
    assert_eq!(image.size, 1_050_010);
    assert_eq!(std::fs::read(image.layers[2].join("data/a")).unwrap(), vec![b'a'; 1_000_000]);
    assert_eq!(image.config.cmd, Some(vec!["/bin/sh".into()]));
    let mut lines = Vec::new();
    while let Some(line) = rx.recv().await {
        lines.push(line);
    }
    assert_eq!((lines[0].id.as_deref(), lines[0].status.as_str()), (Some("v1"), "Pulling from team/app"));
    for status in ["Pulling fs layer", "Verifying Checksum", "Download complete", "Pull complete"] {
        assert_eq!(lines.iter().filter(|line| line.status == status).count(), 3, "{status}");
    }
    assert_eq!(lines[lines.len() - 2].status, format!("Digest: {digest}"));
    let last = format!("Status: Downloaded newer image for {}", reference.familiar());
    assert_eq!(lines[lines.len() - 1].status, last);

    let (tx, mut rx) = progress();
    test.store.pull(&reference, None, None, tx).await.unwrap();
    let mut last = String::new();
    while let Some(line) = rx.recv().await {
        last = line.status;
    }
    assert_eq!(last, format!("Status: Image is up to date for {}", reference.familiar()));
    let by_digest = format!("{}/team/app@{digest}", registry.address);
    assert_eq!(test.store.get(&by_digest).unwrap().id, image.id);
    let reopened = hostd_image::ImageStore::open(test.dir.path(), Default::default()).await.unwrap();
    assert_eq!(reopened.get(&by_digest).unwrap().layers, image.layers);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_list_gives_the_platforms_image() {
    if !is_root() {
        return;
    }
    let Some(registry) = Registry::start().await else { return };
    let mut entries = Vec::new();
    for architecture in ["amd64", "arm64"] {
        let tar = layer(architecture, 100);
        let digest =
            registry.push_image("multi", architecture, architecture, &[("tar+gzip", gzip(&tar), tar)]).await;
        entries.push(serde_json::json!({
            "mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": digest, "size": 1,
            "platform": {"os": "linux", "architecture": architecture},
        }));
    }
    let list = |entries: &[serde_json::Value]| {
        serde_json::json!({
            "schemaVersion": 2, "manifests": entries,
            "mediaType": "application/vnd.docker.distribution.manifest.list.v2+json",
        })
    };
    registry.push_manifest("multi", "latest", &list(&entries)).await;
    let test = TestStore::new().await;
    let reference: Reference = format!("{}/multi", registry.address).parse().unwrap();
    for architecture in ["amd64", "arm64"] {
        let platform = Platform { os: "linux".into(), architecture: architecture.into(), variant: None };
        let image = test.store.pull(&reference, Some(&platform), None, progress().0).await.unwrap();
        assert_eq!(image.architecture, architecture);
    }
    let platform = Platform { os: "linux".into(), architecture: "s390x".into(), variant: None };
    let error = test.store.pull(&reference, Some(&platform), None, progress().0).await.unwrap_err();
    assert_eq!(error.to_string(), "no matching manifest for linux/s390x in the manifest list entries");
}

#[tokio::test(flavor = "multi_thread")]
async fn pulls_of_the_same_image_at_once_share_their_layers() {
    if !is_root() {
        return;
    }
    let Some(registry) = Registry::start().await else { return };
    let (a, b) = (layer("a", 3_000_000), layer("b", 2_000_000));
    let layers = [("tar+gzip", gzip(&a), a), ("tar+gzip", gzip(&b), b)];
    registry.push_image("app", "1", "amd64", &layers).await;
    let test = TestStore::new().await;
    let reference: Reference = format!("{}/app:1", registry.address).parse().unwrap();
    let pull = || async { test.store.pull(&reference, None, None, progress().0).await.unwrap() };
    let (one, two, three) = tokio::join!(pull(), pull(), pull());
    assert_eq!((&one.id, &one.id), (&two.id, &three.id));
    assert_eq!(test.files("layers").len(), 2);
    assert_eq!(test.files("staging").len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_registry_lacks_is_told_in_dockers_words() {
    let Some(registry) = Registry::start().await else { return };
    let test = TestStore::new().await;
    let tar = layer("a", 10);
    registry.push_image("app", "1", "amd64", &[("tar", tar.clone(), tar)]).await;
    for name in ["app:none", "nope:1"] {
        let reference: Reference = format!("{}/{name}", registry.address).parse().unwrap();
        let error = test.store.pull(&reference, None, None, progress().0).await.unwrap_err();
        let familiar = reference.familiar();
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert!(
            error.to_string().starts_with(&format!("manifest for {familiar} not found: manifest unknown")),
            "{error}"
        );
    }
    test.assert_empty();
}

#[tokio::test]
async fn a_registry_that_is_down_is_named_with_its_address() {
    let test = TestStore::new().await;
    let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let reference: Reference = format!("{address}/app").parse().unwrap();
    let error = test.store.pull(&reference, None, None, progress().0).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    let text = chain(&error);
    assert!(text.contains(&format!("http://{address}/v2/")) && text.contains("Connection refused"), "{text}");
}
