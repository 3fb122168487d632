//! Tests of the program itself, as people use it: commands, pipes instead of a terminal, folders.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::FileExt as _;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Output, Stdio};
use std::sync::mpsc::Receiver;

use hearth_test_guest::client::Command as Order;
use hearth_test_guest::{INIT_LINE, READY_LINE, READY_PORT};
use hearth_vmm_client::CONTROL_SOCKET;
use tempfile::TempDir;

use crate::support::{Metal, TEST_TIMEOUT, lines, within};

/// The key sequence that shuts a machine down at its terminal.
const LEAVE: &[u8] = b"\x01x";

/// A folder in which the commands run, with one disk.
struct Desk {
    metal: Metal,
    folder: TempDir,
}

impl Desk {
    fn new(metal: &Metal) -> Self {
        let folder = tempfile::tempdir().unwrap();
        crate::support::patterned(&folder.path().join("disk"), 1, 4 << 20);
        Self { metal: metal.clone(), folder }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(&self.metal.monitor);
        command.args(words).current_dir(self.folder.path());
        command
    }

    /// Runs a command for the running machine; `SOCKET` stands for its control socket.
    fn try_run(&self, words: &[&str]) -> Output {
        let socket = format!("run/{CONTROL_SOCKET}");
        let words: Vec<&str> =
            words.iter().map(|&word| if word == "SOCKET" { &socket } else { word }).collect();
        self.command(&words).stdin(Stdio::null()).output().unwrap()
    }

    /// Runs a command as `try_run` does, and prints its output.
    fn run(&self, words: &[&str]) -> String {
        let output = self.try_run(words);
        let said = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
        eprint!("$ hearth-vmm {}\n{said}", words.join(" "));
        said
    }

    /// Runs a command that must fail with one line on standard error, and returns that line.
    fn refused(&self, words: &[&str]) -> String {
        let output = self.try_run(words);
        assert!(!output.status.success() && output.stdout.is_empty(), "{words:?}: {output:?}");
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(said.lines().count(), 1, "{said}");
        said
    }

    /// Starts a machine with its console.
    fn start(&self, words: &[&str]) -> Terminal {
        let mut command = self.command(words);
        command.args(["--run-dir", "run", "--vsock", "vsock"]);
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        Terminal {
            input: child.stdin.take().unwrap(),
            output: lines(child.stdout.take().unwrap()),
            errors: lines(child.stderr.take().unwrap()),
            child,
        }
    }

    fn order(&self, order: &str) -> String {
        let order = Order::start(&self.at("vsock"), order, TEST_TIMEOUT).unwrap();
        order.finish().unwrap().unwrap()
    }

    fn left(&self) -> Vec<String> {
        names(self.folder.path())
    }
}

/// A running command with a machine.
struct Terminal {
    child: Child,
    input: ChildStdin,
    output: Receiver<String>,
    errors: Receiver<String>,
}

/// Waits for a line with `text`.
fn wait_for(lines: &Receiver<String>, text: &str) {
    loop {
        let line =
            lines.recv_timeout(TEST_TIMEOUT).unwrap_or_else(|error| panic!("`{text}` did not come: {error}"));
        if line.contains(text) {
            return;
        }
    }
}

impl Terminal {
    /// Types a line, which the guest's console shows.
    fn type_line(&mut self, text: &str) {
        writeln!(self.input, "{text}").unwrap();
        wait_for(&self.output, text);
    }

    /// Waits until the command has printed `text` and has exited successfully.
    fn ended(mut self, text: &str) {
        wait_for(&self.errors, text);
        drop(self.input);
        let status = within("the command's end", move || self.child.wait()).unwrap();
        assert!(status.success(), "{status}");
    }
}

