//! The command line as people and scripts use it, against a scripted server that responds as the API documentation
//! says.

mod checking;
mod database;
mod demo;
mod failing;
mod finding;
mod forgetting;
mod helping;
mod installing;
mod managing;
mod screen;
mod setting_up;
mod staffing;
mod submitting;
mod suppressing;
mod tailing;
mod watching;

use std::{
    collections::{HashMap, VecDeque},
    process::Stdio,
    sync::{Arc, Mutex},
};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::State,
    http::{HeaderMap, Method, StatusCode, Uri, header},
    response::{IntoResponse, Response},
};
use futures_util::stream;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{io::AsyncWriteExt as _, process::Command};

use crate::support::{redis::TestRedis, serve::serve};

const ID: &str = "01JD8Z2V3W4X5Y6Z7A8B9C0D1E";
const CSV: &str = "to,1\n+5491155550001,Maria\n+5491155550002,Juan\nnobody,Ana\n";

/// A request that the server received.
#[derive(Clone, Debug, Default)]
struct Call {
    /// Method and URI, such as `POST /v1/campaigns?state=draft`.
    target: String,
    key: String,
    content_type: String,
    content_encoding: String,
    upload_id: String,
    body: String,
}

impl Call {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).expect("JSON")
    }
}

/// A response of the scripted server.
#[derive(Clone)]
enum Answer {
    Json(u16, Value),
    /// Content type, body, and whether the connection breaks at the end of the body.
    Text(&'static str, String, bool),
    /// No response.
    Never,
}

impl IntoResponse for Answer {
    fn into_response(self) -> Response {
        match self {
            Answer::Never => unreachable!("it has no response"),
            Answer::Json(status, value) => {
                let kind = if status < 400 { "application/json" } else { "application/problem+json" };
                let status = StatusCode::from_u16(status).expect("a status");
                (status, [(header::CONTENT_TYPE, kind)], value.to_string()).into_response()
            }
            Answer::Text(kind, text, breaks) => {
                let end = breaks.then(|| Err(std::io::Error::other("the connection breaks here")));
                let body = Body::from_stream(stream::iter([Ok(Bytes::from(text))].into_iter().chain(end)));
                ([(header::CONTENT_TYPE, kind)], body).into_response()
            }
        }
    }
}

/// A server with one API key and a script: each request gets its responses in turn. The last response is repeated.
#[derive(Clone, Default)]
struct Server {
    url: String,
    script: Arc<Mutex<HashMap<String, VecDeque<Answer>>>>,
    calls: Arc<Mutex<Vec<Call>>>,
}

impl Server {
    async fn start<const N: usize>(script: [(&str, Answer); N]) -> Self {
        let mut server = Self::default();
        for (call, answer) in script {
            server.script.lock().expect("unpoisoned").entry(call.to_owned()).or_default().push_back(answer);
        }
        server.url = serve(Router::new().fallback(answer).with_state(server.clone())).await;
        server
    }

    fn calls(&self) -> Vec<Call> {
        self.calls.lock().expect("unpoisoned").clone()
    }

    fn targets(&self) -> Vec<String> {
        self.calls().into_iter().map(|call| call.target).collect()
    }

    /// Runs the program against this server, with its key.
    async fn run(&self, arguments: &[&str]) -> Ran {
        self.run_with(arguments, "").await
    }

