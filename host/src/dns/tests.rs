//! Tests of resolvers against scripted servers on loopback.

use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, UdpSocket};

use super::*;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Transport {
    Udp,
    Tcp,
}

type Seen = Arc<Mutex<Vec<(Transport, Vec<u8>)>>>;

/// A server over UDP and TCP.
struct Server {
    address: SocketAddr,
    seen: Seen,
}

impl Server {
    /// Starts a server that sends the messages that `script` makes of a query.
    async fn start(script: impl Fn(Transport, &[u8]) -> Vec<Vec<u8>> + Send + Sync + 'static) -> Self {
        // A port number that is free for both UDP and TCP.
        let (udp, tcp) = loop {
            let udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
            if let Ok(tcp) = TcpListener::bind(udp.local_addr().unwrap()).await {
                break (udp, tcp);
            }
        };
        let (address, seen, script) = (udp.local_addr().unwrap(), Seen::default(), Arc::new(script));
        let (script_of_udp, seen_by_udp) = (script.clone(), seen.clone());
        tokio::spawn(async move {
            let mut buffer = [0; 4096];
            while let Ok((count, from)) = udp.recv_from(&mut buffer).await {
                seen_by_udp.lock().unwrap().push((Transport::Udp, buffer[..count].to_vec()));
                for answer in script_of_udp(Transport::Udp, &buffer[..count]) {
                    udp.send_to(&answer, from).await.unwrap();
                }
            }
        });
        let seen_by_tcp = seen.clone();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = tcp.accept().await {
                let mut query = vec![0; stream.read_u16().await.unwrap().into()];
                stream.read_exact(&mut query).await.unwrap();
                seen_by_tcp.lock().unwrap().push((Transport::Tcp, query.clone()));
                for answer in script(Transport::Tcp, &query) {
                    stream.write_u16(u16::try_from(answer.len()).unwrap()).await.unwrap();
                    stream.write_all(&answer).await.unwrap();
                }
            }
        });
        Self { address, seen }
    }

    fn seen(&self) -> Vec<(Transport, Vec<u8>)> {
        self.seen.lock().unwrap().clone()
    }
}

/// A resolver for a guest of an account without others.
fn guest(config: DnsConfig) -> Resolver {
    Resolvers::new(config).of_guest("111111111111")
}

fn resolver(servers: &[&Server]) -> Resolver {
    let servers = servers.iter().map(|server| server.address).collect();
    // The default timeouts. Shorter ones are used only where a server does not answer on purpose.
    guest(DnsConfig { servers, ..DnsConfig::default() })
}

fn impatient(servers: &[&Server]) -> Resolver {
    let servers = servers.iter().map(|server| server.address).collect();
    guest(DnsConfig { servers, attempt_timeout_ms: 100, ..DnsConfig::default() })
}

fn query() -> Vec<u8> {
    let mut message = vec![0x12, 0x34, 0x01, 0x00, 0, 1, 0, 0, 0, 0, 0, 0];
    message.extend(b"\x07example\x04test\x00\x00\x01\x00\x01");
    message
}

/// The answer to a query, with its id and `text` behind the question.
fn answer(query: &[u8], rcode: u8, text: &[u8]) -> Vec<u8> {
    let mut message = query.to_vec();
    message[2] |= 0x80;
    message[3] = 0x80 | rcode;
    message.extend(text);
    message
}

fn expected(rcode: u8, text: &[u8]) -> Vec<u8> {
    answer(&query(), rcode, text)
}

#[tokio::test]
async fn a_query_is_answered_under_its_own_id() {
    let server = Server::start(|_, query| vec![answer(query, 0, b"records")]).await;
    assert_eq!(resolver(&[&server]).answer(&query()).await, expected(0, b"records"));
    let seen = server.seen();
    assert_eq!((seen.len(), seen[0].0), (1, Transport::Udp));
    assert_eq!(seen[0].1[2..], query()[2..]);
}

