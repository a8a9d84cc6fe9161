//! Joins against a naive join of the whole inputs, after every epoch of random changes, with restarts and
//! eviction at random.

#[allow(dead_code)]
mod support;

use arrow::datatypes::DataType;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use support::integers::{Row, Rows, add, delta};
use support::joins::*;
use tidemill_dataflow::operator::Output;
use tidemill_dataflow::operators::join::UnindexedLimits;
use tidemill_dataflow::plan::JoinKind;

/// Pushes of one epoch: insertions, deletions of what is there, updates, and changes that cancel each other.
fn changes(rng: &mut ChaCha8Rng, inputs: &[Rows; 2], keys: i64) -> Vec<(usize, Vec<(Row, i64)>)> {
    let mut live = inputs.clone();
    let mut pushes = Vec::new();
    for _ in 0..rng.random_range(0..6) {
        let port = rng.random_range(0..2);
        let mut rows = Vec::new();
        for _ in 0..rng.random_range(1..8) {
            let number = |rng: &mut ChaCha8Rng, n: i64| match rng.random_range(0..8) {
                0 => None,
                _ => Some(rng.random_range(0..n)),
            };
            let fresh = vec![
                number(rng, keys),
                number(rng, 4),
                number(rng, 2),
                number(rng, 3),
            ];
            let old = live[port].iter().nth(rng.random_range(0..20));
            let old = old.map(|(r, d)| (r.clone(), *d));
            let mut change = |row: Row, diff: i64| {
                add(&mut live[port], row.clone(), diff);
                rows.push((row, diff));
            };
            match (rng.random_range(0..4), old) {
                (0, Some((row, diff))) => change(row, -diff),
                (1, Some((row, diff))) => {
                    let mut newer = row.clone();
                    newer[3] = Some(rng.random_range(0..3));
                    if rng.random_bool(0.5) {
                        change(row, -diff);
                        change(newer, diff);
                    } else {
                        change(newer, diff);
                        change(row, -diff);
                    }
                }
                _ => change(fresh, rng.random_range(1..4)),
            }
        }
        pushes.push((port, rows));
    }
    if rng.random_bool(0.3) {
        // A row that comes and goes, or the other way round, within the epoch.
        let row = vec![Some(rng.random_range(0..keys)), Some(1), Some(0), Some(9)];
        let port = rng.random_range(0..2);
        let sign = if rng.random_bool(0.5) { 1 } else { -1 };
        let at = rng.random_range(0..=pushes.len());
        pushes.insert(at, (port, vec![(row.clone(), sign)]));
        pushes.push((port, vec![(row, -sign)]));
    }
    pushes
}

fn random_run(case: Case, seed: u64, epochs: i64) {
    println!("seed {seed}, {case:?}");
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let keys = rng.random_range(1..12);
    let mut test = Test::new(case);
    for epoch in 1..=epochs {
        let pushes = changes(&mut rng, &test.inputs, keys);
        test.epoch(epoch, pushes);
        match rng.random_range(0..10) {
            0 => test.restart(),
            1..6 => test.commit(0),
            6..9 => test.commit(1),
            _ => test.commit(4),
        }
    }
}

const KINDS: [JoinKind; 5] = [
    JoinKind::Inner,
    JoinKind::Left,
    JoinKind::Full,
    JoinKind::Semi,
    JoinKind::Anti,
];

fn random_cases(on: Vec<(usize, usize)>, types: [DataType; 2], seed: u64) {
    for (i, kind) in KINDS.into_iter().enumerate() {
        let filters = [
            Filter::None,
            Filter::Less,
            Filter::Quotient,
            Filter::Between,
            Filter::Limit,
            Filter::Within,
        ];
        for (j, filter) in filters.into_iter().enumerate() {
            for null_equals_null in [false, true] {
                for (k, state_bytes_max) in [usize::MAX, 1, 3_000].into_iter().enumerate() {
                    let seed = seed * 1000 + (i * 100 + j * 10 + k) as u64;
                    for allowance in [usize::MAX, 1, 7] {
                        let case = Case {
                            kind,
                            on: on.clone(),
                            types: types.to_vec(),
                            null_equals_null,
                            filter,
                            state_bytes_max,
                            allowance,
                        };
                        random_run(case, seed, 40);
                    }
                }
            }
        }
    }
}

