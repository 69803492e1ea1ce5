//! What applies to every request: API keys and their scopes, error responses, and limits.

use metrics_exporter_prometheus::PrometheusBuilder;
use pregon::config::KeyScope;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use super::harness::{Answer, Api, BODY_BYTES_MAX, KEY, KEY_FAILURES_PER_MINUTE, answer, campaign, key_for, phone};

#[tokio::test]
async fn any_request_without_a_valid_key_is_unauthorized() {
    let api = Api::start().await;
    for path in ["/v1/campaigns", "/v1/campaigns/01J9ZK3V5T8R7Q6P5N4M3K2J1H/report.csv", "/v1/lines", "/nowhere", "/"] {
        for authorization in [None, Some("Bearer wrong"), Some("Basic azp0ZXN0"), Some(KEY)] {
            let request = api.http.get(format!("{}{path}", api.base));
            let request = match authorization {
                Some(value) => request.header("authorization", value),
                None => request,
            };
            let answer = answer(request).await;
            answer.problem(401, "unauthorized");
            assert_eq!(answer.headers["www-authenticate"], "Bearer");
        }
    }
    assert_eq!(api.get("/v1/lines").await.status, StatusCode::OK);
}

/// A request with this key.
async fn call(api: &Api, method: &Method, path: &str, key: &str) -> Answer {
    answer(api.http.request(method.clone(), format!("{}{path}", api.base)).bearer_auth(key)).await
}

#[tokio::test]
async fn a_key_is_limited_to_its_scopes() {
    use KeyScope::{Operate, Read, Submit};
    let api = Api::start().await;
    let campaign = format!("/v1/campaigns/{}", api.draft("spring", &["3001"], 1).await);
    let of_campaign = |rest: &str| format!("{campaign}{rest}");
    for (method, path, scope) in [
        (Method::GET, "/v1/campaigns".to_owned(), Read),
        (Method::HEAD, "/v1/campaigns".to_owned(), Read),
        (Method::GET, of_campaign(""), Read),
        (Method::GET, of_campaign("/recipients"), Read),
        (Method::GET, of_campaign("/recipients/+5491100000000"), Read),
        (Method::GET, of_campaign("/report.csv"), Read),
        (Method::GET, of_campaign("/preflight"), Read),
        (Method::GET, "/v1/lines".to_owned(), Read),
        (Method::GET, "/v1/lines/3001".to_owned(), Read),
        (Method::GET, "/v1/templates".to_owned(), Read),
        (Method::POST, "/v1/campaigns".to_owned(), Submit),
        (Method::POST, of_campaign("/recipients"), Submit),
        (Method::POST, of_campaign("/launch"), Submit),
        (Method::POST, of_campaign("/retry"), Submit),
        (Method::POST, of_campaign("/test"), Submit),
        (Method::POST, of_campaign("/pause"), Operate),
        (Method::POST, of_campaign("/resume"), Operate),
        (Method::POST, of_campaign("/cancel"), Operate),
        (Method::PATCH, of_campaign(""), Operate),
        (Method::PATCH, "/v1/lines/3001".to_owned(), Operate),
        (Method::POST, "/v1/lines/3001/pause".to_owned(), Operate),
        (Method::POST, "/v1/lines/3001/resume".to_owned(), Operate),
        (Method::POST, "/v1/templates/sync".to_owned(), Operate),
        (Method::GET, "/v1/businesses".to_owned(), Read),
        (Method::GET, "/v1/discovery".to_owned(), KeyScope::Admin),
        (Method::POST, "/v1/templates/2001/order_update/es_AR/unpause".to_owned(), Operate),
        (Method::GET, "/v1/holds".to_owned(), Read),
        (Method::POST, "/v1/holds/line:3001/lift".to_owned(), Operate),
        (Method::POST, "/v1/pause".to_owned(), Operate),
        (Method::POST, "/v1/resume".to_owned(), Operate),
    ] {
        for held in KeyScope::ALL {
            let answer = call(&api, &method, &path, &key_for(held)).await;
            if held == scope {
                assert!(![401, 403].contains(&answer.status.as_u16()), "{method} {path}: {answer:?}");
            } else if method == Method::HEAD {
                assert_eq!(answer.status, StatusCode::FORBIDDEN, "{path}");
            } else {
                let lacks = format!("needs the scope `{}`, which the key `{}`", scope.name(), held.name());
                assert!(answer.problem(403, "forbidden").contains(&lacks), "{method} {path}: {answer:?}");
            }
        }
        let whole = call(&api, &method, &path, KEY).await;
        assert!(![401, 403].contains(&whole.status.as_u16()), "{method} {path}: {whole:?}");
    }
    call(&api, &Method::GET, "/nowhere", &key_for(Submit)).await.problem(404, "not-found");
}

