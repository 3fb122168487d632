//! Converts notifications of drivers, builds and calls into events, metrics and audit lines.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::Duration;

use hearth_proto::host::v1::Event;
use hearth_proto::store::v1::MicrovmRecord;
use serde_json::Value;
use tokio::time::Instant;

use crate::access::Caller;
use crate::audit::{Audit, AuditConfig, AuditEvent, Identity, Recorded, Role};
use crate::builds::Images;
use crate::clock::Clock;
use crate::driver::context::{Change, MicrovmObserver};
use crate::driver::record;
use crate::events::Events;
use crate::lifecycle::microvm::{self, Phase};
use crate::metrics::{Metrics, Outcome};
use crate::operation::Operation;
use crate::panics::poisoned;
use crate::platform::host::{self, TimedOperation as Timed};
use crate::service::observe::{Call, CallObserver, StsCall};

/// MiB of memory for each vCPU of a baseline (docs/behaviour.md, "Memory classes").
const MIB_PER_VCPU: f64 = 2048.0;

/// Observes the drivers of microVMs.
pub(super) struct MicrovmNotifications {
    events: Events,
    metrics: Metrics,
    images: Images,
    clock: Clock,
    /// When each microVM's present transition began (launch, suspend or resume), and since when it has been running.
    since: Mutex<HashMap<String, StartTimes>>,
}

#[derive(Default)]
struct StartTimes {
    transition: Option<Instant>,
    running: Option<Instant>,
}

impl MicrovmNotifications {
    pub(super) fn new(events: Events, metrics: Metrics, images: Images, clock: Clock) -> Self {
        Self { events, metrics, images, clock, since: Mutex::default() }
    }

    fn with<T>(&self, id: &str, look: impl FnOnce(&mut StartTimes) -> T) -> T {
        let mut since = self.since.lock().unwrap_or_else(poisoned);
        look(since.entry(id.to_owned()).or_default())
    }

    fn event(&self, record: &MicrovmRecord, from: &str, to: &str, reason: Option<String>) {
        let event = Event {
            time: Some(self.clock.timestamp()),
            kind: "microvm".to_owned(),
            resource: record::id(record).to_owned(),
            image_version: record.microvm.as_ref().map(|microvm| microvm.image_version.clone()),
            from_state: from.to_owned(),
            to_state: to.to_owned(),
            reason,
        };
        self.events.publish(&record.account, event);
    }

    /// Measures launches, suspends and resumes, from the request to the requested state.
    fn transition(&self, change: &Change<'_>) {
        use Phase::{
            Ending, Launching, Restoring, ResumeAfterCancel, RunHook, Running, SuspendHook, Suspended,
        };
        let id = record::id(change.after);
        let (from, to) = (change.from.phase, change.to.phase);
        let begins = matches!(to, SuspendHook | Restoring) && !matches!(from, SuspendHook | Restoring);
        if begins {
            self.with(id, |since| since.transition = Some(Instant::now()));
        }
        let took = || {
            self.with(id, |since| since.transition.take()).map(|since| since.elapsed()).unwrap_or_default()
        };
        match (from, to) {
            (RunHook, Running) => self.metrics.launched(Outcome::Succeeded, took()),
            (Launching | RunHook, Ending) => self.metrics.launched(Outcome::Failed, took()),
            (Phase::Saving, Suspended) => self.metrics.suspended(Outcome::Succeeded, took()),
            (SuspendHook | Phase::Saving, ResumeAfterCancel) => {
                self.metrics.suspended(Outcome::Cancelled, took())
            }
            (SuspendHook | Phase::Saving, Running | Ending) => {
                self.metrics.suspended(Outcome::Failed, took())
            }
            (Phase::ResumeHook, Running) => self.metrics.resumed(Outcome::Succeeded, took()),
            (Restoring, Suspended) | (Restoring | Phase::ResumeHook, Ending) => {
                self.metrics.resumed(Outcome::Failed, took());
            }
            _ => {}
        }
    }

    /// Counts the running time of a microVM for the usage counters: from the end of the launch, or from the beginning
    /// of a restore, until the microVM is SUSPENDED or its removal begins.
    fn usage(&self, change: &Change<'_>) {
        let (id, record) = (record::id(change.after), change.after);
        let runs =
            |phase| !matches!(phase, Phase::Launching | Phase::Suspended | Phase::Ending | Phase::Terminated);
        match (runs(change.from.phase), runs(change.to.phase)) {
            (false, true) => self.with(id, |since| since.running = Some(Instant::now())),
            (true, false) => {
                if let Some(running) = self.with(id, |since| since.running.take()) {
                    let vcpus = f64::from(record.memory_mib) / MIB_PER_VCPU;
                    self.metrics.ran(&record.account, vcpus, record.memory_mib, running.elapsed());
                }
            }
            _ => {}
        }
    }
}