#[test]
fn one_integer_key() {
    random_cases(vec![(0, 0)], [DataType::Int64, DataType::Int64], 1);
}

#[test]
fn text_and_float_keys() {
    random_cases(
        vec![(0, 0), (2, 2)],
        [DataType::Utf8View, DataType::Float64],
        2,
    );
}

#[test]
fn one_column_equal_to_two() {
    random_cases(vec![(0, 0), (0, 2)], [DataType::Int64, DataType::Int64], 3);
}

#[test]
fn no_key() {
    random_cases(vec![], [DataType::Int64, DataType::Int64], 4);
}

/// Of so many rows of a key that what the condition compares is searched for.
#[test]
fn keys_of_many_rows() {
    fn changes(rng: &mut ChaCha8Rng, inputs: &[Rows; 2]) -> Vec<(usize, Vec<(Row, i64)>)> {
        let (mut pushes, mut live) = (vec![], inputs.clone());
        let first = rng.random_range(0..2);
        for push in 0..rng.random_range(1..4) {
            let port = (first + push) % 2;
            let mut number = |n: i64| match rng.random_range(0..12) {
                0 => None,
                _ => Some(rng.random_range(0..n)),
            };
            let mut row = || vec![number(2), number(30), number(2), number(3)];
            let fresh: Vec<(Row, i64)> = (0..100).map(|_| (row(), 1)).collect();
            let mut rows = fresh[..rng.random_range(1..100)].to_vec();
            let old = live[port].iter().filter(|_| rng.random_bool(0.1));
            rows.extend(old.map(|(row, diff)| (row.clone(), -diff)));
            for (row, diff) in &rows {
                add(&mut live[port], row.clone(), *diff);
            }
            pushes.push((port, rows));
        }
        pushes
    }
    let filters = [Filter::Less, Filter::Between, Filter::Limit, Filter::Within];
    let key = vec![(0, 0)];
    let ons = [(key.clone(), false), (key, true), (vec![], false)];
    let mut seed = 5000;
    for kind in KINDS {
        for filter in filters {
            for (on, null_equals_null) in &ons {
                for (state_bytes_max, allowance) in
                    [(usize::MAX, usize::MAX), (1, 500), (50_000, 7)]
                {
                    seed += 1;
                    let case = Case {
                        kind,
                        on: on.clone(),
                        types: vec![DataType::Int64, DataType::Int64],
                        null_equals_null: *null_equals_null,
                        filter,
                        state_bytes_max,
                        allowance,
                    };
                    println!("seed {seed}, {case:?}");
                    let mut rng = ChaCha8Rng::seed_from_u64(seed);
                    let mut test = Test::new(case);
                    for epoch in 1..=12 {
                        let pushes = changes(&mut rng, &test.inputs);
                        test.epoch(epoch, pushes);
                        match rng.random_range(0..6) {
                            0 => test.restart(),
                            behind => test.commit(behind % 3),
                        }
                    }
                }
            }
        }
    }
}

/// Row values that don't change while a key's other side is replaced again and again.
#[test]
fn many_updates_of_one_key_keep_the_state_small() {
    let case = Case {
        kind: JoinKind::Left,
        on: vec![(0, 0)],
        types: vec![DataType::Int64, DataType::Int64],
        null_equals_null: false,
        filter: Filter::None,
        state_bytes_max: usize::MAX,
        allowance: usize::MAX,
    };
    let mut test = Test::new(case);
    let row = |v: i64| vec![Some(1), Some(0), Some(0), Some(v)];
    test.epoch(1, vec![(0, vec![(row(0), 1)]), (1, vec![(row(0), 1)])]);
    let mut largest = 0;
    for epoch in 2..3_000 {
        let v = epoch - 1;
        test.epoch(epoch, vec![(1, vec![(row(v - 1), -1), (row(v), 1)])]);
        test.commit(0);
        largest = largest.max(test.operator.state_bytes());
    }
    assert_eq!(test.states[1].len(), 1);
    assert!(largest < 4_000_000, "{largest} bytes for two rows");
}

