//! Dead letters of jobs.

use std::time::Duration;

use deadpool_redis::redis::cmd;
use pregon::intake::{Intake, MemoryGuard, jobs::read_jobs};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::harness::{Answer, Api, RECIPIENTS_MAX, answer, phone};
use crate::support::{until, world};

/// The most bytes of a job that a list shows.
const LISTED_BYTES_MAX: usize = 4_096;

impl Api {
    /// Adds a dead letter with the code `invalid`, as the reader of jobs does. `entry`: fields and values alternating.
    pub async fn add_dead_letter(&self, id: &str, entry: &[&[u8]]) {
        let mut add = cmd("XADD");
        add.arg(self.store.keys.dead_jobs()).arg(id).arg("reason").arg("because").arg("code").arg("invalid");
        add.arg("id").arg(id).arg("at").arg("2026-11-22T09:26:48.935Z").arg(entry);
        self.store.query::<String>("XADD", &add).await.expect("redis");
    }

    async fn retry(&self, id: &str) -> Answer {
        self.post(&format!("/v1/jobs/dead/{id}/retry")).await
    }

    async fn delete(&self, id: &str) -> Answer {
        answer(self.request(Method::DELETE, &format!("/v1/jobs/dead/{id}"))).await
    }

    /// Every page of dead letters: the ids of each.
    async fn dead_pages(&self, limit: usize) -> Vec<Vec<String>> {
        let (mut pages, mut cursor) = (Vec::new(), String::new());
        loop {
            let page = self.read(&format!("/v1/jobs/dead?limit={limit}&cursor={cursor}")).await;
            let rows = page["jobs"].as_array().expect("a list");
            pages.push(rows.iter().map(|row| row["id"].as_str().expect("an id").to_owned()).collect());
            match page["next"].as_str() {
                Some(next) => cursor = next.to_owned(),
                None => return pages,
            }
        }
    }
}

#[tokio::test]
async fn dead_letters_are_listed_newest_first_by_page() {
    let api = Api::start().await;
    assert_eq!(api.read("/v1/jobs/dead").await, json!({ "jobs": [], "next": null }));
    for n in 1..=5 {
        api.add_dead_letter(&format!("{n}-{n}"), &[b"job", b"{}"]).await;
    }
    assert_eq!(api.dead_pages(2).await, [vec!["5-5", "4-4"], vec!["3-3", "2-2"], vec!["1-1"]]);
    assert_eq!(api.dead_pages(5).await, [["5-5", "4-4", "3-3", "2-2", "1-1"]]);
    for bad in ["cursor=x", "cursor=5", "limit=0", "limit=1001", "newest=1"] {
        api.get(&format!("/v1/jobs/dead?{bad}")).await.problem(400, "invalid-query");
    }
}

