//! A daemon's service for clients of AWS: images are built by a scripted builder, and microVMs run on a double of the
//! host. All of it is in memory.

use std::collections::BTreeMap;
use std::fs;
use std::sync::Arc;
use std::time::Duration;

use hearth_base::Catalogue;
use hearth_base::manifest::{FORMAT, FileRecord, Inputs, Kernel, Manifest};
use hearth_base::recipe::{Recipe, Sources};
use hearth_host::roles::{RoleProvider, RolesConfig};
use hearth_image_builder::artifact::ArtifactConfig;
use tempfile::TempDir;

use crate::access::{Access, AccessConfig, Caller, Policy};
use crate::builds::tests::double::{ACCOUNT, Builder, Daemon, settings};
use crate::clock::Clock;
use crate::disk::Disk;
use crate::driver::context::NoObserver;
use crate::driver::deadlines::Deadlines;
use crate::driver::faults::Faults;
use crate::driver::{Capacity, DriverConfig, Microvms};
use crate::lifecycle::microvm::Rules;
use crate::platform::double::Double;
use crate::service::host::artifacts::Artifacts;
use crate::service::tests::Outside;
use crate::service::{Limits, Parts, Profile, Service, ServiceConfig};
use crate::store::{MemoryStore, Store};
use crate::tokens::Tokens;

/// Another account.
pub(crate) const OTHER: &str = "210987654321";
/// The access keys: everything in the account, everything in other ones, reading of images in the account, nothing in it.
pub(crate) const KEYS: [(&str, &str, &str); 5] = [
    ("HKEVERYTHING", "every-thing-0123456789", ACCOUNT),
    ("HKOTHER", "other-0123456789-other", OTHER),
    ("HKTHIRD", "third-0123456789-third", "333333333333"),
    ("HKREADER", "reader-0123456789-read", ACCOUNT),
    ("HKNOTHING", "nothing-0123456789-not", ACCOUNT),
];
/// A role that the first key can assume, for what concerns one microVM of an image whose name begins with `deploy-`.
const DEPLOY: &str = "arn:aws:iam::123456789012:role/deploy";

/// What a stand is limited to.
#[derive(Debug, Clone, Default)]
pub(crate) struct Bounds {
    pub(crate) limits: Limits,
    /// Memory of the host, in MiB; much unless given.
    pub(crate) capacity_mib: Option<u64>,
}

/// The service, and what it stands on.
pub(crate) struct Stand {
    pub(crate) service: Service,
    pub(crate) access: Arc<Access>,
    pub(crate) daemon: Daemon,
    pub(crate) outside: Outside,
    builder: Arc<Builder>,
    _bases: TempDir,
}

impl Stand {
    pub(crate) async fn new(profile: Profile) -> Self {
        Self::within(profile, Bounds::default()).await
    }

    pub(crate) async fn within(profile: Profile, bounds: Bounds) -> Self {
        Self::on(&Arc::<MemoryStore>::default(), profile, bounds).await
    }

