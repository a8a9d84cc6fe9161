//! FROM: joins, relations, derived tables, common table expressions and set-returning functions.

use tidemill_planner::SqlError;
use tidemill_planner::ast::syntax as ast;

use super::bind::{Binder, Place, Step};
use super::plan::{Expr, JoinKind, Source};
use super::relations::find;
use super::scope::{Scope, Table, fold, name_of, not_ours};
use super::value::Ty;

impl<'a> Binder<'a> {
    pub(super) fn joined(
        &self,
        tables: &'a ast::TableWithJoins,
        scope: &mut Scope<'_>,
        width: &mut usize,
    ) -> Result<Source, SqlError> {
        let at = *width;
        let mut source = self.source(&tables.relation, scope, width)?;
        for join in &tables.joins {
            use ast::JoinOperator as J;
            let (kind, constraint) = match &join.join_operator {
                J::Join(c) | J::Inner(c) | J::CrossJoin(c) => (JoinKind::Inner, c),
                J::Left(c) | J::LeftOuter(c) => (JoinKind::Left, c),
                J::Right(c) | J::RightOuter(c) => (JoinKind::Right, c),
                J::FullOuter(c) => (JoinKind::Full, c),
                _ => return Err(not_ours("this kind of join")),
            };
            let middle = *width;
            let right = self.source(&join.relation, scope, width)?;
            let mut on = Vec::new();
            match constraint {
                ast::JoinConstraint::None => {}
                ast::JoinConstraint::On(condition) => {
                    let place = Place {
                        scope,
                        collected: None,
                        width: *width,
                    };
                    self.expr(condition, place)?.0.conjuncts(&mut on);
                }
                ast::JoinConstraint::Using(names) => {
                    for name in names {
                        on.push(self.using(&name_of(name).1, scope, middle)?);
                    }
                }
                ast::JoinConstraint::Natural => return Err(not_ours("NATURAL JOIN")),
            }
            let (left, right) = (Box::new(source), Box::new(right));
            source = Source::Join {
                left,
                right,
                kind,
                on,
                at,
            };
        }
        Ok(source)
    }

    /// `left.name = right.name`, where the right side starts at column `middle`.
    fn using(&self, name: &str, scope: &Scope<'_>, middle: usize) -> Result<Expr, SqlError> {
        let column = |of_right: bool| {
            scope
                .tables
                .iter()
                .filter(|table| (table.at >= middle) == of_right)
                .find_map(|table| {
                    let number = table
                        .columns
                        .iter()
                        .position(|(column, _)| column == name)?;
                    Some(Expr::Column {
                        depth: 0,
                        index: table.at + number,
                    })
                })
                .ok_or_else(|| SqlError::new("42703", format!("column \"{name}\" does not exist")))
        };
        Ok(Expr::Binary {
            op: super::plan::Op::Eq,
            left: Box::new(column(false)?),
            right: Box::new(column(true)?),
            alike: true,
        })
    }

    fn source(
        &self,
        factor: &'a ast::TableFactor,
        scope: &mut Scope<'_>,
        width: &mut usize,
    ) -> Result<Source, SqlError> {
        let (source, alias, name, columns, oid) = match factor {
            ast::TableFactor::Table {
                name,
                alias,
                args: None,
                ..
            } => {
                let (schema, table) = name_of(name);
                let cte = match schema {
                    None => self.ctes.borrow().iter().rposition(|(n, ..)| *n == table),
                    Some(_) => None,
                };
                let of_step = match schema {
                    None => self.of_step(&table),
                    Some(_) => None,
                };
                if let Some((source, columns)) = of_step {
                    (source, alias, table, columns, None)
                } else if let Some(number) = cte {
                    scope.hidden = true;
                    let bound = self.cte_at(number, scope);
                    scope.hidden = false;
                    let (source, columns) = bound?;
                    (source, alias, table, columns, None)
                } else {
                    let definition =
                        find(schema.as_deref(), &table).ok_or_else(|| not_ours(name))?;
                    self.ours.set(true);
                    self.ours_alone.set(true);
                    let columns = definition.columns.iter();
                    let columns = columns.map(|(name, ty)| (name.to_string(), *ty)).collect();
                    (
                        Source::Relation(definition),
                        alias,
                        table,
                        columns,
                        Some(definition.oid),
                    )
                }
            }
            ast::TableFactor::Derived {
                lateral,
                subquery,
                alias,
                ..
            } => {
                scope.hidden = !lateral;
                let plan = self.query(subquery, scope);
                scope.hidden = false;
                let plan = plan?;
                let columns = plan.columns.clone();
                let source = Source::Derived {
                    plan: Box::new(plan),
                    lateral: *lateral,
                };
                (source, alias, String::new(), columns, None)
            }
            ast::TableFactor::NestedJoin {
                table_with_joins,
                alias: None,
            } => {
                return self.joined(table_with_joins, scope, width);
            }
            other => return self.function_source(other, scope, width),
        };
        self.add(source, alias.as_ref(), name, columns, oid, scope, width)
    }

