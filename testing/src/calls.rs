//! Calls with extreme values of every method of the daemon, generated from its descriptors, so that methods and fields that are added
//! later are covered as well. The calls are the same in every run.
//!
//! A call starts from a plausible request ([`base`]), in which one field after the other takes each of the extreme values of its type;
//! the last calls of a method have extreme values in all fields. A mistake in one field would otherwise hide those in others.

use prost::Message as _;
use prost_reflect::{
    DescriptorPool, DynamicMessage, FieldDescriptor, Kind, MapKey, MessageDescriptor, MethodDescriptor,
    ReflectMessage as _, Value,
};
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::Channel;
use tonic::{Request, Status};

/// Calls per method in which all fields are extreme.
const WILD: usize = 8;
/// Depth to which nested messages are filled.
const DEPTH: usize = 6;

/// A call.
#[derive(Debug)]
pub struct Case {
    /// Description of the extreme field and its value.
    pub what: String,
    messages: Vec<Vec<u8>>,
    path: String,
    /// Whether the stream of responses is unbounded.
    endless: bool,
}

/// Values of fields by their JSON names: names of things that exist on a host.
pub type Known<'a> = &'a [(&'a str, &'a str)];

/// All methods: of the API, health and reflection. Methods that remove what other calls need come last.
pub fn methods() -> Vec<MethodDescriptor> {
    let mut pool = DescriptorPool::decode(hearth_proto::FILE_DESCRIPTOR_SET).unwrap();
    for set in [tonic_health::pb::FILE_DESCRIPTOR_SET, tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET] {
        pool.decode_file_descriptor_set(set).unwrap();
    }
    let mut methods: Vec<_> =
        pool.services().flat_map(|service| service.methods().collect::<Vec<_>>()).collect();
    methods.sort_by_key(|method| ["Delete", "Terminate"].iter().any(|last| method.name().starts_with(last)));
    methods
}

/// The calls of a method, the first of which is plausible.
pub fn cases(method: &MethodDescriptor, known: Known<'_>) -> Vec<Case> {
    let path = format!("/{}/{}", method.parent_service().full_name(), method.name());
    let endless = method.is_server_streaming() && !method.is_client_streaming();
    let meant = base(&method.input(), known, DEPTH);
    let case = |what: String, messages: &[&DynamicMessage]| {
        let messages = messages.iter().map(|message| message.encode_to_vec()).collect();
        Case { what: format!("{path}: {what}"), messages, path: path.clone(), endless }
    };
    let mut cases = vec![case("as it could be meant".to_owned(), &[&meant])];
    for (what, message) in variants(&meant, known, DEPTH) {
        cases.push(case(what.clone(), &[&message]));
        if method.is_client_streaming() {
            cases.push(case(format!("first as it could be meant, then {what}"), &[&meant, &message]));
        }
    }
    let mut random = Random(u64::from(crc32fast::hash(path.as_bytes())));
    for number in 0..WILD {
        let mut message = DynamicMessage::new(method.input());
        for field in method.input().fields() {
            let values = extremes(&field, known, DEPTH);
            // Two more than there are values, so that the field sometimes stays as it is.
            let index = random.below(u64::try_from(values.len()).unwrap() + 2);
            if let Some((_, value)) = values.into_iter().nth(index) {
                message.set_field(&field, value);
            }
        }
        cases.push(case(format!("everything, {number}"), &[&message]));
    }
    if method.is_client_streaming() {
        cases.push(Case { what: format!("{path}: nothing"), messages: vec![], path: path.clone(), endless });
    }
    // Bytes that are no messages at all.
    for bytes in [
        &[0xff; 16][..],
        &[0x0a, 0xff, 0xff, 0xff, 0xff, 0x0f],
        &[0x08],
        &[0x0b; 300],
        &[0x0a, 2, 0xff, 0xfe],
    ] {
        let messages = vec![bytes.to_vec()];
        cases.push(Case { what: format!("{path}: bytes {bytes:?}"), messages, path: path.clone(), endless });
    }
    cases
}

/// Splitmix64: the pseudo-random numbers are the same in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        usize::try_from((mixed ^ (mixed >> 31)) % bound).unwrap()
    }
}

/// A plausible message: with known values, and the first member of each oneof.
fn base(message: &MessageDescriptor, known: Known<'_>, depth: usize) -> DynamicMessage {
    let mut built = DynamicMessage::new(message.clone());
    for field in message.fields() {
        // Optional fields are oneofs with one member in proto3.
        let first = field.containing_oneof().is_none_or(|oneof| oneof.fields().next() == Some(field.clone()));
        if let Some(value) = meant(&field, known, depth).filter(|_| first) {
            built.set_field(&field, value);
        }
    }
    built
}

