//! Memory of a process and its guest on the host.

use std::fs;

use anyhow::{Context as _, Result};

/// Memory of a monitor and its guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Memory {
    /// Private memory, not shared with any other process, without guest memory, in KiB.
    pub(crate) private_kib: u64,
    /// Anonymous memory, without guest memory, in KiB.
    pub(crate) own_anonymous_kib: u64,
    /// Anonymous memory, with guest memory, in KiB.
    pub(crate) anonymous_kib: u64,
}

impl Memory {
    /// Reads the memory of process `pid`, whose guest has `guest_mib` MiB.
    pub(crate) fn of(pid: u32, guest_mib: u64) -> Result<Self> {
        let smaps = fs::read_to_string(format!("/proc/{pid}/smaps")).context("reading smaps")?;
        Self::in_smaps(&smaps, guest_mib * 1024)
    }

    fn in_smaps(smaps: &str, guest_kib: u64) -> Result<Self> {
        let mappings = mappings(smaps);
        let guest = guests_mappings(&mappings, guest_kib)
            .context("no run of the process's mappings is as large as the guest's memory")?;
        let (mut own, mut anonymous) = ((0, 0), 0);
        for (index, mapping) in mappings.iter().enumerate() {
            anonymous += mapping.anonymous_kib;
            if !guest.contains(&index) {
                own.0 += mapping.private_kib;
                own.1 += mapping.anonymous_kib;
            }
        }
        Ok(Self { private_kib: own.0, own_anonymous_kib: own.1, anonymous_kib: anonymous })
    }
}

#[derive(Debug, Default, Clone, Copy)]
struct Mapping {
    start: u64,
    end: u64,
    private_kib: u64,
    anonymous_kib: u64,
}

fn mappings(smaps: &str) -> Vec<Mapping> {
    let mut mappings: Vec<Mapping> = Vec::new();
    for line in smaps.lines() {
        let mut words = line.split_whitespace();
        let Some(key) = words.next() else { continue };
        let Some(field) = key.strip_suffix(':') else {
            // A mapping's first line begins with its addresses.
            if let Some((start, end)) = key.split_once('-')
                && let (Ok(start), Ok(end)) = (u64::from_str_radix(start, 16), u64::from_str_radix(end, 16))
            {
                mappings.push(Mapping { start, end, ..Mapping::default() });
            }
            continue;
        };
        let (Some(mapping), Some(Ok(value))) = (mappings.last_mut(), words.next().map(str::parse::<u64>))
        else {
            continue;
        };
        match field {
            "Private_Clean" | "Private_Dirty" => mapping.private_kib += value,
            "Anonymous" => mapping.anonymous_kib = value,
            _ => {}
        }
    }
    mappings
}

/// The neighbouring mappings that make up the guest's memory: a restored guest's consists of several.
fn guests_mappings(mappings: &[Mapping], guest_kib: u64) -> Option<std::ops::RangeInclusive<usize>> {
    (0..mappings.len()).find_map(|first| {
        let (mut size, mut end) = (0, mappings.get(first)?.start);
        for (index, mapping) in mappings.iter().enumerate().skip(first) {
            if mapping.start != end || size >= guest_kib {
                break;
            }
            end = mapping.end;
            size += (mapping.end - mapping.start) / 1024;
            if size == guest_kib {
                return Some(first..=index);
            }
        }
        None
    })
}

/// Memory of this host, in MiB.
pub(crate) fn total_mib() -> Result<u64> {
    let text = fs::read_to_string("/proc/meminfo").context("reading /proc/meminfo")?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:")).context("no MemTotal")?;
    let kib: u64 = line.trim().trim_end_matches(" kB").parse().context("MemTotal is no number")?;
    Ok(kib / 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMAPS: &str = "\
00100000-00102000 r-xp 00000000 00:01 5  /in/monitor
Size:                  8 kB
Private_Clean:         8 kB
Private_Dirty:         0 kB
Anonymous:             0 kB
VmFlags: rd ex mr
10000000-10040000 rw-p 00000000 00:01 7  /tmp/memory
Private_Clean:       128 kB
Private_Dirty:         4 kB
Anonymous:             4 kB
10040000-10100000 rw-p 00000000 00:00 0
Private_Clean:         0 kB
Private_Dirty:         8 kB
Anonymous:             8 kB
10100000-10101000 rw-p 00000000 00:00 0  [heap]
Private_Clean:         0 kB
Private_Dirty:         4 kB
Anonymous:             4 kB
";

    #[test]
    fn a_guests_memory_is_found_in_pieces_and_left_aside() {
        let memory = Memory::in_smaps(SMAPS, 1024).unwrap();
        assert_eq!(memory, Memory { private_kib: 12, own_anonymous_kib: 4, anonymous_kib: 16 });
    }

    #[test]
    fn a_process_without_such_a_guest_is_an_error() {
        assert!(Memory::in_smaps(SMAPS, 2048).is_err());
        assert!(Memory::in_smaps("", 1024).is_err());
    }
}
