//! Errors about names: ARNs, identifiers, connectors.

use super::exception::{Family, Kind};

/// Errors about names: ARNs, identifiers, connectors.
#[derive(Debug, Clone, thiserror::Error)]
pub enum NameError {
    /// RunMicrovm received an identifier that is no ARN, in the profile `aws-strict`.
    #[error("Malformed ARN - doesn't start with 'arn:'")]
    NotAnArn,
    /// The identifier of an image is neither the ARN of one nor a valid name.
    #[error("Invalid ARN format: {0}")]
    InvalidArn(String),
    /// The ARN is one of another Region.
    #[error("The resource {arn} is not in {region}, the Region of this host")]
    OtherRegion {
        /// The ARN.
        arn: String,
        /// This host's Region.
        region: String,
    },
    /// A resource that cannot have tags.
    #[error("The resource {0} cannot be tagged: only MicroVM images can")]
    NotTaggable(String),
    /// The connector is not the ARN of a network connector.
    #[error("Malformed network connector ARN")]
    ConnectorMalformed {
        /// The member of the request that contains the connector.
        field: &'static str,
    },
    /// No connector has this ARN.
    #[error("Unrecognized managed network connector ARN: {arn}")]
    ConnectorUnknown {
        /// The member of the request that contains the connector.
        field: &'static str,
        /// The ARN from the request.
        arn: String,
    },
    /// An egress connector among the ingress connectors, or the other way round.
    #[error("The network connector {arn} cannot be used in {field}")]
    ConnectorKind {
        /// The member of the request that contains the connector.
        field: &'static str,
        /// The ARN from the request.
        arn: String,
    },
    /// The connector is given twice.
    #[error("The network connector {arn} is given more than once in {field}")]
    ConnectorRepeated {
        /// The member of the request that contains the connector.
        field: &'static str,
        /// The ARN from the request.
        arn: String,
    },
    /// More than one egress connector is given.
    #[error("Only one network connector can be given in {field}")]
    ConnectorsTooMany {
        /// The member of the request that contains the connectors.
        field: &'static str,
    },
}

impl Family for NameError {
    fn kind(&self) -> Kind {
        Kind::Validation
    }

    fn field(&self) -> Option<&str> {
        Some(match self {
            Self::NotAnArn | Self::InvalidArn(_) | Self::OtherRegion { .. } => "imageIdentifier",
            Self::NotTaggable(_) => "Resource",
            Self::ConnectorMalformed { field }
            | Self::ConnectorUnknown { field, .. }
            | Self::ConnectorKind { field, .. }
            | Self::ConnectorRepeated { field, .. }
            | Self::ConnectorsTooMany { field } => field,
        })
    }
}
