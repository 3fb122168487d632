//! The members of requests. Members that are not here mean nothing to this host, and are ignored as AWS ignores unknown
//! ones.

use serde::Deserialize;

/// `DescribeLogGroups`
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct DescribeLogGroups {
    pub(super) log_group_name_prefix: Option<String>,
    pub(super) log_group_name_pattern: Option<String>,
    pub(super) limit: Option<i32>,
    pub(super) next_token: Option<String>,
    pub(super) log_group_class: Option<String>,
    // Other accounts' groups, and groups by several names.
    pub(super) include_linked_accounts: Option<bool>,
    pub(super) account_identifiers: Option<Vec<String>>,
    pub(super) log_group_identifiers: Option<Vec<String>>,
}

/// `DescribeLogStreams`
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct DescribeLogStreams {
    pub(super) log_group_name: Option<String>,
    pub(super) log_group_identifier: Option<String>,
    pub(super) log_stream_name_prefix: Option<String>,
    pub(super) order_by: Option<String>,
    pub(super) descending: Option<bool>,
    pub(super) limit: Option<i32>,
    pub(super) next_token: Option<String>,
}

/// `GetLogEvents`
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct GetLogEvents {
    pub(super) log_group_name: Option<String>,
    pub(super) log_group_identifier: Option<String>,
    pub(super) log_stream_name: Option<String>,
    pub(super) start_time: Option<i64>,
    pub(super) end_time: Option<i64>,
    pub(super) start_from_head: Option<bool>,
    pub(super) limit: Option<i32>,
    pub(super) next_token: Option<String>,
}

/// `FilterLogEvents`
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct FilterLogEvents {
    pub(super) log_group_name: Option<String>,
    pub(super) log_group_identifier: Option<String>,
    pub(super) log_stream_names: Option<Vec<String>>,
    pub(super) log_stream_name_prefix: Option<String>,
    pub(super) start_time: Option<i64>,
    pub(super) end_time: Option<i64>,
    pub(super) filter_pattern: Option<String>,
    pub(super) limit: Option<i32>,
    pub(super) next_token: Option<String>,
}
