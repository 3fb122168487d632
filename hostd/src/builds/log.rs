//! The log streams of builds (docs/behaviour.md, "Logs").
//!
//! A build has one stream for the Dockerfile's steps, one for the app before the snapshot, and one for the app in the
//! clone that is validated: `YYYY/MM/DD[VERSION]WHAT-BUILD_ID` in the group `/aws/lambda-microvms/IMAGE`, unless the
//! version names a group or a stream.

use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use hearth_image_builder::build::LogStream;
use hearth_proto::microvms::v1::{CloudWatchLogging, MicrovmImageVersion, logging::Logging};

use super::build::{BuildLog, BuildObserver};
use crate::logs::names;
use crate::platform::LogTarget;

/// The streams of a build.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogTargets {
    build: LogTarget,
    snapshot: LogTarget,
    validate: LogTarget,
}

impl LogTargets {
    /// The streams of a build that begins now; none if logging is disabled.
    #[must_use]
    pub fn of(version: &MicrovmImageVersion, image: &str, build_id: &str, now: SystemTime) -> Option<Self> {
        let given = match version.logging.as_ref().and_then(|logging| logging.logging.clone()) {
            Some(Logging::Disabled(_)) => return None,
            Some(Logging::CloudWatch(given)) => given,
            None => CloudWatchLogging::default(),
        };
        let group = given.log_group.unwrap_or_else(|| names::default_group(image));
        let target = |what: &str| LogTarget {
            group: group.clone(),
            stream: given.log_stream.clone().unwrap_or_else(|| {
                names::default_stream(now, &version.image_version, &format!("{what}-{build_id}"))
            }),
        };
        Some(Self { build: target("build"), snapshot: target("snapshot"), validate: target("validate") })
    }

    /// The log stream for a line of this kind.
    #[must_use]
    pub fn target(&self, stream: LogStream) -> &LogTarget {
        match stream {
            LogStream::Build => &self.build,
            LogStream::Snapshot => &self.snapshot,
            LogStream::Validate => &self.validate,
        }
    }
}

/// The streams of a running build; each is opened when its first line arrives.
pub(super) struct LogStreams {
    account: String,
    targets: Option<LogTargets>,
    observer: Arc<dyn BuildObserver>,
    open: [OnceLock<Option<Box<dyn BuildLog>>>; 3],
}

impl LogStreams {
    pub(super) fn new(account: &str, targets: Option<LogTargets>, observer: Arc<dyn BuildObserver>) -> Self {
        Self { account: account.to_owned(), targets, observer, open: Default::default() }
    }

    /// Stores a line; returns the name of its stream.
    pub(super) fn append(
        &self,
        stream: LogStream,
        time: SystemTime,
        stderr: bool,
        line: &[u8],
    ) -> Option<&str> {
        let target = self.targets.as_ref()?.target(stream);
        let [build, snapshot, validate] = &self.open;
        let open = match stream {
            LogStream::Build => build,
            LogStream::Snapshot => snapshot,
            LogStream::Validate => validate,
        };
        if let Some(sink) = open.get_or_init(|| self.observer.open_log(&self.account, target)) {
            sink.append(time, stderr, line);
        }
        Some(&target.stream)
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use hearth_proto::microvms::v1::{Logging as Choice, LoggingDisabled};

    use super::*;

    fn targets(logging: Option<Logging>) -> Option<LogTargets> {
        let version = MicrovmImageVersion {
            image_version: "2.0".into(),
            logging: Some(Choice { logging }),
            ..Default::default()
        };
        LogTargets::of(&version, "demo", "id", UNIX_EPOCH + Duration::from_secs(1_786_817_864))
    }

    #[test]
    fn streams_have_the_day_the_version_and_the_build_in_their_names() {
        let targets = targets(None).unwrap();
        let name = |stream| {
            let target = targets.target(stream);
            (target.group.clone(), target.stream.clone())
        };
        let group = "/aws/lambda-microvms/demo".to_owned();
        assert_eq!(name(LogStream::Build), (group.clone(), "2026/08/15[2.0]build-id".into()));
        assert_eq!(name(LogStream::Snapshot), (group.clone(), "2026/08/15[2.0]snapshot-id".into()));
        assert_eq!(name(LogStream::Validate), (group, "2026/08/15[2.0]validate-id".into()));
    }

    #[test]
    fn what_a_version_names_is_used_and_disabled_logs_go_nowhere() {
        let given = CloudWatchLogging { log_group: Some("/mine".into()), log_stream: Some("one".into()) };
        let targets_given = targets(Some(Logging::CloudWatch(given))).unwrap();
        let expected = LogTarget { group: "/mine".into(), stream: "one".into() };
        assert_eq!(targets_given.target(LogStream::Validate), &expected);
        assert_eq!(targets(Some(Logging::Disabled(LoggingDisabled {}))), None);
    }
}
