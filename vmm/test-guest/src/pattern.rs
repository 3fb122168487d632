//! Reproducible bytes: a generator of random numbers, and streams in which the stream's seed and a byte's offset
//! determine the byte, so that any part can be generated or checked on its own.

/// SplitMix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, 2014).
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// Creates a generator; equal seeds give equal numbers.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Returns the next number.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    /// Returns a number from 0 to `limit - 1`; 0 when `limit` is 0.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.next_u64().checked_rem(limit).unwrap_or(0)
    }
}

/// Mixes the bits of `value` (the finisher of SplitMix64).
pub fn mix(value: u64) -> u64 {
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

/// Fills `bytes` with the part of stream `seed` that begins at `offset` bytes.
pub fn fill(seed: u64, offset: u64, bytes: &mut [u8]) {
    let (start, mut rest) = (mix(seed), bytes);
    let mut word = offset / 8;
    let skipped = usize::try_from(offset % 8).unwrap_or(0);
    if skipped != 0 {
        let partial = stream_word(start, word);
        let (head, tail) = rest.split_at_mut(rest.len().min(8 - skipped));
        head.iter_mut().zip(partial.iter().skip(skipped)).for_each(|(to, from)| *to = *from);
        rest = tail;
        word += 1;
    }
    for chunk in rest.chunks_mut(8) {
        chunk.iter_mut().zip(stream_word(start, word)).for_each(|(to, from)| *to = from);
        word += 1;
    }
}

/// Compares `bytes` with the part of stream `seed` at `offset`; returns the offset in the stream of the first byte that
/// differs.
pub fn mismatch(seed: u64, offset: u64, bytes: &[u8]) -> Option<u64> {
    let mut at = offset;
    let mut expected = [0; 512];
    for chunk in bytes.chunks(expected.len()) {
        let expected = expected.get_mut(..chunk.len())?;
        fill(seed, at, expected);
        if let Some(position) = chunk.iter().zip(expected.iter()).position(|(a, b)| a != b) {
            return Some(at + position as u64);
        }
        at += chunk.len() as u64;
    }
    None
}

fn stream_word(start: u64, word: u64) -> [u8; 8] {
    mix(start.wrapping_add(word.wrapping_mul(0x9e37_79b9_7f4a_7c15))).to_le_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_part_of_a_stream_can_be_made_on_its_own() {
        let mut whole = [0; 100];
        fill(7, 40, &mut whole);
        for start in 0..20 {
            for end in start..100 {
                let mut part = vec![0; end - start];
                fill(7, 40 + start as u64, &mut part);
                assert_eq!(part, whole[start..end]);
            }
        }
    }

    #[test]
    fn a_wrong_byte_is_found_where_it_is() {
        let mut bytes = [0; 2000];
        fill(1, 3, &mut bytes);
        assert_eq!(mismatch(1, 3, &bytes), None);
        bytes[1777] ^= 1;
        assert_eq!(mismatch(1, 3, &bytes), Some(1780));
    }

    #[test]
    fn streams_of_different_seeds_differ() {
        let (mut one, mut other) = ([0; 64], [0; 64]);
        fill(1, 0, &mut one);
        fill(2, 0, &mut other);
        assert_ne!(one, other);
    }
}
