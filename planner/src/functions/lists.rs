//! `array_agg`: the values of a group as an array, in an order. What other aggregates make of a group's values in order
//! (`string_agg`, `percentile_cont`, `json_agg`) is a function of that array.
//!
//! The rows stay in the columns in which they came, each with the number of its group; they are sorted once, when the
//! arrays are asked for. DataFusion's own keeps a value on the heap for each row and measures all of them with every batch;
//! and it sorts the input of all aggregates of a query in one way and relies on it for DISTINCT, so that several of them in different
//! orders would all get that of one.

use std::sync::{Arc, LazyLock};

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, ListArray, RecordBatch, UInt32Array, new_empty_array,
};
use arrow::buffer::{NullBuffer, OffsetBuffer};
use arrow::compute::{SortOptions, filter_record_batch, take};
use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef, UInt32Type};
use arrow::row::{RowConverter, Rows, SortField};
use datafusion_common::{Result, ScalarValue};
use datafusion_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion_expr::utils::AggregateOrderSensitivity;
use datafusion_expr::{
    Accumulator, AggregateUDF, AggregateUDFImpl, EmitTo, GroupsAccumulator, Signature, Volatility,
};
use tidemill_zset::buffers;

/// `array_agg(value ORDER BY …)`: the list of the values, NULL without any.
pub(crate) fn array_agg() -> Arc<AggregateUDF> {
    static F: LazyLock<Arc<AggregateUDF>> = LazyLock::new(|| {
        Arc::new(AggregateUDF::new_from_impl(Lists {
            name: "array_agg".to_string(),
            distinct: None,
            signature: Signature::any(1, Volatility::Immutable),
        }))
    });
    F.clone()
}

/// `array_agg(DISTINCT value ORDER BY value)`: an aggregate of a value and of what it is compared by. The list has each
/// value once, in this order.
pub(crate) fn distinct_list(order: SortOptions) -> Arc<AggregateUDF> {
    let direction = if order.descending { "desc" } else { "asc" };
    let nulls = if order.nulls_first { "first" } else { "last" };
    Arc::new(AggregateUDF::new_from_impl(Lists {
        // The name says everything: what is stored of a view is told apart by it.
        name: format!("distinct_array_agg {direction} nulls {nulls}"),
        distinct: Some(order),
        signature: Signature::any(2, Volatility::Immutable),
    }))
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Lists {
    name: String,
    /// The order of what the values are compared by, which is the second argument.
    distinct: Option<SortOptions>,
    signature: Signature,
}

fn list_of(of: &DataType) -> DataType {
    DataType::List(Arc::new(Field::new_list_field(of.clone(), true)))
}

impl Lists {
    fn gathered(&self, args: &AccumulatorArgs) -> Result<Gathered> {
        let mut types = vec![args.expr_fields[0].data_type().clone()];
        let mut order = vec![];
        match self.distinct {
            Some(options) => {
                types.push(args.expr_fields[1].data_type().clone());
                order.push(options);
            }
            None => {
                for by in args.order_bys {
                    types.push(by.expr.data_type(args.schema)?);
                    order.push(by.options);
                }
            }
        }
        Ok(Gathered::new(types, order, self.distinct.is_some()))
    }
}

impl AggregateUDFImpl for Lists {
    fn name(&self) -> &str {
        &self.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, args: &[DataType]) -> Result<DataType> {
        Ok(list_of(&args[0]))
    }

    /// A list of the values, and one of each key that they are sorted by.
    fn state_fields(&self, args: StateFieldsArgs) -> Result<Vec<FieldRef>> {
        let values = &args.input_fields[..if self.distinct.is_some() { 2 } else { 1 }];
        let fields = values.iter().chain(args.ordering_fields).enumerate();
        let fields = fields.map(|(i, f)| {
            let name = format!("{}[{i}]", args.name);
            Arc::new(Field::new(name, list_of(f.data_type()), true))
        });
        Ok(fields.collect())
    }

    /// The keys come as arguments, and the input may have any order.
    fn order_sensitivity(&self) -> AggregateOrderSensitivity {
        AggregateOrderSensitivity::Beneficial
    }

    fn with_beneficial_ordering(
        self: Arc<Self>,
        _: bool,
    ) -> Result<Option<Arc<dyn AggregateUDFImpl>>> {
        Ok(Some(self))
    }

    fn accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        Ok(Box::new(OneGroup(self.gathered(&args)?)))
    }

    fn groups_accumulator_supported(&self, _: AccumulatorArgs) -> bool {
        true
    }

    fn create_groups_accumulator(
        &self,
        args: AccumulatorArgs,
    ) -> Result<Box<dyn GroupsAccumulator>> {
        Ok(Box::new(self.gathered(&args)?))
    }
}

