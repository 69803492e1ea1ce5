//! Files: those that people send are fetched once, and those of agents are at Meta before their messages leave.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    fs,
    path::Path as FilePath,
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{
    Json, Router,
    body::{Body, Bytes},
    extract::{DefaultBodyLimit, Path, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse as _, Response},
    routing::{get, post},
};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use pregon::{
    domain::{
        MediaId, State as MessageState, UnixMs, Wamid,
        chat::content::{MediaFile, ReplyContent},
        inbound::{Content, Inbound, Media, MediaKind},
        media::{FileState, UNSENT_KEPT},
    },
    engage::FileTransfers,
    graph::GraphClient,
    media::{MediaSettings, MediaStore, MediaUrl},
    postgres::{
        Database,
        chats::{ActionOn, ChatAction, NewMessage},
        media::{FileRecord, NewFile},
    },
};
use rand::{Rng as _, RngExt as _, SeedableRng as _, rngs::StdRng};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;
use ulid::Ulid;

use super::{Office, Reader, chats, inbound_of, message, replies::Accepting, text};
use crate::{
    sim::kit::{SimServer, TOKEN, number, quiet},
    support::{hostile::Meta, seed, serve::serve, until, world},
};

const BYTES_MAX: u64 = 1 << 20;

/// A file at the stand-in.
#[derive(Clone)]
struct Held {
    bytes: Bytes,
    sha256: String,
    /// How many downloads break off in the middle first.
    broken: usize,
    /// How long a download takes.
    delay: Duration,
}

#[derive(Default)]
struct Files {
    held: HashMap<String, Held>,
    /// Downloads that are going on, by file, and the most at the same time.
    open: HashMap<String, usize>,
    open_max: usize,
    /// The answers to the next uploads; then all are accepted.
    answers: VecDeque<(u16, Value)>,
    uploads: Vec<String>,
}

type SharedFiles = Arc<Mutex<Files>>;

/// A Meta for files only.
struct FileMeta {
    files: SharedFiles,
    base: String,
}

/// A download that is going on, until dropped.
struct Open(SharedFiles, String);

impl Drop for Open {
    fn drop(&mut self) {
        *self.0.lock().expect("no panic").open.get_mut(&self.1).expect("open") -= 1;
    }
}

impl FileMeta {
    async fn start() -> Self {
        let files = Arc::default();
        let router = Router::new()
            .route("/v25.0/{id}", get(node))
            .route("/files/{id}", get(download))
            .route("/v25.0/{line}/media", post(upload))
            .layer(DefaultBodyLimit::disable())
            .with_state(Arc::clone(&files));
        Self { files, base: serve(router).await }
    }

    fn hold(&self, id: &str, bytes: impl Into<Bytes>) -> Held {
        let bytes = bytes.into();
        let held = Held { sha256: hex::encode(Sha256::digest(&bytes)), bytes, broken: 0, delay: Duration::ZERO };
        self.change(id, |_| held.clone());
        held
    }

    fn change(&self, id: &str, change: impl FnOnce(Option<Held>) -> Held) {
        let mut files = self.files.lock().expect("no panic");
        let held = change(files.held.remove(id));
        files.held.insert(id.to_owned(), held);
    }

    fn transfers(&self, media: &MediaStore) -> FileTransfers {
        transfers(&self.base, media)
    }
}

fn transfers(base: &str, media: &MediaStore) -> FileTransfers {
    let graph = GraphClient::new(world::graph(base)).expect("a client");
    FileTransfers { media: media.clone(), graph }
}

async fn node(State(files): State<SharedFiles>, headers: HeaderMap, Path(id): Path<String>) -> Response {
    match files.lock().expect("no panic").held.get(&id) {
        Some(held) => {
            let url = format!("http://{}/files/{id}", headers["host"].to_str().expect("text"));
            Json(json!({"url": url, "mime_type": "image/jpeg", "sha256": held.sha256, "id": id})).into_response()
        }
        None => {
            let error = json!({"error": {"code": 100, "error_subcode": 33, "message": "does not exist"}});
            (StatusCode::BAD_REQUEST, Json(error)).into_response()
        }
    }
}

