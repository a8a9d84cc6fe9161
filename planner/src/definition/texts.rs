//! Relations that expressions name: by a constant text, as in `'t'::regclass` and `nextval('s')`, or by their row type, as in
//! `NULL::t`. They mean what they meant when they were written, as PostgreSQL has their oids there.

use std::ops::ControlFlow;

use sqlparser::ast::{self, Expr, Ident, ObjectNamePart, Value};
use sqlparser::tokenizer::Token;

use crate::ast::{Name, Query};
use crate::bind::expr::strip;
use crate::bind::types::sql_type;
use crate::functions::strings::quote_ident;
use crate::names::{name_of, name_of_text};
use crate::parser::{parts, string_of};

/// Calls `rename` with the name that each such text spells; what it gives is the name from now on. True if there is one.
pub(super) fn rename_in_expressions(
    query: &mut Query,
    rename: &mut dyn FnMut(&Name) -> Option<Name>,
) -> bool {
    let mut texts = Texts {
        rename,
        changed: false,
    };
    crate::walk::change(query, &mut texts);
    texts.changed
}

/// A statement's text with the schema in front of the sequences that it names by constants, as in `DEFAULT nextval('s')`; `None`: there is
/// none. `schema_of` finds names along the search path of the session.
pub fn with_schemas_of_sequences(
    sql: &str,
    schema_of: impl Fn(&str) -> Option<String>,
) -> Option<String> {
    let mut chars: Vec<char> = sql.chars().collect();
    let mut tokens = crate::parser::tokenize(sql, &chars).ok()?;
    tokens.retain(|t| !matches!(t.token, Token::Whitespace(_)));
    let mut changed = false;
    // From behind, so that places stay what they are.
    for three in tokens.windows(3).rev() {
        let is_call = matches!((&three[0].token, &three[1].token), (Token::Word(word), Token::LParen)
            if word.quote_style.is_none() && is_of_sequences(&word.value.to_ascii_lowercase()));
        if let (true, Token::SingleQuotedString(text)) = (is_call, &three[2].token)
            && let Some(Name { schema: None, name }) = name_of_text(text)
            && let Some(schema) = schema_of(&name)
        {
            let name = format!("{}.{}", quote_ident(&schema), quote_ident(&name));
            let literal = format!("'{}'", name.replace('\'', "''"));
            let span = three[2].span;
            let place = span.start.column as usize - 1..span.end.column as usize - 1;
            chars.splice(place, literal.chars());
            changed = true;
        }
    }
    changed.then(|| chars.into_iter().collect())
}

fn is_of_sequences(function: &str) -> bool {
    matches!(function, "nextval" | "currval" | "setval")
}

/// The relation that an expression names by a text: the text of `'t'::regclass`.
pub(crate) fn regclass_text(e: &Expr) -> Option<&str> {
    let (value, data_type) = match strip(e) {
        Expr::Cast {
            expr, data_type, ..
        } => match strip(expr) {
            Expr::Value(value) => (value, data_type),
            _ => return None,
        },
        Expr::TypedString(typed) => (&typed.value, &typed.data_type),
        _ => return None,
    };
    let text = string_of(&value.value)?;
    let is_oid = text.trim().parse::<i64>().is_ok();
    (is_regclass(data_type) && !is_oid).then_some(text)
}

/// The sequence that a call of `nextval` and its kin names by a constant text.
pub(crate) fn sequence_text(f: &ast::Function) -> Option<&str> {
    let is_of_sequences = parts(&f.name)
        .last()
        .is_some_and(|name| is_of_sequences(name));
    let ast::FunctionArguments::List(list) = &f.args else {
        return None;
    };
    match list.args.first()? {
        ast::FunctionArg::Unnamed(ast::FunctionArgExpr::Expr(e)) if is_of_sequences => {
            match strip(e) {
                Expr::Value(value) => string_of(&value.value),
                e => regclass_text(e),
            }
        }
        _ => None,
    }
}

pub(crate) fn is_regclass(data_type: &ast::DataType) -> bool {
    data_type
        .to_string()
        .to_ascii_lowercase()
        .ends_with("regclass")
}

struct Texts<'f> {
    rename: &'f mut dyn FnMut(&Name) -> Option<Name>,
    changed: bool,
}

impl Texts<'_> {
    fn renamed(&mut self, text: &str) -> Option<String> {
        let new = (self.rename)(&name_of_text(text)?)?;
        self.changed = true;
        let name = quote_ident(&new.name);
        let qualified = |schema: &String| format!("{}.{name}", quote_ident(schema));
        Some(new.schema.as_ref().map_or_else(|| name.clone(), qualified))
    }
}

impl ast::VisitorMut for Texts<'_> {
    type Break = ();

    fn pre_visit_expr(&mut self, e: &mut Expr) -> ControlFlow<()> {
        if let Expr::Cast { data_type, .. } = e
            && let Some(of) = row_type(data_type)
            && let Ok(name) = name_of(of)
            && let Some(new) = (self.rename)(&name)
        {
            self.changed = true;
            let parts = new.schema.into_iter().chain([new.name]);
            let parts = parts.map(|part| Ident::with_quote('"', part));
            of.0 = parts.map(ObjectNamePart::Identifier).collect();
            return ControlFlow::Continue(());
        }
        // That of a cast in a call is visited itself.
        let named = match e {
            Expr::Function(f) => sequence_text(f).map(str::to_owned),
            ref e => regclass_text(e).map(str::to_owned),
        };
        if let Some(new) = named.and_then(|text| self.renamed(&text))
            && let Some(value) = constant_in(e)
        {
            *value = Value::SingleQuotedString(new);
        }
        ControlFlow::Continue(())
    }
}

/// The relation whose row type this is.
fn row_type(data_type: &mut ast::DataType) -> Option<&mut ast::ObjectName> {
    if sql_type(data_type).is_ok() || is_regclass(data_type) {
        return None;
    }
    match data_type {
        ast::DataType::Custom(name, modifiers) if modifiers.is_empty() => Some(name),
        _ => None,
    }
}

/// The constant of an expression that names a relation by a text.
fn constant_in(e: &mut Expr) -> Option<&mut Value> {
    match e {
        Expr::Value(value) => Some(&mut value.value),
        Expr::TypedString(typed) => Some(&mut typed.value.value),
        Expr::Cast { expr, .. } | Expr::Nested(expr) => constant_in(expr),
        Expr::Function(f) => match &mut f.args {
            ast::FunctionArguments::List(list) => match list.args.first_mut()? {
                ast::FunctionArg::Unnamed(ast::FunctionArgExpr::Expr(e)) => constant_in(e),
                _ => None,
            },
            _ => None,
        },
        _ => None,
    }
}