/// The rows of all groups.
#[derive(Debug)]
struct Gathered {
    /// Value, keys, number of the group.
    schema: SchemaRef,
    /// Of the keys.
    order: Vec<SortOptions>,
    /// The first key tells values apart.
    distinct: bool,
    rows: Vec<RecordBatch>,
    groups: usize,
    bytes: usize,
}

impl Gathered {
    /// `types`: of the value and of the keys.
    fn new(types: Vec<DataType>, order: Vec<SortOptions>, distinct: bool) -> Self {
        let columns = types.into_iter().chain([DataType::UInt32]);
        let fields = columns.map(|of| Field::new("", of, true));
        Gathered {
            schema: Arc::new(Schema::new(fields.collect::<Vec<_>>())),
            order,
            distinct,
            rows: vec![],
            groups: 0,
            bytes: 0,
        }
    }

    fn batch(&self, columns: &[ArrayRef], groups: UInt32Array) -> Result<RecordBatch> {
        let mut columns = columns.to_vec();
        columns.push(Arc::new(groups));
        Ok(RecordBatch::try_new(self.schema.clone(), columns)?)
    }

    fn push(&mut self, columns: &[ArrayRef], groups: UInt32Array) -> Result<()> {
        let rows = self.batch(columns, groups)?;
        self.keep(rows);
        Ok(())
    }

    fn keep(&mut self, rows: RecordBatch) {
        if rows.num_rows() > 0 {
            self.bytes += rows.columns().iter().map(heap_bytes).sum::<usize>();
            self.rows.push(rows);
        }
    }

    /// Takes what [`Gathered::lists`] gave of each column.
    fn push_lists(&mut self, lists: &[ArrayRef], group_of: impl Fn(usize) -> usize) -> Result<()> {
        let first = lists[0].as_list::<i32>();
        let mut groups = vec![];
        for row in 0..first.len() {
            let items = if first.is_null(row) {
                0
            } else {
                first.value_length(row) as usize
            };
            groups.extend(std::iter::repeat_n(group_of(row) as u32, items));
        }
        let items = |list: &ArrayRef| -> Result<ArrayRef> {
            let list = list.as_list::<i32>();
            let valid = (0..list.len()).filter(|row| list.is_valid(*row));
            let parts: Vec<ArrayRef> = valid.map(|row| list.value(row)).collect();
            let parts: Vec<&dyn Array> = parts.iter().map(AsRef::as_ref).collect();
            match parts.is_empty() {
                true => Ok(new_empty_array(&list.value_type())),
                false => Ok(arrow::compute::concat(&parts)?),
            }
        };
        let columns = lists.iter().map(items).collect::<Result<Vec<_>>>()?;
        self.push(&columns, groups.into())
    }

    /// Takes out the rows of the first groups, and gives the others new numbers.
    fn emitted(&mut self, emit: EmitTo) -> Result<(RecordBatch, usize)> {
        let all = buffers::concat_batches(&self.schema, &self.rows)?;
        let groups = match emit {
            EmitTo::All => self.groups,
            EmitTo::First(n) => n,
        };
        (self.rows, self.bytes) = (vec![], 0);
        self.groups -= groups;
        if self.groups == 0 {
            return Ok((all, groups));
        }
        let of = numbers(&all);
        let is_first: BooleanArray = of.iter().map(|g| Some((*g as usize) < groups)).collect();
        let first = filter_record_batch(&all, &is_first)?;
        let rest = filter_record_batch(&all, &arrow::compute::not(&is_first)?)?;
        let moved: UInt32Array = numbers(&rest).iter().map(|g| g - groups as u32).collect();
        let columns = &rest.columns()[..rest.num_columns() - 1];
        self.push(columns, moved)?;
        Ok((first, groups))
    }