async fn download(State(files): State<SharedFiles>, Path(id): Path<String>) -> Response {
    let (held, is_broken) = {
        let mut files = files.lock().expect("no panic");
        let open = files.open.entry(id.clone()).or_default();
        *open += 1;
        let open = *open;
        files.open_max = files.open_max.max(open);
        let held = files.held.get_mut(&id).expect("a file with a node");
        let is_broken = held.broken > 0;
        held.broken = held.broken.saturating_sub(1);
        (held.clone(), is_broken)
    };
    let (length, open) = (held.bytes.len(), Open(files, id));
    let sent = if is_broken { held.bytes.slice(..length / 2) } else { held.bytes };
    let delay = held.delay;
    let bytes = stream::once(async move {
        tokio::time::sleep(delay).await;
        Ok::<_, std::io::Error>(sent)
    });
    let end =
        stream::once(async move { if is_broken { Err(std::io::Error::other("broken")) } else { Ok(Bytes::new()) } });
    let body = Body::from_stream(bytes.chain(end).inspect(move |_| {
        let _held = &open;
    }));
    ([(header::CONTENT_LENGTH, length)], body).into_response()
}

async fn upload(State(files): State<SharedFiles>, Path(line): Path<String>, body: Bytes) -> Response {
    let mut files = files.lock().expect("no panic");
    files.uploads.push(line);
    let (status, answer) = files.answers.pop_front().unwrap_or_else(|| (200, json!({"id": "9001"})));
    assert!(memchr::memmem::find(&body, b"messaging_product").is_some(), "a form");
    (StatusCode::from_u16(status).expect("a status"), Json(answer)).into_response()
}

fn store(dir: &TempDir) -> MediaStore {
    let url = MediaUrl::Directory(dir.path().join("media"));
    MediaStore::open(&MediaSettings { url, endpoint: None, bytes_max: BYTES_MAX }).expect("a directory")
}

/// A message with a file that Meta has under `id`.
fn with_file(id: &str) -> Inbound {
    let media = Media {
        kind: MediaKind::Image,
        id: Some(id.to_owned()),
        mime_type: Some("image/jpeg".into()),
        filename: Some("a.jpg".into()),
        ..Media::default()
    };
    message(id, "5491155550001", Content::Media(Box::new(media)))
}

/// The files of the messages from the only person, by Meta's id of the message.
async fn files(database: &Database) -> BTreeMap<String, FileRecord> {
    let Some(chat) = chats(database).await.pop() else { return BTreeMap::new() };
    let messages = inbound_of(database, chat.id).await.into_iter();
    messages.filter_map(|message| Some((message.wamid?, message.file?))).collect()
}

async fn read(store: &MediaStore, id: MediaId) -> Vec<u8> {
    let pieces: Vec<Bytes> = store.read(id, None).await.expect("a file").try_collect().await.expect("bytes");
    pieces.concat()
}

/// How many files are below a directory.
fn count(dir: &FilePath) -> usize {
    let entries = fs::read_dir(dir).map(|entries| entries.flatten().map(|entry| entry.path()).collect::<Vec<_>>());
    entries.unwrap_or_default().iter().map(|path| if path.is_dir() { count(path) } else { 1 }).sum()
}

fn reader(office: &Office, name: &str, transfers: FileTransfers) -> Reader {
    office.reader_with(name, world::line("", 1.0).token, Some(transfers))
}