    async fn run_with(&self, arguments: &[&str], stdin: &str) -> Ran {
        run(arguments, &[("PREGON_SERVER", &self.url), ("PREGON_API_KEY", "good-key")], stdin).await
    }
}

async fn answer(State(server): State<Server>, method: Method, uri: Uri, headers: HeaderMap, body: Bytes) -> Response {
    let header = |name: &str| headers.get(name).map_or("", |value| value.to_str().expect("text")).to_owned();
    let call = Call {
        target: format!("{method} {uri}"),
        key: header("authorization"),
        content_type: header("content-type"),
        content_encoding: header("content-encoding"),
        upload_id: header("upload-id"),
        body: String::from_utf8_lossy(&body).into_owned(),
    };
    if call.key != "Bearer good-key" {
        return problem(401, "send `Authorization: Bearer KEY`").into_response();
    }
    let target = call.target.clone();
    server.calls.lock().expect("unpoisoned").push(call);
    let given = match server.script.lock().expect("unpoisoned").get_mut(&target) {
        Some(answers) if answers.len() > 1 => answers.pop_front().expect("more than one"),
        Some(answers) => answers[0].clone(),
        None => problem(404, &format!("the script has no {target}")),
    };
    match given {
        Answer::Never => std::future::pending().await,
        given => given.into_response(),
    }
}

fn problem(status: u16, detail: &str) -> Answer {
    Answer::Json(status, json!({ "type": "urn:pregon:problem:x", "title": "x", "status": status, "detail": detail }))
}

/// How a run of the program ended.
#[derive(Debug)]
struct Ran {
    code: i32,
    out: String,
    err: String,
}

impl Ran {
    /// Every line of the output as JSON.
    fn json(&self) -> Vec<Value> {
        self.out.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
    }
}

fn program(arguments: &[&str], environment: &[(&str, &str)]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pregon"));
    command.args(arguments).env_clear().envs(environment.iter().copied());
    command.env("PATH", std::env::var_os("PATH").unwrap_or_default());
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    command
}

async fn run(arguments: &[&str], environment: &[(&str, &str)], stdin: &str) -> Ran {
    let mut child = program(arguments, environment).spawn().expect("the program");
    let mut input = child.stdin.take().expect("piped");
    // A program that needs no input may have exited by now.
    let _ = input.write_all(stdin.as_bytes()).await;
    drop(input);
    let output = child.wait_with_output().await.expect("an exit status");
    let text = |bytes| String::from_utf8(bytes).expect("text");
    Ran { code: output.status.code().expect("an exit code"), out: text(output.stdout), err: text(output.stderr) }
}

fn campaign(state: &str, statistics: Value) -> Value {
    json!({
        "id": ID, "external_id": null, "name": "spring sale", "state": state,
        "template": { "name": "spring_sale", "language": "es_AR" }, "lines": ["3001"], "priority": 5, "on_doubt": "hold",
        "start_at": null, "expires_at": null, "created_at": "2026-11-22T17:00:00Z", "started_at": null, "ended_at": null,
        "statistics": statistics,
    })
}

/// Statistics of a campaign with two recipients, `read` of them read and the others pending.
fn statistics(read: u64) -> Value {
    json!({
        "recipients": 2,
        "by_state": { "pending": 2 - read, "in_flight": 0, "retrying": 0, "in_doubt": 0, "accepted": 0, "sent": 0, "delivered": 0,
            "read": read, "failed": 0, "skipped": 0, "expired": 0, "cancelled": 0, "unknown": 0 },
        "funnel": { "attempted": read, "accepted": read, "sent": read, "delivered": read, "read": read, "replied": 0 },
        "failures": [], "rate_per_second": 0.5, "eta": null,
        "waiting_for": [{ "reason": "line_rate", "line": "3001", "text": "line 3001 may send 0.5 a second" }],
    })
}

fn event(name: &str, data: &Value) -> String {
    format!("event: {name}\ndata: {data}\n\n")
}

fn created() -> (&'static str, Answer) {
    (
        "POST /v1/campaigns",
        Answer::Json(201, json!({ "id": ID, "state": "draft", "accepted": 0, "rejected_count": 0, "rejected": [] })),
    )
}

/// The response to an upload of [`CSV`].
fn uploaded() -> Answer {
    Answer::Json(
        200,
        json!({
            "accepted": 2, "rejected_count": 1,
            "rejected": [{ "row": 3, "line": 4, "code": "not_e164", "reason": "`to` is not a phone number in E.164" }],
        }),
    )
}

fn upload_call() -> String {
    format!("POST /v1/campaigns/{ID}/recipients")
}

fn delete_call() -> (String, Answer) {
    (format!("DELETE /v1/campaigns/{ID}"), Answer::Text("text/plain", String::new(), false))
}

fn launch_call() -> String {
    format!("POST /v1/campaigns/{ID}/launch")
}

/// A temporary directory with [`CSV`] in a file, and the path of the file.
fn recipients() -> (TempDir, String) {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("spring sale.csv");
    std::fs::write(&path, CSV).expect("written");
    let path = path.to_str().expect("text").to_owned();
    (dir, path)
}

const TEMPLATE: [&str; 4] = ["--template", "spring_sale/es_AR", "--line", "3001"];

fn submit<'a>(file: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    [&["campaign", "submit", file], TEMPLATE.as_slice(), more].concat()
}
