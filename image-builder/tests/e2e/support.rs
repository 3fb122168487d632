//! A host for builds, checks for leftovers, requests to apps.

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::thread;
use std::time::Duration;

use hearth_host::dns::{DnsConfig, Resolvers};
use hearth_host::groups::{CgroupSettings, Groups};
use hearth_host::limits::LimitsConfig;
use hearth_host::network::{Egress, NetworkConfig, Networks};
use hearth_host::roles::{RoleProvider, RolesConfig};
use hearth_image_builder::artifact::{ArtifactConfig, Fetcher, WorkerConfig};
use hearth_image_builder::build::event::Sink;
use hearth_image_builder::build::settings::{AppLimits, BuilderLimits};
use hearth_image_builder::build::uids::OwnUserIds;
use hearth_image_builder::build::{
    BuildError, BuildRequest, Builder, Event, LogStream, Platform, Settings, Step, Trial,
};
use hearth_image_builder::image::Image;
use hearth_model::hooks::{HookSettings, Hooks};
use hearth_model::shape::{Burst, MemoryClass};
use hearth_vmm_jail::JailConfig;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::runtime::Runtime;

/// Timeout for an app's answer on the emulated metal.
const APP_TIMEOUT: Duration = Duration::from_secs(60);

/// Paths from the environment.
pub(crate) struct Metal {
    pub(crate) vmm: PathBuf,
    pub(crate) catalogue: PathBuf,
    pub(crate) examples: PathBuf,
    pub(crate) program: PathBuf,
}

impl Metal {
    /// The paths, if the tests run on the metal.
    pub(crate) fn find() -> Option<Self> {
        let path = |name: &str| env::var_os(name).map(PathBuf::from);
        let found = (|| {
            Some(Self {
                vmm: path("HEARTH_VMM")?,
                catalogue: path("HEARTH_CATALOGUE")?,
                examples: path("HEARTH_EXAMPLES")?,
                program: path("HEARTH_IMAGE_BUILDER")?,
            })
        })();
        if found.is_none() {
            hearth_testing::skip("a variable is not set that `cargo xtask test` sets on the metal");
        }
        found
    }
}

/// The runtime of all builders, which outlive the tests that open them.
static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| Runtime::new().unwrap());
/// The builder of the tests that need no settings of their own, with its folder. None while a test has the host to itself.
static SHARED: Mutex<Option<(Arc<Builder>, TempDir)>> = Mutex::new(None);
/// Held by the tests that build at the same time, or by the one that has the host to itself.
static TURN: RwLock<()> = RwLock::new(());

/// The part of the host that a test holds.
enum Turn {
    /// Other tests build at the same time, with the same builder.
    Shared { _held: RwLockReadGuard<'static, ()> },
    /// What is on the host belongs to this test.
    Alone { _held: RwLockWriteGuard<'static, ()> },
}

/// A folder for builds, their artifacts and their images.
pub(crate) struct Site {
    pub(crate) metal: Metal,
    pub(crate) folder: TempDir,
    /// Configuration of artifacts.
    pub(crate) artifacts: ArtifactConfig,
    /// Configuration of build roles.
    pub(crate) roles: RolesConfig,
    /// Limits of the builder microVM.
    pub(crate) limits: BuilderLimits,
    /// Where builders work.
    work: PathBuf,
    turn: Option<Turn>,
}

/// The events of a build.
#[derive(Clone, Default)]
pub(crate) struct RecordedEvents(Arc<Mutex<Vec<Event>>>);

impl RecordedEvents {
    pub(crate) fn sink(&self) -> Sink {
        let events = Arc::clone(&self.0);
        Sink::new(move |event| {
            // Printed when a test fails.
            match &event {
                Event::Log { stream, line, .. } => println!("{stream:?} | {}", String::from_utf8_lossy(line)),
                Event::Fetched { .. } => {}
                other => println!("{other:?}"),
            }
            events.lock().unwrap().push(event);
        })
    }

    /// The lines of a log.
    pub(crate) fn lines(&self, stream: LogStream) -> Vec<String> {
        let events = self.0.lock().unwrap();
        let lines = events.iter().filter_map(|event| match event {
            Event::Log { stream: of, line, .. } if *of == stream => {
                Some(String::from_utf8_lossy(line).into_owned())
            }
            _ => None,
        });
        lines.collect()
    }

    /// What the steps of the Dockerfile printed, without BuildKit's number of the step and its seconds (`#6 1.523 `).
    pub(crate) fn said(&self) -> Vec<String> {
        let line = |line: String| {
            let (_, rest) = line.strip_prefix('#')?.split_once(' ')?;
            let (seconds, said) = rest.split_once(' ')?;
            seconds.parse::<f64>().ok()?;
            Some(said.to_owned())
        };
        self.lines(LogStream::Build).into_iter().filter_map(line).collect()
    }

    /// The steps that were finished.
    pub(crate) fn finished(&self) -> Vec<Step> {
        let events = self.0.lock().unwrap();
        let steps = events.iter().filter_map(|event| match event {
            Event::Finished(step, _) => Some(*step),
            _ => None,
        });
        steps.collect()
    }
}

/// Settings of an image hook with this timeout.
pub(crate) fn seconds(timeout_seconds: u32) -> Option<HookSettings> {
    Some(HookSettings { timeout_seconds })
}

impl Site {
    /// A host that other tests use at the same time. The last of them checks that nothing is left.
    pub(crate) fn new() -> Option<Self> {
        let metal = Metal::find()?;
        let held = TURN.read().unwrap_or_else(PoisonError::into_inner);
        let mut site = Self::with(metal, Turn::Shared { _held: held });
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, folder)) = &*shared {
            site.work = folder.path().join("work");
        } else {
            let folder = tempfile::tempdir().unwrap();
            site.work = folder.path().join("work");
            *shared = Some((Arc::new(site.open()), folder));
        }
        drop(shared);
        Some(site)
    }

