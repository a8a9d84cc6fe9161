//! From the syntax tree of a query to a [`Plan`]: queries, select lists, ORDER BY.
//!
//! Invariant: a query that names anything but relations of the catalog is refused with
//! [`NOT_OURS`], so that the caller can give it to the planner.

use std::cell::RefCell;

use tidemill_planner::SqlError;
use tidemill_planner::ast::syntax as ast;

use super::bind_order::in_order;
use super::plan::{Aggregate, Body, Expr, Order, Plan, SLOTS, Select, SetOp, Window};
use super::scope::{Scope, fold, name_of, not_ours};
use super::value::Ty;

/// What binding a SELECT collects besides its expressions.
#[derive(Default)]
pub struct Collected {
    pub(super) aggregates: Vec<(usize, Aggregate)>,
    pub(super) windows: Vec<(usize, Window)>,
    pub(super) expansions: Vec<(usize, Expr)>,
}

/// Common table expressions in sight, innermost last; true for those of WITH RECURSIVE.
type Ctes<'a> = Vec<(String, &'a ast::Cte, bool)>;

/// A common table expression whose own name, inside it, means the rows of the round before.
pub(super) struct Step {
    pub name: String,
    pub columns: Vec<(String, Ty)>,
    pub number: usize,
    pub used: bool,
}

/// Binds one query and those inside it.
pub struct Binder<'a> {
    pub(super) ctes: RefCell<Ctes<'a>>,
    /// WITH RECURSIVE whose steps are being bound.
    pub(super) steps: RefCell<Vec<Step>>,
    /// How many there are in all.
    pub(super) recursive: std::cell::Cell<usize>,
    /// Types of `$1`, `$2`, … as far as they are known.
    pub(super) params: RefCell<Vec<Option<Ty>>>,
    /// True once a relation or function of the catalog is named.
    pub(super) ours: std::cell::Cell<bool>,
    /// True once a relation of the catalog is, or a function that the planner doesn't have.
    pub(super) ours_alone: std::cell::Cell<bool>,
    /// True once there is a computation that the planner knows better.
    pub(super) computes: std::cell::Cell<bool>,
}

/// Where an expression stands.
#[derive(Clone, Copy)]
pub struct Place<'a> {
    pub(super) scope: &'a Scope<'a>,
    /// `None` where aggregates mean nothing (WHERE, ON).
    pub(super) collected: Option<&'a RefCell<Collected>>,
    /// Columns of FROM.
    pub(super) width: usize,
}

