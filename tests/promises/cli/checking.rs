//! `check`, and the configuration errors that it shares with `serve`.

use deadpool_redis::redis::cmd;
use pregon::{domain::OnDoubt, redis::Store, sim::Scenario};
use tokio::net::TcpListener;

use super::*;
use crate::{sim::kit::SimServer, support::world};

fn configuration(text: &str) -> (TempDir, String) {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("pregon.toml");
    std::fs::write(&path, text).expect("written");
    let path = path.to_str().expect("text").to_owned();
    (dir, path)
}

#[tokio::test]
async fn check_and_serve_exit_2_with_all_configuration_problems() {
    let (_dir, file) = configuration("[redis]\nurl = \"spawn:\"\npool = 0\n[dispatch]\nlease = \"1h\"\n");
    for command in ["check", "serve"] {
        let ran = run(&[command, "--config", &file], &[], "").await;
        assert_eq!((ran.code, ran.out.as_str()), (2, ""), "{ran:?}");
        for key in ["redis.url", "redis.pool", "dispatch.lease"] {
            assert!(ran.err.contains(key), "{command}: {ran:?}");
        }
        let ran = run(&[command], &[("PREGON_CONFIG", &file)], "").await;
        assert!(ran.code == 2 && ran.err.contains("redis.pool"), "by environment: {ran:?}");
        let ran = run(&[command], &[], "").await;
        assert!(ran.code == 2 && ran.err.contains("http.api_keys needs at least one key"), "{command}: {ran:?}");
    }
    let ran = run(&["check", "--json", "--config", &file], &[], "").await;
    let [report] = ran.json().try_into().expect("one object");
    assert_eq!((ran.code, &report["ok"], &report["checks"][0]["check"]), (2, &json!(false), &json!("configuration")));
}

fn worker(redis: &str) -> String {
    format!(
        "[redis]\nurl = \"{redis}\"\n[http]\nlisten = \"127.0.0.1:0\"\n[ops]\nlisten = \"127.0.0.1:0\"\n\
         [webhook]\nverify_token = {{ env = \"WORD\" }}\napp_secret = {{ env = \"WORD\" }}\n"
    )
}

const WEBHOOK: [&str; 4] = ["check", "--roles", "webhook", "--config"];

#[tokio::test]
async fn a_valid_configuration_passes_every_check() {
    let redis = TestRedis::start().await;
    let (_dir, file) = configuration(&worker(redis.url()));
    let ran = run(&[&WEBHOOK[..], &[&file, "--json"]].concat(), &[("WORD", "secret-word")], "").await;
    let [report] = ran.json().try_into().expect("one object");
    assert_eq!((ran.code, &report["ok"]), (0, &json!(true)), "{ran:?}");
    let checks: Vec<_> = report["checks"].as_array().expect("checks").iter().map(|check| &check["check"]).collect();
    assert_eq!(checks, ["configuration", "redis", "redis keeps data", "data version", "http.listen", "ops.listen"]);
    let ran = run(&[&WEBHOOK[..], &[&file]].concat(), &[("WORD", "secret-word")], "").await;
    assert!(ran.code == 0 && ran.out.contains("redis at") && !ran.out.contains("failed"), "{ran:?}");
    assert!(!ran.out.contains("secret-word"), "{ran:?}");
}

#[tokio::test]
async fn the_check_writes_to_the_store_of_files_and_leaves_nothing() {
    let redis = TestRedis::start().await;
    let dir = tempfile::tempdir().expect("a directory");
    let occupied = dir.path().join("occupied");
    std::fs::write(&occupied, "").expect("written");
    for (media, is_good) in [(dir.path().join("media"), true), (occupied.join("media"), false)] {
        let text = format!(
            "{}[database]\nurl = \"spawn:./never-made\"\n[media]\nurl = \"{}\"\n",
            worker(redis.url()),
            media.display()
        );
        let (_dir, file) = configuration(&text);
        let ran = run(&["check", "--json", "--roles", "engage", "--config", &file], &[("WORD", "w")], "").await;
        let [report] = ran.json().try_into().expect("one object");
        let check = report["checks"].as_array().expect("checks").iter().find(|check| check["check"] == "media");
        let check = check.unwrap_or_else(|| panic!("{ran:?}"));
        assert_eq!((&check["ok"], ran.code), (&json!(is_good), i32::from(!is_good)), "{ran:?}");
        assert_eq!(check["remedy"].is_string(), !is_good, "{check}");
    }
    let folders = std::fs::read_dir(dir.path().join("media")).expect("the store").flatten();
    let left: usize = folders.map(|folder| std::fs::read_dir(folder.path()).expect("a folder").count()).sum();
    assert_eq!(left, 0);
}

