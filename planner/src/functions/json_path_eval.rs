//! SQL/JSON paths run on documents.
//!
//! In lax mode arrays are taken apart, and values made arrays of one element, where a step wants that, and what isn't there gives
//! nothing; in strict mode both are errors. An error within a predicate makes it unknown.

use std::cell::RefCell;
use std::cmp::Ordering;
use std::collections::HashMap;
use std::rc::Rc;

use arrow::datatypes::i256;
use datafusion_common::ScalarValue;

use super::array::per_row;
use super::json::document;
use super::json_document::Document as V;
use super::json_path::{Comparison, Method, Node, Path, Step, parse};
use super::json_text::canonical;
use super::parse::{decimal_parts, rescale};
use super::regexps::with_regex;
use super::registry::Registry;
use super::{Args, arith, external, kernel};
use crate::error::{Result, SqlError};

/// Decimals of quotients.
const QUOTIENT_SCALE: i32 = 16;

/// What names stand for at a place in a path.
#[derive(Clone, Copy)]
struct At<'v> {
    root: &'v V,
    current: &'v V,
    /// The number of the last element of the array around.
    last: Option<usize>,
}

struct Run<'p> {
    strict: bool,
    variables: &'p V,
}

fn error(sqlstate: &'static str, message: impl Into<String>) -> SqlError {
    SqlError::new(sqlstate, message)
}

