//! Connections and routes.
//!
//! Uses hyper directly: a fault that resets a connection needs access to the connection, which no framework offers.

use std::{convert::Infallible, future::poll_fn, pin::Pin, sync::atomic::Ordering, time::Duration};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Either, Full, Limited, combinators::BoxBody};
use hyper::{
    Method, Request, Response, StatusCode,
    body::Incoming,
    header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderMap, HeaderName, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::{
    control, management,
    query::Query,
    reply::Reply,
    send::{Arrival, send},
    transfer,
    validate::Edge,
    wire::{self, Refusal},
    world::SharedWorld,
};

/// The maximum size of a body. Meta does not publish its limit; no message comes near this one.
const BODY_BYTES_MAX: usize = 1 << 20;
/// How long open requests may take to finish after a stop.
const GRACE: Duration = Duration::from_secs(2);

/// Resets the connection: hyper closes a connection without a response when its service fails.
#[derive(Debug, thiserror::Error)]
#[error("the scenario resets this connection")]
struct ResetConnection;

type Body = Either<Full<Bytes>, BoxBody<Bytes, Infallible>>;

/// Accepts connections until the simulator stops.
pub(super) async fn accept_all(world: SharedWorld, listener: TcpListener) {
    loop {
        let accepted = tokio::select! {
            () = world.stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => drop(world.tasks.spawn(serve(world.clone(), stream))),
            Err(error) => {
                // Most likely there are no file descriptors left. Wait for open connections to end.
                warn!(%error, "a connection cannot be accepted");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

async fn serve(world: SharedWorld, stream: TcpStream) {
    let stop = world.stop.clone();
    let _ = stream.set_nodelay(true);
    // `into_parts` below requires that the futures of the service are `Unpin`, hence the box.
    let closed = CancellationToken::new();
    let _closes = closed.clone().drop_guard();
    let service = service_fn(move |request| Box::pin(answer(world.clone(), request, closed.clone())));
    let mut connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
    let mut ended = tokio::select! {
        ended = poll_fn(|cx| connection.poll_without_shutdown(cx)) => Some(ended),
        () = stop.cancelled() => None,
    };
    if ended.is_none() {
        Pin::new(&mut connection).graceful_shutdown();
        let rest = poll_fn(|cx| connection.poll_without_shutdown(cx));
        ended = tokio::time::timeout(GRACE, rest).await.ok();
    }
    let stream = connection.into_parts().io.into_inner();
    if let Some(Err(error)) = ended {
        debug!(%error, "connection ended");
        // With zero linger, closing the socket sends a reset. A client could mistake an orderly close for a complete
        // response.
        let _ = stream.set_zero_linger();
    }
}

async fn answer(
    world: SharedWorld,
    request: Request<Incoming>,
    closed: CancellationToken,
) -> Result<Response<Body>, ResetConnection> {
    Ok(match route(&world, request, &closed).await {
        Reply::Json(status, body) => response(status, "application/json; charset=UTF-8", Either::Left(body.into())),
        Reply::File(mime_type, bytes) => response(200, &mime_type, Either::Left(bytes.into())),
        Reply::Html502 => response(502, "text/html", Either::Left(Full::from(HTML_502))),
        Reply::Rows(rows) => response(200, "application/x-ndjson", Either::Right(rows)),
        Reply::Reset | Reply::Silence => return Err(ResetConnection),
    })
}

const HTML_502: &str =
    "<html><head><title>502 Bad Gateway</title></head><body><h1>502 Bad Gateway</h1></body></html>\n";

fn response(status: u16, content_type: &str, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    // The type of a file is what its uploader wrote.
    let content_type = HeaderValue::from_str(content_type);
    let unknown = HeaderValue::from_static("application/octet-stream");
    response.headers_mut().insert(CONTENT_TYPE, content_type.unwrap_or(unknown));
    response
}

async fn route(world: &SharedWorld, request: Request<Incoming>, closed: &CancellationToken) -> Reply {
    let (head, body) = request.into_parts();
    let mut segments = head.uri.path().split('/').skip(1);
    let (first, node, edge, rest) = (segments.next().unwrap_or(""), segments.next(), segments.next(), segments.next());
    if first == "sim" {
        let body = read_body(body, BODY_BYTES_MAX).await.unwrap_or_default();
        return control::answer(world, &head.method, node.unwrap_or(""), &body).await;
    }
    let token = header_text(&head.headers, AUTHORIZATION).and_then(|value| value.strip_prefix("Bearer "));
    let send_edge = edge.and_then(Edge::named).filter(|_| head.method == Method::POST && rest.is_none());
    if let (true, Some(id), Some(edge)) = (is_version(first), node, send_edge) {
        return post_message(world, id, edge, token, body, closed).await;
    }
    if let ("media", Some(id), None, &Method::GET) = (first, node, edge, &head.method) {
        let downloaded = transfer::download(world, token, id, head.uri.query());
        return downloaded.unwrap_or_else(|refusal| Reply::refusal(world, &refusal));
    }
    match (is_version(first), node, edge, rest) {
        (true, Some(id), Some("media"), None) if head.method == Method::POST => {
            let Some(body) = read_body(body, transfer::UPLOAD_BYTES_MAX).await else { return Reply::Reset };
            match transfer::upload(world, token, id, header_text(&head.headers, CONTENT_TYPE), &body) {
                Ok(uploaded) => Reply::Json(200, wire::to_json(&uploaded)),
                Err(refusal) => Reply::refusal(world, &refusal),
            }
        }
        (true, Some(id), Some("unpause"), None) if head.method == Method::POST => management::unpause(world, token, id),
        (true, Some(id), Some("subscribed_apps"), None) if head.method == Method::POST => {
            let Some(body) = read_body(body, BODY_BYTES_MAX).await else { return Reply::Reset };
            let subscribed = management::subscribe(world, token, id, &body).await;
            subscribed.unwrap_or_else(|refusal| Reply::refusal(world, &refusal))
        }
        (true, Some(id), edge, None) if head.method == Method::GET => {
            let host = header_text(&head.headers, HOST).unwrap_or("localhost");
            let query = Query::new(host, head.uri.path(), head.uri.query().unwrap_or(""));
            management::answer(world, token, id, edge, &query).await
        }
        _ => Reply::refusal(world, &Refusal::new(2500, format!("Unknown path components: {}", head.uri.path()))),
    }
}

async fn post_message(
    world: &SharedWorld,
    id: &str,
    edge: Edge,
    token: Option<&str>,
    body: Incoming,
    closed: &CancellationToken,
) -> Reply {
    let Some(line) = world.line(id) else {
        world.counts.requests_elsewhere.fetch_add(1, Ordering::Relaxed);
        let refusal = world.authorize(token, None, id).err().unwrap_or_else(|| Refusal::no_such_object(id));
        return Reply::refusal(world, &refusal);
    };
    let arrival = Arrival::on(world, line);
    match read_body(body, BODY_BYTES_MAX).await {
        Some(body) => send(world, line, arrival, token, (edge, &body), closed).await,
        // The client broke off, or the body exceeds BODY_BYTES_MAX.
        None => Reply::Reset,
    }
}

/// Whether the segment is a version such as `v25.0`.
fn is_version(segment: &str) -> bool {
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    segment.strip_prefix('v').and_then(|version| version.split_once('.')).is_some_and(|(a, b)| digits(a) && digits(b))
}

fn header_text(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    headers.get(name)?.to_str().ok()
}

async fn read_body(body: Incoming, bytes_max: usize) -> Option<Bytes> {
    Some(Limited::new(body, bytes_max).collect().await.ok()?.to_bytes())
}