/// The same where the other side has no such key, so that nobody asks for the rows.
#[test]
fn many_updates_of_rows_without_a_match_keep_the_state_small() {
    const ROWS: i64 = 100;
    for (kind, port) in [
        (JoinKind::Inner, 0),
        (JoinKind::Inner, 1),
        (JoinKind::Semi, 0),
    ] {
        let case = Case {
            kind,
            on: vec![(0, 0)],
            types: vec![DataType::Int64, DataType::Int64],
            null_equals_null: false,
            filter: Filter::None,
            state_bytes_max: usize::MAX,
            allowance: usize::MAX,
        };
        let mut test = Test::new(case);
        let rows = |v: i64, diff: i64| {
            (0..ROWS).map(move |k| (vec![Some(k), Some(0), Some(0), Some(v)], diff))
        };
        test.epoch(1, vec![(port, rows(1, 1).collect())]);
        let mut largest = 0;
        for epoch in 2..1_000 {
            let changes = rows(epoch - 1, -1).chain(rows(epoch, 1));
            test.epoch(epoch, vec![(port, changes.collect())]);
            test.commit(0);
            largest = largest.max(test.operator.state_bytes());
        }
        assert!(
            largest < 8_000_000,
            "{largest} bytes for {ROWS} rows, {kind:?}"
        );
    }
}

/// A row that appears or changes on both sides at once gives the difference, not rows that come and go.
#[test]
fn changes_of_both_sides_are_taken_together() {
    for kind in [JoinKind::Inner, JoinKind::Full] {
        let case = Case {
            kind,
            on: vec![(0, 0)],
            types: vec![DataType::Int64, DataType::Int64],
            null_equals_null: false,
            filter: Filter::None,
            state_bytes_max: usize::MAX,
            allowance: usize::MAX,
        };
        let mut test = Test::new(case);
        let row = |k: i64, v: i64| vec![Some(k), Some(0), Some(0), Some(v)];
        let all = |v: i64, diff: i64| (0..100).map(move |k| (row(k, v), diff));
        let mut rows_out = Vec::new();
        for epoch in 1..4 {
            let old = all(epoch - 1, -1).take(if epoch == 1 { 0 } else { 100 });
            let changes: Vec<_> = old.chain(all(epoch, 1)).collect();
            let pushes = vec![(0, changes.clone()), (1, changes)];
            rows_out.push(test.epoch(epoch, pushes));
        }
        assert_eq!(rows_out, vec![100, 200, 200], "{kind:?}");
    }
}

/// Joins of joins without a key, as many scalar subqueries make, would double the changes of an epoch each.
#[test]
fn changes_without_a_key_do_not_multiply() {
    for kind in [JoinKind::Inner, JoinKind::Left, JoinKind::Full] {
        let case = Case {
            kind,
            on: vec![],
            types: vec![DataType::Int64, DataType::Int64],
            null_equals_null: false,
            filter: Filter::None,
            state_bytes_max: usize::MAX,
            allowance: usize::MAX,
        };
        let mut test = Test::new(case);
        let row = |v: i64| vec![Some(v), Some(0), Some(0), Some(v)];
        test.epoch(1, vec![(0, vec![(row(1), 1)]), (1, vec![(row(1), 1)])]);
        let there_and_back = |v: i64| vec![(row(v + 10), 1), (row(v), -1), (row(v + 10), -1)];
        let changes = |v: i64| [there_and_back(v), vec![(row(v + 1), 1)]].concat();
        for epoch in 2..5 {
            let changes = changes(epoch - 1);
            let pushes = changes
                .chunks(2)
                .flat_map(|c| [(0, c.to_vec()), (1, c.to_vec())]);
            let rows = test.epoch(epoch, pushes.collect());
            assert!(
                rows <= 8,
                "{kind:?}: {rows} changes of one row on each side"
            );
        }
    }
}

/// More rows than a piece on both sides of one key, and a batch larger than a piece.
#[test]
fn large_batches_are_cut() {
    for kind in KINDS {
        let case = Case {
            kind,
            on: vec![(0, 0)],
            types: vec![DataType::Int64, DataType::Utf8View],
            null_equals_null: false,
            filter: Filter::None,
            state_bytes_max: usize::MAX,
            allowance: usize::MAX,
        };
        let mut test = Test::new(case);
        let row = |k: i64, v: i64| vec![Some(k), Some(0), Some(0), Some(v)];
        let left: Vec<_> = (0..40_000).map(|v| (row(v, v), 1)).collect();
        let right: Vec<_> = (20_000..60_000).map(|v| (row(v, v), 1)).collect();
        let mut out = Output::default();
        let schema = test.node.inputs[0].schema.clone();
        test.operator.push(0, delta(&schema, &left), &mut out);
        test.operator.push(1, delta(&schema, &right), &mut out);
        test.operator.finish(1, &mut out);
        let rows: i64 = out
            .rows
            .iter()
            .map(|d| (0..d.len()).map(|i| d.diffs.get(i)).sum::<i64>())
            .sum();
        let expected = match kind {
            JoinKind::Inner | JoinKind::Semi | JoinKind::Anti => 20_000,
            JoinKind::Left => 40_000,
            JoinKind::Full => 60_000,
        };
        assert_eq!(rows, expected, "{kind:?}");
        assert!(out.rows.iter().all(|d| d.len() <= 8192));
    }
}

