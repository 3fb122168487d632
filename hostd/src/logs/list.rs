//! Lists of groups and streams.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::cursor::Backward;
use super::error::LogError;
use super::{Logs, Shared, names, segment};
use crate::turns::AccountTurns;

/// A log group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupInfo {
    /// Name of the group.
    pub name: String,
    /// Size of the group's files in bytes.
    pub stored_bytes: u64,
    /// When the group's folder was made.
    pub created: Option<SystemTime>,
}

/// A log stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamInfo {
    /// Name of the stream.
    pub name: String,
    /// Size of the stream's files in bytes.
    pub stored_bytes: u64,
    /// Time of the first line that still exists.
    pub first_event: Option<SystemTime>,
    /// Time of the last line.
    pub last_event: Option<SystemTime>,
    /// When the stream's folder was made.
    pub created: Option<SystemTime>,
}

/// The order of a list of streams.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StreamOrder {
    /// By the time of the last line and then by name, instead of by name alone.
    pub by_last_event: bool,
    /// In the opposite order.
    pub descending: bool,
}

/// What streams are ordered by, whatever the order. It identifies a place in a list while streams come and go.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct StreamKey {
    /// Nanoseconds since 1970 of the last line; 0 without lines, and in a list by name.
    last_event: u64,
    name: String,
}

impl StreamKey {
    /// The key as bytes, for a cursor.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        [&self.last_event.to_be_bytes(), self.name.as_bytes()].concat()
    }

    /// Converts the result of [`Self::to_bytes`] back.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (time, name) = bytes.split_first_chunk()?;
        Some(Self { last_event: u64::from_be_bytes(*time), name: String::from_utf8(name.to_vec()).ok()? })
    }
}

impl Logs {
    /// The groups of an account by name: at most `limit` of those that begin with `prefix`, contain `part` and follow
    /// `after`.
    ///
    /// # Errors
    /// [`LogError::Busy`]; [`LogError::Open`] if a folder cannot be read.
    pub async fn list_groups(
        &self,
        account: &str,
        prefix: &str,
        part: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<GroupInfo>, LogError> {
        let folder = self.shared.account_folder(account)?;
        let (prefix, part, after) = (prefix.to_owned(), part.to_owned(), after.map(str::to_owned));
        blocking(&self.shared.turns.of(account), move || {
            let is_wanted = |name: &str| {
                name.starts_with(&prefix)
                    && name.contains(&part)
                    && after.as_deref().is_none_or(|after| name > after)
            };
            let mut found: Vec<_> = folders(&folder)?.filter(|(name, _)| is_wanted(name)).collect();
            found.sort_unstable();
            found.truncate(limit);
            let info = |(name, folder): (String, PathBuf)| {
                let mut stored_bytes = 0;
                for (_, stream) in folders(&folder)? {
                    stored_bytes += sizes(&stream)?;
                }
                Ok(GroupInfo { name, stored_bytes, created: created(&folder) })
            };
            found.into_iter().map(info).collect()
        })
        .await
    }

    /// The streams of a group in an order: at most `limit` of those that begin with `prefix` and follow `after`, and
    /// the key of each.
    ///
    /// # Errors
    /// [`LogError::NoGroup`]; [`LogError::Busy`]; [`LogError::Open`] or [`LogError::Read`] if files cannot be read.
    pub async fn list_streams(
        &self,
        account: &str,
        group: &str,
        prefix: &str,
        order: StreamOrder,
        after: Option<StreamKey>,
        limit: usize,
    ) -> Result<Vec<(StreamKey, StreamInfo)>, LogError> {
        let folder = self.shared.existing_group(account, group)?;
        let prefix = prefix.to_owned();
        blocking(&self.shared.turns.of(account), move || {
            let mut found = Vec::new();
            for (name, folder) in folders(&folder)?.filter(|(name, _)| name.starts_with(&prefix)) {
                let last_event = if order.by_last_event { last_time(&folder)?.unwrap_or(0) } else { 0 };
                let key = StreamKey { last_event, name };
                let is_after = |after: &StreamKey| if order.descending { key < *after } else { key > *after };
                if after.as_ref().is_none_or(is_after) {
                    found.push((key, folder));
                }
            }
            found.sort_unstable();
            if order.descending {
                found.reverse();
            }
            found.truncate(limit);
            let info = |(key, folder): (StreamKey, PathBuf)| {
                let info = StreamInfo {
                    name: key.name.clone(),
                    stored_bytes: sizes(&folder)?,
                    first_event: segments(&folder)?.first().map(|segment| time(segment.first)),
                    last_event: last_time(&folder)?.map(time),
                    created: created(&folder),
                };
                Ok((key, info))
            };
            found.into_iter().map(info).collect()
        })
        .await
    }
}

impl Shared {
    /// The folder of an existing group.
    pub(super) fn existing_group(&self, account: &str, group: &str) -> Result<PathBuf, LogError> {
        let folder = self.group_folder(account, group)?;
        if folder.is_dir() { Ok(folder) } else { Err(LogError::NoGroup(group.to_owned())) }
    }
}

/// Runs work that reads files on a thread where it may block, when it is the account's turn.
pub(super) async fn blocking<T: Send + 'static>(
    turns: &AccountTurns,
    work: impl FnOnce() -> Result<T, LogError> + Send + 'static,
) -> Result<T, LogError> {
    turns.run(work).await?
}

/// The groups in an account's folder, or the streams in a group's folder, in no particular order.
pub(super) fn folders(folder: &Path) -> Result<impl Iterator<Item = (String, PathBuf)>, LogError> {
    let source: Arc<Path> = folder.into();
    let entries = segment::entries(folder)
        .map_err(|error| LogError::Open { path: source.to_path_buf(), source: error })?;
    Ok(entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).filter_map(
        |entry| {
            let path = entry.path();
            names::name_of(&path).map(|name| (name, path))
        },
    ))
}

fn segments(folder: &Path) -> Result<Vec<segment::Segment>, LogError> {
    segment::list(folder).map_err(|source| LogError::Open { path: folder.to_owned(), source })
}

fn sizes(folder: &Path) -> Result<u64, LogError> {
    let size = |segment: &segment::Segment| segment.path(folder).metadata().map_or(0, |data| data.len());
    Ok(segments(folder)?.iter().map(size).sum())
}

/// Time of a stream's last line.
fn last_time(folder: &Path) -> Result<Option<u64>, LogError> {
    Backward::new(folder.to_owned(), 4096)?.peek()
}

/// When a folder was made or, where the file system does not know this, changed.
fn created(folder: &Path) -> Option<SystemTime> {
    let metadata = folder.metadata().ok()?;
    metadata.created().or_else(|_| metadata.modified()).ok()
}

/// A time from nanoseconds since 1970.
pub(super) fn time(nanoseconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_nanos(nanoseconds)
}
