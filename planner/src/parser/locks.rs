//! FOR UPDATE and its kin as sqlparser knows them.

use sqlparser::tokenizer::{Token, TokenWithSpan};

use super::spelling::{is, is_one_of, like};

/// `FOR NO KEY UPDATE` as `FOR UPDATE`, `FOR KEY SHARE` as `FOR SHARE`: what is read is kept from all changes in any case.
/// `FOR UPDATE OF a, b NOWAIT` as `FOR UPDATE OF a NOWAIT FOR UPDATE OF b NOWAIT`. `FOR UPDATE LIMIT 1` as `LIMIT 1 FOR UPDATE`.
pub(super) fn locking_clauses(tokens: Vec<TokenWithSpan>) -> Vec<TokenWithSpan> {
    let mut out: Vec<TokenWithSpan> = Vec::with_capacity(tokens.len());
    let mut rest = tokens.as_slice();
    while let Some((first, mut behind)) = rest.split_first() {
        let mut locks = vec![];
        while let Some(more) = locking_clause(rest, &mut locks) {
            rest = more;
            behind = more;
        }
        if locks.is_empty() {
            out.push(first.clone());
        } else if let Some(word) = behind.first()
            && is_one_of(word, &["limit", "offset", "fetch"])
        {
            let (cut, more) = behind.split_at(to_the_end(behind));
            out.extend_from_slice(cut);
            behind = more;
        }
        out.append(&mut locks);
        rest = behind;
    }
    out
}

/// Adds the locking clause that `tokens` begin with, and gives what follows it.
fn locking_clause<'t>(
    tokens: &'t [TokenWithSpan],
    out: &mut Vec<TokenWithSpan>,
) -> Option<&'t [TokenWithSpan]> {
    let (first, rest) = tokens.split_first().filter(|(first, _)| is(first, "for"))?;
    let words = match rest {
        [no, key, update, ..] if is(no, "no") && is(key, "key") && is(update, "update") => 3,
        [key, share, ..] if is(key, "key") && is(share, "share") => 2,
        [word, ..] if is_one_of(word, &["update", "share"]) => 1,
        _ => return None,
    };
    out.push(first.clone());
    let strength = rest[words - 1].clone();
    let rest = &rest[words..];
    out.push(strength.clone());
    let Some(of) = rest.first().filter(|t| is(t, "of")) else {
        let ends = ends(rest);
        out.extend_from_slice(&rest[..ends]);
        return Some(&rest[ends..]);
    };
    let names = rest[1..]
        .iter()
        .take_while(|t| {
            matches!(t.token, Token::Comma | Token::Period | Token::Word(_))
                && !is_one_of(t, &["nowait", "skip", "for", "limit", "offset", "fetch"])
        })
        .count();
    let (names, behind) = rest[1..].split_at(names);
    let (ends, behind) = behind.split_at(ends(behind));
    for (i, name) in names.split(|t| t.token == Token::Comma).enumerate() {
        if i > 0 {
            out.push(like(first, Token::make_keyword("FOR")));
            out.push(strength.clone());
        }
        out.push(of.clone());
        out.extend(name.iter().chain(ends).cloned());
    }
    Some(behind)
}

/// Tokens of NOWAIT and SKIP LOCKED.
fn ends(tokens: &[TokenWithSpan]) -> usize {
    let word = |t: &&TokenWithSpan| is_one_of(t, &["nowait", "skip", "locked"]);
    tokens.iter().take_while(word).count()
}

/// Tokens up to the end of the query, or to a locking clause.
fn to_the_end(tokens: &[TokenWithSpan]) -> usize {
    let mut depth = 0;
    let end = tokens.iter().position(|t| {
        match t.token {
            Token::LParen => depth += 1,
            Token::RParen => depth -= 1,
            _ => {}
        }
        let ends = matches!(t.token, Token::SemiColon | Token::EOF) || is(t, "for");
        depth < 0 || depth == 0 && ends
    });
    end.unwrap_or(tokens.len())
}
