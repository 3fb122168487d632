//! The guest's initramfs: the agent as PID 1, and the modules of a modular kernel.

use super::BaseError;
use super::cpio::Archive;
use super::modules::Module;

/// ELF, 64 bits, little-endian.
const ELF: &[u8] = b"\x7fELF\x02\x01";
/// `e_machine` of aarch64: its offset and value.
const MACHINE: (usize, &[u8]) = (18, &[183, 0]);
/// A program header's type for the dynamic loader's path.
const INTERPRETER: u32 = 3;

/// Makes the archive. `/modules.list` has one absolute path per line, in load order; without modules, the file is missing.
pub(crate) fn make(guest: &std::path::Path, init: &[u8], modules: &[Module]) -> Result<Vec<u8>, BaseError> {
    check(init).map_err(|reason| BaseError::unusable(guest, reason))?;
    let mut archive = Archive::default();
    for folder in ["dev", "proc", "sys", "tmp"] {
        archive.folder(folder);
    }
    archive.console();
    archive.file("init", 0o755, init);
    let mut list = String::new();
    for module in modules {
        let path = format!("modules/{}.ko", module.name);
        archive.file(&path, 0o644, &module.content);
        list.push_str(&format!("/{path}\n"));
    }
    if !modules.is_empty() {
        archive.file("modules.list", 0o644, list.as_bytes());
    }
    Ok(archive.finish())
}

/// Checks that a program can run as PID 1 of a guest that has no libraries.
fn check(program: &[u8]) -> Result<(), &'static str> {
    if !program.starts_with(ELF) || program.get(MACHINE.0..MACHINE.0 + 2) != Some(MACHINE.1) {
        return Err("it is no program for 64-bit arm");
    }
    if has_interpreter(program).ok_or("its program headers are damaged")? {
        return Err("it is linked dynamically, and a guest has no libraries; link it statically");
    }
    Ok(())
}

/// Whether an ELF file needs a dynamic loader; none if its headers are not consistent with its size.
fn has_interpreter(program: &[u8]) -> Option<bool> {
    let number = |at: usize, bytes: usize| {
        let field = program.get(at..at.checked_add(bytes)?)?;
        Some(field.iter().rev().fold(0_u64, |value, byte| (value << 8) | u64::from(*byte)))
    };
    let (table, size, count) = (number(32, 8)?, number(54, 2)?, number(56, 2)?);
    for index in 0..count {
        let at = usize::try_from(table.checked_add(index * size)?).ok()?;
        if number(at, 4)? == u64::from(INTERPRETER) {
            return Some(true);
        }
    }
    Some(false)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn program(header: u32) -> Vec<u8> {
        let mut elf = vec![0; 64 + 56];
        elf[..6].copy_from_slice(ELF);
        elf[18] = 183;
        elf[32] = 64;
        elf[54] = 56;
        elf[56] = 1;
        elf[64..68].copy_from_slice(&header.to_le_bytes());
        elf
    }

    #[test]
    fn only_static_programs_for_arm_are_taken() {
        let make = |init: &[u8]| make(Path::new("guest"), init, &[]).map_err(|error| error.to_string());
        assert!(make(&program(1)).is_ok());
        assert!(make(&program(INTERPRETER)).unwrap_err().contains("statically"));
        assert!(make(&program(1)[..70]).is_ok(), "only the type is read");
        assert!(make(&program(1)[..66]).unwrap_err().contains("damaged"));
        assert!(make(b"#!/bin/sh\n").unwrap_err().contains("no program"));
    }

    #[test]
    fn modules_are_listed_in_load_order() {
        let module = |name: &str| Module { name: name.into(), content: name.into() };
        let archive = make(Path::new("guest"), &program(1), &[module("z"), module("a")]).unwrap();
        let text = String::from_utf8_lossy(&archive);
        assert!(text.contains("/modules/z.ko\n/modules/a.ko\n"));
        let without = make(Path::new("guest"), &program(1), &[]).unwrap();
        assert!(!String::from_utf8_lossy(&without).contains("modules.list"));
    }
}
