//! Points in time and days as the calls write them, and spans of them.

use std::{
    fmt,
    str::FromStr,
    time::{SystemTime, UNIX_EPOCH},
};

use micro_core::{Error, ErrorKind};

const SECONDS_PER_DAY: i64 = 24 * 60 * 60;

/// A day, `2006-01-02`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Day {
    year: u16,
    month: u8,
    day: u8,
}

/// A point in time to the second, `2006-01-02 15:04:05`, UTC as the tables have it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment {
    day: Day,
    second_of_day: u32,
}

/// From one point to another, both included; `None` is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Span<T> {
    /// The first.
    pub from: Option<T>,
    /// The last.
    pub to: Option<T>,
}

impl<T: FromStr<Err = Error>> Span<T> {
    /// Reads both ends; an empty text is no limit.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` for a text that is none of `T`'s.
    pub fn parse(from: &str, to: &str) -> Result<Self, Error> {
        let end = |text: &str| if text.is_empty() { Ok(None) } else { text.parse().map(Some) };
        Ok(Self { from: end(from)?, to: end(to)? })
    }
}

impl Span<Moment> {
    /// How many days it has a share in, counted from its start: 1 at least. An end that is open is
    /// `now`.
    pub fn day_count(&self, now: SystemTime) -> i64 {
        let now = now.duration_since(UNIX_EPOCH).map_or(0, |age| age.as_secs().cast_signed());
        let second = |end: Option<Moment>| end.map_or(now, Moment::seconds_since_epoch);
        ((second(self.to) - second(self.from)) / SECONDS_PER_DAY + 1).max(1)
    }
}

impl Moment {
    fn seconds_since_epoch(self) -> i64 {
        self.day.days_since_epoch() * SECONDS_PER_DAY + i64::from(self.second_of_day)
    }
}

impl Day {
    fn new(year: u16, month: u8, day: u8) -> Option<Self> {
        let is_leap = year.is_multiple_of(4) && !year.is_multiple_of(100) || year.is_multiple_of(400);
        let last = match month {
            4 | 6 | 9 | 11 => 30,
            2 if is_leap => 29,
            2 => 28,
            1..=12 => 31,
            _ => return None,
        };
        (1..=last).contains(&day).then_some(Self { year, month, day })
    }

    /// Howard Hinnant's `days_from_civil`: years begin in March, so that the day a leap year adds is
    /// the last of its year.
    fn days_since_epoch(self) -> i64 {
        let year = i64::from(self.year) - i64::from(self.month <= 2);
        let month = (i64::from(self.month) + 9) % 12;
        let day_of_year = (153 * month + 2) / 5 + i64::from(self.day) - 1;
        let (era, year_of_era) = (year.div_euclid(400), year.rem_euclid(400));
        era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
    }
}

impl FromStr for Day {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let read = || {
            let [year, month, day] = numbers(text, '-', [4, 2, 2])?;
            Self::new(year, u8::try_from(month).ok()?, u8::try_from(day).ok()?)
        };
        read().ok_or_else(|| malformed(text, "a date is written as 2006-01-02"))
    }
}

impl FromStr for Moment {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let read = || {
            let (day, time) = text.split_once(' ')?;
            let [hour, minute, second] = numbers(time, ':', [2, 2, 2])?;
            let is_time = hour < 24 && minute < 60 && second < 60;
            let second_of_day = (u32::from(hour) * 60 + u32::from(minute)) * 60 + u32::from(second);
            is_time.then_some(Self { day: day.parse().ok()?, second_of_day })
        };
        read().ok_or_else(|| malformed(text, "a time is written as 2006-01-02 15:04:05"))
    }
}

impl fmt::Display for Day {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04}-{:02}-{:02}", self.year, self.month, self.day)
    }
}

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (minutes, second) = (self.second_of_day / 60, self.second_of_day % 60);
        write!(f, "{} {:02}:{:02}:{second:02}", self.day, minutes / 60, minutes % 60)
    }
}

/// Three numbers of so many digits each.
fn numbers(text: &str, separator: char, digits: [usize; 3]) -> Option<[u16; 3]> {
    let mut numbers = [0; 3];
    let mut parts = text.split(separator);
    for (number, digits) in numbers.iter_mut().zip(digits) {
        let part =
            parts.next().filter(|part| part.len() == digits && part.bytes().all(|byte| byte.is_ascii_digit()))?;
        *number = part.parse().ok()?;
    }
    parts.next().is_none().then_some(numbers)
}

fn malformed(text: &str, message: &'static str) -> Error {
    // A text that long is no time; an answer has no room for it.
    let shown: String = text.chars().take(32).collect();
    Error::new(ErrorKind::InvalidArgument, "product.time", message).with_context("found", shown)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn span(from: &str, to: &str) -> Span<Moment> {
        Span::parse(from, to).unwrap()
    }

    #[test]
    fn text_is_read_back() {
        for text in ["2026-11-21 01:16:53", "2024-02-29 00:00:00", "2000-02-29 23:59:59"] {
            assert_eq!(text.parse::<Moment>().unwrap().to_string(), text);
        }
        assert_eq!("2026-11-21".parse::<Day>().unwrap().to_string(), "2026-11-21");
    }

    #[test]
    fn what_is_no_time_is_refused_with_what_was_expected() {
        for text in
            ["2026-11-21", "2026-11-21T01:16:53", "2026-11-21 24:00:00", "2026-1-2 1:2:3", "2025-02-29 00:00:00"]
        {
            let error = text.parse::<Moment>().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{text}");
            assert!(error.to_string().contains("2006-01-02 15:04:05"), "{error}");
        }
        for text in
            ["2026-13-01", "2026-00-01", "2026-01-00", "1900-02-29", "2026-01-02-03", "-026-01-01", "２026-01-01"]
        {
            assert!(text.parse::<Day>().is_err(), "{text}");
        }
    }

    #[test]
    fn days_are_counted_from_the_start_of_the_span() {
        let now = UNIX_EPOCH + Duration::from_secs(1_704_153_600); // 2024-01-02 00:00:00
        for (from, to, count) in [
            ("2024-01-01 00:00:00", "2024-01-01 23:59:59", 1),
            ("2024-01-01 00:00:00", "2024-01-02 00:00:00", 2),
            ("2024-02-28 12:00:00", "2024-03-01 11:59:59", 2),
            ("2023-12-31 00:00:00", "", 3),
            ("", "2024-01-05 00:00:00", 4),
            ("", "", 1),
            ("2024-01-05 00:00:00", "2024-01-01 00:00:00", 1),
            ("1970-01-01 00:00:00", "", 19_725),
        ] {
            assert_eq!(span(from, to).day_count(now), count, "{from} {to}");
        }
    }
}
