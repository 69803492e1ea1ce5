//! The deployments of Redis that `redis.url` can name: one server, a cluster, or a service with sentinels.
//!
//! Never: connects, or shows a password.

use std::{
    fmt, fs,
    path::{Path, PathBuf},
    str::FromStr,
};

use deadpool_redis::redis::{
    Client, ClientTlsConfig, ConnectionAddr, ConnectionInfo, IntoConnectionInfo as _, TlsCertificates,
};
use rustls::pki_types::{CertificateDer, pem::PemObject as _};

/// Default ports of servers and of sentinels.
const SERVER_PORT: u16 = 6379;
const SENTINEL_PORT: u16 = 26_379;

/// The address of a server.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HostPort {
    /// A name or an IP address. IPv6 without brackets.
    pub host: String,
    /// TCP port.
    pub port: u16,
}

/// A Redis to connect to: how its servers are found, and the settings of each connection.
#[derive(Clone, Debug)]
pub struct Deployment {
    /// How its servers are found.
    pub kind: DeploymentKind,
    /// User, password, database and TLS of every server. The address is that of the single server, or the first host
    /// of the URL.
    server: ConnectionInfo,
}

/// How the servers of a deployment are found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeploymentKind {
    /// A single server, at the address of the URL.
    One,
    /// A cluster: any node can be asked. These are the nodes of the URL.
    Cluster(Vec<HostPort>),
    /// A service: the sentinels are asked for its master.
    Sentinel {
        /// The addresses of the sentinels.
        sentinels: Vec<HostPort>,
        /// The name of the service in `sentinel.conf`.
        service: String,
    },
}

/// Certificates for Redis over TLS, as PEM files.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Certificates {
    /// Certificate authorities to trust instead of those of the system.
    pub ca: Option<PathBuf>,
    /// Client certificate and its private key, for servers that require one.
    pub client: Option<(PathBuf, PathBuf)>,
}

impl Certificates {
    /// Whether no file is configured.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Reads the files.
    ///
    /// Errors: a sentence that names the file at fault.
    fn read(&self) -> Result<TlsCertificates, String> {
        let file = |path: &Path| fs::read(path).map_err(|error| format!("{} can't be read: {error}", path.display()));
        let certificates = |path: &PathBuf| {
            let pem = file(path)?;
            match CertificateDer::pem_slice_iter(&pem).next() {
                Some(Ok(_)) => Ok(pem),
                _ => Err(format!("{} holds no certificate in PEM form", path.display())),
            }
        };
        let client = self.client.as_ref().map(|(certificate, key)| {
            Ok::<_, String>(ClientTlsConfig { client_cert: certificates(certificate)?, client_key: file(key)? })
        });
        Ok(TlsCertificates {
            client_tls: client.transpose()?,
            root_cert: self.ca.as_ref().map(certificates).transpose()?,
        })
    }
}

/// Why a text is not a URL of Redis. The text is not part of the error, because it may contain a password.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadUrl {
    /// It has none of the supported forms.
    #[error(
        "is not of the form redis://HOST:PORT/DB, redis+cluster://HOST:PORT,HOST:PORT, \
         redis+sentinel://HOST:PORT,HOST:PORT/SERVICE/DB (each with rediss for TLS), redis+unix:///PATH or spawn:DIR"
    )]
    Unreadable,
    /// A cluster with a path.
    #[error("names a database, and a cluster has none: end it after the last HOST:PORT")]
    Database,
    /// Sentinels without a service.
    #[error("names no service: redis+sentinel://HOST:PORT,HOST:PORT/SERVICE, as sentinel.conf calls it")]
    Service,
}

impl Deployment {
    /// Whether the URL has a password.
    pub fn has_password(&self) -> bool {
        self.server.redis_settings().password().is_some()
    }

    /// Whether its servers are reached over TLS.
    pub fn uses_tls(&self) -> bool {
        matches!(self.server.addr(), ConnectionAddr::TcpTls { .. })
    }

