//! [`Draft`]: a table while the actions of ALTER TABLE are applied to it.

use std::sync::Arc;

use arrow::datatypes::Field;
use tidemill_planner::SqlError;
use tidemill_planner::ast::{
    AlterAction, ColumnDef, ColumnDefault, Constraints, Numbering, NumberingKind, SequenceOptions,
    Unique,
};
use tidemill_planner::catalog::{Relation, RelationKind};
use tidemill_planner::definition::rename_column;
use tidemill_planner::query::WRITTEN;
use tidemill_zset::schema::SqlType;

use super::{From, distinct, names, renamed, statement};
use crate::catalog::{Catalog, Detail, Object, TableCheck, text};
use crate::coordinator::ddl::notice;
use crate::define::Definer;
use crate::session::Notice;

struct Column {
    name: String,
    ty: SqlType,
    nullable: bool,
    default: Option<ColumnDefault>,
    /// Its default was given by this statement.
    given: bool,
    from: From,
}

struct Check {
    name: Option<String>,
    condition: String,
    columns: Vec<String>,
    new: bool,
}

struct Index {
    object: Arc<Object>,
    columns: Vec<String>,
    dropped: bool,
}

/// See the module's documentation.
pub struct Draft {
    old: Arc<Object>,
    /// Names for plans follow names.
    record: crate::catalog::Record,
    columns: Vec<Column>,
    primary_key: Vec<String>,
    primary_key_name: Option<String>,
    checks: Vec<Check>,
    indexes: Vec<Index>,
    uniques: Vec<Unique>,
    /// Columns that went, and whether CASCADE was said.
    gone: Vec<(usize, bool)>,
    pub notices: Vec<Notice>,
    /// Something is other than it was.
    pub touched: bool,
}

impl Draft {
    pub fn of(catalog: &Catalog, old: &Arc<Object>) -> Result<Draft, SqlError> {
        let Detail::Table {
            primary_key,
            primary_key_name,
            defaults,
            checks,
            ..
        } = &old.detail
        else {
            return Err(SqlError::internal("not a table"));
        };
        let all = names(old);
        let named = |columns: &[usize]| columns.iter().map(|c| all[*c].clone()).collect();
        let column = |(n, f): (usize, &Arc<Field>)| Column {
            name: f.name().clone(),
            ty: SqlType::of(f),
            nullable: f.is_nullable(),
            default: defaults.get(n).cloned().flatten(),
            given: false,
            from: From::Column(n),
        };
        let index = |object: &Arc<Object>| match &object.detail {
            Detail::Index { columns, .. } => Some(Index {
                object: object.clone(),
                columns: named(columns),
                dropped: false,
            }),
            _ => None,
        };
        let check = |c: &TableCheck| Check {
            name: Some(c.name.clone()),
            condition: c.condition.clone(),
            columns: named(&c.columns),
            new: false,
        };
        Ok(Draft {
            record: old.record.clone(),
            columns: old
                .columns
                .fields()
                .iter()
                .enumerate()
                .map(column)
                .collect(),
            primary_key: named(primary_key),
            primary_key_name: primary_key_name.clone(),
            checks: checks.iter().map(check).collect(),
            indexes: catalog
                .indexes_on(old.record.id)
                .filter_map(index)
                .collect(),
            uniques: vec![],
            gone: vec![],
            notices: vec![],
            touched: false,
            old: old.clone(),
        })
    }

