//! Errors about microVMs and their tokens.

use super::exception::{Family, Kind, Resource};

/// Errors about microVMs and their tokens.
#[derive(Debug, Clone, thiserror::Error)]
pub enum MicrovmError {
    /// The microVM does not exist.
    #[error("MicroVM not found: {0}")]
    NotFound(String),
    /// The state of the microVM does not allow this operation.
    #[error("The MicroVM {id} is in state {state}; {hint}")]
    State {
        /// Id of the microVM.
        id: String,
        /// State of the microVM.
        state: &'static str,
        /// Advice to the client.
        hint: &'static str,
    },
    /// The microVM has terminated, or is terminating.
    #[error("The MicroVM {0} has been terminated and its state cannot be changed.")]
    Terminated(String),
    /// The request has a payload for the run hook, but the image does not enable that hook.
    #[error("The run hook must be enabled in the MicroVM image to pass the run hook payload")]
    RunHookDisabled,
    /// The output is to go to a log, but the microVM has no role that could allow that.
    #[error("Logging cannot be enabled without providing executionRoleArn")]
    LoggingWithoutRole,
    /// The microVM has ALL_INGRESS beside other connectors; this is only detected when a token is requested.
    #[error(
        "ALL_INGRESS cannot be combined with other ingress network connectors; use HTTP_INGRESS and/or SHELL_INGRESS instead"
    )]
    AllIngressCombined,
    /// A shell token was requested for a microVM without the shell connector.
    #[error("Shell access requires SHELL_INGRESS network connector to be configured on the MicroVM.")]
    ShellIngressNeeded,
    /// A token for ports was requested for a microVM without an HTTP connector.
    #[error("Endpoint access requires HTTP_INGRESS network connector to be configured on the MicroVM.")]
    HttpIngressNeeded,
    /// The requested lifetime of a token is too long.
    #[error("ExpirationMinutes {minutes} exceeded max allowed of {max}.")]
    ExpirationTooLong {
        /// The requested lifetime, in minutes.
        minutes: i32,
        /// The longest lifetime allowed, in minutes.
        max: i32,
    },
    /// The start port of a range is greater than its end port.
    #[error("The start port {start} of a range must not be greater than its end port {end}")]
    PortRange {
        /// First port.
        start: i32,
        /// Last port.
        end: i32,
    },
}

impl Family for MicrovmError {
    fn kind(&self) -> Kind {
        match self {
            Self::NotFound(_) => Kind::NotFound,
            Self::State { .. } => Kind::Conflict,
            _ => Kind::Validation,
        }
    }

    fn field(&self) -> Option<&str> {
        match self {
            Self::NotFound(_) | Self::State { .. } => None,
            Self::RunHookDisabled => Some("runHookPayload"),
            Self::LoggingWithoutRole => Some("logging"),
            Self::ExpirationTooLong { .. } => Some("expirationInMinutes"),
            Self::PortRange { .. } => Some("allowedPorts"),
            Self::Terminated(_)
            | Self::AllIngressCombined
            | Self::ShellIngressNeeded
            | Self::HttpIngressNeeded => Some("microvmIdentifier"),
        }
    }

    fn resource(&self) -> Option<Resource> {
        match self {
            Self::NotFound(id) | Self::State { id, .. } => Some(Resource { kind: "Microvm", id: id.clone() }),
            _ => None,
        }
    }
}
