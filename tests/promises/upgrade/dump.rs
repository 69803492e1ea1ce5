//! All data of a Redis as text: one command on each line, in the syntax of `redis-cli`, so that it restores on every
//! Redis and Valkey.

use std::fs;

use deadpool_redis::redis::{Value, cmd};
use pregon::domain::UnixMs;

use crate::support::{redis::TestRedis, until};

/// The commands that restore the data of `redis`, as it writes them into a new append-only file.
pub async fn dump(redis: &TestRedis) -> String {
    let mut connection = redis.connection().await;
    let plain = cmd("CONFIG").arg(&["SET", "aof-use-rdb-preamble", "no"]).exec_async(&mut connection).await;
    plain.expect("a setting");
    cmd("BGREWRITEAOF").exec_async(&mut connection).await.expect("a rewrite");
    let mut file = None;
    until("the file is written", async || {
        let files = fs::read_dir(redis.dir().join("appendonlydir")).expect("its directory");
        let mut paths = files.map(|file| file.expect("a file").path());
        file = paths.find(|path| path.to_string_lossy().ends_with(".base.aof"));
        file.is_some()
    })
    .await;
    let bytes = fs::read(file.expect("it was found")).expect("the file");
    let mut rest = bytes.as_slice();
    let mut text = String::new();
    while !rest.is_empty() {
        let arguments: Vec<String> = (0..length(&mut rest, b'*')).map(|_| quoted(bulk(&mut rest))).collect();
        if arguments[0] != "\"SELECT\"" {
            text += &(arguments.join(" ") + "\n");
        }
    }
    text
}

/// Reads a line such as `*3` from `rest`.
fn length(rest: &mut &[u8], kind: u8) -> usize {
    let end = rest.iter().position(|byte| *byte == b'\r').expect("the end of a line");
    let (line, tail) = rest.split_at(end);
    *rest = &tail[2..];
    assert_eq!(line[0], kind);
    str::from_utf8(&line[1..]).ok().and_then(|length| length.parse().ok()).expect("a length")
}

fn bulk<'a>(rest: &mut &'a [u8]) -> &'a [u8] {
    let length = length(rest, b'$');
    let (bytes, tail) = rest.split_at(length);
    *rest = &tail[2..];
    bytes
}

fn quoted(bytes: &[u8]) -> String {
    format!("\"{}\"", bytes.escape_ascii())
}

fn unquoted(line: &str) -> Vec<Vec<u8>> {
    let (mut arguments, mut bytes) = (Vec::new(), line.bytes());
    while bytes.next() == Some(b'"') {
        let mut argument = Vec::new();
        loop {
            match bytes.next().expect("a closing quote") {
                b'"' => break,
                b'\\' => argument.push(match bytes.next().expect("an escape") {
                    b'n' => b'\n',
                    b'r' => b'\r',
                    b't' => b'\t',
                    b'x' => {
                        let digits: String = bytes.by_ref().take(2).map(char::from).collect();
                        u8::from_str_radix(&digits, 16).expect("two digits")
                    }
                    other => other,
                }),
                byte => argument.push(byte),
            }
        }
        arguments.push(argument);
        bytes.next();
    }
    arguments
}

/// Restores a dump of time `at`. Each key keeps the time to live that it had then.
pub async fn restore(redis: &TestRedis, dump: &str, at: UnixMs) {
    let mut connection = redis.connection().await;
    let age = pregon::telemetry::clock::now().0 - at.0;
    for line in dump.lines() {
        let mut arguments = unquoted(line);
        if arguments[0] == b"PEXPIREAT" {
            let then: u64 = str::from_utf8(&arguments[2]).ok().and_then(|then| then.parse().ok()).expect("a time");
            arguments[2] = (then + age).to_string().into_bytes();
        }
        let mut command = cmd(str::from_utf8(&arguments[0]).expect("a name"));
        let restored = command.arg(&arguments[1..]).query_async::<Value>(&mut connection).await;
        restored.unwrap_or_else(|error| panic!("{line}: {error}"));
    }
}
