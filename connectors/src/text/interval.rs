//! `interval`: PostgreSQL's verbose and ISO 8601 input.

use arrow::datatypes::IntervalMonthDayNano;
use tidemill_zset::interval::{self, Fields, IntervalError};

use super::ValueError;

/// `interval`, as months, days and nanoseconds (always whole microseconds).
pub fn parse_interval(text: &[u8]) -> Result<IntervalMonthDayNano, ValueError> {
    let text = std::str::from_utf8(text).map_err(|_| ValueError::Syntax)?;
    interval::parse_interval(text, Fields::ALL).map_err(|e| match e {
        IntervalError::Syntax => ValueError::Syntax,
        IntervalError::Field => ValueError::Quoted("interval field value out of range"),
        IntervalError::Range => ValueError::Other("interval out of range".into()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals() {
        let want = IntervalMonthDayNano::new(14, 3, 14_706_500_000_000);
        let text = b" 1 year 2 mons 3 days 04:05:06.5 ";
        assert_eq!(parse_interval(text), Ok(want));
        for text in ["", "day", "1:99", "999999999 years"] {
            assert!(parse_interval(text.as_bytes()).is_err(), "{text}");
        }
        assert_eq!(parse_interval(b"\xff"), Err(ValueError::Syntax));
    }
}
