//! Functions that catalog queries call.
//!
//! Invariant: a function gets as many arguments as the query wrote; missing ones are [`Value::Null`]
//! (see [`arg`]). Functions that aren't strict say so.

use std::sync::Arc;

use tidemill_planner::SqlError;
use tidemill_planner::functions::bytes::hashed;
use tidemill_planner::functions::registry::overloads;

use super::RelationType;
use tidemill_planner::names::split_name;

use super::context::{
    Context, DATABASE_OWNER, OWNER_OID, format_type, quote_ident, quote_literal, type_oid,
};
use super::fill;
use super::plan::Pattern;
use super::server_wide;
use super::value::{RegKind, Ty, Value};
use super::{advisory, sequences};
use crate::catalog::TEMPORARY_PREFIX;
use crate::session::advisory::Mode::{Exclusive, Shared};
use crate::session::advisory::Until::{TransactionEnd, Unlocked};

/// The type of a call.
#[derive(Clone, Copy, Debug)]
pub enum Returns {
    /// Always this.
    Type(Ty),
    /// An array of it.
    Array(Ty),
    /// That of the first argument that isn't a NULL literal.
    First,
}

/// A scalar function.
#[derive(Debug)]
pub struct Function {
    /// Its name.
    pub name: &'static str,
    /// Type of its result.
    pub returns: Returns,
    /// NULL in, NULL out.
    pub strict: bool,
    /// True for functions that make a query one of the catalog even without FROM.
    pub catalog: bool,
    /// The function itself.
    pub run: fn(&[Value], &Context<'_>) -> Result<Value, SqlError>,
}

/// An argument; NULL where the query gave none.
fn arg(args: &[Value], number: usize) -> &Value {
    args.get(number).unwrap_or(&Value::Null)
}

fn int(args: &[Value], number: usize) -> i64 {
    arg(args, number).int().unwrap_or(0)
}

fn text(args: &[Value], number: usize) -> String {
    arg(args, number).show()
}

/// Of arrays of one dimension, which all are.
fn array_length(args: &[Value], _: &Context<'_>) -> Result<Value, SqlError> {
    let length = items(arg(args, 0)).len() as i64;
    Ok(match (length, arg(args, 1).int()) {
        (1.., Some(1)) => Value::Int(length),
        _ => Value::Null,
    })
}

fn items(value: &Value) -> &[Value] {
    match value {
        Value::Array(items) => items,
        _ => &[],
    }
}

macro_rules! functions {
    ($($kind:ident $name:literal => $returns:expr, $run:expr;)*) => {
        /// All functions.
        static FUNCTIONS: &[Function] = &[$(Function {
            name: $name,
            returns: $returns,
            strict: functions!(@strict $kind),
            catalog: functions!(@catalog $kind),
            run: $run,
        }),*];
    };
    (@strict catalog) => { true };
    (@strict anyway) => { false };
    (@strict plain) => { true };
    (@strict lenient) => { false };
    (@catalog catalog) => { true };
    (@catalog anyway) => { true };
    (@catalog plain) => { false };
    (@catalog lenient) => { false };
}

const TEXT: Returns = Returns::Type(Ty::Text);
const NAME: Returns = Returns::Type(Ty::Name);
const BOOL: Returns = Returns::Type(Ty::Bool);
const INT: Returns = Returns::Type(Ty::Int4);
const BIGINT: Returns = Returns::Type(Ty::Int8);

// `catalog`: strict; `anyway`: sees NULLs; both make a query the catalog's. `plain` and `lenient`:
// the same for functions that the planner has too.
functions! {
    catalog "pg_table_is_visible" => BOOL, |a, c| Ok(Value::Bool(c.is_visible(int(a, 0))));
    catalog "pg_type_is_visible" => BOOL, |_, _| Ok(Value::Bool(true));
    catalog "pg_function_is_visible" => BOOL, |_, _| Ok(Value::Bool(true));
    catalog "pg_operator_is_visible" => BOOL, |_, _| Ok(Value::Bool(true));
    catalog "pg_opclass_is_visible" => BOOL, |_, _| Ok(Value::Bool(true));
    catalog "pg_opfamily_is_visible" => BOOL, |_, _| Ok(Value::Bool(true));
    catalog "pg_collation_is_visible" => BOOL, |_, _| Ok(Value::Bool(true));
    catalog "pg_conversion_is_visible" => BOOL, |_, _| Ok(Value::Bool(true));
    catalog "pg_statistics_obj_is_visible" => BOOL, |_, _| Ok(Value::Bool(true));
    catalog "pg_ts_config_is_visible" => BOOL, |_, _| Ok(Value::Bool(true));
    catalog "pg_ts_dict_is_visible" => BOOL, |_, _| Ok(Value::Bool(true));
    catalog "pg_ts_parser_is_visible" => BOOL, |_, _| Ok(Value::Bool(true));
    catalog "pg_ts_template_is_visible" => BOOL, |_, _| Ok(Value::Bool(true));
    catalog "pg_get_userbyid" => NAME, |a, c| Ok(match arg(a, 0).int() {
        Some(oid) if oid == DATABASE_OWNER.0 => Value::text(DATABASE_OWNER.1),
        _ => Value::text(&c.snapshot.user),
    });
    anyway "format_type" => TEXT, |a, _| Ok(match arg(a, 0).int() {
        Some(oid) => Value::text(format_type(oid, arg(a, 1).int())),
        None => Value::Null,
    });
    catalog "pg_get_expr" => TEXT, |a, _| Ok(arg(a, 0).clone());
    catalog "pg_get_viewdef" => TEXT, |a, c| {
        let oid = arg(a, 0).int().or_else(|| c.find_relation(&text(a, 0))).unwrap_or(0);
        Ok(fill::view_definition(c.snapshot, c.relation(oid)))
    };
    catalog "pg_get_indexdef" => TEXT, |a, c| Ok(fill::index_definition(c.snapshot, int(a, 0), int(a, 1)));
    catalog "pg_get_constraintdef" => TEXT, |a, c| Ok(fill::constraint_definition(c.snapshot, int(a, 0)));
    anyway "pg_get_ruledef" => TEXT, |_, _| Ok(Value::Null);
    anyway "pg_get_triggerdef" => TEXT, |_, _| Ok(Value::Null);
    anyway "pg_get_functiondef" => TEXT, |_, _| Ok(Value::Null);
    anyway "pg_get_function_result" => TEXT, |_, _| Ok(Value::Null);
    anyway "pg_get_function_arguments" => TEXT, |_, _| Ok(Value::Null);
    anyway "pg_get_function_identity_arguments" => TEXT, |_, _| Ok(Value::Null);
    anyway "pg_get_function_arg_default" => TEXT, |_, _| Ok(Value::Null);
    anyway "pg_get_function_sqlbody" => TEXT, |_, _| Ok(Value::Null);
    anyway "pg_get_partkeydef" => TEXT, |_, _| Ok(Value::Null);
    anyway "pg_get_partition_constraintdef" => TEXT, |_, _| Ok(Value::Null);
    anyway "pg_get_statisticsobjdef" => TEXT, |_, _| Ok(Value::Null);
    anyway "pg_get_statisticsobjdef_columns" => TEXT, |_, _| Ok(Value::Null);
    catalog "pg_get_serial_sequence" => TEXT, |a, c| {
        let relation = c.find_relation(&text(a, 0)).and_then(|oid| c.relation(oid));
        let Some(relation) = relation else {
            let message = format!("relation \"{}\" does not exist", text(a, 0));
            return Err(SqlError::new("42P01", message));
        };
        Ok(sequences::of_column(c.snapshot, relation, &text(a, 1))?.map_or(Value::Null, Value::text))
    };
    anyway "pg_get_replica_identity_index" => Returns::Type(Ty::Oid), |_, _| Ok(Value::Null);
    anyway "pg_collation_for" => TEXT, |_, _| Ok(Value::Null);
    anyway "obj_description" => TEXT, |a, c| Ok(fill::description(c.snapshot, int(a, 0), 0));
    catalog "col_description" => TEXT, |a, c| Ok(fill::description(c.snapshot, int(a, 0), int(a, 1)));
    anyway "shobj_description" => TEXT, |_, _| Ok(Value::Null);
    catalog "pg_encoding_to_char" => NAME, |a, _| {
        Ok(Value::text(if int(a, 0) == fill::UTF8 { "UTF8" } else { "" }))
    };
    catalog "pg_char_to_encoding" => INT, |_, _| Ok(Value::Int(fill::UTF8));
    catalog "getdatabaseencoding" => NAME, |_, _| Ok(Value::text("UTF8"));
    catalog "pg_client_encoding" => NAME, |_, _| Ok(Value::text("UTF8"));
    anyway "current_schema" => NAME, |_, c| {
        let mut path = c.snapshot.search_path.iter().map(String::as_str);
        Ok(Value::maybe(path.find(|schema| !schema.starts_with(TEMPORARY_PREFIX))))
    };
    catalog "current_schemas" => Returns::Array(Ty::Name), |a, c| {
        let implicit = arg(a, 0).bool().unwrap_or(false);
        let path = c.snapshot.search_path.iter().map(String::as_str);
        let (own, path): (Vec<&str>, Vec<&str>) =
            path.partition(|schema| schema.starts_with(TEMPORARY_PREFIX));
        let before = implicit.then_some(own.into_iter().chain(["pg_catalog"]));
        let all = before.into_iter().flatten().chain(path);
        Ok(Value::Array(all.map(Value::text).collect()))
    };
    anyway "current_database" => NAME, |_, c| Ok(Value::text(&c.snapshot.database));
    anyway "current_catalog" => NAME, |_, c| Ok(Value::text(&c.snapshot.database));
    anyway "current_user" => NAME, |_, c| Ok(Value::text(&c.snapshot.user));
    anyway "session_user" => NAME, |_, c| Ok(Value::text(&c.snapshot.user));
    anyway "current_role" => NAME, |_, c| Ok(Value::text(&c.snapshot.user));
    anyway "user" => NAME, |_, c| Ok(Value::text(&c.snapshot.user));
    anyway "version" => TEXT, |_, c| {
        Ok(Value::text(format!("PostgreSQL {}", c.snapshot.server_version)))
    };
    anyway "pg_backend_pid" => INT, |_, c| Ok(Value::Int(i64::from(c.snapshot.backend_pid)));
    catalog "pg_cancel_backend" => BOOL, |a, c| {
        match int(a, 0) == i64::from(c.snapshot.backend_pid) {
            true => Err(SqlError::new("57014", "canceling statement due to user request")),
            false => Ok(Value::Bool(signal(a, c, false))),
        }
    };
    catalog "pg_terminate_backend" => BOOL, |a, c| Ok(Value::Bool(signal(a, c, true)));
    anyway "pg_is_in_recovery" => BOOL, |_, _| Ok(Value::Bool(false));
    catalog "pg_my_temp_schema" => Returns::Type(Ty::Oid), |_, c| {
        Ok(Value::Int(c.own_temporary().and_then(|own| c.find_schema(own)).unwrap_or(0)))
    };
    anyway "pg_is_other_temp_schema" => BOOL, |_, _| Ok(Value::Bool(false));
    anyway "pg_postmaster_start_time" => Returns::Type(Ty::Timestamptz), |_, c| Ok(Value::time(c.snapshot.started));
    anyway "pg_conf_load_time" => Returns::Type(Ty::Timestamptz), |_, c| Ok(Value::time(c.snapshot.started));
    anyway "inet_server_addr" => TEXT, |_, _| Ok(Value::Null);
    anyway "inet_server_port" => INT, |_, _| Ok(Value::Null);
    anyway "inet_client_addr" => TEXT, |_, _| Ok(Value::Null);
    anyway "inet_client_port" => INT, |_, _| Ok(Value::Null);
    anyway "set_config" => TEXT, |a, c| {
        // Names are checked when the session takes it over.
        let value = arg(a, 1);
        let local = arg(a, 2).bool() == Some(true);
        let given = (!value.is_null()).then(|| value.show());
        c.effects.borrow_mut().settings.push((text(a, 0), given, local));
        Ok(value.clone())
    };
    catalog "pg_sleep" => TEXT, |a, c| {
        let seconds = match arg(a, 0) {
            Value::Float(seconds) => *seconds,
            other => {
                let shown = other.show();
                let read = shown.trim().parse();
                read.map_err(|_| super::value::invalid("double precision", &shown))?
            }
        };
        c.effects.borrow_mut().sleep += seconds.max(0.0);
        Ok(Value::text(""))
    };
    catalog "pg_advisory_lock" => TEXT, |a, c| advisory::lock(a, c, Exclusive, Unlocked);
    catalog "pg_advisory_lock_shared" => TEXT, |a, c| advisory::lock(a, c, Shared, Unlocked);
    catalog "pg_advisory_xact_lock" => TEXT, |a, c| advisory::lock(a, c, Exclusive, TransactionEnd);
    catalog "pg_advisory_xact_lock_shared" => TEXT, |a, c| advisory::lock(a, c, Shared, TransactionEnd);
    catalog "pg_try_advisory_lock" => BOOL, |a, c| advisory::try_lock(a, c, Exclusive, Unlocked);
    catalog "pg_try_advisory_lock_shared" => BOOL, |a, c| advisory::try_lock(a, c, Shared, Unlocked);
    catalog "pg_try_advisory_xact_lock" => BOOL, |a, c| {
        advisory::try_lock(a, c, Exclusive, TransactionEnd)
    };
    catalog "pg_try_advisory_xact_lock_shared" => BOOL, |a, c| {
        advisory::try_lock(a, c, Shared, TransactionEnd)
    };
    catalog "pg_advisory_unlock" => BOOL, |a, c| advisory::unlock(a, c, Exclusive);
    catalog "pg_advisory_unlock_shared" => BOOL, |a, c| advisory::unlock(a, c, Shared);
    catalog "pg_advisory_unlock_all" => TEXT, |_, c| Ok(advisory::unlock_all(c));
    catalog "parse_ident" => Returns::Array(Ty::Text), |a, _| {
        Ok(Value::Array(split_name(&text(a, 0)).iter().map(Value::text).collect()))
    };
    lenient "json_build_object" => Returns::Type(Ty::Json), |a, _| {
        let pairs = a.chunks(2).map(|pair| {
            format!("{} : {}", json(&Value::text(pair[0].show())), json(arg(pair, 1)))
        });
        Ok(Value::text(format!("{{{}}}", pairs.collect::<Vec<_>>().join(", "))))
    };
    anyway "pg_current_xact_id" => BIGINT, |_, _| Ok(Value::Int(1));
    anyway "txid_current" => BIGINT, |_, _| Ok(Value::Int(1));
    anyway "pg_current_wal_lsn" => TEXT, |_, _| Ok(Value::text("0/0"));
    // Of a transaction; that of a time is the planner's.
    lenient "age" => INT, |a, _| match a {
        [Value::Int(_)] => Ok(Value::Int(0)),
        _ => Err(super::scope::not_ours("age")),
    };
    lenient "current_setting" => TEXT, |a, c| setting(a, c);
    anyway "has_table_privilege" => BOOL, |_, _| Ok(Value::Bool(true));
    anyway "has_any_column_privilege" => BOOL, |_, _| Ok(Value::Bool(true));
    anyway "has_column_privilege" => BOOL, |_, _| Ok(Value::Bool(true));
    anyway "has_database_privilege" => BOOL, |_, _| Ok(Value::Bool(true));
    anyway "has_schema_privilege" => BOOL, |_, _| Ok(Value::Bool(true));
    anyway "has_function_privilege" => BOOL, |_, _| Ok(Value::Bool(true));
    anyway "has_sequence_privilege" => BOOL, |_, _| Ok(Value::Bool(true));
    anyway "has_type_privilege" => BOOL, |_, _| Ok(Value::Bool(true));
    anyway "has_tablespace_privilege" => BOOL, |_, _| Ok(Value::Bool(true));
    anyway "has_language_privilege" => BOOL, |_, _| Ok(Value::Bool(true));
    anyway "has_foreign_data_wrapper_privilege" => BOOL, |_, _| Ok(Value::Bool(true));
    anyway "has_server_privilege" => BOOL, |_, _| Ok(Value::Bool(true));
    anyway "pg_has_role" => BOOL, |_, _| Ok(Value::Bool(true));
    anyway "row_security_active" => BOOL, |_, _| Ok(Value::Bool(false));
    anyway "pg_relation_is_publishable" => BOOL, |_, _| Ok(Value::Bool(false));
    // Names of advisory locks.
    plain "hashtext" => INT, |a, _| Ok(Value::Int(i64::from(hashed(&text(a, 0), 0) as i32)));
    plain "hashtextextended" => BIGINT, |a, _| Ok(Value::Int(hashed(&text(a, 0), int(a, 1))));
    // Bits of what can be done: INSERT, UPDATE, DELETE.
    catalog "pg_relation_is_updatable" => INT, |a, c| Ok(Value::Int(if is_table(a, c) { 28 } else { 0 }));
    catalog "pg_column_is_updatable" => BOOL, |a, c| Ok(Value::Bool(is_table(a, c)));
    catalog "pg_relation_size" => BIGINT, |a, c| Ok(size(a, c, false));
    catalog "pg_table_size" => BIGINT, |a, c| Ok(size(a, c, false));
    catalog "pg_total_relation_size" => BIGINT, |a, c| Ok(size(a, c, true));
    catalog "pg_indexes_size" => BIGINT, |_, _| Ok(Value::Int(0));
    catalog "pg_tablespace_size" => BIGINT, |_, c| Ok(Value::Int(all_sizes(c)));
    catalog "pg_database_size" => BIGINT, |_, c| Ok(Value::Int(all_sizes(c)));
    catalog "pg_size_pretty" => TEXT, |a, _| Ok(Value::text(pretty(int(a, 0))));
    catalog "pg_relation_filenode" => Returns::Type(Ty::Oid), |_, _| Ok(Value::Null);
    catalog "pg_relation_filepath" => TEXT, |_, _| Ok(Value::Null);
    catalog "pg_tablespace_location" => TEXT, |_, _| Ok(Value::text(""));
    anyway "pg_stat_get_numscans" => BIGINT, |_, _| Ok(Value::Int(0));
    anyway "acldefault" => Returns::Array(Ty::Text), |_, _| Ok(Value::Null);
    catalog "to_regclass" => Returns::Type(Ty::Reg(RegKind::Class)), |a, c| {
        Ok(c.find_relation(&text(a, 0)).map_or(Value::Null, |oid| c.reg(RegKind::Class, oid)))
    };
    catalog "to_regtype" => Returns::Type(Ty::Reg(RegKind::Type)), |a, c| {
        Ok(type_oid(&text(a, 0)).map_or(Value::Null, |oid| c.reg(RegKind::Type, oid)))
    };
    catalog "to_regnamespace" => Returns::Type(Ty::Reg(RegKind::Namespace)), |a, c| {
        let name = split_name(&text(a, 0)).pop().unwrap_or_default();
        Ok(c.find_schema(&name).map_or(Value::Null, |oid| c.reg(RegKind::Namespace, oid)))
    };
    catalog "to_regrole" => Returns::Type(Ty::Reg(RegKind::Role)), |a, c| {
        Ok(match text(a, 0) == c.snapshot.user {
            true => c.reg(RegKind::Role, OWNER_OID),
            false => Value::Null,
        })
    };
    catalog "to_regproc" => Returns::Type(Ty::Reg(RegKind::Proc)), |_, _| Ok(Value::Null);
    catalog "quote_ident" => TEXT, |a, _| Ok(Value::text(quote_ident(&text(a, 0))));
    catalog "quote_literal" => TEXT, |a, _| Ok(Value::text(quote_literal(&text(a, 0))));
    plain "array_to_string" => TEXT, |a, _| {
        let (null, between) = (arg(a, 2), text(a, 1));
        let shown = items(arg(a, 0)).iter().filter_map(|item| match item.is_null() {
            true if null.is_null() => None,
            true => Some(null.show()),
            false => Some(item.show()),
        });
        Ok(Value::text(shown.collect::<Vec<_>>().join(&between)))
    };
    plain "string_to_array" => Returns::Array(Ty::Text), |a, _| {
        let (whole, between) = (text(a, 0), text(a, 1));
        let null = (!arg(a, 2).is_null()).then(|| text(a, 2));
        let item = |item: &str| match null.as_deref() == Some(item) {
            true => Value::Null,
            false => Value::text(item),
        };
        Ok(Value::Array(match (whole.is_empty(), between.is_empty()) {
            (true, _) => [].into(),
            (_, true) => [item(&whole)].into(),
            _ => whole.split(&between).map(item).collect(),
        }))
    };
    plain "array_upper" => INT, array_length;
    plain "array_lower" => INT, |a, c| Ok(match array_length(a, c)? {
        Value::Null => Value::Null,
        _ => Value::Int(1),
    });
    plain "array_length" => INT, array_length;
    plain "cardinality" => INT, |a, _| Ok(Value::Int(items(arg(a, 0)).len() as i64));
    lenient "array_remove" => Returns::First, |a, _| {
        let same = |item: &Value| match (item.is_null(), arg(a, 1).is_null()) {
            (false, false) => item.compare(arg(a, 1)).is_some_and(|o| o.is_eq()),
            (a, b) => a == b,
        };
        Ok(Value::Array(items(arg(a, 0)).iter().filter(|item| !same(item)).cloned().collect()))
    };
    lenient "format" => TEXT, |a, _| Ok(formatted(a));
    plain "array_position" => INT, |a, _| {
        let wanted = arg(a, 1);
        let found = items(arg(a, 0)).iter().position(|item| item.compare(wanted).is_some_and(|o| o.is_eq()));
        Ok(found.map_or(Value::Null, |n| Value::Int(n as i64 + 1)))
    };
    lenient "array_append" => Returns::First, |a, _| {
        Ok(Value::Array(items(arg(a, 0)).iter().chain([arg(a, 1)]).cloned().collect()))
    };
    lenient "array_cat" => Returns::First, |a, _| {
        Ok(Value::Array(items(arg(a, 0)).iter().chain(items(arg(a, 1))).cloned().collect()))
    };
    lenient "coalesce" => Returns::First, |a, _| {
        Ok(a.iter().find(|v| !v.is_null()).cloned().unwrap_or(Value::Null))
    };
    lenient "nullif" => Returns::First, |a, _| Ok(match arg(a, 0).compare(arg(a, 1)) {
        Some(std::cmp::Ordering::Equal) => Value::Null,
        _ => arg(a, 0).clone(),
    });
    lenient "greatest" => Returns::First, |a, _| Ok(extreme(a, std::cmp::Ordering::Greater));
    lenient "least" => Returns::First, |a, _| Ok(extreme(a, std::cmp::Ordering::Less));
    lenient "concat" => TEXT, |a, _| Ok(Value::text(a.iter().map(Value::show).collect::<String>()));
    lenient "concat_ws" => TEXT, |a, _| {
        let parts = a.iter().skip(1).filter(|v| !v.is_null()).map(Value::show);
        Ok(Value::text(parts.collect::<Vec<_>>().join(&text(a, 0))))
    };
    plain "lower" => TEXT, |a, _| Ok(Value::text(text(a, 0).to_lowercase()));
    plain "upper" => TEXT, |a, _| Ok(Value::text(text(a, 0).to_uppercase()));
    plain "length" => INT, |a, _| Ok(Value::Int(text(a, 0).chars().count() as i64));
    plain "char_length" => INT, |a, _| Ok(Value::Int(text(a, 0).chars().count() as i64));
    plain "substring" => TEXT, substring;
    plain "substr" => TEXT, substring;
    plain "left" => TEXT, |a, _| {
        let (text, wanted) = (text(a, 0), int(a, 1));
        let length = match wanted < 0 {
            true => (text.chars().count() as i64).saturating_add(wanted).max(0),
            false => wanted,
        };
        Ok(Value::text(text.chars().take(length as usize).collect::<String>()))
    };
    plain "btrim" => TEXT, |a, _| Ok(Value::text(text(a, 0).trim_matches(set(a).as_slice())));
    plain "ltrim" => TEXT, |a, _| Ok(Value::text(text(a, 0).trim_start_matches(set(a).as_slice())));
    plain "rtrim" => TEXT, |a, _| Ok(Value::text(text(a, 0).trim_end_matches(set(a).as_slice())));
    plain "replace" => TEXT, |a, _| Ok(Value::text(text(a, 0).replace(&text(a, 1), &text(a, 2))));
    plain "split_part" => TEXT, |a, _| {
        let (whole, number) = (text(a, 0), int(a, 2));
        let parts: Vec<&str> = whole.split(&text(a, 1)).collect();
        let at = match number {
            0 => return Err(SqlError::new("22023", "field position must not be zero")),
            1.. => number as usize - 1,
            // From the end; before the first one there is nothing.
            _ => parts.len().wrapping_sub(number.unsigned_abs() as usize),
        };
        Ok(Value::text(parts.get(at).copied().unwrap_or_default()))
    };
    plain "strpos" => INT, |a, _| {
        let whole = text(a, 0);
        let found = whole.find(&text(a, 1)).map(|at| whole[..at].chars().count() as i64 + 1);
        Ok(Value::Int(found.unwrap_or(0)))
    };
    plain "abs" => Returns::First, |a, _| Ok(match arg(a, 0) {
        Value::Float(v) => Value::Float(v.abs()),
        v => Value::Int(v.int().unwrap_or(0).saturating_abs()),
    });
    plain "unnest" => Returns::First, |a, _| Ok(arg(a, 0).clone());
    // Side by side: as many rows as the longest array has.
    lenient "_unnest_each" => Returns::Array(Ty::Text), |a, _| {
        let rows = a.iter().map(|array| items(array).len()).max().unwrap_or(0);
        let cell = |array: &Value, row: usize| items(array).get(row).cloned().unwrap_or(Value::Null);
        let row = |row| Value::Array(a.iter().map(|array| cell(array, row)).collect());
        Ok(Value::Array((0..rows).map(row).collect()))
    };
    plain "generate_series" => Returns::Array(Ty::Int4), |a, _| {
        let step = arg(a, 2).int().unwrap_or(1);
        series(int(a, 0), int(a, 1), step)
    };
    plain "generate_subscripts" => Returns::Array(Ty::Int4), |a, _| {
        series(1, items(arg(a, 0)).len() as i64, 1)
    };
    plain "_vector_lower" => INT, |_, _| Ok(Value::Int(0));
    plain "_vector_upper" => INT, |a, _| Ok(Value::Int(items(arg(a, 0)).len() as i64 - 1));
    plain "_vector_subscripts" => Returns::Array(Ty::Int4), |a, _| {
        series(0, items(arg(a, 0)).len() as i64 - 1, 1)
    };
    catalog "_pg_expandarray" => Returns::Array(Ty::Text), |a, _| {
        let pairs = items(arg(a, 0)).iter().enumerate();
        let pair = |(n, x): (usize, &Value)| {
            Value::Array(Arc::from([x.clone(), Value::Int(n as i64 + 1)]))
        };
        Ok(Value::Array(pairs.map(pair).collect()))
    };
    catalog "pg_options_to_table" => Returns::Array(Ty::Text), |a, _| {
        let options = items(arg(a, 0)).iter().map(Value::show);
        let pair = |option: String| {
            let (name, value) = option.split_once('=').unwrap_or((&option, ""));
            Value::Array(Arc::from([Value::text(name), Value::text(value)]))
        };
        Ok(Value::Array(options.map(pair).collect()))
    };
    anyway "pg_get_keywords" => Returns::Array(Ty::Text), |_, _| {
        let keyword = |row: super::relations::Row| Value::Array(row.into());
        Ok(Value::Array(server_wide::keywords().map(|row| keyword(row.to_vec())).collect()))
    };
    anyway "aclexplode" => Returns::Array(Ty::Text), |_, _| Ok(Value::Array(Arc::from([])));
    anyway "pg_timezone_names" => Returns::Array(Ty::Text), |_, _| {
        let zone = |row: super::relations::Row| Value::Array(row.into());
        Ok(Value::Array(server_wide::zones().map(|row| zone(row.to_vec())).collect()))
    };
    anyway "pg_listening_channels" => Returns::Array(Ty::Text), |_, _| Ok(Value::Array(Arc::from([])));
}

/// A value as JSON.
fn json(value: &Value) -> String {
    match value {
        Value::Null => "null".into(),
        Value::Bool(true) => "true".into(),
        Value::Bool(false) => "false".into(),
        Value::Int(_) | Value::Float(_) => value.show(),
        other => serde_json::Value::from(other.show()).to_string(),
    }
}

/// Cancels, or ends, what another connection does.
fn signal(args: &[Value], context: &Context<'_>, terminate: bool) -> bool {
    let pid = i32::try_from(int(args, 0)).unwrap_or(0);
    let signal = context.snapshot.signal.0.as_ref();
    signal.is_some_and(|signal| signal(pid, terminate))
}

/// The function of a name.
pub fn find(name: &str) -> Option<&'static Function> {
    FUNCTIONS.iter().find(|function| function.name == name)
}

