//! Clients with access keys, over TCP.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hearth_proto::host::v1::host_service_client::HostServiceClient;
use hearth_proto::host::v1::{GetHostStatusRequest, PutArtifactRequest, put_artifact_request::Part};
use hearth_proto::microvms::v1::microvm_service_client::MicrovmServiceClient;
use hearth_proto::microvms::v1::{
    Capability, CodeArtifact, CreateMicrovmImageRequest, GetMicrovmImageRequest, GetMicrovmRequest,
    ListManagedMicrovmImagesRequest, Microvm, MicrovmImageState, MicrovmState, Resources,
    ResumeMicrovmRequest, SuspendMicrovmRequest, TerminateMicrovmRequest, code_artifact,
};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio_rustls::TlsConnector;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;
use tonic::{Request, Status};
use tower::service_fn;

use super::endpoint::{Endpoint, connect_from, token_request, trusting};
use super::until;

/// A channel with the credentials of an access key.
pub(crate) type Authorised = InterceptedService<Channel, Authorisation>;

/// Adds credentials to each request.
#[derive(Clone)]
pub(crate) struct Authorisation(MetadataValue<Ascii>);

impl Interceptor for Authorisation {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        request.metadata_mut().insert("authorization", self.0.clone());
        Ok(request)
    }
}

/// A channel whose requests have the credentials of an access key.
pub(crate) fn authorised(channel: &Channel, id: &str, secret: &str) -> Authorised {
    let value = STANDARD.encode(format!("{id}:{secret}"));
    let value: MetadataValue<Ascii> = format!("Basic {value}").parse().unwrap();
    InterceptedService::new(channel.clone(), Authorisation(value))
}

/// A listener of the API, with the authority of its certificate.
#[derive(Clone)]
pub(crate) struct Listener {
    pub(crate) address: SocketAddr,
    pub(crate) authority_pem: String,
}

impl Listener {
    /// TLS of its clients.
    pub(crate) fn tls(&self) -> TlsConnector {
        let mut tls = trusting(self.authority_pem.as_bytes());
        tls.alpn_protocols = vec![b"h2".to_vec()];
        TlsConnector::from(Arc::new(tls))
    }

    /// A channel that connects at its first use, from this address.
    pub(crate) fn channel(&self, from: Ipv4Addr) -> Channel {
        let (tls, address) = (self.tls(), self.address);
        let connect = move |_| {
            let tls = tls.clone();
            async move {
                let stream = connect_from(Some(from), address).await?;
                let name = ServerName::try_from("localhost").unwrap();
                Ok::<_, std::io::Error>(TokioIo::new(tls.connect(name, stream).await?))
            }
        };
        tonic::transport::Endpoint::from_static("http://localhost")
            .connect_with_connector_lazy(service_fn(connect))
    }
}

/// An account at the API, with the access key of the same name.
#[derive(Clone)]
pub(crate) struct Tenant {
    /// The account's number.
    account: String,
    from: Ipv4Addr,
    channel: Authorised,
}

impl Tenant {
    /// The owner of an access key, whose connections come from this address.
    pub(crate) fn new(
        listener: &Listener,
        from: Ipv4Addr,
        (key, secret): (&str, &str),
        account: &str,
    ) -> Self {
        let channel = authorised(&listener.channel(from), key, secret);
        Self { account: account.into(), from, channel }
    }

    /// A client of the operations of AWS.
    pub(crate) fn api(&self) -> MicrovmServiceClient<Authorised> {
        MicrovmServiceClient::new(self.channel.clone())
    }

    /// A client of the host's own operations.
    pub(crate) fn host(&self) -> HostServiceClient<Authorised> {
        HostServiceClient::new(self.channel.clone())
    }

