//! Session tokens of the metadata service.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read as _};
use std::time::Duration;

use tokio::time::Instant;
use zeroize::{Zeroize as _, Zeroizing};

/// Most tokens that are valid at once. Another one replaces the oldest, whose holder requests a new one as after expiry.
const MOST: usize = 256;

/// Seconds for which a token may be valid.
pub(super) const SECONDS: std::ops::RangeInclusive<u32> = 1..=21_600;

/// The valid tokens, oldest first.
#[derive(Debug, Default)]
pub(super) struct Tokens {
    valid: VecDeque<(Zeroizing<String>, Instant)>,
}

impl Tokens {
    /// Makes a token.
    pub(super) fn make(&mut self, seconds: u32, now: Instant) -> io::Result<Zeroizing<String>> {
        let mut random = [0; 32];
        File::open("/dev/urandom")?.read_exact(&mut random)?;
        let mut token = Zeroizing::new(String::with_capacity(2 * random.len()));
        for four_bits in random.iter().flat_map(|byte| [byte >> 4, byte & 0xf]) {
            token.extend(char::from_digit(four_bits.into(), 16));
        }
        random.zeroize();
        self.valid.retain(|(_, end)| *end > now);
        if self.valid.len() == MOST {
            self.valid.pop_front();
        }
        self.valid.push_back((token.clone(), now + Duration::from_secs(seconds.into())));
        Ok(token)
    }

    /// Whether a token is valid.
    pub(super) fn is_valid(&self, token: &[u8], now: Instant) -> bool {
        self.valid.iter().any(|(valid, end)| valid.as_bytes() == token && *end > now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_valid_for_their_time_and_bounded() {
        let now = Instant::now();
        let later = |seconds| now + Duration::from_secs(seconds);
        let mut tokens = Tokens::default();
        let first = tokens.make(10, now).unwrap();
        assert!(tokens.is_valid(first.as_bytes(), later(9)));
        assert!(!tokens.is_valid(first.as_bytes(), later(10)));
        assert!(!tokens.is_valid(b"", now));
        for _ in 0..MOST {
            tokens.make(10, now).unwrap();
        }
        assert!(!tokens.is_valid(first.as_bytes(), now), "the oldest has given way");
        assert_eq!(tokens.valid.len(), MOST);
        tokens.make(10, later(10)).unwrap();
        assert_eq!(tokens.valid.len(), 1, "those that are over are forgotten");
    }
}
