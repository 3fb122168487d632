//! The parts of DNS messages that the stub has to understand (RFC 1035, section 4; RFC 6891 for the size of datagrams).

/// Bytes of a header.
const HEADER: usize = 12;
/// Largest datagram in bytes that a client accepts by default.
const DATAGRAM: usize = 512;
/// Largest datagram in bytes that is sent, even if the client accepts more: a larger one would be fragmented.
const LARGEST_DATAGRAM: usize = 1_400;

/// Flags in the third and fourth byte.
const RESPONSE: u8 = 0x80;
const TRUNCATED: u8 = 0x02;
const RECURSION_AVAILABLE: u8 = 0x80;
const SERVER_FAILURE: u8 = 2;
/// Bits of a query's third byte that a response repeats: the opcode, and whether recursion is desired.
const KEPT: u8 = 0x79;

/// Type of the record in which a client announces the largest datagram that it accepts.
const OPT: u16 = 41;

/// Whether these bytes can be a query, so that a response can be made for it.
pub(super) fn is_query(message: &[u8]) -> bool {
    message.len() >= HEADER && message[2] & RESPONSE == 0
}

/// The response to a query for which there is no answer: SERVFAIL.
pub(super) fn server_failure(query: &[u8]) -> Vec<u8> {
    let mut answer = head(query);
    if let [_, _, _, flags, ..] = answer.as_mut_slice() {
        *flags = RECURSION_AVAILABLE | SERVER_FAILURE;
    }
    answer
}

/// An answer as it is sent in a datagram: complete, or truncated to the question if it does not fit, so that the client retries
/// over TCP.
pub(super) fn fitted(query: &[u8], answer: Vec<u8>) -> Vec<u8> {
    if answer.len() <= datagram_size(query) {
        return answer;
    }
    let mut short = head(query);
    if let ([_, _, flags, more, ..], [_, _, was, code, ..]) = (short.as_mut_slice(), answer.as_slice()) {
        *flags = *was | TRUNCATED;
        *more = *code;
    }
    short
}

/// A response's header with the query's question and nothing else.
fn head(query: &[u8]) -> Vec<u8> {
    let question = end_of_question(query);
    let mut head = query.get(..question.unwrap_or(HEADER)).unwrap_or_default().to_vec();
    head.resize(head.len().max(HEADER), 0);
    head[2] = RESPONSE | head[2] & KEPT;
    head[3] = RECURSION_AVAILABLE;
    head[4..HEADER].fill(0);
    if question.is_some() {
        head[5] = 1;
    }
    head
}

/// Bytes of the largest datagram that the client accepts.
fn datagram_size(query: &[u8]) -> usize {
    opt_size(query).map_or(DATAGRAM, |size| usize::from(size).clamp(DATAGRAM, LARGEST_DATAGRAM))
}

/// The size in the OPT record of a query that contains nothing but a question and this record.
fn opt_size(query: &[u8]) -> Option<u16> {
    let opt = query.get(end_of_question(query)?..)?;
    let counts = query.get(6..HEADER)?;
    let [0, kind_high, kind_low, size_high, size_low, ..] = opt else { return None };
    let alone = counts[..4] == [0; 4] && u16::from_be_bytes([*kind_high, *kind_low]) == OPT;
    alone.then(|| u16::from_be_bytes([*size_high, *size_low]))
}

/// Offset of the end of the only question. Its name is not compressed.
fn end_of_question(query: &[u8]) -> Option<usize> {
    if query.get(4..6)? != [0, 1] {
        return None;
    }
    let mut at = HEADER;
    loop {
        match usize::from(*query.get(at)?) {
            0 => break,
            length @ 1..=63 => at += 1 + length,
            _ => return None,
        }
    }
    // The name's end, type and class.
    let end = at + 5;
    (end <= query.len()).then_some(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(additional: &[u8]) -> Vec<u8> {
        let mut query = vec![0xab, 0xcd, 0x01, 0x20, 0, 1, 0, 0, 0, 0, 0, u8::from(!additional.is_empty())];
        query.extend_from_slice(b"\x07example\x03com\0\0\x01\0\x01");
        query.extend_from_slice(additional);
        query
    }

    const EDNS_1232: [u8; 11] = [0, 0, 41, 0x04, 0xd0, 0, 0, 0, 0, 0, 0];

    #[test]
    fn a_failure_repeats_the_question() {
        let answer = server_failure(&query(&EDNS_1232));
        assert_eq!(answer[..HEADER], [0xab, 0xcd, 0x81, 0x82, 0, 1, 0, 0, 0, 0, 0, 0]);
        assert_eq!(answer[HEADER..], query(&[])[HEADER..]);
        let odd = server_failure(&[1, 2, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0xff]);
        assert_eq!(odd, [1, 2, 0x80, 0x82, 0, 0, 0, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn long_answers_are_truncated_to_what_the_client_takes() {
        let answer = |length: usize| [&[0xab, 0xcd, 0x85, 0x83][..], &vec![0; length - 4]].concat();
        for (additional, size) in [(&[][..], 512), (&EDNS_1232, 1_232), (&[0, 0, 41, 0xff, 0xff], 1_400)] {
            let query = query(additional);
            assert_eq!(fitted(&query, answer(size)), answer(size));
            let short = fitted(&query, answer(size + 1));
            assert_eq!(short[..HEADER], [0xab, 0xcd, 0x87, 0x83, 0, 1, 0, 0, 0, 0, 0, 0]);
        }
    }

    #[test]
    fn whatever_comes_is_survived() {
        let whole = query(&EDNS_1232);
        for length in 0..whole.len() {
            let cut = &whole[..length];
            if is_query(cut) {
                assert!(server_failure(cut).len() >= HEADER);
                fitted(cut, vec![0; 600]);
            }
        }
        assert!(!is_query(&[0; 11]));
        assert!(!is_query(&[0xff; 40]), "an answer is no query");
    }
}
