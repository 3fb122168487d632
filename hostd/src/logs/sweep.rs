//! Removal of segments that are too old or too many.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::cursor::Backward;
use super::list::folders;
use super::segment::{self, Segment};
use super::writer::nanoseconds;
use super::{Group, Logs, lock, names};

/// The results of a sweep.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Swept {
    /// Bytes of the remaining segments.
    pub stored_bytes: u64,
    /// Bytes of the removed segments.
    pub removed_bytes: u64,
    /// Number of removed segments.
    pub removed_segments: u64,
}

/// A segment that may be removed.
#[derive(Debug)]
struct Candidate {
    first: u64,
    size: u64,
    stream: PathBuf,
    name: String,
}

/// The contents of a group's folder.
#[derive(Debug)]
struct Found {
    account: String,
    group: Arc<Group>,
    segments: Vec<Candidate>,
    /// Streams that have lost segments in this sweep.
    shortened: BTreeSet<String>,
}

impl Logs {
    /// Removes segments whose lines are all too old, then the oldest segments of groups that are too large, then, while
    /// the total is too large, the oldest of the account that has most. A segment that is being written stays. The call reads and
    /// removes files and blocks. Files that cannot be read or removed are logged and skipped.
    pub fn sweep(&self) -> Swept {
        let mut swept = Swept::default();
        let mut left = Vec::new();
        for (account, folder) in self.list_folders(&self.shared.folder) {
            for (group, _) in self.list_folders(&folder) {
                let Ok(group) = self.shared.group(&account, &group) else { continue };
                let account = account.clone();
                let mut found = Found { account, group, segments: Vec::new(), shortened: BTreeSet::new() };
                self.sweep_group(&mut found, &mut swept);
                left.push(found);
            }
        }
        swept.stored_bytes = evict(&mut left, self.shared.config.max_bytes, &mut swept);
        for found in left {
            self.remove_empty(found);
        }
        lock(&self.shared.groups).retain(|_, group| group.strong_count() > 0);
        self.shared.bytes.store(swept.stored_bytes, Ordering::Relaxed);
        swept
    }

