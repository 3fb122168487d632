//! Runs `nft`.

use std::io::{self, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};

use super::NetworkError;

/// Bytes of nft's error output that are kept for the message.
const MAX_MESSAGE: usize = 2000;

/// The comment of the table `inet NAME` of this thread's namespace; none if there is no such table, or none with a comment.
pub(super) fn comment(nft: &Path, table: &str) -> Result<Option<String>, NetworkError> {
    let no_nft = |source: io::Error| NetworkError::NoNft { path: nft.to_owned(), source };
    let mut list = Command::new(nft);
    list.args(["-t", "list", "table", "inet", table]).env("LC_ALL", "C").stdin(Stdio::null());
    let listed = list.output().map_err(no_nft)?;
    // Without the table, nft fails, and prints nothing.
    let text = String::from_utf8_lossy(&listed.stdout);
    let found = text.lines().find_map(|line| line.trim().strip_prefix("comment \"")?.strip_suffix('"'));
    Ok(found.map(str::to_owned))
}

/// Applies the rules with nft in the namespace of this thread: all of them or none.
pub(super) fn apply(nft: &Path, rules: &str) -> Result<(), NetworkError> {
    let no_nft = |source: io::Error| NetworkError::NoNft { path: nft.to_owned(), source };
    let mut child = Command::new(nft)
        .args(["-f", "-"])
        .env("LC_ALL", "C")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(no_nft)?;
    // The pipe is closed right after writing. If nft exits early, its message explains more than the pipe's error. nft reads
    // everything before it writes anything.
    let written = child.stdin.take().map_or(Ok(()), |mut stdin| stdin.write_all(rules.as_bytes()));
    let output = child.wait_with_output().map_err(no_nft)?;
    if output.status.success() {
        return written.map_err(no_nft);
    }
    let message = String::from_utf8_lossy(&output.stderr).chars().take(MAX_MESSAGE).collect::<String>();
    Err(NetworkError::Rules {
        path: nft.to_owned(),
        status: output.status,
        message: message.trim().to_owned(),
    })
}
