//! Names of groups and streams, and their file names.
//!
//! Names come from clients. Letters, digits, `_`, `-` and inner `.` stand for themselves, every other byte is `%` and
//! two hexadecimal digits, so that no name leads to another folder. A name that would be too long for a file system
//! is cut and ends with `~` and a hash; in that case the folder holds the whole name in a file whose name no stream
//! can have.

use std::path::Path;
use std::time::SystemTime;
use std::{fs, io};

use percent_encoding::percent_decode_str;
use sha2::{Digest as _, Sha256};
use time::OffsetDateTime;

use super::error::LogError;

/// Longest name in bytes; AWS allows 512 characters.
const LONGEST: usize = 2048;
/// Longest file name that is used, below the file systems' limit of 255.
const LONGEST_FILE: usize = 200;
/// File in a folder whose name was cut; contains the whole name.
pub(super) const NAME_FILE: &str = "~name";

/// The default group of an image's microVMs and builds (docs/behaviour.md, "Logs").
#[must_use]
pub fn default_group(image_name: &str) -> String {
    format!("/aws/lambda-microvms/{image_name}")
}

/// The default stream of a microVM: `YYYY/MM/DD[VERSION]ID` with the day of its start in UTC (docs/behaviour.md,
/// "Logs").
#[must_use]
pub fn default_stream(started: SystemTime, image_version: &str, microvm_id: &str) -> String {
    let day = OffsetDateTime::from(started).date();
    let (year, month, day) = (day.year(), u8::from(day.month()), day.day());
    format!("{year:04}/{month:02}/{day:02}[{image_version}]{microvm_id}")
}

/// The file name for a group's or stream's name.
pub(super) fn file_name(name: &str) -> Result<String, LogError> {
    if name.is_empty() || name.len() > LONGEST {
        return Err(LogError::Name(name.len()));
    }
    let mut encoded = String::with_capacity(name.len());
    for (index, &byte) in name.as_bytes().iter().enumerate() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' | b'-' => encoded.push(char::from(byte)),
            b'.' if index > 0 => encoded.push('.'),
            _ => {
                encoded.push('%');
                encoded.extend(hex(byte));
            }
        }
    }
    if encoded.len() > LONGEST_FILE {
        let digest = Sha256::digest(name.as_bytes());
        encoded.truncate(LONGEST_FILE - 65);
        encoded.push('~');
        encoded.extend(digest.into_iter().flat_map(hex));
    }
    Ok(encoded)
}

/// The name that a folder stands for; `None` if the folder is not a group's or stream's.
pub(super) fn name_of(folder: &Path) -> Option<String> {
    let file = folder.file_name()?.to_str()?;
    let name = match file.contains('~') {
        true => fs::read_to_string(folder.join(NAME_FILE)).ok()?,
        false => percent_decode_str(file).decode_utf8().ok()?.into_owned(),
    };
    // A folder whose file name does not match its name is ignored: it would not be found by that name.
    (file_name(&name).ok()? == file).then_some(name)
}

/// Stores the whole name in the folder if the folder's name was cut.
pub(super) fn keep_name(folder: &Path, name: &str) -> io::Result<()> {
    let cut = folder.file_name().and_then(|file| file.to_str()).is_some_and(|file| file.contains('~'));
    let file = folder.join(NAME_FILE);
    if !cut || file.exists() {
        return Ok(());
    }
    let temporary = folder.join("~name.new");
    fs::write(&temporary, name)?;
    fs::rename(temporary, file)
}

/// The number that stands for a stream in orders and positions.
pub(super) fn hash(name: &str) -> u64 {
    let digest = Sha256::digest(name.as_bytes());
    digest.iter().take(8).fold(0, |hash, &byte| (hash << 8) | u64::from(byte))
}

fn hex(byte: u8) -> [char; 2] {
    let digit = |value: u8| char::from_digit(u32::from(value), 16).unwrap_or('0');
    [digit(byte >> 4), digit(byte & 15)]
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn default_names_are_those_of_aws() {
        assert_eq!(default_group("web"), "/aws/lambda-microvms/web");
        let at = UNIX_EPOCH + Duration::from_secs(1_786_838_399); // 23:59:59 UTC
        assert_eq!(default_stream(at, "2.0", "microvm-1"), "2026/08/15[2.0]microvm-1");
        assert_eq!(
            default_stream(at + Duration::from_secs(1), "2.0", "microvm-1"),
            "2026/08/16[2.0]microvm-1"
        );
    }

    #[test]
    fn names_cannot_lead_out_of_their_folder() {
        assert_eq!(file_name("..").unwrap(), "%2e.");
        assert_eq!(file_name("../../etc").unwrap(), "%2e.%2f..%2fetc");
        assert_eq!(file_name("a\0b").unwrap(), "a%00b");
        assert!(matches!(file_name(""), Err(LogError::Name(0))));
        assert!(matches!(file_name(&"x".repeat(2049)), Err(LogError::Name(2049))));
    }

    proptest! {
        #[test]
        fn every_name_has_a_file_name_of_its_own_and_comes_back(name in "\\PC{1,512}") {
            let file = file_name(&name).unwrap();
            prop_assert!(file.len() <= LONGEST_FILE && !file.contains('/') && !file.starts_with('.'));
            let base = tempfile::tempdir().unwrap();
            let folder = base.path().join(file);
            fs::create_dir(&folder).unwrap();
            keep_name(&folder, &name).unwrap();
            prop_assert_eq!(name_of(&folder), Some(name));
        }
    }
}
