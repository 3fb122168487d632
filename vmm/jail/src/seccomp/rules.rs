//! The rules of which lists of system calls consist.

#[cfg(test)]
pub(super) use tests::reference;

/// A rule for one system call.
#[derive(Debug, Clone, Copy)]
pub(super) enum Allow {
    /// Allowed with any arguments.
    Call(libc::c_long),
    /// Allowed if all of the conditions hold. A call may be listed several times; it is allowed if any of its rules
    /// matches.
    When(libc::c_long, &'static [Arg]),
    /// Never allowed, but the call returns this error number instead of killing the process.
    Refuse(libc::c_long, i32),
}

/// A condition on one argument of a system call.
#[derive(Debug, Clone, Copy)]
pub(super) enum Arg {
    /// The low 32 bits of argument `.0` equal `.1`; for arguments that the kernel takes as an `int`.
    Is(u8, u32),
    /// The bits of argument `.0` that are set in the mask `.1` equal `.2`; all 64 bits count.
    Bits(u8, u64, u64),
    /// The low 32 bits of argument `.0` equal the calling process's id.
    IsThisProcess(u8),
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use seccompiler::{
        BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition,
        SeccompFilter, SeccompRule, TargetArch,
    };

    use super::{Allow, Arg};
    use crate::config::OnViolation;

    #[cfg(target_arch = "aarch64")]
    const ARCH: TargetArch = TargetArch::aarch64;
    #[cfg(target_arch = "x86_64")]
    const ARCH: TargetArch = TargetArch::x86_64;

    fn condition(arg: Arg) -> Result<SeccompCondition, BackendError> {
        let (argument, length, operator, value) = match arg {
            Arg::Is(argument, value) => {
                (argument, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, u64::from(value))
            }
            Arg::Bits(argument, mask, value) => {
                (argument, SeccompCmpArgLen::Qword, SeccompCmpOp::MaskedEq(mask), value)
            }
            Arg::IsThisProcess(argument) => {
                (argument, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, u64::from(std::process::id()))
            }
        };
        SeccompCondition::new(argument, length, operator, value)
    }

    /// Compiles a list with `seccompiler`: a program that allows what is listed and handles all other calls according
    /// to `on_violation`.
    pub(in super::super) fn reference(
        allowed: impl Iterator<Item = Allow>,
        on_violation: OnViolation,
    ) -> Result<BpfProgram, BackendError> {
        let otherwise = match on_violation {
            OnViolation::Kill => SeccompAction::KillProcess,
            OnViolation::Log => SeccompAction::Log,
        };
        SeccompFilter::new(merge(allowed)?, otherwise, SeccompAction::Allow, ARCH)?.try_into()
    }

    /// Merges the rules into one entry per call, as `seccompiler` requires. An empty list of rules allows any
    /// arguments.
    fn merge(allowed: impl Iterator<Item = Allow>) -> Result<BTreeMap<i64, Vec<SeccompRule>>, BackendError> {
        let mut merged: BTreeMap<i64, Option<Vec<SeccompRule>>> = BTreeMap::new();
        for allow in allowed {
            match allow {
                Allow::Call(call) | Allow::Refuse(call, _) => {
                    merged.insert(call, None);
                }
                Allow::When(call, conditions) => {
                    if let Some(rules) = merged.entry(call).or_insert_with(|| Some(Vec::new())) {
                        let conditions =
                            conditions.iter().map(|arg| condition(*arg)).collect::<Result<_, _>>()?;
                        rules.push(SeccompRule::new(conditions)?);
                    }
                }
            }
        }
        Ok(merged.into_iter().map(|(call, rules)| (call, rules.unwrap_or_default())).collect())
    }

    #[test]
    fn a_call_that_is_allowed_with_any_arguments_stays_so_whatever_else_is_listed() {
        let [any, one] = [Allow::Call(7), Allow::When(7, &[Arg::Is(0, 1)])];
        for list in [[any, one], [one, any]] {
            assert!(merge(list.into_iter()).unwrap()[&7].is_empty());
        }
        assert_eq!(merge([one, one].into_iter()).unwrap()[&7].len(), 2);
    }
}
