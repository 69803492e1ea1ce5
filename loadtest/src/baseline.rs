//! The baseline of webhooks: an axum handler that only checks the signature of the body.

use std::io;

use axum::{Router, body::Bytes, extract::State, http::HeaderMap, http::StatusCode, routing::post};
use tokio::{io::AsyncReadExt as _, net::TcpListener};

use super::stage::APP_SECRET;
use pregon::{
    domain::Secret,
    terminal::out,
    webhook::signature::{HEADER, Signature, Verifier},
};

/// Prints its address to standard output, and serves until standard input ends.
///
/// Errors: no port can be bound, or standard output is closed.
pub async fn run() -> io::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    out::line(&listener.local_addr()?.to_string())?;
    let router =
        Router::new().route("/webhooks/meta", post(check)).with_state(Verifier::new(&[Secret::new(APP_SECRET)]));
    let serving = axum::serve(listener, router);
    let mut stdin = tokio::io::stdin();
    tokio::select! {
        served = serving => served,
        ended = stdin.read_u8() => { drop(ended); Ok(()) }
    }
}

async fn check(State(verifier): State<Verifier>, headers: HeaderMap, body: Bytes) -> StatusCode {
    let signature = headers.get(HEADER).and_then(|value| Signature::read(value.as_bytes()));
    match signature.is_some_and(|signature| verifier.accepts(&signature, &body)) {
        true => StatusCode::OK,
        false => StatusCode::UNAUTHORIZED,
    }
}
