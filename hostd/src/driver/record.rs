//! Conversions between a microVM's record, the state of its machine and the platform's spec.

use hearth_host::network::Egress;
use hearth_model::build::ImageBuild;
use hearth_model::id::{IdError, MicrovmId};
use hearth_proto::microvms::v1::Microvm;
use hearth_proto::store::v1::{MicrovmRecord, Phase};
use prost_types::Timestamp;

use crate::clock;
use crate::hooks;
use crate::lifecycle::microvm::State;
use crate::platform::{LogTarget, Spec};
use crate::records::{self, Expiry};
use crate::store::{Batch, Table};

/// The state of the machine, as the record holds it.
#[must_use]
pub fn state(record: &MicrovmRecord) -> State {
    State {
        phase: record.phase(),
        wish: record.wish(),
        suspend_hook_done: record.suspend_hook_done,
        suspends: record.suspends,
        reason: public(record).state_reason.clone(),
    }
}

/// A copy of the record with another state of the machine, entered at `now`.
#[must_use]
pub fn with_state(record: &MicrovmRecord, state: &State, now: Timestamp) -> MicrovmRecord {
    let mut record = record.clone();
    if record.phase() != state.phase {
        record.phase_since = Some(now);
    }
    record.set_phase(state.phase);
    record.set_wish(state.wish);
    record.suspend_hook_done = state.suspend_hook_done;
    record.suspends = state.suspends;
    if !matches!(state.phase, Phase::Launching | Phase::RunHook) {
        record.run_hook_payload.clear(); // delivered already, or no longer needed
    }
    let microvm = record.microvm.get_or_insert_default();
    microvm.set_state(state.visible());
    microvm.state_reason.clone_from(&state.reason);
    if state.phase == Phase::Terminated && microvm.terminated_at.is_none() {
        microvm.terminated_at = Some(now);
    }
    record
}

/// The response of GetMicrovm.
#[must_use]
pub fn public(record: &MicrovmRecord) -> Microvm {
    record.microvm.clone().unwrap_or_default()
}

/// The microVM's id.
#[must_use]
pub fn id(record: &MicrovmRecord) -> &str {
    record.microvm.as_ref().map_or("", |microvm| microvm.microvm_id.as_str())
}

/// The key of the microVM's record.
#[must_use]
pub fn key(record: &MicrovmRecord) -> Vec<u8> {
    records::microvm(&record.account, id(record))
}

/// A timestamp in milliseconds since 1970.
#[must_use]
pub fn millis(timestamp: Option<&Timestamp>) -> u64 {
    let time = timestamp.map(clock::time);
    let since = time.and_then(|time| time.duration_since(std::time::UNIX_EPOCH).ok()).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

fn started_ms(record: &MicrovmRecord) -> u64 {
    millis(record.microvm.as_ref().and_then(|microvm| microvm.started_at.as_ref()))
}

/// The ids in a record, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ids {
    /// The microVM's id.
    pub microvm: MicrovmId,
    /// The build whose files the microVM runs from, which belongs to the microVM's account.
    pub build: ImageBuild,
}

impl Ids {
    /// The ids in a record.
    ///
    /// # Errors
    /// [`IdError`] if the record is damaged.
    pub fn of(record: &MicrovmRecord) -> Result<Self, IdError> {
        let MicrovmRecord { account, image_uid, version_number, build_id, .. } = record;
        Ok(Self {
            microvm: id(record).parse()?,
            build: ImageBuild::parse(account, image_uid, *version_number, build_id)?,
        })
    }
}

/// The specification from which the platform makes the microVM. `ids` are those of the record.
#[must_use]
pub fn spec(record: &MicrovmRecord, ids: &Ids) -> Spec {
    let microvm = public(record);
    Spec {
        id: ids.microvm.clone(),
        account: ids.build.account.clone(),
        image_arn: microvm.image_arn,
        image_name: record.image_name.clone(),
        image_version: microvm.image_version,
        build: ids.build.clone(),
        memory_mib: record.memory_mib,
        hooks: record.hooks.as_ref().map(hooks::enabled).unwrap_or_default(),
        execution_role_arn: microvm.execution_role_arn,
        egress: if record.internet_egress { Egress::Internet } else { Egress::None },
        log: (!record.log_group.is_empty())
            .then(|| LogTarget { group: record.log_group.clone(), stream: record.log_stream.clone() }),
        run_hook_payload: record.run_hook_payload.clone(),
        suspends: record.suspends,
    }
}

/// The batch that stores a new microVM with its indices and its use of the image's files.
#[must_use]
pub fn insert(record: &MicrovmRecord) -> Batch {
    let (account, id, started) = (&record.account, id(record), started_ms(record));
    let version = record.version_number.to_be_bytes().to_vec();
    Batch::new()
        .expect_absent(Table::Microvms, key(record))
        .put(Table::Microvms, key(record), records::encode(record))
        .put(Table::MicrovmsByTime, records::microvm_by_time(account, started, id), Vec::new())
        .put(
            Table::MicrovmsByImage,
            records::microvm_by_image(account, &record.image_name, started, id),
            version,
        )
        .put(Table::ArtifactUses, records::artifact_use(&record.build_id, id), Vec::new())
}

/// The batch that stores a change of a microVM. A terminated microVM gives up its use of the image's files, and
/// expires at `expires_ms`.
#[must_use]
pub fn update(record: &MicrovmRecord, expires_ms: u64) -> Batch {
    let batch = Batch::new().put(Table::Microvms, key(record), records::encode(record));
    match record.phase() {
        Phase::Terminated => {}
        Phase::TerminateHook | Phase::Ending => return batch.ending(),
        _ => return batch,
    }
    batch.ending().delete(Table::ArtifactUses, records::artifact_use(&record.build_id, id(record))).put(
        Table::Expiries,
        records::expiry(expires_ms, Expiry::Microvm, &key(record)),
        Vec::new(),
    )
}

/// The batch that removes a terminated microVM with its indices.
#[must_use]
pub fn remove(record: &MicrovmRecord) -> Batch {
    let (account, id, started) = (&record.account, id(record), started_ms(record));
    Batch::new()
        .delete(Table::Microvms, key(record))
        .delete(Table::MicrovmsByTime, records::microvm_by_time(account, started, id))
        .delete(Table::MicrovmsByImage, records::microvm_by_image(account, &record.image_name, started, id))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_with_a_text_that_is_no_id_is_damaged() {
        let microvm = Microvm { microvm_id: "microvm-1".into(), ..Microvm::default() };
        let good = MicrovmRecord {
            account: "111122223333".into(),
            image_uid: "uid".into(),
            build_id: "build".into(),
            microvm: Some(microvm),
            ..MicrovmRecord::default()
        };
        let ids = Ids::of(&good).unwrap();
        assert_eq!((ids.microvm.as_str(), spec(&good, &ids).account.as_str()), ("microvm-1", "111122223333"));
        let microvm = Microvm { microvm_id: "microvm-1/../x".into(), ..Microvm::default() };
        for bad in [
            MicrovmRecord { microvm: Some(microvm), ..good.clone() },
            MicrovmRecord { account: "1".into(), ..good.clone() },
            MicrovmRecord { image_uid: String::new(), ..good.clone() },
            MicrovmRecord { build_id: "..".into(), ..good },
        ] {
            assert!(Ids::of(&bad).is_err(), "{bad:?}");
        }
    }
}
