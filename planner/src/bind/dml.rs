//! INSERT, UPDATE, DELETE as queries for the rows they write, and constants.

use datafusion_common::{Column, ScalarValue};
use datafusion_expr::{ColumnarValue, Expr, LogicalPlan, LogicalPlanBuilder, Volatility};
use sqlparser::ast::{
    self, AssignmentTarget, Expr as E, FromTable, SetExpr, TableWithJoins, UpdateTableFromKind,
};
use tidemill_zset::schema::SqlType;

use super::elements::subscripts;
use super::expr::{Ctx, at};
use super::from::Joined;
use super::scope::{Outer, Scope};
use super::sets::is_set_returning;
use super::{Binder, Ctes, Rel, RelCol, Typed, columns_of, df, project, unique_names};
use crate::ast::{ColumnDefault, Numbering, NumberingKind};
use crate::catalog::Relation;
use crate::error::{Result, SqlError};
use crate::parser::spelling::Overriding;
use crate::parser::{parse_query, parts, position};

/// The value of an expression that has no columns; `None` if it isn't constant or fails.
pub(crate) fn fold_constant(e: &Expr) -> Option<ScalarValue> {
    if e.is_volatile() {
        return None;
    }
    evaluate(e).ok()
}

/// Evaluates an expression without columns.
pub(crate) fn evaluate(e: &Expr) -> Result<ScalarValue> {
    match evaluate_rows(e, 1)? {
        ColumnarValue::Scalar(s) => Ok(s),
        ColumnarValue::Array(a) => df(ScalarValue::try_from_array(&a, 0)),
    }
}

/// Evaluates an expression without columns for so many rows.
pub(crate) fn evaluate_rows(e: &Expr, rows: usize) -> Result<ColumnarValue> {
    if let Expr::Literal(v, _) = e {
        return Ok(ColumnarValue::Scalar(v.clone()));
    }
    let schema = datafusion_common::DFSchema::empty();
    let physical = df(datafusion_physical_expr::create_physical_expr(
        e,
        &schema,
        &Default::default(),
        &Default::default(),
    ))?;
    let batch = arrow::array::RecordBatch::try_new_with_options(
        std::sync::Arc::new(arrow::datatypes::Schema::empty()),
        vec![],
        &arrow::array::RecordBatchOptions::new().with_row_count(Some(rows)),
    )
    .map_err(|e| SqlError::internal(e.to_string()))?;
    df(physical.evaluate(&batch))
}

/// Rows from which on constants are given in columns.
const GIVEN_ROWS_MIN: usize = 32;

/// VALUES of many rows of constants, in columns; `None`: they aren't that. Columns have one type each.
fn given(rows: &[Vec<Typed>]) -> Option<Rel> {
    let first = rows.first().filter(|_| rows.len() >= GIVEN_ROWS_MIN)?;
    if rows.iter().any(|row| row.len() != first.len()) {
        return None;
    }
    let mut cols = vec![];
    let mut fields = vec![];
    let mut arrays = vec![];
    for (i, Typed { ty, .. }) in first.iter().enumerate() {
        let alike = |t: &Typed| t.ty == *ty && !t.unknown && is_constant(&t.expr);
        if !rows.iter().all(|row| alike(&row[i])) {
            return None;
        }
        // What fails does so again, and is told, where it is evaluated row by row.
        let values = rows.iter().map(|row| evaluate(&row[i].expr));
        let values = values.collect::<Result<Vec<_>>>().ok()?;
        let array = ScalarValue::iter_to_array(values).ok()?;
        let name = format!("column{}", i + 1);
        let field = arrow::datatypes::Field::new(&name, ty.arrow(), true);
        if array.data_type() != field.data_type() {
            return None;
        }
        fields.push(field);
        arrays.push(array);
        cols.push(RelCol {
            column: Column::new_unqualified(&name),
            name,
            ty: ty.clone(),
            unknown: false,
        });
    }
    let schema = std::sync::Arc::new(arrow::datatypes::Schema::new(fields));
    let batch = arrow::array::RecordBatch::try_new(schema, arrays).ok()?;
    let plan = crate::given::Given::plan(batch).ok()?;
    Some(Rel { plan, cols })
}

