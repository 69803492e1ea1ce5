//! TLS with a private certificate authority, and a user with only the rights that Pregón needs.

use std::{fs, path::PathBuf};

use pregon::redis::{Store, StoreError, deployment::Certificates};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use tempfile::TempDir;

use crate::{
    campaign::{Running, address},
    servers::{RedisServer, USER},
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
