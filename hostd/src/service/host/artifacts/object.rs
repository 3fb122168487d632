//! An artifact as a file: its bytes, and at the end what is known of it.
//!
//! ```text
//!       the bytes
//!       what is known of it: JSON
//!  u32  length of the JSON           ⎫
//!  u32  CRC-32 of the JSON           ⎬ the last 20 bytes
//!  u32  version: 1                   ⎪
//!       "hearthob"                   ⎭
//! ```
//!
//! Numbers are little-endian.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::ops::Deref;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use futures_util::{Stream, TryStreamExt as _};
use rustix::fs::OFlags;
use serde::{Deserialize, Serialize};

use super::error::ArtifactError;
use crate::turns::AccountTurns;

const MAGIC: &[u8; 8] = b"hearthob";
const VERSION: u32 = 1;
/// Bytes after the JSON.
const FOOTER: usize = 20;
/// Greatest length of the JSON, in bytes.
const ABOUT_MAX: usize = 64 << 10;
/// Bytes that are read at a time.
const CHUNK: u64 = 256 << 10;

/// What is known of an artifact beside its bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct About {
    pub(crate) key: String,
    /// S3's entity tag, without quotes.
    pub(crate) etag: String,
    /// Headers with which the artifact is answered, like `content-type`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) headers: BTreeMap<String, String>,
    /// The client's own metadata.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) metadata: BTreeMap<String, String>,
}

/// An artifact that is open.
#[derive(Debug)]
pub(crate) struct Object {
    pub(crate) about: About,
    /// Size in bytes.
    pub(crate) bytes: u64,
    /// When it was stored.
    pub(crate) modified: SystemTime,
    pub(super) file: File,
}

impl About {
    /// What follows the bytes in the file.
    ///
    /// # Errors
    /// [`ArtifactError::Metadata`]
    pub(super) fn encode(&self) -> Result<Vec<u8>, ArtifactError> {
        let mut bytes = serde_json::to_vec(self).map_err(io::Error::from)?;
        let length = u32::try_from(bytes.len()).ok().filter(|_| bytes.len() <= ABOUT_MAX);
        let length = length.ok_or(ArtifactError::Metadata(ABOUT_MAX))?;
        let crc = crc32fast::hash(&bytes);
        for number in [length, crc, VERSION] {
            bytes.extend(number.to_le_bytes());
        }
        bytes.extend(MAGIC);
        Ok(bytes)
    }

    /// Checks that it is not too large.
    ///
    /// # Errors
    /// [`ArtifactError::Metadata`]
    pub(crate) fn check(&self) -> Result<(), ArtifactError> {
        self.encode().map(|_| ())
    }
}

impl Object {
    /// Opens a file; none if there is none.
    pub(super) fn open(path: &Path) -> io::Result<Option<Self>> {
        let flags = OFlags::NOFOLLOW.bits().cast_signed();
        let file = match OpenOptions::new().read(true).custom_flags(flags).open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            opened => opened?,
        };
        let data = file.metadata()?;
        let damaged = |why: &str| io::Error::other(format!("{} is no artifact: {why}", path.display()));
        let too_short = || damaged("it is too short");
        let end = data.len().checked_sub(u64::try_from(FOOTER).unwrap_or(u64::MAX)).ok_or_else(too_short)?;
        let mut footer = [0; FOOTER];
        file.read_exact_at(&mut footer, end)?;
        let number = |at: usize| {
            let bytes = footer.get(at..).and_then(|rest| rest.first_chunk()).copied();
            bytes.map_or(0, u32::from_le_bytes)
        };
        if !footer.ends_with(MAGIC) {
            return Err(damaged("it does not end like one"));
        }
        if number(8) != VERSION {
            return Err(damaged(&format!("it has version {}, and this daemon reads {VERSION}", number(8))));
        }
        let length = usize::try_from(number(0)).unwrap_or(usize::MAX);
        let bytes = end.checked_sub(u64::from(number(0))).filter(|_| length <= ABOUT_MAX);
        let bytes = bytes.ok_or_else(|| damaged("its end is damaged"))?;
        let mut about = vec![0; length];
        file.read_exact_at(&mut about, bytes)?;
        if crc32fast::hash(&about) != number(4) {
            return Err(damaged("its end is damaged"));
        }
        let about = serde_json::from_slice(&about).map_err(|error| damaged(&error.to_string()))?;
        Ok(Some(Self { about, bytes, modified: data.modified()?, file }))
    }
}

/// An artifact that a client reads.
#[derive(Debug)]
pub(crate) struct Download {
    object: Object,
    /// The client's turns at reading.
    turns: AccountTurns,
}

impl Download {
    pub(super) fn new(object: Object, turns: AccountTurns) -> Self {
        Self { object, turns }
    }

    /// The bytes from `offset` on, `length` of them, as far as they are there.
    pub(crate) fn read(
        self,
        offset: u64,
        length: u64,
    ) -> impl Stream<Item = io::Result<Bytes>> + Send + 'static {
        let Self { object, turns } = self;
        let end = offset.saturating_add(length).min(object.bytes);
        let file = Arc::new(object.file);
        let read = move |at: u64| {
            let (file, turns) = (Arc::clone(&file), turns.clone());
            async move {
                let wanted = end.saturating_sub(at).min(CHUNK);
                if wanted == 0 {
                    return Ok(None);
                }
                let mut chunk = vec![0; usize::try_from(wanted).unwrap_or_default()];
                let read = turns.run(move || {
                    file.read_exact_at(&mut chunk, at)?;
                    io::Result::Ok(chunk)
                });
                let chunk =
                    read.await.map_err(|busy| io::Error::new(io::ErrorKind::ResourceBusy, busy))??;
                Ok(Some((Bytes::from(chunk), at.saturating_add(wanted))))
            }
        };
        futures_util::stream::try_unfold(offset, read).into_stream()
    }
}

impl Deref for Download {
    type Target = Object;

    fn deref(&self) -> &Object {
        &self.object
    }
}
