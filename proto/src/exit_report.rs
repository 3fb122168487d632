//! The exit report: a line of JSON that says how a machine ended, for readers that find its monitor gone.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::vmm::v1::{ExitKind, ExitReason};

/// Part of the names of all kinds of exit, which the report leaves out.
const PREFIX: &str = "EXIT_KIND_";

/// How a machine ended, as its monitor writes it into the file that the controller has passed for this. The file holds
/// one report, on a line of its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitReport {
    /// The kind of exit, by its name in the protocol, like `power_off`. A name that this release does not know is read
    /// as [`ExitKind::Unspecified`].
    #[serde(serialize_with = "write_kind", deserialize_with = "read_kind")]
    pub kind: ExitKind,
    /// Details for people.
    pub message: String,
}

impl ExitReport {
    /// The report in a file's text; none if the text does not begin with a whole report.
    #[must_use]
    pub fn read(text: &str) -> Option<Self> {
        serde_json::from_str(text.lines().next()?).ok()
    }
}

impl From<&ExitReason> for ExitReport {
    fn from(reason: &ExitReason) -> Self {
        Self { kind: reason.kind(), message: reason.message.clone() }
    }
}

impl std::fmt::Display for ExitReport {
    /// The line that is written, without its end.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&serde_json::to_string(self).map_err(|_| std::fmt::Error)?)
    }
}

fn write_kind<S: Serializer>(kind: &ExitKind, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&kind.as_str_name().trim_start_matches(PREFIX).to_ascii_lowercase())
}

fn read_kind<'de, D: Deserializer<'de>>(deserializer: D) -> Result<ExitKind, D::Error> {
    let name = format!("{PREFIX}{}", String::deserialize(deserializer)?.to_ascii_uppercase());
    Ok(ExitKind::from_str_name(&name).unwrap_or(ExitKind::Unspecified))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_a_line_that_every_release_has_written_alike() {
        let report = ExitReport { kind: ExitKind::PowerOff, message: "the \"guest\"\n".to_owned() };
        assert_eq!(report.to_string(), r#"{"kind":"power_off","message":"the \"guest\"\n"}"#);
        for kind in [
            ExitKind::Unspecified,
            ExitKind::PowerOff,
            ExitKind::Shutdown,
            ExitKind::GuestError,
            ExitKind::MonitorError,
        ] {
            let report = ExitReport { kind, message: "m".to_owned() };
            assert_eq!(ExitReport::read(&format!("{report}\n")), Some(report));
        }
    }

    #[test]
    fn what_is_no_whole_report_is_none_and_an_unknown_kind_is_unspecified() {
        for text in ["", "\n", "{\"kind\":", "{\"kind\":\"power_off\"}", "ended"] {
            assert_eq!(ExitReport::read(text), None, "{text}");
        }
        let newer = ExitReport::read("{\"kind\":\"teleported\",\"message\":\"m\",\"to\":1}\nmore").unwrap();
        assert_eq!((newer.kind, newer.message.as_str()), (ExitKind::Unspecified, "m"));
    }
}
