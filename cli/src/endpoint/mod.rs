//! The HTTPS endpoints of microVMs, and how to reach them.
//!
//! * [`target`] – `ID[:PORT][/PATH]`, as users write it
//! * [`address`] – a microVM's endpoint: its name, the host's address, the authority to trust
//! * [`dial`] – TLS connections to it
//! * [`token`] – tokens for it
//! * [`refusal`] – messages for its errors

mod address;
mod dial;
mod refusal;
mod target;
mod token;

pub(crate) use self::address::{EndpointAddress, endpoints, url};
pub(crate) use self::dial::{DialError, Dialer};
pub(crate) use self::refusal::{ERROR, UNAUTHORIZED, refusal};
pub(crate) use self::target::Target;
pub(crate) use self::token::{AUTH, PORT, Tokens, http_token, shell_token};
