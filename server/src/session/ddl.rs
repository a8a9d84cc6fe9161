//! CREATE, DROP, ALTER, COMMENT: checked here against the catalog, then sequenced by the coordinator.

use std::path::Path;

use arrow::array::RecordBatch;
use tidemill_connectors::sink::FileSink;
use tidemill_connectors::source::reads_file;
use tidemill_planner::SqlError;
use tidemill_planner::ast::{
    AlterAction, ColumnDefault, Name, NumberingKind, Options, Parsed, SequenceOptions, Statement,
};

use super::alter::Alter;
use super::execution::planning;
use super::sql::SqlSession;
use super::write::RETRIES_MAX;
use super::write_rows::rows_of_query;
use super::{Notice, Response};
use crate::catalog::record::OwnedBy;
use crate::catalog::{Catalog, Detail, Object};
use crate::coordinator::Message;
use crate::coordinator::build::{BuildRequest, BuildTarget};
use crate::coordinator::ddl::Ddl;
use crate::coordinator::sequences::AlterSequence;
use crate::coordinator::sinks::open_file;
use crate::coordinator::sources::source_spec;
use crate::numbers::{numbered, sequence_name};
use crate::published::Published;

impl SqlSession {
    /// DDL takes effect at once. In a transaction, what was read before it must still hold after it, as if everything had begun then.
    pub(super) async fn ddl(&mut self, parsed: &Parsed) -> Result<Response, SqlError> {
        self.ddl_with(parsed, &[]).await
    }

    /// CREATE TABLE of a table that has these rows in it from the beginning, or other DDL without any.
    pub(super) async fn ddl_with(
        &mut self,
        parsed: &Parsed,
        filled: &[RecordBatch],
    ) -> Result<Response, SqlError> {
        if self.settings.is_on("transaction_read_only") {
            let tag = tag(&parsed.statement);
            let message = format!("cannot execute {tag} in a read-only transaction");
            return Err(SqlError::new("25006", message));
        }
        self.move_forward().await?;
        let published = self.pin();
        if self.skips_existing(&published, &parsed.statement) {
            return Ok(Response::Tag(tag(&parsed.statement)));
        }
        match &parsed.statement {
            Statement::CreateMaterializedView { .. } | Statement::CreateIndex { .. } => {
                self.build(parsed).await?
            }
            Statement::Alter { name, actions, .. }
                if matches!(actions.as_slice(), [AlterAction::Restart { .. }]) =>
            {
                let ddl = self.restart_of(&published, name, actions)?;
                let ddl = |reply| Message::Ddl(ddl, reply);
                self.handle.change(&self.underway, ddl).await?;
            }
            Statement::Alter {
                kind,
                name,
                if_exists,
                actions,
            } => {
                let alter = Alter {
                    kind: *kind,
                    name,
                    if_exists: *if_exists,
                    actions,
                };
                self.alter(&alter).await?
            }
            statement => {
                let prepare = || self.prepare_ddl(&published, statement, &parsed.sql, filled);
                let ddl = planning(prepare)?;
                let ddl = |reply| Message::Ddl(ddl, reply);
                let notices = self.handle.change(&self.underway, ddl).await?;
                notices.into_iter().for_each(|n| self.notify(n));
            }
        }
        let tag = tag(&parsed.statement);
        if let Some(transaction) = &mut self.transaction {
            transaction.ddl.push(tag.clone());
            let now = self.handle.env.publisher.pin();
            transaction.follow(&parsed.statement, &published.catalog, &now.catalog);
        }
        self.move_forward().await?;
        Ok(Response::Tag(tag))
    }

