//! Uploads in parts.
//!
//! A part is durable before it is answered, so that an upload outlives the daemon. It ends when it is completed or aborted,
//! and after a day ([`super::collect`]).

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};

use s3s::crypto::{Checksum as _, Md5};
use uuid::Uuid;

use super::error::ArtifactError;
use super::key::{Key, hex};
use super::object::{About, Object};
use super::upload::{Condition, Stored, Upload, Verify, Written, complete};
use super::{Artifacts, Place, ServiceError, make_folder, sync_folder};
use crate::disk::footprint;

/// Greatest number of a part.
const PART_MAX: u32 = 10_000;
/// Most unfinished uploads of an account.
const UPLOADS_MAX: usize = 100;
/// File with what will be known of the artifact.
const ABOUT: &str = "about";
/// Bytes that are copied at a time.
const CHUNK: usize = 256 << 10;

/// The id of an upload in parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct UploadId(Uuid);

impl UploadId {
    /// Parses an id.
    ///
    /// # Errors
    /// [`ArtifactError::NoUpload`]
    pub(crate) fn new(text: &str) -> Result<Self, ArtifactError> {
        Uuid::try_parse(text).map(Self).map_err(|_| ArtifactError::NoUpload)
    }

    fn folder(self, place: &Place) -> PathBuf {
        place.uploads.join(self.0.simple().to_string())
    }
}

impl std::fmt::Display for UploadId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.simple().fmt(f)
    }
}

/// A part, as the client that completes an upload names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PartName {
    pub(crate) number: u32,
    /// The part's entity tag, without quotes.
    pub(crate) etag: String,
}

impl Artifacts {
    /// Begins an upload in parts.
    ///
    /// # Errors
    /// [`ArtifactError::TooManyUploads`], [`ArtifactError::Metadata`], [`ArtifactError::KeyCharacter`]; errors of the system.
    pub(crate) async fn begin_parts(
        &self,
        account: &str,
        key: &Key,
        about: About,
    ) -> Result<UploadId, ServiceError> {
        key.check_new()?;
        let about = About { key: key.as_str().to_owned(), ..about };
        self.admit(account, footprint(0))?;
        self.blocking(account, move |artifacts, account| {
            let place = artifacts.place(account)?;
            about.check()?;
            let _change = artifacts.change();
            if fs::read_dir(&place.uploads)?.count() >= UPLOADS_MAX {
                return Err(ArtifactError::TooManyUploads(UPLOADS_MAX));
            }
            let id = UploadId(Uuid::new_v4());
            let folder = id.folder(&place);
            make_folder(&folder)?;
            let file = folder.join(ABOUT);
            complete(File::create_new(&file)?, &about)?;
            artifacts.usage().take(account, footprint(file.metadata()?.len())).keep();
            sync_folder(&folder)?;
            sync_folder(&place.uploads)?;
            Ok(id)
        })
        .await
    }

    /// Begins a part, which may have as many bytes as the artifact may have beside the other parts.
    ///
    /// # Errors
    /// [`ArtifactError::NoUpload`], [`ArtifactError::PartNumber`]; errors of the system.
    pub(crate) async fn begin_part(
        &self,
        account: &str,
        (key, id): (&Key, UploadId),
        number: u32,
        verify: Option<Box<dyn Verify>>,
    ) -> Result<Upload, ServiceError> {
        if !(1..=PART_MAX).contains(&number) {
            return Err(ArtifactError::PartNumber.into());
        }
        let key = key.clone();
        let left = self.blocking(account, move |artifacts, account| {
            let folder = artifacts.upload(account, &key, id)?.0;
            let mut left = artifacts.max_bytes();
            for entry in fs::read_dir(&folder)? {
                let path = entry?.path();
                if path != part(&folder, number) {
                    left = left.saturating_sub(Object::open(&path)?.map_or(0, |other| other.bytes));
                }
            }
            Ok(left)
        });
        let left = left.await?;
        self.begin_up_to(account, false, verify, left).await
    }

    /// Makes a part durable. Returns its entity tag.
    ///
    /// # Errors
    /// [`ArtifactError::NoUpload`], [`ArtifactError::Digest`]; errors of the system.
    pub(crate) async fn finish_part(
        &self,
        account: &str,
        (key, id): (&Key, UploadId),
        number: u32,
        upload: Upload,
    ) -> Result<Stored, ServiceError> {
        let Written { file, temporary, etag, bytes, share, .. } = upload.written().await?;
        let stored = Stored { key: key.as_str().to_owned(), etag: etag.clone(), bytes };
        let key = key.clone();
        self.blocking(account, move |artifacts, account| {
            complete(file, &About { key: key.as_str().to_owned(), etag, ..About::default() })?;
            let _change = artifacts.change();
            let folder = artifacts.upload(account, &key, id)?.0;
            artifacts.place_file(account, (temporary, share), &part(&folder, number), &folder)
        })
        .await?;
        Ok(stored)
    }

