//! A cache of roles' credentials.
//!
//! Users choose ARNs, and a pattern matches many, so the cache is bounded: for each account separately, so that no account evicts
//! another one's roles. The number of accounts is the operator's decision.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use hearth_model::role::RoleUse;

use super::credentials::Credentials;

/// Most roles that are cached per account. Beyond it, the least recently used one is evicted.
pub(super) const MAX_OF_ACCOUNT: usize = 1024;

/// The cached credentials of a role. The lock is held during a request.
pub(super) type CachedCredentials = Arc<tokio::sync::Mutex<Option<Credentials>>>;

/// The cache, by account and ARN.
#[derive(Debug, Default)]
pub(super) struct Cache {
    accounts: Mutex<HashMap<String, Account>>,
}

#[derive(Debug, Default)]
struct Account {
    roles: HashMap<String, Role>,
    /// Counts the uses of all roles of the account.
    uses: u64,
}

#[derive(Debug, Default)]
struct Role {
    credentials: CachedCredentials,
    /// Value of the account's counter at the last use.
    used: u64,
}

impl Cache {
    /// The cached credentials of an account's role; empty on the first use, or after an eviction.
    pub(super) fn of(&self, role: &RoleUse) -> CachedCredentials {
        let mut accounts = self.accounts.lock().unwrap_or_else(PoisonError::into_inner);
        let account = accounts.entry(role.account.clone()).or_default();
        if account.roles.len() >= MAX_OF_ACCOUNT && !account.roles.contains_key(&role.role_arn) {
            account.evict_one();
        }
        account.uses += 1;
        let found = account.roles.entry(role.role_arn.clone()).or_default();
        found.used = account.uses;
        Arc::clone(&found.credentials)
    }
}

impl Account {
    fn evict_one(&mut self) {
        let oldest = self.roles.iter().min_by_key(|(_, role)| role.used).map(|(arn, _)| arn.clone());
        if let Some(arn) = oldest {
            self.roles.remove(&arn);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn role(account: &str, number: usize) -> RoleUse {
        RoleUse::new(account, format!("role-{number}"))
    }

    #[test]
    fn an_account_forgets_its_own_roles_only_and_the_longest_unused_first() {
        let cache = Cache::default();
        let (one, other) = ("111111111111", "222222222222");
        let of_other = cache.of(&role(other, 0));
        let first = cache.of(&role(one, 0));
        let second = cache.of(&role(one, 1));
        for number in 2..MAX_OF_ACCOUNT {
            cache.of(&role(one, number));
        }
        assert!(Arc::ptr_eq(&first, &cache.of(&role(one, 0))), "used just now");
        for number in 0..10 {
            cache.of(&role(one, MAX_OF_ACCOUNT + number));
        }
        assert!(Arc::ptr_eq(&first, &cache.of(&role(one, 0))));
        assert!(Arc::ptr_eq(&of_other, &cache.of(&role(other, 0))), "another account's stay");
        assert!(!Arc::ptr_eq(&second, &cache.of(&role(one, 1))), "this one was forgotten");
        let accounts = cache.accounts.lock().unwrap();
        assert_eq!((accounts[one].roles.len(), accounts[other].roles.len()), (MAX_OF_ACCOUNT, 1));
    }

    #[test]
    fn the_same_arn_of_two_accounts_is_remembered_apart() {
        let cache = Cache::default();
        let of = |account: &str| cache.of(&role(account, 0));
        assert!(!Arc::ptr_eq(&of("111111111111"), &of("222222222222")));
        assert!(Arc::ptr_eq(&of("111111111111"), &of("111111111111")));
    }
}