/// Changes of a large side, and of a small one that asks for few keys of the large one, for so long that each part of the
/// hashes gets its turn.
#[test]
fn keys_that_are_asked_for_late_find_all_their_rows() {
    const ROWS: usize = 3_000;
    const KEYS: i64 = 2_000;
    const EPOCHS: i64 = 200;
    let cases = [
        (JoinKind::Inner, 0, 8192, 5, usize::MAX),
        (JoinKind::Inner, 1, 500, 3, usize::MAX),
        (JoinKind::Semi, 0, 500, 3, usize::MAX),
        (JoinKind::Inner, 0, 64, 100, usize::MAX),
        (JoinKind::Semi, 0, 8192, 100, 200_000),
        (JoinKind::Inner, 1, 200, 5, 200_000),
    ];
    for (seed, (kind, large, waiting_rows_max, index_cost, state_bytes_max)) in
        cases.into_iter().enumerate()
    {
        for (types, on) in [
            ([DataType::Int64, DataType::Int64], vec![(0, 0)]),
            (
                [DataType::Utf8View, DataType::Float64],
                vec![(0, 0), (2, 2)],
            ),
        ] {
            println!(
                "{kind:?}, {large}, {waiting_rows_max} rows wait, at most {state_bytes_max} bytes, {on:?}"
            );
            let case = Case {
                kind,
                on,
                types: types.to_vec(),
                null_equals_null: false,
                filter: Filter::None,
                state_bytes_max,
                allowance: usize::MAX,
            };
            let mut rng = ChaCha8Rng::seed_from_u64(seed as u64);
            let limits = UnindexedLimits {
                waiting_rows_max,
                index_cost,
            };
            let mut test = Test::with_limits(case, limits);
            let (mut sizes, mut kept): (Vec<usize>, Vec<Row>) = Default::default();
            for epoch in 1..=EPOCHS {
                let many = if epoch == 1 { ROWS } else { 12 };
                let mut many: Vec<(Row, i64)> =
                    (0..many).map(|_| (large_row(&mut rng, KEYS), 1)).collect();
                kept.extend(many.iter().map(|m| m.0.clone()));
                for _ in 0..if epoch == 1 { 0 } else { 12 } {
                    let gone = rng.random_range(0..kept.len());
                    many.push((kept.swap_remove(gone), -1));
                }
                let few = (0..rng.random_range(0..3)).map(|_| {
                    let mut row = large_row(&mut rng, KEYS);
                    row[3] = Some(0);
                    let there = test.inputs[1 - large].get(&row).copied().unwrap_or(0);
                    (row, if there > 0 { -there } else { 1 })
                });
                let mut few: Vec<(Row, i64)> = few.collect();
                few.dedup_by(|a, b| a.0 == b.0);
                let mut pushes = vec![(large, many), (1 - large, few)];
                if rng.random_bool(0.3) {
                    pushes.reverse();
                }
                test.epoch(epoch, pushes);
                sizes.push(test.operator.state_bytes());
                test.commit(epoch as usize % 4);
                if state_bytes_max != usize::MAX && epoch % 100 == 99 {
                    test.restart();
                }
            }
            if index_cost <= 5 && state_bytes_max == usize::MAX {
                let (first, last) = (sizes[0], sizes[sizes.len() - 1]);
                assert!(
                    first * 3 < last * 2,
                    "nothing stayed unindexed: {first}, {last} bytes"
                );
            }
        }
    }
}

