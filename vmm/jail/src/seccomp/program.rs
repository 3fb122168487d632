//! Compiles lists of system calls into BPF programs (Linux, Documentation/userspace-api/seccomp_filter.rst).
//!
//! ```text
//!   architecture right? ── no ──► kill
//!          │
//!   binary search by number ────► otherwise
//!          │
//!   conditions on arguments ────► otherwise
//!          │
//!        allow
//! ```
//!
//! The binary search is the reason for not using `seccompiler`'s compiler, whose programs compare one number after the
//! other. That is slow: the kernel runs a program once for every existing system call when it is installed, and again
//! for every call whose arguments matter. The tests compare these programs with those of `seccompiler` for the same
//! lists.

use std::collections::BTreeMap;

use seccompiler::sock_filter;

use super::rules::{Allow, Arg};

/// Offset of the system call's number in `struct seccomp_data`.
const NUMBER: u32 = 0;
/// Offset of the architecture in `struct seccomp_data`.
const ARCHITECTURE: u32 = 4;
/// Offset of the first argument in `struct seccomp_data`.
const ARGUMENTS: u32 = 16;

/// `AUDIT_ARCH_*` (include/uapi/linux/audit.h).
#[cfg(target_arch = "aarch64")]
pub(super) const THIS_ARCHITECTURE: u32 = 0xc000_00b7;
#[cfg(target_arch = "x86_64")]
pub(super) const THIS_ARCHITECTURE: u32 = 0xc000_003e;

// Instruction codes (include/uapi/linux/bpf_common.h).
const LOAD: u16 = 0x20;
const AND: u16 = 0x54;
const JUMP: u16 = 0x05;
const JUMP_IF_EQUAL: u16 = 0x15;
const JUMP_IF_GREATER: u16 = 0x25;
pub(super) const JUMP_IF_AT_LEAST: u16 = 0x35;
pub(super) const RETURN: u16 = 0x06;

/// The reason for which a list cannot be compiled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ProgramError {
    /// A call has more conditions than a conditional jump can skip.
    #[error("system call {0} has more conditions than fit a BPF jump")]
    TooLong(u32),
    /// The number is not that of a system call.
    #[error("{0} is no number of a system call")]
    Number(libc::c_long),
}

/// The actions of a filter: `SECCOMP_RET_*`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Actions {
    /// Action for calls that are listed.
    pub(super) listed: u32,
    /// Action for all other calls.
    pub(super) otherwise: u32,
}

type Instructions = Vec<sock_filter>;

pub(super) fn instruction(code: u16, jt: u8, jf: u8, k: u32) -> sock_filter {
    sock_filter { code, jt, jf, k }
}

/// System calls with consecutive numbers and the same conditions. Each alternative is a list of conditions that must
/// all hold; one alternative must hold. If there are no alternatives, any arguments are allowed.
struct Calls<'a> {
    first: u32,
    last: u32,
    alternatives: Vec<&'a [Arg]>,
    /// Action if one of the alternatives holds.
    action: u32,
}

/// Compiles the program for `listed`.
///
/// # Errors
/// [`ProgramError`], which cannot occur with the current lists: the tests compile them.
pub(super) fn build(listed: &[Allow], actions: Actions) -> Result<Instructions, ProgramError> {
    let mut program = vec![
        instruction(LOAD, 0, 0, ARCHITECTURE),
        instruction(JUMP_IF_EQUAL, 1, 0, THIS_ARCHITECTURE),
        instruction(RETURN, 0, 0, libc::SECCOMP_RET_KILL_PROCESS),
        instruction(LOAD, 0, 0, NUMBER),
    ];
    search(&collect(listed, actions.listed)?, actions, &mut program)?;
    Ok(program)
}

/// Conditions on a call's arguments; `None` if any arguments are allowed, whatever other conditions are listed.
type Alternatives<'a> = Option<Vec<&'a [Arg]>>;

