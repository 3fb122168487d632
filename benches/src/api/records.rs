//! MicroVMs as the daemon stores them.

use hearth_hostd::records;
use hearth_hostd::store::{Batch, Table};
use hearth_proto::microvms::v1::{Microvm, MicrovmState};
use hearth_proto::store::v1::{MicrovmRecord, Phase};
use prost_types::Timestamp;

/// The account of the microVMs.
pub(crate) const ACCOUNT: &str = "111122223333";
const IMAGE: &str = "bench";
/// Start time of the first microVM, in seconds since 1970: long enough ago that a wrong clock does no harm.
const FIRST: u64 = 1_780_000_000;

/// Id of the microVM with a number.
pub(crate) fn id(number: u64) -> String {
    // The number is mixed: real ids are random, so that neighbours in the table were not started one after the other.
    let mixed = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    format!("microvm-{:08x}-{:04x}-4000-8000-{number:012x}", mixed >> 32, (mixed >> 16) & 0xffff)
}

/// Start time of a microVM in milliseconds since 1970: one starts per second.
pub(crate) fn started_ms(number: u64) -> u64 {
    (FIRST + number) * 1000
}

/// A terminated microVM, like almost all in a store with a million.
pub(crate) fn microvm(number: u64) -> MicrovmRecord {
    let timestamp = |milliseconds: u64| Timestamp {
        seconds: i64::try_from(milliseconds / 1000).unwrap_or_default(),
        nanos: 0,
    };
    let connector = |name: &str| {
        vec![format!("arn:aws:lambda:us-east-1:aws:network-connector:aws-network-connector:{name}")]
    };
    let microvm = Microvm {
        microvm_id: id(number),
        state: MicrovmState::Terminated.into(),
        endpoint: format!("{:032x}.lambda-microvm.us-east-1.localhost", number),
        image_arn: format!("arn:aws:lambda:us-east-1:{ACCOUNT}:microvm-image:{IMAGE}"),
        image_version: "1.0".into(),
        maximum_duration_in_seconds: 28_800,
        started_at: Some(timestamp(started_ms(number))),
        terminated_at: Some(timestamp(started_ms(number) + 60_000)),
        state_reason: Some("Success.".into()),
        ingress_network_connectors: connector("HTTP_INGRESS"),
        egress_network_connectors: connector("INTERNET_EGRESS"),
        ..Microvm::default()
    };
    MicrovmRecord {
        account: ACCOUNT.into(),
        microvm: Some(microvm),
        phase: Phase::Terminated.into(),
        image_name: IMAGE.into(),
        build_id: "00000000-0000-4000-8000-000000000000".into(),
        memory_mib: 512,
        phase_since: Some(timestamp(started_ms(number) + 60_000)),
        ..MicrovmRecord::default()
    }
}

/// The batch that creates a microVM: the record and its indices.
pub(crate) fn insert(number: u64) -> Batch {
    let (id, started) = (id(number), started_ms(number));
    Batch::new()
        .put(Table::Microvms, records::microvm(ACCOUNT, &id), records::encode(&microvm(number)))
        .put(Table::MicrovmsByTime, records::microvm_by_time(ACCOUNT, started, &id), Vec::new())
        .put(
            Table::MicrovmsByImage,
            records::microvm_by_image(ACCOUNT, IMAGE, started, &id),
            1_u32.to_be_bytes().to_vec(),
        )
}

/// The batch that changes a microVM's state: as large as when it runs, is suspended, or is terminated.
pub(crate) fn update(number: u64) -> Batch {
    let record = microvm(number);
    Batch::new().put(Table::Microvms, records::microvm(ACCOUNT, &id(number)), records::encode(&record))
}
