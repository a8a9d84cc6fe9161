//! Functions on arrays, and lists of numbers and times.

use std::collections::HashSet;
use std::sync::Arc;

use arrow::array::cast::AsArray;
use arrow::array::types::*;
use arrow::array::*;
use arrow::buffer::OffsetBuffer;
use arrow::datatypes::{DataType, IntervalMonthDayNano};
use arrow::row::{Row, RowConverter, SortField};
use datafusion_common::{Result as DfResult, ScalarValue, internal_err};
use datafusion_expr::{Expr, Volatility};
use tidemill_zset::schema::SqlType;

use super::registry::{CallTypes, Registry};
use super::{Args, Kernel, external, kernel, rows};
use crate::error::SqlError;

/// Rows of one generate_series call.
const SERIES_MAX: usize = 10_000_000;
/// Numbers of all calls for one batch of rows, unless it is a single row; the callers try again with fewer rows.
const SERIES_BATCH_MAX: usize = 1 << 24;

/// Builds a column of `text[]`.
#[derive(Default)]
pub struct TextListBuilder {
    values: StringViewBuilder,
    lengths: Vec<usize>,
    valid: Vec<bool>,
}

impl TextListBuilder {
    /// NULL
    pub fn append_null(&mut self) {
        self.lengths.push(0);
        self.valid.push(false);
    }

    /// One array.
    pub fn append_value(&mut self, v: Vec<Option<String>>) {
        self.lengths.push(v.len());
        self.valid.push(true);
        v.into_iter().for_each(|e| self.values.append_option(e));
    }

    /// The column.
    pub fn finish(&mut self) -> ListArray {
        let arrow::datatypes::DataType::List(field) =
            SqlType::Array(Box::new(SqlType::Text)).arrow()
        else {
            unreachable!("an array type is a list");
        };
        let offsets = OffsetBuffer::from_lengths(std::mem::take(&mut self.lengths));
        let valid = std::mem::take(&mut self.valid);
        ListArray::new(
            field,
            offsets,
            Arc::new(self.values.finish()),
            Some(valid.into()),
        )
    }
}

/// A list column from scalar elements.
pub(super) fn lists(rows: Vec<Option<Vec<ScalarValue>>>, ret: &SqlType) -> DfResult<ArrayRef> {
    let SqlType::Array(of) = ret else {
        return Err(external(SqlError::internal("not an array type")));
    };
    let lengths: Vec<usize> = rows
        .iter()
        .map(|r| r.as_ref().map_or(0, Vec::len))
        .collect();
    let valid: Vec<bool> = rows.iter().map(Option::is_some).collect();
    let all: Vec<ScalarValue> = rows.into_iter().flatten().flatten().collect();
    let values = if all.is_empty() {
        new_empty_array(&of.arrow())
    } else {
        ScalarValue::iter_to_array(all)?
    };
    super::cast::list_array(values, lengths, valid, ret)
}

fn elements(list: &ArrayRef) -> DfResult<Vec<ScalarValue>> {
    (0..list.len())
        .map(|i| ScalarValue::try_from_array(list, i))
        .collect()
}

/// A kernel over whole lists per row; NULL arguments are `None`.
pub(super) fn per_row(
    ret: &SqlType,
    f: impl Fn(&Args, usize) -> DfResult<Option<Vec<ScalarValue>>> + Send + Sync + 'static,
) -> Kernel {
    let ret = ret.clone();
    Arc::new(move |a: &Args| {
        let rows = (0..a.rows)
            .map(|row| f(a, row))
            .collect::<DfResult<Vec<_>>>()?;
        lists(rows, &ret)
    })
}

/// 1, 2, … as far as the longest of the lists goes.
fn numbers(ret: &SqlType) -> Kernel {
    let DataType::List(element) = ret.arrow() else {
        return Arc::new(|_| internal_err!("numbers are a list"));
    };
    Arc::new(move |a: &Args| {
        let lists: Vec<_> = a.arrays.iter().map(|l| l.as_list_opt::<i32>()).collect();
        let length = |row| {
            let lengths = lists.iter().enumerate().map(|(i, list)| match list {
                Some(list) if list.is_valid(a.at(i, row)) => list.value_length(a.at(i, row)),
                _ => 0,
            });
            lengths.max().unwrap_or(0)
        };
        let lengths: Vec<usize> = (0..a.rows).map(|row| length(row) as usize).collect();
        let numbers = lengths.iter().flat_map(|n| 1..=*n as i64);
        let numbers = Int64Array::from_iter_values(numbers);
        let offsets = OffsetBuffer::from_lengths(lengths);
        let list = ListArray::try_new(Arc::clone(&element), offsets, Arc::new(numbers), None)?;
        Ok(Arc::new(list))
    })
}

