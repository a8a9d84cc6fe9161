//! Scalar functions, casts and aggregates with PostgreSQL's meaning, as DataFusion functions.
//!
//! * [`parse`], [`format`]: values from and to text.
//! * [`cast`]: every cast. [`arith`]: checked arithmetic.
//! * [`json`]: JSON over text, without building documents. `json_members`: several members in one scan.
//!   [`json_change`]: new documents from old ones; `array_change`: new arrays. [`json_order`]: comparing jsonb.
//! * [`registry`]: functions callable by name, with their argument types.
//! * [`aggregate`]: sum and avg; `grouped_sums`: of many groups at once. [`moments`]: variances and the like. [`ordered`]: percentiles, mode, sums of intervals.
//!   `lists`: array_agg, which most of the others are functions of.
//! * `shared`: values that an expression uses several times. `attempt`: values whose errors wait until they are needed. `body`: what both
//!   have in themselves.
//! * `one_way`: aggregates that can't forget rows. `windows`: frames with EXCLUDE, lag and lead by numbers that differ from row to row.
//!
//! A kernel gets arrays, of one element where the argument is constant, and never sees types other than
//! those it was resolved for: the binder has put in the casts.

pub mod aggregate;
pub mod arith;
pub mod array;
pub(crate) mod array_change;
pub(crate) mod attempt;
pub(crate) mod bit_xor;
mod body;
pub mod bytes;
pub mod cast;
pub mod datetime;
pub mod extremes;
pub mod format;
mod from_template;
mod grouped_sums;
pub mod intervals;
pub mod json;
pub mod json_change;
mod json_document;
pub(crate) mod json_members;
pub mod json_order;
mod json_path;
mod json_path_eval;
mod json_scan;
pub mod json_text;
mod json_views;
pub(crate) mod like;
pub(crate) mod lists;
pub mod math;
pub mod moments;
pub(crate) mod moving_sum;
mod number_read;
mod number_templates;
mod number_text;
pub(crate) mod one_of;
pub(crate) mod one_way;
pub mod ordered;
pub mod parse;
pub mod parse_dates;
pub mod regexps;
pub mod registry;
pub(crate) mod resumed;
pub mod rows;
mod separated;
pub(crate) mod shared;
mod similar;
pub(crate) mod single;
pub(crate) mod spread;
pub mod strings;
pub mod system;
pub mod to_char;
mod unicode;
pub(crate) mod windows;
mod zones;

use std::hash::{Hash, Hasher};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef};
use arrow::datatypes::{DataType, FieldRef};
use datafusion_common::{DataFusionError, Result as DfResult, ScalarValue};
use datafusion_expr::expr::ScalarFunction;
use datafusion_expr::{
    ColumnarValue, Expr, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature,
    TypeSignature, Volatility,
};
use tidemill_zset::schema::SqlType;

use crate::error::SqlError;

/// Arguments of a kernel.
pub struct Args {
    /// One per argument; of length 1 where the argument is constant (and also if there is one row).
    pub arrays: Vec<ArrayRef>,
    /// Rows of the result.
    pub rows: usize,
}

impl Args {
    /// Index of `row` in argument `i`.
    #[inline]
    pub fn at(&self, i: usize, row: usize) -> usize {
        if self.arrays[i].len() == 1 { 0 } else { row }
    }

    /// True if argument `i` is NULL in `row`.
    #[inline]
    pub fn is_null(&self, i: usize, row: usize) -> bool {
        self.arrays[i].is_null(self.at(i, row))
    }
}

/// Computes a column. Errors of values are [`SqlError`]s in `DataFusionError::External`.
pub type Kernel = Arc<dyn Fn(&Args) -> DfResult<ArrayRef> + Send + Sync>;

/// An error of a value, on its way through DataFusion.
pub fn external(e: SqlError) -> DataFusionError {
    DataFusionError::External(Box::new(e))
}

/// A resolved function as DataFusion sees it. Two are equal if their keys are.
#[derive(Clone)]
pub struct Function {
    name: String,
    /// Says everything that decides the result: name, types, session settings.
    key: String,
    ret: FieldRef,
    signature: Signature,
    kernel: Kernel,
    /// Can fail on some input: it must not be evaluated where SQL doesn't.
    pub fallible: bool,
}

