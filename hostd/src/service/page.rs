//! Pagination of lists.

use hearth_proto::microvms::v1 as proto;

use super::Service;
use super::cursor::List;
use super::error::ServiceError;
use crate::access::Caller;
use crate::operation::Request;
use crate::store::{Entry, Scan, Table};

/// Items on a page, unless the request has `maxResults`.
const SIZE: i32 = 50;

/// A list request that is answered in pages.
pub(crate) trait Paged: Request {
    /// The members `maxResults` and `nextToken`.
    fn page_mut(&mut self) -> (&mut Option<i32>, &mut Option<String>);
}

macro_rules! paged {
    ($($request:ty),+ $(,)?) => {
        $(impl Paged for $request {
            fn page_mut(&mut self) -> (&mut Option<i32>, &mut Option<String>) {
                (&mut self.max_results, &mut self.next_token)
            }
        })+
    };
}

paged!(
    proto::ListMicrovmsRequest,
    proto::ListMicrovmImagesRequest,
    proto::ListMicrovmImageVersionsRequest,
    proto::ListMicrovmImageBuildsRequest,
    proto::ListManagedMicrovmImagesRequest,
    proto::ListManagedMicrovmImageVersionsRequest,
    hearth_proto::host::v1::ListLogGroupsRequest,
    hearth_proto::host::v1::ListLogStreamsRequest,
    hearth_proto::host::v1::ReadLogsRequest,
    hearth_proto::host::v1::ListArtifactsRequest,
);

/// The page that a request selects.
#[derive(Debug)]
pub(crate) struct Page {
    list: List,
    /// The key after which the page begins.
    pub(crate) after: Option<Vec<u8>>,
    /// Greatest number of items on the page.
    pub(crate) size: usize,
}

impl Page {
    /// Number of items to look for: one more than the page holds, which shows whether another page follows.
    pub(crate) fn limit(&self) -> usize {
        self.size.saturating_add(1)
    }
}

impl Service {
    /// The page that a request selects.
    ///
    /// # Errors
    ///
    /// [`InvalidRequest::NextToken`](super::error::InvalidRequest::NextToken).
    pub(crate) fn page<R: Paged>(&self, caller: &Caller, request: &R) -> Result<Page, ServiceError> {
        let mut filters = request.clone();
        let (max_results, next_token) = filters.page_mut();
        let size = usize::try_from(max_results.take().unwrap_or(SIZE)).unwrap_or_default();
        let cursor = next_token.take();
        let list = List::new(&caller.account, R::OPERATION, &filters);
        let after = cursor.map(|cursor| self.cursors().open_token(&list, &cursor)).transpose()?;
        Ok(Page { list, after, size })
    }

    /// The `nextToken` of the page whose last key is `last`.
    ///
    /// # Errors
    ///
    /// The system has no random numbers.
    pub(crate) fn next_token(&self, page: &Page, last: &[u8]) -> Result<Option<String>, ServiceError> {
        self.cursors().seal(&page.list, last).map(Some)
    }

    /// The entries of a table that are on a page, and `nextToken` if more follow.
    ///
    /// # Errors
    ///
    /// Errors of the store.
    pub(crate) fn entries(
        &self,
        page: &Page,
        table: Table,
        prefix: &[u8],
    ) -> Result<(Vec<Entry>, Option<String>), ServiceError> {
        let after = page.after.as_deref();
        let mut entries = self.db().scan(&Scan { table, prefix, after, limit: page.limit() })?;
        if entries.len() <= page.size {
            return Ok((entries, None));
        }
        entries.truncate(page.size);
        let next = match entries.last() {
            Some((last, _)) => self.next_token(page, last)?,
            None => None,
        };
        Ok((entries, next))
    }
}
