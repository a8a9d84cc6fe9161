//! Several members of a JSON value in one scan of its text: `j ->> 'a'`, `j -> 'b'` together, over a column of
//! objects or over the elements of a column of arrays.
//!
//! Objects of one column mostly have the same keys in the same order. A [`Finder`] remembers the keys of the object
//! before, by position: where one stands again it is recognised by one comparison and passed over without looking
//! for its end. Everything else is as in the plain form, `json_scan::member`, with which the tests compare.

use std::sync::Arc;

use arrow::array::cast::AsArray;
use arrow::array::{Array, ArrayRef, ListArray, StringViewArray, StructArray};
use arrow::buffer::OffsetBuffer;
use arrow::datatypes::{DataType, Field, Fields};
use datafusion_common::config::ConfigOptions;
use datafusion_common::{Result as DfResult, ScalarValue};
use datafusion_expr::{ScalarUDF, Signature, TypeSignature, Volatility};
use datafusion_physical_expr::expressions::Literal;
use datafusion_physical_expr::{PhysicalExpr, ScalarFunctionExpr};
use tidemill_zset::schema::SqlType;

use super::json::{emit, no_elements};
use super::json_scan::{self, skip_space, string_end, value_end};
use super::json_text::unescape_inner;
use super::json_views::{Place, Slices};
use super::{Args, Function, Kernel, external};

/// A member that is asked for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Wanted {
    /// Its key.
    pub key: String,
    /// `->>`; else `->`.
    pub as_text: bool,
}

/// `value -> 'key'` or `value ->> 'key'` with a constant key.
pub(crate) struct Access<'a> {
    /// The JSON value.
    pub value: &'a Arc<dyn PhysicalExpr>,
    /// What is taken of it.
    pub wanted: Wanted,
    /// `jsonb`; else `json`.
    pub jsonb: bool,
}

/// `expr` as an access to a member, if it is one.
pub(crate) fn access(expr: &Arc<dyn PhysicalExpr>) -> Option<Access<'_>> {
    let call = ScalarFunctionExpr::try_downcast_func::<Function>(expr.as_ref())?;
    let (jsonb, as_text) = match call.name() {
        "json_object_field" => (false, false),
        "json_object_field_text" => (false, true),
        "jsonb_object_field" => (true, false),
        "jsonb_object_field_text" => (true, true),
        _ => return None,
    };
    let [value, key] = call.args() else {
        return None;
    };
    let ScalarValue::Utf8View(Some(key)) = key.downcast_ref::<Literal>()?.value() else {
        return None;
    };
    let key = key.clone();
    Some(Access {
        value,
        wanted: Wanted { key, as_text },
        jsonb,
    })
}

/// The array whose elements `expr` lists, and whether it is jsonb: the argument of `jsonb_array_elements` and its kin.
pub(crate) fn elements(expr: &Arc<dyn PhysicalExpr>) -> Option<(&Arc<dyn PhysicalExpr>, bool)> {
    let call = ScalarFunctionExpr::try_downcast_func::<Function>(expr.as_ref())?;
    let jsonb = match call.name() {
        "json_array_elements" => false,
        "jsonb_array_elements" => true,
        _ => return None,
    };
    call.args().first().map(|value| (value, jsonb))
}

/// The struct of the members `wanted` of `value`.
pub(crate) fn of_object(
    value: Arc<dyn PhysicalExpr>,
    wanted: &[Wanted],
    jsonb: bool,
) -> Arc<dyn PhysicalExpr> {
    let fields: Fields = fields(wanted, jsonb).into();
    let (parts, list) = (wanted.to_vec(), fields.clone());
    let kernel: Kernel = Arc::new(move |a: &Args| {
        let found = columns(a.arrays[0].as_string_view(), &parts, jsonb);
        let found = found.into_iter().map(|c| Arc::new(c) as ArrayRef);
        Ok(Arc::new(StructArray::try_new(
            list.clone(),
            found.collect(),
            None,
        )?))
    });
    let name = if jsonb {
        "jsonb_members"
    } else {
        "json_members"
    };
    call(name, value, wanted, kernel, false, DataType::Struct(fields))
}

/// The list of the elements of `value`, each a struct of the element itself, if it `keeps` that, and its members
/// `wanted`.
pub(crate) fn of_elements(
    value: Arc<dyn PhysicalExpr>,
    wanted: &[Wanted],
    jsonb: bool,
    keeps: bool,
) -> Arc<dyn PhysicalExpr> {
    let element = keeps.then(|| json_type(jsonb).field("element", true));
    let parts: Vec<Field> = element.into_iter().chain(fields(wanted, jsonb)).collect();
    let item = Arc::new(Field::new_list_field(DataType::Struct(parts.into()), true));
    let (parts, field) = (wanted.to_vec(), item.clone());
    let kernel: Kernel = Arc::new(move |a: &Args| {
        let values = a.arrays[0].as_string_view();
        let lists = element_lists(values, &parts, jsonb, keeps, &field)?;
        Ok(Arc::new(lists))
    });
    let name = match (jsonb, keeps) {
        (true, true) => "jsonb_array_members",
        (false, true) => "json_array_members",
        (true, false) => "jsonb_array_only_members",
        (false, false) => "json_array_only_members",
    };
    call(name, value, wanted, kernel, true, DataType::List(item))
}