impl<'a> Binder<'a> {
    /// `params`: types that the client declared.
    pub fn new(params: Vec<Option<Ty>>) -> Binder<'a> {
        Binder {
            ctes: RefCell::default(),
            steps: RefCell::default(),
            recursive: std::cell::Cell::new(0),
            params: RefCell::new(params),
            ours: std::cell::Cell::new(false),
            ours_alone: std::cell::Cell::new(false),
            computes: std::cell::Cell::new(false),
        }
    }

    /// Binds a query inside `parent`.
    pub fn query(&self, query: &'a ast::Query, parent: &Scope<'_>) -> Result<Plan, SqlError> {
        let before = self.ctes.borrow().len();
        if let Some(with) = &query.with {
            let ctes = with.cte_tables.iter();
            self.ctes
                .borrow_mut()
                .extend(ctes.map(|cte| (fold(&cte.alias.name), cte, with.recursive)));
        }
        let order = match query.order_by.as_ref().map(|order| &order.kind) {
            None => &[][..],
            Some(ast::OrderByKind::Expressions(keys)) => keys,
            Some(ast::OrderByKind::All(_)) => return Err(not_ours("ORDER BY ALL")),
        };
        let plan = self.body(&query.body, order, parent);
        self.ctes.borrow_mut().truncate(before);
        let mut plan = plan?;
        let empty = Scope {
            parent: Some(parent),
            ..Scope::default()
        };
        let place = Place {
            scope: &empty,
            collected: None,
            width: 0,
        };
        let count = |expr: &'a ast::Expr| {
            let (expr, _) = self.expr(expr, place)?;
            if let Expr::Param(number) = expr {
                self.declare(number, Ty::Int8);
            }
            Ok::<_, SqlError>(expr)
        };
        match &query.limit_clause {
            None => {}
            Some(ast::LimitClause::LimitOffset { limit, offset, .. }) => {
                plan.limit = limit.as_ref().map(count).transpose()?;
                plan.offset = offset.as_ref().map(|o| count(&o.value)).transpose()?;
            }
            Some(ast::LimitClause::OffsetCommaLimit { .. }) => return Err(not_ours("LIMIT a, b")),
        }
        if let Some(fetch) = &query.fetch {
            if fetch.with_ties || fetch.percent || fetch.quantity.is_none() {
                return Err(not_ours("this form of FETCH"));
            }
            plan.limit = fetch.quantity.as_ref().map(count).transpose()?;
        }
        Ok(plan)
    }

    pub(super) fn body(
        &self,
        body: &'a ast::SetExpr,
        order: &'a [ast::OrderByExpr],
        parent: &Scope<'_>,
    ) -> Result<Plan, SqlError> {
        match body {
            ast::SetExpr::Select(select) => self.select(select, order, parent),
            ast::SetExpr::Query(query) => {
                let plan = self.query(query, parent)?;
                self.ordered(plan, order)
            }
            ast::SetExpr::Values(values) => {
                let empty = Scope {
                    parent: Some(parent),
                    ..Scope::default()
                };
                let place = Place {
                    scope: &empty,
                    collected: None,
                    width: 0,
                };
                let mut columns: Vec<(String, Ty)> = Vec::new();
                let mut rows = Vec::new();
                for row in &values.rows {
                    let row: &'a Vec<ast::Expr> = &row.content;
                    let bound: Vec<(Expr, Ty)> = row
                        .iter()
                        .map(|e| self.expr(e, place))
                        .collect::<Result<_, _>>()?;
                    if columns.is_empty() {
                        let named = bound.iter().enumerate();
                        columns = named
                            .map(|(n, (_, ty))| (format!("column{}", n + 1), *ty))
                            .collect();
                    }
                    rows.push(bound.into_iter().map(|(expr, _)| expr).collect());
                }
                let body = Body::Values(rows);
                self.ordered(
                    Plan {
                        columns,
                        body,
                        order: Vec::new(),
                        limit: None,
                        offset: None,
                    },
                    order,
                )
            }
            ast::SetExpr::SetOperation {
                op,
                set_quantifier,
                left,
                right,
            } => {
                let op = match op {
                    ast::SetOperator::Union => SetOp::Union,
                    ast::SetOperator::Intersect => SetOp::Intersect,
                    _ => SetOp::Except,
                };
                let all = matches!(set_quantifier, ast::SetQuantifier::All);
                let left = self.body(left, &[], parent)?;
                let right = self.body(right, &[], parent)?;
                // NULL of one side takes the other's type.
                let columns = left
                    .columns
                    .iter()
                    .zip(&right.columns)
                    .map(|((name, l), (_, r))| {
                        (name.clone(), if *l == Ty::Text { *r } else { *l })
                    });
                let columns = columns.collect();
                let body = Body::Set {
                    op,
                    all,
                    left: Box::new(left),
                    right: Box::new(right),
                };
                self.ordered(
                    Plan {
                        columns,
                        body,
                        order: Vec::new(),
                        limit: None,
                        offset: None,
                    },
                    order,
                )
            }
            other => Err(not_ours(other)),
        }
    }

    /// ORDER BY of what has no FROM of its own: positions and names of columns.
    fn ordered(&self, mut plan: Plan, order: &[ast::OrderByExpr]) -> Result<Plan, SqlError> {
        for key in order {
            let position = position(&key.expr, &plan.columns)
                .ok_or_else(|| not_ours(format!("ORDER BY {}", key.expr)))?;
            plan.order.push(ordering(position, &key.options));
        }
        Ok(plan)
    }

    fn select(
        &self,
        select: &'a ast::Select,
        order: &'a [ast::OrderByExpr],
        parent: &Scope<'_>,
    ) -> Result<Plan, SqlError> {
        let mut scope = Scope {
            tables: Vec::new(),
            hidden: false,
            parent: Some(parent),
        };
        let mut sources = Vec::new();
        let mut ends = Vec::new();
        let mut width = 0;
        for table in in_order(select) {
            sources.push(self.joined(table, &mut scope, &mut width)?);
            ends.push(width);
        }
        let inner = Place {
            scope: &scope,
            collected: None,
            width,
        };
        let mut conjuncts = Vec::new();
        if let Some(condition) = &select.selection {
            self.expr(condition, inner)?.0.conjuncts(&mut conjuncts);
        }
        let filters = conjuncts.into_iter().map(|expr| {
            let after = expr.reach().map(|reach| {
                ends.iter()
                    .position(|end| *end >= reach)
                    .map_or(ends.len(), |n| n + 1)
            });
            (after, expr)
        });
        let collected = RefCell::new(Collected::default());
        let place = Place {
            scope: &scope,
            collected: Some(&collected),
            width,
        };
        let mut columns = Vec::new();
        let mut outputs = Vec::new();
        for item in &select.projection {
            for (name, expr, ty) in self.item(item, place)? {
                columns.push((name, ty));
                outputs.push(expr);
            }
        }
        let group = self.group_by(&select.group_by, &columns, &outputs, inner)?;
        let having = match &select.having {
            Some(condition) => Some(self.expr(condition, place)?.0),
            None => None,
        };
        let (mut keys, mut orders) = (Vec::new(), Vec::new());
        for key in order {
            let number = match position(&key.expr, &columns) {
                Some(number) => number,
                None => {
                    keys.push(self.expr(&key.expr, place)?.0);
                    outputs.len() + keys.len() - 1
                }
            };
            orders.push(ordering(number, &key.options));
        }
        let mut distinct_on = Vec::new();
        let distinct = match &select.distinct {
            None | Some(ast::Distinct::All) => false,
            Some(ast::Distinct::Distinct) => true,
            Some(ast::Distinct::On(exprs)) => {
                for expr in exprs {
                    distinct_on.push(self.expr(expr, inner)?.0);
                }
                false
            }
        };
        let filters = filters.collect();
        let collected = collected.into_inner();
        let has_aggregates = !collected.aggregates.is_empty() || having.is_some();
        let select = Select {
            sources,
            width,
            filters,
            group: group.or_else(|| has_aggregates.then(Vec::new)),
            aggregates: collected.aggregates,
            having,
            windows: collected.windows,
            expansions: collected.expansions,
            outputs,
            keys,
            distinct,
            distinct_on,
        };
        Ok(Plan {
            columns,
            body: Body::Select(Box::new(select)),
            order: orders,
            limit: None,
            offset: None,
        })
    }

    fn group_by(
        &self,
        group: &'a ast::GroupByExpr,
        columns: &[(String, Ty)],
        outputs: &[Expr],
        place: Place<'_>,
    ) -> Result<Option<Vec<Expr>>, SqlError> {
        let ast::GroupByExpr::Expressions(exprs, modifiers) = group else {
            return Err(not_ours("GROUP BY ALL"));
        };
        if exprs.is_empty() && modifiers.is_empty() {
            return Ok(None);
        }
        let bound = exprs.iter().map(|expr| match self.expr(expr, place) {
            Ok((bound, _)) if !matches!(bound, Expr::Const(_)) => Ok(bound),
            other => match position(expr, columns) {
                Some(number) => Ok(outputs[number].clone()),
                None => other.map(|(bound, _)| bound),
            },
        });
        bound.collect::<Result<_, _>>().map(Some)
    }

    fn item(
        &self,
        item: &'a ast::SelectItem,
        place: Place<'_>,
    ) -> Result<Vec<(String, Expr, Ty)>, SqlError> {
        let missing = |name: &str| {
            SqlError::new(
                "42P01",
                format!("missing FROM-clause entry for table \"{name}\""),
            )
        };
        Ok(match item {
            ast::SelectItem::UnnamedExpr(expr) => {
                let (bound, ty) = self.expr(expr, place)?;
                vec![(output_name(expr), bound, ty)]
            }
            ast::SelectItem::ExprWithAlias { expr, alias } => {
                let (bound, ty) = self.expr(expr, place)?;
                vec![(fold(alias), bound, ty)]
            }
            ast::SelectItem::Wildcard(_) => place.scope.wildcard(None).unwrap_or_default(),
            ast::SelectItem::QualifiedWildcard(
                ast::SelectItemQualifiedWildcardKind::ObjectName(name),
                _,
            ) => {
                let (_, name) = name_of(name);
                place
                    .scope
                    .wildcard(Some(&name))
                    .ok_or_else(|| missing(&name))?
            }
            other => return Err(not_ours(other)),
        })
    }
}

