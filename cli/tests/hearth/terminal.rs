//! A shell in a microVM, with a terminal on this side: `script` of util-linux makes one.

use std::process::Stdio;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use crate::endpoint::Endpoint;
use crate::support::Host;

/// A terminal with a running script.
struct Terminal {
    child: Child,
    keys: ChildStdin,
    screen: ChildStdout,
    shown: String,
}

impl Terminal {
    /// Runs `hearth shell` in a terminal of 120 columns and 40 rows; then prints its status, and the terminal's settings.
    ///
    /// The terminal changes to 100 columns when something is written to `resize`.
    async fn start(host: &Host) -> Self {
        let resize = host.folder.path().join("resize");
        let made = Command::new("mkfifo").arg(&resize).status().await.unwrap();
        assert!(made.success());
        let script = format!(
            "stty rows 40 cols 120\n\
             (read word < {}; stty rows 50 cols 100 < /dev/tty) &\n\
             resizer=$!\n\
             sh -c 'echo pid=$$; exec {} shell a1'\n\
             echo status=$?\n\
             stty -a\n\
             kill $resizer 2> /dev/null\n\
             echo done\n",
            resize.display(),
            env!("CARGO_BIN_EXE_hearth")
        );
        let path = host.folder.path().join("script");
        std::fs::write(&path, script).unwrap();
        let mut command = Command::new("script");
        command.args(["-qec", &format!("sh {}", path.display()), "/dev/null"]);
        command.env_clear().env("PATH", "/usr/bin:/bin").env("SHELL", "/bin/sh").env("TERM", "xterm");
        command.env("HOME", host.folder.path()).env("HEARTH_ENDPOINT", &host.endpoint).kill_on_drop(true);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (keys, screen) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let mut terminal = Self { child, keys, screen, shown: String::new() };
        terminal.until("size=120x40").await;
        terminal
    }

    async fn press(&mut self, keys: &str) {
        self.keys.write_all(keys.as_bytes()).await.unwrap();
    }

    /// Waits until this text was printed.
    async fn until(&mut self, text: &str) {
        let mut piece = [0; 4096];
        while !self.shown.contains(text) {
            let read = self.screen.read(&mut piece).await.unwrap_or(0);
            assert!(read > 0, "{text} is not in {}", self.shown);
            self.shown.push_str(&String::from_utf8_lossy(&piece[..read]));
        }
    }

    /// Waits until the script has ended, checks the exit status of `hearth`, and returns the output after it.
    async fn end(mut self, status: u8) -> String {
        self.until("done\r\n").await;
        let (_, rest) = self
            .shown
            .split_once(&format!("status={status}\r\n"))
            .unwrap_or_else(|| panic!("{}", self.shown));
        let settings: Vec<_> = rest.split_whitespace().collect();
        assert!(
            settings.contains(&"icanon") && settings.contains(&"echo"),
            "the terminal is as before: {rest}"
        );
        drop(self.keys);
        drop(self.child.wait().await);
        self.shown
    }
}

#[tokio::test]
async fn keys_go_there_raw_the_size_follows_and_the_terminal_is_restored() {
    let host = Host::start();
    let _endpoint = Endpoint::start(&host).await;
    let mut terminal = Terminal::start(&host).await;
    terminal.press("abc\u{3}").await;
    terminal.until("ABC\u{3}").await;
    assert!(!terminal.shown.contains("abc"), "the other side echoes: {}", terminal.shown);
    tokio::fs::write(host.folder.path().join("resize"), "now\n").await.unwrap();
    terminal.until("size=100x50").await;
    terminal.press("\r").await;
    terminal.press("exit 7\r").await;
    terminal.end(7).await;
}

#[tokio::test]
async fn a_session_that_hangs_is_ended_with_tilde_and_dot() {
    let host = Host::start();
    let _endpoint = Endpoint::start(&host).await;
    let mut terminal = Terminal::start(&host).await;
    terminal.press("x\r~.").await;
    let shown = terminal.end(130).await;
    assert!(shown.contains("error: disconnected from microvm-a1"), "{shown}");
}

#[tokio::test]
async fn a_signal_leaves_a_good_terminal_behind() {
    let host = Host::start();
    let _endpoint = Endpoint::start(&host).await;
    let terminal = Terminal::start(&host).await;
    let id = terminal.shown.split("pid=").nth(1).unwrap().lines().next().unwrap().trim().to_owned();
    let killed = Command::new("kill").args(["-TERM", &id]).status().await.unwrap();
    assert!(killed.success());
    terminal.end(143).await;
}

#[tokio::test]
async fn an_upload_is_shown_on_a_terminal() {
    let host = Host::start();
    let folder = host.folder.path().join("app");
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("Dockerfile"), "FROM scratch\n").unwrap();
    let mut command = Command::new("script");
    let hearth = env!("CARGO_BIN_EXE_hearth");
    command.args(["-qec", &format!("{hearth} image create demo {} -d", folder.display()), "/dev/null"]);
    command.env_clear().env("PATH", "/usr/bin:/bin").env("SHELL", "/bin/sh").env("TERM", "xterm");
    command.env("HOME", host.folder.path()).env("HEARTH_ENDPOINT", &host.endpoint).stdin(Stdio::null());
    let output = command.kill_on_drop(true).output().await.unwrap();
    let shown = String::from_utf8(output.stdout).unwrap();
    assert!(shown.contains("uploading [") && shown.contains("uploaded "), "{shown}");
    assert!(shown.ends_with("demo 1.0 CREATING; hearth image watch demo\r\n"), "{shown}");
}
