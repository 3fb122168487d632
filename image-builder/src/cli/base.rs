//! `hearth-image-builder base …`.

use std::path::PathBuf;
use std::time::Instant;

use clap::{Args, Subcommand};

use hearth_base::build::Request;
use hearth_base::parts::{Kind, Store};
use hearth_base::recipe::{Recipe, Sources};
use hearth_base::{Base, BaseError, Catalogue, KernelSource, Progress};

/// Makes, lists and checks base images: kernel, guest OS, builder and container bases.
#[derive(Debug, Args)]
pub(crate) struct Options {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    Build(Build),
    Parts(Parts),
    List(List),
    Show(Show),
    Verify(Verify),
}

/// Makes a base image and adds it to a catalogue, where it differs from the newest one. Needs root.
#[derive(Debug, Args)]
struct Build {
    #[command(flatten)]
    catalogue: CatalogueOption,
    /// The program hearth-guest: static, for arm64
    #[arg(long, value_name = "FILE")]
    guest: PathBuf,
    /// The provider of OpenSSL that images get, libhearth_openssl.so: for arm64
    #[arg(long, value_name = "FILE")]
    openssl: PathBuf,
    /// The guest's kernel: an arm64 Image with everything built in, or `debian` for Debian's packaged one
    #[arg(long, value_name = "FILE|debian")]
    kernel: KernelSource,
    #[command(flatten)]
    packages: PackageOptions,
    /// Keep what is made of Debian's packages in this folder, and take it from there
    #[arg(long, value_name = "FOLDER")]
    parts: Option<PathBuf>,
    /// Make it anew all the same, with the packages of today
    #[arg(long, requires = "parts")]
    refresh: bool,
}

/// Makes what a base image has of Debian's packages, ahead of its build, and prints the files' digests. Needs root.
#[derive(Debug, Args)]
struct Parts {
    #[command(flatten)]
    packages: PackageOptions,
    /// The folder to keep it in
    #[arg(long, value_name = "FOLDER")]
    parts: PathBuf,
    /// Make it anew although it is there, with the packages of today
    #[arg(long)]
    refresh: bool,
    /// Also Debian's packaged kernel
    #[arg(long)]
    debian_kernel: bool,
}

/// Lists a catalogue's versions, newest first.
#[derive(Debug, Args)]
struct List {
    #[command(flatten)]
    catalogue: CatalogueOption,
}

/// Prints what a version is and what it was made from, as JSON.
#[derive(Debug, Args)]
struct Show {
    #[command(flatten)]
    version: VersionOptions,
}

/// Reads all files of a version and compares them with what is recorded.
#[derive(Debug, Args)]
struct Verify {
    #[command(flatten)]
    version: VersionOptions,
}

#[derive(Debug, Args)]
struct CatalogueOption {
    /// The catalogue of base images
    #[arg(long, value_name = "FOLDER")]
    catalogue: PathBuf,
}

#[derive(Debug, Args)]
struct VersionOptions {
    #[command(flatten)]
    catalogue: CatalogueOption,
    /// Its version; the newest unless given
    #[arg(value_name = "VERSION")]
    version: Option<u64>,
}

/// Which Debian packages, and from where.
#[derive(Debug, Args)]
struct PackageOptions {
    /// Another recipe (which packages and container bases) than the built-in one, as JSON
    #[arg(long, value_name = "FILE")]
    recipe: Option<PathBuf>,
    /// The Debian mirror, or a snapshot
    #[arg(long, value_name = "URL", default_value_t = Sources::default().mirror)]
    mirror: String,
    /// The mirror of Debian's security updates, or `none`
    #[arg(long, value_name = "URL|none", default_value_t = Sources::default().security_mirror.unwrap_or_default())]
    security_mirror: String,
    /// The keys that Debian's suites are signed with
    #[arg(long, value_name = "FILE", default_value_t = Sources::default().keyring)]
    keyring: String,
}

impl PackageOptions {
    fn resolve(&self) -> Result<(Recipe, Sources), BaseError> {
        let recipe = self.recipe.as_deref().map_or_else(Recipe::own, Recipe::read)?;
        let security = (self.security_mirror != "none").then(|| self.security_mirror.clone());
        let mirror = self.mirror.clone();
        Ok((recipe, Sources { mirror, security_mirror: security, keyring: self.keyring.clone() }))
    }
}

impl VersionOptions {
    fn base(&self) -> Result<Base, BaseError> {
        let catalogue = Catalogue::open(&self.catalogue.catalogue)?;
        self.version.map_or_else(|| catalogue.latest(), |version| catalogue.get(version))
    }
}

impl Options {
    /// Executes the command line. Results are printed to stdout, progress to stderr.
    pub(crate) fn run(&self) -> Result<(), BaseError> {
        let start = Instant::now();
        let progress = |text: &str| eprintln!("[{:6.1} s] {text}", start.elapsed().as_secs_f64());
        match &self.what {
            What::Build(build) => build.run(&progress),
            What::Parts(parts) => parts.run(&progress),
            What::List(list) => list.run(),
            What::Show(show) => {
                let text = serde_json::to_string_pretty(&show.version.base()?.manifest);
                println!("{}", text.map_err(|error| BaseError::Recipe(error.to_string()))?);
                Ok(())
            }
            What::Verify(verify) => {
                let base = verify.version.base()?;
                base.verify()?;
                println!("version {} is what it was when it was made", base.version);
                Ok(())
            }
        }
    }
}

impl Build {
    fn run(&self, progress: Progress<'_>) -> Result<(), BaseError> {
        let (recipe, sources) = self.packages.resolve()?;
        let request = Request {
            guest: self.guest.clone(),
            openssl: self.openssl.clone(),
            kernel: self.kernel.clone(),
            recipe,
            sources,
            parts: self.parts.clone(),
            refresh: self.refresh,
        };
        let catalogue = Catalogue::create(&self.catalogue.catalogue)?;
        let built = hearth_base::build(&catalogue, &request, progress)?;
        if built.is_new {
            progress("done");
        } else {
            progress("nothing has changed: there is no new version");
        }
        println!("{}", built.base.version);
        Ok(())
    }
}

impl Parts {
    fn run(&self, progress: Progress<'_>) -> Result<(), BaseError> {
        let (recipe, sources) = self.packages.resolve()?;
        let store = Store { folder: self.parts.clone(), refresh: self.refresh };
        let kernel = self.debian_kernel.then_some(Kind::Kernel);
        for kind in [Kind::Builder, Kind::Containers].into_iter().chain(kernel) {
            let part = store.part(kind, (&recipe, &sources), progress)?;
            let digest = part.record.file.map(|file| file.sha256).unwrap_or_default();
            println!("{digest} {}", part.folder.display());
        }
        Ok(())
    }
}

impl List {
    fn run(&self) -> Result<(), BaseError> {
        let catalogue = Catalogue::open(&self.catalogue.catalogue)?;
        for version in catalogue.versions()? {
            let base = catalogue.get(version)?;
            let kernel = &base.manifest.inputs.kernel;
            let containers: Vec<_> =
                base.manifest.containers.iter().map(|container| &*container.reference).collect();
            println!("{version}\tLinux {} ({})\t{}", kernel.release, kernel.kind, containers.join(" "));
        }
        Ok(())
    }
}
