//! Malformed and hostile input causes no panic, no hang and no unbounded memory.
//!
//! The inputs in `fuzz/corpus` go through the functions that the fuzz targets call (`make fuzz`), so that fixed
//! failures stay fixed. The other tests are for inputs that fuzzers do not find: large, deeply nested or endless
//! ones.

#[path = "../../../fuzz/src/lib.rs"]
#[expect(unreachable_pub, reason = "for the fuzz targets it is a crate of its own")]
mod inputs;

use std::{hint::black_box, io::Cursor, iter, path::Path, pin::Pin};

use async_compression::{
    Level,
    tokio::bufread::{BrotliEncoder, GzipEncoder, ZstdEncoder},
};
use pregon::{
    coding::Coding,
    domain::{Cause, Outcome, Reject, template::Column},
    graph::answer,
    intake::{
        job::Job,
        rows::{COLUMN_NAME_BYTES_MAX, COLUMNS_MAX, Columns, ROW_BYTES_MAX, Row, RowReader, UploadError},
    },
    webhook::{fields::WebhookChange, payload::Payload},
};
use tokio::io::{AsyncRead, AsyncReadExt as _};

/// Memory that an upload's reader may use, however long the upload is.
const READER_BYTES_MAX: u64 = 4 * ROW_BYTES_MAX as u64;
const PIECE_BYTES: usize = 64 * 1024;
/// Memory that the rows of one piece may use.
const PIECE_ROWS_BYTES_MAX: u64 = 16 << 20;
/// The default limit of webhook and API bodies.
const BODY_BYTES_MAX: usize = 4 << 20;
/// Pieces of an endless upload, 8 MiB in total.
const PIECES: usize = 128;

/// Calls `check` with every input in the corpus of `target`.
fn check_corpus(target: &str, check: fn(&[u8])) {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let mut n_inputs = 0;
    for entry in std::fs::read_dir(&dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display())) {
        let path = entry.expect("an entry").path();
        println!("{}", path.display());
        check(&std::fs::read(&path).expect("an input"));
        n_inputs += 1;
    }
    assert!(n_inputs >= 5, "{n_inputs} inputs in {}", dir.display());
}

#[test]
fn the_webhook_corpus_passes() {
    check_corpus("webhook", inputs::webhook);
}

#[test]
fn the_answer_corpus_passes() {
    check_corpus("answer", inputs::answer);
}

#[test]
fn the_ndjson_corpus_passes() {
    check_corpus("ndjson", inputs::ndjson);
}

#[test]
fn the_csv_corpus_passes() {
    check_corpus("csv", inputs::csv);
}

#[test]
fn the_suppressions_corpus_passes() {
    check_corpus("suppressions", inputs::suppressions);
}

#[test]
fn the_job_corpus_passes() {
    check_corpus("job", inputs::job);
}

#[test]
fn the_token_corpus_passes() {
    check_corpus("token", inputs::token);
}

/// A CSV reader that accepts the columns of this header row.
fn csv(header: &str) -> RowReader {
    let column = |name: &str| Column { name: name.to_owned(), is_required: false };
    RowReader::csv(Columns::new(header.trim().split(',').map(column).collect(), &[]))
}

/// Reads an upload of `start` followed by `PIECES` times `piece`. Returns its rows and the peak memory in bytes,
/// the rows included.
fn endless(mut reader: RowReader, start: &str, piece: &[u8]) -> (Result<Vec<Row>, UploadError>, u64) {
    let mut rows = Ok(Vec::new());
    let used = allocation_counter::measure(|| {
        rows = (|| {
            let mut rows = Vec::new();
            reader.push(start.as_bytes(), &mut rows)?;
            (0..PIECES).try_for_each(|_| reader.push(piece, &mut rows))?;
            reader.finish(&mut rows)?;
            Ok(rows)
        })();
    });
    (rows, used.bytes_max)
}

