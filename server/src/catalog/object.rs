//! [`Object`]: a catalog record with everything that its SQL says, derived anew at every start.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::datatypes::{Field, SchemaRef};
use tidemill_dataflow::plan::{DataflowPlan, OutputStorage};
use tidemill_planner::SqlError;
use tidemill_planner::ast::{ColumnDef, ColumnDefault, Nulls, Options, Query, Sequence, Unique};
use tidemill_zset::delta::schema_of;

use super::record::{Kind, Record};

/// An object of the catalog.
#[derive(Clone)]
pub struct Object {
    /// What is durable.
    pub record: Record,
    /// Its columns (empty for sinks, indexes and sequences).
    pub columns: SchemaRef,
    /// What else there is to know, by kind.
    pub detail: Detail,
}

/// A CHECK of a table.
#[derive(Clone, Debug)]
pub struct TableCheck {
    /// Its name, given or made up.
    pub name: String,
    /// The condition's text.
    pub condition: String,
    /// Numbers of the columns that the condition names, from 0.
    pub columns: Vec<usize>,
}

/// What the SQL of an object says.
#[derive(Clone)]
pub enum Detail {
    /// A table.
    Table {
        /// Columns of the key; empty: none, rows may repeat.
        primary_key: Vec<usize>,
        /// The key's name, if it was given one.
        primary_key_name: Option<String>,
        /// What columns hold where an INSERT doesn't say.
        defaults: Vec<Option<ColumnDefault>>,
        /// UNIQUEs, for which indexes are made with the table.
        uniques: Vec<Unique>,
        /// CHECKs, by name.
        checks: Vec<TableCheck>,
    },
    /// A source.
    Source {
        /// WITH options.
        options: Options,
        /// Recorded under this id.
        persistent_id: Option<String>,
        /// Its connector never retracts rows.
        append_only: bool,
    },
    /// A view that is only a name for a query.
    View {
        /// The query's text.
        query: String,
    },
    /// A maintained view.
    MaterializedView {
        /// The query's text.
        query: String,
        /// What the workers run.
        plan: Arc<DataflowPlan>,
        /// Where its rows are read.
        output: OutputStorage,
        /// Columns whose combination is unique.
        unique: Option<Vec<usize>>,
        /// Rows are never retracted.
        append_only: bool,
        /// History that readers may ask for, milliseconds.
        retain_history_ms: i64,
    },
    /// A sink.
    Sink {
        /// The object it follows.
        from: u64,
        /// WITH options.
        options: Options,
    },
    /// An index.
    Index {
        /// The indexed object.
        on: u64,
        /// Its columns.
        columns: Vec<usize>,
        /// Set if it keeps them unique.
        unique: Option<Nulls>,
        /// What the workers run: the object's changes, the index's columns first.
        plan: Arc<DataflowPlan>,
    },
    /// A sequence.
    Sequence(Sequence),
    /// A view, or what stands on one, whose SQL the last start couldn't plan. What is stored of it stays as it is.
    Broken {
        /// Why.
        reason: String,
    },
}

impl Object {
    /// The name of its PRIMARY KEY: the given one, else one after the table.
    pub fn primary_key_name(&self) -> String {
        let given = match &self.detail {
            Detail::Table {
                primary_key_name, ..
            } => primary_key_name.clone(),
            _ => None,
        };
        given.unwrap_or_else(|| format!("{}_pkey", self.record.name))
    }

    /// A view, whether it stores its rows or not.
    pub fn is_view(&self) -> bool {
        matches!(self.record.kind, Kind::View | Kind::MaterializedView)
    }

    /// Why it couldn't be restored at the last start.
    pub fn broken(&self) -> Option<&str> {
        match &self.detail {
            Detail::Broken { reason } => Some(reason),
            _ => None,
        }
    }

    /// Columns of its error relation, if it has one.
    pub fn error_columns(&self) -> Option<SchemaRef> {
        match self.record.kind {
            Kind::Source => Some(tidemill_connectors::source::error_schema()),
            Kind::MaterializedView => Some(tidemill_dataflow::operator::error_schema()),
            _ => None,
        }
    }

