//! Whatever comes in from outside: nothing panics, nothing hangs, nothing grows.
//!
//! The inputs in `fuzz/corpus` go through the functions that the fuzz targets call (`make fuzz`): what once fell stays
//! mended. Below them is what no fuzzer shows: inputs that are large, deep or without end.

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
    webhook::payload::{Payload, WebhookChange},
};
use tokio::io::{AsyncRead, AsyncReadExt as _};

/// What an upload's reader may keep, however long the upload is, and what the rows of one piece may take.
const READER_BYTES_MAX: u64 = 4 * ROW_BYTES_MAX as u64;
const PIECE_BYTES: usize = 64 * 1024;
const PIECE_ROWS_BYTES_MAX: u64 = 16 << 20;
/// The largest webhook and the largest call, unless the configuration says otherwise.
const BODY_BYTES_MAX: usize = 4 << 20;
/// Pieces of an upload that does not end: 8 MiB.
const PIECES: usize = 128;

/// Calls `check` with everything in the corpus of `target`.
fn corpus(target: &str, check: fn(&[u8])) {
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
fn every_known_webhook_holds() {
    corpus("webhook", inputs::webhook);
}

#[test]
fn every_known_answer_holds() {
    corpus("answer", inputs::answer);
}

#[test]
fn every_known_ndjson_holds() {
    corpus("ndjson", inputs::ndjson);
}

#[test]
fn every_known_csv_holds() {
    corpus("csv", inputs::csv);
}

#[test]
fn every_known_job_holds() {
    corpus("job", inputs::job);
}

#[test]
fn every_known_token_holds() {
    corpus("token", inputs::token);
}

/// A reader of CSV that knows the columns of this header row.
fn csv(header: &str) -> RowReader {
    let column = |name: &str| Column { name: name.to_owned(), is_needed: false };
    RowReader::csv(Columns::new(header.trim().split(',').map(column).collect(), &[]))
}

/// The rows of an upload that begins with `start` and goes on with `PIECES` of `piece`; and the most memory that reading it
/// took, with those rows.
fn endless(mut reader: RowReader, start: &str, piece: &[u8]) -> (Result<Vec<Row>, UploadError>, u64) {
    let mut rows = Ok(Vec::new());
    let taken = allocation_counter::measure(|| {
        rows = (|| {
            let mut rows = Vec::new();
            reader.push(start.as_bytes(), &mut rows)?;
            (0..PIECES).try_for_each(|_| reader.push(piece, &mut rows))?;
            reader.finish(&mut rows)?;
            Ok(rows)
        })();
    });
    (rows, taken.bytes_max)
}

#[test]
fn a_row_without_end_is_one_refused_row_and_takes_no_memory() {
    let refused = |rows: &[Row]| {
        let reject = rows[0].recipient.as_ref().err();
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
        let (rows, taken) = endless(reader(), start, &[filler; PIECE_BYTES]);
        let rows = rows.expect("no refusal of the whole");
        // A row of empty cells is a blank line.
        assert!(if filler == b',' { rows.is_empty() } else { refused(&rows) }, "{start:?} {filler}: {rows:?}");
        assert!(taken <= READER_BYTES_MAX, "{start:?} {filler}: {taken} bytes");
    }
    for (start, filler) in [("", b'x'), ("to,\"", b'\n'), ("", b'"'), ("\u{feff}", b';')] {
        let (rows, taken) = endless(csv("to,1"), start, &[filler; PIECE_BYTES]);
        assert_eq!(rows, Err(UploadError::HeaderTooLong), "{start:?} {filler}");
        assert!(taken <= READER_BYTES_MAX, "{start:?} {filler}: {taken} bytes");
    }
}

#[test]
fn eight_million_blank_lines_are_no_rows_and_take_no_memory() {
    for line_break in [b'\n', b'\r'] {
        let (rows, taken) = endless(csv("to,1"), "to,1\n", &[line_break; PIECE_BYTES]);
        assert_eq!(rows, Ok(vec![]));
        assert!(taken <= READER_BYTES_MAX, "{taken} bytes");
        let (rows, taken) = endless(csv("to,1"), "", &[line_break; PIECE_BYTES]);
        assert_eq!(rows, Err(UploadError::NoHeader));
        assert!(taken <= READER_BYTES_MAX, "{taken} bytes");
    }
    let (rows, taken) = endless(RowReader::ndjson(), "", &[b'\n'; PIECE_BYTES]);
    assert_eq!(rows, Ok(vec![]));
    assert!(taken <= READER_BYTES_MAX, "{taken} bytes");
}

#[test]
fn the_rows_of_one_piece_take_a_bounded_memory_however_little_there_is_in_them() {
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
        let mut rows = Vec::new();
        reader.push(start.as_bytes(), &mut rows).expect("a header row");
        let taken = allocation_counter::measure(|| {
            reader.push(&piece, &mut rows).expect("rows");
        });
        let first = String::from_utf8_lossy(&piece[..8]);
        println!("{} rows that begin with {first:?} take {} bytes", rows.len(), taken.bytes_max);
        assert!(taken.bytes_max <= PIECE_ROWS_BYTES_MAX, "{} bytes", taken.bytes_max);
    }
}