    pub fn apply(&mut self, definer: &Definer, actions: &[AlterAction]) -> Result<(), SqlError> {
        let mut ordered: Vec<&AlterAction> = actions.iter().collect();
        ordered.sort_by_key(|a| pass(a));
        for action in ordered {
            match action {
                AlterAction::DropColumn {
                    column,
                    if_exists,
                    cascade,
                } => self.drop_column(column, *if_exists, *cascade)?,
                AlterAction::DropConstraint {
                    name, if_exists, ..
                } => self.drop_constraint(name, *if_exists)?,
                AlterAction::SetType {
                    column,
                    data_type,
                    using,
                } => self.set_type(definer, column, data_type, using.as_deref())?,
                AlterAction::AddColumn {
                    column,
                    constraints,
                    if_not_exists,
                } => self.add_column(column, constraints, *if_not_exists)?,
                AlterAction::AddConstraint(constraints) => self.add_constraints(constraints)?,
                AlterAction::SetDefault { column, default } => {
                    self.set_default(column, default.as_deref())?
                }
                AlterAction::SetNullable { column, nullable } => {
                    self.set_nullable(column, *nullable)?
                }
                AlterAction::AddIdentity {
                    column,
                    kind,
                    options,
                } => self.add_identity(column, *kind, options)?,
                AlterAction::SetIdentity { column, kind } => self.set_identity(column, *kind)?,
                AlterAction::DropIdentity { column, if_exists } => {
                    self.drop_identity(column, *if_exists)?
                }
                AlterAction::Restart { .. } => {
                    return Err(SqlError::unsupported(
                        "RESTART beside other actions is not supported",
                    )
                    .hint("Say it in a statement of its own."));
                }
                AlterAction::RenameColumn { from, to } => self.rename_column(from, to)?,
                AlterAction::RenameConstraint { from, to } => self.rename_constraint(from, to)?,
            }
        }
        Ok(())
    }

    fn no_column(&self, column: &str) -> SqlError {
        let table = &self.old.record.name;
        let message = format!("column \"{column}\" of relation \"{table}\" does not exist");
        SqlError::new("42703", message)
    }

    fn number(&self, column: &str) -> Result<usize, SqlError> {
        let found = self.columns.iter().position(|c| c.name == column);
        found.ok_or_else(|| self.no_column(column))
    }

    fn add_column(
        &mut self,
        column: &ColumnDef,
        constraints: &Constraints,
        if_not_exists: bool,
    ) -> Result<(), SqlError> {
        if self.number(&column.name).is_ok() {
            let (name, table) = (&column.name, &self.old.record.name);
            let message = format!("column \"{name}\" of relation \"{table}\" already exists");
            if !if_not_exists {
                return Err(SqlError::new("42701", message));
            }
            self.notices
                .push(notice("42701", format!("{message}, skipping")));
            return Ok(());
        }
        self.touched = true;
        let others: Vec<String> = self.columns.iter().map(|c| c.name.clone()).collect();
        distinct(&mut self.record.planned_names, others.iter(), &column.name);
        self.columns.push(Column {
            name: column.name.clone(),
            ty: column.data_type.clone(),
            nullable: column.nullable,
            default: column.default.clone(),
            given: true,
            from: From::New,
        });
        self.add_constraints(constraints)
    }

    fn drop_column(
        &mut self,
        column: &str,
        if_exists: bool,
        cascade: bool,
    ) -> Result<(), SqlError> {
        let n = match self.number(column) {
            Err(e) if if_exists => {
                self.notices
                    .push(notice("00000", format!("{}, skipping", e.message)));
                return Ok(());
            }
            other => other?,
        };
        self.touched = true;
        let gone = self.columns.remove(n);
        self.gone.extend(gone.from.column().map(|c| (c, cascade)));
        if self.primary_key.iter().any(|c| c == column) {
            self.primary_key.clear();
        }
        let has = |columns: &[String]| columns.iter().any(|c| c == column);
        self.checks.retain(|c| !has(&c.columns));
        for index in self.indexes.iter_mut().filter(|i| has(&i.columns)) {
            index.dropped = true;
        }
        self.record.column_comments.remove(column);
        self.record.planned_names.remove(column);
        Ok(())
    }

    fn rename_column(&mut self, from: &str, to: &str) -> Result<(), SqlError> {
        let missing = |_| SqlError::new("42703", format!("column \"{from}\" does not exist"));
        let n = self.number(from).map_err(missing)?;
        if self.number(to).is_ok() {
            let table = &self.old.record.name;
            let message = format!("column \"{to}\" of relation \"{table}\" already exists");
            return Err(SqlError::new("42701", message));
        }
        let all: Vec<String> = self.columns.iter().map(|c| c.name.clone()).collect();
        renamed(&mut self.record.planned_names, from, to, &all);
        self.touched = true;
        self.columns[n].name = to.to_string();
        let lists = self.indexes.iter_mut().map(|i| &mut i.columns);
        let lists = lists.chain(self.checks.iter_mut().map(|c| &mut c.columns));
        for name in lists.chain([&mut self.primary_key]).flatten() {
            if name == from {
                *name = to.to_string();
            }
        }
        for check in &mut self.checks {
            check.condition = rename_column(&check.condition, from, to)?;
        }
        if let Some(comment) = self.record.column_comments.remove(from) {
            self.record.column_comments.insert(to.into(), comment);
        }
        Ok(())
    }

