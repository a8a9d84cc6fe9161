//! What a join's comparisons of both sides allow, against looking at all pairs.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::array::cast::AsArray;
use arrow::array::{
    ArrayRef, Decimal128Array, Float64Array, Int32Array, RecordBatch, StringViewArray,
    new_null_array,
};
use arrow::compute::{concat_batches, take_record_batch};
use arrow::datatypes::{DataType, Field, Schema};
use datafusion_common::ScalarValue;
use datafusion_expr::Operator;
use datafusion_physical_expr::PhysicalExpr;
use datafusion_physical_expr::expressions::{BinaryExpr, Column, Literal, case, cast};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tidemill_dataflow::ranges::{RangeCondition, RangeIndex, Wanted};

type Expr = Arc<dyn PhysicalExpr>;

/// Columns of a side: two integers, a float, a text, decimals of few and of many digits. Those of the right side come after those of the left.
const WIDTH: usize = 6;

fn schema() -> Schema {
    let field = |name: &str, t| Field::new(name, t, true);
    Schema::new(vec![
        field("a", DataType::Int32),
        field("b", DataType::Int32),
        field("f", DataType::Float64),
        field("t", DataType::Utf8View),
        field("d", DataType::Decimal128(18, 1)),
        field("e", DataType::Decimal128(38, 1)),
    ])
}

fn pair_schema() -> Schema {
    let side = schema();
    let fields = side.fields().iter().chain(side.fields().iter()).cloned();
    Schema::new(fields.collect::<Vec<_>>())
}

fn column(side: usize, column: usize) -> Expr {
    let name = schema().field(column).name().clone();
    Arc::new(Column::new(&name, side * WIDTH + column))
}

fn binary(l: Expr, op: Operator, r: Expr) -> Expr {
    Arc::new(BinaryExpr::new(l, op, r))
}

fn number(n: i32) -> Expr {
    Arc::new(Literal::new(ScalarValue::Int32(Some(n))))
}

/// A condition written as a CASE, so that the second is evaluated only where the first is true, or isn't false.
fn lazy(rng: &mut ChaCha8Rng, first: Expr, second: Expr) -> Expr {
    let as_number = |e: Expr| cast(e, &pair_schema(), DataType::Int32).unwrap();
    let falsehood: Expr = Arc::new(Literal::new(ScalarValue::Boolean(Some(false))));
    let (branch, otherwise) = match rng.random_bool(0.5) {
        true => ((first, as_number(second)), number(0)),
        false => {
            let is_false = binary(first.clone(), Operator::IsNotDistinctFrom, falsehood);
            let both = binary(first, Operator::And, second);
            ((is_false, number(0)), as_number(both))
        }
    };
    let chosen = case(None, vec![branch], Some(otherwise)).unwrap();
    binary(chosen, Operator::Eq, number(1))
}

fn comparison(rng: &mut ChaCha8Rng) -> Expr {
    use Operator::*;
    let which = rng.random_range(0..WIDTH);
    let other = if which < 2 {
        rng.random_range(0..2)
    } else {
        which
    };
    let value = |rng: &mut ChaCha8Rng, side, which| {
        let value = column(side, which);
        match rng.random_range(0..6) {
            0 if which < 2 => binary(value, Plus, number(2)),
            // Fails where it is 0.
            1 if which < 2 => binary(number(12), Divide, value),
            _ => value,
        }
    };
    let side = rng.random_range(0..2);
    let (l, r) = (value(rng, side, which), value(rng, 1 - side, other));
    let ops = [Lt, LtEq, Gt, GtEq, Lt, GtEq, Eq];
    binary(l, ops[rng.random_range(0..ops.len())], r)
}

fn condition(rng: &mut ChaCha8Rng) -> Expr {
    let first = comparison(rng);
    (0..rng.random_range(0..3)).fold(first, |first, _| {
        let second = match rng.random_range(0..5) {
            0 => binary(column(0, 1), Operator::NotEq, column(1, 1)),
            _ => comparison(rng),
        };
        match rng.random_bool(0.3) {
            true => lazy(rng, first, second),
            false => binary(first, Operator::And, second),
        }
    })
}

