//! `hearth events`: changes of state as they happen.

use clap::Args;
use hearth_model::arn::resource_name;
use hearth_proto::host::v1::{Event, WatchEventsRequest};

use super::Context;
use crate::error::Failure;
use crate::interrupt::Interrupt;
use crate::out::printable;

/// Follow changes of state until Ctrl-C
#[derive(Debug, Args)]
pub(crate) struct Events {
    /// Only of this image (name or ARN) or microVM (id)
    resource: Option<String>,
}

impl Events {
    pub(crate) async fn execute(self, context: &Context) -> Result<(), Failure> {
        let mut interrupt = Interrupt::listen()?;
        let client = &context.client;
        let request = WatchEventsRequest { resource: self.resource };
        let mut host = client.host();
        let mut events = client.call("follow events", host.watch_events(request)).await?;
        loop {
            let event = tokio::select! {
                event = client.next("follow events", &mut events) => event?,
                () = interrupt.wait() => return Ok(()),
            };
            match event {
                None => return Err(Failure::failed("the daemon has ended the events; it may be stopping")),
                Some(event) if context.out.json => context.out.json_line(&event)?,
                Some(event) => context.out.line(&line(&event))?,
            }
        }
    }
}

fn line(event: &Event) -> String {
    let time = event.time.map(|time| time.to_string()).unwrap_or_default();
    let resource = resource_name(&event.resource);
    let version = event.image_version.as_deref().map(|version| format!(" {version}")).unwrap_or_default();
    let change = if event.from_state.is_empty() {
        event.to_state.clone()
    } else {
        format!("{} → {}", event.from_state, event.to_state)
    };
    let reason = event.reason.as_deref().map(|reason| format!("  {reason}")).unwrap_or_default();
    printable(&format!("{time}  {:<7}  {resource}{version}  {change}{reason}", event.kind))
}
