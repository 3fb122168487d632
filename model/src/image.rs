//! Names and ARNs of images.

use std::fmt;

use crate::account::{AWS, is_account};

/// Name of the base image.
pub const BASE_IMAGE: &str = "al2023-1";
/// Greatest length of an image's name.
const MAX_NAME: usize = 64;

/// An image, by the account that owns it and its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageName {
    /// Account of the image: 12 digits, or `aws` for base images.
    pub account: String,
    /// Name of the image.
    pub name: String,
}

/// The ARN of an image. It is written `arn:aws:lambda:REGION:ACCOUNT:microvm-image:NAME`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageArn {
    /// Region of the image.
    pub region: String,
    /// The image.
    pub image: ImageName,
}

impl ImageArn {
    /// The ARN of an image. The parts are not checked.
    #[must_use]
    pub fn new(region: &str, account: &str, name: &str) -> Self {
        let image = ImageName { account: account.to_owned(), name: name.to_owned() };
        Self { region: region.to_owned(), image }
    }

    /// The ARN of a base image.
    #[must_use]
    pub fn base(region: &str, name: &str) -> Self {
        Self::new(region, AWS, name)
    }

    /// The image that an ARN in any partition of AWS names; none if the text is no ARN of an image. The region may be
    /// any text without a colon.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let parts: Vec<&str> = text.split(':').collect();
        let ["arn", partition, "lambda", region, account, "microvm-image", name] = parts.as_slice() else {
            return None;
        };
        let known = *account == AWS || is_account(account);
        (partition.starts_with("aws") && known && is_name(name)).then(|| Self::new(region, account, name))
    }
}

impl fmt::Display for ImageArn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { region, image: ImageName { account, name } } = self;
        write!(f, "arn:aws:lambda:{region}:{account}:microvm-image:{name}")
    }
}

/// Whether a text is a valid name of an image.
#[must_use]
pub fn is_name(text: &str) -> bool {
    let of_name = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    (1..=MAX_NAME).contains(&text.len()) && text.bytes().all(of_name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_arn_names_what_it_was_made_of() {
        for arn in [ImageArn::new("us-east-1", "111122223333", "de-mo_1"), ImageArn::base("x", BASE_IMAGE)] {
            assert_eq!(ImageArn::parse(&arn.to_string()), Some(arn));
        }
        let arn = ImageArn::base("eu-west-1", BASE_IMAGE).to_string();
        assert_eq!(arn, "arn:aws:lambda:eu-west-1:aws:microvm-image:al2023-1");
        let other = ImageArn::parse("arn:aws-us-gov:lambda:r:111122223333:microvm-image:demo");
        assert_eq!(other, Some(ImageArn::new("r", "111122223333", "demo")), "in another partition");
    }

    #[test]
    fn what_names_no_image_is_refused() {
        for bad in [
            "arn:aws:lambda:us-east-1:111122223333:microvm-image/demo",
            "arn:aws:lambda:us-east-1:111122223333:microvm-image:demo:1.0",
            "arn:aws:lambda:us-east-1:111122223333:microvm-image:",
            "arn:aws:lambda:us-east-1:111122223333:function:demo",
            "arn:aws:lambda:us-east-1:1111/2222333:microvm-image:demo",
            "arn:aws:lambda:us-east-1:111122223333:microvm-image:de/mo",
            "arn:aws:s3:us-east-1:111122223333:microvm-image:demo",
            "arn:minio:lambda:us-east-1:111122223333:microvm-image:demo",
            "demo",
            "",
        ] {
            assert_eq!(ImageArn::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_name_is_short_and_plain() {
        assert!(is_name("a") && is_name(&"x".repeat(64)));
        for bad in ["", "de mo", "a/b", "..", "ü", &"x".repeat(65)] {
            assert!(!is_name(bad), "{bad}");
        }
    }
}
