//! Finding, tagging and removing images.

mod common;

use common::*;
use hostd_image::{ErrorKind, ImageStore, Removed};

fn layer(text: &str) -> Vec<u8> {
    Tar::new().file("file", text).done()
}

#[tokio::test]
async fn images_are_found_by_name_id_and_prefix() {
    if !is_root() {
        return;
    }
    let test = TestStore::new().await;
    let id = test.load(docker_archive(&[&layer("a")], &["app:1"])).await.unwrap()[0].id.clone();
    for name in ["app:1", "docker.io/library/app:1", &id, &id[7..], &id[7..19], &id[..19]] {
        assert_eq!(test.store.get(name).unwrap().id, id, "{name}");
    }
    for (name, words) in [
        ("app", "No such image: app:latest"),
        ("nope/x:2", "No such image: nope/x:2"),
        ("sha256:0", "No such image: sha256:0"),
        ("Foo", "invalid reference format: repository name (library/Foo) must be lowercase"),
        ("a b", "invalid reference format"),
    ] {
        assert_eq!(test.store.get(name).unwrap_err().to_string(), words);
    }
}

#[tokio::test]
async fn a_tag_moves_and_survives_a_restart() {
    if !is_root() {
        return;
    }
    let test = TestStore::new().await;
    let first = test.load(docker_archive(&[&layer("a")], &["app:1"])).await.unwrap()[0].id.clone();
    let second = test.load(docker_archive(&[&layer("b")], &["app:1"])).await.unwrap()[0].id.clone();
    assert_eq!(test.store.get("app:1").unwrap().id, second);
    test.store.tag(&first, &"other/app".parse().unwrap()).await.unwrap();
    let reopened = ImageStore::open(test.dir.path(), Default::default()).await.unwrap();
    assert_eq!(reopened.get("other/app").unwrap().id, first);
    assert_eq!(reopened.get("app:1").unwrap().repo_tags, ["app:1"]);
    assert_eq!(reopened.list().unwrap().len(), 2);
    assert_eq!(test.store.tag("nope", &"x".parse().unwrap()).await.unwrap_err().kind(), ErrorKind::NotFound);
}

#[tokio::test]
async fn removal_untags_first_and_deletes_with_the_last_tag() {
    if !is_root() {
        return;
    }
    let test = TestStore::new().await;
    let (shared, own) = (layer("shared"), layer("own"));
    let id = test.load(docker_archive(&[&shared, &own], &["app:1", "app:2"])).await.unwrap()[0].id.clone();
    test.load(docker_archive(&[&shared], &["base:1"])).await.unwrap();
    let remove = async |name: &str| test.store.remove(name, false, true, &|_| Vec::new()).await;
    let error = remove(&id).await.unwrap_err();
    let short = &id[7..19];
    assert_eq!(
        error.to_string(),
        format!(
            "conflict: unable to delete {short} (must be forced) - image is referenced in multiple repositories"
        )
    );
    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert_eq!(remove("app:1").await.unwrap(), [Removed::Untagged("app:1".into())]);
    let removed = remove("app:2").await.unwrap();
    assert_eq!(removed[..2], [Removed::Untagged("app:2".into()), Removed::Deleted(id)]);
    assert_eq!(removed.len(), 3, "the shared layer stays: {removed:?}");
    assert_eq!(remove("base:1").await.unwrap().len(), 3);
    test.assert_empty();
}

#[tokio::test]
async fn images_in_use_are_kept_in_dockers_words() {
    if !is_root() {
        return;
    }
    let test = TestStore::new().await;
    let id = test.load(docker_archive(&[&layer("a")], &["app:1"])).await.unwrap()[0].id.clone();
    let short = &id[7..19];
    let container = "0123456789abcdef".to_owned();
    for (name, force, running, words) in [
        (
            "app:1",
            false,
            false,
            format!(
                "conflict: unable to remove repository reference \"app:1\" (must force) - container 0123456789ab is using \
                 its referenced image {short}"
            ),
        ),
        (
            &id,
            false,
            false,
            format!(
                "conflict: unable to delete {short} (must be forced) - image is being used by stopped container \
                 0123456789ab"
            ),
        ),
        (
            &id,
            true,
            true,
            format!(
                "conflict: unable to delete {short} (cannot be forced) - image is being used by running container \
                 0123456789ab"
            ),
        ),
    ] {
        let users = |_: &str| vec![(container.clone(), running)];
        let error = test.store.remove(name, force, true, &users).await.unwrap_err();
        assert_eq!(error.to_string(), words);
    }
    assert_eq!(test.store.get("app:1").unwrap().id, id);
}

