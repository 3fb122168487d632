//! The steps of every operation (docs/behaviour.md, "Order of checks"):
//!
//! ```text
//!  rate ─► constraints ─► names ─► permission ─► client token ─► work ─► audit
//! ```
//!
//! An operation is a [`Handler`]: its request and response, what the request names, and the work. A front end calls
//! [`Service::call`] and nothing else. The work needs an [`Admitted`], which only this module can make, so that neither
//! a front end nor another operation can go around a step.

use std::time::Instant;

use hearth_model::image::ImageName;
use hearth_proto::store::v1::MicrovmRecord;
use serde_json::Value;
use tracing::Instrument as _;

use super::constraints::Constraints;
use super::error::{Denied, ServiceError};
use super::idempotency::{ClientToken, Replay};
use super::observe::{Call, CallObserver};
use super::{Service, json};
use crate::access::{Caller, UnknownCaller};
use crate::audit::Recorded;
use crate::operation::{Operation, Request};
use crate::panics;

/// A call as it arrives: what is known about it before its request is looked at.
#[derive(Debug, Clone)]
pub(crate) struct Incoming {
    /// The caller, or the reason why it is unknown.
    pub(crate) caller: Result<Caller, UnknownCaller>,
    /// Id of the call: a UUID.
    pub(crate) request_id: String,
    /// Address of the client, for the audit log.
    pub(crate) address: String,
    /// The user agent that the client reports; empty if it reports none.
    pub(crate) user_agent: String,
    /// When the call arrived.
    pub(crate) since: Instant,
}

/// The input of an operation: its request message or, where more messages follow, the first of them.
pub(crate) trait Input: Send + Sized {
    /// The request message.
    type Message: Request;

    /// The request message, which is subject to the constraints and is audited.
    ///
    /// # Errors
    ///
    /// The message could not be received.
    fn message(&self) -> Result<&Self::Message, ServiceError>;
}

impl<R: Request> Input for R {
    type Message = Self;

    fn message(&self) -> Result<&Self, ServiceError> {
        Ok(self)
    }
}

/// The response of an operation.
pub(crate) trait Response: Send {
    /// The response as JSON, for the audit log; null for streams.
    fn json(&self) -> Value;
}

impl<M: prost::Name> Response for M {
    fn json(&self) -> Value {
        json::to_json(&M::full_name(), self)
    }
}

/// An operation, implemented by its input.
pub(crate) trait Handler: Input {
    /// The response.
    type Response: Response;
    /// What the request names. It decides which permission the caller needs.
    type Target: Target;

    /// Number of times that the work is tried while it fails with [`ServiceError::Contended`].
    const ATTEMPTS: u32 = 1;

    /// Finds out what the request names.
    ///
    /// # Errors
    ///
    /// A name is malformed, or a microVM, whose image the permission is about, does not exist.
    fn target(&self, service: &Service, caller: &Caller) -> Result<Self::Target, ServiceError>;

    /// The client token of the request. Calls with the same token run one after the other.
    fn client_token(&self) -> Option<&str> {
        None
    }

    /// Looks up the client token: the response that an identical request got, or the token that the work has to store.
    ///
    /// # Errors
    ///
    /// [`ServiceError::Request`] if the token was used for another request, and errors of the store.
    fn replay(&self, _: &Service, _: &Caller) -> Result<Replay<Self::Response>, ServiceError> {
        Ok(Replay::New(ClientToken::default()))
    }

    /// Performs the operation. It runs again, with the same `call`, as long as [`Self::ATTEMPTS`] allow.
    ///
    /// # Errors
    ///
    /// Those of the operation.
    fn work(
        call: &mut Admitted<'_, Self>,
    ) -> impl Future<Output = Result<Self::Response, ServiceError>> + Send;
}

/// What a request names.
pub(crate) trait Target: Send {
    /// The permission that the caller needs.
    fn permission(&self) -> Permission<'_>;
}

