use std::collections::BTreeSet;

use proptest::prelude::*;

use super::super::rules::reference;
use super::super::{ThreadRole, tables};
use super::Allow::{Call, Refuse, When};
use super::Arg::{Bits, Is, IsThisProcess};
use super::*;
use crate::config::OnViolation;

const ACTIONS: Actions =
    Actions { listed: libc::SECCOMP_RET_ALLOW, otherwise: libc::SECCOMP_RET_KILL_PROCESS };

/// Interprets a program as the kernel does, for the instructions that both compilers generate.
fn run(program: &[sock_filter], architecture: u32, number: u32, arguments: [u64; 6]) -> u32 {
    let word = |offset: u32| match offset {
        NUMBER => number,
        ARCHITECTURE => architecture,
        _ => {
            let at = offset - ARGUMENTS;
            let argument = arguments[(at / 8) as usize];
            if at.is_multiple_of(8) { argument as u32 } else { (argument >> 32) as u32 }
        }
    };
    let (mut at, mut accumulator) = (0, 0);
    for _ in 0..100_000 {
        let sock_filter { code, jt, jf, k } = program[at].clone();
        at += 1;
        let mut branch = |taken: bool| at += usize::from(if taken { jt } else { jf });
        match code {
            LOAD => accumulator = word(k),
            AND => accumulator &= k,
            JUMP => at += k as usize,
            JUMP_IF_EQUAL => branch(accumulator == k),
            JUMP_IF_GREATER => branch(accumulator > k),
            JUMP_IF_AT_LEAST => branch(accumulator >= k),
            RETURN => return k,
            other => panic!("instruction {other:#x} is made by neither compiler"),
        }
    }
    panic!("the program does not end");
}

/// Returns the values of an argument to test: those in conditions, and their neighbours.
fn interesting(listed: &[Allow]) -> Vec<u64> {
    let mut values = BTreeSet::from([0, 1, u64::MAX, 1 << 32, u64::from(std::process::id())]);
    for allow in listed {
        let When(_, conditions) = allow else { continue };
        for condition in *conditions {
            let value = match *condition {
                Is(_, value) => u64::from(value),
                Bits(_, mask, value) => {
                    values.extend([mask, value | !mask, value ^ mask, value ^ (mask & mask.wrapping_neg())]);
                    value
                }
                IsThisProcess(_) => u64::from(std::process::id()),
            };
            values.extend([value, value ^ 1, value | 1 << 32, value | 1 << 63, value.wrapping_add(1)]);
        }
    }
    values.into_iter().collect()
}

fn agree(listed: &[Allow], number: u32, arguments: [u64; 6]) {
    let ours = build(listed, ACTIONS).unwrap();
    let theirs = reference(listed.iter().copied(), OnViolation::Kill).unwrap();
    let (ours, theirs) = (
        run(&ours, THIS_ARCHITECTURE, number, arguments),
        run(&theirs, THIS_ARCHITECTURE, number, arguments),
    );
    assert_eq!(ours, theirs, "call {number} with {arguments:x?}");
}

#[test]
fn every_role_may_do_just_what_seccompiler_makes_of_its_list() {
    for role in [ThreadRole::Control, ThreadRole::Device, ThreadRole::Vcpu, ThreadRole::Memory] {
        let listed: Vec<Allow> = tables::of(role).collect();
        let ours = build(&listed, ACTIONS).unwrap();
        let theirs = reference(listed.iter().copied(), OnViolation::Kill).unwrap();
        let values = interesting(&listed);
        let same = |number: u32, arguments: [u64; 6]| {
            if i64::from(number) == libc::SYS_clone3 && role == ThreadRole::Control {
                let refused = libc::SECCOMP_RET_ERRNO | libc::ENOSYS.unsigned_abs();
                return assert_eq!(run(&ours, THIS_ARCHITECTURE, number, arguments), refused);
            }
            let (ours, theirs) = (
                run(&ours, THIS_ARCHITECTURE, number, arguments),
                run(&theirs, THIS_ARCHITECTURE, number, arguments),
            );
            assert_eq!(ours, theirs, "{role:?}: call {number} with {arguments:x?}");
        };
        // The numbers above the last system call include those of the x32 ABI of x86.
        for number in (0..1024).chain([1 << 30, (1 << 30) + 1, 1 << 31, u32::MAX]) {
            same(number, [0; 6]);
            let conditional =
                |allow: &&Allow| matches!(allow, When(call, _) if u32::try_from(*call) == Ok(number));
            let named: BTreeSet<usize> = listed
                .iter()
                .filter(conditional)
                .flat_map(|allow| match allow {
                    When(_, conditions) => conditions.iter().map(argument_of).collect::<Vec<_>>(),
                    Call(_) | Refuse(..) => Vec::new(),
                })
                .collect();
            for &first in &named {
                for &value in &values {
                    let mut arguments = [0; 6];
                    arguments[first] = value;
                    same(number, arguments);
                    for &second in named.range(first + 1..) {
                        for &other in &values {
                            arguments[second] = other;
                            same(number, arguments);
                        }
                    }
                }
            }
        }
    }
}

