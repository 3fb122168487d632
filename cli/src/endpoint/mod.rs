//! The HTTPS endpoints of microVMs, and how to reach them.
//!
//! * [`target`] – `ID[:PORT][/PATH]`, as people write it
//! * [`place`] – a microVM's endpoint: its name, where the host listens, whom to trust
//! * [`dial`] – TLS connections to it
//! * [`token`] – tokens for it
//! * [`refusal`] – what its own errors mean

mod dial;
mod place;
mod refusal;
mod target;
mod token;

pub(crate) use self::dial::{DialError, Dialer};
pub(crate) use self::place::{Place, endpoints, url};
pub(crate) use self::refusal::{ERROR, UNAUTHORIZED, refusal};
pub(crate) use self::target::Target;
pub(crate) use self::token::{AUTH, PORT, Tokens, http_token, shell_token};