fn rows(rng: &mut ChaCha8Rng) -> RecordBatch {
    let count = rng.random_range(0..12);
    let integers = |rng: &mut ChaCha8Rng| -> ArrayRef {
        let value = |_| rng.random_bool(0.85).then(|| rng.random_range(-3..6));
        Arc::new((0..count).map(value).collect::<Int32Array>())
    };
    let (a, b) = (integers(rng), integers(rng));
    let floats = [-1.5, -0.0, 0.0, 2.0, f64::NAN, f64::INFINITY];
    let float = |_| {
        rng.random_bool(0.85)
            .then(|| floats[rng.random_range(0..6)])
    };
    let floats: Float64Array = (0..count).map(float).collect();
    let texts = ["", "a", "ab", "abcdefghijklmnop", "abcdefghijklmnoq", "b"];
    let text = |_| rng.random_bool(0.85).then(|| texts[rng.random_range(0..6)]);
    let texts: StringViewArray = (0..count).map(text).collect();
    let few = [-15, 0, 7, 8];
    // As floats some of them are one.
    let many = [-(1i128 << 70) - 1, -(1 << 70), 0, 1 << 70, (1 << 70) + 1];
    let mut decimal = |values: &[i128], digits| -> ArrayRef {
        let value = |_| {
            rng.random_bool(0.85)
                .then(|| values[rng.random_range(0..values.len())])
        };
        let numbers: Decimal128Array = (0..count).map(value).collect();
        Arc::new(numbers.with_precision_and_scale(digits, 1).unwrap())
    };
    let (few, many) = (decimal(&few, 18), decimal(&many, 38));
    let columns = vec![a, b, Arc::new(floats), Arc::new(texts), few, many];
    RecordBatch::try_new(Arc::new(schema()), columns).unwrap()
}

/// Whether a pair fulfils the condition; `None`: it can't be evaluated.
fn holds(condition: &Expr, [l, r]: [&RecordBatch; 2], [a, b]: [usize; 2]) -> Option<bool> {
    let (l, r) = (l.slice(a, 1), r.slice(b, 1));
    let columns = l.columns().iter().chain(r.columns()).cloned().collect();
    let pair = RecordBatch::try_new(Arc::new(pair_schema()), columns).unwrap();
    let value = condition.evaluate(&pair).ok()?.into_array(1).unwrap();
    let value = value.as_boolean();
    Some(arrow::array::Array::is_valid(value, 0) && value.value(0))
}

#[test]
fn candidates_are_all_pairs_that_match_or_fail() {
    let (mut searched_by, mut whole, mut failing) = (0, 0, 0);
    for seed in 0..6_000 {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let condition = condition(&mut rng);
        let side_of = |c: usize| (c / WIDTH, c % WIDTH);
        // Whatever divides is said to fail, and may do so in what the key is compared with.
        let fails = |e: &Expr| format!("{e}").contains('/');
        let Some(range) = RangeCondition::of(
            &condition,
            &pair_schema(),
            &side_of,
            &fails,
            Wanted::Side(0),
        ) else {
            continue;
        };
        searched_by += 1;
        let sides = [rows(&mut rng), rows(&mut rng)];
        let (searched, probing) = (range.searched(), 1 - range.searched());
        let order = range.order(&sides[searched]).unwrap();
        let candidates = range.candidates(&order, &sides[probing]).unwrap();
        let pair = |row: usize, at: usize| match searched {
            0 => [at, row],
            _ => [row, at],
        };
        let ranges = candidates.ranges.iter().enumerate();
        let found: BTreeSet<[usize; 2]> = ranges
            .flat_map(|(row, range)| range.clone().map(move |at| (row, at)))
            .filter(|(row, at)| order.passed_over(*at, candidates.least[*row]) == 0)
            .map(|(row, at)| pair(row, order.rows()[at] as usize))
            .collect();
        let mut scanned = BTreeSet::new();
        let add = |row, at| assert!(scanned.insert(pair(row, at)), "seed {seed}: twice");
        let all = range.scan(&sides[searched], &sides[probing], add).unwrap();
        assert_eq!(scanned, found, "seed {seed}: {condition}");
        assert_eq!(all, candidates.are_all, "seed {seed}: {condition}");
        for a in 0..sides[0].num_rows() {
            for b in 0..sides[1].num_rows() {
                let holds = holds(&condition, [&sides[0], &sides[1]], [a, b]);
                let is_candidate = found.contains(&[a, b]);
                failing += u32::from(holds.is_none());
                assert!(
                    holds == Some(false) || is_candidate,
                    "seed {seed}: {condition} is {holds:?} for {a}, {b}"
                );
                if range.is_whole() && !candidates.are_all {
                    whole += 1;
                    assert_eq!(holds, Some(is_candidate), "seed {seed}: {condition}");
                }
            }
        }
    }
    assert!(searched_by > 3_000, "{searched_by} conditions");
    assert!(whole > 50_000 && failing > 1_000, "{whole}, {failing}");
}