    /// The same deployment with `certificates`.
    ///
    /// Errors: a sentence that names the file at fault.
    pub(super) fn with(self, certificates: &Certificates) -> Result<Self, String> {
        if certificates.is_empty() {
            return Ok(self);
        }
        let client = Client::build_with_tls(self.server, certificates.read()?);
        let server = client.map_err(|error| format!("the certificates can't be used: {error}"))?;
        Ok(Self { server: server.get_connection_info().clone(), ..self })
    }

    /// Connection settings of the server of [`DeploymentKind::One`].
    pub(super) fn server(&self) -> ConnectionInfo {
        self.server.clone()
    }

    /// Connection settings of the server at `node`.
    pub(super) fn server_at(&self, node: &HostPort) -> ConnectionInfo {
        let mut address = self.server.addr().clone();
        match &mut address {
            ConnectionAddr::TcpTls { host, port, .. } | ConnectionAddr::Tcp(host, port) => {
                host.clone_from(&node.host);
                *port = node.port;
            }
            _ => {}
        }
        self.server.clone().set_addr(address)
    }
}

impl FromStr for Deployment {
    type Err = BadUrl;

    fn from_str(url: &str) -> Result<Self, BadUrl> {
        let (scheme, rest) = url.split_once("://").ok_or(BadUrl::Unreadable)?;
        let tls = scheme.starts_with("rediss");
        match scheme {
            // The redis crate accepts `#insecure`, which trusts any certificate. It is refused here.
            "redis" | "rediss" | "redis+unix" if !rest.contains('#') => {
                let server = url.into_connection_info().map_err(|_| BadUrl::Unreadable)?;
                Ok(Self { kind: DeploymentKind::One, server })
            }
            "redis+cluster" | "rediss+cluster" => {
                let (login, nodes, path) = split_url(rest, SERVER_PORT).ok_or(BadUrl::Unreadable)?;
                if !path.is_empty() {
                    return Err(BadUrl::Database);
                }
                Ok(Self { server: server(tls, login, &nodes, "")?, kind: DeploymentKind::Cluster(nodes) })
            }
            "redis+sentinel" | "rediss+sentinel" => {
                let (login, sentinels, path) = split_url(rest, SENTINEL_PORT).ok_or(BadUrl::Unreadable)?;
                let (service, database) = path.split_once('/').unwrap_or((path, ""));
                if service.is_empty() {
                    return Err(BadUrl::Service);
                }
                let server = server(tls, login, &sentinels, database)?;
                Ok(Self { server, kind: DeploymentKind::Sentinel { sentinels, service: service.to_owned() } })
            }
            _ => Err(BadUrl::Unreadable),
        }
    }
}

/// Splits a URL without its scheme into login (`user:password`), hosts and path. `port` is the default port. `None`
/// if a host is malformed.
fn split_url(rest: &str, port: u16) -> Option<(&str, Vec<HostPort>, &str)> {
    let (login, rest) = rest.rsplit_once('@').unwrap_or(("", rest));
    let (hosts, path) = rest.split_once('/').unwrap_or((rest, ""));
    let hosts = hosts.split(',').map(|host| parse_host(host, port)).collect::<Option<Vec<_>>>()?;
    Some((login, hosts, path.trim_end_matches('/')))
}

fn parse_host(text: &str, port: u16) -> Option<HostPort> {
    let (host, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, "")) => (host, port),
        Some((host, rest)) => (host, rest.strip_prefix(':')?.parse().ok()?),
        None => match text.split_once(':') {
            Some((host, port)) => (host, port.parse().ok()?),
            None => (text, port),
        },
    };
    let is_allowed = |c: char| c.is_ascii_alphanumeric() || "-._:%".contains(c);
    (!host.is_empty() && host.chars().all(is_allowed)).then(|| HostPort { host: host.to_owned(), port })
}

/// The settings that all servers share, parsed by the redis crate from a URL of the first host.
fn server(tls: bool, login: &str, hosts: &[HostPort], database: &str) -> Result<ConnectionInfo, BadUrl> {
    let (scheme, at) = (if tls { "rediss" } else { "redis" }, if login.is_empty() { "" } else { "@" });
    let first = hosts.first().ok_or(BadUrl::Unreadable)?;
    let url = format!("{scheme}://{login}{at}{first}/{database}");
    url.into_connection_info().map_err(|_| BadUrl::Unreadable)
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port } = self;
        if host.contains(':') { write!(f, "[{host}]:{port}") } else { write!(f, "{host}:{port}") }
    }
}

