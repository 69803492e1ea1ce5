//! HTTPS on the listener of the API.

use std::{fs, path::PathBuf, process::Command};

use pregon::{config::TlsConfig, http::tls::Tls};
use reqwest::{Certificate, tls::TlsInfo};
use tempfile::TempDir;

use super::kit::{KEY, Worker, head};
use crate::support::until;

fn fixture(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tls").join(name)
}

/// A certificate and its key, in a place where they may be changed.
struct Files(TempDir);

impl Files {
    fn of(name: &str) -> Self {
        let files = Self(tempfile::tempdir().expect("a directory"));
        files.become_(name);
        files
    }

    fn become_(&self, name: &str) {
        let TlsConfig { certificate, key } = self.config();
        fs::copy(fixture(&format!("{name}.pem")), certificate).expect("the certificate");
        fs::copy(fixture(&format!("{name}.key")), key).expect("the key");
    }

    fn config(&self) -> TlsConfig {
        TlsConfig { certificate: self.0.path().join("tls.pem"), key: self.0.path().join("tls.key") }
    }
}

/// Which certificate a new connection is shown.
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
async fn https_is_spoken_and_nothing_else() {
    let files = Files::of("first");
    let worker = Worker::start(|config| config.http.tls = Some(files.config())).await;
    shown(&worker).await;
    assert!(worker.ask(head("GET", "/lines", "").as_bytes()).await.is_none(), "plain HTTP is not answered");
    let stranger = reqwest::Client::builder().no_proxy().build().expect("a client");
    let refused = stranger.get(format!("https://{}/v1/lines", worker.http)).send().await;
    assert!(refused.is_err_and(|error| error.is_connect()), "its CA is known to those only who are told");
    worker.stop().await;
}

#[tokio::test]
async fn a_certificate_is_read_again_on_sighup_and_a_bad_one_changes_nothing() {
    let files = Files::of("first");
    let worker = Worker::start(|config| config.http.tls = Some(files.config())).await;
    let first = shown(&worker).await;
    files.become_("second");
    assert_eq!(shown(&worker).await, first, "not before it is told to");
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
async fn the_command_line_trusts_a_ca_that_it_is_told() {
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
    let (code, told) = run(Some(fixture("ca.pem"))).await;
    assert!(code == Some(0) && told.contains("3001"), "{code:?}: {told}");
    let (code, told) = run(None).await;
    assert!(code == Some(1) && told.contains("--ca"), "{code:?}: {told}");
    for (ca, why) in [("nowhere.pem", "No such file"), ("first.key", "no certificate")] {
        let (code, told) = run(Some(fixture(ca))).await;
        assert!(code == Some(2) && told.contains(why), "{code:?}: {told}");
    }
    worker.stop().await;
}

#[test]
fn a_certificate_that_can_not_be_used_is_told_with_its_file() {
    let told = |certificate: &str, key: &str| {
        let files = TlsConfig { certificate: fixture(certificate), key: fixture(key) };
        Tls::load(files).err().expect("no TLS").to_string()
    };
    assert!(Tls::load(TlsConfig { certificate: fixture("first.pem"), key: fixture("first.key") }).is_ok());
    assert!(
        told("nowhere.pem", "first.key").starts_with("http.tls.certificate = "),
        "{}",
        told("nowhere.pem", "first.key")
    );
    assert!(told("first.pem", "nowhere.key").starts_with("http.tls.key = "));
    assert!(told("first.key", "first.key").ends_with("holds no certificate"), "{}", told("first.key", "first.key"));
    assert!(told("first.pem", "second.key").starts_with("http.tls can't be used: "));
}
