//! Numbered lines through a pseudo-terminal. The thread at the slave end writes them as a program writes its output.
//! The thread at the master end checks them and types an answer to each, which the first thread checks.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::OpenOptionsExt as _;

use hearth_test_guest::work::Kind;

use super::{Going, rest};
use crate::commands::failed;
use crate::system;

/// Starts the threads at both ends.
pub(super) fn start(going: &mut Going) -> Result<(), String> {
    let (master, slave) = open().map_err(failed("opening a pseudo-terminal"))?;
    let mut typist = master.try_clone().map_err(failed("duplicating the master"))?;
    let mut screen = BufReader::new(master);
    let mut output = slave.try_clone().map_err(failed("duplicating the slave"))?;
    let mut input = BufReader::new(slave);
    going.spawn(Kind::Pty, move |board| {
        for number in 0_u64.. {
            if board.is_stopping() {
                break;
            }
            output.write_all(line("said", number).as_bytes()).map_err(failed("writing a line"))?;
            expect(&mut input, &line("typed", number))?;
            board.done(Kind::Pty);
            rest();
        }
        Ok(())
    })?;
    going.spawn(Kind::Pty, move |board| {
        for number in 0_u64.. {
            match expect(&mut screen, &line("said", number)) {
                // When the slave's last descriptor is closed, reading from the master fails.
                Err(_) if board.is_stopping() => break,
                result => result?,
            }
            typist.write_all(line("typed", number).as_bytes()).map_err(failed("typing a line"))?;
        }
        Ok(())
    })
}

fn line(what: &str, number: u64) -> String {
    format!("{what} {number} {:x}\n", number.wrapping_mul(0x9e37_79b9_7f4a_7c15))
}

fn expect(from: &mut BufReader<File>, expected: &str) -> Result<(), String> {
    let mut line = String::new();
    from.read_line(&mut line).map_err(failed("reading a line"))?;
    if line == expected { Ok(()) } else { Err(format!("read {line:?} instead of {expected:?}")) }
}

/// Opens both ends of a new pseudo-terminal that does not change data and does not echo.
fn open() -> io::Result<(File, File)> {
    system::mount("devpts", "/dev/pts");
    // PID 1 must not acquire a controlling terminal.
    let mut options = OpenOptions::new();
    options.read(true).write(true).custom_flags(libc::O_NOCTTY);
    let master = options.open("/dev/ptmx")?;
    let (mut number, unlocked): (libc::c_uint, libc::c_int) = (0, 0);
    // SAFETY: both requests take a pointer to an integer, which lives until the call returns.
    let result = unsafe {
        libc::ioctl(master.as_raw_fd(), libc::TIOCSPTLCK, &raw const unlocked)
            | libc::ioctl(master.as_raw_fd(), libc::TIOCGPTN, &raw mut number)
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    let slave = options.open(format!("/dev/pts/{number}"))?;
    // SAFETY: all zeros are a valid value of this plain structure, and every call gets a pointer to it.
    let result = unsafe {
        let mut settings: libc::termios = std::mem::zeroed();
        libc::tcgetattr(slave.as_raw_fd(), &raw mut settings);
        libc::cfmakeraw(&raw mut settings);
        libc::tcsetattr(slave.as_raw_fd(), libc::TCSANOW, &raw const settings)
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok((master, slave)) }
}