    pub(crate) async fn on<S: Store + 'static>(store: &Arc<S>, profile: Profile, bounds: Bounds) -> Self {
        let Bounds { limits, capacity_mib } = bounds;
        let settings = crate::builds::Settings {
            region: "us-east-1".into(),
            max_images: limits.images,
            max_versions: limits.versions,
            max_builds: limits.builds,
            concurrent_builds: 8,
            details: profile != Profile::AwsStrict,
            ..settings()
        };
        let (daemon, builder) = Daemon::on(store, settings);
        let strict = profile == Profile::AwsStrict;
        let driver = DriverConfig {
            max_memory_mib: limits.memory_mib,
            rules: Rules { failed_suspend_hook_terminates: strict, resume_cancels_suspend: !strict },
            retention: Duration::from_secs(86_400),
            drain: Duration::ZERO,
            deadlines: Deadlines::default(),
        };
        let clock = Clock::system();
        let platform = Arc::new(builder.host.clone());
        let microvms = Microvms::new(
            driver,
            Capacity::new(capacity_mib.unwrap_or(1 << 20)),
            daemon.db.clone(),
            clock,
            platform,
            Arc::new(NoObserver),
            Faults::none(),
        );
        let (outside, mut host) = Outside::new(daemon.events.clone(), clock);
        let bucket = outside.folder.path().join("hearth-local");
        host.artifacts = Artifacts::open("hearth-local", &bucket, 64 << 20, Disk::unlimited()).unwrap();
        let bases = bases(3);
        let role_policies = access().role_policies();
        let parts = Parts {
            damaged: crate::scrub::Damaged::default(),
            disk: Disk::unlimited(),
            db: daemon.db.clone(),
            clock,
            microvms,
            images: daemon.images.clone(),
            artifacts: ArtifactConfig::default(),
            bases: Catalogue::open(bases.path()).unwrap(),
            tokens: Tokens::open(&daemon.db, clock, "us-east-1").await.unwrap(),
            roles: Arc::new(RoleProvider::new(roles()).unwrap()),
            host,
            observer: Arc::new(outside.observed.clone()),
            config: ServiceConfig { limits, role_policies, ..ServiceConfig::new("us-east-1", profile) },
        };
        let service = Service::new(parts).await.unwrap();
        let access = Access::new(&access(), "us-east-1").unwrap().with_sessions(service.sessions().clone());
        let access = Arc::new(access);
        Self { service, access, daemon, outside, builder, _bases: bases }
    }

    /// The double of the host.
    pub(crate) fn host(&self) -> &Double {
        &self.builder.host
    }

    /// A caller who may do everything in an account.
    pub(crate) fn caller(account: &str) -> Caller {
        Caller {
            account: account.into(),
            principal: "key".into(),
            policies: [Policy::everything()].into(),
            role: None,
            request_id: "id".into(),
        }
    }
}

fn access() -> AccessConfig {
    let mut text = String::new();
    for (id, secret, account) in KEYS {
        text += &format!("[[keys]]\nid = \"{id}\"\nsecret = \"{secret}\"\naccount = \"{account}\"\n");
        if id == "HKREADER" {
            text += "policies = [{ actions = [\"GetMicrovmImage\", \"ListMicrovmImages\"] }]\n";
        }
        if id == "HKNOTHING" {
            text += "policies = []\n";
        }
    }
    text += &format!("[roles.\"{DEPLOY}\"]\n");
    text += "policies = [{ actions = [\"*Microvm\"], images = [\"deploy-*\"] }]\n";
    toml::from_str(&text).unwrap()
}

/// Roles stand for nothing, which is enough for builds and launches without a host.
fn roles() -> RolesConfig {
    toml::from_str("[rules]\n\"arn:aws:iam::*:role/*\" = \"none\"\n").unwrap()
}

/// A catalogue with base images that nothing can be built with.
fn bases(count: u64) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let record = FileRecord { sha256: "0".repeat(64), size: 0 };
    let names = ["Image", "initramfs.cpio", "builder.erofs", "containers.erofs"];
    for version in 1..=count {
        let manifest = Manifest {
            format: FORMAT,
            version,
            created: 1_790_000_000 + version,
            files: names.iter().map(|name| ((*name).to_owned(), record.clone())).collect(),
            inputs_sha256: String::new(),
            inputs: Inputs {
                kernel: Kernel {
                    kind: "image".into(),
                    release: "6".into(),
                    image: record.clone(),
                    packages: vec![],
                    modules: vec![],
                },
                guest: record.clone(),
                openssl: None,
                recipe: Recipe::own().unwrap(),
                sources: Sources::default(),
                builder_packages: vec![],
                container_packages: BTreeMap::new(),
            },
            containers: vec![],
        };
        let path = folder.path().join(version.to_string());
        fs::create_dir(&path).unwrap();
        fs::write(path.join("base.json"), serde_json::to_string(&manifest).unwrap()).unwrap();
    }
    folder
}
