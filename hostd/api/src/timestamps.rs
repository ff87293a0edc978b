//! Times and durations as Docker writes and reads them.

use crate::error::ApiError;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// What Go prints for a time that never was.
pub(crate) const NEVER: &str = "0001-01-01T00:00:00Z";

/// RFC 3339 with as many fractional digits as it takes.
pub(crate) fn rfc3339(at: OffsetDateTime) -> String {
    at.to_offset(time::UtcOffset::UTC).format(&Rfc3339).unwrap_or_else(|_| NEVER.to_owned())
}

/// The same, [`NEVER`] for none.
pub(crate) fn rfc3339_or_never(at: Option<OffsetDateTime>) -> String {
    at.map_or_else(|| NEVER.to_owned(), rfc3339)
}

/// Seconds since the epoch of an RFC 3339 time, 0 where it is none.
pub(crate) fn unix(text: Option<&str>) -> i64 {
    text.and_then(|text| OffsetDateTime::parse(text, &Rfc3339).ok()).map_or(0, OffsetDateTime::unix_timestamp)
}

/// `since` and `until`: seconds since the epoch with an optional fraction, or RFC 3339. 0 means not set.
pub(crate) fn parse(name: &str, text: Option<&str>) -> Result<Option<OffsetDateTime>, ApiError> {
    let Some(text) = text else { return Ok(None) };
    let at = unix_nanos(text).or_else(|| OffsetDateTime::parse(text, &Rfc3339).ok());
    match at {
        None => Err(ApiError::bad_request(format!("invalid value for \"{name}\": {text} is no timestamp"))),
        Some(at) if at == OffsetDateTime::UNIX_EPOCH => Ok(None),
        Some(at) => Ok(Some(at)),
    }
}

fn unix_nanos(text: &str) -> Option<OffsetDateTime> {
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    if fraction.len() > 9 || !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let seconds: i64 = seconds.parse().ok()?;
    let nanos: i128 = format!("{fraction:0<9}").parse().ok()?;
    OffsetDateTime::from_unix_timestamp_nanos(i128::from(seconds) * 1_000_000_000 + nanos).ok()
}

/// `3 seconds`, `About an hour`, `2 weeks`: Docker's words, which scripts match.
pub(crate) fn human(duration: time::Duration) -> String {
    let seconds = duration.whole_seconds().max(0);
    let minutes = seconds / 60;
    // Hours round to the nearest, as Docker's do.
    let hours = (seconds + 1800) / 3600;
    match (seconds, minutes, hours) {
        (0, ..) => "Less than a second".to_owned(),
        (1, ..) => "1 second".to_owned(),
        (..60, ..) => format!("{seconds} seconds"),
        (_, 1, _) => "About a minute".to_owned(),
        (_, ..60, _) => format!("{minutes} minutes"),
        (_, _, 1) => "About an hour".to_owned(),
        (_, _, ..48) => format!("{hours} hours"),
        (_, _, ..336) => format!("{} days", hours / 24),
        (_, _, ..1440) => format!("{} weeks", hours / 24 / 7),
        (_, _, ..17520) => format!("{} months", hours / 24 / 30),
        _ => format!("{} years", hours / 24 / 365),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use time::macros::datetime;

    #[test]
    fn durations_read_as_dockers() {
        for (seconds, words) in [
            (0, "Less than a second"),
            (1, "1 second"),
            (59, "59 seconds"),
            (60, "About a minute"),
            (120, "2 minutes"),
            (3599, "59 minutes"),
            (3600, "About an hour"),
            (5400, "2 hours"),
            (47 * 3600, "47 hours"),
            (48 * 3600, "2 days"),
            (14 * 86400, "2 weeks"),
            (60 * 86400, "2 months"),
            (800 * 86400, "2 years"),
            (-5, "Less than a second"),
        ] {
            assert_eq!(human(time::Duration::seconds(seconds)), words, "{seconds}");
        }
    }

    #[test]
    fn times_are_written_in_utc_with_only_the_digits_needed() {
        assert_eq!(rfc3339(datetime!(2024-05-01 12:00:00.5 +2)), "2024-05-01T10:00:00.5Z");
        assert_eq!(rfc3339(datetime!(2024-05-01 12:00:00.123456789 UTC)), "2024-05-01T12:00:00.123456789Z");
        assert_eq!(rfc3339_or_never(None), NEVER);
    }

    #[test]
    fn timestamps_come_as_seconds_with_fraction_or_rfc3339() {
        let at = |text| parse("since", Some(text)).unwrap();
        assert_eq!(at("1714557600"), Some(datetime!(2024-05-01 10:00 UTC)));
        assert_eq!(at("1714557600.5"), Some(datetime!(2024-05-01 10:00:00.5 UTC)));
        assert_eq!(at("1714557600.000000001"), Some(datetime!(2024-05-01 10:00:00.000000001 UTC)));
        assert_eq!(at("2024-05-01T10:00:00Z"), Some(datetime!(2024-05-01 10:00 UTC)));
        assert_eq!(at("0"), None);
        for bad in ["x", "1.x", "1.1234567890", "99999999999999999999"] {
            assert!(parse("since", Some(bad)).is_err(), "{bad}");
        }
    }
}
