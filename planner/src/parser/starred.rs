//! `(t.*)` as an item of a select list: all columns of `t`, as without parentheses. Anywhere else it is the whole row.

use sqlparser::tokenizer::{Token, TokenWithSpan};

use super::spelling::{is, is_one_of};
use super::spelling_queries::BEHIND_FROM;

/// Ends a select list at the depth of its SELECT.
fn ends_list(t: &TokenWithSpan) -> bool {
    is_one_of(t, &["from", "into"]) || is_one_of(t, BEHIND_FROM)
}

/// Takes the parentheses off, and the alias, which says nothing.
pub(super) fn starred_items(tokens: Vec<TokenWithSpan>) -> Vec<TokenWithSpan> {
    let star = [Token::Period, Token::Mul, Token::RParen];
    let star = |three: &[TokenWithSpan]| three.iter().zip(&star).all(|(t, s)| t.token == *s);
    if !tokens.windows(3).any(star) {
        return tokens;
    }
    let mut out: Vec<TokenWithSpan> = Vec::with_capacity(tokens.len());
    // Whether a select list is being read, per parenthesis or bracket that is open.
    let mut lists = vec![false];
    let mut i = 0;
    while i < tokens.len() {
        let here = lists.last().copied().unwrap_or(false);
        let t = &tokens[i];
        match t.token {
            Token::LParen if here && begins_item(&out) => {
                if let Some((names, end)) = starred(&tokens, i) {
                    out.extend_from_slice(&tokens[names]);
                    i = end;
                    continue;
                }
                lists.push(false);
            }
            Token::LParen | Token::LBracket => lists.push(false),
            Token::RParen | Token::RBracket => {
                lists.pop();
            }
            _ => {
                let begins = is_one_of(t, &["select", "returning"]);
                if let Some(list) = lists.last_mut()
                    && (begins || ends_list(t))
                {
                    *list = begins;
                }
            }
        }
        out.push(t.clone());
        i += 1;
    }
    out
}

/// What stands before an item, the last of `tokens` its last.
fn begins_item(tokens: &[TokenWithSpan]) -> bool {
    match tokens {
        [.., t] if t.token == Token::Comma => true,
        [.., select, t] if is_one_of(t, &["distinct", "all"]) => is(select, "select"),
        [.., t] => is_one_of(t, &["select", "returning"]),
        [] => false,
    }
}

/// An item `((t.*)) AS x` from `at` on: where `t.*` stands, and where the item ends.
fn starred(tokens: &[TokenWithSpan], at: usize) -> Option<(std::ops::Range<usize>, usize)> {
    let token = |i: usize| tokens.get(i).map(|t| &t.token);
    let word = |i: usize| matches!(token(i), Some(Token::Word(_)));
    let mut from = at;
    while token(from) == Some(&Token::LParen) {
        from += 1;
    }
    let mut star = from;
    while word(star) && token(star + 1) == Some(&Token::Period) {
        star += 2;
    }
    if star == from || token(star) != Some(&Token::Mul) {
        return None;
    }
    let mut end = star + 1;
    for _ in at..from {
        if token(end) != Some(&Token::RParen) {
            return None;
        }
        end += 1;
    }
    let ends = |i: usize| match tokens.get(i) {
        None => true,
        Some(t) => {
            let signs = [Token::Comma, Token::RParen, Token::SemiColon, Token::EOF];
            signs.contains(&t.token) || ends_list(t)
        }
    };
    if !ends(end) {
        end += usize::from(is(&tokens[end], "as"));
        if !word(end) || !ends(end + 1) {
            return None;
        }
        end += 1;
    }
    Some((from..star + 1, end))
}
