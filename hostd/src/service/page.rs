//! Pagination of lists.

use hearth_proto::microvms::v1 as proto;
use prost::Message;

use super::Service;
use super::cursor::List;
use super::error::ServiceError;
use crate::access::Caller;
use crate::operation::Request;
use crate::store::{Scan, Table};

/// Items on a page, unless the request has `maxResults`.
const SIZE: i32 = 50;
/// Greatest size of the items of a page, in bytes; a single item may have more. A client of gRPC takes 4 MiB in a
/// message unless it is configured otherwise.
pub(crate) const BYTES: usize = 1 << 20;
/// Bytes that an item takes in its list beside its own: the tag of the field and its length.
const FIELD: usize = 6;
/// Number of entries that are read from the store at a time: they may be large, and a page may end soon.
const SCAN: usize = 8;

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

    /// The entries of a table that are on a page, as items, and `nextToken` if more follow. An entry for which `item`
    /// returns none is left out, and counts nevertheless.
    ///
    /// # Errors
    ///
    /// Errors of the store, and of `item`.
    pub(crate) fn entries<T: Message>(
        &self,
        page: &Page,
        table: Table,
        prefix: &[u8],
        mut item: impl FnMut(&[u8], &[u8]) -> Result<Option<T>, ServiceError>,
    ) -> Result<(Vec<T>, Option<String>), ServiceError> {
        let mut filled = Filled::new(page);
        let mut after = page.after.clone();
        loop {
            let entries = self.db().scan(&Scan { table, prefix, after: after.as_deref(), limit: SCAN })?;
            let more = entries.len() == SCAN;
            for (key, value) in entries {
                if !filled.take(&key, item(&key, &value)?) {
                    return filled.end(self, page);
                }
                after = Some(key);
            }
            if !more {
                return Ok((filled.items, None));
            }
        }
    }

    /// What was found, as items on a page, and `nextToken` if not all of it is on the page. `found` has
    /// [`Page::limit`] elements at most; `key` is the key of an element, after which the next page begins.
    ///
    /// # Errors
    ///
    /// The system has no random numbers.
    pub(crate) fn cut<F, T: Message>(
        &self,
        page: &Page,
        found: impl IntoIterator<Item = F>,
        key: impl Fn(&F) -> Vec<u8>,
        item: impl Fn(F) -> T,
    ) -> Result<(Vec<T>, Option<String>), ServiceError> {
        let mut filled = Filled::new(page);
        for found in found {
            let key = key(&found);
            if !filled.take(&key, Some(item(found))) {
                return filled.end(self, page);
            }
        }
        Ok((filled.items, None))
    }
}

/// A page that is filled item by item, until its number or their bytes are reached. A single item has room whatever its
/// size, so that every page makes progress.
struct Filled<T> {
    items: Vec<T>,
    /// Number of items, those that are left out included, that still have room.
    rest: usize,
    /// Bytes that still have room.
    bytes: usize,
    /// The key of the last item.
    last: Option<Vec<u8>>,
}

impl<T: Message> Filled<T> {
    fn new(page: &Page) -> Self {
        Self { items: Vec::new(), rest: page.size, bytes: BYTES, last: None }
    }

    /// Adds an item; returns false if there is no room for it.
    fn take(&mut self, key: &[u8], item: Option<T>) -> bool {
        let size = item.as_ref().map_or(0, |item| item.encoded_len().saturating_add(FIELD));
        if self.rest == 0 || size > self.bytes && !self.items.is_empty() {
            return false;
        }
        self.rest = self.rest.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(size);
        self.items.extend(item);
        self.last = Some(key.to_vec());
        true
    }

    /// The items, and the `nextToken` of a page that others follow.
    fn end(self, service: &Service, page: &Page) -> Result<(Vec<T>, Option<String>), ServiceError> {
        let next = self.last.map(|last| service.next_token(page, &last)).transpose()?;
        Ok((self.items, next.flatten()))
    }
}