/// A key that finds rows of long ago has changed now: as long as that isn't committed, it must not be dropped.
#[test]
fn a_key_that_was_just_asked_for_stays_in_memory() {
    let case = |state_bytes_max: usize| Case {
        kind: JoinKind::Inner,
        on: vec![(0, 0)],
        types: vec![DataType::Int64, DataType::Int64],
        null_equals_null: false,
        filter: Filter::None,
        state_bytes_max,
        allowance: usize::MAX,
    };
    let row = |k: i64, v: i64| vec![Some(k), Some(0), Some(0), Some(v)];
    let many = || (0, (0..3_000).map(|k| (row(k, 0), 1)).collect());
    let mut unlimited = Test::new(case(usize::MAX));
    unlimited.epoch(1, vec![many()]);
    let mut test = Test::new(case(unlimited.operator.state_bytes()));
    test.epoch(1, vec![many()]);
    test.commit(0);
    test.epoch(2, vec![(1, vec![(row(7, 1), 1)])]);
    test.epoch(3, vec![(0, vec![(row(7, 2), 1)])]);
}

fn large_row(rng: &mut ChaCha8Rng, keys: i64) -> Row {
    let key = rng.random_range(0..keys);
    vec![
        Some(key),
        Some(0),
        Some(key % 2),
        Some(rng.random_range(1..4)),
    ]
}

/// However many pairs a key, or no key, stands for: a turn is a bounded piece of them.
#[test]
fn a_turn_is_bounded() {
    const ROWS: i64 = 3_000;
    const ALLOWANCE: usize = 100_000;
    for (on, filter) in [
        (vec![], Filter::None),
        (vec![], Filter::Less),
        (vec![(2, 2)], Filter::None),
        (vec![(2, 2)], Filter::Less),
    ] {
        for kind in KINDS {
            println!("{on:?} {filter:?} {kind:?}");
            let case = Case {
                kind,
                on: on.clone(),
                types: vec![DataType::Int64, DataType::Int64],
                null_equals_null: false,
                filter,
                state_bytes_max: usize::MAX,
                allowance: ALLOWANCE,
            };
            let counts_alone = matches!(kind, JoinKind::Semi | JoinKind::Anti);
            let mut test = Test::new(case);
            let schema = test.node.inputs[0].schema.clone();
            let mut turns = 0;
            let mut turn = |out: &mut Output| {
                turns += 1;
                let rows: usize = out.rows.iter().map(|d| d.len()).sum();
                assert!(rows <= ALLOWANCE + 2 * 8192, "{rows} rows in a turn");
                *out = Output::with_allowance(ALLOWANCE);
            };
            for epoch in 1..=2 {
                let row = |v: i64| vec![Some(v), Some(v % 5), Some(0), Some(v + epoch)];
                let rows: Vec<_> = (0..ROWS).map(|v| (row(v), 1)).collect();
                let mut out = Output::with_allowance(ALLOWANCE);
                for port in [0, 1] {
                    test.operator.push(port, delta(&schema, &rows), &mut out);
                    while test.operator.is_busy() {
                        turn(&mut out);
                        test.operator.go_on(&mut out);
                    }
                }
                test.operator.finish(epoch, &mut out);
                while test.operator.is_busy() {
                    turn(&mut out);
                    test.operator.go_on(&mut out);
                }
                turn(&mut out);
            }
            // Only those are looked at that the comparison allows.
            let pairs = match filter {
                Filter::Less => (4 * ROWS * ROWS * 2 / 5) as usize,
                _ => (4 * ROWS * ROWS) as usize,
            };
            let all = filter == Filter::None && counts_alone;
            assert!(
                all || turns >= pairs / (ALLOWANCE + 2 * 8192),
                "{turns} turns"
            );
        }
    }
}