/// Whether the planner has a function of the catalog, too: it doesn't have those that do something.
pub fn has_planner(name: &str) -> bool {
    let of_session = [
        "current_database",
        "current_schemas",
        "current_setting",
        "pg_postmaster_start_time",
        "pg_conf_load_time",
    ];
    is_niladic(name) || of_session.contains(&name) || !overloads(name).is_empty()
}

/// Functions that may be called without parentheses.
pub fn is_niladic(name: &str) -> bool {
    matches!(
        name,
        "current_user"
            | "session_user"
            | "user"
            | "current_role"
            | "current_catalog"
            | "current_schema"
    )
}

/// Functions that give rows; here, an array of them.
pub fn is_set_returning(name: &str) -> bool {
    matches!(
        name,
        "unnest"
            | "generate_series"
            | "generate_subscripts"
            | "_pg_expandarray"
            | "pg_options_to_table"
            | "pg_get_keywords"
            | "aclexplode"
            | "pg_listening_channels"
            | "pg_timezone_names"
    )
}

/// Rows that `generate_series` may give.
const SERIES_MAX: i64 = 1_000_000;

fn series(from: i64, to: i64, step: i64) -> Result<Value, SqlError> {
    if step == 0 || to.saturating_sub(from) / step > SERIES_MAX {
        return Err(SqlError::new(
            "22023",
            "step size or length of a series is out of range",
        ));
    }
    let mut next = from;
    let values = std::iter::from_fn(|| {
        let inside = if step > 0 { next <= to } else { next >= to };
        let value = inside.then_some(Value::Int(next));
        next = next.saturating_add(step);
        value
    });
    Ok(Value::Array(values.collect()))
}

