//! `a JOIN b JOIN c ON … ON …`: sqlparser wants parentheses around a join that is the right side of another
//! one, `a JOIN (b JOIN c ON …) ON …`.

use sqlparser::tokenizer::{Token, TokenWithSpan};

use super::spelling::{is, is_one_of, like};

/// A join whose condition hasn't come yet.
struct Open {
    /// Where its right side begins.
    right: usize,
    /// Whether there is a join in its right side.
    nested: bool,
}

/// Words after which a list of relations is over.
const ENDS: &[&str] = &[
    "where",
    "group",
    "having",
    "window",
    "qualify",
    "order",
    "limit",
    "offset",
    "fetch",
    "union",
    "except",
    "intersect",
    "returning",
    "select",
    "from",
    "set",
    "for",
];

/// Puts parentheses around joins that are the right side of another one.
pub(super) fn nested_joins(tokens: Vec<TokenWithSpan>) -> Vec<TokenWithSpan> {
    // By depth of parentheses.
    let mut open: Vec<Vec<Open>> = vec![vec![]];
    let mut added: Vec<(usize, Token)> = vec![];
    for (i, t) in tokens.iter().enumerate() {
        let Some(here) = open.last_mut() else {
            return tokens; // More is closed than was opened.
        };
        match &t.token {
            Token::LParen => open.push(vec![]),
            Token::RParen => {
                open.pop();
            }
            Token::Comma => here.clear(),
            _ if is(t, "join") => {
                let unconditional =
                    i > 0 && is(&tokens[i - 1], "cross") || is_natural(&tokens[..i]);
                if !unconditional {
                    if let Some(outer) = here.last_mut() {
                        outer.nested = true;
                    }
                    here.push(Open {
                        right: i + 1,
                        nested: false,
                    });
                }
            }
            _ if is_one_of(t, &["on", "using"]) => {
                if let Some(join) = here.pop().filter(|j| j.nested) {
                    added.push((join.right, Token::LParen));
                    added.push((i, Token::RParen));
                }
            }
            _ if is_one_of(t, ENDS) => here.clear(),
            _ => {}
        }
    }
    if added.is_empty() {
        return tokens;
    }
    added.sort_by_key(|(at, _)| *at);
    let mut added = added.into_iter().peekable();
    let mut out = Vec::with_capacity(tokens.len() + 2);
    for (i, t) in tokens.into_iter().enumerate() {
        while let Some((_, paren)) = added.next_if(|(at, _)| *at == i) {
            out.push(like(&t, paren));
        }
        out.push(t);
    }
    out
}

/// Whether the words before JOIN are NATURAL and a kind of join.
fn is_natural(before: &[TokenWithSpan]) -> bool {
    let kinds = ["inner", "left", "right", "full", "outer"];
    let kind = before.iter().rev().find(|t| !is_one_of(t, &kinds));
    kind.is_some_and(|t| is(t, "natural"))
}