/// A literal, or a function of literals that is the same whenever it is called.
fn is_constant(e: &Expr) -> bool {
    let literal = |e: &Expr| matches!(e, Expr::Literal(..));
    match e {
        Expr::Literal(..) => true,
        Expr::Cast(cast) => literal(&cast.expr),
        Expr::ScalarFunction(f) => {
            let immutable = f.func.signature().volatility == Volatility::Immutable;
            immutable && !f.args.is_empty() && f.args.iter().all(literal)
        }
        _ => false,
    }
}

impl Binder<'_> {
    fn default_of(&self, default: Option<&ColumnDefault>) -> Result<Typed> {
        match default {
            // The number is put there when the row is written.
            None | Some(ColumnDefault::Numbering(_)) => Ok(super::expr::null()),
            Some(ColumnDefault::Expression(t)) => {
                let e = crate::parser::parse_expr(t)?;
                let scope = Scope::new(Outer::None);
                self.expr(Ctx::plain(&scope, &Vec::new(), "DEFAULT"), &e)
            }
        }
    }

    pub(crate) fn insert(
        &self,
        i: &ast::Insert,
        table: &Relation,
        defaults: &[Option<ColumnDefault>],
    ) -> Result<Rel> {
        super::foreign::insert(i)?;
        let fields = table.columns.fields();
        if fields.is_empty() {
            return Err(SqlError::unsupported(
                "rows of a table without columns are not supported",
            ));
        }
        let targets: Vec<usize> = if i.columns.is_empty() {
            (0..fields.len()).collect()
        } else {
            let mut out = Vec::new();
            for c in &i.columns {
                let n = target_number(table, c)?;
                if out.contains(&n) {
                    return Err(SqlError::new(
                        "42701",
                        format!("column \"{}\" specified more than once", fields[n].name()),
                    ));
                }
                out.push(n);
            }
            out
        };
        let given = !i.columns.is_empty();
        let overriding = Overriding::of(i);
        let (rel, asked) = match &i.source {
            None => (self.values_of(vec![vec![]])?, vec![]),
            Some(q) => self.insert_source((q, overriding), table, &targets, defaults)?,
        };
        if rel.cols.len() > targets.len() {
            return Err(SqlError::new(
                "42601",
                "INSERT has more expressions than target columns",
            ));
        }
        if given && rel.cols.len() < targets.len() && i.source.is_some() {
            return Err(SqlError::new(
                "42601",
                "INSERT has more target columns than expressions",
            ));
        }
        let mut exprs = Vec::new();
        let mut cols = Vec::new();
        for (n, f) in fields.iter().enumerate() {
            let ty = SqlType::of(f);
            let source = targets
                .iter()
                .position(|t| *t == n)
                .and_then(|i| rel.cols.get(i));
            let t = match source {
                Some(c) if c.unknown => {
                    let t = Typed::new(Expr::Column(c.column.clone()), SqlType::Text);
                    let e = crate::functions::cast::cast(
                        t.expr,
                        &SqlType::Text,
                        &ty,
                        crate::functions::cast::Context::Assignment,
                        self.zone(),
                    );
                    Typed::new(e, ty.clone())
                }
                Some(c) => Typed::new(Expr::Column(c.column.clone()), c.ty.clone()),
                None => self.default_of(defaults.get(n).and_then(Option::as_ref))?,
            };
            exprs.push(self.assign(t, &ty, f.name())?.alias(f.name()));
            cols.push(RelCol {
                name: f.name().clone(),
                ty,
                unknown: false,
                column: Column::new_unqualified(f.name()),
            });
        }
        for (n, numbering) in numbered(defaults) {
            let given = targets
                .iter()
                .position(|t| *t == n)
                .is_some_and(|i| i < rel.cols.len());
            let passed_over =
                overriding == Some(Overriding::User) && numbering.kind != NumberingKind::Serial;
            let ask = match asked.iter().find(|(column, _)| *column == n) {
                _ if !given || passed_over => super::literal(ScalarValue::Boolean(Some(true))),
                Some((_, ask)) => Expr::Column(ask.column.clone()),
                None => super::literal(ScalarValue::Boolean(Some(false))),
            };
            let name = format!("number#{n}");
            exprs.push(ask.alias(&name));
            cols.push(RelCol {
                column: Column::new_unqualified(&name),
                name,
                ty: SqlType::Bool,
                unknown: false,
            });
        }
        let plan = if rel.cols.is_empty() {
            project(LogicalPlanBuilder::empty(true).plan().clone(), exprs)?
        } else {
            project(rel.plan, exprs)?
        };
        Ok(Rel { plan, cols })
    }

    /// The rows of INSERT. In VALUES each literal takes its column's type, and DEFAULT may stand for a value; of columns that
    /// number rows, a truth value for each row says whether it does.
    fn insert_source(
        &self,
        (q, overriding): (&ast::Query, Option<Overriding>),
        table: &Relation,
        targets: &[usize],
        defaults: &[Option<ColumnDefault>],
    ) -> Result<(Rel, Vec<(usize, RelCol)>)> {
        let is_always = |column: usize| {
            let number = numbered(defaults).find(|(n, _)| *n == column);
            overriding.is_none() && number.is_some_and(|(_, n)| n.kind == NumberingKind::Always)
        };
        let selected;
        let q = match select_of_values(q)? {
            None => q,
            Some(select) => {
                selected = select;
                &selected
            }
        };
        let values = match q.body.as_ref() {
            SetExpr::Values(v)
                if q.order_by.is_none() && q.limit_clause.is_none() && q.fetch.is_none() =>
            {
                v
            }
            _ => {
                let mut rel = self.query(q, &Vec::new(), Outer::None)?;
                let columns = targets.iter().map(|i| table.columns.field(*i));
                let types: Vec<_> = columns.map(|f| Some(SqlType::of(f))).collect();
                if self.types_of_params(&q.body, &rel, &types) {
                    rel = self.query(q, &Vec::new(), Outer::None)?;
                }
                let given = targets.iter().take(rel.cols.len());
                return match given.copied().find(|c| is_always(*c)) {
                    Some(column) => Err(given_always(table, column)),
                    None => Ok((rel, vec![])),
                };
            }
        };
        let numbers: Vec<usize> = numbered(defaults).map(|(n, _)| n).collect();
        let mut asked: Vec<usize> = vec![];
        let scope = Scope::new(Outer::None);
        let mut ctes = Ctes::new();
        if let Some(with) = &q.with {
            self.with(with, &mut ctes, Outer::None)?;
        }
        let ctx = Ctx::plain(&scope, &ctes, "VALUES");
        let mut rows = Vec::new();
        for r in &values.rows {
            let mut row = Vec::new();
            if r.len() > targets.len() {
                return Err(SqlError::new(
                    "42601",
                    "INSERT has more expressions than target columns",
                ));
            }
            for (i, e) in r.iter().enumerate() {
                let f = table.columns.field(targets[i]);
                let ty = SqlType::of(f);
                let t = if is_default(e) {
                    self.default_of(defaults.get(targets[i]).and_then(Option::as_ref))?
                } else if is_always(targets[i]) {
                    return Err(given_always(table, targets[i]));
                } else {
                    self.expr(ctx, e)?
                };
                let near = match e {
                    E::Value(v) => crate::parser::position(v.span),
                    _ => None,
                };
                row.push(Typed::new(
                    self.assign(t, &ty, f.name())
                        .map_err(|e| super::expr::at(e, near))?,
                    ty,
                ));
            }
            let asks = targets
                .iter()
                .zip(r.iter())
                .filter(|(t, _)| numbers.contains(t));
            asked = asks.clone().map(|(t, _)| *t).collect();
            row.extend(asks.map(|(_, e)| {
                let ask = ScalarValue::Boolean(Some(is_default(e)));
                Typed::new(super::literal(ask), SqlType::Bool)
            }));
            rows.push(row);
        }
        let mut rel = match given(&rows) {
            Some(rel) => rel,
            None => self.values_of(rows)?,
        };
        let asks = rel.cols.split_off(rel.cols.len() - asked.len());
        Ok((rel, asked.into_iter().zip(asks).collect()))
    }

    pub(crate) fn update(
        &self,
        s: &ast::Statement,
        table: &Relation,
        defaults: &[Option<ColumnDefault>],
    ) -> Result<Rel> {
        let ast::Statement::Update(u) = s else {
            return Err(SqlError::internal("not an UPDATE"));
        };
        super::foreign::update(u)?;
        let ctes = Ctes::new();
        let mut from = vec![u.table.clone()];
        match &u.from {
            None => {}
            Some(UpdateTableFromKind::AfterSet(t) | UpdateTableFromKind::BeforeSet(t)) => {
                from.extend(t.clone())
            }
        }
        let joined = from.len() > 1 || !u.table.joins.is_empty();
        let (mut plan, scope, copy) = self.changed_relations(&from, table, joined)?;
        if let Some(w) = &u.selection {
            plan = self.where_clause(plan, &scope, &ctes, w)?;
        }
        let target = &scope.tables[0];
        let old: Vec<Expr> = target.cols.iter().map(|c| c.expr.clone()).collect();
        let new = self.assignments(&u.assignments, &scope, &ctes, table, defaults, &old)?;
        let mut beside = match u.returning {
            Some(_) => beside(&scope),
            None => vec![],
        };
        let numbered = copy.is_some();
        beside.extend(copy);
        let mut rel = old_and_new(plan, table, old, new, beside)?;
        if joined {
            rel.plan = once_per_row(rel.plan, table)?;
        }
        if numbered {
            rel.cols.pop();
        }
        Ok(rel)
    }

    /// The relations of an UPDATE or DELETE, the table first. If others are joined to it and it has no key, its rows are
    /// numbered, so that equal ones can be told apart; then the number, too.
    fn changed_relations<'o>(
        &self,
        from: &[TableWithJoins],
        table: &Relation,
        joined: bool,
    ) -> Result<(LogicalPlan, Scope<'o>, Option<Beside>)> {
        let ctes = Ctes::new();
        if !joined || table.primary_key.is_some() {
            let (plan, scope) = self.relations(from, &ctes, Outer::None)?;
            return Ok((plan, scope, None));
        }
        let (target, others) = from.split_at(1);
        let (plan, scope) = self.relations(target, &ctes, Outer::None)?;
        let number = super::lateral::row_number(vec![], vec![]);
        let name = number.schema_name().to_string();
        let plan = df(LogicalPlanBuilder::window_plan(plan, vec![number]))?;
        let copy = self.fresh("copy");
        let mut columns: Vec<Expr> = columns_of(&plan).into_iter().map(Expr::Column).collect();
        columns.pop();
        columns.push(Expr::Column(Column::new_unqualified(name)).alias(&copy));
        let numbered = Joined {
            plan: Some(project(plan, columns)?),
            scope,
        };
        let (plan, scope) = self.relations_beside(numbered, others, &ctes, false)?;
        let copy = Beside {
            value: Typed::new(
                Expr::Column(Column::new_unqualified(&copy)),
                SqlType::Other(arrow::datatypes::DataType::UInt64),
            ),
            name: COPY.into(),
        };
        Ok((plan, scope, Some(copy)))
    }

    /// SET: the row's new columns.
    pub(super) fn assignments(
        &self,
        assignments: &[ast::Assignment],
        scope: &Scope,
        ctes: &Ctes,
        table: &Relation,
        defaults: &[Option<ColumnDefault>],
        old: &[Expr],
    ) -> Result<Vec<Expr>> {
        let mut new = old.to_vec();
        // Which columns are assigned to, and whether in parts.
        let mut set = vec![None; new.len()];
        for a in assignments {
            let row = super::rows::fields(&a.value);
            let columns = match (&a.target, &a.value) {
                (AssignmentTarget::Tuple(ns), E::Subquery(q)) => {
                    let used = std::cell::RefCell::new(Vec::new());
                    let rel = self.query(q, ctes, Outer::Query(scope, &used, None))?;
                    if rel.cols.len() != ns.len() {
                        return Err(SqlError::new(
                            "42601",
                            "number of columns does not match number of values",
                        ));
                    }
                    row_columns(q, ns.len())?
                }
                _ => vec![],
            };
            let pairs: Vec<(&ast::ObjectName, &E)> = match (&a.target, &a.value) {
                (AssignmentTarget::Tuple(ns), E::Subquery(_)) => ns.iter().zip(&columns).collect(),
                (AssignmentTarget::ColumnName(n), v) => vec![(n, v)],
                (AssignmentTarget::Tuple(ns), _) => {
                    let values = row.iter().flatten();
                    if ns.len() != values.clone().count() {
                        return Err(SqlError::new(
                            "42601",
                            "number of columns does not match number of values",
                        ));
                    }
                    ns.iter().zip(values).collect()
                }
            };
            for (target_name, value) in pairs {
                let n = target_number(table, target_name)?;
                let name = table.columns.field(n).name();
                let parts = subscripts(target_name);
                // Several parts of a column may be assigned to.
                let before = set[n].replace(!parts.is_empty());
                if before.is_some_and(|part| !part || parts.is_empty()) {
                    return Err(SqlError::new(
                        "42601",
                        format!("multiple assignments to same column \"{name}\""),
                    ));
                }
                let ctx = Ctx::plain(scope, ctes, "UPDATE");
                if !parts.is_empty() {
                    if is_default(value) {
                        let message = "cannot set an array element to DEFAULT";
                        return Err(SqlError::unsupported(message));
                    }
                    let of = SqlType::of(table.columns.field(n));
                    let old = new[n].clone();
                    new[n] = self.part_assigned(ctx, (name, &of), old, &parts, value)?;
                    continue;
                }
                let number = numbered(defaults).find(|(column, _)| *column == n);
                let t = match (is_default(value), number) {
                    (true, Some(_)) => {
                        let message = format!(
                            "setting column \"{name}\" to DEFAULT in an UPDATE is not supported"
                        );
                        return Err(SqlError::unsupported(message)
                            .detail("The column numbers rows when they are inserted."));
                    }
                    (true, None) => self.default_of(defaults.get(n).and_then(Option::as_ref))?,
                    (false, Some((_, numbering))) if numbering.kind == NumberingKind::Always => {
                        let message = format!("column \"{name}\" can only be updated to DEFAULT");
                        return Err(SqlError::new("428C9", message).detail(defined_always(name)));
                    }
                    _ => self.expr(ctx, value)?,
                };
                new[n] = self.assign(t, &SqlType::of(table.columns.field(n)), name)?;
            }
        }
        Ok(new)
    }

    pub(crate) fn delete(&self, d: &ast::Delete, table: &Relation) -> Result<Rel> {
        super::foreign::delete(d)?;
        let ctes = Ctes::new();
        let (FromTable::WithFromKeyword(own) | FromTable::WithoutKeyword(own)) = &d.from;
        let mut from: Vec<TableWithJoins> = own.clone();
        let using = d.using.clone().unwrap_or_default();
        let joined = !using.is_empty();
        from.extend(using);
        let (mut plan, scope, copy) = self.changed_relations(&from, table, joined)?;
        if let Some(w) = &d.selection {
            plan = self.where_clause(plan, &scope, &ctes, w)?;
        }
        let target = &scope.tables[0];
        let beside = match d.returning {
            Some(_) => beside(&scope),
            None => vec![],
        };
        let own = target.cols.iter().map(|c| c.expr.clone().alias(&c.name));
        let others = beside.iter().chain(&copy);
        let others = others.map(|c| c.value.expr.clone().alias(&c.name));
        plan = project(plan, own.chain(others).collect())?;
        if joined {
            plan = once_per_row(plan, table)?;
        }
        let cols = table
            .columns
            .fields()
            .iter()
            .map(|f| RelCol {
                name: f.name().clone(),
                ty: SqlType::of(f),
                unknown: false,
                column: Column::new_unqualified(f.name()),
            })
            .chain(beside.iter().map(Beside::column))
            .collect();
        Ok(Rel { plan, cols })
    }
}

