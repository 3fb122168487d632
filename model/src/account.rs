//! Accounts.

/// The account of managed resources, which all accounts share.
pub const AWS: &str = "aws";

/// Whether the text is an account: 12 digits.
#[must_use]
pub fn is_account(text: &str) -> bool {
    text.len() == 12 && text.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_has_twelve_digits() {
        assert!(is_account("123456789012") && is_account("000000000000"));
        for wrong in ["", "12345678901", "1234567890123", "12345678901x", "１２３４", AWS] {
            assert!(!is_account(wrong), "{wrong}");
        }
    }
}
