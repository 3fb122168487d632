//! A guest that fills the disk, beside an account that goes on.

use hearth_proto::host::v1::ReadLogsRequest;
use hearth_proto::microvms::v1::MicrovmState;
use tonic::Code;

use super::GROUP;
use super::surroundings::Surroundings;
use crate::support::api::request;
use crate::support::app::ask;
use crate::support::tenant::Tenant;
use crate::support::{Daemon, until};

/// Bytes that the disk has free at the beginning: it is in the metal's memory, of which the guest takes about half as many.
const FREE: u64 = 1100 << 20;
/// What the daemon's log says of a guest that has no more room.
const WAIT: &str = "writes of a microVM wait";
/// What the guest's own stream says of it.
const NOTICE: &str = "Writes of this MicroVM to its disk wait";

/// Has a guest of the hostile account write until its account may have no more, and the honest account do all that takes
/// room meanwhile.
pub(super) async fn is_filled_by_one_account_alone(
    daemon: &Daemon,
    surroundings: &Surroundings,
    (honest, hostile): (&Tenant, &Tenant),
) {
    surroundings.leave(FREE);
    let waits = || daemon.log_text().matches(WAIT).count();
    let before = waits();
    let guest = hostile.api().run_microvm(request("attacker")).await.unwrap().into_inner();
    hostile.wait(&guest.microvm_id, MicrovmState::Running).await;
    assert_eq!(ask(&guest.microvm_id, "GET /attack/disk").await, "begun");
    until("the guest has no more room", async || {
        let state = hostile.get(&guest.microvm_id).await.unwrap().state();
        assert_eq!(state, MicrovmState::Running, "the guest has ended");
        (waits() > before).then_some(())
    })
    .await;
    until("its account is told", async || {
        let read = ReadLogsRequest {
            log_group: Some(GROUP.into()),
            contains: Some(NOTICE.into()),
            backward: Some(true),
            ..Default::default()
        };
        let lines = hostile.host().read_logs(read).await.unwrap().into_inner();
        (!lines.items.is_empty()).then_some(())
    })
    .await;
    let refused = hostile.api().run_microvm(request("attacker")).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
    assert!(refused.message().contains("most of the host's disk"), "{refused}");

    let launched = honest.api().run_microvm(request("app")).await.unwrap().into_inner();
    let id = &launched.microvm_id;
    honest.wait(id, MicrovmState::Running).await;
    let endpoint = honest.endpoint(&launched).await;
    assert_eq!(endpoint.count().await, 1);
    honest.suspend(id).await.unwrap();
    honest.wait(id, MicrovmState::Suspended).await;
    honest.resume(id).await.unwrap();
    honest.wait(id, MicrovmState::Running).await;
    assert_eq!(endpoint.count().await, 2);
    honest.terminate(id).await.unwrap();
    honest.wait(id, MicrovmState::Terminated).await;

    hostile.terminate(&guest.microvm_id).await.unwrap();
    hostile.wait(&guest.microvm_id, MicrovmState::Terminated).await;
    let again = until("the account has room again", async || {
        hostile.api().run_microvm(request("attacker")).await.ok()
    });
    let again = again.await.into_inner().microvm_id;
    hostile.terminate(&again).await.unwrap();
    hostile.wait(&again, MicrovmState::Terminated).await;
}
