//! `f(a, VARIADIC b)` as sqlparser knows it.

use sqlparser::tokenizer::{Token, TokenWithSpan};

use super::spelling::{is, like};

/// Name of the call that stands for VARIADIC.
pub(crate) const VARIADIC: &str = "#variadic";

/// `f(a, VARIADIC b)` as `f(a, "#variadic"(b))`.
pub(super) fn variadic(tokens: Vec<TokenWithSpan>) -> Vec<TokenWithSpan> {
    let mut out: Vec<TokenWithSpan> = Vec::with_capacity(tokens.len());
    // Depths of parentheses at which such an argument ends.
    let mut open: Vec<usize> = Vec::new();
    let mut depth = 0usize;
    for t in tokens {
        let begins = out
            .last()
            .is_some_and(|b| matches!(b.token, Token::LParen | Token::Comma));
        if begins && is(&t, "variadic") {
            out.push(like(&t, Token::make_word(VARIADIC, Some('"'))));
            out.push(like(&t, Token::LParen));
            open.push(depth);
            continue;
        }
        match t.token {
            Token::LParen => depth += 1,
            Token::RParen => {
                if open.last() == Some(&depth) {
                    open.pop();
                    out.push(like(&t, Token::RParen));
                }
                depth = depth.saturating_sub(1);
            }
            _ => {}
        }
        out.push(t);
    }
    out
}
