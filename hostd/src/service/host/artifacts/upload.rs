//! Writing an artifact.

use std::fs::File;
use std::io::{self, Write as _};
use std::path::Path;

use s3s::crypto::{Checksum as _, Md5};
use sha2::{Digest as _, Sha256};
use tempfile::TempPath;

use super::error::ArtifactError;
use super::key::{ArtifactName, Key, hex};
use super::object::{About, Object};
use super::{Artifacts, ServiceError, sync_folder};
use crate::disk::{Disk, footprint};
use crate::turns::AccountTurns;
use crate::usage::Share;

/// Bytes that are collected before they are written.
const CHUNK: usize = 256 << 10;

/// What an artifact is called.
#[derive(Debug)]
pub(crate) enum Naming {
    /// By its content, with a name for people.
    Content(ArtifactName),
    /// As the client wants.
    Key(Key),
}

/// A condition about the artifact that has the key already.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) enum Condition {
    #[default]
    None,
    /// There must be none.
    Absent,
    /// There must be one; with this entity tag, if given.
    Present(Option<String>),
}

/// Compares the bytes of an upload with what the client has announced.
pub(crate) trait Verify: Send {
    /// The next bytes.
    fn update(&mut self, data: &[u8]);

    /// The end.
    ///
    /// # Errors
    /// [`ArtifactError::Digest`]
    fn finish(self: Box<Self>) -> Result<(), ArtifactError>;
}

/// An upload in progress. If it is dropped before it is finished, it leaves nothing behind.
pub(crate) struct Upload {
    /// Absent while a thread writes into it, and after that has failed.
    file: Option<File>,
    /// Bytes that are not in the file yet.
    buffer: Vec<u8>,
    /// The client's turns at writing.
    turns: AccountTurns,
    temporary: TempPath,
    pub(super) md5: Md5,
    sha256: Option<Sha256>,
    bytes: u64,
    max_bytes: u64,
    verify: Option<Box<dyn Verify>>,
    disk: Disk,
    account: String,
    /// What the upload counts for: the bytes that were written.
    share: Share,
}

/// An artifact that was stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Stored {
    pub(crate) key: String,
    pub(crate) etag: String,
    pub(crate) bytes: u64,
}

impl Artifacts {
    /// Begins an upload of an account.
    ///
    /// # Errors
    /// [`ArtifactError::Disk`]; errors of the system.
    pub(crate) async fn begin(
        &self,
        account: &str,
        by_content: bool,
        verify: Option<Box<dyn Verify>>,
    ) -> Result<Upload, ServiceError> {
        let max_bytes = self.max_bytes();
        self.begin_up_to(account, by_content, verify, max_bytes).await
    }

    /// [`Self::begin`] with a limit of its own.
    pub(super) async fn begin_up_to(
        &self,
        account: &str,
        by_content: bool,
        verify: Option<Box<dyn Verify>>,
        max_bytes: u64,
    ) -> Result<Upload, ServiceError> {
        self.admit(account, 0)?;
        // Each file takes as much, however little comes.
        let share = self.usage().reserve(account, footprint(0));
        let share = share.map_err(|error| ArtifactError::Disk(error.into(), account.to_owned()))?;
        let (file, temporary) =
            self.blocking(account, |artifacts, account| artifacts.temporary(account)).await?;
        Ok(Upload {
            file: Some(file),
            buffer: Vec::new(),
            turns: self.shared.turns.of(account),
            temporary,
            md5: Md5::new(),
            sha256: by_content.then(Sha256::new),
            bytes: 0,
            max_bytes,
            verify,
            disk: self.shared.disk.clone(),
            account: account.to_owned(),
            share,
        })
    }

    /// A file that is being written.
    pub(super) fn temporary(&self, account: &str) -> Result<(File, TempPath), ArtifactError> {
        let file = tempfile::NamedTempFile::new_in(self.place(account)?.temporary)?;
        Ok(file.into_parts())
    }

    /// Makes an upload the artifact of this name, durably.
    ///
    /// # Errors
    /// [`ArtifactError::Digest`], [`ArtifactError::Condition`], [`ArtifactError::Metadata`],
    /// [`ArtifactError::KeyCharacter`]; [`ArtifactError::Empty`] if it is named by its content and has none; errors of
    /// the system.
    pub(crate) async fn finish(
        &self,
        account: &str,
        upload: Upload,
        naming: &Naming,
        about: About,
        condition: Condition,
    ) -> Result<Stored, ServiceError> {
        if let Naming::Key(key) = naming {
            key.check_new()?;
        }
        let Written { file, temporary, etag, sha256, bytes, share } = upload.written().await?;
        let key = match (naming, sha256) {
            (Naming::Key(key), _) => key.clone(),
            (Naming::Content(_), _) if bytes == 0 => return Err(ArtifactError::Empty.into()),
            (Naming::Content(name), sha256) => name.key(&sha256.unwrap_or_default()),
        };
        let stored = Stored { key: key.as_str().to_owned(), etag: etag.clone(), bytes };
        let about = About { key: stored.key.clone(), etag, ..about };
        let keep = move |artifacts: &Self, account: &str| {
            artifacts.keep(account, &key, (file, temporary, share), &about, &condition)
        };
        self.blocking(account, keep).await?;
        Ok(stored)
    }

