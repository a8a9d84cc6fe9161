//! `SET a[2] = …` as sqlparser knows it.

use sqlparser::tokenizer::{Token, TokenWithSpan};

use super::spelling::{is, is_one_of, like};

/// Behind a column's name: the element at the number that it is called with.
pub(crate) const ELEMENT: &str = "#element";
/// The elements between two numbers.
pub(crate) const SLICE: &str = "#slice";
/// Those from a number on.
pub(crate) const SLICE_FROM: &str = "#slice_from";
/// Those up to a number.
pub(crate) const SLICE_TO: &str = "#slice_to";
/// All of them.
pub(crate) const SLICE_ALL: &str = "#slice_all";

/// Whether a quoted part of a name is a call that stands for a subscript.
pub(super) fn is_subscript(name: &str) -> bool {
    [ELEMENT, SLICE, SLICE_FROM, SLICE_TO, SLICE_ALL].contains(&name)
}

/// `SET a[1] = …, b[2:3] = …` as `SET a."#element"(1) = …, b."#slice"(2, 3) = …`.
pub(super) fn assigned_elements(tokens: Vec<TokenWithSpan>) -> Vec<TokenWithSpan> {
    let mut out: Vec<TokenWithSpan> = Vec::with_capacity(tokens.len());
    let (mut update, mut depth, mut at) = (false, 0usize, 0);
    // The depth of the list of assignments, and whether columns in parentheses are open in it.
    let (mut list, mut tuple) = (None, false);
    while let Some(t) = tokens.get(at) {
        let begins = match at.checked_sub(1).map(|before| &tokens[before]) {
            Some(b) if list == Some(depth) => b.token == Token::Comma || is(b, "set"),
            Some(b) if tuple && list == Some(depth - 1) => {
                matches!(b.token, Token::Comma | Token::LParen)
            }
            _ => false,
        };
        if begins && let Some((words, end)) = subscripted(&tokens, at) {
            out.extend(words);
            at = end;
            continue;
        }
        match t.token {
            Token::LParen | Token::LBracket => {
                tuple |= begins;
                depth += 1;
            }
            Token::RParen | Token::RBracket => {
                list = list.filter(|list| *list < depth);
                depth = depth.saturating_sub(1);
                tuple &= list != Some(depth);
            }
            _ if is(t, "update") => update = true,
            _ if is(t, "set") && update => list = Some(depth),
            _ if list == Some(depth) && ends_list(&tokens, at) => (list, update) = (None, false),
            _ => {}
        }
        out.push(t.clone());
        at += 1;
    }
    out
}

/// Whether the list of assignments ends before a token: FROM of IS DISTINCT FROM is in it.
fn ends_list(tokens: &[TokenWithSpan], at: usize) -> bool {
    let distinct = at > 0 && is(&tokens[at - 1], "distinct");
    is_one_of(&tokens[at], &["where", "returning"]) || is(&tokens[at], "from") && !distinct
}

/// The column at `at` and its subscripts as a name, and where they end; `None` if it has none.
fn subscripted(tokens: &[TokenWithSpan], at: usize) -> Option<(Vec<TokenWithSpan>, usize)> {
    let token = |i: usize| tokens.get(i).map(|t| &t.token);
    let word = |i: usize| matches!(token(i), Some(Token::Word(_)));
    let mut end = at + 1;
    while token(end) == Some(&Token::Period) && word(end + 1) {
        end += 2;
    }
    if !word(at) || token(end) != Some(&Token::LBracket) {
        return None;
    }
    let mut out = tokens[at..end].to_vec();
    while token(end) == Some(&Token::LBracket) {
        let open = &tokens[end];
        let (colon, close) = bounds(tokens, end + 1)?;
        let (lower, upper) = (end + 1..colon.unwrap_or(close), colon.map(|c| c + 1..close));
        let name = match &upper {
            None => ELEMENT,
            Some(upper) => match (lower.is_empty(), upper.is_empty()) {
                (false, false) => SLICE,
                (false, true) => SLICE_FROM,
                (true, false) => SLICE_TO,
                (true, true) => SLICE_ALL,
            },
        };
        let comma = (name == SLICE).then_some(Token::Comma);
        let mark = [
            Token::Period,
            Token::make_word(name, Some('"')),
            Token::LParen,
        ];
        out.extend(mark.map(|token| like(open, token)));
        out.extend_from_slice(&tokens[lower]);
        out.extend(comma.map(|comma| like(open, comma)));
        out.extend_from_slice(&tokens[upper.unwrap_or(close..close)]);
        out.push(like(&tokens[close], Token::RParen));
        end = close + 1;
    }
    Some((out, end))
}

/// Where in the brackets that open before `from` the colon stands, if there is one, and where they close.
fn bounds(tokens: &[TokenWithSpan], from: usize) -> Option<(Option<usize>, usize)> {
    let (mut depth, mut colon) = (0usize, None);
    for (i, t) in tokens.iter().enumerate().skip(from) {
        match t.token {
            Token::LBracket | Token::LParen => depth += 1,
            Token::RBracket if depth == 0 => return Some((colon, i)),
            Token::RBracket | Token::RParen => depth = depth.saturating_sub(1),
            Token::Colon if depth == 0 && colon.is_none() => colon = Some(i),
            _ => {}
        }
    }
    None
}
