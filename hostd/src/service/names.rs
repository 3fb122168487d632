//! Names: ARNs, identifiers, versions, connectors.

use hearth_host::roles::is_account;

use super::error::{NameError, ServiceError};
use super::{Profile, ServiceConfig};

/// The middle part of the ARNs of managed connectors, before their name.
const MANAGED_CONNECTOR: &str = "aws:network-connector:aws-network-connector:";
/// The account of managed resources, which all accounts share.
const AWS: &str = "aws";
/// Name of the base image.
const BASE_IMAGE: &str = "al2023-1";
/// Greatest length of an image's name.
const MAX_NAME: usize = 64;

/// A managed connector, which every account can use (docs/behaviour.md, "Network connectors").
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

    /// Whether the connector concerns incoming traffic.
    #[must_use]
    pub fn is_ingress(self) -> bool {
        !matches!(self, Self::InternetEgress | Self::NoEgress)
    }
}

/// An image as a request names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageName {
    /// Account of the image: 12 digits, or `aws` for base images.
    pub account: String,
    /// Name of the image.
    pub name: String,
}

impl ServiceConfig {
    /// ARN of an image.
    #[must_use]
    pub fn image_arn(&self, account: &str, name: &str) -> String {
        format!("arn:aws:lambda:{}:{account}:microvm-image:{name}", self.region)
    }

    /// ARN of the base image.
    #[must_use]
    pub fn base_image_arn(&self) -> String {
        self.image_arn(AWS, BASE_IMAGE)
    }

    /// Whether an identifier names the base image of this host: by ARN or, in the default profile, by name.
    #[must_use]
    pub fn is_base_image(&self, identifier: &str) -> bool {
        let identifier = decoded(identifier);
        identifier == self.base_image_arn() || self.profile == Profile::Default && identifier == BASE_IMAGE
    }

    /// ARN of a connector.
    #[must_use]
    pub fn connector_arn(&self, connector: Connector) -> String {
        format!("arn:aws:lambda:{}:{MANAGED_CONNECTOR}{}", self.region, connector.name())
    }

    /// The image that an identifier names: an ARN, whose colons may be percent-encoded, or, in the default profile, a
    /// name in `account`.
    ///
    /// # Errors
    ///
    /// [`NameError::InvalidArn`], [`NameError::OtherRegion`].
    pub fn image_name(&self, account: &str, identifier: &str) -> Result<ImageName, NameError> {
        let decoded = decoded(identifier);
        let invalid = || NameError::InvalidArn(identifier.to_owned());
        if !decoded.starts_with("arn:") {
            let bare = self.profile == Profile::Default && is_name(&decoded);
            return bare
                .then(|| ImageName { account: account.to_owned(), name: decoded })
                .ok_or_else(invalid);
        }
        let parts: Vec<&str> = decoded.split(':').collect();
        let ["arn", partition, "lambda", region, owner, "microvm-image", name] = parts.as_slice() else {
            return Err(invalid());
        };
        if !partition.starts_with("aws") || !is_name(name) || !(*owner == AWS || is_account(owner)) {
            return Err(invalid());
        }
        if *region != self.region {
            return Err(NameError::OtherRegion { arn: decoded.clone(), region: self.region.clone() });
        }
        Ok(ImageName { account: (*owner).to_owned(), name: (*name).to_owned() })
    }

    /// [`Self::image_name`] for RunMicrovm, which has a different error for what is no ARN.
    ///
    /// # Errors
    ///
    /// [`NameError::NotAnArn`], and the errors of [`Self::image_name`].
    pub fn image_to_run(&self, account: &str, identifier: &str) -> Result<ImageName, NameError> {
        if self.profile == Profile::AwsStrict && !decoded(identifier).starts_with("arn:") {
            return Err(NameError::NotAnArn);
        }
        self.image_name(account, identifier)
    }

