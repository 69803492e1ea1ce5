//! A user or password that is refused is named as the cause, whoever refuses it.

use pregon::store::{Store, StoreError};

use crate::{campaign::address, servers::RedisServer};

#[tokio::test(flavor = "multi_thread")]
async fn a_password_that_nodes_or_sentinels_refuse_is_named_as_the_cause() {
    let server = RedisServer::plain(&[]).await;
    let at = server.address();
    for url in [
        format!("redis://pregon:wrong@{at}"),
        format!("redis+cluster://pregon:wrong@{at}"),
        format!("redis+sentinel://pregon:wrong@{at}/main"),
        // One that is away does not hide what another says.
        format!("redis+cluster://pregon:wrong@{at},127.0.0.1:9"),
        format!("redis+cluster://pregon:wrong@127.0.0.1:9,{at}"),
    ] {
        let error = Store::connect(&address(url.clone())).await.err().expect("it is refused");
        assert!(matches!(error, StoreError::Login(_)), "{url}: {error}");
        assert!(error.to_string().contains(&at), "it says who refused: {error}");
    }
}