/// What tells a function of ours apart from all others: its name and types.
pub(crate) fn key_of(function: &ScalarUDF) -> Option<&str> {
    let own = function.inner().downcast_ref::<Function>();
    own.map(|f| f.key.as_str())
}

/// Whether a call of the function can fail for some input.
pub(crate) fn can_fail(function: &ScalarUDF) -> bool {
    let inner: &dyn std::any::Any = function.inner().as_ref();
    if let Some(f) = inner.downcast_ref::<Function>() {
        return f.fallible;
    }
    if let Some(f) = inner.downcast_ref::<shared::Shared>() {
        return f.fallible;
    }
    !inner.is::<attempt::Attempt>()
}

impl std::fmt::Debug for Function {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.key)
    }
}

impl PartialEq for Function {
    fn eq(&self, other: &Self) -> bool {
        self.key == other.key
    }
}

impl Eq for Function {}

impl Hash for Function {
    fn hash<H: Hasher>(&self, h: &mut H) {
        self.key.hash(h);
    }
}

impl ScalarUDFImpl for Function {
    fn name(&self) -> &str {
        &self.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> DfResult<DataType> {
        Ok(self.ret.data_type().clone())
    }

    fn return_field_from_args(&self, _: ReturnFieldArgs) -> DfResult<FieldRef> {
        Ok(self.ret.clone())
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> DfResult<ColumnarValue> {
        let constant = args
            .args
            .iter()
            .all(|a| matches!(a, ColumnarValue::Scalar(_)));
        let volatile = self.signature.volatility == Volatility::Volatile;
        let number_rows = args.number_rows;
        let rows = if constant && !volatile {
            1
        } else {
            number_rows
        };
        let arrays = args
            .args
            .into_iter()
            .map(|a| match a {
                ColumnarValue::Array(a) => Ok(a),
                ColumnarValue::Scalar(s) => s.to_array_of_size(1),
            })
            .collect::<DfResult<Vec<_>>>()?;
        // The binder gives every NULL a type; DataFusion's optimiser tries predicates on NULLs without one, and takes
        // an error for "not known".
        if arrays.iter().any(|a| a.data_type() == &DataType::Null) {
            let message = format!("{} is not defined for a NULL without a type", self.name);
            return Err(DataFusionError::Plan(message));
        }
        let mut out = (self.kernel)(&Args { arrays, rows })?;
        // A list's type names that of its elements, SQL's name included, which a kernel needn't know.
        if out.data_type() != self.ret.data_type() {
            out = arrow::compute::cast(&out, self.ret.data_type())?;
        }
        if constant && !volatile {
            if out.data_type().is_nested() {
                // DataFusion's scalar of a list forgets the SQL type of its elements.
                let first = arrow::array::UInt64Array::from(vec![0; number_rows]);
                return Ok(ColumnarValue::Array(arrow::compute::take(
                    &out, &first, None,
                )?));
            }
            return Ok(ColumnarValue::Scalar(ScalarValue::try_from_array(&out, 0)?));
        }
        Ok(ColumnarValue::Array(out))
    }
}

/// What a function is called in plans since its results have become others: what a view stores is a function of what its plan says, so
/// that what is stored of the old results is computed anew.
pub(crate) fn revised(name: &str) -> String {
    format!("{name}_2")
}

/// Whether what a function of values of these types gives depends on the offsets of a named zone.
pub(crate) fn by_zone<'t>(
    name: &str,
    types: impl IntoIterator<Item = &'t SqlType>,
    zone: &str,
) -> bool {
    let mut types = types.into_iter();
    name == "timezone" || zone != "UTC" && types.any(|t| *t == SqlType::Timestamptz)
}

/// A call of `kernel`. `key` must say everything that decides the result besides the arguments.
pub fn call(
    name: &str,
    key: String,
    kernel: Kernel,
    volatility: Volatility,
    fallible: bool,
    args: Vec<Expr>,
    ret: &SqlType,
) -> Expr {
    let signature = Signature::one_of(
        vec![TypeSignature::VariadicAny, TypeSignature::Nullary],
        volatility,
    );
    let f = Function {
        name: name.to_string(),
        key,
        ret: Arc::new(ret.field(name, true)),
        signature,
        kernel,
        fallible,
    };
    Expr::ScalarFunction(ScalarFunction::new_udf(
        Arc::new(ScalarUDF::new_from_impl(f)),
        args,
    ))
}

/// A kernel from typed rows: NULL where an argument is NULL, else what the body gives,
/// `Result<Option<T>, SqlError>`. `long_text` is text that may be much longer than the arguments.
macro_rules! kernel {
    (|| -> $r:ident $body:expr) => {
        std::sync::Arc::new(move |args: &$crate::functions::Args| -> datafusion_common::Result<arrow::array::ArrayRef> {
            let mut out = $crate::functions::builder!($r, args.rows);
            for _ in 0..args.rows {
                #[allow(clippy::redundant_closure_call)]
                let result: crate::error::Result<Option<_>> = (|| $body)();
                match result.map_err($crate::functions::external)? {
                    Some(v) => out.append_value(v),
                    None => out.append_null(),
                }
            }
            Ok(std::sync::Arc::new($crate::functions::finish!($r, out)))
        })
    };
    (|$($a:ident : $t:ident),*| -> $r:ident $body:expr) => {
        std::sync::Arc::new(move |args: &$crate::functions::Args| -> datafusion_common::Result<arrow::array::ArrayRef> {
            #[allow(unused_mut, unused_assignments, unused_variables)]
            let mut i = 0;
            $(
                let $a = ($crate::functions::column!($t, args, i), i);
                #[allow(unused_assignments)]
                { i += 1; }
            )*
            let mut out = $crate::functions::builder!($r, args.rows);
            #[allow(unused_mut, unused_variables)]
            let mut bytes = 0usize;
            #[allow(unused_variables)]
            for row in 0..args.rows {
                if false $(|| args.is_null($a.1, row))* {
                    out.append_null();
                    continue;
                }
                #[allow(clippy::redundant_closure_call)]
                let result: crate::error::Result<Option<_>> = (|| {
                    $( let $a = $a.0.value(args.at($a.1, row)); )*
                    $body
                })();
                match result.map_err($crate::functions::external)? {
                    Some(v) => {
                        $crate::functions::count_bytes!($r, bytes, v);
                        out.append_value(v)
                    }
                    None => out.append_null(),
                }
            }
            Ok(std::sync::Arc::new($crate::functions::finish!($r, out)))
        })
    };
}
pub(crate) use kernel;

/// Times that a plan has functions for until it is run: they are put in before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Time {
    /// `now()`: the same for all statements of a transaction.
    Transaction,
    /// `statement_timestamp()`
    Statement,
}

