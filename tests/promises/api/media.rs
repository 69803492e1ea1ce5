//! Files of chats: uploaded, and served to nobody but their business and in no form that a browser runs.

use std::path::Path;

use pregon::{
    domain::{
        MediaId,
        chat::Identity,
        media::{FileState, GoneReason},
    },
    media::{MediaSettings, MediaStore, MediaUrl},
    postgres::{
        Database,
        changes::Since,
        inbound::{Author, ReceivedMessage},
        media::ReceivedFile,
    },
};
use reqwest::{Method, Response, StatusCode};
use serde_json::{Value, json};
use tempfile::TempDir;
use ulid::Ulid;

use super::harness::{Answer, Api, answer};
use crate::support::postgres::TestPostgres;

const BYTES_MAX: u64 = 20 << 20;

/// A store in this directory.
pub fn store(directory: &Path) -> MediaStore {
    let url = MediaUrl::Directory(directory.to_owned());
    MediaStore::open(&MediaSettings { url, endpoint: None, bytes_max: BYTES_MAX }).expect("a store")
}

struct World {
    api: Api,
    database: Database,
    store: MediaStore,
    dir: TempDir,
    _postgres: TestPostgres,
}

impl World {
    async fn start() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let store = store(&dir.path().join("media"));
        let postgres = TestPostgres::start().await;
        let api = Api::start_with_media(postgres.connect(), store.clone()).await;
        let database = postgres.database(api.now()).await;
        Self { api, database, store, dir, _postgres: postgres }
    }

    async fn upload(&self, query: &str, mime_type: &str, body: impl Into<reqwest::Body>) -> Answer {
        let request = self.api.request(Method::POST, &format!("/v1/media?business=1001{query}"));
        answer(request.header("content-type", mime_type).body(body)).await
    }

    async fn get(&self, path: &str, headers: &[(&str, &str)]) -> Response {
        let request = self.api.request(Method::GET, path);
        let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
        request.send().await.expect("an answer")
    }

    /// A person writes to line 3001 with a file, which Meta has.
    async fn receive(&self, number: &str, mime_type: &str, filename: &str) -> MediaId {
        let id = MediaId(Ulid::from_parts(self.api.now().0, rand::random()));
        let file =
            ReceivedFile { id, meta_id: "77".into(), mime_type: mime_type.into(), filename: Some(filename.into()) };
        let message = ReceivedMessage {
            wamid: format!("wamid.{id}"),
            at: self.api.now(),
            person: Author { identity: Identity::new(Some(number), None), ..Author::default() },
            body: json!({"content": {"media": {"kind": "document", "media": id}}}).to_string(),
            is_echo: false,
            answers: None,
            mark: None,
            file: Some(file),
        };
        let stored =
            self.database.store_inbound(&"3001".into(), &"1001".into(), &[message], None, self.api.now()).await;
        assert_eq!(stored.expect("PostgreSQL").expect("stored").messages, 1);
        id
    }

    /// Fetches a file, as the role `engage` does.
    async fn fetch(&self, id: MediaId, bytes: &'static [u8]) {
        let mut writer = self.store.writer(id, BYTES_MAX);
        writer.put(bytes.into()).await.expect("written");
        writer.finish().await.expect("stored");
        assert!(self.database.file_fetched(id, bytes.len() as u64).await.expect("PostgreSQL"));
    }

    fn files(&self) -> usize {
        count(&self.dir.path().join("media"))
    }
}

fn count(dir: &Path) -> usize {
    let entries = std::fs::read_dir(dir).expect("a directory").flatten().map(|entry| entry.path());
    entries.map(|path| if path.is_dir() { count(&path) } else { 1 }).sum()
}

fn header<'a>(response: &'a Response, name: &str) -> &'a str {
    response.headers().get(name).map_or("", |value| value.to_str().expect("text"))
}

fn path(file: impl std::fmt::Display) -> String {
    format!("/v1/media/{file}")
}

