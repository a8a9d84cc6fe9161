//! Which function an aggregate's name means for its arguments.

use std::sync::Arc;

use datafusion::functions_aggregate as agg;
use datafusion_common::ScalarValue;
use datafusion_expr::{AggregateUDF, Expr};
use tidemill_zset::schema::SqlType;

use super::calls::no_function;
use super::types::{is_integer, is_number, number_rank};
use super::{Binder, Typed, literal};
use crate::error::{Result, SqlError};
use crate::functions::cast::Context;
use crate::functions::moments::{self, Moment};
use crate::functions::{aggregate as own, extremes, lists, rows};

/// A resolved aggregate: the function, its arguments, the type it gives, and what is done with its result.
pub(super) struct Resolved {
    pub(super) function: Arc<AggregateUDF>,
    pub(super) args: Vec<Expr>,
    pub(super) ty: SqlType,
    pub(super) then: Option<Then>,
    /// Order of the values where the call gives none.
    pub(super) ordered: bool,
}

/// What is done with an aggregate's result.
pub(super) enum Then {
    /// This function of it and further arguments, e.g. to make one JSON text of an array.
    Function(&'static str, SqlType, Vec<Typed>),
    /// What moments of values of the second type say.
    Moment(Moment, SqlType),
}

impl Resolved {
    fn new(function: Arc<AggregateUDF>, args: Vec<Expr>, ty: SqlType) -> Self {
        Resolved {
            function,
            args,
            ty,
            then: None,
            ordered: false,
        }
    }

    /// A function of the array of the group's values.
    pub(super) fn over_array(value: Typed, function: &'static str, ty: SqlType) -> Self {
        let array = SqlType::Array(Box::new(value.ty));
        let list = Resolved::new(lists::array_agg(), vec![value.expr], array);
        Resolved {
            then: Some(Then::Function(function, ty, vec![])),
            ..list
        }
    }

    /// The same, of the values in an order that doesn't depend on how they arrive.
    fn over_ordered(value: Typed, function: &'static str, ty: SqlType) -> Self {
        Resolved {
            ordered: true,
            ..Resolved::over_array(value, function, ty)
        }
    }
}

/// An aggregate of one argument.
const OF_ONE: [&str; 17] = [
    "count",
    "sum",
    "avg",
    "min",
    "max",
    "bool_and",
    "bool_or",
    "every",
    "array_agg",
    "first_value",
    "last_value",
    "any_value",
    "json_agg",
    "jsonb_agg",
    "bit_and",
    "bit_or",
    "bit_xor",
];

fn unknown(name: &str, args: &[Typed]) -> SqlError {
    no_function(name, &args.iter().map(Typed::type_name).collect::<Vec<_>>())
}

fn not_unique(name: &str) -> SqlError {
    let message = format!("function {name}(unknown) is not unique");
    SqlError::new("42725", message)
}

pub(super) fn no_arrays_of_arrays(of: &SqlType) -> Result<()> {
    match of {
        SqlType::Array(_) => Err(SqlError::unsupported("arrays of arrays are not supported")),
        _ => Ok(()),
    }
}

impl Binder<'_> {
    /// `star`: it is called with `*`.
    pub(super) fn resolve_aggregate(
        &self,
        name: &str,
        args: Vec<Typed>,
        star: bool,
    ) -> Result<Resolved> {
        if name == "count" && (star || args.is_empty()) {
            return count_rows(star);
        }
        let none = || unknown(name, &args);
        let first = args.first().cloned().ok_or_else(none)?;
        if OF_ONE.contains(&name) && args.len() > 1 {
            return Err(none());
        }
        match name {
            "count" => {
                let value = self.known(first)?.expr;
                let count = agg::count::count_udaf();
                Ok(Resolved::new(count, vec![value], SqlType::Int8))
            }
            "sum" | "avg" => {
                // A time has an implicit cast to interval.
                let first = match first.ty {
                    SqlType::Time if !first.unknown => {
                        let to = SqlType::Interval;
                        Typed::new(self.cast(first, &to, Context::Explicit)?, to)
                    }
                    _ => first,
                };
                match name {
                    "sum" => sum(name, first, own::sum(), "interval_sum_of"),
                    _ => sum(name, first, own::avg(), "interval_avg_of"),
                }
            }
            "min" | "max" => self.min_or_max(name, first),
            "bool_and" | "every" | "bool_or" => {
                let value = self.implicit(&first, &SqlType::Bool).map_err(|_| none())?;
                let function = match name {
                    "bool_or" => agg::bool_and_or::bool_or_udaf(),
                    _ => agg::bool_and_or::bool_and_udaf(),
                };
                Ok(Resolved::new(function, vec![value], SqlType::Bool))
            }
            "bit_and" | "bit_or" | "bit_xor" => {
                if first.unknown || !is_integer(&first.ty) {
                    return Err(none());
                }
                let function = match name {
                    "bit_and" => agg::bit_and_or_xor::bit_and_udaf(),
                    "bit_or" => agg::bit_and_or_xor::bit_or_udaf(),
                    _ => crate::functions::bit_xor::bit_xor(),
                };
                Ok(Resolved::new(function, vec![first.expr], first.ty))
            }
            "array_agg" => self.array_agg(first),
            "first_value" | "last_value" | "any_value" => {
                let value = self.known(first)?;
                no_arrays_of_arrays(&value.ty)?;
                let one = Typed::new(literal(ScalarValue::Int32(Some(1))), SqlType::Int4);
                let ty = value.ty.clone();
                Ok(Resolved {
                    then: Some(Then::Function("array_subscript", ty.clone(), vec![one])),
                    ..Resolved::over_ordered(value, "array_subscript", ty)
                })
            }
            "string_agg" => self.string_agg(args),
            "json_agg" => self.json_agg(name, first, SqlType::Json),
            "jsonb_agg" => self.json_agg(name, first, SqlType::Jsonb),
            "json_object_agg" => {
                let pair = self.function("json_pair", args, None)?;
                Ok(json_list(pair, "json_join_object", SqlType::Json))
            }
            "jsonb_object_agg" => {
                let pair = self.function("json_pair", args, None)?;
                Ok(json_list(pair, "jsonb_join_object", SqlType::Jsonb))
            }
            _ => self.statistic(name, args),
        }
    }