#[test]
fn an_index_gives_all_pairs_that_match_or_fail() {
    let (mut indexes, mut whole, mut failing) = (0, 0, 0);
    for seed in 0..6_000 {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let condition = condition(&mut rng);
        let side_of = |c: usize| (c / WIDTH, c % WIDTH);
        let fails = |e: &Expr| format!("{e}").contains('/');
        let searched = rng.random_range(0..2);
        let of = RangeCondition::of(
            &condition,
            &pair_schema(),
            &side_of,
            &fails,
            Wanted::Only(searched),
        );
        let Some(of) = of else {
            continue;
        };
        indexes += 1;
        let is_grouped = rng.random_bool(0.5);
        let groups = |rng: &mut ChaCha8Rng, rows: usize| -> Vec<u32> {
            (0..rows).map(|_| rng.random_range(0..3)).collect()
        };
        let mut index = RangeIndex::new(Arc::new(of), is_grouped);
        // The rows of the index by their numbers, with their groups.
        let mut stored: Vec<(RecordBatch, usize, u32)> = vec![];
        let mut gone = BTreeSet::new();
        for _ in 0..rng.random_range(0..6) {
            let pushed = rows(&mut rng);
            let of_row = groups(&mut rng, pushed.num_rows());
            let mut numbers: Vec<u32> = vec![];
            for (row, group) in of_row.iter().enumerate() {
                numbers.push(stored.len() as u32);
                stored.push((pushed.clone(), row, *group));
            }
            gone.extend((0..stored.len() as u32).filter(|_| rng.random_bool(0.1)));
            let is_gone = |row| gone.contains(&row);
            index.push(&pushed, &of_row, &numbers, &is_gone).unwrap();
        }
        let probing = rows(&mut rng);
        let of_row = groups(&mut rng, probing.num_rows());
        let wanted: Vec<u32> = (0..probing.num_rows() as u32)
            .filter(|_| rng.random_bool(0.8))
            .collect();
        let mut pairs = index.search(&probing, &of_row, &wanted).unwrap();
        let mut found = BTreeSet::new();
        while !pairs.is_empty() {
            let most = rng.random_range(1..20);
            index.give(&mut pairs, most, |row, number| {
                assert!(found.insert((row, number)), "seed {seed}: twice");
            });
        }
        for row in wanted {
            for (number, (rows, at, group)) in stored.iter().enumerate() {
                let is_found = found.contains(&(row, number as u32));
                if gone.contains(&(number as u32)) {
                    continue;
                }
                if is_grouped && of_row[row as usize] != *group {
                    assert!(!is_found, "seed {seed}: of another group");
                    continue;
                }
                let (mut sides, mut places) = ([rows, &probing], [*at, row as usize]);
                if searched == 1 {
                    sides.reverse();
                    places.reverse();
                }
                let holds = holds(&condition, sides, places);
                failing += u32::from(holds.is_none());
                assert!(
                    holds == Some(false) || is_found,
                    "seed {seed}: {condition} is {holds:?} for {row}, {number}"
                );
                if !pairs.is_filtered {
                    whole += 1;
                    assert_eq!(holds, Some(is_found), "seed {seed}: {condition}");
                }
            }
        }
    }
    assert!(indexes > 3_000, "{indexes} conditions");
    assert!(whole > 50_000 && failing > 1_000, "{whole}, {failing}");
}