/// The number of the column that INSERT or UPDATE names.
fn target_number(table: &Relation, name: &ast::ObjectName) -> Result<usize> {
    let place = match name.0.first() {
        Some(ast::ObjectNamePart::Identifier(ident)) => position(ident.span),
        _ => None,
    };
    target(table, name)
        .and_then(|name| column_number(table, &name))
        .map_err(|e| at(e, place))
}

/// The column that INSERT or UPDATE names: without its table, whose name would be a column's that has fields.
fn target(table: &Relation, name: &ast::ObjectName) -> Result<String> {
    let mut names = parts(name).into_iter();
    let (first, field) = (names.next().unwrap_or_default(), names.next());
    if let Some(field) = field {
        let ty = SqlType::of(table.columns.field(column_number(table, &first)?));
        return Err(SqlError::new(
            "42804",
            format!(
                "cannot assign to field \"{field}\" of column \"{first}\" because its type {} is not a composite type",
                super::types::plain_name(&ty)
            ),
        ));
    }
    Ok(first)
}

/// A column of another relation in UPDATE … FROM or DELETE … USING, for RETURNING.
pub(super) struct Beside {
    name: String,
    value: Typed,
}

impl Beside {
    fn column(&self) -> RelCol {
        RelCol {
            name: self.name.clone(),
            ty: self.value.ty.clone(),
            unknown: false,
            column: Column::new_unqualified(&self.name),
        }
    }
}

