//! `pg_stat_…` and `pg_statio_…` of tables and indexes. What isn't counted is 0.

use super::CatalogSnapshot;
use super::fill::{indexes, int, kind, text};
use super::relations::{Definition, Row, Rows};
use super::value::Value;

/// The rows, if the relation is one of these.
pub fn rows(definition: &Definition, snapshot: &CatalogSnapshot) -> Option<Vec<Row>> {
    let stored = snapshot.relations.iter();
    let stored = stored.filter(|relation| matches!(kind(relation), "r" | "m"));
    match definition.name {
        "pg_stat_all_tables" | "pg_stat_user_tables" => {
            let given = ["relid", "schemaname", "relname", "n_live_tup"];
            let mut rows = Rows::of(definition, &given);
            for relation in stored {
                let live = relation.rows.map(|n| n as i64);
                rows.push([
                    int(relation.oid),
                    text(&relation.schema),
                    text(&relation.name),
                    Value::Int(live.unwrap_or(0)),
                ]);
            }
            Some(rows.done())
        }
        "pg_statio_all_tables" | "pg_statio_user_tables" => {
            let mut rows = Rows::of(definition, &["relid", "schemaname", "relname"]);
            for relation in stored {
                let (schema, name) = (text(&relation.schema), text(&relation.name));
                rows.push([int(relation.oid), schema, name]);
            }
            Some(rows.done())
        }
        "pg_stat_all_indexes"
        | "pg_stat_user_indexes"
        | "pg_statio_all_indexes"
        | "pg_statio_user_indexes" => {
            let given = [
                "relid",
                "indexrelid",
                "schemaname",
                "relname",
                "indexrelname",
            ];
            let mut rows = Rows::of(definition, &given);
            for relation in stored {
                for index in indexes(relation) {
                    rows.push([
                        int(relation.oid),
                        int(index.oid),
                        text(&relation.schema),
                        text(&relation.name),
                        text(&index.name),
                    ]);
                }
            }
            Some(rows.done())
        }
        _ => None,
    }
}
