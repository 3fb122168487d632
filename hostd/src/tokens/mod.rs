//! Tokens for endpoints: JWE dir/A256GCM.
