//! Images: registries, archives, tags, removal.
#![allow(missing_docs, clippy::unwrap_used)]

use e2e::{eventually, has, host, run};
use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};

#[test]
fn an_image_is_listed_inspected_tagged_and_removed() {
    let host = host!();
    host.docker(["images"]).says("busybox").says("latest");
    host.docker(["tag", "busybox", "example.com/team/box:v1"]).success();
    host.docker(["images", "--format", "{{.Repository}}:{{.Tag}}"]).says("example.com/team/box:v1");
    let named = host.docker(["images", "--format", "{{.Repository}}", "example.com/team/*"]).text();
    assert_eq!(named, "example.com/team/box", "of several names only those that were asked for");
    assert_eq!(host.field("busybox", "{{.Config.Cmd}} {{.Architecture}}"), "[sh] amd64");
    host.docker(["history", "busybox"]).says("busybox-image");
    host.docker(["run", "--name", "box", "busybox", "true"]).success();
    host.docker(["rmi", "example.com/team/box:v1"]).says("Untagged: example.com/team/box:v1");
    host.docker(["rmi", "busybox"]).failure().says("must force");
    host.docker(["rm", "box"]).success();
    host.docker(["rmi", "busybox"]).says("Untagged: busybox:latest").says("Deleted: sha256:");
    assert_eq!(host.docker(["images", "-q"]).text(), "");
    host.docker(["inspect", "busybox"]).failure().says("No such object");
}

#[test]
fn archives_that_are_broken_or_hostile_are_refused_and_leave_nothing() {
    let host = host!();
    let before = host.docker(["images", "-aq", "--no-trunc"]).text();
    let make = |name: &str, python: &str| {
        let path = host.path(name);
        let script = format!("import tarfile,io,json,hashlib,sys\nout=sys.argv[1]\n{python}");
        run(Command::new("python3").args(["-c", &script]).arg(&path)).success();
        path
    };
    let image = |entries: &str| {
        format!(
            "layer=io.BytesIO(); t=tarfile.open(fileobj=layer,mode='w')\n{entries}\nt.close(); layer=layer.getvalue()\n\
             config=json.dumps({{'architecture':'amd64','os':'linux','config':{{}},'rootfs':{{'type':'layers',\
             'diff_ids':['sha256:'+hashlib.sha256(layer).hexdigest()]}}}}).encode()\n\
             a=tarfile.open(out,'w')\n\
             for n,b in (('c.json',config),('l.tar',layer),('manifest.json',json.dumps([{{'Config':'c.json',\
             'RepoTags':['evil:1'],'Layers':['l.tar']}}]).encode())):\n i=tarfile.TarInfo(n); i.size=len(b); a.addfile(i,io.BytesIO(b))\n\
             a.close()"
        )
    };
    let outside = host.path("outside");
    fs::create_dir(&outside).unwrap();
    let target = outside.display();
    let through_link = format!(
        "i=tarfile.TarInfo('l'); i.type=tarfile.SYMTYPE; i.linkname='{target}'; t.addfile(i)\n\
         i=tarfile.TarInfo('l/owned'); i.size=1; t.addfile(i,io.BytesIO(b'x'))"
    );
    let dotdot = format!(
        "i=tarfile.TarInfo('../../../../../../../..{target}/owned'); i.size=1; t.addfile(i,io.BytesIO(b'x'))"
    );
    for (name, python) in [
        ("text", "open(out,'w').write('this is no archive')".to_owned()),
        ("empty", "tarfile.open(out,'w').close()".to_owned()),
    ] {
        host.docker(["load", "-i", &make(name, &python).to_string_lossy()]).failure();
    }
    // Whether these are refused or kept inside the layer, nothing may appear outside.
    for (name, python) in [("link", image(&through_link)), ("dotdot", image(&dotdot))] {
        drop(host.docker(["load", "-i", &make(name, &python).to_string_lossy()]));
        drop(host.docker(["rmi", "evil:1"]));
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 0, "{name} wrote outside the layer");
    }
    assert_eq!(host.docker(["images", "-aq", "--no-trunc"]).text(), before);
}

/// Debian's docker-registry on a free port, inside the namespaces of a test host.
struct Registry(Child);

impl Registry {
    fn start(host: &e2e::TestHost, port: u16) -> Self {
        let dir = host.path("registry");
        fs::create_dir(&dir).unwrap();
        let config = host.path("registry.yml");
        let text = format!(
            "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: '127.0.0.1:{port}'}}\n",
            dir.display()
        );
        fs::write(&config, text).unwrap();
        let mut command = host.inside("docker-registry");
        command.arg("serve").arg(&config).stdout(Stdio::null()).stderr(Stdio::null());
        Self(command.spawn().unwrap())
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// Puts the busybox image, layer gzipped, into the registry at `url` inside the host's namespaces.
fn push_busybox(host: &e2e::TestHost, url: &str) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("push-image");
    let busybox = e2e::built("BERTH_TEST_BUSYBOX", "busybox.tar").unwrap();
    eventually("the registry", || {
        (run(host.inside("curl").args(["-fsS", &format!("{url}/v2/")])).code() == 0).then_some(())
    });
    run(host.inside("python3").arg(script).arg(busybox).args([url, "team/box", "v1"])).success();
}

#[test]
fn an_image_is_pulled_from_a_registry_and_runs() {
    let host = host!();
    if !has("docker-registry") {
        eprintln!("skipped: docker-registry is not on PATH");
        return;
    }
    let _registry = Registry::start(&host, 5000);
    push_busybox(&host, "http://127.0.0.1:5000");
    host.docker(["pull", "127.0.0.1:5000/team/box:v1"])
        .says("Pulling from team/box")
        .says("Digest: sha256:")
        .says("Status: Downloaded newer image for 127.0.0.1:5000/team/box:v1");
    host.docker(["pull", "127.0.0.1:5000/team/box:v1"]).says("Image is up to date");
    host.docker(["run", "--rm", "127.0.0.1:5000/team/box:v1", "echo", "pulled"]).success().says("pulled");
    host.docker(["pull", "127.0.0.1:5000/team/box:v2"])
        .failure()
        .says("manifest for 127.0.0.1:5000/team/box:v2 not found");
    host.docker(["pull", "127.0.0.1:5000/nobody/nothing"]).failure();
    host.docker(["pull", "127.0.0.1:5000/UPPER"]).failure().says("lowercase");
}

#[test]
fn a_registry_that_is_down_is_named() {
    let host = host!();
    // Bound and closed again: nobody listens there.
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    assert!(TcpStream::connect(("127.0.0.1", port)).is_err());
    host.docker(["pull", &format!("127.0.0.1:{port}/x")]).failure().says(&format!("127.0.0.1:{port}"));
}

#[test]
fn prune_removes_images_that_no_container_has() {
    let host = host!();
    host.docker(["tag", "busybox", "spare:1"]).success();
    host.docker(["image", "prune", "-f"]).says("0B");
    host.docker(["create", "--name", "box", "busybox", "true"]).success();
    host.docker(["image", "prune", "-af"]).says("0B");
    host.docker(["rm", "box"]).success();
    host.docker(["image", "prune", "-af"]).says("untagged: spare:1").says("deleted: sha256:");
    assert_eq!(host.docker(["images", "-q"]).text(), "");
}
