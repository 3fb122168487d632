//! Responses as `dig` shows them, and what must not happen.

use std::net::{IpAddr, SocketAddr};

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{DNSClass, Name, RData, RecordType};
use proptest::prelude::*;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};

use super::zone::{Transport, Zone};
use super::{Challenges, Dns, DnsError, MAX_QUERY};
use crate::proxy::config::EndpointConfig;

const DOMAIN: &str = "microvms.example.com";

fn zone(addresses: &[&str]) -> (Zone, Challenges) {
    let challenges = Challenges::default();
    let addresses: Vec<IpAddr> = addresses.iter().map(|address| address.parse().unwrap()).collect();
    (Zone::new(DOMAIN, &addresses, challenges.clone()).unwrap(), challenges)
}

fn query(name: &str, kind: RecordType) -> Message {
    let mut message = Message::query();
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    message
}

fn ask(zone: &Zone, query: &Message) -> Message {
    let answer = zone.answer(&query.to_vec().unwrap(), Transport::Tcp).unwrap();
    Message::from_vec(&answer).unwrap()
}

/// The records as text: type and data.
fn answers(message: &Message) -> Vec<String> {
    message.answers.iter().map(|record| format!("{} {}", record.record_type(), record.data)).collect()
}

#[test]
fn names_directly_below_the_domain_have_the_addresses() {
    let (zone, _) = zone(&["192.0.2.1", "192.0.2.2", "2001:db8::1"]);
    let name = "0f1e2d3c-4b5a-4978-8695-a4b3c2d1e0f1.microvms.example.com.";
    for name in [name, "microvms.example.com.", "ns.microvms.example.com.", "Any.MICROVMS.example.COM."] {
        let query = query(name, RecordType::A);
        let answer = ask(&zone, &query);
        assert_eq!(answers(&answer), ["A 192.0.2.1", "A 192.0.2.2"], "{name}");
        let header = answer.metadata;
        assert_eq!((header.id, header.message_type), (query.metadata.id, MessageType::Response));
        assert_eq!(header.response_code, ResponseCode::NoError);
        assert!(header.authoritative && header.recursion_desired);
        assert!(!header.recursion_available && !header.truncation);
        // Resolvers compare the name of the question case-sensitively.
        assert_eq!(answer.queries[0].name().to_ascii(), name);
        assert_eq!(answers(&ask(&zone, &self::query(name, RecordType::AAAA))), ["AAAA 2001:db8::1"]);
    }
}

#[test]
fn the_domain_has_its_server() {
    let (zone, _) = zone(&["192.0.2.1"]);
    let apex = "microvms.example.com.";
    assert_eq!(answers(&ask(&zone, &query(apex, RecordType::NS))), ["NS ns.microvms.example.com."]);
    let soa = ask(&zone, &query(apex, RecordType::SOA));
    assert!(matches!(&soa.answers[0].data, RData::SOA(soa) if soa.minimum == 60));
    assert_eq!(answers(&ask(&zone, &query(apex, RecordType::ANY))).len(), 3);
}

#[test]
fn what_is_not_there_is_told_with_how_long_that_holds() {
    let (zone, _) = zone(&["192.0.2.1"]);
    for (name, kind, code) in [
        ("a.microvms.example.com.", RecordType::AAAA, ResponseCode::NoError),
        ("a.microvms.example.com.", RecordType::CAA, ResponseCode::NoError),
        ("microvms.example.com.", RecordType::TXT, ResponseCode::NoError),
        ("_acme-challenge.microvms.example.com.", RecordType::TXT, ResponseCode::NoError),
        ("_acme-challenge.microvms.example.com.", RecordType::A, ResponseCode::NoError),
        ("a.b.microvms.example.com.", RecordType::A, ResponseCode::NXDomain),
    ] {
        let answer = ask(&zone, &query(name, kind));
        assert_eq!(answer.metadata.response_code, code, "{name} {kind}");
        assert!(answer.metadata.authoritative && answer.answers.is_empty(), "{name} {kind}");
        let [soa] = answer.authorities.as_slice() else { panic!("{name} {kind}: {answer}") };
        assert_eq!(
            (soa.record_type(), soa.ttl, soa.name.to_ascii().as_str()),
            (RecordType::SOA, 60, "microvms.example.com.")
        );
    }
}

#[test]
fn what_is_not_ours_is_refused() {
    let (zone, _) = zone(&["192.0.2.1"]);
    let mut chaos = query("microvms.example.com.", RecordType::TXT);
    chaos.queries[0].set_query_class(DNSClass::CH);
    for query in [
        query("example.com.", RecordType::A),
        query(".", RecordType::NS),
        query("notmicrovms.example.com.", RecordType::A),
        query("microvms.example.com.", RecordType::AXFR),
        query("microvms.example.com.", RecordType::IXFR),
        chaos,
    ] {
        let answer = ask(&zone, &query);
        assert_eq!(answer.metadata.response_code, ResponseCode::Refused, "{query}");
        assert!(!answer.metadata.authoritative && answer.all_sections().count() == 0, "{query}");
    }
}