impl Time {
    /// The function's name in plans.
    pub(crate) fn function(self) -> &'static str {
        match self {
            Time::Transaction => "now",
            Time::Statement => "statement_timestamp",
        }
    }
}

/// The time that an expression stands for.
pub(crate) fn time_of(e: &Expr) -> Option<Time> {
    let Expr::ScalarFunction(f) = e else {
        return None;
    };
    let name = f.func.name();
    [Time::Transaction, Time::Statement]
        .into_iter()
        .find(|t| t.function() == name)
}

/// Bytes of one text that a function makes of short ones: nothing else bounds it.
pub(crate) const LONG_TEXT_BYTES_MAX: usize = 1 << 28;

/// Bytes of the texts that such a function makes of the rows of one batch.
const LONG_TEXTS_BYTES_MAX: usize = 1 << 30;

/// Adds the bytes of one more result to those of a batch.
pub(crate) fn add_result_bytes(sum: &mut usize, more: usize) -> DfResult<()> {
    *sum += more;
    if *sum <= LONG_TEXTS_BYTES_MAX {
        return Ok(());
    }
    let error = SqlError::new("53200", "out of memory for the results of a function").detail(
        format!("Those of the rows that are computed at once take more than {LONG_TEXTS_BYTES_MAX} bytes."),
    );
    Err(external(
        error.hint("Select fewer rows at a time, or shorter texts."),
    ))
}

/// `Err` if a text of so many bytes, or more than there are numbers for, is too long.
pub(crate) fn check_length(bytes: Option<usize>) -> crate::error::Result<()> {
    match bytes {
        Some(bytes) if bytes <= LONG_TEXT_BYTES_MAX => Ok(()),
        _ => Err(SqlError::new("54000", "requested length too large")),
    }
}

