//! Removes records some time after they are no longer needed: terminated microVMs, client tokens.

use std::time::Duration;

use hearth_proto::microvms::v1::MicrovmState;
use hearth_proto::store::v1::{ClientTokenRecord, MicrovmRecord};

use super::microvms::Microvms;
use super::record;
use crate::records::Expiry;
use crate::store::{Batch, CommitError, Entry, Scan, Table};

/// Interval between two searches for expired records.
pub const INTERVAL: Duration = Duration::from_secs(60);
/// Number of entries that are read at a time.
const PAGE: usize = 500;
/// How often a search is repeated because what it has read has changed.
const CONFLICTS: usize = 100;
/// Length of the part of a key, in bytes, that precedes the key of the expired record: time and kind.
const HEAD: usize = 9;

/// The removal of one expired record.
pub(super) struct Removal {
    pub(super) batch: Batch,
    /// Whether the record is a microVM.
    microvm: bool,
}

impl Microvms {
    /// Removes expired records; returns their number.
    ///
    /// # Errors
    /// An error of the store; records that were removed before it stay removed.
    pub async fn expire(&self) -> Result<usize, CommitError> {
        let (mut removed, mut conflicts) = (0, 0);
        loop {
            let scan = Scan { table: Table::Expiries, prefix: b"", after: None, limit: PAGE };
            let now = record::millis(Some(&self.context.clock.timestamp()));
            let page = self.context.db.scan(&scan)?;
            let due: Vec<Entry> = page.into_iter().filter(|(key, _)| due_at(key) <= now).collect();
            if due.is_empty() {
                return Ok(removed);
            }
            if conflicts > CONFLICTS {
                // The next search removes them.
                return Err(CommitError::Conflict);
            }
            let (mut batch, mut forgotten) = (Batch::new().ending(), 0);
            for (key, _) in &due {
                let removal = self.removal(key, now)?;
                forgotten += usize::from(removal.microvm);
                batch = batch.and(removal.batch).delete(Table::Expiries, key.clone());
            }
            match self.context.db.commit(batch).await {
                // A client token was used again since it was read: it is read again.
                Err(CommitError::Conflict) => {
                    conflicts += 1;
                    continue;
                }
                done => done?,
            };
            for _ in 0..forgotten {
                self.context.moved(Some(MicrovmState::Terminated), None);
            }
            removed += due.len();
        }
    }

    /// What removes the record of an entry that has expired at `now`. A client token that has been used anew since has a later entry of
    /// its own, and stays; the batch fails if it is used between now and then.
    pub(super) fn removal(&self, key: &[u8], now: u64) -> Result<Removal, CommitError> {
        let nothing = Removal { batch: Batch::new(), microvm: false };
        let (Some(kind), Some(of)) = (key.get(HEAD - 1), key.get(HEAD..)) else { return Ok(nothing) };
        if *kind == Expiry::ClientToken.byte() {
            let Some(value) = self.context.db.get_bytes(Table::ClientTokens, of)? else { return Ok(nothing) };
            let token: ClientTokenRecord = self.context.db.decode(Table::ClientTokens, of, &value)?;
            if record::millis(token.expires_at.as_ref()) > now {
                return Ok(nothing);
            }
            let batch = Batch::new().expect_value(Table::ClientTokens, of.to_vec(), value);
            return Ok(Removal { batch: batch.delete(Table::ClientTokens, of.to_vec()), ..nothing });
        }
        let record: Option<MicrovmRecord> = self.context.db.get(Table::Microvms, of)?;
        Ok(record.map_or(nothing, |record| Removal { batch: record::remove(&record), microvm: true }))
    }

    /// Removes expired records periodically, for ever.
    pub async fn keep_expiring(self) {
        loop {
            if let Err(error) = self.expire().await {
                tracing::error!(%error, "removing what has expired");
            }
            tokio::time::sleep(INTERVAL).await;
        }
    }
}

/// When an entry expires, in milliseconds since 1970.
fn due_at(key: &[u8]) -> u64 {
    key.first_chunk::<8>().map_or(0, |time| u64::from_be_bytes(*time))
}
