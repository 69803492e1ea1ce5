//! Checks that a worker could listen on the configured addresses.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use serde::Deserialize;
use tokio::net::TcpListener;

use super::Check;
use crate::config::{Config, Role};

/// Timeout of the request that asks whether a worker already runs here.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);

/// Checks the addresses that a worker with `roles` would listen on. An address that a worker already uses passes.
pub(super) async fn check(config: &Config, roles: &[Role]) -> Vec<Check> {
    let mut listens = vec![("ops.listen", config.ops.listen)];
    if roles.contains(&Role::Api) || roles.contains(&Role::Webhook) {
        listens.insert(0, ("http.listen", config.http.listen));
    }
    let mut checks = Vec::new();
    for (key, address) in listens {
        checks.push(match TcpListener::bind(address).await {
            Ok(_) => Check::ok(key, format!("{address} is free")),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && worker_runs(config.ops.listen).await => {
                Check::ok(key, format!("{address} is used by the worker that runs here"))
            }
            Err(error) => Check::failed(key, format!("{address}: {error}"), remedy(key, &error)),
        });
    }
    checks
}

fn remedy(key: &str, error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => format!("stop the process that listens there, or set {key} to another port"),
        io::ErrorKind::PermissionDenied => format!("set {key} to port 1024 or above"),
        io::ErrorKind::AddrNotAvailable => format!("set {key} to an address of this machine, such as 0.0.0.0"),
        _ => format!("set {key} to another address"),
    }
}

/// Whether a worker answers `/readyz` on `ops`.
async fn worker_runs(ops: SocketAddr) -> bool {
    #[derive(Deserialize)]
    struct Readiness {
        #[expect(dead_code, reason = "its presence distinguishes a worker from another program")]
        ready: bool,
    }
    let mut address = ops;
    if ops.ip().is_unspecified() {
        address.set_ip(if ops.is_ipv4() { IpAddr::V4(Ipv4Addr::LOCALHOST) } else { IpAddr::V6(Ipv6Addr::LOCALHOST) });
    }
    let answer = async {
        let http = crate::client::http().timeout(PROBE_TIMEOUT).build()?;
        http.get(format!("http://{address}/readyz")).send().await?.json::<Readiness>().await
    };
    answer.await.is_ok()
}
