//! Tests of pages of lists.

use hearth_proto::microvms::v1 as proto;
use hearth_proto::store::v1::ImageRecord;
use prost::Message as _;
use proto::MicrovmState as State;

use super::*;
use crate::service::error::InvalidRequest;

fn list() -> proto::ListMicrovmsRequest {
    proto::ListMicrovmsRequest { max_results: Some(2), ..Default::default() }
}

impl Host {
    async fn started_at(&self, id: &str, image: &str, version: u32, seconds: i64) {
        let started = prost_types::Timestamp { seconds, nanos: 0 };
        self.stored(id, image, version, started, State::Running, &[]).await;
    }

    async fn page(&self, request: &proto::ListMicrovmsRequest) -> proto::ListMicrovmsResponse {
        self.service.call_as(&self.caller, request.clone()).await.unwrap()
    }

    /// Ids on all pages, and the number of pages.
    async fn all(&self, mut request: proto::ListMicrovmsRequest) -> (Vec<String>, usize) {
        let (mut ids, mut pages) = (Vec::new(), 0);
        loop {
            let page = self.page(&request).await;
            pages += 1;
            assert!(page.items.len() <= 2);
            ids.extend(page.items.into_iter().map(|item| item.microvm_id.replace("microvm-", "")));
            request.next_token = page.next_token;
            if request.next_token.is_none() {
                return (ids, pages);
            }
        }
    }
}

#[tokio::test]
async fn microvms_are_listed_newest_first() {
    let host = host(Profile::Default).await;
    for (id, image, version) in
        [("a", "demo", 1), ("b", "web", 1), ("c", "demo", 2), ("d", "demo", 1), ("e", "demo", 2)]
    {
        let seconds = i64::from(id.as_bytes()[0]);
        host.started_at(id, image, version, seconds).await;
    }
    assert_eq!(host.all(list()).await, (vec!["e".into(), "d".into(), "c".into(), "b".into(), "a".into()], 3));
    let of = |image: Option<&str>, version: Option<&str>| proto::ListMicrovmsRequest {
        image_identifier: image.map(arn),
        image_version: version.map(str::to_owned),
        ..list()
    };
    assert_eq!(host.all(of(Some("demo"), None)).await.0, ["e", "d", "c", "a"]);
    assert_eq!(host.all(of(Some("demo"), Some("2.0"))).await.0, ["e", "c"]);
    assert_eq!(host.all(of(None, Some("1"))).await.0, ["d", "b", "a"]);
    assert_eq!(host.all(of(Some("gone"), None)).await.0, [""; 0]);
    assert_eq!(host.all(of(None, Some("x"))).await.0, [""; 0]);
}

#[tokio::test]
async fn a_cursor_survives_what_comes_and_goes() {
    let host = host(Profile::Default).await;
    for (id, seconds) in [("a", 1), ("b", 2), ("c", 3), ("d", 4)] {
        host.started_at(id, "demo", 1, seconds).await;
    }
    let first = host.page(&list()).await;
    host.started_at("e", "demo", 1, 5).await;
    for id in ["b", "c"] {
        let key = crate::records::microvm(ACCOUNT, &format!("microvm-{id}"));
        let gone: MicrovmRecord = host.daemon.db.get(Table::Microvms, &key).unwrap().unwrap();
        host.daemon.db.commit(record::remove(&gone)).await.unwrap();
    }
    let second =
        host.page(&proto::ListMicrovmsRequest { next_token: first.next_token.clone(), ..list() }).await;
    assert_eq!(second.items.len(), 1);
    assert_eq!(second.items[0].microvm_id, "microvm-a");
    // A cursor is only valid for its own list.
    let other = proto::ListMicrovmsRequest {
        image_identifier: Some(arn("demo")),
        next_token: first.next_token,
        ..list()
    };
    let error = host.service.call_as(&host.caller, other).await.unwrap_err();
    assert!(matches!(error, ServiceError::Request(InvalidRequest::NextToken)), "{error}");
}

#[tokio::test]
async fn a_call_looks_at_a_bounded_part_of_an_index() {
    let host = host(Profile::Default).await;
    for number in 0..1005 {
        host.started_at(&number.to_string(), "demo", 1, 10_000 - number).await;
    }
    host.started_at("last", "demo", 2, 1).await;
    let request = proto::ListMicrovmsRequest { image_version: Some("2.0".into()), ..list() };
    let first = host.page(&request).await;
    assert!(first.items.is_empty() && first.next_token.is_some(), "an empty page is not the end");
    assert_eq!(host.all(request).await, (vec!["last".into()], 2));
}