#[tokio::test]
async fn a_message_is_told_again_when_its_file_is_stored_or_gone() {
    let world = World::start().await;
    let stored = world.receive("5491155550001", "image/png", "one.png").await;
    let gone = world.receive("5491155550002", "image/png", "two.png").await;
    let before = world.database.moment().await.expect("PostgreSQL");
    world.fetch(stored, b"one").await;
    world.database.give_up_fetch(gone, GoneReason::Missing).await.expect("PostgreSQL");
    let (_, since) = world.database.changes_since(&before, None).await.expect("PostgreSQL");
    let Since::Changes(changes) = since else { panic!("{since:?}") };
    let told: Vec<_> = changes.messages.into_iter().filter_map(|(_, message)| Some(message.file?.state)).collect();
    assert_eq!((changes.chats.len(), told), (2, vec![FileState::Stored, FileState::Gone]));
}

#[tokio::test]
async fn an_uploaded_file_is_served_whole_and_in_parts() {
    let world = World::start().await;
    let bytes: Vec<u8> = (0..6_000_000_u32).map(|n| (n % 251) as u8).collect();
    let uploaded = world.upload("&filename=offer.mp4", "video/mp4", bytes.clone()).await;
    assert_eq!(uploaded.status, StatusCode::CREATED, "{}", uploaded.body);
    let id = uploaded.body["id"].as_str().expect("an id").to_owned();
    let expected =
        json!({"id": id, "state": "stored", "mime_type": "video/mp4", "filename": "offer.mp4", "size": 6_000_000});
    assert_eq!(uploaded.body, expected);
    let path = path(&id);
    let whole = world.get(&path, &[]).await;
    for (name, value) in [
        ("content-type", "video/mp4"),
        ("content-disposition", "inline; filename=\"offer.mp4\"; filename*=UTF-8''offer.mp4"),
        ("content-length", "6000000"),
        ("accept-ranges", "bytes"),
        ("etag", &*format!("\"{id}\"")),
        ("cache-control", "private, max-age=86400, immutable"),
        ("x-content-type-options", "nosniff"),
        ("content-security-policy", "sandbox; default-src 'none'"),
    ] {
        assert_eq!(header(&whole, name), value, "{name}");
    }
    let etag = header(&whole, "etag").to_owned();
    assert!(whole.bytes().await.expect("a body") == bytes, "the same bytes");
    for (range, from, to) in
        [("bytes=0-9", 0, 10), ("bytes=5999990-", 5_999_990, 6_000_000), ("bytes=-5", 5_999_995, 6_000_000)]
    {
        let part = world.get(&path, &[("range", range), ("if-range", &etag)]).await;
        assert_eq!(part.status(), StatusCode::PARTIAL_CONTENT, "{range}");
        assert_eq!(header(&part, "content-range"), format!("bytes {from}-{}/6000000", to - 1));
        assert!(part.bytes().await.expect("a body") == bytes[from..to], "{range}");
    }
    let of_another = world.get(&path, &[("range", "bytes=0-9"), ("if-range", "\"x\"")]).await;
    assert_eq!((of_another.status(), header(&of_another, "content-length")), (StatusCode::OK, "6000000"));
    let after = world.get(&path, &[("range", "bytes=6000000-")]).await;
    assert_eq!((after.status().as_u16(), header(&after, "content-range")), (416, "bytes */6000000"));
    let known = world.get(&path, &[("if-none-match", &etag)]).await;
    assert_eq!((known.status(), header(&known, "etag")), (StatusCode::NOT_MODIFIED, &*etag));
    let head = world.api.request(Method::HEAD, &path).send().await.expect("an answer");
    assert_eq!((head.status(), header(&head, "content-length")), (StatusCode::OK, "6000000"));
    assert!(head.bytes().await.expect("a body").is_empty());
}

