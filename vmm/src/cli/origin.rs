//! The file `origin` beside a control socket: what its machine was made of, by path.
//!
//! A monitor knows no paths. So `boot` and `restore` note, for a later `suspend`, which snapshot a diff builds on and
//! which files the overlays are:
//!
//! ```json
//! {"base": "/srv/image", "overlays": [{"disk": 0, "path": "/srv/root.overlay", "device": 2049, "inode": 77}]}
//! ```
//!
//! Without it a suspend needs `--base`, merges every overlay instead of taking over the file, and leaves it where
//! it is. Paths that are not UTF-8 are not noted.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use hearth_vmm::client::snapshot::Overlay;
use serde_json::{Value, json};

const NAME: &str = "origin";

/// What a machine was made of.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Origin {
    /// The full snapshot that a diff of it builds on.
    pub(super) base: Option<PathBuf>,
    /// The files of its overlays.
    pub(super) overlays: Vec<Overlay>,
}

/// The file, removed in the end.
#[derive(Debug)]
pub(super) struct OriginFile(PathBuf);

impl Drop for OriginFile {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0); // somebody else may have removed it
    }
}

impl Origin {
    /// Writes it into a run directory.
    pub(super) fn write(&self, run_dir: &Path) -> anyhow::Result<OriginFile> {
        let path = run_dir.join(NAME);
        let file = File::options().write(true).create(true).truncate(true).mode(0o600).open(&path);
        let mut file = file.with_context(|| format!("making {}", path.display()))?;
        let note = OriginFile(path);
        writeln!(file, "{}", self.to_json()).with_context(|| format!("writing {}", note.0.display()))?;
        Ok(note)
    }

    /// What is noted beside a control socket; nothing where there is no note.
    pub(super) fn beside(socket: &Path) -> anyhow::Result<Self> {
        let path = socket.with_file_name(NAME);
        match fs::read_to_string(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self::default()),
            text => {
                text.map_err(anyhow::Error::from).and_then(|text| Self::from_json(&text)).with_context(|| {
                    format!("reading {}: remove it, and name the base with --base", path.display())
                })
            }
        }
    }

    fn to_json(&self) -> Value {
        let overlays: Vec<Value> = self
            .overlays
            .iter()
            .filter_map(|overlay| {
                let (device, inode) = overlay.identity;
                let path = overlay.path.to_str()?;
                Some(json!({ "disk": overlay.disk, "path": path, "device": device, "inode": inode }))
            })
            .collect();
        json!({ "base": self.base.as_deref().and_then(Path::to_str), "overlays": overlays })
    }

    fn from_json(text: &str) -> anyhow::Result<Self> {
        let value: Value = serde_json::from_str(text)?;
        let overlay = |value: &Value| {
            let number = |name: &str| value.get(name).and_then(Value::as_u64);
            Some(Overlay {
                disk: usize::try_from(number("disk")?).ok()?,
                path: value.get("path")?.as_str()?.into(),
                identity: (number("device")?, number("inode")?),
            })
        };
        let overlays = value.get("overlays").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
        Ok(Self {
            base: value.get("base").and_then(Value::as_str).map(PathBuf::from),
            overlays: overlays
                .iter()
                .map(overlay)
                .collect::<Option<_>>()
                .context("an overlay lacks a part")?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_noted_is_found_beside_the_socket_until_the_machine_ends() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("control.sock");
        assert_eq!(Origin::beside(&socket).unwrap(), Origin::default());
        let overlay = Overlay { disk: 2, path: "/a b\n".into(), identity: (u64::MAX, 7) };
        let origin = Origin { base: Some("/image".into()), overlays: vec![overlay] };
        let note = origin.write(folder.path()).unwrap();
        assert_eq!(Origin::beside(&socket).unwrap(), origin);
        drop(note);
        assert_eq!(Origin::beside(&socket).unwrap(), Origin::default());
    }

    #[test]
    fn a_note_that_makes_no_sense_says_what_to_do() {
        let folder = tempfile::tempdir().unwrap();
        for text in ["{", "[1", r#"{"overlays": [{"disk": 0}]}"#] {
            fs::write(folder.path().join(NAME), text).unwrap();
            let error = Origin::beside(&folder.path().join("control.sock")).unwrap_err();
            assert!(format!("{error:#}").contains("--base"), "{error:#}");
        }
    }
}
