//! The relations of `pg_catalog` and `information_schema`: names, oids, columns, and an empty row.
//!
//! Invariant: a relation's rows have exactly its columns, in order.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

use arrow::datatypes::{Schema, SchemaRef};

use super::columns::RELATIONS;
use super::value::{Ty, Value};

/// A row.
pub type Row = Vec<Value>;

/// A relation's description.
#[derive(Debug)]
pub struct Definition {
    /// `pg_catalog` or `information_schema`.
    pub schema: &'static str,
    /// Its name.
    pub name: &'static str,
    /// PostgreSQL's oid.
    pub oid: u32,
    /// Names and types.
    pub columns: Vec<(&'static str, Ty)>,
}

/// All relations, in the order of [`RELATIONS`].
pub static DEFINITIONS: LazyLock<Vec<Definition>> = LazyLock::new(|| {
    RELATIONS
        .iter()
        .map(|(schema, name, oid, columns)| Definition {
            schema,
            name,
            oid: *oid,
            columns: columns
                .split_whitespace()
                .filter_map(|column| column.split_once(':'))
                .map(|(name, ty)| (name, Ty::named(ty).unwrap_or(Ty::Text)))
                .collect(),
        })
        .collect()
});

static BY_NAME: LazyLock<HashMap<(&str, &str), usize>> = LazyLock::new(|| {
    let numbered = DEFINITIONS.iter().enumerate();
    numbered
        .map(|(number, d)| ((d.schema, d.name), number))
        .collect()
});

/// The relation of a name; without a schema: of `pg_catalog`.
pub fn find(schema: Option<&str>, name: &str) -> Option<&'static Definition> {
    let number = BY_NAME.get(&(schema.unwrap_or("pg_catalog"), name))?;
    DEFINITIONS.get(*number)
}

impl Definition {
    /// Arrow's description of the columns.
    pub fn arrow(&self) -> SchemaRef {
        let fields: Vec<_> = self
            .columns
            .iter()
            .map(|(name, ty)| ty.field(name))
            .collect();
        Arc::new(Schema::new(fields))
    }
}

/// Collects rows in which only some columns are given.
pub struct Rows {
    template: Row,
    places: Vec<usize>,
    rows: Vec<Row>,
}

impl Rows {
    /// Rows of a relation, in which `given` columns follow in each [`Rows::push`]. The others are
    /// zero, false or NULL.
    pub fn of(definition: &Definition, given: &[&str]) -> Rows {
        let template = definition.columns.iter().map(|(name, ty)| match ty {
            Ty::Bool => Value::Bool(false),
            Ty::Int2 | Ty::Int4 | Ty::Int8 if definition.schema == "pg_catalog" => Value::Int(0),
            Ty::Oid if !name.is_empty() => Value::Int(0),
            Ty::Reg(_) => Value::Reg(0, Arc::from("-")),
            Ty::Char => Value::text(""),
            _ => Value::Null,
        });
        let place = |name: &&str| {
            definition
                .columns
                .iter()
                .position(|(column, _)| column == name)
        };
        let places: Vec<usize> = given.iter().filter_map(place).collect();
        debug_assert_eq!(places.len(), given.len(), "columns of {}", definition.name);
        Rows {
            template: template.collect(),
            places,
            rows: Vec::new(),
        }
    }

    /// One more row.
    pub fn push<const N: usize>(&mut self, values: [Value; N]) {
        // A relation of fewer columns than its siblings drops the last ones.
        assert!(N >= self.places.len(), "a value is missing of {N}");
        let mut row = self.template.clone();
        for (place, value) in self.places.iter().zip(values) {
            row[*place] = value;
        }
        self.rows.push(row);
    }

    /// All rows.
    pub fn done(self) -> Vec<Row> {
        self.rows
    }
}