impl Run<'_> {
    /// The values that an expression gives.
    fn values(&self, node: &Node, at: At) -> Result<Vec<V>> {
        Ok(match node {
            Node::Root => vec![at.root.clone()],
            Node::Current => vec![at.current.clone()],
            Node::Literal(value) => vec![value.clone()],
            Node::Variable(name) => match self.variables {
                V::Object(members) => match members.get(name) {
                    Some(value) => vec![value.clone()],
                    None => {
                        let message = format!("could not find jsonpath variable \"{name}\"");
                        return Err(error("42704", message));
                    }
                },
                _ => return Err(error("22023", "\"vars\" argument is not an object")),
            },
            Node::Last => match at.last {
                Some(n) => vec![V::Number(n.to_string())],
                None => {
                    let message = "LAST is allowed only in array subscripts";
                    return Err(error("42601", message));
                }
            },
            Node::Access(inner, step) => {
                let mut out = vec![];
                for value in self.values(inner, at)? {
                    self.step(&value, step, at, true, &mut out)?;
                }
                out
            }
            Node::Arithmetic(l, op, r) => {
                let left = self.operand(l, *op, "left", at)?;
                let right = self.operand(r, *op, "right", at)?;
                vec![V::Number(arithmetic(left, *op, right)?)]
            }
            Node::Signed(sign, inner) => {
                let values = self.taken_apart(self.values(inner, at)?);
                let changed = values.into_iter().map(|v| match (&v, sign) {
                    (V::Number(_), '+') => Ok(v),
                    (V::Number(n), _) => {
                        let (digits, scale) = parts(n)?;
                        Ok(V::Number(written(digits.wrapping_neg(), scale)))
                    }
                    _ => {
                        let message = format!(
                            "operand of unary jsonpath operator {sign} is not a numeric value"
                        );
                        Err(error("2203B", message))
                    }
                });
                changed.collect::<Result<_>>()?
            }
            predicate => match self.truth(predicate, at)? {
                Some(truth) => vec![V::Bool(truth)],
                None => vec![V::Null],
            },
        })
    }

    fn operand(&self, node: &Node, op: char, side: &str, at: At) -> Result<(i256, i32)> {
        let values = self.taken_apart(self.values(node, at)?);
        match values.as_slice() {
            [V::Number(n)] => parts(n),
            _ => Err(error(
                "22038",
                format!("{side} operand of jsonpath operator {op} is not a single numeric value"),
            )),
        }
    }

    /// In lax mode the elements of arrays in their place.
    fn taken_apart(&self, values: Vec<V>) -> Vec<V> {
        if self.strict {
            return values;
        }
        let each = values.into_iter().flat_map(|v| match v {
            V::Array(items) => items,
            other => vec![other],
        });
        each.collect()
    }

    /// What a step gives of a value. `apart`: an array may be taken apart for it.
    fn step(&self, value: &V, step: &Step, at: At, apart: bool, out: &mut Vec<V>) -> Result<()> {
        let whole = matches!(
            step,
            Step::AnyElement
                | Step::Elements(_)
                | Step::Within(..)
                | Step::Method(Method::Type | Method::Size)
        );
        if let (V::Array(items), true, false, false) = (value, apart, self.strict, whole) {
            for item in items {
                self.step(item, step, at, false, out)?;
            }
            return Ok(());
        }
        match step {
            Step::Key(key) => match value {
                V::Object(members) => match members.get(key) {
                    Some(found) => out.push(found.clone()),
                    None if self.strict => {
                        let message = format!("JSON object does not contain key \"{key}\"");
                        return Err(error("2203A", message));
                    }
                    None => {}
                },
                _ => self.only("2203A", "jsonpath member accessor", "an object")?,
            },
            Step::AnyKey => match value {
                V::Object(members) => out.extend(members.iter().map(|(_, v)| v.clone())),
                _ => self.only("2203C", "jsonpath wildcard member accessor", "an object")?,
            },
            Step::AnyElement => match value {
                V::Array(items) => out.extend(items.iter().cloned()),
                other if !self.strict => out.push(other.clone()),
                _ => self.only("22039", "jsonpath wildcard array accessor", "an array")?,
            },
            Step::Elements(ranges) => match value {
                V::Array(items) => self.elements(items, ranges, at, out)?,
                other if !self.strict => {
                    self.elements(std::slice::from_ref(other), ranges, at, out)?
                }
                _ => self.only("22039", "jsonpath array accessor", "an array")?,
            },
            Step::Filter(condition) => {
                let inner = At {
                    current: value,
                    ..at
                };
                if self.truth(condition, inner)? == Some(true) {
                    out.push(value.clone());
                }
            }
            Step::Within(first, last) => within(value, 0, *first, *last, out),
            Step::Method(method) => out.push(self.method(value, *method)?),
        }
        Ok(())
    }

    /// In strict mode the error of a step on the wrong kind of value.
    fn only(&self, sqlstate: &'static str, what: &str, of: &str) -> Result<()> {
        match self.strict {
            true => Err(error(
                sqlstate,
                format!("{what} can only be applied to {of}"),
            )),
            false => Ok(()),
        }
    }

    fn elements(
        &self,
        items: &[V],
        ranges: &[(Node, Option<Node>)],
        at: At,
        out: &mut Vec<V>,
    ) -> Result<()> {
        let inner = At {
            last: Some(items.len().saturating_sub(1)),
            ..at
        };
        let length = items.len() as i64;
        for (from, to) in ranges {
            let from = self.subscript(from, inner)?;
            let to = match to {
                Some(to) => self.subscript(to, inner)?,
                None => from,
            };
            if self.strict && (from < 0 || from > to || to >= length) {
                return Err(error("22033", "jsonpath array subscript is out of bounds"));
            }
            let (from, to) = (from.max(0), to.min(length - 1));
            if from <= to {
                out.extend_from_slice(&items[from as usize..=to as usize]);
            }
        }
        Ok(())
    }

    fn subscript(&self, node: &Node, at: At) -> Result<i64> {
        let values = self.values(node, at)?;
        let [V::Number(n)] = values.as_slice() else {
            let message = "jsonpath array subscript is not a single numeric value";
            return Err(error("22033", message));
        };
        let (digits, scale) = parts(n)?;
        let whole = match scale > 0 {
            true => digits.checked_div(super::parse::pow10(scale as u32)),
            false => rescale(digits, scale, 0),
        };
        let place = whole
            .and_then(|n| n.to_i128())
            .and_then(|n| i32::try_from(n).ok());
        place.map(i64::from).ok_or_else(|| {
            let message = "jsonpath array subscript is out of integer range";
            error("22033", message)
        })
    }

    fn method(&self, value: &V, method: Method) -> Result<V> {
        let number = |name: &str, of: &str| {
            let message = format!("jsonpath item method .{name}() can only be applied to {of}");
            error("22036", message)
        };
        let rounded = |name: &str, f: fn(i256, i256) -> i256| match value {
            V::Number(n) => {
                let (digits, scale) = parts(n)?;
                let unit = super::parse::pow10(scale.max(0) as u32);
                Ok(V::Number(written(f(digits, unit), 0)))
            }
            _ => Err(number(name, "a numeric value")),
        };
        match method {
            Method::Type => Ok(V::String(kind(value).into())),
            Method::Size => match value {
                V::Array(items) => Ok(V::Number(items.len().to_string())),
                _ if self.strict => Err(error(
                    "22039",
                    "jsonpath item method .size() can only be applied to an array",
                )),
                _ => Ok(V::Number("1".into())),
            },
            Method::Double => {
                let (V::Number(text) | V::String(text)) = value else {
                    return Err(number("double", "a string or numeric value"));
                };
                let parsed = text.trim().parse::<f64>().ok().filter(|f| f.is_finite());
                match (parsed, value) {
                    (Some(_), V::Number(_)) => Ok(value.clone()),
                    (Some(f), _) => Ok(V::Number(f.to_string())),
                    (None, _) => Err(error(
                        "22036",
                        "string argument of jsonpath item method .double() is not a valid representation of a double precision number",
                    )),
                }
            }
            Method::Ceiling => rounded("ceiling", |digits, unit| {
                floor(digits.wrapping_neg(), unit).wrapping_neg()
            }),
            Method::Floor => rounded("floor", floor),
            Method::Abs => match value {
                V::Number(n) => Ok(V::Number(n.trim_start_matches('-').to_string())),
                _ => Err(number("abs", "a numeric value")),
            },
        }
    }

    /// A predicate's truth; an error in what it looks at makes it unknown.
    fn truth(&self, node: &Node, at: At) -> Result<Option<bool>> {
        Ok(match node {
            Node::And(l, r) => match self.truth(l, at)? {
                Some(false) => Some(false),
                left => match (left, self.truth(r, at)?) {
                    (_, Some(false)) => Some(false),
                    (Some(true), right) => right,
                    _ => None,
                },
            },
            Node::Or(l, r) => match self.truth(l, at)? {
                Some(true) => Some(true),
                left => match (left, self.truth(r, at)?) {
                    (_, Some(true)) => Some(true),
                    (Some(false), right) => right,
                    _ => None,
                },
            },
            Node::Not(inner) => self.truth(inner, at)?.map(|t| !t),
            Node::IsUnknown(inner) => Some(self.truth(inner, at)?.is_none()),
            Node::Exists(inner) => known(self.values(inner, at))?.map(|v| !v.is_empty()),
            Node::Compare(l, comparison, r) => {
                let right = known(self.values(r, at))?.map(|v| self.taken_apart(v));
                self.any(l, right, at, |a, b| compare(a, *comparison, b))?
            }
            Node::StartsWith(l, start) => {
                let start = known(self.values(start, at))?;
                self.any(l, start, at, |a, b| match (a, b) {
                    (V::String(a), V::String(b)) => Some(a.starts_with(b.as_str())),
                    _ => None,
                })?
            }
            Node::Matches(l, pattern, flags) => {
                let mut failed = None;
                let found = self.any(l, Some(vec![V::Null]), at, |a, _| match a {
                    V::String(text) => match with_regex(pattern, flags, |r| r.is_match(text)) {
                        Ok(matches) => Some(matches),
                        Err(e) => {
                            failed = Some(e);
                            None
                        }
                    },
                    _ => None,
                })?;
                match failed {
                    Some(e) => return Err(e),
                    None => found,
                }
            }
            other => match known(self.values(other, at))?.as_deref() {
                Some([V::Bool(truth)]) => Some(*truth),
                _ => None,
            },
        })
    }

    /// Whether the test holds for any pair of values.
    fn any(
        &self,
        left: &Node,
        right: Option<Vec<V>>,
        at: At,
        mut test: impl FnMut(&V, &V) -> Option<bool>,
    ) -> Result<Option<bool>> {
        let left = known(self.values(left, at))?.map(|v| self.taken_apart(v));
        let (Some(left), Some(right)) = (left, right) else {
            return Ok(None);
        };
        let (mut found, mut unknown) = (false, false);
        for a in &left {
            for b in &right {
                match test(a, b) {
                    Some(true) if !self.strict => return Ok(Some(true)),
                    Some(true) => found = true,
                    Some(false) => {}
                    None if self.strict => return Ok(None),
                    None => unknown = true,
                }
            }
        }
        Ok(match (found, unknown) {
            (true, _) => Some(true),
            (_, true) => None,
            _ => Some(false),
        })
    }
}