#[test]
fn an_endless_row_is_one_rejected_row_in_bounded_memory() {
    let refused = |rows: &[Row]| {
        let reject = rows[0].content.as_ref().err();
        rows.len() == 1 && matches!(reject, Some(Reject::LineTooLong { .. } | Reject::UnclosedQuote))
    };
    for (reader, start, filler) in [
        (RowReader::ndjson as fn() -> RowReader, "{\"to\":\"", b'x'),
        (RowReader::ndjson, "", b'['),
        (RowReader::ndjson, "", b'\0'),
        (RowReader::ndjson, "", b'\xff'),
        (|| csv("to,1"), "to,1\n+1,", b'x'),
        (|| csv("to,1"), "to,1\n+1,\"", b'\n'),
        (|| csv("to,1"), "to,1\n+1,\"", b'"'),
        (|| csv("to,1"), "to,1\n", b'\0'),
        (|| csv("to,1"), "to,1\n", b','),
    ] {
        let (rows, used) = endless(reader(), start, &[filler; PIECE_BYTES]);
        let rows = rows.expect("the upload is not rejected");
        // A row of empty cells counts as a blank line.
        assert!(if filler == b',' { rows.is_empty() } else { refused(&rows) }, "{start:?} {filler}: {rows:?}");
        assert!(used <= READER_BYTES_MAX, "{start:?} {filler}: {used} bytes");
    }
    for (start, filler) in [("", b'x'), ("to,\"", b'\n'), ("", b'"'), ("\u{feff}", b';')] {
        let (rows, used) = endless(csv("to,1"), start, &[filler; PIECE_BYTES]);
        assert_eq!(rows, Err(UploadError::HeaderTooLong), "{start:?} {filler}");
        assert!(used <= READER_BYTES_MAX, "{start:?} {filler}: {used} bytes");
    }
}

#[test]
fn eight_million_blank_lines_are_no_rows_in_bounded_memory() {
    for line_break in [b'\n', b'\r'] {
        let (rows, used) = endless(csv("to,1"), "to,1\n", &[line_break; PIECE_BYTES]);
        assert_eq!(rows, Ok(vec![]));
        assert!(used <= READER_BYTES_MAX, "{used} bytes");
        let (rows, used) = endless(csv("to,1"), "", &[line_break; PIECE_BYTES]);
        assert_eq!(rows, Err(UploadError::NoHeader));
        assert!(used <= READER_BYTES_MAX, "{used} bytes");
    }
    let (rows, used) = endless(RowReader::ndjson(), "", &[b'\n'; PIECE_BYTES]);
    assert_eq!(rows, Ok(vec![]));
    assert!(used <= READER_BYTES_MAX, "{used} bytes");
}

#[test]
fn the_rows_of_one_piece_fit_in_bounded_memory() {
    let cycle = |text: &str| text.bytes().cycle().take(PIECE_BYTES).collect::<Vec<u8>>();
    let name = "n".repeat(COLUMN_NAME_BYTES_MAX);
    let names = (1..COLUMNS_MAX).map(|n| format!("{n:0>COLUMN_NAME_BYTES_MAX$}"));
    let wide = iter::once("to".to_owned()).chain(names).collect::<Vec<_>>().join(",") + "\n";
    let empty = format!("1{}\n", ",".repeat(COLUMNS_MAX - 1));
    let pairs = format!("{{\"to\":\"\",\"params\":{{{}\"\":\"\"}}}}\n", "\"\":\"\",".repeat(5_000));
    for (mut reader, start, piece) in [
        (csv(&format!("to,{name}")), format!("to,{name}\n"), cycle("1,\n")),
        (csv(&wide), wide.clone(), cycle(&empty)),
        (csv("to"), "to\n".to_owned(), cycle("1\n")),
        (csv("to"), "to\n".to_owned(), cycle(",\n")),
        (RowReader::ndjson(), String::new(), cycle("0\n")),
        (RowReader::ndjson(), String::new(), cycle("{\"to\":0}\n")),
        (RowReader::ndjson(), String::new(), cycle(&pairs)),
    ] {
        let mut rows: Vec<Row> = Vec::new();
        reader.push(start.as_bytes(), &mut rows).expect("a header row");
        let used = allocation_counter::measure(|| {
            reader.push(&piece, &mut rows).expect("rows");
        });
        let first = String::from_utf8_lossy(&piece[..8]);
        println!("{} rows that begin with {first:?} take {} bytes", rows.len(), used.bytes_max);
        assert!(used.bytes_max <= PIECE_ROWS_BYTES_MAX, "{} bytes", used.bytes_max);
    }
}

