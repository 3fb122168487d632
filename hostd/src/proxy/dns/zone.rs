//! DNS queries and their responses.
//!
//! | Name | Records |
//! |---|---|
//! | `DOMAIN` | SOA, NS, A, AAAA |
//! | `_acme-challenge.DOMAIN` | TXT |
//! | any other name directly below `DOMAIN` | A, AAAA |
//! | deeper names | none: NXDOMAIN |
//! | all else | REFUSED |

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use hickory_proto::op::{Edns, Header, Message, MessageType, Metadata, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, NS, SOA, TXT};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};
use hickory_proto::serialize::binary::BinDecodable as _;

use super::Challenges;

/// How long resolvers may cache records, in seconds.
const TTL: u32 = 300;
/// How long resolvers may cache that a name has no records, in seconds.
const NOTHING_TTL: u32 = 60;
/// TTL of challenges, which resolvers should not cache.
const CHALLENGE_TTL: u32 = 0;
/// Greatest size of a response over UDP without EDNS (RFC 1035), in bytes.
const SHORT: u16 = 512;
/// Greatest size of a response over UDP with EDNS, in bytes: it passes every network unfragmented (RFC 9715).
const LONG: u16 = 1232;
/// Name of the zone's server, directly below the domain. The delegation of the domain refers to it.
const SERVER: &str = "ns";
const CHALLENGE: &str = "_acme-challenge";

/// The transport of a query.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// UDP: long responses are truncated, and the client repeats the query over TCP.
    Udp,
    /// TCP: responses of any length.
    Tcp,
}

/// The domain and the names below it.
#[derive(Debug)]
pub struct Zone {
    apex: Name,
    server: Name,
    challenge: Name,
    mailbox: Name,
    v4: Vec<Ipv4Addr>,
    v6: Vec<Ipv6Addr>,
    challenges: Challenges,
}

/// The kind of a name in the zone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Apex,
    Challenge,
    Endpoint,
    Nothing,
}

impl Zone {
    /// A zone in which names below `domain` resolve to `addresses`. `None` if the domain is no valid DNS name.
    #[must_use]
    pub fn new(domain: &str, addresses: &[IpAddr], challenges: Challenges) -> Option<Self> {
        let name = |text: String| Name::from_ascii(text).ok();
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for address in addresses {
            match address {
                IpAddr::V4(address) => v4.push(*address),
                IpAddr::V6(address) => v6.push(*address),
            }
        }
        Some(Self {
            apex: name(format!("{domain}."))?,
            server: name(format!("{SERVER}.{domain}."))?,
            challenge: name(format!("{CHALLENGE}.{domain}."))?,
            mailbox: name(format!("hostmaster.{domain}."))?,
            v4,
            v6,
            challenges,
        })
    }

    /// The response to a message. `None` for messages that cannot be parsed, and for responses, because answering those
    /// could loop for ever.
    #[must_use]
    pub fn answer(&self, message: &[u8], transport: Transport) -> Option<Vec<u8>> {
        let Header { metadata: header, counts } = Header::from_bytes(message).ok()?;
        if header.message_type == MessageType::Response {
            return None;
        }
        let mut response = Message::response(header.id, header.op_code);
        response.metadata = Metadata::response_from_request(&header);
        let query = match header.op_code {
            // Exactly one question (RFC 9619). The decoder would allocate memory for any number that a message
            // announces.
            OpCode::Query if counts.queries == 1 => {
                Message::from_vec(message).map_err(|_| ResponseCode::FormErr)
            }
            OpCode::Query => Err(ResponseCode::FormErr),
            _ => Err(ResponseCode::NotImp),
        };
        let mut limit = SHORT;
        match query {
            Err(code) => response.metadata.response_code = code,
            Ok(query) => {
                limit = query.max_payload().clamp(SHORT, LONG);
                self.respond(&query, &mut response);
            }
        }
        let encoded = response.to_vec().ok()?;
        if transport == Transport::Udp && encoded.len() > usize::from(limit) {
            return response.truncate().to_vec().ok();
        }
        Some(encoded)
    }

    fn respond(&self, query: &Message, response: &mut Message) {
        if let Some(asked) = &query.edns {
            let mut edns = Edns::new();
            edns.set_max_payload(LONG).set_dnssec_ok(asked.flags().dnssec_ok);
            response.set_edns(edns);
            if asked.version() > 0 {
                response.metadata.response_code = ResponseCode::BADVERS;
                return;
            }
        }
        let [question] = query.queries.as_slice() else {
            response.metadata.response_code = ResponseCode::FormErr;
            return;
        };
        response.add_query(question.clone());
        let transfer = matches!(question.query_type(), RecordType::AXFR | RecordType::IXFR);
        if question.query_class() != DNSClass::IN || transfer || !self.apex.zone_of(question.name()) {
            response.metadata.response_code = ResponseCode::Refused;
            return;
        }
        response.metadata.authoritative = true;
        let place = self.place(question.name());
        if place == Place::Nothing {
            response.metadata.response_code = ResponseCode::NXDomain;
        }
        response.add_answers(self.records(place, question));
        if response.answers.is_empty() {
            response.add_authority(Record::from_rdata(self.apex.clone(), NOTHING_TTL, self.soa()));
        }
    }

    fn place(&self, name: &Name) -> Place {
        let depth = name.iter().count().saturating_sub(self.apex.iter().count());
        match depth {
            0 => Place::Apex,
            1 if *name == self.challenge => Place::Challenge,
            1 => Place::Endpoint,
            _ => Place::Nothing,
        }
    }

    fn records(&self, place: Place, question: &Query) -> Vec<Record> {
        let kind = question.query_type();
        let asks = |for_kind| kind == for_kind || kind == RecordType::ANY;
        let mut records = Vec::new();
        let mut add = |ttl, data| records.push(Record::from_rdata(question.name().clone(), ttl, data));
        if matches!(place, Place::Apex | Place::Endpoint) {
            if asks(RecordType::A) {
                self.v4.iter().for_each(|address| add(TTL, RData::A(A(*address))));
            }
            if asks(RecordType::AAAA) {
                self.v6.iter().for_each(|address| add(TTL, RData::AAAA(AAAA(*address))));
            }
        }
        if place == Place::Apex && asks(RecordType::SOA) {
            add(TTL, self.soa());
        }
        if place == Place::Apex && asks(RecordType::NS) {
            add(TTL, RData::NS(NS(self.server.clone())));
        }
        if place == Place::Challenge && asks(RecordType::TXT) {
            for value in self.challenges.values() {
                add(CHALLENGE_TTL, RData::TXT(TXT::new(vec![value])));
            }
        }
        records
    }

    /// The SOA record. There are no secondary servers, so the serial never changes.
    fn soa(&self) -> RData {
        const SERIAL: u32 = 1;
        const REFRESH: i32 = 3600;
        const RETRY: i32 = 600;
        const EXPIRE: i32 = 86_400;
        let (server, mailbox) = (self.server.clone(), self.mailbox.clone());
        RData::SOA(SOA::new(server, mailbox, SERIAL, REFRESH, RETRY, EXPIRE, NOTHING_TTL))
    }
}