fn meant(field: &FieldDescriptor, known: Known<'_>, depth: usize) -> Option<Value> {
    let depth = depth.checked_sub(1)?;
    let known_value = known.iter().find(|(name, _)| *name == field.json_name()).map(|(_, value)| *value);
    if field.is_map() {
        return Some(Value::Map([(MapKey::String("key".into()), Value::String("value".into()))].into()));
    }
    let one = match field.kind() {
        Kind::String => Value::String(known_value?.to_owned()),
        Kind::Int32 => Value::I32(known_value.map_or(1, |value| value.parse().unwrap())),
        Kind::Int64 => Value::I64(1),
        Kind::Uint32 => Value::U32(1),
        Kind::Uint64 => Value::U64(1),
        Kind::Bool => Value::Bool(true),
        Kind::Bytes => Value::Bytes(vec![1].into()),
        Kind::Enum(_) => Value::EnumNumber(1),
        Kind::Message(message) => Value::Message(base(&message, known, depth)),
        _ => return None,
    };
    Some(if field.is_list() { Value::List(vec![one]) } else { one })
}

/// Variants of a message, each with one field at an extreme value.
fn variants(message: &DynamicMessage, known: Known<'_>, depth: usize) -> Vec<(String, DynamicMessage)> {
    let mut found = Vec::new();
    for field in message.descriptor().fields() {
        let mut without = message.clone();
        without.clear_field(&field);
        found.push((format!("without {}", field.json_name()), without));
        for (what, value) in extremes(&field, known, depth) {
            let mut with = message.clone();
            with.set_field(&field, value);
            found.push((format!("{} = {what}", field.json_name()), with));
        }
    }
    found
}

/// The extreme values of a field.
fn extremes(field: &FieldDescriptor, known: Known<'_>, depth: usize) -> Vec<(String, Value)> {
    if field.is_map() {
        return maps(field);
    }
    let ones = of_kind(field, known, depth);
    if !field.is_list() {
        return ones;
    }
    let mut lists = vec![("[]".to_owned(), Value::List(vec![]))];
    if let Some((what, value)) = ones.first() {
        lists.push((format!("500 of {what}"), Value::List(vec![value.clone(); 500])));
    }
    lists.extend(ones.into_iter().map(|(what, value)| (format!("[{what}]"), Value::List(vec![value]))));
    lists
}

fn maps(field: &FieldDescriptor) -> Vec<(String, Value)> {
    let Kind::Message(entry) = field.kind() else { return vec![] };
    if entry.map_entry_value_field().kind() != Kind::String {
        return vec![];
    }
    let text = |value: &str| Value::String(value.to_owned());
    let many = (0..500).map(|number| (MapKey::String(format!("key{number}")), text(""))).collect();
    let mut found =
        vec![("{}".to_owned(), Value::Map([].into())), ("500 entries".to_owned(), Value::Map(many))];
    for (what, one) in texts() {
        let key = [(MapKey::String(one.clone()), text("value"))].into();
        found.push((format!("{{{what}: …}}"), Value::Map(key)));
        found.push((
            format!("{{…: {what}}}"),
            Value::Map([(MapKey::String("key".into()), text(&one))].into()),
        ));
    }
    found
}

