//! Functions of the catalog that clients such as psql call, and conversions to JSON.

use std::sync::Arc;

use arrow::array::StringViewBuilder;
use arrow::array::cast::AsArray;
use arrow::array::types::Int64Type;
use tidemill_zset::schema::SqlType;

use super::registry::{CallTypes, Registry};
use super::{Args, Kernel, external, json, json_text, kernel};
use crate::error::{Result, SqlError};

fn always(text: &'static str) -> Kernel {
    Arc::new(move |a: &Args| {
        let mut out = StringViewBuilder::with_capacity(a.rows);
        (0..a.rows).for_each(|_| out.append_value(text));
        Ok(Arc::new(out.finish()))
    })
}

fn nothing() -> Kernel {
    Arc::new(|a: &Args| Ok(arrow::array::new_null_array(&SqlType::Text.arrow(), a.rows)))
}

fn yes() -> Kernel {
    Arc::new(|a: &Args| {
        Ok(Arc::new(arrow::array::BooleanArray::from(vec![
            true;
            a.rows
        ])))
    })
}

/// The SQL name of a type's oid.
pub fn type_name(oid: i64, modifier: i64) -> String {
    let plain = match oid {
        16 => "boolean",
        17 => "bytea",
        18 => "\"char\"",
        19 => "name",
        20 => "bigint",
        21 => "smallint",
        23 => "integer",
        25 => "text",
        26 => "oid",
        114 => "json",
        700 => "real",
        701 => "double precision",
        1082 => "date",
        1083 => "time without time zone",
        1114 => "timestamp without time zone",
        1184 => "timestamp with time zone",
        1186 => "interval",
        2205 => "regclass",
        2950 => "uuid",
        3802 => "jsonb",
        1043 if modifier > 4 => return format!("character varying({})", modifier - 4),
        1043 => "character varying",
        1700 if modifier > 4 => {
            let m = modifier - 4;
            return format!("numeric({},{})", m >> 16, m & 0xffff);
        }
        1700 => "numeric",
        1000 => "boolean[]",
        1001 => "bytea[]",
        1005 => "smallint[]",
        1007 => "integer[]",
        1016 => "bigint[]",
        1009 => "text[]",
        1015 => "character varying[]",
        1021 => "real[]",
        1022 => "double precision[]",
        1231 => "numeric[]",
        1182 => "date[]",
        1115 => "timestamp without time zone[]",
        1185 => "timestamp with time zone[]",
        2951 => "uuid[]",
        199 => "json[]",
        3807 => "jsonb[]",
        _ => "???",
    };
    plain.into()
}

/// One JSON text per row from the row's arguments.
fn json_of(
    t: &CallTypes,
    f: impl Fn(&Args, usize, &[SqlType], &str, &mut String) -> crate::error::Result<bool>
    + Send
    + Sync
    + 'static,
) -> Kernel {
    let (types, zone) = (t.args.to_vec(), t.zone.to_string());
    Arc::new(move |a: &Args| {
        let mut out = StringViewBuilder::with_capacity(a.rows);
        let mut text = String::new();
        for row in 0..a.rows {
            text.clear();
            if f(a, row, &types, &zone, &mut text).map_err(external)? {
                out.append_value(&text);
            } else {
                out.append_null();
            }
        }
        Ok(Arc::new(out.finish()))
    })
}

fn plain_text(
    a: &Args,
    i: usize,
    row: usize,
    types: &[SqlType],
    zone: &str,
) -> crate::error::Result<Option<String>> {
    super::format::value(&a.arrays[i], a.at(i, row), &types[i], zone)
}

/// Joins the texts of a list.
fn join(open: &'static str, separator: &'static str, close: &'static str) -> Kernel {
    // Without blanks it is the text of a jsonb.
    let jsonb = separator == ",";
    Arc::new(move |a: &Args| {
        let list = a.arrays[0].as_list::<i32>();
        let mut out = StringViewBuilder::with_capacity(a.rows);
        for row in 0..a.rows {
            if a.is_null(0, row) {
                out.append_null();
                continue;
            }
            let items = list.value(a.at(0, row));
            let parts: Vec<&str> = items
                .as_string_view()
                .iter()
                .map(|e| e.unwrap_or("null"))
                .collect();
            let text = format!("{open}{}{close}", parts.join(separator));
            out.append_value(if jsonb {
                json_text::canonical(&text).map_err(external)?
            } else {
                text
            });
        }
        Ok(Arc::new(out.finish()))
    })
}

