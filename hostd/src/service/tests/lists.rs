//! Tests of pages of lists.

use hearth_proto::microvms::v1 as proto;
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