#[tokio::test]
async fn a_file_that_a_person_sends_is_fetched_into_the_store_through_kills() {
    let mut random = StdRng::seed_from_u64(seed());
    let (office, dir, meta) = (Office::start().await, TempDir::new().expect("a directory"), FileMeta::start().await);
    let (database, store) = (office.database().await, store(&dir));
    let mut expected = BTreeMap::new();
    for n in 0..24 {
        let id = format!("77{n:03}");
        let mut bytes = vec![0; random.random_range(0..300_000)];
        random.fill_bytes(&mut bytes);
        meta.hold(&id, bytes.clone());
        let (broken, delay) = (random.random_range(0..2), Duration::from_millis(random.random_range(0..200)));
        meta.change(&id, |held| Held { broken, delay, ..held.expect("held") });
        office.write("3001", &[with_file(&id)]).await;
        expected.insert(format!("wamid.{id}"), bytes);
    }
    let mut readers = vec![reader(&office, "0", meta.transfers(&store)), reader(&office, "1", meta.transfers(&store))];
    for round in 2..6 {
        tokio::time::sleep(Duration::from_millis(random.random_range(0..300))).await;
        readers.remove(0).kill().await;
        readers.push(reader(&office, &round.to_string(), meta.transfers(&store)));
    }
    let all_stored = async || {
        let files = files(&database).await;
        files.len() == expected.len() && files.values().all(|file| file.state == FileState::Stored)
    };
    until("every file is stored", all_stored).await;
    for (wamid, file) in files(&database).await {
        assert_eq!((file.mime_type.as_str(), file.filename.as_deref()), ("image/jpeg", Some("a.jpg")));
        assert_eq!(file.size, Some(expected[&wamid].len() as u64));
        assert!(read(&store, file.id).await == expected[&wamid], "{wamid}");
    }
    assert_eq!(meta.files.lock().expect("no panic").open_max, 1, "no file is fetched twice at the same time");
    let late = office.clock.now().after(Duration::from_hours(1));
    let again = database.claim_fetches(&["3001".into()], 100, late, late).await.expect("PostgreSQL");
    assert_eq!(again, [], "no file is fetched again");
    assert_eq!(count(&dir.path().join("media")), expected.len(), "nothing else is in the store");
    for reader in readers {
        reader.stop().await;
    }
}

#[tokio::test]
async fn a_file_that_is_another_one_or_too_large_or_missing_is_gone_with_the_reason() {
    let (office, dir, meta) = (Office::start().await, TempDir::new().expect("a directory"), FileMeta::start().await);
    let (database, store) = (office.database().await, store(&dir));
    meta.hold("771", "good");
    meta.hold("772", "other");
    meta.change("772", |held| Held { sha256: hex::encode([7; 32]), ..held.expect("held") });
    meta.hold("773", vec![7; BYTES_MAX as usize + 1]);
    for id in ["771", "772", "773", "774"] {
        office.write("3001", &[with_file(id)]).await;
    }
    let reader = reader(&office, "r", meta.transfers(&store));
    let is_decided = async || {
        let files = files(&database).await;
        files.len() == 4 && files.values().all(|file| file.state != FileState::Pending)
    };
    until("every file is stored or gone", is_decided).await;
    let found: Vec<_> =
        files(&database).await.into_values().map(|file| (file.state, file.reason.unwrap_or_default())).collect();
    let gone = |reason: &str| (FileState::Gone, reason.to_owned());
    assert_eq!(found, [(FileState::Stored, String::new()), gone("corrupt"), gone("too_large"), gone("missing")]);
    assert_eq!(count(&dir.path().join("media")), 1, "nothing of the others is in the store");
    reader.stop().await;
}

