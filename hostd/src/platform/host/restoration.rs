//! MicroVMs that a restored store knows: their files may be newer than what it knows of them.
//!
//! A microVM that was suspended since the back-up has a state that the store does not ask for, so that it is not found, ends, and is
//! removed. Until it is known what has become of each such microVM, removing one sets its files aside instead, and the restoration
//! stays pending, also across restarts.

use std::collections::HashSet;
use std::io;
use std::sync::Mutex;

use hearth_model::id::MicrovmId;

use crate::aside::Aside;
use crate::panics::poisoned;

/// The restoration that is pending, if one is.
#[derive(Debug, Default)]
pub(super) struct Restoration(Mutex<Option<Pending>>);

#[derive(Debug)]
struct Pending {
    aside: Aside,
    /// MicroVMs of which nothing is known yet.
    unsettled: HashSet<MicrovmId>,
}

impl Restoration {
    /// What the store does not know has been set aside; these microVMs have files, and are known to the store.
    ///
    /// # Errors
    /// The end of the restoration cannot be noted, where there are none.
    pub(super) fn begin(&self, aside: Aside, unsettled: HashSet<MicrovmId>) -> io::Result<()> {
        if unsettled.is_empty() {
            return aside.finish();
        }
        *self.0.lock().unwrap_or_else(poisoned) = Some(Pending { aside, unsettled });
        Ok(())
    }

    /// Where the files of a microVM belong that are not to be removed.
    pub(super) fn aside_of(&self, id: &MicrovmId) -> Option<Aside> {
        let pending = self.0.lock().unwrap_or_else(poisoned);
        pending.as_ref().filter(|pending| pending.unsettled.contains(id)).map(|pending| pending.aside.clone())
    }

    /// A microVM was found as the store knows it, or its files were set aside. The last one ends the restoration.
    pub(super) fn settle(&self, id: &MicrovmId) {
        let mut pending = self.0.lock().unwrap_or_else(poisoned);
        let Some(Pending { aside, unsettled }) = pending.as_mut() else { return };
        if !unsettled.remove(id) || !unsettled.is_empty() {
            return;
        }
        if let Err(error) = aside.finish() {
            let folder = aside.folder().display();
            tracing::error!(%folder, %error, "the end of the restoration cannot be noted; the next start looks again");
        }
        *pending = None;
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    #[test]
    fn it_is_pending_until_the_last_microvm_is_settled() {
        let data = tempfile::tempdir().unwrap();
        let announce =
            |seconds| Aside::announce(data.path(), UNIX_EPOCH + Duration::from_secs(seconds)).unwrap();
        let is_pending = || Aside::pending(data.path()).unwrap().is_some();
        let [one, two, other] =
            ["microvm-1", "microvm-2", "microvm-3"].map(|id| id.parse::<MicrovmId>().unwrap());
        let restoration = Restoration::default();
        restoration.settle(&one);
        assert!(restoration.aside_of(&one).is_none());
        restoration.begin(announce(7), HashSet::from([one.clone(), two.clone()])).unwrap();
        assert!(restoration.aside_of(&one).is_some() && restoration.aside_of(&other).is_none());
        for id in [&one, &other, &one] {
            restoration.settle(id);
            assert!(is_pending(), "{id}");
        }
        assert!(restoration.aside_of(&one).is_none() && restoration.aside_of(&two).is_some());
        restoration.settle(&two);
        assert!(!is_pending() && restoration.aside_of(&two).is_none());
        restoration.begin(announce(8), HashSet::new()).unwrap();
        assert!(!is_pending());
    }
}
