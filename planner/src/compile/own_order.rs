//! The order that rows have of their own: that of a subquery with ORDER BY, of a list that a function in FROM gives, of VALUES.
//!
//! SQL promises none of it to the query around, but everybody relies on it where the query says nothing else, as in
//! `SELECT array_agg(x) FROM unnest(…) AS x` or LIMIT over a subquery with ORDER BY. It is kept through filters, choices of columns and
//! aliases. What it takes becomes columns, so that a view's rows, which come in any order, have it too.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field};
use datafusion_common::{Column, DFSchema, Result, ScalarValue};
use datafusion_expr::expr::Sort as SortExpr;
use datafusion_expr::logical_plan::{Filter, Limit, SubqueryAlias, Unnest, Values};
use datafusion_expr::{Expr, LogicalPlan, LogicalPlanBuilder, Projection};

use super::expr::unalias;
use super::order::{
    add_ties, is_ordered_aggregate, is_ordered_among_peers, is_ordered_window, kept_sort,
};
use super::windows_above::as_below;
use crate::functions::array::ordinality;

/// Prefix of the names of columns that are there for the order alone.
const ORDER: &str = "place#";

/// A plan of the same rows, perhaps with more columns behind its own, and the order that they have of their own.
pub(crate) struct Ordered {
    pub plan: LogicalPlan,
    /// By columns of the plan; empty: they have none.
    pub by: Vec<SortExpr>,
}

/// Finds the own order of `plan`'s rows. Sorts that only say so are taken out.
pub(crate) fn own_order(plan: LogicalPlan) -> Result<Ordered> {
    Search::default().find(plan, false)
}

#[derive(Default)]
struct Search {
    /// Columns made so far.
    made: usize,
}

impl Search {
    /// `chosen_by`: a node above takes rows by their order.
    fn find(&mut self, plan: LogicalPlan, chosen_by: bool) -> Result<Ordered> {
        Ok(match plan {
            LogicalPlan::Sort(sort) => {
                let by = sort.expr.clone();
                let plan = match chosen_by || sort.fetch.is_some() {
                    true => LogicalPlan::Sort(sort),
                    false => Arc::unwrap_or_clone(sort.input),
                };
                self.by_columns(plan, by)?
            }
            LogicalPlan::Limit(limit) => {
                let input = self.find(Arc::unwrap_or_clone(limit.input), true)?;
                let input_plan = Arc::new(input.plan);
                let plan = LogicalPlan::Limit(Limit {
                    input: input_plan,
                    ..limit
                });
                Ordered { plan, ..input }
            }
            LogicalPlan::Filter(filter) => {
                let input = self.find(Arc::unwrap_or_clone(filter.input), chosen_by)?;
                let plan = Filter::try_new(filter.predicate, Arc::new(input.plan))?;
                Ordered {
                    plan: LogicalPlan::Filter(plan),
                    by: input.by,
                }
            }
            LogicalPlan::Projection(projection) => self.projection(projection, chosen_by)?,
            LogicalPlan::SubqueryAlias(alias) => {
                let input = self.find(Arc::unwrap_or_clone(alias.input), chosen_by)?;
                let below = input.plan.schema().columns();
                let plan = SubqueryAlias::try_new(Arc::new(input.plan), alias.alias)?;
                let plan = LogicalPlan::SubqueryAlias(plan);
                let above = plan.schema().columns();
                let renamed = |c: &Column| {
                    let at = below.iter().position(|b| b == c)?;
                    above.get(at).cloned()
                };
                Ordered {
                    by: through(input.by, &renamed),
                    plan,
                }
            }
            LogicalPlan::Unnest(unnest) => self.unnest(unnest)?,
            LogicalPlan::Values(values) if values.values.len() > 1 => self.values(values)?,
            plan => Ordered { plan, by: vec![] },
        })
    }

