//! Appending to a stream.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::error::LogError;
use super::names;
use super::record::{MAX_MESSAGE, Record, Source};
use super::segment::{self, Header, Origins, Segment};
use super::{Group, Logs, Shared, lock};

/// How far a line's time may lie behind the host's clock: a guest keeps lines while no daemon runs.
const BACKLOG: Duration = Duration::from_secs(24 * 60 * 60);
/// Longest time that a segment spans, so that the lines of a quiet stream can expire.
const SEGMENT_SPAN: Duration = Duration::from_secs(24 * 60 * 60);

/// A line to be stored.
#[derive(Debug, Clone, Copy)]
pub struct Line<'a> {
    /// When it was written.
    pub timestamp: SystemTime,
    /// Who wrote it.
    pub source: Source,
    /// The line's number from the guest agent; 0 if it has none.
    pub sequence: u64,
    /// The line without its end; any bytes. A message longer than 256 KiB is stored as several lines.
    pub message: &'a [u8],
}

/// Appends to one stream. Clones write to the same stream.
#[derive(Debug, Clone)]
pub struct Writer {
    shared: Arc<Shared>,
    stream: Arc<Stream>,
    origin: u64,
}

/// A stream that is written.
#[derive(Debug)]
pub(super) struct Stream {
    name: Arc<str>,
    folder: PathBuf,
    group: Arc<Group>,
    end: Mutex<End>,
}

/// The end of a stream, which lines are appended to.
#[derive(Debug, Default)]
struct End {
    /// Whether the other fields have been determined from the files.
    known: bool,
    file: Option<File>,
    /// The segment that is appended to, and the offset of its end.
    segment: Option<(Segment, u64)>,
    last_time: u64,
    origins: Origins,
    buffer: Vec<u8>,
}

impl Logs {
    /// Opens a writer of a stream, which is created if it does not exist. All writers of a stream without an origin
    /// share the numbers of their lines.
    ///
    /// # Errors
    /// [`LogError::Name`], and [`LogError::Open`] or [`LogError::Read`] if the stream's files cannot be used.
    pub fn writer(&self, account: &str, group: &str, stream: &str) -> Result<Writer, LogError> {
        self.open_writer(account, group, stream, 0)
    }

    /// Like [`Self::writer`], for lines that are numbered by `origin`, a microVM's id. Several origins may write to
    /// one stream.
    ///
    /// # Errors
    /// As [`Self::writer`].
    pub fn writer_of(
        &self,
        account: &str,
        group: &str,
        stream: &str,
        origin: &str,
    ) -> Result<Writer, LogError> {
        self.open_writer(account, group, stream, names::hash(origin))
    }

    fn open_writer(&self, account: &str, group: &str, name: &str, origin: u64) -> Result<Writer, LogError> {
        let shared = Arc::clone(&self.shared);
        let group = shared.group(account, group)?;
        let folder = group.folder.join(names::file_name(name)?);
        let stream = {
            let mut streams = lock(&group.streams);
            let known = streams.get(name).and_then(Weak::upgrade);
            known.unwrap_or_else(|| {
                let stream = Arc::new(Stream {
                    name: name.into(),
                    folder,
                    group: Arc::clone(&group),
                    end: Mutex::default(),
                });
                streams.insert(Arc::clone(&stream.name), Arc::downgrade(&stream));
                stream
            })
        };
        // From here on, the sweep leaves the stream alone.
        stream.make_folders().map_err(|source| LogError::Open { path: stream.folder.clone(), source })?;
        lock(&stream.end).ensure_known(&stream.folder)?;
        Ok(Writer { shared, stream, origin })
    }
}

impl Writer {
    /// Stores a line, unless its number shows that it is stored already. The line is in the kernel's page cache when
    /// this returns.
    ///
    /// # Errors
    /// [`LogError::Write`]: nothing of the line was stored. The same line can be appended again, and is stored once
    /// the cause (for example a full disk) is gone.
    pub fn append(&self, line: Line<'_>) -> Result<(), LogError> {
        let mut end = lock(&self.stream.end);
        end.ensure_known(&self.stream.folder)?;
        if line.sequence != 0 && line.sequence <= end.origins.last(self.origin) {
            return Ok(());
        }
        end.append(&self.shared, &self.stream, self.origin, line).map_err(|source| LogError::Write {
            stream: self.stream.name.to_string(),
            path: self.stream.folder.clone(),
            source,
        })?;
        drop(end);
        self.stream.group.notify(&self.stream.name);
        Ok(())
    }