    /// The name of a WITH RECURSIVE inside its own step.
    fn of_step(&self, name: &str) -> Option<(Source, Vec<(String, Ty)>)> {
        let mut steps = self.steps.borrow_mut();
        let step = steps.iter_mut().rfind(|step| step.name == name)?;
        step.used = true;
        let source = Source::Working {
            number: step.number,
            width: step.columns.len(),
        };
        Some((source, step.columns.clone()))
    }

    /// The common table expression of that number, where it is named. It sees those before it, and not itself: its name
    /// means another relation there, but for the step of one that is recursive.
    fn cte_at(
        &self,
        number: usize,
        scope: &Scope<'_>,
    ) -> Result<(Source, Vec<(String, Ty)>), SqlError> {
        let later = self.ctes.borrow_mut().split_off(number);
        let bound = match later.first() {
            Some((_, cte, recursive)) => self.cte(cte, *recursive, scope),
            None => Err(not_ours("a common table expression")),
        };
        self.ctes.borrow_mut().extend(later);
        bound
    }

    fn cte(
        &self,
        cte: &'a ast::Cte,
        recursive: bool,
        scope: &Scope<'_>,
    ) -> Result<(Source, Vec<(String, Ty)>), SqlError> {
        if let ast::SetExpr::SetOperation {
            op: ast::SetOperator::Union,
            set_quantifier,
            left,
            right,
        } = cte.query.body.as_ref()
            && recursive
        {
            let base = self.body(left, &[], scope)?;
            let mut columns = base.columns.clone();
            rename(&mut columns, Some(&cte.alias));
            let number = self.recursive.replace(self.recursive.get() + 1);
            self.steps.borrow_mut().push(Step {
                name: fold(&cte.alias.name),
                columns: columns.clone(),
                number,
                used: false,
            });
            let step = self.body(right, &[], scope);
            let used = self.steps.borrow_mut().pop().is_some_and(|s| s.used);
            if used {
                let source = Source::Recursive {
                    base: Box::new(base),
                    step: Box::new(step?),
                    all: matches!(set_quantifier, ast::SetQuantifier::All),
                    number,
                };
                return Ok((source, columns));
            }
        }
        let plan = self.query(&cte.query, scope)?;
        let mut columns = plan.columns.clone();
        rename(&mut columns, Some(&cte.alias));
        let source = Source::Derived {
            plan: Box::new(plan),
            lateral: false,
        };
        Ok((source, columns))
    }

    fn function_source(
        &self,
        factor: &'a ast::TableFactor,
        scope: &mut Scope<'_>,
        width: &mut usize,
    ) -> Result<Source, SqlError> {
        let place = Place {
            scope,
            collected: None,
            width: *width,
        };
        let (name, args, ordinality, alias) = match factor {
            ast::TableFactor::Table {
                name,
                args: Some(args),
                alias,
                with_ordinality,
                ..
            } => (
                name_of(name).1,
                self.args(&args.args, place)?,
                *with_ordinality,
                alias,
            ),
            ast::TableFactor::Function {
                name,
                args,
                alias,
                with_ordinality,
                ..
            } => (
                name_of(name).1,
                self.args(args, place)?,
                *with_ordinality,
                alias,
            ),
            ast::TableFactor::UNNEST {
                alias,
                array_exprs,
                with_ordinality,
                ..
            } => {
                let args = array_exprs.iter().map(|expr| self.expr(expr, place));
                (
                    "unnest".into(),
                    args.collect::<Result<_, _>>()?,
                    *with_ordinality,
                    alias,
                )
            }
            other => return Err(not_ours(other)),
        };
        let (expr, mut columns) = self.set_returning(&name, args)?;
        let count = columns.len();
        if let (Some(alias), [column]) = (alias, columns.as_mut_slice()) {
            column.0 = fold(&alias.name);
        }
        if ordinality {
            columns.push(("ordinality".into(), Ty::Int8));
        }
        let source = Source::Function {
            expr,
            columns: count,
            ordinality,
        };
        self.add(source, alias.as_ref(), name, columns, None, scope, width)
    }

    #[allow(clippy::too_many_arguments)]
    fn add(
        &self,
        source: Source,
        alias: Option<&ast::TableAlias>,
        name: String,
        mut columns: Vec<(String, Ty)>,
        oid: Option<u32>,
        scope: &mut Scope<'_>,
        width: &mut usize,
    ) -> Result<Source, SqlError> {
        rename(&mut columns, alias);
        let name = alias.map_or(name, |alias| fold(&alias.name));
        let at = *width;
        *width += columns.len();
        scope.tables.push(Table {
            name,
            columns,
            at,
            oid,
        });
        Ok(source)
    }
}

fn rename(columns: &mut [(String, Ty)], alias: Option<&ast::TableAlias>) {
    if let Some(alias) = alias {
        for (column, given) in columns.iter_mut().zip(&alias.columns) {
            column.0 = fold(&given.name);
        }
    }
}