    /// The rows of each group one after the other, and how many it has.
    fn grouped(&self, rows: &RecordBatch, groups: usize) -> (Vec<u32>, Vec<usize>) {
        let of = numbers(rows);
        let mut lengths = vec![0; groups];
        of.iter().for_each(|g| lengths[*g as usize] += 1);
        let mut next = 0;
        let mut places: Vec<usize> = lengths.iter().map(|n| (next, next += n).0).collect();
        let mut sorted = vec![0; of.len()];
        for (row, g) in of.iter().enumerate() {
            let place = &mut places[*g as usize];
            sorted[*place] = row as u32;
            *place += 1;
        }
        (sorted, lengths)
    }

    /// For each of the columns `of` the lists of the groups.
    fn lists(
        &mut self,
        emit: EmitTo,
        of: impl Fn(usize) -> std::ops::Range<usize>,
    ) -> Result<Vec<ArrayRef>> {
        let width = self.schema.fields().len() - 1;
        let (rows, groups) = self.emitted(emit)?;
        let (mut order, mut lengths) = self.grouped(&rows, groups);
        if width > 1 {
            let keys = Keys::of(&rows, &self.order, self.distinct)?;
            let mut from = 0;
            for n in &lengths {
                keys.sort(&mut order[from..from + n]);
                from += n;
            }
            if self.distinct {
                keys.keep_first(&mut order, &mut lengths);
            }
        }
        let nulls: NullBuffer = lengths.iter().map(|n| *n > 0).collect();
        let offsets = OffsetBuffer::<i32>::from_lengths(lengths);
        let order = UInt32Array::from(order);
        let list = |column: &ArrayRef| -> Result<ArrayRef> {
            let values = take(column, &order, None)?;
            let field = Arc::new(Field::new_list_field(values.data_type().clone(), true));
            let list = ListArray::try_new(field, offsets.clone(), values, Some(nulls.clone()))?;
            Ok(Arc::new(list))
        };
        rows.columns()[of(width)].iter().map(list).collect()
    }
}

/// The numbers of the rows' groups.
fn numbers(rows: &RecordBatch) -> &[u32] {
    let column = rows.column(rows.num_columns() - 1);
    column.as_primitive::<UInt32Type>().values()
}

/// What the values take, wherever they are.
fn heap_bytes(column: &ArrayRef) -> usize {
    match column.data_type() {
        DataType::Utf8View => {
            let texts = column.as_string_view();
            size_of_val(&texts.views()[..]) + texts.lengths().map(|n| n as usize).sum::<usize>()
        }
        _ => column.to_data().get_slice_memory_size().unwrap_or_default(),
    }
}

/// What rows are sorted by, as bytes that compare like it.
struct Keys {
    rows: Rows,
    /// The first bytes of each, which decide most comparisons.
    heads: Vec<u128>,
    /// Bytes of the first key, where it tells values apart.
    first: Option<Rows>,
}

impl Keys {
    fn of(rows: &RecordBatch, order: &[SortOptions], distinct: bool) -> Result<Self> {
        let columns = rows.columns();
        let mut keys = columns[1..columns.len() - 1].to_vec();
        let mut order = order.to_vec();
        let first = match distinct {
            true => Some(converted(&keys[..1], &order[..1])?),
            false => None,
        };
        if distinct {
            // Of two equal values that look different the one that is shown: the interval in the largest units, else the first.
            let descending = matches!(columns[0].data_type(), DataType::Interval(_));
            keys.push(columns[0].clone());
            order.push(SortOptions {
                descending,
                nulls_first: false,
            });
        }
        let rows = converted(&keys, &order)?;
        let head = |bytes: &[u8]| {
            let mut head = [0; size_of::<u128>()];
            let n = bytes.len().min(head.len());
            head[..n].copy_from_slice(&bytes[..n]);
            u128::from_be_bytes(head)
        };
        let heads = rows.iter().map(|row| head(row.as_ref())).collect();
        Ok(Keys { rows, heads, first })
    }

