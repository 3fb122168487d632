//! Cursors of lists: the last key of a page, encrypted.
//!
//! A cursor contains the key after which the next page begins, so it stays valid whatever is inserted or deleted in the
//! meantime. It is encrypted (AES-256-GCM) with a key from the store, and authenticated together with account,
//! operation and filters: clients cannot read a cursor, make one, or use one for another list.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use prost::Message;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};

use super::error::{InvalidRequest, ServiceError};
use super::names;
use crate::operation::Operation;
use crate::records::CURSOR_KEY;
use crate::store::{Batch, CommitError, Db, Table};

/// Length of the encryption key, in bytes.
const KEY_BYTES: usize = 32;
/// Longest cursor that is decoded, in characters.
pub(super) const LONGEST: usize = 4096;

/// Makes and opens cursors.
#[derive(Debug, Clone)]
pub struct Cursors {
    key: Arc<LessSafeKey>,
}

impl Cursors {
    /// Reads the encryption key from the store, and generates it the first time.
    ///
    /// # Errors
    ///
    /// Errors of the store.
    pub async fn open(db: &Db) -> Result<Self, ServiceError> {
        let made = names::random::<KEY_BYTES>()?.to_vec();
        let batch = Batch::new().expect_absent(Table::Meta, CURSOR_KEY.to_vec()).put(
            Table::Meta,
            CURSOR_KEY.to_vec(),
            made.clone(),
        );
        let bytes = match db.get_bytes(Table::Meta, CURSOR_KEY)? {
            Some(bytes) => bytes,
            None => match db.commit(batch).await {
                Ok(()) => made,
                Err(CommitError::Conflict) => db.get_bytes(Table::Meta, CURSOR_KEY)?.unwrap_or_default(),
                Err(CommitError::Store(error)) => return Err(error.into()),
            },
        };
        let key = UnboundKey::new(&AES_256_GCM, &bytes)
            .map_err(|_| ServiceError::internal("the key of cursors in the store is damaged"))?;
        Ok(Self { key: Arc::new(LessSafeKey::new(key)) })
    }

    /// The cursor for the page of the list `of` that follows the key `last`.
    ///
    /// # Errors
    ///
    /// The system has no random numbers.
    pub fn seal(&self, of: &List, last: &[u8]) -> Result<String, ServiceError> {
        let nonce = names::random::<NONCE_LEN>()?;
        let mut sealed = last.to_vec();
        self.key
            .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(&of.0), &mut sealed)
            .map_err(|_| ServiceError::internal("a cursor cannot be sealed"))?;
        Ok(URL_SAFE_NO_PAD.encode([nonce.as_slice(), &sealed].concat()))
    }

    /// The key after which the page begins.
    ///
    /// # Errors
    ///
    /// [`InvalidRequest::NextToken`] where the cursor is not one of this list.
    pub fn open_token(&self, of: &List, cursor: &str) -> Result<Vec<u8>, ServiceError> {
        let wrong = || ServiceError::from(InvalidRequest::NextToken);
        if cursor.len() > LONGEST {
            return Err(wrong());
        }
        let mut bytes = URL_SAFE_NO_PAD.decode(cursor.trim_end_matches('=')).map_err(|_| wrong())?;
        if bytes.len() < NONCE_LEN {
            return Err(wrong());
        }
        let mut sealed = bytes.split_off(NONCE_LEN);
        let nonce = Nonce::try_assume_unique_for_key(&bytes).map_err(|_| wrong())?;
        let last = self.key.open_in_place(nonce, Aad::from(&of.0), &mut sealed).map_err(|_| wrong())?;
        Ok(last.to_vec())
    }
}

/// Identity of a list: account, operation and filters.
#[derive(Debug)]
pub struct List(Vec<u8>);

impl List {
    /// The list of a request. `filters` is the request without `maxResults` and `nextToken`.
    pub fn new(account: &str, operation: Operation, filters: &impl Message) -> Self {
        let mut bytes = format!("1/{account}/{operation}/").into_bytes();
        bytes.extend(filters.encode_to_vec());
        Self(bytes)
    }
}

#[cfg(test)]
mod tests {
    use hearth_proto::microvms::v1::ListMicrovmsRequest;

    use super::*;
    use crate::store::MemoryStore;

    fn list(account: &str, image: Option<&str>) -> List {
        let filters =
            ListMicrovmsRequest { image_identifier: image.map(str::to_owned), ..Default::default() };
        List::new(account, Operation::ListMicrovms, &filters)
    }

    #[tokio::test]
    async fn a_cursor_is_opened_after_a_restart_too() {
        let db = Db::new(Arc::new(MemoryStore::new()));
        let of = list("111122223333", None);
        let cursor = Cursors::open(&db).await.unwrap().seal(&of, b"last").unwrap();
        let cursors = Cursors::open(&db).await.unwrap();
        assert_eq!(cursors.open_token(&of, &cursor).unwrap(), b"last");
        assert_eq!(cursors.open_token(&of, &format!("{cursor}==")).unwrap(), b"last");
    }

    #[tokio::test]
    async fn a_cursor_is_of_one_list() {
        let cursors = Cursors::open(&Db::new(Arc::new(MemoryStore::new()))).await.unwrap();
        let cursor = cursors.seal(&list("111122223333", None), b"last").unwrap();
        for of in [list("444455556666", None), list("111122223333", Some("demo"))] {
            assert!(matches!(
                cursors.open_token(&of, &cursor),
                Err(ServiceError::Request(InvalidRequest::NextToken))
            ));
        }
        let filters = ListMicrovmsRequest::default();
        let of = List::new("111122223333", Operation::ListMicrovmImages, &filters);
        assert!(matches!(
            cursors.open_token(&of, &cursor),
            Err(ServiceError::Request(InvalidRequest::NextToken))
        ));
    }

    #[tokio::test]
    async fn nobody_makes_or_changes_a_cursor() {
        let cursors = Cursors::open(&Db::new(Arc::new(MemoryStore::new()))).await.unwrap();
        let of = list("111122223333", None);
        let cursor = cursors.seal(&of, b"last").unwrap();
        for index in 0..cursor.len() {
            let mut bytes = cursor.clone().into_bytes();
            bytes[index] = if bytes[index] == b'A' { b'B' } else { b'A' };
            let changed = String::from_utf8(bytes).unwrap();
            assert!(
                matches!(
                    cursors.open_token(&of, &changed),
                    Err(ServiceError::Request(InvalidRequest::NextToken))
                ),
                "{index}"
            );
        }
        let long = "A".repeat(LONGEST + 1);
        for bad in ["", "A", "....", &cursor[..cursor.len() - 2], &long] {
            assert!(
                matches!(cursors.open_token(&of, bad), Err(ServiceError::Request(InvalidRequest::NextToken))),
                "{bad}"
            );
        }
        let other = Cursors::open(&Db::new(Arc::new(MemoryStore::new()))).await.unwrap();
        assert!(other.open_token(&of, &cursor).is_err());
    }
}
