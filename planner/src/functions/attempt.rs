//! Values whose errors wait until somebody needs the value.
//!
//! `attempt(x)` gives what `x` gives, or its error, as a pair of which one is NULL: it never fails. `outcome` of the pair is the value, or fails with the
//! error. Between them rows may be dropped, and with them their errors. `outcome(attempt(x))` is `x`.

use std::hash::{Hash, Hasher};
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, RecordBatch, StringArray, StructArray, make_array, new_empty_array,
    new_null_array,
};
use arrow::buffer::NullBuffer;
use arrow::compute::concat;
use arrow::datatypes::{DataType, Field, FieldRef, Fields};
use datafusion_common::{DataFusionError, Result as DfResult, ScalarValue};
use datafusion_expr::expr::ScalarFunction;
use datafusion_expr::simplify::{ExprSimplifyResult, SimplifyContext};
use datafusion_expr::{
    ColumnarValue, Expr, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature,
    Volatility,
};

use super::body::{Body, is_of_row, rows_of, signature};
use super::external;
use super::shared::can_fail_anywhere;
use crate::error::{SqlError, from_datafusion, known_state};
use crate::tree::Tree;

/// Separates the parts of an error in its text.
const PART: char = '\u{1f}';

/// `attempt(e)`. `field`: of the value of `e`, which is neither volatile nor has subqueries.
pub(crate) fn attempt(e: Expr, field: &Field) -> Expr {
    // What can't fail is computed outside, where others see it: members of JSON values are taken together.
    let mut args = vec![];
    let body = Body::new(e, &mut args, &|e| is_of_rows(e) && !can_fail_anywhere(e));
    let value = field.clone().with_name("value").with_nullable(true);
    let error = Field::new("error", DataType::Utf8, true);
    let pair = DataType::Struct(Fields::from(vec![value, error]));
    let function = Attempt {
        name: format!("attempt[{body}]"),
        ret: Arc::new(Field::new("?", pair, true)),
        body,
        signature: signature(),
    };
    let function = Arc::new(ScalarUDF::new_from_impl(function));
    Expr::ScalarFunction(ScalarFunction::new_udf(function, args))
}

/// `outcome(pair)`: `field` is that of the value.
pub(crate) fn outcome(pair: Expr, field: &Field) -> Expr {
    let function = Outcome {
        ret: Arc::new(field.clone().with_name("?").with_nullable(true)),
        signature: Signature::any(1, Volatility::Immutable),
    };
    let function = Arc::new(ScalarUDF::new_from_impl(function));
    Expr::ScalarFunction(ScalarFunction::new_udf(function, vec![pair]))
}

/// The value's field in the field of a pair.
pub(crate) fn value_field(pair: &Field) -> Option<&Field> {
    match pair.data_type() {
        DataType::Struct(fields) => fields.first().map(|f| f.as_ref()),
        _ => None,
    }
}

/// Whether a value is made of something that is known of a row.
fn is_of_rows(e: &Expr) -> bool {
    e.any(&mut |e| Ok(is_of_row(e))).unwrap_or(true)
}

#[derive(Debug)]
pub(super) struct Attempt {
    name: String,
    /// Of the pair.
    ret: FieldRef,
    body: Body,
    signature: Signature,
}

impl Attempt {
    /// Adds what rows `from .. from + rows` give to `values` and `errors`: the batch as a whole, or its halves if that fails.
    fn bisect(
        &self,
        batch: &RecordBatch,
        values: &mut Vec<ArrayRef>,
        errors: &mut Vec<Option<String>>,
    ) -> DfResult<()> {
        let rows = batch.num_rows();
        let fields = match self.ret.data_type() {
            DataType::Struct(fields) => fields,
            other => return datafusion_common::internal_err!("{other} is not a pair"),
        };
        match self.body.evaluate(batch, fields[0].data_type()) {
            Ok(array) => {
                values.push(array);
                errors.resize(errors.len() + rows, None);
            }
            Err(e) if rows > 1 => {
                stops(&e).map_or(Ok(()), Err)?;
                let half = rows / 2;
                self.bisect(&batch.slice(0, half), values, errors)?;
                self.bisect(&batch.slice(half, rows - half), values, errors)?;
            }
            Err(e) => {
                stops(&e).map_or(Ok(()), Err)?;
                values.push(new_null_array(fields[0].data_type(), 1));
                errors.push(Some(written(&from_datafusion(&e))));
            }
        }
        Ok(())
    }
}