    /// The number of the last stored line of this writer's origin; 0 if there is none.
    #[must_use]
    pub fn last_sequence(&self) -> u64 {
        lock(&self.stream.end).origins.last(self.origin)
    }
}

impl Stream {
    fn make_folders(&self) -> io::Result<()> {
        segment::make_folder(&self.folder)?;
        names::keep_name(&self.group.folder, &self.group.name)?;
        names::keep_name(&self.folder, &self.name)
    }

    /// Closes the file unless the stream is being written; returns whether it did. The file is opened again for the
    /// next line.
    pub(super) fn close_file(&self) -> bool {
        self.end.try_lock().map(|mut end| end.file = None).is_ok()
    }
}

impl End {
    /// Determines how the stream ends, if that is not known.
    fn ensure_known(&mut self, folder: &Path) -> Result<(), LogError> {
        if !self.known {
            *self = Self::find(folder)?;
        }
        Ok(())
    }

    /// Determines the end from the files. A record that was not written completely is cut off.
    fn find(folder: &Path) -> Result<Self, LogError> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| LogError::Read { path, source }
        };
        let segments = segment::list(folder).map_err(failed(folder))?;
        let mut end = Self { known: true, ..Self::default() };
        for (index, segment) in segments.iter().enumerate().rev() {
            let newest = index + 1 == segments.len();
            let path = segment.path(folder);
            let bytes = std::fs::read(&path).map_err(failed(&path))?;
            end.last_time = end.last_time.max(segment.first);
            let (origins, header) = match segment::parse_header(&bytes, segment.first) {
                Header::Whole(origins, length) => (origins, length),
                Header::Partial => {
                    // Made by a daemon that was killed before it had written the first line.
                    std::fs::remove_file(&path).map_err(failed(&path))?;
                    continue;
                }
                Header::Unreadable(why) => {
                    tracing::warn!(segment = %path.display(), why, "a log segment cannot be read; it stays as it is");
                    continue;
                }
            };
            let found = segment::scan(&bytes, origins, header);
            let rest = bytes.len() - found.end;
            end.last_time = end.last_time.max(found.last_time.unwrap_or(0));
            end.origins = found.origins;
            if newest && segment::can_be_torn(rest) {
                let length = u64::try_from(found.end).unwrap_or(u64::MAX);
                if rest > 0 {
                    let file = OpenOptions::new().write(true).open(&path).map_err(failed(&path))?;
                    file.set_len(length).map_err(failed(&path))?;
                    tracing::info!(segment = %path.display(), bytes = rest, "half a log line was cut off");
                }
                end.segment = Some((segment.clone(), length));
            }
            break;
        }
        Ok(end)
    }

    fn append(
        &mut self,
        shared: &Shared,
        stream: &Arc<Stream>,
        origin: u64,
        line: Line<'_>,
    ) -> io::Result<()> {
        let now = shared.clock.now();
        let time = line.timestamp.clamp(now.checked_sub(BACKLOG).unwrap_or(UNIX_EPOCH), now);
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.clear();
        let mut last_time = self.last_time;
        let mut rest = line.message;
        loop {
            let (message, more) = rest.split_at(rest.len().min(MAX_MESSAGE));
            last_time = nanoseconds(time).max(last_time.saturating_add(1));
            // The last part has the number: once it is stored, everything is.
            let sequence = if more.is_empty() { line.sequence } else { 0 };
            Record { time: last_time, sequence, origin, source: line.source, message }.encode(&mut buffer);
            rest = more;
            if rest.is_empty() {
                break;
            }
        }
        let result = self.write(shared, stream, &buffer, nanoseconds(now));
        if result.is_ok() {
            self.last_time = last_time;
            self.origins.note(origin, line.sequence, last_time);
        }
        if buffer.capacity() <= MAX_MESSAGE {
            self.buffer = buffer;
        }
        result
    }

    /// Writes records, either all of them or nothing.
    fn write(&mut self, shared: &Shared, stream: &Arc<Stream>, records: &[u8], now: u64) -> io::Result<()> {
        let length = u64::try_from(records.len()).unwrap_or(u64::MAX);
        let span = u64::try_from(SEGMENT_SPAN.as_nanos()).unwrap_or(u64::MAX);
        let full = self.segment.as_ref().is_some_and(|(segment, end)| {
            end.saturating_add(length) > shared.config.segment_bytes
                || now.saturating_sub(segment.first) > span
        });
        if full {
            self.finish_segment(shared, stream);
        }
        if self.file.as_ref().is_some_and(|file| file.metadata().is_ok_and(|data| data.nlink() == 0)) {
            // The file was removed by another program. Further lines in it would be lost.
            (self.file, self.segment) = (None, None);
        }
        if self.file.is_none()
            && let Some((segment, _)) = &self.segment
        {
            match OpenOptions::new().append(true).open(segment.path(&stream.folder)) {
                Ok(file) => self.opened(shared, stream, file),
                Err(error) if error.kind() == io::ErrorKind::NotFound => self.segment = None,
                Err(error) => return Err(error),
            }
        }
        match (&mut self.file, &mut self.segment) {
            (Some(file), Some((_, end))) => {
                if let Err(error) = file.write_all(records) {
                    // If truncating fails, too, the end of the file is determined again before the next line.
                    self.known = file.set_len(*end).is_ok();
                    return Err(error);
                }
                *end += length;
                Ok(())
            }
            _ => self.begin_segment(shared, stream, records),
        }
    }

    /// Begins a segment with its first records.
    fn begin_segment(&mut self, shared: &Shared, stream: &Arc<Stream>, records: &[u8]) -> io::Result<()> {
        let super::record::Parsed::Record(first, _) = super::record::parse(records) else {
            return Err(io::Error::other("a line was encoded wrongly"));
        };
        let segment = Segment { first: first.time };
        let path = segment.path(&stream.folder);
        let create = || OpenOptions::new().append(true).create_new(true).mode(0o600).open(&path);
        let mut file = match create() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                stream.make_folders()?;
                create()?
            }
            other => other?,
        };
        let bytes = [segment::header(&self.origins).as_slice(), records].concat();
        if let Err(error) = file.write_all(&bytes) {
            let _ = std::fs::remove_file(&path); // without a line it is removed when the stream is opened
            return Err(error);
        }
        self.segment = Some((segment, u64::try_from(bytes.len()).unwrap_or(u64::MAX)));
        self.opened(shared, stream, file);
        Ok(())
    }

    /// Leaves a full segment, and removes the oldest ones while the stream is too large.
    fn finish_segment(&mut self, shared: &Shared, stream: &Stream) {
        (self.file, self.segment) = (None, None);
        shared.segment_full.notify_one();
        let sizes = segment::list(&stream.folder).unwrap_or_default().into_iter().map(|segment| {
            let path = segment.path(&stream.folder);
            let size = path.metadata().map_or(0, |data| data.len());
            (path, size)
        });
        let sizes: Vec<_> = sizes.collect();
        let mut total: u64 = sizes.iter().map(|(_, size)| size).sum();
        for (path, size) in sizes {
            if total <= shared.config.max_stream_bytes - shared.config.segment_bytes {
                break;
            }
            if let Err(error) = std::fs::remove_file(&path) {
                tracing::warn!(segment = %path.display(), %error, "a log segment cannot be removed");
            }
            total -= size;
        }
    }

    fn opened(&mut self, shared: &Shared, stream: &Arc<Stream>, file: File) {
        self.file = Some(file);
        shared.handles.opened(stream);
    }
}

/// Nanoseconds since 1970; 0 for earlier times, and the greatest number for times after the year 2554.
pub(super) fn nanoseconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))
}
