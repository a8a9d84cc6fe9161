//! `substring(x FOR n FROM m)` and `substring(x SIMILAR p ESCAPE e)` as sqlparser knows them.

use sqlparser::tokenizer::{Token, TokenWithSpan};

use super::spelling::{is, like};

/// Respells the arguments of `substring`.
pub(super) fn substring(mut tokens: Vec<TokenWithSpan>) -> Vec<TokenWithSpan> {
    let mut at = 0;
    while at + 1 < tokens.len() {
        at += 1;
        if !is(&tokens[at - 1], "substring") || tokens[at].token != Token::LParen {
            continue;
        }
        let Some(words) = keywords(&tokens[at..]) else {
            continue;
        };
        let place = |word: &str| words.iter().find(|w| is(&tokens[**w + at], word)).copied();
        let end = *words.last().unwrap_or(&0) + at;
        match (
            place("for"),
            place("from"),
            place("similar"),
            place("escape"),
        ) {
            (Some(f), Some(from), None, None) if f < from => {
                // The two exchange their places.
                tokens[at + f..end].rotate_left(from - f);
            }
            (None, None, Some(similar), Some(escape)) => {
                for word in [similar, escape] {
                    tokens[at + word] = like(&tokens[at + word], Token::Comma);
                }
            }
            _ => {}
        }
    }
    tokens
}

/// Where the words stand that separate the arguments in these parentheses, and at last where they close.
fn keywords(tokens: &[TokenWithSpan]) -> Option<Vec<usize>> {
    let mut words = vec![];
    let mut depth = 0;
    for (i, t) in tokens.iter().enumerate() {
        match t.token {
            Token::LParen | Token::LBracket => depth += 1,
            Token::RParen | Token::RBracket => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            words.push(i);
            return Some(words);
        }
        let word = ["for", "from", "similar", "escape"]
            .iter()
            .any(|w| is(t, w));
        if depth == 1 && word {
            words.push(i);
        }
    }
    None
}
