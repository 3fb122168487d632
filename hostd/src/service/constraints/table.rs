//! The table of constraints for the members of all requests.
//!
//! A message shows the value that violates a constraint, unless a row says that it is a secret.
//!
//! Sources: the API reference and the command line's reference of AWS (lengths, patterns, ranges, values), and where
//! these state nothing, its service model. A member without a row is listed in [`UNCONSTRAINED`]; a test checks that no
//! member is missing in both.

use super::Profiles::{Both, Default, Strict};
use super::Rule::{
    BytesAtMost, Each, Entries, Items, Keys, Length, Pattern, Range, Required, Sensitive, Values,
};
use super::{Row, Rule};
use crate::service::cursor;
use crate::service::host::upload;

/// Valid ports.
const PORTS: Rule = Range(1, 65_535);
/// Items on a page (`maxResults`).
const PAGE: Rule = Range(1, 50);
/// Identifiers of images and microVMs.
const IDENTIFIER: Rule = Length(1, 256);
/// Client tokens.
const CLIENT_TOKEN: Rule = Length(1, 128);
/// Positions in lists, which only this host makes.
const CURSOR: &[Rule] = &[Length(0, cursor::LONGEST)];
/// What an image is for, in the words of its owner. AWS's model has no bound.
const DESCRIPTION: &[Rule] = &[Length(0, 4096)];
/// Processors of an image. AWS's model has no bound, and two processors.
const PROCESSORS: &[Rule] = &[Items(0, 16)];
/// Capabilities of an image. AWS's model has no bound, and one capability.
const CAPABILITIES: &[Rule] = &[Items(0, 64)];
/// ARNs, versions, URIs.
const WORD: &[Rule] = &[Length(1, 2048), Pattern(r"[^\s]+")];
/// Keys for encryption.
const KMS_KEY: &[Rule] = &[
    Length(1, 2048),
    Pattern(
        r"(arn:aws[a-z-]*:kms:[a-z0-9-]+:[0-9]{12}:(key|alias)/[a-zA-Z0-9:/_-]+|alias/[a-zA-Z0-9:/_-]+|[a-zA-Z0-9-]+)",
    ),
];
/// Required ARNs, versions, URIs.
const REQUIRED_WORD: &[Rule] = &[Required, Length(1, 2048), Pattern(r"[^\s]+")];
const ROLE_PATTERN: Rule = Pattern(r"arn:aws[a-z\-]*:iam::[0-9]{12}:role/?[a-zA-Z_0-9+=,.@\-_/]+");
const ROLE: &[Rule] = &[Length(20, 2048), ROLE_PATTERN];
const REQUIRED_ROLE: &[Rule] = &[Required, Length(20, 2048), ROLE_PATTERN];
/// Connectors of a microVM.
const CONNECTORS: &[Rule] = &[Items(0, 10), Each(&[Length(1, 2048)])];
/// Connectors of an image.
const ONE_CONNECTOR: &[Rule] = &[Items(0, 1), Each(&[Length(1, 2048)])];
const TAG: Rule = Pattern(r"([\p{L}\p{Z}\p{N}_.:/=+\-@]*)");
const TAG_KEY: &[Rule] = &[Length(1, 128), TAG];
const TAGS: &[Rule] = &[Entries(0, 50), Keys(TAG_KEY), Values(&[Length(0, 256), TAG])];
const REQUIRED_TAGS: &[Rule] = &[Required, Entries(0, 50), Keys(TAG_KEY), Values(&[Length(0, 256), TAG])];
const TAGGED: &[Rule] = &[Required, Length(1, 10_000)];
/// ARNs that can have tags: the pattern of AWS's model, but for the Region, which need not be one of AWS's.
const TAGGABLE: &[Rule] = &[Pattern(
    r"arn:(aws[a-zA-Z-]*):lambda:[a-z0-9-]+:\d{12}:(function:[a-zA-Z0-9-_]+(:(\$LATEST|[a-zA-Z0-9-_]+))?|layer:([a-zA-Z0-9-_]+)|code-signing-config:csc-[a-z0-9]{17}|event-source-mapping:[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}|(capacity-provider|network-connector|microvm-image):[a-zA-Z0-9-_]+)",
)];
const VARIABLES: &[Rule] =
    &[Sensitive, Entries(0, 50), Keys(&[Length(1, 256), Pattern(r"[^\s]+")]), Values(&[Length(0, 4096)])];
