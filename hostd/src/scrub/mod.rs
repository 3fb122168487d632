//! The scrub: reads images and suspended states now and then, and finds what the disk has damaged.
//!
//! ```text
//!  objects: what is there, when was it read ──► worker: a process in a jail reads it ──► record beside nothing that a
//!  (DATA/images, DATA/microvms)                 (at a bounded rate, idle priority)       launch reads; log, metric, event
//! ```
//!
//! A launch reads little of an image and compares nothing, so that a damaged one would be noticed by guests. One task goes
//! through all objects, the one that was read longest ago first. It takes no lock that anything else waits for: files are
//! open while they are read, and whoever removes them meanwhile ends the reading. What is known stays in `DATA/scrub`:
//! when each object was read, what is damaged, and checksums of files that came without. Launches from a version that is
//! known to be damaged are refused ([`Damaged`]), until a later reading finds it whole.
//!
//! * [`objects`] – images and suspended states, and what is kept of each
//! * [`worker`] – the process that reads an object
//! * [`damaged`] – what launches ask

mod damaged;
mod objects;
mod worker;

#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::time::Duration;

use hearth_model::build::ImageBuild;
use hearth_model::version::ImageVersion;
use hearth_proto::host::v1::Event;
use hearth_proto::store::v1::ImageRecord;
use hearth_vmm_jail::JailConfig;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::task::spawn_blocking;
use tokio::time::sleep;

pub use damaged::Damaged;

use self::objects::{Intervals, Key, Object, Objects, Record};
use self::worker::{Found, Outcome, Worker};
use crate::clock::Clock;
use crate::driver::Microvms;
use crate::events::Events;
use crate::metrics::Metrics;
use crate::records;
use crate::service::ServiceConfig;
use crate::setting::Problem;
use crate::store::{Db, Scan, Table};

/// User and group id of the process that reads, above those of processes that fetch artifacts.
pub const USER_ID: u32 = 1_914_194_305;
/// Pause before what is there is listed again.
const LOOK: Duration = Duration::from_secs(60);
/// State of an event about an object that is damaged.
const DAMAGED: &str = "DAMAGED";
/// Images of an account that are read from the store at a time.
const PAGE: usize = 64;

/// How often images and suspended states are read, to find what the disk has damaged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ScrubConfig {
    /// Days between two readings of an image; 0 turns all of it off, and forgets which versions are damaged. Suspended states are read
    /// an hour after their suspend, and every three hours.
    #[schemars(range(max = 365))]
    pub interval_days: u32,
    /// How much is read in a second, in MiB.
    #[schemars(range(min = 1, max = 100_000))]
    pub mib_per_second: u32,
}

impl Default for ScrubConfig {
    fn default() -> Self {
        Self { interval_days: 7, mib_per_second: 50 }
    }
}

impl ScrubConfig {
    /// What is wrong with the settings.
    pub(crate) fn problems(self) -> Vec<Problem> {
        let mut problems = Vec::new();
        if self.interval_days > 365 {
            problems.push(Problem::new("scrub.interval_days", "write 0 to 365"));
        }
        if !(1..=100_000).contains(&self.mib_per_second) {
            problems.push(Problem::new("scrub.mib_per_second", "write 1 to 100000"));
        }
        problems
    }
}

/// What the scrub works with.
pub(crate) struct Parts {
    pub(crate) config: ScrubConfig,
    pub(crate) data: PathBuf,
    pub(crate) run: PathBuf,
    /// The program `hearth-vmm`.
    pub(crate) vmm: PathBuf,
    /// The walls around the process that reads.
    pub(crate) jail: JailConfig,
    /// What names of images are made of.
    pub(crate) service: ServiceConfig,
    pub(crate) clock: Clock,
    pub(crate) db: Db,
    pub(crate) microvms: Microvms,
    pub(crate) events: Events,
    pub(crate) metrics: Metrics,
    pub(crate) damaged: Damaged,
}

/// The scrub.
pub(crate) struct Scrub {
    parts: Parts,
    objects: Objects,
    worker: Worker,
}

