//! Clients of gRPC. They share a few connections.

use std::net::SocketAddr;
use std::path::Path;

use anyhow::{Context as _, Result};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hearth_proto::microvms::v1::microvm_service_client::MicrovmServiceClient;
use hearth_proto::microvms::v1::{GetMicrovmRequest, ListMicrovmsRequest};
use tonic::Request;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Channel, Endpoint};

use crate::PAGE;
use crate::requests::Client;
use crate::service::KEY;

/// Connections that the clients share.
const CONNECTIONS: usize = 4;

/// Connections to a server.
pub(crate) struct Grpc {
    channels: Vec<Channel>,
    authorization: Option<MetadataValue<Ascii>>,
}

impl Grpc {
    /// Connects to the daemon's socket, which knows its clients by their user.
    pub(crate) async fn on_socket(path: &Path) -> Result<Self> {
        Self::connect(format!("unix:{}", path.display()), None).await
    }

    /// Connects over TCP, where every request has the access key.
    pub(crate) async fn over_tcp(address: SocketAddr) -> Result<Self> {
        let (id, secret) = KEY;
        let authorization = format!("Basic {}", STANDARD.encode(format!("{id}:{secret}")));
        let authorization = authorization.parse().context("the access key cannot be in a header")?;
        Self::connect(format!("http://{address}"), Some(authorization)).await
    }

    async fn connect(uri: String, authorization: Option<MetadataValue<Ascii>>) -> Result<Self> {
        let endpoint = Endpoint::from_shared(uri)?.tcp_nodelay(true);
        let mut channels = Vec::new();
        for _ in 0..CONNECTIONS {
            channels.push(endpoint.connect().await.context("connecting to the service")?);
        }
        Ok(Self { channels, authorization })
    }

    /// So many clients.
    pub(crate) fn clients(&self, count: usize) -> Vec<GrpcClient> {
        let channels = self.channels.iter().cycle().take(count);
        let client = |channel: &Channel| GrpcClient {
            client: MicrovmServiceClient::new(channel.clone()),
            authorization: self.authorization.clone(),
            next: None,
        };
        channels.map(client).collect()
    }
}

/// A client.
pub(crate) struct GrpcClient {
    client: MicrovmServiceClient<Channel>,
    authorization: Option<MetadataValue<Ascii>>,
    /// `nextToken` of the page before.
    next: Option<String>,
}

impl GrpcClient {
    fn request<M>(&self, message: M) -> Request<M> {
        let mut request = Request::new(message);
        if let Some(authorization) = &self.authorization {
            request.metadata_mut().insert("authorization", authorization.clone());
        }
        request
    }
}

impl Client for GrpcClient {
    async fn get(&mut self, id: String) -> Result<()> {
        let request = self.request(GetMicrovmRequest { microvm_identifier: Some(id) });
        self.client.get_microvm(request).await?;
        Ok(())
    }

    async fn page(&mut self) -> Result<()> {
        let request = ListMicrovmsRequest {
            max_results: i32::try_from(PAGE).ok(),
            next_token: self.next.take(),
            ..ListMicrovmsRequest::default()
        };
        let request = self.request(request);
        let page = self.client.list_microvms(request).await?.into_inner();
        anyhow::ensure!(page.items.len() == PAGE, "a page has {} items", page.items.len());
        self.next = page.next_token;
        Ok(())
    }
}