/// The numbers of the elements of `lists`, which are side by side, as a list.
pub(crate) fn ordinality(lists: Vec<Expr>) -> Expr {
    let ret = SqlType::Array(Box::new(SqlType::Int8));
    let name = "ordinality";
    let kernel = numbers(&ret);
    super::call(
        name,
        name.into(),
        kernel,
        Volatility::Immutable,
        false,
        lists,
        &ret,
    )
}

pub(super) fn list_of(a: &Args, i: usize, row: usize) -> DfResult<Option<Vec<ScalarValue>>> {
    if a.is_null(i, row) {
        return Ok(None);
    }
    elements(&a.arrays[i].as_list::<i32>().value(a.at(i, row))).map(Some)
}

pub(super) fn scalar(a: &Args, i: usize, row: usize) -> DfResult<ScalarValue> {
    ScalarValue::try_from_array(&a.arrays[i], a.at(i, row))
}

/// Which elements of a row's array equal the second argument.
fn found(t: &CallTypes) -> impl Fn(&Args, usize) -> DfResult<Vec<bool>> + use<> {
    let (array, element) = (t.args[0].clone(), t.args[1].clone());
    move |a, row| {
        let list = a.arrays[0].as_list::<i32>().value(a.at(0, row));
        let list = match &array {
            SqlType::Array(of) => rows::comparable(&list, of)?,
            _ => list,
        };
        let wanted = a.arrays[1].slice(a.at(1, row), 1);
        let wanted = ScalarValue::try_from_array(&rows::comparable(&wanted, &element)?, 0)?;
        Ok(elements(&list)?.iter().map(|e| *e == wanted).collect())
    }
}

/// `ARRAY[…]`
fn construct(t: &CallTypes) -> Kernel {
    let of = t.args.first().cloned().unwrap_or(SqlType::Text);
    let ret = SqlType::Array(Box::new(of));
    Arc::new(move |a: &Args| {
        let width = a.arrays.len();
        let parts: Vec<&dyn Array> = a.arrays.iter().map(|x| x.as_ref()).collect();
        let picks: Vec<(usize, usize)> = (0..a.rows)
            .flat_map(|row| (0..width).map(move |i| (i, row)))
            .map(|(i, row)| (i, a.at(i, row)))
            .collect();
        let values = arrow::compute::interleave(&parts, &picks)?;
        super::cast::list_array(values, vec![width; a.rows], vec![true; a.rows], &ret)
    })
}

/// `a[i]`
fn subscript() -> Kernel {
    Arc::new(|a: &Args| {
        let (list, index) = (
            a.arrays[0].as_list::<i32>(),
            a.arrays[1].as_primitive::<Int32Type>(),
        );
        let picks: UInt32Array = (0..a.rows)
            .map(|row| {
                let (l, i) = (a.at(0, row), a.at(1, row));
                if list.is_null(l) || index.is_null(i) {
                    return None;
                }
                let n = index.value(i);
                (n >= 1 && n <= list.value_length(l))
                    .then(|| (list.value_offsets()[l] + n - 1) as u32)
            })
            .collect();
        Ok(arrow::compute::take(list.values(), &picks, None)?)
    })
}

