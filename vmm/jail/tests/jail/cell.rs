//! The launcher's side of the tests: starts an inmate, sends commands to it, inspects it through `/proc`.

use std::fs::{self, File};
use std::io::{ErrorKind, Read as _};
use std::net::Shutdown;
use std::os::fd::AsRawFd as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::process::{Child, ExitStatus, Stdio};
use std::time::Duration;

use hearth_vmm_jail::{JailConfig, Wall, clean_up, prepare, spawn};
use tempfile::TempDir;
use vmm_sys_util::sock_ctrl_msg::ScmSocket as _;

/// Reports what is not tested here and why; on the metal that is a failure.
pub(crate) fn skip(what: &str, why: &str) {
    hearth_testing::skip(&format!("{what} cannot be tested: {why}"));
}

/// Whether the tests can run at all; reports the reason if not.
pub(crate) fn can_jail() -> bool {
    // SAFETY: no pointers, cannot fail.
    let root = unsafe { libc::geteuid() } == 0;
    if !root {
        skip("the jail", "the tests do not run as root");
    }
    root
}

/// Returns a configuration with all walls except those in `off`.
pub(crate) fn without(off: &[Wall]) -> JailConfig {
    JailConfig { off: off.to_vec(), ..JailConfig::default() }
}

/// Timeout for an answer. It is long enough for any machine; only a failure reaches it.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(120);

/// A jail with a process in it. Dropping it stops the process and cleans up.
pub(crate) struct Cell {
    child: Child,
    socket: UnixStream,
    config: JailConfig,
    _run_dir: TempDir,
}

impl Cell {
    /// Starts an inmate the way a launcher does.
    pub(crate) fn start(config: &JailConfig) -> Self {
        Self::start_with(config, |config, listener| {
            let program = std::env::current_exe().unwrap();
            spawn(&program, config, listener.into(), Stdio::piped(), tempfile::tempfile().unwrap()).unwrap()
        })
    }

    /// Starts an inmate with `launch`, which receives the prepared configuration and the control socket.
    pub(crate) fn start_with(
        config: &JailConfig,
        launch: impl FnOnce(&JailConfig, UnixListener) -> Child,
    ) -> Self {
        let run_dir = tempfile::tempdir().unwrap();
        let config = prepare(run_dir.path(), config).unwrap();
        let path = run_dir.path().join("control");
        let listener = UnixListener::bind(&path).unwrap();
        // The connection waits in the listener's backlog. If the inmate exits before it accepts, the connection is
        // closed.
        let socket = UnixStream::connect(&path).unwrap();
        socket.set_read_timeout(Some(ANSWER_TIMEOUT)).unwrap();
        let child = launch(&config, listener);
        Self { child, socket, config, _run_dir: run_dir }
    }

    /// Starts an inmate and waits until it is inside the jail.
    pub(crate) fn inside(config: &JailConfig) -> Self {
        let mut cell = Self::start(config);
        assert_eq!(cell.ask("hello"), "hello");
        cell
    }

    /// Sends a command to the inmate and returns the answer; `None` if the inmate died of it.
    pub(crate) fn tell(&mut self, command: &str, file: Option<&File>) -> Option<String> {
        let sent = match file {
            Some(file) => self.socket.send_with_fd(command.as_bytes(), file.as_raw_fd()),
            None => self.socket.send_with_fds(&[command.as_bytes()], &[]),
        };
        if sent.is_err() {
            return None;
        }
        let mut answer = [0; 4096];
        match self.socket.read(&mut answer) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => panic!("no answer to `{command}`"),
            Ok(0) | Err(_) => None,
            Ok(length) => Some(String::from_utf8_lossy(&answer[..length]).into_owned()),
        }
    }

    /// Sends a command to the inmate that it survives, and returns the answer.
    pub(crate) fn ask(&mut self, command: &str) -> String {
        match self.tell(command, None) {
            Some(answer) => answer,
            None => panic!("`{command}` ended the inmate: {:?}", self.end()),
        }
    }

    /// Checks that the system call that `command` makes fails with `errno`.
    pub(crate) fn ask_refused(&mut self, command: &str, errno: libc::c_int) {
        assert_eq!(self.ask(command), format!("errno {errno}"), "{command}");
    }

    /// Closes the connection, which makes an inmate that is inside exit, and waits for its exit. Returns its exit
    /// status and its output on stderr.
    pub(crate) fn end(&mut self) -> (ExitStatus, String) {
        let _ = self.socket.shutdown(Shutdown::Both);
        let status = self.child.wait().unwrap();
        let mut text = String::new();
        if let Some(stderr) = &mut self.child.stderr {
            stderr.read_to_string(&mut text).unwrap();
        }
        (status, text)
    }

    /// Sends a command to the inmate for which the kernel must kill it with `signal`.
    pub(crate) fn ask_fatal(&mut self, command: &str, signal: libc::c_int) {
        let answer = self.tell(command, None);
        if answer.is_some() {
            panic!("`{command}` must end the inmate with signal {signal}, but it answered {answer:?}");
        }
        let (status, stderr) = self.end();
        assert_eq!(status.signal(), Some(signal), "{command}: {status}: {stderr}");
    }

    /// Returns the process id of the inmate.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Returns the configuration, with the resources that were prepared for it.
    pub(crate) fn config(&self) -> &JailConfig {
        &self.config
    }

    /// Returns a path in the inmate's `/proc` folder.
    pub(crate) fn proc_path(&self, name: &str) -> PathBuf {
        format!("/proc/{}/{name}", self.pid()).into()
    }

    /// Returns the contents of a file in the inmate's `/proc` folder.
    pub(crate) fn proc_text(&self, name: &str) -> String {
        fs::read_to_string(self.proc_path(name)).unwrap()
    }

    /// Returns the value of a line of the inmate's `/proc/PID/status`, its fields joined by single spaces.
    pub(crate) fn status(&self, key: &str) -> String {
        let status = self.proc_text("status");
        let line = status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
        line.unwrap().split_whitespace().collect::<Vec<_>>().join(" ")
    }

    /// Whether the inmate shares a namespace with this process.
    pub(crate) fn shares(&self, namespace: &str) -> bool {
        let own = fs::read_link(format!("/proc/self/ns/{namespace}")).unwrap();
        fs::read_link(self.proc_path(&format!("ns/{namespace}"))).unwrap() == own
    }
}

impl Drop for Cell {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if let Err(error) = clean_up(&self.config)
            && !std::thread::panicking()
        {
            panic!("{error}");
        }
    }
}
