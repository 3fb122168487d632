//! What an account may take of the disk, and in which steps a microVM gets it: arithmetic without a disk.

use super::DiskError;

/// Parts of an account's room of which a microVM gets one at a time.
const PARTS: u64 = 64;
/// Least and greatest step in which a microVM gets room, in bytes.
const STEP: (u64, u64) = (8 << 20, 1 << 30);
/// Less room than this, in bytes, is none: requests of common drivers are as large.
const LEAST: u64 = 2 << 20;

/// What a microVM gets when it starts, in bytes, whatever its account has: as much as a guest needs to go on after a resume.
pub(super) const START: u64 = 4 << 20;

/// What an account has of the disk, and what there is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Balance {
    /// Bytes that count for the account.
    pub(super) used: u64,
    /// Bytes that each account may have.
    pub(super) quota: Option<u64>,
    /// Bytes that are free above the reserve and not promised to anybody.
    pub(super) left: u64,
    /// How many times what is left an account may have; 0 for no such bound.
    pub(super) ratio: u64,
}

impl Balance {
    /// Whether the account may have `bytes` more.
    ///
    /// # Errors
    /// [`DiskError::Quota`] or [`DiskError::Share`].
    pub(super) fn allows(&self, bytes: u64) -> Result<(), DiskError> {
        match self.quota {
            Some(quota) if self.used.saturating_add(bytes) > quota => {
                Err(DiskError::Quota(super::mib(quota)))
            }
            _ => self.shares(bytes),
        }
    }

    /// Whether enough would be left for others if the account had `bytes` more.
    ///
    /// # Errors
    /// [`DiskError::Share`].
    pub(super) fn shares(&self, bytes: u64) -> Result<(), DiskError> {
        let most = self.left.saturating_sub(bytes).saturating_mul(self.ratio);
        if self.ratio == 0 || self.used.saturating_add(bytes) <= most {
            return Ok(());
        }
        Err(DiskError::Share { used_mib: super::mib(self.used), left_mib: super::mib(self.left) })
    }

    /// The most bytes that the account may have more.
    pub(super) fn headroom(&self) -> u64 {
        let shared = match self.ratio {
            0 => self.left,
            // The most for which `used + bytes <= ratio * (left - bytes)`.
            ratio => {
                let most = u128::from(self.left) * u128::from(ratio);
                let bytes = most.saturating_sub(self.used.into()) / (u128::from(ratio) + 1);
                u64::try_from(bytes).unwrap_or(u64::MAX)
            }
        };
        self.quota.map_or(shared, |quota| shared.min(quota.saturating_sub(self.used)))
    }
}

/// What becomes of the bound of a microVM's disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Decision {
    /// It stays.
    Keep,
    /// It becomes this many bytes: more, or less where room has become scarce.
    Set(u64),
    /// It stays although its writes wait, or soon will: the account may have no more.
    Refuse,
}

/// The room that a microVM gets at a time where its account may have `headroom` bytes more.
pub(super) fn step(headroom: u64) -> u64 {
    (headroom / PARTS).clamp(STEP.0, STEP.1)
}

