//! The output of a microVM's app, from its guest to a log stream.
//!
//! Lines are stored and then acknowledged; the guest keeps them until then. The stream holds the number of its last
//! line, and refuses lines that it has already. So each line is stored exactly once, whichever side crashes in
//! between.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use hearth_host::agent::control::Control;
use hearth_host::agent::{Agent, AgentError};
use hearth_model::id::{AccountId, MicrovmId};
use hearth_model::text::harmless;
use hearth_proto::guest::v1::{LogRecord, Status};
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep};

use super::backlog::backlog;
use crate::platform::LogTarget;

/// Pause before a failed operation is retried: at first, and at most.
const RETRY: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(5));
/// Shortest time between two killed processes of a guest that are told of; the log has a line for each.
const KILLS_APART: Duration = Duration::from_secs(1);
/// Most bytes of the name of a process, which has 15 that may be escaped.
const PROCESS_NAME: usize = 64;
/// Interval at which [`taken`] polls the guest's status.
const POLL_INTERVAL: Duration = Duration::from_millis(2);

/// Stores the output of microVMs.
pub trait LogSink: Send + Sync + Debug + 'static {
    /// A writer of the lines of the microVM `microvm` to one stream. Several microVMs may write to the same stream.
    /// The call may block.
    ///
    /// # Errors
    /// Why the stream cannot be written to; the caller retries later.
    fn open(&self, account: &str, target: &LogTarget, microvm: &str) -> Result<Arc<dyn LogWriter>, String>;

    /// Tells that a guest says its kernel has killed a process of this name because no memory was left.
    fn killed(&self, account: &str, microvm: &str, process: &str);
}

/// Writes the lines of one microVM to one stream.
pub trait LogWriter: Send + Sync + Debug {
    /// The sequence number of the last stored line of this microVM; 0 for none.
    fn last_sequence(&self) -> u64;

    /// Stores a line, unless it is stored already. A stored line survives a crash of the daemon. The call may block.
    ///
    /// # Errors
    /// Why the line cannot be stored; the caller retries later.
    fn append(&self, line: &LogRecord) -> Result<(), String>;

    /// Stores a line of the platform itself among those of the app. The call may block.
    ///
    /// # Errors
    /// Why the line cannot be stored.
    fn notice(&self, text: &str) -> Result<(), String>;
}

/// The destination of a microVM's output.
#[derive(Debug, Clone)]
pub(super) struct Output {
    pub(super) account: AccountId,
    pub(super) microvm: MicrovmId,
    /// Without a target, lines are read and discarded, since otherwise the app would block on its output.
    pub(super) target: Option<LogTarget>,
    pub(super) sink: Arc<dyn LogSink>,
}

/// A pause that grows with each use.
struct Backoff(Duration);

impl Backoff {
    fn new() -> Self {
        Self(RETRY.0)
    }

    async fn wait(&mut self) {
        sleep(self.0).await;
        self.0 = (self.0 * 2).min(RETRY.1);
    }
}

/// Takes the lines of a guest until the task is aborted.
pub(super) async fn follow(agent: Agent, output: Output) {
    let writer = output.open().await;
    let mut backoff = Backoff::new();
    loop {
        let taken = Instant::now();
        let error = take(&agent, &output, writer.as_ref()).await;
        tracing::debug!(microvm = %output.microvm, %error, "the log connection has ended");
        if taken.elapsed() > RETRY.1 {
            backoff = Backoff::new();
        }
        backoff.wait().await;
    }
}

impl Output {
    /// Stores a line of the platform among those of the app, if they are stored. It may block.
    pub(super) fn notice(&self, text: &str) {
        let Some(target) = &self.target else { return };
        let opened = self.sink.open(self.account.as_str(), target, self.microvm.as_str());
        if let Err(why) = opened.and_then(|writer| writer.notice(text)) {
            tracing::warn!(microvm = %self.microvm, why, "a line for the account is lost");
        }
    }

    /// Tells of a process that was killed, if the line is about one. A guest could write such lines all the time.
    fn tell_of_kill(&self, line: &LogRecord, told: &mut Option<Instant>) {
        if line.killed.is_empty() || told.is_some_and(|told| told.elapsed() < KILLS_APART) {
            return;
        }
        *told = Some(Instant::now());
        let process = harmless(line.killed.as_bytes(), PROCESS_NAME);
        self.sink.killed(self.account.as_str(), self.microvm.as_str(), &process);
    }

