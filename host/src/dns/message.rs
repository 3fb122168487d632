//! The parts of DNS messages (RFC 1035, RFC 6891) that are needed to pass on one question.

use hickory_proto::ProtoError;
use hickory_proto::op::{
    Edns, Header, HeaderCounts, Message, MessageType, OpCode, Query as Question, ResponseCode,
};
use hickory_proto::rr::RecordType;
use hickory_proto::serialize::binary::{BinDecodable as _, BinDecoder};

use super::records::name_length;

/// Largest query of a guest in bytes.
const MAX_QUERY: usize = 4096;
const HEADER: usize = 12;
/// Length of a header's id and flags, without which a message cannot be answered.
const ID_AND_FLAGS: usize = 4;
/// The largest UDP answer in bytes that servers may send: it passes every network unfragmented (RFC 9715).
const UDP_SIZE: u16 = 1232;

/// Whether the outcome in a message counts as final, so that no other server is queried.
pub(super) fn is_final(message: &[u8]) -> bool {
    let code = Header::from_bytes(message).map(|header| header.response_code);
    matches!(code, Ok(ResponseCode::NoError | ResponseCode::NXDomain))
}

/// The parts of a guest's query that are passed on: the question, the flags that a client may set for a resolver, and whether
/// DNSSEC records are wanted.
#[derive(Clone, Debug)]
pub(super) struct Query(Message);

/// How a server's message relates to a query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Match {
    /// The message is not the answer.
    Foreign,
    /// The message is the truncated answer.
    Truncated,
    /// The message is the complete answer.
    Whole,
}

impl Query {
    /// Parses a message of a guest.
    ///
    /// # Errors
    /// The message to answer with instead; empty when there must be no answer.
    pub(super) fn parse(message: &[u8]) -> Result<Self, Vec<u8>> {
        // What is missing of a header counts as zeros: such a message is answered as one without a question.
        let mut start = [0; HEADER];
        start.iter_mut().zip(message).for_each(|(to, from)| *to = *from);
        let Ok(Header { metadata, counts }) = Header::from_bytes(&start) else { return Err(Vec::new()) };
        // Answers to answers could circulate for ever.
        if message.len() < ID_AND_FLAGS || metadata.message_type == MessageType::Response {
            return Err(Vec::new());
        }
        let mut query = Self(Message::new(metadata.id, MessageType::Query, metadata.op_code));
        query.0.metadata.recursion_desired = metadata.recursion_desired;
        query.0.metadata.authentic_data = metadata.authentic_data;
        query.0.metadata.checking_disabled = metadata.checking_disabled;
        let additionals = counts.additionals.min(1);
        let expected = HeaderCounts { queries: 1, additionals, ..HeaderCounts::default() };
        if message.len() > MAX_QUERY {
            return Err(query.failure(ResponseCode::FormErr));
        }
        if metadata.op_code != OpCode::Query {
            return Err(query.failure(ResponseCode::NotImp));
        }
        let question = question(message).filter(|_| counts == expected);
        let Some((question, rest)) = question else { return Err(query.failure(ResponseCode::FormErr)) };
        let kind = question.query_type();
        query.0.add_query(question);
        match (additionals, dnssec_ok(rest)) {
            (0, _) if rest.is_empty() => {}
            (1, Some(dnssec)) => {
                let mut edns = Edns::new();
                edns.set_max_payload(UDP_SIZE).set_dnssec_ok(dnssec);
                query.0.set_edns(edns);
            }
            _ => return Err(query.failure(ResponseCode::FormErr)),
        }
        // Transfers of zones take more than one message.
        if matches!(kind, RecordType::AXFR | RecordType::IXFR) {
            return Err(query.failure(ResponseCode::Refused));
        }
        Ok(query)
    }

    /// The query for a server, under another id.
    pub(super) fn encode(&self, id: u16) -> Result<Vec<u8>, ProtoError> {
        let mut message = self.0.clone();
        message.metadata.id = id;
        message.to_vec()
    }

    /// What the answer depends on: question, flags and whether DNSSEC records are wanted. The case of the name does not matter.
    pub(super) fn key(&self) -> Option<Vec<u8>> {
        let mut key = self.encode(0).ok()?;
        let name = key.get_mut(HEADER..)?;
        let length = name_length(name)?;
        // Lengths of labels are no letters.
        name.get_mut(..length)?.make_ascii_lowercase();
        Some(key)
    }

    /// An answer to the same question in another case, with the name as it is in this query: clients may check that.
    pub(super) fn with_own_name(&self, mut answer: Vec<u8>) -> Vec<u8> {
        let own = self.encode(0).unwrap_or_default();
        let name = own.get(HEADER..).unwrap_or_default();
        let name = name.get(..name_length(name).unwrap_or_default()).unwrap_or_default();
        let there = answer.get_mut(HEADER..).and_then(|rest| rest.get_mut(..name.len()));
        if let Some(there) = there.filter(|there| there.eq_ignore_ascii_case(name)) {
            there.copy_from_slice(name);
        }
        answer
    }

