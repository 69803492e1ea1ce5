//! The API and the operator's endpoints (metrics and health) are on separate listeners.

use super::kit::Worker;
use crate::support::http_client;

#[tokio::test]
async fn the_api_and_ops_listeners_serve_none_of_each_others_paths() {
    let worker = Worker::start(|_| ()).await;
    let http = http_client();
    let get = async |url: String, key: Option<&str>| {
        let request = http.get(url);
        let request = match key {
            Some(key) => request.bearer_auth(key),
            None => request,
        };
        let answer = request.send().await.expect("an answer");
        (answer.status().as_u16(), answer.text().await.expect("a body"))
    };
    for path in ["/metrics", "/healthz", "/readyz"] {
        let (status, page) = get(format!("http://{}{path}", worker.ops), None).await;
        assert_eq!(status, 200, "{path}: {page}");
        for (key, status) in [(None, 401), (Some(super::kit::KEY), 404)] {
            let (given, page) = get(worker.url(path), key).await;
            assert_eq!(given, status, "{path}");
            assert!(!page.contains("pregon_") && !page.contains("ready"), "{path}: {page}");
        }
    }
    for path in ["/v1/lines", "/v1/campaigns", "/webhooks/meta", "/"] {
        let (status, _) = get(format!("http://{}{path}", worker.ops), Some(super::kit::KEY)).await;
        assert_eq!(status, 404, "{path}");
    }
    worker.stop().await;
}
