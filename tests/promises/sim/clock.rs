//! The simulator's clock can be advanced.

use serde_json::json;

use super::kit::{SimServer, order, quiet};

const PAUSED: u64 = 132_015;

#[tokio::test]
async fn a_pause_of_three_hours_ends_when_the_clock_is_advanced() {
    let server = SimServer::start(quiet()).await;
    let began = server.sim.now();
    assert_eq!(server.control("template", &json!({"name": "order_update", "status": "PAUSED"})).await.0, 200);
    assert_eq!(server.control("clock", &json!({"advance": "2h"})).await.0, 200);
    assert_eq!(server.code(&order(1, "")).await, PAUSED);
    assert_eq!(server.control("clock", &json!({"advance": "61m"})).await.0, 200);
    assert_eq!(server.code(&order(1, "")).await, 0);
    assert!(server.sim.now().since(began).as_secs() >= 181 * 60);
    assert_eq!(server.control("clock", &json!({"advance": "25h"})).await.0, 400, "at most a day at once");
}