/// `x op ANY (list)` / `ALL`
fn quantified(any: bool, test: fn(std::cmp::Ordering) -> bool) -> Kernel {
    use std::cmp::Ordering::{Equal, Greater, Less};
    // Whether an element decides it that is equal to `x`, and no other: `= ANY`, `<> ALL`.
    let by_equality = [Less, Equal, Greater].map(|o| test(o) == any) == [false, true, false];
    Arc::new(move |a: &Args| {
        if by_equality && let Some(found) = looked_up(a, any)? {
            return Ok(found);
        }
        let mut out = BooleanBuilder::with_capacity(a.rows);
        // A list that many rows are compared with is taken apart once.
        let mut taken: Option<(usize, Option<Vec<ScalarValue>>)> = None;
        for row in 0..a.rows {
            let at = a.at(1, row);
            if taken.as_ref().is_none_or(|(have, _)| *have != at) {
                taken = Some((at, list_of(a, 1, row)?));
            }
            let Some((_, Some(list))) = &taken else {
                out.append_null();
                continue;
            };
            let x = scalar(a, 0, row)?;
            let (mut decided, mut unknown) = (false, false);
            for e in list {
                let compared = if x.is_null() || e.is_null() {
                    None
                } else {
                    x.partial_cmp(e)
                };
                match compared {
                    None => unknown = true,
                    Some(o) => decided |= test(o) == any,
                }
                if decided {
                    break;
                }
            }
            match (decided, unknown) {
                (true, _) => out.append_value(any),
                (false, true) => out.append_null(),
                (false, false) => out.append_value(!any),
            }
        }
        Ok(Arc::new(out.finish()))
    })
}

/// Rows from which on a set is made of a list's elements.
const ROWS_FOR_SET: usize = 8;

/// `= ANY` and `<> ALL` of many rows and one list, by a set of its elements. `None` if it is otherwise.
fn looked_up(a: &Args, any: bool) -> DfResult<Option<ArrayRef>> {
    let list = a.arrays[1].as_list::<i32>();
    if list.len() != 1 || list.is_null(0) || a.rows < ROWS_FOR_SET {
        return Ok(None);
    }
    let (x, elements) = (&a.arrays[0], list.value(0));
    if x.data_type() != elements.data_type() || !is_same_where_equal(x.data_type()) {
        return Ok(None);
    }
    let converter = RowConverter::new(vec![SortField::new(x.data_type().clone())])?;
    let known = converter.convert_columns(std::slice::from_ref(&elements))?;
    let known: HashSet<Row<'_>> = known.iter().collect();
    let wanted = converter.convert_columns(std::slice::from_ref(x))?;
    let unknown = elements.null_count() > 0;
    let decide = |row| {
        let at = a.at(0, row);
        let x_is_null = x.is_null(at);
        match !x_is_null && known.contains(&wanted.row(at)) {
            true => Some(any),
            false if unknown || x_is_null && !elements.is_empty() => None,
            false => Some(!any),
        }
    };
    Ok(Some(Arc::new(BooleanArray::from_iter(
        (0..a.rows).map(decide),
    ))))
}

/// Whether two values of this type are equal exactly if they are the same.
fn is_same_where_equal(data_type: &DataType) -> bool {
    use DataType::*;
    matches!(
        data_type,
        Boolean
            | Int16
            | Int32
            | Int64
            | Utf8View
            | Binary
            | Date32
            | Decimal128(..)
            | Time64(_)
            | Timestamp(..)
    )
}

fn series_error() -> SqlError {
    SqlError::new("22023", "step size cannot equal zero")
}

fn too_long() -> SqlError {
    SqlError::new(
        "54000",
        format!("generate_series gives more than {SERIES_MAX} rows"),
    )
}

fn too_many() -> SqlError {
    SqlError::new("53200", "generate_series gives too many rows at once")
}

/// Numbers of a series that are made before it is asked whether anybody wants them.
const SERIES_PIECE: usize = 1 << 16;

/// Appends the numbers of a series, and gives how many there are. They fit `T`, as both ends do.
fn integers<T: TryFrom<i128>>(
    (start, stop, step): (i128, i128, i128),
    out: &mut Vec<T>,
) -> crate::error::Result<usize> {
    if step == 0 {
        return Err(series_error());
    }
    let count = match stop.saturating_sub(start) / step {
        steps if steps > 0 || start == stop => steps + 1,
        _ if (stop > start) == (step > 0) => 1,
        _ => 0,
    };
    let count = usize::try_from(count).unwrap_or(usize::MAX);
    if count > SERIES_MAX {
        return Err(too_long());
    }
    out.reserve(count);
    for piece in (0..count).step_by(SERIES_PIECE) {
        crate::interrupt::check()?;
        let numbers = (piece..count.min(piece + SERIES_PIECE)).map(|n| start + step * n as i128);
        out.extend(numbers.filter_map(|n| T::try_from(n).ok()));
    }
    Ok(count)
}

