//! Inputs that the benches share: `paths` (time), `instructions` (under valgrind), `scripts` and `lookups` (Redis), and
//! `tests/guard.rs` (counts).
//!
//! The inputs are realistic: a template with three short parameters, the answers of `tests/fixtures`, and webhooks of
//! the same form with our own tokens. Nothing is random, so that counts are the same in every run.
#![allow(dead_code, reason = "each of these crates uses only a part")]
#![allow(unreachable_pub, reason = "this module is part of several crates, and has no callers outside of them")]

pub mod meta;
pub mod paths;
pub mod stored;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use pregon::domain::{CampaignId, ClaimedRow, Form, PartId, Phone, Recipient, Template, Token, TokenKey};

/// A template as Meta returns it.
const TEMPLATE: &str = r#"{"name":"order_update","language":"es_AR","status":"APPROVED","category":"UTILITY","parameter_format":"POSITIONAL","components":[{"type":"BODY","text":"Hola {{1}}, tu pedido {{2}} llega el {{3}}."}]}"#;

pub fn template() -> Template {
    serde_json::from_str(TEMPLATE).expect("a template")
}

pub fn form() -> Form {
    Form::of(&template()).expect("a template that can be sent")
}

/// The `n`th of a campaign's recipients: a name, an order, a day.
pub fn recipient(n: u64) -> Recipient {
    const NAMES: [&str; 8] = ["María", "José", "Lucía", "Juan", "Sofía", "Martín", "Camila", "Diego"];
    let mixed = n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20;
    let to = Phone::from_digits(5_491_100_000_000 + (mixed % 90_000) * 100_000 + n % 100_000).expect("a number");
    let name = NAMES[(mixed % 8) as usize];
    Recipient {
        to,
        values: vec![name.to_owned(), format!("A-{}", mixed % 1_000_000), format!("{} de mayo", mixed % 31 + 1)],
    }
}

pub fn token_key() -> TokenKey {
    TokenKey::new(*b"sixteen letters.")
}

/// A part of a campaign that is not stored in Redis.
pub fn part() -> PartId {
    PartId { campaign: CampaignId(ulid::Ulid(0x0192_7f31_ecba_c1c3_b32c_b52e_8c39_4831)), number: 7 }
}

pub fn token(row: u16) -> String {
    let mut text = String::new();
    Token::Campaign { part: part(), claimed: ClaimedRow { row, send: 1 } }.write(&token_key(), &mut text);
    text
}

/// A message id for a row, like those of Meta.
pub fn wamid(row: u16) -> String {
    let fields = format!("\x1c\x18\x0d5491155550101\x15\x02\0\x11\x18\x126BC18FA27D9B4{row:05}\0");
    format!("wamid.{}", STANDARD.encode(fields))
}

/// A webhook with `n` statuses, without white space, as Meta sends it.
pub fn webhook(n: u16) -> Vec<u8> {
    let status = |row: u16| {
        let (id, token) = (wamid(row), token(row));
        format!(
            r#"{{"id":"{id}","status":"delivered","timestamp":"1795300000","recipient_id":"5491155550101","recipient_user_id":"AR.1A2b","biz_opaque_callback_data":"{token}","conversation":{{"id":"1a2b","expiration_timestamp":1795386400,"origin":{{"type":"utility"}}}},"pricing":{{"billable":true,"pricing_model":"PMP","type":"regular","category":"utility"}}}}"#
        )
    };
    let statuses: Vec<String> = (0..n).map(status).collect();
    format!(
        r#"{{"object":"whatsapp_business_account","entry":[{{"id":"2001","changes":[{{"value":{{"messaging_product":"whatsapp","metadata":{{"display_phone_number":"5491155550001","phone_number_id":"3001"}},"statuses":[{}]}},"field":"messages"}}]}}]}}"#,
        statuses.join(",")
    )
    .into_bytes()
}

/// `n` rows of an upload in NDJSON.
pub fn ndjson(n: u64) -> String {
    let row = |recipient: Recipient| {
        let [name, order, day] = recipient.values.try_into().expect("three values");
        format!("{{\"to\":\"{}\",\"params\":{{\"1\":\"{name}\",\"2\":\"{order}\",\"3\":\"{day}\"}}}}\n", recipient.to)
    };
    (0..n).map(recipient).map(row).collect()
}

/// The same rows in CSV.
pub fn csv(n: u64) -> String {
    let row = |recipient: Recipient| format!("{},{}\n", recipient.to, recipient.values.join(","));
    String::from("to,1,2,3\n") + &(0..n).map(recipient).map(row).collect::<String>()
}
