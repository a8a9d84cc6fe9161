//! What a [`DataflowPlan`]'s nodes mean, computed the slow and obvious way from whole inputs. Tells an
//! error of the compiler from one of an operator.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{
    Array, AsArray, BooleanArray, RecordBatch, RecordBatchOptions, UInt32Array, UInt64Array,
};
use arrow::compute::{self, SortColumn, SortOptions};
use arrow::datatypes::{DataType, SchemaRef};
use datafusion_common::ScalarValue;
use datafusion_physical_expr::PhysicalExpr;
use tidemill_dataflow::plan::{Aggregate, AggregateFunction, JoinKind, Node, Numbering, Op};
use tidemill_zset::CollectionId;
use tidemill_zset::moments::{ExactMoments, FloatMoments};

use super::data::{Row, batch};

/// The rows of `node` over `inputs`.
pub fn evaluate(node: &Node, inputs: &dyn Fn(CollectionId) -> RecordBatch) -> RecordBatch {
    let below: Vec<RecordBatch> = node.inputs.iter().map(|n| evaluate(n, inputs)).collect();
    let out = match &node.op {
        Op::Input {
            collection,
            columns,
        } => inputs(*collection).project(columns).expect("columns exist"),
        Op::Constant { rows } => rows.clone(),
        Op::Map {
            predicate,
            projection,
        } => map(&below[0], predicate, projection),
        Op::Unnest { columns, structs } => unnest(&below[0], columns, structs, &node.schema),
        Op::Aggregate { keys, aggregates } => aggregate(&below[0], keys, aggregates, &node.schema),
        Op::Join {
            kind,
            on,
            null_equals_null,
            filter,
        } => join(
            &below[0],
            &below[1],
            *kind,
            on,
            *null_equals_null,
            filter,
            &node.schema,
        ),
        Op::Union => {
            let same: Vec<RecordBatch> = below.iter().map(|b| rename(b, &node.schema)).collect();
            compute::concat_batches(&node.schema, &same).expect("equal types")
        }
        Op::TopK {
            keys,
            order,
            numbering,
            count,
            numbered,
        } => {
            let rows = &below[0];
            let of_peers: Vec<usize> = order.iter().map(|o| o.column).collect();
            let mut by: Vec<SortColumn> = vec![];
            let asked = order.iter().map(|o| {
                let options = SortOptions {
                    descending: o.descending,
                    nulls_first: o.nulls_first,
                };
                (o.column, Some(options))
            });
            let rest = (0..rows.num_columns()).map(|c| (c, None));
            for (column, options) in asked.chain(rest) {
                let values = rows.column(column).clone();
                by.push(SortColumn { values, options });
            }
            let order = compute::lexsort_to_indices(&by, None).expect("columns that have an order");
            let rows = compute::take_record_batch(rows, &order).expect("rows exist");
            let (mut chosen, mut numbers) = (vec![], vec![]);
            let texts = rows_of(&rows);
            for (_, of_key) in groups(&rows, keys) {
                // Peers are next to each other.
                let (mut value, mut rank, mut before) = (0, 0, None);
                for (i, row) in of_key.into_iter().enumerate() {
                    let own = key_text(&texts[row as usize], &of_peers);
                    if before.as_ref() != Some(&own) {
                        (value, rank) = (value + 1, i as u64 + 1);
                        before = Some(own);
                    }
                    let number = match numbering {
                        Numbering::RowNumber => i as u64 + 1,
                        Numbering::Rank => rank,
                        Numbering::DenseRank => value,
                    };
                    if number <= *count {
                        chosen.push(row);
                        numbers.push(number);
                    }
                }
            }
            let chosen = UInt32Array::from(chosen);
            let first = compute::take_record_batch(&rows, &chosen).expect("rows exist");
            let mut columns = first.columns().to_vec();
            if *numbered {
                columns.push(Arc::new(UInt64Array::from(numbers)));
            }
            RecordBatch::try_new(node.schema.clone(), columns).expect("the plan's columns")
        }
        Op::Recompute { keys, program, .. } => {
            let run = |inputs: Vec<RecordBatch>| {
                let inputs = inputs.into_iter().map(|b| vec![b]).collect();
                program
                    .run(inputs, &Arc::default())
                    .unwrap_or_else(|e| panic!("{}: {e}", program.describe()))
            };
            let mut out = vec![];
            if keys.iter().all(|k| k.is_empty()) {
                out.extend(run(below));
            } else {
                assert_eq!(below.len(), 1, "keyed recomputation over one input");
                for (_, rows) in groups(&below[0], &keys[0]) {
                    let rows = UInt32Array::from(rows);
                    out.extend(run(vec![
                        compute::take_record_batch(&below[0], &rows).expect("rows exist"),
                    ]));
                }
            }
            let same: Vec<RecordBatch> = out.iter().map(|b| rename(b, &node.schema)).collect();
            compute::concat_batches(&node.schema, &same).expect("equal types")
        }
    };
    rename(&out, &node.schema)
}

