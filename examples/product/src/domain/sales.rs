//! How much of a SKU was sold.

/// How many were sold in a span of time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SalesVolume {
    /// All of them.
    pub total: i64,
    /// How many a day, rounded to two places.
    pub daily_average: f64,
}

impl SalesVolume {
    /// `total` over so many days.
    pub fn over(total: i64, day_count: i64) -> Self {
        // Both are far below 2⁵³, where doubles stop to hold every whole number.
        let average = total as f64 / day_count as f64;
        Self { total, daily_average: (average * 100.0).round() / 100.0 }
    }
}

/// How many were sold on one day.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DailySales {
    /// The day, `2006-01-02`.
    pub date: String,
    /// How many.
    pub volume: i64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_daily_average_is_rounded_to_two_places() {
        for (total, day_count, average) in [(2, 1, 2.0), (10, 3, 3.33), (20, 3, 6.67), (1, 200, 0.01), (0, 7, 0.0)] {
            assert_eq!(SalesVolume::over(total, day_count), SalesVolume { total, daily_average: average });
        }
    }
}