    /// A host for a test that only full runs have, since it takes a minute or more and others test the same mechanism.
    pub(crate) fn of_full_run() -> Option<Self> {
        if hearth_testing::full() { Self::new() } else { None }
    }

    /// A host that no other test uses, for settings and checks that would disturb others.
    pub(crate) fn alone() -> Option<Self> {
        let metal = Metal::find()?;
        let held = TURN.write().unwrap_or_else(PoisonError::into_inner);
        *SHARED.lock().unwrap_or_else(PoisonError::into_inner) = None;
        Some(Self::with(metal, Turn::Alone { _held: held }))
    }

    fn with(metal: Metal, turn: Turn) -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self {
            metal,
            artifacts: ArtifactConfig { allow_files: true, ..ArtifactConfig::default() },
            roles: RolesConfig::default(),
            limits: BuilderLimits { memory_mib: 1536, ..BuilderLimits::default() },
            work: folder.path().join("work"),
            folder,
            turn: Some(turn),
        }
    }

    pub(crate) fn work(&self) -> &Path {
        &self.work
    }

    fn is_alone(&self) -> bool {
        matches!(self.turn, Some(Turn::Alone { .. }))
    }

    /// The builder that tests share, or one with this site's settings, which removes leftovers first.
    pub(crate) fn builder(&self) -> Arc<Builder> {
        match &*SHARED.lock().unwrap_or_else(PoisonError::into_inner) {
            Some((builder, _)) => builder.clone(),
            None => Arc::new(self.open()),
        }
    }

    fn open(&self) -> Builder {
        let _in_runtime = RUNTIME.enter();
        let settings = Settings {
            vmm: self.metal.vmm.clone(),
            catalogue: self.metal.catalogue.clone(),
            work: self.work.clone(),
            jail: JailConfig::default(),
            user_ids: Arc::new(OwnUserIds::new(Path::new("/run/hearth-image-builder")).unwrap()),
            groups: Groups::open(&CgroupSettings::default(), "build-", &self.work).unwrap(),
            networks: Arc::new(Networks::open(NetworkConfig::default(), None).unwrap()),
            resolvers: Resolvers::new(DnsConfig::default()),
            limits: LimitsConfig::default(),
            builder: self.limits,
            app: AppLimits::default(),
            registry_mirrors: Vec::new(),
        };
        let roles = Arc::new(RoleProvider::new(self.roles.clone()).unwrap());
        // This program has no command for workers.
        let worker = WorkerConfig { program: self.metal.program.clone(), ..WorkerConfig::default() };
        let fetcher = Fetcher::new(self.artifacts.clone()).unwrap().with_worker(worker);
        Builder::open(settings, fetcher, roles).unwrap()
    }

    /// A request to build the content of a folder, in the smallest class.
    pub(crate) fn request(&self, context: &Path, name: &str) -> BuildRequest {
        let zip = self.folder.path().join(format!("{name}.zip"));
        let _ = fs::remove_file(&zip);
        hearth_image_builder::artifact::zip::pack(context, fs::File::create_new(&zip).unwrap()).unwrap();
        BuildRequest {
            artifact: format!("file://{}", zip.display()),
            build_role: None,
            base: None,
            memory: MemoryClass::try_from(512).unwrap(),
            burst: Burst::NONE,
            environment: BTreeMap::new(),
            hooks: Hooks { port: 8080, ready: seconds(120), ..Hooks::default() },
            all_capabilities: false,
            egress: Egress::Internet,
            platform: Platform {
                name: name.into(),
                arn: format!("arn:aws:lambda:eu-west-1:111122223333:microvm-image:{name}"),
                version: "1.0".into(),
                region: "eu-west-1".into(),
                account: "111122223333".into(),
            },
            cache: None,
        }
    }

    /// A build context that contains only this Dockerfile.
    pub(crate) fn dockerfile(&self, name: &str, text: &str) -> PathBuf {
        let context = self.folder.path().join(name);
        fs::create_dir(&context).unwrap();
        fs::write(context.join("Dockerfile"), text).unwrap();
        context
    }

    /// Runs a build.
    pub(crate) async fn build(&self, request: &BuildRequest) -> (Result<Image, BuildError>, RecordedEvents) {
        let events = RecordedEvents::default();
        let out = self.folder.path().join(format!("{}.image", request.platform.name));
        let (builder, request, sink, to) = (self.builder(), request.clone(), events.sink(), out.clone());
        let build =
            RUNTIME.spawn(async move { builder.build(&request, &to, sink, std::future::pending()).await });
        let built = build.await.unwrap();
        if built.is_err() {
            assert!(!out.exists(), "half an image");
        }
        if self.is_alone() {
            self.assert_clean();
        }
        (built, events)
    }

    /// A microVM of an image.
    pub(crate) async fn try_out(&self, image: &Image, payload: &str, events: &RecordedEvents) -> Trial {
        let (builder, image, payload) = (self.builder(), image.clone(), payload.to_owned());
        let sink = events.sink();
        let trial = RUNTIME.spawn(async move { builder.try_out(&image, &payload, sink).await });
        trial.await.unwrap().unwrap()
    }

    /// Asserts that builds and trials of a test that is alone have left nothing: no folder, no monitor, no network.
    pub(crate) fn assert_clean(&self) {
        assert!(self.is_alone(), "others build");
        assert_clean(&self.work);
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        let shared = !self.is_alone();
        self.turn = None;
        if shared && !thread::panicking() {
            // Whoever is the last for the moment finds nobody else here.
            let alone = TURN.try_write();
            if alone.is_ok() {
                assert_clean(&self.work);
            }
        }
    }
}

