use axum::{
    Router,
    body::Bytes,
    extract::State,
    http::{HeaderMap, StatusCode},
    routing::post,
};
use hmac::{Hmac, KeyInit as _, Mac as _};
use pregon::{
    domain::*,
    store::{Address, Store, campaigns::Change, clock::Clock, parts::*, spawn::PrivateRedis, uploads::Batch},
    webhook::{
        self, Settings, WebhookState,
        signature::{Signature, Verifier},
    },
};
use sha2::Sha256;
use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

const SECRET: &str = "s3cr3t";
fn request(body: &str) -> Vec<u8> {
    let mac = Hmac::<Sha256>::new_from_slice(SECRET.as_bytes()).unwrap().chain_update(body.as_bytes());
    format!("POST /webhooks/meta HTTP/1.1\r\nHost: x\r\nUser-Agent: facebookexternalua\r\nContent-Type: application/json\r\nX-Hub-Signature-256: sha256={}\r\nContent-Length: {}\r\n\r\n{}", hex::encode(mac.finalize().into_bytes()), body.len(), body).into_bytes()
}
fn status(key: &TokenKey, part: PartId, row: u16, word: &str, now: u64) -> String {
    let mut token = String::new();
    Token { part, row, send: 1 }.write(key, &mut token);
    format!(
        r#"{{"id":"wamid.HBgNNTQ5MTE1NTU1{row:05}FQIAERgSOUE4QTFCNEQ3RTk2QUYzNkM2AA==","status":"{word}","timestamp":"{now}","recipient_id":"5491155500{row:05}","recipient_user_id":"AR.1A2b","biz_opaque_callback_data":"{token}","pricing":{{"billable":true,"pricing_model":"PMP","type":"regular","category":"marketing"}}}}"#
    )
}
fn body(statuses: &[String]) -> String {
    format!(
        r#"{{"object":"whatsapp_business_account","entry":[{{"id":"2001","changes":[{{"value":{{"messaging_product":"whatsapp","metadata":{{"display_phone_number":"5491155550001","phone_number_id":"3001"}},"contacts":[{{"profile":{{"name":"Jos\u00e9 Mu\u00f1oz","username":"jose.m"}},"wa_id":"5491155550101","user_id":"AR.1A2b"}}],"statuses":[{}]}},"field":"messages"}}]}}]}}"#,
        statuses.join(",")
    )
}
async fn baseline(State(v): State<Verifier>, headers: HeaderMap, body: Bytes) -> StatusCode {
    match headers.get("x-hub-signature-256").and_then(|h| Signature::read(h.as_bytes())) {
        Some(s) if v.accepts(&s, &body) => StatusCode::OK,
        _ => StatusCode::UNAUTHORIZED,
    }
}
fn load(
    addr: std::net::SocketAddr,
    requests: Arc<Vec<Vec<u8>>>,
    conns: usize,
    max: Duration,
) -> (usize, f64, Vec<u32>) {
    std::thread::spawn(move || {
        let rt = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        rt.block_on(async move {
            let next = Arc::new(AtomicUsize::new(0));
            let begun = Instant::now();
            let tasks: Vec<_> = (0..conns)
                .map(|_| {
                    let (next, requests) = (next.clone(), requests.clone());
                    tokio::spawn(async move {
                        let mut s = TcpStream::connect(addr).await.unwrap();
                        s.set_nodelay(true).unwrap();
                        let mut lat = Vec::new();
                        let mut buf = [0u8; 4096];
                        loop {
                            let i = next.fetch_add(1, Ordering::Relaxed);
                            if i >= requests.len() || begun.elapsed() > max {
                                return lat;
                            }
                            let at = Instant::now();
                            s.write_all(&requests[i]).await.unwrap();
                            let mut n = 0;
                            loop {
                                let r = s.read(&mut buf[n..]).await.unwrap();
                                assert!(r > 0);
                                n += r;
                                if buf[..n].windows(4).any(|w| w == b"\r\n\r\n") {
                                    break;
                                }
                            }
                            assert!(buf.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&buf[..n]));
                            lat.push(at.elapsed().as_micros() as u32);
                        }
                    })
                })
                .collect();
            let mut lat = Vec::new();
            for t in tasks {
                lat.extend(t.await.unwrap());
            }
            let took = begun.elapsed().as_secs_f64();
            lat.sort_unstable();
            (lat.len(), took, lat)
        })
    })
    .join()
    .unwrap()
}
fn show(name: &str, per: usize, (n, took, lat): (usize, f64, Vec<u32>)) -> f64 {
    let q = |p: f64| lat[((lat.len() - 1) as f64 * p) as usize];
    let rate = n as f64 / took;
    println!(
        "{name}: {n} in {took:.2}s = {rate:.0} req/s, {:.0} statuses/s; p50 {}us p99 {}us max {}us",
        rate * per as f64,
        q(0.5),
        q(0.99),
        q(1.0)
    );
    rate
}
async fn campaign(store: &Store, clock: &Clock, n: u64) -> PartId {
    let template: Template = serde_json::from_str(include_str!("../tests/fixtures/templates/static.json")).unwrap();
    let now = clock.now();
    let c = Campaign {
        id: CampaignId(ulid::Ulid::from_parts(now.0, rand::random())),
        external_id: None,
        name: "t".into(),
        template,
        lines: vec!["3001".into()],
        start_at: None,
        expires_at: None,
        priority: 5,
        on_doubt: OnDoubt::Hold,
        created_at: now,
    };
    let (id, _) = store.create_campaign(&c).await.unwrap();
    let (mut up, _) = store
        .begin_upload(id, "u", vec![("3001".into(), 1.0)], "{\"row\":%d}".into(), Duration::from_secs(60))
        .await
        .unwrap()
        .unwrap();
    let mut done = 0;
    while done < n {
        let until = n.min(done + 4096);
        let recipients = (done..until)
            .map(|n| (n as u32, Recipient { to: Phone::from_digits(5_491_100_000_000 + n).unwrap(), values: vec![] }))
            .collect();
        up.admit(Batch { recipients, rejections: vec![], taken: until, digest: String::new(), done: until == n })
            .await
            .unwrap();
        done = until;
    }
    assert_eq!(
        store.change_campaign(id, &[CampaignState::Draft], CampaignState::Running, now, None).await.unwrap(),
        Change::Done
    );
    let part = PartId { campaign: id, number: 0 };
    let mut left = n;
    while left > 0 {
        let Claim::Rows { rows, .. } = store.claim(part, 1, now, 256, now).await.unwrap() else { panic!() };
        left -= rows.len() as u64;
        let outs =
            rows.iter().map(|r| (*r, Settled::Accepted(Wamid::from(format!("wamid.{}", r.row).as_str())))).collect();
        store.settle(&[(part, outs)].into(), now, Duration::from_secs(3600)).await.unwrap();
    }
    part
}
fn main() {
    let threads: usize = std::env::args().nth(1).map_or(2, |t| t.parse().unwrap());
    let conns: usize = std::env::args().nth(2).map_or(64, |t| t.parse().unwrap());
    let rt = tokio::runtime::Builder::new_multi_thread().worker_threads(threads).enable_all().build().unwrap();
    rt.block_on(async {
        let _metrics = pregon::ops::metrics::install(&["3001".into()]);
        let dir = tempfile::tempdir().unwrap();
        let redis = PrivateRedis::start(dir.path()).await.unwrap();
        let store = Store::connect(&Address {
            url: redis.url().into(),
            namespace: "pregon".into(),
            timeout: Duration::from_secs(2),
            connections: 8,
        })
        .await
        .unwrap();
        let clock = Arc::new(Clock::start(&store).await.unwrap());
        let key = store.token_key().await.unwrap();
        let settings = Settings {
            verify_token: Secret::new("v"),
            app_secret: Secret::new(SECRET),
            body_bytes_max: 4 << 20,
            ids_kept: Duration::from_secs(3600),
            lines: vec![("3001".into(), "2001".into())],
        };
        let (state, task) = WebhookState::new(store.clone(), clock.clone(), key, settings);
        tokio::spawn(task);
        let l1 = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let a1 = l1.local_addr().unwrap();
        tokio::spawn(async move { axum::serve(l1, webhook::router(state)).await.unwrap() });
        let l0 = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let a0 = l0.local_addr().unwrap();
        let base =
            Router::new().route("/webhooks/meta", post(baseline)).with_state(Verifier::new(&Secret::new(SECRET)));
        tokio::spawn(async move { axum::serve(l0, base).await.unwrap() });
        let n = 60_000u64;
        let now = clock.now().seconds();
        for round in 0..2 {
            let part = campaign(&store, &clock, n).await;
            let singles: Arc<Vec<Vec<u8>>> = Arc::new(
                ["sent", "delivered", "read"]
                    .iter()
                    .flat_map(|w| (0..n as u16).map(move |r| (w, r)))
                    .map(|(w, r)| request(&body(&[status(&key, part, r, w, now)])))
                    .collect(),
            );
            if round == 0 {
                println!("body {} bytes", singles[0].len());
            }
            let s = singles.clone();
            let base =
                tokio::task::spawn_blocking(move || show("baseline", 1, load(a0, s, conns, Duration::from_secs(6))))
                    .await
                    .unwrap();
            let s = singles.clone();
            let ours =
                tokio::task::spawn_blocking(move || show("ours", 1, load(a1, s, conns, Duration::from_secs(20))))
                    .await
                    .unwrap();
            println!("ratio {:.2}", ours / base);
            println!(
                "{:?}",
                store.part_counts(&[part]).await.unwrap()[0]
                    .by_state
                    .iter()
                    .filter(|(_, n)| **n > 0)
                    .collect::<Vec<_>>()
            );
            let part = campaign(&store, &clock, n).await;
            let batches: Arc<Vec<Vec<u8>>> = Arc::new(
                ["sent", "delivered", "read"]
                    .iter()
                    .flat_map(|w| (0..n as u16 / 50).map(move |b| (w, b)))
                    .map(|(w, b)| {
                        request(&body(&(0..50).map(|i| status(&key, part, b * 50 + i, w, now)).collect::<Vec<_>>()))
                    })
                    .collect(),
            );
            let b = batches.clone();
            tokio::task::spawn_blocking(move || {
                show("baseline of 50", 50, load(a0, b, conns.min(16), Duration::from_secs(6)))
            })
            .await
            .unwrap();
            let b = batches.clone();
            tokio::task::spawn_blocking(move || {
                show("ours of 50", 50, load(a1, b, conns.min(16), Duration::from_secs(20)))
            })
            .await
            .unwrap();
            println!(
                "{:?}",
                store.part_counts(&[part]).await.unwrap()[0]
                    .by_state
                    .iter()
                    .filter(|(_, n)| **n > 0)
                    .collect::<Vec<_>>()
            );
        }
        let stats: String = store.query("INFO", deadpool_redis::redis::cmd("INFO").arg("commandstats")).await.unwrap();
        for l in stats.lines().filter(|l| l.contains("evalsha") || l.contains("ping")) {
            println!("{l}");
        }
        redis.stop().await.unwrap();
    });
}
