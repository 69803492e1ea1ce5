//! `/sim/…`: reads the ledger and the messages, changes the running scenario, and injects events.

use std::convert::Infallible;

use bytes::Bytes;
use futures_util::stream;
use http_body_util::{BodyExt as _, StreamBody, combinators::BoxBody};
use hyper::{Method, body::Frame};
use serde::de::DeserializeOwned;
use serde_json::json;

use super::{reply::Reply, world::SharedWorld};

mod account;
mod business;
mod clock;
mod line;
mod people;
mod template;

/// The list of calls in the response to an unknown call.
const CALLS: &str = "GET ledger, GET messages, POST scenario, POST account, POST business, POST line, POST template, POST inbound, \
     POST preference, POST clock, POST reset";
/// The number of messages that are copied under one lock.
const PAGE_LEN: u32 = 64;

/// The result of a change: the problems of its request, if it is rejected.
type Changed = Result<(), Vec<String>>;

pub(super) async fn answer(world: &SharedWorld, method: &Method, what: &str, body: &[u8]) -> Reply {
    let changed = match (method, what) {
        (&Method::GET, "ledger") => return Reply::Json(200, serde_json::to_vec(&world.ledger()).unwrap_or_default()),
        (&Method::GET, "messages") => return Reply::Rows(rows(world.clone())),
        (&Method::POST, "scenario") => parse(body).and_then(|change| world.change(&change)),
        (&Method::POST, "business") => parse(body).and_then(|change| business::change(world, &change)),
        (&Method::POST, "account") => parse(body).and_then(|change| account::change(world, &change)),
        (&Method::POST, "line") => parse(body).and_then(|change| line::change(world, &change)),
        (&Method::POST, "template") => parse(body).and_then(|change| template::change(world, &change)),
        (&Method::POST, "inbound") => parse(body).and_then(|message| people::receive(world, &message)),
        (&Method::POST, "preference") => parse(body).and_then(|preference| people::prefer(world, &preference)),
        (&Method::POST, "clock") => match parse(body) {
            Ok(change) => clock::change(world, &change).await,
            Err(found) => Err(found),
        },
        (&Method::POST, "reset") => {
            world.reset();
            Ok(())
        }
        _ => {
            return Reply::Json(404, problems(&[format!("under /sim there are: {CALLS}")]));
        }
    };
    match changed {
        Ok(()) => Reply::Json(200, br#"{"success":true}"#.to_vec()),
        Err(found) => Reply::Json(400, problems(&found)),
    }
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

fn problem(text: impl Into<String>) -> Vec<String> {
    vec![text.into()]
}

fn problems(found: &[String]) -> Vec<u8> {
    json!({ "problems": found }).to_string().into_bytes()
}
