//! `hearth logs`: the output of apps and builds.

use std::collections::HashMap;
use std::time::SystemTime;

use clap::Args;
use hearth_model::arn::resource_name;
use hearth_proto::host::v1::{
    ListLogGroupsRequest, ListLogGroupsResponse, ListLogStreamsRequest, ListLogStreamsResponse, LogEvent,
    ReadLogsRequest, TailLogsRequest,
};
use prost_types::Timestamp;

use super::Context;
use crate::error::Failure;
use crate::interrupt::Interrupt;
use crate::out::{Table, age, bytes, printable};
use crate::pages::{self, PAGE};
use crate::parse;

/// Prefix of default log groups; the image's name follows.
const GROUP: &str = "/aws/lambda-microvms/";
/// Default number of lines before the first new one.
const LAST: i32 = 100;
/// Lines per page of a log.
const LINES: i32 = 10_000;

/// Show what apps and builds have written
///
/// `hearth logs ID` is a microVM's output, `hearth logs --image NAME` that of an image's builds and microVMs,
/// `hearth logs --group GROUP` all of a log group.
#[derive(Debug, Args)]
pub(crate) struct Logs {
    /// Id of a microVM, or its beginning
    #[arg(required_unless_present_any = ["group", "image"])]
    id: Option<String>,
    /// A log group
    #[arg(long, short, value_name = "GROUP")]
    group: Option<String>,
    /// The log group of an image
    #[arg(long, value_name = "IMAGE", conflicts_with_all = ["group", "id"])]
    image: Option<String>,
    /// A log stream of the group
    #[arg(long, value_name = "STREAM")]
    stream: Option<String>,
    /// Go on until Ctrl-C
    #[arg(long, short)]
    follow: bool,
    /// From then on: an age like 15m, or a time like 2026-01-31T12:00:00Z
    #[arg(long, value_name = "WHEN", value_parser = parse::moment)]
    since: Option<SystemTime>,
    /// Until then: an age, or a time
    #[arg(long, value_name = "WHEN", value_parser = parse::moment, conflicts_with = "follow")]
    until: Option<SystemTime>,
    /// Only lines that contain this
    #[arg(long, value_name = "TEXT")]
    grep: Option<String>,
    /// How many of the last lines come first when following; 100 unless given
    #[arg(long, short = 'n', value_name = "LINES", conflicts_with = "since", requires = "follow", value_parser = clap::value_parser!(i32).range(0..=10_000))]
    last: Option<i32>,
    /// Only the lines, without time and stream
    #[arg(long)]
    plain: bool,
}

/// Identifies an event well enough to recognise it.
type Key = (String, Option<(i64, i32)>, String);

impl Logs {
    pub(crate) async fn execute(self, context: &Context) -> Result<(), Failure> {
        let (group, stream) = self.group_and_stream(context).await?;
        match (self.follow, self.since) {
            (false, _) => self.read(context, &group, stream.as_deref(), |_| ()).await,
            (true, _) => self.tail(context, &group, stream.as_deref()).await,
        }
    }

    /// The requested log group and stream.
    async fn group_and_stream(&self, context: &Context) -> Result<(String, Option<String>), Failure> {
        if let Some(image) = &self.image {
            return Ok((format!("{GROUP}{}", resource_name(image)), self.stream.clone()));
        }
        let Some(id) = &self.id else {
            return Ok((self.group.clone().unwrap_or_default(), self.stream.clone()));
        };
        let microvm = context.microvm(&context.client.microvm_id(id).await?).await?;
        let group =
            self.group.clone().unwrap_or_else(|| format!("{GROUP}{}", resource_name(&microvm.image_arn)));
        // YYYY/MM/DD[VERSION]ID, with the day of the start (docs/behaviour.md, "Logs").
        let day = microvm.started_at.map(|moment| moment.to_string()).unwrap_or_default();
        let day = day.split('T').next().unwrap_or_default().replace('-', "/");
        let stream = format!("{day}[{}]{}", microvm.image_version, microvm.microvm_id);
        Ok((group, Some(self.stream.clone().unwrap_or(stream))))
    }

    /// Prints all existing lines.
    async fn read(
        &self,
        context: &Context,
        group: &str,
        stream: Option<&str>,
        mut seen: impl FnMut(&LogEvent),
    ) -> Result<(), Failure> {
        let client = &context.client;
        let mut next_token = None;
        loop {
            let request = ReadLogsRequest {
                log_group: Some(group.to_owned()),
                log_stream: stream.map(str::to_owned),
                start_time: self.since.map(Timestamp::from),
                end_time: self.until.map(Timestamp::from),
                contains: self.grep.clone(),
                max_results: Some(LINES),
                next_token,
                ..ReadLogsRequest::default()
            };
            let answer =
                client.call(format!("read the logs of {group}"), client.host().read_logs(request)).await?;
            for event in &answer.items {
                seen(event);
                self.print(context, event, stream.is_some())?;
            }
            next_token = answer.next_token;
            if next_token.is_none() {
                return Ok(());
            }
        }
    }

