//! Network connectors (docs/behaviour.md, "Network connectors").

/// What precedes a managed connector's name in its ARN, behind the region.
const MANAGED: &str = "aws:network-connector:aws-network-connector:";

/// A managed connector, which every account can use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Connector {
    /// Allows requests to the ports that a token permits.
    HttpIngress,
    /// Allows shells.
    ShellIngress,
    /// Allows requests and shells. This connector cannot be combined with others.
    AllIngress,
    /// Allows nothing: the endpoint has a name but serves no client.
    NoIngress,
    /// Allows connections to the internet.
    InternetEgress,
    /// Allows no outgoing connections. This connector is Hearth's own and does not exist in the profile `aws-strict`.
    NoEgress,
}

/// Why a text names no managed connector.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotAConnector {
    /// The text is no ARN of a network connector.
    #[error("it is no ARN of a network connector")]
    Malformed,
    /// There is no such managed connector.
    #[error("there is no such managed network connector")]
    Unknown,
}

impl Connector {
    const ALL: [Self; 6] = [
        Self::HttpIngress,
        Self::ShellIngress,
        Self::AllIngress,
        Self::NoIngress,
        Self::InternetEgress,
        Self::NoEgress,
    ];

    /// Name of the connector in ARNs.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::HttpIngress => "HTTP_INGRESS",
            Self::ShellIngress => "SHELL_INGRESS",
            Self::AllIngress => "ALL_INGRESS",
            Self::NoIngress => "NO_INGRESS",
            Self::InternetEgress => "INTERNET_EGRESS",
            Self::NoEgress => "NO_EGRESS",
        }
    }

    /// The connector with this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|connector| connector.name() == name)
    }

    /// The connector of an ARN that has been checked before.
    #[must_use]
    pub fn of_arn(arn: &str) -> Option<Self> {
        arn.rsplit(':').next().and_then(Self::named)
    }

    /// The region and the connector of an ARN.
    ///
    /// # Errors
    ///
    /// [`NotAConnector`].
    pub fn parse(arn: &str) -> Result<(&str, Self), NotAConnector> {
        let parts: Vec<&str> = arn.splitn(6, ':').collect();
        let ["arn", _, "lambda", region, _, resource] = parts.as_slice() else {
            return Err(NotAConnector::Malformed);
        };
        if !resource.starts_with("network-connector:") {
            return Err(NotAConnector::Malformed);
        }
        let name = arn.split_once(MANAGED).map(|(_, name)| name);
        let connector = name.and_then(Self::named).ok_or(NotAConnector::Unknown)?;
        Ok((region, connector))
    }

    /// Whether the connector concerns incoming traffic.
    #[must_use]
    pub fn is_ingress(self) -> bool {
        !matches!(self, Self::InternetEgress | Self::NoEgress)
    }
}

/// The ARN of the managed connector with this name, which need not exist.
#[must_use]
pub fn arn(region: &str, name: &str) -> String {
    format!("arn:aws:lambda:{region}:{MANAGED}{name}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_arn_names_its_connector() {
        for connector in Connector::ALL {
            let arn = arn("us-east-1", connector.name());
            assert_eq!(Connector::parse(&arn), Ok(("us-east-1", connector)));
            assert_eq!(Connector::of_arn(&arn), Some(connector));
        }
        let http = arn("us-east-1", "HTTP_INGRESS");
        assert_eq!(http, "arn:aws:lambda:us-east-1:aws:network-connector:aws-network-connector:HTTP_INGRESS");
    }

    #[test]
    fn other_texts_are_told_apart() {
        for (text, why) in [
            ("HTTP_INGRESS", NotAConnector::Malformed),
            ("arn:aws:lambda:r:aws:microvm-image:HTTP_INGRESS", NotAConnector::Malformed),
            ("arn:aws:lambda:r:1:network-connector:mine:HTTP_INGRESS", NotAConnector::Unknown),
            (arn("r", "ODD_INGRESS").as_str(), NotAConnector::Unknown),
            (arn("r", "").as_str(), NotAConnector::Unknown),
        ] {
            assert_eq!(Connector::parse(text), Err(why), "{text}");
        }
    }
}