    /// How a message relates to this query, which was sent with `id`.
    pub(super) fn judge(&self, id: u16, message: &[u8]) -> Match {
        let mut decoder = BinDecoder::new(message);
        let Ok(Header { metadata, counts }) = Header::read(&mut decoder) else { return Match::Foreign };
        let same = match counts.queries {
            // Some servers do not repeat the question when they have no answer.
            0 => metadata.response_code != ResponseCode::NoError,
            1 => Question::read(&mut decoder).is_ok_and(|question| self.0.queries.contains(&question)),
            _ => false,
        };
        let is_answer = metadata.message_type == MessageType::Response && metadata.op_code == OpCode::Query;
        match metadata.truncation {
            _ if metadata.id != id || !is_answer || !same => Match::Foreign,
            true => Match::Truncated,
            false => Match::Whole,
        }
    }

    /// A server's answer, with its id replaced by that of the guest's query.
    pub(super) fn with_own_id(&self, mut answer: Vec<u8>) -> Vec<u8> {
        for (to, from) in answer.iter_mut().zip(self.0.id.to_be_bytes()) {
            *to = from;
        }
        answer
    }

    /// An answer that is made here, without records.
    pub(super) fn failure(&self, code: ResponseCode) -> Vec<u8> {
        let mut answer = Message::error_msg(self.0.id, self.0.op_code, code);
        answer.metadata.recursion_desired = self.0.recursion_desired;
        answer.metadata.recursion_available = true;
        answer.add_queries(self.0.queries.iter().cloned());
        // What was read can be written.
        answer.to_vec().unwrap_or_default()
    }
}

/// The question behind the header, and what follows it. Pointers in the name would lead to the header, and are refused.
fn question(message: &[u8]) -> Option<(Question, &[u8])> {
    let body = message.get(HEADER..)?;
    let mut decoder = BinDecoder::new(body);
    let question = Question::read(&mut decoder).ok()?;
    Some((question, body.get(decoder.index()..)?))
}

