//! The documents of the metadata service (AWS EC2 User Guide, "Instance metadata categories").

use hearth_proto::guest::v1::{Credentials, Metadata};
use zeroize::Zeroizing;

use super::Facts;

/// Name of the only role.
const ROLE: &str = "execution_role";

/// A document's text, which may hold credentials, and its content type.
pub(super) type Document = (Zeroizing<String>, &'static str);

const TEXT: &str = "text/plain";
const JSON: &str = "application/json";

/// The document at a path; none means status 404.
pub(super) fn document(facts: &Facts, path: &str) -> Option<Document> {
    let Metadata { region, .. } = &facts.metadata;
    let text = |text: &str| (!text.is_empty()).then(|| (Zeroizing::new(text.to_string()), TEXT));
    // Folders and documents are found with and without a slash at the end.
    match path.strip_suffix('/').unwrap_or(path) {
        "/latest" => text("dynamic\nmeta-data"),
        "/latest/meta-data" if facts.credentials.is_some() => text("iam/\ninstance-id\nplacement/"),
        "/latest/meta-data" => text("instance-id\nplacement/"),
        "/latest/meta-data/instance-id" => text(&facts.microvm_id),
        "/latest/meta-data/placement" => text("region"),
        "/latest/meta-data/placement/region" => text(region),
        "/latest/meta-data/iam" if facts.credentials.is_some() => text("security-credentials/"),
        "/latest/meta-data/iam/security-credentials" if facts.credentials.is_some() => text(ROLE),
        path if path.strip_prefix("/latest/meta-data/iam/security-credentials/") == Some(ROLE) => {
            facts.credentials.as_ref().map(|credentials| (credentials_json(credentials), JSON))
        }
        "/latest/dynamic" => text("instance-identity/"),
        "/latest/dynamic/instance-identity" => text("document"),
        "/latest/dynamic/instance-identity/document" if !facts.microvm_id.is_empty() => {
            Some((identity_json(facts), JSON))
        }
        _ => None,
    }
}

fn credentials_json(credentials: &Credentials) -> Zeroizing<String> {
    object(&[
        ("Code", "Success"),
        ("LastUpdated", &timestamp(credentials.last_updated)),
        ("Type", "AWS-HMAC"),
        ("AccessKeyId", &credentials.access_key_id),
        ("SecretAccessKey", &credentials.secret_access_key),
        ("Token", &credentials.session_token),
        ("Expiration", &timestamp(credentials.expiration)),
    ])
}

fn identity_json(facts: &Facts) -> Zeroizing<String> {
    let Metadata { region, account_id, image_arn, image_version } = &facts.metadata;
    let address = facts.address.map(|address| address.to_string()).unwrap_or_default();
    object(&[
        ("accountId", account_id),
        ("architecture", "arm64"),
        ("imageId", image_arn),
        ("imageVersion", image_version),
        ("instanceId", &facts.microvm_id),
        ("privateIp", &address),
        ("region", region),
        ("version", "2017-09-30"),
    ])
}

/// A JSON object of strings. It is written into memory that is allocated once: a reallocation would leave a copy behind.
fn object(members: &[(&str, &str)]) -> Zeroizing<String> {
    // An escaped character takes at most six bytes, and every character at least one.
    let longest = members.iter().map(|(name, value)| 6 * (name.len() + value.len()) + 16).sum::<usize>() + 16;
    let mut object = Zeroizing::new(String::with_capacity(longest));
    object.push('{');
    for (index, (name, value)) in members.iter().enumerate() {
        object.push_str(if index == 0 { "\n  " } else { ",\n  " });
        quote(name, &mut object);
        object.push_str(" : ");
        quote(value, &mut object);
    }
    object.push_str("\n}");
    object
}

/// Appends a JSON string (RFC 8259, section 7).
fn quote(text: &str, to: &mut String) {
    to.push('"');
    for character in text.chars() {
        match character {
            '"' | '\\' => to.extend(['\\', character]),
            '\0'..='\x1f' => {
                let digit = |four_bits: u32| char::from_digit(four_bits, 16).unwrap_or('0');
                let code = u32::from(character);
                to.push_str("\\u00");
                to.extend([digit(code >> 4), digit(code & 0xf)]);
            }
            _ => to.push(character),
        }
    }
    to.push('"');
}

/// A time as in `2026-11-21T12:05:31Z` (ISO 8601), from seconds since 1970.
fn timestamp(seconds: u64) -> String {
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = date(days);
    let (hour, minute, second) = (second / 3_600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

/// Year, month and day of a day since 1970 (Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms", `civil_from_days`).
fn date(days: u64) -> (u64, u64, u64) {
    let days = days.saturating_add(719_468); // since the first of March of the year 0
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153; // 0 is March
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_those_of_the_calendar() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_772_323_199, "2026-02-28T23:59:59Z"),
            (1_772_323_200, "2026-03-01T00:00:00Z"),
            (1_795_262_731, "2026-11-21T12:05:31Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(timestamp(seconds), text);
        }
        // The host may send anything.
        timestamp(u64::MAX);
    }

    #[test]
    fn texts_are_quoted() {
        let mut quoted = String::new();
        quote("a\"b\\c\n\x1f/é", &mut quoted);
        assert_eq!(quoted, r#""a\"b\\c\u000a\u001f/é""#);
    }

    #[test]
    fn an_object_is_written_where_its_memory_was_taken() {
        assert_eq!(*object(&[]), "{\n}");
        assert_eq!(*object(&[("a", "1"), ("b", "2")]), "{\n  \"a\" : \"1\",\n  \"b\" : \"2\"\n}");
        for worst in ["\0".repeat(3000), "\"".repeat(3000), "é".repeat(3000), String::new()] {
            let members = [("Token", worst.as_str()); 3];
            let made = object(&members);
            let asked = 3 * (6 * (5 + worst.len()) + 16) + 16;
            assert!(made.len() <= asked && made.capacity() < 2 * asked.max(64), "{}", made.len());
        }
    }
}
