//! TCP connections to the app.

use std::time::Duration;

use hearth_proto::guest::v1::{FailureCode, OpenStream};
use tokio::io::copy_bidirectional_with_sizes;
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;

use super::{Agent, port};
use crate::hooks;
use crate::refusal::Refusal;

/// How long to try unless the host says.
const PATIENCE: u32 = 5_000;

/// Bytes that are on their way at once, for each direction.
const BUFFER: usize = 64 << 10;

/// Connects to a port of the app.
pub(super) async fn connect(agent: &Agent, open: &OpenStream) -> Result<TcpStream, Refusal> {
    let port = port(open.port)?;
    let patience = if open.timeout_ms == 0 { PATIENCE } else { open.timeout_ms };
    let hosts = agent.app_hosts();
    let connecting = hooks::connect(&hosts, port);
    let stream = match timeout(Duration::from_millis(patience.into()), connecting).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) if error.kind() == std::io::ErrorKind::ConnectionRefused => {
            let message = format!("nobody listens on port {port} of the app");
            return Err(Refusal { code: FailureCode::Refused, message });
        }
        Ok(Err(error)) => {
            return Err(Refusal::system(format!("connecting to port {port} of the app"), &error));
        }
        Err(_) => {
            let message = format!("port {port} of the app does not accept a connection within {patience} ms");
            return Err(Refusal { code: FailureCode::TimedOut, message });
        }
    };
    // A relay must not wait for more to send.
    let _ = stream.set_nodelay(true);
    Ok(stream)
}

/// Passes bytes on until both directions have ended, or one has failed.
pub(super) async fn relay(mut host: UnixStream, mut app: TcpStream) {
    let _ = copy_bidirectional_with_sizes(&mut host, &mut app, BUFFER, BUFFER).await;
}