    fn set_default(&mut self, column: &str, default: Option<&str>) -> Result<(), SqlError> {
        let n = self.number(column)?;
        self.check_not_identity(n, default.is_none())?;
        self.touched = true;
        let column = &mut self.columns[n];
        column.default = default.map(|text| ColumnDefault::Expression(text.into()));
        column.given = true;
        Ok(())
    }

    fn check_not_identity(&self, n: usize, drops: bool) -> Result<(), SqlError> {
        let column = &self.columns[n];
        match &column.default {
            Some(ColumnDefault::Numbering(n)) if n.kind != NumberingKind::Serial => {
                let (name, table) = (&column.name, &self.old.record.name);
                let message =
                    format!("column \"{name}\" of relation \"{table}\" is an identity column");
                let e = SqlError::new("42601", message);
                Err(match drops {
                    true => e.hint("ALTER COLUMN … DROP IDENTITY does that."),
                    false => e,
                })
            }
            _ => Ok(()),
        }
    }

    fn add_identity(
        &mut self,
        column: &str,
        kind: NumberingKind,
        options: &SequenceOptions,
    ) -> Result<(), SqlError> {
        let n = self.number(column)?;
        let of = &self.columns[n];
        let refused = |what: &str| {
            let table = &self.old.record.name;
            let message = format!("column \"{column}\" of relation \"{table}\" {what}");
            Err(SqlError::new("55000", message))
        };
        match &of.default {
            Some(ColumnDefault::Numbering(n)) if n.kind != NumberingKind::Serial => {
                return refused("is already an identity column");
            }
            Some(_) => return refused("already has a default value"),
            None if of.nullable => {
                return refused("must be declared NOT NULL before identity can be added");
            }
            None => {}
        }
        let numbering = Numbering::of_identity(&of.ty, kind, options)?;
        self.columns[n].default = Some(ColumnDefault::Numbering(numbering));
        self.touched = true;
        Ok(())
    }

    fn set_identity(&mut self, column: &str, kind: NumberingKind) -> Result<(), SqlError> {
        let n = self.number(column)?;
        match &mut self.columns[n].default {
            Some(ColumnDefault::Numbering(n)) if n.kind != NumberingKind::Serial => {
                n.kind = kind;
                self.touched = true;
                Ok(())
            }
            _ => Err(self.no_identity(column)),
        }
    }

    fn no_identity(&self, column: &str) -> SqlError {
        let table = &self.old.record.name;
        let message =
            format!("column \"{column}\" of relation \"{table}\" is not an identity column");
        SqlError::new("55000", message)
    }

    fn drop_identity(&mut self, column: &str, if_exists: bool) -> Result<(), SqlError> {
        let n = self.number(column)?;
        let identity = match &self.columns[n].default {
            Some(ColumnDefault::Numbering(numbering)) => numbering.kind != NumberingKind::Serial,
            _ => false,
        };
        if !identity {
            let e = self.no_identity(column);
            if !if_exists {
                return Err(e);
            }
            self.notices
                .push(notice("00000", format!("{}, skipping", e.message)));
            return Ok(());
        }
        self.columns[n].default = None;
        self.touched = true;
        Ok(())
    }

    fn set_nullable(&mut self, column: &str, nullable: bool) -> Result<(), SqlError> {
        let n = self.number(column)?;
        if nullable {
            self.check_not_identity(n, false)?;
            if self.primary_key.iter().any(|c| c == column) {
                let message = format!("column \"{column}\" is in a primary key");
                return Err(SqlError::new("42P16", message));
            }
        }
        self.touched |= self.columns[n].nullable != nullable;
        self.columns[n].nullable = nullable;
        Ok(())
    }

