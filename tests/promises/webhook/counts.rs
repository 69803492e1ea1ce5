//! Statuses and replies: each counts once and for the right recipient, even if it is repeated, late or out of order.

use std::{
    collections::HashMap,
    sync::atomic::{AtomicUsize, Ordering},
};

use futures_util::future::join_all;
use pregon::{
    domain::{CampaignState, ClaimedRow, FailureReason, Fingerprint, Settled, State, TokenKey},
    stats::counts::failures,
};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng, seq::SliceRandom as _};
use serde_json::{Value, json};

use crate::support::{
    self,
    hooks::{self, Hooks, Message, inbound, payload, status_without_token, statuses},
    meta_code, until, world,
};

/// The expected final state of a recipient, and the statuses and replies that Meta sends for it.
struct Recipient {
    message: Message,
    line: &'static str,
    state: State,
    reason: Option<FailureReason>,
    replied: bool,
    news: Vec<Value>,
}

/// Draws the outcome of a recipient's send, if it has one, and the updates that follow. The expected state is the
/// one of the highest rank.
fn history(hooks: &Hooks, rng: &mut StdRng, message: Message, line: &'static str) -> (Option<Settled>, Recipient) {
    let hour = hooks.clock.now().after(hooks::ID_RETENTION);
    let (settled, mut state, mut reason) = match rng.random_range(0..6) {
        0 => (None, State::InFlight, None),
        1 => (Some(Settled::InDoubt { until: hour }), State::InDoubt, None),
        2 => (Some(Settled::Retry { at: hour, reason: meta_code(131_000) }), State::Retrying, None),
        3 => (Some(Settled::Refused { reason: meta_code(131_008) }), State::Refused, Some(meta_code(131_008))),
        _ => (Some(hooks::accepted(&message)), State::Accepted, None),
    };
    let accepted = state == State::Accepted;
    let mut news = Vec::new();
    for (word, to) in [
        ("sent", State::Sent),
        ("failed 131026", State::Failed),
        ("delivered", State::Delivered),
        ("read", State::Read),
    ] {
        if rng.random_bool(0.4) {
            // A failure of an accepted message may come without our token.
            let named = to != State::Failed || !accepted || rng.random_bool(0.5);
            let reported =
                if named { hooks.status(&message, word) } else { status_without_token(&message.wamid(), word) };
            news.push(reported);
            if to.rank() > state.rank() {
                (state, reason) = (to, (to == State::Failed).then_some(meta_code(131_026)));
            }
        }
        if rng.random_bool(0.1) {
            // The status of a much earlier claim, which changes nothing unless the recipient got that message.
            news.push(hooks.status(&Message { send: 200, ..message }, word));
            if matches!(to, State::Delivered | State::Read) && to.rank() > state.rank() {
                (state, reason) = (to, None);
            }
        }
    }
    let replied = rng.random_bool(0.1);
    if replied {
        news.push(json!({"button": {"payload": hooks.token(&message)}}));
    }
    (settled, Recipient { message, line, state, reason, replied, news })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn counts_are_exact_for_repeated_late_and_reordered_statuses() {
    let mut rng = StdRng::seed_from_u64(support::seed());
    let hooks = Hooks::start().await;
    let (id, messages) = hooks.campaign(&["3001", "3002"], 1_200).await;
    let mut recipients = Vec::new();
    let mut settled = Vec::new();
    for line in ["3001", "3002"] {
        for message in &messages[&line.into()] {
            let (outcome, history) = history(&hooks, &mut rng, *message, line);
            settled.extend(outcome.map(|outcome| (*message, outcome)));
            recipients.push(history);
        }
    }
    hooks.settle(settled).await;

    // Each update is delivered one to three times, in random order: one per change, with a random number of changes in
    // each body.
    let mut news: Vec<(&str, &Value)> = Vec::new();
    for recipient in &recipients {
        for item in &recipient.news {
            news.extend(std::iter::repeat_n((recipient.line, item), rng.random_range(1..=3)));
        }
    }
    news.shuffle(&mut rng);
    let mut bodies = vec![Vec::new()];
    for (line, item) in news {
        let kind = if item.get("button").is_some() { "messages" } else { "statuses" };
        let value = json!({"metadata": {"phone_number_id": line}, kind: [item]});
        bodies.last_mut().expect("one").push(json!({"value": value, "field": "messages"}));
        if rng.random_bool(0.2) {
            bodies.push(Vec::new());
        }
    }
    let bodies: Vec<Value> = bodies.iter().map(|changes| payload(changes)).collect();
    let (next, hooks_ref, bodies) = (AtomicUsize::new(0), &hooks, &bodies);
    let poster = async || {
        while let Some(body) = bodies.get(next.fetch_add(1, Ordering::Relaxed)) {
            assert_eq!(hooks_ref.deliver(body).await, 200);
        }
    };
    join_all((0..16).map(|_| poster())).await;

    let mut by_state: HashMap<State, u64> = HashMap::new();
    let mut failures: HashMap<FailureReason, u64> = HashMap::new();
    for recipient in &recipients {
        *by_state.entry(recipient.state).or_default() += 1;
        if let Some(reason) = recipient.reason {
            *failures.entry(reason).or_default() += 1;
        }
    }
    let counts = hooks.counts(id).await;
    assert_eq!(counts.by_state, by_state);
    assert_eq!(counts.failures, failures);
    assert_eq!(counts.replied, recipients.iter().filter(|recipient| recipient.replied).count() as u64);
    for (part, _) in hooks.record(id).await.parts {
        let bytes = hooks.store.state_bytes(part).await.expect("bytes");
        for recipient in recipients.iter().filter(|recipient| recipient.message.part == part) {
            assert_eq!(
                State::of(bytes[usize::from(recipient.message.row)]),
                Some(recipient.state),
                "{:?}",
                recipient.message
            );
        }
    }
    hooks.stop().await;
}

#[tokio::test]
async fn a_status_of_an_earlier_send_is_counted_only_if_the_recipient_got_it() {
    let hooks = Hooks::start().await;
    let (id, messages) = hooks.campaign(&["3001"], 1).await;
    let first = messages[&"3001".into()][0];
    hooks.settle([(first, Settled::Retry { at: hooks.clock.now(), reason: meta_code(131_000) })]).await;
    let second = hooks.claim(first.part).await[0];
    assert_eq!(second.send, 2);
    hooks.accept([&second]).await;
    for (message, word, state) in [
        (&first, "sent", State::Accepted),
        (&first, "failed 131026", State::Accepted),
        (&second, "sent", State::Sent),
        (&first, "delivered", State::Delivered),
        (&second, "failed 131026", State::Delivered),
        (&second, "read", State::Read),
    ] {
        assert_eq!(hooks.deliver(&statuses("3001", &[hooks.status(message, word)])).await, 200);
        assert_eq!(hooks.by_state(id).await, HashMap::from([(state, 1)]), "{word} of send {}", message.send);
    }
    hooks.stop().await;
}

#[tokio::test]
async fn a_status_before_the_response_counts_and_is_not_undone() {
    let hooks = Hooks::start().await;
    let (id, messages) = hooks.campaign(&["3001"], 2).await;
    let [early, late] = messages[&"3001".into()][..] else { panic!("two") };
    assert_eq!(hooks.deliver(&statuses("3001", &[hooks.status(&early, "delivered")])).await, 200);
    assert_eq!(hooks.by_state(id).await, HashMap::from([(State::Delivered, 1), (State::InFlight, 1)]));
    hooks.accept([&early, &late]).await;
    assert_eq!(hooks.by_state(id).await, HashMap::from([(State::Delivered, 1), (State::Accepted, 1)]));
    hooks.stop().await;
}

#[tokio::test]
async fn text_that_is_not_unicode_does_not_affect_other_updates() {
    let hooks = Hooks::start().await;
    let (id, messages) = hooks.campaign(&["3001"], 2).await;
    let ours = &messages[&"3001".into()];
    hooks.accept(ours).await;
    for (message, half) in ours.iter().zip([br"S\u00ed \ud83d".as_slice(), b"S\xc3\xad \xf0\x9f"]) {
        let value = json!({
            "metadata": {"phone_number_id": "3001"},
            "contacts": [{"wa_id": "1", "profile": {"name": "HALF"}}],
            "messages": [{"from": "1", "type": "button", "button": {"payload": "HALF"}}],
            "statuses": [hooks.status(message, "delivered")],
        });
        let body = payload(&[json!({"field": "messages", "value": value})]).to_string();
        let pieces: Vec<_> = body.split("HALF").map(str::as_bytes).collect();
        assert_eq!(hooks.deliver_bytes(&pieces.join(half)).await, 200);
    }
    assert_eq!(hooks.by_state(id).await, HashMap::from([(State::Delivered, 2)]));
    hooks.stop().await;
}

#[tokio::test]
async fn a_failed_status_without_errors_fails_and_holds_nothing() {
    let hooks = Hooks::start().await;
    let (id, messages) = hooks.campaign(&["3001"], 3).await;
    let messages = &messages[&"3001".into()];
    hooks.accept(messages).await;
    let mut failed: Vec<_> = messages.iter().map(|message| hooks.status(message, "failed")).collect();
    failed[1]["errors"] = json!([]);
    failed[2]["errors"] = json!([{"title": "gone"}]);
    assert_eq!(hooks.deliver(&statuses("3001", &failed)).await, 200);
    let counts = hooks.counts(id).await;
    assert_eq!(counts.by_state, HashMap::from([(State::Failed, 3)]));
    let found: Vec<_> = failures(&[counts]).into_iter().map(|f| (f.code, f.title, f.count)).collect();
    assert_eq!(found, [(None, "Meta reported the failure without a reason".to_owned(), 3)]);
    assert!(hooks.store.holds(hooks.clock.now()).await.expect("holds").is_empty());
    hooks.stop().await;
}

#[tokio::test]
async fn a_failure_without_our_token_is_matched_by_message_id() {
    let hooks = Hooks::start().await;
    let (id, messages) = hooks.campaign(&["3001", "3002"], 80).await;
    let (ours, others) = (&messages[&"3001".into()], &messages[&"3002".into()]);
    hooks.accept(ours.iter().chain(others)).await;
    let mut foreign = status_without_token(&ours[1].wamid(), "failed 131049");
    foreign["biz_opaque_callback_data"] = "c42:r981".into();
    let wrong_line = status_without_token(&others[0].wamid(), "failed 131026");
    let reported = [
        status_without_token(&ours[0].wamid(), "failed 131026"),
        foreign,
        status_without_token("wamid.of-another-app", "failed 131026"),
        status_without_token("", "failed 131026"),
        wrong_line,
    ];
    for _ in 0..2 {
        assert_eq!(hooks.deliver(&statuses("3001", &reported)).await, 200);
        let counts = hooks.counts(id).await;
        assert_eq!(counts.by_state, HashMap::from([(State::Accepted, 78), (State::Failed, 2)]));
        assert_eq!(counts.failures, HashMap::from([(meta_code(131_026), 1), (meta_code(131_049), 1)]));
    }
    hooks.stop().await;
}

#[tokio::test]
async fn an_ended_campaign_is_still_found_by_message_id() {
    let hooks = Hooks::start().await;
    let (id, messages) = hooks.campaign(&["3001"], 3).await;
    let ours = &messages[&"3001".into()];
    hooks.accept(ours).await;
    let now = hooks.clock.now();
    assert!(hooks.store.complete_if_done(id, now).await.expect("a store"));
    support::retire(&hooks.store, id, now).await;
    assert_eq!(hooks.deliver(&statuses("3001", &[status_without_token(&ours[2].wamid(), "failed 131026")])).await, 200);
    assert_eq!(hooks.by_state(id).await, HashMap::from([(State::Accepted, 2), (State::Failed, 1)]));
    hooks.stop().await;
}

#[tokio::test]
async fn ids_of_the_first_of_300_small_campaigns_are_found() {
    let hooks = Hooks::start().await;
    let (first, messages) = hooks.campaign(&["3001"], 2).await;
    hooks.accept(&messages[&"3001".into()]).await;
    for _ in 1..300 {
        let (_, later) = hooks.campaign(&["3001"], 2).await;
        hooks.accept(&later[&"3001".into()]).await;
    }
    let [failed, answered] = messages[&"3001".into()][..] else { panic!("two") };
    let answer = json!({"type": "text", "context": {"from": "5491155550001", "id": answered.wamid()}});
    assert_eq!(hooks.deliver(&statuses("3001", &[status_without_token(&failed.wamid(), "failed 131026")])).await, 200);
    assert_eq!(hooks.deliver(&inbound("3001", &[answer])).await, 200);
    let counts = hooks.counts(first).await;
    assert_eq!(counts.by_state, HashMap::from([(State::Accepted, 1), (State::Failed, 1)]));
    assert_eq!(counts.replied, 1);
    hooks.stop().await;
}

#[tokio::test]
async fn one_call_reads_at_most_64_kib_of_a_list_of_ids() {
    let hooks = Hooks::start().await;
    let (_, messages) = hooks.campaign(&["3001"], 20_000).await;
    let messages = &messages[&"3001".into()];
    for batch in messages.chunks(256) {
        hooks.accept(batch).await;
    }
    let (part, mut from, mut calls, mut ids) = (messages[0].part, None, 0, HashMap::new());
    while calls == 0 || from.is_some() {
        let piece = hooks.store.read_ids(&[(part, from)]).await.expect("a store").remove(0);
        assert!(piece.bytes() <= 64 * 1024, "{}", piece.bytes());
        ids.extend(piece.ids());
        (from, calls) = (piece.next, calls + 1);
    }
    assert!(calls >= 4, "20,000 ids take 215 KiB: {calls}");
    assert_eq!(ids.len(), messages.len());
    for message in messages {
        let claimed = ClaimedRow { row: message.row, send: message.send };
        assert_eq!(ids.get(&Fingerprint::of(&message.wamid())), Some(&claimed));
    }
    hooks.stop().await;
}

#[tokio::test]
async fn a_failure_before_the_response_is_parked_until_the_id_is_stored() {
    let hooks = Hooks::start().await;
    let (id, messages) = hooks.campaign(&["3001"], 2).await;
    let [early, other] = messages[&"3001".into()][..] else { panic!("two") };
    for _ in 0..2 {
        assert_eq!(
            hooks.deliver(&statuses("3001", &[status_without_token(&early.wamid(), "failed 131026")])).await,
            200
        );
    }
    assert_eq!(hooks.by_state(id).await, HashMap::from([(State::InFlight, 2)]));
    hooks.accept([&early, &other]).await;
    until("the parked failure is applied", async || hooks.by_state(id).await.contains_key(&State::Failed)).await;
    assert_eq!(hooks.counts(id).await.failures, HashMap::from([(meta_code(131_026), 1)]));
    hooks.stop().await;
}

#[tokio::test]
async fn the_first_status_of_a_message_in_doubt_records_its_id() {
    let hooks = Hooks::start().await;
    let (id, messages) = hooks.campaign(&["3001"], 1).await;
    let message = messages[&"3001".into()][0];
    // The response was lost, and the message id with it.
    hooks.settle([(message, Settled::InDoubt { until: hooks.clock.now().after(hooks::ID_RETENTION) })]).await;
    assert_eq!(hooks.deliver(&statuses("3001", &[hooks.status(&message, "sent")])).await, 200);
    assert_eq!(hooks.by_state(id).await, HashMap::from([(State::Sent, 1)]));
    assert_eq!(hooks.deliver(&statuses("3001", &[status_without_token(&message.wamid(), "failed 131026")])).await, 200);
    assert_eq!(hooks.by_state(id).await, HashMap::from([(State::Failed, 1)]));
    hooks.stop().await;
}

#[tokio::test]
async fn a_forged_token_changes_nothing() {
    let hooks = Hooks::start().await;
    let (id, messages) = hooks.campaign(&["3001"], 2).await;
    let ours = &messages[&"3001".into()];
    hooks.accept(ours).await;
    let mut forged = status_without_token("wamid.forged", "read");
    let ours_token = hooks.token(&ours[0]);
    for token in
        [hooks::token(&TokenKey::new([1; 16]), &ours[0]), ours_token.replace(".0.0.1.", ".0.1.1."), "p1".into()]
    {
        forged["biz_opaque_callback_data"] = token.into();
        let tapped = json!({"button": {"payload": forged["biz_opaque_callback_data"]}});
        assert_eq!(hooks.deliver(&statuses("3001", &[forged.clone()])).await, 200);
        assert_eq!(hooks.deliver(&inbound("3001", &[tapped])).await, 200);
    }
    let counts = hooks.counts(id).await;
    assert_eq!(counts.by_state, HashMap::from([(State::Accepted, 2)]));
    assert_eq!(counts.replied, 0);
    hooks.stop().await;
}

#[tokio::test]
async fn a_status_for_a_foreign_line_changes_nothing() {
    let hooks = Hooks::start().await;
    let (id, messages) = hooks.campaign(&["3001", "3002"], 80).await;
    let message = &messages[&"3001".into()][0];
    hooks.accept([message]).await;
    let before = hooks.by_state(id).await;
    for (line, moves) in [("9999", false), ("", false), ("3003", false), ("3002", true)] {
        let (reported, unnamed) =
            (hooks.status(message, "read"), status_without_token(&message.wamid(), "failed 131026"));
        assert_eq!(hooks.deliver(&statuses(line, &[reported, unnamed])).await, 200);
        assert_eq!(hooks.by_state(id).await != before, moves, "{line}: a part may move between its campaign's lines");
    }
    hooks.stop().await;
}

#[tokio::test]
async fn a_status_for_a_foreign_waba_changes_nothing() {
    let hooks = Hooks::start().await;
    let (id, messages) = hooks.campaign(&["3001"], 2).await;
    let ours = &messages[&"3001".into()];
    hooks.accept(ours).await;
    let before = hooks.by_state(id).await;
    let reported = |waba: &Value| {
        let tapped = json!({"button": {"payload": hooks.token(&ours[0])}});
        let mut reported = payload(&[
            statuses(
                "3001",
                &[hooks.status(&ours[0], "read"), status_without_token(&ours[1].wamid(), "failed 131026")],
            )["entry"][0]["changes"][0]
                .clone(),
            inbound("3001", &[tapped])["entry"][0]["changes"][0].clone(),
        ]);
        reported["entry"][0]["id"] = waba.clone();
        reported
    };
    for waba in [json!("2002"), json!("20011"), json!(""), json!(null), json!(["2001"])] {
        assert_eq!(hooks.deliver(&reported(&waba)).await, 200, "{waba}: a repeat would not help");
        assert_eq!(hooks.by_state(id).await, before, "{waba}");
        assert_eq!(hooks.counts(id).await.replied, 0, "{waba}");
    }
    assert_eq!(hooks.deliver(&reported(&json!("2001"))).await, 200);
    assert_eq!(hooks.by_state(id).await, HashMap::from([(State::Read, 1), (State::Failed, 1)]));
    assert_eq!(hooks.counts(id).await.replied, 1);
    hooks.stop().await;
}

#[tokio::test]
async fn a_reply_counts_once_by_button_payload_or_context() {
    let hooks = Hooks::start().await;
    let (id, messages) = hooks.campaign(&["3001"], 5).await;
    let ours = &messages[&"3001".into()];
    hooks.accept(ours).await;
    let context = |message: &Message| json!({"from": "5491155550001", "id": message.wamid()});
    let answers = [
        json!({"type": "button", "button": {"payload": hooks.token(&ours[0]), "text": "Sí"}, "context": context(&ours[0])}),
        json!({"type": "interactive", "interactive": {"button_reply": {"id": hooks.token(&ours[1])}}}),
        json!({"type": "button", "button": {"payload": "the caller's own"}, "context": context(&ours[2])}),
        json!({"type": "text", "text": {"body": "hola"}, "context": context(&ours[3])}),
        json!({"type": "text", "text": {"body": "hola"}}),
        json!({"type": "text", "context": {"id": "wamid.of-somebody-else"}}),
    ];
    for _ in 0..2 {
        assert_eq!(hooks.deliver(&inbound("3001", &answers)).await, 200);
        assert_eq!(hooks.counts(id).await.replied, 4);
    }
    assert_eq!(hooks.by_state(id).await, HashMap::from([(State::Accepted, 5)]), "a reply is not a status");
    hooks.stop().await;
}

#[tokio::test]
async fn a_campaign_is_completed_when_its_last_doubt_is_resolved() {
    let hooks = Hooks::start().await;
    let (id, messages) = hooks.campaign(&["3001", "3002"], 80).await;
    let doubtful = messages[&"3002".into()][0];
    let all: Vec<&Message> = messages.values().flatten().filter(|message| **message != doubtful).collect();
    hooks.accept(all.iter().copied()).await;
    hooks.settle([(doubtful, Settled::InDoubt { until: hooks.clock.now().after(hooks::ID_RETENTION) })]).await;
    let reported: Vec<Value> = all.iter().map(|message| hooks.status(message, "sent")).collect();
    for line in ["3001", "3002"] {
        assert_eq!(hooks.deliver(&statuses(line, &reported)).await, 200);
    }
    assert_eq!(hooks.record(id).await.state, CampaignState::Running);
    assert_eq!(hooks.deliver(&statuses("3002", &[hooks.status(&doubtful, "delivered")])).await, 200);
    world::wait_for_state(&hooks.store, id, CampaignState::Completed).await;
    assert_eq!(hooks.by_state(id).await, HashMap::from([(State::Sent, 79), (State::Delivered, 1)]));
    hooks.stop().await;
}

#[tokio::test]
async fn metas_details_of_a_failure_are_stored() {
    let hooks = Hooks::start().await;
    let (id, messages) = hooks.campaign(&["3001"], 2).await;
    let ours = &messages[&"3001".into()];
    hooks.accept(ours).await;
    let mut long = status_without_token(&ours[1].wamid(), "failed 131049");
    long["errors"][0]["error_data"]["details"] = "ñ".repeat(10_000).into();
    assert_eq!(hooks.deliver(&statuses("3001", &[hooks.status(&ours[0], "failed 131026"), long])).await, 200);
    until("the details are stored", async || hooks.counts(id).await.details.len() == 2).await;
    let details = hooks.counts(id).await.details;
    assert_eq!(details[&meta_code(131_026)], "details of 131026");
    assert_eq!(details[&meta_code(131_049)], "ñ".repeat(500));
    hooks.stop().await;
}