    /// What plans call the columns, if not by their names.
    pub fn planned_names(&self) -> Option<Arc<Vec<String>>> {
        let names = &self.record.planned_names;
        let of = |f: &Arc<Field>| names.get(f.name()).unwrap_or(f.name()).clone();
        let all = || Arc::new(self.columns.fields().iter().map(of).collect());
        (!names.is_empty()).then(all)
    }

    /// `schema.name`, without the schema where it is the default one.
    pub fn display_name(&self) -> String {
        if self.record.schema == super::DEFAULT_SCHEMA {
            self.record.name.clone()
        } else {
            format!("{}.{}", self.record.schema, self.record.name)
        }
    }
}

/// The Arrow schema of declared columns; duplicate names are 42701.
pub fn declared_schema(columns: &[ColumnDef]) -> Result<SchemaRef, SqlError> {
    let mut seen = std::collections::HashSet::new();
    for column in columns {
        if !seen.insert(&column.name) {
            let message = format!("column \"{}\" specified more than once", column.name);
            return Err(SqlError::new("42701", message));
        }
    }
    let fields: Vec<Field> = columns
        .iter()
        .map(|c| c.data_type.field(&c.name, c.nullable))
        .collect();
    Ok(schema_of(fields))
}

/// `schema` with its columns renamed to `names` (a view's column list); too many names are 42601.
pub fn renamed(schema: &SchemaRef, names: &[String]) -> Result<SchemaRef, SqlError> {
    if names.len() > schema.fields().len() {
        return Err(SqlError::new(
            "42601",
            "CREATE VIEW specifies more column names than columns",
        ));
    }
    let fields: Vec<Field> = schema
        .fields()
        .iter()
        .enumerate()
        .map(|(i, f)| {
            let field = f.as_ref().clone();
            names.get(i).map_or(field.clone(), |n| field.with_name(n))
        })
        .collect();
    let mut seen = std::collections::HashSet::new();
    for field in &fields {
        if !seen.insert(field.name()) {
            let message = format!("column \"{}\" specified more than once", field.name());
            return Err(SqlError::new("42701", message).hint(
                "Give every column of the view a name of its own, with AS or a column list.",
            ));
        }
    }
    Ok(schema_of(fields))
}

/// Parses a duration option such as `10ms`, `1.5 s`, `2 minutes`, `1h`, `1 day`, to milliseconds.
pub fn duration_ms(option: &str, text: &str) -> Result<i64, SqlError> {
    let trimmed = text.trim();
    let split = trimmed
        .find(|c: char| !(c.is_ascii_digit() || c == '.'))
        .unwrap_or(trimmed.len());
    let (number, unit) = (
        &trimmed[..split],
        trimmed[split..].trim().to_ascii_lowercase(),
    );
    let factor = match unit.as_str() {
        "ms" | "msec" | "msecs" | "millisecond" | "milliseconds" => 1.0,
        "s" | "sec" | "secs" | "second" | "seconds" => 1e3,
        "m" | "min" | "mins" | "minute" | "minutes" => 6e4,
        "h" | "hr" | "hrs" | "hour" | "hours" => 3.6e6,
        "d" | "day" | "days" => 8.64e7,
        _ => f64::NAN,
    };
    match number.parse::<f64>() {
        Ok(n) if factor.is_finite() && n * factor <= 1e15 => Ok((n * factor).round() as i64),
        _ => Err(SqlError::new(
            "22023",
            format!("invalid value for option \"{option}\": \"{text}\""),
        )
        .hint("Write a duration with its unit, e.g. '10ms', '5 seconds', '1 hour'.")),
    }
}

/// Refuses options that `allowed` doesn't name.
pub fn check_options(options: &BTreeMap<String, String>, allowed: &[&str]) -> Result<(), SqlError> {
    let Some(unknown) = options.keys().find(|k| !allowed.contains(&k.as_str())) else {
        return Ok(());
    };
    let e = SqlError::new("22023", format!("unrecognized option \"{unknown}\""));
    Err(match (allowed, unknown.as_str()) {
        ([], "connector") => e.hint("Use CREATE SOURCE to read from a connector."),
        ([], _) => e.hint("There are no options here."),
        _ => e.hint(format!("Allowed here: {}.", allowed.join(", "))),
    })
}

/// The text of a query as SQL prints it.
pub fn query_text(query: &Query) -> String {
    query.to_string()
}