    fn set_type(
        &mut self,
        definer: &Definer,
        name: &str,
        to: &SqlType,
        using: Option<&str>,
    ) -> Result<(), SqlError> {
        let n = self.number(name)?;
        let From::Column(before) = self.columns[n].from else {
            let message = format!("cannot alter type of column \"{name}\" twice");
            return Err(SqlError::new("0A000", message));
        };
        let table = Relation {
            id: WRITTEN,
            schema: self.old.record.schema.clone(),
            name: self.old.record.name.clone(),
            kind: RelationKind::Table,
            columns: self.old.columns.clone(),
            oid: 0,
            planned: None,
            primary_key: None,
            unique: None,
            append_only: false,
        };
        let (planner, session) = (definer.planner, definer.session);
        planner.check_transform(session, (name, using), to, &table)?;
        let column = &mut self.columns[n];
        match &column.default {
            // NULL is of any type.
            Some(ColumnDefault::Expression(default)) if default.eq_ignore_ascii_case("null") => {}
            Some(ColumnDefault::Expression(default)) if column.ty != *to => {
                let field = to.field(name, true);
                // It is of the type that the column had, also if it looks like a literal of any type.
                let typed = format!("CAST({default} AS {})", column.ty);
                let checked = planner.check_default(session, &field, &typed);
                checked.map_err(|mut e| {
                    if e.sqlstate == "42804" {
                        let to = crate::alter::plain(to);
                        e.message = format!(
                            "default for column \"{name}\" cannot be cast automatically to type {to}"
                        );
                        e.hint = None;
                    }
                    e
                })?;
                if default.starts_with('\'') {
                    column.default = Some(ColumnDefault::Expression(typed));
                }
            }
            Some(ColumnDefault::Numbering(_))
                if !matches!(to, SqlType::Int2 | SqlType::Int4 | SqlType::Int8) =>
            {
                return Err(SqlError::new(
                    "22023",
                    "identity column type must be smallint, integer, or bigint",
                )
                .hint("Drop the DEFAULT of the column first."));
            }
            Some(ColumnDefault::Numbering(numbering)) => {
                let numbering = numbering.retyped(&column.ty, to)?;
                column.default = Some(ColumnDefault::Numbering(numbering));
            }
            _ => {}
        }
        if column.ty != *to || using.is_some() {
            column.ty = to.clone();
            self.touched = true;
            column.from = From::Converted(before, using.map(String::from));
        }
        Ok(())
    }

    fn add_constraints(&mut self, constraints: &Constraints) -> Result<(), SqlError> {
        self.touched = true;
        let table = &self.old.record.name;
        if !constraints.primary_key.is_empty() {
            if !self.primary_key.is_empty() {
                let message =
                    format!("multiple primary keys for table \"{table}\" are not allowed");
                return Err(SqlError::new("42P16", message));
            }
            for column in &constraints.primary_key {
                self.in_key(column)?;
                let n = self.number(column)?;
                self.columns[n].nullable = false;
            }
            self.primary_key = constraints.primary_key.clone();
            self.primary_key_name = constraints.primary_key_name.clone();
        }
        for unique in &constraints.uniques {
            if unique.name.as_deref().is_some_and(|name| self.is_key(name)) {
                let name = unique.name.as_deref().unwrap_or_default();
                let message = format!("relation \"{name}\" already exists");
                return Err(SqlError::new("42P07", message));
            }
            if let Some(name) = &unique.name
                && self.checks.iter().any(|c| c.name.as_ref() == Some(name))
            {
                return Err(taken(name, table));
            }
            for column in &unique.columns {
                self.in_key(column)?;
            }
            self.uniques.push(unique.clone());
        }
        for check in &constraints.checks {
            if let Some(name) = &check.name {
                let is_taken = self.is_key(name)
                    || self.checks.iter().any(|c| c.name.as_ref() == Some(name))
                    || self.uniques.iter().any(|u| u.name.as_ref() == Some(name))
                    || self.indexes.iter().any(|i| i.object.record.name == *name);
                if is_taken {
                    return Err(taken(name, table));
                }
            }
            self.checks.push(Check {
                name: check.name.clone(),
                condition: check.condition.clone(),
                columns: check.columns.clone(),
                new: true,
            });
        }
        Ok(())
    }

