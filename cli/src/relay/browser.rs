//! Opens the desktop's browser.

use std::process::Stdio;

use tokio::process::Command;

/// Program that opens URLs on every desktop of Linux.
const OPENER: &str = "xdg-open";

/// Opens a URL. A failure is only printed to stderr, because the user can open the URL by hand.
pub(crate) fn open(url: &str) {
    let mut command = Command::new(OPENER);
    command.arg(url).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    match command.spawn() {
        Ok(mut opener) => {
            tokio::spawn(async move {
                if !opener.wait().await.is_ok_and(|status| status.success()) {
                    eprintln!("{OPENER} has found no browser: open the URL yourself");
                }
            });
        }
        Err(error) => eprintln!("cannot run {OPENER} ({error}): open the URL yourself"),
    }
}
