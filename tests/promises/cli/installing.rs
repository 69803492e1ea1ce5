//! What packages are made of: completions, man pages, and the health check of a container.

use axum::routing::get;

use super::*;

#[tokio::test]
async fn each_shell_gets_completions_of_every_command() {
    for shell in ["bash", "zsh", "fish"] {
        let ran = run(&["completions", shell], &[], "").await;
        assert_eq!((ran.code, ran.err.as_str()), (0, ""), "{shell}");
        for word in ["pregon", "campaign", "submit", "max-rejected"] {
            assert!(ran.out.contains(word), "{shell}: {word}");
        }
    }
    assert_eq!(run(&["completions", "tcl"], &[], "").await.code, 2);
}

#[tokio::test]
async fn there_is_a_man_page_for_every_command() {
    let dir = tempfile::tempdir().expect("a directory");
    let folder = dir.path().join("man");
    let ran = run(&["man", folder.to_str().expect("text")], &[], "").await;
    assert_eq!(ran.code, 0, "{ran:?}");
    for page in ["pregon.1", "pregon-serve.1", "pregon-campaign-submit.1"] {
        let text = std::fs::read_to_string(folder.join(page)).expect(page);
        assert!(text.contains(".TH ") && text.contains(".SH SYNOPSIS"), "{page}: {text}");
    }
}

#[tokio::test]
async fn health_exits_with_the_health_of_a_process() {
    let router = Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(|| async { StatusCode::SERVICE_UNAVAILABLE }));
    let url = serve(router).await;
    let healthy = run(&["health", &format!("{url}/healthz")], &[], "").await;
    assert_eq!((healthy.code, healthy.out.as_str(), healthy.err.as_str()), (0, "", ""));
    let ready = format!("{url}/readyz");
    let ran = run(&["health"], &[("PREGON_HEALTH_URL", &ready)], "").await;
    assert_eq!((ran.code, ran.err), (1, format!("pregon: {ready} answers 503\n")));
    let ran = run(&["health", "http://127.0.0.1:9/healthz"], &[], "").await;
    assert_eq!((ran.code, ran.err.as_str()), (1, "pregon: http://127.0.0.1:9/healthz does not answer\n"));
}
