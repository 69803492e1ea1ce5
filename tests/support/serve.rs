//! A small HTTP server for one test: a fake Meta, backend or webhook that consists of one router.

use axum::Router;
use tokio::net::TcpListener;

/// Serves `router` on a free port until the runtime of the test ends. Returns its URL, without a slash at the end.
pub async fn serve(router: Router) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    tokio::spawn(async move { axum::serve(listener, router).await });
    url
}