fn extreme(values: &[Value], wanted: std::cmp::Ordering) -> Value {
    let values = values.iter().filter(|value| !value.is_null());
    let best = values.reduce(|best, value| match value.compare(best) {
        Some(order) if order == wanted => value,
        _ => best,
    });
    best.cloned().unwrap_or(Value::Null)
}

/// `format` with `%s`, `%I`, `%L` and `%%`.
fn formatted(args: &[Value]) -> Value {
    let (pattern, mut rest) = (text(args, 0), args.iter().skip(1));
    let mut out = String::new();
    let mut chars = pattern.chars();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        match chars.next() {
            Some('s') => out.push_str(&rest.next().unwrap_or(&Value::Null).show()),
            Some('I') => out.push_str(&quote_ident(&rest.next().unwrap_or(&Value::Null).show())),
            Some('L') => match rest.next() {
                Some(value) if !value.is_null() => out.push_str(&quote_literal(&value.show())),
                _ => out.push_str("NULL"),
            },
            Some(other) => out.push(other),
            None => {}
        }
    }
    Value::text(out)
}

/// Characters to trim.
fn set(args: &[Value]) -> Vec<char> {
    match args.get(1) {
        Some(set) => set.show().chars().collect(),
        None => vec![' '],
    }
}

fn substring(args: &[Value], context: &Context<'_>) -> Result<Value, SqlError> {
    let whole = text(args, 0);
    if let Value::Text(pattern) = arg(args, 1) {
        // substring(text from pattern): only whether it matches is of use here.
        let found = context.matches(&whole, pattern, Pattern::Regex, false)?;
        return Ok(if found {
            Value::text(whole)
        } else {
            Value::Null
        });
    }
    let from = int(args, 1);
    let until = match args.get(2) {
        Some(length) => from.saturating_add(length.int().unwrap_or(0)),
        None => i64::MAX,
    };
    let kept = whole
        .chars()
        .zip(1i64..)
        .filter(|(_, n)| (from..until).contains(n));
    Ok(Value::text(kept.map(|(c, _)| c).collect::<String>()))
}

