//! Lists that the API returns by pages.

use crate::{api_types::Page, client};

/// The rows of all pages. `page` fetches the page at a cursor; without one, the first.
pub(super) async fn all_pages<T>(
    page: impl AsyncFn(Option<String>) -> client::Result<Page<T>>,
) -> client::Result<Vec<T>> {
    let (mut rows, mut next) = (Vec::new(), None);
    loop {
        let page = page(next).await?;
        rows.extend(page.rows);
        next = page.next;
        if next.is_none() {
            return Ok(rows);
        }
    }
}
