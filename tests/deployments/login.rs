//! If Redis refuses the login, the error says so and names the server: with one server, a cluster and sentinels.

use pregon::redis::{Store, StoreError};

use crate::{campaign::address, servers::RedisServer};

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_password_is_reported_as_the_cause() {
    let server = RedisServer::plain(&[]).await;
    let at = server.address();
    for url in [
        format!("redis://pregon:wrong@{at}"),
        format!("redis+cluster://pregon:wrong@{at}"),
        format!("redis+sentinel://pregon:wrong@{at}/main"),
        // An unreachable node does not hide the refusal of another.
        format!("redis+cluster://pregon:wrong@{at},127.0.0.1:9"),
        format!("redis+cluster://pregon:wrong@127.0.0.1:9,{at}"),
    ] {
        let error = Store::connect(&address(url.clone())).await.err().expect("it is refused");
        assert!(matches!(error, StoreError::Login(_)), "{url}: {error}");
        assert!(error.to_string().contains(&at), "the error names the server: {error}");
    }
}
