//! GROUP BY: its keys, the aggregate node, and how expressions are brought above it.

use std::sync::Arc;

use arrow::datatypes::DataType;
use datafusion_common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion_common::{Column, DFSchemaRef, ExprSchema, ScalarValue};
use datafusion_expr::expr::GroupingSet;
use datafusion_expr::{BinaryExpr, Expr, LogicalPlan, Operator};
use sqlparser::ast::{self, Expr as E, GroupByExpr};
use tidemill_zset::schema::SqlType;

use super::aggregates::given_type;
use super::expr::{AGGREGATE, Ctx, SET, WINDOW, strip};
use super::scope::Scope;
use super::{Binder, Typed, builder, columns_of, df, fit, project};
use crate::compile::decorrelate::names::{replace_outer, subquery_of, with_subquery};
use crate::error::{Result, SqlError};
use crate::parser::fold;

use super::select::{Item, ordinal};

impl Binder<'_> {
    /// GROUP BY: its keys, and how they combine if not plainly.
    pub(super) fn group_by(
        &self,
        ctx: Ctx,
        g: &GroupByExpr,
        s: &ast::Select,
        items: &[Item],
    ) -> Result<(Vec<Expr>, Option<Expr>)> {
        let GroupByExpr::Expressions(exprs, modifiers) = g else {
            return Err(SqlError::unsupported("GROUP BY ALL is not supported"));
        };
        if !modifiers.is_empty() {
            return Err(SqlError::unsupported(
                "GROUP BY modifiers are not supported",
            ));
        }
        let c = Ctx {
            aggregates: false,
            windows: false,
            sets: false,
            clause: "GROUP BY",
            ..ctx
        };
        let mut keys: Vec<Expr> = Vec::new();
        let mut one = |e: &E| -> Result<Expr> {
            let t = self.group_key(c, e, s, items)?;
            if !keys.contains(&t) {
                keys.push(t.clone());
            }
            Ok(t)
        };
        // Each element stands for one or more sets of keys; together they stand for all combinations.
        let mut sets: Vec<Vec<Expr>> = vec![vec![]];
        let mut plain = true;
        for e in exprs {
            let element = match e {
                E::Rollup(es) => rollup(&each(es, &mut one)?),
                E::Cube(es) => cube(&each(es, &mut one)?)?,
                E::GroupingSets(es) => {
                    let mut all = Vec::new();
                    for e in es {
                        all.extend(nested(e, &mut one)?);
                    }
                    all
                }
                E::Tuple(es) => {
                    sets = product(sets, &each(std::slice::from_ref(es), &mut one)?)?;
                    continue;
                }
                e => {
                    sets = product(sets, &[vec![one(e)?]])?;
                    continue;
                }
            };
            plain = false;
            sets = product(sets, &element)?;
        }
        if plain {
            return Ok((keys, None));
        }
        Ok((
            keys,
            Some(Expr::GroupingSet(GroupingSet::GroupingSets(sets))),
        ))
    }

    pub(super) fn group_key(&self, c: Ctx, e: &E, s: &ast::Select, items: &[Item]) -> Result<Expr> {
        let width = items.len();
        let from_item = |i: usize| -> Result<Expr> {
            let t = self.known(items[i].value.clone())?;
            if uses_marker(&t.expr) {
                return Err(SqlError::new(
                    "42803",
                    "aggregate functions are not allowed in GROUP BY",
                ));
            }
            Ok(t.expr)
        };
        if let Some(i) = ordinal(e, width, "GROUP BY")? {
            return from_item(i);
        }
        // An input column goes before an output name.
        if let E::Identifier(i) = strip(e) {
            let name = fold(i);
            if c.scope.column(&name)?.is_none()
                && let Some(n) = items.iter().position(|i| i.name == name)
            {
                return from_item(n);
            }
        }
        let _ = s;
        let t = self.expr(c, e)?;
        Ok(self.known(t)?.expr)
    }

    /// The aggregate node, and how expressions above it are brought up.
    pub(super) fn aggregate<'s>(
        &self,
        plan: LogicalPlan,
        scope: &'s Scope,
        groups: &[Expr],
        sets: Option<Expr>,
        calls: &[(Expr, SqlType)],
    ) -> Result<(LogicalPlan, Lift<'s>)> {
        let mut computed: Vec<(Expr, Expr)> = Vec::new();
        let mut place = |e: &Expr, stem: &str| -> Expr {
            match e {
                Expr::Column(_) | Expr::Literal(..) => e.clone(),
                e => {
                    if let Some((_, c)) = computed.iter().find(|(k, _)| k == e) {
                        return c.clone();
                    }
                    let c = Expr::Column(Column::new_unqualified(self.fresh(stem)));
                    computed.push((e.clone(), c.clone()));
                    c
                }
            }
        };
        // A constant key would be lost as a literal.
        let keys: Vec<(Expr, Expr)> = groups
            .iter()
            .map(|g| match g {
                Expr::Literal(..) => (
                    g.clone(),
                    Expr::Column(Column::new_unqualified(self.fresh("key"))),
                ),
                g => (g.clone(), place(g, "key")),
            })
            .collect();
        let mut functions = Vec::new();
        for (call, ty) in calls {
            let Expr::AggregateFunction(a) = call else {
                return Err(SqlError::internal("not an aggregate"));
            };
            let mut a = a.clone();
            a.params.args = a.params.args.iter().map(|e| place(e, "arg")).collect();
            a.params.filter = a.params.filter.map(|f| Box::new(place(&f, "filter")));
            for s in &mut a.params.order_by {
                s.expr = place(&s.expr, "order");
            }
            functions.push((Expr::AggregateFunction(a), ty.clone()));
        }
        let mut plan = plan;
        let constants: Vec<(Expr, Expr)> = keys
            .iter()
            .filter(|(g, _)| matches!(g, Expr::Literal(..)))
            .cloned()
            .collect();
        computed.extend(constants);
        if !computed.is_empty() {
            let mut exprs: Vec<Expr> = columns_of(&plan).into_iter().map(Expr::Column).collect();
            exprs.extend(computed.iter().map(|(e, c)| match c {
                Expr::Column(c) => e.clone().alias(&c.name),
                _ => e.clone(),
            }));
            plan = project(plan, exprs)?;
        }
        let group_exprs: Vec<Expr> = match sets {
            None => keys.iter().map(|(_, c)| c.clone()).collect(),
            Some(set) => vec![
                set.transform_down(|e| {
                    Ok(match keys.iter().find(|(k, _)| *k == e) {
                        Some((_, c)) => Transformed::new(c.clone(), true, TreeNodeRecursion::Jump),
                        None => Transformed::no(e),
                    })
                })
                .map_err(|e| crate::error::from_datafusion(&e))?
                .data,
            ],
        };
        let mut unique: Vec<Expr> = Vec::new();
        for (f, _) in &functions {
            if !unique.contains(f) {
                unique.push(f.clone());
            }
        }
        let sets = match group_exprs.as_slice() {
            [Expr::GroupingSet(s)] => Some(s.distinct_expr().into_iter().cloned().collect()),
            _ => None,
        };
        let plan = df(builder(plan)
            .aggregate(group_exprs, unique)
            .and_then(|b| b.build()))?;
        let results = functions
            .iter()
            .map(|(f, ty)| {
                let column = Column::new_unqualified(f.schema_name().to_string());
                let actual = given_type(&plan, &column).ok_or_else(|| {
                    SqlError::internal(format!("aggregate column {column} is missing"))
                })?;
                Ok(fit(Expr::Column(column), &actual, ty))
            })
            .collect::<Result<Vec<_>>>()?;
        let schema = plan.schema().clone();
        Ok((
            plan,
            Lift {
                scope,
                keys,
                results,
                sets,
                schema,
            },
        ))
    }

    /// `GROUPING(a, b)`: a marker that [`Lift::apply`] resolves, as it is known only then what the keys are.
    pub(super) fn grouping_call(&self, c: Ctx, f: &ast::Function) -> Result<Typed> {
        let args = match &f.args {
            ast::FunctionArguments::List(l) => self.function_args(c, &l.args)?,
            _ => Vec::new(),
        };
        if args.is_empty() || args.len() > 31 {
            return Err(SqlError::new(
                "54023",
                "GROUPING must have between 1 and 31 arguments",
            ));
        }
        let e = crate::functions::call(
            GROUPING,
            GROUPING.into(),
            std::sync::Arc::new(|_| Err(crate::functions::external(not_a_key()))),
            datafusion_expr::Volatility::Immutable,
            true,
            args.into_iter().map(|t| t.expr).collect(),
            &SqlType::Int4,
        );
        Ok(Typed::new(e, SqlType::Int4))
    }
}