    fn projection(&mut self, projection: Projection, chosen_by: bool) -> Result<Ordered> {
        let input = self.find(Arc::unwrap_or_clone(projection.input.clone()), chosen_by)?;
        if input.by.is_empty() {
            let input = Arc::new(input.plan);
            let plan = Projection::try_new_with_schema(projection.expr, input, projection.schema)?;
            return Ok(Ordered {
                plan: LogicalPlan::Projection(plan),
                by: vec![],
            });
        }
        let mut exprs = projection.expr;
        let mut names = projection.schema.columns();
        let mut by = Vec::with_capacity(input.by.len());
        for sort in input.by {
            let shown = exprs.iter().position(|e| unalias(e) == &sort.expr);
            let column = match shown {
                Some(at) => names[at].clone(),
                None => {
                    let (e, column) = match &sort.expr {
                        // A name that was made up is nobody else's.
                        Expr::Column(c) if c.relation.is_none() && c.name.contains('#') => {
                            (sort.expr.clone(), c.clone())
                        }
                        e => {
                            let name = self.name(&names);
                            (e.clone().alias(&name), Column::new_unqualified(name))
                        }
                    };
                    exprs.push(e);
                    names.push(column.clone());
                    column
                }
            };
            by.push(sort.with_expr(Expr::Column(column)));
        }
        let plan = Projection::try_new(exprs, Arc::new(input.plan))?;
        Ok(Ordered {
            plan: LogicalPlan::Projection(plan),
            by,
        })
    }

    /// Lists beside each other of one row: their elements come by number. The lists of many rows are told apart by nothing.
    fn unnest(&mut self, unnest: Unnest) -> Result<Ordered> {
        let none = |unnest| Ordered {
            plan: LogicalPlan::Unnest(unnest),
            by: vec![],
        };
        let LogicalPlan::Projection(lists) = unnest.input.as_ref() else {
            return Ok(none(unnest));
        };
        let one_row = match lists.input.as_ref() {
            LogicalPlan::EmptyRelation(row) => row.produce_one_row,
            LogicalPlan::Values(values) => values.values.len() == 1,
            _ => false,
        };
        let expanded = unnest.list_type_columns.iter().map(|(i, _)| *i);
        let of: Vec<Expr> = expanded
            .filter_map(|i| lists.expr.get(i).map(|e| unalias(e).clone()))
            .collect();
        if !one_row || of.is_empty() || of.iter().any(Expr::is_volatile) {
            return Ok(none(unnest));
        }
        if let ([series], [(_, list)]) = (of.as_slice(), unnest.list_type_columns.as_slice())
            && let Some(ascending) = direction(series)
        {
            let value = Expr::Column(list.output_column.clone());
            return Ok(Ordered {
                plan: LogicalPlan::Unnest(unnest),
                by: vec![SortExpr::new(value, ascending, false)],
            });
        }
        let name = self.name(&lists.schema.columns());
        let mut exprs = lists.expr.clone();
        exprs.push(ordinality(of).alias(&name));
        let input = Projection::try_new(exprs, Arc::clone(&lists.input))?;
        let number = Column::new_unqualified(name);
        let mut columns = unnest.exec_columns.clone();
        columns.push(number.clone());
        let plan = LogicalPlanBuilder::from(LogicalPlan::Projection(input))
            .unnest_columns_with_options(columns, unnest.options)?
            .build()?;
        let by = vec![SortExpr::new(Expr::Column(number), true, false)];
        Ok(Ordered { plan, by })
    }

    fn values(&mut self, values: Values) -> Result<Ordered> {
        let name = self.name(&values.schema.columns());
        let number = Field::new(&name, DataType::Int64, false);
        let own = values.schema.iter();
        let mut fields: Vec<_> = own.map(|(q, f)| (q.cloned(), Arc::clone(f))).collect();
        fields.push((None, Arc::new(number)));
        let metadata = values.schema.metadata().clone();
        let schema = Arc::new(DFSchema::new_with_metadata(fields, metadata)?);
        let numbered = values.values.into_iter().zip(1..).map(|(mut row, n)| {
            row.push(Expr::Literal(ScalarValue::Int64(Some(n)), None));
            row
        });
        let plan = LogicalPlan::Values(Values {
            schema,
            values: numbered.collect(),
        });
        let column = Expr::Column(Column::new_unqualified(name));
        let by = vec![SortExpr::new(column, true, false)];
        Ok(Ordered { plan, by })
    }