#[tokio::test]
async fn images_are_listed_by_name_and_filtered_page_by_page() {
    let host = host(Profile::Default).await;
    for name in ["web-1", "Web-2", "api"] {
        host.build(name).await;
    }
    let request = proto::ListMicrovmImagesRequest {
        max_results: Some(2),
        name_filter: Some("web".into()),
        ..Default::default()
    };
    let first = host.service.call_as(&host.caller, request.clone()).await.unwrap();
    assert!(first.items.is_empty(), "Web-2 and api are on it");
    let next = proto::ListMicrovmImagesRequest { next_token: first.next_token, ..request };
    let second = host.service.call_as(&host.caller, next).await.unwrap();
    let names: Vec<&str> = second.items.iter().map(|image| image.name.as_str()).collect();
    assert_eq!((names, second.next_token), (vec!["web-1"], None));
    assert_eq!(second.items[0].image_arn, arn("web-1"));
    assert_eq!(second.items[0].latest_active_image_version.as_deref(), Some("1.0"));
}

/// Greatest size of a message that clients of gRPC take unless they are configured otherwise, in bytes.
const CLIENT_MAX: usize = 4 << 20;

#[tokio::test]
async fn a_page_of_large_versions_ends_before_clients_refuse_it() {
    const VERSIONS: u32 = 30;
    let host = host(Profile::Default).await;
    host.build("demo").await;
    // As large as the constraints allow.
    let tags = (0..50).map(|number| (format!("{number:0>128}"), "ü".repeat(256)));
    let key = crate::records::image(ACCOUNT, "demo");
    let mut image: ImageRecord = host.daemon.db.get(Table::Images, &key).unwrap().unwrap();
    image.tags = tags.collect();
    let mut batch = crate::store::Batch::new().put(Table::Images, key, crate::records::encode(&image));
    let mut record = host.daemon.version("demo", 1).unwrap();
    for number in 1..=VERSIONS {
        let version = record.version.as_mut().unwrap();
        version.image_version = format!("{number}.0");
        let variable = |name: u32| (format!("{name:0>256}"), "𝄞".repeat(4096));
        version.environment_variables = (0..50).map(variable).collect();
        let key = crate::records::version(ACCOUNT, "demo", number);
        batch = batch.put(Table::Versions, key, crate::records::encode(&record));
    }
    host.daemon.db.commit(batch).await.unwrap();
    let mut request = proto::ListMicrovmImageVersionsRequest {
        image_identifier: Some("demo".into()),
        ..Default::default()
    };
    let mut versions = Vec::new();
    loop {
        let page = host.service.call_as(&host.caller, request.clone()).await.unwrap();
        assert!(page.encoded_len() < CLIENT_MAX, "{}", page.encoded_len());
        assert!(!page.items.is_empty());
        versions.extend(page.items.into_iter().map(|item| item.image_version));
        request.next_token = page.next_token;
        if request.next_token.is_none() {
            break;
        }
    }
    let expected: Vec<String> = (1..=VERSIONS).rev().map(|number| format!("{number}.0")).collect();
    assert_eq!(versions, expected);
}

/// A new operation whose answer grows with what is stored fails this test unless its answer is paged; pages are made by
/// `Service::entries` and `Service::cut`, which bound their bytes.
#[test]
fn every_answer_with_a_list_is_paged() {
    // Answers whose lists are those of one request, which are bounded, or of this host.
    const SINGLE: &[&str] = &["Microvm", "MicrovmImageDetails", "MicrovmImageVersion", "HostStatus"];
    let pool = crate::service::constraints::descriptors().unwrap();
    let mut paged = 0;
    for method in pool.services().flat_map(|service| service.methods().collect::<Vec<_>>()) {
        let answer = method.output();
        let has_list = answer.fields().any(|field| field.is_list());
        let is_paged = answer.get_field_by_name("next_token").is_some();
        let known = SINGLE.contains(&answer.name());
        assert_eq!(has_list, is_paged || known, "the answer of {}", method.name());
        paged += usize::from(is_paged);
    }
    assert_eq!(paged, 10);
}