impl Collected {
    /// The slot of the next aggregate, window or expansion.
    pub(super) fn slot(&self, width: usize) -> Result<usize, SqlError> {
        let used = self.aggregates.len() + self.windows.len() + self.expansions.len();
        match used < SLOTS {
            true => Ok(width + used),
            false => Err(not_ours("too many aggregates")),
        }
    }
}

/// An output column that ORDER BY or GROUP BY names by number or name.
fn position(expr: &ast::Expr, columns: &[(String, Ty)]) -> Option<usize> {
    match expr {
        ast::Expr::Value(value) => match &value.value {
            ast::Value::Number(number, _) => {
                let number: usize = number.parse().ok()?;
                (1..=columns.len()).contains(&number).then(|| number - 1)
            }
            _ => None,
        },
        ast::Expr::Identifier(ident) => {
            let name = fold(ident);
            columns.iter().position(|(column, _)| *column == name)
        }
        _ => None,
    }
}

fn ordering(key: usize, options: &ast::OrderByOptions) -> Order {
    let descending = options.asc == Some(false);
    Order {
        key,
        descending,
        nulls_first: options.nulls_first.unwrap_or(descending),
    }
}

fn is_cast(expr: &ast::Expr) -> bool {
    match expr {
        ast::Expr::Nested(expr) => is_cast(expr),
        ast::Expr::Cast { .. } => true,
        _ => false,
    }
}