/// The batch under another schema with the same types; a wrong type is the compiler's error.
fn rename(rows: &RecordBatch, schema: &SchemaRef) -> RecordBatch {
    let options = RecordBatchOptions::new().with_row_count(Some(rows.num_rows()));
    RecordBatch::try_new_with_options(schema.clone(), rows.columns().to_vec(), &options)
        .unwrap_or_else(|e| panic!("{e}\nwanted {schema:?}\nhave {:?}", rows.schema()))
}

fn map(
    rows: &RecordBatch,
    predicate: &Option<Arc<dyn PhysicalExpr>>,
    projection: &Option<Vec<Arc<dyn PhysicalExpr>>>,
) -> RecordBatch {
    let kept = match predicate {
        None => rows.clone(),
        Some(p) => {
            let mask = p
                .evaluate(rows)
                .and_then(|v| v.into_array(rows.num_rows()))
                .expect("no row fails");
            compute::filter_record_batch(rows, mask.as_boolean()).expect("one bit per row")
        }
    };
    let Some(exprs) = projection else { return kept };
    let n = kept.num_rows();
    let columns: Vec<_> = exprs
        .iter()
        .map(|e| {
            e.evaluate(&kept)
                .and_then(|v| v.into_array(n))
                .expect("no row fails")
        })
        .collect();
    let fields: Vec<_> = columns
        .iter()
        .map(|c| arrow::datatypes::Field::new("c", c.data_type().clone(), true))
        .collect();
    RecordBatch::try_new(Arc::new(arrow::datatypes::Schema::new(fields)), columns)
        .expect("equal lengths")
}

fn rows_of(rows: &RecordBatch) -> Vec<Row> {
    (0..rows.num_rows())
        .map(|i| {
            rows.columns()
                .iter()
                .map(|c| ScalarValue::try_from_array(c, i).expect("in range"))
                .collect()
        })
        .collect()
}

fn unnest(
    rows: &RecordBatch,
    lists: &[usize],
    structs: &[usize],
    schema: &SchemaRef,
) -> RecordBatch {
    let mut out: Vec<Row> = vec![];
    for row in rows_of(rows) {
        let items: BTreeMap<usize, Vec<ScalarValue>> =
            lists.iter().map(|c| (*c, items(&row[*c]))).collect();
        let n = match lists.is_empty() {
            true => 1,
            false => items.values().map(Vec::len).max().unwrap_or(0),
        };
        for i in 0..n {
            let mut new = vec![];
            for (c, value) in row.iter().enumerate() {
                let value = match items.get(&c) {
                    Some(list) => list.get(i).cloned(),
                    None => Some(value.clone()),
                };
                match value {
                    Some(value) if structs.contains(&c) => {
                        new.extend(fields(&value).into_iter().map(Some));
                    }
                    None if structs.contains(&c) => {
                        new.extend(vec![None; width(rows.schema().field(c).data_type())]);
                    }
                    value => new.push(value),
                }
            }
            let typed = new.into_iter().enumerate().map(|(c, v)| {
                v.unwrap_or_else(|| {
                    ScalarValue::try_new_null(schema.field(c).data_type()).expect("NULL")
                })
            });
            out.push(typed.collect());
        }
    }
    batch(schema, &out)
}