/// The list of generate_series over numerics, all of the type `of`.
pub(crate) fn numeric_series(
    args: Vec<datafusion_expr::Expr>,
    of: &SqlType,
) -> datafusion_expr::Expr {
    let ret = SqlType::Array(Box::new(of.clone()));
    let (list, element) = (ret.clone(), of.clone());
    let scale = crate::bind::types::as_numeric(of).1;
    let kernel: Kernel = Arc::new(move |a: &Args| {
        let get = |i: usize, row: usize| {
            a.arrays[i]
                .as_primitive::<Decimal128Type>()
                .value(a.at(i, row))
        };
        let (mut all, mut lengths, mut valid) = (Vec::new(), Vec::new(), Vec::new());
        for row in 0..a.rows {
            let null = (0..a.arrays.len()).any(|i| a.is_null(i, row));
            valid.push(!null);
            if null {
                lengths.push(0);
                continue;
            }
            let step = match a.arrays.len() {
                3 => get(2, row),
                _ => 10i128.pow(scale.max(0) as u32),
            };
            let series = (get(0, row), get(1, row), step);
            lengths.push(integers::<i128>(series, &mut all).map_err(external)?);
            if all.len() > SERIES_BATCH_MAX && a.rows > 1 {
                return Err(external(too_many()));
            }
        }
        let values = Decimal128Array::from(all).with_data_type(element.arrow());
        super::cast::list_array(Arc::new(values), lengths, valid, &list)
    });
    super::call(
        "generate_series",
        format!("generate_series({of})"),
        kernel,
        datafusion_expr::Volatility::Immutable,
        true,
        args,
        &ret,
    )
}

fn integer_series(t: &CallTypes) -> Kernel {
    let ret = t.ret.clone();
    let small = matches!(&ret, SqlType::Array(of) if **of == SqlType::Int4);
    Arc::new(move |a: &Args| {
        let get = |i: usize, row: usize| -> i128 {
            let at = a.at(i, row);
            if small {
                a.arrays[i].as_primitive::<Int32Type>().value(at).into()
            } else {
                a.arrays[i].as_primitive::<Int64Type>().value(at).into()
            }
        };
        let (mut ints, mut bigints) = (Vec::<i32>::new(), Vec::<i64>::new());
        let (mut lengths, mut valid) = (Vec::new(), Vec::new());
        for row in 0..a.rows {
            let null = (0..a.arrays.len()).any(|i| a.is_null(i, row));
            valid.push(!null);
            if null {
                lengths.push(0);
                continue;
            }
            let step = if a.arrays.len() > 2 { get(2, row) } else { 1 };
            let series = (get(0, row), get(1, row), step);
            let length = match small {
                true => integers(series, &mut ints),
                false => integers(series, &mut bigints),
            };
            lengths.push(length.map_err(external)?);
            if ints.len() + bigints.len() > SERIES_BATCH_MAX && a.rows > 1 {
                return Err(external(too_many()));
            }
        }
        let values: ArrayRef = match small {
            true => Arc::new(Int32Array::from(ints)),
            false => Arc::new(Int64Array::from(bigints)),
        };
        super::cast::list_array(values, lengths, valid, &ret)
    })
}

fn time_series(zoned: bool) -> impl Fn(&CallTypes) -> Kernel + Send + Sync {
    move |t| {
        let (ret, zone) = (t.ret.clone(), t.zone.to_string());
        per_row(&ret, move |a, row| {
            if (0..3).any(|i| a.is_null(i, row)) {
                return Ok(None);
            }
            let us = |i: usize| {
                a.arrays[i]
                    .as_primitive::<TimestampMicrosecondType>()
                    .value(a.at(i, row))
            };
            let step: IntervalMonthDayNano = a.arrays[2]
                .as_primitive::<IntervalMonthDayNanoType>()
                .value(a.at(2, row));
            let sign = super::intervals::interval_key(step).signum();
            if sign == 0 {
                return Err(external(series_error()));
            }
            let (mut v, stop) = (us(0), us(1));
            let mut out = Vec::new();
            while if sign > 0 { v <= stop } else { v >= stop } {
                let tz = zoned.then(|| Arc::from(tidemill_zset::schema::UTC));
                out.push(ScalarValue::TimestampMicrosecond(Some(v), tz));
                if out.len() > SERIES_MAX {
                    return Err(external(too_long()));
                }
                v = super::intervals::add_interval(v, step, 1, zoned.then_some(zone.as_str()))
                    .map_err(external)?;
            }
            Ok(Some(out))
        })
    }
}