    fn in_key(&self, column: &str) -> Result<(), SqlError> {
        let missing = |_| {
            let message = format!("column \"{column}\" named in key does not exist");
            SqlError::new("42703", message)
        };
        self.number(column).map(drop).map_err(missing)
    }

    /// Whether it is the PRIMARY KEY's name.
    fn is_key(&self, name: &str) -> bool {
        let given = self.primary_key_name.as_deref();
        let derived = || format!("{}_pkey", self.old.record.name);
        !self.primary_key.is_empty() && given.map_or_else(|| name == derived(), |n| n == name)
    }

    fn rename_constraint(&mut self, from: &str, to: &str) -> Result<(), SqlError> {
        let table = &self.old.record.name;
        let is_taken = self.is_key(to)
            || self.checks.iter().any(|c| c.name.as_deref() == Some(to))
            || self.indexes.iter().any(|i| i.object.record.name == to);
        if is_taken {
            return Err(taken(to, table));
        }
        let mut checks = self.checks.iter();
        if self.is_key(from) {
            self.primary_key_name = Some(to.to_string());
        } else if let Some(n) = checks.position(|c| c.name.as_deref() == Some(from)) {
            self.checks[n].name = Some(to.to_string());
        } else if self.indexes.iter().any(|i| i.object.record.name == from) {
            return Err(SqlError::unsupported(
                "RENAME CONSTRAINT is not supported for UNIQUE constraints",
            )
            .hint(format!("ALTER INDEX {from} RENAME TO {to} does the same.")));
        } else {
            let message = format!("constraint \"{from}\" for table \"{table}\" does not exist");
            return Err(SqlError::new("42704", message));
        }
        self.touched = true;
        Ok(())
    }

    fn drop_constraint(&mut self, name: &str, if_exists: bool) -> Result<(), SqlError> {
        let table = &self.old.record.name;
        if self.is_key(name) {
            self.primary_key.clear();
            self.primary_key_name = None;
            self.touched = true;
            return Ok(());
        }
        let index = self
            .indexes
            .iter_mut()
            .find(|i| i.object.record.constraint && i.object.record.name == name && !i.dropped);
        if let Some(index) = index {
            index.dropped = true;
            self.touched = true;
            return Ok(());
        }
        let before = self.checks.len();
        self.checks.retain(|c| c.name.as_deref() != Some(name));
        if self.checks.len() < before {
            self.touched = true;
            return Ok(());
        }
        let message = format!("constraint \"{name}\" of relation \"{table}\" does not exist");
        if !if_exists {
            return Err(SqlError::new("42704", message));
        }
        self.notices
            .push(notice("00000", format!("{message}, skipping")));
        Ok(())
    }

    /// The table, with the ids that it has.
    pub fn object(&self, definer: &Definer) -> Result<Object, SqlError> {
        if self.columns.is_empty() {
            return Err(
                SqlError::unsupported("a table without columns is not supported")
                    .hint("Drop the table, or add another column in the same statement."),
            );
        }
        for column in self.columns.iter().filter(|c| c.given) {
            if let Some(ColumnDefault::Expression(text)) = &column.default {
                let field = column.ty.field(&column.name, column.nullable);
                let planner = definer.planner;
                planner.check_default(definer.session, &field, text)?;
            }
        }
        let sql = self.written(&self.uniques);
        let mut object = definer.object(&statement(&sql)?, &sql)?;
        object.record = crate::catalog::Record {
            sql,
            ..self.record.clone()
        };
        Ok(object)
    }

    /// The CREATE TABLE of the table as it has become, its constraints with the names that they got.
    pub fn text(&self, object: &Object, uniques: &[Unique]) -> String {
        let Detail::Table { checks, .. } = &object.detail else {
            return self.written(uniques);
        };
        let named = checks
            .iter()
            .map(|c| (Some(c.name.as_str()), c.condition.as_str()));
        self.write(uniques, named)
    }