/// Sorts the list, and joins calls with consecutive numbers that have the same action for any arguments.
fn collect(listed: &[Allow], allow: u32) -> Result<Vec<Calls<'_>>, ProgramError> {
    let mut sorted: BTreeMap<u32, (Alternatives<'_>, u32)> = BTreeMap::new();
    for rule in listed {
        let (Allow::Call(number) | Allow::When(number, _) | Allow::Refuse(number, _)) = *rule;
        let number = u32::try_from(number).map_err(|_| ProgramError::Number(number))?;
        let entry = sorted.entry(number).or_insert_with(|| (Some(Vec::new()), allow));
        match rule {
            Allow::Call(_) => entry.0 = None,
            Allow::Refuse(_, error) => *entry = (None, libc::SECCOMP_RET_ERRNO | error.unsigned_abs()),
            Allow::When(_, conditions) => {
                if let Some(alternatives) = &mut entry.0 {
                    alternatives.push(conditions);
                }
            }
        }
    }
    let mut calls: Vec<Calls<'_>> = Vec::with_capacity(sorted.len());
    for (number, (alternatives, action)) in sorted {
        let alternatives = alternatives.unwrap_or_default();
        match calls.last_mut() {
            Some(last)
                if last.last + 1 == number
                    && last.action == action
                    && last.alternatives.is_empty()
                    && alternatives.is_empty() =>
            {
                last.last = number;
            }
            _ => calls.push(Calls { first: number, last: number, alternatives, action }),
        }
    }
    Ok(calls)
}

/// Adds the binary search for the number among `calls`. The number must have been loaded.
fn search(calls: &[Calls<'_>], actions: Actions, program: &mut Instructions) -> Result<(), ProgramError> {
    let (lower, upper) = calls.split_at(calls.len() / 2);
    match (lower, upper) {
        (_, []) => program.push(instruction(RETURN, 0, 0, actions.otherwise)),
        ([], [one, ..]) => leaf(one, actions, program)?,
        (_, [middle, ..]) => {
            // A conditional jump reaches 255 instructions, an unconditional one any number.
            program.push(instruction(JUMP_IF_AT_LEAST, 0, 1, middle.first));
            let jump = program.len();
            program.push(instruction(JUMP, 0, 0, 0));
            search(lower, actions, program)?;
            let distance = u32::try_from(program.len() - jump - 1).unwrap_or(u32::MAX);
            if let Some(instruction) = program.get_mut(jump) {
                instruction.k = distance;
            }
            search(upper, actions, program)?;
        }
    }
    Ok(())
}

/// Adds the instructions that decide about one entry.
fn leaf(calls: &Calls<'_>, actions: Actions, program: &mut Instructions) -> Result<(), ProgramError> {
    let mut decision = Instructions::new();
    if calls.alternatives.is_empty() {
        decision.push(instruction(RETURN, 0, 0, calls.action));
    }
    for conditions in &calls.alternatives {
        let mut checks = Instructions::new();
        conditions.iter().for_each(|condition| check(*condition, &mut checks));
        checks.push(instruction(RETURN, 0, 0, calls.action));
        // If a check fails, execution continues behind this alternative.
        let length = checks.len();
        for (position, instruction) in checks.iter_mut().enumerate() {
            if instruction.code == JUMP_IF_EQUAL {
                instruction.jf =
                    u8::try_from(length - position - 1).map_err(|_| ProgramError::TooLong(calls.first))?;
            }
        }
        decision.append(&mut checks);
    }
    let skip = u8::try_from(decision.len()).map_err(|_| ProgramError::TooLong(calls.first))?;
    if calls.first == calls.last {
        program.push(instruction(JUMP_IF_EQUAL, 0, skip, calls.first));
    } else {
        let behind = skip.checked_add(1).ok_or(ProgramError::TooLong(calls.first))?;
        program.push(instruction(JUMP_IF_AT_LEAST, 0, behind, calls.first));
        program.push(instruction(JUMP_IF_GREATER, skip, 0, calls.last));
    }
    program.append(&mut decision);
    program.push(instruction(RETURN, 0, 0, actions.otherwise));
    Ok(())
}

/// Adds a condition. The jump target for the case that it does not hold is filled in later.
fn check(condition: Arg, checks: &mut Instructions) {
    let half = |argument: u8, high: bool| ARGUMENTS + 8 * u32::from(argument) + if high { 4 } else { 0 };
    let mut compare = |offset: u32, mask: u32, value: u32| {
        checks.push(instruction(LOAD, 0, 0, offset));
        if mask != u32::MAX {
            checks.push(instruction(AND, 0, 0, mask));
        }
        checks.push(instruction(JUMP_IF_EQUAL, 0, 0, value));
    };
    let halves = |value: u64| {
        let [a, b, c, d, e, f, g, h] = value.to_le_bytes();
        (u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h]))
    };
    match condition {
        Arg::Is(argument, value) => compare(half(argument, false), u32::MAX, value),
        Arg::IsThisProcess(argument) => compare(half(argument, false), u32::MAX, std::process::id()),
        Arg::Bits(argument, mask, value) => {
            let ((mask_low, mask_high), (value_low, value_high)) = (halves(mask), halves(value));
            for (high, mask, value) in [(true, mask_high, value_high), (false, mask_low, value_low)] {
                if (mask, value) != (0, 0) {
                    compare(half(argument, high), mask, value);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