impl Scrub {
    /// Reads what earlier daemons have found.
    pub(crate) fn open(parts: Parts) -> Self {
        let intervals =
            Intervals::of_images(Duration::from_secs(u64::from(parts.config.interval_days) * 24 * 3600));
        let objects = Objects::new(&parts.data, intervals);
        // Without readings, nothing could be found to be whole again.
        let known = if parts.config.interval_days > 0 { objects.list() } else { Vec::new() };
        for object in known {
            if let Key::Image(build) = &object.key {
                parts.damaged.set(build, object.record.refusal());
            }
        }
        let worker = Worker {
            program: parts.vmm.clone(),
            run: parts.run.join("scrub"),
            jail: parts.jail.clone(),
            rate: u64::from(parts.config.mib_per_second) << 20,
        };
        Self { parts, objects, worker }
    }

    /// Reads what is due, as long as the daemon runs. A reading ends when this is dropped.
    pub(crate) async fn keep_scrubbing(self) {
        if self.parts.config.interval_days == 0 {
            return;
        }
        // What is known to be damaged is read again soon after each start: its disk may be a new one.
        let mut begun = false;
        loop {
            let (objects, now) = (self.objects.clone(), self.parts.clock.now());
            let Ok(due) = spawn_blocking(move || objects.due(now, !begun)).await else { return };
            begun = true;
            for object in due {
                self.scrub(object).await;
            }
            sleep(LOOK).await;
        }
    }

    async fn scrub(&self, object: Object) {
        let outcome = self.worker.read(&object, &self.parts.metrics).await;
        let before = object.record.clone();
        let (mut record, now) = (before.clone(), objects::seconds(self.parts.clock.now()));
        match outcome {
            Outcome::Gone => return,
            Outcome::Unknown(why) => {
                tracing::warn!(object = %object.folder.display(), why, "it could not be verified: it is tried again later");
                record.tried = now;
            }
            Outcome::Read(found) => {
                self.report(&object, &before, &found);
                self.parts.metrics.scrubbed(now);
                record.checked = now;
                record.damage = found.damage;
                record.uncovered = found.uncovered;
            }
        }
        if let Key::Image(build) = &object.key {
            self.parts.damaged.set(build, record.refusal());
        }
        if let Err(error) = object.store(&record) {
            tracing::warn!(object = %object.folder.display(), %error, "what the scrub has found cannot be kept");
        }
    }

    fn report(&self, object: &Object, before: &Record, found: &Found) {
        for (file, text) in &found.damage {
            tracing::error!(object = %object.folder.display(), file, damage = text, "a file is damaged");
            self.parts.metrics.scrub_error();
        }
        let (was, is) = (!before.damage.is_empty(), !found.damage.is_empty());
        if was && !is {
            tracing::info!(object = %object.folder.display(), "what was damaged is whole again");
        }
        if was != is {
            self.publish(object, is, found.damage.first().map(|(file, text)| format!("{file}: {text}")));
        }
    }

    /// Sends an event to the account that owns the object.
    fn publish(&self, object: &Object, is_damaged: bool, reason: Option<String>) {
        let state = |damaged: bool| if damaged { DAMAGED.to_owned() } else { String::new() };
        let mut event = Event {
            time: Some(self.parts.clock.timestamp()),
            from_state: state(!is_damaged),
            to_state: state(is_damaged),
            reason,
            ..Event::default()
        };
        let account = match &object.key {
            Key::Image(build) => {
                let Some(name) = self.name(build) else { return };
                "version".clone_into(&mut event.kind);
                event.resource = self.parts.service.image_arn(build.account.as_str(), &name);
                event.image_version = Some(ImageVersion::from(build.version).to_string());
                build.account.to_string()
            }
            Key::State { microvm, .. } => {
                let owner = self.parts.microvms.owners().into_iter().find(|(id, _)| id == microvm);
                let Some((id, account)) = owner else { return };
                "microvm".clone_into(&mut event.kind);
                event.resource = id;
                account
            }
        };
        self.parts.events.publish(&account, event);
    }

    /// The name of a build's image.
    fn name(&self, build: &ImageBuild) -> Option<String> {
        let prefix = records::account(build.account.as_str());
        let mut after = None;
        loop {
            let scan = Scan { table: Table::Images, prefix: &prefix, after: after.as_deref(), limit: PAGE };
            let page = self.parts.db.scan(&scan).ok()?;
            for (key, value) in &page {
                let record: ImageRecord = self.parts.db.decode(Table::Images, key, value).ok()?;
                if record.uid == build.image_uid.as_str() {
                    return Some(record.name);
                }
            }
            after = Some(page.last()?.0.clone());
        }
    }
}
