//! The actions of CloudWatch Logs that this host does not have, and what to use instead.

/// Beginnings of names of actions, and why they are absent. The first that fits counts.
const ABSENT: &[(&str, &str)] = &[
    (
        "StartLiveTail",
        "follow a log with `aws logs tail --follow`, with FilterLogEvents, or with TailLogs of hearth.host.v1 (`hearth logs -f`)",
    ),
    ("PutLogEvents", "only microVMs and builds write logs; the app writes to its standard output"),
    ("CreateLog", "log groups and streams are made when microVMs and builds write to them"),
    ("DeleteLog", "logs are removed by age and size: see [logs] in the configuration"),
    ("PutRetentionPolicy", "how long logs are kept is the host's: see [logs] in the configuration"),
    ("DeleteRetentionPolicy", "how long logs are kept is the host's: see [logs] in the configuration"),
    ("StartQuery", "there are no Insights: search with FilterLogEvents and a filter pattern"),
    ("GetQueryResults", "there are no Insights: search with FilterLogEvents and a filter pattern"),
    ("GetLogRecord", "read events with GetLogEvents or FilterLogEvents"),
    ("GetLogGroupFields", "there are no Insights: search with FilterLogEvents and a filter pattern"),
    ("ListLogGroups", "list log groups with DescribeLogGroups"),
    ("TestMetricFilter", "try a filter pattern with FilterLogEvents"),
];

/// The message of the refusal of an action.
pub(crate) fn message(action: &str) -> String {
    let is_name =
        !action.is_empty() && action.len() <= 64 && action.bytes().all(|byte| byte.is_ascii_alphanumeric());
    if !is_name {
        return "The header X-Amz-Target names no action: it must be Logs_20140328.ACTION".to_owned();
    }
    let instead = ABSENT.iter().find(|(name, _)| action.starts_with(name)).map(|(_, why)| *why);
    let instead = instead
        .unwrap_or("this host has DescribeLogGroups, DescribeLogStreams, GetLogEvents and FilterLogEvents");
    format!("{action} is not supported by this host: {instead}")
}