#[tokio::test]
async fn ids_cannot_be_foreseen() {
    let server = Server::start(|_, query| vec![answer(query, 0, b"")]).await;
    let resolver = resolver(&[&server]);
    for _ in 0..8 {
        resolver.answer(&query()).await;
    }
    let ids = server.seen().iter().map(|(_, query)| [query[0], query[1]]).collect::<Vec<_>>();
    let steps =
        ids.windows(2).map(|pair| u16::from_be_bytes(pair[1]).wrapping_sub(u16::from_be_bytes(pair[0])));
    let steps = steps.collect::<std::collections::HashSet<_>>();
    assert!(steps.len() > 2, "{ids:02x?}");
}

#[tokio::test]
async fn an_answer_too_long_for_udp_comes_over_tcp() {
    let long = vec![b'x'; 60_000];
    let records = long.clone();
    let server = Server::start(move |transport, query| match transport {
        Transport::Udp => {
            let mut truncated = answer(query, 0, b"");
            truncated[2] |= 0x02;
            vec![truncated]
        }
        Transport::Tcp => vec![answer(query, 0, &records)],
    })
    .await;
    assert_eq!(resolver(&[&server]).answer(&query()).await, expected(0, &long));
    assert_eq!(
        server.seen().iter().map(|(transport, _)| *transport).collect::<Vec<_>>(),
        [Transport::Udp, Transport::Tcp]
    );
}

#[tokio::test]
async fn guessed_answers_are_passed_over() {
    let server = Server::start(|_, query| {
        let mut wrong_id = answer(query, 0, b"forged");
        wrong_id[0] ^= 1;
        let mut wrong_question = answer(query, 0, b"forged");
        wrong_question[14] = b'z';
        vec![wrong_id, wrong_question, query.to_vec(), vec![0; 3], answer(query, 0, b"true")]
    })
    .await;
    assert_eq!(resolver(&[&server]).answer(&query()).await, expected(0, b"true"));
}

#[tokio::test]
async fn a_silent_server_is_followed_by_the_next() {
    let silent = Server::start(|_, _| Vec::new()).await;
    let good = Server::start(|_, query| vec![answer(query, 3, b"")]).await;
    assert_eq!(impatient(&[&silent, &good]).answer(&query()).await, expected(3, b""));
}

#[tokio::test]
async fn a_server_that_cannot_help_is_followed_by_the_next() {
    let broken = Server::start(|_, query| vec![answer(query, 2, b"")]).await;
    let refusing = Server::start(|_, query| vec![answer(query, 5, b"no")]).await;
    let good = Server::start(|_, query| vec![answer(query, 0, b"records")]).await;
    assert_eq!(resolver(&[&broken, &refusing, &good]).answer(&query()).await, expected(0, b"records"));
    // Where no server has a final answer, the last one's is passed on, and no server is queried twice.
    assert_eq!(resolver(&[&broken, &refusing]).answer(&query()).await, expected(5, b"no"));
    assert_eq!((broken.seen().len(), refusing.seen().len()), (2, 2));
}

#[tokio::test]
async fn when_nobody_answers_the_guest_is_told() {
    let silent = Server::start(|_, _| Vec::new()).await;
    assert_eq!(impatient(&[&silent]).answer(&query()).await, answer(&query(), 2, b""));
    assert_eq!(silent.seen().len(), 2, "a datagram can get lost once");
    // Nothing listens there.
    let gone = UdpSocket::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let config = DnsConfig { servers: vec![gone], ..DnsConfig::default() };
    assert_eq!(guest(config).answer(&query()).await, answer(&query(), 2, b""));
}

#[tokio::test]
async fn queries_beyond_the_bound_wait_and_then_fail() {
    let server = Server::start(|_, query| vec![answer(query, 0, b"")]).await;
    let config =
        DnsConfig { servers: vec![server.address], concurrent: 1, timeout_ms: 50, ..DnsConfig::default() };
    let resolver = guest(config);
    let slot = resolver.slots.acquire().await.unwrap();
    assert_eq!(resolver.answer(&query()).await, answer(&query(), 2, b""));
    assert!(server.seen().is_empty());
    drop(slot);
}

