//! Answers that are kept for a while, bounded in number, bytes and time.
//!
//! Each account has its own: how fast an answer comes tells nobody what another account's guests have looked up, and no account's
//! queries push another's answers out. Answers come from the servers only, never from a guest.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::records::lifetimes;

/// Most answers of an account, and most bytes of them with what they take besides.
const ENTRIES: usize = 4096;
const BYTES: usize = 1 << 20;
/// Bytes of the longest answer that is kept.
const LONGEST: usize = 4096;
/// Bytes that an answer takes besides itself and its key, which is there twice.
const OVERHEAD: usize = 256;
/// Longest time that an answer is kept, whatever its records say.
const CEILING: Duration = Duration::from_secs(300);

/// The answers of one account's queries.
#[derive(Debug, Default)]
pub(super) struct Cache {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    entries: HashMap<Arc<[u8]>, Entry>,
    /// Keys in the order in which their answers came; one whose answer was replaced is in it twice, with another number.
    order: VecDeque<(u64, Arc<[u8]>)>,
    bytes: usize,
    next: u64,
}

#[derive(Debug)]
struct Entry {
    number: u64,
    message: Vec<u8>,
    /// Where the times to live are in the message.
    places: Vec<u16>,
    came: Instant,
    until: Instant,
}

impl Entry {
    fn size(&self, key: &[u8]) -> usize {
        OVERHEAD + self.message.len() + 2 * self.places.len() + 2 * key.len()
    }
}

impl Cache {
    /// The answer to a query with this key, with the times to live that are left.
    pub(super) fn get(&self, key: &[u8], now: Instant) -> Option<Vec<u8>> {
        let state = self.lock();
        let entry = state.entries.get(key).filter(|entry| now < entry.until)?;
        let age = u32::try_from((now - entry.came).as_secs()).unwrap_or(u32::MAX);
        let mut message = entry.message.clone();
        for place in &entry.places {
            if let Some(seconds) =
                message.get_mut(usize::from(*place)..).and_then(|rest| rest.first_chunk_mut())
            {
                *seconds = u32::from_be_bytes(*seconds).saturating_sub(age).to_be_bytes();
            }
        }
        Some(message)
    }

    /// Keeps an answer, if it may be kept. The oldest ones make room for it.
    pub(super) fn put(&self, key: &[u8], message: &[u8], now: Instant) {
        let Some(found) = (message.len() <= LONGEST).then(|| lifetimes(message)).flatten() else { return };
        let lifetime = Duration::from_secs(found.least.into()).min(CEILING);
        if lifetime.is_zero() {
            return;
        }
        let mut state = self.lock();
        let (number, key) = (state.next, Arc::<[u8]>::from(key));
        let message = message.to_vec();
        let entry = Entry { number, message, places: found.places, came: now, until: now + lifetime };
        state.next += 1;
        state.bytes += entry.size(&key);
        state.order.push_back((number, Arc::clone(&key)));
        if let Some(replaced) = state.entries.insert(Arc::clone(&key), entry) {
            state.bytes -= replaced.size(&key);
        }
        state.evict();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn evict(&mut self) {
        // Keys of answers that were replaced count, too.
        while self.bytes > BYTES || self.order.len() > ENTRIES {
            let Some((number, key)) = self.order.pop_front() else { return };
            if self.entries.get(&key).is_some_and(|entry| entry.number == number)
                && let Some(oldest) = self.entries.remove(&key)
            {
                self.bytes -= oldest.size(&key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An answer with one address that is good for so many seconds.
    fn answer(seconds: u32, more: usize) -> Vec<u8> {
        let mut message = vec![0, 7, 0x81, 0x80, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1, 0, 1];
        message.extend(seconds.to_be_bytes());
        message.extend(u16::try_from(more).unwrap().to_be_bytes());
        message.extend(vec![7; more]);
        message
    }

    #[test]
    fn an_answer_is_kept_for_the_time_that_it_is_good_and_no_longer_than_the_ceiling() {
        let (cache, now) = (Cache::default(), Instant::now());
        let after = |seconds| now + Duration::from_secs(seconds);
        cache.put(b"minute", &answer(60, 4), now);
        cache.put(b"day", &answer(86_400, 4), now);
        cache.put(b"never", &answer(0, 4), now);
        assert_eq!(cache.get(b"minute", now), Some(answer(60, 4)));
        assert_eq!(cache.get(b"minute", after(59)), Some(answer(1, 4)), "what is left of it");
        assert_eq!(cache.get(b"minute", after(60)), None);
        assert_eq!(cache.get(b"day", after(299)), Some(answer(86_400 - 299, 4)));
        assert_eq!((cache.get(b"day", after(300)), cache.get(b"never", now)), (None, None));
        cache.put(b"day", &answer(10, 5), after(300));
        assert_eq!(cache.get(b"day", after(300)), Some(answer(10, 5)));
    }

    #[test]
    fn the_oldest_answers_make_room() {
        for length in [4, 3000] {
            let (cache, now) = (Cache::default(), Instant::now());
            // The same names again and again leave nothing behind either.
            for round in 0..3 * ENTRIES {
                let key = if round % 2 == 0 { b"again".to_vec() } else { round.to_be_bytes().to_vec() };
                cache.put(&key, &answer(60, length), now);
                let state = cache.lock();
                assert!(state.bytes <= BYTES && state.order.len() <= ENTRIES);
                assert!(state.entries.len() <= state.order.len());
                let sizes = state.entries.iter().map(|(key, entry)| entry.size(key));
                assert!(round % 1000 != 0 || sizes.sum::<usize>() == state.bytes);
            }
            assert!(cache.get(b"again", now).is_some() && cache.get(&1_usize.to_be_bytes(), now).is_none());
        }
        let (cache, now) = (Cache::default(), Instant::now());
        cache.put(b"long", &answer(60, LONGEST), now);
        assert_eq!(cache.get(b"long", now), None);
    }
}