#[tokio::test]
async fn a_dead_letter_shows_any_job_as_text() {
    let api = Api::start().await;
    let launch = r#"{"type":"launch","external_id":"spring"}"#;
    let jobs: [(&str, &[&[u8]], Value); 5] = [
        ("1-0", &[b"job", launch.as_bytes()], json!({ "type": "launch", "external_id": "spring", "job": launch })),
        ("2-0", &[b"job", b"not json"], json!({ "job": "not json" })),
        ("3-0", &[b"job", b"\xff{"], json!({ "job": "\u{fffd}{", "job_bytes": 2 })),
        ("4-0", &[b"rejected", b"[]", b"job", br#"["launch"]"#], json!({ "job": r#"["launch"]"# })),
        ("5-0", &[b"task", b"launch"], json!({ "job": null, "job_bytes": 0 })),
    ];
    for (id, entry, expected) in jobs {
        api.add_dead_letter(id, entry).await;
        let mut whole = json!({
            "id": id, "entry": id, "at": "2026-11-22T09:26:48.935Z", "code": "invalid", "reason": "because", "rejected": [],
        });
        let fields = whole.as_object_mut().expect("an object");
        fields.insert("job_bytes".into(), expected["job"].as_str().map_or(0, str::len).into());
        fields.extend(expected.as_object().expect("an object").clone());
        assert_eq!(api.read("/v1/jobs/dead?limit=1").await["jobs"], json!([whole]));
        assert_eq!(api.read(&format!("/v1/jobs/dead/{id}")).await, whole);
    }
}

#[tokio::test]
async fn a_page_of_long_jobs_is_bounded_and_shows_their_beginnings() {
    let api = Api::start().await;
    // The limit for a job in a list falls inside a two-byte letter.
    let job = json!({ "type": "recipients", "external_id": "spring", "x": "ñ".repeat(500_000) }).to_string();
    let start = job.floor_char_boundary(LISTED_BYTES_MAX);
    assert_eq!(start, LISTED_BYTES_MAX - 1);
    for n in 1..=12 {
        api.add_dead_letter(&format!("{n}-0"), &[b"job", job.as_bytes()]).await;
    }
    let pages = api.dead_pages(1_000).await;
    assert_eq!(pages.iter().map(Vec::len).collect::<Vec<_>>(), [5, 5, 2], "a page ends after 4 MB");
    assert_eq!((pages[0][0].as_str(), pages[2][1].as_str()), ("12-0", "1-0"));
    let listed = &api.read("/v1/jobs/dead?limit=1").await["jobs"][0];
    assert_eq!((&listed["job"], &listed["job_bytes"]), (&json!(job[..start]), &json!(job.len())));
    assert_eq!((&listed["type"], &listed["external_id"]), (&json!("recipients"), &json!("spring")));
    assert_eq!(api.read("/v1/jobs/dead/12-0").await["job"], job);
}

#[tokio::test]
async fn a_deleted_dead_letter_is_gone() {
    let api = Api::start().await;
    api.add_dead_letter("1-0", &[b"job", b"{}"]).await;
    assert_eq!(api.delete("1-0").await.status, StatusCode::NO_CONTENT);
    for id in ["1-0", "2-0", "1", "x", "-", "%2B"] {
        let answers = [api.get(&format!("/v1/jobs/dead/{id}")).await, api.retry(id).await, api.delete(id).await];
        for answer in answers {
            let detail = answer.problem(404, "dead-letter-not-found").to_owned();
            assert!(detail.starts_with("there is no dead letter "), "{detail}");
        }
    }
}

#[tokio::test]
async fn a_retried_dead_letter_is_gone_once_its_job_has_been_applied() {
    let api = Api::start().await;
    let add = |job: &Value| cmd("XADD").arg(api.store.keys.jobs()).arg("*").arg("job").arg(job.to_string()).take();
    let rows = json!([{ "to": phone(1), "params": { "1": "Maria", "2": "A-10" } }, { "to": "12" }]);
    let upload = json!({ "type": "recipients", "external_id": "spring", "recipients": rows });
    let old: String = api.store.query("XADD", &add(&upload)).await.expect("redis");
    let intake = Intake {
        store: api.store.clone(),
        clock: api.clock.clone(),
        lines: [world::line("3001", 80.0)].into_iter().collect(),
        grace_period: Duration::from_secs(10),
        recipients_max: RECIPIENTS_MAX,
        memory: MemoryGuard::new(1.0),
        is_limited: false,
        contact_hours: Default::default(),
        origin: Default::default(),
    };
    let stop = CancellationToken::new();
    let reader = tokio::spawn(read_jobs(intake, "w1".into(), stop.clone(), Duration::from_secs(10)));
    let letter = async |id: &str| api.get(&format!("/v1/jobs/dead/{id}")).await;
    until("the job fails", async || letter(&old).await.status == StatusCode::OK).await;
    let mut campaign = super::harness::campaign("Spring", &["3001"]);
    campaign["external_id"] = "spring".into();
    let created = api.post_json("/v1/campaigns", &campaign).await;
    assert_eq!(created.status, StatusCode::CREATED, "{}", created.body);

    let retried = api.retry(&old).await;
    assert_eq!((retried.status, &retried.body["dead_letter"]), (StatusCode::ACCEPTED, &json!(old)));
    let new = retried.body["entry"].as_str().expect("an id").to_owned();
    until("the retry is applied", async || letter(&old).await.status == StatusCode::NOT_FOUND).await;
    let left = api.read("/v1/jobs/dead").await["jobs"].clone();
    let reason = left[0]["rejected"][0]["reason"].as_str().expect("a reason");
    let expected = json!([{
        "id": new, "entry": old, "at": left[0]["at"], "code": "recipients-rejected",
        "reason": "1 of 2 recipients were rejected, the others were accepted", "type": "recipients", "external_id": "spring",
        "rejected": [{ "row": 2, "code": "not_e164", "reason": reason }],
        "job": upload.to_string(), "job_bytes": upload.to_string().len(),
    }]);
    assert_eq!(left, expected);
    stop.cancel();
    reader.await.expect("no panic").expect("it never fails");
}
