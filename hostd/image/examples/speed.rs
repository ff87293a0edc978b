//! Times one load or pull into a new store: `speed load ROOT ARCHIVE`, `speed pull ROOT REFERENCE`.

use hostd_image::{ImageStore, ImageStoreConfig};
use std::path::Path;
use std::time::Instant;
use tokio::sync::mpsc;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [what, root, source] = &args[..] else { return Err("usage: speed load|pull ROOT SOURCE".into()) };
    let store = ImageStore::open(Path::new(root), ImageStoreConfig::default()).await?;
    let (progress, mut lines) = mpsc::channel(64);
    let listening = tokio::spawn(async move { while lines.recv().await.is_some() {} });
    let start = Instant::now();
    let size = match what.as_str() {
        "load" => {
            let archive = tokio::fs::File::open(source).await?;
            store.load(archive, progress).await?.iter().map(|image| image.size).sum::<u64>()
        }
        "pull" => store.pull(&source.parse()?, None, None, progress).await?.size,
        _ => return Err("usage: speed load|pull ROOT SOURCE".into()),
    };
    let seconds = start.elapsed().as_secs_f64();
    listening.await?;
    println!("{what}: {:.2} s, {:.0} MB/s", seconds, size as f64 / 1e6 / seconds);
    Ok(())
}