fn json_type(jsonb: bool) -> SqlType {
    if jsonb { SqlType::Jsonb } else { SqlType::Json }
}

impl Wanted {
    /// The column of such members.
    pub(crate) fn field(&self, jsonb: bool) -> Field {
        match self.as_text {
            true => SqlType::Text.field(&self.key, true),
            false => json_type(jsonb).field(&self.key, true),
        }
    }
}

fn fields(wanted: &[Wanted], jsonb: bool) -> Vec<Field> {
    wanted.iter().map(|w| w.field(jsonb)).collect()
}

/// A call that names in its arguments what is wanted: EXPLAIN and fingerprints are made of them.
fn call(
    name: &str,
    value: Arc<dyn PhysicalExpr>,
    wanted: &[Wanted],
    kernel: Kernel,
    fallible: bool,
    ret: DataType,
) -> Arc<dyn PhysicalExpr> {
    let ret = Arc::new(Field::new(name, ret, true));
    let function = Function {
        name: name.to_string(),
        key: format!("{name} {wanted:?}"),
        ret: ret.clone(),
        signature: Signature::one_of(vec![TypeSignature::VariadicAny], Volatility::Immutable),
        kernel,
        fallible,
    };
    let names = wanted.iter().map(|w| {
        let arrow = if w.as_text { "->>" } else { "->" };
        let text = ScalarValue::Utf8View(Some(format!("{arrow} {}", w.key)));
        Arc::new(Literal::new(text)) as Arc<dyn PhysicalExpr>
    });
    let args = std::iter::once(value).chain(names).collect();
    Arc::new(ScalarFunctionExpr::new(
        name,
        Arc::new(ScalarUDF::new_from_impl(function)),
        args,
        ret,
        Arc::new(ConfigOptions::default()),
    ))
}

/// The members `wanted` of each of `values`, a column each. NULL where there is none, and of what is no object.
pub(super) fn columns(
    values: &StringViewArray,
    wanted: &[Wanted],
    jsonb: bool,
) -> Vec<StringViewArray> {
    let mut finder = Finder::new(wanted, jsonb);
    let mut out: Vec<Slices> = wanted
        .iter()
        .map(|_| Slices::new(values, values.len()))
        .collect();
    for row in 0..values.len() {
        if values.is_null(row) {
            out.iter_mut().for_each(Slices::push_null);
            continue;
        }
        let place = Place::new(values, row);
        let at = skip_space(place.text.as_bytes(), 0);
        finder.value(place.text, at);
        finder.emit(place, &mut out);
    }
    out.into_iter().map(Slices::finish).collect()
}

/// The elements of each of `values`, if it `keeps` them, with their members `wanted`, as lists of `item`.
fn element_lists(
    values: &StringViewArray,
    wanted: &[Wanted],
    jsonb: bool,
    keeps: bool,
    item: &Arc<Field>,
) -> DfResult<ListArray> {
    let mut finder = Finder::new(wanted, jsonb);
    let mut elements = keeps.then(|| Slices::new(values, values.len() * 2));
    let mut members: Vec<Slices> = wanted
        .iter()
        .map(|_| Slices::new(values, values.len() * 2))
        .collect();
    let mut lengths = Vec::with_capacity(values.len());
    for row in 0..values.len() {
        if values.is_null(row) {
            lengths.push(0);
            continue;
        }
        let place = Place::new(values, row);
        let text = place.text;
        let mut scan = json_scan::elements(text).ok_or_else(|| external(no_elements(text)))?;
        let mut n = 0;
        while let Some(element) = scan.next_by(|text, at| finder.value(text, at)) {
            if let Some(elements) = &mut elements {
                elements.push(place, element);
            }
            finder.emit(place, &mut members);
            n += 1;
        }
        lengths.push(n);
    }
    let DataType::Struct(fields) = item.data_type() else {
        return datafusion_common::internal_err!("elements with members are structs");
    };
    let columns = elements.into_iter().chain(members);
    let columns = columns.map(|c| Arc::new(c.finish()) as ArrayRef).collect();
    let structs = StructArray::try_new(fields.clone(), columns, None)?;
    Ok(ListArray::try_new(
        item.clone(),
        OffsetBuffer::from_lengths(lengths),
        Arc::new(structs),
        values.nulls().cloned(),
    )?)
}

/// Keys of an object that are remembered.
const GUESSES_MAX: usize = 64;

/// Finds the members that are wanted of one object after the other.
struct Finder {
    keys: Vec<String>,
    /// What is asked for: which of `keys`, and whether as text.
    wanted: Vec<(usize, bool)>,
    jsonb: bool,
    /// The keys of the object before, in its order.
    guesses: Vec<Guess>,
    /// Where the value of each of `keys` is in the object scanned last.
    found: Vec<Option<Found>>,
}

#[derive(Clone, Copy)]
struct Found {
    start: usize,
    end: usize,
    /// It is a string with escapes.
    escaped: bool,
}