/// Fields of the structs in a list.
fn width(list: &DataType) -> usize {
    match list {
        DataType::List(item) => match item.data_type() {
            DataType::Struct(fields) => fields.len(),
            other => panic!("not a list of structs: {other}"),
        },
        other => panic!("not a list: {other}"),
    }
}

fn items(list: &ScalarValue) -> Vec<ScalarValue> {
    let ScalarValue::List(list) = list else {
        panic!("not a list: {list:?}")
    };
    if list.is_null(0) {
        return vec![];
    }
    let values = list.value(0);
    (0..values.len())
        .map(|i| ScalarValue::try_from_array(&values, i).expect("in range"))
        .collect()
}

fn fields(value: &ScalarValue) -> Vec<ScalarValue> {
    let ScalarValue::Struct(s) = value else {
        panic!("not a struct: {value:?}")
    };
    s.columns()
        .iter()
        .map(|c| match s.is_null(0) {
            true => ScalarValue::try_new_null(c.data_type()).expect("NULL"),
            false => ScalarValue::try_from_array(c, 0).expect("in range"),
        })
        .collect()
}

/// A text that is equal for equal key values.
fn key_text(row: &Row, keys: &[usize]) -> Vec<String> {
    keys.iter()
        .map(|k| match &row[*k] {
            ScalarValue::Float64(Some(f)) if f.is_nan() => "NaN".into(),
            ScalarValue::Float64(Some(f)) => format!("{}", f + 0.0),
            ScalarValue::Float32(Some(f)) if f.is_nan() => "NaN".into(),
            ScalarValue::Float32(Some(f)) => format!("{}", f + 0.0),
            v => format!("{v:?}"),
        })
        .collect()
}

fn groups(rows: &RecordBatch, keys: &[usize]) -> BTreeMap<Vec<String>, Vec<u32>> {
    let mut out: BTreeMap<Vec<String>, Vec<u32>> = BTreeMap::new();
    for (i, row) in rows_of(rows).iter().enumerate() {
        out.entry(key_text(row, keys)).or_default().push(i as u32);
    }
    out
}

fn aggregate(
    rows: &RecordBatch,
    keys: &[usize],
    aggregates: &[Aggregate],
    schema: &SchemaRef,
) -> RecordBatch {
    let all = rows_of(rows);
    let mut groups = groups(rows, keys);
    if keys.is_empty() && groups.is_empty() {
        groups.insert(vec![], vec![]);
    }
    let mut out: Vec<Row> = vec![];
    for members in groups.values() {
        let members: Vec<&Row> = members.iter().map(|i| &all[*i as usize]).collect();
        let mut row: Row = keys.iter().map(|k| members[0][*k].clone()).collect();
        row.extend(aggregates.iter().map(|a| compute_aggregate(a, &members)));
        out.push(row);
    }
    batch(schema, &out)
}