/// Once pairs enough have been looked at, a changed row meets only those that it can match, however many there are.
#[test]
fn a_changed_row_meets_few() {
    const ROWS: i64 = 20_000;
    const ALLOWANCE: usize = 3_000;
    for on in [vec![], vec![(0, 0)]] {
        for kind in KINDS {
            println!("{on:?} {kind:?}");
            let case = Case {
                kind,
                on: on.clone(),
                types: vec![DataType::Int64, DataType::Int64],
                null_equals_null: false,
                filter: Filter::Between,
                state_bytes_max: usize::MAX,
                allowance: usize::MAX,
            };
            let mut test = Test::new(case);
            let schema = test.node.inputs[0].schema.clone();
            // Of one key; about two rows of the other side match each.
            let row = |port: usize, a: i64| vec![Some(0), Some(a), Some(0), Some(port as i64)];
            let mut turns_of = |epoch, allowance, pushes: &[(usize, Vec<(Row, i64)>)]| {
                let mut turns = 1;
                for (port, rows) in pushes {
                    let mut out = Output::with_allowance(allowance);
                    test.operator.push(*port, delta(&schema, rows), &mut out);
                    while test.operator.is_busy() {
                        turns += 1;
                        test.operator.go_on(&mut Output::with_allowance(allowance));
                    }
                }
                let mut out = Output::with_allowance(allowance);
                test.operator.finish(epoch, &mut out);
                while test.operator.is_busy() {
                    turns += 1;
                    test.operator.go_on(&mut Output::with_allowance(allowance));
                }
                turns
            };
            let all = |port| (0..ROWS).map(|a| (row(port, a), 1)).collect();
            for (epoch, port) in [(1, 0), (2, 1)] {
                turns_of(epoch, usize::MAX, &[(port, all(port))]);
            }
            // Each change looks at all rows, or at those of its key, until an index pays; both sides have one then.
            let update = |port, a| vec![(row(port, a), -1), (row(port, a + 1), 1)];
            for epoch in 3..20 {
                let pushes = [0, 1].map(|port| (port, update(port, epoch)));
                for (epoch, push) in (2 * epoch..).zip(pushes) {
                    turns_of(epoch, usize::MAX, &[push]);
                }
            }
            for (epoch, ports) in (100..).zip([vec![0], vec![1], vec![0, 1]]) {
                let pushes = ports.iter().map(|port| (*port, update(*port, 5_000)));
                let pushes: Vec<_> = pushes.collect();
                let turns = turns_of(epoch, ALLOWANCE, &pushes);
                assert_eq!(turns, 1, "turns of changes of {ports:?}");
            }
        }
    }
}

/// A row can't be there more often than can be counted: that is an error, and it goes away with the rows.
#[test]
fn multiplicities_that_do_not_fit_are_errors() {
    for on in [vec![], vec![(0, 0)]] {
        for filter in [Filter::None, Filter::Less] {
            let case = Case {
                kind: JoinKind::Inner,
                on: on.clone(),
                types: vec![DataType::Int64, DataType::Int64],
                null_equals_null: false,
                filter,
                state_bytes_max: usize::MAX,
                allowance: usize::MAX,
            };
            println!("{on:?} {filter:?}");
            let test = Test::new(case);
            let mut operator = test.operator;
            let schema = test.node.inputs[0].schema.clone();
            let row = |a: i64| vec![Some(1), Some(a), Some(0), Some(0)];
            let many = 1i64 << 40;
            let mut open = 0;
            let mut rows = 0i64;
            let mut epoch = 0;
            let mut step = |pushes: &[(usize, i64, i64)]| {
                let mut out = Output::default();
                for (port, a, diff) in pushes {
                    let rows = delta(&schema, &[(row(*a), *diff)]);
                    operator.push(*port, rows, &mut out);
                }
                epoch += 1;
                operator.finish(epoch, &mut out);
                for errors in &out.errors {
                    let sqlstates = errors.rows.column(0);
                    for i in 0..errors.len() {
                        let code =
                            arrow::util::display::array_value_to_string(sqlstates, i).unwrap();
                        assert_eq!(code, "22003");
                        open += errors.diffs.get(i);
                    }
                }
                for d in &out.rows {
                    rows += (0..d.len()).map(|i| d.diffs.get(i)).sum::<i64>();
                }
                (open, rows)
            };
            assert_eq!(step(&[(0, 1, 1 << 12), (1, 2, 1 << 12)]), (0, 1 << 24));
            assert_eq!(step(&[(0, 1, -(1 << 12)), (1, 2, -(1 << 12))]), (0, 0));
            assert!(step(&[(0, 1, many), (1, 2, many)]).0 > 0);
            assert!(step(&[(0, 1, -many / 2)]).0 > 0);
            assert_eq!(step(&[(0, 1, -many / 2)]), (0, 0));
            assert!(step(&[(0, 1, many)]).0 > 0);
            assert_eq!(step(&[(1, 2, -many), (0, 1, 2 - many)]), (0, 0));
            assert_eq!(step(&[(1, 2, 3)]), (0, 6));
        }
    }
}
