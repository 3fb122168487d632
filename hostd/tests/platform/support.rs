//! A host with an image, and checks of what is left on it.

use std::collections::{BTreeMap, HashMap};
use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hearth_host::agent::Agent;
use hearth_host::dns::{DnsConfig, Resolvers};
use hearth_host::groups::{CgroupSettings, Groups};
use hearth_host::limits::LimitsConfig;
use hearth_host::network::{Egress, NetworkConfig, Networks};
use hearth_host::roles::{RoleProvider, RolesConfig};
use hearth_hostd::clock::Clock;
use hearth_hostd::disk::Disk;
use hearth_hostd::platform::host::{
    HostConfig, HostPlatform, LogSink, LogWriter, PlatformParts, TimelineObserver,
};
use hearth_hostd::platform::{LogTarget, Spec};
use hearth_hostd::pool::PoolConfig;
use hearth_image_builder::artifact::{ArtifactConfig, Fetcher, WorkerConfig, zip};
use hearth_image_builder::build::event::Sink;
use hearth_image_builder::build::settings::{AppLimits, BuilderLimits};
use hearth_image_builder::build::uids::OwnUserIds;
use hearth_image_builder::build::{BuildRequest, Builder, Platform as Variables, Settings};
use hearth_model::build::ImageBuild;
use hearth_model::hooks::{HookSettings, Hooks};
use hearth_model::id::MicrovmId;
use hearth_model::shape::{Burst, MemoryClass};
use hearth_proto::guest::v1::LogRecord;
use hearth_vmm_client::Client;
use hearth_vmm_jail::JailConfig;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::OnceCell;

/// How long an app may take to respond on the emulated metal.
const APP_TIMEOUT: Duration = Duration::from_secs(60);
pub(crate) const ACCOUNT: &str = "111122223333";

/// Stored lines by microVM, with their sequence numbers.
#[derive(Debug, Default)]
pub(crate) struct Lines(Mutex<HashMap<String, Vec<(u64, String)>>>);

#[derive(Debug, Clone)]
struct Stream {
    lines: Arc<Lines>,
    microvm: String,
}

impl LogWriter for Stream {
    fn last_sequence(&self) -> u64 {
        let lines = self.lines.0.lock().unwrap();
        lines.get(&self.microvm).and_then(|lines| lines.last()).map_or(0, |(number, _)| *number)
    }

    fn append(&self, line: &LogRecord) -> Result<(), String> {
        let text = String::from_utf8_lossy(&line.line).into_owned();
        println!("{} | {text}", self.microvm);
        self.lines.0.lock().unwrap().entry(self.microvm.clone()).or_default().push((line.sequence, text));
        Ok(())
    }

    fn notice(&self, text: &str) -> Result<(), String> {
        println!("{} | {text}", self.microvm);
        Ok(())
    }
}

/// A log sink that outlives the platforms that write to it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Logs(Arc<Lines>);

impl LogSink for Logs {
    fn open(&self, _: &str, _: &LogTarget, microvm: &str) -> Result<Arc<dyn LogWriter>, String> {
        Ok(Arc::new(Stream { lines: Arc::clone(&self.0), microvm: microvm.to_owned() }))
    }

    fn killed(&self, _: &str, microvm: &str, process: &str) {
        println!("{microvm} | {process} was killed");
    }
}

impl Logs {
    /// The lines of a microVM; fails if a line was stored twice or is missing.
    pub(crate) fn lines(&self, microvm: &MicrovmId) -> Vec<String> {
        let lines = self.0.0.lock().unwrap().get(microvm.as_str()).cloned().unwrap_or_default();
        for (before, after) in lines.iter().zip(lines.iter().skip(1)) {
            assert_eq!(before.0 + 1, after.0, "{lines:?}");
        }
        lines.into_iter().map(|(_, text)| text).collect()
    }

    /// The times that the counter of a microVM has printed, in nanoseconds since 1970.
    pub(crate) fn ticks(&self, microvm: &MicrovmId) -> Vec<u128> {
        let lines = self.lines(microvm);
        let ticks = lines.iter().filter_map(|line| line.strip_prefix("tick ")?.split(' ').next());
        ticks.map(|time| time.parse().unwrap()).collect()
    }