const RUNTIME_HOOK_SECONDS: &[Rule] = &[Range(1, 60)];
const IMAGE_HOOK_SECONDS: &[Rule] = &[Range(1, 3600)];

/// All rows. The messages of `hearth.host.v1` are in the same table as those of AWS's API; no two messages have the
/// same name.
pub(super) const TABLE: &[Row] = &[
    // Structures
    Row("CodeArtifact", "uri", Both, WORD),
    Row("CodeArtifact", "artifact", Both, &[Required]),
    Row("CpuConfiguration", "architecture", Both, &[Required]),
    Row("Resources", "minimumMemoryInMiB", Both, &[Required]),
    Row("Hooks", "port", Both, &[PORTS]),
    Row("MicrovmHooks", "runTimeoutInSeconds", Both, RUNTIME_HOOK_SECONDS),
    Row("MicrovmHooks", "resumeTimeoutInSeconds", Both, RUNTIME_HOOK_SECONDS),
    Row("MicrovmHooks", "suspendTimeoutInSeconds", Both, RUNTIME_HOOK_SECONDS),
    Row("MicrovmHooks", "terminateTimeoutInSeconds", Both, RUNTIME_HOOK_SECONDS),
    Row("MicrovmImageHooks", "readyTimeoutInSeconds", Both, IMAGE_HOOK_SECONDS),
    Row("MicrovmImageHooks", "validateTimeoutInSeconds", Both, IMAGE_HOOK_SECONDS),
    Row("Logging", "logging", Both, &[Required]),
    Row("CloudWatchLogging", "logGroup", Both, &[Length(1, 512), Pattern(r"[a-zA-Z0-9_\-/.#]+")]),
    Row("CloudWatchLogging", "logStream", Both, &[Length(1, 512), Pattern(r"[^:*]*")]),
    Row("IdlePolicy", "maxIdleDurationSeconds", Both, &[Required, Range(60, 28_800)]),
    Row("IdlePolicy", "suspendedDurationSeconds", Both, &[Required, Range(0, i32::MAX as i64)]),
    Row("IdlePolicy", "autoResumeEnabled", Both, &[Required]),
    Row("PortSpecification", "specification", Both, &[Required]),
    Row("PortSpecification", "port", Both, &[PORTS]),
    Row("PortRange", "startPort", Both, &[Required, PORTS]),
    Row("PortRange", "endPort", Both, &[Required, PORTS]),
    // MicroVMs
    Row("RunMicrovmRequest", "imageIdentifier", Both, &[Required, IDENTIFIER]),
    Row("RunMicrovmRequest", "imageVersion", Both, WORD),
    Row("RunMicrovmRequest", "executionRoleArn", Both, ROLE),
    Row("RunMicrovmRequest", "maximumDurationInSeconds", Both, &[Range(1, 28_800)]),
    // The API reference states "Maximum: 16,384 bytes", but AWS refuses more than 4,096 characters.
    Row("RunMicrovmRequest", "runHookPayload", Default, &[Sensitive, BytesAtMost(16_384)]),
    Row("RunMicrovmRequest", "runHookPayload", Strict, &[Sensitive, Length(0, 4096)]),
    Row("RunMicrovmRequest", "ingressNetworkConnectors", Both, CONNECTORS),
    Row("RunMicrovmRequest", "egressNetworkConnectors", Both, CONNECTORS),
    Row("RunMicrovmRequest", "clientToken", Both, &[CLIENT_TOKEN]),
    Row("RunMicrovmRequest", "kmsKeyIdentifier", Both, KMS_KEY),
    Row("GetMicrovmRequest", "microvmIdentifier", Both, &[Required, IDENTIFIER]),
    Row("ListMicrovmsRequest", "maxResults", Both, &[PAGE]),
    Row("ListMicrovmsRequest", "nextToken", Both, CURSOR),
    Row("ListMicrovmsRequest", "imageIdentifier", Both, &[IDENTIFIER]),
    // AWS's model has no bound. What is no version finds nothing.
    Row("ListMicrovmsRequest", "imageVersion", Both, &[Length(0, 2048)]),
    Row("SuspendMicrovmRequest", "microvmIdentifier", Both, &[Required, IDENTIFIER]),
    Row("ResumeMicrovmRequest", "microvmIdentifier", Both, &[Required, IDENTIFIER]),
    Row("TerminateMicrovmRequest", "microvmIdentifier", Both, &[Required, IDENTIFIER]),
    Row("CreateMicrovmAuthTokenRequest", "microvmIdentifier", Both, &[Required, IDENTIFIER]),
    Row("CreateMicrovmAuthTokenRequest", "expirationInMinutes", Both, &[Required, Range(1, i32::MAX as i64)]),
    // A token travels in a header, so the number of ports is bounded to keep the token short enough.
    Row("CreateMicrovmAuthTokenRequest", "allowedPorts", Both, &[Required, Items(1, 100)]),
    Row("CreateMicrovmShellAuthTokenRequest", "microvmIdentifier", Both, &[Required, IDENTIFIER]),
    Row(
        "CreateMicrovmShellAuthTokenRequest",
        "expirationInMinutes",
        Both,
        &[Required, Range(1, i32::MAX as i64)],
    ),
    // Images
    Row("CreateMicrovmImageRequest", "name", Both, &[Required, Length(1, 64), Pattern(r"[a-zA-Z0-9-_]+")]),
    Row("CreateMicrovmImageRequest", "baseImageArn", Both, REQUIRED_WORD),
    Row("CreateMicrovmImageRequest", "baseImageVersion", Both, WORD),
    Row("CreateMicrovmImageRequest", "buildRoleArn", Both, REQUIRED_ROLE),
    Row("CreateMicrovmImageRequest", "codeArtifact", Both, &[Required]),
    Row("CreateMicrovmImageRequest", "description", Both, DESCRIPTION),
    Row("CreateMicrovmImageRequest", "cpuConfigurations", Both, PROCESSORS),
    Row("CreateMicrovmImageRequest", "additionalOsCapabilities", Both, CAPABILITIES),
    Row("CreateMicrovmImageRequest", "resources", Both, &[Items(0, 1)]),
    Row("CreateMicrovmImageRequest", "environmentVariables", Both, VARIABLES),
    Row("CreateMicrovmImageRequest", "egressNetworkConnectors", Both, ONE_CONNECTOR),
    Row("CreateMicrovmImageRequest", "tags", Both, TAGS),
    Row("CreateMicrovmImageRequest", "clientToken", Both, &[CLIENT_TOKEN]),
    Row("CreateMicrovmImageRequest", "kmsKeyIdentifier", Both, KMS_KEY),
    Row("UpdateMicrovmImageRequest", "imageIdentifier", Both, &[Required, IDENTIFIER]),
    Row("UpdateMicrovmImageRequest", "baseImageArn", Both, REQUIRED_WORD),
    Row("UpdateMicrovmImageRequest", "baseImageVersion", Both, WORD),
    Row("UpdateMicrovmImageRequest", "buildRoleArn", Both, REQUIRED_ROLE),
    Row("UpdateMicrovmImageRequest", "codeArtifact", Both, &[Required]),
    Row("UpdateMicrovmImageRequest", "description", Both, DESCRIPTION),
    Row("UpdateMicrovmImageRequest", "cpuConfigurations", Both, PROCESSORS),
    Row("UpdateMicrovmImageRequest", "additionalOsCapabilities", Both, CAPABILITIES),
    Row("UpdateMicrovmImageRequest", "resources", Both, &[Items(0, 1)]),
    Row("UpdateMicrovmImageRequest", "environmentVariables", Both, VARIABLES),
    Row("UpdateMicrovmImageRequest", "egressNetworkConnectors", Both, ONE_CONNECTOR),
    Row("UpdateMicrovmImageRequest", "clientToken", Both, &[CLIENT_TOKEN]),
    Row("UpdateMicrovmImageRequest", "kmsKeyIdentifier", Both, KMS_KEY),
    Row("GetMicrovmImageRequest", "imageIdentifier", Both, &[Required, IDENTIFIER]),
    Row("ListMicrovmImagesRequest", "maxResults", Both, &[PAGE]),
    Row("ListMicrovmImagesRequest", "nextToken", Both, CURSOR),
    Row("ListMicrovmImagesRequest", "nameFilter", Both, WORD),
    Row("DeleteMicrovmImageRequest", "imageIdentifier", Both, &[Required, IDENTIFIER]),
    Row("GetMicrovmImageVersionRequest", "imageIdentifier", Both, &[Required, IDENTIFIER]),
    Row("GetMicrovmImageVersionRequest", "imageVersion", Both, REQUIRED_WORD),
    Row("ListMicrovmImageVersionsRequest", "imageIdentifier", Both, &[Required, IDENTIFIER]),
    Row("ListMicrovmImageVersionsRequest", "maxResults", Both, &[PAGE]),
    Row("ListMicrovmImageVersionsRequest", "nextToken", Both, CURSOR),
    Row("UpdateMicrovmImageVersionRequest", "imageIdentifier", Both, &[Required, IDENTIFIER]),
    Row("UpdateMicrovmImageVersionRequest", "imageVersion", Both, REQUIRED_WORD),
    Row("UpdateMicrovmImageVersionRequest", "status", Both, &[Required]),
    Row("DeleteMicrovmImageVersionRequest", "imageIdentifier", Both, &[Required, IDENTIFIER]),
    Row("DeleteMicrovmImageVersionRequest", "imageVersion", Both, REQUIRED_WORD),
    Row("GetMicrovmImageBuildRequest", "imageIdentifier", Both, &[Required, IDENTIFIER]),
    Row("GetMicrovmImageBuildRequest", "imageVersion", Both, REQUIRED_WORD),
    Row("GetMicrovmImageBuildRequest", "buildId", Both, REQUIRED_WORD),
    Row("ListMicrovmImageBuildsRequest", "imageIdentifier", Both, &[Required, IDENTIFIER]),
    Row("ListMicrovmImageBuildsRequest", "imageVersion", Both, REQUIRED_WORD),
    Row("ListMicrovmImageBuildsRequest", "maxResults", Both, &[PAGE]),
    Row("ListMicrovmImageBuildsRequest", "nextToken", Both, CURSOR),
    Row("ListMicrovmImageBuildsRequest", "chipsetGeneration", Both, WORD),
    // Base images
    Row("ListManagedMicrovmImagesRequest", "maxResults", Both, &[PAGE]),
    Row("ListManagedMicrovmImagesRequest", "nextToken", Both, CURSOR),
    Row("ListManagedMicrovmImageVersionsRequest", "imageIdentifier", Both, &[Required, IDENTIFIER]),
    Row("ListManagedMicrovmImageVersionsRequest", "maxResults", Both, &[PAGE]),
    Row("ListManagedMicrovmImageVersionsRequest", "nextToken", Both, CURSOR),
    // Tags
    Row("ListTagsRequest", "Resource", Both, TAGGED),
    Row("ListTagsRequest", "Resource", Strict, TAGGABLE),
    Row("TagResourceRequest", "Resource", Both, TAGGED),
    Row("TagResourceRequest", "Resource", Strict, TAGGABLE),
    Row("TagResourceRequest", "Tags", Both, REQUIRED_TAGS),
    Row("UntagResourceRequest", "Resource", Both, TAGGED),
    Row("UntagResourceRequest", "Resource", Strict, TAGGABLE),
    Row("UntagResourceRequest", "TagKeys", Both, &[Required, Items(1, 50), Each(TAG_KEY)]),
    // The host
    Row("ListLogGroupsRequest", "prefix", Both, &[Length(1, 512)]),
    Row("ListLogGroupsRequest", "maxResults", Both, &[PAGE]),
    Row("ListLogGroupsRequest", "nextToken", Both, CURSOR),
    Row("ListLogGroupsRequest", "contains", Both, &[Length(1, 512)]),
    Row("ListLogStreamsRequest", "logGroup", Both, &[Required, Length(1, 512)]),
    Row("ListLogStreamsRequest", "prefix", Both, &[Length(1, 512)]),
    Row("ListLogStreamsRequest", "maxResults", Both, &[PAGE]),
    Row("ListLogStreamsRequest", "nextToken", Both, CURSOR),
    Row("ReadLogsRequest", "logGroup", Both, &[Required, Length(1, 512)]),
    Row("ReadLogsRequest", "logStream", Both, &[Length(1, 512)]),
    Row("ReadLogsRequest", "contains", Both, &[Length(1, 1024)]),
    Row("ReadLogsRequest", "maxResults", Both, &[Range(1, 10_000)]),
    Row("ReadLogsRequest", "nextToken", Both, CURSOR),
    Row("ReadLogsRequest", "logStreams", Both, &[Items(0, 100), Each(&[Length(1, 512)])]),
    Row("ReadLogsRequest", "logStreamPrefix", Both, &[Length(1, 512)]),
    Row("ReadLogsRequest", "filterPattern", Both, &[Length(0, 1024)]),
    Row("TailLogsRequest", "logGroup", Both, &[Required, Length(1, 512)]),
    Row("TailLogsRequest", "logStream", Both, &[Length(1, 512)]),
    Row("TailLogsRequest", "contains", Both, &[Length(1, 1024)]),
    Row("TailLogsRequest", "last", Both, &[Range(0, 10_000)]),
    Row("WatchEventsRequest", "resource", Both, &[Length(1, 256)]),
    Row("WatchBuildRequest", "imageIdentifier", Both, &[Required, IDENTIFIER]),
    Row("WatchBuildRequest", "imageVersion", Both, WORD),
    Row("PutArtifactRequest", "part", Both, &[Required]),
    Row("PutArtifactRequest", "name", Both, &[Length(1, 128), Pattern(r"[a-zA-Z0-9._-]+")]),
    Row("PutArtifactRequest", "data", Both, &[BytesAtMost(upload::DATA_MAX)]),
    Row("PutArtifactRequest", "key", Both, &[BytesAtMost(1024)]),
    Row("ListArtifactsRequest", "prefix", Both, &[BytesAtMost(1024)]),
    Row("ListArtifactsRequest", "delimiter", Both, &[BytesAtMost(1024)]),
    Row("ListArtifactsRequest", "startAfter", Both, &[BytesAtMost(1024)]),
    Row("ListArtifactsRequest", "maxResults", Both, &[Range(1, 1000)]),
    Row("ListArtifactsRequest", "nextToken", Both, CURSOR),
    Row("GetArtifactRequest", "key", Both, &[Required, BytesAtMost(1024)]),
    Row("DeleteArtifactRequest", "key", Both, &[Required, BytesAtMost(1024)]),
];

