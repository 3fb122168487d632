//! A microVM of the double.

use async_trait::async_trait;
use hearth_host::agent::exec::{Events, Stdin};

use hearth_model::hooks::{Hook, HookOutcome};

use super::script::{Deviation, Point};
use super::world::GONE;
use super::{Double, app, done};
use crate::platform::{ConnectError, Connection, Exit, Guest, Streams, SuspendError};

/// A process of a microVM. It may have exited, or never have existed.
#[derive(Debug)]
pub(super) struct DoubleGuest {
    pub(super) host: Double,
    pub(super) id: String,
    pub(super) process: u64,
}

impl DoubleGuest {
    fn runs(&self) -> bool {
        self.host.world().runs(&self.id, self.process)
    }

    async fn request(&self, point: Point) -> Option<Deviation> {
        self.host.request(point, Some(&self.id)).await
    }

    /// Waits until the save that is under way is cancelled.
    async fn cancelled(&self) {
        let cancelled = self.host.world().process(self.process).map(|process| process.cancelled.subscribe());
        match cancelled {
            Some(mut cancelled) => drop(cancelled.wait_for(|cancelled| *cancelled).await),
            None => std::future::pending().await,
        }
    }
}

#[async_trait]
impl Guest for DoubleGuest {
    async fn call_hook(&self, hook: Hook) -> HookOutcome {
        if self.runs()
            && let Some(vm) = self.host.world().vms.get_mut(&self.id)
        {
            vm.hooks.push((self.process, hook));
        }
        let deviation = self.request(Point::Hook(hook)).await;
        self.host.pace().await;
        match deviation {
            Some(Deviation::Answers(outcome)) => outcome,
            Some(Deviation::Fails(why)) => HookOutcome::Failed(why.to_owned()),
            _ if self.runs() => HookOutcome::Status(200),
            _ => HookOutcome::Failed(GONE.to_owned()),
        }
    }

    async fn suspend(&self, number: u64) -> Result<(), SuspendError> {
        if let Some(process) = self.host.world().process(self.process) {
            process.cancelled.send_replace(false);
        }
        // A save that hangs cannot be cancelled.
        let deviation = self.request(Point::Save).await;
        let saving = async {
            if deviation == Some(Deviation::Lingers) {
                std::future::pending::<()>().await;
            }
            self.host.pace().await;
            self.host.pace().await;
        };
        tokio::select! {
            biased;
            () = self.cancelled() => return Err(SuspendError::Cancelled),
            () = saving => {}
        }
        if deviation == Some(Deviation::Pretends) {
            return Ok(());
        }
        let failed = |why: &str| SuspendError::Failed(why.into());
        done(deviation.as_ref(), failed, || {
            let mut world = self.host.world();
            if !world.runs(&self.id, self.process) {
                return Err(failed(GONE));
            }
            if let Some(vm) = world.vms.get_mut(&self.id) {
                vm.suspended = Some(number);
            }
            if deviation != Some(Deviation::RunsOn) {
                world.end_process(&self.id);
            }
            Ok(())
        })
    }

    async fn cancel_suspend(&self) {
        if self.request(Point::Cancel).await == Some(Deviation::Pretends) {
            return;
        }
        if let Some(process) = self.host.world().process(self.process) {
            process.cancelled.send_replace(true);
        }
    }

    async fn connect(&self, port: u16) -> Result<Box<dyn Connection>, ConnectError> {
        let gone = |why: &str| ConnectError::Guest(why.into());
        match self.request(Point::Connect(port)).await {
            Some(Deviation::Fails(why)) => return Err(gone(why)),
            Some(Deviation::Pretends) => return Ok(Box::new(app::closed())),
            _ => {}
        }
        if !self.runs() {
            return Err(gone(GONE));
        }
        app::connect(&self.host, &self.id, self.process, port).await
    }

    async fn shell(&self, command: &[String], streams: Streams) -> Result<(Stdin, Events), ConnectError> {
        if let Some(Deviation::Fails(why)) = self.request(Point::Shell).await {
            return Err(ConnectError::Guest(why.into()));
        }
        app::shell(command, streams).await
    }

    async fn exited(&self) -> Exit {
        let exits = self.host.world().process(self.process).map(|process| process.exit.subscribe());
        if let Some(mut exits) = exits
            && let Ok(exit) = exits.wait_for(Option::is_some).await
            && let Some(exit) = exit.clone()
        {
            return exit;
        }
        std::future::pending().await
    }
}
