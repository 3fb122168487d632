//! Ids. Each kind has a type of its own, so that one cannot be taken for another. A value of such a type follows the
//! rule of its kind: text becomes an id only by [`FromStr`], which checks it. Every id can be a component of a path.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;

use uuid::Uuid;

use crate::account::is_account;

/// Most characters of a text that the message of an [`IdError`] repeats.
const SHOWN: usize = 64;

/// Error: a text is no id of its kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no id of {kind}: it is written {form}")]
pub struct IdError {
    /// The beginning of the text.
    text: String,
    /// What such an id names.
    kind: &'static str,
    /// How such an id is written.
    form: &'static str,
}

macro_rules! ids {
    ($($(#[$documentation:meta])+ $name:ident: $kind:literal, $form:literal, $rule:expr;)+) => {$(
        $(#[$documentation])+
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(String);

        impl $name {
            /// The id's text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                let rule: fn(&str) -> bool = $rule;
                if rule(text) {
                    return Ok(Self(text.to_owned()));
                }
                Err(IdError { text: text.chars().take(SHOWN).collect(), kind: $kind, form: $form })
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> Self {
                id.0
            }
        }

        // Maps and sets with ids can be searched for texts.
        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, f)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    )+};
}

ids! {
    /// Id of a microVM: `microvm-` and a UUID. What follows the prefix is only checked for being safe in a path.
    MicrovmId: "a microVM", "microvm-UUID", is_microvm_id;
    /// Id of an account: 12 digits.
    AccountId: "an account", "as 12 digits", is_account;
    /// Id of an image, which no other image has, not even a later one with the same name.
    ImageUid: "an image", "with 1 to 128 letters, digits, -, _ and (not first) .", is_path_component;
    /// Id of a build.
    BuildId: "a build", "with 1 to 128 letters, digits, -, _ and (not first) .", is_path_component;
}

/// Greatest length of an id that is a part of a path.
const MAX_COMPONENT: usize = 128;

/// Whether a text can be a component of a path: the name of a file or folder, which is neither hidden nor leads elsewhere.
#[must_use]
pub fn is_path_component(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    (1..=MAX_COMPONENT).contains(&text.len()) && !text.starts_with('.') && text.bytes().all(plain)
}

/// Length of a UUID's text.
const UUID_LENGTH: usize = 36;

fn is_microvm_id(text: &str) -> bool {
    is_path_component(text) && text.strip_prefix(MicrovmId::PREFIX).is_some_and(|uuid| !uuid.is_empty())
}

impl MicrovmId {
    /// What every id of a microVM begins with.
    pub const PREFIX: &str = "microvm-";

    /// The id with this UUID.
    #[must_use]
    pub fn with_uuid(uuid: Uuid) -> Self {
        Self(format!("{}{uuid}", Self::PREFIX))
    }

    /// The id's UUID as 32 hexadecimal digits, as in machine-id(5); none of an id that was made otherwise.
    #[must_use]
    pub fn machine_id(&self) -> Option<String> {
        let uuid = Uuid::parse_str(self.0.strip_prefix(Self::PREFIX)?).ok()?;
        Some(uuid.simple().to_string())
    }

    /// Whether a text is as long as an id: neither the beginning of one nor something else.
    #[must_use]
    pub fn is_whole(text: &str) -> bool {
        text.strip_prefix(Self::PREFIX).is_some_and(|uuid| uuid.len() == UUID_LENGTH)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_component_of_a_path_stays_in_its_folder() {
        for name in ["microvm-1", "a", "A_b.c", &"x".repeat(128)] {
            assert!(is_path_component(name), "{name:?}");
        }
        for name in ["", ".", "..", "../x", "a/b", "/etc", ".hidden", "a\0", "ü", &"x".repeat(129)] {
            assert!(!is_path_component(name), "{name:?}");
        }
    }

    #[test]
    fn no_id_leads_out_of_a_folder() {
        for text in ["", ".", "..", "../x", "a/b", "/etc", ".hidden", "a\0", "ü", &"x".repeat(129)] {
            assert!(text.parse::<ImageUid>().is_err() && text.parse::<BuildId>().is_err(), "{text:?}");
            assert!(text.parse::<AccountId>().is_err() && text.parse::<MicrovmId>().is_err(), "{text:?}");
            assert!(format!("microvm-{text}/..").parse::<MicrovmId>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn an_error_says_what_the_text_is_not_and_how_it_would_be_written() {
        let error = "1".parse::<AccountId>().unwrap_err().to_string();
        assert_eq!(error, r#""1" is no id of an account: it is written as 12 digits"#);
        let error = "vm-1".parse::<MicrovmId>().unwrap_err().to_string();
        assert_eq!(error, r#""vm-1" is no id of a microVM: it is written microvm-UUID"#);
        assert!("ü".repeat(1 << 20).parse::<BuildId>().unwrap_err().to_string().len() < 300);
    }

    #[test]
    fn an_id_of_a_microvm_is_a_prefix_and_a_uuid() {
        let id = MicrovmId::with_uuid(Uuid::from_u128(0x4000_8000_0000_0000_0001));
        assert_eq!(id.to_string(), "microvm-00000000-0000-4000-8000-000000000001");
        assert_eq!(id.as_str().parse(), Ok(id.clone()));
        assert!(MicrovmId::is_whole(id.as_str()));
        for part in ["microvm-00000000", "00000000-0000-4000-8000-000000000001", "", "microvm-"] {
            assert!(!MicrovmId::is_whole(part), "{part}");
        }
        assert!("microvm-".parse::<MicrovmId>().is_err());
        assert_eq!(
            format!("{:?}", "microvm-a".parse::<MicrovmId>().unwrap()),
            r#""microvm-a""#,
            "as its text"
        );
    }
}