/// If `bytes` are exactly one OPT record: whether DNSSEC records are wanted. Its options are not passed on, and not looked at.
fn dnssec_ok(bytes: &[u8]) -> Option<bool> {
    const OPT: u8 = 41;
    const DNSSEC_OK: u8 = 0x80;
    let ([0, 0, OPT, _, _, _, _, flags, _, high, low], options) = bytes.split_first_chunk()? else {
        return None;
    };
    (options.len() == usize::from(u16::from_be_bytes([*high, *low]))).then_some(flags & DNSSEC_OK != 0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// `id 0x1234, recursion desired, one question: example.test A IN`
    fn query() -> Vec<u8> {
        let mut message = vec![0x12, 0x34, 0x01, 0x00, 0, 1, 0, 0, 0, 0, 0, 0];
        message.extend(b"\x07example\x04test\x00\x00\x01\x00\x01");
        message
    }

    fn with_edns(mut message: Vec<u8>, options: &[u8]) -> Vec<u8> {
        message[11] = 1;
        message.extend([0, 0, 41, 0xff, 0xff, 0, 0, 0x80, 0, 0, u8::try_from(options.len()).unwrap()]);
        message.extend(options);
        message
    }

    #[test]
    fn only_question_and_flags_are_passed_on() {
        let mut message = query();
        message[2..4].copy_from_slice(&[0x07, 0x7f]);
        let passed = Query::parse(&message).unwrap().encode(0xabcd).unwrap();
        assert_eq!(passed[..4], [0xab, 0xcd, 0x01, 0x30]);
        assert_eq!(passed[4..], message[4..]);

        let passed =
            Query::parse(&with_edns(query(), b"\x00\x0a\x00\x02hi")).unwrap().encode(0xabcd).unwrap();
        assert_eq!(passed[passed.len() - 11..], [0, 0, 41, 0x04, 0xd0, 0, 0, 0x80, 0, 0, 0]);
        assert_eq!(passed.len(), query().len() + 11);
    }

    #[test]
    fn malformed_queries_are_answered_with_what_is_wrong() {
        let changed = |at: usize, value: u8| {
            let mut message = query();
            message[at] = value;
            message
        };
        let cases = [
            (changed(5, 2), ResponseCode::FormErr),     // two questions
            (changed(5, 0), ResponseCode::FormErr),     // none
            (changed(7, 1), ResponseCode::FormErr),     // an answer
            (changed(11, 1), ResponseCode::FormErr),    // a record that is not there
            (changed(11, 2), ResponseCode::FormErr),    // two of them
            (changed(12, 0xc0), ResponseCode::FormErr), // a pointer
            (changed(12, 0x40), ResponseCode::FormErr), // a label of another kind
            (changed(12, 0x3f), ResponseCode::FormErr), // a label beyond the end
            (changed(2, 0x28), ResponseCode::NotImp),   // UPDATE
            (changed(25, 252), ResponseCode::FormErr),  // the name's end is gone
            (changed(27, 252), ResponseCode::Refused),  // AXFR
            ([query(), vec![0]].concat(), ResponseCode::FormErr),
            ([query(), vec![0; 5000]].concat(), ResponseCode::FormErr),
            (with_edns(query(), b"x")[..40].to_vec(), ResponseCode::FormErr),
            (query()[..20].to_vec(), ResponseCode::FormErr),
            (query()[..5].to_vec(), ResponseCode::FormErr),
        ];
        for (message, rcode) in cases {
            let answer = Query::parse(&message).unwrap_err();
            assert_eq!(Header::from_bytes(&answer).unwrap().response_code, rcode, "{message:02x?}");
            assert_eq!((&answer[..2], answer[2] & 0x80), (&message[..2], 0x80));
        }
        for message in [changed(2, 0x80), Vec::new(), vec![1, 2, 3]] {
            assert!(Query::parse(&message).unwrap_err().is_empty(), "{message:02x?}");
        }
    }

    #[test]
    fn names_are_as_long_as_they_may_be_and_no_longer() {
        let named = |labels: &[usize]| {
            let mut message = query()[..12].to_vec();
            for length in labels {
                message.push(u8::try_from(*length).unwrap());
                message.extend(vec![b'x'; *length]);
            }
            message.extend([0, 0, 1, 0, 1]);
            message
        };
        assert!(Query::parse(&named(&[63, 63, 63, 61])).is_ok(), "255 bytes with all lengths and the root");
        assert!(Query::parse(&named(&[63, 63, 63, 62])).is_err());
        assert!(Query::parse(&named(&[])).is_ok(), "the root itself");
    }

    #[test]
    fn an_answer_repeats_id_and_question() {
        let query_message = query();
        let query = Query::parse(&query_message).unwrap();
        let mut answer = query.encode(7).unwrap();
        assert_eq!(query.judge(7, &answer), Match::Foreign, "a query is no answer");
        answer[2] |= 0x80;
        assert_eq!(query.judge(7, &answer), Match::Whole);
        assert_eq!(query.judge(8, &answer), Match::Foreign);
        answer[13] = b'E';
        assert_eq!(query.judge(7, &answer), Match::Whole, "names have no case");
        answer[2] |= 0x02;
        assert_eq!(query.judge(7, &answer), Match::Truncated);
        answer[13] = b'f';
        assert_eq!(query.judge(7, &answer), Match::Foreign);
        let bare = |rcode| [0, 7, 0x80, rcode, 0, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(query.judge(7, &bare(5)), Match::Whole, "a refusal without the question");
        assert_eq!(query.judge(7, &bare(0)), Match::Foreign);
        assert_eq!(query.judge(7, &bare(5)[..11]), Match::Foreign);
        assert_eq!(query.with_own_id(bare(5).to_vec())[..2], query_message[..2]);
    }

    #[test]
    fn what_an_answer_depends_on_is_the_key() {
        let parse = |message: &[u8]| Query::parse(message).unwrap();
        let changed = |at: usize, value: u8| {
            let mut message = query();
            message[at] = value;
            message
        };
        let key = parse(&query()).key().unwrap();
        assert_eq!(parse(&changed(0, 9)).key(), Some(key.clone()), "the id does not matter");
        assert_eq!(parse(&changed(13, b'E')).key(), Some(key.clone()), "nor does the case of the name");
        // Type 65 and 97 are letters of another case; recursion; checking disabled; DNSSEC.
        let types = [parse(&changed(27, 65)).key(), parse(&changed(27, 97)).key()];
        assert_ne!(types[0], types[1]);
        for other in [changed(13, b'f'), changed(2, 0), changed(3, 0x10), with_edns(query(), b"")] {
            assert_ne!(parse(&other).key(), Some(key.clone()), "{other:02x?}");
        }
        let shouted = parse(&changed(13, b'E'));
        assert_eq!(shouted.with_own_name(query()), changed(13, b'E'));
        assert_eq!(shouted.with_own_name(vec![0; 12]), vec![0; 12], "an answer without the question");
    }

    proptest! {
        #[test]
        fn whatever_comes_is_answered_under_its_id_or_not_at_all(
            head in proptest::array::uniform12(any::<u8>()), rest in proptest::collection::vec(any::<u8>(), 0..100)
        ) {
            let message = [head.as_slice(), &rest].concat();
            match Query::parse(&message) {
                Ok(query) => prop_assert!(query.encode(1).unwrap().len() <= message.len()),
                Err(answer) if answer.is_empty() => prop_assert!(message[2] & 0x80 != 0),
                Err(answer) => prop_assert_eq!(&answer[..2], &message[..2]),
            }
        }
    }
}
