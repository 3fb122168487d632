//! Reads lists that come in pages.

use crate::error::Failure;

/// Most items of a page.
pub(crate) const PAGE: i32 = 50;

/// All items of a list, or its first `limit`. `page` requests the page with a token, and returns it with the next page's token.
pub(crate) async fn all<T>(
    limit: Option<usize>,
    mut page: impl AsyncFnMut(Option<String>) -> Result<(Vec<T>, Option<String>), Failure>,
) -> Result<Vec<T>, Failure> {
    let limit = limit.unwrap_or(usize::MAX);
    let mut items = Vec::new();
    let mut token: Option<String> = None;
    loop {
        let (more, next) = page(token.clone()).await?;
        items.extend(more);
        if items.len() >= limit || next.is_none() {
            items.truncate(limit);
            return Ok(items);
        }
        if next == token {
            return Err(Failure::failed("the daemon gave the same page twice; its own log says more"));
        }
        token = next;
    }
}
