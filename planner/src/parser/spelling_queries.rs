//! Spellings of whole queries and their clauses: VALUES as an operand, GROUP BY DISTINCT, EXCLUDE of frames.

use sqlparser::tokenizer::{Token, TokenWithSpan};

use super::spelling::{is, is_one_of, like};

/// `(VALUES …)` as an operand, which the parser knows in FROM only, as `(SELECT * FROM (VALUES …))`. So is what begins with a
/// query in parentheses, `((SELECT …) UNION …)`.
pub(super) fn values_query(tokens: Vec<TokenWithSpan>) -> Vec<TokenWithSpan> {
    let operand = |i: usize| {
        let begins = match tokens[i].token {
            // ARRAY takes the order of its query, which ends where it is read from.
            Token::LParen => i > 1 && !is(&tokens[i - 2], "array") && is_combined(&tokens[i..]),
            _ => is(&tokens[i], "values"),
        };
        begins && i > 1 && is_operand(&tokens[..i])
    };
    if !(0..tokens.len()).any(operand) {
        return tokens;
    }
    let mut out: Vec<TokenWithSpan> = Vec::with_capacity(tokens.len());
    // Depths at which such a query ends.
    let mut open: Vec<usize> = Vec::new();
    let mut depth = 0;
    for (i, t) in tokens.iter().enumerate() {
        if operand(i) {
            for token in [
                Token::make_keyword("SELECT"),
                Token::Mul,
                Token::make_keyword("FROM"),
                Token::LParen,
            ] {
                out.push(like(t, token));
            }
            open.push(depth);
        }
        match t.token {
            Token::LParen => depth += 1,
            Token::RParen => {
                if open.last() == Some(&depth) {
                    open.pop();
                    out.push(like(t, Token::RParen));
                    out.push(like(t, Token::make_keyword("AS")));
                    out.push(like(t, Token::make_word("#values", Some('"'))));
                }
                depth = depth.saturating_sub(1);
            }
            _ => {}
        }
        out.push(t.clone());
    }
    out
}

/// `INSERT INTO t (VALUES …)`, `… ((SELECT …))` without the parentheses, which the parser takes for a list of columns.
pub(super) fn insert_query(mut tokens: Vec<TokenWithSpan>) -> Vec<TokenWithSpan> {
    let Some(into) =
        (1..tokens.len()).find(|i| is(&tokens[i - 1], "insert") && is(&tokens[*i], "into"))
    else {
        return tokens;
    };
    let named =
        |t: &TokenWithSpan| matches!(t.token, Token::Word(_) | Token::Period) && !is(t, "values");
    let names = tokens[into + 1..].iter().take_while(|t| named(t)).count();
    let at = into + 1 + names;
    loop {
        let query = match tokens.get(at + 1).map(|t| &t.token) {
            Some(Token::LParen) => true,
            Some(Token::Word(w)) if w.quote_style.is_none() => {
                is(&tokens[at + 1], "with")
                    || is(&tokens[at + 1], "values") && opening(&tokens, at + 2).is_some()
            }
            _ => false,
        };
        if !query || opening(&tokens, at).is_none() {
            return tokens;
        }
        let mut depth = 0;
        let closes = tokens[at..].iter().position(|t| {
            match t.token {
                Token::LParen => depth += 1,
                Token::RParen => depth -= 1,
                _ => {}
            }
            depth == 0
        });
        let Some(closes) = closes.map(|n| at + n) else {
            return tokens;
        };
        let ends = match tokens.get(closes + 1) {
            None => true,
            Some(t) => {
                matches!(t.token, Token::SemiColon | Token::EOF)
                    || is_one_of(t, &["on", "returning"])
            }
        };
        if !ends {
            return tokens;
        }
        tokens.remove(closes);
        tokens.remove(at);
    }
}

/// Name of the call around the number of rows of FETCH FIRST … WITH TIES.
pub(crate) const TIES: &str = "#ties";