#[tokio::test]
async fn the_file_of_a_deleted_message_leaves_the_store() {
    let (office, dir, meta) = (Office::start().await, TempDir::new().expect("a directory"), FileMeta::start().await);
    let (database, store) = (office.database().await, store(&dir));
    let (number, ids) = ("5491155550001", ["771", "772", "773", "774"]);
    for id in ids {
        meta.hold(id, "private");
    }
    let reader = reader(&office, "r", meta.transfers(&store));
    let original = Some(Wamid::from("wamid.771"));
    let edit = |id: &str| {
        let content = Content::Edit { original: original.clone(), content: Box::new(with_file(id).content) };
        message(id, number, content)
    };
    let echo = |id: &str, content: Content| message(id, number, Content::Echo { content: Box::new(content) });
    office.write("3001", &[with_file("771"), edit("772"), edit("773"), echo("774", with_file("774").content)]).await;
    let media = dir.path().join("media");
    until("the files are stored", async || count(&media) == ids.len()).await;
    let revoke = |id: &str| Content::Revoke { original: Some(Wamid::from(id)) };
    office.write("3001", &[message("revoke", number, revoke("wamid.771"))]).await;
    until("those of the message and its edits are removed", async || count(&media) == 1).await;
    office.write("3001", &[echo("echo", revoke("wamid.774"))]).await;
    until("that of the echo is removed", async || count(&media) == 0).await;
    let chat = chats(&database).await.remove(0).id;
    let mut said = database.messages(chat, None, 10).await.expect("messages");
    said.retain(|message| message.wamid.as_ref().is_some_and(|id| ids.iter().any(|of| id.ends_with(of))));
    assert_eq!(said.len(), ids.len());
    for message in said {
        let is_edited = message.marks.is_some_and(|marks| marks.get("edited").is_some());
        assert!(message.body == json!({}) && !is_edited, "nothing of what it said is left: {:?}", message.wamid);
    }
    until("it is forgotten", async || {
        database.removed_files(10, UnixMs(u64::MAX >> 1)).await.expect("files").is_empty()
    })
    .await;
    reader.stop().await;
}

/// Puts a file of an agent into the store.
async fn uploaded(office: &Office, database: &Database, store: &MediaStore, mime_type: &str) -> MediaId {
    let (id, now) = (MediaId(Ulid::from_parts(office.clock.now().0, rand::random())), office.clock.now());
    let new = NewFile { id, business: &"1001".into(), mime_type, filename: None };
    database.announce_file(&new, now, now.after(Duration::from_hours(1))).await.expect("PostgreSQL");
    let mut writer = store.writer(id, BYTES_MAX);
    writer.put(Bytes::from_static(b"\x89PNG offer")).await.expect("written");
    let size = writer.size();
    writer.finish().await.expect("stored");
    assert!(database.file_uploaded(id, size, now.after(UNSENT_KEPT)).await.expect("PostgreSQL"));
    id
}

fn image(media: MediaId) -> ReplyContent {
    ReplyContent::Image(MediaFile { media: Some(media), id: None, link: None, caption: None, filename: None })
}

fn words(body: &str) -> ReplyContent {
    ReplyContent::Text { body: body.to_owned(), preview_url: false }
}

impl Office {
    async fn send(&self, database: &Database, chat: i64, content: ReplyContent) -> i64 {
        let on = ActionOn { chat, agent: "ana", visible: None, revision: None, now: self.clock.now() };
        let message = NewMessage { client_id: None, context: None, content };
        let done = database.act(on, ChatAction::Send(message)).await.expect("PostgreSQL").expect("a message");
        self.store.ring_reader(&"3001".into()).await.expect("redis");
        done.message.expect("a message")
    }
}

/// The state of a message, and the details of its error.
async fn state(database: &Database, chat: i64, id: i64) -> (MessageState, String) {
    let message = database.messages(chat, Some(id + 1), 1).await.expect("messages").remove(0);
    let marks = message.marks.unwrap_or_default();
    (message.state.expect("a state"), marks["error"]["details"].as_str().unwrap_or_default().to_owned())
}

/// The chats of two people with the line 3001.
async fn two_chats(office: &Office, database: &Database) -> [i64; 2] {
    office.write("3001", &[text(1, "5491155550001", "Hola"), text(2, "5491155550002", "Hola")]).await;
    until("both have a chat", async || chats(database).await.len() == 2).await;
    let all = chats(database).await;
    ["+5491155550001", "+5491155550002"].map(|number| {
        let of =
            |chat: &&pregon::postgres::read::Chat| chat.contact.number.is_some_and(|own| own.to_string() == number);
        all.iter().find(of).expect("a chat").id
    })
}

