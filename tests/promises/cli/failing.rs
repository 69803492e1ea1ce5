//! Failures: the message names a remedy, and the exit code tells the kinds of failure apart.

use tokio::net::TcpListener;

use super::*;

#[tokio::test]
async fn a_rejected_key_is_reported_and_not_printed() {
    let server = Server::start([]).await;
    let with_key = [("PREGON_SERVER", server.url.as_str()), ("PREGON_API_KEY", "wrong-key")];
    let ran = run(&["campaign", "list"], &with_key, "").await;
    assert_eq!(ran.code, 1);
    assert!(ran.err.contains("does not know this key: set PREGON_API_KEY"), "{ran:?}");
    assert!(!ran.err.contains("wrong-key"), "{ran:?}");
    let ran = run(&["line", "list", "--server", &server.url], &[], "").await;
    assert!(ran.code == 1 && ran.err.contains("asks for a key: set PREGON_API_KEY"), "{ran:?}");
}

#[tokio::test]
async fn an_unreachable_server_is_reported_with_a_remedy() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    drop(listener);
    for arguments in [&["campaign", "list"][..], &["campaign", "watch", ID], &["line", "show", "3001"]] {
        let ran = run(&[arguments, &["--server", &url]].concat(), &[], "").await;
        assert_eq!(ran.code, 1, "{ran:?}");
        assert!(ran.err.starts_with(&format!("pregon: no server answers at {url}/ (Connection refused")), "{ran:?}");
        assert!(ran.err.contains("start one with `pregon serve`, or name another with --server"), "{ran:?}");
    }
}

#[tokio::test]
async fn all_problems_reported_by_the_server_are_printed() {
    let faults = json!({
        "type": "urn:pregon:problem:invalid-campaign", "title": "invalid campaign", "status": 422,
        "detail": "the campaign can't be taken", "problems": ["there is no line 3001", "template spring_sale is \
        PAUSED"],
    });
    let server = Server::start([("POST /v1/campaigns", Answer::Json(422, faults))]).await;
    let (_dir, file) = recipients();
    let ran = server.run(&submit(&file, &[])).await;
    let printed =
        "pregon: the campaign can't be taken\n  there is no line 3001\n  template spring_sale is PAUSED (HTTP 422)\n";
    assert_eq!((ran.code, ran.err.as_str()), (1, printed));
}

#[tokio::test]
async fn a_problem_of_the_api_is_printed_with_a_remedy() {
    let refused = |status: u16, kind: &str, detail: &str| {
        let kind = format!("urn:pregon:problem:{kind}");
        Answer::Json(status, json!({ "type": kind, "title": "x", "status": status, "detail": detail }))
    };
    let campaign = format!("GET /v1/campaigns/{ID}");
    let server = Server::start([
        ("GET /v1/lines/9", refused(404, "line-not-found", "there is no line 9 in the configuration")),
        (&campaign, refused(404, "campaign-not-found", "there is no such campaign")),
        ("DELETE /v1/jobs/dead/9-0", refused(404, "dead-letter-not-found", "there is no dead letter 9-0")),
    ])
    .await;
    let ran = server.run(&["line", "show", "9"]).await;
    let text = "there is no line 9 in the configuration (HTTP 404)\n`pregon line list` shows the lines.\n";
    assert_eq!((ran.code, ran.err), (1, format!("pregon: {text}")));
    let ran = server.run(&["campaign", "show", ID]).await;
    assert!(ran.code == 1 && ran.err.contains("\n`pregon campaign list` shows the campaigns"), "{ran:?}");
    let ran = server.run(&["job", "delete", "9-0"]).await;
    let text = "there is no dead letter 9-0 (HTTP 404)\n`pregon job list` shows the dead letters.\n";
    assert_eq!((ran.code, ran.err), (1, format!("pregon: {text}")), "the only one is not named again");
    let ran = server.run(&["job", "show", "9"]).await;
    assert!(ran.code == 2 && ran.err.contains("`pregon job list` shows"), "{ran:?}");
}

#[tokio::test]
async fn a_server_that_is_not_pregon_is_reported() {
    let server =
        Server::start([("GET /v1/lines", Answer::Text("text/html", "<h1>It works!</h1>".into(), false))]).await;
    let ran = server.run(&["line", "list"]).await;
    assert!(ran.code == 1 && ran.err.contains("not pregon's (HTTP 200: <h1>It works!</h1>)"), "{ran:?}");
}

#[tokio::test]
async fn a_closed_output_pipe_does_not_panic() {
    let server = Server::start([("GET /v1/lines", Answer::Json(200, json!({ "lines": [], "next": null })))]).await;
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    let environment = [("PREGON_SERVER", server.url.as_str()), ("PREGON_API_KEY", "good-key")];
    let child = program(&["line", "list"], &environment).stdout(writer).spawn().expect("the program");
    let output = child.wait_with_output().await.expect("an exit status");
    assert_eq!((output.status.code(), String::from_utf8(output.stderr).as_deref()), (Some(1), Ok("")));
}

#[tokio::test]
async fn an_invalid_command_line_exits_2_without_a_request() {
    let server = Server::start([]).await;
    let (dir, file) = recipients();
    let spreadsheet = dir.path().join("people.xlsx");
    std::fs::write(&spreadsheet, "").expect("written");
    let spreadsheet = spreadsheet.to_str().expect("text");
    let bad = [
        &[][..],
        &["launch"],
        &["campaign", "submit", &file, "--template", "spring_sale/es_AR"],
        &["campaign", "submit", &file, "--template", "spring_sale", "--line", "3001"],
        &["campaign", "submit", spreadsheet, "--template", "spring_sale/es_AR", "--line", "3001"],
        &submit(&file, &["--priority", "11"]),
        &submit(&file, &["--start-at", "tomorrow"]),
        &submit(&file, &["--no-launch", "--watch"]),
        &["campaign", "show", ""],
        &["campaign", "recipients", ID, "--state", "lost"],
        &["campaign", "list", "--limit", "1e-3"],
        &["demo", "--recipients", "1e7"],
        &["campaign", "list", "--state", "melting"],
        &["line", "rate", "3001"],
        &["line", "rate", "3001", "0"],
        &["line", "list", "--server", "localhost:8080"],
        &["serve", "--roles", "api,cook"],
    ];
    for arguments in bad {
        let ran = server.run(arguments).await;
        assert_eq!((ran.code, ran.out.as_str()), (2, ""), "{arguments:?}: {ran:?}");
        assert!(!ran.err.is_empty(), "{arguments:?}");
    }
    assert_eq!(server.targets(), [""; 0]);
}

#[tokio::test]
async fn a_simulator_that_cannot_start_prints_the_reason() {
    let taken = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = taken.local_addr().expect("an address").to_string();
    let ran = run(&["sim", "--listen", &address], &[], "").await;
    assert!(
        ran.code == 1 && ran.err.contains(&format!("cannot listen on {address}: Address already in use")),
        "{ran:?}"
    );
    let ran = run(&["sim", "--config", "storm", "--listen", "127.0.0.1:0"], &[], "").await;
    assert!(ran.code == 2 && ran.err.contains("there is no scenario `storm`"), "{ran:?}");
}
