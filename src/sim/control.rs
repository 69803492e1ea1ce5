//! `/sim/…`: reads the ledger and the messages, changes the running scenario, and injects events.

use std::convert::Infallible;

use bytes::Bytes;
use futures_util::stream;
use http_body_util::{BodyExt as _, StreamBody, combinators::BoxBody};
use hyper::{Method, body::Frame};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::json;

use super::{
    courier::Update, line::Content, reply::Reply, template::TemplateStatus, validate::phone, world::SharedWorld,
};

/// Messages copied under one lock.
const PAGE_LEN: u32 = 64;

/// `POST /sim/template`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TemplateChange {
    /// Without it, the template changes in all WABAs.
    waba: Option<String>,
    name: String,
    /// Without it, the template changes in all languages.
    language: Option<String>,
    status: TemplateStatus,
}

/// `POST /sim/inbound`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct InboundText {
    line: String,
    from: String,
    text: String,
}

pub(super) async fn answer(world: &SharedWorld, method: &Method, what: &str, body: &[u8]) -> Reply {
    let done = match (method, what) {
        (&Method::GET, "ledger") => return Reply::Json(200, serde_json::to_vec(&world.ledger()).unwrap_or_default()),
        (&Method::GET, "messages") => return Reply::Rows(rows(world.clone())),
        (&Method::POST, "scenario") => parse(body).and_then(|change| world.change(&change)),
        (&Method::POST, "template") => parse(body).and_then(|change| change_template(world, &change)),
        (&Method::POST, "inbound") => parse(body).and_then(|inbound_text| receive_text(world, &inbound_text)),
        (&Method::POST, "reset") => {
            world.reset();
            Ok(())
        }
        _ => {
            let paths = "GET ledger, GET messages, POST scenario, POST template, POST inbound, POST reset";
            return Reply::Json(404, problems(&[format!("under /sim there are: {paths}")]));
        }
    };
    match done {
        Ok(()) => Reply::Json(200, br#"{"success":true}"#.to_vec()),
        Err(found) => Reply::Json(400, problems(&found)),
    }
}

fn change_template(world: &SharedWorld, change: &TemplateChange) -> Result<(), Vec<String>> {
    let mut found = false;
    for (index, template) in world.templates.iter().enumerate() {
        let spec = &template.spec;
        let fits = spec.name == change.name
            && change.language.as_ref().is_none_or(|language| *language == spec.language)
            && change.waba.as_ref().is_none_or(|waba| *waba == spec.waba);
        if !fits {
            continue;
        }
        found = true;
        template.set_status(change.status);
        if let Some(courier) = &world.wabas[template.waba].courier {
            let update = Update::Template { template: index };
            courier.schedule(world.run(), &world.counts.pending, [(world.clock.now(), update)]);
        }
    }
    if found { Ok(()) } else { Err(vec![format!("there is no template {}", change.name)]) }
}

/// Receives a text message from a person on a line, and schedules its webhook.
fn receive_text(world: &SharedWorld, inbound_text: &InboundText) -> Result<(), Vec<String>> {
    let line = world.line(&inbound_text.line).ok_or_else(|| vec![format!("there is no line {}", inbound_text.line)])?;
    let from = phone(&inbound_text.from).ok_or_else(|| vec![format!("{} is not a phone number", inbound_text.from)])?;
    let mut state = line.state();
    let now = world.clock.now();
    let inbound = state.receive(from, Content::Text(inbound_text.text.as_str().into()), now);
    let run = state.run;
    drop(state);
    if let Some(courier) = &world.wabas[line.waba].courier {
        courier.schedule(run, &world.counts.pending, [(now, Update::Inbound { line: line.index, inbound })]);
    }
    Ok(())
}

/// Streams all messages as NDJSON, line by line, in constant memory.
fn rows(world: SharedWorld) -> BoxBody<Bytes, Infallible> {
    let pages = stream::unfold((world, 0, 0), |(world, mut line, mut from)| async move {
        while line < world.lines.len() {
            let page = world.messages(line, from, PAGE_LEN);
            if page.is_empty() {
                (line, from) = (line + 1, 0);
                continue;
            }
            from += PAGE_LEN;
            let mut bytes = Vec::new();
            for row in &page {
                bytes.append(&mut serde_json::to_vec(row).unwrap_or_default());
                bytes.push(b'\n');
            }
            return Some((Ok(Frame::data(Bytes::from(bytes))), (world, line, from)));
        }
        None
    });
    StreamBody::new(pages).boxed()
}

fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, Vec<String>> {
    serde_json::from_slice(body).map_err(|error| vec![error.to_string()])
}

fn problems(found: &[String]) -> Vec<u8> {
    json!({ "problems": found }).to_string().into_bytes()
}