#[tokio::test]
async fn a_message_waits_for_its_file_and_only_its_chat_waits_with_it() {
    let (office, dir, files) = (Office::start().await, TempDir::new().expect("a directory"), FileMeta::start().await);
    let (database, store) = (office.database().await, store(&dir));
    let conduct = Accepting::default();
    let meta = Meta::start(conduct.clone(), 0);
    let unavailable = || (500, json!({"error": {"code": 2, "message": "Service temporarily unavailable"}}));
    files.files.lock().expect("no panic").answers.extend([unavailable(), unavailable()]);
    let reader = reader(&office, "r", files.transfers(&store));
    let worker = office.worker("w", &meta).await;
    let [one, other] = two_chats(&office, &database).await;
    let file = uploaded(&office, &database, &store, "image/png").await;
    let picture = office.send(&database, one, image(file)).await;
    let after_it = office.send(&database, one, words("¿Te gusta?")).await;
    let elsewhere = office.send(&database, other, words("Hola")).await;
    let is = async |chat, id, wanted| state(&database, chat, id).await.0 == wanted;
    until("the other chat goes on", async || is(other, elsewhere, MessageState::Accepted).await).await;
    assert!(is(one, picture, MessageState::Pending).await && is(one, after_it, MessageState::Pending).await);
    until("both arrive", async || is(one, after_it, MessageState::Accepted).await).await;
    let to: Vec<String> = conduct.0.lock().expect("no panic").iter().map(|sent| sent.to.clone()).collect();
    assert_eq!(to, ["5491155550002", "5491155550001", "5491155550001"]);
    assert!(is(one, picture, MessageState::Accepted).await, "before the message after it");
    // Known at Meta from now on.
    let again = office.send(&database, other, image(file)).await;
    until("it arrives", async || is(other, again, MessageState::Accepted).await).await;
    assert_eq!(files.files.lock().expect("no panic").uploads, ["3001"; 3], "two failures and one upload");
    worker.stop().await;
    reader.stop().await;
}

#[tokio::test]
async fn a_message_whose_file_meta_refuses_fails_with_metas_reason() {
    let (office, dir, files) = (Office::start().await, TempDir::new().expect("a directory"), FileMeta::start().await);
    let (database, store) = (office.database().await, store(&dir));
    let refusal = json!({"error": {"code": 131_053, "message": "x", "error_data": {"details": "The file is broken"}}});
    files.files.lock().expect("no panic").answers.push_back((400, refusal));
    let reader = reader(&office, "r", files.transfers(&store));
    let [one, _] = two_chats(&office, &database).await;
    let file = uploaded(&office, &database, &store, "image/png").await;
    let picture = office.send(&database, one, image(file)).await;
    let failed = async || state(&database, one, picture).await == (MessageState::Refused, "The file is broken".into());
    until("it has failed", failed).await;
    let rest = database.outbox(&"3001".into(), &Default::default(), 10).await.expect("the outbox");
    assert_eq!(rest, [], "nothing of it is left to send");
    reader.stop().await;
}

#[tokio::test]
async fn files_go_both_ways_between_the_store_and_the_simulator() {
    let (office, dir, sim) =
        (Office::start().await, TempDir::new().expect("a directory"), SimServer::start(quiet()).await);
    let (database, store) = (office.database().await, store(&dir));
    let reader = office.reader_with("r", pregon::domain::Secret::new(TOKEN), Some(transfers(&sim.base, &store)));
    let from = number(1);
    assert_eq!(sim.control("inbound", &json!({"line": "3001", "from": from, "media": "image"})).await.0, 200);
    // The id of the first file of a simulator.
    let mut received = with_file("800000000000001");
    received.sender.number = Some(from.trim_start_matches('+').to_owned());
    office.write("3001", &[received]).await;
    until("its file is stored", async || files(&database).await.values().any(|file| file.state == FileState::Stored))
        .await;
    let chat = chats(&database).await.remove(0).id;
    let file = uploaded(&office, &database, &store, "image/png").await;
    office.send(&database, chat, image(file)).await;
    let request = async || {
        let rows = database.outbox(&"3001".into(), &Default::default(), 10).await.expect("the outbox");
        rows.into_iter().next().map(|row| serde_json::from_str::<Value>(&row.request).expect("JSON"))
    };
    until("the file is at Meta", async || request().await.is_some()).await;
    let content = request().await.expect("a request")["message"]["content"].take();
    assert_eq!(content["media"], Value::Null);
    let id = content["id"].as_str().expect("Meta's id");
    let sent = json!({"messaging_product": "whatsapp", "to": from, "type": "image", "image": {"id": id}});
    assert_eq!(sim.code(&sent).await, 0, "the simulator knows the file");
    let (_, node) = sim.get(&format!("/v25.0/{id}")).await;
    assert_eq!((&node["mime_type"], &node["file_size"]), (&json!("image/png"), &json!(10)));
    reader.stop().await;
    sim.stop().await;
}

