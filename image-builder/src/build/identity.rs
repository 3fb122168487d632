//! Who a guest is told to be, after it has booted or was restored.

use std::fs::File;
use std::io::Read as _;
use std::time::{SystemTime, UNIX_EPOCH};

use hearth_proto::guest::v1 as proto;

use super::error::BuildError;
use super::stage::Stage;

/// Bytes of entropy for a guest's random number generator.
const ENTROPY: usize = 64;

/// Who a guest is.
pub(super) struct Identity<'a> {
    pub(super) microvm_id: &'a str,
    pub(super) metadata: Option<proto::Metadata>,
    pub(super) credentials: Option<proto::Credentials>,
}

impl Identity<'_> {
    /// The message for the agent of `stage`, with fresh entropy and the time of now.
    pub(super) fn message(self, stage: &Stage) -> Result<proto::Identify, BuildError> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
        Ok(proto::Identify {
            microvm_id: self.microvm_id.to_owned(),
            wall_clock_ns: u64::try_from(now).unwrap_or_default(),
            entropy: random::<ENTROPY>()?.to_vec(),
            network: stage.guest_network(),
            hostname: String::new(),
            metadata: self.metadata,
            credentials: self.credentials,
        })
    }
}

/// A new microVM id: `microvm-` and a random UUID (RFC 9562, version 4).
pub(super) fn random_id() -> Result<String, BuildError> {
    let value = u128::from_be_bytes(random()?);
    let uuid = value & !(0xf << 76) & !(0x3 << 62) | (0x4 << 76) | (0x2 << 62);
    let hex = format!("{uuid:032x}");
    let parts = [0..8, 8..12, 12..16, 16..20, 20..32].map(|range| hex.get(range).unwrap_or_default());
    Ok(format!("microvm-{}", parts.join("-")))
}

/// Random bytes of the host's kernel.
pub(super) fn random<const N: usize>() -> Result<[u8; N], BuildError> {
    let mut bytes = [0; N];
    let read = File::open("/dev/urandom").and_then(|mut source| source.read_exact(&mut bytes));
    read.map_err(|error| BuildError::Platform(format!("reading /dev/urandom: {error}")))?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_random_uuids() {
        let (one, other) = (random_id().unwrap(), random_id().unwrap());
        assert_ne!(one, other);
        let uuid = one.strip_prefix("microvm-").unwrap();
        assert_eq!(uuid.split('-').map(str::len).collect::<Vec<_>>(), [8, 4, 4, 4, 12]);
        assert_eq!(uuid.as_bytes()[14], b'4', "version");
        assert!(b"89ab".contains(&uuid.as_bytes()[19]), "variant");
    }
}
