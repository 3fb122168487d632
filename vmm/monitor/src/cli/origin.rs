//! The file `origin` beside a control socket. It records the paths of what the machine was built from.
//!
//! A monitor knows no paths. So `boot` and `restore` record, for a later `suspend`, the snapshot on which a diff builds
//! and the files of the overlays:
//!
//! ```json
//! {"base": "/srv/image", "overlays": [{"disk": 0, "path": "/srv/root.overlay", "device": 2049, "inode": 77}]}
//! ```
//!
//! Without this file a suspend needs `--base`. It then merges every overlay instead of taking over its file, and leaves
//! the file where it is. Paths that are not UTF-8 are not recorded.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use hearth_vmm_client::snapshot::Overlay;
use serde_json::{Value, json};

const NAME: &str = "origin";

/// The paths of what a machine was built from.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Origin {
    /// The full snapshot on which a diff of the machine builds.
    pub(super) base: Option<PathBuf>,
    /// The files of the machine's overlays.
    pub(super) overlays: Vec<Overlay>,
}

/// The file `origin`. It is removed on drop.
#[derive(Debug)]
pub(super) struct OriginFile(PathBuf);

impl Drop for OriginFile {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0); // the file may have been removed already
    }
}

impl Origin {
    /// Writes the file into a run directory.
    pub(super) fn write(&self, run_dir: &Path) -> anyhow::Result<OriginFile> {
        let path = run_dir.join(NAME);
        let file = File::options().write(true).create(true).truncate(true).mode(0o600).open(&path);
        let mut file = file.with_context(|| format!("making {}", path.display()))?;
        let note = OriginFile(path);
        writeln!(file, "{}", self.to_json()).with_context(|| format!("writing {}", note.0.display()))?;
        Ok(note)
    }

    /// Reads the file beside a control socket; returns an empty record if there is none.
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