impl MicrovmObserver for MicrovmNotifications {
    fn launch_accepted(&self, record: &MicrovmRecord) {
        self.with(record::id(record), |since| since.transition = Some(Instant::now()));
        self.event(record, "", "PENDING", None);
    }

    fn state_changed(&self, change: &Change<'_>) {
        self.transition(change);
        self.usage(change);
        let (from, to) = (change.from.visible().as_str_name(), change.to.visible().as_str_name());
        if from != to || change.from.reason != change.to.reason {
            self.event(change.after, from, to, change.to.reason.clone());
        }
    }

    fn effect_finished(&self, effect: &'static str, outcome: &microvm::Event, took: Duration) {
        if let microvm::Event::Hook(hook, outcome) = outcome {
            self.metrics.hook(*hook, outcome);
        }
        self.metrics.step("microvm", effect, took);
    }

    fn terminated(&self, record: &MicrovmRecord) {
        self.since.lock().unwrap_or_else(poisoned).remove(record::id(record));
        self.images.released(&record.build_id);
    }
}

/// Observes the platform: the duration of each step.
pub(super) fn timelines(metrics: &Metrics) -> host::TimelineObserver {
    let metrics = metrics.clone();
    host::TimelineObserver::new(move |report| {
        let operation = match report.operation {
            Timed::Launch => "launch",
            Timed::Resume => "resume",
            Timed::Suspend => "suspend",
            Timed::Adopt => "adopt",
            Timed::Discard => "discard",
        };
        for (step, took) in report.timeline.steps() {
            metrics.step(operation, step, *took);
        }
    })
}

/// Observes calls of the API.
pub(super) struct CallNotifications {
    audit: Audit,
    /// Which calls are audited: requests of other calls need not be converted.
    audited: AuditConfig,
    metrics: Metrics,
    region: String,
}

impl CallNotifications {
    pub(super) fn new(audit: Audit, audited: AuditConfig, metrics: Metrics, region: String) -> Self {
        Self { audit, audited, metrics, region }
    }
}

impl CallObserver for CallNotifications {
    fn wants(&self, operation: Operation) -> bool {
        self.audited.enabled && (self.audited.reads || !operation.is_read())
    }

    fn called(&self, call: Call<'_>) -> Recorded {
        let code = call.error.map_or("OK", |error| error.exception().name);
        self.metrics.called(call.operation.name(), code, call.took);
        if !self.wants(call.operation) {
            return Recorded::default();
        }
        let message = call.error.map(ToString::to_string);
        self.audit.record(AuditEvent {
            service: "lambda.amazonaws.com",
            operation: call.operation.name(),
            region: &self.region,
            identity: identity(call.caller),
            source: call.address,
            user_agent: Some(call.user_agent).filter(|agent| !agent.is_empty()),
            request_id: call.request_id,
            request: call.request,
            response: Some(call.response).filter(|response| !response.is_null()),
            additional: Value::Null,
            error: message.as_deref().map(|message| (code, message)),
        })
    }

    fn sts(&self, call: StsCall<'_>) -> Recorded {
        self.metrics.called(call.action, call.error.map_or("OK", |(code, _)| code), call.took);
        self.audit.record(AuditEvent {
            service: "sts.amazonaws.com",
            operation: call.action,
            region: &self.region,
            identity: identity(call.caller),
            source: call.address,
            user_agent: Some(call.user_agent).filter(|agent| !agent.is_empty()),
            request_id: call.request_id,
            request: call.request,
            response: Some(call.response).filter(|response| !response.is_null()),
            additional: Value::Null,
            error: call.error,
        })
    }
}

fn identity(caller: Option<&Caller>) -> Identity<'_> {
    let Some(caller) = caller else { return Identity::default() };
    let principal = caller.principal.as_str();
    let role = caller.role.as_deref();
    Identity {
        account: Some(&caller.account),
        principal: Some(principal),
        access_key_id: match role {
            Some(role) => Some(&role.access_key_id),
            // Other principals are users of this host, and certificates.
            None => Some(principal).filter(|principal| !principal.contains(':')),
        },
        role: role.map(|role| Role { arn: &role.role_arn, maker: &role.maker }),
    }
}
