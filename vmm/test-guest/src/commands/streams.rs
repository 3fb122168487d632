//! Commands for vsock servers, which run in the background, and vsock clients.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::sync::{Arc, Barrier};
use std::thread;

use super::network::{receive, send};
use super::{Words, disk, failed, send_line};
use crate::vsock;

/// Stack size in bytes of threads of which there are hundreds.
const SMALL_STACK: usize = 128 * 1024;

/// Accepts connections forever and serves every stream on a separate thread.
fn server(port: u32, serve: impl Fn(File) + Send + Sync + 'static) -> Result<String, String> {
    let listener = vsock::Listener::bind(port).map_err(failed("listening"))?;
    let serve = Arc::new(serve);
    thread::spawn(move || {
        while let Ok(stream) = listener.accept() {
            let serve = Arc::clone(&serve);
            if thread::Builder::new().stack_size(SMALL_STACK).spawn(move || serve(stream)).is_err() {
                break;
            }
        }
    });
    Ok(port.to_string())
}

/// `PORT`: echoes, and shuts down the sending side of a stream when the peer has shut down its own.
pub(super) fn echo(port: u32) -> Result<String, String> {
    server(port, |stream| {
        // It is no error if the peer disconnects.
        let _ = io::copy(&mut &stream, &mut &stream).and_then(|_| vsock::shutdown_write(&stream));
    })
}

/// `PORT BYTES SEED`: sends the stream SEED to every client that connects, then closes. SEED 0 sends zeros.
pub(super) fn source(words: &mut Words<'_>) -> Result<String, String> {
    let (port, bytes, seed) = (words.value("PORT")?, words.value("BYTES")?, words.value("SEED")?);
    server(port, move |mut stream| {
        let _ = if seed == 0 { send_zeros(&mut stream, bytes) } else { send(&mut stream, seed, bytes) };
    })
}

fn send_zeros(stream: &mut File, bytes: u64) -> io::Result<()> {
    let zeros = vec![0; 64 * 1024];
    let mut left = bytes;
    while left > 0 {
        let length = usize::try_from(left).unwrap_or(zeros.len()).min(zeros.len());
        stream.write_all(zeros.get(..length).unwrap_or_default())?;
        left -= length as u64;
    }
    Ok(())
}

/// `PORT DEVICE`: sends the whole contents of the disk to every client that connects, then closes.
pub(super) fn disk(words: &mut Words<'_>) -> Result<String, String> {
    let (port, device) = (words.value("PORT")?, words.text("DEVICE")?.to_string());
    server(port, move |mut stream| {
        // On an error the stream ends early, which the client detects.
        let _ = disk::send(&device, &mut stream);
    })
}

/// `PORT [SEED]`: receives until the peer has shut down its sending side, then answers `ok BYTES` or `err …`. With SEED
/// it checks the data.
pub(super) fn sink(words: &mut Words<'_>) -> Result<String, String> {
    let port = words.value("PORT")?;
    let seed = words.optional("SEED")?;
    server(port, move |mut stream| {
        let answer = match receive(&mut stream, seed) {
            Ok(bytes) => format!("ok {bytes}"),
            Err(reason) => format!("err {reason}"),
        };
        let _ = send_line(&mut stream, &answer);
    })
}

/// `PORT BYTES`: receives BYTES, then answers `ok BYTES`. For monitors that close both directions of a stream together.
pub(super) fn take(words: &mut Words<'_>) -> Result<String, String> {
    let port = words.value("PORT")?;
    let bytes: u64 = words.value("BYTES")?;
    server(port, move |mut stream| {
        let answer = match io::copy(&mut (&stream).take(bytes), &mut io::sink()) {
            Ok(received) if received == bytes => format!("ok {bytes}"),
            Ok(received) => format!("err the stream ended after {received} bytes"),
            Err(error) => format!("err receiving: {error}"),
        };
        let _ = send_line(&mut stream, &answer);
    })
}

/// `PORT COUNT BYTES`: opens COUNT streams to the host, keeps all of them open at once, sends BYTES on each and checks
/// that they are echoed → `COUNT`.
pub(super) fn connect_many(words: &mut Words<'_>) -> Result<String, String> {
    let (port, count) = (words.value("PORT")?, words.value("COUNT")?);
    let bytes: u64 = words.value("BYTES")?;
    let all_open = Arc::new(Barrier::new(count));
    let spawn = |number: u64| {
        let all_open = Arc::clone(&all_open);
        let run = move || round_trip(port, number, bytes, &all_open);
        thread::Builder::new().stack_size(SMALL_STACK).spawn(run).map_err(failed("starting a thread"))
    };
    let threads = (0..count as u64).map(spawn).collect::<Result<Vec<_>, _>>()?;
    for thread in threads {
        thread.join().map_err(|_| "a thread panicked")??;
    }
    Ok(count.to_string())
}

fn round_trip(port: u32, seed: u64, bytes: u64, all_open: &Barrier) -> Result<(), String> {
    let stream = vsock::connect_to_host(port).map_err(failed("connecting to the host"));
    all_open.wait();
    let stream = stream?;
    let mut out = stream.try_clone().map_err(failed("duplicating a stream"))?;
    let sender = move || send(&mut out, seed, bytes).and_then(|()| vsock::shutdown_write(&out));
    let builder = thread::Builder::new().stack_size(SMALL_STACK);
    let sender = builder.spawn(sender).map_err(failed("starting a thread"))?;
    let received = receive(&mut &stream, Some(seed))?;
    sender.join().map_err(|_| "a sender panicked")?.map_err(failed("sending"))?;
    if received == bytes {
        Ok(())
    } else {
        Err(format!("stream {seed}: {received} of {bytes} bytes came back"))
    }
}
