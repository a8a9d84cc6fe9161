//! FOR UPDATE and its kin as sqlparser knows them.

use sqlparser::tokenizer::{Token, TokenWithSpan};

use super::spelling::{is, is_one_of, like};

/// `FOR NO KEY UPDATE` as `FOR UPDATE`, `FOR KEY SHARE` as `FOR SHARE`: what is read is kept from all changes in any case.
/// `FOR UPDATE OF a, b NOWAIT` as `FOR UPDATE OF a NOWAIT FOR UPDATE OF b NOWAIT`.
pub(super) fn locking_clauses(tokens: Vec<TokenWithSpan>) -> Vec<TokenWithSpan> {
    let mut out: Vec<TokenWithSpan> = Vec::with_capacity(tokens.len());
    let mut rest = tokens.as_slice();
    while let Some((first, behind)) = rest.split_first() {
        out.push(first.clone());
        rest = behind;
        if !is(first, "for") {
            continue;
        }
        let words = match rest {
            [no, key, update, ..] if is(no, "no") && is(key, "key") && is(update, "update") => 3,
            [key, share, ..] if is(key, "key") && is(share, "share") => 2,
            [word, ..] if is_one_of(word, &["update", "share"]) => 1,
            _ => continue,
        };
        let strength = rest[words - 1].clone();
        rest = &rest[words..];
        out.push(strength.clone());
        let Some(of) = rest.first().filter(|t| is(t, "of")) else {
            continue;
        };
        let names = rest[1..]
            .iter()
            .take_while(|t| {
                matches!(t.token, Token::Comma | Token::Period | Token::Word(_))
                    && !is_one_of(t, &["nowait", "skip", "for"])
            })
            .count();
        let (names, behind) = rest[1..].split_at(names);
        let ends = behind
            .iter()
            .take_while(|t| is_one_of(t, &["nowait", "skip", "locked"]))
            .count();
        let (ends, behind) = behind.split_at(ends);
        for (i, name) in names.split(|t| t.token == Token::Comma).enumerate() {
            if i > 0 {
                out.push(like(first, Token::make_keyword("FOR")));
                out.push(strength.clone());
            }
            out.push(of.clone());
            out.extend(name.iter().chain(ends).cloned());
        }
        rest = behind;
    }
    out
}
