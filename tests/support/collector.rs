//! A collector of traces, which takes OTLP by HTTP, in JSON, as the OpenTelemetry collector does.

use std::sync::{Arc, Mutex};

use axum::{Json, Router, extract::State, http::HeaderMap, routing::post};
use serde_json::Value;

use super::serve::serve;

type Requests = Arc<Mutex<Vec<(HeaderMap, Value)>>>;

/// What a collector got.
pub struct Collector {
    pub url: String,
    got: Requests,
}

/// A span, and the process that it comes from.
#[derive(Clone, Debug)]
pub struct Span {
    /// `service.instance.id`.
    pub process: String,
    json: Value,
}

impl Collector {
    pub async fn start() -> Self {
        let got = Requests::default();
        let router = Router::new().route("/v1/traces", post(take)).with_state(got.clone());
        Self { url: serve(router).await, got }
    }

    /// The spans, in the order in which they came.
    pub fn spans(&self) -> Vec<Span> {
        let got = self.got.lock().expect("no panic under the lock");
        let of_processes = got.iter().flat_map(|(_, request)| list(&request["resourceSpans"]));
        let spans = of_processes.flat_map(|of_process| {
            let process = attribute(&of_process["resource"], "service.instance.id").expect("the process");
            let spans = list(&of_process["scopeSpans"]).iter().flat_map(|scope| list(&scope["spans"]));
            spans.map(move |json| Span { process: process.clone(), json: json.clone() })
        });
        spans.collect()
    }

    /// The header `name` of each request.
    pub fn headers(&self, name: &str) -> Vec<String> {
        let got = self.got.lock().expect("no panic under the lock");
        got.iter().map(|(headers, _)| headers[name].to_str().expect("text").to_owned()).collect()
    }
}

impl Span {
    /// A field of the span that is a text; empty if it is missing.
    pub fn field(&self, name: &str) -> &str {
        self.json[name].as_str().unwrap_or_default()
    }

    /// The time of `startTimeUnixNano` or `endTimeUnixNano`.
    pub fn nanoseconds(&self, name: &str) -> u64 {
        self.field(name).parse().expect("a number as text")
    }

    /// The trace and the span of each link.
    pub fn links(&self) -> Vec<(&str, &str)> {
        let links = list(&self.json["links"]).iter();
        links.filter_map(|link| link["traceId"].as_str().zip(link["spanId"].as_str())).collect()
    }

    pub fn attribute(&self, key: &str) -> Option<String> {
        attribute(&self.json, key)
    }
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).expect("a list")
}

fn attribute(of: &Value, key: &str) -> Option<String> {
    let value = &list(&of["attributes"]).iter().find(|attribute| attribute["key"] == key)?["value"];
    let text = value["stringValue"].as_str().or(value["intValue"].as_str());
    Some(text.unwrap_or_else(|| panic!("{value} is neither a text nor a number")).to_owned())
}

async fn take(State(got): State<Requests>, headers: HeaderMap, Json(request): Json<Value>) -> Json<Value> {
    got.lock().expect("no panic under the lock").push((headers, request));
    Json(Value::Object(Default::default()))
}