#[tokio::test]
async fn work_on_an_unlisted_line_fails_the_check_with_a_remedy() {
    let redis = TestRedis::start().await;
    let store = Store::connect(&world::address(&redis)).await.expect("a store");
    let id = world::campaign(&store, &["3009"], 3, OnDoubt::Hold).await;
    world::launch(&store, id).await;
    let now = store.time().await.expect("redis");
    let until = now.after(std::time::Duration::from_secs(60));
    store.worker_heartbeat("w1", now, until).await.expect("alive");
    let (_dir, file) = configuration(&worker(redis.url()));
    for (line, code) in [("3009", 0), ("3001", 1)] {
        store.register_lines("w1", &[world::line(line, 80.0)], until).await.expect("registered");
        let ran = run(&[&WEBHOOK[..], &[&file, "--json"]].concat(), &[("WORD", "secret-word")], "").await;
        assert_eq!(ran.code, code, "{ran:?}");
        assert_eq!(ran.out.contains("no process lists: 3009"), code == 1, "{ran:?}");
        assert_eq!(ran.out.contains("list the line again"), code == 1, "{ran:?}");
    }
}

#[tokio::test]
async fn data_that_this_release_cannot_read_fails_the_check() {
    let redis = TestRedis::start().await;
    let store = Store::connect(&world::address(&redis)).await.expect("a store");
    let (_dir, file) = configuration(&worker(redis.url()));
    for (version, code) in [("1", 0), ("2", 1)] {
        let raise = cmd("ZADD").arg(store.keys.data_version()).arg(version).arg("0.9.0").clone();
        store.query::<u8>("ZADD", &raise).await.expect("raised");
        let ran = run(&[&WEBHOOK[..], &[&file, "--json"]].concat(), &[("WORD", "secret-word")], "").await;
        let [report] = ran.json().try_into().expect("one object");
        let check = report["checks"].as_array().expect("checks").iter().find(|check| check["check"] == "data version");
        let check = check.expect("a check");
        assert_eq!(ran.code, code, "{ran:?}");
        assert_eq!(check["found"], format!("version {version}; this release reads up to version 1"));
        assert_eq!(check["remedy"] == "use release 0.9.0 or newer", code == 1, "{ran:?}");
    }
}

#[tokio::test]
async fn an_unusable_certificate_fails_the_check() {
    let redis = TestRedis::start().await;
    for (key, ok) in [("first", true), ("second", false), ("nowhere", false)] {
        let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/tls");
        let tls = format!("[http]\ntls = {{ certificate = \"{dir}/first.pem\", key = \"{dir}/{key}.key\" }}\n");
        let (_dir, file) = configuration(&worker(redis.url()).replace("[http]\n", &tls));
        let ran = run(&[&WEBHOOK[..], &[&file, "--json"]].concat(), &[("WORD", "secret-word")], "").await;
        let [report] = ran.json().try_into().expect("one object");
        let check = report["checks"].as_array().expect("checks").iter().find(|check| check["check"] == "http.tls");
        assert_eq!((ran.code, check.map(|check| &check["ok"])), (i32::from(!ok), Some(&json!(ok))), "{key}: {ran:?}");
    }
}

#[tokio::test]
async fn an_unreachable_redis_and_a_taken_port_fail_with_remedies() {
    let taken = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let port = taken.local_addr().expect("an address");
    let text = worker("redis://127.0.0.1:1").replacen("127.0.0.1:0", &port.to_string(), 1);
    let (_dir, file) = configuration(&text);
    let ran = run(&[&WEBHOOK[..], &[&file, "--json"]].concat(), &[("WORD", "w")], "").await;
    assert_eq!((ran.code, ran.err.as_str()), (1, "pregon: 2 checks failed\n"));
    let [report] = ran.json().try_into().expect("one object");
    let checks = report["checks"].as_array().expect("checks");
    let failed: Vec<_> = checks.iter().filter(|check| check["ok"] == false).collect();
    assert_eq!((&failed[0]["check"], &failed[1]["check"]), (&json!("redis"), &json!("http.listen")));
    assert!(failed[0]["remedy"].as_str().expect("a remedy").contains("start Redis there"), "{ran:?}");
    assert!(failed[1]["remedy"].as_str().expect("a remedy").contains("set http.listen to another port"), "{ran:?}");
}