/// A permission to perform an operation.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Permission<'a> {
    /// On an image, or on a microVM of that image.
    Image {
        /// Account of the image.
        account: &'a str,
        /// Name of the image.
        name: &'a str,
    },
    /// On no single image.
    Everything,
    /// None: what every known caller may do.
    Nothing,
}

/// The target of an operation that concerns no single image.
#[derive(Debug)]
pub(crate) struct NoImage<T = ()>(pub(crate) T);

impl<T: Send> Target for NoImage<T> {
    fn permission(&self) -> Permission<'_> {
        Permission::Everything
    }
}

/// The target of an operation that every known caller may call.
#[derive(Debug)]
pub(crate) struct Anybodys;

impl Target for Anybodys {
    fn permission(&self) -> Permission<'_> {
        Permission::Nothing
    }
}

impl Target for ImageName {
    fn permission(&self) -> Permission<'_> {
        Permission::Image { account: &self.account, name: &self.name }
    }
}

impl Target for MicrovmRecord {
    fn permission(&self) -> Permission<'_> {
        Permission::Image { account: &self.account, name: &self.image_name }
    }
}

/// A call that has passed all checks.
pub(crate) struct Admitted<'a, H: Handler> {
    /// The service.
    pub(crate) service: &'a Service,
    /// The caller.
    pub(crate) caller: &'a Caller,
    /// The request.
    pub(crate) request: H,
    /// What the request names.
    pub(crate) target: H::Target,
    /// The client token, to be stored together with the changes that the work makes.
    pub(crate) token: ClientToken,
    /// Keeps others from making one.
    _checked: (),
}

/// A call that the observer does not know of yet. If its future is dropped, because the client has disconnected, what
/// it has begun may go on: then the observer is notified of a call without an answer.
struct Unanswered<'a> {
    observer: &'a dyn CallObserver,
    operation: Operation,
    incoming: &'a Incoming,
    /// The request for the observer; none once it is notified.
    request: Option<Value>,
}

impl Unanswered<'_> {
    /// Notifies the observer, once.
    fn observe(&mut self, response: Value, error: Option<&ServiceError>) -> Recorded {
        let Some(request) = self.request.take() else { return Recorded::default() };
        let incoming = self.incoming;
        self.observer.called(Call {
            operation: self.operation,
            caller: incoming.caller.as_ref().ok(),
            request_id: &incoming.request_id,
            address: &incoming.address,
            user_agent: &incoming.user_agent,
            request,
            response,
            error,
            took: incoming.since.elapsed(),
        })
    }
}

impl Drop for Unanswered<'_> {
    fn drop(&mut self) {
        drop(self.observe(Value::Null, Some(&ServiceError::Disconnected)));
    }
}

impl Service {
    /// Performs an operation, and notifies the observer when it is answered, or its stream begins, or its future is
    /// dropped. A panic becomes an internal error.
    ///
    /// # Errors
    ///
    /// Those of the checks and of the work.
    pub(crate) async fn call<H: Handler>(
        &self,
        incoming: &Incoming,
        input: H,
    ) -> Result<H::Response, ServiceError> {
        self.call_named(incoming, input, &[]).await
    }

    /// [`Self::call`] for front ends whose requests have enumeration values by name. `unknown` are names that do not
    /// exist: the first stands in the request as number -1, the second as -2, and so on, so that they are refused by
    /// their names.
    ///
    /// # Errors
    ///
    /// Those of [`Self::call`].
    pub(crate) async fn call_named<H: Handler>(
        &self,
        incoming: &Incoming,
        input: H,
        unknown: &[String],
    ) -> Result<H::Response, ServiceError> {
        let operation = <H::Message as Request>::OPERATION;
        let observer = self.parts().observer.as_ref();
        let wanted = observer.wants(operation);
        let request = match input.message() {
            Ok(message) if wanted => json::to_json(<H::Message as Request>::MESSAGE, message),
            _ => Value::Null,
        };
        let mut unanswered = Unanswered { observer, operation, incoming, request: Some(request) };
        let result = match &incoming.caller {
            Ok(caller) => {
                let id = &incoming.request_id;
                let span = tracing::info_span!("call", operation = operation.name(), request = id);
                let performed = panics::request(self.perform(caller, input, unknown).instrument(span)).await;
                performed.unwrap_or_else(|_| Err(ServiceError::panicked()))
            }
            Err(unknown) => Err(ServiceError::from(*unknown)),
        };
        let result = if operation.is_of_tags() { result.map_err(ServiceError::of_tags) } else { result };
        let error = result.as_ref().err();
        if let Some(error) = error.filter(|error| error.is_internal()) {
            let cause = error.cause().unwrap_or_default();
            tracing::error!(request = incoming.request_id, operation = operation.name(), %error, %cause, "a call has failed");
        }
        let response = result.as_ref().ok().filter(|_| wanted).map_or(Value::Null, Response::json);
        unanswered.observe(response, error).done().await;
        result
    }

