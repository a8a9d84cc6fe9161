//! Names in sight at a point of a query.

use std::cell::RefCell;

use datafusion_common::Column;
use datafusion_common::tree_node::Transformed;
use datafusion_expr::Expr;
use sqlparser::ast::Ident;
use std::sync::Arc;
use tidemill_zset::schema::SqlType;

use super::expr::Calls;
use super::{Binder, Rel, Typed};
use crate::error::{Result, SqlError};
use crate::parser::{fold, position};
use crate::tree::Tree;

/// A column that a name may stand for.
#[derive(Clone, Debug)]
pub(crate) struct ScopeCol {
    pub name: String,
    pub ty: SqlType,
    pub expr: Expr,
    /// Merged into another one by USING: found only with its table's name.
    pub hidden: bool,
}

/// A relation in FROM.
#[derive(Clone, Debug)]
pub(crate) struct ScopeTable {
    /// Alias or name; empty for columns merged by USING.
    pub alias: String,
    /// Schema, where no alias was given.
    pub schema: Option<String>,
    pub cols: Vec<ScopeCol>,
    /// Columns of its PRIMARY KEY, by number.
    pub primary_key: Option<Vec<usize>>,
}

/// How names that aren't found here are found.
#[derive(Clone, Copy)]
pub(crate) enum Outer<'o> {
    /// Nowhere.
    None,
    /// In the query around this subquery; what is used is recorded. Aggregates over its rows go to its calls, where it
    /// may have any.
    Query(
        &'o Scope<'o>,
        &'o RefCell<Vec<Expr>>,
        Option<&'o RefCell<Calls>>,
    ),
    /// To the left in FROM; the columns are part of this query's own plan.
    Lateral(&'o Scope<'o>),
}

/// Everything in sight.
#[derive(Clone)]
pub(crate) struct Scope<'o> {
    pub tables: Vec<ScopeTable>,
    pub outer: Outer<'o>,
    /// A bare name that several tables have means the first one's column.
    pub prefer_first: bool,
}

impl<'o> Scope<'o> {
    pub(crate) fn new(outer: Outer<'o>) -> Self {
        Scope {
            tables: Vec::new(),
            outer,
            prefer_first: false,
        }
    }

    /// The type of a column of one of the relations, or of those to the left of them.
    pub fn type_of(&self, column: &Column) -> Option<&SqlType> {
        let mut cols = self.tables.iter().flat_map(|t| &t.cols);
        let found = cols.find(|c| matches!(&c.expr, Expr::Column(own) if own == column));
        match (found, self.outer) {
            (Some(found), _) => Some(&found.ty),
            (None, Outer::Lateral(left)) => left.type_of(column),
            (None, _) => None,
        }
    }

    /// How many queries are around this one.
    pub(crate) fn depth(&self) -> usize {
        match self.outer {
            Outer::None => 0,
            Outer::Lateral(s) => s.depth(),
            Outer::Query(s, ..) => s.depth() + 1,
        }
    }

    /// Whether the column is one of its relations'.
    pub(crate) fn has(&self, column: &Column) -> bool {
        let mut columns = self.tables.iter().flat_map(|t| &t.cols);
        columns.any(|s| matches!(&s.expr, Expr::Column(c) if c == column))
    }

    /// All columns that `*` stands for.
    pub(crate) fn star(&self) -> impl Iterator<Item = &ScopeCol> {
        self.tables
            .iter()
            .flat_map(|t| &t.cols)
            .filter(|c| !c.hidden)
    }

    pub(crate) fn add(&mut self, t: ScopeTable) -> Result<()> {
        if !t.alias.is_empty()
            && self
                .tables
                .iter()
                .any(|o| o.alias == t.alias && !are_apart(&o.schema, &t.schema))
        {
            return Err(SqlError::new(
                "42712",
                format!("table name \"{}\" specified more than once", t.alias),
            ));
        }
        self.tables.push(t);
        Ok(())
    }

    fn local(&self, name: &str) -> Result<Option<&ScopeCol>> {
        let mut found = self
            .tables
            .iter()
            .flat_map(|t| &t.cols)
            .filter(|c| !c.hidden && c.name == name);
        let first = found.next();
        if found.next().is_some() && !self.prefer_first {
            return Err(SqlError::new(
                "42702",
                format!("column reference \"{name}\" is ambiguous"),
            ));
        }
        Ok(first)
    }

    fn local_table(&self, schema: Option<&str>, table: &str) -> Result<Option<&ScopeTable>> {
        let is_it = |t: &&ScopeTable| {
            t.alias == table && (schema.is_none() || t.schema.as_deref() == schema)
        };
        let mut found = self.tables.iter().filter(is_it);
        let first = found.next();
        // Relations of different schemas may be called the same.
        if found.next().is_some() {
            let message = format!("table reference \"{table}\" is ambiguous");
            return Err(SqlError::new("42P09", message)
                .hint("Give them aliases, or write the schema in front of the name."));
        }
        Ok(first)
    }