/// Asserts that nothing is left of builds that worked in a folder.
fn assert_clean(work: &Path) {
    let left = |folder: &Path| -> Vec<PathBuf> {
        let entries = fs::read_dir(folder).into_iter().flatten();
        entries.map(|entry| entry.unwrap().path()).collect()
    };
    assert_eq!(left(&work.join("builds")), Vec::<PathBuf>::new());
    let networks = left(Path::new("/run/netns")).into_iter();
    let networks: Vec<PathBuf> =
        networks.filter(|path| path.file_name().unwrap().to_string_lossy().starts_with("hearth-")).collect();
    assert_eq!(networks, Vec::<PathBuf>::new());
    assert_eq!(monitors(), Vec::<PathBuf>::new(), "monitors that nobody owns");
    assert_eq!(groups(), Vec::<PathBuf>::new(), "groups that nobody owns");
}

/// The folders of the monitors that run on this host, in `/proc`.
pub(crate) fn monitors() -> Vec<PathBuf> {
    let processes = fs::read_dir("/proc").unwrap().filter_map(|entry| Some(entry.ok()?.path()));
    let is_monitor =
        |path: &PathBuf| fs::read_to_string(path.join("comm")).is_ok_and(|name| name.trim() == "hearth-vmm");
    processes.filter(is_monitor).collect()
}

/// The control groups of builders' microVMs.
pub(crate) fn groups() -> Vec<PathBuf> {
    let groups = fs::read_dir("/sys/fs/cgroup/hearth").into_iter().flatten();
    let groups = groups.map(|entry| entry.unwrap().path());
    groups.filter(|path| path.file_name().unwrap().to_string_lossy().starts_with("build-")).collect()
}

/// Sends a request to the app of a microVM, and returns status and body.
pub(crate) async fn ask(trial: &Trial, request: &str) -> (u16, String) {
    let asking = async {
        let mut stream = trial.agent().stream(8080, APP_TIMEOUT).await.unwrap();
        stream.write_all(format!("{request} HTTP/1.0\r\n\r\n").as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
    };
    tokio::time::timeout(APP_TIMEOUT, asking).await.unwrap()
}