/// `FETCH FIRST (expression) ROWS ONLY` as `LIMIT (expression)`: after FETCH the parser knows constants only. `FETCH FIRST 2 ROWS ONLY OFFSET 1`
/// as `LIMIT 2 OFFSET 1`: it has no OFFSET after FETCH. WITH TIES is a mark around the number.
pub(super) fn fetch_count(tokens: Vec<TokenWithSpan>) -> Vec<TokenWithSpan> {
    let mut out: Vec<TokenWithSpan> = Vec::with_capacity(tokens.len());
    let mut at = 0;
    while at < tokens.len() {
        let Some(fetch) = fetch_clause(&tokens, at) else {
            out.push(tokens[at].clone());
            at += 1;
            continue;
        };
        let t = &tokens[at];
        out.push(like(t, Token::make_keyword("LIMIT")));
        if fetch.ties {
            out.push(like(t, Token::make_word(TIES, Some('"'))));
            out.push(like(t, Token::LParen));
        }
        let count = match opening(&tokens, fetch.count.start) {
            // The mark has parentheses of its own.
            Some(_) if fetch.ties => fetch.count.start + 1..fetch.count.end - 1,
            _ => fetch.count,
        };
        match &tokens[count] {
            [] => out.push(like(t, Token::Number("1".into(), false))),
            count => out.extend_from_slice(count),
        }
        out.extend(fetch.ties.then(|| like(t, Token::RParen)));
        at = fetch.end;
    }
    out
}

/// A FETCH FIRST that the parser doesn't know.
struct FetchClause {
    /// The tokens of its number.
    count: std::ops::Range<usize>,
    ties: bool,
    end: usize,
}

fn fetch_clause(tokens: &[TokenWithSpan], at: usize) -> Option<FetchClause> {
    let word = |i: usize, words: &[&str]| tokens.get(i).is_some_and(|t| is_one_of(t, words));
    if !word(at, &["fetch"]) || !word(at + 1, &["first", "next"]) {
        return None;
    }
    let signed = tokens
        .get(at + 2)
        .is_some_and(|t| matches!(t.token, Token::Plus | Token::Minus));
    let end = match opening(tokens, at + 2) {
        Some(_) => closing(tokens, at + 2)? + 1,
        None if word(at + 2, &["row", "rows"]) => at + 2,
        None => at + 3 + usize::from(signed),
    };
    let ties = word(end + 1, &["with"]) && word(end + 2, &["ties"]);
    if !word(end, &["row", "rows"]) || !(ties || word(end + 1, &["only"])) {
        return None;
    }
    let (count, end) = (at + 2..end, end + 2 + usize::from(ties));
    let known = !signed && opening(tokens, at + 2).is_none() && !word(end, &["offset"]);
    (!known).then_some(FetchClause { count, ties, end })
}

/// Where the parenthesis closes that opens at `at`.
fn closing(tokens: &[TokenWithSpan], at: usize) -> Option<usize> {
    let mut depth = 0usize;
    let closes = tokens[at..].iter().position(|t| {
        match t.token {
            Token::LParen => depth += 1,
            Token::RParen => depth = depth.saturating_sub(1),
            _ => {}
        }
        depth == 0
    });
    closes.map(|n| at + n)
}

/// What may stand behind the FROM of a SELECT.
pub(super) const BEHIND_FROM: &[&str] = &[
    "where",
    "group",
    "having",
    "window",
    "union",
    "except",
    "intersect",
    "order",
    "limit",
    "offset",
    "fetch",
    "for",
];

/// `SELECT` without a list and FROM as `SELECT FROM (SELECT 1) AS "#one"`, which the parser knows.
pub(super) fn empty_list(tokens: Vec<TokenWithSpan>) -> Vec<TokenWithSpan> {
    let empty = |i: usize| {
        let ends = match tokens.get(i + 1) {
            None => true,
            Some(t) => t.token == Token::RParen || is_one_of(t, BEHIND_FROM),
        };
        // It may also be a name, as in `1 AS select`.
        let begins = match i.checked_sub(1).map(|i| &tokens[i]) {
            None => true,
            Some(t) => {
                matches!(t.token, Token::LParen | Token::RParen)
                    || is_one_of(t, &["union", "except", "intersect", "all", "distinct"])
            }
        };
        is(&tokens[i], "select") && ends && begins
    };
    if !(0..tokens.len()).any(empty) {
        return tokens;
    }
    let mut out = Vec::with_capacity(tokens.len() + 7);
    for (i, t) in tokens.iter().enumerate() {
        out.push(t.clone());
        if !empty(i) {
            continue;
        }
        let words = [
            Token::make_keyword("FROM"),
            Token::LParen,
            Token::make_keyword("SELECT"),
            Token::Number("1".into(), false),
            Token::RParen,
            Token::make_keyword("AS"),
            Token::make_word("#one", Some('"')),
        ];
        out.extend(words.map(|word| like(t, word)));
    }
    out
}