/// Name of the marker of `GROUPING(…)`.
const GROUPING: &str = "grouping";

fn not_a_key() -> SqlError {
    SqlError::new(
        "42803",
        "arguments to GROUPING must be grouping expressions of the associated query level",
    )
}

/// Sets of keys that are still planned.
const SETS_MAX: usize = 4096;

fn each(groups: &[Vec<E>], one: &mut impl FnMut(&E) -> Result<Expr>) -> Result<Vec<Vec<Expr>>> {
    groups
        .iter()
        .map(|g| g.iter().map(&mut *one).collect())
        .collect()
}

/// One element of GROUPING SETS: a set, or ROLLUP or CUBE, which the parser takes for calls there.
fn nested(set: &[E], one: &mut impl FnMut(&E) -> Result<Expr>) -> Result<Vec<Vec<Expr>>> {
    if let [E::Function(f)] = set
        && let ast::FunctionArguments::List(l) = &f.args
        && let Some(name @ ("rollup" | "cube")) =
            crate::parser::parts(&f.name).last().map(String::as_str)
    {
        let mut groups = Vec::new();
        for a in &l.args {
            match a {
                ast::FunctionArg::Unnamed(ast::FunctionArgExpr::Expr(E::Tuple(es))) => {
                    groups.push(es.clone())
                }
                ast::FunctionArg::Unnamed(ast::FunctionArgExpr::Expr(e)) => {
                    groups.push(vec![super::expr::strip(e).clone()])
                }
                other => {
                    return Err(SqlError::new(
                        "42601",
                        format!("syntax error at or near \"{other}\""),
                    ));
                }
            }
        }
        let groups = each(&groups, one)?;
        return if name == "rollup" {
            Ok(rollup(&groups))
        } else {
            cube(&groups)
        };
    }
    Ok(vec![set.iter().map(one).collect::<Result<_>>()?])
}