/// `None` for an error that a predicate takes for unknown. A variable that isn't there never is.
fn known<T>(values: Result<T>) -> Result<Option<T>> {
    match values {
        Ok(values) => Ok(Some(values)),
        Err(e) if matches!(e.sqlstate, "42704" | "42601") => Err(e),
        Err(_) => Ok(None),
    }
}

/// A value and those within it, on the levels from `first` to `last`; without a first one those that contain nothing.
fn within(value: &V, level: u32, first: Option<u32>, last: Option<u32>, out: &mut Vec<V>) {
    let inner: Vec<&V> = match value {
        V::Array(items) => items.iter().collect(),
        V::Object(members) => members.iter().map(|(_, v)| v).collect(),
        _ => vec![],
    };
    let leaf = !matches!(value, V::Array(_) | V::Object(_));
    let wanted = match first {
        None => leaf,
        Some(first) => level >= first && last.is_none_or(|last| level <= last),
    };
    if wanted {
        out.push(value.clone());
    }
    if last.is_none_or(|last| level < last) {
        for value in inner {
            within(value, level + 1, first, last, out);
        }
    }
}

fn kind(value: &V) -> &'static str {
    match value {
        V::Null => "null",
        V::Bool(_) => "boolean",
        V::Number(_) => "number",
        V::String(_) => "string",
        V::Array(_) => "array",
        V::Object(_) => "object",
    }
}

