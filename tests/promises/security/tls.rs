//! HTTPS on the listener of the API.

use std::{fs, path::PathBuf, process::Command};

use pregon::{config::TlsConfig, http::tls::Tls};
use reqwest::{Certificate, tls::TlsInfo};
use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, pem::PemObject as _},
};
use tempfile::TempDir;

use super::kit::{KEY, Worker, head};
use crate::support::until;

pub fn fixture(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tls").join(name)
}

/// A certificate and its key in a temporary directory, so that a test can replace them.
pub struct Files(TempDir);

impl Files {
    pub fn of(name: &str) -> Self {
        let files = Self(tempfile::tempdir().expect("a directory"));
        files.replace_with(name);
        files
    }

    fn replace_with(&self, name: &str) {
        let TlsConfig { certificate, key } = self.config();
        fs::copy(fixture(&format!("{name}.pem")), certificate).expect("the certificate");
        fs::copy(fixture(&format!("{name}.key")), key).expect("the key");
    }

    pub fn config(&self) -> TlsConfig {
        TlsConfig { certificate: self.0.path().join("tls.pem"), key: self.0.path().join("tls.key") }
    }
}

/// What a client has to trust to connect.
pub fn authorities() -> RootCertStore {
    let mut authorities = RootCertStore::empty();
    let ca = CertificateDer::from_pem_file(fixture("ca.pem")).expect("the CA");
    authorities.add(ca).expect("a certificate");
    authorities
}

/// The certificate that a new connection gets, in DER.
async fn shown(worker: &Worker) -> Vec<u8> {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let ca = Certificate::from_pem(&fs::read(fixture("ca.pem")).expect("the CA")).expect("a certificate");
    let http = reqwest::Client::builder().no_proxy().tls_certs_only([ca]).tls_info(true).build().expect("a client");
    let answer =
        http.get(format!("https://{}/v1/lines", worker.http)).bearer_auth(KEY).send().await.expect("an answer");
    assert_eq!(answer.status().as_u16(), 200);
    answer.extensions().get::<TlsInfo>().and_then(TlsInfo::peer_certificate).expect("a certificate").to_vec()
}

#[tokio::test]
async fn only_https_is_served() {
    let files = Files::of("first");
    let worker = Worker::start(|config| config.http.tls = Some(files.config())).await;
    shown(&worker).await;
    assert!(worker.ask(head("GET", "/lines", "").as_bytes()).await.is_none(), "plain HTTP is not answered");
    let untrusting = reqwest::Client::builder().no_proxy().build().expect("a client");
    let refused = untrusting.get(format!("https://{}/v1/lines", worker.http)).send().await;
    assert!(refused.is_err_and(|error| error.is_connect()), "a client without the CA does not connect");
    worker.stop().await;
}

#[tokio::test]
async fn sighup_reloads_the_certificate_unless_it_is_invalid() {
    let files = Files::of("first");
    let worker = Worker::start(|config| config.http.tls = Some(files.config())).await;
    let first = shown(&worker).await;
    files.replace_with("second");
    let hang_up = || {
        let sent =
            Command::new("sh").args(["-c", "kill -s HUP \"$1\"", "sh", &std::process::id().to_string()]).status();
        assert!(sent.expect("a shell").success());
    };
    hang_up();
    until("the second certificate is shown", async || shown(&worker).await != first).await;
    let second = shown(&worker).await;
    fs::write(files.config().certificate, "no certificate").expect("written");
    hang_up();
    assert_eq!(shown(&worker).await, second);
    worker.stop().await;
}

#[tokio::test]
async fn the_command_line_trusts_the_ca_of_its_option() {
    let files = Files::of("first");
    let worker = Worker::start(|config| config.http.tls = Some(files.config())).await;
    let server = format!("https://{}", worker.http);
    let run = async |ca: Option<PathBuf>| {
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_pregon"));
        command
            .args(["line", "list", "--json", "--server", &server])
            .env("PREGON_API_KEY", KEY)
            .env_remove("PREGON_CA");
        if let Some(ca) = ca {
            command.arg("--ca").arg(ca);
        }
        let output = command.output().await.expect("the program");
        (output.status.code(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
    };
    let (code, printed) = run(Some(fixture("ca.pem"))).await;
    assert!(code == Some(0) && printed.contains("3001"), "{code:?}: {printed}");
    let (code, printed) = run(None).await;
    assert!(code == Some(1) && printed.contains("--ca"), "{code:?}: {printed}");
    for (ca, why) in [("nowhere.pem", "No such file"), ("first.key", "no certificate")] {
        let (code, printed) = run(Some(fixture(ca))).await;
        assert!(code == Some(2) && printed.contains(why), "{code:?}: {printed}");
    }
    worker.stop().await;
}

#[test]
fn an_unusable_certificate_is_reported_with_its_file() {
    let load_error = |certificate: &str, key: &str| {
        let files = TlsConfig { certificate: fixture(certificate), key: fixture(key) };
        Tls::load(&files).err().expect("no TLS").to_string()
    };
    assert!(Tls::load(&TlsConfig { certificate: fixture("first.pem"), key: fixture("first.key") }).is_ok());
    assert!(
        load_error("nowhere.pem", "first.key").starts_with("http.tls.certificate = "),
        "{}",
        load_error("nowhere.pem", "first.key")
    );
    assert!(load_error("first.pem", "nowhere.key").starts_with("http.tls.key = "));
    assert!(
        load_error("first.key", "first.key").ends_with("holds no certificate"),
        "{}",
        load_error("first.key", "first.key")
    );
    assert!(load_error("first.pem", "second.key").starts_with("http.tls can't be used: "));
}
