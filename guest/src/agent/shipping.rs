//! Sends log records to the host.

use hearth_proto::guest::v1::{LogAcknowledged, OpenLogs};
use tokio::io::AsyncWriteExt as _;
use tokio::net::UnixStream;

use crate::logs::Ring;
use hearth_agent_protocol::frame::{self, FrameError};

/// Bytes of records in one batch; the last record may exceed this.
const BATCH: usize = 64 << 10;

/// Sends records as they come, until the host closes the connection.
pub(super) async fn serve(ring: &Ring, open: &OpenLogs, connection: UnixStream) -> Result<(), FrameError> {
    let (mut source, mut sink) = connection.into_split();
    ring.acknowledge(open.after);
    let mut cursor = open.after.min(ring.sequences().0);
    let send = async {
        loop {
            let mut batch = Vec::new();
            ring.next(&mut cursor, &mut batch, BATCH).await;
            sink.write_all(&batch).await?;
        }
    };
    let receive = async {
        while let Some(acknowledged) = frame::read::<LogAcknowledged>(&mut source).await? {
            ring.acknowledge(acknowledged.sequence);
        }
        Ok(())
    };
    tokio::select! {
        result = send => result,
        result = receive => result,
    }
}
