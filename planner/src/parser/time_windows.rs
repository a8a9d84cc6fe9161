//! `tumble(t, column, size)` and `hop(t, column, slide, size)` in FROM, as other streaming databases have them: the rows of `t`
//! with the windows of time that they are in, as a subquery over `date_bin`.

use sqlparser::tokenizer::{Token, TokenWithSpan, Tokenizer};

use super::DIALECT;
use super::spelling::{is, is_one_of, like};

/// Windows side by side.
const TUMBLE: &str = "(SELECT $1.*, date_bin($3, $2, '1970-01-01 00:00:00+00') AS window_start, \
     date_bin($3, $2, '1970-01-01 00:00:00+00') + ($3) AS window_end FROM $1)";

/// Those that begin an offset later.
const TUMBLE_LATER: &str = "(SELECT $1.*, \
     date_bin($3, ($2) - CAST($4 AS interval), '1970-01-01 00:00:00+00') + CAST($4 AS interval) AS window_start, \
     date_bin($3, ($2) - CAST($4 AS interval), '1970-01-01 00:00:00+00') + CAST($4 AS interval) + ($3) AS window_end FROM $1)";

/// Windows that overlap: the last one that has begun, and those before it that aren't over. From the first of July on, with a leap day in
/// the next February, months are as long as they get.
const HOP: &str = "(SELECT \"#rows\".*, \"#start\" - \"#n\" * ($3) AS window_start, \
     \"#start\" - \"#n\" * ($3) + ($4) AS window_end \
     FROM $1 AS \"#rows\" \
     CROSS JOIN LATERAL (SELECT date_bin($3, $2, '1970-01-01 00:00:00+00')) AS \"#last\"(\"#start\") \
     CROSS JOIN generate_series(0, CAST(ceil(extract(epoch FROM timestamp '1999-07-01' + ($4) - timestamp '1999-07-01') / extract(epoch FROM $3)) AS int) - 1) AS \"#all\"(\"#n\") \
     WHERE $2 < \"#start\" - \"#n\" * ($3) + ($4))";

/// Respells the calls among the tokens.
pub(super) fn time_windows(tokens: Vec<TokenWithSpan>) -> Vec<TokenWithSpan> {
    let mut out: Vec<TokenWithSpan> = Vec::with_capacity(tokens.len());
    let mut at = 0;
    while at < tokens.len() {
        let in_from = out.last().is_some_and(|before| {
            before.token == Token::Comma || is_one_of(before, &["from", "join"])
        });
        match call(&tokens[at..]).filter(|_| in_from) {
            Some((rows, length)) => {
                out.extend(rows);
                at += length;
            }
            None => {
                out.push(tokens[at].clone());
                at += 1;
            }
        }
    }
    out
}

/// What stands for the call that the tokens begin with, and of how many tokens the call is.
fn call(tokens: &[TokenWithSpan]) -> Option<(Vec<TokenWithSpan>, usize)> {
    let (name, rest) = tokens.split_first()?;
    let tumbles = is(name, "tumble");
    if !(tumbles || is(name, "hop")) || rest.first()?.token != Token::LParen {
        return None;
    }
    let (mut args, mut depth, mut begins) = (vec![], 0, 2);
    let mut end = None;
    for (i, t) in tokens.iter().enumerate().skip(1) {
        match t.token {
            Token::LParen | Token::LBracket => depth += 1,
            Token::RParen | Token::RBracket => depth -= 1,
            _ => {}
        }
        if depth == 0 || depth == 1 && t.token == Token::Comma {
            args.push(&tokens[begins..i]);
            begins = i + 1;
        }
        if depth == 0 {
            end = Some(i + 1);
            break;
        }
    }
    let end = end?;
    // `WITH tumble(a, b, c) AS (…)` has columns, not arguments.
    let after = |n: usize| tokens.get(end + n);
    if after(0).is_some_and(|t| is(t, "as")) && after(1).is_some_and(|t| t.token == Token::LParen) {
        return None;
    }
    let template = match (tumbles, args.len()) {
        (true, 3) => TUMBLE,
        (true, 4) => TUMBLE_LATER,
        (false, 4) => HOP,
        _ => return None,
    };
    let mut out = vec![];
    for token in Tokenizer::new(&DIALECT, template).tokenize().ok()? {
        match &token {
            Token::Whitespace(_) => {}
            Token::Placeholder(n) => {
                let n: usize = n.trim_start_matches('$').parse().ok()?;
                out.extend(args.get(n - 1)?.iter().cloned());
            }
            _ => out.push(like(name, token)),
        }
    }
    // Without an alias it is known by the name of the rows.
    let ends = match after(0).map(|t| &t.token) {
        Some(Token::Word(w)) => {
            w.quote_style.is_none() && AFTER.contains(&&*w.value.to_lowercase())
        }
        _ => true,
    };
    if let (true, Some(t @ Token::Word(_))) = (ends, args[0].last().map(|t| &t.token)) {
        out.push(like(name, Token::make_keyword("AS")));
        out.push(like(name, t.clone()));
    }
    Some((out, end))
}

/// Words that can follow a relation and aren't its alias.
const AFTER: [&str; 20] = [
    "where",
    "group",
    "order",
    "join",
    "left",
    "right",
    "inner",
    "full",
    "cross",
    "natural",
    "on",
    "union",
    "except",
    "intersect",
    "limit",
    "having",
    "window",
    "offset",
    "fetch",
    "for",
];