/// Decides about the bound of a microVM's disk that takes `taken` bytes. `headroom`: bytes that its account may have beside
/// what the bound allows already. A bound is changed when half of a step is used up, so that writes seldom wait, and
/// lowered when it leaves more than two steps, so that what one microVM does not use another one can have.
pub(super) fn decide(taken: u64, bound: u64, headroom: u64) -> Decision {
    let (step, slack) = (step(headroom), bound.saturating_sub(taken));
    if slack > step.saturating_mul(2) {
        return Decision::Set(taken.saturating_add(step));
    }
    if slack >= step / 2 {
        return Decision::Keep;
    }
    let wanted = taken.saturating_add(step).saturating_sub(bound).min(headroom);
    let after = slack.saturating_add(wanted);
    match (wanted < LEAST, after < LEAST) {
        (_, true) => Decision::Refuse,
        (true, false) => Decision::Keep,
        (false, false) => Decision::Set(bound.saturating_add(wanted)),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const GIB: u64 = 1 << 30;

    #[test]
    fn a_part_is_left_for_others_however_much_one_has() {
        let balance = |used, left| Balance { used, quota: None, left, ratio: 8 };
        assert_eq!(balance(0, 90 * GIB).headroom(), 80 * GIB);
        balance(0, 90 * GIB).allows(80 * GIB).unwrap();
        assert!(matches!(balance(0, 90 * GIB).allows(81 * GIB), Err(DiskError::Share { .. })));
        // The first one has taken all that it may. Others find room, and the next ones after them.
        assert_eq!(balance(80 * GIB, 10 * GIB).headroom(), 0);
        balance(0, 10 * GIB).allows(8 * GIB).unwrap();
        balance(0, 2 * GIB).allows(GIB).unwrap();
        // Alone, and as configured, it may have all.
        assert_eq!(Balance { ratio: 0, ..balance(80 * GIB, 10 * GIB) }.headroom(), 10 * GIB);
        let quota = Balance { quota: Some(81 * GIB), ratio: 0, ..balance(80 * GIB, 10 * GIB) };
        assert_eq!((quota.headroom(), quota.allows(2 * GIB)), (GIB, Err(DiskError::Quota(81 << 10))));
    }

    #[test]
    fn a_bound_moves_in_steps_that_become_smaller_as_room_becomes_scarce() {
        let mib = 1 << 20;
        assert_eq!((step(1 << 50), step(64 * 100 * mib), step(0)), (GIB, 100 * mib, 8 * mib));
        let plenty = 64 * 100 * mib;
        assert_eq!(decide(10 * mib, 110 * mib, plenty), Decision::Keep);
        assert_eq!(decide(61 * mib, 110 * mib, plenty), Decision::Set(161 * mib));
        assert_eq!(decide(10 * mib, 300 * mib, plenty), Decision::Set(110 * mib));
        // Little is left: what is not used goes to others, and the rest is handed out to the end.
        assert_eq!(decide(10 * mib, 110 * mib, 0), Decision::Set(18 * mib));
        assert_eq!(decide(17 * mib, 18 * mib, 5 * mib), Decision::Set(23 * mib));
        assert_eq!(decide(17 * mib, 18 * mib, 0), Decision::Refuse);
        assert_eq!(decide(15 * mib, 18 * mib, mib), Decision::Keep);
    }

    proptest! {
        /// Whatever accounts take as the rule allows, each new one finds room.
        #[test]
        fn there_is_always_room_for_another_account(
            size in 1 << 30..1_u64 << 45,
            takes in proptest::collection::vec((0..6_usize, 0..1_u64 << 45), 0..200),
        ) {
            let (mut used, mut left) = ([0_u64; 6], size);
            for (account, wanted) in takes {
                let balance = Balance { used: used[account], quota: None, left, ratio: 8 };
                let bytes = wanted.min(balance.headroom());
                prop_assert!(bytes == 0 || balance.allows(bytes).is_ok());
                prop_assert!(balance.allows(balance.headroom() + 1).is_err());
                used[account] += bytes;
                left -= bytes;
            }
            // Six accounts together leave at least what the rule leaves after each: a ninth of a ninth …
            prop_assert!(left >= size / 9_u64.pow(6));
            let next = Balance { used: 0, quota: None, left, ratio: 8 };
            prop_assert!(next.allows(left / 2).is_ok());
        }

        /// A bound that is raised is within what the account may have, and a microVM that writes on gets all of it.
        #[test]
        fn all_that_an_account_may_have_is_handed_out(headroom in 0..1_u64 << 40, taken in 0..1_u64 << 40) {
            let (mut bound, mut left) = (taken, headroom);
            for _ in 0..10_000 {
                match decide(bound, bound, left) {
                    Decision::Set(next) => {
                        prop_assert!(next > bound && next - bound <= left);
                        left -= next - bound;
                        bound = next;
                    }
                    _ => break,
                }
            }
            prop_assert!(left < LEAST, "{left} of {headroom}");
        }
    }
}
