//! What a process does when it starts, and which signals end it.

mod support;

use support::{redis::TestRedis, server::Installation};

#[tokio::test]
async fn sighup_without_a_certificate_ends_no_process() {
    let redis = TestRedis::start().await;
    let installation = Installation::new(&redis, "http://127.0.0.1:9", &[("3001", 80.0)], "");
    let mut server = installation.serve("worker", "api").await;
    server.signal("HUP");
    server.api().get("lines").await;
    server.signal("TERM");
    assert!(server.ended().await.success());
}