/// Registers the functions of this file.
pub fn register(r: &mut Registry) {
    r.add_typed("array_construct(anyelement...) anyarray", construct);
    r.add("array_subscript(anyarray, int4) anyelement", subscript());
    r.add_typed("array_slice(anyarray, int4, int4) anyarray", |t| {
        per_row(t.ret, |a, row| {
            let Some(l) = list_of(a, 0, row)? else {
                return Ok(None);
            };
            if a.is_null(1, row) || a.is_null(2, row) {
                return Ok(None);
            }
            let n = |i: usize| a.arrays[i].as_primitive::<Int32Type>().value(a.at(i, row)) as i64;
            let (from, to) = (n(1).max(1), n(2).min(l.len() as i64));
            Ok(Some(if from > to {
                vec![]
            } else {
                l[from as usize - 1..to as usize].to_vec()
            }))
        })
    });
    r.add(
        "cardinality(anyarray) int4",
        kernel!(|l: list| -> int4 Ok(Some(l.len() as i32))),
    );
    for name in [
        "array_length(anyarray, int4) int4",
        "array_upper(anyarray, int4) int4",
    ] {
        r.add(name, kernel!(|l: list, d: int4| -> int4 Ok((d == 1 && !l.is_empty()).then_some(l.len() as i32))));
    }
    r.add(
        "array_lower(anyarray, int4) int4",
        kernel!(|l: list, d: int4| -> int4 Ok((d == 1 && !l.is_empty()).then_some(1))),
    );
    r.add(
        "array_ndims(anyarray) int4",
        kernel!(|l: list| -> int4 Ok((!l.is_empty()).then_some(1))),
    );
    for name in [
        "array_append(anyarray, anyelement) anyarray",
        "array_cat_any(anyarray, anyelement) anyarray",
    ] {
        r.add_typed(name, |t| {
            per_row(t.ret, |a, row| {
                let mut l = list_of(a, 0, row)?.unwrap_or_default();
                l.push(scalar(a, 1, row)?);
                Ok(Some(l))
            })
        });
    }
    for name in [
        "array_prepend(anyelement, anyarray) anyarray",
        "array_cat_any(anyelement, anyarray) anyarray",
    ] {
        r.add_typed(name, |t| {
            per_row(t.ret, |a, row| {
                let mut l = list_of(a, 1, row)?.unwrap_or_default();
                l.insert(0, scalar(a, 0, row)?);
                Ok(Some(l))
            })
        });
    }
    for name in [
        "array_cat(anyarray, anyarray) anyarray",
        "array_cat_any(anyarray, anyarray) anyarray",
    ] {
        r.add_typed(name, |t| {
            per_row(t.ret, |a, row| {
                Ok(match (list_of(a, 0, row)?, list_of(a, 1, row)?) {
                    (Some(mut l), Some(m)) => {
                        l.extend(m);
                        Some(l)
                    }
                    (l, m) => l.or(m),
                })
            })
        });
    }
    r.add_typed("array_remove(anyarray, anyelement) anyarray", |t| {
        let same = found(t);
        per_row(t.ret, move |a, row| {
            let Some(l) = list_of(a, 0, row)? else {
                return Ok(None);
            };
            let kept = l.into_iter().zip(same(a, row)?);
            Ok(Some(
                kept.filter(|(_, same)| !same).map(|(e, _)| e).collect(),
            ))
        })
    });
    r.add_typed(
        "array_replace(anyarray, anyelement, anyelement) anyarray",
        |t| {
            let same = found(t);
            per_row(t.ret, move |a, row| {
                let Some(l) = list_of(a, 0, row)? else {
                    return Ok(None);
                };
                let y = scalar(a, 2, row)?;
                let replaced = l.into_iter().zip(same(a, row)?);
                let replaced = replaced.map(|(e, same)| if same { y.clone() } else { e });
                Ok(Some(replaced.collect()))
            })
        },
    );
    r.add(
        "array_dims(anyarray) text",
        kernel!(|l: list| -> text Ok((!l.is_empty()).then(|| format!("[1:{}]", l.len())))),
    );
    r.add_typed("array_positions(anyarray, anyelement) int4[]", |t| {
        rows::comparing(t.args, positions())
    });
    r.add_typed("trim_array(anyarray, int4) anyarray", |t| {
        per_row(t.ret, |a, row| {
            if a.is_null(1, row) {
                return Ok(None);
            }
            let n = a.arrays[1].as_primitive::<Int32Type>().value(a.at(1, row));
            let Some(mut l) = list_of(a, 0, row)? else {
                return Ok(None);
            };
            if n < 0 || n as usize > l.len() {
                return Err(external(SqlError::new(
                    "2202E",
                    format!(
                        "number of elements to trim must be between 0 and {}",
                        l.len()
                    ),
                )));
            }
            l.truncate(l.len() - n as usize);
            Ok(Some(l))
        })
    });
    r.add_typed("array_fill(anyelement, int4[]) anyarray", |t| {
        per_row(t.ret, |a, row| {
            let Some(dimensions) = list_of(a, 1, row)? else {
                return Err(external(SqlError::new(
                    "22004",
                    "dimension array or low bound array cannot be null",
                )));
            };
            match dimensions.as_slice() {
                [] => Ok(Some(vec![])),
                [ScalarValue::Int32(Some(n))] if (0..=10_000_000).contains(n) => {
                    Ok(Some(vec![scalar(a, 0, row)?; *n as usize]))
                }
                [ScalarValue::Int32(Some(_))] => Err(external(SqlError::new(
                    "54000",
                    "array size exceeds the maximum allowed",
                ))),
                _ => Err(external(SqlError::unsupported(
                    "arrays of arrays are not supported",
                ))),
            }
        })
    });
    for name in [
        "array_position(anyarray, anyelement) int4",
        "array_position(anyarray, anyelement, int4) int4",
    ] {
        r.add_typed(name, |t| rows::comparing(t.args, Arc::new(position)));
    }
    for (name, overlap) in [
        ("array_contains_all(anyarray, anyarray) bool", false),
        ("array_overlap(anyarray, anyarray) bool", true),
    ] {
        let kernel: Kernel = Arc::new(move |a: &Args| {
            let mut out = BooleanBuilder::with_capacity(a.rows);
            for row in 0..a.rows {
                match (list_of(a, 0, row)?, list_of(a, 1, row)?) {
                    (Some(l), Some(m)) => {
                        let has = |e: &ScalarValue| !e.is_null() && l.contains(e);
                        out.append_value(if overlap {
                            m.iter().any(has)
                        } else {
                            m.iter().all(has)
                        });
                    }
                    _ => out.append_null(),
                }
            }
            Ok(Arc::new(out.finish()))
        });
        r.add_typed(name, move |t| rows::comparing(t.args, kernel.clone()));
    }
    use std::cmp::Ordering as O;
    type Test = (&'static str, &'static str, fn(O) -> bool);
    let tests: [Test; 6] = [
        (
            "any_eq(anyelement, anyarray) bool",
            "all_eq(anyelement, anyarray) bool",
            |o| o == O::Equal,
        ),
        (
            "any_ne(anyelement, anyarray) bool",
            "all_ne(anyelement, anyarray) bool",
            |o| o != O::Equal,
        ),
        (
            "any_lt(anyelement, anyarray) bool",
            "all_lt(anyelement, anyarray) bool",
            |o| o == O::Less,
        ),
        (
            "any_le(anyelement, anyarray) bool",
            "all_le(anyelement, anyarray) bool",
            |o| o != O::Greater,
        ),
        (
            "any_gt(anyelement, anyarray) bool",
            "all_gt(anyelement, anyarray) bool",
            |o| o == O::Greater,
        ),
        (
            "any_ge(anyelement, anyarray) bool",
            "all_ge(anyelement, anyarray) bool",
            |o| o != O::Less,
        ),
    ];
    for (any, all, test) in tests {
        r.add_typed(any, move |t| rows::ordering(t.args, quantified(true, test)));
        r.add_typed(all, move |t| {
            rows::ordering(t.args, quantified(false, test))
        });
    }
    for name in [
        "array_to_string(anyarray, text) text",
        "array_to_string(anyarray, text, text) text",
    ] {
        r.add_typed(name, |t| {
            let (of, zone) = match &t.args[0] {
                SqlType::Array(of) => (of.as_ref().clone(), t.zone.to_string()),
                other => (other.clone(), t.zone.to_string()),
            };
            Arc::new(move |a: &Args| {
                let mut out = StringViewBuilder::with_capacity(a.rows);
                for row in 0..a.rows {
                    if a.is_null(0, row) || a.is_null(1, row) {
                        out.append_null();
                        continue;
                    }
                    let list = a.arrays[0].as_list::<i32>().value(a.at(0, row));
                    let null = a
                        .arrays
                        .get(2)
                        .filter(|_| !a.is_null(2, row))
                        .map(|n| n.as_string_view().value(a.at(2, row)).to_string());
                    let mut parts = Vec::new();
                    for i in 0..list.len() {
                        match super::format::value(&list, i, &of, &zone).map_err(external)? {
                            Some(v) if matches!(of, SqlType::Bool) => {
                                parts.push(v[..1].to_string())
                            }
                            Some(v) => parts.push(v),
                            None => parts.extend(null.clone()),
                        }
                    }
                    out.append_value(parts.join(a.arrays[1].as_string_view().value(a.at(1, row))));
                }
                Ok(Arc::new(out.finish()))
            })
        });
    }
    r.add_typed("ordinality(any...) int8[]", |t| numbers(t.ret));
    r.add_typed("generate_series_list(int4, int4) int4[]", integer_series);
    r.add_typed(
        "generate_series_list(int4, int4, int4) int4[]",
        integer_series,
    );
    r.add_typed("generate_series_list(int8, int8) int8[]", integer_series);
    r.add_typed(
        "generate_series_list(int8, int8, int8) int8[]",
        integer_series,
    );
    r.add_typed(
        "generate_series_list(timestamp, timestamp, interval) timestamp[]",
        time_series(false),
    );
    r.add_typed(
        "generate_series_list(timestamptz, timestamptz, interval) timestamptz[]",
        time_series(true),
    );
    for name in [
        "generate_subscripts_list(anyarray, int4) int4[]",
        "generate_subscripts_list(anyarray, int4, bool) int4[]",
    ] {
        r.add_typed(name, |t| {
            per_row(t.ret, |a, row| {
                let Some(l) = list_of(a, 0, row)? else {
                    return Ok(None);
                };
                let dimension = a.arrays[1].as_primitive::<Int32Type>().value(a.at(1, row));
                let backwards = a
                    .arrays
                    .get(2)
                    .is_some_and(|b| b.as_boolean().value(a.at(2, row)));
                let last = if dimension == 1 { l.len() as i32 } else { 0 };
                let number = |i: i32| ScalarValue::Int32(Some(i));
                Ok(Some(match backwards {
                    true => (1..=last).rev().map(number).collect(),
                    false => (1..=last).map(number).collect(),
                }))
            })
        });
    }
}

