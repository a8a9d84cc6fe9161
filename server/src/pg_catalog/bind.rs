//! From the syntax tree of a query to a [`Plan`]: queries, FROM, select lists, ORDER BY.
//!
//! Invariant: a query that names anything but relations of the catalog is refused with
//! [`NOT_OURS`], so that the caller can give it to the planner.

use std::cell::RefCell;

use tidemill_planner::SqlError;
use tidemill_planner::ast::syntax as ast;

use super::plan::{
    Aggregate, Body, Expr, JoinKind, Order, Plan, SLOTS, Select, SetOp, Source, Window,
};
use super::relations::find;
use super::value::Ty;

/// SQLSTATE-like mark of what the planner must answer: never shown to users.
pub const NOT_OURS: &str = "TM000";

/// The refusal.
pub fn not_ours(what: impl std::fmt::Display) -> SqlError {
    SqlError::new(NOT_OURS, format!("not a catalog query: {what}"))
}

/// A name for a range of a row.
struct Table {
    /// Alias, or the relation's name.
    name: String,
    columns: Vec<(String, Ty)>,
    at: usize,
    /// Oid of the relation itself, for `tableoid`.
    oid: Option<u32>,
}

/// Names that a query sees.
#[derive(Default)]
pub struct Scope<'a> {
    tables: Vec<Table>,
    /// Tables from here on are hidden from derived tables that aren't LATERAL.
    hidden: bool,
    parent: Option<&'a Scope<'a>>,
}

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
struct Step {
    name: String,
    columns: Vec<(String, Ty)>,
    number: usize,
    used: bool,
}

/// Binds one query and those inside it.
pub struct Binder<'a> {
    ctes: RefCell<Ctes<'a>>,
    /// WITH RECURSIVE whose steps are being bound.
    steps: RefCell<Vec<Step>>,
    /// How many there are in all.
    recursive: std::cell::Cell<usize>,
    /// Types of `$1`, `$2`, … as far as they are known.
    pub(super) params: RefCell<Vec<Option<Ty>>>,
    /// True once a relation or function of the catalog is named.
    pub(super) ours: std::cell::Cell<bool>,
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

impl<'a> Scope<'a> {
    /// The column of a name: expression and type.
    pub(super) fn column(&self, table: Option<&str>, name: &str) -> Option<(Expr, Ty)> {
        let mut scope = Some(self);
        let mut depth = 0;
        while let Some(current) = scope {
            for entry in current.tables.iter().filter(|_| !current.hidden) {
                if table.is_some_and(|wanted| wanted != entry.name) {
                    continue;
                }
                if let Some(number) = entry.columns.iter().position(|(column, _)| column == name) {
                    let index = entry.at + number;
                    return Some((Expr::Column { depth, index }, entry.columns[number].1));
                }
                if let Some(oid) = entry.oid
                    && let Some(value) = system_column(name, oid)
                {
                    return Some((Expr::Const(super::value::Value::Int(value)), Ty::Oid));
                }
            }
            scope = current.parent;
            depth += 1;
        }
        None
    }

    fn wildcard(&self, table: Option<&str>) -> Option<Vec<(String, Expr, Ty)>> {
        let mut found = Vec::new();
        let mut any = table.is_none();
        for entry in &self.tables {
            if table.is_none_or(|wanted| wanted == entry.name) {
                any = true;
                for (number, (name, ty)) in entry.columns.iter().enumerate() {
                    let index = entry.at + number;
                    found.push((name.clone(), Expr::Column { depth: 0, index }, *ty));
                }
            }
        }
        any.then_some(found)
    }
}

/// Columns that every relation has without saying so.
fn system_column(name: &str, oid: u32) -> Option<i64> {
    match name {
        "tableoid" => Some(i64::from(oid)),
        "xmin" => Some(1),
        _ => None,
    }
}

/// The last part of a name, and the part before it.
pub fn name_of(name: &ast::ObjectName) -> (Option<String>, String) {
    let mut parts: Vec<String> = name
        .0
        .iter()
        .filter_map(|part| part.as_ident().map(fold))
        .collect();
    let last = parts.pop().unwrap_or_default();
    (parts.pop(), last)
}

/// An identifier after case folding.
pub fn fold(ident: &ast::Ident) -> String {
    match ident.quote_style {
        Some(_) => ident.value.clone(),
        None => ident.value.to_lowercase(),
    }
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
        let count = |expr: &'a ast::Expr| self.expr(expr, place).map(|(expr, _)| expr);
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

    fn body(
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
        for table in &select.from {
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

    fn joined(
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

fn rename(columns: &mut [(String, Ty)], alias: Option<&ast::TableAlias>) {
    if let Some(alias) = alias {
        for (column, given) in columns.iter_mut().zip(&alias.columns) {
            column.0 = fold(&given.name);
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
