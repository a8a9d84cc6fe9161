//! Aggregates that go on from what rows before came to, for windows that begin at a key's first row (`compile::running`).
//!
//! What rows come to is the state of the aggregate's accumulator, as a record.

use std::sync::Arc;

use arrow::array::types::Int32Type;
use arrow::array::{Array, ArrayRef, AsArray, StructArray};
use arrow::compute::filter;
use arrow::datatypes::{DataType, Field, FieldRef, Fields, Schema};
use datafusion_common::{Result, ScalarValue, internal_err};
use datafusion_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion_expr::{Accumulator, AggregateUDF, AggregateUDFImpl, Signature, Volatility};
use datafusion_physical_expr::PhysicalExpr;
use datafusion_physical_expr::expressions::Column;

/// An aggregate of values of some types.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Resumable {
    of: Arc<AggregateUDF>,
    args: Vec<FieldRef>,
    /// Type of its result, which may be cast.
    result: DataType,
}

/// What a call of one of the functions is given, and gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Form {
    /// Of the arguments, whether the row counts, and what is carried in: the result.
    Result,
    /// Of the same: what is to be carried further.
    State,
    /// Of what parts come to: what they come to together.
    Together,
}

impl Resumable {
    /// The aggregate `of` arguments of these fields, its result cast to `result`.
    pub fn new(of: Arc<AggregateUDF>, args: Vec<FieldRef>, result: DataType) -> Resumable {
        Resumable { of, args, result }
    }

    /// The type of what is carried.
    pub fn carried(&self) -> Result<DataType> {
        let fields = self.of.state_fields(StateFieldsArgs {
            name: self.of.name(),
            input_fields: &self.args,
            return_field: self.of.return_field(&self.args)?,
            ordering_fields: &[],
            is_distinct: false,
        })?;
        let nullable = |f: &FieldRef| f.as_ref().clone().with_nullable(true);
        Ok(DataType::Struct(fields.iter().map(nullable).collect()))
    }

    /// Its result, given its arguments, whether the row counts, and what is carried in, which is the same in all rows, as a dictionary.
    pub fn resumed(&self) -> Result<AggregateUDF> {
        self.function(Form::Result)
    }

    /// What is to be carried further; given the same.
    pub fn state(&self) -> Result<AggregateUDF> {
        self.function(Form::State)
    }

    /// What states come to together.
    pub fn together(&self) -> Result<AggregateUDF> {
        self.function(Form::Together)
    }

    fn function(&self, form: Form) -> Result<AggregateUDF> {
        let DataType::Struct(carried) = self.carried()? else {
            return internal_err!("a state is a record");
        };
        Ok(AggregateUDF::new_from_impl(Resumed {
            name: format!("{} {form:?}", self.of.name()),
            of: self.clone(),
            form,
            carried,
            signature: Signature::variadic_any(Volatility::Immutable),
        }))
    }

    fn accumulator(&self) -> Result<Box<dyn Accumulator>> {
        let fields = self.args.iter().enumerate();
        let fields = fields.map(|(i, f)| f.as_ref().clone().with_name(format!("a{i}")));
        let schema = Schema::new(fields.collect::<Vec<Field>>());
        let column =
            |i: usize| -> Arc<dyn PhysicalExpr> { Arc::new(Column::new(&format!("a{i}"), i)) };
        let exprs: Vec<Arc<dyn PhysicalExpr>> = (0..self.args.len()).map(column).collect();
        self.of.accumulator(AccumulatorArgs {
            return_field: self.of.return_field(&self.args)?,
            schema: &schema,
            ignore_nulls: false,
            order_bys: &[],
            is_reversed: false,
            name: self.of.name(),
            is_distinct: false,
            exprs: &exprs,
            expr_fields: schema.fields(),
        })
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Resumed {
    name: String,
    of: Resumable,
    form: Form,
    carried: Fields,
    signature: Signature,
}

impl AggregateUDFImpl for Resumed {
    fn name(&self) -> &str {
        &self.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(match self.form {
            Form::Result => self.of.result.clone(),
            Form::State | Form::Together => DataType::Struct(self.carried.clone()),
        })
    }

    fn accumulator(&self, _: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        Ok(Box::new(Resuming {
            inner: self.of.accumulator()?,
            function: self.clone(),
            begun: false,
        }))
    }
}

#[derive(Debug)]
struct Resuming {
    function: Resumed,
    inner: Box<dyn Accumulator>,
    /// Whether what is carried in has been added.
    begun: bool,
}

impl Resuming {
    fn add_states(&mut self, states: &StructArray) -> Result<()> {
        if states.null_count() == 0 {
            return self.inner.merge_batch(states.columns());
        }
        for row in (0..states.len()).filter(|row| states.is_valid(*row)) {
            let columns = states.columns().iter().map(|c| c.slice(row, 1));
            self.inner.merge_batch(&columns.collect::<Vec<_>>())?;
        }
        Ok(())
    }

    fn add_rows(&mut self, values: &[ArrayRef]) -> Result<()> {
        let Some(([counted, carried], args)) = values.split_last_chunk().map(|(a, b)| (b, a))
        else {
            return internal_err!("{} of {} arguments", self.function.name, values.len());
        };
        if counted.is_empty() {
            return Ok(());
        }
        if !std::mem::replace(&mut self.begun, true) {
            let carried = carried.as_dictionary::<Int32Type>();
            if let Some(key) = carried.key(0) {
                self.add_states(&carried.values().as_struct().slice(key, 1))?;
            }
        }
        let counted = counted.as_boolean();
        let count = counted.iter().filter(|c| *c == Some(true)).count();
        match count {
            0 => Ok(()),
            n if n == counted.len() => self.inner.update_batch(args),
            _ => {
                let args = args.iter().map(|a| Ok(filter(a, counted)?));
                self.inner.update_batch(&args.collect::<Result<Vec<_>>>()?)
            }
        }
    }
}

impl Accumulator for Resuming {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        match (self.function.form, values) {
            (Form::Together, [states]) => self.add_states(states.as_struct()),
            _ => self.add_rows(values),
        }
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        if self.function.form == Form::Result {
            return self.inner.evaluate()?.cast_to(&self.function.of.result);
        }
        let states = self.inner.state()?;
        let columns = states.iter().map(|s| s.to_array_of_size(1));
        let columns = columns.collect::<Result<Vec<_>>>()?;
        let record = StructArray::try_new(self.function.carried.clone(), columns, None)?;
        Ok(ScalarValue::Struct(Arc::new(record)))
    }

    fn size(&self) -> usize {
        size_of::<Self>() + self.inner.size()
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        internal_err!("{} isn't computed in parts", self.function.name)
    }

    fn merge_batch(&mut self, _: &[ArrayRef]) -> Result<()> {
        internal_err!("{} isn't computed in parts", self.function.name)
    }
}
