//! What all ARNs have in common.

/// Whether the text claims to be an ARN; it may be a malformed one.
#[must_use]
pub fn is_arn(text: &str) -> bool {
    text.starts_with("arn:")
}

/// The name of the resource: the last part of an ARN of an image, role or connector. Other text is returned unchanged.
#[must_use]
pub fn resource_name(text: &str) -> &str {
    if !is_arn(text) {
        return text;
    }
    text.rsplit([':', '/']).next().unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_a_resource_is_the_end_of_its_arn() {
        assert_eq!(resource_name("arn:aws:lambda:us-east-1:123456789012:microvm-image:demo"), "demo");
        assert_eq!(resource_name("arn:aws:iam::123456789012:role/team/exec"), "exec");
        assert_eq!(resource_name("demo"), "demo");
        assert_eq!(resource_name("a/b"), "a/b", "no ARN");
    }
}
