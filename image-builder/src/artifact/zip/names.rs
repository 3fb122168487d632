//! Names of zip entries, made into paths that cannot leave the root.

use super::ZipError;

/// Longest accepted path in bytes: Linux's `PATH_MAX`, less its terminator.
const MAX_PATH_BYTES: usize = 4095;

/// Longest name of a file or directory in bytes: the limit of ext4 and every other Linux file system.
const MAX_COMPONENT_BYTES: usize = 255;

/// A path below the root: components joined by `/`, none of them empty, `.` or `..`. The root itself is empty.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct EntryPath(String);

impl EntryPath {
    /// Parses the name of an entry. Also returns whether it is written like a directory's. `./` is dropped, as every tool does.
    /// `unix`: whether the entry is of a system where a backslash is a letter like others, and no slash.
    pub(super) fn parse(name: &str, unix: bool) -> Result<(Self, bool), ZipError> {
        let refuse = |why| Err(ZipError::Name { name: shown(name), why });
        if name.is_empty() {
            return refuse("it is empty");
        }
        if name.len() > MAX_PATH_BYTES {
            return refuse("it is longer than 4095 bytes");
        }
        if name.contains('\0') {
            return refuse("it contains a NUL");
        }
        if !unix && name.contains('\\') {
            return refuse("it contains a backslash: write the archive with forward slashes");
        }
        let (body, directory) = match name.strip_suffix('/') {
            Some(body) => (body, true),
            None => (name, false),
        };
        if name.starts_with('/') {
            return refuse("it is absolute");
        }
        let mut path = String::with_capacity(body.len());
        for component in body.split('/') {
            match component {
                "." => continue,
                "" => return refuse("a component of it is empty"),
                ".." => return refuse("it leads out of the archive's root"),
                _ if component.len() > MAX_COMPONENT_BYTES => {
                    return refuse("a component of it is longer than 255 bytes");
                }
                _ => {}
            }
            if !path.is_empty() {
                path.push('/');
            }
            path.push_str(component);
        }
        if path.is_empty() && !directory {
            // "." or "./.": the root, which can only be a directory.
            return refuse("it is the archive's root and not a directory");
        }
        Ok((Self(path), directory))
    }

    /// The path, without a slash at either end.
    pub(super) fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether this is the root.
    pub(super) fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// The parent directory; `None` for the root and its direct children.
    pub(super) fn parent(&self) -> Option<Self> {
        self.0.rsplit_once('/').map(|(parent, _)| Self(parent.to_owned()))
    }

    /// Checks that a symbolic link here may have this target: every one that Linux can make.
    ///
    /// Where it leads is nothing to the host, which makes and follows no link of an archive. Nothing in an archive lies below a link
    /// ([`super::tree`] checks that), so the guest writes through none either.
    pub(super) fn check_link(&self, target: &str) -> Result<(), ZipError> {
        let refuse = |why| Err(ZipError::Link { name: shown(self.as_str()), target: shown(target), why });
        if target.is_empty() || target.len() > MAX_PATH_BYTES {
            return refuse("it is empty or longer than 4095 bytes");
        }
        if target.contains('\0') {
            return refuse("it contains a NUL");
        }
        Ok(())
    }
}

/// At most 200 characters of a hostile name, control characters escaped, for messages.
pub(super) fn shown(name: &str) -> String {
    let mut shown: String = name.chars().take(200).flat_map(char::escape_debug).collect();
    if name.chars().nth(200).is_some() {
        shown.push('…');
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(name: &str) -> EntryPath {
        EntryPath::parse(name, false).unwrap().0
    }

    #[test]
    fn names_become_paths_below_the_root() {
        for (name, expected, directory) in [
            ("Dockerfile", "Dockerfile", false),
            ("./a/./b", "a/b", false),
            ("dir/", "dir", true),
            ("./", "", true),
            ("a/…/é", "a/…/é", false),
            ("C:/x", "C:/x", false),
            ("...", "...", false),
        ] {
            let (path, is_directory) = EntryPath::parse(name, false).unwrap();
            assert_eq!((path.as_str(), is_directory), (expected, directory), "{name}");
        }
    }

    #[test]
    fn names_that_leave_the_root_or_play_tricks_are_refused() {
        let long = "a".repeat(256);
        let deep = "a/".repeat(2100);
        for name in [
            "",
            "/",
            "/etc/passwd",
            "../x",
            "a/../../x",
            "a/..",
            "a//b",
            "a//",
            "//",
            ".",
            "a\0b",
            "..\\x",
            "a\\b",
            "C:\\x",
            &long,
            &deep,
        ] {
            assert!(EntryPath::parse(name, false).is_err(), "{name:?}");
        }
    }

    #[test]
    fn a_link_may_lead_anywhere_and_is_followed_by_nobody() {
        for target in ["x", "./x/y", "../../x", "..", ".", "x/", "/usr/bin/python3", "b/..", "a\\b", "C:\\x"]
        {
            path("a/l").check_link(target).unwrap();
        }
        for target in ["", "x\0", &"x/".repeat(3000)] {
            assert!(path("a/l").check_link(target).is_err(), "{target}");
        }
    }

    #[test]
    fn a_backslash_is_a_letter_on_unix_only() {
        let (path, directory) = EntryPath::parse("dev\\x2d/", true).unwrap();
        assert_eq!((path.as_str(), directory), ("dev\\x2d", true));
        assert!(EntryPath::parse("..\\x", false).is_err());
    }

    #[test]
    fn messages_show_hostile_names_escaped_and_cut() {
        assert_eq!(shown("a\u{1b}[31m\n"), "a\\u{1b}[31m\\n");
        assert_eq!(shown(&"x".repeat(5000)).chars().count(), 201);
    }
}
