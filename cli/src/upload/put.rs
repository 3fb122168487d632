//! Sends a zip.

use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use hearth_proto::host::v1::put_artifact_request::Part;
use hearth_proto::host::v1::{PutArtifactRequest, PutArtifactResponse};
use tokio::io::AsyncReadExt as _;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::progress::{Bar, TICK};
use crate::connect::Client;
use crate::error::Failure;
use crate::live::Live;

/// Bytes per message.
const CHUNK: usize = 256 << 10;
/// Messages that are queued for the network.
const AHEAD: usize = 4;

/// Uploads a zip. `name` is for people.
pub(super) async fn put(
    client: &Client,
    zip: File,
    name: &str,
    live: &mut Live,
    quiet: bool,
) -> Result<PutArtifactResponse, Failure> {
    let total =
        zip.metadata().map_err(|error| Failure::failed(format!("cannot read the zip: {error}")))?.len();
    let sent = Arc::new(AtomicU64::new(0));
    let (sender, messages) = mpsc::channel(AHEAD);
    let reader =
        tokio::spawn(send(tokio::fs::File::from_std(zip), artifact_name(name), sender, Arc::clone(&sent)));
    let mut host = client.host();
    let answer = host.put_artifact(ReceiverStream::new(messages));
    tokio::pin!(answer);
    let (mut bar, begin) = (Bar::new(total), Instant::now());
    let mut tick = tokio::time::interval(TICK);
    let shown = live.is_terminal() && !quiet;
    let answer = loop {
        tokio::select! {
            // The first tick is at once: an upload of no time is shown, too.
            biased;
            _ = tick.tick(), if shown => live.show(&bar.at(begin.elapsed(), sent.load(Ordering::Relaxed)))?,
            answer = &mut answer => break answer,
        }
    };
    live.clear()?;
    let answer = answer.map_err(|status| client.failure("upload the artifact", status));
    // If the file cannot be read, the stream ends early, and the daemon may accept the part as complete.
    let answer = match reader.await {
        Ok(Err(error)) => return Err(Failure::failed(format!("cannot read the zip: {error}"))),
        _ => answer?,
    };
    if shown {
        live.dim(&bar.end(begin.elapsed()))?;
    }
    Ok(answer.into_inner())
}

/// Sends the name and all bytes; stops when the receiver is gone.
async fn send(
    mut zip: tokio::fs::File,
    name: String,
    sender: mpsc::Sender<PutArtifactRequest>,
    sent: Arc<AtomicU64>,
) -> std::io::Result<()> {
    let mut part = Part::Name(name);
    while sender.send(PutArtifactRequest { part: Some(part) }).await.is_ok() {
        let mut chunk = Vec::with_capacity(CHUNK);
        let count = (&mut zip).take(CHUNK as u64).read_to_end(&mut chunk).await?;
        if count == 0 {
            break;
        }
        sent.fetch_add(count as u64, Ordering::Relaxed);
        part = Part::Data(chunk);
    }
    Ok(())
}

/// A name that the daemon accepts: 1 to 128 of a-z A-Z 0-9 . _ -
fn artifact_name(name: &str) -> String {
    let allowed = |character: char| character.is_ascii_alphanumeric() || "._-".contains(character);
    let name: String =
        name.chars().map(|character| if allowed(character) { character } else { '-' }).collect();
    format!("{}.zip", name.get(..name.len().min(124)).unwrap_or("artifact"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_becomes_one_that_the_daemon_accepts() {
        assert_eq!(artifact_name("my app/é"), "my-app--.zip");
    }
}