/// The error, if it isn't one of a value: of a statement that is to end, and of ours.
fn stops(e: &DataFusionError) -> Option<DataFusionError> {
    let e = from_datafusion(e);
    matches!(e.sqlstate, "57014" | "XX000").then(|| external(e))
}

fn written(e: &SqlError) -> String {
    let part = |p: &Option<String>| p.clone().unwrap_or_default();
    let parts = [
        e.sqlstate.into(),
        e.message.clone(),
        part(&e.detail),
        part(&e.hint),
    ];
    parts.join(&PART.to_string())
}

fn read(text: &str) -> SqlError {
    let mut parts = text.split(PART);
    let mut next = || parts.next().unwrap_or_default();
    let e = SqlError::new(known_state(next()), next());
    let part = |p: &str| Some(p.to_string()).filter(|p| !p.is_empty());
    SqlError {
        detail: part(next()),
        hint: part(next()),
        ..e
    }
}

impl PartialEq for Attempt {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name && self.ret == other.ret && self.body == other.body
    }
}

impl Eq for Attempt {}

impl Hash for Attempt {
    fn hash<H: Hasher>(&self, h: &mut H) {
        self.name.hash(h);
    }
}

impl ScalarUDFImpl for Attempt {
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
        let constant = |a: &ColumnarValue| matches!(a, ColumnarValue::Scalar(_));
        let constant = args.args.iter().all(constant);
        let number_rows = if constant { 1 } else { args.number_rows };
        let rows = rows_of(ScalarFunctionArgs {
            number_rows,
            ..args
        })?;
        let (mut values, mut errors) = (vec![], vec![]);
        if rows.num_rows() > 0 {
            self.bisect(&rows, &mut values, &mut errors)?;
        }
        let DataType::Struct(fields) = self.ret.data_type() else {
            return datafusion_common::internal_err!("an attempt gives pairs");
        };
        let value = match values.len() {
            0 => new_empty_array(fields[0].data_type()),
            1 => values.remove(0),
            _ => concat(&values.iter().map(|v| v.as_ref()).collect::<Vec<_>>())?,
        };
        let error: ArrayRef = match errors.iter().all(Option::is_none) {
            true => new_null_array(&DataType::Utf8, errors.len()),
            false => Arc::new(StringArray::from(errors)),
        };
        let pairs = StructArray::try_new(fields.clone(), vec![value, error], None)?;
        Ok(match constant {
            true => ColumnarValue::Scalar(ScalarValue::try_from_array(&pairs, 0)?),
            false => ColumnarValue::Array(Arc::new(pairs)),
        })
    }
}

#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct Outcome {
    /// Of the value.
    ret: FieldRef,
    signature: Signature,
}

impl ScalarUDFImpl for Outcome {
    fn name(&self) -> &str {
        "outcome"
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

    /// `outcome(attempt(x))` is `x`.
    fn simplify(&self, args: Vec<Expr>, _: &SimplifyContext) -> DfResult<ExprSimplifyResult> {
        let whole = match args.first() {
            Some(Expr::ScalarFunction(f)) => {
                let inner: &dyn std::any::Any = f.func.inner().as_ref();
                let attempt = inner.downcast_ref::<Attempt>();
                attempt.map(|a| a.body.over(&f.args))
            }
            _ => None,
        };
        Ok(match whole {
            Some(e) => ExprSimplifyResult::Simplified(e),
            None => ExprSimplifyResult::Original(args),
        })
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> DfResult<ColumnarValue> {
        let pairs = args.args[0].to_array(args.number_rows)?;
        let Some(pairs) = pairs.as_struct_opt() else {
            // As of other functions: the optimiser tries predicates on NULLs without a type.
            let message = "an outcome is not defined for a NULL without a type";
            return Err(DataFusionError::Plan(message.into()));
        };
        let (value, error) = (pairs.column(0), pairs.column(1).as_string::<i32>());
        let failed = |i: &usize| error.is_valid(*i) && pairs.is_valid(*i);
        if error.null_count() < error.len()
            && let Some(i) = (0..error.len()).find(failed)
        {
            return Err(external(read(error.value(i))));
        }
        let Some(nulls) = pairs.nulls() else {
            return Ok(ColumnarValue::Array(value.clone()));
        };
        // Of a row that an outer join has added.
        let nulls = NullBuffer::union(Some(nulls), value.nulls());
        let data = value.to_data().into_builder().nulls(nulls).build()?;
        Ok(ColumnarValue::Array(make_array(data)))
    }
}