fn names(folder: &Path) -> Vec<String> {
    let names = fs::read_dir(folder).unwrap();
    let mut names: Vec<_> = names.map(|name| name.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// Makes checksums of what has none, and flips a bit of each kind of content of each file of a snapshot, which has to be
/// found by the file's name.
fn every_flip_is_found(desk: &Desk, folder: &str) {
    let said = desk.run(&["verify", folder, "--make-sums"]);
    assert!(said.contains(&format!("{folder}: disk0: the block map, of ")), "{said}");
    let said = desk.run(&["verify", folder]);
    assert!(said.contains(&format!("{folder}: memory: ")) && !said.contains("not covered"), "{said}");
    for name in names(&desk.at(folder)).iter().filter(|name| *name != "base") {
        let file = File::options().read(true).write(true).open(desk.at(folder).join(name)).unwrap();
        let number = |at| {
            let mut bytes = [0; 8];
            file.read_exact_at(&mut bytes, at).unwrap();
            u64::from_le_bytes(bytes)
        };
        // SAFETY: no pointers; the descriptor is the file's own.
        let data =
            |from| u64::try_from(unsafe { libc::lseek(file.as_raw_fd(), from, libc::SEEK_DATA) }).unwrap();
        let places = match name.as_str() {
            "memory" => vec![data(0) + 100],
            "working-set" => vec![65, number(48) + 5],
            "disk0" => vec![13, data(4096), data(number(20).cast_signed()) + 100],
            _ => vec![33],
        };
        for at in places {
            let mut byte = [0];
            file.read_exact_at(&mut byte, at).unwrap();
            file.write_all_at(&[byte[0] ^ 4], at).unwrap();
            let output = desk.try_run(&["verify", folder]);
            file.write_all_at(&byte, at).unwrap();
            let said = String::from_utf8(output.stderr).unwrap();
            let named = said.contains(&format!("{folder}: {name}: "));
            assert!(!output.status.success() && named, "byte {at} of {name}: {said}");
        }
    }
    desk.run(&["verify", folder]);
}

#[test]
fn a_microvm_is_snapshotted_suspended_and_restored_from_a_terminal() {
    let Some(metal) = Metal::find() else { return };
    let desk = Desk::new(&metal);
    let ready = UnixListener::bind(desk.at(&format!("vsock_{READY_PORT}"))).unwrap();
    let (kernel, initramfs) = (metal.kernel.to_str().unwrap(), metal.initramfs.to_str().unwrap());
    let disk = ["--disk", "disk,overlay=overlay"];
    let boot = ["boot", "--kernel", kernel, "--initrd", initramfs, "--memory", "256", "--rng"];
    let quiet = ["--cmdline", "console=ttyS0 quiet panic=-1"];
    let mut terminal = desk.start(&[&boot[..], &disk, &quiet].concat());
    wait_for(&terminal.output, INIT_LINE);
    let line = within("the guest's announcement", move || {
        let mut line = String::new();
        BufReader::new(ready.accept().unwrap().0).read_line(&mut line).map(|_| line)
    });
    assert_eq!(line.unwrap().trim_end(), READY_LINE);
    terminal.type_line("before the snapshot");

    // Takes a snapshot, after which the machine continues; then shuts the machine down.
    desk.order("nonce-set 01");
    desk.order("blk-write vda 5 40 0 64");
    let said = desk.run(&["snapshot", "SOCKET", "full"]);
    assert!(
        ["all of it", "pause", "commit", "total", "own"].iter().all(|word| said.contains(word)),
        "{said}"
    );
    assert!(desk.refused(&["snapshot", "SOCKET", "full"]).contains("full exists already"));
    desk.order("nonce-set 02");
    desk.run(&["snapshot", "SOCKET", "full", "--replace"]);
    assert_eq!(names(&desk.at("full")), ["disk0", "memory", "state"]);
    desk.order("nonce-set 03");
    assert_eq!(desk.order("nonce-get"), "03");
    terminal.input.write_all(LEAVE).unwrap();
    terminal.ended("a controller asked for it");

    // The overlay has changed since the snapshot, so it cannot be used with it.
    let restore = |folder: &'static str| [&["restore", folder][..], &disk].concat();
    assert!(desk.refused(&restore("full")).contains("the overlay of disk 0 is not empty"));
    fs::remove_file(desk.at("overlay")).unwrap();

    // Records a working set, with the console as before.
    let mut terminal = desk.start(&[&restore("full")[..], &["--record", "full/working-set"]].concat());
    wait_for(&terminal.errors, "its clocks go on from the snapshot");
    assert_eq!(desk.order("nonce-get"), "02");
    desk.order("blk-check vda 5 40 0 64 40");
    terminal.type_line("while it records");
    assert!(desk.run(&["ctl", "SOCKET", "working-set", "early"]).contains("touched"));
    terminal.input.write_all(LEAVE).unwrap();
    wait_for(&terminal.errors, "full/working-set: ");
    terminal.ended("a controller asked for it");
    assert_eq!(names(&desk.at("full")), ["disk0", "memory", "state", "working-set"]);
    every_flip_is_found(&desk, "full");
    fs::remove_file(desk.at("overlay")).unwrap();

    // Suspends the machine twice; the same command restores it each time.
    let mut folder = "full";
    for round in 1..=2 {
        let mut terminal = desk.start(&restore(folder));
        if folder == "suspended" {
            wait_for(&terminal.errors, "its clocks go ahead to now");
        }
        wait_for(&terminal.errors, "working set");
        terminal.type_line("after the restore");
        if folder == "suspended" {
            assert_eq!(desk.order("nonce-get"), format!("1{}", round - 1));
            desk.order("blk-check vda 6 40 0 64 40");
        }
        desk.order(&format!("nonce-set 1{round}"));
        desk.order("blk-write vda 6 40 0 64");
        let said = desk.run(&["suspend", "SOCKET", "suspended", "--replace"]);
        assert!(said.contains("what differs from /") && said.contains("/full\n"), "{said}");
        terminal.ended("a controller asked for it");
        assert_eq!(names(&desk.at("suspended")), ["base", "disk0", "memory", "state"]);
        every_flip_is_found(&desk, "suspended");
        assert_eq!(names(&desk.at("suspended")), ["base", "disk0", "memory", "state", "sums"]);
        let expected = ["disk", "early", "full", "suspended"];
        assert!(
            desk.left().iter().filter(|name| !name.starts_with("vsock")).eq(expected),
            "{:?}",
            desk.left()
        );
        folder = "suspended";
    }

    // Without the file `origin` beside the socket, the base must be given.
    let terminal = desk.start(&restore("suspended"));
    wait_for(&terminal.errors, "total");
    fs::remove_file(desk.at("run/origin")).unwrap();
    assert!(desk.refused(&["suspend", "SOCKET", "other"]).contains("name it with --base"));
    let wrong = desk.refused(&["suspend", "SOCKET", "other", "--base", "suspended"]);
    assert!(wrong.contains("builds on another snapshot itself"), "{wrong}");
    assert_eq!(desk.order("nonce-get"), "12");
    let _unanswered = Order::start(&desk.at("vsock"), "poweroff", TEST_TIMEOUT).unwrap();
    terminal.ended("the guest powered itself off");
}

#[test]
fn what_a_restore_cannot_do_is_told_in_a_line() {
    let Some(metal) = Metal::find() else { return };
    let desk = Desk::new(&metal);
    fs::create_dir(desk.at("folder")).unwrap();
    let refused = |words: &[&str], why: &str| {
        let said = desk.refused(words);
        assert!(said.contains(why), "{said}");
    };
    refused(&["restore", "nowhere"], "is that the folder of a snapshot?");
    refused(&["restore", "folder"], "opening the state");
    refused(&["suspend", "SOCKET", "new"], "connecting to the monitor");
    refused(&["snapshot", "SOCKET", "new"], "connecting to the monitor");
    fs::write(desk.at("folder/state"), "garbage").unwrap();
    fs::write(desk.at("folder/memory"), "garbage").unwrap();
    refused(&["restore", "folder"], "not a saved state");
    assert_eq!(desk.left(), ["disk", "folder"]);
}