    async fn open(&self) -> Option<Arc<dyn LogWriter>> {
        let target = self.target.clone()?;
        let mut backoff = Backoff::new();
        loop {
            let (output, target) = (self.clone(), target.clone());
            let opened = spawn_blocking(move || {
                output.sink.open(output.account.as_str(), &target, output.microvm.as_str())
            });
            match opened.await.unwrap_or_else(|error| Err(error.to_string())) {
                Ok(writer) => return Some(writer),
                Err(why) => self.complain(&why),
            }
            backoff.wait().await;
        }
    }

    fn complain(&self, why: &str) {
        tracing::warn!(microvm = %self.microvm, why, "the output cannot be stored; the guest keeps it");
    }

    /// Stores lines in order, retrying for as long as it takes.
    async fn store(&self, writer: &Arc<dyn LogWriter>, lines: Vec<LogRecord>) {
        let mut backoff = Backoff::new();
        let (lines, mut next) = (Arc::new(lines), 0);
        while next < lines.len() {
            let (lines, writer) = (Arc::clone(&lines), Arc::clone(writer));
            let stored = spawn_blocking(move || {
                for (index, line) in lines.iter().enumerate().skip(next) {
                    if let Err(why) = writer.append(line) {
                        return (index, Some(why));
                    }
                }
                (lines.len(), None)
            });
            let (stored, why) = stored.await.unwrap_or_else(|error| (next, Some(error.to_string())));
            if stored > next {
                backoff = Backoff::new();
            }
            next = stored;
            if let Some(why) = why {
                self.complain(&why);
                backoff.wait().await;
            }
        }
    }
}

/// Takes lines until the connection ends; returns why it ended.
async fn take(agent: &Agent, output: &Output, writer: Option<&Arc<dyn LogWriter>>) -> AgentError {
    let after = writer.map_or(0, |writer| writer.last_sequence());
    let (mut lines, mut acknowledge) = match agent.logs(after).await {
        Ok(logs) => logs.split(),
        Err(error) => return error,
    };
    let (received, mut waiting) = backlog();
    let mut told = None;
    let read = async move {
        loop {
            match lines.next().await {
                Ok(line) => {
                    output.tell_of_kill(&line, &mut told);
                    if !received.add(line).await {
                        return AgentError::Confused; // the receiver is gone
                    }
                }
                Err(error) => return error,
            }
        }
    };
    let store = async {
        while let Some(mut batch) = waiting.next().await {
            let newest = batch.lines.last().map_or(0, |line| line.sequence);
            if let Some(writer) = writer {
                output.store(writer, std::mem::take(&mut batch.lines)).await;
            }
            drop(batch);
            if let Err(error) = acknowledge.stored(newest).await {
                return error;
            }
        }
        AgentError::Confused
    };
    tokio::pin!(read, store);
    tokio::select! {
        error = &mut read => {
            // The lines that have arrived are stored nevertheless; they cannot be acknowledged.
            let _ = store.await;
            error
        }
        error = &mut store => error,
    }
}

/// Waits until the host has taken all lines that the app has written so far, for `limit` at most. Lines that are not
/// taken then stay in the guest.
pub(super) async fn drain(agent: &Agent, limit: Duration) {
    let drained = async {
        let mut control = agent.control().await?;
        let now = control.status().await?;
        taken(&mut control, &now).await
    };
    let _ = tokio::time::timeout(limit, drained).await;
}

