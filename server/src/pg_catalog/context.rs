//! What evaluation looks things up in: names of oids, rows of relations, compiled patterns.
//!
//! Invariant: made for one query and thrown away after it.

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use regex::Regex;
use tidemill_planner::SqlError;
use tidemill_planner::names::split_name;

use super::plan::Pattern;
use super::relations::{DEFINITIONS, Definition, Row};
use super::value::{RegKind, Value, invalid};
use super::{CatalogSnapshot, RelationInfo, builtin, fill, server_wide};
use crate::catalog::{TEMPORARY, TEMPORARY_PREFIX};
use crate::pg::types::TYPES;
use crate::session::advisory::Request;

/// Oid of `array_in`: JDBC knows arrays by it.
pub const ARRAY_IN_OID: i64 = 750;
/// The only role's oid.
pub const OWNER_OID: i64 = 10;
/// Oid and name of the role that schema public belongs to.
pub const DATABASE_OWNER: (i64, &str) = (6171, "pg_database_owner");

/// What a query over the catalog asks the session to do, besides its rows.
#[derive(Debug, Default)]
pub struct Effects {
    /// `set_config`: name, value, for this transaction only.
    pub settings: Vec<(String, Option<String>, bool)>,
    /// `pg_sleep`: seconds before the rows are given.
    pub sleep: f64,
    /// Advisory locks to wait for.
    pub locks: Vec<Request>,
    /// Warnings.
    pub warnings: Vec<String>,
}

/// A query's surroundings.
pub struct Context<'a> {
    /// The catalog.
    pub snapshot: &'a CatalogSnapshot,
    /// Values of `$1`, ….
    pub params: &'a [Value],
    relations: HashMap<i64, (&'a str, Cow<'a, str>)>,
    oids: HashMap<(&'a str, Cow<'a, str>), i64>,
    rows: RefCell<HashMap<u32, Rc<Vec<Row>>>>,
    patterns: RefCell<HashMap<(String, Pattern, bool), Rc<Regex>>>,
    /// What functions ask the session to do.
    pub effects: RefCell<Effects>,
    /// Rows of the last round of each WITH RECURSIVE that is being evaluated.
    pub working: RefCell<HashMap<usize, Rc<Vec<Row>>>>,
}

impl<'a> Context<'a> {
    /// For one query.
    pub fn new(snapshot: &'a CatalogSnapshot, params: &'a [Value]) -> Context<'a> {
        let system = DEFINITIONS
            .iter()
            .map(|d| (i64::from(d.oid), (d.schema, Cow::Borrowed(d.name))));
        let users = snapshot.relations.iter().flat_map(|relation| {
            let schema = relation.schema.as_str();
            let indexes = fill::indexes(relation).into_iter();
            let indexes = indexes.map(move |i| (i.oid, (schema, Cow::Owned(i.name))));
            let name = Cow::Borrowed(relation.name.as_str());
            indexes.chain([(i64::from(relation.oid), (schema, name))])
        });
        let relations: HashMap<i64, (&str, Cow<'_, str>)> = system.chain(users).collect();
        let oids = relations.iter();
        let oids = oids
            .map(|(oid, (schema, name))| ((*schema, name.clone()), *oid))
            .collect();
        Context {
            snapshot,
            params,
            relations,
            oids,
            rows: RefCell::default(),
            patterns: RefCell::default(),
            effects: RefCell::default(),
            working: RefCell::default(),
        }
    }

    /// Rows of a relation, made once.
    pub fn rows(&self, definition: &'static Definition) -> Rc<Vec<Row>> {
        if let Some(rows) = self.rows.borrow().get(&definition.oid) {
            return Rc::clone(rows);
        }
        let rows = Rc::new(fill::rows(definition, self.snapshot));
        self.rows
            .borrow_mut()
            .insert(definition.oid, Rc::clone(&rows));
        rows
    }