/// Shows the addresses without user, password and database, so that nothing secret is logged.
impl fmt::Display for Deployment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |nodes: &[HostPort]| nodes.iter().map(HostPort::to_string).collect::<Vec<_>>().join(", ");
        match &self.kind {
            DeploymentKind::One => write!(f, "redis at {}", self.server.addr()),
            DeploymentKind::Cluster(nodes) => write!(f, "redis cluster at {}", list(nodes)),
            DeploymentKind::Sentinel { sentinels, service } => {
                write!(f, "redis service {service} of the sentinels at {}", list(sentinels))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(url: &str) -> Deployment {
        url.parse().unwrap_or_else(|error| panic!("{url}: {error}"))
    }

    fn at(host: &str, port: u16) -> HostPort {
        HostPort { host: host.to_owned(), port }
    }

    #[test]
    fn each_kind_of_url_is_parsed_and_shown_without_its_password() {
        for (url, kind, shown, tls) in [
            ("redis://h:1/3", DeploymentKind::One, "redis at h:1", false),
            ("rediss://u:p@h", DeploymentKind::One, "redis at h:6379", true),
            ("redis+unix:///tmp/r.sock", DeploymentKind::One, "redis at /tmp/r.sock", false),
            (
                "redis+cluster://u:p@h1:1,h2",
                DeploymentKind::Cluster(vec![at("h1", 1), at("h2", 6379)]),
                "redis cluster at h1:1, h2:6379",
                false,
            ),
            (
                "rediss+cluster://[::1]:7/",
                DeploymentKind::Cluster(vec![at("::1", 7)]),
                "redis cluster at [::1]:7",
                true,
            ),
            (
                "redis+sentinel://:p@s1,s2:2/main/3",
                DeploymentKind::Sentinel { sentinels: vec![at("s1", 26_379), at("s2", 2)], service: "main".into() },
                "redis service main of the sentinels at s1:26379, s2:2",
                false,
            ),
        ] {
            let read = read(url);
            assert_eq!((&read.kind, read.to_string().as_str(), read.uses_tls()), (&kind, shown, tls), "{url}");
            assert_eq!(read.has_password(), url.contains('@'), "{url}");
            assert!(!format!("{read:?}").contains("\"p\""), "{read:?}");
        }
    }

    #[test]
    fn user_password_database_and_tls_apply_to_every_server() {
        let read = read("rediss+sentinel://u%40x:p%3A1@s1,s2/main/3");
        let server = read.server_at(&at("10.0.0.7", 6380));
        assert_eq!(server.addr().to_string(), "10.0.0.7:6380");
        let settings = server.redis_settings();
        assert_eq!((settings.username(), settings.password(), settings.db()), (Some("u@x"), Some("p:1"), 3));
        assert!(matches!(server.addr(), ConnectionAddr::TcpTls { insecure: false, .. }));
    }

    #[test]
    fn malformed_urls_are_rejected_with_a_reason() {
        for (url, error) in [
            ("redis:6379", BadUrl::Unreadable),
            ("http://redis", BadUrl::Unreadable),
            ("redis://", BadUrl::Unreadable),
            ("rediss://h#insecure", BadUrl::Unreadable),
            ("redis+cluster://", BadUrl::Unreadable),
            ("redis+cluster://h1:x,h2", BadUrl::Unreadable),
            ("redis+cluster://h1,,h2", BadUrl::Unreadable),
            ("redis+cluster://h1/2", BadUrl::Database),
            ("redis+sentinel://h1,h2", BadUrl::Service),
            ("redis+sentinel://h1/main/x", BadUrl::Unreadable),
            ("redis+sentinel+tls://h1/main", BadUrl::Unreadable),
        ] {
            assert_eq!(url.parse::<Deployment>().expect_err(url), error, "{url}");
        }
    }
}