#[tokio::test]
async fn a_file_that_waits_holds_back_its_chat_after_a_merge() {
    let office = Office::start().await;
    let (database, dir, line) = (office.database().await, TempDir::new().expect("a directory"), "3001".into());
    let reader = office.reader("r");
    let [old, _] = two_chats(&office, &database).await;
    let file = uploaded(&office, &database, &store(&dir), "image/png").await;
    let picture = office.send(&database, old, image(file)).await;
    let (mut by_id, mut by_both) = (text("by id", "", "Hola"), text("by both", "5491155550001", "Hola"));
    by_id.sender.number = None;
    by_id.sender.user_id = Some("AR.1".to_owned());
    by_both.sender.user_id = by_id.sender.user_id.clone();
    office.write("3001", &[by_id]).await;
    until("the person has two chats", async || chats(&database).await.len() == 3).await;
    office.write("3001", &[by_both]).await;
    until("they are one", async || chats(&database).await.len() == 2).await;
    let merged = chats(&database).await.into_iter().find(|chat| chat.contact.user_id.is_some()).expect("a chat").id;
    assert_ne!(merged, old);
    let after_it = office.send(&database, merged, words("¿Te gusta?")).await;
    let outbox = async || {
        let rows = database.outbox(&line, &Default::default(), 10).await.expect("the outbox");
        rows.into_iter().map(|row| (row.id.chat, row.id.message)).collect::<Vec<_>>()
    };
    assert_eq!(outbox().await, [], "the picture is not at Meta");
    let now = office.clock.now();
    let late = now.after(Duration::from_hours(1));
    let upload = database.claim_uploads(std::slice::from_ref(&line), 1, now, late).await.expect("files").remove(0);
    database.file_at_meta(&upload, "9001", late).await.expect("PostgreSQL");
    assert_eq!(outbox().await, [(old, picture), (merged, after_it)]);
    reader.stop().await;
}

#[tokio::test]
async fn an_upload_that_no_message_names_within_a_day_leaves_the_store() {
    let (office, dir, files) = (Office::start().await, TempDir::new().expect("a directory"), FileMeta::start().await);
    let (database, store) = (office.database().await, store(&dir));
    let reader = office.reader("r");
    let [chat, _] = two_chats(&office, &database).await;
    let [unsent, sent] = [
        uploaded(&office, &database, &store, "image/png").await,
        uploaded(&office, &database, &store, "image/png").await,
    ];
    office.send(&database, chat, image(sent)).await;
    let states = async || {
        let files = database.files(&[unsent, sent]).await.expect("files");
        [unsent, sent].map(|id| files.get(&id).map(|file| file.state))
    };
    let now = office.clock.now();
    database.remove_unsent(10, now.after(UNSENT_KEPT - Duration::from_secs(60))).await.expect("PostgreSQL");
    assert_eq!(states().await, [Some(FileState::Stored); 2], "the day is not over");
    database.remove_unsent(10, now.after(UNSENT_KEPT)).await.expect("PostgreSQL");
    assert_eq!(states().await, [Some(FileState::Removed), Some(FileState::Stored)]);
    reader.stop().await;
    let reader = self::reader(&office, "files", files.transfers(&store));
    until("the unsent one is forgotten", async || states().await == [None, Some(FileState::Stored)]).await;
    assert_eq!(count(&dir.path().join("media")), 1);
    reader.stop().await;
}