    /// A user's relation.
    pub fn relation(&self, oid: i64) -> Option<&'a RelationInfo> {
        self.snapshot
            .relations
            .iter()
            .find(|r| i64::from(r.oid) == oid)
    }

    /// Schema and name of a relation or index.
    pub fn relation_name(&self, oid: i64) -> Option<(&str, &str)> {
        self.relations
            .get(&oid)
            .map(|(schema, name)| (*schema, name.as_ref()))
    }

    fn oid(&self, schema: &str, name: &str) -> Option<i64> {
        self.oids.get(&(schema, Cow::Borrowed(name))).copied()
    }

    /// The relation that a possibly qualified and quoted name means.
    pub fn find_relation(&self, name: &str) -> Option<i64> {
        let mut parts = split_name(name);
        let name = parts.pop()?;
        match parts.pop() {
            Some(schema) if schema == TEMPORARY => self.oid(self.own_temporary()?, &name),
            Some(schema) => self.oid(&schema, &name),
            None => std::iter::once("pg_catalog")
                .chain(self.snapshot.search_path.iter().map(String::as_str))
                .find_map(|schema| self.oid(schema, &name)),
        }
    }

    /// The schema of the session's temporary objects, once there is one.
    pub fn own_temporary(&self) -> Option<&str> {
        let mut path = self.snapshot.search_path.iter().map(String::as_str);
        path.find(|schema| schema.starts_with(TEMPORARY_PREFIX))
    }

    /// True if a relation is found without its schema.
    pub fn is_visible(&self, oid: i64) -> bool {
        self.relation_name(oid).is_some_and(|(schema, name)| {
            let visible =
                schema == "pg_catalog" || self.snapshot.search_path.iter().any(|s| s == schema);
            visible && (schema == "pg_catalog" || self.oid("pg_catalog", name).is_none())
        })
    }

    /// Oid of a schema.
    pub fn find_schema(&self, name: &str) -> Option<i64> {
        fill::schemas(self.snapshot)
            .into_iter()
            .find(|(_, schema, _)| *schema == name)
            .map(|(oid, ..)| oid)
    }

    /// What a `reg…` value of an oid shows.
    pub fn reg(&self, kind: RegKind, oid: i64) -> Value {
        let name = match kind {
            _ if oid == 0 => Some("-".to_string()),
            RegKind::Class => {
                self.relation_name(oid)
                    .map(|(schema, name)| match self.is_visible(oid) {
                        true => quote_ident(name),
                        false => format!("{}.{}", quote_ident(schema), quote_ident(name)),
                    })
            }
            RegKind::Type => Some(format_type(oid, None)),
            RegKind::Namespace => fill::schemas(self.snapshot)
                .into_iter()
                .find(|(schema, ..)| *schema == oid)
                .map(|(_, name, _)| quote_ident(name)),
            RegKind::Role if oid == OWNER_OID => Some(quote_ident(&self.snapshot.user)),
            RegKind::Role if oid == DATABASE_OWNER.0 => Some(DATABASE_OWNER.1.into()),
            RegKind::Role | RegKind::Proc => None,
        };
        Value::Reg(oid, Arc::from(name.unwrap_or_else(|| oid.to_string())))
    }

    /// Reads a `reg…` value's text.
    pub fn read_reg(&self, kind: RegKind, text: &str) -> Result<Value, SqlError> {
        if let Ok(oid) = text.trim().parse::<i64>() {
            return Ok(self.reg(kind, oid));
        }
        if text == "-" {
            return Ok(self.reg(kind, 0));
        }
        if kind == RegKind::Proc
            && let Some((oid, name)) = builtin::function_oid(text)
        {
            return Ok(Value::Reg(oid, Arc::from(name)));
        }
        let (found, code, what) = match kind {
            RegKind::Class => (self.find_relation(text), "42P01", "relation"),
            RegKind::Type => (type_oid(text), "42704", "type"),
            RegKind::Namespace => {
                let name = split_name(text).pop().unwrap_or_default();
                (self.find_schema(&name), "3F000", "schema")
            }
            RegKind::Role => {
                let same = text.trim_matches('"') == self.snapshot.user;
                (same.then_some(OWNER_OID), "42704", "role")
            }
            RegKind::Proc => (None, "42883", "function"),
        };
        found.map(|oid| self.reg(kind, oid)).ok_or_else(|| {
            let name = split_name(text).join(".");
            SqlError::new(code, format!("{what} \"{name}\" does not exist"))
        })
    }

    /// Whether text matches a POSIX pattern or a LIKE pattern.
    pub fn matches(
        &self,
        text: &str,
        pattern: &str,
        kind: Pattern,
        insensitive: bool,
    ) -> Result<bool, SqlError> {
        let key = (pattern.to_string(), kind, insensitive);
        if let Some(regex) = self.patterns.borrow().get(&key) {
            return Ok(regex.is_match(text));
        }
        let source = match kind {
            Pattern::Like(escape) => like_regex(pattern, escape),
            Pattern::Regex => pattern.to_string(),
        };
        let regex = regex::RegexBuilder::new(&source)
            .case_insensitive(insensitive)
            .build()
            .map_err(|_| {
                SqlError::new("2201B", format!("invalid regular expression: {pattern}"))
            })?;
        let found = regex.is_match(text);
        self.patterns.borrow_mut().insert(key, Rc::new(regex));
        Ok(found)
    }
}

fn like_regex(pattern: &str, escape: Option<char>) -> String {
    let mut out = String::from("(?s)^");
    let mut chars = pattern.chars();
    while let Some(c) = chars.next() {
        match c {
            c if Some(c) == escape => {
                out.push_str(&regex::escape(&chars.next().unwrap_or(c).to_string()))
            }
            '%' => out.push_str(".*"),
            '_' => out.push('.'),
            c => out.push_str(&regex::escape(&c.to_string())),
        }
    }
    out.push('$');
    out
}