    fn compare(&self, a: u32, b: u32) -> std::cmp::Ordering {
        let (a, b) = (a as usize, b as usize);
        let heads = self.heads[a].cmp(&self.heads[b]);
        heads.then_with(|| self.rows.row(a).cmp(&self.rows.row(b)))
    }

    /// Sorts rows of one group.
    fn sort(&self, rows: &mut [u32]) {
        if !rows.is_sorted_by(|a, b| self.compare(*a, *b).is_le()) {
            rows.sort_unstable_by(|a, b| self.compare(*a, *b));
        }
    }

    /// Of rows of a group that are told apart by nothing the first.
    fn keep_first(&self, rows: &mut Vec<u32>, lengths: &mut [usize]) {
        let Some(first) = &self.first else { return };
        let mut kept = Vec::with_capacity(rows.len());
        let mut from = 0;
        for n in lengths {
            let group = &rows[from..from + *n];
            from += *n;
            let before = kept.len();
            for row in group {
                let last = kept[before..].last();
                if last
                    .is_none_or(|last: &u32| first.row(*last as usize) != first.row(*row as usize))
                {
                    kept.push(*row);
                }
            }
            *n = kept.len() - before;
        }
        *rows = kept;
    }
}

fn converted(columns: &[ArrayRef], order: &[SortOptions]) -> Result<Rows> {
    let fields = columns.iter().zip(order);
    let fields = fields.map(|(c, o)| SortField::new_with_options(c.data_type().clone(), *o));
    Ok(RowConverter::new(fields.collect())?.convert_columns(columns)?)
}

impl GroupsAccumulator for Gathered {
    fn update_batch(
        &mut self,
        values: &[ArrayRef],
        groups: &[usize],
        filter: Option<&BooleanArray>,
        total: usize,
    ) -> Result<()> {
        self.groups = total;
        let groups = groups.iter().map(|g| *g as u32).collect::<Vec<_>>().into();
        let rows = self.batch(values, groups)?;
        self.keep(match filter {
            Some(filter) => filter_record_batch(&rows, filter)?,
            None => rows,
        });
        Ok(())
    }

    fn evaluate(&mut self, emit: EmitTo) -> Result<ArrayRef> {
        Ok(self.lists(emit, |_| 0..1)?.swap_remove(0))
    }

    fn state(&mut self, emit: EmitTo) -> Result<Vec<ArrayRef>> {
        self.lists(emit, |width| 0..width)
    }

    fn merge_batch(&mut self, states: &[ArrayRef], groups: &[usize], total: usize) -> Result<()> {
        self.groups = total;
        self.push_lists(states, |row| groups[row])
    }

    fn convert_to_state(
        &self,
        values: &[ArrayRef],
        filter: Option<&BooleanArray>,
    ) -> Result<Vec<ArrayRef>> {
        let types = self.schema.fields().iter().map(|f| f.data_type().clone());
        let types = types.take(values.len()).collect();
        let mut each = Gathered::new(types, self.order.clone(), self.distinct);
        let rows: Vec<usize> = (0..values[0].len()).collect();
        each.update_batch(values, &rows, filter, rows.len())?;
        each.state(EmitTo::All)
    }

    fn size(&self) -> usize {
        size_of_val(self) + self.bytes
    }
}

/// A query without GROUP BY.
#[derive(Debug)]
struct OneGroup(Gathered);

impl OneGroup {
    fn lists(&mut self, of: impl Fn(usize) -> std::ops::Range<usize>) -> Result<Vec<ScalarValue>> {
        self.0.groups = 1;
        let lists = self.0.lists(EmitTo::All, of)?;
        let lists = lists.into_iter();
        lists
            .map(|list| ScalarValue::try_from_array(&list, 0))
            .collect()
    }
}

impl Accumulator for OneGroup {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        let groups = vec![0; values[0].len()];
        self.0.push(values, groups.into())
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        Ok(self.lists(|_| 0..1)?.swap_remove(0))
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        self.lists(|width| 0..width)
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        self.0.push_lists(states, |_| 0)
    }

    fn size(&self) -> usize {
        size_of_val(self) + self.0.bytes
    }
}