/// `1.5 GB` as a number of bytes.
fn size_bytes(size: &str) -> Result<i64> {
    const UNITS: [&str; 6] = ["bytes", "kb", "mb", "gb", "tb", "pb"];
    let invalid = || SqlError::new("22023", format!("invalid size: \"{size}\""));
    let text = size.trim();
    let sign = usize::from(text.starts_with(['-', '+']));
    let digits = text[sign..].find(|c: char| !c.is_ascii_digit() && c != '.');
    let mut end = digits.map_or(text.len(), |n| sign + n);
    // 1e3
    if let Some(e) = text[end..].strip_prefix(['e', 'E']) {
        let signed = usize::from(e.starts_with(['-', '+']));
        let count = e[signed..].bytes().take_while(u8::is_ascii_digit).count();
        end += if count > 0 { 1 + signed + count } else { 0 };
    }
    let (number, unit) = (&text[..end], text[end..].trim());
    let power = match UNITS.iter().position(|u| u.eq_ignore_ascii_case(unit)) {
        Some(power) => power,
        None if unit.is_empty() => 0,
        None if number.contains(|c: char| c.is_ascii_digit()) => {
            return Err(invalid()
                .detail(format!("Invalid size unit: \"{unit}\"."))
                .hint("Valid units are \"bytes\", \"kB\", \"MB\", \"GB\", \"TB\", and \"PB\"."));
        }
        None => return Err(invalid()),
    };
    let factor = 1i128 << (10 * power);
    let bytes = match number.parse::<i64>() {
        Ok(whole) => i128::from(whole) * factor,
        Err(_) => (number.parse::<f64>().map_err(|_| invalid())? * factor as f64).round() as i128,
    };
    i64::try_from(bytes).map_err(|_| SqlError::new("22003", "bigint out of range"))
}

// Beside rows of users these know nothing of the catalog; queries of `pg_catalog` have their own.

/// What everybody may see and do.
const ALLOWED: [&str; 15] = [
    "pg_table_is_visible(int8) bool",
    "pg_type_is_visible(int8) bool",
    "pg_function_is_visible(int8) bool",
    "pg_opclass_is_visible(int8) bool",
    "pg_collation_is_visible(int8) bool",
    "has_schema_privilege(any, any...) bool",
    "has_table_privilege(any, any...) bool",
    "has_database_privilege(any, any...) bool",
    "has_function_privilege(any, any...) bool",
    "pg_statistics_obj_is_visible(int8) bool",
    "pg_operator_is_visible(int8) bool",
    "pg_ts_config_is_visible(int8) bool",
    "has_column_privilege(any, any...) bool",
    "has_any_column_privilege(any, any...) bool",
    "pg_is_other_temp_schema_not(int8) bool",
];

/// NULL.
const UNTOLD: [&str; 16] = [
    "obj_description(any, any...) text",
    "col_description(int8, int4) text",
    "shobj_description(any, any...) text",
    "pg_get_expr(any, any...) text",
    "pg_get_constraintdef(int8, any...) text",
    "pg_get_indexdef(int8, any...) text",
    "pg_get_ruledef(int8, any...) text",
    "pg_get_triggerdef(int8, any...) text",
    "pg_get_function_result(int8) text",
    "pg_get_function_arguments(int8) text",
    "pg_get_partkeydef(int8) text",
    "pg_get_statisticsobjdef_columns(int8) text",
    "pg_tablespace_location(int8) text",
    "pg_get_functiondef(int8) text",
    "pg_get_function_identity_arguments(int8) text",
    "pg_get_viewdef(int8, any...) text",
];

/// 0.
const SIZES: [&str; 4] = [
    "pg_table_size(int8) int8",
    "pg_total_relation_size(int8) int8",
    "pg_relation_size(int8, any...) int8",
    "pg_database_size(any) int8",
];

