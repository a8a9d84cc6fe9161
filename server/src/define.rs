//! From CREATE statements to catalog objects: used by sessions for new objects and by recovery for stored ones, so that
//! both mean the same.

use std::collections::BTreeSet;
use std::sync::Arc;

use parking_lot::Mutex;
use tidemill_planner::SqlError;
use tidemill_planner::ast::{
    Check, ColumnDef, ColumnDefault, Constraints, Name, Options, Query, Sequence, SequenceOptions,
    Statement,
};
use tidemill_planner::catalog::{CatalogView, Relation, broken_view};
use tidemill_planner::definition::{qualify, with_query};
use tidemill_planner::query::{Planner, QueryPlan, SessionContextInfo};

use crate::catalog::object::{check_options, declared_schema, query_text, renamed};
use crate::catalog::record::{Ids, Kind, Record, Settings};
use crate::catalog::{Catalog, CatalogSnapshot, DEFAULT_SCHEMA, Detail, Object, Rows, TableCheck};
use crate::coordinator::ddl::retain_history_ms;
use crate::coordinator::sinks::connector_error;
use crate::coordinator::sources::{Pace, source_spec};
use crate::system::SystemRelations;

/// Where names in a definition are looked up.
pub struct Definer<'a> {
    /// The catalog.
    pub catalog: Arc<Catalog>,
    /// Relations of the system.
    pub system: Arc<SystemRelations>,
    /// SQL.
    pub planner: &'a Planner,
    /// The session; recovery uses the default one.
    pub session: &'a SessionContextInfo,
}

/// A catalog that notes which objects were looked up.
struct Noting<'a> {
    inner: CatalogSnapshot,
    catalog: &'a Catalog,
    seen: Mutex<BTreeSet<u64>>,
}

impl CatalogView for Noting<'_> {
    fn resolve(&self, schema: Option<&str>, name: &str) -> Option<Relation> {
        let relation = self.inner.resolve(schema, name)?;
        let base = relation
            .name
            .strip_suffix("_errors")
            .unwrap_or(&relation.name);
        for name in [relation.name.as_str(), base] {
            if let Some(object) = self.catalog.find(&relation.schema, name) {
                self.seen.lock().insert(object.record.id);
                break;
            }
        }
        Some(relation)
    }

    fn relations(&self) -> Vec<Relation> {
        self.inner.relations()
    }
}

