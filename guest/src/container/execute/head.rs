//! What the first bytes of a file say of it (elf(5); Linux, fs/binfmt_script.c and fs/binfmt_elf.c).

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

/// Bytes of a file that the kernel looks at to find out what it is (BINPRM_BUF_SIZE).
const HEAD: usize = 256;

/// Program headers that are looked at; programs have a dozen.
const MOST_HEADERS: u64 = 64;

/// Longest path of an interpreter in a program.
const MOST_PATH: u64 = 4096;

/// The processor of microVMs: EM_AARCH64.
const ARM64: u16 = 183;

/// What a file is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Head {
    /// It begins with `#!` and names a program.
    Script {
        /// The program that runs it.
        interpreter: PathBuf,
    },
    /// A program for microVMs.
    Program {
        /// The program that loads it, where it is linked dynamically.
        loader: Option<PathBuf>,
    },
    /// Something that microVMs cannot execute: the words that follow its name.
    Other(String),
}

/// Looks at a file. Only regular files are read, and no more than some kilobytes of them.
pub(super) fn read(path: &Path) -> io::Result<Head> {
    // Opening a pipe or a device neither waits nor becomes this process's terminal.
    let flags = libc::O_NONBLOCK | libc::O_NOCTTY | libc::O_CLOEXEC;
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is no file"));
    }
    let head = bytes(&file, 0, HEAD)?;
    if let Some(line) = head.strip_prefix(b"#!") {
        return Ok(script(line));
    }
    if head.starts_with(b"\x7fELF") {
        return Ok(elf(&file, &head));
    }
    Ok(Head::Other(foreign(&head)))
}

fn script(line: &[u8]) -> Head {
    let line = line.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let words = line.trim_ascii_start();
    let name = words.split(|byte| matches!(byte, b' ' | b'\t' | 0)).next().unwrap_or_default();
    if name.is_empty() {
        return Head::Other("names no program behind the \"#!\" of its first line".to_owned());
    }
    Head::Script { interpreter: OsString::from_vec(name.to_vec()).into() }
}

fn elf(file: &File, head: &[u8]) -> Head {
    let byte = |at: usize| head.get(at).copied().unwrap_or(0);
    let (wide, little) = (byte(4) == 2, byte(5) == 1);
    let half = |at: usize| {
        let pair = [byte(at), byte(at + 1)];
        if little { u16::from_le_bytes(pair) } else { u16::from_be_bytes(pair) }
    };
    let (kind, machine) = (half(16), half(18));
    if machine != ARM64 || !little || !wide {
        return Head::Other(format!("is built for {}, microVMs are arm64", processor(machine, wide, little)));
    }
    match kind {
        // ET_EXEC and ET_DYN
        2 | 3 => match loader(file, head) {
            Ok(loader) => Head::Program { loader },
            Err(_) => Head::Other("is a damaged program: it ends too early".to_owned()),
        },
        1 => Head::Other("is an object file, which the linker has to make a program of".to_owned()),
        _ => Head::Other("is an arm64 file, but no program".to_owned()),
    }
}

/// The path in the program header PT_INTERP.
fn loader(file: &File, head: &[u8]) -> io::Result<Option<PathBuf>> {
    let damaged = || io::Error::from(io::ErrorKind::InvalidData);
    let table = number(head, 32, 8).ok_or_else(damaged)?;
    let size = number(head, 54, 2).ok_or_else(damaged)?;
    let count = number(head, 56, 2).ok_or_else(damaged)?;
    if size != 56 || count == 0 {
        return Err(damaged());
    }
    for index in 0..count.min(MOST_HEADERS) {
        let at = table.checked_add(index * size).ok_or_else(damaged)?;
        let header = bytes(file, at, 56)?;
        let field = |at, length| number(&header, at, length).ok_or_else(damaged);
        // The last field is read first: a header that ends too early is none.
        let (_, kind, at, length) = (field(48, 8)?, field(0, 4)?, field(8, 8)?, field(32, 8)?);
        if kind == 3 {
            let length = usize::try_from(length.min(MOST_PATH)).map_err(|_| damaged())?;
            let mut path = bytes(file, at, length)?;
            path.truncate(path.iter().position(|byte| *byte == 0).ok_or_else(damaged)?);
            return Ok(Some(OsString::from_vec(path).into()));
        }
    }
    Ok(None)
}

/// A number with the low byte first.
fn number(bytes: &[u8], at: usize, length: usize) -> Option<u64> {
    let bytes = bytes.get(at..at.checked_add(length)?)?;
    Some(bytes.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte)))
}

/// At most so many bytes of a file, less at its end.
fn bytes(file: &File, at: u64, length: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; length];
    let mut filled = 0;
    while let Some(rest) = bytes.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match file.read_at(rest, at.saturating_add(filled as u64)) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    bytes.truncate(filled);
    Ok(bytes)
}

/// Name of the processor that a program is built for.
fn processor(machine: u16, wide: bool, little: bool) -> String {
    let name = match machine {
        3 => "x86 (32 bits)",
        8 => "MIPS",
        21 => "ppc64",
        22 => "s390x",
        40 => "arm (32 bits)",
        62 => "x86-64",
        ARM64 if !little => "arm64 with the high byte first",
        ARM64 => "arm64 with pointers of 32 bits",
        243 => "riscv64",
        258 => "loongarch64",
        other => return format!("a processor with the number {other} ({} bits)", if wide { 64 } else { 32 }),
    };
    name.to_owned()
}

/// What a file is that is neither a script nor a Linux program.
fn foreign(head: &[u8]) -> String {
    let says = |magic: &[u8]| head.starts_with(magic);
    let text = if head.is_empty() {
        "is empty"
    } else if says(b"\xef\xbb\xbf#!") {
        "has a byte order mark before the \"#!\" of its first line: save it as UTF-8 without one"
    } else if says(b"MZ") {
        "is built for Windows, microVMs run Linux on arm64"
    } else if says(b"\xcf\xfa\xed\xfe") || says(b"\xce\xfa\xed\xfe") {
        "is built for macOS, microVMs run Linux on arm64"
    } else if says(b"PK\x03\x04") {
        "is a zip; a jar is started with java -jar"
    } else if !head.contains(&0) {
        "is a script without \"#!\" in its first line: begin it with #!/bin/sh, or start it with its interpreter"
    } else {
        "is no program that Linux knows"
    };
    text.to_owned()
}
