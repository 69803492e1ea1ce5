//! Templates as Meta lists them: which are known, which can be used, and when they are read again.

mod support;

use std::sync::{Arc, Mutex};

use axum::{Json, Router, extract::State, routing::get};
use pregon::{
    domain::{Secret, Template},
    graph::{GraphClient, GraphConfig},
    store::Store,
    templates,
};
use serde_json::{Value, json};
use support::{redis::TestRedis, world};
use tokio::net::TcpListener;

/// What the stand-in for Meta lists, and how often it was asked.
#[derive(Clone, Default)]
struct Listed(Arc<Mutex<(Vec<Value>, usize)>>);

impl Listed {
    fn set(&self, templates: &[Value]) {
        self.0.lock().expect("no panic under the lock").0 = templates.to_vec();
    }
}

async fn list(State(listed): State<Listed>) -> Json<Value> {
    let mut listed = listed.0.lock().expect("no panic under the lock");
    listed.1 += 1;
    Json(json!({ "data": listed.0 }))
}

/// A client of a Meta that lists the same templates for every WABA.
async fn meta(listed: &Listed) -> GraphClient {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let base_url = format!("http://{}", listener.local_addr().expect("an address"));
    let router = Router::new().route("/{version}/{waba}/message_templates", get(list)).with_state(listed.clone());
    tokio::spawn(async { axum::serve(listener, router).await });
    GraphClient::new(GraphConfig { base_url, ..GraphConfig::default() }).expect("a client")
}

fn item(name: &str) -> Value {
    let path = format!("{}/tests/fixtures/templates/{name}.json", env!("CARGO_MANIFEST_DIR"));
    serde_json::from_str(&std::fs::read_to_string(path).expect("the fixture")).expect("JSON")
}

async fn store(redis: &TestRedis) -> Store {
    Store::connect(&world::address(redis)).await.expect("a store")
}

async fn known(store: &Store) -> Vec<Template> {
    let (mut templates, _) = store.templates(&"2001".into()).await.expect("redis").expect("they were read");
    templates.sort_by(|a, b| a.name.cmp(&b.name));
    templates
}

#[tokio::test]
async fn a_template_that_cannot_be_read_is_known_with_its_problem() {
    let (redis, listed) = (TestRedis::start().await, Listed::default());
    let (store, graph) = (store(&redis).await, meta(&listed).await);
    let mut odd = item("static");
    odd["components"] = json!("none");
    listed.set(&[item("positional"), odd]);
    let now = store.time().await.expect("redis");
    let n = templates::sync(&store, &graph, &"2001".into(), &Secret::new("EAAG"), now).await.expect("read");
    assert_eq!(n, 2);
    let known = known(&store).await;
    let problems: Vec<_> = known.iter().map(|template| (template.name.as_str(), template.problem())).collect();
    let [("hello_world", Some(problem)), ("order_update", None)] = &problems[..] else { panic!("{problems:?}") };
    assert!(problem.contains("cannot be read as Meta lists it (components: invalid type: string"), "{problem}");
}