fn compute_aggregate(a: &Aggregate, members: &[&Row]) -> ScalarValue {
    let passes = |row: &&&Row| {
        a.filter
            .is_none_or(|f| row[f] == ScalarValue::Boolean(Some(true)))
    };
    let to = a.output.data_type();
    let members: Vec<&&Row> = members.iter().filter(passes).collect();
    if a.function == AggregateFunction::CountStar {
        return ScalarValue::Int64(Some(members.len() as i64))
            .cast_to(to)
            .expect("a number");
    }
    let column = a.column.expect("an argument");
    let values: Vec<&ScalarValue> = members
        .iter()
        .map(|r| &r[column])
        .filter(|v| !v.is_null())
        .collect();
    if a.function == AggregateFunction::Count {
        return ScalarValue::Int64(Some(values.len() as i64))
            .cast_to(to)
            .expect("a number");
    }
    let null = ScalarValue::try_new_null(to).expect("every type has NULL");
    if values.is_empty() {
        return null;
    }
    use std::cmp::Ordering;
    let compare = |a: &&&ScalarValue, b: &&&ScalarValue| match (a, b) {
        (ScalarValue::Float64(Some(x)), ScalarValue::Float64(Some(y))) => {
            (x + 0.0).total_cmp(&(y + 0.0))
        }
        _ => a.partial_cmp(b).unwrap_or(Ordering::Equal),
    };
    match a.function {
        AggregateFunction::Min => (*values.iter().min_by(compare).expect("not empty")).clone(),
        AggregateFunction::Max => (*values.iter().max_by(compare).expect("not empty")).clone(),
        AggregateFunction::BoolAnd => {
            ScalarValue::Boolean(Some(values.iter().all(|v| **v == ScalarValue::from(true))))
        }
        AggregateFunction::BoolOr => {
            ScalarValue::Boolean(Some(values.iter().any(|v| **v == ScalarValue::from(true))))
        }
        AggregateFunction::Sum | AggregateFunction::Avg => total(a, &values),
        AggregateFunction::Moments => moments(a, &members),
        AggregateFunction::Count | AggregateFunction::CountStar => unreachable!("counted above"),
    }
}

/// Counts and sums of products, of rows without NULL.
fn moments(a: &Aggregate, members: &[&&Row]) -> ScalarValue {
    let columns = [a.column, a.second];
    let values = |r: &&&Row| -> Vec<ScalarValue> {
        let columns = columns.iter().flatten();
        columns.map(|c| r[*c].clone()).collect()
    };
    let pairs: Vec<Vec<ScalarValue>> = members.iter().map(values).collect();
    let known = pairs.iter().filter(|p| p.iter().all(|v| !v.is_null()));
    let (mut exact, mut floats) = (ExactMoments::default(), FloatMoments::default());
    for pair in known {
        match pair.as_slice() {
            [y @ ScalarValue::Float64(_)] => floats.add(float(y), 1),
            [y] => exact.add(digits(y).0, 1),
            [y, x] => floats.add_pair(float(y), float(x), 1),
            _ => unreachable!("moments have one argument or two"),
        }
    }
    let bytes = match (exact.count, floats.count) {
        (0, 0) => None,
        (0, _) => Some(floats.to_bytes()),
        _ => Some(exact.to_bytes()),
    };
    ScalarValue::Binary(bytes)
}

/// Sums and averages: exact but for floats, which are added up as they come.
fn total(a: &Aggregate, values: &[&ScalarValue]) -> ScalarValue {
    let to = a.output.data_type();
    let n = values.len() as i128;
    if let ScalarValue::Float32(_) | ScalarValue::Float64(_) = values[0] {
        let sum: f64 = values.iter().map(|v| float(v)).sum();
        let value = if a.function == AggregateFunction::Avg {
            sum / n as f64
        } else {
            sum
        };
        return ScalarValue::Float64(Some(value))
            .cast_to(to)
            .expect("a number");
    }
    let (sum, scale) = values
        .iter()
        .map(|v| digits(v))
        .fold((0, 0), |(s, _), (v, scale)| (s + v, scale));
    if a.function == AggregateFunction::Sum {
        return ScalarValue::Decimal128(Some(sum), 38, scale)
            .cast_to(to)
            .expect("a number");
    }
    match to {
        DataType::Decimal128(p, s) => {
            let scaled = sum * 10i128.pow((s - scale) as u32);
            let rounded = (2 * scaled.abs() + n) / (2 * n) * scaled.signum();
            ScalarValue::Decimal128(Some(rounded), *p, *s)
        }
        _ => ScalarValue::Float64(Some(sum as f64 / 10f64.powi(scale.into()) / n as f64)),
    }
}

fn float(v: &ScalarValue) -> f64 {
    match v.cast_to(&DataType::Float64) {
        Ok(ScalarValue::Float64(Some(f))) => f,
        other => panic!("not a number: {other:?}"),
    }
}