    /// A column by its bare name; `None` if there is none.
    pub(crate) fn column(&self, name: &str) -> Result<Option<Typed>> {
        if let Some(c) = self.local(name)? {
            return Ok(Some(Typed::new(c.expr.clone(), c.ty.clone())));
        }
        self.through(|s| s.column(name))
    }

    /// Whether a column of that name is of this level of the query.
    pub(crate) fn has_own(&self, name: &str) -> Result<bool> {
        Ok(self.local(name)?.is_some())
    }

    /// A column by table and name. `Err` if the table exists without that column.
    pub(crate) fn qualified(
        &self,
        schema: Option<&str>,
        table: &str,
        name: &str,
    ) -> Result<Option<Typed>> {
        if let Some(t) = self.local_table(schema, table)? {
            let mut found = t.cols.iter().filter(|c| c.name == name);
            let first = found.next();
            if found.next().is_some() {
                return Err(SqlError::new(
                    "42702",
                    format!("column reference \"{name}\" is ambiguous"),
                ));
            }
            return match first {
                Some(c) => Ok(Some(Typed::new(c.expr.clone(), c.ty.clone()))),
                None => Err(SqlError::new(
                    "42703",
                    format!("column {table}.{name} does not exist"),
                )),
            };
        }
        self.through(|s| s.qualified(schema, table, name))
    }

    /// A column of a table by its number: several may be called the same.
    fn nth(&self, table: &str, n: usize) -> Result<Option<Typed>> {
        if let Some(t) = self.local_table(None, table)? {
            let column = t.cols.get(n);
            return Ok(column.map(|c| Typed::new(c.expr.clone(), c.ty.clone())));
        }
        self.through(|s| s.nth(table, n))
    }

    fn through(&self, f: impl FnOnce(&Scope) -> Result<Option<Typed>>) -> Result<Option<Typed>> {
        match self.outer {
            Outer::None => Ok(None),
            Outer::Lateral(s) => f(s),
            Outer::Query(s, used, _) => {
                let Some(t) = f(s)? else { return Ok(None) };
                let expr = outer(&t, s, &mut used.borrow_mut());
                Ok(Some(Typed::new(expr, t.ty)))
            }
        }
    }

    /// The table that a name stands for, for `t.*`.
    pub(crate) fn table(&self, schema: Option<&str>, table: &str) -> Result<Option<&ScopeTable>> {
        match (self.local_table(schema, table)?, self.outer) {
            (None, Outer::Lateral(s)) => s.table(schema, table),
            (found, _) => Ok(found),
        }
    }

    /// The columns of a table of the queries around, where there is none of that name here.
    pub(crate) fn columns_around(
        &self,
        schema: Option<&str>,
        table: &str,
    ) -> Result<Option<Vec<(String, Typed)>>> {
        if schema.is_some() || self.table(None, table)?.is_some() {
            return Ok(None);
        }
        let Some(t) = self.table_around(table)? else {
            return Ok(None);
        };
        let columns = t.cols.iter().filter(|c| !c.hidden).map(|c| {
            let value = self.qualified(None, table, &c.name)?;
            let value = value.ok_or_else(|| SqlError::internal("a table without its column"))?;
            Ok((c.name.clone(), value))
        });
        columns.collect::<Result<_>>().map(Some)
    }

    /// The same, also in the queries around.
    fn table_around(&self, table: &str) -> Result<Option<&ScopeTable>> {
        match (self.local_table(None, table)?, self.outer) {
            (None, Outer::Lateral(s) | Outer::Query(s, ..)) => s.table_around(table),
            (found, _) => Ok(found),
        }
    }

    /// Names of all columns, for hints.
    fn names(&self) -> Vec<&str> {
        self.tables
            .iter()
            .flat_map(|t| t.cols.iter().map(|c| c.name.as_str()))
            .collect()
    }
}

/// An expression over the rows of `scope` as a subquery refers to it; what it uses is added to `used`.
pub(super) fn outer(x: &Typed, scope: &Scope, used: &mut Vec<Expr>) -> Expr {
    let mut note = |o: &Expr| {
        if !used.contains(o) {
            used.push(o.clone());
        }
    };
    let out = x.expr.clone().change_up(&mut |e| {
        Ok(match e {
            Expr::Column(c) => {
                let ty = scope.type_of(&c).unwrap_or(&x.ty);
                let o = Expr::OuterReferenceColumn(Arc::new(ty.field(&c.name, true)), c);
                note(&o);
                Transformed::yes(o)
            }
            e @ Expr::OuterReferenceColumn(..) => {
                note(&e);
                Transformed::no(e)
            }
            e => Transformed::no(e),
        })
    });
    out.map(|t| t.data).unwrap_or_else(|_| x.expr.clone())
}