/// PostgreSQL's name for a column without an alias.
fn output_name(expr: &ast::Expr) -> String {
    match expr {
        ast::Expr::Identifier(ident) => fold(ident),
        ast::Expr::CompoundIdentifier(parts) => parts.last().map(fold).unwrap_or_default(),
        ast::Expr::Function(function) => name_of(&function.name).1,
        ast::Expr::Cast {
            expr, data_type, ..
        } => match output_name(expr) {
            // The outermost of several casts counts.
            name if name == "?column?" || is_cast(expr) => {
                let name = data_type.to_string().to_lowercase();
                name.rsplit('.').next().unwrap_or_default().to_string()
            }
            name => name,
        },
        ast::Expr::Nested(expr) | ast::Expr::Collate { expr, .. } => output_name(expr),
        ast::Expr::Case { .. } => "case".into(),
        ast::Expr::Exists { .. } => "exists".into(),
        ast::Expr::Substring { .. } => "substring".into(),
        ast::Expr::Trim { .. } => "btrim".into(),
        ast::Expr::CompoundFieldAccess { root, access_chain } => match access_chain.last() {
            Some(ast::AccessExpr::Dot(ast::Expr::Identifier(ident))) => fold(ident),
            _ => output_name(root),
        },
        ast::Expr::Subquery(query) => match query.body.as_ref() {
            ast::SetExpr::Select(select) => match select.projection.as_slice() {
                [ast::SelectItem::UnnamedExpr(expr)] => output_name(expr),
                [ast::SelectItem::ExprWithAlias { alias, .. }] => fold(alias),
                _ => "?column?".into(),
            },
            _ => "?column?".into(),
        },
        _ => "?column?".into(),
    }
}
