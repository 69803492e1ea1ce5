//! `database`: the tables are migrated without a running worker.

use super::*;
use crate::support::postgres::TestPostgres;

#[tokio::test]
async fn the_tables_are_created_once_and_their_state_is_shown() {
    let postgres = TestPostgres::start().await;
    let url = [("PREGON__DATABASE__URL", postgres.url())];
    let environment = url.each_ref().map(|(name, url)| (*name, url.as_str()));
    let states = async || {
        let ran = run(&["database", "status", "--json"], &environment, "").await;
        let [report] = ran.json().try_into().expect("one object");
        let migrations = report["migrations"].as_array().expect("migrations").clone();
        assert_eq!((ran.code, &report["applied"]), (0, &json!(0)), "{ran:?}");
        migrations
    };
    assert!(states().await.iter().all(|migration| migration["applied"] == false && migration["known"] == true));
    let first = run(&["database", "migrate"], &environment, "").await;
    assert!(first.code == 0 && first.out.starts_with("applied 0001_chats, 0002_"), "{first:?}");
    let migrations = states().await;
    assert!(migrations.iter().all(|migration| migration["applied"] == true), "{migrations:?}");
    let second = run(&["database", "migrate"], &environment, "").await;
    let expected = format!("the tables are up to date ({} migrations)\n", migrations.len());
    assert_eq!((second.code, second.out), (0, expected));

    let newer = "insert into _sqlx_migrations (version, description, success, checksum, execution_time) \
                 values (9000, 'of the future', true, '', 0)";
    postgres.execute(newer).await;
    let third = run(&["database", "migrate"], &environment, "").await;
    assert_eq!(third.code, 0, "a newer release has migrated: {third:?}");
    let status = run(&["database", "status"], &environment, "").await;
    assert!(
        status.out.contains("9000_of_the_future") && status.out.contains("applied by a newer release"),
        "{status:?}"
    );
}

#[tokio::test]
async fn a_database_that_is_missing_or_away_is_named() {
    let ran = run(&["database", "migrate"], &[], "").await;
    assert!(ran.code == 2 && ran.err.contains("database.url is needed for the role engage"), "{ran:?}");
    let environment =
        [("PREGON__DATABASE__URL", "postgres://pregon@127.0.0.1:1/people"), ("PREGON__DATABASE__TIMEOUT", "100ms")];
    for command in ["migrate", "status"] {
        let ran = run(&["database", command], &environment, "").await;
        assert_eq!((ran.code, ran.out.as_str()), (1, ""), "{ran:?}");
        assert!(ran.err.contains("postgres://127.0.0.1:1/people: PostgreSQL is not available"), "{ran:?}");
    }
}