    /// Refuses a call of an unknown caller before anything of its request is received, and notifies the observer.
    pub(crate) fn refuse(
        &self,
        operation: Operation,
        incoming: &Incoming,
        unknown: UnknownCaller,
    ) -> ServiceError {
        let error = ServiceError::from(unknown);
        let error = if operation.is_of_tags() { error.of_tags() } else { error };
        let observer = self.parts().observer.as_ref();
        let mut unanswered = Unanswered { observer, operation, incoming, request: Some(Value::Null) };
        drop(unanswered.observe(Value::Null, Some(&error))); // nobody waits for lines of unknown callers
        error
    }

    /// The steps from the rate to the work.
    async fn perform<H: Handler>(
        &self,
        caller: &Caller,
        input: H,
        unknown: &[String],
    ) -> Result<H::Response, ServiceError> {
        let operation = <H::Message as Request>::OPERATION;
        self.quotas().call(&caller.account, operation)?;
        Constraints::of(self.config().profile).check_named(input.message()?, unknown)?;
        let target = input.target(self, caller)?;
        self.permit(caller, operation, target.permission())?;
        // Identical concurrent calls run one after the other, so that the repeated ones take up nothing for a moment.
        let client_token = input.client_token().map(str::to_owned);
        let _turn = self.turn(caller, operation, client_token.as_deref()).await;
        let token = ClientToken::default();
        let mut call = Admitted { service: self, caller, request: input, target, token, _checked: () };
        let mut attempts = H::ATTEMPTS;
        loop {
            call.token = match call.request.replay(self, caller)? {
                Replay::Answered(response) => return Ok(response),
                Replay::New(token) => token,
            };
            let error = match H::work(&mut call).await {
                Ok(response) => return Ok(response),
                Err(error) => error,
            };
            attempts = attempts.saturating_sub(1);
            if attempts > 0 && matches!(error, ServiceError::Contended { .. }) {
                continue;
            }
            // An identical call whose client has disconnected may have been completed in the meantime, and be the
            // reason for the error.
            return match call.request.replay(self, caller)? {
                Replay::Answered(response) => Ok(response),
                Replay::New(_) => Err(error),
            };
        }
    }

    /// Checks that a policy gives the caller a permission. Nobody has one on the images of another account.
    fn permit(
        &self,
        caller: &Caller,
        operation: Operation,
        permission: Permission<'_>,
    ) -> Result<(), Denied> {
        let (allowed, resource) = match permission {
            Permission::Nothing => return Ok(()),
            Permission::Everything => (caller.may(operation, None), None),
            Permission::Image { account, name } => {
                (account == caller.account && caller.may(operation, Some(name)), Some((account, name)))
            }
        };
        if allowed {
            return Ok(());
        }
        Err(self.denied(caller, operation, resource))
    }

    /// The refusal of an operation on an image, given by account and name, or on everything.
    pub(crate) fn denied(
        &self,
        caller: &Caller,
        operation: Operation,
        resource: Option<(&str, &str)>,
    ) -> Denied {
        let arn = resource.map(|(account, name)| self.config().image_arn(account, name));
        Denied::AccessDenied {
            principal: caller.principal.clone(),
            action: operation.name(),
            resource: arn.unwrap_or_else(|| "*".to_owned()),
        }
    }
}