    fn min_or_max(&self, name: &str, value: Typed) -> Result<Resolved> {
        let value = self.known(value)?;
        let min = name == "min";
        let ty = match value.ty {
            SqlType::Bool | SqlType::Json | SqlType::Jsonb | SqlType::Uuid => {
                return Err(unknown(name, &[value]));
            }
            SqlType::Interval => {
                // Arrow's order of intervals isn't SQL's.
                let function = extremes::of_intervals(min);
                return Ok(Resolved::new(function, vec![value.expr], SqlType::Interval));
            }
            SqlType::Varchar(_) => SqlType::Text,
            ty => ty,
        };
        let float = matches!(ty, SqlType::Float4 | SqlType::Float8);
        let function = match (min, float) {
            (true, false) => agg::min_max::min_udaf(),
            (false, false) => agg::min_max::max_udaf(),
            (true, true) => extremes::min(),
            (false, true) => extremes::max(),
        };
        Ok(Resolved::new(function, vec![value.expr], ty))
    }

    fn array_agg(&self, value: Typed) -> Result<Resolved> {
        if value.unknown {
            return Err(not_unique("array_agg").hint(
                "Could not choose a best candidate function. You might need to add explicit type casts.",
            ));
        }
        let value = self.known(value)?;
        no_arrays_of_arrays(&value.ty)?;
        let ty = SqlType::Array(Box::new(value.ty));
        let function = lists::array_agg();
        Ok(Resolved {
            ordered: true,
            ..Resolved::new(function, vec![value.expr], ty)
        })
    }

    fn string_agg(&self, args: Vec<Typed>) -> Result<Resolved> {
        let none = |args: &[Typed]| unknown("string_agg", args);
        let [v, s] = args.as_slice() else {
            return Err(none(&args));
        };
        let is_bytes = |t: &Typed| t.ty == SqlType::Bytea && !t.unknown;
        if is_bytes(v) || is_bytes(s) {
            let both = [v.clone(), s.clone()];
            return self.bytes_agg(both).map_err(|_| none(&args));
        }
        let value = self.implicit(v, &SqlType::Text).map_err(|_| none(&args))?;
        let separator = match self.implicit(s, &SqlType::Text)? {
            // Nothing separates.
            Expr::Literal(s, _) if s.is_null() => {
                literal(ScalarValue::Utf8View(Some(String::new())))
            }
            separator => separator,
        };
        if matches!(separator, Expr::Literal(..)) {
            let function = agg::string_agg::string_agg_udaf();
            return Ok(Resolved {
                ordered: true,
                ..Resolved::new(function, vec![value, separator], SqlType::Text)
            });
        }
        // Each value brings the separator before it.
        let both = [value, separator].map(|e| Typed::new(e, SqlType::Text));
        let pair = self.function("separated", both.to_vec(), None)?;
        Ok(Resolved::over_ordered(
            pair,
            "join_separated",
            SqlType::Text,
        ))
    }

