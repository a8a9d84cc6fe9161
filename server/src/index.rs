//! What CREATE INDEX and UNIQUE mean: an ordered arrangement of all columns of a table, recorded source or materialized view,
//! the index's columns first, kept up to date by a dataflow that only hands the changes on.

use std::sync::Arc;

use arrow::datatypes::{Field, SchemaRef};
use tidemill_dataflow::plan::{DataflowPlan, Node, Op};
use tidemill_planner::SqlError;
use tidemill_planner::ast::{Name, Nulls, Unique};
use tidemill_planner::catalog::broken_view;
use tidemill_planner::definition::index_sql;
use tidemill_zset::delta::schema_of;
use tidemill_zset::order_code::has_rank;
use tidemill_zset::schema::SqlType;

use crate::catalog::record::{Ids, Kind, Record};
use crate::catalog::{Catalog, Detail, Object};
use crate::coordinator::ddl::find_any;
use crate::define::Definer;
use crate::reader::key_first;

/// As in PostgreSQL.
const COLUMNS_MAX: usize = 32;
/// Bytes of a name that is made up.
const NAME_BYTES_MAX: usize = 63;

impl Definer<'_> {
    /// The object that CREATE INDEX describes, without ids.
    pub(crate) fn index(
        &self,
        name: Option<&str>,
        on: &Name,
        (columns, classes): (&[String], &[(String, String)]),
        unique: Option<Nulls>,
        sql: &str,
    ) -> Result<Object, SqlError> {
        let relation = find_any(&self.catalog, on)?;
        check_relation(relation)?;
        if unique.is_some() && relation.record.kind != Kind::Table {
            return Err(SqlError::unsupported(format!(
                "a unique index on {} {} is not supported",
                relation.record.kind.words(),
                relation.display_name()
            ))
            .hint("Only the rows of tables can be kept unique."));
        }
        let name = match name {
            Some(name) => name.to_string(),
            None => free_name(&self.catalog, relation, columns, "idx"),
        };
        let name = Name {
            schema: Some(relation.record.schema.clone()),
            name,
        };
        let detail = detail(relation, columns, unique)?;
        for (column, class) in classes {
            if let Some((_, field)) = relation.columns.column_with_name(column) {
                check_class(class, &SqlType::of(field))?;
            }
        }
        Ok(Object {
            record: self.record(Kind::Index, &name, sql, vec![relation.record.id]),
            columns: schema_of(vec![]),
            detail,
        })
    }
}

/// The index of a UNIQUE of `table`, without ids.
pub(crate) fn of_constraint(
    catalog: &Catalog,
    table: &Object,
    unique: &Unique,
) -> Result<Object, SqlError> {
    let record = &table.record;
    let name = match &unique.name {
        Some(name) => name.clone(),
        None => free_name(catalog, table, &unique.columns, "key"),
    };
    let sql = index_sql(
        Some(&name),
        (&record.schema, &record.name),
        &unique.columns,
        Some(unique.nulls),
    );
    Ok(Object {
        record: Record {
            id: 0,
            kind: Kind::Index,
            schema: record.schema.clone(),
            name,
            sql,
            settings: record.settings.clone(),
            comment: None,
            column_comments: Default::default(),
            planned_names: Default::default(),
            depends: vec![record.id],
            constraint: true,
            behind: false,
            owned_by: None,
            ids: Ids::default(),
        },
        columns: schema_of(vec![]),
        detail: detail(table, &unique.columns, Some(unique.nulls))?,
    })
}

/// What an index on columns of `relation` is.
pub(crate) fn detail(
    relation: &Object,
    columns: &[String],
    unique: Option<Nulls>,
) -> Result<Detail, SqlError> {
    let collection = relation.record.ids.collection;
    let collection =
        collection.ok_or_else(|| SqlError::internal("a stored relation is a collection"))?;
    let keys = key_columns(columns, &relation.columns)?;
    let order = key_first(&keys, relation.columns.fields().len());
    let schema = relation.columns.project(&order);
    let schema = Arc::new(schema.map_err(|e| SqlError::internal(e.to_string()))?);
    let root = Node {
        op: Op::Input {
            collection,
            columns: order,
        },
        inputs: vec![],
        schema,
        append_only: false,
    };
    Ok(Detail::Index {
        on: relation.record.id,
        columns: keys,
        unique,
        plan: Arc::new(DataflowPlan { root }),
    })
}

/// The UNIQUEs of a table for which an index is made: those with the columns of the PRIMARY KEY or of an earlier one say
/// nothing new.
pub(crate) fn uniques(
    given: &[Unique],
    primary_key: &[String],
    schema: &SchemaRef,
) -> Result<Vec<Unique>, SqlError> {
    let mut kept: Vec<Unique> = vec![];
    for unique in given {
        for (i, column) in unique.columns.iter().enumerate() {
            if schema.column_with_name(column).is_none() {
                let message = format!("column \"{column}\" named in key does not exist");
                return Err(SqlError::new("42703", message));
            }
            if unique.columns[..i].contains(column) {
                let message = format!("column \"{column}\" appears twice in unique constraint");
                return Err(SqlError::new("42701", message));
            }
        }
        key_columns(&unique.columns, schema)?;
        if unique.columns == primary_key && unique.nulls == Nulls::Distinct {
            continue;
        }
        let same = |o: &&mut Unique| o.columns == unique.columns && o.nulls == unique.nulls;
        match kept.iter_mut().find(same) {
            Some(earlier) if earlier.name.is_none() => earlier.name = unique.name.clone(),
            Some(_) => {}
            None => kept.push(unique.clone()),
        }
    }
    Ok(kept)
}