/// The columns of all relations but the first.
fn beside(scope: &Scope) -> Vec<Beside> {
    let cols = scope.tables[1..].iter().flat_map(|t| &t.cols);
    cols.enumerate()
        .map(|(i, c)| Beside {
            name: super::written::beside_name(i),
            value: Typed::new(c.expr.clone(), c.ty.clone()),
        })
        .collect()
}

/// The columns of a subquery's one row, each as a subquery.
fn row_columns(q: &ast::Query, width: usize) -> Result<Vec<E>> {
    let names: Vec<String> = (1..=width).map(|i| format!("\"set#{i}\"")).collect();
    (0..width)
        .map(|i| {
            let mut outer = crate::parser::parse_query(&format!(
                "SELECT {} FROM (SELECT 1) AS \"set#\" ({})",
                names[i],
                names.join(", ")
            ))?;
            if let SetExpr::Select(s) = outer.body.as_mut()
                && let Some(ast::TableFactor::Derived { subquery, .. }) =
                    s.from.first_mut().map(|t| &mut t.relation)
            {
                *subquery.as_mut() = q.clone();
            }
            Ok(E::Subquery(outer))
        })
        .collect()
}

/// All old columns of a row, then all new ones, then those of other relations.
pub(super) fn old_and_new(
    plan: LogicalPlan,
    table: &Relation,
    old: Vec<Expr>,
    new: Vec<Expr>,
    beside: Vec<Beside>,
) -> Result<Rel> {
    let fields = table.columns.fields();
    let names: Vec<String> = fields.iter().map(|f| f.name().clone()).collect();
    let internal = unique_names(&[names.clone(), names].concat());
    let (mut exprs, mut cols) = (Vec::new(), Vec::new());
    for (i, (e, name)) in old.into_iter().chain(new).zip(&internal).enumerate() {
        exprs.push(e.alias(name));
        let f = &fields[i % fields.len()];
        cols.push(RelCol {
            name: f.name().clone(),
            ty: SqlType::of(f),
            unknown: false,
            column: Column::new_unqualified(name),
        });
    }
    for c in beside {
        cols.push(c.column());
        exprs.push(c.value.expr.alias(c.name));
    }
    Ok(Rel {
        plan: project(plan, exprs)?,
        cols,
    })
}

