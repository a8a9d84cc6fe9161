//! What plans say about themselves: EXPLAIN, arrangements, where the output is stored, and reading it from there.

#[allow(dead_code)]
mod support;

use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringViewArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion_common::ScalarValue;
use datafusion_expr::Operator as Binary;
use datafusion_physical_expr::PhysicalExpr;
use datafusion_physical_expr::expressions::{BinaryExpr, Column, Literal};
use support::{Multiset, add_rows, map_error};
use tidemill_dataflow::plan::{
    Aggregate, AggregateFunction, DataflowPlan, JoinKind, Node, Op, OutputStorage, apply_maps,
};
use tidemill_storage::ArrangementKind;
use tidemill_zset::{CollectionId, Delta};

fn schema(fields: &[(&str, DataType)]) -> SchemaRef {
    let field = |(n, t): &(&str, DataType)| Field::new(*n, t.clone(), true);
    Arc::new(Schema::new(fields.iter().map(field).collect::<Vec<_>>()))
}

/// SELECT word, 100 / (count(*) - 2) FROM c1 GROUP BY word HAVING count(*) > 1, with max(v) computed on the way.
fn plan(append_only: bool, collection: u64) -> DataflowPlan {
    let text = DataType::Utf8View;
    let int = DataType::Int64;
    let aggregate = |function, column, name| Aggregate {
        function,
        column,
        second: None,
        filter: None,
        output: Field::new(name, DataType::Int64, true),
    };
    let input = Node {
        op: Op::Input {
            collection: CollectionId(collection),
            columns: vec![0, 2],
        },
        inputs: vec![],
        schema: schema(&[("word", text.clone()), ("v", int.clone())]),
        append_only,
    };
    let groups = Node {
        op: Op::Aggregate {
            keys: vec![0],
            aggregates: vec![
                aggregate(AggregateFunction::CountStar, None, "n"),
                aggregate(AggregateFunction::Max, Some(1), "m"),
            ],
        },
        inputs: vec![input],
        schema: schema(&[
            ("word", text.clone()),
            ("n", int.clone()),
            ("m", int.clone()),
        ]),
        append_only: false,
    };
    let column = |n: &str, i| -> Arc<dyn PhysicalExpr> { Arc::new(Column::new(n, i)) };
    let number =
        |n| -> Arc<dyn PhysicalExpr> { Arc::new(Literal::new(ScalarValue::Int64(Some(n)))) };
    let binary = |a, op, b| -> Arc<dyn PhysicalExpr> { Arc::new(BinaryExpr::new(a, op, b)) };
    let less = binary(column("n", 1), Binary::Minus, number(2));
    let root = Node {
        op: Op::Map {
            predicate: Some(binary(column("n", 1), Binary::Gt, number(1))),
            projection: Some(vec![
                column("word", 0),
                binary(number(100), Binary::Divide, less),
            ]),
        },
        inputs: vec![groups],
        schema: schema(&[("word", text), ("q", int)]),
        append_only: false,
    };
    DataflowPlan { root }
}

#[test]
fn explain_shows_columns_keys_and_state() {
    let expected = "\
Map where n@1 > 1 project [word@0, 100 / (n@1 - 2)] -> (word, q)
  Aggregate keys [word@0] compute [count(*) Int64, max(v@1) Int64] -> (word, n, m)
      state groups: Last by (word): (n, m)
      state values of v: Add by (word): (v)
    Input c1 columns [0, 2] -> (word, v)
";
    assert_eq!(plan(false, 1).explain(), expected);
    assert!(!plan(true, 1).explain().contains("values of"));
}

#[test]
fn arrangements_have_fingerprints_of_what_is_below() {
    let a = plan(false, 1).arrangements();
    assert_eq!(a.len(), 2);
    assert_eq!((a[0].kind, a[0].key_columns), (ArrangementKind::Last, 1));
    assert_eq!((a[1].kind, a[1].key_columns), (ArrangementKind::Add, 1));
    assert_eq!(a, plan(false, 1).arrangements());
    let b = plan(false, 2).arrangements();
    assert!(
        a.iter()
            .zip(&b)
            .all(|(a, b)| a.fingerprint != b.fingerprint)
    );
    assert_ne!(
        a[0].fingerprint,
        plan(true, 1).arrangements()[0].fingerprint
    );
    assert_eq!(plan(false, 7).inputs(), [CollectionId(7)]);
}

