//! How long an answer may be kept: the times to live of its records.

/// Bytes of a message before its question.
const HEADER: usize = 12;
const SOA: u16 = 6;
/// An OPT record has flags where others have a time to live.
const OPT: u16 = 41;

/// The times to live in an answer.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Lifetimes {
    /// Where they are in the message.
    pub(super) places: Vec<u16>,
    /// The smallest in seconds; for an answer that there is nothing, also the time that its zone gives for that (RFC 2308).
    pub(super) least: u32,
}

/// Walks over a message. No content is trusted, and no name is followed.
struct Walk<'a> {
    message: &'a [u8],
    at: usize,
}

impl Walk<'_> {
    fn bytes(&mut self, count: usize) -> Option<&[u8]> {
        let bytes = self.message.get(self.at..self.at.checked_add(count)?)?;
        self.at += count;
        Some(bytes)
    }

    fn u16(&mut self) -> Option<u16> {
        Some(u16::from_be_bytes(self.bytes(2)?.try_into().ok()?))
    }

    fn name(&mut self) -> Option<()> {
        loop {
            match *self.bytes(1)?.first()? {
                0 => return Some(()),
                // The rest of the name is elsewhere.
                192.. => return self.bytes(1).map(drop),
                length @ 1..=63 => drop(self.bytes(length.into())?),
                _ => return None,
            }
        }
    }
}

/// Length of the name at the beginning of `bytes`, which has no pointers.
pub(super) fn name_length(bytes: &[u8]) -> Option<usize> {
    let mut walk = Walk { message: bytes, at: 0 };
    walk.name()?;
    Some(walk.at)
}

/// The times to live in an answer; none if it cannot be kept: it is malformed, has no records, or says that there is nothing without
/// the zone's word for how long.
pub(super) fn lifetimes(message: &[u8]) -> Option<Lifetimes> {
    let mut walk = Walk { message, at: 4 };
    let [questions, answers, authorities, additionals] = [walk.u16()?, walk.u16()?, walk.u16()?, walk.u16()?];
    walk.at = HEADER;
    for _ in 0..questions {
        walk.name()?;
        walk.bytes(4)?;
    }
    let (mut places, mut least, mut zone) = (Vec::new(), None::<u32>, false);
    let mut consider = |seconds: u32| {
        // RFC 2181, section 8: a time with the highest bit counts as zero.
        let seconds = if seconds > 1 << 31 { 0 } else { seconds };
        least = Some(least.map_or(seconds, |least| least.min(seconds)));
    };
    for _ in 0..u32::from(answers) + u32::from(authorities) + u32::from(additionals) {
        walk.name()?;
        let kind = walk.u16()?;
        walk.u16()?;
        let place = u16::try_from(walk.at).ok()?;
        let seconds = u32::from_be_bytes(walk.bytes(4)?.try_into().ok()?);
        let length = walk.u16()?;
        let data = walk.bytes(length.into())?;
        if kind == OPT {
            continue;
        }
        places.push(place);
        consider(seconds);
        if kind == SOA {
            zone = true;
            consider(u32::from_be_bytes(*data.last_chunk()?));
        }
    }
    let least = least.filter(|_| walk.at == message.len() && (answers > 0 || zone))?;
    Some(Lifetimes { places, least })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A record of the question's name.
    fn record(kind: u16, seconds: u32, data: &[u8]) -> Vec<u8> {
        let length = u16::try_from(data.len()).unwrap();
        let kind_and_class = [kind.to_be_bytes(), [0, 1]].concat();
        [&[0xc0, 12], kind_and_class.as_slice(), &seconds.to_be_bytes(), &length.to_be_bytes(), data].concat()
    }

    fn message(counts: [u8; 3], records: &[Vec<u8>]) -> Vec<u8> {
        let [answers, authorities, additionals] = counts;
        let header = [0, 7, 0x81, 0x80, 0, 1, 0, answers, 0, authorities, 0, additionals];
        [&header[..], b"\x01x\x04test\x00\x00\x01\x00\x01", &records.concat()].concat()
    }

    fn least(counts: [u8; 3], records: &[Vec<u8>]) -> Option<u32> {
        lifetimes(&message(counts, records)).map(|lifetimes| lifetimes.least)
    }

    #[test]
    fn the_smallest_time_of_all_records_counts() {
        let opt = record(OPT, 0, &[]);
        let records = [record(1, 300, &[192, 0, 2, 1]), record(1, 60, &[192, 0, 2, 2]), opt];
        let found = lifetimes(&message([2, 0, 1], &records)).unwrap();
        assert_eq!((found.least, found.places.len()), (60, 2));
        assert_eq!(least([1, 0, 0], &[record(1, u32::MAX, &[192, 0, 2, 1])]), Some(0));
    }

    #[test]
    fn that_there_is_nothing_counts_for_as_long_as_the_zone_says() {
        let soa = |minimum: u32| record(SOA, 600, &[&[0; 18], minimum.to_be_bytes().as_slice()].concat());
        assert_eq!(least([0, 1, 0], &[soa(30)]), Some(30));
        assert_eq!(least([0, 1, 0], &[soa(3600)]), Some(600));
        assert_eq!(least([0, 0, 0], &[]), None);
        assert_eq!(least([0, 1, 0], &[record(2, 600, b"\0")]), None, "a referral");
    }

    #[test]
    fn what_is_cut_off_or_longer_is_not_kept() {
        let whole = message([1, 0, 0], &[record(1, 300, &[192, 0, 2, 1])]);
        assert!(lifetimes(&whole).is_some());
        for end in 0..whole.len() {
            assert_eq!(lifetimes(&whole[..end]), None);
        }
        assert_eq!(lifetimes(&[whole, vec![0]].concat()), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_walked_over(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            if let Some(found) = lifetimes(&bytes) {
                prop_assert!(found.places.iter().all(|place| usize::from(*place) + 4 <= bytes.len()));
            }
        }
    }
}