#[cfg(test)]
/// Members without constraints: flags, enumerations and timestamps, which are checked without a row, and structures,
/// whose own members have rows.
pub(super) const UNCONSTRAINED: &[(&str, &str)] = &[
    ("Hooks", "microvmHooks"),
    ("Hooks", "microvmImageHooks"),
    ("MicrovmHooks", "run"),
    ("MicrovmHooks", "resume"),
    ("MicrovmHooks", "suspend"),
    ("MicrovmHooks", "terminate"),
    ("MicrovmImageHooks", "ready"),
    ("MicrovmImageHooks", "validate"),
    ("Logging", "cloudWatch"),
    ("Logging", "disabled"),
    ("PortSpecification", "range"),
    ("PortSpecification", "allPorts"),
    ("RunMicrovmRequest", "idlePolicy"),
    ("RunMicrovmRequest", "logging"),
    ("CreateMicrovmImageRequest", "hooks"),
    ("CreateMicrovmImageRequest", "logging"),
    ("UpdateMicrovmImageRequest", "hooks"),
    ("UpdateMicrovmImageRequest", "logging"),
    ("ListMicrovmImageBuildsRequest", "architecture"),
    ("ListMicrovmImageBuildsRequest", "chipset"),
    ("ReadLogsRequest", "startTime"),
    ("ReadLogsRequest", "endTime"),
    ("ReadLogsRequest", "backward"),
    ("ListLogStreamsRequest", "byLastEvent"),
    ("ListLogStreamsRequest", "descending"),
];