/// Whether what a function says is of the catalog.
pub(crate) fn asks_catalog(function: &str) -> bool {
    let all = ALLOWED.iter().chain(&UNTOLD).chain(&SIZES);
    let mut names = all.filter_map(|signature| signature.split('(').next());
    names.any(|name| name == function)
}

/// Registers the functions of this file.
pub fn register(r: &mut Registry) {
    r.add(
        "version() text",
        always(concat!(
            "PostgreSQL 15.0 (Tidemill ",
            env!("CARGO_PKG_VERSION"),
            ")"
        )),
    );
    r.add("pg_get_userbyid(int8) text", always("tidemill"));
    r.add("pg_encoding_to_char(int4) text", always("UTF8"));
    for name in ALLOWED {
        r.add(name, yes());
    }
    r.add(
        "pg_is_in_recovery() bool",
        kernel!(| | -> bool Ok(Some(false))),
    );
    r.add(
        "pg_is_other_temp_schema(int8) bool",
        kernel!(|_o: int8| -> bool Ok(Some(false))),
    );
    r.add("pg_backend_pid() int4", kernel!(| | -> int4 Ok(Some(1))));
    r.add("pg_my_temp_schema() int8", kernel!(| | -> int8 Ok(Some(0))));
    for name in UNTOLD {
        r.add(name, nothing());
    }
    for name in SIZES {
        r.add(
            name,
            Arc::new(|a: &Args| Ok(Arc::new(arrow::array::Int64Array::from(vec![0; a.rows])))),
        );
    }
    r.add_fallible(
        "pg_size_bytes(text) int8",
        kernel!(|size: text| -> int8 size_bytes(size).map(Some)),
    );
    r.add(
        "pg_size_pretty(int8) text",
        kernel!(|n: int8| -> text {
            let (mut v, mut unit) = (n, "bytes");
            for u in ["kB", "MB", "GB", "TB"] {
                if v.abs() < 10_240 {
                    break;
                }
                v = (v + 512) / 1024;
                unit = u;
            }
            Ok(Some(format!("{v} {unit}")))
        }),
    );
    r.add(
        "format_type(int8, int4) text",
        Arc::new(|a: &Args| {
            let oids = a.arrays[0].as_primitive::<Int64Type>();
            let modifiers = a.arrays[1].as_primitive::<arrow::array::types::Int32Type>();
            let mut out = StringViewBuilder::with_capacity(a.rows);
            for row in 0..a.rows {
                if a.is_null(0, row) {
                    out.append_null();
                    continue;
                }
                let m = if a.is_null(1, row) {
                    -1
                } else {
                    modifiers.value(a.at(1, row))
                };
                out.append_value(type_name(oids.value(a.at(0, row)), m as i64));
            }
            Ok(Arc::new(out.finish()))
        }),
    );
    for name in ["gen_random_uuid() uuid", "uuid_generate_v4() uuid"] {
        r.add_volatile(
            name,
            kernel!(| | -> text Ok(Some(uuid::Uuid::new_v4().to_string()))),
        );
    }
    json_functions(r);
}

/// Argument `i`, whose text is `key`, as a field's name: times are written as they are in JSON.
fn key_into(
    key: &str,
    a: &Args,
    i: usize,
    (row, types, zone): (usize, &[SqlType], &str),
    out: &mut String,
) -> crate::error::Result<()> {
    match types[i] {
        SqlType::Timestamp | SqlType::Timestamptz => {
            json::value_into(&a.arrays[i], a.at(i, row), &types[i], zone, out)
        }
        _ => {
            json_text::string_into(key, out);
            Ok(())
        }
    }
}