/// Words that can't be names without quotes: PostgreSQL's reserved ones.
const RESERVED: &str = " all analyse analyze and any array as asc asymmetric authorization binary both case cast check collate collation column concurrently constraint create cross current_catalog current_date current_role current_schema current_time current_timestamp current_user default deferrable desc distinct do else end except false fetch for foreign freeze from full grant group having ilike in initially inner intersect into is isnull join lateral leading left like limit localtime localtimestamp natural not notnull null offset on only or order outer overlaps placing primary references returning right select session_user similar some symmetric table tablesample then to trailing true union unique user using variadic verbose when where window with between bigint bit boolean char character coalesce dec decimal exists extract float greatest grouping inout int integer interval least national nchar none normalize nullif numeric out overlay position precision real row setof smallint substring time timestamp treat trim values varchar ";

/// A name, quoted where it must be.
pub fn quote_ident(name: &str) -> String {
    let mut chars = name.chars();
    let first = chars
        .next()
        .is_some_and(|c| c.is_ascii_lowercase() || c == '_');
    let rest = chars.all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
    match first && rest && !RESERVED.contains(&format!(" {name} ")) {
        true => name.to_string(),
        false => format!("\"{}\"", name.replace('"', "\"\"")),
    }
}

/// A string literal.
pub fn quote_literal(text: &str) -> String {
    let escape = if text.contains('\\') { "E" } else { "" };
    format!(
        "{escape}'{}'",
        text.replace('\'', "''").replace('\\', "\\\\")
    )
}

/// SQL names of types, where they aren't those of `pg_type`.
const SQL_NAMES: &[(&str, &str)] = &[
    ("bool", "boolean"),
    ("int2", "smallint"),
    ("int4", "integer"),
    ("int8", "bigint"),
    ("float4", "real"),
    ("float8", "double precision"),
    ("varchar", "character varying"),
    ("bpchar", "character"),
    ("time", "time without time zone"),
    ("timestamp", "timestamp without time zone"),
    ("timestamptz", "timestamp with time zone"),
    ("char", "\"char\""),
];

/// `format_type`: a type's SQL name with its modifier.
pub fn format_type(oid: i64, modifier: Option<i64>) -> String {
    let of_array = |t: &&crate::pg::types::PgType| i64::from(t.array) == oid;
    if let Some(element) = TYPES.iter().find(of_array) {
        return format!("{}[]", format_type(i64::from(element.oid), modifier));
    }
    let extra = server_wide::EXTRA_TYPES
        .iter()
        .map(|(oid, name, ..)| (i64::from(*oid), *name));
    let known = TYPES
        .iter()
        .map(|t| (i64::from(t.oid), t.name))
        .chain(extra);
    let Some((_, name)) = known.into_iter().find(|(known, _)| *known == oid) else {
        return if oid == 0 { "-".into() } else { "???".into() };
    };
    let name = SQL_NAMES
        .iter()
        .find(|(n, _)| *n == name)
        .map_or(name, |(_, sql)| sql);
    match (name, modifier.filter(|m| *m >= 4).map(|m| m - 4)) {
        ("numeric", Some(m)) => format!("numeric({},{})", m >> 16, m & 0x7ff),
        ("character varying" | "character", Some(m)) => format!("{name}({m})"),
        _ => name.to_string(),
    }
}

/// The oid of a type's name.
pub fn type_oid(name: &str) -> Option<i64> {
    let mut name = name.trim().to_lowercase().replace('"', "");
    // Of `varchar(50)` and `timestamp(3) with time zone`.
    if let (Some(from), Some(to)) = (name.find('('), name.find(')'))
        && from < to
    {
        name.replace_range(from..=to, "");
    }
    let name = name.strip_prefix("pg_catalog.").unwrap_or(&name);
    if let Some(element) = name.strip_suffix("[]") {
        let element = type_oid(element)?;
        let found = TYPES.iter().find(|t| i64::from(t.oid) == element)?;
        return Some(i64::from(found.array));
    }
    let name = SQL_NAMES
        .iter()
        .find(|(_, sql)| *sql == name)
        .map_or(name, |(n, _)| n);
    // `_text` is `text[]`.
    let array = name
        .strip_prefix('_')
        .and_then(|of| TYPES.iter().find(|t| t.name == of));
    if let Some(element) = array {
        return Some(i64::from(element.array));
    }
    let name = match name {
        "int" => "int4",
        "decimal" | "dec" => "numeric",
        name => name,
    };
    let extra = server_wide::EXTRA_TYPES
        .iter()
        .map(|(oid, name, ..)| (*oid, *name));
    TYPES
        .iter()
        .map(|t| (t.oid, t.name))
        .chain(extra)
        .find(|(_, known)| *known == name)
        .map(|(oid, _)| i64::from(oid))
}

/// An array's literal as a value; elements stay text.
pub fn read_array(text: &str) -> Result<Value, SqlError> {
    let body = text
        .trim()
        .strip_prefix('{')
        .and_then(|rest| rest.strip_suffix('}'))
        .ok_or_else(|| invalid("array", text))?;
    if body.is_empty() {
        return Ok(Value::Array(Arc::from([])));
    }
    let items = body.split(',').map(|item| match item.trim() {
        "NULL" => Value::Null,
        item => Value::text(item.trim_matches('"')),
    });
    Ok(Value::Array(items.collect()))
}
