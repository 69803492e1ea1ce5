//! Load generator: sends prepared requests over plain connections, on a fixed schedule or as fast as they are answered,
//! and measures latency.
//!
//! On a fixed schedule, request number `n` is due at `n` times the interval, and its latency counts from then, even if
//! every connection was still waiting for a response (no coordinated omission). The delay of the generator itself is
//! recorded separately and is included in the latency.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use hdrhistogram::Histogram;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::{Instant, sleep_until},
};

/// The most headers in a response.
const HEADERS_MAX: usize = 32;

/// The measurement of a run.
pub struct Answered {
    /// From the start to the last response.
    pub took: Duration,
    /// Microseconds from the due time of a request to its response; without a schedule, from its sending.
    pub latency: Histogram<u64>,
    /// Microseconds from the due time of a request to its sending, for requests that had a free connection when due.
    pub late: Histogram<u64>,
}

/// Sends every request once over `connections` connections. `interval`: the time between requests on a fixed schedule;
/// `None` sends as fast as requests are answered.
///
/// Errors: a connection failed, or a response is not 200.
pub async fn run(
    to: SocketAddr,
    requests: Vec<Bytes>,
    connections: usize,
    interval: Option<Duration>,
) -> io::Result<Answered> {
    let (requests, next) = (Arc::new(requests), Arc::new(AtomicUsize::new(0)));
    let mut sockets = Vec::with_capacity(connections);
    for _ in 0..connections {
        let socket = TcpStream::connect(to).await?;
        socket.set_nodelay(true)?;
        sockets.push(socket);
    }
    let began = Instant::now();
    let turns: Vec<_> = sockets
        .into_iter()
        .map(|socket| tokio::spawn(connection(socket, requests.clone(), next.clone(), began, interval)))
        .collect();
    let mut all = Answered { took: Duration::ZERO, latency: histogram(), late: histogram() };
    for turn in turns {
        let (latency, late) = turn.await.map_err(io::Error::other)??;
        all.latency.add(latency).map_err(io::Error::other)?;
        all.late.add(late).map_err(io::Error::other)?;
    }
    all.took = began.elapsed();
    Ok(all)
}

async fn connection(
    mut socket: TcpStream,
    requests: Arc<Vec<Bytes>>,
    next: Arc<AtomicUsize>,
    began: Instant,
    interval: Option<Duration>,
) -> io::Result<(Histogram<u64>, Histogram<u64>)> {
    let (mut latency, mut late) = (histogram(), histogram());
    let mut buffer = Vec::with_capacity(1_024);
    loop {
        let number = next.fetch_add(1, Ordering::Relaxed);
        let Some(request) = requests.get(number) else { return Ok((latency, late)) };
        let mut due = Instant::now();
        if let Some(interval) = interval {
            let free = due;
            due = began + interval.mul_f64(number as f64);
            sleep_until(due).await;
            if free <= due {
                record(&mut late, due.elapsed());
            }
        }
        socket.write_all(request).await?;
        answer(&mut socket, &mut buffer).await?;
        record(&mut latency, due.elapsed());
    }
}

/// Reads one response, which must be 200.
async fn answer(socket: &mut TcpStream, buffer: &mut Vec<u8>) -> io::Result<()> {
    buffer.clear();
    loop {
        if socket.read_buf(buffer).await? == 0 {
            return Err(io::Error::other("the connection ended without a response"));
        }
        let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
        let mut response = httparse::Response::new(&mut headers);
        let httparse::Status::Complete(head) = response.parse(buffer).map_err(io::Error::other)? else { continue };
        let length = response.headers.iter().find(|header| header.name.eq_ignore_ascii_case("content-length"));
        let length: usize = length.and_then(|header| std::str::from_utf8(header.value).ok()?.parse().ok()).unwrap_or(0);
        if buffer.len() < head + length {
            continue;
        }
        return match response.code {
            Some(200) => Ok(()),
            code => Err(io::Error::other(format!("a request was answered {}", code.unwrap_or_default()))),
        };
    }
}

/// A histogram that resizes itself, with three significant digits.
pub fn histogram() -> Histogram<u64> {
    Histogram::new(3).expect("three significant digits are supported")
}

fn record(histogram: &mut Histogram<u64>, time: Duration) {
    // A histogram that resizes itself accepts every value.
    let _ = histogram.record(u64::try_from(time.as_micros()).unwrap_or(u64::MAX));
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

    /// A server that answers every request of one byte. Request number `slow` of a connection is answered after
    /// `pause`.
    async fn server(slow: usize, pause: Duration, answer: &'static [u8]) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        tokio::spawn(async move {
            while let Ok((mut socket, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let mut number = 0;
                    while socket.read_u8().await.is_ok() {
                        if number == slow {
                            tokio::time::sleep(pause).await;
                        }
                        number += 1;
                        let (one, other) = answer.split_at(answer.len() / 2);
                        socket.write_all(one).await.expect("written");
                        socket.write_all(other).await.expect("written");
                    }
                });
            }
        });
        address
    }

    fn requests(n: usize) -> Vec<Bytes> {
        vec![Bytes::from_static(b"x"); n]
    }

    #[tokio::test]
    async fn a_pause_counts_in_the_latency_of_all_requests_due_in_it() {
        let pause = Duration::from_millis(300);
        let to = server(50, pause, ANSWER).await;
        let answered = run(to, requests(200), 1, Some(Duration::from_millis(1))).await.expect("answers");
        assert_eq!(answered.latency.len(), 200);
        // 150 requests became due while the only connection waited, most of them well before the pause ended.
        let waited = answered.latency.count_between(50_000, u64::MAX);
        assert!(waited >= 100, "{waited} of 150 requests waited");
        assert!(answered.late.len() < 200, "requests without a free connection are not late because of the generator");
    }

    #[tokio::test]
    async fn without_a_schedule_only_the_paused_request_waits() {
        let pause = Duration::from_millis(300);
        let to = server(50, pause, ANSWER).await;
        let answered = run(to, requests(200), 1, None).await.expect("answers");
        assert_eq!((answered.latency.len(), answered.late.len()), (200, 0));
        assert!(answered.latency.max() >= 300_000 && answered.took >= pause);
    }

    #[tokio::test]
    async fn a_response_other_than_200_is_an_error() {
        let to = server(usize::MAX, Duration::ZERO, b"HTTP/1.1 503 \r\ncontent-length: 0\r\n\r\n").await;
        let error = run(to, requests(2), 1, None).await.err().expect("refused");
        assert!(error.to_string().contains("503"), "{error}");
    }
}
