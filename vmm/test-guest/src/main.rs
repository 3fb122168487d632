//! PID 1 of the test guest. The word `hearth.test=` of the kernel command line selects its mode: `poweroff`,
//! `reboot-once`, `demo`, `panic`, `spin`, or (by default) `serve`, which accepts commands over vsock, see
//! [`commands`].

mod buffer;
mod commands;
mod system;
mod vsock;

use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::os::unix::fs::FileExt as _;
use std::process::ExitCode;
use std::sync::Arc;
use std::thread;

use hearth_test_guest::{COMMAND_PORT, INIT_LINE, MODE_WORD, READY_LINE, READY_PORT};

use commands::Guest;
use system::Ending;

fn main() -> ExitCode {
    if std::process::id() != 1 {
        eprintln!("hearth-test-guest is the first process of a microVM; it is of no use anywhere else");
        return ExitCode::FAILURE;
    }
    system::return_freed_memory();
    system::mount("devtmpfs", "/dev");
    system::console(INIT_LINE);
    for (kind, folder) in [("proc", "/proc"), ("sysfs", "/sys"), ("tmpfs", "/tmp")] {
        system::mount(kind, folder);
    }
    match run(&system::mode(MODE_WORD)) {
        Ok(()) => {}
        Err(error) => system::console(&format!("the test guest failed: {error}")),
    }
    // The kernel panics when its first process exits.
    ExitCode::FAILURE
}

fn run(mode: &str) -> io::Result<()> {
    match mode {
        "poweroff" => Err(system::shut_down(Ending::PowerOff)),
        "reboot-once" => reboot_once(),
        "panic" => Ok(()),
        "demo" => demo(),
        "spin" => spin(),
        _ => serve(),
    }
}

/// Restarts if the first byte of the first disk is 0, after setting it to 1; otherwise powers off.
fn reboot_once() -> io::Result<()> {
    let disk = OpenOptions::new().read(true).write(true).open("/dev/vda")?;
    let mut first = [0];
    disk.read_exact_at(&mut first, 0)?;
    if first != [0] {
        return Err(system::shut_down(Ending::PowerOff));
    }
    disk.write_all_at(&[1], 0)?;
    disk.sync_all()?;
    Err(system::shut_down(Ending::Restart))
}

/// Prints information about the machine, and powers off.
fn demo() -> io::Result<()> {
    for line in commands::look_around() {
        system::console(&line);
    }
    Err(system::shut_down(Ending::PowerOff))
}

/// Keeps every CPU busy forever.
fn spin() -> io::Result<()> {
    let count = thread::available_parallelism()?.get();
    let threads: Vec<_> = (0..count)
        .map(|_| {
            thread::spawn(|| {
                loop {
                    std::hint::spin_loop()
                }
            })
        })
        .collect();
    for thread in threads {
        let _: Result<(), _> = thread.join();
    }
    Ok(())
}

/// Accepts commands, each on a separate connection and thread.
fn serve() -> io::Result<()> {
    let listener = vsock::Listener::bind(COMMAND_PORT)?;
    thread::spawn(announce);
    let guest = Arc::new(Guest::default());
    loop {
        let Ok(connection) = listener.accept() else { continue };
        let guest = Arc::clone(&guest);
        thread::spawn(move || commands::answer(&guest, connection));
    }
}

/// Notifies the host that commands are accepted. It is no error if the host does not listen.
fn announce() {
    if let Ok(mut host) = vsock::connect_to_host(READY_PORT) {
        let _ = host.write_all(format!("{READY_LINE}\n").as_bytes());
    }
}
