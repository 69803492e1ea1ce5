//! Preflight: what would happen if a campaign were launched.

use std::{collections::BTreeSet, time::Duration};

use deadpool_redis::redis::cmd;
use pregon::{
    domain::{
        CampaignId, FrequencyCap, HoldScope, MessagingLimit, PersonHash, Phone, Template, TemplateStatus, UnixMs,
        template::Category,
    },
    redis::messaging_limits::KnownLimit,
};
use reqwest::Method;
use serde_json::{Value, json};

use super::harness::{Api, answer, campaign, csv, phone, template};
use crate::support::world;

const HOUR: Duration = Duration::from_secs(3_600);

impl Api {
    async fn preflight(&self, id: CampaignId) -> Value {
        self.read(&format!("/v1/campaigns/{id}/preflight")).await
    }

    async fn put_template(&self, change: impl FnOnce(&mut Template)) {
        let mut template = template("positional");
        change(&mut template);
        self.store.put_templates(&"2001".into(), &[template], self.now()).await.expect("redis");
    }

    /// Records that Meta withheld marketing from a person.
    async fn withhold(&self, number: u64) {
        let person: Phone = phone(number).parse().expect("a number");
        let hash = PersonHash::of(person.into(), &self.store.token_key().await.expect("a key").get());
        let people = [(hash, self.now().after(HOUR))];
        self.store.withhold(&"1001".into(), &people, self.now()).await.expect("redis");
    }

    async fn suppress_person(&self, number: u64, scope: &str) {
        let path = format!("/v1/suppressions/{}", phone(number));
        let suppressed = answer(self.request(Method::PUT, &path).json(&json!({ "business": "1001", "scope": scope })));
        assert_eq!(suppressed.await.status, 200);
    }
}

/// The codes of the blocking problems, and of the warnings.
fn codes(preflight: &Value) -> (BTreeSet<&str>, BTreeSet<&str>) {
    let problems = preflight["problems"].as_array().expect("a list");
    let of = |blocking: bool| -> BTreeSet<&str> {
        let problems = problems.iter().filter(|problem| problem["blocking"] == blocking);
        problems.map(|problem| problem["code"].as_str().expect("a code")).collect()
    };
    assert_eq!(preflight["ready"], of(true).is_empty(), "{preflight}");
    (of(true), of(false))
}

/// The sentence of a problem.
fn text<'a>(preflight: &'a Value, code: &str) -> &'a str {
    let problems = preflight["problems"].as_array().expect("a list");
    let problem = problems.iter().find(|problem| problem["code"] == code).expect(code);
    problem["text"].as_str().expect("a text")
}

fn time(of: &Value) -> UnixMs {
    UnixMs::parse(of.as_str().expect("a time")).expect("a time")
}

#[tokio::test]
async fn a_good_draft_is_ready_and_has_a_start_an_end_and_a_cost() {
    let api = Api::start().await;
    let id = api.draft("spring", &["3001"], 100).await;
    api.assign_line("3001", "w1", 10.0).await;
    let before = api.read(&format!("/v1/campaigns/{id}")).await;
    let preflight = api.preflight(id).await;
    assert_eq!(codes(&preflight), ([].into(), [].into()), "{preflight}");
    for (field, value) in [
        ("campaign", json!(id)),
        ("state", json!("draft")),
        ("recipients", json!(100)),
        ("left", json!(100)),
        ("skips", json!({ "suppressed": 0, "marketing_us": 0, "withheld": 0, "frequency_cap": 0, "forgotten": 0 })),
        ("to_send", json!(100)),
        ("estimated", json!(false)),
        ("rejects", json!({ "count": 0, "by_reason": {}, "complete": true })),
        (
            "template",
            json!({ "name": "order_update", "language": "es_AR", "category": "UTILITY", "status": "APPROVED", "quality": "GREEN" }),
        ),
        ("budget", json!({ "business": "1001", "limit": null, "used_24h": null, "remaining": null, "needed": 100 })),
        ("rate", Value::Null),
        ("send_window", Value::Null),
        ("late", json!("send")),
    ] {
        assert_eq!(preflight[field], value, "{field}: {preflight}");
    }
    let line = &preflight["lines"][0];
    assert_eq!((&line["id"], &line["allowed_now"], &line["holds"]), (&json!("3001"), &json!(10.0), &json!([])));
    let (starts, ends) = (time(&preflight["starts_at"]), time(&preflight["ends_at"]));
    let exact = starts.after(Duration::from_secs(10));
    assert!(ends >= exact && ends.since(exact) < Duration::from_secs(1), "100 at 10 a second: {preflight}");
    let cost = &preflight["cost"];
    assert_eq!((&cost["currency"], &cost["total"], &cost["without_price"]), (&json!("USD"), &json!(2.0), &json!(0)));
    let row = json!({ "country": "AR", "category": "UTILITY", "messages": 100, "price": 0.02, "cost": 2.0 });
    assert_eq!(cost["by_country"], json!([row]));
    assert_eq!(api.read(&format!("/v1/campaigns/{id}")).await, before, "nothing is changed");
}

