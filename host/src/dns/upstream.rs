//! Queries one server.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use rustix::rand::GetRandomFlags;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};

use super::message::{Match, Query};

/// Largest datagram in bytes that is received; it is larger than a correct server sends, given the size in the query.
const MAX_DATAGRAM: usize = 4096;

/// The answer of `server` over UDP, or over TCP if it was truncated. Has no timeout of its own.
pub(super) async fn exchange(server: SocketAddr, query: &Query) -> io::Result<Vec<u8>> {
    match over_udp(server, query).await? {
        Some(answer) => Ok(answer),
        None => over_tcp(server, query).await,
    }
}

/// The answer over UDP; `None` if it was truncated and TCP has to be used.
async fn over_udp(server: SocketAddr, query: &Query) -> io::Result<Option<Vec<u8>>> {
    let any: SocketAddr = match server {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    // The kernel chooses a random port. A connected socket receives datagrams of this server only.
    let socket = UdpSocket::bind(any).await?;
    socket.connect(server).await?;
    let id = random_id()?;
    socket.send(&query.encode(id).map_err(io::Error::other)?).await?;
    let mut buffer = vec![0; MAX_DATAGRAM];
    loop {
        let count = socket.recv(&mut buffer).await?;
        let message = buffer.get(..count).unwrap_or_default();
        match query.judge(id, message) {
            // Possibly a forged answer; the right one may still come.
            Match::Foreign => {}
            Match::Truncated => return Ok(None),
            Match::Whole => return Ok(Some(message.to_vec())),
        }
    }
}

async fn over_tcp(server: SocketAddr, query: &Query) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(server).await?;
    stream.set_nodelay(true)?;
    let id = random_id()?;
    let message = query.encode(id).map_err(io::Error::other)?;
    let length = u16::try_from(message.len()).map_err(io::Error::other)?;
    stream.write_all(&[length.to_be_bytes().as_slice(), &message].concat()).await?;
    let length = stream.read_u16().await?;
    let mut answer = vec![0; length.into()];
    stream.read_exact(&mut answer).await?;
    match query.judge(id, &answer) {
        Match::Whole => Ok(answer),
        Match::Foreign | Match::Truncated => Err(io::ErrorKind::InvalidData.into()),
    }
}

fn random_id() -> io::Result<u16> {
    let mut id = [0; 2];
    // As few bytes as these come all at once (random(7)).
    rustix::rand::getrandom(&mut id, GetRandomFlags::empty())?;
    Ok(u16::from_ne_bytes(id))
}