#[test]
fn a_compressed_file_expands_in_bounded_memory() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let zeros = vec![0; 64 << 20];
    for coding in Coding::ALL {
        let encoded = runtime.block_on(encoded(coding, &zeros));
        let (n_encoded, mut n) = (encoded.len(), 0);
        let used = allocation_counter::measure(|| {
            runtime.block_on(async {
                let (mut decoder, mut buffer) = (coding.decoder(Cursor::new(encoded)), vec![0; 64 * 1024]);
                while let read @ 1.. = decoder.read(&mut buffer).await.expect("what was encoded") {
                    n += read;
                }
            });
        });
        println!("{coding:?}: {n} bytes out of {n_encoded} take {}", used.bytes_max);
        assert_eq!(n, zeros.len(), "{coding:?}");
        // Brotli's window has up to 16 MiB, and takes twice as much while it grows.
        assert!(used.bytes_max <= 34 << 20, "{coding:?}: {} bytes", used.bytes_max);
    }
}

async fn encoded(coding: Coding, bytes: &[u8]) -> Vec<u8> {
    let mut encoder: Pin<Box<dyn AsyncRead + '_>> = match coding {
        Coding::Gzip => Box::pin(GzipEncoder::new(bytes)),
        Coding::Zstd => Box::pin(ZstdEncoder::new(bytes)),
        Coding::Brotli => Box::pin(BrotliEncoder::with_quality(bytes, Level::Fastest)),
    };
    let mut encoded = Vec::new();
    encoder.read_to_end(&mut encoded).await.expect("encoded");
    encoded
}