/// `(a, b, c), (a, b), (a), ()`
fn rollup(groups: &[Vec<Expr>]) -> Vec<Vec<Expr>> {
    (0..=groups.len())
        .rev()
        .map(|n| groups[..n].concat())
        .collect()
}

/// Every subset.
fn cube(groups: &[Vec<Expr>]) -> Result<Vec<Vec<Expr>>> {
    if groups.len() > 12 {
        return Err(SqlError::new("54023", "CUBE is limited to 12 elements"));
    }
    Ok((0..1usize << groups.len())
        .rev()
        .map(|mask| {
            let taken = groups.iter().rev().enumerate().rev();
            taken
                .filter(|(i, _)| mask >> i & 1 == 1)
                .flat_map(|(_, g)| g.clone())
                .collect()
        })
        .collect())
}

/// Every set of `a` with every set of `b`.
fn product(a: Vec<Vec<Expr>>, b: &[Vec<Expr>]) -> Result<Vec<Vec<Expr>>> {
    if a.len().saturating_mul(b.len()) > SETS_MAX {
        return Err(SqlError::new(
            "54011",
            format!("too many grouping sets present (maximum {SETS_MAX})"),
        ));
    }
    Ok(a.iter()
        .flat_map(|x| {
            b.iter().map(|y| {
                let mut set = x.clone();
                for e in y {
                    if !set.contains(e) {
                        set.push(e.clone());
                    }
                }
                set
            })
        })
        .collect())
}

/// Brings expressions over the input of an aggregate above it.
pub(super) struct Lift<'s> {
    scope: &'s Scope<'s>,
    /// Group key → its column above.
    keys: Vec<(Expr, Expr)>,
    /// Results of the aggregate calls.
    results: Vec<Expr>,
    /// With grouping sets: the keys above in the order of the bits of the set's number.
    sets: Option<Vec<Expr>>,
    /// Of the aggregate.
    schema: DFSchemaRef,
}