    fn written(&self, uniques: &[Unique]) -> String {
        let checks = self.checks.iter();
        self.write(
            uniques,
            checks.map(|c| (c.name.as_deref(), c.condition.as_str())),
        )
    }

    fn write<'c>(
        &self,
        uniques: &[Unique],
        checks: impl Iterator<Item = (Option<&'c str>, &'c str)>,
    ) -> String {
        let columns = self.columns.iter();
        let mut items: Vec<String> = columns
            .map(|c| text::column(&c.name, &c.ty, c.default.as_ref(), c.nullable))
            .collect();
        if !self.primary_key.is_empty() {
            let key = text::list(self.primary_key.iter().map(String::as_str));
            let key = format!("PRIMARY KEY ({key})");
            items.push(text::constraint(self.primary_key_name.as_deref(), &key));
        }
        let uniques = uniques.iter();
        items.extend(uniques.map(|u| text::constraint(u.name.as_deref(), &text::unique(u))));
        items.extend(
            checks.map(|(name, condition)| text::constraint(name, &format!("CHECK ({condition})"))),
        );
        let record = &self.old.record;
        let (schema, name) = (text::quoted(&record.schema), text::quoted(&record.name));
        format!("CREATE TABLE {schema}.{name} ({})", items.join(", "))
    }

    /// Where the columns come from.
    pub fn sources(&self) -> Vec<From> {
        self.columns.iter().map(|c| c.from.clone()).collect()
    }

    /// Indexes that go.
    pub fn dropped_indexes(&self) -> Vec<u64> {
        let dropped = self.indexes.iter().filter(|i| i.dropped);
        dropped.map(|i| i.object.record.id).collect()
    }

    /// Indexes that stay, with the numbers that their columns have now.
    pub fn kept_indexes(&self) -> Vec<Object> {
        let number = |name: &String| self.columns.iter().position(|c| c.name == *name);
        let kept = self.indexes.iter().filter(|i| !i.dropped);
        let renumbered = kept.map(|index| {
            let mut object = Object::clone(&index.object);
            if let Detail::Index { columns, .. } = &mut object.detail {
                *columns = index.columns.iter().filter_map(number).collect();
            }
            object
        });
        renumbered.collect()
    }

    /// UNIQUEs that come.
    pub fn new_uniques(&self) -> &[Unique] {
        &self.uniques
    }

    /// Columns that went, and whether CASCADE was said.
    pub fn gone(&self) -> &[(usize, bool)] {
        &self.gone
    }

    /// Columns whose type changed.
    pub fn converted(&self) -> Vec<usize> {
        let converted = self.columns.iter().filter_map(|c| match &c.from {
            From::Converted(n, _) => Some(*n),
            _ => None,
        });
        converted.collect()
    }

    /// CHECKs that the rows haven't been checked with.
    pub fn has_unchecked(&self) -> bool {
        let converted = |name: &String| {
            let mut columns = self.columns.iter();
            columns.any(|c| c.name == *name && matches!(c.from, From::Converted(..)))
        };
        let mut checks = self.checks.iter();
        checks.any(|c| c.new || c.columns.iter().any(converted))
    }
}

/// PostgreSQL's order.
fn pass(action: &AlterAction) -> u8 {
    match action {
        AlterAction::DropColumn { .. }
        | AlterAction::DropConstraint { .. }
        | AlterAction::SetNullable { nullable: true, .. }
        | AlterAction::DropIdentity { .. }
        | AlterAction::SetDefault { default: None, .. } => 0,
        AlterAction::SetType { .. } => 1,
        AlterAction::AddColumn { .. } => 2,
        AlterAction::SetNullable { .. } => 3,
        AlterAction::AddConstraint(_) => 4,
        AlterAction::SetDefault { .. }
        | AlterAction::AddIdentity { .. }
        | AlterAction::SetIdentity { .. }
        | AlterAction::Restart { .. } => 5,
        AlterAction::RenameColumn { .. } | AlterAction::RenameConstraint { .. } => 6,
    }
}

/// The error of a constraint's name that another one has.
fn taken(name: &str, table: &str) -> SqlError {
    let message = format!("constraint \"{name}\" for relation \"{table}\" already exists");
    SqlError::new("42710", message)
}
