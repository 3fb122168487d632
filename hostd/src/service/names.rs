//! Names in requests: the images and connectors that they mean on this host.

use std::borrow::Cow;

use hearth_model::arn::is_arn;
use hearth_model::connector::{self, Connector, NotAConnector};
use hearth_model::image::{BASE_IMAGE, ImageArn, ImageName, is_name};
use percent_encoding::percent_decode_str;

use super::error::{NameError, ServiceError};
use super::{Profile, ServiceConfig};

impl ServiceConfig {
    /// ARN of an image.
    #[must_use]
    pub fn image_arn(&self, account: &str, name: &str) -> String {
        ImageArn::new(&self.region, account, name).to_string()
    }

    /// ARN of the base image.
    #[must_use]
    pub fn base_image_arn(&self) -> String {
        ImageArn::base(&self.region, BASE_IMAGE).to_string()
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
        connector::arn(&self.region, connector.name())
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
        if !is_arn(&decoded) {
            let bare = self.profile == Profile::Default && is_name(&decoded);
            return bare
                .then(|| ImageName { account: account.to_owned(), name: decoded })
                .ok_or_else(invalid);
        }
        let arn = ImageArn::parse(&decoded).ok_or_else(invalid)?;
        if arn.region != self.region {
            return Err(NameError::OtherRegion { arn: decoded, region: self.region.clone() });
        }
        Ok(arn.image)
    }

    /// [`Self::image_name`] for RunMicrovm, which has a different error for what is no ARN.
    ///
    /// # Errors
    ///
    /// [`NameError::NotAnArn`], and the errors of [`Self::image_name`].
    pub fn image_to_run(&self, account: &str, identifier: &str) -> Result<ImageName, NameError> {
        if self.profile == Profile::AwsStrict && !is_arn(&decoded(identifier)) {
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
        let unknown = || NameError::ConnectorUnknown { field, arn: arn.to_owned() };
        let (region, connector) = Connector::parse(arn).map_err(|error| match error {
            NotAConnector::Malformed => NameError::ConnectorMalformed { field },
            NotAConnector::Unknown => unknown(),
        })?;
        let strange = connector == Connector::NoEgress && self.profile == Profile::AwsStrict;
        if strange || region != self.region { Err(unknown()) } else { Ok(connector) }
    }
}

/// The text with percent-encoded bytes decoded. A text without such bytes, or whose decoded bytes are not UTF-8, is
/// returned unchanged.
fn decoded(text: &str) -> String {
    percent_decode_str(text).decode_utf8().map_or_else(|_| text.to_owned(), Cow::into_owned)
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
}