/// What is excluded by the second value is passed over in blocks, also where some intervals are long.
#[test]
fn intervals_take_few_steps() {
    const ROWS: i32 = 200_000;
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let side_of = |c: usize| (c / WIDTH, c % WIDTH);
    let from = binary(column(0, 0), Operator::LtEq, column(1, 0));
    let to = binary(column(0, 1), Operator::GtEq, column(1, 0));
    let condition = binary(from, Operator::And, to);
    let of = RangeCondition::of(
        &condition,
        &pair_schema(),
        &side_of,
        &|_| false,
        Wanted::Only(0),
    );
    let of = Arc::new(of.unwrap());
    let mut index = RangeIndex::new(of.clone(), false);
    let starts: Vec<i32> = (0..ROWS).map(|_| rng.random_range(0..ROWS)).collect();
    let length = |row: usize| if row.is_multiple_of(20_000) { ROWS } else { 3 };
    let ends = starts.iter().enumerate().map(|(row, a)| a + length(row));
    let ends: Vec<i32> = ends.collect();
    let batch = |a: &[i32], b: &[i32]| {
        let some = rows(&mut ChaCha8Rng::seed_from_u64(0));
        let mut columns: Vec<ArrayRef> = some
            .columns()
            .iter()
            .map(|c| new_null_array(c.data_type(), a.len()))
            .collect();
        columns[0] = Arc::new(Int32Array::from(a.to_vec()));
        columns[1] = Arc::new(Int32Array::from(b.to_vec()));
        RecordBatch::try_new(Arc::new(schema()), columns).unwrap()
    };
    let (mut at, mut most) = (0, 1000);
    while at < starts.len() {
        let end = starts.len().min(at + most);
        let pushed = batch(&starts[at..end], &ends[at..end]);
        let numbers: Vec<u32> = (at as u32..end as u32).collect();
        index
            .push(&pushed, &vec![0; end - at], &numbers, &|_| false)
            .unwrap();
        (at, most) = (end, most % 7919 + 1000);
    }
    let order = of.order(&batch(&starts, &ends)).unwrap();
    let points: Vec<i32> = (0..100).map(|_| rng.random_range(0..ROWS)).collect();
    for point in points {
        let mut pairs = index.search(&batch(&[point], &[0]), &[0], &[0]).unwrap();
        assert!(!pairs.is_filtered);
        let (mut found, mut steps) = (BTreeSet::new(), 0);
        while !pairs.is_empty() {
            steps += index.give(&mut pairs, 1000, |_, row| assert!(found.insert(row)));
        }
        let all = 0..starts.len();
        let matching = all.filter(|i| starts[*i] <= point && ends[*i] >= point);
        let matching: BTreeSet<u32> = matching.map(|i| i as u32).collect();
        assert_eq!(found, matching, "of {point}");
        assert!(steps < 3_000, "{steps} steps for {} rows", found.len());
        // The same in rows that were put in order.
        let candidates = of.candidates(&order, &batch(&[point], &[0])).unwrap();
        assert!(!candidates.are_all && of.is_whole());
        let mut places = candidates.ranges[0].clone();
        let (mut found, mut steps) = (BTreeSet::new(), 0);
        while places.start < places.end {
            steps += 1;
            match order.passed_over(places.start, candidates.least[0]) {
                0 => {
                    found.insert(order.rows()[places.start]);
                    places.start += 1;
                }
                passed => places.start += passed,
            }
        }
        assert_eq!(found, matching, "of {point}, in order");
        assert!(steps < 3_000, "{steps} steps for {} rows", found.len());
    }
}