impl Definer<'_> {
    /// The object that a CREATE statement describes, without ids. `sql` is its text.
    pub fn object(&self, statement: &Statement, sql: &str) -> Result<Object, SqlError> {
        match statement {
            Statement::CreateTable {
                name,
                columns,
                primary_key,
                primary_key_name,
                uniques,
                checks,
                options,
                ..
            } => {
                let constraints = Constraints {
                    primary_key: primary_key.clone(),
                    primary_key_name: primary_key_name.clone(),
                    uniques: uniques.clone(),
                    checks: checks.clone(),
                };
                self.table(name, columns, constraints, options, sql)
            }
            Statement::CreateSource {
                name,
                columns,
                options,
                ..
            } => self.source(name, columns, options, sql),
            Statement::CreateView {
                name,
                columns,
                query,
                ..
            } => self.view(name, columns, query, sql),
            Statement::CreateMaterializedView {
                name,
                columns,
                query,
                options,
                ..
            } => self.materialized_view(name, columns, query, options, sql),
            Statement::CreateSink {
                name,
                from,
                options,
                ..
            } => self.sink(name, from, options, sql),
            Statement::CreateIndex {
                name,
                on,
                columns,
                classes,
                unique,
                ..
            } => self.index(name.as_deref(), on, (columns, classes), *unique, sql),
            Statement::CreateSequence { name, options, .. } => self.sequence(name, options),
            _ => Err(SqlError::internal("not a CREATE statement of an object")),
        }
    }

    pub(crate) fn record(&self, kind: Kind, name: &Name, sql: &str, depends: Vec<u64>) -> Record {
        Record {
            id: 0,
            kind,
            schema: name.schema.clone().unwrap_or_else(|| DEFAULT_SCHEMA.into()),
            name: name.name.clone(),
            sql: sql.into(),
            settings: Settings::of(self.session),
            comment: None,
            column_comments: Default::default(),
            planned_names: Default::default(),
            depends,
            constraint: false,
            behind: false,
            owned_by: None,
            ids: Ids::default(),
        }
    }

    fn table(
        &self,
        name: &Name,
        columns: &[ColumnDef],
        constraints: Constraints,
        options: &Options,
        sql: &str,
    ) -> Result<Object, SqlError> {
        check_options(options, &[])?;
        let schema = declared_schema(columns)?;
        let mut key = Vec::new();
        for column in &constraints.primary_key {
            let Some((index, _)) = schema.column_with_name(column) else {
                return Err(SqlError::new(
                    "42703",
                    format!("column \"{column}\" named in key does not exist"),
                ));
            };
            if key.contains(&index) {
                return Err(SqlError::new(
                    "42701",
                    format!("column \"{column}\" appears twice in primary key constraint"),
                ));
            }
            key.push(index);
        }
        let uniques =
            crate::index::uniques(&constraints.uniques, &constraints.primary_key, &schema)?;
        for column in columns {
            if let Some(ColumnDefault::Expression(text)) = &column.default {
                self.check_default(column, text)?;
            }
        }
        // Key columns are never NULL.
        let fields: Vec<_> = schema
            .fields()
            .iter()
            .enumerate()
            .map(|(i, f)| {
                f.as_ref()
                    .clone()
                    .with_nullable(f.is_nullable() && !key.contains(&i))
            })
            .collect();
        let defaults = columns.iter().map(|c| c.default.clone()).collect();
        Ok(Object {
            record: self.record(Kind::Table, name, sql, vec![]),
            columns: tidemill_zset::delta::schema_of(fields),
            detail: Detail::Table {
                primary_key: key,
                primary_key_name: constraints.primary_key_name,
                defaults,
                uniques,
                checks: named(&constraints.checks, &name.name, columns)?,
            },
        })
    }

    fn check_default(&self, column: &ColumnDef, text: &str) -> Result<(), SqlError> {
        let parsed = tidemill_planner::ast::parse(&format!("SELECT {text}"))?;
        let [
            tidemill_planner::ast::Parsed {
                statement: Statement::Query { query, .. },
                ..
            },
        ] = parsed.as_slice()
        else {
            return Err(SqlError::new(
                "42601",
                format!("invalid DEFAULT of column \"{}\"", column.name),
            ));
        };
        let empty = CatalogSnapshot::new(Arc::new(Catalog::new()), self.system.clone(), vec![]);
        self.planner
            .plan_query(&empty, self.session, query, &[])
            .map(drop)
    }

    fn source(
        &self,
        name: &Name,
        columns: &[ColumnDef],
        options: &Options,
        sql: &str,
    ) -> Result<Object, SqlError> {
        let schema = if columns.is_empty() {
            tidemill_connectors::source::default_columns(options)
                .map_err(connector_error)?
                .ok_or_else(|| {
                    SqlError::new("42601", "a source of this connector needs columns")
                        .hint("Declare them: CREATE SOURCE name (column type, …) WITH (…).")
                })?
        } else {
            declared_schema(columns)?
        };
        if let Some(column) = columns.iter().find(|c| c.default.is_some()) {
            return Err(SqlError::unsupported(format!(
                "column \"{}\" of a source can't have a DEFAULT",
                column.name
            )));
        }
        Pace::parse(options)?;
        let persistent_id = options.get("persistent_id").cloned();
        if persistent_id
            .as_deref()
            .is_some_and(|id| id.trim().is_empty())
        {
            return Err(SqlError::new("22023", "option \"persistent_id\" is empty")
                .hint("Choose a name that stays the same."));
        }
        let files = options.get("connector").is_some_and(|c| c == "files");
        let append_only = !files || persistent_id.is_none();
        let object = Object {
            record: self.record(Kind::Source, name, sql, vec![]),
            columns: schema,
            detail: Detail::Source {
                options: options.clone(),
                persistent_id,
                append_only,
            },
        };
        let spec = source_spec(&object).ok_or_else(|| SqlError::internal("a source has a spec"))?;
        tidemill_connectors::source::validate_options(&spec).map_err(connector_error)?;
        Ok(object)
    }

    /// Plans a query and gives the objects that it reads, views included.
    fn plan(&self, query: &Query) -> Result<(QueryPlan, Vec<u64>), SqlError> {
        let inner = CatalogSnapshot::new(
            self.catalog.clone(),
            self.system.clone(),
            self.session.search_path.clone(),
        );
        let noting = Noting {
            inner,
            catalog: &self.catalog,
            seen: Mutex::default(),
        };
        let plan = self.planner.plan_query(&noting, self.session, query, &[])?;
        Ok((plan, noting.seen.into_inner().into_iter().collect()))
    }

    /// What a CREATE VIEW or CREATE MATERIALIZED VIEW computes, as text that is the same for the same.
    pub(crate) fn shape(&self, statement: &Statement) -> Result<String, SqlError> {
        let (Statement::CreateView { query, .. } | Statement::CreateMaterializedView { query, .. }) =
            statement
        else {
            return Err(SqlError::internal("not a view"));
        };
        let plan = self.plan(query)?.0.optimised()?;
        Ok(renumbered(&plan.display_indent().to_string()))
    }

    /// A view's query and the text of its statement so that names mean the same under every search path.
    fn qualified(&self, query: &Query, sql: &str) -> Result<(String, String), SqlError> {
        let names = CatalogSnapshot::new(
            self.catalog.clone(),
            self.system.clone(),
            self.session.search_path.clone(),
        );
        match qualify(query, |name| names.resolve(None, name).map(|r| r.schema)) {
            None => Ok((query_text(query), sql.into())),
            Some(query) => Ok((query_text(&query), with_query(sql, &query)?)),
        }
    }

    fn view(
        &self,
        name: &Name,
        columns: &[String],
        query: &Query,
        sql: &str,
    ) -> Result<Object, SqlError> {
        let (plan, depends) = self.plan(query)?;
        let (text, sql) = self.qualified(query, sql)?;
        Ok(Object {
            record: self.record(Kind::View, name, &sql, depends),
            columns: renamed(&plan.columns, columns)?,
            detail: Detail::View { query: text },
        })
    }

    fn materialized_view(
        &self,
        name: &Name,
        columns: &[String],
        query: &Query,
        options: &Options,
        sql: &str,
    ) -> Result<Object, SqlError> {
        let retain_history_ms = retain_history_ms(options)?;
        let (plan, depends) = self.plan(query)?;
        self.check_inputs(&plan)?;
        let compiled = plan.compile()?;
        let output = compiled.plan.output_storage();
        let (text, sql) = self.qualified(query, sql)?;
        Ok(Object {
            record: self.record(Kind::MaterializedView, name, &sql, depends),
            columns: renamed(&plan.columns, columns)?,
            detail: Detail::MaterializedView {
                query: text,
                plan: Arc::new(compiled.plan),
                output,
                unique: compiled.unique,
                append_only: compiled.append_only,
                retain_history_ms,
            },
        })
    }

    /// The errors of a view are known only when its epoch has been computed, so nothing is maintained from them.
    pub fn check_inputs(&self, plan: &QueryPlan) -> Result<(), SqlError> {
        for input in &plan.inputs {
            if let Some((object, Rows::Errors)) = self.catalog.by_collection(*input)
                && object.record.kind == Kind::MaterializedView
            {
                return Err(SqlError::unsupported(format!(
                    "{}_errors can't be read by a maintained query",
                    object.display_name()
                ))
                .hint("Read it with SELECT, or SUBSCRIBE to it by name."));
            }
        }
        Ok(())
    }

    fn sink(
        &self,
        name: &Name,
        from: &Name,
        options: &Options,
        sql: &str,
    ) -> Result<Object, SqlError> {
        let object = crate::coordinator::ddl::find_any(&self.catalog, from)?;
        match &object.detail {
            Detail::Table { .. } | Detail::MaterializedView { .. } => {}
            Detail::Broken { reason } => return Err(broken_view(&object.display_name(), reason)),
            Detail::Source {
                persistent_id: Some(_),
                ..
            } => {}
            Detail::Source { .. } => {
                return Err(SqlError::unsupported(format!("source {} is not recorded, so a sink of it could not resume", from.name))
                    .hint("Create the source with a persistent_id, or create a materialized view of it and a sink of that."));
            }
            _ => {
                return Err(SqlError::new(
                    "42809",
                    format!(
                        "\"{}\" is not a table, source or materialized view",
                        from.name
                    ),
                )
                .hint("Create a materialized view and a sink of that."));
            }
        }
        let depends = vec![object.record.id];
        Ok(Object {
            record: self.record(Kind::Sink, name, sql, depends),
            columns: tidemill_zset::delta::schema_of(vec![]),
            detail: Detail::Sink {
                from: object.record.id,
                options: options.clone(),
            },
        })
    }

    fn sequence(&self, name: &Name, options: &SequenceOptions) -> Result<Object, SqlError> {
        let sequence = Sequence::declared(options)?;
        let sql = sequence.sql(&crate::catalog::text::quoted(&name.name));
        Ok(Object {
            record: self.record(Kind::Sequence, name, &sql, vec![]),
            columns: tidemill_zset::delta::schema_of(vec![]),
            detail: Detail::Sequence(sequence),
        })
    }
}

