//! User ids and names of networks that are in use.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};

use hearth_image_builder::build::{UserId, UserIds};

use super::layout::PREFIX;
use crate::panics::poisoned;

/// All user ids and network names that this host uses. A name is taken before the thing is made, and released after
/// it was removed; so a thing whose name is not taken belongs to nothing and can be removed.
#[derive(Debug)]
pub(super) struct InUse {
    first_uid: u32,
    uids: u32,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    uids: HashSet<u32>,
    networks: HashSet<String>,
    /// Where the search for a free id begins: a released id is not used again at once.
    next_uid: u32,
    next_network: u64,
}

impl InUse {
    /// Manages `uids` ids from `first_uid` on.
    pub(super) fn new(first_uid: u32, uids: u32) -> Self {
        Self { first_uid, uids, state: Mutex::default() }
    }

    fn with<T>(&self, work: impl FnOnce(&mut State) -> T) -> T {
        work(&mut self.state.lock().unwrap_or_else(poisoned))
    }

    /// Takes a free user id; none if all are in use.
    pub(super) fn take_uid(self: &Arc<Self>) -> Option<Uid> {
        let number = self.with(|state| {
            let offsets = (0..self.uids).map(|step| state.next_uid.wrapping_add(step) % self.uids);
            let mut free = offsets.filter(|offset| !state.uids.contains(&(self.first_uid + offset)));
            let offset = free.next()?;
            state.next_uid = (offset + 1) % self.uids;
            state.uids.insert(self.first_uid + offset);
            Some(self.first_uid + offset)
        })?;
        Some(Uid { number, all: Arc::clone(self) })
    }

    /// Marks the user id of an existing process as in use.
    pub(super) fn adopt_uid(&self, number: u32) {
        self.with(|state| state.uids.insert(number));
    }

    /// Releases the user id of a process that has exited.
    pub(super) fn release_uid(&self, number: u32) {
        self.with(|state| state.uids.remove(&number));
    }

    /// Whether a user id is in use.
    pub(super) fn has_uid(&self, number: u32) -> bool {
        self.with(|state| state.uids.contains(&number))
    }

    /// Takes a free network name, other than those for which `exists` is true.
    pub(super) fn take_network(&self, exists: impl Fn(&str) -> bool) -> String {
        self.with(|state| {
            loop {
                let name = format!("{PREFIX}{:x}", state.next_network);
                state.next_network = state.next_network.wrapping_add(1);
                if !exists(&name) && state.networks.insert(name.clone()) {
                    return name;
                }
            }
        })
    }

    /// Marks the name of an existing network as in use.
    pub(super) fn adopt_network(&self, name: &str) {
        self.with(|state| state.networks.insert(name.to_owned()));
    }

    /// Releases the name of a removed network.
    pub(super) fn release_network(&self, name: &str) {
        self.with(|state| state.networks.remove(name));
    }

    /// Whether a network name is in use.
    pub(super) fn has_network(&self, name: &str) -> bool {
        self.with(|state| state.networks.contains(name))
    }
}

/// A user id in use; free again when this is dropped, unless it is [kept](Self::keep).
#[derive(Debug)]
pub(super) struct Uid {
    number: u32,
    all: Arc<InUse>,
}

impl Uid {
    pub(super) fn number(&self) -> u32 {
        self.number
    }

    /// Keeps the id in use until it is [released](InUse::release_uid).
    pub(super) fn keep(self) {
        std::mem::forget(self);
    }
}

impl UserId for Uid {
    fn number(&self) -> u32 {
        self.number
    }
}

/// Builds take from the same ids as microVMs: no two of them have the same at a time.
impl UserIds for InUse {
    fn take(self: Arc<Self>) -> Option<Box<dyn UserId>> {
        Some(Box::new(self.take_uid()?))
    }
}

impl Drop for Uid {
    fn drop(&mut self) {
        self.all.release_uid(self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn user_ids_are_unique_and_come_back_late() {
        let all = Arc::new(InUse::new(1000, 3));
        all.adopt_uid(1001);
        let one = all.take_uid().unwrap();
        assert_eq!(one.number(), 1000);
        drop(one);
        let other = all.take_uid().unwrap();
        assert_eq!(other.number(), 1002, "not the one that was just given back");
        let again = all.take_uid().unwrap();
        assert_eq!(again.number(), 1000);
        assert!(all.take_uid().is_none());
        all.release_uid(1001);
        all.take_uid().unwrap().keep();
        assert!(all.has_uid(1001));
    }

    #[test]
    fn builds_and_microvms_never_have_the_same_user_id() {
        let all = Arc::new(InUse::new(1000, 2));
        let microvm = all.take_uid().unwrap();
        let build = Arc::clone(&all).take().unwrap();
        assert_ne!(build.number(), microvm.number());
        assert!(all.has_uid(build.number()), "a sweep of the host leaves its group alone");
        assert!(Arc::clone(&all).take().is_none() && all.take_uid().is_none());
        drop(build);
        assert!(all.take_uid().is_some());
    }

    #[test]
    fn names_of_networks_are_unique() {
        let all = Arc::new(InUse::new(1000, 3));
        all.adopt_network("vm-1");
        let names = [0; 3].map(|_| all.take_network(|name| name == "vm-2"));
        assert_eq!(names, ["vm-0", "vm-3", "vm-4"]);
        assert!(all.has_network("vm-3"));
        all.release_network("vm-3");
        assert!(!all.has_network("vm-3"));
    }
}