    /// Makes a file, which counts for a share, the artifact with this key.
    pub(super) fn keep(
        &self,
        account: &str,
        key: &Key,
        (file, temporary, share): (File, TempPath, Share),
        about: &About,
        condition: &Condition,
    ) -> Result<(), ArtifactError> {
        let objects = self.place(account)?.objects;
        let path = key.path(&objects);
        complete(file, about)?;
        let _change = self.change();
        let there = Object::open(&path)?.map(|object| object.about.etag);
        let holds = match condition {
            Condition::None => true,
            Condition::Absent => there.is_none(),
            Condition::Present(None) => there.is_some(),
            Condition::Present(wanted) => there == *wanted,
        };
        if !holds {
            return Err(ArtifactError::Condition);
        }
        self.place_file(account, (temporary, share), &path, &objects)
    }

    /// Gives a complete file its name, durably, and counts it instead of the one that had the name. The caller has
    /// [`Self::change`].
    pub(super) fn place_file(
        &self,
        account: &str,
        (temporary, mut share): (TempPath, Share),
        path: &Path,
        folder: &Path,
    ) -> Result<(), ArtifactError> {
        let replaced = path.symlink_metadata().map_or(0, |data| footprint(data.len()));
        share.set(footprint(temporary.metadata()?.len()));
        temporary.persist(path).map_err(|error| error.error)?;
        share.keep();
        self.usage().give_back(account, replaced);
        Ok(sync_folder(folder)?)
    }
}

/// What was written, before it has a name.
pub(super) struct Written {
    pub(super) file: File,
    pub(super) temporary: TempPath,
    /// MD5 in hexadecimal.
    pub(super) etag: String,
    pub(super) sha256: Option<Vec<u8>>,
    pub(super) bytes: u64,
    pub(super) share: Share,
}

impl Upload {
    /// Appends bytes.
    ///
    /// # Errors
    /// [`ArtifactError::TooLarge`], [`ArtifactError::Disk`]; errors of the system.
    pub(crate) async fn write(&mut self, data: &[u8]) -> Result<(), ServiceError> {
        let length = u64::try_from(data.len()).unwrap_or(u64::MAX);
        self.bytes = self.bytes.saturating_add(length);
        if self.bytes > self.max_bytes {
            return Err(ArtifactError::TooLarge(self.max_bytes).into());
        }
        let room = self.disk.may_go_on(&self.account, length).and_then(|()| Ok(self.share.grow(length)?));
        room.map_err(|error| ArtifactError::Disk(error, self.account.clone()))?;
        self.md5.update(data);
        if let Some(sha256) = &mut self.sha256 {
            sha256.update(data);
        }
        if let Some(verify) = &mut self.verify {
            verify.update(data);
        }
        self.buffer.extend_from_slice(data);
        if self.buffer.len() >= CHUNK { self.flush().await } else { Ok(()) }
    }

    /// Writes the buffer into the file.
    async fn flush(&mut self) -> Result<(), ServiceError> {
        let unwritten = || ArtifactError::from(io::Error::other("an earlier write has failed"));
        let mut file = self.file.take().ok_or_else(unwritten)?;
        let buffer = std::mem::take(&mut self.buffer);
        let write = move || file.write_all(&buffer).map(|()| file);
        let file = self.turns.run(write).await?.map_err(ArtifactError::from)?;
        self.file = Some(file);
        Ok(())
    }

    /// Ends it, and compares it with what was announced.
    pub(super) async fn written(mut self) -> Result<Written, ServiceError> {
        if let Some(verify) = self.verify.take() {
            verify.finish()?;
        }
        self.flush().await?;
        let unwritten = || ArtifactError::from(io::Error::other("a write has failed"));
        Ok(Written {
            file: self.file.ok_or_else(unwritten)?,
            temporary: self.temporary,
            etag: hex(&self.md5.finalize()),
            sha256: self.sha256.map(|sha256| sha256.finalize().to_vec()),
            bytes: self.bytes,
            share: self.share,
        })
    }
}

/// Appends what is known of an artifact to its bytes, and makes both durable.
pub(super) fn complete(mut file: File, about: &About) -> Result<(), ArtifactError> {
    file.write_all(&about.encode()?)?;
    Ok(file.sync_all()?)
}