#[tokio::test]
async fn check_with_a_wrong_redis_password_names_the_cause() {
    let redis = TestRedis::start().await;
    let mut connection = redis.connection().await;
    let set = cmd("CONFIG").arg(&["SET", "requirepass", "right"]).exec_async(&mut connection).await;
    set.expect("a password");
    let (_dir, file) = configuration(&worker(redis.url()));
    for url in [redis.url().to_owned(), format!("{}?pass=wrong", redis.url())] {
        let environment = [("WORD", "w"), ("PREGON__REDIS__URL", url.as_str())];
        let ran = run(&[&WEBHOOK[..], &[&file, "--json"]].concat(), &environment, "").await;
        assert!(ran.code == 1 && ran.out.contains("does not accept the user and password"), "{ran:?}");
        assert!(ran.out.contains("set the user and password") && !ran.out.contains("start Redis"), "{ran:?}");
    }
    let unset = cmd("CONFIG").arg(&["SET", "requirepass", ""]).exec_async(&mut connection).await;
    unset.expect("no password");
}

#[tokio::test]
async fn check_names_all_that_is_wrong_with_the_settings_of_redis() {
    let redis = TestRedis::start().await;
    let mut connection = redis.connection().await;
    let mut set = async |key: &str, value: &str| {
        let set = cmd("CONFIG").arg(&["SET", key, value]).exec_async(&mut connection).await;
        set.expect("a setting");
    };
    let (_dir, file) = configuration(&worker(redis.url()));
    let checks = async || {
        let ran = run(&[&WEBHOOK[..], &[&file, "--json"]].concat(), &[("WORD", "w")], "").await;
        let [report] = ran.json().try_into().expect("one object");
        (ran.code, report["checks"].clone())
    };
    set("maxmemory-policy", "allkeys-lru").await;
    let (code, found) = checks().await;
    let durability = found[2]["found"].as_str().expect("found");
    assert!(code == 0 && durability.contains("warning: maxmemory-policy is allkeys-lru"), "{found}");
    set("appendonly", "no").await;
    set("maxmemory", "1gb").await;
    let (code, found) = checks().await;
    assert_eq!(
        (code, &found[2]["check"], &found[3]["check"]),
        (1, &json!("redis keeps data"), &json!("redis has room"))
    );
    for (field, words) in
        [("found", ["the append-only file is off", "allkeys-lru"]), ("remedy", ["appendonly yes", "noeviction"])]
    {
        let text = found[2][field].as_str().expect("text");
        assert!(words.iter().all(|word| text.contains(word)), "{text}");
    }
    assert_eq!(found[3]["ok"], true, "{found}");
    redis.fill_to(0.9).await;
    let (_, found) = checks().await;
    let text = found[3]["found"].as_str().expect("found");
    assert!(found[3]["ok"] == false && text.contains("intake.memory_share_max"), "{found}");
}

#[tokio::test]
async fn a_spawned_redis_needs_only_its_program() {
    let (_dir, file) = configuration(&worker("spawn:./never-made"));
    let ran = run(&[&WEBHOOK[..], &[&file, "--json"]].concat(), &[("WORD", "w")], "").await;
    let [report] = ran.json().try_into().expect("one object");
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(report["checks"][1]["found"].as_str().expect("found").contains("is installed"), "{ran:?}");
    assert!(!std::path::Path::new("never-made").exists());
}

/// The simulator with its scenario `calm`: lines 3001 and on of WABA 2001.
async fn meta() -> String {
    meta_of(Scenario::named("calm").expect("a scenario")).await
}

async fn meta_of(scenario: Scenario) -> String {
    SimServer::start(scenario).await.base
}

#[tokio::test]
async fn each_entry_of_an_include_must_choose_a_line() {
    let text = format!(
        "[redis]\nurl = \"spawn:./never-made\"\n[ops]\nlisten = \"127.0.0.1:0\"\n[graph]\nbase_url = \"{}\"\n\
         [[business]]\nid = \"1001\"\naccess_token = {{ env = \"TOKEN\" }}\ninclude = [\"3001\", \"ENTRY\"]\n",
        meta().await
    );
    for (entry, token, is_good, found) in [
        ("+5491155550002", "sim-token-2001", true, "lines: 2"),
        ("3099", "sim-token-2001", false, "3099 chooses none of its lines: 3001 (+54 9 11 5555 0001), 3002"),
        ("*", "another-token", false, "3001, * chooses none of its lines: none; "),
    ] {
        let (_dir, file) = configuration(&text.replace("ENTRY", entry));
        let ran = run(&["check", "--roles", "dispatch", "--json", "--config", &file], &[("TOKEN", token)], "").await;
        let [report] = ran.json().try_into().expect("one object");
        let mut checks = report["checks"].as_array().expect("checks").iter();
        let check = checks.find(|check| check["check"] == "include of business 1001").expect("the check");
        assert_eq!(check["ok"], is_good, "{check}");
        assert!(check["found"].as_str().is_some_and(|text| text.starts_with(found)), "{check}");
        assert!(!check.to_string().contains("another-token"), "{check}");
    }
}