fn compare(a: &V, comparison: Comparison, b: &V) -> Option<bool> {
    let order = match (a, b) {
        (V::Null, V::Null) => Ordering::Equal,
        (V::Null, _) | (_, V::Null) => return Some(comparison == Comparison::Unequal),
        (V::Bool(a), V::Bool(b)) => a.cmp(b),
        (V::String(a), V::String(b)) => a.cmp(b),
        (V::Number(a), V::Number(b)) => number_order(a, b),
        _ => return None,
    };
    Some(match comparison {
        Comparison::Equal => order.is_eq(),
        Comparison::Unequal => order.is_ne(),
        Comparison::Less => order.is_lt(),
        Comparison::LessOrEqual => order.is_le(),
        Comparison::Greater => order.is_gt(),
        Comparison::GreaterOrEqual => order.is_ge(),
    })
}

fn number_order(a: &str, b: &str) -> Ordering {
    let key = |text: &str| {
        let mut out = vec![];
        super::json_order::number_key(text, &mut out);
        out
    };
    key(a).cmp(&key(b))
}

/// A number's digits and how many of them are behind the point.
fn parts(number: &str) -> Result<(i256, i32)> {
    decimal_parts(number).ok_or_else(|| error("22003", "value overflows numeric format"))
}

fn arithmetic((a, s): (i256, i32), op: char, (b, t): (i256, i32)) -> Result<String> {
    let overflow = || error("22003", "value overflows numeric format");
    let scale = s.max(t).max(0);
    let alike = || {
        let a = rescale(a, s, scale)?;
        Some((a, rescale(b, t, scale)?))
    };
    if matches!(op, '/' | '%') && b == i256::ZERO {
        return Err(arith::division_by_zero());
    }
    let (digits, scale) = match op {
        '*' => (a.checked_mul(b), s + t),
        '/' => {
            let scale = scale.max(QUOTIENT_SCALE);
            (arith::divide(a, b, scale + t - s), scale)
        }
        _ => {
            let (a, b) = alike().ok_or_else(overflow)?;
            let digits = match op {
                '+' => a.checked_add(b),
                '-' => a.checked_sub(b),
                _ => a.checked_rem(b),
            };
            (digits, scale)
        }
    };
    Ok(written(digits.ok_or_else(overflow)?, scale))
}

