//! The stub's sockets.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::message::{fitted, is_query, server_failure};
use super::{Hub, hub};

/// Bytes that are read of a query in a datagram.
const DATAGRAM: usize = 4 << 10;
/// Connections that are served at once. The limit is needed because the app opens them.
const CONNECTIONS: usize = 64;
/// Datagrams that are answered at once: beside those that are under way, some that are being refused.
const DATAGRAMS: usize = hub::UNDER_WAY + 64;
/// How long a connection may be without a query (RFC 7766, section 6.2.3).
const IDLE: Duration = Duration::from_secs(10);

/// Answers datagrams for ever.
pub async fn serve_udp(socket: UdpSocket, hub: Arc<Hub>) {
    let socket = Arc::new(socket);
    let places = Arc::new(Semaphore::new(DATAGRAMS));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        let mut query = Vec::with_capacity(DATAGRAM);
        // An error here belongs to an earlier answer that could not be delivered.
        let Ok((_, client)) = socket.recv_buf_from(&mut query).await else { continue };
        if !is_query(&query) {
            continue;
        }
        let (socket, hub) = (Arc::clone(&socket), Arc::clone(&hub));
        tokio::spawn(async move {
            query.shrink_to_fit();
            let answer = hub.resolve(query.clone()).await;
            let answer = answer.map_or_else(|| server_failure(&query), |answer| fitted(&query, answer));
            let _ = socket.send_to(&answer, client).await;
            drop(place);
        });
    }
}

/// Answers connections for ever.
pub async fn serve_tcp(listener: TcpListener, hub: Arc<Hub>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let hub = Arc::clone(&hub);
        tokio::spawn(async move {
            let _ = serve_connection(stream, &hub).await; // an error only closes the connection
            drop(place);
        });
    }
}

/// Answers the queries of a connection, one after the other.
async fn serve_connection(mut stream: TcpStream, hub: &Hub) -> std::io::Result<()> {
    loop {
        let read = async {
            let length = stream.read_u16().await?;
            let mut query = vec![0; length.into()];
            stream.read_exact(&mut query).await?;
            std::io::Result::Ok(query)
        };
        let Ok(query) = timeout(IDLE, read).await else { return Ok(()) };
        let query = query?;
        if !is_query(&query) {
            return Ok(());
        }
        let answer = hub.resolve(query.clone()).await.unwrap_or_else(|| server_failure(&query));
        let length = u16::try_from(answer.len()).map_err(std::io::Error::other)?;
        let framed = [&length.to_be_bytes()[..], &answer].concat();
        timeout(IDLE, stream.write_all(&framed)).await??;
    }
}

#[cfg(test)]
mod tests {
    use hearth_proto::guest::v1::{DnsAnswer, DnsQuery};
    use tokio::net::UnixStream;

    use super::*;
    use hearth_agent_protocol::frame;

    /// A query for the root's address, with this id.
    fn query(id: u8) -> Vec<u8> {
        vec![0, id, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 1]
    }

    fn answer(id: u8, length: usize) -> Vec<u8> {
        let mut answer = query(id);
        answer[2] = 0x81;
        answer.resize(length, 7);
        answer
    }

    struct Stub {
        hub: Arc<Hub>,
        address: std::net::SocketAddr,
    }

    impl Stub {
        async fn start() -> Self {
            let hub = Arc::new(Hub::default());
            let (udp, tcp) = loop {
                let udp = UdpSocket::bind(("127.0.0.1", 0)).await.unwrap();
                // A connection of another process may have that port over TCP.
                match TcpListener::bind(udp.local_addr().unwrap()).await {
                    Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => {}
                    tcp => break (udp, tcp.unwrap()),
                }
            };
            let address = udp.local_addr().unwrap();
            tokio::spawn(serve_udp(udp, Arc::clone(&hub)));
            tokio::spawn(serve_tcp(tcp, Arc::clone(&hub)));
            Self { hub, address }
        }

        fn connect_host(&self) -> UnixStream {
            let (host, guest) = UnixStream::pair().unwrap();
            let hub = Arc::clone(&self.hub);
            tokio::spawn(async move { hub.serve(guest).await });
            host
        }