/// `GROUPING SETS (a, GROUPING SETS (b, ()))` as `GROUPING SETS (a, b, ())`.
pub(super) fn nested_sets(tokens: Vec<TokenWithSpan>) -> Vec<TokenWithSpan> {
    let mut out: Vec<TokenWithSpan> = Vec::with_capacity(tokens.len());
    // What the open parentheses are: those of a list of sets, and of one in it, which are left out.
    let mut open: Vec<(bool, bool)> = vec![];
    let mut rest = tokens.as_slice();
    while let Some((t, after)) = rest.split_first() {
        let sets = match rest {
            [grouping, sets, paren, ..] => {
                is(grouping, "grouping") && is(sets, "sets") && paren.token == Token::LParen
            }
            _ => false,
        };
        if sets {
            let begins = out
                .last()
                .is_some_and(|b| matches!(b.token, Token::LParen | Token::Comma));
            let inner = begins && open.last().is_some_and(|(sets, _)| *sets);
            if !inner {
                out.extend_from_slice(&rest[..3]);
            }
            open.push((true, inner));
            rest = &rest[3..];
            continue;
        }
        rest = after;
        let left_out = match t.token {
            Token::LParen => {
                open.push((false, false));
                false
            }
            Token::RParen => open.pop().is_some_and(|(_, left_out)| left_out),
            _ => false,
        };
        if !left_out {
            out.push(t.clone());
        }
    }
    out
}

/// Whether tokens begin with a query in parentheses that UNION or its kin combines with another one.
fn is_combined(tokens: &[TokenWithSpan]) -> bool {
    let opens = |t: &TokenWithSpan| t.token == Token::LParen;
    let first = tokens.iter().find(|t| !opens(t));
    if !first.is_some_and(|t| is_one_of(t, &["select", "values", "with", "table"])) {
        return false;
    }
    let mut depth = 0usize;
    let end = tokens.iter().position(|t| {
        match t.token {
            Token::LParen => depth += 1,
            Token::RParen => depth = depth.saturating_sub(1),
            _ => {}
        }
        depth == 0
    });
    let next = end.and_then(|end| tokens.get(end + 1));
    next.is_some_and(|t| is_one_of(t, &["union", "except", "intersect"]))
}

/// Whether tokens end with a parenthesis that opens an operand of an expression.
fn is_operand(before: &[TokenWithSpan]) -> bool {
    let [rest @ .., first, paren] = before else {
        return false;
    };
    let operators = [
        Token::Eq,
        Token::Neq,
        Token::Lt,
        Token::Gt,
        Token::LtEq,
        Token::GtEq,
        Token::Plus,
        Token::Minus,
        Token::Div,
        Token::Mul,
        Token::Mod,
        Token::Caret,
        Token::StringConcat,
        Token::Comma,
        Token::LParen,
        Token::LBracket,
    ];
    let words = [
        "in",
        "any",
        "some",
        "exists",
        "array",
        "select",
        "where",
        "and",
        "or",
        "not",
        "when",
        "then",
        "else",
        "on",
        "having",
        "case",
        "by",
        "limit",
        "offset",
        "between",
        "like",
        "ilike",
        "returning",
    ];
    let set = rest
        .last()
        .is_some_and(|t| is_one_of(t, &["union", "except", "intersect"]));
    let compared = rest.last().is_some_and(|t| is(t, "distinct")) && is(first, "from");
    paren.token == Token::LParen
        && (is_one_of(first, &words)
            || operators.contains(&first.token)
            || compared
            || is_one_of(first, &["all", "distinct"]) && !set)
}

/// What stands first in GROUP BY DISTINCT.
pub(crate) const DISTINCT_SETS: &str = "#distinct";

/// `GROUP BY DISTINCT a` as `GROUP BY mark, a`; in `GROUP BY ALL a`, ALL says nothing.
pub(super) fn group_by(mut tokens: Vec<TokenWithSpan>) -> Vec<TokenWithSpan> {
    let mut at = 0;
    while at + 3 < tokens.len() {
        if is(&tokens[at], "group") && is(&tokens[at + 1], "by") {
            let word = tokens[at + 2].clone();
            let ends = [
                "having", "order", "limit", "offset", "fetch", "window", "union",
            ];
            let more = match &tokens[at + 3].token {
                Token::Word(_) => !is_one_of(&tokens[at + 3], &ends),
                Token::LParen | Token::Number(..) => true,
                _ => false,
            };
            if is(&word, "distinct") {
                let mark = like(&word, Token::make_word(DISTINCT_SETS, Some('"')));
                let comma = like(&word, Token::Comma);
                tokens.splice(at + 2..at + 3, [mark, comma]);
            } else if is(&word, "all") && more {
                tokens.remove(at + 2);
            }
        }
        at += 1;
    }
    tokens
}