#[test]
fn what_is_no_question_gets_a_code_or_nothing() {
    let (zone, _) = zone(&["192.0.2.1"]);
    let code = |message: &Message| ask(&zone, message).metadata.response_code;
    let good = query("a.microvms.example.com.", RecordType::A);
    let mut two = good.clone();
    two.add_query(good.queries[0].clone());
    assert_eq!(code(&two), ResponseCode::FormErr);
    let mut none = good.clone();
    none.queries.clear();
    assert_eq!(code(&none), ResponseCode::FormErr);
    let many = zone.answer(&[0, 1, 0, 0, 0xff, 0xff, 0, 0, 0, 0, 0, 0], Transport::Udp).unwrap();
    assert_eq!(Message::from_vec(&many).unwrap().metadata.response_code, ResponseCode::FormErr);
    for op_code in [OpCode::Notify, OpCode::Update, OpCode::Status, OpCode::Unknown(7)] {
        let mut other = good.clone();
        other.metadata.op_code = op_code;
        assert_eq!(code(&other), ResponseCode::NotImp);
    }
    let bytes = good.to_vec().unwrap();
    let cut = zone.answer(&bytes[..bytes.len() - 1], Transport::Udp).unwrap();
    assert_eq!(Message::from_vec(&cut).unwrap().metadata.response_code, ResponseCode::FormErr);
    assert_eq!(zone.answer(&bytes[..11], Transport::Udp), None);
    let mut answer = good;
    answer.metadata.message_type = MessageType::Response;
    assert_eq!(zone.answer(&answer.to_vec().unwrap(), Transport::Udp), None);
}

#[test]
fn edns_is_answered_with_edns_and_later_versions_with_ours() {
    let (zone, _) = zone(&["192.0.2.1"]);
    let mut asked = query("a.microvms.example.com.", RecordType::A);
    assert_eq!(ask(&zone, &asked).edns, None);
    let mut edns = Edns::new();
    edns.set_max_payload(4096).set_dnssec_ok(true);
    asked.set_edns(edns.clone());
    let answered = ask(&zone, &asked);
    assert_eq!(answers(&answered), ["A 192.0.2.1"]);
    let ours = answered.edns.unwrap();
    assert_eq!((ours.max_payload(), ours.version(), ours.flags().dnssec_ok), (1232, 0, true));
    edns.set_version(1);
    asked.set_edns(edns);
    let answered = ask(&zone, &asked);
    // BADSIG has the same number.
    assert_eq!(u16::from(answered.metadata.response_code), u16::from(ResponseCode::BADVERS));
    assert!(answered.answers.is_empty());
}

#[test]
fn long_answers_are_cut_over_udp_and_whole_over_tcp() {
    let addresses: Vec<_> = (1..=50).map(|last| format!("2001:db8::{last:x}")).collect();
    let (zone, _) = zone(&addresses.iter().map(String::as_str).collect::<Vec<_>>());
    let mut asked = query("a.microvms.example.com.", RecordType::AAAA);
    for (payload, room) in [(None, 512), (Some(100), 512), (Some(4096), 1232)] {
        asked.edns = payload.map(|payload| {
            let mut edns = Edns::new();
            edns.set_max_payload(payload);
            edns
        });
        let bytes = zone.answer(&asked.to_vec().unwrap(), Transport::Udp).unwrap();
        let answer = Message::from_vec(&bytes).unwrap();
        assert!(bytes.len() <= room, "{} of {room}", bytes.len());
        assert!(answer.metadata.truncation && answer.metadata.authoritative);
        assert_eq!((answer.answers.len(), answer.queries.len()), (0, 1));
    }
    let whole = ask(&zone, &asked);
    assert_eq!((whole.answers.len(), whole.metadata.truncation), (50, false));
}

#[test]
fn challenges_are_there_while_they_are_looked_at() {
    let (zone, challenges) = zone(&["192.0.2.1"]);
    let asked = query("_ACME-challenge.microvms.example.com.", RecordType::TXT);
    let posted = challenges.post(vec!["one".into(), "other".into()]);
    let answer = ask(&zone, &asked);
    assert_eq!(answers(&answer), ["TXT one", "TXT other"]);
    assert!(answer.answers.iter().all(|record| record.ttl == 0));
    drop(posted);
    assert!(ask(&zone, &asked).answers.is_empty());
}

proptest! {
    #[test]
    fn no_bytes_do_harm(bytes in prop::collection::vec(any::<u8>(), 0..MAX_QUERY)) {
        let (zone, _) = zone(&["192.0.2.1"]);
        for transport in [Transport::Udp, Transport::Tcp] {
            if let Some(answer) = zone.answer(&bytes, transport) {
                prop_assert_eq!(&answer[..2], &bytes[..2]);
                prop_assert!(answer.len() <= 1232);
            }
        }
    }

    #[test]
    fn no_damage_to_a_question_does_harm(at in 0usize..80, with in any::<u8>(), cut in 0usize..80) {
        let (zone, challenges) = zone(&["192.0.2.1", "2001:db8::1"]);
        let _posted = challenges.post(vec!["text".into()]);
        let mut asked = query("a.microvms.example.com.", RecordType::ANY);
        asked.set_edns(Edns::new());
        let mut bytes = asked.to_vec().unwrap();
        let length = bytes.len();
        bytes[at % length] = with;
        bytes.truncate(length - cut % length);
        if let Some(answer) = zone.answer(&bytes, Transport::Udp) {
            let answer = Message::from_vec(&answer);
            prop_assert!(answer.is_ok_and(|answer| answer.metadata.message_type == MessageType::Response));
        }
    }
}

