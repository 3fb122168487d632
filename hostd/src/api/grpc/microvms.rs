//! AWS's 24 operations.

use hearth_proto::microvms::v1 as api;
use hearth_proto::microvms::v1::microvm_service_server::MicrovmService;
use tonic::{Request, Response, Status};

use super::Grpc;

macro_rules! operations {
    ($($method:ident: $request:ident -> $response:ident;)+) => {
        #[tonic::async_trait]
        impl MicrovmService for Grpc {
            $(async fn $method(&self, request: Request<api::$request>) -> Result<Response<api::$response>, Status> {
                self.call(request).await
            })+
        }
    };
}

operations! {
    run_microvm: RunMicrovmRequest -> Microvm;
    get_microvm: GetMicrovmRequest -> Microvm;
    list_microvms: ListMicrovmsRequest -> ListMicrovmsResponse;
    suspend_microvm: SuspendMicrovmRequest -> SuspendMicrovmResponse;
    resume_microvm: ResumeMicrovmRequest -> ResumeMicrovmResponse;
    terminate_microvm: TerminateMicrovmRequest -> TerminateMicrovmResponse;
    create_microvm_auth_token: CreateMicrovmAuthTokenRequest -> CreateMicrovmAuthTokenResponse;
    create_microvm_shell_auth_token: CreateMicrovmShellAuthTokenRequest -> CreateMicrovmShellAuthTokenResponse;
    create_microvm_image: CreateMicrovmImageRequest -> MicrovmImageDetails;
    update_microvm_image: UpdateMicrovmImageRequest -> MicrovmImageDetails;
    get_microvm_image: GetMicrovmImageRequest -> GetMicrovmImageResponse;
    list_microvm_images: ListMicrovmImagesRequest -> ListMicrovmImagesResponse;
    delete_microvm_image: DeleteMicrovmImageRequest -> DeleteMicrovmImageResponse;
    get_microvm_image_version: GetMicrovmImageVersionRequest -> MicrovmImageVersion;
    list_microvm_image_versions: ListMicrovmImageVersionsRequest -> ListMicrovmImageVersionsResponse;
    update_microvm_image_version: UpdateMicrovmImageVersionRequest -> MicrovmImageVersion;
    delete_microvm_image_version: DeleteMicrovmImageVersionRequest -> DeleteMicrovmImageVersionResponse;
    get_microvm_image_build: GetMicrovmImageBuildRequest -> GetMicrovmImageBuildResponse;
    list_microvm_image_builds: ListMicrovmImageBuildsRequest -> ListMicrovmImageBuildsResponse;
    list_managed_microvm_images: ListManagedMicrovmImagesRequest -> ListManagedMicrovmImagesResponse;
    list_managed_microvm_image_versions: ListManagedMicrovmImageVersionsRequest -> ListManagedMicrovmImageVersionsResponse;
    list_tags: ListTagsRequest -> ListTagsResponse;
    tag_resource: TagResourceRequest -> TagResourceResponse;
    untag_resource: UntagResourceRequest -> UntagResourceResponse;
}
