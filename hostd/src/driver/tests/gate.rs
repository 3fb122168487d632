//! Traffic through a microVM's gate, and when the microVM counts as idle.

use MicrovmState::{Running, Suspended, Terminated};

use super::*;
use crate::driver::gate::{GateError, WaitLimits};

const WAIT_LIMITS: WaitLimits =
    WaitLimits { max_waiting: 100, beyond_hook: Duration::from_secs(30), launching: true };

async fn host() -> Host {
    Host::new(DEFAULT, Faults::none()).await
}

async fn after(seconds: u64) {
    tokio::time::sleep(Duration::from_secs(seconds)).await;
}

#[tokio::test(start_paused = true)]
async fn the_idle_time_begins_with_running_and_anew_with_all_that_passes() {
    let host = host().await;
    host.run("microvm-vm").await.unwrap();
    host.until("microvm-vm", Running).await;
    let gate = host.microvms.gate("microvm-vm").unwrap();
    after(890).await;
    gate.touch();
    after(890).await;
    drop(host.microvms.enter(&gate, WAIT_LIMITS).await.unwrap());
    after(890).await;
    assert_eq!(host.microvm("microvm-vm").state(), Running);
    after(9).await;
    assert_eq!(host.microvm("microvm-vm").state(), Running);
    host.until("microvm-vm", Suspended).await;
    // After a resume, the idle time begins anew.
    host.ask("microvm-vm", Request::Resume).await.unwrap();
    host.until("microvm-vm", Running).await;
    after(899).await;
    assert_eq!(host.microvm("microvm-vm").state(), Running);
    host.until("microvm-vm", Suspended).await;
}

#[tokio::test(start_paused = true)]
async fn an_app_that_has_something_to_answer_is_not_idle_and_one_whose_answer_is_silent_is() {
    let host = host().await;
    host.run("microvm-vm").await.unwrap();
    host.until("microvm-vm", Running).await;
    let gate = host.microvms.gate("microvm-vm").unwrap();
    let mut pass = host.microvms.enter(&gate, WAIT_LIMITS).await.unwrap();
    after(5000).await;
    assert_eq!(host.microvm("microvm-vm").state(), Running);
    pass.response_started();
    after(899).await;
    assert_eq!(host.microvm("microvm-vm").state(), Running);
    host.until("microvm-vm", Suspended).await;
    assert_eq!(gate.counts(), (0, 1, 0), "its answer is still open");
}

#[tokio::test(start_paused = true)]
async fn an_idle_microvm_ends_where_its_policy_does_not_suspend_it() {
    let host = host().await;
    let mut record = new("microvm-vm", host.clock);
    record.microvm.as_mut().unwrap().idle_policy.as_mut().unwrap().suspended_duration_seconds = Some(0);
    host.microvms.launch(record, Batch::new()).await.unwrap();
    host.until("microvm-vm", Running).await;
    let gate = host.microvms.gate("microvm-vm").unwrap();
    after(890).await;
    let ended = host.until("microvm-vm", Terminated).await;
    assert_eq!(ended.state_reason.as_deref(), Some("MicroVM exceeded maximum lifetime."));
    assert!(matches!(host.microvms.enter(&gate, WAIT_LIMITS).await, Err(GateError::Terminated)));
    assert!(host.microvms.gate("microvm-vm").is_none());
}

#[tokio::test(start_paused = true)]
async fn a_suspend_waits_for_answers_but_not_for_ever() {
    let host = host().await;
    host.run("microvm-vm").await.unwrap();
    host.until("microvm-vm", Running).await;
    let gate = host.microvms.gate("microvm-vm").unwrap();
    let pass = host.microvms.enter(&gate, WAIT_LIMITS).await.unwrap();
    host.ask("microvm-vm", Request::Suspend).await.unwrap();
    after(4).await;
    assert_eq!(host.platform.world().vms["microvm-vm"].hooks.len(), 1, "/run only");
    host.until("microvm-vm", Suspended).await;
    assert_eq!(host.platform.world().vms["microvm-vm"].hooks.len(), 2);
    drop(pass);
}

#[tokio::test(start_paused = true)]
async fn whoever_comes_while_it_is_made_waits_for_it() {
    let host = host().await;
    host.run("microvm-vm").await.unwrap();
    let gate = host.microvms.gate("microvm-vm").unwrap();
    let impatient = WaitLimits { launching: false, ..WAIT_LIMITS };
    assert!(matches!(host.microvms.enter(&gate, impatient).await, Err(GateError::Launching)));
    host.microvms.enter(&gate, WAIT_LIMITS).await.unwrap();
    assert_eq!(host.microvm("microvm-vm").state(), Running);
}

#[tokio::test(start_paused = true)]
async fn a_microvm_that_was_adopted_takes_traffic_and_is_idle_in_its_time() {
    let mut host = host().await;
    host.run("microvm-vm").await.unwrap();
    host.until("microvm-vm", Running).await;
    after(500).await;
    host.microvms.stop().await;
    host.restart().await;
    let gate = host.microvms.gate("microvm-vm").unwrap();
    drop(host.microvms.enter(&gate, WAIT_LIMITS).await.unwrap());
    after(890).await;
    assert_eq!(host.microvm("microvm-vm").state(), Running);
    host.until("microvm-vm", Suspended).await;
    drop(host.microvms.enter(&gate, WAIT_LIMITS).await.unwrap());
    assert_eq!(host.microvm("microvm-vm").state(), Running);
}