#[test]
fn nesting_a_million_deep_is_skipped_or_rejected() {
    for (open, close) in [("[", "]"), ("{\"a\":", "}"), ("{\"entry\":[{\"changes\":", "}]}")] {
        let deep = format!("{}0{}", open.repeat(1_000_000), close.repeat(1_000_000));
        let within = |before: &str, after: &str| format!("{before}{deep}{after}").into_bytes();
        for hook in [
            within(r#"{"future":"#, r#","entry":[{"id":"1","changes":[{"field":"flows","value":{}}]}]}"#),
            within(r#"{"entry":[{"id":"1","time":"#, r#","changes":[{"field":"flows","value":{}}]}]}"#),
            within(r#"{"entry":[{"id":"1","changes":[{"field":"flows","value":{"x":"#, "}}]}]}"),
            within(r#"{"entry":[{"id":"1","changes":[{"value":{"x":"#, r#"},"field":"flows"}]}]}"#),
        ] {
            let payload = Payload::read(&hook).expect("an object");
            assert_eq!(payload.entries[0].changes, [WebhookChange::Other]);
        }
        let _ = Payload::read(&within(r#"{"entry":"#, "}"));
        for kind in ["text", "interactive", "contacts", "edit", "poll", "context", "errors"] {
            let start = format!(
                r#"{{"entry":[{{"changes":[{{"value":{{"metadata":{{"phone_number_id":"1"}},"contacts":[],
                    "messages":[{{"id":"wamid.A","type":"{kind}","{kind}":"#
            );
            let hook = within(&start, r#"}]},"field":"messages"}]}]}"#);
            let payload = Payload::read(&hook).expect("an object");
            let [WebhookChange::Messages(messages)] = &*payload.entries[0].changes else { panic!("{payload:?}") };
            assert_eq!(messages.inbound[0].id, Some("wamid.A".into()));
        }
        let _ = Payload::read(deep.as_bytes());
        // Unused fields of a response are skipped too, and no used field is nested.
        let accepted = answer::read(200, &within(r#"{"future":"#, r#","messages":[{"id":"wamid.A"}]}"#));
        assert!(matches!(accepted, Outcome::Accepted { .. }), "{accepted:?}");
        for body in [deep.clone().into_bytes(), within(r#"{"error":{"code":100,"error_data":"#, "}}")] {
            let outcome = answer::read(400, &body);
            assert!(matches!(outcome, Outcome::InDoubt(Cause::Unanswered(_))), "{outcome:?}");
        }
        let job = within(r#"{"type":"recipients","external_id":"a","recipients":["#, "]}");
        inputs::job(&job);
        assert!(Job::read(deep.as_bytes()).is_err());
        let row = format!("{{\"to\":\"+1\",\"params\":{{\"1\":{}", open.repeat(5_000));
        inputs::ndjson(row.as_bytes());
    }
}

#[test]
fn the_largest_body_is_parsed_in_bounded_memory() {
    let body = |start: &str, item: &str, end: &str| {
        let n = (BODY_BYTES_MAX - start.len() - end.len()) / (item.len() + 1);
        format!("{start}{}{item}{end}", format!("{item},").repeat(n - 1)).into_bytes()
    };
    let message = r#"{"entry":[{"changes":[{"field":"messages","value":{"metadata":{"phone_number_id":"1"},"#;
    let hooks = [
        body(r#"{"entry":["#, "{}", "]}"),
        body(r#"{"entry":["#, r#"{"changes":[{}]}"#, "]}"),
        body(r#"{"entry":[{"changes":["#, "{}", "]}]}"),
        body(r#"{"entry":["#, r#"{"changes":[{"field":0}]}"#, "]}"),
        body(r#"{"entry":[{"changes":["#, r#"{"field":0}"#, "]}]}"),
        body(r#"{"entry":[{"changes":["#, r#"{"value":{}}"#, "]}]}"),
        body(&format!(r#"{message}"statuses":["#), "{}", "]}}]}]}"),
        body(&format!(r#"{message}"statuses":["#), r#"{"id":0}"#, "]}}]}]}"),
        body(&format!(r#"{message}"statuses":["#), r#"{"errors":[{"code":1}]}"#, "]}}]}]}"),
        body(&format!(r#"{message}"messages":["#), "{}", "]}}]}]}"),
        body(&format!(r#"{message}"messages":["#), r#"{"timestamp":1}"#, "]}}]}]}"),
        body(&format!(r#"{message}"messages":["#), r#"{"":0}"#, "]}}]}]}"),
        body(&format!(r#"{message}"messages":["#), r#"{"id":0}"#, "]}}]}]}"),
        body(&format!(r#"{message}"messages":["#), r#"{"type":"text","text":{"body":""}}"#, "]}}]}]}"),
        body(&format!(r#"{message}"messages":["#), r#"{"type":"image","image":{}}"#, "]}}]}]}"),
        body(&format!(r#"{message}"messages":[{{"#), r#""":0"#, "}]}}]}]}"),
        body(&format!(r#"{message}"messages":[{{"type":"contacts","contacts":["#), r#"{"":0}"#, "]}]}}]}]}"),
        body(&format!(r#"{message}"messages":[{{"type":"contacts","contacts":["#), r#"{"origin":0}"#, "]}]}}]}]}"),
        body(&format!(r#"{message}"messages":[{{"errors":["#), r#"{"code":1}"#, "]}]}}]}]}"),
        body(&format!(r#"{message}"messages":[{{"from":1}}],"contacts":["#), r#"{"wa_id":1}"#, "]}}]}]}"),
        body(r#"{"entry":[{"changes":[{"value":{},"field":0},"#, r#"{"field":0}"#, "]}]}"),
        body(&format!(r#"{message}"statuses":[{{"errors":["#), "{}", "]}]}}]}]}"),
    ];
    for hook in hooks {
        let used = allocation_counter::measure(|| drop(black_box(Payload::read(&hook).expect("an object"))));
        println!("{:?}: {} MiB", String::from_utf8_lossy(&hook[..100]), used.bytes_max >> 20);
        assert!(used.bytes_max <= 40 * BODY_BYTES_MAX as u64, "{} MiB", used.bytes_max >> 20);
    }
    for item in ["0", "{}", "[]", r#"{"":0}"#, r#"{"to":"+1234567"}"#] {
        let job = body(r#"{"type":"recipients","external_id":"a","recipients":["#, item, "]}");
        let used = allocation_counter::measure(|| drop(black_box(Job::read(&job).expect("a job"))));
        println!("{item}: {} MiB", used.bytes_max >> 20);
        assert!(used.bytes_max <= 32 * BODY_BYTES_MAX as u64, "{} MiB", used.bytes_max >> 20);
    }
}