    /// IF NOT EXISTS: an object that is there makes the rest of the statement irrelevant.
    fn skips_existing(&mut self, published: &Published, statement: &Statement) -> bool {
        let name = match statement {
            Statement::CreateTable {
                name,
                if_not_exists: true,
                ..
            }
            | Statement::CreateSource {
                name,
                if_not_exists: true,
                ..
            }
            | Statement::CreateView {
                name,
                if_not_exists: true,
                ..
            }
            | Statement::CreateMaterializedView {
                name,
                if_not_exists: true,
                ..
            }
            | Statement::CreateSequence {
                name,
                if_not_exists: true,
                ..
            }
            | Statement::CreateSink {
                name,
                if_not_exists: true,
                ..
            } => name,
            Statement::CreateIndex {
                name: Some(name),
                if_not_exists: true,
                on,
                ..
            } => &Name {
                schema: on.schema.clone(),
                name: name.clone(),
            },
            _ => return false,
        };
        let exists = published.catalog.lookup(name).is_some();
        if exists {
            let message = format!("relation \"{}\" already exists, skipping", name.name);
            self.notify(Notice {
                severity: "NOTICE",
                sqlstate: "42P07",
                message,
                hint: None,
            });
        }
        exists
    }

    fn prepare_ddl(
        &mut self,
        published: &Published,
        statement: &Statement,
        sql: &str,
        filled: &[RecordBatch],
    ) -> Result<Ddl, SqlError> {
        let create = |object: Object,
                      if_not_exists: bool,
                      or_replace: bool,
                      file: Option<FileSink>| Ddl::Create {
            object: Box::new(object),
            seen: published.catalog.clone(),
            if_not_exists,
            or_replace,
            file: file.map(Box::new),
            rows: None,
        };
        let context = self.context();
        Ok(match statement {
            Statement::CreateSchema { name, .. } if name.starts_with("pg_") => {
                return Err(
                    SqlError::new("42939", format!("unacceptable schema name \"{name}\""))
                        .detail("The prefix \"pg_\" is reserved for system schemas."),
                );
            }
            Statement::CreateSchema {
                name,
                if_not_exists,
            } => Ddl::CreateSchema {
                name: name.clone(),
                if_not_exists: *if_not_exists,
            },
            Statement::CreateTable {
                if_not_exists,
                columns,
                ..
            } => {
                let object = self.definer(published, &context).object(statement, sql)?;
                // Not for tables that are there already, which have to open again.
                for (column, field) in columns.iter().zip(object.columns.fields()) {
                    if let Some(ColumnDefault::Expression(default)) = &column.default {
                        let planner = &self.handle.env.planner;
                        planner.check_default(&context, field, default)?;
                    }
                }
                self.check_checks(&object)?;
                check_key_name(&object)?;
                let first = match filled.is_empty() {
                    true => None,
                    false => Some(rows_of_query(&object, filled)?),
                };
                let mut ddl = create(object, *if_not_exists, false, None);
                if let Ddl::Create { rows, .. } = &mut ddl {
                    *rows = first;
                }
                ddl
            }
            Statement::CreateSource { if_not_exists, .. } => {
                let object = self.definer(published, &context).object(statement, sql)?;
                if let Detail::Source {
                    persistent_id: None,
                    ..
                } = &object.detail
                {
                    let message =
                        format!("rows of source \"{}\" are not recorded", object.record.name);
                    let hint = "It begins with the first view, subscription or SELECT that reads it; SELECT and views created later read \
                                the input again, as long as it is unchanged. With persistent_id = '…' rows are recorded and the input may go.";
                    self.notify(Notice {
                        severity: "NOTICE",
                        sqlstate: "00000",
                        message,
                        hint: Some(hint.into()),
                    });
                }
                create(object, *if_not_exists, false, None)
            }
            Statement::CreateView {
                if_not_exists,
                or_replace,
                ..
            } => {
                let mut object = self.definer(published, &context).object(statement, sql)?;
                self.place_view(&mut object)?;
                create(object, *if_not_exists, *or_replace, None)
            }
            Statement::CreateSink { if_not_exists, .. } => {
                let object = self.definer(published, &context).object(statement, sql)?;
                let Detail::Sink { from, options } = &object.detail else {
                    return Err(SqlError::internal("not a sink"));
                };
                let followed = published
                    .catalog
                    .get(*from)
                    .ok_or_else(|| SqlError::internal("the relation was found"))?;
                published.catalog.free_name(&tidemill_planner::ast::Name {
                    schema: Some(object.record.schema.clone()),
                    name: object.record.name.clone(),
                })?;
                check_no_circle(options, followed, &published.catalog)?;
                let file = open_file(options, followed, None)?;
                create(object, *if_not_exists, false, Some(file))
            }
            Statement::CreateSequence {
                if_not_exists,
                options,
                ..
            } => {
                let mut object = self.definer(published, &context).object(statement, sql)?;
                object.record.owned_by = match &options.owned_by {
                    Some(Some(owner)) => Some(self.owner(published, owner)?),
                    _ => None,
                };
                create(object, *if_not_exists, false, None)
            }
            Statement::AlterSequence {
                name,
                if_exists,
                options,
            } => {
                let owned_by = match &options.owned_by {
                    Some(Some(owner)) => Some(Some(self.owner(published, owner)?)),
                    Some(None) => Some(None),
                    None => None,
                };
                let mut options = options.clone();
                options.owned_by = None;
                Ddl::AlterSequence(Box::new(AlterSequence {
                    name: name.clone(),
                    if_exists: *if_exists,
                    options,
                    owned_by,
                }))
            }
            Statement::Drop {
                kind,
                names,
                if_exists,
                cascade,
                purge,
            } => Ddl::Drop {
                kind: *kind,
                names: names.clone(),
                if_exists: *if_exists,
                cascade: *cascade,
                purge: *purge,
            },
            Statement::Rename {
                kind,
                name,
                if_exists,
                to,
            } => Ddl::Rename {
                kind: *kind,
                name: name.clone(),
                if_exists: *if_exists,
                to: to.clone(),
            },
            Statement::Comment {
                kind,
                name,
                column,
                comment,
            } => Ddl::Comment {
                kind: *kind,
                name: name.clone(),
                column: column.clone(),
                comment: comment.clone(),
            },
            _ => return Err(SqlError::internal("not DDL")),
        })
    }

