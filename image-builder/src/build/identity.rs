//! The identity that a guest gets after it has booted or was restored.

use std::fs::File;
use std::io::Read as _;
use std::time::{SystemTime, UNIX_EPOCH};

use hearth_model::id::MicrovmId;
use hearth_proto::guest::v1 as proto;
use uuid::Uuid;

use super::error::BuildError;
use super::stage::Stage;

/// Bytes of entropy for a guest's random number generator.
const ENTROPY: usize = 64;

/// A guest's identity.
pub(super) struct Identity<'a> {
    pub(super) microvm_id: &'a MicrovmId,
    pub(super) metadata: Option<proto::Metadata>,
    pub(super) credentials: Option<proto::Credentials>,
}

impl Identity<'_> {
    /// The message for the agent of `stage`, with fresh entropy and the current time.
    pub(super) fn message(self, stage: &Stage) -> Result<proto::Identify, BuildError> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
        Ok(proto::Identify {
            microvm_id: self.microvm_id.to_string(),
            wall_clock_ns: u64::try_from(now).unwrap_or_default(),
            entropy: random::<ENTROPY>()?.to_vec(),
            network: stage.guest_network(),
            hostname: String::new(),
            machine_id: String::new(),
            metadata: self.metadata,
            credentials: self.credentials,
        })
    }
}

/// A new microVM id.
pub(super) fn random_id() -> MicrovmId {
    MicrovmId::with_uuid(Uuid::new_v4())
}

/// Random bytes of the host's kernel.
pub(super) fn random<const N: usize>() -> Result<[u8; N], BuildError> {
    let mut bytes = [0; N];
    let read = File::open("/dev/urandom").and_then(|mut source| source.read_exact(&mut bytes));
    read.map_err(|error| BuildError::Platform(format!("reading /dev/urandom: {error}")))?;
    Ok(bytes)
}