    /// string_agg of bytes, by their hexadecimal digits.
    fn bytes_agg(&self, args: [Typed; 2]) -> Result<Resolved> {
        let digits = args.into_iter().map(|t| {
            let bytes = self.as_type(&t, &SqlType::Bytea)?;
            let format = literal(ScalarValue::Utf8View(Some("hex".into())));
            let format = Typed::new(format, SqlType::Text);
            self.function("encode", vec![bytes, format], None)
        });
        let pair = self.function("separated", digits.collect::<Result<_>>()?, None)?;
        let join = "join_separated_bytes";
        Ok(Resolved::over_ordered(pair, join, SqlType::Bytea))
    }

    fn json_agg(&self, name: &str, value: Typed, json: SqlType) -> Result<Resolved> {
        if value.unknown {
            return Err(SqlError::new(
                "42804",
                "could not determine polymorphic type because input has type unknown",
            ));
        }
        let value = self.known(value)?;
        // Rows and arrays stand on lines of their own.
        let lines = rows::is_row(&value.ty) || matches!(value.ty, SqlType::Array(_));
        let (of_each, join) = match (name, lines) {
            ("json_agg", true) => ("to_json_or_null", "json_join_lines"),
            ("json_agg", false) => ("to_json_or_null", "json_join"),
            _ => ("to_jsonb_or_null", "jsonb_join"),
        };
        let text = self.function(of_each, vec![value], None)?;
        Ok(json_list(text, join, json))
    }

    /// Those of statistics.
    fn statistic(&self, name: &str, args: Vec<Typed>) -> Result<Resolved> {
        let none = || unknown(name, &args);
        let floats = || -> Result<Vec<Expr>> {
            let float = |a: &Typed| match a.unknown || is_number(&a.ty) {
                true => self.implicit(a, &SqlType::Float8),
                false => Err(none()),
            };
            args.iter().map(float).collect()
        };
        let moment = Moment::named(name).ok_or_else(none)?;
        if args.len() != moment.arguments() {
            return Err(none());
        }
        let (values, of) = match args.as_slice() {
            [one] if !one.unknown && (1..=4).contains(&number_rank(&one.ty)) => {
                (vec![one.expr.clone()], one.ty.clone())
            }
            _ => (floats()?, SqlType::Float8),
        };
        Ok(Resolved {
            then: Some(Then::Moment(moment, of)),
            ..Resolved::new(moments::aggregate(), values, SqlType::Bytea)
        })
    }
}

/// count(*).
fn count_rows(star: bool) -> Result<Resolved> {
    if !star {
        return Err(SqlError::new(
            "42809",
            "count(*) must be used to call a parameterless aggregate function",
        ));
    }
    let one = literal(ScalarValue::Int64(Some(1)));
    Ok(Resolved::new(
        agg::count::count_udaf(),
        vec![one],
        SqlType::Int8,
    ))
}

/// The sum or the average, and the function that has it of an array of intervals.
fn sum(
    name: &str,
    value: Typed,
    function: Arc<AggregateUDF>,
    of_intervals: &'static str,
) -> Result<Resolved> {
    if value.unknown {
        return Err(not_unique(name));
    }
    if value.ty == SqlType::Interval {
        return Ok(Resolved::over_array(value, of_intervals, SqlType::Interval));
    }
    if !is_number(&value.ty) {
        return Err(unknown(name, &[value]));
    }
    let ty = own::result_type(name, &value.ty);
    Ok(Resolved::new(function, vec![value.expr], ty))
}

/// One JSON text of the group's texts.
fn json_list(text: Typed, join: &'static str, json: SqlType) -> Resolved {
    let text = Typed::new(text.expr, SqlType::Text);
    Resolved::over_ordered(text, join, json)
}
