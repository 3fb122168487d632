//! The user of a process: `USER` of a Dockerfile, looked up in the container's `/etc/passwd` and `/etc/group`.

use std::io;
use std::path::Path;

use crate::refusal::{Context as _, Refusal};
use crate::system::{check, read_bounded};

/// Bytes that are read of each of the two files.
const LIMIT: u64 = 4 << 20;

/// Supplementary groups that the kernel accepts (NGROUPS_MAX).
const MOST_GROUPS: usize = 65_536;

/// A user as the kernel knows it, and its home.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// User id.
    pub uid: u32,
    /// Primary group.
    pub gid: u32,
    /// Supplementary groups. The primary one is among them, so that a process that drops it gains no access to files that deny
    /// access to its members (CVE-2022-36109).
    pub groups: Vec<u32>,
    /// Home folder.
    pub home: String,
}

impl User {
    /// Looks up `name`, `uid`, `name:group` and so on; an empty specification is root.
    ///
    /// # Errors
    /// There is no such user or group, or the files cannot be read.
    pub fn find(specification: &str) -> Result<Self, Refusal> {
        let read = |path: &str| match read_bounded(Path::new(path), LIMIT) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
            result => result.or_refuse(|| format!("reading the container's {path}")),
        };
        resolve(specification, &read("/etc/passwd")?, &read("/etc/group")?)
    }

    /// Makes this process run as this user. It loses the capabilities that the kernel removes from a process that stops being root.
    ///
    /// # Errors
    /// The kernel refused it.
    pub fn become_it(&self) -> io::Result<()> {
        let groups: Vec<libc::gid_t> = self.groups.clone();
        // SAFETY: the pointer and the length are those of a list that lives until the call returns.
        check(unsafe { libc::setgroups(groups.len(), groups.as_ptr()) })?;
        // SAFETY: takes no pointer.
        check(unsafe { libc::setresgid(self.gid, self.gid, self.gid) })?;
        // SAFETY: takes no pointer.
        check(unsafe { libc::setresuid(self.uid, self.uid, self.uid) }).map(drop)
    }
}

fn resolve(specification: &str, passwd: &str, group: &str) -> Result<User, Refusal> {
    let (name, group_name) = match specification.split_once(':') {
        Some((name, group)) => (name, Some(group).filter(|group| !group.is_empty())),
        None => (specification, None),
    };
    let name = if name.is_empty() { "0" } else { name };
    let mut user = find_user(name, passwd, group)
        .ok_or_else(|| missing("user", name, "/etc/passwd", "create it in the Dockerfile"))?;
    if let Some(name) = group_name {
        user.gid = find_group(name, group)
            .ok_or_else(|| missing("group", name, "/etc/group", "create it in the Dockerfile"))?;
        user.groups.clear();
    }
    user.groups.insert(0, user.gid);
    Ok(user)
}

fn missing(what: &str, name: &str, file: &str, remedy: &str) -> Refusal {
    Refusal::not_found(format!(
        "there is no {what} {name:?} in the container's {file}; {remedy}, or give a number"
    ))
}

/// Finds a user by name, then by number, so that a user whose name is a number is found.
fn find_user(name: &str, passwd: &str, group: &str) -> Option<User> {
    let entries = || passwd.lines().filter_map(entry);
    let number: Option<u32> = id(name);
    let found = entries()
        .find(|entry| entry.name == name)
        .or_else(|| number.and_then(|uid| entries().find(|entry| entry.uid == uid)));
    match (found, number) {
        (Some(entry), _) => Some(User {
            uid: entry.uid,
            gid: entry.gid,
            groups: groups_of(entry.name, group),
            home: Some(entry.home).filter(|home| !home.is_empty()).unwrap_or("/").to_string(),
        }),
        (None, Some(uid)) => {
            let home = if uid == 0 { "/root" } else { "/" };
            Some(User { uid, gid: 0, groups: Vec::new(), home: home.to_string() })
        }
        (None, None) => None,
    }
}

fn find_group(name: &str, group: &str) -> Option<u32> {
    let named = group.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(name)).then(|| id(fields.nth(1)?)).flatten()
    });
    named.or_else(|| id(name))
}

fn groups_of(user: &str, group: &str) -> Vec<u32> {
    let member = |line: &str| {
        let fields: Vec<_> = line.split(':').collect();
        let [_, _, gid, members, ..] = fields.as_slice() else { return None };
        members.split(',').any(|member| member.trim() == user).then(|| id(gid)).flatten()
    };
    group.lines().filter_map(member).take(MOST_GROUPS).collect()
}

struct Entry<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

fn entry(line: &str) -> Option<Entry<'_>> {
    let fields: Vec<_> = line.split(':').collect();
    let [name, _, uid, gid, _, home, ..] = fields.as_slice() else { return None };
    Some(Entry { name, uid: id(uid)?, gid: id(gid)?, home })
}

/// Parses the id of a user or a group. The largest number is refused: it means "none" to the kernel.
fn id(text: &str) -> Option<u32> {
    text.parse().ok().filter(|id| *id < u32::MAX)
}

#[cfg(test)]
mod tests {
    use hearth_proto::guest::v1::FailureCode;

    use super::*;

    const PASSWD: &str =
        "root:x:0:0:root:/root:/bin/sh\nbroken\nweb:x:33:34:web:/srv/web:/bin/sh\n1000:x:5:6::/five:\n";
    const GROUP: &str = "root:x:0:\nweb:x:34:\nlogs:x:40:web,root\nbroken:x\ndisk:x:6:daemon, web\n";

    fn user(uid: u32, gid: u32, groups: &[u32], home: &str) -> User {
        User { uid, gid, groups: [&[gid], groups].concat(), home: home.to_string() }
    }

    #[test]
    fn users_and_groups_are_found_by_name_and_number() {
        for (specification, expected) in [
            ("", user(0, 0, &[40], "/root")),
            ("root", user(0, 0, &[40], "/root")),
            ("web", user(33, 34, &[40, 6], "/srv/web")),
            ("33", user(33, 34, &[40, 6], "/srv/web")),
            ("web:logs", user(33, 40, &[], "/srv/web")),
            ("web:7", user(33, 7, &[], "/srv/web")),
            ("web:", user(33, 34, &[40, 6], "/srv/web")),
            ("12:13", user(12, 13, &[], "/")),
            ("12", user(12, 0, &[], "/")),
            ("1000", user(5, 6, &[], "/five")),
            (":logs", user(0, 40, &[], "/root")),
        ] {
            assert_eq!(resolve(specification, PASSWD, GROUP), Ok(expected), "{specification:?}");
        }
        assert_eq!(resolve("", "", ""), Ok(user(0, 0, &[], "/root")), "an image from scratch has no files");
    }

    #[test]
    fn unknown_users_and_groups_are_refused() {
        for specification in ["nobody", "web:nogroup", "-1", "4294967295", "0x10", "web:-1"] {
            let refusal = resolve(specification, PASSWD, GROUP).unwrap_err();
            assert_eq!(refusal.code, FailureCode::NotFound, "{specification:?}: {refusal}");
        }
    }
}