#[test]
fn among_equal_rows_the_order_is_theirs() {
    for seed in 0..2_000 {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let condition = binary(column(1, 0), Operator::GtEq, column(0, 0));
        let side_of = |c: usize| (c / WIDTH, c % WIDTH);
        let key = Wanted::Column(1, 0);
        let range = RangeCondition::of(&condition, &pair_schema(), &side_of, &|_| false, key);
        let equal: Vec<(Expr, Expr)> = match seed % 2 {
            0 => vec![(column(0, 1), column(0, 1))],
            _ => vec![(column(0, 1), column(0, 1)), (column(0, 3), column(0, 3))],
        };
        let side = schema();
        let range = range
            .unwrap()
            .among_equal(&equal, [&side, &side], &|_| false);
        let range = range.unwrap();
        let (left, right) = (rows(&mut rng), rows(&mut rng));
        let order = range.order(&right).unwrap();
        let candidates = range.candidates(&order, &left).unwrap();
        let same = |a: usize, b: usize| {
            equal.iter().all(|(c, _)| {
                let c = c.downcast_ref::<Column>().unwrap().index();
                let value = |rows: &RecordBatch, row| {
                    ScalarValue::try_from_array(rows.column(c), row).unwrap()
                };
                let (a, b) = (value(&left, a), value(&right, b));
                !a.is_null() && a == b
            })
        };
        for (a, range) in candidates.ranges.iter().enumerate() {
            let wanted: BTreeSet<usize> = (0..right.num_rows())
                .filter(|b| {
                    same(a, *b) && holds(&condition, [&left, &right], [a, *b]) == Some(true)
                })
                .collect();
            let found = order.rows()[range.clone()].iter();
            let found: Vec<usize> = found.map(|b| *b as usize).collect();
            let key = right
                .column(0)
                .as_primitive::<arrow::datatypes::Int32Type>();
            assert!(found.is_sorted_by_key(|b| key.value(*b)), "seed {seed}");
            assert_eq!(
                found.into_iter().collect::<BTreeSet<_>>(),
                wanted,
                "seed {seed}"
            );
        }
    }
}

/// Rows with the key of one that was taken are found behind it, in both directions.
#[test]
fn equal_keys_follow_each_other() {
    let condition = binary(column(1, 0), Operator::GtEq, column(0, 0));
    let side_of = |c: usize| (c / WIDTH, c % WIDTH);
    let range = RangeCondition::of(
        &condition,
        &pair_schema(),
        &side_of,
        &|_| false,
        Wanted::Column(1, 0),
    )
    .unwrap();
    let some = rows(&mut ChaCha8Rng::seed_from_u64(1));
    let same = concat_batches(&Arc::new(schema()), [&some, &some, &some]).unwrap();
    let keyed = arrow::compute::is_not_null(same.column(0)).unwrap();
    let at: arrow::array::UInt32Array = keyed
        .values()
        .set_indices()
        .map(|i| Some(i as u32))
        .collect();
    let same = take_record_batch(&same, &at).unwrap();
    let order = range.order(&same).unwrap();
    let key = same.column(0).as_primitive::<arrow::datatypes::Int32Type>();
    let key = |place: usize| key.value(order.rows()[place] as usize);
    let count = same.num_rows();
    assert!(count >= 6, "{count} rows");
    for place in 0..count {
        let after = order.equal_within(&(place + 1..count), place, false);
        assert!(after.clone().all(|at| key(at) == key(place)));
        assert!(after.end == count || key(after.end) > key(place));
        let before = order.equal_within(&(0..place), place, true);
        assert!(before.clone().all(|at| key(at) == key(place)));
        assert!(before.start == 0 || key(before.start - 1) < key(place));
    }
}
