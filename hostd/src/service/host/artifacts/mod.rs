//! The local bucket: artifacts that clients upload, apart for each account.
//!
//! ```text
//! BUCKET/ACCOUNT/objects/NAME            an artifact; NAME is made of its key (key.rs), what is known of it is at its end
//! BUCKET/ACCOUNT/uploads/ID/             an upload in parts: `about`, and each part like an artifact
//! BUCKET/ACCOUNT/temporary/              what is being written; removed at the next start
//! ```
//!
//! A URI names bucket and key, `s3://BUCKET/KEY`, and means the artifact of the account that uses it. An artifact is
//! fsynced and renamed into place before its upload is answered: it is there as a whole or not at all.
//!
//! * [`key`] – keys, and names that become keys; [`object`] – an artifact as a file; [`upload`] – writing one;
//!   [`multipart`] – uploads in parts; [`list`] – keys in order
//! * [`collect`] – removal of what nothing refers to, and of unfinished uploads
//! * [`error`] – errors

pub(crate) mod collect;
pub mod error;
pub(crate) mod key;
pub(crate) mod list;
pub(crate) mod multipart;
pub(crate) mod object;
#[cfg(test)]
mod tests;
pub(crate) mod upload;

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use hearth_image_builder::artifact::LocalBucket;
use hearth_model::account::is_account;

use self::error::ArtifactError;
use self::key::Key;
use self::object::{Download, Object};
use super::super::error::ServiceError;
use crate::disk::{Disk, footprint};
use crate::panics::poisoned;
use crate::turns::{Limits, Turns};
use crate::usage::Usage;

/// The local bucket. Clones are cheap and share it.
#[derive(Debug, Clone)]
pub struct Artifacts {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    bucket: String,
    folder: PathBuf,
    max_bytes: u64,
    /// Turns at reading and writing files for clients.
    turns: Turns,
    /// Room for uploads, and the counts of what accounts have here: the [`footprint`] of all files but those that are being
    /// written, which their uploads count.
    disk: Disk,
    /// Held while an artifact is replaced or removed, so that conditions about what is there hold until then.
    change: Mutex<()>,
}

/// The folders of an account.
#[derive(Debug, Clone)]
struct Place {
    objects: PathBuf,
    uploads: PathBuf,
    temporary: PathBuf,
}