/// A plan's text with the names that the optimiser makes up, such as `__correlated_sq_17`, numbered anew: it goes on counting from plan to
/// plan.
fn renumbered(plan: &str) -> String {
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let mut known: Vec<&str> = vec![];
    let mut out = String::with_capacity(plan.len());
    let mut rest = plan;
    while let Some(at) = rest.find("__") {
        let (before, from) = rest.split_at(at);
        let end = from.find(|c| !is_name(c)).unwrap_or(from.len());
        let (name, after) = from.split_at(end);
        out.push_str(before);
        let stem = name.trim_end_matches(|c: char| c.is_ascii_digit());
        if before.ends_with(is_name) || stem.len() == name.len() {
            out.push_str(name);
        } else {
            let number = known.iter().position(|k| *k == name).unwrap_or_else(|| {
                known.push(name);
                known.len() - 1
            });
            out.push_str(&format!("{stem}{number}"));
        }
        rest = after;
    }
    out + rest
}

/// A table's CHECKs in the order of their names. One without a name is called after the table and its column, if it is about
/// one.
fn named(
    checks: &[Check],
    table: &str,
    columns: &[ColumnDef],
) -> Result<Vec<TableCheck>, SqlError> {
    let mut out: Vec<TableCheck> = vec![];
    let of = |check: &Check, name: String| TableCheck {
        name,
        condition: check.condition.clone(),
        columns: (0..columns.len())
            .filter(|n| check.columns.contains(&columns[*n].name))
            .collect(),
    };
    for check in checks.iter().filter(|c| c.name.is_some()) {
        let name = check.name.clone().unwrap_or_default();
        if out.iter().any(|other| other.name == name) {
            let message = format!("constraint \"{name}\" for relation \"{table}\" already exists");
            return Err(SqlError::new("42710", message));
        }
        out.push(of(check, name));
    }
    for check in checks.iter().filter(|c| c.name.is_none()) {
        let stem = match check.columns.as_slice() {
            [column] => format!("{table}_{column}_check"),
            _ => format!("{table}_check"),
        };
        let numbered = (1..).map(|n| format!("{stem}{n}"));
        let name = std::iter::once(stem.clone())
            .chain(numbered)
            .find(|name| out.iter().all(|other| other.name != *name));
        out.push(of(check, name.unwrap_or(stem)));
    }
    out.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::renumbered;

    #[test]
    fn names_that_are_made_up_are_numbered_anew() {
        let plan = |n: usize| format!("a__1 __in_{n}.x = __in_{}.y, __in_{n} __z", n + 4);
        assert_eq!(
            renumbered(&plan(17)),
            "a__1 __in_0.x = __in_1.y, __in_0 __z"
        );
        assert_eq!(renumbered(&plan(3)), renumbered(&plan(1)));
        assert_eq!(renumbered("nothing"), "nothing");
    }
}
