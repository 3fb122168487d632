//! Ids. Each kind has a type of its own, so that one cannot be taken for another.

use std::borrow::Borrow;
use std::fmt;

macro_rules! ids {
    ($($(#[$documentation:meta])+ $name:ident;)+) => {$(
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

        impl From<String> for $name {
            fn from(text: String) -> Self {
                Self(text)
            }
        }

        impl From<&str> for $name {
            fn from(text: &str) -> Self {
                Self(text.to_owned())
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> Self {
                id.0
            }
        }

        // Maps and sets with ids can be asked for texts.
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
    /// Id of a microVM, like `microvm-UUID`.
    MicrovmId;
    /// Id of an account: 12 digits.
    AccountId;
    /// Id of an image, which no other image has, not even a later one with the same name.
    ImageUid;
    /// Id of a build.
    BuildId;
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

impl MicrovmId {
    /// What every id of a microVM begins with.
    pub const PREFIX: &str = "microvm-";

    /// The id with this UUID.
    #[must_use]
    pub fn with_uuid(uuid: impl fmt::Display) -> Self {
        Self(format!("{}{uuid}", Self::PREFIX))
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
    fn an_id_of_a_microvm_is_a_prefix_and_a_uuid() {
        let id = MicrovmId::with_uuid("00000000-0000-4000-8000-000000000001");
        assert_eq!(id.to_string(), "microvm-00000000-0000-4000-8000-000000000001");
        assert!(MicrovmId::is_whole(id.as_str()));
        for part in ["microvm-00000000", "00000000-0000-4000-8000-000000000001", "", "microvm-"] {
            assert!(!MicrovmId::is_whole(part), "{part}");
        }
        assert_eq!(format!("{:?}", MicrovmId::from("a")), r#""a""#, "as its text");
    }
}