#[test]
fn an_aggregate_at_the_root_stores_no_second_copy() {
    let OutputStorage::Arrangement {
        index,
        columns,
        maps,
    } = plan(false, 1).output_storage()
    else {
        panic!("it has an arrangement");
    };
    assert_eq!(
        (index, columns.as_slice(), maps.len()),
        (0, &[0, 1, 2][..], 1)
    );
    let words: ArrayRef = Arc::new(StringViewArray::from(vec!["once", "twice", "thrice"]));
    let counts: ArrayRef = Arc::new(Int64Array::from(vec![1, 2, 3]));
    let max: ArrayRef = Arc::new(Int64Array::from(vec![7, 7, 7]));
    let stored = RecordBatch::try_from_iter([("word", words), ("n", counts), ("m", max)]).unwrap();
    let (rows, errors) = apply_maps(&maps, Delta::insert(stored), map_error);
    let mut got = Multiset::new();
    add_rows(&mut got, &rows);
    assert_eq!(got, Multiset::from([("(thrice, 100)".to_string(), 1)]));
    assert_eq!(errors.len(), 1);
    let mut failed = Multiset::new();
    add_rows(&mut failed, &errors[0]);
    let text = failed.keys().next().unwrap();
    assert!(
        text.contains("Divide by zero") && text.contains("(twice, 2, 7)"),
        "{text}"
    );

    let input = plan(false, 1).root.inputs.remove(0).inputs.remove(0);
    assert!(matches!(
        DataflowPlan { root: input }.output_storage(),
        OutputStorage::Own
    ));
}

/// Pairs of groups with equal maxima, of an aggregate that stands on both sides.
fn pairs_of_groups() -> DataflowPlan {
    let groups = plan(false, 1).root.inputs.remove(0);
    let fields = groups.schema.fields();
    let both = fields.iter().chain(fields).cloned().collect::<Vec<_>>();
    let root = Node {
        op: Op::Join {
            kind: JoinKind::Inner,
            on: vec![(2, 2)],
            null_equals_null: false,
            filter: None,
        },
        schema: Arc::new(Schema::new(both)),
        append_only: false,
        inputs: vec![groups.clone(), groups],
    };
    DataflowPlan { root }
}

#[test]
fn equal_subtrees_have_one_state() {
    let pairs = pairs_of_groups();
    let names: Vec<String> = pairs.arrangements().into_iter().map(|s| s.name).collect();
    assert_eq!(names, ["groups", "values of v", "left", "right"]);
    let text = pairs.explain();
    let lines: Vec<&str> = text.lines().map(str::trim_start).collect();
    assert_eq!(lines.len(), 8, "{text}");
    assert!(lines[7].starts_with("Aggregate keys [word@0]") && lines[7].ends_with(", as above"));
    // Of the same aggregate over another collection nothing is shared.
    let mut other = pairs.clone();
    other.root.inputs[1] = plan(false, 2).root.inputs.remove(0);
    assert_eq!(other.arrangements().len(), 6);
}

#[test]
fn a_kept_subtree_is_cut_off_once_wherever_it_stands() {
    let pairs = pairs_of_groups();
    let mut next = 10;
    let mut id = || {
        next += 1;
        CollectionId(next)
    };
    let rest = pairs.remainder(&[true, true, false, false], &mut id);
    assert_eq!(rest.fresh, [2, 3]);
    assert_eq!(rest.cuts.len(), 1);
    assert_eq!(rest.cuts[0].index, 0);
    assert_eq!(rest.plan.inputs(), [rest.cuts[0].collection]);
    assert_eq!(rest.plan.arrangements().len(), 2);
    // The minima and maxima of the second state are missing: everything is computed.
    let whole = pairs.remainder(&[true, false, true, true], &mut id);
    assert_eq!((whole.cuts.len(), whole.fresh), (0, vec![0, 1, 2, 3]));
    assert_eq!(whole.plan.inputs(), [CollectionId(1)]);
}
