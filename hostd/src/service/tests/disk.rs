//! What is refused to an account that takes as much of the disk as it may.

use hearth_proto::microvms::v1 as proto;

use super::*;

#[tokio::test]
async fn who_takes_what_they_may_of_the_disk_launches_nothing_new() {
    let limits = Limits { disk_mib: Some(1), ..Limits::default() };
    let host = limited(Profile::Default, limits).await;
    let repeated = proto::RunMicrovmRequest { client_token: Some("once".into()), ..request("demo") };
    let launched = host.run(repeated.clone()).await.unwrap();
    // As the images and microVMs of the account were measured.
    let taken = host.service.parts().disk.usage().take(ACCOUNT, 1 << 20);
    let error = host.run(request("demo")).await.unwrap_err();
    assert_eq!(error.exception().name, "ServiceQuotaExceededException", "{error}");
    assert_eq!(host.run(repeated).await.unwrap(), launched, "what was answered before");
    drop(taken);
    host.run(request("demo")).await.unwrap();
}
