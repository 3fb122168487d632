//! The inputs of the metal that are needed to build images: base images and the examples.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::base;
use crate::cache::Cache;
use crate::metal::{Job, Metal};
use crate::parts::{Executable, Parts, ProgramRequest, words};
use crate::toolchain::{self, Cross};

/// Name of the disk with the catalogue of base images.
const CATALOGUE: &str = "catalogue";
const NAME: &str = "hearth-image-builder";
/// The image builder as a separate program. The daemon contains it, too.
pub(crate) const BUILDER: ProgramRequest<'static> =
    ProgramRequest { package: NAME, executable: Executable::Binary(NAME), name: NAME };
const EXAMPLES: &str = "examples";
/// The examples that are used as build contexts.
const CONTEXTS: [&str; 2] = ["counter", "notes"];
/// Package and program of the app of hostile guests; the program's name is its folder's, too.
const HOSTILE: (&str, &str) = ("hearth-test-hostile-app", "hostile");
/// Memory of the emulated metal in MiB: the disks of builds are in it.
const MEMORY_MIB: u32 = 10 << 10;
/// Runs a command with the catalogue mounted.
const SCRIPT: &str = r#"
set -e
catalogue=$(mktemp -d)
mount -t erofs -o ro "$HEARTH_DISKS/catalogue" "$catalogue" 2>/dev/null ||
    mount -t erofs -o ro,loop "$HEARTH_DISKS/catalogue" "$catalogue"
trap 'umount "$catalogue"; rmdir "$catalogue"' EXIT
export HEARTH_CATALOGUE="$catalogue" HEARTH_EXAMPLES="$HEARTH_IN/examples"
export HEARTH_IMAGE_BUILDER="$HEARTH_IN/hearth-image-builder"
"$@"
"#;

/// The parts and the disk that jobs with builds need.
#[derive(Debug)]
pub(crate) struct Images {
    catalogue: PathBuf,
    examples: PathBuf,
    script: PathBuf,
}

impl Images {
    /// Builds everything, and adds the inputs of the metal to `parts`.
    pub(crate) fn prepare(cache: &Cache, cross: &Cross, profile: &str, parts: &mut Parts) -> Result<Self> {
        let folder = base::prepare(cache, cross)?;
        let catalogue = parts.path("catalogue.erofs");
        base::disk(cache, &folder, &catalogue)?;
        let examples = parts.path(EXAMPLES);
        for context in CONTEXTS {
            copy_files(&toolchain::repository()?.join(EXAMPLES).join(context), &examples.join(context))?;
        }
        let counter = ("hearth-example-counter", Executable::Binary("counter"));
        let binary = examples.join("counter/counter");
        crate::parts::build_executable(cache, cross, profile, counter, &binary)?;
        parts.add(examples.clone(), EXAMPLES);
        let script = parts.path("with-catalogue.sh");
        fs::write(&script, SCRIPT).context("writing a script")?;
        Ok(Self { catalogue, examples, script })
    }

    /// The folder of an example on this machine.
    pub(crate) fn context(&self, example: &str) -> PathBuf {
        self.examples.join(example)
    }

    /// Adds the app of hostile guests, for the daemon's tests, as if it were an example.
    pub(crate) fn add_hostile(&self, cache: &Cache, cross: &Cross, profile: &str) -> Result<()> {
        let context = self.context(HOSTILE.1);
        copy_files(&toolchain::repository()?.join("testing").join(HOSTILE.1), &context)?;
        let app = (HOSTILE.0, Executable::Binary(HOSTILE.1));
        crate::parts::build_executable(cache, cross, profile, app, &context.join(HOSTILE.1))
    }

    /// Adds the disk and memory to a job whose words come from [`Self::words`].
    pub(crate) fn give(&self, job: &mut Job) {
        job.emulated_host.memory_mib = job.emulated_host.memory_mib.max(MEMORY_MIB);
        job.debian = true;
        job.disks.push((self.catalogue.clone(), CATALOGUE.into()));
        job.inputs.push((self.script.clone(), "with-catalogue.sh".into()));
    }

    /// The words of a command that runs one of the inputs, with the catalogue's path in its environment.
    pub(crate) fn words(metal: &Metal, program: &str, arguments: &[&str]) -> Vec<OsString> {
        Self::with_catalogue(metal, words(&metal.inputs().join(program), arguments))
    }

    /// The words of a command with the catalogue's path in its environment.
    pub(crate) fn with_catalogue(metal: &Metal, command: Vec<OsString>) -> Vec<OsString> {
        let mut words = words(Path::new("sh"), [metal.inputs().join("with-catalogue.sh")]);
        words.extend(command);
        words
    }
}

/// Copies the files of a context, without build results in it.
fn copy_files(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to).with_context(|| format!("cannot make {}", to.display()))?;
    for entry in fs::read_dir(from).with_context(|| format!("cannot read {}", from.display()))? {
        let path = entry?.path();
        let (true, Some(name)) = (path.is_file(), path.file_name()) else { continue };
        fs::copy(&path, to.join(name)).with_context(|| format!("cannot copy {}", path.display()))?;
    }
    Ok(())
}