#[tokio::test]
async fn an_image_that_a_container_is_being_made_from_is_in_use() {
    if !is_root() {
        return;
    }
    let test = TestStore::new().await;
    let id = test.load(docker_archive(&[&layer("a")], &["app:1"])).await.unwrap()[0].id.clone();
    let remove = async |name: &str, force| test.store.remove(name, force, true, &|_| Vec::new()).await;
    let (image, lease) = test.store.lease("app:1", "c1").unwrap();
    assert_eq!(image.id, id);
    for name in ["app:1", &id] {
        assert_eq!(remove(name, false).await.unwrap_err().kind(), ErrorKind::Conflict, "{name}");
    }
    assert_eq!(test.store.get("app:1").unwrap().id, id);
    // By force it goes, and the container that is yet to come keeps the files.
    remove("app:1", true).await.unwrap();
    assert_eq!(test.store.lease("app:1", "c2").unwrap_err().kind(), ErrorKind::NotFound);
    drop(lease);
    let snapshot = test.store.snapshot("c1", &id).unwrap();
    assert!(snapshot.lower[0].join("file").exists());
    test.store.remove_snapshot("c1").unwrap();
    assert!(test.files("layers").is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_gets_an_image_before_its_removal_keeps_it() {
    if !is_root() {
        return;
    }
    let test = TestStore::new().await;
    let archive = docker_archive(&[&layer("a")], &["app:1"]);
    let id = test.load(archive.clone()).await.unwrap()[0].id.clone();
    let containers = std::sync::Arc::new(std::sync::Mutex::new(Vec::<String>::new()));
    for round in 0..200 {
        let key = format!("c{round}");
        let (store, made, name) = (test.store.clone(), containers.clone(), id.clone());
        let create = tokio::task::spawn_blocking(move || {
            let Ok((_, lease)) = store.lease(&name, &key) else { return };
            std::thread::yield_now();
            made.lock().unwrap().push(key.clone());
            drop(lease);
            let snapshot = store.snapshot(&key, &name).expect("the image is there");
            assert!(snapshot.lower.iter().all(|dir| dir.join("file").exists()));
            made.lock().unwrap().clear();
            store.remove_snapshot(&key).unwrap();
        });
        let users =
            |_: &str| containers.lock().unwrap().iter().map(|key| (key.clone(), false)).collect::<Vec<_>>();
        let removed = test.store.remove(&id, round % 2 == 0, true, &users).await;
        create.await.unwrap();
        if removed.is_ok() {
            test.load(archive.clone()).await.unwrap();
        }
    }
}

#[tokio::test]
async fn what_a_crash_left_is_gone_after_a_restart() {
    if !is_root() {
        return;
    }
    let test = TestStore::new().await;
    test.load(docker_archive(&[&layer("a")], &["app:1"])).await.unwrap();
    let root = test.dir.path();
    std::fs::create_dir_all(root.join("staging/half/diff")).unwrap();
    std::fs::create_dir_all(root.join("layers").join("0".repeat(64)).join("diff")).unwrap();
    std::fs::write(root.join("blobs/sha256").join("1".repeat(64)), "x").unwrap();
    std::fs::write(root.join("repositories.json.tmp"), "{").unwrap();
    let reopened = ImageStore::open(root, Default::default()).await.unwrap();
    assert!(reopened.get("app:1").unwrap().layers[0].join("file").exists());
    assert_eq!(
        (test.files("staging").len(), test.files("layers").len(), test.files("blobs/sha256").len()),
        (0, 1, 1)
    );
}