#[tokio::test]
async fn a_rejected_request_changes_nothing() {
    let api = Api::start().await;
    let campaign = format!("/v1/campaigns/{}", api.launched("spring", &["3001"], 1).await);
    for key in [key_for(KeyScope::Read), key_for(KeyScope::Submit), "wrong".into()] {
        let refused = call(&api, &Method::POST, &format!("{campaign}/cancel"), &key).await;
        assert!([401, 403].contains(&refused.status.as_u16()), "{refused:?}");
        assert_eq!(api.read(&campaign).await["state"], "running");
    }
    call(&api, &Method::POST, &format!("{campaign}/cancel"), &key_for(KeyScope::Operate)).await;
    assert_eq!(api.read(&campaign).await["state"], "cancelled");
}

#[tokio::test]
async fn guessing_keys_is_throttled_and_known_callers_are_not() {
    let api = Api::start().await;
    assert_eq!(api.get("/v1/lines").await.status, StatusCode::OK);
    let mut refused = None;
    for guess in 0..10 * KEY_FAILURES_PER_MINUTE {
        let answer = call(&api, &Method::GET, "/v1/lines", &format!("guess-{guess}")).await;
        if answer.status == StatusCode::TOO_MANY_REQUESTS {
            refused = Some((guess, answer));
            break;
        }
        answer.problem(401, "unauthorized");
    }
    let (guesses, refused) = refused.expect("a limit");
    assert!(guesses >= KEY_FAILURES_PER_MINUTE - 1, "throttled after {guesses} guesses");
    refused.problem(429, "too-many-unknown-keys");
    let wait: u64 = refused.headers["retry-after"].to_str().expect("text").parse().expect("seconds");
    assert!((1..=60).contains(&wait), "{wait}");
    // From now on, the address may try one unknown key every few seconds.
    let mut statuses = Vec::new();
    for _ in 0..20 {
        statuses.push(call(&api, &Method::GET, "/v1/lines", &key_for(KeyScope::Submit)).await.status);
        assert_eq!(api.get("/v1/lines").await.status, StatusCode::OK, "a key that this address used before");
    }
    let throttled = statuses.contains(&StatusCode::TOO_MANY_REQUESTS);
    assert!(throttled, "the response of a throttled address shows whether the key is valid: {statuses:?}");
}

/// The metrics recorder is local to a thread. The whole test, the server included, runs on that thread.
#[tokio::test]
async fn requests_are_counted_by_the_result_of_the_key_check() {
    let recorder = PrometheusBuilder::new().build_recorder();
    let page = recorder.handle();
    let _guard = metrics::set_default_local_recorder(&recorder);
    let api = Api::start().await;
    assert_eq!(api.get("/v1/lines").await.status, StatusCode::OK);
    answer(api.http.get(format!("{}/v1/lines", api.base))).await.problem(401, "unauthorized");
    call(&api, &Method::POST, "/v1/lines/3001/pause", &key_for(KeyScope::Read)).await.problem(403, "forbidden");
    while call(&api, &Method::GET, "/v1/lines", "guess").await.status != StatusCode::TOO_MANY_REQUESTS {}
    let page = page.render();
    let counted = |result: &str| {
        let series = format!("pregon_api_calls_total{{result=\"{result}\"}} ");
        page.lines().find_map(|line| line.strip_prefix(&series)?.parse::<u64>().ok()).unwrap_or_default()
    };
    assert_eq!(["admitted", "no_key", "no_scope", "too_often"].map(counted), [1, 1, 1, 1], "{page}");
    assert!(counted("unknown_key") >= u64::from(KEY_FAILURES_PER_MINUTE) - 2, "{page}");
}

