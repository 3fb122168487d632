//! The ledger of the store: `ledger.txt` lists every table with its keys and values, and every message that the values
//! consist of, as they are on the disks of hosts that run Hearth.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use prost_reflect::{Cardinality, DescriptorPool, EnumDescriptor, FieldDescriptor, Kind, MessageDescriptor};

use super::*;
use crate::store::{MemoryStore, Table, meta, schema};

/// With this variable the test writes the ledger instead of comparing it.
const WRITE: &str = "HEARTH_WRITE_LEDGER";

const RULES: &str = "\
# What the store of hearthd holds, written by the tests of hostd/src/records.rs, which also compare it.
#
# Stores with all of this are on the disks of hosts. A line that is only added (a table, a field, a value of an
# enumeration) needs nothing more than this file to be written anew. A line that changes or goes needs a migration in
# hostd/src/store/schema.rs, which raises the schema version: without it, stores of earlier releases are misread.
";

/// A number with eight different bytes, as a time or a version number.
const NUMBER: u64 = 0x0102_0304_0506_0708;

fn record(name: &str) -> String {
    format!("hearth.store.v1.{name}")
}

/// The keys of a table, made of parts that are named in capitals, and their values.
fn entries(table: Table) -> Vec<(Vec<u8>, String)> {
    let empty = || "empty".to_owned();
    match table {
        Table::Meta => vec![
            (meta::SCHEMA_VERSION.to_vec(), "the schema version (u32, big-endian)".to_owned()),
            (CURSOR_KEY.to_vec(), "the key of cursors (32 bytes)".to_owned()),
            (TOKEN_KEYS.to_vec(), "the keys of tokens (JSON)".to_owned()),
            (deleted_image("ACCOUNT", "IMAGE"), "google.protobuf.Timestamp".to_owned()),
        ],
        Table::Microvms => vec![(microvm("ACCOUNT", "ID"), record("MicrovmRecord"))],
        Table::MicrovmsByTime => vec![(microvm_by_time("ACCOUNT", NUMBER, "ID"), empty())],
        Table::MicrovmsByImage => vec![(
            microvm_by_image("ACCOUNT", "IMAGE", NUMBER, "ID"),
            "the version's number (u32, big-endian)".to_owned(),
        )],
        Table::Images => vec![(image("ACCOUNT", "IMAGE"), record("ImageRecord"))],
        Table::Versions => vec![(version("ACCOUNT", "IMAGE", 0x0102_0304), record("VersionRecord"))],
        Table::Artifacts => vec![(artifact("BUILD"), record("ArtifactRecord"))],
        Table::ArtifactUses => vec![(artifact_use("BUILD", "ID"), empty())],
        Table::ClientTokens => {
            vec![(client_token("ACCOUNT", "OPERATION", "TOKEN"), record("ClientTokenRecord"))]
        }
        Table::Expiries => [Expiry::Microvm, Expiry::ClientToken]
            .map(|kind| (expiry(NUMBER, kind, b"KEY"), empty()))
            .to_vec(),
    }
}

fn ledger() -> String {
    let mut text = RULES.to_owned();
    let version = schema::migrate(&MemoryStore::new()).unwrap();
    writeln!(text, "\nschema version {version}").unwrap();
    let mut values = BTreeSet::new();
    for table in Table::ALL {
        writeln!(text, "\ntable {}", table.name()).unwrap();
        for (key, value) in entries(table) {
            writeln!(text, "  {} -> {value}", key.escape_ascii()).unwrap();
            values.insert(value);
        }
    }
    let protos = Path::new(env!("CARGO_MANIFEST_DIR")).join("../proto/proto");
    let files = protox::compile(["hearth/store/v1/records.proto"], [protos]).unwrap();
    let pool = DescriptorPool::from_file_descriptor_set(files).unwrap();
    let mut described = Described::default();
    for message in values.iter().filter_map(|value| pool.get_message_by_name(value)) {
        described.message(&message);
    }
    for part in described.parts {
        write!(text, "\n{part}").unwrap();
    }
    text
}

/// The descriptions of messages and enumerations, and of all that they consist of.
#[derive(Default)]
struct Described {
    names: BTreeSet<String>,
    parts: BTreeSet<String>,
}

impl Described {
    fn message(&mut self, message: &MessageDescriptor) {
        if !self.names.insert(message.full_name().to_owned()) {
            return;
        }
        let mut part = format!("message {}\n", message.full_name());
        let mut fields: Vec<FieldDescriptor> = message.fields().collect();
        fields.sort_by_key(FieldDescriptor::number);
        for field in fields {
            let kind = match field.kind() {
                Kind::Message(of) => {
                    self.message(&of);
                    of.full_name().to_owned()
                }
                Kind::Enum(of) => {
                    self.enumeration(&of);
                    of.full_name().to_owned()
                }
                scalar => format!("{scalar:?}").to_lowercase(),
            };
            let repeated = if field.cardinality() == Cardinality::Repeated { "repeated " } else { "" };
            writeln!(part, "  {} {}: {repeated}{kind}", field.number(), field.name()).unwrap();
        }
        self.parts.insert(part);
    }

    fn enumeration(&mut self, of: &EnumDescriptor) {
        if !self.names.insert(of.full_name().to_owned()) {
            return;
        }
        let mut part = format!("enum {}\n", of.full_name());
        for value in of.values() {
            writeln!(part, "  {} {}", value.number(), value.name()).unwrap();
        }
        self.parts.insert(part);
    }
}

fn place() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src/records/ledger.txt")
}

#[test]
fn the_store_holds_what_the_ledger_says() {
    let (now, path) = (ledger(), place());
    if std::env::var_os(WRITE).is_some() {
        std::fs::write(&path, &now).unwrap();
    }
    let before = std::fs::read_to_string(&path).unwrap_or_default();
    if before == now {
        return;
    }
    let missing = |from: &str, other: &str, sign: char| {
        let other: BTreeSet<&str> = other.lines().collect();
        let lines = from.lines().filter(|line| !other.contains(line));
        lines.map(|line| format!("{sign} {line}\n")).collect::<String>()
    };
    panic!(
        "what the store holds is not what {} says:\n{}{}\nRead the rules at the top of that file. Then write it anew: \
         {WRITE}=1 cargo test -p hearth-hostd --lib ledger",
        path.display(),
        missing(&before, &now, '-'),
        missing(&now, &before, '+'),
    );
}