    /// Waits for a line that contains `text`.
    pub(crate) async fn wait_for(&self, microvm: &MicrovmId, text: &str) {
        let waiting = async {
            while !self.lines(microvm).iter().any(|line| line.contains(text)) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let waited = tokio::time::timeout(APP_TIMEOUT, waiting).await;
        assert!(waited.is_ok(), "no {text:?} in {:?}", self.lines(microvm));
    }
}

/// A host with an image of the counter.
#[derive(Debug)]
pub(crate) struct Site {
    vmm: PathBuf,
    pub(crate) data: PathBuf,
    pub(crate) run: PathBuf,
    pub(crate) logs: Logs,
}

static IMAGE: OnceCell<PathBuf> = OnceCell::const_new();

/// A hook that is enabled with this timeout.
fn seconds(timeout_seconds: u32) -> Option<HookSettings> {
    Some(HookSettings { timeout_seconds })
}

/// The build of the image that all tests use.
pub(crate) fn image_build() -> ImageBuild {
    ImageBuild::parse(ACCOUNT, "counter", 1, "b1").unwrap()
}

impl Site {
    /// The host, if the tests run on the metal. The first test builds the image.
    pub(crate) async fn find() -> Option<Self> {
        let path = |name: &str| env::var_os(name).map(PathBuf::from);
        let found = (|| {
            let builder = path("HEARTH_IMAGE_BUILDER")?;
            Some((path("HEARTH_VMM")?, builder, path("HEARTH_CATALOGUE")?, path("HEARTH_EXAMPLES")?))
        })();
        if found.is_none() {
            hearth_testing::skip(
                "HEARTH_VMM, HEARTH_IMAGE_BUILDER, HEARTH_CATALOGUE or HEARTH_EXAMPLES is not set",
            );
        }
        let (vmm, program, catalogue, examples) = found?;
        let data = IMAGE.get_or_init(|| build((vmm.clone(), program), catalogue, examples)).await.clone();
        Some(Self { vmm, data, run: "/run/hearth-platform".into(), logs: Logs::default() })
    }

    /// The platform, as a daemon opens it at its start.
    pub(crate) async fn open(&self) -> HostPlatform {
        self.open_with(LimitsConfig::default()).await
    }

    /// The platform with these limits of microVMs.
    pub(crate) async fn open_with(&self, limits: LimitsConfig) -> HostPlatform {
        let config = HostConfig {
            data: self.data.clone(),
            run: self.run.clone(),
            vmm: self.vmm.clone(),
            launch_timeout_seconds: 120,
            limits,
            pool: PoolConfig { monitors: 1, networks: 1, ..PoolConfig::default() },
            ..HostConfig::default()
        };
        let surroundings = PlatformParts {
            roles: Arc::new(RoleProvider::new(RolesConfig::default()).unwrap()),
            logs: Arc::new(self.logs.clone()),
            clock: Clock::system(),
            observer: TimelineObserver::new(|report| {
                println!("{} {}: {}", report.operation, report.microvm, report.timeline);
            }),
            disk: Disk::unlimited(),
        };
        HostPlatform::open(config, surroundings).await.unwrap()
    }

    /// The specification of a microVM; `number` makes its id.
    pub(crate) fn spec(&self, number: u32) -> Spec {
        let hooks = Hooks { port: 8080, run: seconds(30), resume: seconds(30), ..Hooks::default() };
        Spec {
            id: format!("microvm-00000000-0000-4000-8000-{number:012}").parse().unwrap(),
            account: ACCOUNT.parse().unwrap(),
            image_arn: format!("arn:aws:lambda:eu-west-1:{ACCOUNT}:microvm-image:counter"),
            image_name: "counter".into(),
            image_version: "1.0".into(),
            build: image_build(),
            memory_mib: 512,
            hooks,
            execution_role_arn: None,
            egress: Egress::Internet,
            log: Some(LogTarget { group: "/aws/lambda-microvms/counter".into(), stream: "s".into() }),
            run_hook_payload: "payload \"one\"".into(),
            suspends: 0,
        }
    }

    /// The run directory of a microVM.
    pub(crate) fn run_of(&self, id: &MicrovmId) -> PathBuf {
        self.run.join("microvms").join(id.as_str())
    }

    /// The folder of a microVM.
    pub(crate) fn state_of(&self, id: &MicrovmId) -> PathBuf {
        self.data.join("microvms").join(id.as_str())
    }

    /// Whether the monitor of a microVM says that its devices have these limits.
    pub(crate) fn has_limits(&self, id: &MicrovmId, limits: LimitsConfig) -> bool {
        let status = Client::connect(self.run_of(id).join("control.sock")).unwrap().status().unwrap();
        let expected = limits.of(512).message();
        status.disks.iter().all(|disk| disk.rate_limiter == expected.disk)
            && status.nets.iter().all(|net| {
                (net.receive_limiter, net.transmit_limiter) == (expected.receive, expected.transmit)
            })
            && (status.disks.len(), status.nets.len()) == (1, 1)
    }

    /// The agent of a microVM.
    pub(crate) fn agent(&self, id: &MicrovmId) -> Agent {
        Agent::of_monitor(&self.run_of(id).join("control.sock")).unwrap()
    }

    /// Whether the app of a microVM is frozen.
    pub(crate) async fn is_frozen(&self, id: &MicrovmId) -> bool {
        self.agent(id).control().await.unwrap().status().await.unwrap().frozen
    }

