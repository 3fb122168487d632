//! The address of metrics.

use std::net::{Ipv4Addr, SocketAddr};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The metrics server.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct MetricsConfig {
    /// Where Prometheus finds `/metrics`, and load balancers `/healthz`, over plain HTTP without authentication; or
    /// `"off"`. They show accounts and amounts, no names of images or microVMs.
    #[schemars(with = "String")]
    pub listen: Listen,
}

/// An address, or none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Listen {
    /// Metrics are not served.
    Off,
    /// Metrics are served at this address.
    At(SocketAddr),
}

impl Default for Listen {
    fn default() -> Self {
        Self::At((Ipv4Addr::LOCALHOST, 9464).into())
    }
}

impl TryFrom<String> for Listen {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        if text == "off" {
            return Ok(Self::Off);
        }
        let at = text.parse();
        at.map(Self::At)
            .map_err(|_| format!("{text:?} is neither ADDRESS:PORT, like 127.0.0.1:9464, nor \"off\""))
    }
}

impl From<Listen> for String {
    fn from(listen: Listen) -> Self {
        match listen {
            Listen::Off => "off".into(),
            Listen::At(address) => address.to_string(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_or_off_is_read_and_nothing_else() {
        let read = |text: &str| toml::from_str::<MetricsConfig>(text).map(|config| config.listen);
        assert_eq!(read("").unwrap(), Listen::At("127.0.0.1:9464".parse().unwrap()));
        assert_eq!(read("listen = \"off\"").unwrap(), Listen::Off);
        assert_eq!(read("listen = \"[::1]:80\"").unwrap(), Listen::At("[::1]:80".parse().unwrap()));
        assert!(read("listen = \"localhost\"").unwrap_err().to_string().contains("127.0.0.1:9464"));
        assert!(read("address = \"off\"").is_err());
        assert_eq!(String::from(Listen::default()), "127.0.0.1:9464");
    }
}
