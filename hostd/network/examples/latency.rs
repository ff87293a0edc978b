//! How long connecting and disconnecting take. Run it as root in a network namespace of its own:
//! `unshare --net --mount target/release/examples/latency`.

use hostd_network::{EndpointRequest, NetworkConfig, Networks, PortRequest, Protocol, new_netns};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

const ROUNDS: usize = 100;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let state_dir = std::env::temp_dir().join(format!("hostd-network-latency-{}", std::process::id()));
    let config =
        NetworkConfig { bridge: "hostd0".into(), bip: None, icc: true, state_dir: state_dir.clone() };
    let networks = Networks::open(config, &[]).await?;
    for ports in [0_u16, 1, 4] {
        let mut times = [const { Vec::new() }; 3];
        for _ in 0..ROUNDS {
            round(&networks, ports, &mut times).await?;
        }
        let [netns, connect, disconnect] = times.map(median);
        println!("{ports} ports: netns {netns:?}, connect {connect:?}, disconnect {disconnect:?} (medians)");
    }
    std::fs::remove_dir_all(state_dir)?;
    Ok(())
}

async fn round(
    networks: &Networks,
    ports: u16,
    times: &mut [Vec<Duration>; 3],
) -> Result<(), Box<dyn std::error::Error>> {
    let start = Instant::now();
    let netns = tokio::task::spawn_blocking(new_netns).await??;
    times[0].push(start.elapsed());
    let port = |n| PortRequest {
        container_port: 80,
        protocol: Protocol::Tcp,
        host_ip: None,
        host_ports: Some(8080 + n..=8080 + n),
    };
    let request = EndpointRequest {
        container_id: "c".repeat(64),
        network: "bridge".into(),
        netns: netns.as_fd(),
        ports: (0..ports).map(port).collect(),
        ip: None,
        mac: None,
        links: Vec::new(),
    };
    let start = Instant::now();
    let endpoint = networks.connect(request).await?;
    times[1].push(start.elapsed());
    let start = Instant::now();
    networks.disconnect(&endpoint).await?;
    times[2].push(start.elapsed());
    Ok(())
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}