    /// The response of a microVM's app.
    pub(crate) async fn ask(&self, id: &MicrovmId, path: &str) -> String {
        let agent = self.agent(id);
        let asking = async {
            let mut stream = agent.stream(8080, APP_TIMEOUT).await.unwrap();
            stream.write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes()).await.unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.unwrap();
            answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default()
        };
        tokio::time::timeout(APP_TIMEOUT, asking).await.unwrap()
    }

    /// Shuts the platform down and checks that nothing is left on this host but the image.
    pub(crate) async fn assert_clean(&self, platform: HostPlatform) {
        platform.shut_down().await;
        for folder in [self.data.join("microvms"), self.run.join("microvms"), self.run.join("pool")] {
            assert_eq!(names(&folder), Vec::<String>::new(), "{}", folder.display());
        }
        let networks = names(Path::new("/run/netns"));
        assert_eq!(networks.iter().filter(|name| name.starts_with("hearth-")).count(), 0, "{networks:?}");
        let groups = names(Path::new("/sys/fs/cgroup/hearth"));
        assert_eq!(groups.iter().filter(|name| name.starts_with("vm-")).count(), 0, "{groups:?}");
        assert_eq!(monitors(), 0, "monitors that nobody owns");
    }
}

/// The names in a folder.
pub(crate) fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten();
    entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect()
}

/// The group of interfaces whose connections are the account's.
pub(crate) const OWNER: &str = "1600557337";

/// The files with the groups of microVMs' interfaces in the host.
pub(crate) fn groups() -> Vec<PathBuf> {
    let interfaces =
        names(Path::new("/sys/class/net")).into_iter().filter(|name| name.starts_with("hearth-"));
    interfaces.map(|name| Path::new("/sys/class/net").join(name).join("netdev_group")).collect()
}

/// How many interfaces are the account's.
pub(crate) fn owned() -> usize {
    groups().iter().filter(|group| fs::read_to_string(group).is_ok_and(|text| text.trim() == OWNER)).count()
}

/// Number of monitor processes on this host, including zombies.
pub(crate) fn monitors() -> usize {
    let processes = fs::read_dir("/proc").unwrap();
    let comms = processes.filter_map(|entry| fs::read_to_string(entry.ok()?.path().join("comm")).ok());
    comms.filter(|name| name.trim() == "hearth-vmm").count()
}

/// Builds the image into a new data folder. `program` is the image builder: this program has no command for workers.
async fn build((vmm, program): (PathBuf, PathBuf), catalogue: PathBuf, examples: PathBuf) -> PathBuf {
    let data = tempfile::tempdir().unwrap().keep();
    let settings = Settings {
        vmm,
        catalogue,
        work: data.join("work"),
        jail: JailConfig::default(),
        user_ids: Arc::new(OwnUserIds::new(Path::new("/run/hearth-image-builder")).unwrap()),
        groups: Groups::open(&CgroupSettings::default(), "build-", &data).unwrap(),
        networks: Arc::new(Networks::open(NetworkConfig::default(), None).unwrap()),
        resolvers: Resolvers::new(DnsConfig::default()),
        limits: LimitsConfig::default(),
        builder: BuilderLimits { memory_mib: 1536, ..BuilderLimits::default() },
        app: AppLimits::default(),
        registry_mirrors: Vec::new(),
    };
    let archive = data.join("counter.zip");
    zip::pack(&examples.join("counter"), fs::File::create_new(&archive).unwrap()).unwrap();
    let request = BuildRequest {
        artifact: format!("file://{}", archive.display()),
        build_role: None,
        base: None,
        memory: MemoryClass::try_from(512).unwrap(),
        burst: Burst::NONE,
        environment: BTreeMap::from([("TICK_MILLISECONDS".into(), "10".into())]),
        hooks: Hooks { port: 8080, ready: seconds(120), ..Hooks::default() },
        all_capabilities: false,
        egress: Egress::Internet,
        platform: Variables {
            name: "counter".into(),
            arn: format!("arn:aws:lambda:eu-west-1:{ACCOUNT}:microvm-image:counter"),
            version: "1.0".into(),
            region: "eu-west-1".into(),
            account: ACCOUNT.into(),
        },
        cache: None,
    };
    let artifacts = ArtifactConfig { allow_files: true, ..ArtifactConfig::default() };
    let roles = Arc::new(RoleProvider::new(RolesConfig::default()).unwrap());
    let worker = WorkerConfig { program, ..WorkerConfig::default() };
    let fetcher = Fetcher::new(artifacts).unwrap().with_worker(worker);
    let builder = Builder::open(settings, fetcher, roles).unwrap();
    let out = data.join("images").join(ACCOUNT).join("counter/1/b1");
    fs::create_dir_all(out.parent().unwrap()).unwrap();
    builder.build(&request, &out, Sink::new(|_| ()), std::future::pending()).await.unwrap();
    data
}
