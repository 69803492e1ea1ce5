//! `pregon suppression`.

use super::*;

const PHONE: &str = "+5491155550001";

fn suppression(phone: &str, scope: &str) -> Value {
    json!({
        "phone": phone, "business": "1001", "scope": scope, "reason": "opt_out", "since": "2026-11-22T09:00:00Z",
        "source": "api",
    })
}

#[tokio::test]
async fn people_are_suppressed_and_shown() {
    let put = |phone: &str| format!("PUT /v1/suppressions/{phone}");
    let stored = || Answer::Json(200, suppression(PHONE, "marketing"));
    let get = format!("GET /v1/suppressions/{PHONE}?business=1001");
    let refused = problem(404, "there is no business 9");
    let server = Server::start([(&put(PHONE), stored()), (&put("+5491155550002"), refused), (&get, stored())]).await;
    let add = ["suppression", "add", PHONE, "+5491155550002", "--scope", "marketing", "--business", "1001"];
    let ran = server.run(&add).await;
    let text =
        format!("{PHONE} gets no marketing messages from business 1001 since 2026-11-22T09:00:00Z (opt_out, api)\n");
    assert_eq!((ran.code, &ran.out), (1, &text), "{ran:?}");
    assert_eq!(ran.err, "pregon: +5491155550002: there is no business 9 (HTTP 404)\n");
    let wanted = json!({ "business": "1001", "scope": "marketing", "reason": "opt_out" });
    assert_eq!(server.calls()[0].json(), wanted);
    let ran = server.run(&["suppression", "show", PHONE, "--business", "1001"]).await;
    assert_eq!((ran.code, ran.out), (0, text));
    let ran = server.run(&["suppression", "show", PHONE, "--business", "1001", "--json"]).await;
    assert_eq!(ran.json(), [suppression(PHONE, "marketing")]);
    for bad in [["add", "5491155550001", "--scope", "all"], ["add", PHONE, "--scope", "some"]] {
        let ran = server.run(&[&["suppression"], bad.as_slice()].concat()).await;
        assert_eq!(ran.code, 2, "{ran:?}");
    }
}

#[tokio::test]
async fn suppressions_are_ended_individually() {
    let delete = |phone: &str| format!("DELETE /v1/suppressions/{phone}");
    let other = "+5491155550002";
    let ended = Answer::Text("text/plain", String::new(), false);
    let server = Server::start([(&delete(other), problem(404, "it is not suppressed")), (&delete(PHONE), ended)]).await;
    let ran = server.run(&["suppression", "remove", other, PHONE]).await;
    assert_eq!((ran.code, ran.out), (1, format!("{PHONE} gets messages again\n")));
    assert_eq!(ran.err, format!("pregon: {other}: it is not suppressed (HTTP 404)\n"));
    let ran = server.run(&["suppression", "remove", PHONE, "--json"]).await;
    assert_eq!((ran.code, ran.json()), (0, vec![json!({ "phone": PHONE, "removed": true })]));
}

#[tokio::test]
async fn suppressions_are_listed_over_all_pages() {
    let page = |person, next: Option<&str>| Answer::Json(200, json!({ "suppressions": [person], "next": next }));
    let server = Server::start([
        ("GET /v1/suppressions", page(suppression(PHONE, "all"), Some("7"))),
        ("GET /v1/suppressions?cursor=7", page(suppression("+5491155550002", "marketing"), None)),
    ])
    .await;
    let ran = server.run(&["suppression", "list"]).await;
    let row = ran.out.lines().last().expect("a row");
    assert_eq!(row.trim(), "+5491155550002  marketing  opt_out  2026-11-22T09:00:00Z  api");
    let ran = server.run(&["suppression", "list", "--limit", "1"]).await;
    assert!(ran.out.contains("Only 1 are shown; a larger --limit shows more, and `export` writes all."), "{ran:?}");
    assert_eq!(server.run(&["suppression", "list", "--json"]).await.json()[0]["suppressions"][1]["scope"], "marketing");
}

#[tokio::test]
async fn a_list_is_imported_and_exported() {
    let call = "POST /v1/suppressions?business=1001&scope=all&reason=register&ignore=email";
    let cut = Answer::Text("application/json", r#"{"accep"#.into(), true);
    let export = "phone,business,scope,reason,since,source\r\n";
    let server = Server::start([
        (call, cut),
        (call, uploaded()),
        ("GET /v1/suppressions.csv", Answer::Text("text/csv", export.into(), false)),
    ])
    .await;
    let (_dir, file) = recipients();
    let options = ["--business", "1001", "--scope", "all", "--reason", "register", "--ignore", "email"];
    let import = [&["suppression", "import", &file], options.as_slice()].concat();
    let ran = server.run(&import).await;
    assert!(ran.code == 1 && ran.out.starts_with("2 suppressed, 1 rejected\n\n"), "{ran:?}");
    assert!(ran.out.contains("line 4  not_e164"), "{ran:?}");
    let printed = "pregon: 1 row is rejected, more than --max-rejected 0 allows: the people in rejected rows still get \
        messages; correct the file and import it again\n";
    assert_eq!(ran.err, printed);
    let [first, second] = server.calls().try_into().expect("a call that was cut, and its repetition");
    assert_eq!(
        (&first.body, &first.content_type, &first.upload_id),
        (&CSV.into(), &"text/csv".into(), &second.upload_id)
    );
    assert_eq!(server.run(&[&import[..], &["--max-rejected", "1"]].concat()).await.code, 0);
    let ran = server.run(&["suppression", "export"]).await;
    assert_eq!((ran.code, ran.out.as_str()), (0, export));
}
