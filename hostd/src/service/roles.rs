//! Roles that requests give to microVMs and builds.
//!
//! A caller that gives a role needs a policy that allows it ([`crate::access::policy`]), and the role must be for the
//! caller's account ([`hearth_host::roles`]). The account is checked again wherever credentials are fetched: at each
//! launch, resume, refresh and build. Records outlive changes of the configuration, and a role in a stored record may
//! belong to other accounts by now.

use hearth_model::image::ImageName;
use hearth_proto::microvms::v1 as proto;

use super::Service;
use super::error::{Denied, ServiceError};
use crate::access::{Caller, PASS_ROLE};
use crate::operation::Request;

/// A request that contains a role. Every request with a member for a role implements this trait; a test compares the
/// implementations with the messages.
pub(crate) trait PassesRole: Request {
    /// Name of the member with the role's ARN.
    #[cfg(test)]
    const MEMBER: &'static str;

    /// ARN of the role, if the request has one.
    fn role_arn(&self) -> Option<&str>;
}

macro_rules! passes_role {
    ($($request:ident $member:ident),+ $(,)?) => {
        $(impl PassesRole for proto::$request {
            #[cfg(test)]
            const MEMBER: &'static str = stringify!($member);

            fn role_arn(&self) -> Option<&str> {
                self.$member.as_deref().filter(|arn| !arn.is_empty())
            }
        })+

        /// Message and member of each implementation.
        #[cfg(test)]
        const COVERED: &[(&str, &str)] =
            &[$((<proto::$request as Request>::MESSAGE, <proto::$request as PassesRole>::MEMBER)),+];
    };
}

passes_role! {
    RunMicrovmRequest execution_role_arn,
    CreateMicrovmImageRequest build_role_arn,
    UpdateMicrovmImageRequest build_role_arn,
}

impl Service {
    /// Checks that the caller may give the role of a request to a microVM or a build of an image, and that the provider
    /// of the role's credentials does not refuse them. A provider that cannot be reached does not fail the request: the
    /// credentials are fetched again when they are needed.
    ///
    /// # Errors
    ///
    /// [`Denied::PassRole`].
    pub(crate) async fn pass_role<R: PassesRole>(
        &self,
        caller: &Caller,
        image: &ImageName,
        request: &R,
    ) -> Result<(), ServiceError> {
        let Some(role_arn) = request.role_arn() else { return Ok(()) };
        let refused = |why: String| {
            let (principal, role_arn) = (caller.principal.clone(), role_arn.to_owned());
            Err(Denied::PassRole { principal, role_arn, why }.into())
        };
        if !caller.may_pass(&image.name, role_arn) {
            return refused(format!("no identity-based policy allows the iam:{PASS_ROLE} action"));
        }
        match self.parts().roles.credentials(&caller.use_of_role(role_arn)).await {
            Err(error) if error.is_refusal() => refused(error.to_string()),
            Err(error) => {
                tracing::warn!(%error, role_arn, "the credentials of a role cannot be fetched now");
                Ok(())
            }
            Ok(_) => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use prost_reflect::{Kind, MessageDescriptor};

    use super::super::constraints::descriptors;
    use super::*;
    use crate::operation::MESSAGES;

    /// Collects the members for roles in a message and in the messages that it contains, as pairs of message and member
    /// name.
    fn members(
        message: &MessageDescriptor,
        seen: &mut BTreeSet<String>,
        found: &mut BTreeSet<(String, String)>,
    ) {
        if !seen.insert(message.full_name().to_owned()) {
            return;
        }
        for field in message.fields() {
            if field.name().split('_').any(|word| word.starts_with("role")) {
                found.insert((message.full_name().to_owned(), field.name().to_owned()));
            }
            if let Kind::Message(inner) = field.kind() {
                members(&inner, seen, found);
            }
        }
    }

    /// A new member for a role needs the check of the permission to give it.
    #[test]
    fn every_role_in_a_request_is_checked() {
        let (mut seen, mut found) = (BTreeSet::new(), BTreeSet::new());
        for message in MESSAGES {
            let message = descriptors().unwrap().get_message_by_name(message).unwrap();
            members(&message, &mut seen, &mut found);
        }
        let covered = COVERED.iter().map(|(message, member)| ((*message).to_owned(), (*member).to_owned()));
        assert_eq!(found, covered.collect());
    }

    #[test]
    fn an_empty_role_is_none() {
        let request = |arn: Option<&str>| proto::RunMicrovmRequest {
            execution_role_arn: arn.map(str::to_owned),
            ..Default::default()
        };
        assert_eq!(request(None).role_arn(), None);
        assert_eq!(request(Some("")).role_arn(), None);
        assert_eq!(request(Some("arn")).role_arn(), Some("arn"));
    }
}