#[tokio::test]
async fn a_draft_without_recipients_is_not_ready() {
    let api = Api::start().await;
    let id = api.draft("spring", &["3001"], 0).await;
    let preflight = api.preflight(id).await;
    assert_eq!(codes(&preflight), (["no_recipients"].into(), [].into()));
    assert_eq!((&preflight["starts_at"], &preflight["ends_at"]), (&Value::Null, &Value::Null));
    assert_eq!(preflight["cost"]["total"], 0.0);
}

#[tokio::test]
async fn what_stops_the_lines_of_a_campaign_is_a_problem() {
    let api = Api::start().await;
    let id = api.draft("spring", &["3001"], 20).await;
    assert_eq!(codes(&api.preflight(id).await).0, ["no_worker"].into());
    let (now, lives_until) = (api.now(), api.now().after(HOUR));
    api.store.register_lines("w0", &[world::line("3002", 10.0)], lives_until).await.expect("registered");
    api.store.worker_heartbeat("w0", now, lives_until).await.expect("alive");
    assert_eq!(codes(&api.preflight(id).await).0, ["line_not_configured"].into(), "no process lists it");
    api.assign_line("3001", "w1", 10.0).await;
    api.post("/v1/lines/3001/pause").await;
    let preflight = api.preflight(id).await;
    assert_eq!(codes(&preflight).0, ["line_paused"].into());
    let problem = json!({ "code": "line_paused", "blocking": true, "line": "3001", "text": "line 3001 is paused" });
    assert_eq!((&preflight["problems"][0], &preflight["starts_at"]), (&problem, &Value::Null));
    api.post("/v1/lines/3001/resume").await;

    api.hold(&HoldScope::Line("3001".into()), None).await;
    assert_eq!(codes(&api.preflight(id).await).0, ["line_held"].into());
    api.post("/v1/lines/3001/resume").await;
    let until = api.now().after(HOUR);
    api.hold(&HoldScope::Line("3001".into()), Some(until)).await;
    let preflight = api.preflight(id).await;
    assert_eq!(codes(&preflight), ([].into(), ["line_held"].into()), "it ends by itself");
    assert_eq!(time(&preflight["starts_at"]), until);
    api.post("/v1/lines/3001/resume").await;

    api.post("/v1/pause").await;
    assert_eq!(codes(&api.preflight(id).await).0, ["all_paused"].into());
}

#[tokio::test]
async fn a_template_that_meta_does_not_send_is_a_problem() {
    let api = Api::start().await;
    let id = api.draft("spring", &["3001"], 20).await;
    api.assign_line("3001", "w1", 10.0).await;
    api.put_template(|template| template.status = TemplateStatus::Paused).await;
    let preflight = api.preflight(id).await;
    assert_eq!(
        (codes(&preflight).0, &preflight["template"]["status"]),
        (["template_not_approved"].into(), &json!("PAUSED"))
    );
    api.put_template(|template| template.quality_score = "RED".into()).await;
    assert_eq!(codes(&api.preflight(id).await), ([].into(), ["template_quality"].into()));
    api.put_template(|template| template.components[0].text = "Hola {{1}}".into()).await;
    assert_eq!(codes(&api.preflight(id).await).0, ["template_changed"].into());
    api.put_template(|template| template.name = "another".into()).await;
    let preflight = api.preflight(id).await;
    assert_eq!((codes(&preflight).0, &preflight["template"]["status"]), (["template_missing"].into(), &Value::Null));
}