#[tokio::test]
async fn unknown_resources_return_problems() {
    let api = Api::start().await;
    api.get("/v1/nothing").await.problem(404, "not-found");
    let unknown = "01J9ZK3V5T8R7Q6P5N4M3K2J1H";
    for id in [unknown, "x", "%ff", "01J9ZK3V5T8R7Q6P5N4M3K2J1H1"] {
        let kind = if id == "%ff" { "not-found" } else { "campaign-not-found" };
        for path in ["", "/recipients", "/recipients/+5491155550001", "/report.csv", "/events"] {
            api.get(&format!("/v1/campaigns/{id}{path}")).await.problem(404, kind);
        }
        for action in ["launch", "pause", "resume", "cancel"] {
            api.post(&format!("/v1/campaigns/{id}/{action}")).await.problem(404, kind);
        }
    }
    for (method, path) in [(Method::GET, "3009"), (Method::POST, "3009/pause"), (Method::POST, "3009/resume")] {
        answer(api.request(method, &format!("/v1/lines/{path}"))).await.problem(404, "line-not-found");
    }
    let wrong = answer(api.request(Method::DELETE, "/v1/lines/3001")).await;
    wrong.problem(405, "method-not-allowed");
    assert_eq!(wrong.headers["allow"], "GET,HEAD,PATCH");
}

