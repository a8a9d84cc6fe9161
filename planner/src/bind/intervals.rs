//! Interval literals, and types that name the fields that count: `interval '2' day`,
//! `x::interval hour to minute`, `interval(3)`.

use datafusion_common::ScalarValue;
use datafusion_expr::Expr;
use sqlparser::ast::{self, DataType, IntervalFields};
use tidemill_zset::interval::{Fields, Unit};
use tidemill_zset::schema::SqlType;

use super::expr::{Ctx, field_name};
use super::{Binder, Typed, literal};
use crate::error::{Result, SqlError};
use crate::functions::cast::Context;
use crate::functions::{intervals, parse_dates};

impl Binder<'_> {
    /// `INTERVAL '…' fields`
    pub(super) fn interval_literal(&self, c: Ctx, i: &ast::Interval) -> Result<Typed> {
        let t = self.expr(c, &i.value)?;
        if !matches!(t.expr, Expr::Literal(ScalarValue::Utf8View(Some(_)), _)) {
            return Err(SqlError::new(
                "42601",
                "INTERVAL must be followed by a string",
            ));
        }
        let first = i.leading_field.as_ref().map(field_name);
        let last = i.last_field.as_ref().map(field_name);
        let seconds = last.as_deref().or(first.as_deref()) == Some("second");
        let precision = i.fractional_seconds_precision.or(i.leading_precision);
        if precision.is_some() && !seconds {
            return Err(SqlError::new("42601", "syntax error at or near \"(\""));
        }
        let fields = match first {
            None => Fields::ALL,
            Some(first) => {
                let known = unit(&first).and_then(|first| match &last {
                    Some(last) => Fields::new(first, Some(unit(last)?)),
                    None => Fields::new(first, None),
                });
                known.ok_or_else(|| {
                    let near = last.map_or(first, |_| "to".into());
                    SqlError::new("42601", format!("syntax error at or near \"{near}\""))
                })?
            }
        };
        self.interval_of(t, with_precision(fields, precision))
    }

    /// A value as an interval of which only `fields` count.
    pub(super) fn interval_of(&self, t: Typed, fields: Fields) -> Result<Typed> {
        if let (true, Expr::Literal(ScalarValue::Utf8View(Some(text)), _)) = (t.unknown, &t.expr) {
            let value = parse_dates::interval_of(text, fields)?;
            let value = ScalarValue::IntervalMonthDayNano(Some(value));
            let constant = Expr::Literal(value, None);
            return Ok(Typed::new(constant, SqlType::Interval));
        }
        let expr = self.cast(t, &SqlType::Interval, Context::Explicit)?;
        let t = Typed::new(expr, SqlType::Interval);
        if fields == Fields::ALL {
            return Ok(t);
        }
        let code = literal(ScalarValue::Int32(Some(intervals::fields_code(fields))));
        let code = Typed::new(code, SqlType::Int4);
        self.function("interval_fields", vec![t, code], None)
    }
}

/// The fields that a type names, if it is `interval`.
pub(super) fn fields_of(data_type: &DataType) -> Option<Fields> {
    use Unit::*;
    let DataType::Interval { fields, precision } = data_type else {
        return None;
    };
    let range = fields.as_ref().map(|f| match f {
        IntervalFields::Year => (Year, Year),
        IntervalFields::Month => (Month, Month),
        IntervalFields::Day => (Day, Day),
        IntervalFields::Hour => (Hour, Hour),
        IntervalFields::Minute => (Minute, Minute),
        IntervalFields::Second => (Second, Second),
        IntervalFields::YearToMonth => (Year, Month),
        IntervalFields::DayToHour => (Day, Hour),
        IntervalFields::DayToMinute => (Day, Minute),
        IntervalFields::DayToSecond => (Day, Second),
        IntervalFields::HourToMinute => (Hour, Minute),
        IntervalFields::HourToSecond => (Hour, Second),
        IntervalFields::MinuteToSecond => (Minute, Second),
    });
    let fields = Fields {
        range,
        precision: None,
    };
    Some(with_precision(fields, *precision))
}

fn with_precision(fields: Fields, precision: Option<u64>) -> Fields {
    Fields {
        precision: precision.and_then(|p| u8::try_from(p).ok().filter(|p| *p < 6)),
        ..fields
    }
}

fn unit(name: &str) -> Option<Unit> {
    Some(match name {
        "year" => Unit::Year,
        "month" => Unit::Month,
        "day" => Unit::Day,
        "hour" => Unit::Hour,
        "minute" => Unit::Minute,
        "second" => Unit::Second,
        _ => return None,
    })
}