    /// Builds an image of the smallest class without hooks from a zip, and waits until it is there.
    pub(crate) async fn build(&self, name: &str, zip: Vec<u8>, capabilities: &[Capability]) {
        let create = self.image_request(name, zip, capabilities).await;
        self.api().create_microvm_image(create).await.unwrap();
        let state = until(&format!("the image {name} is built"), async || {
            let request = GetMicrovmImageRequest { image_identifier: Some(name.into()) };
            let state = self.api().get_microvm_image(request).await.unwrap().into_inner().state();
            (state != MicrovmImageState::Creating).then_some(state)
        })
        .await;
        assert_eq!(state, MicrovmImageState::Created);
    }

    /// A request for such an image.
    pub(crate) async fn image_request(
        &self,
        name: &str,
        zip: Vec<u8>,
        capabilities: &[Capability],
    ) -> CreateMicrovmImageRequest {
        let bases = ListManagedMicrovmImagesRequest::default();
        let bases = self.api().list_managed_microvm_images(bases).await.unwrap().into_inner();
        CreateMicrovmImageRequest {
            name: Some(name.into()),
            base_image_arn: Some(bases.items.into_iter().next().unwrap().image_arn),
            build_role_arn: Some(format!("arn:aws:iam::{}:role/build", self.account)),
            code_artifact: Some(CodeArtifact {
                artifact: Some(code_artifact::Artifact::Uri(self.upload(name, zip).await.unwrap())),
            }),
            resources: vec![Resources { minimum_memory_in_mib: Some(512) }],
            additional_os_capabilities: capabilities.iter().map(|&capability| capability.into()).collect(),
            ..Default::default()
        }
    }

    /// Stores a zip in the account's bucket.
    pub(crate) async fn upload(&self, name: &str, zip: Vec<u8>) -> Result<String, Status> {
        let mut parts = vec![PutArtifactRequest { part: Some(Part::Name(format!("{name}.zip"))) }];
        parts.extend(
            zip.chunks(128 << 10).map(|data| PutArtifactRequest { part: Some(Part::Data(data.to_vec())) }),
        );
        Ok(self.host().put_artifact(tokio_stream::iter(parts)).await?.into_inner().uri)
    }

    /// A microVM.
    pub(crate) async fn get(&self, id: &str) -> Result<Microvm, Status> {
        let request = GetMicrovmRequest { microvm_identifier: Some(id.into()) };
        Ok(self.api().get_microvm(request).await?.into_inner())
    }

    /// Waits until a microVM is in this state.
    pub(crate) async fn wait(&self, id: &str, state: MicrovmState) -> Microvm {
        until(&format!("{id} is {}", state.as_str_name()), async || {
            let microvm = self.get(id).await.unwrap();
            (microvm.state() == state).then_some(microvm)
        })
        .await
    }

    /// Asks for a microVM's suspend.
    pub(crate) async fn suspend(&self, id: &str) -> Result<(), Status> {
        let request = SuspendMicrovmRequest { microvm_identifier: Some(id.into()) };
        self.api().suspend_microvm(request).await.map(drop)
    }

    /// Asks for a suspended microVM to go on.
    pub(crate) async fn resume(&self, id: &str) -> Result<(), Status> {
        let request = ResumeMicrovmRequest { microvm_identifier: Some(id.into()) };
        self.api().resume_microvm(request).await.map(drop)
    }

    /// Asks for a microVM's end.
    pub(crate) async fn terminate(&self, id: &str) -> Result<(), Status> {
        let request = TerminateMicrovmRequest { microvm_identifier: Some(id.into()) };
        self.api().terminate_microvm(request).await.map(drop)
    }

    /// A client of a microVM's endpoint, with a token for the app's port.
    pub(crate) async fn endpoint(&self, microvm: &Microvm) -> Endpoint {
        let status = self.host().get_host_status(GetHostStatusRequest {}).await.unwrap().into_inner();
        let tokens = self.api().create_microvm_auth_token(token_request(microvm)).await.unwrap();
        let no_shell = Err(Status::unavailable("no token for a shell was asked for"));
        let mut client =
            Endpoint::with(&status.endpoint.unwrap(), microvm, &tokens.into_inner().auth_token, no_shell);
        client.from = Some(self.from);
        client
    }
}
