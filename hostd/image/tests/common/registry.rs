//! Registries to pull from: Debian's docker-registry, and a small server that says what a test wants.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used)] // Each test binary uses its part.

use super::common::sha256;
use std::io::Write;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

pub const BINARY: &str = "/usr/bin/docker-registry";

/// A real registry on a port of its own, gone with this value.
pub struct Registry {
    pub address: String,
    process: Child,
    _dir: tempfile::TempDir,
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

impl Registry {
    /// `None`, with a reason, where the machine has none.
    pub async fn start() -> Option<Self> {
        if !std::path::Path::new(BINARY).exists() {
            println!("skipped: {BINARY} is not installed");
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
        let config = dir.path().join("config.yml");
        let mut file = std::fs::File::create(&config).unwrap();
        let root = dir.path().join("data");
        write!(
            file,
            "version: 0.1\nstorage:\n  filesystem:\n    rootdirectory: {}\nhttp:\n  addr: {address}\n  relativeurls: true\n",
            root.display()
        )
        .unwrap();
        let process = Command::new(BINARY)
            .arg("serve")
            .arg(&config)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let registry = Self { address, process, _dir: dir };
        for _ in 0..600 {
            if TcpStream::connect(&registry.address).await.is_ok() {
                return Some(registry);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("docker-registry does not listen");
    }

    pub async fn push_blob(&self, repository: &str, bytes: &[u8]) -> serde_json::Value {
        let (status, headers, _) =
            request(&self.address, "POST", &format!("/v2/{repository}/blobs/uploads/"), "", &[]).await;
        assert_eq!(status, 202);
        let location =
            headers.lines().find_map(|line| line.strip_prefix("Location: ")).unwrap().trim().to_owned();
        let digest = sha256(bytes);
        let join = if location.contains('?') { '&' } else { '?' };
        let (status, ..) =
            request(&self.address, "PUT", &format!("{location}{join}digest={digest}"), "", bytes).await;
        assert_eq!(status, 201);
        serde_json::json!({"digest": digest, "size": bytes.len()})
    }

    pub async fn push_manifest(&self, repository: &str, tag: &str, manifest: &serde_json::Value) -> String {
        let bytes = serde_json::to_vec(manifest).unwrap();
        let kind = manifest["mediaType"].as_str().unwrap();
        let path = format!("/v2/{repository}/manifests/{tag}");
        let (status, _, body) = request(&self.address, "PUT", &path, kind, &bytes).await;
        assert_eq!(status, 201, "{}", String::from_utf8_lossy(&body));
        sha256(&bytes)
    }

    /// Pushes an image of these (media type suffix, blob, uncompressed tar) layers; gives its manifest's digest.
    pub async fn push_image(
        &self,
        repository: &str,
        tag: &str,
        architecture: &str,
        layers: &[(&str, Vec<u8>, Vec<u8>)],
    ) -> String {
        let tars: Vec<&[u8]> = layers.iter().map(|(.., tar)| &tar[..]).collect();
        let mut config = self.push_blob(repository, &super::common::config(&tars, architecture)).await;
        config["mediaType"] = "application/vnd.oci.image.config.v1+json".into();
        let mut descriptors = Vec::new();
        for (kind, blob, _) in layers {
            let mut descriptor = self.push_blob(repository, blob).await;
            descriptor["mediaType"] = format!("application/vnd.oci.image.layer.v1.{kind}").into();
            descriptors.push(descriptor);
        }
        let manifest = serde_json::json!({
            "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": config, "layers": descriptors,
        });
        self.push_manifest(repository, tag, &manifest).await
    }
}

/// One HTTP request on a connection of its own: (status, head, body).
async fn request(address: &str, method: &str, path: &str, kind: &str, body: &[u8]) -> (u16, String, Vec<u8>) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: {address}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: \
         close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(body).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    let split = answer.windows(4).position(|window| window == b"\r\n\r\n").unwrap();
    let head = String::from_utf8_lossy(&answer[..split]).into_owned();
    (head[9..12].parse().unwrap(), head, answer[split + 4..].to_vec())
}

/// What the small server was asked.
#[derive(Clone, Debug, Default)]
pub struct Asked {
    pub method: String,
    pub path: String,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    pub body: String,
}

impl Asked {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

/// What it answers.
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// Close the connection after so many bytes of the body.
    pub cut: Option<usize>,
}

impl Answer {
    pub fn ok(body: impl AsRef<[u8]>) -> Self {
        Self::status(200, body)
    }

    pub fn status(status: u16, body: impl AsRef<[u8]>) -> Self {
        Self { status, headers: Vec::new(), body: body.as_ref().to_vec(), cut: None }
    }

    pub fn with(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    pub fn cut(mut self, bytes: usize) -> Self {
        self.cut = Some(bytes);
        self
    }
}

/// A server on 127.0.0.1 that answers by a function; its requests are kept.
pub struct Server {
    pub address: String,
    asked: Arc<Mutex<Vec<Asked>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Server {
    pub async fn start(answer: impl Fn(&Asked, usize) -> Answer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (kept, answer) = (asked.clone(), Arc::new(answer));
        let task = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (kept, answer) = (kept.clone(), answer.clone());
                // A client that hangs up in the middle is its own business.
                tokio::spawn(async move { serve(stream, &kept, &*answer).await });
            }
        });
        Self { address, asked, task }
    }

    pub fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }
}

async fn serve(
    mut stream: TcpStream,
    kept: &Mutex<Vec<Asked>>,
    answer: &(dyn Fn(&Asked, usize) -> Answer + Send + Sync),
) -> std::io::Result<()> {
    let mut bytes = Vec::new();
    let split = loop {
        if let Some(at) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            break at;
        }
        if stream.read_buf(&mut bytes).await? == 0 {
            return Ok(());
        }
    };
    let head = String::from_utf8_lossy(&bytes[..split]).into_owned();
    let mut lines = head.lines();
    let mut first = lines.next().unwrap_or_default().split(' ');
    let mut asked = Asked {
        method: first.next().unwrap_or_default().into(),
        path: first.next().unwrap_or_default().into(),
        ..Asked::default()
    };
    for (key, value) in lines.filter_map(|line| line.split_once(':')) {
        asked.headers.push((key.to_lowercase(), value.trim().to_owned()));
    }
    let length: usize = asked.header("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
    while bytes.len() < split + 4 + length {
        if stream.read_buf(&mut bytes).await? == 0 {
            return Ok(());
        }
    }
    asked.body = String::from_utf8_lossy(&bytes[split + 4..]).into_owned();
    // The how-manieth request for this path it is, from 0.
    let before = {
        let mut kept = kept.lock().unwrap();
        let before = kept.iter().filter(|other| other.path == asked.path).count();
        kept.push(asked.clone());
        before
    };
    let answer = answer(&asked, before);
    let mut head = format!(
        "HTTP/1.1 {} X\r\nContent-Length: {}\r\nConnection: close\r\n",
        answer.status,
        answer.body.len()
    );
    for (key, value) in &answer.headers {
        head.push_str(&format!("{key}: {value}\r\n"));
    }
    stream.write_all(format!("{head}\r\n").as_bytes()).await?;
    stream.write_all(&answer.body[..answer.cut.unwrap_or(answer.body.len())]).await?;
    stream.shutdown().await
}
