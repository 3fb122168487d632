//! Lists of groups and streams.

use std::collections::BinaryHeap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::cursor::Backward;
use super::error::LogError;
use super::{Logs, Shared, names, segment};
use crate::panics;

/// A log group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupInfo {
    /// Name of the group.
    pub name: String,
    /// Size of the group's files in bytes.
    pub stored_bytes: u64,
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
}

impl Logs {
    /// The groups of an account by name: at most `limit` of those that begin with `prefix` and follow `after`.
    ///
    /// # Errors
    /// [`LogError::Open`] if a folder cannot be read.
    pub async fn list_groups(
        &self,
        account: &str,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<GroupInfo>, LogError> {
        let folder = self.shared.account_folder(account)?;
        let (prefix, after) = (prefix.to_owned(), after.map(str::to_owned));
        blocking(move || {
            let found = by_name(&folder, &prefix, after.as_deref(), limit)?;
            let info = |(name, folder): (String, PathBuf)| {
                let mut stored_bytes = 0;
                for (_, stream) in folders(&folder)? {
                    stored_bytes += sizes(&stream)?;
                }
                Ok(GroupInfo { name, stored_bytes })
            };
            found.into_iter().map(info).collect()
        })
        .await
    }

    /// The streams of a group by name: at most `limit` of those that begin with `prefix` and follow `after`.
    ///
    /// # Errors
    /// [`LogError::NoGroup`]; [`LogError::Open`] or [`LogError::Read`] if files cannot be read.
    pub async fn list_streams(
        &self,
        account: &str,
        group: &str,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<StreamInfo>, LogError> {
        let folder = self.shared.existing_group(account, group)?;
        let (prefix, after) = (prefix.to_owned(), after.map(str::to_owned));
        blocking(move || {
            let found = by_name(&folder, &prefix, after.as_deref(), limit)?;
            let info = |(name, folder): (String, PathBuf)| {
                let segments = segments(&folder)?;
                let last_event = Backward::new(folder.clone(), 4096)?.peek()?.map(time);
                Ok(StreamInfo {
                    name,
                    stored_bytes: sizes(&folder)?,
                    first_event: segments.first().map(|segment| time(segment.first)),
                    last_event,
                })
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

/// Runs work that reads files on a thread where it may block.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, LogError> + Send + 'static,
) -> Result<T, LogError> {
    panics::blocking(work).await
}

/// The first `limit` names in a folder that begin with `prefix` and follow `after`.
fn by_name(
    folder: &Path,
    prefix: &str,
    after: Option<&str>,
    limit: usize,
) -> Result<Vec<(String, PathBuf)>, LogError> {
    let mut first = BinaryHeap::new();
    for (name, path) in folders(folder)? {
        if name.starts_with(prefix) && after.is_none_or(|after| name.as_str() > after) {
            first.push((name, path));
            if first.len() > limit {
                first.pop();
            }
        }
    }
    Ok(first.into_sorted_vec())
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

/// A time from nanoseconds since 1970.
pub(super) fn time(nanoseconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_nanos(nanoseconds)
}