#[tokio::test]
async fn what_people_send_is_served_as_if_it_were_hostile() {
    let world = World::start().await;
    for (mime_type, filename, content_type, disposition) in [
        (
            "text/html",
            "a\"\r\n.html",
            "application/octet-stream",
            "attachment; filename=\"a.html\"; filename*=UTF-8''a.html",
        ),
        ("image/svg+xml", "", "application/octet-stream", "attachment"),
        ("text/html; image/png", "", "application/octet-stream", "attachment"),
        ("image/png", "", "image/png", "inline"),
        ("application/msword", "", "application/msword", "attachment"),
    ] {
        let id = world.receive("5491155550001", mime_type, filename).await;
        world.fetch(id, b"<script>alert(1)</script>").await;
        let served = world.get(&path(id), &[]).await;
        assert_eq!(header(&served, "content-type"), content_type, "{mime_type}");
        assert_eq!(header(&served, "content-disposition"), disposition, "{mime_type}");
        assert_eq!(header(&served, "x-content-type-options"), "nosniff");
        assert_eq!(header(&served, "content-security-policy"), "sandbox; default-src 'none'");
    }
}

#[tokio::test]
async fn a_file_that_is_not_there_says_why_and_its_message_too() {
    let world = World::start().await;
    let (id, lost) =
        (world.receive("5491155550001", "image/png", "").await, world.receive("5491155550001", "image/png", "").await);
    world.api.get(&path(id)).await.problem(409, "media-pending");
    world.database.give_up_fetch(lost, GoneReason::Expired).await.expect("PostgreSQL");
    assert!(world.api.get(&path(lost)).await.problem(404, "media-gone").contains("expired"));
    world.fetch(id, b"\x89PNG").await;
    let chat = world.api.read("/v1/chats").await["chats"][0]["id"].take();
    let messages = world.api.read(&format!("/v1/chats/{}/messages", chat.as_str().expect("an id"))).await;
    let shown: Vec<&Value> =
        messages["messages"].as_array().expect("messages").iter().map(|message| &message["media"]).collect();
    let (state, reason) = (|n: usize| shown[n]["state"].clone(), &shown[0]["reason"]);
    assert_eq!((state(0), reason, state(2)), (json!("gone"), &json!("expired"), json!("stored")), "{messages}");
    assert_eq!(shown[2]["size"], 4);
    for unknown in ["01KBCNYG3T8R7Q6P5N4M3K2J1H", "77", "..%2f..%2fetc%2fpasswd"] {
        world.api.get(&path(unknown)).await.problem(404, "media-not-found");
    }
}

#[tokio::test]
async fn a_file_of_another_business_does_not_exist() {
    let world = World::start().await;
    let uploaded = world.upload("", "image/png", "\u{89}PNG").await.body;
    let id = uploaded["id"].as_str().expect("an id");
    let get = async |business: &str| answer(world.api.request_of(business, Method::GET, &path(id))).await;
    get("1002").await.problem(404, "media-not-found");
    assert_eq!(get("1001").await.status, StatusCode::OK);
    let now = world.api.now();
    super::chats::write(&world.database, ("3003", "1002"), 1, "Hola", now).await;
    let chat = answer(world.api.request_of("1002", Method::GET, "/v1/chats")).await.body["chats"][0]["id"].take();
    let send =
        world.api.request_of("1002", Method::POST, &format!("/v1/chats/{}/messages", chat.as_str().expect("an id")));
    answer(send.json(&json!({"type": "image", "media": id}))).await.problem(422, "invalid");
}