#[tokio::test]
async fn a_malformed_body_is_rejected_and_changes_nothing() {
    let api = Api::start().await;
    let post = || api.request(Method::POST, "/v1/campaigns");
    let with = |body: String| post().header("content-type", "application/json").body(body);
    answer(post().body("{}")).await.problem(415, "unsupported-media-type");
    answer(post().header("content-type", "text/csv").body("{}")).await.problem(415, "unsupported-media-type");
    for (body, detail) in [
        ("", "the body can't be read: it ends in the middle (EOF while parsing a value), at column 0 of the JSON"),
        ("{", "it ends in the middle"),
        ("[]", "there is a list where an object is expected"),
        (" \n[1]", "there is a list where an object is expected, at line 2, column 0 of the JSON"),
        ("\"spring\"", "there is the text \"spring\" where an object is expected"),
        ("{name: 1}", "it is not JSON (key must be a string), at column 2 of the JSON"),
        (r#"{"name":"spring"}"#, "the field `template` is missing"),
        (
            r#"{"name":"spring","lanes":[]}"#,
            "there is no field `lanes`: its fields are `name`, `external_id`, `template`, ",
        ),
        (
            r#"{"name":"spring","priority":"high"}"#,
            "there is the text \"high\" where a whole number from 0 to 255 is expected",
        ),
        (r#"{"name":["spring"]}"#, "there is a list where a text is expected"),
        (r#"{"name":"spring","on_doubt":"send"}"#, "`send` is not one of `hold`, `resend`"),
        (
            r#"{"name":"spring","template":{"name":"a","language":"es_AR"},"lines":["3001"],"start_at":"soon"}"#,
            "start_at",
        ),
    ] {
        let answer = answer(with(body.into())).await;
        let said = answer.problem(400, "malformed-body");
        assert!(said.contains(detail) || detail == "start_at", "{body}: {said}");
    }
    let long = campaign(&"x".repeat(BODY_BYTES_MAX), &["3001"]).to_string();
    answer(with(long)).await.problem(413, "body-too-large");
    assert_eq!(api.read("/v1/campaigns").await, json!({ "campaigns": [], "next": null }));
}

#[tokio::test]
async fn a_list_in_place_of_an_object_is_rejected() {
    let api = Api::start().await;
    let recipient = json!({
        "to": phone(1), "params": { "1": "Maria", "2": "A-1" }, "header": { "link": "https://x.example/a.png" }, "buttons": { "0": "x" },
    });
    let mut new = campaign("spring", &["3001"]);
    new["recipients"] = json!([recipient]);
    let window = json!({ "from": "09:00", "to": "20:00", "days": ["mon"], "zone": "UTC" });
    let mut with_options = campaign("summer", &["3001"]);
    with_options["send_window"] = window.clone();
    with_options["opt_out_buttons"] = json!([{ "text": "No", "scope": "all" }]);
    with_options["frequency_cap"] = json!({ "messages": 2, "days": 7 });
    let (change, rate) = (json!({ "send_window": window }), json!({ "messages_per_second": 40 }));
    let mut n = 0;
    for (method, path, body) in [
        (Method::POST, "/v1/campaigns", new),
        (Method::POST, "/v1/campaigns", with_options),
        (Method::PATCH, "/v1/campaigns/01J9ZK3V5T8R7Q6P5N4M3K2J1H", change),
        (Method::PATCH, "/v1/lines/3001", rate),
    ] {
        for (at, listed) in with_lists(&body) {
            let answer = answer(api.request(method.clone(), path).json(&listed)).await;
            if at.starts_with("/recipients/") {
                assert_eq!(answer.body["rejected"][0]["code"], "malformed", "{path} {at}: {}", answer.body);
            } else {
                answer.problem(400, "malformed-body");
            }
            n += 1;
        }
    }
    assert_eq!(n, 14, "four bodies, two templates, two windows, a button, a cap, a recipient, and three objects in it");
}

/// Copies of `json`, each with one of its objects replaced by a list of the object's values, and the JSON pointer of
/// that object.
fn with_lists(json: &Value) -> Vec<(String, Value)> {
    fn pointers(json: &Value, at: &str, found: &mut Vec<String>) {
        let children: Vec<(String, &Value)> = match json {
            Value::Object(fields) => {
                found.push(at.to_owned());
                fields.iter().map(|(name, value)| (name.clone(), value)).collect()
            }
            Value::Array(values) => {
                values.iter().enumerate().map(|(index, value)| (index.to_string(), value)).collect()
            }
            _ => Vec::new(),
        };
        for (name, value) in children {
            pointers(value, &format!("{at}/{name}"), found);
        }
    }
    let mut found = Vec::new();
    pointers(json, "", &mut found);
    let listed = |at: &String| {
        let mut json = json.clone();
        let object = json.pointer_mut(at).expect("it was found");
        let values = object.as_object().expect("an object").values().cloned().collect();
        *object = Value::Array(values);
        (at.clone(), json)
    };
    found.iter().map(listed).collect()
}

#[tokio::test]
async fn an_invalid_query_string_is_rejected() {
    let api = Api::start().await;
    let id = api.draft("spring", &["3001"], 1).await;
    let recipients = format!("/v1/campaigns/{id}/recipients");
    for path in ["/v1/campaigns", &recipients, "/v1/lines", "/v1/templates"] {
        for query in ["limit=0", "limit=1001", "limit=x", "limit=-1", "cursor=%20", "states=failed", "limit=1&limit=2"]
        {
            let answer = api.get(&format!("{path}?{query}")).await;
            answer.problem(400, "invalid-query");
        }
        assert_eq!(api.get(&format!("{path}?limit=&cursor=")).await.status, StatusCode::OK, "{path}");
    }
    for path in ["/v1/campaigns", &recipients] {
        let answer = api.get(&format!("{path}?state=finished")).await;
        assert!(answer.problem(400, "invalid-query").contains("one of"), "{}", answer.body);
        assert_eq!(api.get(&format!("{path}?state=")).await.status, StatusCode::OK, "{path}");
    }
}

#[tokio::test]
async fn a_panic_returns_500_and_the_server_continues() {
    let api = Api::start().await;
    *api.synced.lock().expect("no panic under the lock") = None;
    let answer = api.post("/v1/templates/sync").await;
    assert!(!answer.problem(500, "internal").contains("the test wants"), "the cause is only logged");
    assert_eq!(api.get("/v1/lines").await.status, StatusCode::OK);
}

#[tokio::test]
async fn requests_during_a_redis_outage_return_503() {
    let mut api = Api::start().await;
    let id = api.draft("spring", &["3001"], 1).await;
    api.redis.kill_hard().await;
    for path in [
        "/v1/campaigns".to_owned(),
        format!("/v1/campaigns/{id}"),
        "/v1/lines".into(),
        format!("/v1/campaigns/{id}/report.csv"),
    ] {
        let answer = api.get(&path).await;
        assert_eq!(answer.problem(503, "unavailable"), "redis is not available", "a read changes nothing");
        assert_eq!(answer.headers["retry-after"], "2");
    }
    for path in [&format!("/v1/campaigns/{id}/launch"), "/v1/lines/3001/pause"] {
        let answer = api.post(path).await;
        let detail = answer.problem(503, "unavailable");
        assert!(detail.starts_with("redis is not available; the change may have been made."), "{detail}");
        assert_eq!(answer.headers["retry-after"], "2");
    }
    api.redis.restart().await;
    assert_eq!(api.get(&format!("/v1/campaigns/{id}")).await.status, StatusCode::OK);
}