        async fn client(&self) -> UdpSocket {
            let client = UdpSocket::bind(("127.0.0.1", 0)).await.unwrap();
            client.connect(self.address).await.unwrap();
            client
        }
    }

    async fn receive(client: &UdpSocket) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(4_096);
        client.recv_buf(&mut bytes).await.unwrap();
        bytes
    }

    async fn next(host: &mut UnixStream) -> DnsQuery {
        frame::read(host).await.unwrap().unwrap()
    }

    async fn reply(host: &mut UnixStream, id: u64, message: Vec<u8>) {
        frame::write(host, &DnsAnswer { id, message }).await.unwrap();
    }

    #[tokio::test]
    async fn queries_go_to_the_host_and_its_answers_to_whom_they_belong() {
        let stub = Stub::start().await;
        let client = stub.client().await;
        client.send(&query(1)).await.unwrap();
        assert_eq!(receive(&client).await[3] & 0xf, 2, "SERVFAIL: there is no host");
        let mut host = stub.connect_host();
        tokio::task::yield_now().await;
        let other = stub.client().await;
        client.send(&query(2)).await.unwrap();
        let first = next(&mut host).await;
        other.send(&query(3)).await.unwrap();
        let second = next(&mut host).await;
        assert_eq!((&first.message, &second.message), (&query(2), &query(3)));
        reply(&mut host, second.id, answer(3, 40)).await;
        reply(&mut host, 999, answer(9, 40)).await;
        reply(&mut host, first.id, answer(2, 40)).await;
        assert_eq!(receive(&client).await, answer(2, 40));
        assert_eq!(receive(&other).await, answer(3, 40));
        client.send(&query(4)).await.unwrap();
        let third = next(&mut host).await;
        reply(&mut host, third.id, Vec::new()).await;
        assert_eq!(receive(&client).await[3] & 0xf, 2, "SERVFAIL: the host has no answer");
        client.send(&query(5)).await.unwrap();
        next(&mut host).await;
        drop(host);
        assert_eq!(receive(&client).await[3] & 0xf, 2, "SERVFAIL: the host has gone");
    }

    #[tokio::test]
    async fn hundreds_of_queries_at_once_go_to_the_host() {
        let stub = Stub::start().await;
        let mut host = stub.connect_host();
        tokio::task::yield_now().await;
        let ask = |_| {
            let hub = Arc::clone(&stub.hub);
            tokio::spawn(async move { hub.resolve(query(1)).await })
        };
        let asking = (0..600).map(ask).collect::<Vec<_>>();
        for _ in 0..600 {
            let query = next(&mut host).await;
            reply(&mut host, query.id, answer(1, 40)).await;
        }
        for answered in asking {
            assert_eq!(answered.await.unwrap(), Some(answer(1, 40)));
        }
    }

    #[tokio::test]
    async fn long_answers_come_over_tcp() {
        let stub = Stub::start().await;
        let mut host = stub.connect_host();
        tokio::task::yield_now().await;
        let client = stub.client().await;
        client.send(&query(1)).await.unwrap();
        let asked = next(&mut host).await;
        reply(&mut host, asked.id, answer(1, 3_000)).await;
        let truncated = receive(&client).await;
        assert_eq!((truncated.len(), truncated[2] & 2), (17, 2));
        let mut stream = TcpStream::connect(stub.address).await.unwrap();
        for id in [2, 3] {
            stream.write_u16(17).await.unwrap();
            stream.write_all(&query(id)).await.unwrap();
            let asked = next(&mut host).await;
            reply(&mut host, asked.id, answer(id, 3_000)).await;
            let mut read = vec![0; stream.read_u16().await.unwrap().into()];
            stream.read_exact(&mut read).await.unwrap();
            assert_eq!(read, answer(id, 3_000));
        }
    }

    #[tokio::test]
    async fn a_new_connection_of_the_host_takes_over() {
        let stub = Stub::start().await;
        let _silent = stub.connect_host();
        tokio::task::yield_now().await;
        let mut host = stub.connect_host();
        tokio::task::yield_now().await;
        let client = stub.client().await;
        client.send(&query(1)).await.unwrap();
        let asked = next(&mut host).await;
        reply(&mut host, asked.id, answer(1, 20)).await;
        assert_eq!(receive(&client).await, answer(1, 20));
    }
}