fn is_table(args: &[Value], context: &Context<'_>) -> bool {
    let oid = int(args, 0);
    let mut relations = context.snapshot.relations.iter();
    relations.any(|r| i64::from(r.oid) == oid && r.kind == RelationType::Table)
}

fn setting(args: &[Value], context: &Context<'_>) -> Result<Value, SqlError> {
    let name = text(args, 0).to_lowercase();
    let found = context
        .snapshot
        .settings
        .iter()
        .find(|(n, ..)| n.to_lowercase() == name);
    match found {
        Some((_, value, _)) => Ok(Value::text(value)),
        None if name == "server_version_num" => Ok(Value::text(fill::SERVER_VERSION_NUM)),
        None if name == "server_version" => Ok(Value::text(&context.snapshot.server_version)),
        None if name == "search_path" => Ok(Value::text(context.snapshot.search_path.join(", "))),
        None if arg(args, 1).bool() == Some(true) => Ok(Value::Null),
        None => Err(super::scope::not_ours(format!("setting {name}"))),
    }
}

fn size(args: &[Value], context: &Context<'_>, with_indexes: bool) -> Value {
    let oid = arg(args, 0)
        .int()
        .or_else(|| context.find_relation(&text(args, 0)));
    let Some(oid) = oid else { return Value::Null };
    let mut relations = context.snapshot.relations.iter();
    if let Some(relation) = context.relation(oid) {
        return Value::Int(bytes_of(relation, with_indexes));
    }
    let index = relations.find_map(|r| r.indexes.iter().find(|i| i64::from(i.oid) == oid));
    // A primary key has no rows besides the table's.
    Value::Int(index.map_or(0, |index| index.bytes as i64))
}

fn bytes_of(relation: &super::RelationInfo, with_indexes: bool) -> i64 {
    let indexes = relation.indexes.iter().filter(|_| with_indexes);
    (relation.bytes.unwrap_or(0) + indexes.map(|i| i.bytes).sum::<u64>()) as i64
}

fn all_sizes(context: &Context<'_>) -> i64 {
    let relations = context.snapshot.relations.iter();
    relations.map(|relation| bytes_of(relation, true)).sum()
}

/// `pg_size_pretty`
fn pretty(bytes: i64) -> String {
    let mut value = bytes;
    for unit in ["bytes", "kB", "MB", "GB"] {
        if value.abs() < 10 * 1024 {
            return format!("{value} {unit}");
        }
        value = (value + 512) / 1024;
    }
    format!("{value} TB")
}
