//! The program's state.

use std::collections::HashMap;
use std::env;
use std::io::{self, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;

use tokio::sync::watch;

/// The answer to a hook.
pub(crate) enum HookAnswer {
    Status(u16),
    /// The app never answers.
    Hangs,
}

pub(crate) struct State {
    count: watch::Sender<u64>,
    /// The rest of the state.
    rest: Mutex<Rest>,
}

struct Rest {
    loopback: TcpStream,
    rounds: u64,
    hooks: u64,
    run: String,
    calls: HashMap<String, usize>,
}

impl State {
    pub(crate) fn new() -> io::Result<Self> {
        let rest =
            Rest { loopback: loopback()?, rounds: 0, hooks: 0, run: String::new(), calls: HashMap::new() };
        Ok(Self { count: watch::Sender::new(0), rest: Mutex::new(rest) })
    }

    /// Counts a request. Returns the new number.
    pub(crate) fn count(&self) -> u64 {
        let mut now = 0;
        self.count.send_modify(|count| {
            *count += 1;
            now = *count;
        });
        now
    }

    /// A receiver of the count, now and whenever it changes.
    pub(crate) fn counts(&self) -> watch::Receiver<u64> {
        self.count.subscribe()
    }

    fn rest(&self) -> MutexGuard<'_, Rest> {
        self.rest.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends a byte over the connection to itself. Returns how often that was done.
    pub(crate) fn round(&self) -> io::Result<u64> {
        let mut rest = self.rest();
        rest.loopback.write_all(b"x")?;
        rest.loopback.read_exact(&mut [0])?;
        rest.rounds += 1;
        Ok(rest.rounds)
    }

    /// The body of the `/run` hook.
    pub(crate) fn run(&self) -> String {
        self.rest().run.clone()
    }

    /// Handles a call of a hook.
    pub(crate) fn hook(&self, hook: &str, body: String) -> HookAnswer {
        let mut rest = self.rest();
        rest.hooks += 1;
        let told = if body.is_empty() { String::new() } else { format!(": {body}") };
        println!("counter: /{hook}, call {} of a hook in this program's life{told}", rest.hooks);
        if hook == "run" {
            rest.run = body;
        }
        let Ok(script) = env::var(format!("HOOK_{}", hook.to_ascii_uppercase())) else {
            return HookAnswer::Status(200);
        };
        let call = rest.calls.entry(hook.to_owned()).or_default();
        let answers: Vec<&str> = script.split(',').collect();
        let word = answers.get(*call).or(answers.last()).copied().unwrap_or_default();
        *call += 1;
        match word {
            "hang" => HookAnswer::Hangs,
            status => HookAnswer::Status(status.parse().unwrap_or(200)),
        }
    }
}

/// A connection to this program itself, whose other end echoes every byte.
fn loopback() -> io::Result<TcpStream> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let ours = TcpStream::connect(listener.local_addr()?)?;
    let (mut theirs, _) = listener.accept()?;
    thread::spawn(move || -> io::Result<()> {
        let mut byte = [0];
        loop {
            theirs.read_exact(&mut byte)?;
            theirs.write_all(&byte)?;
        }
    });
    Ok(ours)
}