#[tokio::test]
async fn people_who_would_be_skipped_are_counted_by_reason_and_cost_nothing() {
    let api = Api::start().await;
    api.put_template(|template| template.category = Category::Marketing).await;
    let id = api.draft("spring", &["3001"], 50).await;
    let us = "to,1,2\n+12025550123,Ann,A-1\n+12025550124,Bob,A-2\n+442071234567,Cy,A-3\n";
    api.upload(id, "text/csv", us).await;
    for number in [3, 4, 5] {
        api.suppress_person(number, "marketing").await;
    }
    api.suppress_person(6, "all").await;
    api.withhold(7).await;
    api.assign_line("3001", "w1", 10.0).await;
    let preflight = api.preflight(id).await;
    assert_eq!(
        preflight["skips"],
        json!({ "suppressed": 4, "marketing_us": 2, "withheld": 1, "frequency_cap": 0, "forgotten": 0 })
    );
    assert_eq!((&preflight["left"], &preflight["to_send"]), (&json!(53), &json!(46)));
    assert_eq!(codes(&preflight), ([].into(), ["price_missing"].into()), "there is no price for +44");
    assert_eq!(
        text(&preflight, "price_missing"),
        "the price list has no price for 1 of the messages, to +44: add prices (prices.file)"
    );
    let cost = &preflight["cost"];
    assert_eq!((&cost["total"], &cost["without_price"]), (&json!(2.7), &json!(1)));

    // A utility template is also sent to people who stopped only marketing, and to numbers of the USA.
    api.put_template(|_| ()).await;
    let id = api.draft("orders", &["3001"], 50).await;
    let preflight = api.preflight(id).await;
    assert_eq!(
        preflight["skips"],
        json!({ "suppressed": 1, "marketing_us": 0, "withheld": 0, "frequency_cap": 0, "forgotten": 0 })
    );
    let id = api.draft("nobody", &["3001"], 0).await;
    api.upload(id, "text/csv", format!("to,1,2\n{},Ana,A-6\n", phone(6))).await;
    assert_eq!(codes(&api.preflight(id).await).0, ["all_skipped"].into());
}

#[tokio::test]
async fn a_frequency_cap_that_never_acts_is_a_warning() {
    let api = Api::start().await;
    let warnings = async |messages| {
        let cap = FrequencyCap { messages, days: 7 };
        let preflight = api.preflight(world::capped_campaign(&api.store, Some(cap), &["3003"], 1).await).await;
        codes(&preflight).1.contains("frequency_cap_idle").then(|| text(&preflight, "frequency_cap_idle").to_owned())
    };
    assert_eq!(warnings(2).await, None);
    let text = warnings(3).await.expect("a warning");
    assert!(text.starts_with("frequency_cap is 3 in 7 days, and the business allows 3 in 7 days anyway"), "{text}");
}

#[tokio::test]
async fn the_suppressed_among_many_recipients_are_counted_exactly() {
    const RECIPIENTS: u64 = 33_000;
    let api = Api::start().await;
    let id = api.draft("spring", &["3001"], RECIPIENTS).await;
    let list: String = (0..RECIPIENTS + 1_000).step_by(7).map(|n| format!("{},all\n", phone(n))).collect();
    let import = api.request(Method::POST, "/v1/suppressions?business=1001").header("content-type", "text/csv");
    assert_eq!(answer(import.body(format!("phone,scope\n{list}"))).await.status, 200);
    let preflight = api.preflight(id).await;
    let suppressed = RECIPIENTS.div_ceil(7);
    assert_eq!((&preflight["skips"]["suppressed"], &preflight["estimated"]), (&json!(suppressed), &json!(false)));
    assert_eq!(preflight["to_send"], RECIPIENTS - suppressed);
}

#[tokio::test]
async fn rejected_rows_are_counted_by_reason() {
    let api = Api::start().await;
    let id = api.draft("spring", &["3001"], 5).await;
    let bad = format!("to,1,2\n{},Ana,A\nnobody,Ana,A\n5491155550001,Ana,A\n", phone(2));
    api.upload(id, "text/csv", bad).await;
    api.assign_line("3001", "w1", 10.0).await;
    let preflight = api.preflight(id).await;
    let rejects = json!({ "count": 3, "by_reason": { "duplicate": 1, "not_e164": 2 }, "complete": true });
    assert_eq!(preflight["rejects"], rejects);
    assert_eq!(codes(&preflight), ([].into(), ["rows_rejected"].into()));

    // After a week, the rejects of the uploads are no longer stored.
    let keys = [api.store.keys.uploads(id)];
    let _: u64 = api.store.query("DEL uploads", cmd("DEL").arg(&keys)).await.expect("redis");
    let rejects = json!({ "count": 0, "by_reason": {}, "complete": false });
    assert_eq!(api.preflight(id).await["rejects"], rejects);
}