#[test]
fn a_compressed_file_takes_a_bounded_memory_however_far_it_expands() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let zeros = vec![0; 64 << 20];
    for coding in Coding::ALL {
        let encoded = runtime.block_on(encoded(coding, &zeros));
        let (n_encoded, mut n) = (encoded.len(), 0);
        let taken = allocation_counter::measure(|| {
            runtime.block_on(async {
                let (mut decoder, mut buffer) = (coding.decoder(Cursor::new(encoded)), vec![0; 64 * 1024]);
                while let read @ 1.. = decoder.read(&mut buffer).await.expect("what was encoded") {
                    n += read;
                }
            });
        });
        println!("{coding:?}: {n} bytes out of {n_encoded} take {}", taken.bytes_max);
        assert_eq!(n, zeros.len(), "{coding:?}");
        // The window of brotli, and twice of it while it grows.
        assert!(taken.bytes_max <= 34 << 20, "{coding:?}: {} bytes", taken.bytes_max);
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
fn nesting_a_million_deep_is_passed_over_or_refused() {
    for (open, close) in [("[", "]"), ("{\"a\":", "}"), ("{\"entry\":[{\"changes\":", "}]}")] {
        let deep = format!("{}0{}", open.repeat(1_000_000), close.repeat(1_000_000));
        let within = |before: &str, after: &str| format!("{before}{deep}{after}").into_bytes();
        for hook in [
            within(r#"{"future":"#, r#","entry":[{"id":"1","changes":[{"field":"flows","value":{}}]}]}"#),
            within(r#"{"entry":[{"id":"1","time":"#, r#","changes":[{"field":"flows","value":{}}]}]}"#),
            within(r#"{"entry":[{"id":"1","changes":[{"field":"flows","value":{"x":"#, "}}]}]}"),
        ] {
            let payload = Payload::read(&hook).expect("an object");
            assert_eq!(payload.changes, [WebhookChange::Other]);
        }
        let _ = Payload::read(&within(r#"{"entry":"#, "}"));
        let _ = Payload::read(deep.as_bytes());
        // What is not used of an answer is passed over too, and what is used is no tree.
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
fn the_largest_body_takes_a_bounded_memory_however_little_there_is_in_it() {
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
        body(&format!(r#"{message}"statuses":[{{"errors":["#), "{}", "]}]}}]}]}"),
    ];
    for hook in hooks {
        let taken = allocation_counter::measure(|| drop(black_box(Payload::read(&hook).expect("an object"))));
        println!("{:?}: {} MiB", String::from_utf8_lossy(&hook[..100]), taken.bytes_max >> 20);
        assert!(taken.bytes_max <= 40 * BODY_BYTES_MAX as u64, "{} MiB", taken.bytes_max >> 20);
    }
    for item in ["0", "{}", "[]", r#"{"":0}"#, r#"{"to":"+1234567"}"#] {
        let job = body(r#"{"type":"recipients","external_id":"a","recipients":["#, item, "]}");
        let taken = allocation_counter::measure(|| drop(black_box(Job::read(&job).expect("a job"))));
        println!("{item}: {} MiB", taken.bytes_max >> 20);
        assert!(taken.bytes_max <= 32 * BODY_BYTES_MAX as u64, "{} MiB", taken.bytes_max >> 20);
    }
}