    /// Prints the last lines, or those since a time, then each new one.
    async fn tail(&self, context: &Context, group: &str, stream: Option<&str>) -> Result<(), Failure> {
        let client = &context.client;
        let last = if self.since.is_some() { 0 } else { self.last.unwrap_or(LAST) };
        let request = TailLogsRequest {
            log_group: Some(group.to_owned()),
            log_stream: stream.map(str::to_owned),
            contains: self.grep.clone(),
            last: Some(last),
        };
        let what = format!("follow the logs of {group}");
        let mut interrupt = Interrupt::listen()?;
        let mut host = client.host();
        let mut events = client.call(&*what, host.tail_logs(request)).await?;
        // The stream of new lines is opened before old ones are read, so that none is missed; lines that are in both are printed once.
        let mut known: HashMap<Key, usize> = HashMap::new();
        if self.since.is_some() {
            let opened = Timestamp::from(SystemTime::now() - std::time::Duration::from_secs(60));
            let count = |event: &LogEvent| {
                if event.timestamp.is_some_and(|time| time.seconds >= opened.seconds) {
                    *known.entry(key(event)).or_default() += 1;
                }
            };
            self.read(context, group, stream, count).await?;
        }
        loop {
            let event = tokio::select! {
                event = client.next(&what, &mut events) => event?,
                () = interrupt.wait() => return Ok(()),
            };
            let Some(event) = event else {
                return Err(Failure::failed("the daemon has ended the log; it may be stopping"));
            };
            match known.get_mut(&key(&event)) {
                Some(count) if *count > 0 => *count -= 1,
                _ => self.print(context, &event, stream.is_some())?,
            }
        }
    }

    fn print(&self, context: &Context, event: &LogEvent, one_stream: bool) -> Result<(), Failure> {
        let out = context.out;
        if out.json {
            return out.json_line(event);
        }
        let message = printable(&event.message);
        if self.plain || out.quiet {
            return out.line(&message);
        }
        let time = event.timestamp.map(|time| time.to_string()).unwrap_or_default();
        let stream = if one_stream { String::new() } else { format!("{}  ", printable(&event.log_stream)) };
        let head = format!("{time}  {stream}{:<8}", printable(&event.source));
        if out.colour {
            out.line(&format!("\x1b[2m{head}\x1b[0m {message}"))
        } else {
            out.line(&format!("{head} {message}"))
        }
    }
}

fn key(event: &LogEvent) -> Key {
    let time = event.timestamp.map(|time| (time.seconds, time.nanos));
    (event.log_stream.clone(), time, event.message.clone())
}

/// List log groups
#[derive(Debug, Args)]
pub(crate) struct Groups {
    /// Only those whose name begins so
    prefix: Option<String>,
}

impl Groups {
    pub(crate) async fn execute(self, context: &Context) -> Result<(), Failure> {
        let client = &context.client;
        let items = pages::all(None, async |next_token| {
            let prefix = self.prefix.clone();
            let request =
                ListLogGroupsRequest { prefix, max_results: Some(PAGE), next_token, contains: None };
            let answer = client.call("list log groups", client.host().list_log_groups(request)).await?;
            Ok((answer.items, answer.next_token))
        })
        .await?;
        let out = context.out;
        if out.json {
            return out.json(&ListLogGroupsResponse { items, next_token: None });
        }
        if out.quiet {
            return out.lines(items.iter().map(|item| printable(&item.name)));
        }
        let mut table = Table::new(["GROUP", "SIZE"]);
        items.into_iter().for_each(|item| table.row([item.name, bytes(item.stored_bytes)]));
        out.text(&table.text())
    }
}

/// List the streams of a log group
#[derive(Debug, Args)]
pub(crate) struct Streams {
    /// The log group
    group: String,
    /// Only those whose name begins so
    prefix: Option<String>,
}

impl Streams {
    pub(crate) async fn execute(self, context: &Context) -> Result<(), Failure> {
        let client = &context.client;
        let items = pages::all(None, async |next_token| {
            let request = ListLogStreamsRequest {
                log_group: Some(self.group.clone()),
                prefix: self.prefix.clone(),
                max_results: Some(PAGE),
                next_token,
                ..ListLogStreamsRequest::default()
            };
            let mut host = client.host();
            let answer = host.list_log_streams(request);
            let answer = client.call(format!("list the streams of {}", self.group), answer).await?;
            Ok((answer.items, answer.next_token))
        })
        .await?;
        let out = context.out;
        if out.json {
            return out.json(&ListLogStreamsResponse { items, next_token: None });
        }
        if out.quiet {
            return out.lines(items.iter().map(|item| printable(&item.name)));
        }
        let mut table = Table::new(["STREAM", "SIZE", "FIRST", "LAST"]);
        for item in items {
            let (first, last) = (age(item.first_event_at.as_ref()), age(item.last_event_at.as_ref()));
            table.row([item.name, bytes(item.stored_bytes), first, last]);
        }
        out.text(&table.text())
    }
}
