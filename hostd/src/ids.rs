//! Random ids.

use ring::rand::{SecureRandom as _, SystemRandom};

/// A random UUID (RFC 9562, version 4); none when the system has no randomness.
#[must_use]
pub fn random() -> Option<String> {
    let mut bytes = [0; 16];
    SystemRandom::new().fill(&mut bytes).ok()?;
    Some(uuid(bytes))
}

/// The UUID (version 4) of 16 random bytes.
#[must_use]
pub fn uuid(random: [u8; 16]) -> String {
    let value = u128::from_be_bytes(random);
    let uuid = value & !(0xf << 76) & !(0x3 << 62) | (0x4 << 76) | (0x2 << 62);
    let hex = format!("{uuid:032x}");
    let parts = [0..8, 8..12, 12..16, 16..20, 20..32].map(|range| hex.get(range).unwrap_or_default());
    parts.join("-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_random_uuids() {
        let (one, other) = (random().unwrap(), random().unwrap());
        assert_ne!(one, other);
        assert_eq!(one.split('-').map(str::len).collect::<Vec<_>>(), [8, 4, 4, 4, 12]);
        assert_eq!(uuid([0xff; 16]), "ffffffff-ffff-4fff-bfff-ffffffffffff");
    }
}