/// `RANGE '1 day'::interval PRECEDING` as `RANGE ('1 day')::interval PRECEDING`: the parser takes text at the start of a bound
/// for an interval without its first word.
pub(super) fn frame_bounds(tokens: Vec<TokenWithSpan>) -> Vec<TokenWithSpan> {
    let mut out: Vec<TokenWithSpan> = Vec::with_capacity(tokens.len());
    for (i, t) in tokens.iter().enumerate() {
        let begins = out
            .last()
            .is_some_and(|t| is_one_of(t, &["range", "rows", "groups", "between", "and"]));
        let text = matches!(t.token, Token::SingleQuotedString(_));
        if begins && text && is_cast_bound(&tokens[i + 1..]) {
            let (open, close) = (like(t, Token::LParen), like(t, Token::RParen));
            out.extend([open, t.clone(), close]);
        } else {
            out.push(t.clone());
        }
    }
    out
}

/// Whether tokens are the rest of a frame's bound that goes on with a cast.
fn is_cast_bound(rest: &[TokenWithSpan]) -> bool {
    let mut depth = 0usize;
    let end = rest.iter().position(|t| {
        match t.token {
            Token::LParen => depth += 1,
            Token::RParen if depth == 0 => return true,
            Token::RParen => depth -= 1,
            _ => {}
        }
        depth == 0 && is_one_of(t, &["preceding", "following", "and"])
    });
    let cast = rest.first().map(|t| &t.token) == Some(&Token::DoubleColon);
    cast && end.is_some_and(|end| is_one_of(&rest[end], &["preceding", "following"]))
}

/// What stands first in PARTITION BY of a window whose frame has EXCLUDE.
pub(crate) const EXCLUDED: [(&str, &[&str]); 3] = [
    ("#exclude_current_row", &["current", "row"]),
    ("#exclude_group", &["group"]),
    ("#exclude_ties", &["ties"]),
];

/// `(… ROWS … EXCLUDE GROUP)` as a window with a mark in PARTITION BY; EXCLUDE NO OTHERS means nothing.
pub(super) fn exclude(mut tokens: Vec<TokenWithSpan>) -> Vec<TokenWithSpan> {
    let says = |tokens: &[TokenWithSpan], at: usize, words: &[&str]| {
        let end = at + words.len();
        end < tokens.len()
            && tokens[at..end].iter().zip(words).all(|(t, w)| is(t, w))
            && tokens[end].token == Token::RParen
    };
    let mut at = 0;
    while at < tokens.len() {
        let window = match is(&tokens[at], "exclude") {
            true => framed(&tokens[..at]),
            false => None,
        };
        let Some(open) = window else {
            at += 1;
            continue;
        };
        if says(&tokens, at + 1, &["no", "others"]) {
            tokens.drain(at..at + 3);
        } else if let Some((mark, words)) = EXCLUDED
            .iter()
            .find(|(_, words)| says(&tokens, at + 1, words))
        {
            tokens.drain(at..at + 1 + words.len());
            let mut place = open + 1;
            if !is_one_of(
                &tokens[place],
                &["partition", "order", "rows", "range", "groups"],
            ) {
                place += 1; // the name of another window
            }
            let here = tokens[place].clone();
            let mark = like(&here, Token::make_word(mark, Some('"')));
            if is(&here, "partition") {
                let comma = like(&here, Token::Comma);
                tokens.splice(place + 2..place + 2, [mark, comma]);
            } else {
                let words = ["PARTITION", "BY"].map(|w| like(&here, Token::make_keyword(w)));
                tokens.splice(place..place, words.into_iter().chain([mark]));
            }
        }
        at += 1;
    }
    tokens
}

/// Where the parenthesis around the end of `tokens` opens, if there is a frame in it.
fn framed(tokens: &[TokenWithSpan]) -> Option<usize> {
    let (mut depth, mut frame) = (0, false);
    for (i, t) in tokens.iter().enumerate().rev() {
        match t.token {
            Token::RParen => depth += 1,
            Token::LParen if depth == 0 => return frame.then_some(i),
            Token::LParen => depth -= 1,
            _ => frame |= depth == 0 && is_one_of(t, &["rows", "range", "groups"]),
        }
    }
    None
}

