//! What a port of the app speaks, as far as it is known.

use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use tokio::time::Instant;

use super::dial::Dial;
use crate::panics::poisoned;

/// For how long the answer to a question holds. An app with bad requests of its own has one odd connection in this time.
const HOLDS: Duration = Duration::from_secs(10);

/// The protocol of a connection to the app.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(in crate::proxy) enum Protocol {
    /// HTTP/1.1 over plain TCP; the protocol that the app chooses over TLS.
    Http1,
    /// HTTP/2 with prior knowledge.
    Http2,
}

/// Whether a port speaks TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PortScheme {
    Plain,
    Tls,
}

/// What is known of a port.
#[derive(Debug, Default)]
pub(super) struct Known {
    scheme: Mutex<Option<PortScheme>>,
    /// When the port was asked last, and what it speaks beside plain text. Locked while it is being asked.
    asked: tokio::sync::Mutex<Option<(Instant, Speaks)>>,
}

/// What a port has answered to a question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Speaks {
    /// No TLS.
    Plain,
    /// TLS, and perhaps plain text as well.
    Tls,
    /// Both.
    Both,
}

impl Known {
    /// What the port speaks; `None` if it is not known.
    pub(super) fn get(&self) -> Option<PortScheme> {
        *self.scheme()
    }

    /// Remembers what the port speaks.
    pub(super) fn found(&self, scheme: PortScheme) {
        *self.scheme() = Some(scheme);
    }

    /// Forgets what the port has spoken: another app may listen at it now.
    pub(super) async fn forget(&self) {
        let mut asked = self.asked.lock().await;
        *asked = None;
        *self.scheme() = None;
    }

    /// Asks the port what it speaks. Requests that ask at the same time, or soon after, share the answer. `safe`: whether
    /// the request may be executed twice; else it also matters whether the port speaks plain text beside TLS.
    pub(super) async fn ask(&self, dial: &Dial, safe: bool) -> Speaks {
        let mut asked = self.asked.lock().await;
        let last = asked.filter(|(at, _)| at.elapsed() < HOLDS).map(|(_, speaks)| speaks);
        let mut speaks = match last {
            Some(speaks) => speaks,
            None if dial.speaks_tls().await => Speaks::Tls,
            None => Speaks::Plain,
        };
        if speaks == Speaks::Tls && !safe && dial.speaks_plain().await {
            speaks = Speaks::Both;
        }
        match speaks {
            Speaks::Plain => {}
            Speaks::Tls => self.found(PortScheme::Tls),
            Speaks::Both => self.found(PortScheme::Plain),
        }
        if last != Some(speaks) {
            *asked = Some((Instant::now(), speaks));
        }
        speaks
    }

    fn scheme(&self) -> MutexGuard<'_, Option<PortScheme>> {
        self.scheme.lock().unwrap_or_else(poisoned)
    }
}