impl Lift<'_> {
    pub(super) fn apply(&self, e: Expr) -> Result<Expr> {
        let mut ungrouped = None;
        let out = e
            .transform_down(|e| {
                if let Expr::ScalarFunction(f) = &e
                    && f.func.name() == GROUPING
                {
                    let bits = self.grouping(&f.args).map_err(crate::functions::external)?;
                    return Ok(Transformed::new(bits, true, TreeNodeRecursion::Jump));
                }
                if let Some((_, c)) = self
                    .keys
                    .iter()
                    .find(|(k, _)| *k == e && !matches!(k, Expr::Literal(..)))
                {
                    return Ok(Transformed::new(c.clone(), true, TreeNodeRecursion::Jump));
                }
                if subquery_of(&e).is_some() {
                    return Ok(Transformed::yes(with_subquery(e, |s| {
                        replace_outer(s, &|e| self.outer(e))
                    })?));
                }
                if let Expr::Column(c) = &e {
                    let marker = c.relation.as_ref().map(|r| r.table());
                    if marker == Some(AGGREGATE) {
                        let n: usize = c.name.parse().unwrap_or(0);
                        return Ok(Transformed::new(
                            self.results[n].clone(),
                            true,
                            TreeNodeRecursion::Jump,
                        ));
                    }
                    if marker != Some(WINDOW) && marker != Some(SET) {
                        ungrouped.get_or_insert_with(|| c.clone());
                    }
                }
                Ok(Transformed::no(e))
            })
            .map_err(|e| crate::error::from_datafusion(&e))?;
        match ungrouped {
            None => Ok(out.data),
            Some(c) => Err(self.not_grouped(&c)),
        }
    }

    /// One bit per argument, the last one lowest: 1 if the row's set leaves the key out.
    fn grouping(&self, args: &[Expr]) -> Result<Expr> {
        let long = |v: i64| super::literal(ScalarValue::Int64(Some(v)));
        let binary = |l: Expr, op: Operator, r: Expr| {
            Expr::BinaryExpr(BinaryExpr::new(Box::new(l), op, Box::new(r)))
        };
        let cast = |e: Expr, to: DataType| Expr::Cast(datafusion_expr::Cast::new(Box::new(e), to));
        let mut out = long(0);
        for a in args {
            let key = self.keys.iter().find(|(k, _)| k == a);
            let (_, above) = key.ok_or_else(not_a_key)?;
            out = binary(out, Operator::BitwiseShiftLeft, long(1));
            let Some(order) = &self.sets else { continue };
            let place = order
                .iter()
                .position(|k| k == above)
                .ok_or_else(not_a_key)?;
            let set = Expr::Column(Column::new_unqualified(
                datafusion_expr::Aggregate::INTERNAL_GROUPING_ID,
            ));
            let shift = long((order.len() - 1 - place) as i64);
            let set = binary(
                cast(set, DataType::Int64),
                Operator::BitwiseShiftRight,
                shift,
            );
            let bit = binary(set, Operator::BitwiseAnd, long(1));
            out = binary(out, Operator::BitwiseOr, bit);
        }
        Ok(cast(out, DataType::Int32))
    }

    /// What takes the place of an expression over this query's rows in a subquery above the aggregate: a key.
    fn outer(&self, e: &Expr) -> datafusion_common::Result<Option<Expr>> {
        let mut own = false;
        let here = e.clone().transform(|e| {
            Ok(match &e {
                Expr::OuterReferenceColumn(_, c) if self.is_ours(c) => {
                    own = true;
                    Transformed::yes(Expr::Column(c.clone()))
                }
                _ => Transformed::no(e),
            })
        })?;
        if !own {
            return Ok(None);
        }
        let key = self.keys.iter().find(|(k, _)| *k == here.data);
        if let Some((_, Expr::Column(c))) = key {
            let field = Arc::clone(self.schema.field_from_column(c)?);
            return Ok(Some(Expr::OuterReferenceColumn(field, c.clone())));
        }
        match e {
            Expr::OuterReferenceColumn(_, c) => {
                let mut error = self.not_grouped(c);
                error.message = format!(
                    "subquery uses ungrouped column \"{}\" from outer query",
                    self.shown(c)
                );
                Err(crate::functions::external(error))
            }
            _ => Ok(None),
        }
    }

    fn is_ours(&self, c: &Column) -> bool {
        let columns = self.scope.tables.iter().flat_map(|t| &t.cols);
        columns
            .into_iter()
            .any(|s| matches!(&s.expr, Expr::Column(x) if x == c))
    }

    /// A column as the user names it.
    fn shown(&self, c: &Column) -> String {
        self.scope
            .tables
            .iter()
            .find_map(|t| {
                let col = t
                    .cols
                    .iter()
                    .find(|s| matches!(&s.expr, Expr::Column(x) if x == c))?;
                Some(if t.alias.is_empty() {
                    col.name.clone()
                } else {
                    format!("{}.{}", t.alias, col.name)
                })
            })
            .unwrap_or_else(|| c.name.clone())
    }

    pub(super) fn not_grouped(&self, c: &Column) -> SqlError {
        let shown = self.shown(c);
        SqlError::new(
            "42803",
            format!(
                "column \"{shown}\" must appear in the GROUP BY clause or be used in an aggregate function"
            ),
        )
    }
}

pub(super) fn uses_marker(e: &Expr) -> bool {
    let mut found = false;
    let _ = e.apply(|e| {
        if let Expr::Column(Column {
            relation: Some(r), ..
        }) = e
        {
            found |= matches!(r.table(), AGGREGATE | WINDOW | SET);
        }
        Ok(TreeNodeRecursion::Continue)
    });
    found
}
