//! Guest kernels: an existing `Image`, or Debian's packaged kernel with the modules that a guest needs.

use std::fs;
use std::path::{Path, PathBuf};

use super::debian::{self, Package, State};
use super::modules::{self, Module};
use super::recipe::{Recipe, Sources};
use super::{BaseError, Progress, builder_root, files, programs};

/// Debian's kernel for virtual machines.
const PACKAGE: &str = "linux-image-cloud-arm64";
/// The beginning of a kernel's banner, which contains its release.
const BANNER: &[u8] = b"Linux version ";
/// The magic number of an arm64 `Image`: offset and value (kernel: Documentation/arch/arm64/booting.rst).
const MAGIC: (usize, &[u8]) = (0x38, b"ARMd");

/// Source of the guest's kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KernelSource {
    /// An arm64 `Image` that has everything built in, as `cargo xtask kernel` makes it.
    Image(PathBuf),
    /// Debian's packaged kernel, with modules.
    Debian,
}

impl KernelSource {
    /// Name of the source in the manifest.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Image(_) => "image",
            Self::Debian => "debian",
        }
    }
}

impl std::str::FromStr for KernelSource {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(if text == "debian" { Self::Debian } else { Self::Image(text.into()) })
    }
}

/// A kernel's release, as in `6.12.107`, from its own banner. Anything but an `Image` is refused.
pub(crate) fn release(path: &Path, image: &[u8]) -> Result<String, BaseError> {
    if image.get(MAGIC.0..MAGIC.0 + MAGIC.1.len()) != Some(MAGIC.1) {
        return Err(BaseError::unusable(path, "it is no uncompressed arm64 kernel (`Image`)"));
    }
    let banners = image.windows(BANNER.len()).enumerate().filter(|(_, window)| *window == BANNER);
    let releases = banners.filter_map(|(at, _)| {
        let text = image.get(at + BANNER.len()..)?.iter().take(64).take_while(|byte| byte.is_ascii_graphic());
        let text: String = text.map(|byte| char::from(*byte)).collect();
        text.starts_with(|first: char| first.is_ascii_digit()).then_some(text)
    });
    let release = { releases }.next();
    release.ok_or_else(|| BaseError::unusable(path, "it does not say which Linux it is"))
}

/// Writes Debian's kernel as `Image` to `folder`, its modules to `modules/`, with names that give the load order.
/// Returns the kernel's own package.
pub(crate) fn make(
    folder: &Path,
    (recipe, sources): (&Recipe, &Sources),
    progress: Progress<'_>,
) -> Result<Vec<Package>, BaseError> {
    // Missing programs are reported before anything is downloaded.
    programs::require(&modules::PROGRAMS)?;
    let root = folder.join("root");
    progress("downloading and unpacking Debian's kernel");
    let made = debian::make_root(&root, &[PACKAGE.into()], State::Unpacked, (recipe, sources), progress)?;
    builder_root::merge_usr(&root)?;
    let vmlinuz = only_entry(&root.join("boot"), "vmlinuz-")?;
    let full = vmlinuz.file_name().unwrap_or_default().to_string_lossy();
    let release = full.trim_start_matches("vmlinuz-").to_owned();
    for (index, module) in modules::choose(&root, &release, &modules::WANTED)?.iter().enumerate() {
        files::write(&folder.join(format!("modules/{index:02}-{}.ko", module.name)), &module.content)?;
    }
    fs::rename(&vmlinuz, folder.join("Image")).map_err(BaseError::file("cannot move", &vmlinuz))?;
    files::remove(&root)?;
    let own = |package: &Package| package.name.starts_with("linux-image-");
    Ok(made.packages.into_iter().filter(own).collect())
}

/// The modules that [`make`] has written, in load order.
pub(crate) fn modules_in(folder: &Path) -> Result<Vec<Module>, BaseError> {
    let module = |path: PathBuf| {
        let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let name = file.trim_end_matches(".ko").split_once('-').map_or(&*file, |(_, name)| name).to_owned();
        Ok(Module { name, content: files::read(&path)? })
    };
    files::entries(&folder.join("modules"))?.into_iter().map(module).collect()
}

fn only_entry(folder: &Path, prefix: &str) -> Result<PathBuf, BaseError> {
    let mut found = files::entries(folder)?;
    found.retain(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(prefix)));
    match (found.pop(), found.is_empty()) {
        (Some(path), true) => Ok(path),
        _ => Err(BaseError::unusable(folder, format!("it should have one {prefix}…"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(banner: &str) -> Vec<u8> {
        let mut image = vec![0; 256];
        image[MAGIC.0..MAGIC.0 + 4].copy_from_slice(MAGIC.1);
        image.extend_from_slice(b"Linux version %s\n\0");
        image.extend_from_slice(banner.as_bytes());
        image
    }

    #[test]
    fn a_kernel_tells_its_release() {
        let path = Path::new("Image");
        assert_eq!(release(path, &image("Linux version 6.12.107+deb13 (x@y)")).unwrap(), "6.12.107+deb13");
        assert!(release(path, &image("nothing")).unwrap_err().to_string().contains("which Linux"));
        assert!(release(path, b"\x1f\x8b compressed").unwrap_err().to_string().contains("no uncompressed"));
    }

    #[test]
    fn modules_keep_their_order() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["01-b_x.ko", "00-z.ko", "10-a.ko"] {
            files::write(&folder.path().join("modules").join(name), name).unwrap();
        }
        let names: Vec<_> =
            modules_in(folder.path()).unwrap().into_iter().map(|module| module.name).collect();
        assert_eq!(names, ["z", "b_x", "a"]);
    }
}