    /// The connectors that a list of ARNs names; `field` is the member of the request that contains the list.
    ///
    /// # Errors
    ///
    /// A connector is not an ARN of one, is unknown, is of the other direction, or is repeated.
    pub fn connectors(
        &self,
        arns: &[String],
        field: &'static str,
        ingress: bool,
    ) -> Result<Vec<Connector>, NameError> {
        let mut connectors = Vec::new();
        for arn in arns {
            let connector = self.connector(arn, field)?;
            if connector.is_ingress() != ingress {
                return Err(NameError::ConnectorKind { field, arn: arn.clone() });
            }
            if connectors.contains(&connector) {
                return Err(NameError::ConnectorRepeated { field, arn: arn.clone() });
            }
            connectors.push(connector);
        }
        Ok(connectors)
    }

    fn connector(&self, arn: &str, field: &'static str) -> Result<Connector, NameError> {
        let malformed = || NameError::ConnectorMalformed { field };
        let unknown = || NameError::ConnectorUnknown { field, arn: arn.to_owned() };
        let parts: Vec<&str> = arn.splitn(6, ':').collect();
        let ["arn", _, "lambda", region, _, resource] = parts.as_slice() else { return Err(malformed()) };
        if !resource.starts_with("network-connector:") {
            return Err(malformed());
        }
        let name = arn.split_once(MANAGED_CONNECTOR).map(|(_, name)| name).ok_or_else(unknown)?;
        let connector = Connector::named(name).ok_or_else(unknown)?;
        let strange = connector == Connector::NoEgress && self.profile == Profile::AwsStrict;
        if strange || *region != self.region { Err(unknown()) } else { Ok(connector) }
    }
}

/// The major number of a version: `3` of `3` and of `3.0`.
#[must_use]
pub fn version_number(version: &str) -> Option<u32> {
    let major = version.strip_suffix(".0").unwrap_or(version);
    let number: u32 = major.parse().ok()?;
    (number > 0 && number.to_string() == major).then_some(number)
}

/// The text of a version: `3.0` for 3.
#[must_use]
pub fn version_text(number: u32) -> String {
    format!("{number}.0")
}

/// Whether a text is a valid name of an image.
#[must_use]
pub fn is_name(text: &str) -> bool {
    let of_name = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    (1..=MAX_NAME).contains(&text.len()) && text.bytes().all(of_name)
}

/// The text with percent-encoded bytes decoded. A text without such bytes, or whose decoded bytes are not UTF-8, is
/// returned unchanged.
fn decoded(text: &str) -> String {
    if !text.contains('%') {
        return text.to_owned();
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, behind)) = rest.split_first() {
        let digits = behind.get(..2).and_then(|digits| std::str::from_utf8(digits).ok());
        match digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(value) if byte == b'%' => {
                bytes.push(value);
                rest = behind.get(2..).unwrap_or_default();
            }
            _ => {
                bytes.push(byte);
                rest = behind;
            }
        }
    }
    String::from_utf8(bytes).unwrap_or_else(|_| text.to_owned())
}

