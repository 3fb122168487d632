//! The parts of DNS messages (RFC 1035, RFC 6891) that are needed to pass on one question.

/// Largest query of a guest in bytes.
const MAX_QUERY: usize = 4096;
const HEADER: usize = 12;
/// The largest UDP answer in bytes that servers may send: it passes every network unfragmented (RFC 9715).
const UDP_SIZE: u16 = 1232;
const MAX_LABEL: u8 = 63;
const MAX_NAME: usize = 255;

const RESPONSE: u16 = 0x8000;
const OPCODE: u16 = 0x7800;
const TRUNCATED: u16 = 0x0200;
const RECURSION_DESIRED: u16 = 0x0100;
const RECURSION_AVAILABLE: u16 = 0x0080;
/// Recursion desired, authentic data, checking disabled: the flags that a client may set for a resolver.
const PASSED_ON: u16 = RECURSION_DESIRED | 0x0030;

const OPT: u16 = 41;
const DNSSEC_OK: u16 = 0x8000;
/// Transfers of zones (AXFR, IXFR) take more than one message.
const TRANSFERS: [u16; 2] = [251, 252];

/// The outcome in a message's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rcode {
    NoError,
    FormatError,
    ServerFailure,
    NameError,
    NotImplemented,
    Refused,
    Other(u16),
}

impl Rcode {
    fn number(self) -> u16 {
        match self {
            Self::NoError => 0,
            Self::FormatError => 1,
            Self::ServerFailure => 2,
            Self::NameError => 3,
            Self::NotImplemented => 4,
            Self::Refused => 5,
            Self::Other(number) => number,
        }
    }

    /// The outcome of a message with a complete header.
    pub(super) fn of(message: &[u8]) -> Self {
        match word(message, 2).unwrap_or_default() & 0xf {
            0 => Self::NoError,
            1 => Self::FormatError,
            2 => Self::ServerFailure,
            3 => Self::NameError,
            4 => Self::NotImplemented,
            5 => Self::Refused,
            number => Self::Other(number),
        }
    }

    /// Whether the outcome counts as final, so that no other server is queried.
    pub(super) fn is_final(self) -> bool {
        matches!(self, Self::NoError | Self::NameError)
    }
}

/// The parts of a guest's query that are passed on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Query {
    id: u16,
    flags: u16,
    /// Name, type and class, without pointers.
    question: Vec<u8>,
    /// None without EDNS; otherwise whether DNSSEC records are wanted.
    dnssec: Option<bool>,
}

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
        let (Some(id), Some(flags)) = (word(message, 0), word(message, 2)) else { return Err(Vec::new()) };
        // Answers to answers could circulate for ever.
        if flags & RESPONSE != 0 {
            return Err(Vec::new());
        }
        let refuse = |rcode, question: &[u8]| Err(response(id, flags, rcode, question));
        if message.len() > MAX_QUERY {
            return refuse(Rcode::FormatError, &[]);
        }
        if flags & OPCODE != 0 {
            return refuse(Rcode::NotImplemented, &[]);
        }
        let counts = [4, 6, 8, 10].map(|at| word(message, at));
        let [Some(1), Some(0), Some(0), Some(extra @ 0..=1)] = counts else {
            return refuse(Rcode::FormatError, &[]);
        };
        let rest = message.get(HEADER..).unwrap_or_default();
        let Some((question, rest)) = question_length(rest).and_then(|length| rest.split_at_checked(length))
        else {
            return refuse(Rcode::FormatError, &[]);
        };
        let dnssec = match (extra, edns(rest)) {
            (0, _) if rest.is_empty() => None,
            (1, Some(dnssec)) => Some(dnssec),
            _ => return refuse(Rcode::FormatError, question),
        };
        let kind = word(question, question.len().saturating_sub(4)).unwrap_or_default();
        if TRANSFERS.contains(&kind) {
            return refuse(Rcode::Refused, question);
        }
        Ok(Self { id, flags: flags & PASSED_ON, question: question.to_vec(), dnssec })
    }

    /// The query for a server, under another id.
    pub(super) fn encode(&self, id: u16) -> Vec<u8> {
        let mut message = header(id, self.flags, 1, u16::from(self.dnssec.is_some()));
        message.extend(&self.question);
        if let Some(dnssec) = self.dnssec {
            let flags = if dnssec { DNSSEC_OK } else { 0 };
            // The root's name, the type, the size; no extended outcome, version 0, flags, no options.
            message.push(0);
            message.extend([OPT, UDP_SIZE, 0, flags, 0].map(u16::to_be_bytes).as_flattened());
        }
        message
    }

    /// How a message relates to this query, which was sent with `id`.
    pub(super) fn judge(&self, id: u16, message: &[u8]) -> Match {
        let (Some(flags), Some(questions)) = (word(message, 2), word(message, 4)) else {
            return Match::Foreign;
        };
        let asked = message.get(HEADER..).unwrap_or_default();
        let asked = asked.get(..self.question.len()).unwrap_or_default();
        // Some servers do not repeat the question when they have no answer.
        let same = match questions {
            0 => message.len() >= HEADER && Rcode::of(message) != Rcode::NoError,
            1 => asked.eq_ignore_ascii_case(&self.question),
            _ => false,
        };
        if word(message, 0) != Some(id) || flags & (RESPONSE | OPCODE) != RESPONSE || !same {
            Match::Foreign
        } else if flags & TRUNCATED != 0 {
            Match::Truncated
        } else {
            Match::Whole
        }
    }

    /// A server's answer, with its id replaced by that of the guest's query.
    pub(super) fn with_own_id(&self, mut answer: Vec<u8>) -> Vec<u8> {
        for (to, from) in answer.iter_mut().zip(self.id.to_be_bytes()) {
            *to = from;
        }
        answer
    }

    /// An answer that is made here, without records.
    pub(super) fn failure(&self, rcode: Rcode) -> Vec<u8> {
        response(self.id, self.flags, rcode, &self.question)
    }
}