/// The first place of an element, from the place on that the third argument says.
fn positions() -> Kernel {
    per_row(&SqlType::Array(Box::new(SqlType::Int4)), |a, row| {
        let x = scalar(a, 1, row)?;
        let Some(l) = list_of(a, 0, row)? else {
            return Ok(None);
        };
        let same = l.iter().enumerate().filter(|(_, e)| **e == x);
        let numbers = same.map(|(i, _)| ScalarValue::Int32(Some(i as i32 + 1)));
        Ok(Some(numbers.collect()))
    })
}

fn position(a: &Args) -> DfResult<ArrayRef> {
    let mut out = Int32Builder::with_capacity(a.rows);
    for row in 0..a.rows {
        let from = match a.arrays.len() {
            2 => 1,
            _ if a.is_null(2, row) => {
                let message = "initial position must not be null";
                return Err(external(SqlError::new("22004", message)));
            }
            _ => a.arrays[2].as_primitive::<Int32Type>().value(a.at(2, row)),
        };
        let x = scalar(a, 1, row)?;
        let found = list_of(a, 0, row)?.and_then(|l| {
            let from = usize::try_from(from).unwrap_or(1).max(1) - 1;
            let at = l.iter().skip(from).position(|e| *e == x)?;
            i32::try_from(from + at + 1).ok()
        });
        out.append_option(found);
    }
    Ok(Arc::new(out.finish()))
}
