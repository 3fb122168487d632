//! Builds a base image from a guest binary, a kernel, a provider of OpenSSL and the parts.

use std::path::{Path, PathBuf};
use std::thread;
use std::time::{SystemTime, UNIX_EPOCH};

use super::catalogue::{self, Base, Catalogue};
use super::manifest::{FORMAT, FileRecord, Inputs, Kernel, Manifest};
use super::modules::Module;
use super::parts::{Kind, Part, Store};
use super::recipe::{Recipe, Sources};
use super::{BaseError, KernelSource, Progress, elf, files, initramfs, kernel};

/// Inputs of a base image's build.
#[derive(Debug, Clone)]
pub struct Request {
    /// The program `hearth-guest`, static, for arm64.
    pub guest: PathBuf,
    /// The provider of OpenSSL that images get, a shared object for arm64.
    pub openssl: PathBuf,
    /// The guest's kernel.
    pub kernel: KernelSource,
    /// The packages to install.
    pub recipe: Recipe,
    /// The mirrors of the packages.
    pub sources: Sources,
    /// Folder that keeps parts; without it, they are made anew and discarded after the build.
    pub parts: Option<PathBuf>,
    /// Whether parts are made again although they exist.
    pub refresh: bool,
}

/// Result of a build.
#[derive(Debug, Clone)]
pub struct Built {
    /// The catalogue's newest version.
    pub base: Base,
    /// Whether this build has added the version. It has not if the newest version had the same files already.
    pub is_new: bool,
}

/// The parts of one base image.
#[derive(Debug)]
struct Parts {
    builder: Part,
    containers: Part,
    kernel: Option<Part>,
}

/// Makes a base image and adds it to a catalogue.
///
/// # Errors
///
/// An input is missing or unusable, or the catalogue cannot be written.
pub fn build(catalogue: &Catalogue, request: &Request, progress: Progress<'_>) -> Result<Built, BaseError> {
    let (guest, openssl) = (files::read(&request.guest)?, files::read(&request.openssl)?);
    // A bad binary is reported before minutes are spent.
    initramfs::make(&request.guest, &guest, &[])?;
    elf::check_library(&openssl).map_err(|reason| BaseError::unusable(&request.openssl, reason))?;
    if let KernelSource::Image(path) = &request.kernel {
        kernel::release(path, &files::read(path)?)?;
    }
    let (base, is_new) = catalogue.add(progress, |folder| {
        let work = folder.join("work");
        let parts = make_parts(request, &work, progress)?;
        let manifest = assemble(folder, request, (&guest, &openssl), &parts)?;
        files::remove(&work)?;
        Ok(manifest)
    })?;
    Ok(Built { base, is_new })
}

/// Makes the parts that are missing, the container bases in parallel with the others.
fn make_parts(request: &Request, work: &Path, progress: Progress<'_>) -> Result<Parts, BaseError> {
    let folder = request.parts.clone().unwrap_or_else(|| work.to_path_buf());
    let store = &Store { folder, refresh: request.refresh };
    let from = (&request.recipe, &request.sources);
    let (containers, others) = thread::scope(|scope| {
        let containers = scope.spawn(|| store.part(Kind::Containers, from, progress));
        let others = store.part(Kind::Builder, from, progress).and_then(|builder| {
            let kernel = match request.kernel {
                KernelSource::Image(_) => None,
                KernelSource::Debian => Some(store.part(Kind::Kernel, from, progress)?),
            };
            Ok((builder, kernel))
        });
        (containers.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)), others)
    });
    let (builder, kernel) = others?;
    Ok(Parts { builder, containers: containers?, kernel })
}

/// Writes a version's files to `folder` and returns its manifest, without version and files.
fn assemble(
    folder: &Path,
    request: &Request,
    (guest, openssl): (&[u8], &[u8]),
    parts: &Parts,
) -> Result<Manifest, BaseError> {
    let take_over = |part: &Part, name: &str| files::take_over(&part.folder.join(name), &folder.join(name));
    take_over(&parts.builder, catalogue::BUILDER)?;
    take_over(&parts.containers, catalogue::CONTAINERS)?;
    let (image_path, modules) = match (&request.kernel, &parts.kernel) {
        (KernelSource::Debian, Some(part)) => {
            (part.folder.join(catalogue::KERNEL), kernel::modules_in(&part.folder)?)
        }
        (KernelSource::Image(path), _) => (path.clone(), Vec::new()),
        (KernelSource::Debian, None) => return Err(BaseError::Recipe("the kernel is missing".into())),
    };
    let image = files::read(&image_path)?;
    files::write(&folder.join(catalogue::KERNEL), &image)?;
    let archive = initramfs::make(&request.guest, guest, &modules)?;
    files::write(&folder.join(catalogue::INITRAMFS), archive)?;
    files::write(&folder.join(catalogue::OPENSSL), openssl)?;
    let inputs = Inputs {
        kernel: describe(request, (&image_path, &image), &modules, parts)?,
        guest: FileRecord::of(guest),
        openssl: Some(FileRecord::of(openssl)),
        recipe: request.recipe.clone(),
        sources: request.sources.clone(),
        builder_packages: only_packages(&parts.builder),
        container_packages: parts.containers.record.packages.clone(),
    };
    let created = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    Ok(Manifest {
        format: FORMAT,
        version: 0,
        created,
        files: Default::default(),
        inputs_sha256: files::digest_of(&inputs)?,
        inputs,
        containers: parts.containers.record.containers.clone(),
    })
}

fn describe(
    request: &Request,
    (path, image): (&Path, &[u8]),
    modules: &[Module],
    parts: &Parts,
) -> Result<Kernel, BaseError> {
    Ok(Kernel {
        kind: request.kernel.kind().into(),
        release: kernel::release(path, image)?,
        image: FileRecord::of(image),
        packages: parts.kernel.as_ref().map(only_packages).unwrap_or_default(),
        modules: modules.iter().map(|module| module.name.clone()).collect(),
    })
}

fn only_packages(part: &Part) -> Vec<super::manifest::Package> {
    part.record.packages.values().flatten().cloned().collect()
}
