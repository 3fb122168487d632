//! The time that a client gives its call (the header `grpc-timeout` of gRPC over HTTP/2).

use std::time::Duration;

use hyper::http::HeaderMap;
use tokio::time::timeout;
use tonic::Status;

/// The time that the headers of a call give it; none if they say nothing that is valid.
pub(super) fn of(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get("grpc-timeout")?.to_str().ok()?;
    let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let is_number = (1..=8).contains(&number.len()) && number.bytes().all(|byte| byte.is_ascii_digit());
    let number: u64 = number.parse().ok().filter(|_| is_number)?;
    match unit {
        "H" => Some(Duration::from_secs(number.saturating_mul(3600))),
        "M" => Some(Duration::from_secs(number.saturating_mul(60))),
        "S" => Some(Duration::from_secs(number)),
        "m" => Some(Duration::from_millis(number)),
        "u" => Some(Duration::from_micros(number)),
        "n" => Some(Duration::from_nanos(number)),
        _ => None,
    }
}

/// Waits for a call's answer, or the beginning of its stream, within a time.
///
/// # Errors
/// The status of a call whose time is over.
pub(super) async fn within<F: Future>(limit: Option<Duration>, answering: F) -> Result<F::Output, Status> {
    match limit {
        None => Ok(answering.await),
        Some(limit) => timeout(limit, answering).await.map_err(|_| {
            Status::deadline_exceeded(
                "The time that the client gave the call is over; what it began may go on",
            )
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_numbers_with_a_unit() {
        for (text, expected) in [
            ("5H", Some(Duration::from_secs(18_000))),
            ("99999999H", Some(Duration::from_secs(99_999_999 * 3600))),
            ("2M", Some(Duration::from_secs(120))),
            ("3S", Some(Duration::from_secs(3))),
            ("4m", Some(Duration::from_millis(4))),
            ("5u", Some(Duration::from_micros(5))),
            ("6n", Some(Duration::from_nanos(6))),
            ("0S", Some(Duration::ZERO)),
            ("", None),
            ("S", None),
            ("5", None),
            ("-1S", None),
            ("+1S", None),
            ("1é", None),
            ("999999999S", None),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert("grpc-timeout", text.parse().unwrap());
            assert_eq!(of(&headers), expected, "{text}");
        }
        assert_eq!(of(&HeaderMap::new()), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_is_not_waited_for_longer() {
        let second = Some(Duration::from_secs(1));
        assert_eq!(within(second, async { 5 }).await.unwrap(), 5);
        let status = within(second, std::future::pending::<()>()).await.unwrap_err();
        assert_eq!(status.code(), tonic::Code::DeadlineExceeded);
    }
}