/// Random bytes.
///
/// # Errors
///
/// The system has no random numbers.
pub fn random<const N: usize>() -> Result<[u8; N], ServiceError> {
    use ring::rand::SecureRandom as _;
    let mut bytes = [0; N];
    ring::rand::SystemRandom::new()
        .fill(&mut bytes)
        .map_err(|_| ServiceError::internal("the system has no random numbers"))?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(profile: Profile) -> ServiceConfig {
        ServiceConfig { profile, ..ServiceConfig::default() }
    }

    const ARN: &str = "arn:aws:lambda:us-east-1:111122223333:microvm-image:demo";

    fn demo() -> ImageName {
        ImageName { account: "111122223333".into(), name: "demo".into() }
    }

    #[test]
    fn an_image_is_named_by_arn_or_name() {
        let config = config(Profile::Default);
        assert_eq!(config.image_name("444455556666", ARN).unwrap(), demo());
        assert_eq!(config.image_name("444455556666", &ARN.replace(':', "%3A")).unwrap(), demo());
        assert_eq!(config.image_name("111122223333", "demo").unwrap(), demo());
        assert_eq!(config.image_to_run("111122223333", "demo").unwrap(), demo());
    }

    #[test]
    fn only_arns_name_an_image_when_strict() {
        let config = config(Profile::AwsStrict);
        assert_eq!(config.image_name("444455556666", ARN).unwrap(), demo());
        let error = config.image_name("111122223333", "demo").unwrap_err();
        assert_eq!(error.to_string(), "Invalid ARN format: demo");
        let error = config.image_to_run("111122223333", "demo").unwrap_err();
        assert_eq!(error.to_string(), "Malformed ARN - doesn't start with 'arn:'");
    }

    #[test]
    fn what_names_no_image_is_refused() {
        let config = config(Profile::Default);
        for bad in [
            "de mo",
            "a/b",
            "..",
            "arn:aws:lambda:us-east-1:111122223333:microvm-image/demo",
            "arn:aws:lambda:us-east-1:111122223333:microvm-image:demo:1.0",
            "arn:aws:lambda:us-east-1:111122223333:function:demo",
            "arn:aws:lambda:us-east-1:1111/2222333:microvm-image:demo",
            "arn:aws:lambda:us-east-1:111122223333:microvm-image:de%2Fmo",
            "arn:aws:s3:us-east-1:111122223333:microvm-image:demo",
            "%",
            "%zz",
            "%ff%fe",
            "",
        ] {
            let error = config.image_name("111122223333", bad).unwrap_err();
            assert_eq!(error.to_string(), format!("Invalid ARN format: {bad}"));
        }
        let error = config.image_name("111122223333", &ARN.replace("us-east-1", "eu-west-1")).unwrap_err();
        assert!(matches!(error, NameError::OtherRegion { .. }));
    }

    #[test]
    fn connectors_are_known_of_their_kind_and_there_once() {
        let config = config(Profile::Default);
        let http = config.connector_arn(Connector::HttpIngress);
        let shell = config.connector_arn(Connector::ShellIngress);
        let none = config.connector_arn(Connector::NoEgress);
        assert_eq!(http, "arn:aws:lambda:us-east-1:aws:network-connector:aws-network-connector:HTTP_INGRESS");
        let both = config.connectors(&[http.clone(), shell], "ingressNetworkConnectors", true).unwrap();
        assert_eq!(both, [Connector::HttpIngress, Connector::ShellIngress]);
        let message =
            |arns: &[String], ingress| config.connectors(arns, "x", ingress).unwrap_err().to_string();
        assert_eq!(message(&["HTTP_INGRESS".into()], true), "Malformed network connector ARN");
        let odd = http.replace("HTTP", "ODD");
        assert_eq!(
            message(std::slice::from_ref(&odd), true),
            format!("Unrecognized managed network connector ARN: {odd}")
        );
        assert!(message(std::slice::from_ref(&http), false).contains("cannot be used"));
        assert!(message(&[http.clone(), http], true).contains("more than once"));
        assert_eq!(
            config.connectors(std::slice::from_ref(&none), "x", false).unwrap(),
            [Connector::NoEgress]
        );
        let strict =
            self::config(Profile::AwsStrict).connectors(std::slice::from_ref(&none), "x", false).unwrap_err();
        assert_eq!(strict.to_string(), format!("Unrecognized managed network connector ARN: {none}"));
    }

    #[test]
    fn versions_are_numbers() {
        assert_eq!(version_number("1"), Some(1));
        assert_eq!(version_number("12.0"), Some(12));
        for bad in ["", "0", "0.0", "01", "+1", "1.1", "1.0.0", "-1", "4294967296", "a"] {
            assert_eq!(version_number(bad), None, "{bad}");
        }
        assert_eq!(version_text(3), "3.0");
    }
}
