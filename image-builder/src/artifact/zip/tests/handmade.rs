//! Builds archives byte for byte.

use super::FILE;

/// An entry of an archive, with true or false headers as a test needs them.
#[derive(Clone)]
pub(super) struct Raw {
    pub(super) name: &'static str,
    pub(super) local_name: Option<&'static str>,
    pub(super) mode: u32,
    pub(super) system: u8,
    pub(super) flags: u16,
    pub(super) method: u16,
    pub(super) data: Vec<u8>,
    pub(super) crc: Option<u32>,
    /// Size in both headers, if it differs from the data's.
    pub(super) size: Option<u32>,
    /// Wrong offset of the local header in the directory.
    pub(super) offset: Option<u32>,
}

pub(super) fn raw(name: &'static str, mode: u32, data: impl Into<Vec<u8>>) -> Raw {
    Raw {
        name,
        local_name: None,
        mode,
        system: 3,
        flags: 0,
        method: 0,
        data: data.into(),
        crc: None,
        size: None,
        offset: None,
    }
}

pub(super) fn dockerfile() -> Raw {
    raw("Dockerfile", FILE, "FROM scratch\n")
}

/// An archive of stored entries.
pub(super) fn archive(entries: &[Raw]) -> Vec<u8> {
    let (mut bytes, mut directory) = (Vec::new(), Vec::new());
    let header = |entry: &Raw, name: &str| {
        let stored = u32::try_from(entry.data.len()).unwrap();
        let mut fields = Vec::new();
        fields.extend(entry.flags.to_le_bytes());
        fields.extend(entry.method.to_le_bytes());
        fields.extend([0, 0, 0x21, 0x58]); // 2024-01-01 00:00:00
        fields.extend(entry.crc.unwrap_or_else(|| crc32(&entry.data)).to_le_bytes());
        fields.extend(stored.to_le_bytes());
        fields.extend(entry.size.unwrap_or(stored).to_le_bytes());
        fields.extend(u16::try_from(name.len()).unwrap().to_le_bytes());
        fields.extend([0, 0]);
        fields
    };
    for entry in entries {
        let at = u32::try_from(bytes.len()).unwrap();
        let local_name = entry.local_name.unwrap_or(entry.name);
        bytes.extend(b"PK\x03\x04\x14\0");
        bytes.extend(header(entry, local_name));
        bytes.extend(local_name.as_bytes());
        bytes.extend(&entry.data);
        directory.extend(b"PK\x01\x02\x14");
        directory.push(entry.system);
        directory.extend(b"\x14\0");
        directory.extend(header(entry, entry.name));
        directory.extend([0; 6]);
        directory.extend((entry.mode << 16).to_le_bytes());
        directory.extend(entry.offset.unwrap_or(at).to_le_bytes());
        directory.extend(entry.name.as_bytes());
    }
    let start = u32::try_from(bytes.len()).unwrap();
    let count = u16::try_from(entries.len()).unwrap();
    bytes.extend(&directory);
    bytes.extend(b"PK\x05\x06\0\0\0\0");
    bytes.extend(count.to_le_bytes());
    bytes.extend(count.to_le_bytes());
    bytes.extend(u32::try_from(directory.len()).unwrap().to_le_bytes());
    bytes.extend(start.to_le_bytes());
    bytes.extend([0, 0]);
    bytes
}

fn crc32(bytes: &[u8]) -> u32 {
    let mut crc = !0_u32;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg());
        }
    }
    !crc
}