/// The digits of an exact number and its scale.
fn digits(v: &ScalarValue) -> (i128, i8) {
    match v {
        ScalarValue::Decimal128(Some(d), _, s) => (*d, *s),
        v => match v.cast_to(&DataType::Int64) {
            Ok(ScalarValue::Int64(Some(i))) => (i.into(), 0),
            other => panic!("not a number: {other:?}"),
        },
    }
}

#[allow(clippy::too_many_arguments)]
fn join(
    left: &RecordBatch,
    right: &RecordBatch,
    kind: JoinKind,
    on: &[(usize, usize)],
    null_equals_null: bool,
    filter: &Option<Arc<dyn PhysicalExpr>>,
    schema: &SchemaRef,
) -> RecordBatch {
    let (l, r) = (rows_of(left), rows_of(right));
    let fields: Vec<_> = left
        .schema()
        .fields()
        .iter()
        .chain(right.schema().fields())
        .cloned()
        .collect();
    let both: SchemaRef = Arc::new(arrow::datatypes::Schema::new(fields));
    for (a, b) in on {
        assert_eq!(
            left.schema().field(*a).data_type(),
            right.schema().field(*b).data_type(),
            "equal key types"
        );
    }
    let mut pairs: Vec<(usize, usize)> = vec![];
    for (i, a) in l.iter().enumerate() {
        for (j, b) in r.iter().enumerate() {
            let equal = on.iter().all(|(x, y)| {
                let same = key_text(a, &[*x]) == key_text(b, &[*y]);
                same && (null_equals_null || !a[*x].is_null())
            });
            if equal {
                pairs.push((i, j));
            }
        }
    }
    let joined: Vec<Row> = pairs
        .iter()
        .map(|(i, j)| l[*i].iter().chain(&r[*j]).cloned().collect())
        .collect();
    let joined = match both.fields().is_empty() {
        true => return RecordBatch::new_empty(schema.clone()),
        false => batch(&both, &joined),
    };
    let mask = match filter {
        None => BooleanArray::from(vec![true; pairs.len()]),
        Some(f) => {
            let mask = f
                .evaluate(&joined)
                .and_then(|v| v.into_array(pairs.len()))
                .expect("no pair fails");
            mask.as_boolean().clone()
        }
    };
    let kept: Vec<usize> = (0..pairs.len())
        .filter(|i| mask.is_valid(*i) && mask.value(*i))
        .collect();
    let has = |row: usize, side: fn(&(usize, usize)) -> usize| {
        kept.iter().any(|k| side(&pairs[*k]) == row)
    };
    let nulls = |fields: &RecordBatch| -> Row {
        fields
            .schema()
            .fields()
            .iter()
            .map(|f| ScalarValue::try_new_null(f.data_type()).expect("NULL"))
            .collect()
    };
    let mut out: Vec<Row> = vec![];
    match kind {
        JoinKind::Semi => out.extend(
            (0..l.len())
                .filter(|i| has(*i, |p| p.0))
                .map(|i| l[i].clone()),
        ),
        JoinKind::Anti => out.extend(
            (0..l.len())
                .filter(|i| !has(*i, |p| p.0))
                .map(|i| l[i].clone()),
        ),
        _ => {
            for k in &kept {
                let (i, j) = pairs[*k];
                out.push(l[i].iter().chain(&r[j]).cloned().collect());
            }
            if kind != JoinKind::Inner {
                for i in (0..l.len()).filter(|i| !has(*i, |p| p.0)) {
                    out.push(l[i].iter().cloned().chain(nulls(right)).collect());
                }
            }
            if kind == JoinKind::Full {
                for j in (0..r.len()).filter(|j| !has(*j, |p| p.1)) {
                    out.push(
                        nulls(left)
                            .into_iter()
                            .chain(r[j].iter().cloned())
                            .collect(),
                    );
                }
            }
        }
    }
    batch(schema, &out)
}
