//! Random numbers (xorshift64*, Vigna 2016).

/// A generator of random numbers.
pub(crate) struct Random(u64);

impl Random {
    /// Creates the generator of one CPU; equal arguments give equal numbers.
    pub(crate) fn new(seed: u32, cpu: u32) -> Self {
        let mut random = Self((u64::from(seed) << 8 | u64::from(cpu) & 0xff) ^ 0x9e37_79b9_7f4a_7c15);
        for _ in 0..8 {
            random.next();
        }
        random
    }

    /// Returns the next number.
    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// Returns a number from 0 to `limit - 1`; 0 when `limit` is 0.
    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        (self.next() >> 11).checked_rem(limit).unwrap_or(0)
    }

    /// Returns true once in `times` calls, on average.
    pub(crate) fn one_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }

    /// Returns one of `choices`.
    pub(crate) fn choose<T: Copy, const N: usize>(&mut self, choices: [T; N]) -> T {
        choices[self.below(N as u64) as usize % N]
    }

    /// Returns a length below 64 KiB, of any magnitude.
    pub(crate) fn length(&mut self) -> u32 {
        let magnitude = self.below(17);
        self.below(1 << magnitude) as u32
    }

    /// Returns a number of any magnitude, often next to a power of two.
    pub(crate) fn number(&mut self) -> u64 {
        let bits = self.below(65);
        let value = if bits == 64 { u64::MAX } else { (1 << bits) - 1 };
        match self.below(4) {
            0 => value,
            1 => value.wrapping_add(1),
            2 => value.wrapping_sub(1),
            _ => self.next() & value,
        }
    }
}