#[tokio::test]
async fn only_what_meta_takes_can_be_uploaded_and_sent() {
    let world = World::start().await;
    world.upload("", "text/html", "<p>").await.problem(415, "unsupported-media-type");
    world.upload("", "image/png", "").await.problem(422, "invalid");
    world.upload(&format!("&filename={}", "a".repeat(241)), "image/png", "x").await.problem(400, "invalid-query");
    for (mime_type, most) in [("image/png", 5 << 20), ("audio/ogg", 16 << 20), ("image/webp", 100 << 10)] {
        let too_large = vec![7; most + 1];
        world.upload("", mime_type, too_large).await.problem(413, "body-too-large");
    }
    let max_size = vec![7; BYTES_MAX as usize + 1];
    world.upload("", "application/pdf", max_size).await.problem(413, "body-too-large");
    assert_eq!(world.files(), 0, "nothing of them is stored");
    super::chats::write(&world.database, ("3001", "1001"), 1, "Hola", world.api.now()).await;
    let chat = world.api.read("/v1/chats").await["chats"][0]["id"].take();
    let send = async |content: Value| {
        world.api.post_json(&format!("/v1/chats/{}/messages", chat.as_str().expect("an id")), &content).await
    };
    let id = world.upload("", "image/png", "\u{89}PNG").await.body["id"].take();
    send(json!({"type": "audio", "media": id})).await.problem(422, "invalid");
    send(json!({"type": "image", "media": id, "link": "https://example.org/a.png"})).await.problem(422, "invalid");
    send(json!({"type": "image", "media": "01KBCNYG3T8R7Q6P5N4M3K2J1H"})).await.problem(422, "invalid");
    send(json!({"type": "image", "media": "../a"})).await.problem(400, "malformed-body");
    let sent = send(json!({"type": "image", "media": id, "caption": "¿Así?"})).await;
    assert_eq!(sent.status, StatusCode::CREATED, "{}", sent.body);
    assert_eq!((&sent.body["media"]["id"], &sent.body["media"]["state"]), (&id, &json!("stored")));
    assert_eq!(sent.body["body"]["content"]["media"], id);
}

#[tokio::test]
async fn the_files_of_a_forgotten_person_are_removed() {
    let world = World::start().await;
    let [forgotten, other] = ["5491155550001", "5491155550002"];
    let (gone, kept) = (world.receive(forgotten, "image/png", "").await, world.receive(other, "image/png", "").await);
    for id in [gone, kept] {
        world.fetch(id, b"\x89PNG").await;
    }
    let brochure = world.upload("", "application/pdf", "%PDF").await.body["id"].take();
    for chat in world.api.read("/v1/chats").await["chats"].as_array().expect("chats") {
        let path = format!("/v1/chats/{}/messages", chat["id"].as_str().expect("an id"));
        let sent = world.api.post_json(&path, &json!({"type": "document", "media": brochure})).await;
        assert_eq!(sent.status, StatusCode::CREATED, "{}", sent.body);
    }
    assert_eq!(world.files(), 3);
    let answered = answer(world.api.request(Method::DELETE, &format!("/v1/people/{forgotten}"))).await;
    assert_eq!(answered.status, StatusCode::OK, "{}", answered.body);
    world.api.get(&path(gone)).await.problem(404, "media-not-found");
    let served = async |id: &str| world.get(&path(id), &[]).await.status();
    assert_eq!(served(&kept.to_string()).await, StatusCode::OK);
    assert_eq!(served(brochure.as_str().expect("an id")).await, StatusCode::OK, "it is in another chat too");
    assert_eq!(world.files(), 2);
    answer(world.api.request(Method::DELETE, &format!("/v1/people/{other}"))).await;
    assert_eq!(world.files(), 0, "with the last chat");
}

#[tokio::test]
async fn without_a_store_files_stay_at_meta_and_the_calls_say_so() {
    let postgres = TestPostgres::start().await;
    let api = Api::start_with_database(postgres.connect()).await;
    let database = postgres.database(api.now()).await;
    super::chats::write(&database, ("3001", "1001"), 1, "Hola", api.now()).await;
    let upload = api.request(Method::POST, "/v1/media?business=1001").header("content-type", "image/png").body("x");
    answer(upload).await.problem(409, "no-media-store");
    let chat = api.read("/v1/chats").await["chats"][0]["id"].take();
    let path = format!("/v1/chats/{}/messages", chat.as_str().expect("an id"));
    let image = json!({"type": "image", "media": "01KBCNYG3T8R7Q6P5N4M3K2J1H"});
    api.post_json(&path, &image).await.problem(409, "no-media-store");
}