#[tokio::test]
async fn a_campaign_larger_than_the_messaging_limit_ends_a_day_later() {
    let api = Api::start().await;
    let id = api.draft("spring", &["3001"], 300).await;
    api.assign_line("3001", "w1", 100.0).await;
    let limit = KnownLimit { limit: MessagingLimit::People(250), since: api.now() };
    api.store.set_messaging_limit(&"1001".into(), limit).await.expect("redis");
    let preflight = api.preflight(id).await;
    assert_eq!(codes(&preflight), ([].into(), ["limit_too_small"].into()));
    let budget = json!({ "business": "1001", "limit": 250, "used_24h": 0, "remaining": 250, "needed": 300 });
    assert_eq!(preflight["budget"], budget);
    let starts = time(&preflight["starts_at"]);
    assert!(time(&preflight["ends_at"]) >= starts.after(24 * HOUR), "{preflight}");
}

#[tokio::test]
async fn a_preflight_considers_start_window_rate_and_expiry() {
    let api = Api::start().await;
    api.assign_line("3001", "w1", 100.0).await;
    let midnight = UnixMs((api.now().seconds() / 86_400 + 2) * 86_400_000);
    let mut new = campaign("spring", &["3001"]);
    new["start_at"] = json!(midnight);
    new["expires_at"] = json!(midnight.after(10 * HOUR).after(Duration::from_secs(30)));
    new["send_window"] = json!({ "from": "10:00", "to": "12:00", "zone": "UTC" });
    new["rate"] = json!(1);
    let id: CampaignId =
        api.post_json("/v1/campaigns", &new).await.body["id"].as_str().expect("an id").parse().expect("an id");
    api.upload(id, "text/csv", csv(60)).await;
    let preflight = api.preflight(id).await;
    assert_eq!(time(&preflight["starts_at"]), midnight.after(10 * HOUR), "the window opens at 10:00");
    assert_eq!(
        time(&preflight["ends_at"]),
        midnight.after(10 * HOUR).after(Duration::from_secs(60)),
        "60 at 1 a second"
    );
    assert_eq!(codes(&preflight), ([].into(), ["ends_after_expiry"].into()));
    let reasons: Vec<&Value> =
        preflight["waiting_for"].as_array().expect("a list").iter().map(|waiting| &waiting["reason"]).collect();
    assert_eq!(reasons, ["schedule", "send_window"], "not the rate of its line");
    assert_eq!(time(&preflight["waiting_for"][0]["until"]), midnight);
    let early = json!({ "expires_at": midnight.after(9 * HOUR) });
    assert_eq!(api.patch_json(&format!("/v1/campaigns/{id}"), &early).await.status, 200);
    assert_eq!(codes(&api.preflight(id).await), (["ends_after_expiry"].into(), [].into()), "before the window opens");
    assert_eq!((&preflight["rate"], &preflight["send_window"]["from"]), (&json!(1.0), &json!("10:00")));
}

#[tokio::test]
async fn only_a_campaign_that_has_not_ended_has_a_preflight() {
    let api = Api::start().await;
    let id = api.launched("spring", &["3001"], 20).await;
    api.assign_line("3001", "w1", 10.0).await;
    let [(part, _)] = api.parts(id).await.try_into().expect("one part");
    api.claim(part, 5).await;
    let preflight = api.preflight(id).await;
    assert_eq!(
        (&preflight["recipients"], &preflight["left"]),
        (&json!(20), &json!(15)),
        "what is left of a running one"
    );
    assert_eq!(preflight["cost"]["by_country"][0]["messages"], 15);
    let path = format!("/v1/campaigns/{id}");
    api.post(&format!("{path}/pause")).await;
    assert_eq!(api.preflight(id).await["ready"], true, "it looks at a paused one as if it were resumed");
    api.post(&format!("{path}/cancel")).await;
    api.get(&format!("{path}/preflight")).await.problem(409, "campaign-state");
}
