//! Equal subtrees of one plan: what keeps no state is computed once for all places where it stands.

use std::collections::HashMap;

use super::{Node, Op, fingerprint};

/// Subtrees that have been met, with what was made of each.
pub struct Shared<T>(HashMap<String, Vec<(Node, T)>>);

impl<T> Default for Shared<T> {
    fn default() -> Self {
        Shared(HashMap::new())
    }
}

impl<T> Shared<T> {
    /// What was made of a subtree equal to `node`.
    pub fn get(&self, node: &Node) -> Option<&T> {
        let met = self.0.get(&fingerprint(node))?;
        met.iter().find(|(n, _)| equal(n, node)).map(|(_, t)| t)
    }

    /// Notes what was made of `node`, if it keeps no state.
    pub fn put(&mut self, node: &Node, made: T) {
        if is_stateless(node) {
            let met = self.0.entry(fingerprint(node)).or_default();
            met.push((node.clone(), made));
        }
    }
}

/// Nothing in the subtree remembers rows from one epoch to the next.
fn is_stateless(node: &Node) -> bool {
    let itself = matches!(
        node.op,
        Op::Input { .. } | Op::Map { .. } | Op::Unnest { .. } | Op::Union
    );
    itself && node.inputs.iter().all(is_stateless)
}

/// True of two subtrees that keep no state and always give the same rows.
pub fn same_rows(a: &Node, b: &Node) -> bool {
    is_stateless(a) && equal(a, b)
}

/// Stateless subtrees that give the same rows. The fingerprint's text alone could hide a difference.
fn equal(a: &Node, b: &Node) -> bool {
    let operators = match (&a.op, &b.op) {
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
        (Op::Union, Op::Union) => true,
        _ => false,
    };
    let schemas = a.schema == b.schema && a.append_only == b.append_only;
    let mut inputs = a.inputs.iter().zip(&b.inputs);
    operators && schemas && a.inputs.len() == b.inputs.len() && inputs.all(|(a, b)| equal(a, b))
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

    #[test]
    fn only_equal_subtrees_without_state_are_shared() {
        let mut shared = Shared::default();
        let one = map_of(1, ScalarValue::Int64(Some(1)));
        shared.put(&one, 'a');
        assert_eq!(shared.get(&one.clone()), Some(&'a'));
        assert_eq!(shared.get(&one.inputs[0]), None);
        assert_eq!(shared.get(&map_of(2, ScalarValue::Int64(Some(1)))), None);
        // Looks the same as text.
        assert_eq!(shared.get(&map_of(1, ScalarValue::Int32(Some(1)))), None);
        let distinct = Node {
            op: Op::Aggregate {
                keys: vec![0],
                aggregates: vec![],
            },
            schema: one.schema.clone(),
            append_only: false,
            inputs: vec![one],
        };
        shared.put(&distinct, 'b');
        assert_eq!(shared.get(&distinct), None);
    }
}