    /// Makes the parts an artifact, durably, and ends the upload.
    ///
    /// # Errors
    /// [`ArtifactError::NoUpload`], [`ArtifactError::NoPart`], [`ArtifactError::PartOrder`], [`ArtifactError::TooLarge`],
    /// [`ArtifactError::Digest`], [`ArtifactError::Condition`]; errors of the system.
    pub(crate) async fn complete_parts(
        &self,
        account: &str,
        (key, id): (&Key, UploadId),
        parts: Vec<PartName>,
        verify: Option<Box<dyn Verify>>,
        condition: Condition,
    ) -> Result<Stored, ServiceError> {
        let key = key.clone();
        let join = move |artifacts: &Self, account: &str| {
            artifacts.join(account, &key, id, &parts, verify, &condition)
        };
        self.blocking(account, join).await
    }

    fn join(
        &self,
        account: &str,
        key: &Key,
        id: UploadId,
        parts: &[PartName],
        verify: Option<Box<dyn Verify>>,
        condition: &Condition,
    ) -> Result<Stored, ArtifactError> {
        let (folder, about) = self.upload(account, key, id)?;
        if !parts.is_sorted_by(|one, next| one.number < next.number) {
            return Err(ArtifactError::PartOrder);
        }
        if parts.is_empty() {
            return Err(ArtifactError::NoPart(1));
        }
        let (mut file, temporary) = self.temporary(account)?;
        let (mut md5, mut bytes, mut verify) = (Md5::new(), 0_u64, verify);
        // It has what its parts have, which go at the end: the account may have both for that long.
        let mut share = self.usage().nothing(account);
        for name in parts {
            let found =
                Object::open(&part(&folder, name.number))?.filter(|found| found.about.etag == name.etag);
            let found = found.ok_or(ArtifactError::NoPart(name.number))?;
            bytes = bytes.saturating_add(found.bytes);
            if bytes > self.max_bytes() {
                return Err(ArtifactError::TooLarge(self.max_bytes()));
            }
            let room = self.shared.disk.may_go_on(account, found.bytes);
            room.map_err(|error| ArtifactError::Disk(error, account.to_owned()))?;
            share.set(bytes);
            md5.update(&unhex(&found.about.etag));
            copy(found, &mut file, verify.as_deref_mut())?;
        }
        if let Some(verify) = verify {
            verify.finish()?;
        }
        let etag = format!("{}-{}", hex(&md5.finalize()), parts.len());
        let stored = Stored { key: key.as_str().to_owned(), etag: etag.clone(), bytes };
        self.keep(account, key, (file, temporary, share), &About { etag, ..about }, condition)?;
        let _change = self.change();
        self.remove_upload(account, &folder)?;
        Ok(stored)
    }

    /// Ends an upload without an artifact.
    ///
    /// # Errors
    /// [`ArtifactError::NoUpload`]; errors of the system.
    pub(crate) async fn abort_parts(
        &self,
        account: &str,
        (key, id): (&Key, UploadId),
    ) -> Result<(), ServiceError> {
        let key = key.clone();
        self.blocking(account, move |artifacts, account| {
            let _change = artifacts.change();
            let folder = artifacts.upload(account, &key, id)?.0;
            Ok(artifacts.remove_upload(account, &folder)?)
        })
        .await
    }

    /// The folder of an upload of this key, and what will be known of the artifact.
    fn upload(&self, account: &str, key: &Key, id: UploadId) -> Result<(PathBuf, About), ArtifactError> {
        let folder = id.folder(&self.place(account)?);
        let about = Object::open(&folder.join(ABOUT))?.map(|object| object.about);
        let about = about.filter(|about| about.key == key.as_str()).ok_or(ArtifactError::NoUpload)?;
        Ok((folder, about))
    }
}

fn part(folder: &Path, number: u32) -> PathBuf {
    folder.join(format!("part-{number:05}"))
}

/// Appends the bytes of a part to a file.
fn copy(part: Object, to: &mut File, verify: Option<&mut (dyn Verify + 'static)>) -> io::Result<()> {
    let Some(verify) = verify else {
        // The kernel copies, and file systems that can share the bytes.
        return io::copy(&mut part.file.take(part.bytes), to).map(|_| ());
    };
    let mut from = part.file.take(part.bytes);
    let mut buffer = vec![0; CHUNK];
    loop {
        let length = from.read(&mut buffer)?;
        let Some(data) = buffer.get(..length).filter(|data| !data.is_empty()) else { return Ok(()) };
        verify.update(data);
        to.write_all(data)?;
    }
}

/// The bytes of a text in hexadecimal.
fn unhex(text: &str) -> Vec<u8> {
    let digit =
        |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok()).unwrap_or(0);
    let pairs = text.as_bytes().chunks_exact(2);
    pairs.map(|pair| pair.iter().fold(0, |value: u8, &byte| value.wrapping_shl(4) | digit(byte))).collect()
}