    /// ALTER COLUMN … RESTART.
    fn restart_of(
        &self,
        published: &Published,
        table: &Name,
        actions: &[AlterAction],
    ) -> Result<Ddl, SqlError> {
        let target = self.target(published, table.schema.as_deref(), &table.name)?;
        let [AlterAction::Restart { column, with }] = actions else {
            return Err(SqlError::internal("not RESTART"));
        };
        let object = &target.object;
        let numbered = numbered(object)
            .filter(|(_, numbering)| numbering.kind != NumberingKind::Serial)
            .map(|(n, _)| n)
            .find(|n| object.columns.field(*n).name() == column);
        let Some(number) = numbered else {
            let table = &table.name;
            let message =
                format!("column \"{column}\" of relation \"{table}\" is not an identity column");
            return Err(SqlError::new("55000", message));
        };
        Ok(Ddl::AlterSequence(Box::new(AlterSequence {
            name: Name {
                schema: Some(object.record.schema.clone()),
                name: sequence_name(object, number),
            },
            if_exists: false,
            options: SequenceOptions {
                restart: Some(*with),
                ..SequenceOptions::default()
            },
            owned_by: None,
        })))
    }

    /// The column of OWNED BY.
    fn owner(
        &self,
        published: &Published,
        (table, column): &(Name, String),
    ) -> Result<OwnedBy, SqlError> {
        let target = self.target(published, table.schema.as_deref(), &table.name)?;
        if target.object.columns.index_of(column).is_err() {
            let message = format!(
                "column \"{column}\" of relation \"{}\" does not exist",
                table.name
            );
            return Err(SqlError::new("42703", message));
        }
        Ok(OwnedBy {
            table: target.object.record.id,
            column: column.clone(),
        })
    }

    /// CREATE MATERIALIZED VIEW, CREATE INDEX: what is there already is taken in beside everything else.
    /// Again if what it reads was altered meanwhile. Who waits for another statement that makes a relation of the same name finds that
    /// it is there.
    async fn build(&mut self, parsed: &Parsed) -> Result<(), SqlError> {
        for _ in 0..RETRIES_MAX {
            let published = self.pin();
            match self.try_build(&published, parsed).await {
                Err(e) if e.sqlstate == "40001" && self.transaction.is_none() => continue,
                Err(e) if e.sqlstate == "42P07" => {
                    let now = self.handle.env.publisher.pin();
                    return match self.skips_existing(&now, &parsed.statement) {
                        true => Ok(()),
                        false => Err(e),
                    };
                }
                built => return built,
            }
        }
        let published = self.pin();
        self.try_build(&published, parsed).await
    }