#[tokio::test]
async fn what_is_no_query_reaches_no_server() {
    let server = Server::start(|_, query| vec![answer(query, 0, b"")]).await;
    let resolver = resolver(&[&server]);
    let mut malformed = query();
    malformed[5] = 9;
    assert_eq!(resolver.answer(&malformed).await[3] & 0xf, 1);
    assert!(resolver.answer(&expected(0, b"")).await.is_empty());
    assert!(server.seen().is_empty());
}

/// An address record of the question's name that is good for so many seconds.
fn address(query: &[u8], seconds: u32) -> Vec<u8> {
    let mut message = answer(query, 0, &[0xc0, 12, 0, 1, 0, 1]);
    message[7] = 1;
    message.extend([&seconds.to_be_bytes(), &[0, 4, 192, 0][..], &[2, 1]].concat());
    message
}

#[tokio::test]
async fn an_answer_is_kept_for_its_account_alone() {
    let server = Server::start(|_, query| vec![address(query, 60)]).await;
    let resolvers = Resolvers::new(DnsConfig { servers: vec![server.address], ..DnsConfig::default() });
    let [first, second, other] =
        ["111111111111", "111111111111", "222222222222"].map(|account| resolvers.of_guest(account));
    let mut shouted = query();
    (shouted[0], shouted[13]) = (9, b'E');
    assert_eq!(first.answer(&query()).await, address(&query(), 60));
    assert_eq!(second.answer(&shouted).await, address(&shouted, 60), "with its own id and name");
    assert_eq!(server.seen().len(), 1);
    assert_eq!(other.answer(&query()).await, address(&query(), 60));
    assert_eq!(server.seen().len(), 2, "nobody learns what another account has looked up");
    let mut with_other_flags = query();
    with_other_flags[3] = 0x10;
    first.answer(&with_other_flags).await;
    assert_eq!(server.seen().len(), 3);
}

#[tokio::test]
async fn a_burst_of_hundreds_is_answered() {
    let server = Server::start(|_, query| vec![answer(query, 0, b"")]).await;
    let resolver = Arc::new(resolver(&[&server]));
    let tasks = (0..600).map(|_| {
        let resolver = Arc::clone(&resolver);
        tokio::spawn(async move { resolver.answer(&query()).await })
    });
    for task in tasks.collect::<Vec<_>>() {
        assert_eq!(task.await.unwrap(), expected(0, b""));
    }
}

#[tokio::test]
async fn what_is_too_far_over_a_rate_is_answered_and_reaches_no_server() {
    let server = Server::start(|_, query| vec![answer(query, 0, b"")]).await;
    let resolvers = Resolvers::new(DnsConfig { servers: vec![server.address], ..DnsConfig::default() });
    let spend = |budget: &Budget| {
        let now = Instant::now();
        while budget.take(now, now + 2 * PATIENCE).is_some() {}
    };
    let guests = ["111111111111", "111111111111", "222222222222"];
    let [greedy, neighbour, other] = guests.map(|account| resolvers.of_guest(account));
    spend(&greedy.budget);
    assert_eq!(greedy.answer(&query()).await, answer(&query(), 2, b""));
    assert!(server.seen().is_empty());
    assert_eq!(neighbour.answer(&query()).await, expected(0, b""), "a guest has a rate of its own");
    spend(&neighbour.account.budget);
    assert_eq!(neighbour.answer(&query()).await, answer(&query(), 2, b""));
    // The account keeps its rate when its guests go, and another account has its own.
    drop((greedy, neighbour));
    assert_eq!(resolvers.of_guest(guests[0]).answer(&query()).await, answer(&query(), 2, b""));
    assert_eq!(other.answer(&query()).await, expected(0, b""));
}