fn of_kind(field: &FieldDescriptor, known: Known<'_>, depth: usize) -> Vec<(String, Value)> {
    macro_rules! numbers {
        ($variant:ident: $($number:expr),+) => {
            [$($number),+].map(|number| (format!("{number:?}"), Value::$variant(number))).to_vec()
        };
    }
    match field.kind() {
        Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => {
            numbers!(I32: i32::MIN, i32::MIN + 1, -1, 0, 1, 2, 28_800, 65_535, 65_536, i32::MAX - 1, i32::MAX)
        }
        Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => {
            numbers!(I64: i64::MIN, -1, 0, 1, 1 << 32, i64::MAX - 1, i64::MAX)
        }
        Kind::Uint32 | Kind::Fixed32 => numbers!(U32: 0, 1, 1 << 31, u32::MAX),
        Kind::Uint64 | Kind::Fixed64 => numbers!(U64: 0, 1, 1 << 63, u64::MAX),
        Kind::Float => numbers!(F32: f32::MIN, f32::MAX, f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -0.0),
        Kind::Double => numbers!(F64: f64::MIN, f64::MAX, f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -0.0),
        Kind::Enum(_) => numbers!(EnumNumber: i32::MIN, -1, 0, 1, 2, 3, 4, 1000, i32::MAX),
        Kind::Bool => numbers!(Bool: false, true),
        Kind::Bytes => [0, 1, 1 << 20]
            .map(|length| (format!("{length} bytes"), Value::Bytes(vec![0xff; length].into())))
            .to_vec(),
        Kind::String => texts().into_iter().map(|(what, text)| (what, Value::String(text))).collect(),
        Kind::Message(message) if is_time(&message) => times(&message),
        Kind::Message(_) if depth == 0 => vec![],
        Kind::Message(message) => {
            let mut found = vec![("{}".to_owned(), Value::Message(DynamicMessage::new(message.clone())))];
            let inner = variants(&base(&message, known, depth - 1), known, depth - 1);
            found.extend(
                inner.into_iter().map(|(what, message)| (format!("{{{what}}}"), Value::Message(message))),
            );
            found
        }
    }
}

fn is_time(message: &MessageDescriptor) -> bool {
    ["google.protobuf.Timestamp", "google.protobuf.Duration"].contains(&message.full_name())
}

/// Extreme seconds with extreme nanoseconds.
fn times(message: &MessageDescriptor) -> Vec<(String, Value)> {
    const SECONDS: [i64; 12] = [
        i64::MAX,
        i64::MIN,
        i64::MAX - 1,
        i64::MIN + 1,
        i64::MAX / 1_000_000_000,
        -62_135_596_801,
        -62_135_596_800,
        -1,
        0,
        253_402_300_799,
        253_402_300_800,
        1 << 34,
    ];
    const NANOS: [i32; 8] =
        [2_000_000_000, i32::MIN, i32::MAX, -1, 0, 999_999_999, 1_000_000_000, -1_000_000_000];
    let time = |seconds, nanos| {
        let mut time = DynamicMessage::new(message.clone());
        time.set_field_by_name("seconds", Value::I64(seconds));
        time.set_field_by_name("nanos", Value::I32(nanos));
        (format!("{seconds} s {nanos} ns"), Value::Message(time))
    };
    SECONDS.into_iter().flat_map(|seconds| NANOS.map(|nanos| time(seconds, nanos))).collect()
}

/// Texts that are short, long, of wide characters, and almost names, versions and ARNs.
fn texts() -> Vec<(String, String)> {
    let long = [("a", 257), ("é", 128), ("𝄞", 64), ("é", 1025), ("a", 100_000), ("%2e", 50)];
    let long = long.map(|(one, times)| (format!("{times} × {one}"), one.repeat(times)));
    let short = [
        "",
        "\0",
        "..",
        "../../etc",
        "e\u{301}\u{202e}",
        "0.0",
        "4294967296.0",
        ":::::::::",
        "arn:aws:lambda:us-east-1:123456789012:microvm-image:é",
        "arn:aws:lambda::::",
        "arn:aws:iam::123456789012:role/é",
        "microvm-é",
        "microvm-00000000-0000-0000-0000-00000000000é",
        "AAAA",
        "s3:///é",
    ];
    long.into_iter().chain(short.map(|text| (format!("{text:?}"), text.to_owned()))).collect()
}

/// Makes a call, and reads its responses to their end, if there is one.
///
/// # Errors
/// The daemon's error.
pub async fn call(channel: &Channel, case: &Case) -> Result<(), Status> {
    let mut client = tonic::client::Grpc::new(channel.clone());
    client.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
    let path = PathAndQuery::try_from(case.path.as_str()).unwrap();
    let messages = Request::new(tokio_stream::iter(case.messages.clone()));
    let mut answers = client.streaming(messages, path, Raw).await?.into_inner();
    while !case.endless && answers.message().await?.is_some() {}
    Ok(())
}

/// Codec that passes messages as bytes: for calls without generated types.
#[derive(Clone, Copy, Debug)]
pub struct Raw;

impl Codec for Raw {
    type Encode = Vec<u8>;
    type Decode = Vec<u8>;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, bytes: Vec<u8>, into: &mut EncodeBuf<'_>) -> Result<(), Status> {
        bytes::BufMut::put_slice(into, &bytes);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Vec<u8>>, Status> {
        let mut bytes = vec![0; bytes::Buf::remaining(from)];
        bytes::Buf::copy_to_slice(from, &mut bytes);
        Ok(Some(bytes))
    }
}