macro_rules! count_bytes {
    (long_text, $sum:ident, $v:ident) => {
        $crate::functions::add_result_bytes(&mut $sum, $v.len())?
    };
    ($other:ident, $sum:ident, $v:ident) => {};
}
pub(crate) use count_bytes;

macro_rules! column {
    (text, $a:expr, $i:expr) => { arrow::array::cast::AsArray::as_string_view($a.arrays[$i].as_ref()) };
    (bool, $a:expr, $i:expr) => { arrow::array::cast::AsArray::as_boolean($a.arrays[$i].as_ref()) };
    (bytea, $a:expr, $i:expr) => { arrow::array::cast::AsArray::as_binary::<i32>($a.arrays[$i].as_ref()) };
    (list, $a:expr, $i:expr) => { arrow::array::cast::AsArray::as_list::<i32>($a.arrays[$i].as_ref()) };
    (int2, $a:expr, $i:expr) => { $crate::functions::column!(@p Int16Type, $a, $i) };
    (int4, $a:expr, $i:expr) => { $crate::functions::column!(@p Int32Type, $a, $i) };
    (int8, $a:expr, $i:expr) => { $crate::functions::column!(@p Int64Type, $a, $i) };
    (float4, $a:expr, $i:expr) => { $crate::functions::column!(@p Float32Type, $a, $i) };
    (float8, $a:expr, $i:expr) => { $crate::functions::column!(@p Float64Type, $a, $i) };
    (numeric, $a:expr, $i:expr) => { $crate::functions::column!(@p Decimal128Type, $a, $i) };
    (date, $a:expr, $i:expr) => { $crate::functions::column!(@p Date32Type, $a, $i) };
    (time, $a:expr, $i:expr) => { $crate::functions::column!(@p Time64MicrosecondType, $a, $i) };
    (timestamp, $a:expr, $i:expr) => { $crate::functions::column!(@p TimestampMicrosecondType, $a, $i) };
    (timestamptz, $a:expr, $i:expr) => { $crate::functions::column!(@p TimestampMicrosecondType, $a, $i) };
    (interval, $a:expr, $i:expr) => { $crate::functions::column!(@p IntervalMonthDayNanoType, $a, $i) };
    (@p $t:ident, $a:expr, $i:expr) => {
        arrow::array::cast::AsArray::as_primitive::<arrow::datatypes::$t>($a.arrays[$i].as_ref())
    };
}
pub(crate) use column;

macro_rules! builder {
    (text, $n:expr) => {
        arrow::array::StringViewBuilder::with_capacity($n)
    };
    (long_text, $n:expr) => {
        arrow::array::StringViewBuilder::with_capacity($n)
    };
    (bool, $n:expr) => {
        arrow::array::BooleanBuilder::with_capacity($n)
    };
    (bytea, $n:expr) => {
        arrow::array::BinaryBuilder::with_capacity($n, 0)
    };
    (int2, $n:expr) => {
        arrow::array::Int16Builder::with_capacity($n)
    };
    (int4, $n:expr) => {
        arrow::array::Int32Builder::with_capacity($n)
    };
    (int8, $n:expr) => {
        arrow::array::Int64Builder::with_capacity($n)
    };
    (float4, $n:expr) => {
        arrow::array::Float32Builder::with_capacity($n)
    };
    (float8, $n:expr) => {
        arrow::array::Float64Builder::with_capacity($n)
    };
    (date, $n:expr) => {
        arrow::array::Date32Builder::with_capacity($n)
    };
    (time, $n:expr) => {
        arrow::array::Time64MicrosecondBuilder::with_capacity($n)
    };
    (timestamp, $n:expr) => {
        arrow::array::TimestampMicrosecondBuilder::with_capacity($n)
    };
    (timestamptz, $n:expr) => {
        arrow::array::TimestampMicrosecondBuilder::with_capacity($n)
    };
    (interval, $n:expr) => {
        arrow::array::IntervalMonthDayNanoBuilder::with_capacity($n)
    };
    (text_list, $n:expr) => {
        $crate::functions::array::TextListBuilder::default()
    };
}
pub(crate) use builder;

macro_rules! finish {
    (timestamptz, $b:expr) => {{
        let mut b = $b;
        b.finish().with_timezone(tidemill_zset::schema::UTC)
    }};
    ($t:ident, $b:expr) => {{
        let mut b = $b;
        b.finish()
    }};
}
pub(crate) use finish;