fn response(id: u16, flags: u16, rcode: Rcode, question: &[u8]) -> Vec<u8> {
    let flags = RESPONSE | RECURSION_AVAILABLE | (flags & (OPCODE | RECURSION_DESIRED)) | rcode.number();
    let mut message = header(id, flags, u16::from(!question.is_empty()), 0);
    message.extend(question);
    message
}

fn header(id: u16, flags: u16, questions: u16, additional: u16) -> Vec<u8> {
    [id, flags, questions, 0, 0, additional].map(u16::to_be_bytes).as_flattened().to_vec()
}

/// The 16 bits at `at`.
fn word(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// Length of the question at the beginning of `bytes`: a name of labels, type and class.
fn question_length(bytes: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        match *bytes.get(at)? {
            0 => break,
            label @ 1..=MAX_LABEL => at += usize::from(label) + 1,
            // A pointer, or an obsolete kind of label.
            _ => return None,
        }
        if at >= MAX_NAME {
            return None;
        }
    }
    let length = at + 1 + 4;
    (length <= bytes.len()).then_some(length)
}

/// If `bytes` are exactly one OPT record: whether DNSSEC records are wanted.
fn edns(bytes: &[u8]) -> Option<bool> {
    if bytes.first() != Some(&0) || word(bytes, 1) != Some(OPT) {
        return None;
    }
    let flags = word(bytes, 7)?;
    let options = usize::from(word(bytes, 9)?);
    (bytes.len() == 11 + options).then_some(flags & DNSSEC_OK != 0)
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
        let passed = Query::parse(&message).unwrap().encode(0xabcd);
        assert_eq!(passed[..4], [0xab, 0xcd, 0x01, 0x30]);
        assert_eq!(passed[4..], message[4..]);

        let passed = Query::parse(&with_edns(query(), b"\x00\x0a\x00\x02hi")).unwrap().encode(0xabcd);
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
            (changed(5, 2), Rcode::FormatError),       // two questions
            (changed(5, 0), Rcode::FormatError),       // none
            (changed(7, 1), Rcode::FormatError),       // an answer
            (changed(11, 1), Rcode::FormatError),      // a record that is not there
            (changed(11, 2), Rcode::FormatError),      // two of them
            (changed(12, 0xc0), Rcode::FormatError),   // a pointer
            (changed(12, 0x40), Rcode::FormatError),   // a label of another kind
            (changed(12, 0x3f), Rcode::FormatError),   // a label beyond the end
            (changed(2, 0x28), Rcode::NotImplemented), // UPDATE
            (changed(25, 252), Rcode::FormatError),    // the name's end is gone
            (changed(27, 252), Rcode::Refused),        // AXFR
            ([query(), vec![0]].concat(), Rcode::FormatError),
            ([query(), vec![0; 5000]].concat(), Rcode::FormatError),
            (with_edns(query(), b"x")[..40].to_vec(), Rcode::FormatError),
            (query()[..20].to_vec(), Rcode::FormatError),
            (query()[..5].to_vec(), Rcode::FormatError),
        ];
        for (message, rcode) in cases {
            let answer = Query::parse(&message).unwrap_err();
            assert_eq!(Rcode::of(&answer), rcode, "{message:02x?}");
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
        let mut answer = query.encode(7);
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

    proptest! {
        #[test]
        fn whatever_comes_is_answered_under_its_id_or_not_at_all(
            head in proptest::array::uniform12(any::<u8>()), rest in proptest::collection::vec(any::<u8>(), 0..100)
        ) {
            let message = [head.as_slice(), &rest].concat();
            match Query::parse(&message) {
                Ok(query) => prop_assert!(query.encode(1).len() <= message.len()),
                Err(answer) if answer.is_empty() => prop_assert!(message[2] & 0x80 != 0),
                Err(answer) => prop_assert_eq!(&answer[..2], &message[..2]),
            }
        }
    }
}
