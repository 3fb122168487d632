//! Constraints of requests: one table ([`table`]), applied to any request through its protobuf descriptor.
//!
//! The table is compiled once per profile into a tree of shapes that mirrors the messages, so that a check walks the
//! request once and allocates memory only for violations. Violations are reported in the wording of AWS's services,
//! including the paths: members of a list of structures are `list.1.member.name`; a violation in an element of a list
//! or a map of strings is reported for the whole list or map.

mod check;
mod shown;
mod table;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

use prost_reflect::{DescriptorPool, DynamicMessage, FieldDescriptor, Kind, MessageDescriptor, Value};

use self::check::Check;
use self::shown::shown;
use super::Profile;
use super::error::{InvalidRequest, ServiceError, Shown, Violation};
use crate::operation::{MESSAGES, Request};

/// The constraint that a missing required member violates.
const NOT_NULL: &str = "Member must not be null";

/// Greatest number of violations that are reported; they travel in headers.
const MAX_VIOLATIONS: usize = 20;

/// A constraint of a member.
#[derive(Debug, Clone, Copy)]
enum Rule {
    /// The member must be given; a list or a map must not be empty. Of a oneof, one member must be given.
    Required,
    /// The value is a secret, which no message shows.
    Sensitive,
    /// Least and greatest number of characters of a text.
    Length(usize, usize),
    /// Greatest number of bytes of a text or of data.
    BytesAtMost(usize),
    /// A regular expression that the whole text matches.
    Pattern(&'static str),
    /// Least and greatest value of a number.
    Range(i64, i64),
    /// Least and greatest number of elements of a list.
    Items(usize, usize),
    /// Least and greatest number of entries of a map.
    Entries(usize, usize),
    /// Constraints of each element of a list of texts.
    Each(&'static [Rule]),
    /// Constraints of each key of a map.
    Keys(&'static [Rule]),
    /// Constraints of each value of a map.
    Values(&'static [Rule]),
}

/// The profiles in which a row of the table applies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Profiles {
    Both,
    Default,
    Strict,
}

impl Profiles {
    fn have(self, profile: Profile) -> bool {
        match self {
            Self::Both => true,
            Self::Default => profile == Profile::Default,
            Self::Strict => profile == Profile::AwsStrict,
        }
    }
}

/// A row of the table: message, member (its JSON name; for a oneof, the name of the oneof), profiles, rules.
#[derive(Debug, Clone, Copy)]
struct Row(&'static str, &'static str, Profiles, &'static [Rule]);

/// The constraints of one profile.
#[derive(Debug)]
pub(crate) struct Constraints {
    requests: HashMap<String, Arc<Shape>>,
}

/// The compiled constraints of a message.
#[derive(Debug)]
struct Shape {
    descriptor: MessageDescriptor,
    members: Vec<Member>,
    unions: Vec<Union>,
}

#[derive(Debug)]
struct Member {
    field: FieldDescriptor,
    required: bool,
    sensitive: bool,
    checks: Vec<Check>,
    /// Shape of the member, if it is a structure, or of its elements, if it is a list of structures.
    shape: Option<Arc<Shape>>,
}

/// A oneof of which one member must be set.
#[derive(Debug)]
struct Union {
    name: String,
    fields: Vec<FieldDescriptor>,
    constraint: String,
}

static POOL: LazyLock<Option<DescriptorPool>> =
    LazyLock::new(|| DescriptorPool::decode(hearth_proto::FILE_DESCRIPTOR_SET).ok());
/// The descriptors of all messages.
pub(crate) fn descriptors() -> Option<&'static DescriptorPool> {
    POOL.as_ref()
}

static DEFAULT: LazyLock<Constraints> = LazyLock::new(|| Constraints::compile(Profile::Default));
static STRICT: LazyLock<Constraints> = LazyLock::new(|| Constraints::compile(Profile::AwsStrict));

impl Constraints {
    /// The constraints of a profile.
    pub(crate) fn of(profile: Profile) -> &'static Self {
        match profile {
            Profile::Default => &DEFAULT,
            Profile::AwsStrict => &STRICT,
        }
    }

    fn compile(profile: Profile) -> Self {
        let mut shapes = HashMap::new();
        let pool = POOL.as_ref();
        for message in MESSAGES.iter().filter_map(|name| pool.and_then(|pool| pool.get_message_by_name(name)))
        {
            Shape::compile(&message, profile, &mut shapes);
        }
        Self { requests: shapes }
    }

    /// Checks a request against its constraints.
    ///
    /// # Errors
    ///
    /// [`InvalidRequest::Constraints`] with the violations.
    #[cfg(test)]
    pub(crate) fn check<R: Request>(&self, request: &R) -> Result<(), ServiceError> {
        self.check_named(request, &[])
    }

    /// [`Self::check`] with the names of enumeration values that do not exist ([`super::Service::call_named`]).
    ///
    /// # Errors
    ///
    /// Those of [`Self::check`].
    pub(crate) fn check_named<R: Request>(
        &self,
        request: &R,
        unknown: &[String],
    ) -> Result<(), ServiceError> {
        let no_shape = || ServiceError::internal(format!("there are no constraints of {}", R::MESSAGE));
        let shape = self.requests.get(R::MESSAGE).ok_or_else(no_shape)?;
        let mut message = DynamicMessage::new(shape.descriptor.clone());
        message
            .transcode_from(request)
            .map_err(|error| ServiceError::internal(format!("{} cannot be read: {error}", R::MESSAGE)))?;
        let mut found = Found { violations: Vec::new(), unknown };
        shape.check(&message, "", &mut found);
        let violations = found.violations;
        if violations.is_empty() { Ok(()) } else { Err(InvalidRequest::Constraints(violations).into()) }
    }
}

impl Shape {
    /// Compiles the shape of a message, and those of the messages in it.
    fn compile(
        message: &MessageDescriptor,
        profile: Profile,
        shapes: &mut HashMap<String, Arc<Self>>,
    ) -> Arc<Self> {
        if let Some(shape) = shapes.get(message.full_name()) {
            return Arc::clone(shape);
        }
        let member = |field: FieldDescriptor| {
            let rules = rules(message.name(), field.json_name(), profile);
            let required = rules.iter().any(|rule| matches!(rule, Rule::Required));
            let sensitive = rules.iter().any(|rule| matches!(rule, Rule::Sensitive));
            let checks = Check::compile(&field, &rules);
            let shape = structure(&field).map(|message| Self::compile(&message, profile, shapes));
            Member { field, required, sensitive, checks, shape }
        };
        let members = message.fields().map(member).collect();
        let unions = message
            .oneofs()
            .filter(|oneof| !rules(message.name(), oneof.name(), profile).is_empty())
            .map(|oneof| {
                let fields: Vec<FieldDescriptor> = oneof.fields().collect();
                let names: Vec<&str> = fields.iter().map(FieldDescriptor::json_name).collect();
                let constraint =
                    format!("Member must have exactly one of its members set: [{}]", names.join(", "));
                Union { name: oneof.name().to_owned(), fields, constraint }
            })
            .collect();
        let shape = Arc::new(Self { descriptor: message.clone(), members, unions });
        shapes.insert(message.full_name().to_owned(), Arc::clone(&shape));
        shape
    }

    /// Checks a message. `path` is the prefix of its members' paths: empty, or `member.`.
    fn check(&self, message: &DynamicMessage, path: &str, found: &mut Found<'_>) {
        for union in &self.unions {
            if !union.fields.iter().any(|field| message.has_field(field)) {
                let field = if path.is_empty() { &union.name } else { path.trim_end_matches('.') };
                found.add(field.to_owned(), Shown::Hidden, &union.constraint);
            }
        }
        for member in &self.members {
            if message.has_field(&member.field) {
                member.check(&message.get_field(&member.field), path, found);
            } else if member.required {
                found.add(format!("{path}{}", member.field.json_name()), Shown::Null, NOT_NULL);
            }
        }
    }
}

impl Member {
    fn check(&self, value: &Value, path: &str, found: &mut Found<'_>) {
        let name = self.field.json_name();
        let mut too_many = false;
        for check in self.checks.iter().filter(|check| !check.holds(value)) {
            too_many |= check.is_of_size();
            let value = match self.sensitive {
                true => Shown::Hidden,
                false => shown(&self.field.kind(), value, found.unknown),
            };
            found.add(format!("{path}{name}"), value, &check.text());
        }
        let Some(shape) = &self.shape else { return };
        match value {
            Value::Message(message) => shape.check(message, &format!("{path}{name}."), found),
            Value::List(elements) if !too_many => {
                for (index, element) in (1_u64..).zip(elements) {
                    if found.violations.len() >= MAX_VIOLATIONS {
                        return;
                    }
                    if let Value::Message(message) = element {
                        shape.check(message, &format!("{path}{name}.{index}.member."), found);
                    }
                }
            }
            _ => {}
        }
    }
}

/// The violations that a check of a request has found.
struct Found<'a> {
    violations: Vec<Violation>,
    /// Names of enumeration values that do not exist.
    unknown: &'a [String],
}

impl Found<'_> {
    fn add(&mut self, field: String, value: Shown, constraint: &str) {
        if self.violations.len() < MAX_VIOLATIONS {
            self.violations.push(Violation { field, value, constraint: constraint.to_owned() });
        }
    }
}

/// The rules of a member.
fn rules(message: &str, member: &str, profile: Profile) -> Vec<Rule> {
    let of_member = |row: &&Row| row.0 == message && row.1 == member && row.2.have(profile);
    table::TABLE.iter().filter(of_member).flat_map(|row| row.3).copied().collect()
}

/// The structure that a member, or each of its elements, consists of. Messages of other packages, like timestamps,
/// count as plain values.
fn structure(field: &FieldDescriptor) -> Option<MessageDescriptor> {
    match field.kind() {
        Kind::Message(message) if !field.is_map() && message.package_name().starts_with("hearth.") => {
            Some(message)
        }
        _ => None,
    }
}
