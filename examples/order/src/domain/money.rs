//! Money: whole cents, written as a decimal with two places.

use std::{fmt, str::FromStr};

use micro_core::{Error, ErrorKind};

/// An amount of money in cents. Text is the decimal form, `12.30`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Money {
    cents: i64,
}

impl Money {
    /// An amount of so many cents.
    pub const fn from_cents(cents: i64) -> Self {
        Self { cents }
    }

    /// The amount in cents.
    pub const fn cents(self) -> i64 {
        self.cents
    }

    /// The nearest double, for wire formats that have nothing better.
    pub fn to_f64(self) -> f64 {
        // One division of a whole number: the double nearest to the decimal, up to 2⁵³ cents.
        self.cents as f64 / 100.0
    }
}

impl fmt::Display for Money {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.cents < 0 { "-" } else { "" };
        let cents = self.cents.unsigned_abs();
        write!(f, "{sign}{}.{:02}", cents / 100, cents % 100)
    }
}

impl FromStr for Money {
    type Err = Error;

    /// Reads `12`, `12.3` and `12.30`, each with an optional minus.
    fn from_str(text: &str) -> Result<Self, Error> {
        let malformed = || {
            Error::new(ErrorKind::DataLoss, "money.parse", "an amount is a decimal with at most two places")
                .with_context("amount", text)
        };
        let (digits, sign) = text.strip_prefix('-').map_or((text, 1), |digits| (digits, -1));
        let (whole, places) = digits.split_once('.').unwrap_or((digits, ""));
        let is_decimal = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
        if whole.is_empty() || places.len() > 2 || !is_decimal(whole) || !is_decimal(places) {
            return Err(malformed());
        }
        let cents = format!("{whole}{places:0<2}").parse::<i64>().map_err(|error| malformed().with_source(error))?;
        Ok(Self { cents: sign * cents })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_read_back() {
        for (text, cents) in [("0.00", 0), ("12.30", 1230), ("-0.05", -5), ("99999999999999.99", 9_999_999_999_999_999)]
        {
            assert_eq!(text.parse::<Money>().unwrap().cents(), cents);
            assert_eq!(Money::from_cents(cents).to_string(), text);
        }
        assert_eq!("12".parse::<Money>().unwrap().cents(), 1200);
        assert_eq!("12.3".parse::<Money>().unwrap().cents(), 1230);
    }

    #[test]
    fn what_is_no_decimal_is_refused() {
        for text in ["", ".", "1.234", "1,2", "+1", "1.-2", "--1", "99999999999999999999"] {
            assert_eq!(text.parse::<Money>().unwrap_err().kind(), ErrorKind::DataLoss, "{text}");
        }
    }

    #[test]
    fn the_double_is_the_nearest_one() {
        assert_eq!(Money::from_cents(1010).to_f64(), 10.10);
        assert_eq!(Money::from_cents(29).to_f64(), 0.29);
    }
}
