//! GROUP BY: its keys, the aggregate node, and how expressions are brought above it.

use datafusion_common::Column;
use datafusion_common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion_expr::expr::GroupingSet;
use datafusion_expr::{Expr, LogicalPlan};
use sqlparser::ast::{self, Expr as E, GroupByExpr};
use tidemill_zset::schema::SqlType;

use super::aggregates::given_type;
use super::expr::{AGGREGATE, Ctx, SET, WINDOW, strip};
use super::scope::Scope;
use super::{Binder, builder, columns_of, df, fit, project};
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
        let one = |e: &E, keys: &mut Vec<Expr>| -> Result<Expr> {
            let t = self.group_key(c, e, s, items)?;
            if !keys.contains(&t) {
                keys.push(t.clone());
            }
            Ok(t)
        };
        let list = |es: &[Vec<E>], keys: &mut Vec<Expr>| -> Result<Vec<Vec<Expr>>> {
            es.iter()
                .map(|g| g.iter().map(|e| one(e, keys)).collect())
                .collect()
        };
        let mut sets = None;
        for e in exprs {
            let set = match e {
                E::Rollup(es) => {
                    GroupingSet::Rollup(list(es, &mut keys)?.into_iter().flatten().collect())
                }
                E::Cube(es) => {
                    GroupingSet::Cube(list(es, &mut keys)?.into_iter().flatten().collect())
                }
                E::GroupingSets(es) => GroupingSet::GroupingSets(list(es, &mut keys)?),
                E::Tuple(es) if es.is_empty() => continue,
                E::Tuple(es) => {
                    for e in es {
                        one(e, &mut keys)?;
                    }
                    continue;
                }
                e => {
                    one(e, &mut keys)?;
                    continue;
                }
            };
            if exprs.len() > 1 {
                return Err(SqlError::unsupported(
                    "grouping sets beside other grouping keys are not supported",
                ));
            }
            sets = Some(Expr::GroupingSet(set));
        }
        Ok((keys, sets))
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
        Ok((
            plan,
            Lift {
                scope,
                keys,
                results,
            },
        ))
    }
}

/// Brings expressions over the input of an aggregate above it.
pub(super) struct Lift<'s> {
    scope: &'s Scope<'s>,
    /// Group key → its column above.
    keys: Vec<(Expr, Expr)>,
    /// Results of the aggregate calls.
    results: Vec<Expr>,
}

impl Lift<'_> {
    pub(super) fn apply(&self, e: Expr) -> Result<Expr> {
        let mut ungrouped = None;
        let out = e
            .transform_down(|e| {
                if let Some((_, c)) = self
                    .keys
                    .iter()
                    .find(|(k, _)| *k == e && !matches!(k, Expr::Literal(..)))
                {
                    return Ok(Transformed::new(c.clone(), true, TreeNodeRecursion::Jump));
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

    pub(super) fn not_grouped(&self, c: &Column) -> SqlError {
        let shown = self
            .scope
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
            .unwrap_or_else(|| c.name.clone());
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
