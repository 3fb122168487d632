//! The Debian mirrors of this machine's apt.

use std::process::Command;

use anyhow::{Context as _, Result};

use crate::command;

/// The keys that sign the suites.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// The mirror that this machine's apt uses for Debian itself, and the mirror of security updates, if it uses any.
pub(crate) fn mirrors() -> Result<(String, Option<String>)> {
    let repositories = repositories()?;
    let own = first_mirror(&repositories, "Debian").context(
        "apt on this machine knows no Debian mirror, so nothing can be downloaded; add one to its sources and run apt-get update",
    )?;
    Ok((own, first_mirror(&repositories, "Debian-Security")))
}

/// Debian's repositories in this machine's apt, one per line: label and address.
fn repositories() -> Result<String> {
    command::capture(Command::new("apt-get").args([
        "indextargets",
        "--format",
        "$(LABEL)|$(REPO_URI)",
        "Created-By: Packages",
        "Origin: Debian",
    ]))
}

fn first_mirror(text: &str, label: &str) -> Option<String> {
    text.lines()
        .filter_map(|line| line.split_once('|'))
        .find(|(name, _)| *name == label)
        .map(|(_, uri)| uri.trim_end_matches('/').to_string())
}

/// One line of a sources file.
pub(crate) fn source_line(mirror: &str, suite: &str) -> String {
    format!("deb [signed-by={KEYRING}] {mirror} {suite} main\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mirror_is_debians_own_and_not_security() {
        let text = "Debian-Security|http://mirror.test/security/\nDebian|http://mirror.test/debian/\n";
        let first = |label| first_mirror(text, label);
        assert_eq!(first("Debian").as_deref(), Some("http://mirror.test/debian"));
        assert_eq!(first("Debian-Security").as_deref(), Some("http://mirror.test/security"));
        assert_eq!(first("Other"), None);
    }
}