#[tokio::test]
async fn each_line_is_looked_up_at_meta_with_its_token() {
    let text = format!(
        "[redis]\nurl = \"spawn:./never-made\"\n[ops]\nlisten = \"127.0.0.1:0\"\n[graph]\nbase_url = \"{}\"\n\
         [[business]]\nid = \"1001\"\n[[waba]]\nid = \"2001\"\nbusiness = \"1001\"\naccess_token = {{ env = \"TOKEN\" }}\n\
         [[line]]\nid = \"3001\"\nwaba = \"2001\"\n[[line]]\nid = \"9999\"\nwaba = \"2001\"\n",
        meta().await
    );
    let (_dir, file) = configuration(&text);
    let arguments = ["check", "--roles", "dispatch", "--json", "--config", &file];
    let checked = async |token| {
        let ran = run(&arguments, &[("TOKEN", token)], "").await;
        let [report] = ran.json().try_into().expect("one object");
        let of = |name: &str| {
            let checks = report["checks"].as_array().expect("checks");
            checks.iter().find(|check| check["check"] == name).expect("the check").clone()
        };
        (ran.code, of("line 3001"), of("line 9999"), of("business 1001"))
    };

    let (code, known, unknown, business) = checked("sim-token-2001").await;
    let drift = business["found"].as_str().expect("found");
    assert!(business["ok"] == true && drift.contains("\nwarning: Meta has no line 9999 on WABA 2001: "), "{business}");
    assert_eq!((code, &known["ok"], &unknown["ok"]), (1, &json!(true), &json!(false)), "{known} {unknown}");
    assert!(
        known["found"].as_str().expect("found").contains("+54 9 11 5555 0001 “Pregón Ventas”: CONNECTED"),
        "{known}"
    );
    assert!(
        unknown["remedy"].as_str().expect("a remedy").contains("check that 9999 is a phone_number_id"),
        "{unknown}"
    );

    let (code, refused, ..) = checked("another-token").await;
    assert_eq!((code, &refused["ok"]), (1, &json!(false)));
    assert!(refused["found"].as_str().expect("found").contains("code 190"), "{refused}");
    assert!(!refused.to_string().contains("another-token"), "{refused}");
}

#[tokio::test]
async fn a_waba_without_a_subscribed_app_fails_with_a_remedy() {
    for (webhooks, code) in [(true, 0), (false, 1)] {
        let mut scenario = Scenario::named("calm").expect("a scenario");
        scenario.wabas[0].webhook = scenario.wabas[0].webhook.take().filter(|_| webhooks);
        let text = format!(
            "[redis]\nurl = \"spawn:./never-made\"\n[ops]\nlisten = \"127.0.0.1:0\"\n[graph]\nbase_url = \"{}\"\n\
             [[business]]\nid = \"1001\"\n[[waba]]\nid = \"2001\"\nbusiness = \"1001\"\naccess_token = {{ env = \"TOKEN\" }}\n\
             [[line]]\nid = \"3001\"\nwaba = \"2001\"\n",
            meta_of(scenario).await
        );
        let (_dir, file) = configuration(&text);
        let arguments = ["check", "--roles", "dispatch", "--json", "--config", &file];
        let ran = run(&arguments, &[("TOKEN", "sim-token-2001")], "").await;
        let [report] = ran.json().try_into().expect("one object");
        let checks = report["checks"].as_array().expect("checks");
        let waba = checks.iter().find(|check| check["check"] == "waba 2001").expect("the check");
        assert_eq!((ran.code, &waba["ok"]), (code, &json!(webhooks)), "{waba}");
        if webhooks {
            assert_eq!(waba["found"], "its webhooks go to: Pregón");
        } else {
            assert!(waba["found"].as_str().expect("found").starts_with("no app is subscribed to it"), "{waba}");
            assert!(waba["remedy"].as_str().expect("a remedy").ends_with("/v25.0/2001/subscribed_apps"), "{waba}");
        }
    }
}
