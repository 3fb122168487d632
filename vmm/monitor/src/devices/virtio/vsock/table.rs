//! The streams of a device in numbered slots. The host's side finds a stream by its slot's number, the guest's side
//! by its pair of ports.

use std::collections::HashMap;

use super::connection::{Connection, Key};

/// A bounded set of connections. Its memory is reserved once and touched only as far as it is used.
#[derive(Debug)]
pub(super) struct Table {
    slots: Vec<Option<Connection>>,
    free: Vec<u16>,
    by_key: HashMap<Key, u16>,
    limit: u16,
}

impl Table {
    /// Makes an empty table with room for `limit` connections.
    pub(super) fn new(limit: u16) -> Self {
        let capacity = usize::from(limit);
        Self {
            slots: Vec::with_capacity(capacity),
            free: Vec::with_capacity(capacity),
            // The map has twice the room, so that it cleans up after removals without allocating.
            by_key: HashMap::with_capacity(2 * capacity),
            limit,
        }
    }

    /// Number of connections in the table.
    pub(super) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Whether another connection fits.
    pub(super) fn has_room(&self) -> bool {
        self.len() < usize::from(self.limit)
    }

    /// Number of slots that were ever used: every connection is in a slot below it.
    pub(super) fn used_slots(&self) -> u16 {
        u16::try_from(self.slots.len()).unwrap_or(self.limit)
    }

    /// Puts a connection into a free slot; returns the slot, or `None` when the table is full.
    pub(super) fn insert(&mut self, connection: Connection) -> Option<u16> {
        if let Some(slot) = self.free.pop() {
            *self.slots.get_mut(usize::from(slot))? = Some(connection);
            return Some(slot);
        }
        let slot = self.used_slots();
        if slot >= self.limit {
            return None;
        }
        self.slots.push(Some(connection));
        Some(slot)
    }

    /// Returns the connection in `slot`.
    pub(super) fn get(&self, slot: u16) -> Option<&Connection> {
        self.slots.get(usize::from(slot))?.as_ref()
    }

    /// Returns the connection in `slot`, mutably.
    pub(super) fn get_mut(&mut self, slot: u16) -> Option<&mut Connection> {
        self.slots.get_mut(usize::from(slot))?.as_mut()
    }

    /// Takes the connection out of `slot`.
    pub(super) fn remove(&mut self, slot: u16) -> Option<Connection> {
        let connection = self.slots.get_mut(usize::from(slot))?.take()?;
        self.free.push(slot);
        Some(connection)
    }

    /// The slot of the connection that the guest identifies by `key`.
    pub(super) fn find(&self, key: Key) -> Option<u16> {
        self.by_key.get(&key).copied()
    }

    /// Makes `key` identify the connection in `slot`.
    pub(super) fn bind(&mut self, key: Key, slot: u16) {
        self.by_key.insert(key, slot);
    }

    /// Makes `key` identify no connection.
    pub(super) fn unbind(&mut self, key: Key) {
        self.by_key.remove(&key);
    }

    /// Removes all connections and keys.
    pub(super) fn clear(&mut self) {
        self.slots.clear();
        self.free.clear();
        self.by_key.clear();
    }
}
