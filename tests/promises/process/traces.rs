//! What processes tell a collector of traces.

use std::{collections::HashSet, time::Duration};

use deadpool_redis::redis::cmd;
use reqwest::header::CONTENT_TYPE;
use serde_json::json;

use crate::support::{
    collector::{Collector, Span},
    hostile::{AcceptAll, Conduct, Courier, Meta, Reply, Sent, Status, accepted, wamid},
    http_client,
    redis::TestRedis,
    seed,
    server::{Installation, KEY, Server},
    until,
};

const FIRST: u64 = 5_491_100_000_000;
const CALLER: &str = "0af7651916cd43dd8448eb211c80319c";
const CALL: &str = "b7ad6b7169203331";

/// Accepts every message, and reports that it was delivered and read.
struct Reads;

impl Conduct for Reads {
    fn send(&mut self, sent: Sent, courier: &Courier) -> Reply {
        let id = wamid(&sent.to, 1);
        for (wait, word) in [(20, "delivered"), (60, "read")] {
            let Sent { line, to, token, .. } = &sent;
            let status = Status {
                line: line.clone(),
                to: to.clone(),
                wamid: id.clone(),
                token: Some(token.clone()),
                word: word.into(),
            };
            courier.report(Duration::from_millis(wait), status);
        }
        Reply::of(accepted(&sent.to, &id), Duration::from_millis(2))
    }
}

/// Uploads the people with these numbers into a campaign, in a call with a traceparent.
async fn upload(server: &Server, id: &str, people: std::ops::Range<u64>, traceparent: &str) {
    let rows: Vec<String> = people.map(|to| format!("+{to},Maria,A-{to}")).collect();
    let request = http_client().post(format!("{}/v1/campaigns/{id}/recipients", server.url())).bearer_auth(KEY);
    let request = request.header(CONTENT_TYPE, "text/csv").header("traceparent", traceparent);
    let answer = request.body(format!("to,1,2\n{}\n", rows.join("\n"))).send().await.expect("an answer");
    assert_eq!(answer.status(), 200);
}

fn named<'s>(spans: &'s [Span], name: &str) -> Vec<&'s Span> {
    spans.iter().filter(|span| span.field("name") == name).collect()
}

