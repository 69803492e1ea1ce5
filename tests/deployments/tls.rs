//! TLS with a private certificate authority, and a user with only the rights that Pregón needs.

use std::{fs, path::PathBuf, time::Duration};

use pregon::{
    config::DatabaseUrl,
    postgres::{Database, DatabaseAddress, DatabaseError},
    redis::{Store, StoreError, deployment::Certificates},
};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use tempfile::TempDir;

use crate::{
    campaign::{Running, address},
    servers::{RedisServer, USER, free_port},
    support::postgres::TestPostgres,
};

/// A certificate authority, with a server and a client certificate.
struct Authority {
    dir: TempDir,
}

impl Authority {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(Vec::<String>::new()).expect("parameters");
        // Without this name, the other certificates would have equal subjects and issuers and count as self-signed.
        params.distinguished_name.push(DnType::CommonName, "authority of a test");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).expect("a certificate");
        fs::write(dir.path().join("ca.pem"), certificate.pem()).expect("written");
        let issuer = Issuer::new(params, key);
        for name in ["server", "client"] {
            let key = KeyPair::generate().expect("a key");
            let params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).expect("parameters");
            let certificate = params.signed_by(&key, &issuer).expect("a certificate");
            fs::write(dir.path().join(format!("{name}.pem")), certificate.pem()).expect("written");
            fs::write(dir.path().join(format!("{name}.key")), key.serialize_pem()).expect("written");
        }
        Self { dir }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Starts a server with the server certificate. `auth_clients` is the value of its setting `tls-auth-clients`.
    async fn server(&self, auth_clients: &str) -> RedisServer {
        let users = format!("user default off\n{USER}\n");
        fs::write(self.file("users.acl"), users).expect("written");
        let path = |name: &str| self.file(name).to_str().expect("a plain path").to_owned();
        let (certificate, key, ca, users) = (path("server.pem"), path("server.key"), path("ca.pem"), path("users.acl"));
        #[rustfmt::skip]
        let arguments = [
            "--port", "0", "--tls-port", "PORT", "--appendonly", "yes", "--save", "", "--aclfile", &users,
            "--tls-cert-file", &certificate, "--tls-key-file", &key, "--tls-ca-cert-file", &ca,
            "--tls-auth-clients", auth_clients,
        ];
        RedisServer::start(&arguments).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_campaign_runs_over_tls_as_a_user_with_few_rights() {
    let authority = Authority::new();
    let server = authority.server("yes").await;
    let mut address = address(format!("rediss://pregon:s3cret@{}", server.address()));
    address.certificates = Certificates {
        ca: Some(authority.file("ca.pem")),
        client: Some((authority.file("client.pem"), authority.file("client.key"))),
    };
    let campaign = Running::start(&address, &[("3001", 2_000.0), ("3002", 2_000.0)], 3_000).await;
    campaign.completes().await;
}

#[tokio::test]
async fn an_untrusted_server_gets_no_password() {
    let (authority, other) = (Authority::new(), Authority::new());
    let server = authority.server("no").await;
    let url = format!("rediss://pregon:s3cret@{}", server.address());
    let connect = async |ca: Option<PathBuf>| {
        let mut address = address(url.clone());
        address.certificates.ca = ca;
        Store::connect(&address).await.map(drop)
    };
    connect(Some(authority.file("ca.pem"))).await.expect("the right authority");
    for ca in [None, Some(other.file("ca.pem"))] {
        let error = connect(ca.clone()).await.expect_err("an unknown authority");
        assert!(error.is_transient(), "{ca:?}: {error:?}");
        assert!(error.to_string().contains("certificate") && !error.to_string().contains("s3cret"), "{error}");
    }
    for (ca, cause) in [("nowhere.pem", "can't be read"), ("server.key", "holds no certificate in PEM form")] {
        let error = connect(Some(authority.file(ca))).await.expect_err("no certificates");
        assert!(matches!(&error, StoreError::Unusable(text) if text.contains(cause)), "{error}");
    }
}

#[tokio::test]
async fn a_database_is_reached_over_tls_only_with_its_authority_and_its_name() {
    let (authority, other, mut postgres) = (Authority::new(), Authority::new(), TestPostgres::start().await);
    let of_server = |name: &str| {
        let text = fs::read_to_string(authority.file(name)).expect("a file");
        postgres.file(name, &text).display().to_string()
    };
    let (certificate, key) = (of_server("server.pem"), of_server("server.key"));
    // Without TLS, only the socket of the test is let in.
    let rules = postgres.file("rules", "local all all trust\nhostssl all all 127.0.0.1/32 trust\n");
    postgres.kill_hard().await;
    let port = free_port();
    let settings = [
        "listen_addresses=127.0.0.1".to_owned(),
        format!("port={port}"),
        "ssl=on".to_owned(),
        format!("ssl_cert_file={certificate}"),
        format!("ssl_key_file={key}"),
        format!("hba_file={}", rules.display()),
    ];
    postgres.restart_with(&settings.each_ref().map(String::as_str)).await;

    let version = async |host: &str, parameters: String| {
        let url = format!("postgres://pregon@{host}:{port}/pregon?{parameters}");
        let DatabaseUrl::Server { options, .. } = url.parse().expect("a URL") else { panic!("{url}") };
        let address = DatabaseAddress { options: *options, connections: 1, timeout: Duration::from_secs(20) };
        Database::new(&address).version().await
    };
    let verified = |ca: PathBuf| format!("sslmode=verify-full&sslrootcert={}", ca.display());
    let ca = authority.file("ca.pem");
    assert!(version("127.0.0.1", verified(ca.clone())).await.expect("the right authority") >= 14);
    let system = "sslmode=verify-full".to_owned();
    for (host, parameters) in
        [("127.0.0.1", verified(other.file("ca.pem"))), ("127.0.0.1", system), ("localhost", verified(ca))]
    {
        let error = version(host, parameters.clone()).await.expect_err("not trusted");
        assert!(matches!(error, DatabaseError::Untrusted(_)) && error.is_transient(), "{host} {parameters}: {error:?}");
        assert!(error.to_string().contains("name the file of its authority with sslrootcert=PATH"), "{error}");
    }
    let plain = version("127.0.0.1", "sslmode=disable".to_owned()).await.expect_err("not encrypted");
    assert!(matches!(plain, DatabaseError::Refused { .. }), "{plain:?}");
    let missing = version("127.0.0.1", verified("nowhere.pem".into())).await.expect_err("no such file");
    assert!(missing.to_string().contains("a file that database.url names"), "{missing}");
}