impl Artifacts {
    /// Opens the bucket `bucket` in `folder`, whose artifacts may have at most `max_bytes`. What an earlier daemon has not
    /// finished writing is removed, and what there is is counted for its accounts.
    ///
    /// # Errors
    /// The system's error.
    pub fn open(bucket: &str, folder: &Path, max_bytes: u64, disk: Disk) -> io::Result<Self> {
        make_folder(folder)?;
        let shared = Shared {
            bucket: bucket.to_owned(),
            folder: folder.to_owned(),
            max_bytes,
            turns: Turns::new(Limits::FILES),
            disk,
            change: Mutex::default(),
        };
        let artifacts = Self { shared: Arc::new(shared) };
        for account in artifacts.accounts()? {
            let temporary = artifacts.place(&account)?.temporary;
            match fs::remove_dir_all(&temporary) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => make_folder(&temporary)?,
            }
            artifacts.usage().take(&account, artifacts.scan(&account)?).keep();
        }
        Ok(artifacts)
    }

    /// Name of the bucket.
    pub(crate) fn bucket(&self) -> &str {
        &self.shared.bucket
    }

    /// Greatest size of an artifact, in bytes.
    pub(crate) fn max_bytes(&self) -> u64 {
        self.shared.max_bytes
    }

    /// Checks that an account may upload so many bytes, and that there is room for them.
    ///
    /// # Errors
    /// [`ArtifactError::Disk`]
    pub(crate) fn admit(&self, account: &str, bytes: u64) -> Result<(), ServiceError> {
        Ok(self
            .shared
            .disk
            .admit(account, bytes)
            .map_err(|error| ArtifactError::Disk(error, account.to_owned()))?)
    }

    fn usage(&self) -> &Usage {
        self.shared.disk.usage()
    }

    /// Bytes of all that an account has here, but for what is being written.
    fn scan(&self, account: &str) -> io::Result<u64> {
        let place = self.place(account)?;
        let mut bytes = files_footprint(&place.objects)?;
        for upload in fs::read_dir(&place.uploads)? {
            bytes = bytes.saturating_add(files_footprint(&upload?.path())?);
        }
        Ok(bytes)
    }

    /// Removes a file of an account, whose bytes no longer count; returns whether it was there. The caller has
    /// [`Self::change`].
    fn remove_file(&self, account: &str, path: &Path) -> io::Result<bool> {
        let bytes = match path.symlink_metadata() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            data => footprint(data?.len()),
        };
        fs::remove_file(path)?;
        self.usage().give_back(account, bytes);
        Ok(true)
    }

    /// Removes the folder of an upload in parts, whose bytes no longer count. The caller has [`Self::change`].
    fn remove_upload(&self, account: &str, folder: &Path) -> io::Result<()> {
        for entry in fs::read_dir(folder)? {
            self.remove_file(account, &entry?.path())?;
        }
        fs::remove_dir(folder)
    }

    /// URI of the artifact with this key.
    pub(crate) fn uri(&self, key: &str) -> String {
        format!("s3://{}/{key}", self.shared.bucket)
    }

    /// Opens an artifact of an account.
    ///
    /// # Errors
    /// [`ArtifactError::NoKey`]; errors of the system.
    pub(crate) async fn get(&self, account: &str, key: &Key) -> Result<Download, ServiceError> {
        let key = key.clone();
        let object = self.blocking(account, move |artifacts, account| artifacts.find(account, &key)).await?;
        Ok(Download::new(object, self.shared.turns.of(account)))
    }

    /// Removes an artifact of an account; one that does not exist counts as removed.
    ///
    /// # Errors
    /// Errors of the system.
    pub(crate) async fn remove(&self, account: &str, key: &Key) -> Result<(), ServiceError> {
        let key = key.clone();
        self.blocking(account, move |artifacts, account| {
            let place = artifacts.place(account)?;
            let _change = artifacts.change();
            if artifacts.remove_file(account, &key.path(&place.objects))? {
                sync_folder(&place.objects)?;
            }
            Ok(())
        })
        .await
    }

    fn find(&self, account: &str, key: &Key) -> Result<Object, ArtifactError> {
        let object = Object::open(&key.path(&self.place(account)?.objects))?;
        // A name that was cut can be that of another key, in theory.
        let object = object.filter(|object| object.about.key == key.as_str());
        object.ok_or_else(|| ArtifactError::NoKey(key.as_str().to_owned()))
    }

    fn change(&self) -> MutexGuard<'_, ()> {
        self.shared.change.lock().unwrap_or_else(poisoned)
    }

    /// Runs work on files of an account on a thread where it may block, when it is the account's turn.
    async fn blocking<T: Send + 'static>(
        &self,
        account: &str,
        work: impl FnOnce(&Self, &str) -> Result<T, ArtifactError> + Send + 'static,
    ) -> Result<T, ServiceError> {
        let (artifacts, owner) = (self.clone(), account.to_owned());
        Ok(self.shared.turns.run(account, move || work(&artifacts, &owner)).await??)
    }

    /// The accounts that have folders.
    fn accounts(&self) -> io::Result<Vec<String>> {
        let mut accounts = Vec::new();
        for entry in fs::read_dir(&self.shared.folder)? {
            let name = entry?.file_name();
            accounts.extend(name.to_str().filter(|name| is_account(name)).map(str::to_owned));
        }
        Ok(accounts)
    }

    /// The folders of an account, which are made if they do not exist.
    fn place(&self, account: &str) -> io::Result<Place> {
        if !is_account(account) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "this is no account"));
        }
        let folder = self.shared.folder.join(account);
        let place = Place {
            objects: folder.join("objects"),
            uploads: folder.join("uploads"),
            temporary: folder.join("temporary"),
        };
        if !place.temporary.is_dir() {
            for made in [&place.objects, &place.uploads, &place.temporary] {
                make_folder(made)?;
            }
            sync_folder(&folder)?;
            sync_folder(&self.shared.folder)?;
        }
        Ok(place)
    }
}

impl LocalBucket for Artifacts {
    fn name(&self) -> &str {
        &self.shared.bucket
    }

    fn open(&self, account: &str, key: &str) -> io::Result<Option<(File, u64)>> {
        let Ok(key) = Key::new(key) else { return Ok(None) };
        match self.find(account, &key) {
            Ok(object) => Ok(Some((object.file, object.bytes))),
            Err(ArtifactError::NoKey(_)) => Ok(None),
            Err(error) => Err(io::Error::other(error)),
        }
    }
}

/// What the files in a folder take, together.
fn files_footprint(folder: &Path) -> io::Result<u64> {
    let mut bytes = 0_u64;
    for entry in fs::read_dir(folder)? {
        bytes = bytes.saturating_add(footprint(entry?.metadata()?.len()));
    }
    Ok(bytes)
}

/// Makes a folder with its parents, accessible by the daemon's user only.
fn make_folder(folder: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

/// Makes the names in a folder durable.
fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}
