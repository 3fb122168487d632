//! The app's lifecycle hooks (docs/behaviour.md, "Hooks"): HTTP/1.1 calls over loopback, each on a connection of its own.
//!
//! ```text
//!                     repeated after 503  repeated while refused  repeated when refused or reset before any byte
//!   ready, validate   yes                 yes                     no
//!   resume            no                  once                    once
//!   others            no                  no                      no
//! ```
//!
//! All calls of one hook share one time limit. The first repetition comes after 250 ms, the others after a second each.

mod call;
mod first_byte;

use std::net::IpAddr;
use std::time::Duration;

use hearth_proto::guest::v1::hook_outcome::Result as Outcome;
use hearth_proto::guest::v1::{CallHook, Done, Hook, HookOutcome};
use tokio::time::Instant;

use crate::ports;
use crate::refusal::Refusal;
use call::{Attempt, Call};

/// Pause before the first repetition.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
/// Pause before each further repetition.
const PAUSE: Duration = Duration::from_secs(1);

/// Prefix of the paths of all hooks.
const PREFIX: &str = "/aws/lambda-microvms/runtime/v1/";

/// Calls a hook until it has an outcome. `hosts` are the addresses to try, in this order.
///
/// # Errors
/// The request is invalid.
pub async fn call(request: CallHook, hosts: &[IpAddr]) -> Result<HookOutcome, Refusal> {
    let hook = request.hook();
    let name = match hook {
        Hook::Unspecified => return Err(Refusal::invalid("CallHook names no known hook")),
        Hook::Ready => "ready",
        Hook::Validate => "validate",
        Hook::Run => "run",
        Hook::Suspend => "suspend",
        Hook::Resume => "resume",
        Hook::Terminate => "terminate",
    };
    let port = ports::port(request.port)?;
    let content_type = Some(request.content_type).filter(|content_type| !content_type.is_empty());
    let content_type = content_type
        .map(|text| text.parse().map_err(|_| Refusal::invalid(format!("{text:?} is no content type"))))
        .transpose()?;
    let call = Call { hosts, port, path: format!("{PREFIX}{name}"), body: request.body.into(), content_type };
    let start = Instant::now();
    let deadline = start + Duration::from_millis(request.timeout_ms.into());
    let mut attempts = 0;
    let outcome = loop {
        attempts += 1;
        let attempt = tokio::time::timeout_at(deadline, call.once()).await;
        let Attempt { outcome, any_byte } = attempt.unwrap_or_else(|_| Outcome::TimedOut(Done {}).into());
        let pause = if attempts == 1 { FIRST_PAUSE } else { PAUSE };
        match (hook, &outcome) {
            (Hook::Ready | Hook::Validate, Outcome::Status(503) | Outcome::Refused(_)) => {
                let again = Instant::now() + pause;
                if again >= deadline {
                    tokio::time::sleep_until(deadline).await;
                    break Outcome::TimedOut(Done {});
                }
                tokio::time::sleep_until(again).await;
            }
            (Hook::Resume, Outcome::Refused(_) | Outcome::Transport(_)) if attempts == 1 && !any_byte => {}
            _ => break outcome,
        }
    };
    let elapsed_us = u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX);
    Ok(HookOutcome { attempts, elapsed_us, result: Some(outcome) })
}

#[cfg(test)]
mod tests;