impl Rel {
    /// The relation as an entry of FROM, its columns renamed by `columns`.
    pub(crate) fn table(&self, alias: &str, schema: Option<String>) -> ScopeTable {
        ScopeTable {
            alias: alias.to_string(),
            schema,
            cols: self
                .cols
                .iter()
                .map(|c| ScopeCol {
                    name: c.name.clone(),
                    ty: c.ty.clone(),
                    expr: Expr::Column(c.column.clone()),
                    hidden: false,
                })
                .collect(),
            primary_key: None,
        }
    }
}

/// Columns that PostgreSQL's tables have besides their own.
const SYSTEM_COLUMNS: [&str; 6] = ["ctid", "xmin", "xmax", "cmin", "cmax", "tableoid"];

/// Edits that turn `a` into `b` (insert, delete, replace, each one).
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut before = row[0];
        row[0] = i + 1;
        for (j, cb) in b.iter().enumerate() {
            let replace = before + (ca != *cb) as usize;
            before = row[j + 1];
            row[j + 1] = replace.min(row[j] + 1).min(before + 1);
        }
    }
    row[b.len()]
}

/// The name that was probably meant.
pub(crate) fn closest<'n>(
    name: &str,
    candidates: impl IntoIterator<Item = &'n str>,
) -> Option<&'n str> {
    let limit = (name.chars().count() / 2).clamp(1, 3);
    candidates
        .into_iter()
        .map(|c| (distance(name, c), c))
        .filter(|(d, c)| *d <= limit && *c != name)
        .min()
        .map(|(_, c)| c)
}

impl Binder<'_> {
    /// The row of the table `name`; of a function that gives single values, the value.
    pub(super) fn whole_row(&self, scope: &Scope, name: &str) -> Result<Option<Typed>> {
        let Some(table) = scope.table_around(name)? else {
            return Ok(None);
        };
        if let [one] = table.cols.as_slice()
            && matches!(&one.expr, Expr::Column(c) if c.relation.is_none())
        {
            return scope.qualified(None, name, &one.name);
        }
        let (mut columns, mut args) = (Vec::new(), Vec::new());
        for (n, c) in table.cols.iter().enumerate() {
            columns.push((c.name.clone(), c.ty.clone()));
            args.extend(scope.nth(name, n)?.map(|t| t.expr));
        }
        let (e, ty) = crate::functions::rows::row(columns, args, true);
        Ok(Some(Typed::new(e, ty)))
    }

    /// `name` or `[schema.]table.name`.
    pub(crate) fn column_ref(&self, scope: &Scope, idents: &[Ident]) -> Result<Typed> {
        let at = idents.first().and_then(|i| position(i.span));
        let parts: Vec<String> = idents.iter().map(fold).collect();
        let locate = |mut e: SqlError| {
            e.position = e.position.or(at);
            e
        };
        let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
        let found = match parts.as_slice() {
            [name] => scope.column(name).map_err(locate)?,
            [table, name] => scope.qualified(None, table, name).map_err(locate)?,
            [schema, table, name] => scope.qualified(Some(schema), table, name).map_err(locate)?,
            [_, schema, table, name] => {
                scope.qualified(Some(schema), table, name).map_err(locate)?
            }
            _ => None,
        };
        if let Some(t) = found {
            return Ok(t);
        }
        let e = match parts.as_slice() {
            [name] => {
                let e = SqlError::new("42703", format!("column \"{name}\" does not exist"));
                if let Some(row) = self.whole_row(scope, name).map_err(locate)? {
                    return Ok(row);
                }
                if SYSTEM_COLUMNS.contains(name) {
                    let e = SqlError::unsupported(format!("system column {name} is not supported"));
                    return Err(locate(e.hint("Rows are told apart by a key of the table.")));
                }
                match closest(name, scope.names()) {
                    Some(c) => e.hint(format!(
                        "Perhaps you meant to reference the column \"{c}\"."
                    )),
                    None => e,
                }
            }
            [.., table, _] => SqlError::new(
                "42P01",
                format!("missing FROM-clause entry for table \"{table}\""),
            ),
            [] => SqlError::internal("an empty name"),
        };
        Err(locate(e))
    }
}

/// Tables of one name are told apart by their schemas, where they have no other name.
fn are_apart(one: &Option<String>, other: &Option<String>) -> bool {
    matches!((one, other), (Some(one), Some(other)) if one != other)
}