    /// Sweeps at the configured interval, and soon after a segment was filled, for ever.
    pub async fn keep_swept(&self) {
        let interval = Duration::from_secs(self.shared.config.sweep_interval_seconds);
        loop {
            let logs = self.clone();
            match tokio::task::spawn_blocking(move || logs.sweep()).await {
                Ok(swept) if swept.removed_segments > 0 => {
                    tracing::debug!(
                        segments = swept.removed_segments,
                        bytes = swept.removed_bytes,
                        "old logs were removed"
                    );
                }
                Ok(_) => {}
                Err(_) => return, // the daemon is stopping
            }
            let _ = tokio::time::timeout(interval, self.shared.segment_full.notified()).await; // either event starts the next sweep
            // If many segments are filled at once, one sweep is enough.
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }

    fn list_folders(&self, folder: &Path) -> Vec<(String, PathBuf)> {
        match folders(folder) {
            Ok(found) => found.collect(),
            Err(error) => {
                tracing::warn!(%error, "logs cannot be swept");
                Vec::new()
            }
        }
    }

    /// Removes the segments of a group that are too old or exceed its limits, and records the remaining ones.
    fn sweep_group(&self, found: &mut Found, swept: &mut Swept) {
        let config = &self.shared.config;
        let too_old =
            config.retention().and_then(|kept| self.shared.clock.now().checked_sub(kept)).map(nanoseconds);
        for (name, stream) in self.list_folders(&found.group.folder) {
            let segments = segment::list(&stream).unwrap_or_default();
            for (index, segment) in segments.iter().enumerate() {
                let size = segment.path(&stream).metadata().map_or(0, |data| data.len());
                let candidate =
                    Candidate { first: segment.first, size, stream: stream.clone(), name: name.clone() };
                let is_old = too_old.is_some_and(|limit| {
                    let next = segments.get(index + 1);
                    segment.first < limit
                        && (next.is_some_and(|next| next.first <= limit)
                            || last_time(&stream, segment).is_none_or(|last| last < limit))
                });
                if is_old && remove(&found.group, &candidate, swept) {
                    found.shortened.insert(candidate.name);
                } else {
                    found.segments.push(candidate);
                }
            }
        }
        found.segments.sort_unstable_by_key(|segment| segment.first);
        let mut size: u64 = found.segments.iter().map(|segment| segment.size).sum();
        let mut kept = Vec::new();
        for segment in std::mem::take(&mut found.segments) {
            if size > config.max_group_bytes && remove(&found.group, &segment, swept) {
                size -= segment.size;
                found.shortened.insert(segment.name);
            } else {
                kept.push(segment);
            }
        }
        found.segments = kept;
    }

    /// Removes folders without segments: of streams that have just lost them or were created long ago, and of groups
    /// without streams.
    fn remove_empty(&self, found: Found) {
        let now = self.shared.clock.now();
        let kept = self.shared.config.retention();
        for (name, folder) in self.list_folders(&found.group.folder) {
            let streams = lock(&found.group.streams);
            let is_written = streams.get(name.as_str()).is_some_and(|stream| stream.strong_count() > 0);
            let is_empty = segment::list(&folder).is_ok_and(|segments| segments.is_empty());
            let age = || now.duration_since(folder.metadata().and_then(|data| data.modified()).ok()?).ok();
            let is_old = || kept.is_some_and(|kept| age().is_some_and(|age| age > kept));
            if !is_written && is_empty && (found.shortened.contains(&name) || is_old()) {
                remove_folder(&folder);
            }
        }
        lock(&found.group.streams).retain(|_, stream| stream.strong_count() > 0);
        // Writers and followers get the group from this table, which is locked meanwhile.
        let _groups = lock(&self.shared.groups);
        let folder = &found.group.folder;
        if Arc::strong_count(&found.group) == 1
            && folders(folder).is_ok_and(|mut streams| streams.next().is_none())
        {
            remove_folder(folder);
        }
    }
}

/// Bytes of an account's logs, and its segments as time, number of the group and number in the group, the oldest last.
type OfAccount = (u64, Vec<(u64, usize, usize)>);

/// Removes segments until the groups have no more than `max_bytes` together, each time the oldest of the account that has
/// most then: what one account writes costs another nothing as long as that has less. Returns the bytes that are left.
fn evict(groups: &mut [Found], max_bytes: u64, swept: &mut Swept) -> u64 {
    let mut accounts: BTreeMap<&str, OfAccount> = BTreeMap::new();
    for (index, found) in groups.iter().enumerate() {
        let account = accounts.entry(&found.account).or_default();
        for (number, segment) in found.segments.iter().enumerate() {
            account.0 += segment.size;
            account.1.push((segment.first, index, number));
        }
    }
    let mut stored: u64 = accounts.values().map(|(bytes, _)| bytes).sum();
    if stored <= max_bytes {
        return stored;
    }
    let mut largest: BinaryHeap<OfAccount> = BinaryHeap::new();
    for (bytes, mut segments) in accounts.into_values() {
        segments.sort_unstable_by_key(|segment| Reverse(*segment));
        largest.push((bytes, segments));
    }
    while stored > max_bytes
        && let Some((mut bytes, mut segments)) = largest.pop()
    {
        // An account of which nothing can be removed any more is not looked at again.
        while let Some((_, index, number)) = segments.pop() {
            let found = &mut groups[index];
            let segment = &found.segments[number];
            if remove(&found.group, segment, swept) {
                stored -= segment.size;
                bytes -= segment.size;
                found.shortened.insert(segment.name.clone());
                largest.push((bytes, segments));
                break;
            }
        }
    }
    stored
}

/// Removes a segment, unless it is being written.
fn remove(group: &Group, segment: &Candidate, swept: &mut Swept) -> bool {
    // A writer that is opened from now on waits for this lock until the file is removed.
    let streams = lock(&group.streams);
    let is_written = streams.get(segment.name.as_str()).is_some_and(|stream| stream.strong_count() > 0);
    let newest = || segment::list(&segment.stream).ok()?.last().map(|newest| newest.first);
    if is_written && newest() == Some(segment.first) {
        return false;
    }
    let path = Segment { first: segment.first }.path(&segment.stream);
    match fs::remove_file(&path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            tracing::warn!(segment = %path.display(), %error, "a log segment cannot be removed");
            return false;
        }
        _ => {}
    }
    swept.removed_bytes += segment.size;
    swept.removed_segments += 1;
    true
}

/// Removes a folder that contains nothing but its own name. A writer that uses it by now creates it again.
fn remove_folder(folder: &Path) {
    let _ = fs::remove_file(folder.join(names::NAME_FILE)); // most have none
    if let Err(error) = fs::remove_dir(folder) {
        tracing::debug!(folder = %folder.display(), %error, "a log folder stays");
    }
}

/// Time of a segment's last line.
fn last_time(stream: &Path, segment: &Segment) -> Option<u64> {
    Backward::of(stream.to_owned(), vec![segment.clone()], 4096).ok()?.peek().ok()?
}
