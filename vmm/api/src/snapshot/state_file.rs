//! The file `state`: a header, then one protobuf message.
//!
//! ```text
//!  0  magic "HRTHSTAT"          16  length of the message (u64)
//!  8  version (u32)             24  CRC-32 of bytes 0–23 and the message (u32)
//! 12  architecture (u32)        28  zero (u32)
//! 32  the message, `hearth.vmm.v1.SavedMachine`
//! ```
//!
//! All numbers are little-endian. A reader rejects unknown values and reports the value that it found.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

use hearth_proto::vmm::v1::SavedMachine;
use prost::Message as _;

use super::ID_LEN;

/// The version that this program writes, and the only one that it reads.
pub const VERSION: u32 = 1;
/// The number of the architecture aarch64.
pub const AARCH64: u32 = 1;
/// Maximum size of a file that is read, in bytes. A machine with 16 vCPUs and 32 devices stays far below.
pub const MAX_BYTES: u64 = 16 << 20;

const MAGIC: [u8; 8] = *b"HRTHSTAT";
const HEADER: usize = 32;
const CHECKED: usize = 24;

/// The reason for which a file is not a state that can be restored.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The file is too short or has another magic.
    #[error(
        "the file is not a saved state: it does not begin with the state's magic; pass the file `state` of a snapshot"
    )]
    NotAState,
    /// The file was written by another release, in another version of the format.
    #[error("the saved state has format version {0}, this hearth-vmm {program} reads version {VERSION}: restore it with the release that wrote it",
            program = env!("CARGO_PKG_VERSION"))]
    Version(u32),
    /// The machine has another architecture.
    #[error("the saved state is of architecture {0}, this host runs architecture {AARCH64} (aarch64)")]
    Architecture(u32),
    /// The file has another length than its header contains.
    #[error(
        "the saved state is damaged: it has {found} bytes instead of {expected}; restore it from its source"
    )]
    Length {
        /// Size of the file in bytes.
        found: u64,
        /// Size according to the header, in bytes.
        expected: u64,
    },
    /// The checksum is wrong.
    #[error(
        "the saved state is damaged: checksum {found:#010x}, computed {computed:#010x}; restore it from its source"
    )]
    Checksum {
        /// The checksum in the file.
        found: u32,
        /// The checksum that was computed.
        computed: u32,
    },
    /// The checksum is right, but the message cannot be decoded.
    #[error("the saved state makes no sense: {0}")]
    Message(#[from] prost::DecodeError),
    /// A part of the state is missing or has an invalid value.
    #[error("the saved state makes no sense: {0}")]
    Content(String),
    /// The file cannot be read.
    #[error("reading the saved state: {0}")]
    Read(#[from] io::Error),
}

impl StateError {
    /// Creates the error for an invalid part of the state.
    #[must_use]
    pub fn content(what: impl Into<String>) -> Self {
        Self::Content(what.into())
    }
}

/// Encodes `machine` as the contents of the file.
#[must_use]
pub fn encode(machine: &SavedMachine) -> Vec<u8> {
    let length = machine.encoded_len();
    let mut bytes = Vec::with_capacity(HEADER + length);
    bytes.extend_from_slice(&MAGIC);
    bytes.extend_from_slice(&VERSION.to_le_bytes());
    bytes.extend_from_slice(&AARCH64.to_le_bytes());
    bytes.extend_from_slice(&(length as u64).to_le_bytes());
    bytes.extend_from_slice(&[0; HEADER - CHECKED]);
    machine.encode_raw(&mut bytes);
    let checksum = checksum(&bytes).to_le_bytes();
    if let Some(place) = bytes.get_mut(CHECKED..CHECKED + checksum.len()) {
        place.copy_from_slice(&checksum);
    }
    bytes
}

fn checksum(bytes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(bytes.get(..CHECKED).unwrap_or_default());
    hasher.update(bytes.get(HEADER..).unwrap_or_default());
    hasher.finalize()
}

/// Decodes the contents of the file.
///
/// # Errors
/// [`StateError`] that describes what is wrong with the contents.
pub fn decode(bytes: &[u8]) -> Result<SavedMachine, StateError> {
    let number = |at: usize| {
        let bytes = bytes.get(at..at + 4).and_then(|bytes| bytes.try_into().ok());
        bytes.map(u32::from_le_bytes).ok_or(StateError::NotAState)
    };
    if bytes.get(..MAGIC.len()) != Some(&MAGIC) || bytes.len() < HEADER {
        return Err(StateError::NotAState);
    }
    let version = number(8)?;
    if version != VERSION {
        return Err(StateError::Version(version));
    }
    let expected = u64::from(number(16)?) | u64::from(number(20)?) << 32;
    let expected = expected.saturating_add(HEADER as u64);
    if bytes.len() as u64 != expected {
        return Err(StateError::Length { found: bytes.len() as u64, expected });
    }
    let (found, computed) = (number(CHECKED)?, checksum(bytes));
    if found != computed {
        return Err(StateError::Checksum { found, computed });
    }
    let architecture = number(12)?;
    if architecture != AARCH64 {
        return Err(StateError::Architecture(architecture));
    }
    if number(28)? != 0 {
        return Err(StateError::content("its header has bits set that this version never sets"));
    }
    let machine = SavedMachine::decode(bytes.get(HEADER..).unwrap_or_default())?;
    check(&machine)?;
    Ok(machine)
}

/// Returns an error if the machine lacks a part that every machine has.
fn check(machine: &SavedMachine) -> Result<(), StateError> {
    if machine.snapshot_id.len() != ID_LEN {
        return Err(StateError::content("its id has not 16 bytes"));
    }
    if !matches!(machine.base_id.len(), 0 | ID_LEN) {
        return Err(StateError::content("its base's id has not 16 bytes"));
    }
    let parts = [
        (machine.config.is_some(), "configuration"),
        (machine.memory.is_some(), "memory"),
        (machine.clock.is_some(), "clock"),
        (machine.aarch64.as_ref().is_some_and(|part| part.gic.is_some()), "CPUs"),
        (machine.board.is_some(), "devices"),
    ];
    match parts.iter().find(|(there, _)| !there) {
        Some((_, part)) => Err(StateError::content(format!("its {part} is missing"))),
        None => Ok(()),
    }
}

/// Reads the machine from `file`.
///
/// # Errors
/// [`StateError`].
pub fn read(file: &File) -> Result<SavedMachine, StateError> {
    let length = file.metadata()?.len();
    if length > MAX_BYTES {
        return Err(StateError::Length { found: length, expected: MAX_BYTES });
    }
    let mut bytes = vec![0; usize::try_from(length).unwrap_or(0)];
    file.read_exact_at(&mut bytes, 0)?;
    decode(&bytes)
}

#[cfg(test)]
mod tests {
    use hearth_proto::vmm::v1 as proto;
    use proptest::prelude::*;

    use super::*;

    fn machine() -> SavedMachine {
        SavedMachine {
            snapshot_id: vec![7; ID_LEN],
            program_version: "1.2.3".into(),
            config: Some(proto::Create { vcpus: 2, memory_mib: 256, ..Default::default() }),
            memory: Some(proto::SavedMemory {
                bytes: 256 << 20,
                data: vec![0, 10, 100, 5],
                ..Default::default()
            }),
            clock: Some(proto::SavedClock { counter: 1, counter_hz: 2, realtime_ns: 3 }),
            aarch64: Some(proto::SavedAarch64 {
                vcpus: vec![],
                gic: Some(proto::SavedGic::default()),
                vcpu_features: 1,
            }),
            board: Some(proto::SavedBoard::default()),
            ..Default::default()
        }
    }

    #[test]
    fn what_was_encoded_is_decoded() {
        assert_eq!(decode(&encode(&machine())).unwrap(), machine());
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let bytes = encode(&machine());
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            let error = decode(&damaged).expect_err(&format!("bit {bit} was flipped"));
            assert!(!error.to_string().is_empty());
        }
    }

    #[test]
    fn what_is_no_state_is_refused_by_name() {
        let refused = |change: &dyn Fn(&mut Vec<u8>), expected: &str| {
            let mut bytes = encode(&machine());
            change(&mut bytes);
            let message = decode(&bytes).unwrap_err().to_string();
            assert!(message.contains(expected), "{message}");
        };
        refused(&|bytes| bytes.clear(), "not a saved state");
        refused(&|bytes| bytes.truncate(20), "not a saved state");
        refused(&|bytes| bytes[0] = b'X', "not a saved state");
        refused(&|bytes| bytes[8] = 2, "format version 2, this hearth-vmm");
        refused(&|bytes| bytes.truncate(40), "40 bytes instead of");
        refused(&|bytes| bytes.push(0), "instead of");
        let other = |bytes: &mut Vec<u8>| {
            bytes[12] = 9;
            let sum = checksum(bytes).to_le_bytes();
            bytes[24..28].copy_from_slice(&sum);
        };
        refused(&other, "architecture 9");
        let incomplete = |change: &dyn Fn(&mut SavedMachine), expected: &str| {
            let mut machine = machine();
            change(&mut machine);
            let message = decode(&encode(&machine)).unwrap_err().to_string();
            assert!(message.contains(expected), "{message}");
        };
        incomplete(&|machine| machine.board = None, "devices is missing");
        incomplete(&|machine| machine.snapshot_id = vec![1], "16 bytes");
        incomplete(&|machine| machine.base_id = vec![1], "16 bytes");
    }

    proptest! {
        /// Random bytes behind a valid header are rejected or decoded, without a panic.
        #[test]
        fn garbage_never_hurts(payload in proptest::collection::vec(any::<u8>(), 0..300)) {
            let mut bytes = MAGIC.to_vec();
            bytes.extend_from_slice(&VERSION.to_le_bytes());
            bytes.extend_from_slice(&AARCH64.to_le_bytes());
            bytes.extend_from_slice(&(payload.len() as u64).to_le_bytes());
            bytes.extend_from_slice(&[0; 8]);
            bytes.extend_from_slice(&payload);
            let sum = checksum(&bytes).to_le_bytes();
            bytes[24..28].copy_from_slice(&sum);
            let _ = decode(&bytes);
        }
    }
}
