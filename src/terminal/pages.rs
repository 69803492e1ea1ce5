//! Reads lists that the API returns in pages.

use crate::{api_types::Page, client};

/// The rows of all pages. `page` fetches the page at a cursor; `None` is the first page.
pub(super) async fn all_pages<T>(
    page: impl AsyncFn(Option<String>) -> client::Result<Page<T>>,
) -> client::Result<Vec<T>> {
    Ok(first_rows(usize::MAX, page).await?.0)
}

/// The first `limit` rows, and whether there are more. `page` is as for [`all_pages`].
pub(super) async fn first_rows<T>(
    limit: usize,
    page: impl AsyncFn(Option<String>) -> client::Result<Page<T>>,
) -> client::Result<(Vec<T>, bool)> {
    let (mut rows, mut next) = (Vec::new(), None);
    loop {
        let page = page(next).await?;
        rows.extend(page.rows);
        next = page.next;
        if next.is_none() || rows.len() >= limit {
            let has_more = next.is_some() || rows.len() > limit;
            rows.truncate(limit);
            return Ok((rows, has_more));
        }
    }
}