/// The name of the number of a row of a table without a key.
const COPY: &str = "#copy";

/// A row that joins with several others is changed once: as the first of these says. A row's number doesn't come through.
fn once_per_row(plan: LogicalPlan, table: &Relation) -> Result<LogicalPlan> {
    let mut columns = columns_of(&plan);
    let by_number = columns.pop_if(|c| c.name == COPY);
    let on: Vec<Expr> = match (&table.primary_key, by_number) {
        (Some(key), _) => key
            .iter()
            .map(|i| Expr::Column(columns[*i].clone()))
            .collect(),
        (None, number) => number.into_iter().map(Expr::Column).collect(),
    };
    let number = super::lateral::row_number(
        on,
        columns
            .iter()
            .map(|c| datafusion_expr::expr::Sort::new(Expr::Column(c.clone()), true, false))
            .collect(),
    );
    let plan = df(LogicalPlanBuilder::window_plan(plan, vec![number.clone()]))?;
    let n = Expr::Column(Column::new_unqualified(number.schema_name().to_string()));
    let first = n.eq(super::literal(ScalarValue::UInt64(Some(1))));
    project(
        super::filter(plan, first)?,
        columns.into_iter().map(Expr::Column).collect(),
    )
}

/// The columns that number rows.
fn numbered(defaults: &[Option<ColumnDefault>]) -> impl Iterator<Item = (usize, &Numbering)> {
    defaults.iter().enumerate().filter_map(|(n, d)| match d {
        Some(ColumnDefault::Numbering(numbering)) => Some((n, numbering)),
        _ => None,
    })
}

