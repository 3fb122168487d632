//! Keys of an account in order, page by page.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use super::error::ArtifactError;
use super::key::Key;
use super::object::Object;
use super::{Artifacts, ServiceError};

/// Bytes that an artifact takes in an answer beside its key, which stands there twice: the name of the bucket, which has
/// 63 at most, an ETag, a time, a size.
const ENTRY_BYTES: usize = 256;

/// Which keys are listed.
#[derive(Debug, Clone)]
pub(crate) struct Listing {
    /// Only keys that begin with this.
    pub(crate) prefix: String,
    /// Keys that have this after the prefix are combined into a common prefix.
    pub(crate) delimiter: Option<String>,
    /// Only keys and common prefixes after this one.
    pub(crate) after: Option<String>,
    /// Most keys and common prefixes together.
    pub(crate) limit: usize,
    /// Most bytes that they take in an answer; a single one may take more.
    pub(crate) bytes: usize,
}

/// A page of a list.
#[derive(Debug, Default)]
pub(crate) struct Listed {
    pub(crate) objects: Vec<Object>,
    pub(crate) prefixes: Vec<String>,
    /// The last key or common prefix, if more follow.
    pub(crate) next: Option<String>,
}

impl Artifacts {
    /// The artifacts of an account by key.
    ///
    /// # Errors
    /// Errors of the system.
    pub(crate) async fn list(&self, account: &str, listing: Listing) -> Result<Listed, ServiceError> {
        self.blocking(account, move |artifacts, account| artifacts.page(account, &listing)).await
    }

    fn page(&self, account: &str, listing: &Listing) -> Result<Listed, ArtifactError> {
        let mut found = BTreeSet::new();
        for (key, path) in self.files(account)? {
            let Some(rest) = key.strip_prefix(&listing.prefix) else { continue };
            let cut = listing.delimiter.as_deref().filter(|delimiter| !delimiter.is_empty());
            let cut =
                cut.and_then(|delimiter| rest.split_once(delimiter).map(|(first, _)| (first, delimiter)));
            let (name, path) = match cut {
                Some((first, delimiter)) => (format!("{}{first}{delimiter}", listing.prefix), None),
                None => (key, Some(path)),
            };
            if listing.after.as_ref().is_none_or(|after| name > *after) {
                found.insert((name, path));
                if found.len() > listing.limit.saturating_add(1) {
                    found.pop_last();
                }
            }
        }
        let mut more = found.len() > listing.limit;
        let (mut listed, mut bytes) = (Listed::default(), listing.bytes);
        for (name, path) in found.into_iter().take(listing.limit) {
            let size = name.len().saturating_mul(2).saturating_add(ENTRY_BYTES);
            if size > bytes && listed.next.is_some() {
                more = true;
                break;
            }
            bytes = bytes.saturating_sub(size);
            listed.next = Some(name.clone());
            match path {
                None => listed.prefixes.push(name),
                // It may have been removed meanwhile.
                Some(path) => listed.objects.extend(Object::open(&path)?),
            }
        }
        listed.next = listed.next.filter(|_| more);
        Ok(listed)
    }

    /// The files of an account's artifacts with their keys, in no particular order. Files that are damaged are left out.
    pub(super) fn files(&self, account: &str) -> Result<Vec<(String, PathBuf)>, ArtifactError> {
        let mut files = Vec::new();
        for entry in fs::read_dir(self.place(account)?.objects)? {
            let path = entry?.path();
            let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
            let key = match Key::of_file_name(name) {
                Some(key) => key.as_str().to_owned(),
                None => match Object::open(&path) {
                    Ok(Some(object)) => object.about.key,
                    _ => continue,
                },
            };
            files.push((key, path));
        }
        Ok(files)
    }
}
