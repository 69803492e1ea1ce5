//! `pregon top`: on a terminal a screen that refreshes itself, otherwise the same text once.

use std::{
    fs::File,
    io::{Read as _, Write as _},
    os::fd::OwnedFd,
};

use rustix::{
    fs::{Mode, OFlags, open},
    process::{Pid, Signal, kill_process},
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
    termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize},
};
use tokio::sync::mpsc;

use super::*;

/// What is written to a terminal when the screen opens and when it closes.
const OPENED: &str = "\x1b[?1049h\x1b[?25l";
const CLOSED: &str = "\x1b[?25h\x1b[?1049l";

fn line(backlog: u64) -> Answer {
    let line = json!({
        "id": "3001", "waba": "2001", "name": "sales", "state": "sending", "messages_per_second": 80.0, "allowance": null,
        "allowed_now": 72.0, "owner": "w1", "in_flight": 3, "accepted_per_second": 71.9, "backlog": backlog,
    });
    Answer::Json(200, json!({ "lines": [line], "next": null }))
}

/// A server with one line and one running campaign. The backlog of the line is 1,200, and then 1,100.
async fn server() -> Server {
    let page = |rows: Value| Answer::Json(200, json!({ "campaigns": rows, "next": null }));
    let one = format!("GET /v1/campaigns/{ID}");
    Server::start([
        ("GET /v1/lines", line(1_200)),
        ("GET /v1/lines", line(1_100)),
        ("GET /v1/campaigns?state=running", page(json!([campaign("running", Value::Null)]))),
        ("GET /v1/campaigns?state=paused", page(json!([]))),
        ("GET /v1/campaigns?state=scheduled", page(json!([]))),
        (&one, Answer::Json(200, campaign("running", statistics(1)))),
    ])
    .await
}

#[tokio::test]
async fn without_a_terminal_one_screen_is_printed() {
    let ran = server().await.run(&["top"]).await;
    assert_eq!(ran.code, 0, "{ran:?}");
    for text in ["71.9/s accepted · 3 in flight · 1,200 to send", "3001  sales  sending", ID, "50.0 %"] {
        assert!(ran.out.contains(text), "{text}: {ran:?}");
    }
    assert!(!ran.out.contains('\x1b'), "{ran:?}");
    let ran = run(&["top", "--server", "http://127.0.0.1:9"], &[], "").await;
    assert!(ran.code == 1 && ran.err.contains("start one with `pregon serve`"), "{ran:?}");
}

/// A pseudoterminal of 24 rows and 100 columns: the test's end and the program's end.
pub(super) fn terminal() -> (OwnedFd, OwnedFd) {
    let own = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a terminal");
    grantpt(&own).expect("granted");
    unlockpt(&own).expect("unlocked");
    let name = ptsname(&own, Vec::new()).expect("a name");
    let program = open(name, OFlags::RDWR | OFlags::NOCTTY, Mode::empty()).expect("its other end");
    tcsetwinsize(&own, Winsize { ws_row: 24, ws_col: 100, ws_xpixel: 0, ws_ypixel: 0 }).expect("a size");
    (own, program)
}

/// The output of a program on a terminal.
pub(super) struct Written {
    pub(super) text: String,
    more: mpsc::UnboundedReceiver<String>,
}

impl Written {
    pub(super) fn on(terminal: &OwnedFd) -> Self {
        let mut reader = File::from(terminal.try_clone().expect("a second handle"));
        let (sender, more) = mpsc::unbounded_channel();
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            // Reading fails when no program has the terminal open any more.
            while let Ok(n @ 1..) = reader.read(&mut buffer) {
                let _ = sender.send(String::from_utf8_lossy(&buffer[..n]).into_owned());
            }
        });
        Self { text: String::new(), more }
    }

    pub(super) async fn until(&mut self, wanted: &str) {
        while !self.text.contains(wanted) {
            self.text += &self.more.recv().await.unwrap_or_else(|| panic!("{wanted:?} is missing: {:?}", self.text));
        }
    }
}

#[tokio::test]
async fn a_terminal_is_refreshed_until_q_and_left_as_it_was() {
    let server = server().await;
    let environment = [("PREGON_SERVER", server.url.as_str()), ("PREGON_API_KEY", "good-key")];
    for ends_by_key in [true, false] {
        let (own, other) = terminal();
        let modes = tcgetattr(&own).expect("modes").local_modes;
        let mut written = Written::on(&own);
        let mut command = program(&["top"], &environment);
        let end = || other.try_clone().expect("another handle");
        let mut child = command.stdin(end()).stdout(end()).spawn().expect("the program");
        written.until("1,100").await;
        assert!(written.text.starts_with(OPENED), "{:?}", written.text);
        assert!(!tcgetattr(&own).expect("modes").local_modes.contains(LocalModes::ECHO));
        match ends_by_key {
            true => File::from(own.try_clone().expect("a second handle")).write_all(b"q").expect("a key"),
            false => {
                let id = child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?)).expect("it runs");
                kill_process(id, Signal::INT).expect("a signal");
            }
        }
        assert!(child.wait().await.expect("an exit status").success(), "{:?}", written.text);
        written.until(CLOSED).await;
        assert_eq!(tcgetattr(&own).expect("modes").local_modes, modes, "by a key: {ends_by_key}");
    }
}