fn floor(digits: i256, unit: i256) -> i256 {
    let whole = digits.wrapping_div(unit);
    match digits < i256::ZERO && whole.wrapping_mul(unit) != digits {
        true => whole.wrapping_sub(i256::ONE),
        false => whole,
    }
}

/// A number as JSON has it.
fn written(digits: i256, scale: i32) -> String {
    let negative = digits < i256::ZERO;
    let mut text = digits.to_string();
    if negative {
        text.remove(0);
    }
    if scale < 0 {
        text.extend(std::iter::repeat_n('0', scale.unsigned_abs() as usize));
    } else if scale > 0 {
        let scale = scale as usize;
        if text.len() <= scale {
            text.insert_str(0, &"0".repeat(scale + 1 - text.len()));
        }
        text.insert(text.len() - scale, '.');
    }
    match negative {
        true => format!("-{text}"),
        false => text,
    }
}

/// Parsed paths that a thread keeps: most are constants.
const KEPT_MAX: usize = 64;

thread_local! {
    static KEPT: RefCell<HashMap<String, Rc<Path>>> = RefCell::default();
}

fn parsed(text: &str) -> Result<Rc<Path>> {
    if let Some(path) = KEPT.with_borrow(|kept| kept.get(text).cloned()) {
        return Ok(path);
    }
    let path = Rc::new(parse(text)?);
    KEPT.with_borrow_mut(|kept| {
        if kept.len() >= KEPT_MAX {
            kept.clear();
        }
        kept.insert(text.to_string(), path.clone());
    });
    Ok(path)
}

/// The values that a path gives; `None`: an error that is passed over.
fn query(json: &str, path: &str, variables: &str, silent: bool) -> Result<Option<Vec<V>>> {
    let path = parsed(path)?;
    let (root, variables) = (document(json)?, document(variables)?);
    if !matches!(variables, V::Object(_)) {
        return Err(error("22023", "\"vars\" argument is not an object").detail(
            "Jsonpath parameters should be encoded as key-value pairs of \"vars\" object.",
        ));
    }
    let run = Run {
        strict: path.strict,
        variables: &variables,
    };
    let at = At {
        root: &root,
        current: &root,
        last: None,
    };
    match silent {
        true => known(run.values(&path.root, at)),
        false => run.values(&path.root, at).map(Some),
    }
}

fn exists(json: &str, path: &str, variables: &str, silent: bool) -> Result<Option<bool>> {
    Ok(query(json, path, variables, silent)?.map(|values| !values.is_empty()))
}

fn matches(json: &str, path: &str, variables: &str, silent: bool) -> Result<Option<bool>> {
    match query(json, path, variables, silent)?.as_deref() {
        None | Some([V::Null]) => Ok(None),
        Some([V::Bool(truth)]) => Ok(Some(*truth)),
        _ if silent => Ok(None),
        _ => Err(error("22038", "single boolean result is expected")),
    }
}