/// The spans of this name in the trace of `root`, of which there is one.
fn in_trace<'s>(spans: &'s [Span], root: &Span, name: &str) -> &'s Span {
    let mut found = named(spans, name);
    found.retain(|span| span.field("traceId") == root.field("traceId"));
    assert_eq!(found.len(), 1, "{name}: {spans:?}");
    found[0]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trace_goes_from_the_upload_to_the_webhook_across_processes() {
    let (redis, collector) = (TestRedis::start().await, Collector::start().await);
    let meta = Meta::start(Reads, seed());
    let headers = r#"headers = [{ name = "authorization", prefix = "Bearer ", value = { env = "OTLP" } }]"#;
    let traces = format!("[traces]\nendpoint = \"{}\"\nshare = 1\n{headers}\n", collector.url);
    let installation = Installation::new(&redis, &meta.url(), &[("3001", 80.0)], "").with(&traces);
    let token = [("OTLP", "token-of-the-collector")];
    let mut api = installation.serve_with("api", "api", &token).await;
    let mut webhooks = installation.serve_with("webhooks", "webhook", &token).await;
    let mut worker = installation.serve_with("worker", "dispatch", &token).await;
    meta.set_webhook(webhooks.webhook());
    let id = api.api().draft(&["3001"], FIRST..FIRST, json!({})).await;
    upload(&api, &id, FIRST..FIRST + 3, &format!("00-{CALLER}-{CALL}-01")).await;
    api.api().post(&format!("campaigns/{id}/launch")).await;
    let read = async || api.api().get(&format!("campaigns/{id}")).await["statistics"]["by_state"]["read"] == 3;
    until("all of them have read it", read).await;
    // A stop exports the last spans.
    for server in [&mut api, &mut webhooks, &mut worker] {
        server.signal("TERM");
        assert!(server.ended().await.success(), "{}", server.log());
    }

    let spans = collector.spans();
    let [call] = named(&spans, "POST /v1/campaigns/{campaign}/recipients")[..] else { panic!("{spans:?}") };
    assert_eq!((call.field("traceId"), call.field("parentSpanId")), (CALLER, CALL), "it is in the trace of its caller");
    assert_eq!(call.attribute("http.response.status_code").as_deref(), Some("200"));
    let roots = named(&spans, "upload");
    let of_each: HashSet<&str> = roots.iter().map(|root| root.field("traceId")).collect();
    assert_eq!((roots.len(), of_each.len()), (3, 3), "a trace for each recipient");
    for root in roots {
        assert_eq!((&root.process, root.field("parentSpanId")), (&api.worker, ""));
        assert_eq!(root.links(), [(CALLER, call.field("spanId"))]);
        let mut parent = root;
        for (name, process) in [("claim", &worker), ("send", &worker)] {
            let span = in_trace(&spans, root, name);
            assert_eq!(
                (&span.process, span.field("parentSpanId")),
                (&process.worker, parent.field("spanId")),
                "{name}"
            );
            assert!(span.nanoseconds("startTimeUnixNano") <= span.nanoseconds("endTimeUnixNano"), "{name}");
            parent = span;
        }
        assert_eq!(parent.attribute("pregon.outcome").as_deref(), Some("accepted"));
        assert_eq!(parent.attribute("pregon.line.id").as_deref(), Some("3001"));
        for name in ["webhook delivered", "webhook read"] {
            let span = in_trace(&spans, root, name);
            assert_eq!(
                (&span.process, span.field("parentSpanId")),
                (&webhooks.worker, parent.field("spanId")),
                "{name}"
            );
            assert_eq!(span.attribute("pregon.campaign.id").as_ref(), Some(&id));
        }
    }
    assert!(collector.headers("authorization").iter().all(|value| value == "Bearer token-of-the-collector"));
    let told = format!("{spans:?}");
    for secret in ["549110000000", "Maria", "A-549", "wamid", "token-2001"] {
        assert!(!told.contains(secret), "{secret} in {told}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_is_traced_and_its_traceparent_taken() {
    let (redis, collector) = (TestRedis::start().await, Collector::start().await);
    let meta = Meta::start(Reads, seed());
    let traces = format!("[traces]\nendpoint = \"{}\"\nshare = 1\n", collector.url);
    let installation = Installation::new(&redis, &meta.url(), &[("3001", 80.0)], "").with(&traces);
    let server = installation.serve("all", "api,webhook,dispatch").await;
    let to = format!("+{FIRST}");
    for (id, flags) in [("sampled", "01"), ("unsampled", "00")] {
        let job = json!({
            "type": "campaign", "external_id": id, "name": "n", "lines": ["3001"], "launch": true,
            "template": {"name": "order_update", "language": "es_AR"}, "traceparent": format!("00-{CALLER}-{CALL}-{flags}"),
            "recipients": [{"to": to, "params": {"1": "Maria", "2": "A-1"}}],
        });
        let mut connection = redis.connection().await;
        let mut add = cmd("XADD");
        add.arg("pregon:jobs").arg("*").arg("job").arg(job.to_string());
        add.exec_async(&mut connection).await.expect("a job");
    }
    let has_both = async || named(&collector.spans(), "send").len() == 2;
    until("both were sent", has_both).await;
    drop(server);
    let spans = collector.spans();
    // A job and the roots of its recipients have the same name. Only one caller records its own spans.
    let (of_caller, roots): (Vec<_>, Vec<_>) =
        named(&spans, "job").into_iter().partition(|span| span.field("traceId") == CALLER);
    let [of_caller] = of_caller[..] else { panic!("{of_caller:?}") };
    let links: HashSet<(&str, &str)> = roots.iter().flat_map(|root| root.links()).collect();
    assert_eq!(links, HashSet::from([(CALLER, of_caller.field("spanId")), (CALLER, CALL)]));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_share_no_recipient_is_traced() {
    let (redis, collector) = (TestRedis::start().await, Collector::start().await);
    let meta = Meta::start(AcceptAll { latency: Duration::from_millis(1) }, seed());
    let traces = format!("[traces]\nendpoint = \"{}\"\nshare = 0\n", collector.url);
    let installation = Installation::new(&redis, &meta.url(), &[("3001", 80.0)], "").with(&traces);
    let mut server = installation.serve("all", "api,dispatch").await;
    server.api().campaign(&["3001"], FIRST..FIRST + 20, json!({})).await;
    until("they are sent", async || meta.requests() == 20).await;
    server.signal("TERM");
    assert!(server.ended().await.success(), "{}", server.log());
    assert!(collector.spans().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_collector_does_not_stop_the_sending() {
    let redis = TestRedis::start().await;
    let meta = Meta::start(AcceptAll { latency: Duration::from_millis(1) }, seed());
    // Takes connections, and answers nothing.
    let dead = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let endpoint = format!("http://{}", dead.local_addr().expect("an address"));
    let traces = format!("[traces]\nendpoint = \"{endpoint}\"\nshare = 1\n");
    let installation = Installation::new(&redis, &meta.url(), &[("3001", 5_000.0)], "").with(&traces);
    let mut server = installation.serve_with("all", "api,dispatch", &[("PREGON__SHUTDOWN__GRACE", "6s")]).await;
    // Three spans each: more than wait for the collector.
    server.api().campaign(&["3001"], FIRST..FIRST + 4_000, json!({})).await;
    until("they are sent", async || meta.requests() == 4_000).await;
    let dropped = async || {
        let page = server.ops("metrics").await.1;
        page.lines().any(|line| {
            let n = line.strip_prefix("pregon_spans_total{result=\"dropped\"} ");
            n.is_some_and(|n| n.parse::<f64>().expect("a number") > 0.0)
        })
    };
    until("spans are dropped and counted", dropped).await;
    server.signal("TERM");
    assert!(server.ended().await.success(), "{}", server.log());
    assert!(server.log().contains("the last spans are lost"), "{}", server.log());
}