fn given_always(table: &Relation, column: usize) -> SqlError {
    let name = table.columns.field(column).name();
    let message = format!("cannot insert a non-DEFAULT value into column \"{name}\"");
    SqlError::new("428C9", message)
        .detail(defined_always(name))
        .hint("Use OVERRIDING SYSTEM VALUE to override.")
}

fn defined_always(name: &str) -> String {
    format!("Column \"{name}\" is an identity column defined as GENERATED ALWAYS.")
}

fn is_default(e: &E) -> bool {
    matches!(e, E::Identifier(i) if i.quote_style.is_none() && i.value.eq_ignore_ascii_case("default"))
}

fn column_number(table: &Relation, name: &str) -> Result<usize> {
    table
        .columns
        .fields()
        .iter()
        .position(|f| f.name() == name)
        .ok_or_else(|| {
            SqlError::new(
                "42703",
                format!(
                    "column \"{name}\" of relation \"{}\" does not exist",
                    table.name
                ),
            )
        })
}

/// VALUES of one row with set-returning functions as SELECT, which gives as many rows as they do.
fn select_of_values(q: &ast::Query) -> Result<Option<ast::Query>> {
    let SetExpr::Values(values) = q.body.as_ref() else {
        return Ok(None);
    };
    let gives_rows = |e: &E| {
        crate::walk::any_expr(e, |e| match e {
            E::Function(f) => parts(&f.name).pop().is_some_and(|n| is_set_returning(&n)),
            _ => false,
        })
    };
    let [row] = values.rows.as_slice() else {
        return Ok(None);
    };
    if !row.iter().any(gives_rows) || row.iter().any(is_default) {
        return Ok(None);
    }
    let items: Vec<String> = row.iter().map(ToString::to_string).collect();
    let select = parse_query(&format!("SELECT {}", items.join(", ")))?;
    Ok(Some(ast::Query {
        body: select.body,
        ..q.clone()
    }))
}
