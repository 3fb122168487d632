//! `hearth get`: everything about microVMs.

use std::time::{Duration, SystemTime};

use clap::Args;
use hearth_model::arn::resource_name;
use hearth_proto::microvms::v1::{IdlePolicy, Microvm};
use prost_types::Timestamp;

use super::Context;
use crate::endpoint::url;
use crate::error::Failure;
use crate::names::has_ended;
use crate::out::{Fields, moment};

/// Show microVMs with everything about them
#[derive(Debug, Args)]
pub(crate) struct Get {
    /// Ids, or their beginnings
    #[arg(required = true, value_name = "ID")]
    ids: Vec<String>,
}

impl Get {
    pub(crate) async fn execute(self, context: &Context) -> Result<(), Failure> {
        let mut microvms = Vec::new();
        for id in context.client.microvm_ids(&self.ids).await? {
            microvms.push(context.microvm(&id).await?);
        }
        let out = context.out;
        if out.json {
            out.json_list(&microvms)
        } else if out.quiet {
            out.lines(microvms.iter().map(|microvm| &microvm.microvm_id))
        } else {
            let mut shown = Vec::new();
            for microvm in &microvms {
                shown.push(fields(microvm, url(&context.client, &microvm.endpoint).await));
            }
            out.text(&shown.join("\n"))
        }
    }
}

/// A short description of a microVM that was just run.
pub(super) async fn brief(context: &Context, microvm: &Microvm) -> String {
    let mut fields = Fields::default();
    fields.add("id", &*microvm.microvm_id);
    fields.add("endpoint", url(&context.client, &microvm.endpoint).await);
    fields.add("state", microvm.state().as_str_name());
    fields.text()
}

fn fields(microvm: &Microvm, url: String) -> String {
    let mut fields = Fields::default();
    fields.add("id", &*microvm.microvm_id);
    fields.add("state", microvm.state().as_str_name());
    fields.maybe("state reason", microvm.state_reason.as_deref());
    fields.add("endpoint", url);
    fields.add("image", format!("{} {}", resource_name(&microvm.image_arn), microvm.image_version));
    fields.maybe("role", microvm.execution_role_arn.as_deref());
    fields.add("started", moment(microvm.started_at.as_ref()));
    fields.add("terminated", moment(microvm.terminated_at.as_ref()));
    if !has_ended(microvm.state) {
        fields.maybe("ends", microvm.started_at.as_ref().and_then(|start| latest_end(start, microvm)));
    }
    fields.maybe("idle policy", microvm.idle_policy.as_ref().map(policy));
    fields.add("ingress", connectors(&microvm.ingress_network_connectors));
    fields.add("egress", connectors(&microvm.egress_network_connectors));
    fields.text()
}

fn latest_end(start: &Timestamp, microvm: &Microvm) -> Option<String> {
    let maximum = Duration::from_secs(u64::try_from(microvm.maximum_duration_in_seconds).ok()?);
    let end = SystemTime::try_from(*start).ok()?.checked_add(maximum)?;
    let at = Timestamp::from(end);
    Some(format!("{} at the latest", Timestamp { nanos: 0, ..at }))
}

fn policy(policy: &IdlePolicy) -> String {
    let idle = policy.max_idle_duration_seconds.unwrap_or(0);
    let suspended = policy.suspended_duration_seconds.unwrap_or(0);
    if suspended == 0 {
        return format!("terminated after {idle} s without requests");
    }
    let resumed = if policy.auto_resume_enabled.unwrap_or(false) {
        "requests resume it"
    } else {
        "requests do not resume it"
    };
    format!("suspended after {idle} s without requests, terminated {suspended} s later; {resumed}")
}

pub(super) fn connectors(arns: &[String]) -> String {
    arns.iter().map(|arn| resource_name(arn)).collect::<Vec<_>>().join(", ")
}