    async fn try_build(&mut self, published: &Published, parsed: &Parsed) -> Result<(), SqlError> {
        let context = self.context();
        let plan = || {
            let definer = self.definer(published, &context);
            definer.object(&parsed.statement, &parsed.sql)
        };
        let object = planning(plan)?;
        let (Detail::MaterializedView { plan, .. } | Detail::Index { plan, .. }) = &object.detail
        else {
            return Err(SqlError::internal("nothing to build"));
        };
        self.check_permanent(&object, &published.catalog)?;
        let (plan, depends) = (plan.clone(), object.record.depends.clone());
        let request = Box::new(BuildRequest {
            target: BuildTarget::View(Box::new(object)),
            plan,
            depends,
            seen: published.catalog.clone(),
        });
        self.handle
            .change(&self.underway, |reply| Message::Build(request, reply))
            .await
            .map(drop)
    }
}

/// What a sink writes must not be read by a source that it stands on: that would never end.
fn check_no_circle(
    options: &Options,
    followed: &Object,
    catalog: &Catalog,
) -> Result<(), SqlError> {
    let Some(path) = options.get("path") else {
        return Ok(());
    };
    let mut below = vec![followed.record.id];
    let mut seen = 0;
    while let Some(object) = below.get(seen).and_then(|id| catalog.get(*id)) {
        seen += 1;
        let spec = source_spec(object);
        if spec.is_some_and(|spec| reads_file(&spec, Path::new(path))) {
            let source = object.display_name();
            let message = format!(
                "source {source}, which the sink stands on, would read its file \"{path}\""
            );
            return Err(SqlError::new("22023", message)
                .hint("Choose a path outside of what the source reads."));
        }
        let more = object.record.depends.iter();
        let more: Vec<u64> = more.filter(|id| !below.contains(id)).copied().collect();
        below.extend(more);
    }
    Ok(())
}

/// A key's name must be no other constraint's, and a PRIMARY KEY's not the table's, when it is made.
fn check_key_name(table: &Object) -> Result<(), SqlError> {
    let Detail::Table {
        primary_key_name,
        uniques,
        checks,
        ..
    } = &table.detail
    else {
        return Ok(());
    };
    let name = &table.record.name;
    let named = uniques.iter().filter_map(|u| u.name.as_ref());
    let mut keys = primary_key_name.iter().chain(named);
    if let Some(key) = keys.find(|key| checks.iter().any(|c| c.name == **key)) {
        let message = format!("constraint \"{key}\" for relation \"{name}\" already exists");
        return Err(SqlError::new("42710", message));
    }
    let Some(key) = primary_key_name else {
        return Ok(());
    };
    if key == name || uniques.iter().any(|u| u.name.as_ref() == Some(key)) {
        let message = format!("relation \"{key}\" already exists");
        return Err(SqlError::new("42P07", message));
    }
    Ok(())
}

/// The command tag of a DDL statement.
fn tag(statement: &Statement) -> String {
    match statement {
        Statement::CreateSchema { .. } => "CREATE SCHEMA".into(),
        Statement::CreateTable { .. } => "CREATE TABLE".into(),
        Statement::CreateSource { .. } => "CREATE SOURCE".into(),
        Statement::CreateView { .. } => "CREATE VIEW".into(),
        Statement::CreateMaterializedView { .. } => "CREATE MATERIALIZED VIEW".into(),
        Statement::CreateSink { .. } => "CREATE SINK".into(),
        Statement::CreateIndex { .. } => "CREATE INDEX".into(),
        Statement::CreateSequence { .. } => "CREATE SEQUENCE".into(),
        Statement::AlterSequence { .. } => "ALTER SEQUENCE".into(),
        Statement::Drop { kind, .. } => format!("DROP {}", kind.words().to_uppercase()),
        Statement::Rename { kind, .. } | Statement::Alter { kind, .. } => {
            format!("ALTER {}", kind.words().to_uppercase())
        }
        _ => "COMMENT".into(),
    }
}