fn first(json: &str, path: &str, variables: &str, silent: bool) -> Result<Option<String>> {
    let values = query(json, path, variables, silent)?.unwrap_or_default();
    let first = values.into_iter().next();
    first.map(|v| canonical(&v.to_string())).transpose()
}

fn array(json: &str, path: &str, variables: &str, silent: bool) -> Result<Option<String>> {
    let values = query(json, path, variables, silent)?.unwrap_or_default();
    canonical(&V::Array(values).to_string()).map(Some)
}

/// The arguments of a row: those that are left out have their defaults. `None`: one is NULL.
fn row_arguments(a: &Args, row: usize) -> Option<(&str, &str, &str, bool)> {
    use arrow::array::AsArray;
    if (0..a.arrays.len()).any(|i| a.is_null(i, row)) {
        return None;
    }
    let text = |i: usize| a.arrays[i].as_string_view().value(a.at(i, row));
    let given = a.arrays.len();
    Some((
        text(0),
        text(1),
        if given > 2 { text(2) } else { "{}" },
        given > 3 && a.arrays[3].as_boolean().value(a.at(3, row)),
    ))
}

/// Registers a function of a document and a path, its variables and `silent`, of which the latter may be left out.
macro_rules! of_path {
    ($r:ident, $f:ident, $kind:ident, $short:literal, $more:literal, $all:literal) => {
        $r.add_fallible($short, kernel!(|j: text, p: text| -> $kind $f(j, p, "{}", false)));
        $r.add_fallible($more, kernel!(|j: text, p: text, v: text| -> $kind $f(j, p, v, false)));
        $r.add_fallible(
            $all,
            kernel!(|j: text, p: text, v: text, s: bool| -> $kind $f(j, p, v, s)),
        );
    };
}

pub fn register(r: &mut Registry) {
    of_path!(
        r,
        exists,
        bool,
        "jsonb_path_exists(jsonb, text) bool",
        "jsonb_path_exists(jsonb, text, jsonb) bool",
        "jsonb_path_exists(jsonb, text, jsonb, bool) bool"
    );
    of_path!(
        r,
        matches,
        bool,
        "jsonb_path_match(jsonb, text) bool",
        "jsonb_path_match(jsonb, text, jsonb) bool",
        "jsonb_path_match(jsonb, text, jsonb, bool) bool"
    );
    of_path!(
        r,
        first,
        text,
        "jsonb_path_query_first(jsonb, text) jsonb",
        "jsonb_path_query_first(jsonb, text, jsonb) jsonb",
        "jsonb_path_query_first(jsonb, text, jsonb, bool) jsonb"
    );
    of_path!(
        r,
        array,
        text,
        "jsonb_path_query_array(jsonb, text) jsonb",
        "jsonb_path_query_array(jsonb, text, jsonb) jsonb",
        "jsonb_path_query_array(jsonb, text, jsonb, bool) jsonb"
    );
    for signature in [
        "jsonb_path_query_list(jsonb, text) jsonb[]",
        "jsonb_path_query_list(jsonb, text, jsonb) jsonb[]",
        "jsonb_path_query_list(jsonb, text, jsonb, bool) jsonb[]",
    ] {
        r.add_typed(signature, |t| {
            per_row(t.ret, |a, row| {
                let Some((json, path, variables, silent)) = row_arguments(a, row) else {
                    return Ok(None);
                };
                let items = || {
                    let values = query(json, path, variables, silent)?.unwrap_or_default();
                    let texts = values.iter().map(|v| canonical(&v.to_string()));
                    let items = texts.map(|t| Ok(ScalarValue::Utf8View(Some(t?))));
                    items.collect::<Result<_>>().map(Some)
                };
                items().map_err(external)
            })
        });
    }
}
