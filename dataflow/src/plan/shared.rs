//! Equal subtrees of one plan: they are computed once, and keep their state once, for all places where they stand.

use std::collections::HashMap;

use super::explain::describe;
use super::{Node, Op};

/// Numbers for the subtrees of one plan: those that always give the same rows have the same.
pub struct Classes(HashMap<*const Node, usize>);

impl Classes {
    /// Numbers all subtrees of `root`, which must stay where they are in memory.
    pub fn of(root: &Node) -> Classes {
        Classes::of_all(&[root])
    }

    /// Those of several trees together.
    pub fn of_all(roots: &[&Node]) -> Classes {
        let mut numbering = Numbering::default();
        for root in roots {
            numbering.number(root);
        }
        Classes(numbering.classes)
    }

    /// The number of a subtree of the plan.
    pub fn class(&self, node: &Node) -> usize {
        *self
            .0
            .get(&std::ptr::from_ref(node))
            .expect("a node of the plan that was numbered")
    }
}

/// True of two subtrees that always give the same rows.
pub fn same_rows(a: &Node, b: &Node) -> bool {
    let mut numbering = Numbering::default();
    numbering.number(a) == numbering.number(b)
}

/// An operator's text, which could hide a difference, and the numbers of its inputs.
type Alike = (String, Vec<usize>);

/// Subtrees that have been met, from the leaves up: two are equal if their operators are and the numbers of their inputs.
#[derive(Default)]
struct Numbering<'a> {
    classes: HashMap<*const Node, usize>,
    met: HashMap<Alike, Vec<(usize, &'a Node)>>,
    next: usize,
}

impl<'a> Numbering<'a> {
    fn number(&mut self, node: &'a Node) -> usize {
        let inputs = node.inputs.iter().map(|input| self.number(input));
        let key = (describe(node), inputs.collect());
        let alike = self.met.entry(key).or_default();
        let class = match alike.iter().find(|(_, met)| same_operator(met, node)) {
            Some((class, _)) => *class,
            None => {
                alike.push((self.next, node));
                self.next += 1;
                self.next - 1
            }
        };
        self.classes.insert(std::ptr::from_ref(node), class);
        class
    }
}

/// Over equal inputs, both give the same rows.
fn same_operator(a: &Node, b: &Node) -> bool {
    if a.schema != b.schema || a.append_only != b.append_only {
        return false;
    }
    match (&a.op, &b.op) {
        (
            Op::Input {
                collection,
                columns,
            },
            Op::Input {
                collection: c,
                columns: d,
            },
        ) => collection == c && columns == d,
        (Op::Constant { rows }, Op::Constant { rows: r }) => rows == r,
        (
            Op::Map {
                predicate,
                projection,
            },
            Op::Map {
                predicate: p,
                projection: q,
            },
        ) => predicate == p && projection == q,
        (
            Op::Unnest { columns, structs },
            Op::Unnest {
                columns: c,
                structs: s,
            },
        ) => columns == c && structs == s,
        (
            Op::Aggregate { keys, aggregates },
            Op::Aggregate {
                keys: k,
                aggregates: a,
            },
        ) => keys == k && aggregates == a,
        (
            Op::Join {
                kind,
                on,
                null_equals_null,
                filter,
            },
            Op::Join {
                kind: k,
                on: o,
                null_equals_null: n,
                filter: f,
            },
        ) => kind == k && on == o && null_equals_null == n && filter == f,
        (Op::Union, Op::Union) => true,
        (
            Op::TopK {
                keys,
                order,
                numbering,
                count,
                numbered,
            },
            Op::TopK {
                keys: k,
                order: o,
                numbering: by,
                count: c,
                numbered: n,
            },
        ) => (keys, order, numbering, count, numbered) == (k, o, by, c, n),
        (
            Op::Recompute { keys, program, .. },
            Op::Recompute {
                keys: k,
                program: p,
                ..
            },
        ) => keys == k && program.same(p.as_ref()),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::datatypes::{DataType, Field, Schema};
    use datafusion_common::ScalarValue;
    use datafusion_physical_expr::PhysicalExpr;
    use datafusion_physical_expr::expressions::Literal;
    use tidemill_zset::CollectionId;

    use super::*;

    fn map_of(collection: u64, value: ScalarValue) -> Node {
        let schema = |t| Arc::new(Schema::new(vec![Field::new("x", t, true)]));
        let literal: Arc<dyn PhysicalExpr> = Arc::new(Literal::new(value));
        Node {
            op: Op::Map {
                predicate: None,
                projection: Some(vec![literal]),
            },
            schema: schema(DataType::Int64),
            append_only: true,
            inputs: vec![Node {
                op: Op::Input {
                    collection: CollectionId(collection),
                    columns: vec![0],
                },
                inputs: vec![],
                schema: schema(DataType::Utf8),
                append_only: true,
            }],
        }
    }

    fn distinct(input: Node) -> Node {
        Node {
            op: Op::Aggregate {
                keys: vec![0],
                aggregates: vec![],
            },
            schema: input.schema.clone(),
            append_only: false,
            inputs: vec![input],
        }
    }

    #[test]
    fn equal_subtrees_have_one_number() {
        let one = ScalarValue::Int64(Some(1));
        let root = Node {
            op: Op::Union,
            schema: map_of(1, one.clone()).schema,
            append_only: false,
            inputs: vec![
                distinct(map_of(1, one.clone())),
                distinct(map_of(1, one.clone())),
                distinct(map_of(2, one.clone())),
                // Looks the same as text.
                distinct(map_of(1, ScalarValue::Int32(Some(1)))),
                map_of(1, one),
            ],
        };
        let classes = Classes::of(&root);
        let of: Vec<usize> = root.inputs.iter().map(|n| classes.class(n)).collect();
        assert_eq!(of[0], of[1]);
        assert!(of[0] != of[2] && of[0] != of[3] && of[2] != of[3]);
        assert_eq!(classes.class(&root.inputs[0].inputs[0]), of[4]);
        assert!(same_rows(&root.inputs[0], &root.inputs[1]));
        assert!(!same_rows(&root.inputs[0], &root.inputs[2]));
    }
}