/// A key that is expected: `"key":`.
#[derive(Default)]
struct Guess {
    text: Vec<u8>,
    /// Its first 16 bytes, and which bits of them it has.
    first: u128,
    mask: u128,
    /// Which of the wanted keys it is.
    key: Option<usize>,
}

impl Guess {
    /// Makes it expect `text`.
    fn set(&mut self, text: &[u8], key: Option<usize>) {
        self.text.clear();
        self.text.extend_from_slice(text);
        let len = text.len().min(16);
        let mut first = [0; 16];
        first[..len].copy_from_slice(&text[..len]);
        self.first = u128::from_le_bytes(first);
        self.mask = match len {
            16 => u128::MAX,
            len => (1 << (len * 8)) - 1,
        };
        self.key = key;
    }

    /// Whether it stands at `at`.
    #[inline]
    fn is_at(&self, bytes: &[u8], at: usize) -> bool {
        let len = self.text.len();
        match bytes.get(at..at + 16).map(<[u8; 16]>::try_from) {
            Some(Ok(wide)) if len <= 16 => u128::from_le_bytes(wide) & self.mask == self.first,
            _ => bytes.get(at..at + len) == Some(&self.text),
        }
    }
}

impl Finder {
    fn new(wanted: &[Wanted], jsonb: bool) -> Self {
        let mut keys: Vec<String> = Vec::new();
        let mut place = |w: &Wanted| {
            let known = keys.iter().position(|k| *k == w.key);
            let at = known.unwrap_or_else(|| {
                keys.push(w.key.clone());
                keys.len() - 1
            });
            (at, w.as_text)
        };
        let wanted = wanted.iter().map(&mut place).collect();
        Finder {
            found: vec![None; keys.len()],
            keys,
            wanted,
            jsonb,
            guesses: Vec::new(),
        }
    }

    /// Scans the value that begins at `at`, notes the members that are wanted, and says where it ends; `None` if it
    /// doesn't.
    #[inline]
    fn value(&mut self, text: &str, at: usize) -> Option<usize> {
        self.found.fill(None);
        match text.as_bytes().get(at) {
            Some(b'{') => self.object(text, at),
            _ => value_end(text.as_bytes(), at).map(|(end, _)| end),
        }
    }

    fn object(&mut self, text: &str, open: usize) -> Option<usize> {
        let bytes = text.as_bytes();
        let mut at = skip_space(bytes, open + 1);
        if bytes.get(at) == Some(&b'}') {
            return Some(at + 1);
        }
        let mut expected = 0;
        loop {
            // The member that stood here before, or as one of the object before is missing the one behind that.
            let ahead = self.guesses.get(expected..).unwrap_or_default();
            let hit = ahead.iter().take(2).position(|g| g.is_at(bytes, at));
            let (key, colon_end) = match hit {
                Some(skipped) => {
                    expected += skipped;
                    let guess = &self.guesses[expected];
                    (guess.key, at + guess.text.len())
                }
                None => self.read_key(text, at, expected)?,
            };
            expected += 1;
            let start = skip_space(bytes, colon_end);
            let (end, escaped) = value_end(bytes, start)?;
            if let Some(key) = key {
                // Of equal keys the last one counts.
                self.found[key] = Some(Found {
                    start,
                    end,
                    escaped,
                });
            }
            let next = skip_space(bytes, end);
            match bytes.get(next)? {
                b',' => at = skip_space(bytes, next + 1),
                b'}' => return Some(next + 1),
                _ => return None,
            }
        }
    }

    /// Reads the key at `at`: which of the wanted it is, and the place behind its colon. It becomes guess `position`.
    #[inline(never)]
    fn read_key(
        &mut self,
        text: &str,
        at: usize,
        position: usize,
    ) -> Option<(Option<usize>, usize)> {
        let bytes = text.as_bytes();
        if bytes.get(at) != Some(&b'"') {
            return None;
        }
        let (end, escaped) = string_end(bytes, at)?;
        let name = text.get(at + 1..end - 1)?;
        let colon = skip_space(bytes, end);
        if bytes.get(colon) != Some(&b':') {
            return None;
        }
        let key = match escaped {
            true => {
                let name = unescape_inner(name);
                self.keys.iter().position(|k| *k == name)
            }
            false => self.keys.iter().position(|k| *k == name),
        };
        if position < GUESSES_MAX {
            if position == self.guesses.len() {
                self.guesses.push(Guess::default());
            }
            self.guesses[position].set(&bytes[at..=colon], key);
        }
        Some((key, colon + 1))
    }

    /// Appends the members of the value at `place` scanned last, each to its column.
    #[inline]
    fn emit(&self, place: Place, out: &mut [Slices]) {
        for ((key, as_text), out) in self.wanted.iter().zip(out) {
            let found =
                self.found[*key].and_then(|f| Some((place.text.get(f.start..f.end)?, f.escaped)));
            match found {
                Some((raw, escaped)) => emit(out, place, raw, escaped, *as_text, self.jsonb),
                None => out.push_null(),
            }
        }
    }
}

#[cfg(test)]
#[path = "json_members_tests.rs"]
mod tests;
