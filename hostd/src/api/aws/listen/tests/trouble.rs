//! A stand with everything that clients seldom meet: a store that fails, others who are always faster, launches that do not
//! end, and small limits.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::stand::{Bounds, OTHER, Stand};
use crate::builds::tests::double::ACCOUNT;
use crate::platform::double::{Deviation, Point};
use crate::records;
use crate::service::{Limits, Profile};
use crate::store::{Batch, CommitError, Expect, MemoryStore, Over, Store, StoreError, Table};

/// The image, with the versions 1.0 and 2.0, that others are always faster to change. No image can be made whose name begins
/// like this.
const CONTENDED: &str = "contended";

/// A store that cannot read anything of the account [`OTHER`], and in which others are faster to change [`CONTENDED`].
#[derive(Debug, Default)]
struct Troubled {
    store: MemoryStore,
    /// Whether the trouble has begun.
    begun: AtomicBool,
}

impl Troubled {
    fn begun(&self) -> bool {
        self.begun.load(Ordering::Relaxed)
    }

    /// Fails for keys, and prefixes of keys, of the account.
    fn read(&self, key: &[u8]) -> Result<(), StoreError> {
        if self.begun() && key.starts_with(&records::account(OTHER)) {
            let source = Arc::new(io::Error::other("the disk is gone"));
            return Err(StoreError::Failed { what: "read", source });
        }
        Ok(())
    }

    /// Whether others have changed what the batch expects.
    fn is_late(&self, batch: &Batch) -> bool {
        let of_contended = |table: &Table, key: &[u8]| {
            matches!(table, Table::Images | Table::Versions)
                && key.windows(CONTENDED.len()).any(|part| part == CONTENDED.as_bytes())
        };
        self.begun()
            && batch.expects.iter().any(|expect| match expect {
                Expect::Absent(table, key) | Expect::Value(table, key, _) => of_contended(table, key),
            })
    }
}

impl Over for Troubled {
    fn below(&self) -> &dyn Store {
        &self.store
    }

    fn reads(&self, key: &[u8]) -> Result<(), StoreError> {
        self.read(key)
    }

    fn commits(&self, batches: &[Batch]) -> Vec<Result<(), CommitError>> {
        let one = |batch: &Batch| {
            if self.is_late(batch) {
                return vec![Err(CommitError::Conflict)];
            }
            self.store.commit(std::slice::from_ref(batch))
        };
        batches.iter().flat_map(one).collect()
    }
}

/// The stand, in which [`CONTENDED`] is built. An account has three images, three versions of each and 4 GiB of memory at most,
/// and so much has the host.
pub(super) async fn stand() -> Stand {
    let store = Arc::new(Troubled::default());
    let limits = Limits { images: Some(3), versions: Some(3), memory_mib: Some(4096), ..Limits::default() };
    let bounds = Bounds { limits, capacity_mib: Some(4096) };
    let stand = Stand::on(&store, Profile::Default, bounds).await;
    stand.daemon.create(CONTENDED, "app.zip").await;
    stand.daemon.idle().await;
    stand.daemon.update(CONTENDED, "app.zip").await;
    stand.daemon.idle().await;
    let versions = stand.daemon.image(CONTENDED).map(|image| image.versions);
    assert_eq!(versions, Some(vec![1, 2]), "the image of {ACCOUNT} is there");
    stand.host().always(Point::Launch, Deviation::Hangs);
    store.begun.store(true, Ordering::Relaxed);
    stand
}