/// Waits without a limit until the host has taken the lines that existed when the guest reported `status`.
///
/// # Errors
/// If the agent does not respond.
pub(super) async fn taken(control: &mut Control, status: &Status) -> Result<(), AgentError> {
    let mut taken = status.acknowledged_log;
    while taken < status.last_log {
        sleep(POLL_INTERVAL).await;
        taken = control.status().await?.acknowledged_log;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use hearth_host::agent::double::{Line, Lines, played};
    use hearth_proto::guest::v1::{self as proto, LogAcknowledged};

    use super::*;

    /// A log stream in memory, which refuses some lines once.
    #[derive(Debug, Default)]
    struct Memory {
        lines: Mutex<Vec<u64>>,
        refused: Mutex<Vec<u64>>,
    }

    impl LogWriter for Memory {
        fn last_sequence(&self) -> u64 {
            self.lines.lock().unwrap().last().copied().unwrap_or(0)
        }

        fn append(&self, line: &LogRecord) -> Result<(), String> {
            let mut refused = self.refused.lock().unwrap();
            if line.sequence % 100 == 2 && !refused.contains(&line.sequence) {
                refused.push(line.sequence);
                return Err("full".into());
            }
            self.lines.lock().unwrap().push(line.sequence);
            Ok(())
        }

        fn notice(&self, _: &str) -> Result<(), String> {
            Ok(())
        }
    }

    #[derive(Debug, Clone, Default)]
    struct Sink(Arc<Memory>, Arc<Mutex<Vec<String>>>);

    impl LogSink for Sink {
        fn open(&self, _: &str, _: &LogTarget, _: &str) -> Result<Arc<dyn LogWriter>, String> {
            Ok(Arc::clone(&self.0) as Arc<dyn LogWriter>)
        }

        fn killed(&self, account: &str, microvm: &str, process: &str) {
            self.1.lock().unwrap().push(format!("{account} {microvm} {process}"));
        }
    }

    /// The guest's end of a log connection, and the number after which the host requests lines.
    async fn accept(guest: &mut Lines) -> (Line, u64) {
        let mut line = guest.next().await.unwrap().unwrap();
        let open = line.accept().await.unwrap();
        let Some(proto::open::Kind::Logs(logs)) = open.kind else { panic!("{open:?}") };
        (line, logs.after)
    }

    async fn send_lines(line: &mut Line, sequences: std::ops::RangeInclusive<u64>) {
        for sequence in sequences {
            line.send(&LogRecord { sequence, ..LogRecord::default() }).await.unwrap();
        }
    }

    fn output(target: Option<LogTarget>, sink: &Sink) -> Output {
        let (account, microvm) = ("111122223333".parse().unwrap(), "microvm-1".parse().unwrap());
        Output { account, microvm, target, sink: Arc::new(sink.clone()) }
    }

    async fn acknowledged(line: &mut Line, sequence: u64) {
        while line.receive::<LogAcknowledged>().await.unwrap().sequence < sequence {}
    }

    #[tokio::test]
    async fn lines_are_stored_once_across_connections_and_failures() {
        let (agent, mut guest) = played();
        let sink = Sink::default();
        let target = Some(LogTarget { group: "g".into(), stream: "s".into() });
        let output = output(target, &sink);
        let following = tokio::spawn(follow(agent, output));
        let (mut line, after) = accept(&mut guest).await;
        assert_eq!(after, 0);
        send_lines(&mut line, 1..=3).await;
        acknowledged(&mut line, 3).await;
        // The connection ends, as at a restart of the daemon: the host continues after the last stored line.
        send_lines(&mut line, 4..=5).await;
        drop(line);
        let (mut line, after) = accept(&mut guest).await;
        assert!((3..=5).contains(&after), "{after}");
        send_lines(&mut line, after + 1..=300).await;
        acknowledged(&mut line, 300).await;
        assert_eq!(*sink.0.lines.lock().unwrap(), (1..=300).collect::<Vec<_>>());
        following.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn killed_processes_are_told_of_but_not_as_fast_as_a_guest_writes() {
        let (agent, mut guest) = played();
        let sink = Sink::default();
        let following = tokio::spawn(follow(agent, output(None, &sink)));
        let (mut line, _) = accept(&mut guest).await;
        for sequence in 1..=3 {
            let killed = format!("\u{1b}[31mpython{sequence}\n");
            line.send(&LogRecord { sequence, killed, ..LogRecord::default() }).await.unwrap();
        }
        acknowledged(&mut line, 3).await;
        tokio::time::advance(KILLS_APART).await;
        let record = LogRecord { sequence: 4, killed: "x".repeat(1000), ..LogRecord::default() };
        line.send(&record).await.unwrap();
        line.send(&LogRecord { sequence: 5, ..LogRecord::default() }).await.unwrap();
        acknowledged(&mut line, 5).await;
        let told = sink.1.lock().unwrap().clone();
        assert_eq!(told[0], "111122223333 microvm-1 python1");
        assert!(told.len() == 2 && told[1].len() < 100 && told[1].contains("xxx"), "{told:?}");
        following.abort();
    }

    #[tokio::test]
    async fn lines_that_go_nowhere_are_taken_from_the_guest_all_the_same() {
        let (agent, mut guest) = played();
        let sink = Sink::default();
        let output = output(None, &sink);
        let following = tokio::spawn(follow(agent, output));
        let (mut line, _) = accept(&mut guest).await;
        send_lines(&mut line, 1..=3).await;
        acknowledged(&mut line, 3).await;
        assert!(sink.0.lines.lock().unwrap().is_empty());
        following.abort();
    }
}
