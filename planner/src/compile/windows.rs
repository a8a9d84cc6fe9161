//! Window functions by key: those that stand over each other and share a key are one recomputation.
//!
//! What the general operator stores is its input and its output. Windows in three orders, or a running sum over what `lag` found, would
//! be as many operators, each of which stores the rows again and computes a touched key after the other has changed it. The key is one
//! that all of them divide their rows by, so that one batch program over the rows of a touched key has all of their results.

use std::sync::Arc;

use datafusion_common::{Column, Result};
use datafusion_expr::logical_plan::{Filter, Projection, Sort, SubqueryAlias, Window};
use datafusion_expr::{Expr, LogicalPlan};
use tidemill_dataflow::plan::{Node, Op};

use super::expr::{has_subquery, unalias};
use super::neighbourhood::neighbourhood;
use super::recompute::{Cut, with_columns};
use super::running::running;
use super::top_k::is_first_rows;
use super::windows_above::in_terms_of;
use super::{Compiler, Piece, node, rows, schema_of};
use crate::error::{self, from_datafusion};
use crate::program::Program;

/// Windows over each other, with what is between and above them.
pub(super) struct Windows<'p> {
    /// The nodes, from the top; the last one is a window or the sort below one.
    pub nodes: Vec<&'p LogicalPlan>,
    /// What the lowest window reads.
    input: &'p LogicalPlan,
    /// The key that they share, in terms of `input`; not empty.
    keys: Vec<Expr>,
}

/// The windows of one key at the bottom of `plan`. Above the first one there are filters and choices of columns, because what the
/// operator stores is its output; between windows, whatever is computed row by row.
pub(super) fn by_one_key(plan: &LogicalPlan) -> Result<Option<Windows<'_>>> {
    let mut nodes = vec![];
    let mut found: Option<Windows> = None;
    // The key of the windows so far in terms of the node that is looked at, and whether there is a filter below the last of them.
    let (mut keys, mut filtered): (Option<Vec<Expr>>, bool) = (None, false);
    let mut at = plan;
    loop {
        match at {
            LogicalPlan::Window(w) => {
                let own = shared_partition(w);
                let shared = match keys.take() {
                    None => own,
                    Some(above) => match key_of_both(above, own, filtered) {
                        Some(shared) => shared,
                        None => break,
                    },
                };
                if shared.is_empty() {
                    break;
                }
                nodes.push(at);
                at = &w.input;
                if let LogicalPlan::Sort(sort) = at {
                    nodes.push(at);
                    at = &sort.input;
                }
                filtered = false;
                found = Some(Windows {
                    nodes: nodes.clone(),
                    input: at,
                    keys: shared.clone(),
                });
                keys = Some(shared);
                continue;
            }
            // They have an operator of their own, which has fewer rows for those above.
            LogicalPlan::Filter(_) if found.is_some() && is_first_rows(at) => break,
            LogicalPlan::Filter(f) if !has_subquery(&f.predicate) => {
                filtered = true;
                nodes.push(at);
                at = &f.input;
            }
            LogicalPlan::Projection(p) if may_pass(p, found.is_some()) => {
                keys = match keys {
                    None => None,
                    Some(keys) => Some(in_terms_of(keys, &p.schema, &p.expr)?),
                };
                nodes.push(at);
                at = &p.input;
            }
            LogicalPlan::SubqueryAlias(alias) => {
                if let Some(above) = keys.take() {
                    let below = alias.input.schema().columns();
                    let below: Vec<Expr> = below.into_iter().map(Expr::Column).collect();
                    keys = Some(in_terms_of(above, &alias.schema, &below)?);
                }
                nodes.push(at);
                at = &alias.input;
            }
            _ => break,
        }
    }
    Ok(found)
}

fn may_pass(p: &Projection, between: bool) -> bool {
    let column = |e: &Expr| matches!(unalias(e), Expr::Column(_));
    p.expr
        .iter()
        .all(|e| column(e) || between && !has_subquery(e))
}

/// The key by which a window by `below` and those by `above` over it may be computed together: one of the two, which says less, so that a touched
/// key has no more rows than one of them had to look at anyway. The upper ones may have looked at far fewer if there is a filter between.
fn key_of_both(above: Vec<Expr>, below: Vec<Expr>, filtered: bool) -> Option<Vec<Expr>> {
    let within = |a: &[Expr], b: &[Expr]| a.iter().all(|e| b.contains(e));
    if within(&below, &above) {
        return Some(below);
    }
    (!filtered && within(&above, &below)).then_some(above)
}

/// PARTITION BY expressions that all functions of the node have.
fn shared_partition(window: &Window) -> Vec<Expr> {
    let mut shared: Option<Vec<Expr>> = None;
    for e in &window.window_expr {
        let Expr::WindowFunction(w) = unalias(e) else {
            return vec![];
        };
        let own = &w.params.partition_by;
        shared = Some(match shared {
            None => own.clone(),
            Some(before) => before.into_iter().filter(|e| own.contains(e)).collect(),
        });
    }
    let mut distinct = vec![];
    for e in shared.unwrap_or_default() {
        if !distinct.contains(&e) {
            distinct.push(e);
        }
    }
    distinct
}

