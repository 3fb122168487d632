//! Checks of arm64 programs that are handed in.

/// ELF, 64 bits, little-endian.
const ELF: &[u8] = b"\x7fELF\x02\x01";
/// `e_type` of shared objects: its offset and value.
const SHARED: (usize, &[u8]) = (16, &[3, 0]);
/// `e_machine` of aarch64: its offset and value.
const MACHINE: (usize, &[u8]) = (18, &[183, 0]);
/// A program header's type for the dynamic loader's path.
const INTERPRETER: u32 = 3;
/// What a provider of OpenSSL is entered by.
const PROVIDER: &[u8] = b"\0OSSL_provider_init\0";

/// Checks that a program can run as PID 1 of a guest that has no libraries.
pub(crate) fn check_program(program: &[u8]) -> Result<(), &'static str> {
    if !is_for_arm(program) {
        return Err("it is no program for 64-bit arm");
    }
    if has_interpreter(program).ok_or("its program headers are damaged")? {
        return Err("it is linked dynamically, and a guest has no libraries; link it statically");
    }
    Ok(())
}

/// Checks that a file can be loaded as a provider of OpenSSL.
pub(crate) fn check_library(library: &[u8]) -> Result<(), &'static str> {
    let named = library.windows(PROVIDER.len()).any(|window| window == PROVIDER);
    if is_for_arm(library) && has(library, SHARED) && named {
        return Ok(());
    }
    Err("it is no provider of OpenSSL for 64-bit arm")
}

fn is_for_arm(file: &[u8]) -> bool {
    file.starts_with(ELF) && has(file, MACHINE)
}

fn has(file: &[u8], (offset, value): (usize, &[u8])) -> bool {
    file.get(offset..offset + value.len()) == Some(value)
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
pub(crate) mod tests {
    use super::*;

    pub(crate) fn program(header: u32) -> Vec<u8> {
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
        assert!(check_program(&program(1)).is_ok());
        assert!(check_program(&program(INTERPRETER)).unwrap_err().contains("statically"));
        assert!(check_program(&program(1)[..70]).is_ok(), "only the type is read");
        assert!(check_program(&program(1)[..66]).unwrap_err().contains("damaged"));
        assert!(check_program(b"#!/bin/sh\n").unwrap_err().contains("no program"));
    }

    #[test]
    fn only_providers_for_arm_are_taken() {
        let mut library = program(1);
        library[16] = 3;
        assert!(check_library(&library).is_err(), "it has no entry");
        library.extend_from_slice(PROVIDER);
        check_library(&library).unwrap();
        library[18] = 62;
        assert!(check_library(&library).is_err(), "it is for another architecture");
    }
}