fn json_functions(r: &mut Registry) {
    for name in [
        "to_json(any) json",
        "row_to_json(any) json",
        "array_to_json(any) json",
        "to_json_or_null(any) text",
    ] {
        let keep_null = name.starts_with("to_json_or");
        r.add_typed(name, move |t| {
            json_of(t, move |a, row, types, zone, out| {
                if a.is_null(0, row) {
                    if keep_null {
                        out.push_str("null");
                    }
                    return Ok(keep_null);
                }
                json::value_into(&a.arrays[0], a.at(0, row), &types[0], zone, out).map(|()| true)
            })
        });
    }
    for name in [
        "row_to_json(any, bool) json",
        "array_to_json(any, bool) json",
    ] {
        r.add_typed(name, |t| {
            json_of(t, |a, row, types, zone, out| {
                if a.is_null(0, row) || a.is_null(1, row) {
                    return Ok(false);
                }
                let pretty = a.arrays[1].as_boolean().value(a.at(1, row));
                let comma = if pretty { ",\n " } else { "," };
                json::parted_into(&a.arrays[0], a.at(0, row), &types[0], (zone, comma), out)
                    .map(|()| true)
            })
        });
    }
    for name in ["to_jsonb(any) jsonb", "to_jsonb_or_null(any) text"] {
        let keep_null = name.starts_with("to_jsonb_or");
        r.add_typed(name, move |t| {
            json_of(t, move |a, row, types, zone, out| {
                if a.is_null(0, row) {
                    if keep_null {
                        out.push_str("null");
                    }
                    return Ok(keep_null);
                }
                json::value_into(&a.arrays[0], a.at(0, row), &types[0], zone, out)?;
                *out = json_text::canonical(out)?;
                Ok(true)
            })
        });
    }
    r.add_typed("json_pair(any, any) text", |t| {
        json_of(t, |a, row, types, zone, out| {
            let key = plain_text(a, 0, row, types, zone)?.ok_or_else(|| {
                crate::error::SqlError::new("22023", "field name must not be null")
            })?;
            key_into(&key, a, 0, (row, types, zone), out)?;
            out.push_str(" : ");
            json::value_into(&a.arrays[1], a.at(1, row), &types[1], zone, out).map(|()| true)
        })
    });
    for (name, jsonb) in [
        ("json_build_object(any...) json", false),
        ("jsonb_build_object(any...) jsonb", true),
    ] {
        r.add_typed(name, move |t| {
            json_of(t, move |a, row, types, zone, out| {
                if a.arrays.len() % 2 == 1 {
                    return Err(crate::error::SqlError::new(
                        "22023",
                        "argument list must have even number of elements",
                    ));
                }
                out.push('{');
                for i in (0..a.arrays.len()).step_by(2) {
                    if i > 0 {
                        out.push_str(", ");
                    }
                    if json::is_composite(&types[i]) {
                        return Err(crate::error::SqlError::new(
                            "22023",
                            "key value must be scalar, not array, composite, or json",
                        ));
                    }
                    let key = plain_text(a, i, row, types, zone)?.ok_or_else(|| {
                        crate::error::SqlError::new("22023", "argument 1: key must not be null")
                    })?;
                    key_into(&key, a, i, (row, types, zone), out)?;
                    out.push_str(" : ");
                    json::value_into(&a.arrays[i + 1], a.at(i + 1, row), &types[i + 1], zone, out)?;
                }
                out.push('}');
                if jsonb {
                    *out = json_text::canonical(out)?;
                }
                Ok(true)
            })
        });
    }
    for (name, jsonb) in [
        ("json_build_array(any...) json", false),
        ("jsonb_build_array(any...) jsonb", true),
    ] {
        r.add_typed(name, move |t| {
            json_of(t, move |a, row, types, zone, out| {
                out.push('[');
                for (i, (array, of)) in a.arrays.iter().zip(types.iter()).enumerate() {
                    if i > 0 {
                        out.push_str(", ");
                    }
                    json::value_into(array, a.at(i, row), of, zone, out)?;
                }
                out.push(']');
                if jsonb {
                    *out = json_text::canonical(out)?;
                }
                Ok(true)
            })
        });
    }
    r.add("json_join(text[]) json", join("[", ", ", "]"));
    r.add("json_join_lines(text[]) json", join("[", ", \n ", "]"));
    r.add_fallible("jsonb_join(text[]) jsonb", join("[", ",", "]"));
    r.add("json_join_object(text[]) json", join("{ ", ", ", " }"));
    r.add_fallible("jsonb_join_object(text[]) jsonb", join("{", ",", "}"));
}
