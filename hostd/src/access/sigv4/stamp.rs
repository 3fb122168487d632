//! The times in requests: `20150830T123600Z`, or the forms of the header `Date`.

use std::time::{Duration, SystemTime};

use time::format_description::well_known::Rfc2822;
use time::{Date, Month, OffsetDateTime, PrimitiveDateTime, Time};

/// A time in seconds, with its text as it is signed: `20150830T123600Z`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stamp {
    /// The time.
    pub time: SystemTime,
    /// The time as text.
    pub text: String,
}

impl Stamp {
    /// The time of the header `X-Amz-Date`: `20150830T123600Z` and nothing else.
    #[must_use]
    pub fn basic(text: &str) -> Option<Self> {
        let (date, time) = text.strip_suffix('Z')?.split_once('T')?;
        let digits =
            |text: &str, count| text.len() == count && text.bytes().all(|byte| byte.is_ascii_digit());
        if !digits(date, 8) || !digits(time, 6) {
            return None;
        }
        let two = |text: &str, at: usize| text.get(at..at.checked_add(2)?)?.parse::<u8>().ok();
        let month = Month::try_from(two(date, 4)?).ok()?;
        let date = Date::from_calendar_date(date.get(..4)?.parse().ok()?, month, two(date, 6)?).ok()?;
        let time = Time::from_hms(two(time, 0)?, two(time, 2)?, two(time, 4)?).ok()?;
        let time = PrimitiveDateTime::new(date, time).assume_utc();
        Some(Self { time: time.into(), text: text.to_owned() })
    }

    /// The time of the header `Date`: as [`Self::basic`], or like `Sun, 30 Aug 2015 12:36:00 GMT`.
    #[must_use]
    pub fn of_date_header(text: &str) -> Option<Self> {
        let text = text.trim();
        Self::basic(text).or_else(|| {
            let time = OffsetDateTime::parse(text, &Rfc2822).ok()?.to_offset(time::UtcOffset::UTC);
            (0..=9999).contains(&time.year()).then(|| Self::at(time.into()))
        })
    }

    /// A time of this host.
    #[must_use]
    pub fn at(time: SystemTime) -> Self {
        let utc = OffsetDateTime::from(time);
        let text = format!(
            "{:04}{:02}{:02}T{:02}{:02}{:02}Z",
            utc.year(),
            u8::from(utc.month()),
            utc.day(),
            utc.hour(),
            utc.minute(),
            utc.second()
        );
        Self { time, text }
    }

    /// The date: `20150830`.
    #[must_use]
    pub fn date(&self) -> &str {
        self.text.split('T').next().unwrap_or_default()
    }
}

/// A duration as in AWS's sentences: `5 min`, or `90 sec`.
#[must_use]
pub fn words(duration: Duration) -> String {
    match duration.as_secs() {
        seconds if seconds > 0 && seconds.checked_rem(60) == Some(0) => {
            format!("{} min", seconds.checked_div(60).unwrap_or_default())
        }
        seconds => format!("{seconds} sec"),
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;

    #[test]
    fn times_are_those_of_the_standard() {
        let noon = UNIX_EPOCH + Duration::from_secs(1_440_938_160);
        let stamp = Stamp::basic("20150830T123600Z").unwrap();
        assert_eq!((stamp.time, stamp.date()), (noon, "20150830"));
        assert_eq!(Stamp::at(noon), stamp);
        for date in [
            "20150830T123600Z",
            "Sun, 30 Aug 2015 12:36:00 GMT",
            "Sun, 30 Aug 2015 12:36:00 -0000",
            "Sun, 30 Aug 2015 14:36:00 +0200",
        ] {
            assert_eq!(Stamp::of_date_header(date), Some(stamp.clone()), "{date}");
        }
    }

    #[test]
    fn nothing_else_is_a_time() {
        for wrong in [
            "",
            "T",
            "Z",
            "TZ",
            "20150830T123600",
            "20150830T1236Z",
            "2015-08-30T12:36:00Z",
            "20151330T123600Z",
            "20150230T123600Z",
            "20150830T243600Z",
            "20150830T126000Z",
            "20150830T123660Z",
            "+2015830T123600Z",
            "２015083T123600Z",
            "20150830T123600Z ",
        ] {
            assert_eq!(Stamp::basic(wrong), None, "{wrong}");
        }
        assert_eq!(Stamp::of_date_header("Sunday"), None);
    }

    #[test]
    fn durations_are_in_minutes_where_they_are_whole() {
        let words = |seconds| words(Duration::from_secs(seconds));
        assert_eq!(
            (words(300), words(90), words(1), words(0)),
            ("5 min".into(), "90 sec".into(), "1 sec".into(), "0 sec".into())
        );
    }
}
