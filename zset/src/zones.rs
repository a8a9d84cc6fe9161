//! Offsets of named time zones. The tables of zones end in some year; the rules of their last one hold for ever, as in PostgreSQL.

use chrono::{Datelike, Days, LocalResult, NaiveDate, NaiveDateTime, Offset, TimeZone};

/// The last year that is looked up as it is: chrono-tz's tables end with 2099.
const YEAR_MAX: i32 = 2097;
/// After so many years the calendar repeats, within a century.
const CYCLE: i32 = 28;

/// The same time of the same day in a year that the tables have, which begins on the same weekday and is as long.
pub fn within_tables(t: NaiveDateTime) -> NaiveDateTime {
    if t.year() <= YEAR_MAX {
        return t;
    }
    let first = |year: i32| NaiveDate::from_ymd_opt(year, 1, 1);
    let alike = |year: i32| {
        let (Some(a), Some(b)) = (first(year), first(t.year())) else {
            return false;
        };
        a.weekday() == b.weekday() && a.leap_year() == b.leap_year()
    };
    let like = (YEAR_MAX - CYCLE + 1..=YEAR_MAX).find(|year| alike(*year));
    let day = like.and_then(|year| NaiveDate::from_yo_opt(year, t.ordinal()));
    day.map_or(t, |day| day.and_time(t.time()))
}

/// Seconds east of UTC in a zone at an instant, which is given in UTC.
pub fn offset_of_instant<Z: TimeZone>(zone: &Z, utc: NaiveDateTime) -> i64 {
    let offset = zone.offset_from_utc_datetime(&within_tables(utc));
    i64::from(offset.fix().local_minus_utc())
}

/// Seconds east of UTC in a zone at a local time. One that a change of the clocks skips takes the offset before it, one that it
/// repeats that after it, as PostgreSQL has it.
pub fn offset_of_local<Z: TimeZone>(zone: &Z, local: NaiveDateTime) -> i64 {
    let local = within_tables(local);
    let offset = match zone.offset_from_local_datetime(&local) {
        LocalResult::Single(offset) | LocalResult::Ambiguous(_, offset) => offset,
        LocalResult::None => {
            let before = local.checked_sub_days(Days::new(1)).unwrap_or(local);
            zone.offset_from_utc_datetime(&before)
        }
    };
    i64::from(offset.fix().local_minus_utc())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_year_beyond_the_tables_is_one_like_it() {
        for year in [2098, 2100, 2104, 2150, 2400, 9999] {
            for (month, day) in [(1, 1), (2, 28), (3, 1), (12, 31)] {
                let date = NaiveDate::from_ymd_opt(year, month, day).expect("a date");
                let t = date.and_hms_opt(1, 2, 3).expect("a time");
                let like = within_tables(t);
                assert!(like.year() <= YEAR_MAX, "{t} {like}");
                assert_eq!(
                    (t.month(), t.day(), t.weekday(), t.time()),
                    (like.month(), like.day(), like.weekday(), like.time()),
                );
            }
        }
    }
}
