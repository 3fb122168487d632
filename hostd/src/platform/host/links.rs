//! Networks in the pool, before they have a microVM.

use std::fmt;
use std::sync::Arc;

use hearth_host::network::{Egress, MicrovmNetwork, NetworkError, Networks};

use super::names::InUse;

/// The egress of a network, as a kind of the pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct LinkKind(pub(super) Egress);

impl fmt::Display for LinkKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            Egress::Internet => "internet",
            Egress::None => "none",
        })
    }
}

/// Makes and removes networks.
#[derive(Debug, Clone)]
pub(super) struct LinkFactory {
    pub(super) networks: Arc<Networks>,
    pub(super) in_use: Arc<InUse>,
}

/// A network that waits for a microVM. Dropping it removes the network.
#[derive(Debug)]
pub(super) struct Link {
    network: Option<MicrovmNetwork>,
    maker: LinkFactory,
}

impl LinkFactory {
    pub(super) fn make(&self, kind: LinkKind) -> Result<Link, NetworkError> {
        let names = self.networks.names()?;
        let name = self.in_use.take_network(|name| names.iter().any(|other| other == name));
        match self.networks.create(&name, kind.0) {
            Ok(made) => Ok(Link { network: Some(made), maker: self.clone() }),
            Err(error) => {
                self.in_use.release_network(&name);
                Err(error)
            }
        }
    }

    /// Removes a network; it may be gone already.
    pub(super) fn remove(&self, name: &str) -> Result<(), NetworkError> {
        self.networks.remove_by_name(name)?;
        self.in_use.release_network(name);
        Ok(())
    }
}

impl Link {
    /// The network's name.
    pub(super) fn name(&self) -> Option<&str> {
        self.network.as_ref().map(MicrovmNetwork::name)
    }

    /// Hands the network over to the microVM whose records contain its name: dropping this no longer removes it.
    pub(super) fn claim(mut self) -> Option<MicrovmNetwork> {
        self.network.take()
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        if let Some(name) = self.network.take().map(|network| network.name().to_owned()) {
            let _ = self.maker.remove(&name); // if removal fails, a later sweep removes the network once no microVM has its name
        }
    }
}