fn config(text: &str) -> EndpointConfig {
    toml::from_str(text).unwrap()
}

async fn serving() -> SocketAddr {
    let config = config("dns = \"127.0.0.1:0\"\ndns_answer = [\"192.0.2.7\"]");
    let dns = Dns::bind(&config, DOMAIN, Challenges::default()).await.unwrap().unwrap();
    let address = dns.address().unwrap();
    tokio::spawn(dns.serve());
    address
}

#[tokio::test]
async fn questions_are_answered_over_udp_whatever_came_before() {
    let address = serving().await;
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.connect(address).await.unwrap();
    let asked = query("a.microvms.example.com.", RecordType::A);
    for noise in [b"".as_slice(), b"noise", &[0xff; 1400]] {
        socket.send(noise).await.unwrap();
    }
    socket.send(&asked.to_vec().unwrap()).await.unwrap();
    let mut buffer = [0; 1500];
    let length = socket.recv(&mut buffer).await.unwrap();
    let answer = Message::from_vec(&buffer[..length]).unwrap();
    assert_eq!((answer.metadata.id, answers(&answer)), (asked.metadata.id, vec!["A 192.0.2.7".to_owned()]));
}

#[tokio::test]
async fn questions_are_answered_over_tcp_one_after_the_other() {
    let address = serving().await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    let framed = |message: &Message| {
        let bytes = message.to_vec().unwrap();
        [u16::try_from(bytes.len()).unwrap().to_be_bytes().as_slice(), &bytes].concat()
    };
    let asked = [query("a.microvms.example.com.", RecordType::A), query("example.org.", RecordType::A)];
    stream.write_all(&asked.each_ref().map(framed).concat()).await.unwrap();
    for (asked, code) in asked.iter().zip([ResponseCode::NoError, ResponseCode::Refused]) {
        let mut answer = vec![0; usize::from(stream.read_u16().await.unwrap())];
        stream.read_exact(&mut answer).await.unwrap();
        let answer = Message::from_vec(&answer).unwrap();
        assert_eq!((answer.metadata.id, answer.metadata.response_code), (asked.metadata.id, code));
    }
    // A message that is longer than any query is not read.
    stream.write_all(&u16::MAX.to_be_bytes()).await.unwrap();
    assert_eq!(stream.read(&mut [0; 1]).await.unwrap(), 0);
}

#[tokio::test(start_paused = true)]
async fn who_says_nothing_over_tcp_is_let_go() {
    let address = serving().await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(&[0]).await.unwrap();
    assert_eq!(stream.read(&mut [0; 1]).await.unwrap_or_default(), 0);
}

#[tokio::test]
async fn dig_is_answered_over_udp_and_tcp() {
    let address = serving().await;
    for (arguments, expected) in [
        (&["a.microvms.example.com", "A"][..], "192.0.2.7\n"),
        (&["+tcp", "a.microvms.example.com", "A"], "192.0.2.7\n"),
        (&["a.microvms.example.com", "AAAA"], ""),
        (&["microvms.example.com", "NS"], "ns.microvms.example.com.\n"),
    ] {
        let mut dig = tokio::process::Command::new("dig");
        dig.arg(format!("@{}", address.ip())).arg("-p").arg(address.port().to_string()).arg("+short");
        let output = dig.args(arguments).output().await;
        let output = output.expect("dig, of Debian's package bind9-dnsutils: `cargo xtask test` installs it");
        assert_eq!(String::from_utf8(output.stdout).unwrap(), expected, "{arguments:?}");
    }
}

#[tokio::test]
async fn it_is_off_unless_told_and_says_where_it_cannot_listen() {
    let bind = async |text: &str| Dns::bind(&config(text), DOMAIN, Challenges::default()).await;
    assert!(bind("").await.unwrap().is_none());
    assert!(bind("enabled = false\ndns = \"127.0.0.1:0\"").await.unwrap().is_none());
    let nothing = bind("address = \"0.0.0.0:443\"\ndns = \"127.0.0.1:0\"").await.unwrap_err();
    assert!(matches!(nothing, DnsError::NoAnswer));
    let first = bind("dns = \"127.0.0.1:0\"").await.unwrap().unwrap();
    let taken = first.address().unwrap();
    let error = bind(&format!("dns = \"{taken}\"")).await.unwrap_err().to_string();
    assert!(error.contains(&taken.to_string()) && error.contains("endpoint.dns"), "{error}");
}