fn argument_of(condition: &Arg) -> usize {
    let (Is(argument, _) | Bits(argument, _, _) | IsThisProcess(argument)) = *condition;
    usize::from(argument)
}

#[test]
fn another_architectures_calls_are_not_listed() {
    for otherwise in [libc::SECCOMP_RET_KILL_PROCESS, libc::SECCOMP_RET_LOG] {
        let program = build(&[Call(1)], Actions { otherwise, ..ACTIONS }).unwrap();
        assert_eq!(run(&program, THIS_ARCHITECTURE, 1, [0; 6]), ACTIONS.listed);
        assert_eq!(run(&program, THIS_ARCHITECTURE, 2, [0; 6]), otherwise);
        assert_eq!(run(&program, THIS_ARCHITECTURE ^ 1, 1, [0; 6]), libc::SECCOMP_RET_KILL_PROCESS);
    }
}

#[test]
fn a_search_takes_few_steps_and_an_empty_list_allows_nothing() {
    assert_eq!(run(&build(&[], ACTIONS).unwrap(), THIS_ARCHITECTURE, 0, [0; 6]), ACTIONS.otherwise);
    let error = build(&[Call(-1)], ACTIONS).unwrap_err();
    assert_eq!(error, ProgramError::Number(-1));
    let many: Vec<Allow> = (0..300).map(|_| When(7, &[Is(0, 1)])).collect();
    assert_eq!(build(&many, ACTIONS).unwrap_err(), ProgramError::TooLong(7));
}

/// Conditions from which the test draws; a list needs conditions with static lifetime.
const CONDITIONS: [&[Arg]; 6] = [
    &[Is(0, 5)],
    &[Is(1, 0), Is(0, 0xffff_ffff)],
    &[Bits(2, 0xff00, 0x1200)],
    &[Bits(0, 1 << 40, 1 << 40), Is(1, 3)],
    &[Bits(1, u64::MAX, 0)],
    &[],
];

proptest! {
    #[test]
    fn any_list_means_what_seccompiler_makes_of_it(
        calls in proptest::collection::vec((0..40_i64, 0..8_usize), 1..40),
        number in 0..45_u32,
        arguments in proptest::array::uniform3(prop_oneof![
            Just(0_u64), Just(3), Just(5), Just(0xffff_ffff), Just(0x1200), Just(0x12ff), Just(1 << 40), any::<u64>()
        ]),
    ) {
        let listed: Vec<Allow> = calls
            .iter()
            // `seccompiler` does not accept a rule without conditions; `Call` is our equivalent.
            .map(|&(number, which)| match CONDITIONS.get(which).filter(|conditions| !conditions.is_empty()) {
                Some(conditions) => When(number, conditions),
                None => Call(number),
            })
            .collect();
        let [a, b, c] = arguments;
        agree(&listed, number, [a, b, c, 0, 0, 0]);
    }
}

#[test]
fn a_helper_starts_threads_and_neither_processes_nor_sockets() {
    use super::super::dangerous;
    let (kill, allow) = (libc::SECCOMP_RET_KILL_PROCESS, libc::SECCOMP_RET_ALLOW);
    let program = dangerous::program(OnViolation::Kill).unwrap();
    let call = |number: libc::c_long, first: u64| {
        run(&program, THIS_ARCHITECTURE, u32::try_from(number).unwrap(), [first, 0, 0, 0, 0, 0])
    };
    let thread = u64::try_from(libc::CLONE_VM | libc::CLONE_THREAD).unwrap();
    assert_eq!(call(libc::SYS_clone, thread), allow);
    assert_eq!(call(libc::SYS_clone, u64::try_from(libc::SIGCHLD).unwrap()), kill);
    assert_eq!(call(libc::SYS_clone3, 0), libc::SECCOMP_RET_ERRNO | libc::ENOSYS.unsigned_abs());
    for allowed in
        [libc::SYS_read, libc::SYS_recvmsg, libc::SYS_epoll_pwait, libc::SYS_mmap, libc::SYS_openat]
    {
        assert_eq!(call(allowed, 0), allow, "{allowed}");
        // The same call under the number of another ABI of this architecture.
        assert_eq!(call(allowed | 0x4000_0000, 0), kill, "{allowed}");
    }
    for denied in
        [libc::SYS_socket, libc::SYS_execve, libc::SYS_ptrace, libc::SYS_io_uring_setup, libc::SYS_unshare]
    {
        assert_eq!(call(denied, 0), kill, "{denied}");
    }
    assert_eq!(run(&program, THIS_ARCHITECTURE ^ 1, 0, [0; 6]), kill);
}
