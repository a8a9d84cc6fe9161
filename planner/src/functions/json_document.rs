//! A JSON document in memory, for functions that change it. Numbers stay as they are written: as floats they would lose digits.

use std::fmt;

use super::json_order::number_key;
use super::json_text::{check, raw, string_into, unescape};
use crate::error::Result;

/// A JSON value.
#[derive(Clone, Debug)]
pub(super) enum Document {
    Null,
    Bool(bool),
    /// As it is written.
    Number(String),
    String(String),
    Array(Vec<Document>),
    Object(Members),
}

/// An object's members; each key is there once.
#[derive(Clone, Debug, Default)]
pub(super) struct Members(Vec<(String, Document)>);

impl Document {
    pub fn parse(text: &str) -> Result<Document> {
        check(text)?;
        Ok(Document::of(text))
    }

    /// Of text that is JSON.
    fn of(text: &str) -> Document {
        let t = text.trim();
        match t.bytes().next() {
            Some(b'{') => {
                let mut members = Members::default();
                for (key, value) in sonic_rs::to_object_iter(t).flatten() {
                    members.insert(key.to_string(), Document::of(raw(t, &value)));
                }
                Document::Object(members)
            }
            Some(b'[') => {
                let items = sonic_rs::to_array_iter(t).flatten();
                Document::Array(items.map(|e| Document::of(raw(t, &e))).collect())
            }
            Some(b'"') => Document::String(unescape(t)),
            Some(b'n') => Document::Null,
            Some(b't') => Document::Bool(true),
            Some(b'f') => Document::Bool(false),
            _ => Document::Number(t.to_string()),
        }
    }

    pub fn as_str(&self) -> Option<&str> {
        match self {
            Document::String(s) => Some(s),
            _ => None,
        }
    }

    pub fn is_null(&self) -> bool {
        matches!(self, Document::Null)
    }

    pub fn is_object(&self) -> bool {
        matches!(self, Document::Object(_))
    }

    pub fn is_array(&self) -> bool {
        matches!(self, Document::Array(_))
    }
}

/// Numbers are equal by value, objects whatever the order of their members.
impl PartialEq for Document {
    fn eq(&self, other: &Document) -> bool {
        use Document::*;
        match (self, other) {
            (Null, Null) => true,
            (Bool(a), Bool(b)) => a == b,
            (Number(a), Number(b)) => {
                let key = |text: &str| {
                    let mut out = vec![];
                    number_key(text, &mut out);
                    out
                };
                a == b || key(a) == key(b)
            }
            (String(a), String(b)) => a == b,
            (Array(a), Array(b)) => a == b,
            (Object(a), Object(b)) => {
                a.0.len() == b.0.len() && a.0.iter().all(|(k, v)| b.get(k) == Some(v))
            }
            _ => false,
        }
    }
}

impl fmt::Display for Document {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = String::new();
        self.write(&mut out);
        f.write_str(&out)
    }
}

impl Document {
    fn write(&self, out: &mut String) {
        match self {
            Document::Null => out.push_str("null"),
            Document::Bool(b) => out.push_str(if *b { "true" } else { "false" }),
            Document::Number(n) => out.push_str(n),
            Document::String(s) => string_into(s, out),
            Document::Array(items) => {
                out.push('[');
                for (i, item) in items.iter().enumerate() {
                    if i > 0 {
                        out.push(',');
                    }
                    item.write(out);
                }
                out.push(']');
            }
            Document::Object(members) => {
                out.push('{');
                for (i, (key, value)) in members.0.iter().enumerate() {
                    if i > 0 {
                        out.push(',');
                    }
                    string_into(key, out);
                    out.push(':');
                    value.write(out);
                }
                out.push('}');
            }
        }
    }
}

impl Members {
    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn iter(&self) -> impl Iterator<Item = &(String, Document)> {
        self.0.iter()
    }

    pub fn get(&self, key: &str) -> Option<&Document> {
        self.0.iter().find(|(k, _)| k == key).map(|(_, v)| v)
    }

    pub fn get_mut(&mut self, key: &str) -> Option<&mut Document> {
        self.0.iter_mut().find(|(k, _)| k == key).map(|(_, v)| v)
    }

    pub fn contains_key(&self, key: &str) -> bool {
        self.get(key).is_some()
    }

    /// Adds a member, or replaces the one of this key.
    pub fn insert(&mut self, key: String, value: Document) {
        match self.get_mut(&key) {
            Some(old) => *old = value,
            None => self.0.push((key, value)),
        }
    }

    pub fn retain(&mut self, mut keep: impl FnMut(&str, &Document) -> bool) {
        self.0.retain(|(k, v)| keep(k, v));
    }

    pub fn values_mut(&mut self) -> impl Iterator<Item = &mut Document> {
        self.0.iter_mut().map(|(_, v)| v)
    }

    pub fn extend(&mut self, more: Members) {
        for (key, value) in more.0 {
            self.insert(key, value);
        }
    }
}