fn check_relation(relation: &Object) -> Result<(), SqlError> {
    let name = relation.display_name();
    match &relation.detail {
        Detail::Table { .. } | Detail::MaterializedView { .. } => Ok(()),
        Detail::Source {
            persistent_id: Some(_),
            ..
        } => Ok(()),
        Detail::Source { .. } => Err(SqlError::unsupported(format!(
            "source {name} is not recorded, so there is nothing to index"
        ))
        .hint(
            "Create the source with a persistent_id, or a materialized view of it and an index on that.",
        )),
        Detail::Broken { reason } => Err(broken_view(&name, reason)),
        Detail::View { .. } => Err(SqlError::new(
            "42809",
            format!("cannot create index on relation \"{name}\""),
        )
        .detail("This operation is not supported for views.")
        .hint("Create a materialized view and an index on that.")),
        _ => Err(SqlError::new(
            "42809",
            format!("cannot create index on relation \"{name}\""),
        )
        .detail(format!(
            "This operation is not supported for {}s.",
            relation.record.kind.words()
        ))),
    }
}

/// The numbers of the index's columns, if they can be in one.
fn key_columns(columns: &[String], schema: &SchemaRef) -> Result<Vec<usize>, SqlError> {
    if columns.len() > COLUMNS_MAX {
        return Err(SqlError::new(
            "54011",
            format!("cannot use more than {COLUMNS_MAX} columns in an index"),
        ));
    }
    let mut keys = Vec::with_capacity(columns.len());
    for column in columns {
        let Some((number, field)) = schema.column_with_name(column) else {
            return Err(SqlError::new(
                "42703",
                format!("column \"{column}\" does not exist"),
            ));
        };
        if keys.contains(&number) {
            return Err(SqlError::new(
                "42701",
                format!("column \"{column}\" appears twice in the index"),
            ));
        }
        check_type(field)?;
        keys.push(number);
    }
    Ok(keys)
}

/// An operator class must be one for the column's type; it says nothing then, as a type has one order, which serves LIKE too.
fn check_class(class: &str, ty: &SqlType) -> Result<(), SqlError> {
    let fits = match class {
        "text_ops" | "varchar_ops" | "text_pattern_ops" | "varchar_pattern_ops" => {
            matches!(ty, SqlType::Text | SqlType::Varchar(_))
        }
        "bpchar_ops" | "bpchar_pattern_ops" => {
            matches!(ty, SqlType::Text | SqlType::Varchar(_) | SqlType::Char(_))
        }
        "bool_ops" => *ty == SqlType::Bool,
        "int2_ops" => *ty == SqlType::Int2,
        "int4_ops" => *ty == SqlType::Int4,
        "int8_ops" => *ty == SqlType::Int8,
        "float4_ops" => *ty == SqlType::Float4,
        "float8_ops" => *ty == SqlType::Float8,
        "numeric_ops" => matches!(ty, SqlType::Numeric(..)),
        "bytea_ops" => *ty == SqlType::Bytea,
        "date_ops" => *ty == SqlType::Date,
        "time_ops" => *ty == SqlType::Time,
        "timestamp_ops" => *ty == SqlType::Timestamp,
        "timestamptz_ops" => *ty == SqlType::Timestamptz,
        "interval_ops" => *ty == SqlType::Interval,
        "uuid_ops" => *ty == SqlType::Uuid,
        "array_ops" => matches!(ty, SqlType::Array(_)),
        _ => {
            return Err(SqlError::new(
                "42704",
                format!("operator class \"{class}\" does not exist for access method \"btree\""),
            ));
        }
    };
    match fits {
        true => Ok(()),
        false => Err(SqlError::new(
            "42804",
            format!("operator class \"{class}\" does not accept data type {ty}"),
        )),
    }
}

/// True if ranges of the column's values are ranges of its ranks.
pub fn has_order(field: &Field) -> bool {
    SqlType::of(field) != SqlType::Jsonb && has_rank(field.data_type())
}

fn check_type(field: &Field) -> Result<(), SqlError> {
    let sql = SqlType::of(field);
    if sql == SqlType::Json {
        return Err(SqlError::new(
            "42704",
            "data type json has no default operator class for access method \"btree\"",
        )
        .hint("Values of type json can't be compared."));
    }
    if !has_order(field) {
        return Err(SqlError::unsupported(format!(
            "column \"{}\" of type {sql} can't be in an index",
            field.name()
        ))
        .hint("Create a materialized view with a column of a plain type, such as an element or its text, and an index on that."));
    }
    Ok(())
}

/// `table_column_idx` or `table_column_key`, with a number if that is taken.
fn free_name(catalog: &Catalog, relation: &Object, columns: &[String], label: &str) -> String {
    let schema = relation.record.schema.as_str();
    let base = format!("{}_{}", relation.record.name, columns.join("_"));
    (0u64..)
        .map(|n| {
            let end = match n {
                0 => format!("_{label}"),
                n => format!("_{label}{n}"),
            };
            let mut cut = base.len().min(NAME_BYTES_MAX - end.len());
            while !base.is_char_boundary(cut) {
                cut -= 1;
            }
            format!("{}{end}", &base[..cut])
        })
        .find(|name| catalog.find(schema, name).is_none())
        .expect("a catalog is finite")
}