/// `ROLLUP ((a) + 1)` as `ROLLUP (((a) + 1))`: the parser takes a parenthesis that begins an element for all of it.
pub(super) fn grouping_elements(tokens: Vec<TokenWithSpan>) -> Vec<TokenWithSpan> {
    let mut wrapped: Vec<(usize, Token)> = vec![];
    for (i, t) in tokens.iter().enumerate() {
        let sets = is(t, "sets") && i > 0 && is(&tokens[i - 1], "grouping");
        if !(sets || is_one_of(t, &["rollup", "cube"])) || opening(&tokens, i + 1).is_none() {
            continue;
        }
        let (mut depth, mut start, mut closed) = (0usize, i + 2, None);
        for (at, t) in tokens.iter().enumerate().skip(i + 2) {
            let ends = depth == 0 && matches!(t.token, Token::Comma | Token::RParen);
            if ends {
                let begins = opening(&tokens, start).is_some() && start < at;
                // Where the parenthesis closes that the element begins with.
                if begins && closed.is_some_and(|closed| closed + 1 < at) {
                    wrapped.push((start, Token::LParen));
                    wrapped.push((at, Token::RParen));
                }
                (start, closed) = (at + 1, None);
            }
            match t.token {
                Token::LParen => depth += 1,
                Token::RParen if depth == 0 => break,
                Token::RParen => {
                    depth -= 1;
                    if depth == 0 && closed.is_none() {
                        closed = Some(at);
                    }
                }
                _ => {}
            }
        }
    }
    // Stable: what closes at a place comes before what opens there.
    wrapped.sort_by_key(|(at, token)| (*at, *token == Token::LParen));
    let mut out = Vec::with_capacity(tokens.len() + wrapped.len());
    let mut wrapped = wrapped.into_iter().peekable();
    for (i, t) in tokens.into_iter().enumerate() {
        while let Some((_, token)) = wrapped.next_if(|(at, _)| *at == i) {
            out.push(like(&t, token));
        }
        out.push(t);
    }
    out
}

fn opening(tokens: &[TokenWithSpan], at: usize) -> Option<&TokenWithSpan> {
    tokens.get(at).filter(|t| t.token == Token::LParen)
}

/// Tokens that end with `INSERT INTO name`.
fn is_target(tokens: &[TokenWithSpan]) -> bool {
    let in_name = |t: &TokenWithSpan| {
        let word = matches!(t.token, Token::Word(_)) && !is(t, "into");
        word || t.token == Token::Period
    };
    let name = tokens.iter().rev().take_while(|t| in_name(t)).count();
    let before = &tokens[..tokens.len() - name];
    name > 0 && matches!(before, [.., insert, into] if is(insert, "insert") && is(into, "into"))
}

/// `(TABLE t)`, and TABLE after WITH, after the table of INSERT or as an operand of UNION and its kin, as `SELECT * FROM t`.
pub(super) fn table_query(tokens: Vec<TokenWithSpan>) -> Vec<TokenWithSpan> {
    let sets = ["union", "except", "intersect"];
    let mut out: Vec<TokenWithSpan> = Vec::with_capacity(tokens.len());
    for (i, t) in tokens.iter().enumerate() {
        let named = matches!(tokens.get(i + 1).map(|t| &t.token), Some(Token::Word(_)));
        let after = match &tokens[..i] {
            [.., set, all] if is_one_of(all, &["all", "distinct"]) => is_one_of(set, &sets),
            [.., t] => {
                matches!(t.token, Token::LParen | Token::RParen)
                    || is_one_of(t, &sets)
                    || is_target(&tokens[..i])
            }
            [] => false,
        };
        if !(is(t, "table") && named && after) {
            out.push(t.clone());
            continue;
        }
        let words = [
            Token::make_keyword("SELECT"),
            Token::Mul,
            Token::make_keyword("FROM"),
        ];
        out.extend(words.map(|word| like(t, word)));
    }
    out
}

/// `a OPERATOR(pg_catalog.=) ANY (b)` as `a = ANY (b)`; without ANY or ALL the parser knows it.
pub(super) fn named_operator(tokens: Vec<TokenWithSpan>) -> Vec<TokenWithSpan> {
    let mut out: Vec<TokenWithSpan> = Vec::with_capacity(tokens.len());
    let mut rest = tokens.as_slice();
    while let Some((t, after)) = rest.split_first() {
        if let (true, [open, schema, dot, operator, close, next, ..]) = (is(t, "operator"), after)
            && open.token == Token::LParen
            && is(schema, "pg_catalog")
            && dot.token == Token::Period
            && close.token == Token::RParen
            && is_one_of(next, &["any", "all", "some"])
        {
            out.push(operator.clone());
            rest = &after[5..];
            continue;
        }
        out.push(t.clone());
        rest = after;
    }
    out
}