impl Compiler<'_> {
    /// The operator for the windows at the bottom of `top`.
    pub(super) fn windows(
        &mut self,
        top: &LogicalPlan,
        windows: Windows<'_>,
    ) -> error::Result<Piece> {
        let (input, keys) = with_columns(windows.input, &windows.keys)?;
        let mut cut = Cut::default();
        let leaf = self.leaf(&input, &mut cut)?;
        let at = keys.iter().map(|c| input.schema().index_of_column(c));
        let at: Vec<usize> = at.collect::<Result<_>>().map_err(|e| from_datafusion(&e))?;
        let unique = self.last_unique.take();
        let unique = unique.map(|u| {
            let column = |i: usize| Column::from(input.schema().qualified_field(i));
            u.into_iter().map(column).collect()
        });
        let followed = Followed { keys, unique };
        let (built, followed) =
            over_leaf(leaf, &windows.nodes, followed).map_err(|e| from_datafusion(&e))?;
        // The operator wants the keys first; then come the columns of the plan that aren't keys.
        let columns = top.schema().columns();
        let rest = columns.iter().filter(|c| !followed.keys.contains(c));
        let output: Vec<Column> = followed.keys.iter().chain(rest).cloned().collect();
        let exprs = output.iter().cloned().map(Expr::Column).collect();
        let fragment =
            Projection::try_new(exprs, Arc::new(built)).map_err(|e| from_datafusion(&e))?;
        let schema = schema_of(&fragment.schema);
        let fragment = LogicalPlan::Projection(fragment);
        let near = neighbourhood(&fragment, &at);
        let program = Program::try_new(fragment, cut.schemas, schema.clone())
            .map_err(|e| from_datafusion(&e))?
            .with_neighbourhood(near, running);
        let filter = |n: &&LogicalPlan| matches!(n, LogicalPlan::Filter(_));
        let reason = match windows.nodes.iter().any(filter) {
            false => "window functions".to_string(),
            true => "window functions with a filter".to_string(),
        };
        let op = Op::Recompute {
            keys: vec![at],
            program: Arc::new(program),
            reason,
        };
        let recompute = node(op, cut.inputs, schema, false);
        let place = |c: &Column| {
            let mut output = output.iter();
            output
                .position(|o| o == c)
                .expect("every column is in the output")
        };
        let back: Vec<usize> = columns.iter().map(place).collect();
        let node = rows::choose(recompute, &back);
        let node = Node {
            schema: schema_of(top.schema()),
            ..node
        };
        let known = |c: &Column| columns.iter().position(|o| o == c);
        let unique = followed.unique;
        let unique = unique.and_then(|u| u.iter().map(known).collect());
        Ok(Piece::new(node).unique(unique))
    }
}

/// Columns of the lowest window's input, under the names that they have further up.
struct Followed {
    /// They come through all choices of columns.
    keys: Vec<Column>,
    /// Columns that tell rows apart; none where one of them isn't kept.
    unique: Option<Vec<Column>>,
}

/// The `nodes` over `leaf`.
fn over_leaf(
    leaf: LogicalPlan,
    nodes: &[&LogicalPlan],
    mut followed: Followed,
) -> Result<(LogicalPlan, Followed)> {
    let mut plan = leaf;
    for (level, node) in nodes.iter().rev().enumerate() {
        let input = Arc::new(plan);
        plan = match node {
            LogicalPlan::Window(w) => {
                LogicalPlan::Window(Window::try_new(w.window_expr.clone(), input)?)
            }
            LogicalPlan::Sort(sort) => LogicalPlan::Sort(Sort {
                expr: sort.expr.clone(),
                input,
                fetch: sort.fetch,
            }),
            LogicalPlan::Filter(f) => {
                LogicalPlan::Filter(Filter::try_new(f.predicate.clone(), input)?)
            }
            LogicalPlan::SubqueryAlias(alias) => {
                let renamed = |c: &mut Column| c.relation = Some(alias.alias.clone());
                followed.keys.iter_mut().for_each(renamed);
                followed.unique.iter_mut().flatten().for_each(renamed);
                let alias = SubqueryAlias::try_new(input, alias.alias.clone())?;
                LogicalPlan::SubqueryAlias(alias)
            }
            LogicalPlan::Projection(p) => {
                let exprs = followed.through(p, level);
                LogicalPlan::Projection(Projection::try_new(exprs, input)?)
            }
            other => return datafusion_common::internal_err!("{} at a window", other.display()),
        };
    }
    Ok((plan, followed))
}

impl Followed {
    /// The expressions of `p`, and those keys that it leaves out. `level` tells their names apart.
    fn through(&mut self, p: &Projection, level: usize) -> Vec<Expr> {
        let given = p.schema.columns();
        let mut exprs = p.expr.clone();
        let place = |c: &Column| {
            let is_it = |e: &Expr| matches!(unalias(e), Expr::Column(own) if own == c);
            p.expr.iter().position(is_it).map(|at| given[at].clone())
        };
        for (i, key) in self.keys.iter_mut().enumerate() {
            *key = place(key).unwrap_or_else(|| {
                let name = format!("__kept_{level}_{i}");
                exprs.push(Expr::Column(key.clone()).alias(&name));
                Column::new_unqualified(name)
            });
        }
        let unique = self.unique.take();
        self.unique = unique.and_then(|u| u.iter().map(place).collect());
        exprs
    }
}