    /// What isn't a column becomes one.
    fn by_columns(&mut self, plan: LogicalPlan, mut by: Vec<SortExpr>) -> Result<Ordered> {
        let computed = |s: &SortExpr| !matches!(s.expr, Expr::Column(_));
        if !by.iter().any(computed) {
            return Ok(Ordered { plan, by });
        }
        let columns = plan.schema().columns().into_iter().map(Expr::Column);
        let mut exprs: Vec<Expr> = columns.collect();
        let taken = plan.schema().columns();
        for sort in by.iter_mut().filter(|s| computed(s)) {
            let name = self.name(&taken);
            let column = Expr::Column(Column::new_unqualified(&name));
            exprs.push(std::mem::replace(&mut sort.expr, column).alias(name));
        }
        let plan = LogicalPlan::Projection(Projection::try_new(exprs, Arc::new(plan))?);
        Ok(Ordered { plan, by })
    }

    /// A name that none of the columns has.
    fn name(&mut self, taken: &[Column]) -> String {
        loop {
            self.made += 1;
            let name = format!("{ORDER}{}", self.made);
            if taken.iter().all(|c| c.name != name) {
                return name;
            }
        }
    }
}

/// Whether a series rises; `None`: it isn't one, or nobody knows. Its values are in order by themselves.
fn direction(e: &Expr) -> Option<bool> {
    let Expr::ScalarFunction(f) = e else {
        return None;
    };
    if f.func.name() != "generate_series" {
        return None;
    }
    match f.args.as_slice() {
        [_, _] => Some(true),
        [_, _, Expr::Literal(ScalarValue::Int32(Some(step)), _)] => Some(*step > 0),
        [_, _, Expr::Literal(ScalarValue::Int64(Some(step)), _)] => Some(*step > 0),
        _ => None,
    }
}

/// The order by the columns' new names.
fn through(by: Vec<SortExpr>, renamed: &dyn Fn(&Column) -> Option<Column>) -> Vec<SortExpr> {
    let known = by.into_iter().map_while(|sort| match &sort.expr {
        Expr::Column(c) => renamed(c).map(|c| sort.with_expr(Expr::Column(c))),
        _ => None,
    });
    known.collect()
}

/// The rows of `plan` for aggregates, which get its order where theirs depends on one.
pub(crate) fn ordered_aggregates<T>(
    plan: LogicalPlan,
    mut calls: Vec<(Expr, T)>,
) -> Result<(LogicalPlan, Vec<(Expr, T)>)> {
    if !calls.iter().any(|(e, _)| is_ordered_aggregate(e)) {
        return Ok((plan, calls));
    }
    let Ordered { plan, by } = own_order(plan)?;
    for (call, _) in calls.iter_mut().filter(|(e, _)| is_ordered_aggregate(e)) {
        let Expr::AggregateFunction(f) = call else {
            continue;
        };
        if !f.params.distinct {
            add_ties(&mut f.params.order_by, &by);
        }
        // Without an order the result would depend on chance.
        if let ([], Some(value)) = (&*f.params.order_by, f.params.args.first()) {
            f.params.order_by = vec![SortExpr::new(value.clone(), true, false)];
        }
    }
    Ok((plan, calls))
}

/// The same for window functions. Those that look at peers get their rows in that order, instead of a longer one of their own.
pub(crate) fn ordered_windows<T>(
    plan: LogicalPlan,
    mut calls: Vec<(Expr, T)>,
) -> Result<(LogicalPlan, Vec<(Expr, T)>)> {
    let among_peers = calls.iter().any(|(e, _)| is_ordered_among_peers(e));
    if !among_peers && !calls.iter().any(|(e, _)| is_ordered_window(e)) {
        return Ok((plan, calls));
    }
    let plan = as_below(plan, &mut calls)?;
    let Ordered { plan, by } = own_order(plan)?;
    for (call, _) in calls.iter_mut().filter(|(e, _)| is_ordered_window(e)) {
        if let Expr::WindowFunction(w) = call {
            add_ties(&mut w.params.order_by, &by);
        }
    }
    match among_peers && !by.is_empty() {
        true => Ok((kept_sort(plan, by), calls)),
        false => Ok((plan, calls)),
    }
}
