//! Tokens as sqlparser reads them: spellings of PostgreSQL's that it doesn't know become ones that it does.

use sqlparser::keywords::Keyword;
use sqlparser::tokenizer::{Token, TokenWithSpan, Tokenizer, Whitespace};

use super::DIALECT;
use super::elements::assigned_elements;
use super::locks::locking_clauses;
use super::nested_joins::nested_joins;
use super::spelling_queries::{
    empty_list, exclude, fetch_count, frame_bounds, group_by, grouping_elements, insert_query,
    named_operator, nested_sets, table_query, values_query,
};
use super::starred::starred_items;
use super::substring::substring;
use super::time_windows::time_windows;
use super::variadic::variadic;
use crate::error::{Result, SqlError};

/// Name of the call around the lower bound of BETWEEN SYMMETRIC.
pub(crate) const SYMMETRIC: &str = "#symmetric";
/// Name of the call that stands for ROWS FROM.
pub(crate) const ROWS_FROM: &str = "#rows_from";

/// Name of what stands for OVERRIDING SYSTEM VALUE.
const OVERRIDING_SYSTEM: &str = "#overriding_system";
/// Name of what stands for OVERRIDING USER VALUE.
const OVERRIDING_USER: &str = "#overriding_user";

/// A statement's tokens without what lies between them, respelled.
pub(super) fn respelled(tokens: &[TokenWithSpan]) -> Result<Vec<TokenWithSpan>> {
    let mut tokens = all_fields(whole_rows(starred_items(significant(tokens)?)));
    for (word, respell) in RESPELLED {
        if tokens.iter().any(|t| is(t, word)) {
            tokens = respell(tokens);
        }
    }
    Ok(tokens)
}

type Respell = fn(Vec<TokenWithSpan>) -> Vec<TokenWithSpan>;

/// Words at which something is respelled, and how.
const RESPELLED: &[(&str, Respell)] = &[
    ("tumble", time_windows),
    ("hop", time_windows),
    ("isnull", is_null),
    ("only", only),
    ("some", some),
    ("trim", trim),
    ("rows", rows_from),
    ("symmetric", symmetric),
    ("asymmetric", symmetric),
    ("exclude", exclude),
    ("group", group_by),
    ("rollup", grouping_elements),
    ("cube", grouping_elements),
    ("sets", nested_sets),
    ("sets", grouping_elements),
    ("table", table_query),
    ("insert", insert_query),
    ("fetch", fetch_count),
    ("values", values_query),
    ("union", values_query),
    ("except", values_query),
    ("intersect", values_query),
    ("overriding", overriding),
    ("identity", identity_options),
    ("collate", collate),
    ("using", join_alias),
    ("using", sort_operator),
    ("operator", named_operator),
    ("join", nested_joins),
    ("substring", substring),
    ("interval", interval_precision),
    ("nulls", nulls_not_distinct),
    ("preceding", frame_bounds),
    ("following", frame_bounds),
    ("variadic", variadic),
    ("array", array_types),
    ("for", locking_clauses),
    ("update", assigned_elements),
    ("select", empty_list),
];

/// What the name of a UNIQUE of a column begins with if NULLs are equal for it.
pub(super) const NULLS_NOT_DISTINCT: &str = "#nulls not distinct ";

/// `a int CONSTRAINT u UNIQUE NULLS NOT DISTINCT` as `a int CONSTRAINT "#nulls not distinct u" UNIQUE`; of a constraint that
/// stands alone the parser knows it.
fn nulls_not_distinct(tokens: Vec<TokenWithSpan>) -> Vec<TokenWithSpan> {
    let mut out: Vec<TokenWithSpan> = Vec::with_capacity(tokens.len());
    let mut rest = tokens.into_iter().peekable();
    while let Some(t) = rest.next() {
        let unique = out.last().is_some_and(|b| is(b, "unique"));
        if !unique
            || !is(&t, "nulls")
            || !rest
                .peek()
                .is_some_and(|t| is_one_of(t, &["not", "distinct"]))
        {
            out.push(t);
            continue;
        }
        let mut words = vec![t];
        words.extend(rest.next_if(|t| is(t, "not")));
        words.extend(rest.next_if(|t| is(t, "distinct")));
        if rest.peek().is_some_and(|t| t.token == Token::LParen) {
            out.extend(words);
            continue;
        }
        if words.len() < 3 {
            continue; // NULLS DISTINCT is how it is anyway.
        }
        let Some(unique) = out.pop() else { continue };
        let named = out.len() > 1 && is(&out[out.len() - 2], "constraint");
        let name = match (named, out.last().map(|t| &t.token)) {
            (true, Some(Token::Word(w))) if w.quote_style.is_some() => w.value.clone(),
            (true, Some(Token::Word(w))) => w.value.to_lowercase(),
            _ => String::new(),
        };
        match named {
            true => out.truncate(out.len() - 1),
            false => out.push(like(&unique, Token::make_keyword("CONSTRAINT"))),
        }
        let name = format!("{NULLS_NOT_DISTINCT}{name}");
        out.push(like(&unique, Token::make_word(&name, Some('"'))));
        out.push(unique);
    }
    out
}

/// Name of the call that stands for its argument, the whole row `t.*`.
pub(crate) const WHOLE_ROW: &str = "#whole_row";

/// `t.*::text` as `"#whole_row"(t.*)::text`, and so in `(t.*)` and `ORDER BY t.*`: the parser knows the whole row as an argument only.
fn whole_rows(tokens: Vec<TokenWithSpan>) -> Vec<TokenWithSpan> {
    let words = [
        "select",
        "where",
        "and",
        "or",
        "not",
        "on",
        "having",
        "when",
        "then",
        "else",
        "by",
        "in",
        "distinct",
        "returning",
        "from",
    ];
    let by = in_by(&tokens);
    // Beside IS DISTINCT FROM, `=` and the like: the row `t` of a `.` at `i`.
    let compared = |i: usize| {
        let distinct = i > 2 && is(&tokens[i - 2], "from") && is(&tokens[i - 3], "distinct");
        let after = i > 1 && is_comparison(&tokens[i - 2]);
        distinct || after || tokens.get(i + 2).is_some_and(is_comparison)
    };
    let star = |i: usize| {
        let token = |i: usize| tokens.get(i).map(|t| &t.token);
        if token(i) != Some(&Token::Period) || token(i + 1) != Some(&Token::Mul) {
            return false;
        }
        let alone = i > 1
            && token(i + 2) == Some(&Token::RParen)
            && token(i - 2) == Some(&Token::LParen)
            && (i == 2
                || !matches!(tokens[i - 3].token, Token::Word(_))
                || is_one_of(&tokens[i - 3], &words));
        i > 0
            && matches!(tokens[i - 1].token, Token::Word(_))
            && (alone
                || by[i]
                || token(i + 2) == Some(&Token::DoubleColon)
                || tokens.get(i + 2).is_some_and(|t| is(t, "is"))
                || compared(i))
    };
    if !(0..tokens.len()).any(star) {
        return tokens;
    }
    let mut out = Vec::with_capacity(tokens.len());
    let mut i = 0;
    while i < tokens.len() {
        let t = &tokens[i];
        if star(i + 1) {
            let name = Token::make_word(WHOLE_ROW, Some('"'));
            out.extend([like(t, name), like(t, Token::LParen)]);
            out.extend_from_slice(&tokens[i..i + 3]);
            out.push(like(&tokens[i + 2], Token::RParen));
            i += 3;
        } else {
            out.push(t.clone());
            i += 1;
        }
    }
    out
}

fn is_comparison(t: &TokenWithSpan) -> bool {
    let signs = [
        Token::Eq,
        Token::Neq,
        Token::Lt,
        Token::LtEq,
        Token::Gt,
        Token::GtEq,
    ];
    signs.contains(&t.token)
}

/// `interval(3) '1.23456'` as `'1.23456'::interval(3)`.
fn interval_precision(tokens: Vec<TokenWithSpan>) -> Vec<TokenWithSpan> {
    let mut out = Vec::with_capacity(tokens.len());
    let mut i = 0;
    while i < tokens.len() {
        if is(&tokens[i], "interval")
            && let Some([open, digits, close, text]) = tokens.get(i + 1..i + 5)
            && open.token == Token::LParen
            && matches!(digits.token, Token::Number(..))
            && close.token == Token::RParen
            && matches!(text.token, Token::SingleQuotedString(_))
        {
            out.extend([text.clone(), like(text, Token::DoubleColon)]);
            out.extend_from_slice(&tokens[i..i + 4]);
            i += 5;
            continue;
        }
        out.push(tokens[i].clone());
        i += 1;
    }
    out
}

/// Name of the call that stands for `(x).*`.
pub(crate) const ALL_FIELDS: &str = "#all_fields";

/// `(x).*` in a select list as `"#all_fields"(x)`.
fn all_fields(tokens: Vec<TokenWithSpan>) -> Vec<TokenWithSpan> {
    let star = |i: usize| {
        let token = |n: usize| tokens.get(i + n).map(|t| &t.token);
        token(0) == Some(&Token::RParen)
            && token(1) == Some(&Token::Period)
            && token(2) == Some(&Token::Mul)
    };
    if !(0..tokens.len()).any(star) {
        return tokens;
    }
    let mut out: Vec<TokenWithSpan> = Vec::with_capacity(tokens.len());
    // Where parentheses open in `out`.
    let mut open = vec![];
    let mut i = 0;
    while i < tokens.len() {
        let t = &tokens[i];
        match t.token {
            Token::LParen => open.push(out.len()),
            Token::RParen => {
                let from = open.pop();
                let item = from.filter(|from| {
                    let before = from.checked_sub(1).and_then(|b| out.get(b));
                    before.is_some_and(|b| {
                        b.token == Token::Comma
                            || is_one_of(b, &["select", "distinct", "all", "returning"])
                    })
                });
                if let (true, Some(from)) = (star(i), item) {
                    let name = Token::make_word(ALL_FIELDS, Some('"'));
                    out.insert(from, like(t, name));
                    out.push(t.clone());
                    i += 3;
                    continue;
                }
            }
            _ => {}
        }
        out.push(t.clone());
        i += 1;
    }
    out
}

/// Which tokens stand in the list of a GROUP BY, ORDER BY or PARTITION BY.
fn in_by(tokens: &[TokenWithSpan]) -> Vec<bool> {
    const ENDS: &[&str] = &[
        "select",
        "from",
        "where",
        "having",
        "window",
        "order",
        "limit",
        "offset",
        "fetch",
        "rows",
        "range",
        "groups",
        "union",
        "except",
        "intersect",
        "for",
    ];
    let set = |by: &mut Vec<bool>, to: bool| {
        if let Some(last) = by.last_mut() {
            *last = to;
        }
    };
    // Per parenthesis that is open: those in such a list belong to it.
    let mut by = vec![false];
    // A column may have the name.
    let begins = |i: usize| i > 0 && is_one_of(&tokens[i - 1], &["group", "order", "partition"]);
    tokens
        .iter()
        .enumerate()
        .map(|(i, t)| {
            let here = by.last().copied().unwrap_or(false);
            match t.token {
                Token::LParen => by.push(here),
                Token::RParen => {
                    by.pop();
                }
                _ if is(t, "by") && begins(i) => set(&mut by, true),
                _ if is_one_of(t, ENDS) => set(&mut by, false),
                _ => {}
            }
            here
        })
        .collect()
}

/// Text is compared by bytes, whatever `COLLATE name` says.
fn collate(tokens: Vec<TokenWithSpan>) -> Vec<TokenWithSpan> {
    let mut out: Vec<TokenWithSpan> = Vec::with_capacity(tokens.len());
    let mut rest = tokens.into_iter().peekable();
    let is_word = |t: &TokenWithSpan| matches!(t.token, Token::Word(_));
    while let Some(t) = rest.next() {
        let after_operand = out.last().is_some_and(|b| b.token != Token::Period);
        if !is(&t, "collate") || !after_operand || !rest.peek().is_some_and(is_word) {
            out.push(t);
            continue;
        }
        rest.next();
        while rest.next_if(|t| t.token == Token::Period).is_some() {
            rest.next();
        }
    }
    out
}

/// `ORDER BY x USING >` as `ORDER BY x DESC`.
fn sort_operator(tokens: Vec<TokenWithSpan>) -> Vec<TokenWithSpan> {
    let mut out: Vec<TokenWithSpan> = Vec::with_capacity(tokens.len());
    for t in tokens {
        let order = match t.token {
            Token::Lt => "ASC",
            Token::Gt => "DESC",
            _ => "",
        };
        match out
            .last_mut()
            .filter(|b| !order.is_empty() && is(b, "using"))
        {
            Some(using) => using.token = Token::make_keyword(order),
            None => out.push(t),
        }
    }
    out
}

/// What stands before the name of a join in its USING.
pub(crate) const JOIN_ALIAS: &str = "#as ";

/// Tables have no heirs: `FROM ONLY t` is `FROM t`.
fn only(mut tokens: Vec<TokenWithSpan>) -> Vec<TokenWithSpan> {
    let mut at = 0;
    while at + 2 < tokens.len() {
        at += 1;
        let follows = is_one_of(
            &tokens[at - 1],
            &["from", "join", "update", "table", "truncate"],
        );
        if follows && is(&tokens[at], "only") && matches!(tokens[at + 1].token, Token::Word(_)) {
            tokens.remove(at);
        }
    }
    tokens
}

/// `LIKE SOME` as `LIKE ANY`, which sqlparser knows.
fn some(mut tokens: Vec<TokenWithSpan>) -> Vec<TokenWithSpan> {
    for at in 1..tokens.len() {
        if is(&tokens[at], "some") && (is(&tokens[at - 1], "like") || is(&tokens[at - 1], "ilike"))
        {
            tokens[at] = like(&tokens[at], Token::make_keyword("ANY"));
        }
    }
    tokens
}

/// `JOIN u USING (a, b) AS j` as `JOIN u USING ("#as j", a, b)`.
fn join_alias(mut tokens: Vec<TokenWithSpan>) -> Vec<TokenWithSpan> {
    let mut at = 0;
    while at + 1 < tokens.len() {
        at += 1;
        if !is(&tokens[at - 1], "using") || tokens[at].token != Token::LParen {
            continue;
        }
        let list = tokens[at + 1..].iter();
        let plain = |t: &&TokenWithSpan| matches!(t.token, Token::Word(_) | Token::Comma);
        let end = at + 1 + list.take_while(plain).count();
        let [close, word, name, ..] = &tokens[end..] else {
            continue;
        };
        let Token::Word(alias) = &name.token else {
            continue;
        };
        if close.token != Token::RParen || !is(word, "as") {
            continue;
        }
        let alias = match alias.quote_style {
            Some(_) => alias.value.clone(),
            None => alias.value.to_lowercase(),
        };
        let mark = Token::make_word(&format!("{JOIN_ALIAS}{alias}"), Some('"'));
        let added = [mark, Token::Comma].map(|t| like(name, t));
        tokens.drain(end + 1..end + 3);
        tokens.splice(at + 1..at + 1, added);
    }
    tokens
}

/// `AS IDENTITY (START WITH 10 INCREMENT BY 5)` with its options in the one order in which sqlparser takes them. Without SEQUENCE
/// NAME: it is called after its column.
fn identity_options(tokens: Vec<TokenWithSpan>) -> Vec<TokenWithSpan> {
    const ORDER: [&str; 6] = [
        "increment",
        "minvalue",
        "maxvalue",
        "start",
        "cache",
        "cycle",
    ];
    const SEQUENCE_NAME: usize = usize::MAX;
    let mut out: Vec<TokenWithSpan> = Vec::with_capacity(tokens.len());
    let mut rest = tokens.into_iter().peekable();
    while let Some(t) = rest.next() {
        let opens = is(&t, "identity") && out.last().is_some_and(|before| is(before, "as"));
        out.push(t);
        let Some(open) = opens
            .then(|| rest.next_if(|t| t.token == Token::LParen))
            .flatten()
        else {
            continue;
        };
        let mut options: Vec<(usize, Vec<TokenWithSpan>)> = vec![];
        while let Some(t) = rest.next_if(|t| t.token != Token::RParen) {
            let place = ORDER.iter().position(|word| is(&t, word));
            let after_no = options
                .last()
                .is_some_and(|(_, o)| o.len() == 1 && is(&o[0], "no"));
            match (place, options.last_mut()) {
                (Some(place), Some(last)) if after_no => {
                    last.0 = place;
                    last.1.push(t);
                }
                (Some(place), _) => options.push((place, vec![t])),
                (None, _) if is(&t, "no") => options.push((ORDER.len(), vec![t])),
                (None, _) if is(&t, "sequence") => options.push((SEQUENCE_NAME, vec![t])),
                (None, Some(last)) => last.1.push(t),
                (None, None) => options.push((ORDER.len(), vec![t])),
            }
        }
        let given = options.len();
        options.retain(|(place, _)| *place != SEQUENCE_NAME);
        if options.is_empty() && given > 0 {
            rest.next_if(|t| t.token == Token::RParen);
            continue;
        }
        options.sort_by_key(|(place, _)| *place);
        out.push(open);
        out.extend(options.into_iter().flat_map(|(_, option)| option));
    }
    out
}

/// Which values an INSERT is to use for IDENTITY columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Overriding {
    /// Those that are given.
    System,
    /// Always the next number.
    User,
}

impl Overriding {
    /// What the INSERT says.
    pub(crate) fn of(insert: &sqlparser::ast::Insert) -> Option<Overriding> {
        let [sqlparser::ast::Expr::Identifier(name)] = insert.partitioned.as_deref()? else {
            return None;
        };
        match name.value.as_str() {
            OVERRIDING_SYSTEM => Some(Overriding::System),
            OVERRIDING_USER => Some(Overriding::User),
            _ => None,
        }
    }
}

/// `OVERRIDING SYSTEM VALUE` as `PARTITION ("#overriding_system")`, which stands at the same place of an INSERT.
fn overriding(tokens: Vec<TokenWithSpan>) -> Vec<TokenWithSpan> {
    let mut out: Vec<TokenWithSpan> = Vec::with_capacity(tokens.len() + 1);
    let mut rest = tokens.into_iter().peekable();
    while let Some(t) = rest.next() {
        let after_columns = out
            .last()
            .is_some_and(|b| matches!(b.token, Token::RParen | Token::Word(_)));
        if !is(&t, "overriding") || !after_columns {
            out.push(t);
            continue;
        }
        let Some(whose) = rest.next_if(|t| is(t, "system") || is(t, "user")) else {
            out.push(t);
            continue;
        };
        if rest.next_if(|t| is(t, "value")).is_none() {
            out.extend([t, whose]);
            continue;
        }
        let name = match is(&whose, "system") {
            true => OVERRIDING_SYSTEM,
            false => OVERRIDING_USER,
        };
        // Behind a table's name alone PARTITION would be another name for it, so that comes first.
        let named = out.len() > 1 && is(&out[out.len() - 2], "as");
        if let Some(table) = out.last().filter(|b| !named && b.token != Token::RParen) {
            let alias = table.token.clone();
            out.push(like(&t, Token::make_keyword("AS")));
            out.push(like(&t, alias));
        }
        out.push(like(&t, Token::make_keyword("PARTITION")));
        out.push(like(&t, Token::LParen));
        out.push(like(&whose, Token::make_word(name, Some('"'))));
        out.push(like(&whose, Token::RParen));
    }
    out
}

/// Tokens without blanks and comments. Strings that stand on lines of their own are one string.
fn significant(tokens: &[TokenWithSpan]) -> Result<Vec<TokenWithSpan>> {
    let mut out: Vec<TokenWithSpan> = Vec::with_capacity(tokens.len());
    let mut new_line = false;
    for t in tokens {
        match &t.token {
            Token::Whitespace(Whitespace::Newline | Whitespace::SingleLineComment { .. }) => {
                new_line = true;
                continue;
            }
            Token::Whitespace(_) => continue,
            Token::SingleQuotedString(more) => {
                if let Some(TokenWithSpan {
                    token: Token::SingleQuotedString(s) | Token::EscapedStringLiteral(s),
                    span,
                }) = out.last_mut()
                {
                    if !new_line {
                        let message = format!("syntax error at or near \"{}\"", t.token);
                        return Err(
                            SqlError::new("42601", message).at(t.span.start.column as usize)
                        );
                    }
                    s.push_str(more);
                    span.end = t.span.end;
                    new_line = false;
                    continue;
                }
            }
            Token::CustomBinaryOperator(operator) => {
                if let Some((operator, sign)) = signed(operator) {
                    out.push(like(t, operator));
                    out.push(like(t, sign));
                    new_line = false;
                    continue;
                }
            }
            Token::Word(w) if w.quote_style.is_some() && w.value.is_empty() => {
                let message = "zero-length delimited identifier at or near \"\"\"\"";
                return Err(SqlError::new("42601", message).at(t.span.start.column as usize));
            }
            _ => {}
        }
        new_line = false;
        out.push(t.clone());
    }
    Ok(out)
}

/// `->-` is the operator `->` and a sign: none ends in one, but for those with certain other characters.
fn signed(operator: &str) -> Option<(Token, Token)> {
    let sign = match operator.chars().next_back()? {
        '-' => Token::Minus,
        '+' => Token::Plus,
        _ => return None,
    };
    if operator.contains(['~', '!', '@', '#', '%', '^', '&', '|', '`', '?']) {
        return None;
    }
    let mut tokens = Tokenizer::new(&DIALECT, &operator[..operator.len() - 1])
        .tokenize()
        .ok()?;
    match (tokens.pop(), tokens.is_empty()) {
        (Some(operator), true) => Some((operator, sign)),
        _ => None,
    }
}

/// `x ISNULL` as `x IS NULL`.
fn is_null(tokens: Vec<TokenWithSpan>) -> Vec<TokenWithSpan> {
    let is_postfix = |before: &Token| {
        matches!(
            before,
            Token::RParen
                | Token::RBracket
                | Token::Number(..)
                | Token::SingleQuotedString(_)
                | Token::Placeholder(_)
        ) || matches!(before, Token::Word(w) if w.quote_style.is_some()
            || matches!(w.keyword, Keyword::NoKeyword | Keyword::NULL | Keyword::TRUE | Keyword::FALSE))
    };
    let mut out: Vec<TokenWithSpan> = Vec::with_capacity(tokens.len());
    for t in tokens {
        let after_operand = out.last().is_some_and(|before| is_postfix(&before.token));
        if is(&t, "isnull") && after_operand {
            out.push(like(&t, Token::make_keyword("IS")));
            out.push(like(&t, Token::make_keyword("NULL")));
        } else {
            out.push(t);
        }
    }
    out
}

/// `trim(LEADING FROM x)` as `trim(LEADING ' ' FROM x)`, `trim(FROM x)` as `trim(x)`, and `trim(LEADING x, y)` as `ltrim(x, y)`.
fn trim(mut tokens: Vec<TokenWithSpan>) -> Vec<TokenWithSpan> {
    let mut calls = vec![];
    for i in 0..tokens.len().saturating_sub(2) {
        let name = match &tokens[i + 2] {
            t if is(t, "leading") => "ltrim",
            t if is(t, "trailing") => "rtrim",
            t if is(t, "both") => "btrim",
            _ => continue,
        };
        if is(&tokens[i], "trim")
            && tokens[i + 1].token == Token::LParen
            && separates(&tokens[i + 3..])
        {
            calls.push((i, name));
        }
    }
    for (i, name) in calls.into_iter().rev() {
        tokens[i] = like(&tokens[i], Token::make_word(name, None));
        tokens.remove(i + 2);
    }
    let mut out: Vec<TokenWithSpan> = Vec::with_capacity(tokens.len());
    for t in tokens {
        if is(&t, "from") {
            let before = |n: usize| out.len().checked_sub(n).and_then(|i| out.get(i));
            let opens = |n: usize| {
                before(n).is_some_and(|t| t.token == Token::LParen)
                    && before(n + 1).is_some_and(|t| is(t, "trim"))
            };
            if opens(1) {
                continue;
            }
            let side = before(1).is_some_and(|t| is_one_of(t, &["leading", "trailing", "both"]));
            if side && opens(2) {
                out.push(like(&t, Token::SingleQuotedString(" ".into())));
            }
        }
        out.push(t);
    }
    out
}

/// Whether the arguments of a call that begin here have a comma between them, and no FROM.
fn separates(args: &[TokenWithSpan]) -> bool {
    let (mut depth, mut comma) = (0usize, false);
    for t in args {
        match &t.token {
            Token::LParen => depth += 1,
            Token::RParen if depth == 0 => return comma,
            Token::RParen => depth -= 1,
            Token::Comma if depth == 0 => comma = true,
            _ if depth == 0 && is(t, "from") => return false,
            _ => {}
        }
    }
    false
}

/// `ROWS FROM (f(…), g(…))` as one call.
fn rows_from(tokens: Vec<TokenWithSpan>) -> Vec<TokenWithSpan> {
    let mut out: Vec<TokenWithSpan> = Vec::with_capacity(tokens.len());
    let mut i = 0;
    while i < tokens.len() {
        let next = |n: usize| tokens.get(i + n);
        let starts_item = out
            .last()
            .is_some_and(|t| t.token == Token::Comma || is_one_of(t, &["from", "join", "lateral"]));
        let call_follows = next(2).is_some_and(|t| t.token == Token::LParen)
            && next(3).is_some_and(|t| matches!(t.token, Token::Word(_)))
            && next(4).is_some_and(|t| matches!(t.token, Token::LParen | Token::Period));
        if starts_item
            && is(&tokens[i], "rows")
            && next(1).is_some_and(|t| is(t, "from"))
            && call_follows
        {
            out.push(like(&tokens[i], Token::make_word(ROWS_FROM, Some('"'))));
            i += 2;
            continue;
        }
        out.push(tokens[i].clone());
        i += 1;
    }
    out
}

/// `BETWEEN SYMMETRIC a AND b` as `BETWEEN "#symmetric"(a) AND b`; ASYMMETRIC says nothing.
fn symmetric(tokens: Vec<TokenWithSpan>) -> Vec<TokenWithSpan> {
    let mut out: Vec<TokenWithSpan> = Vec::with_capacity(tokens.len());
    // Depths of nesting at which a bound is open.
    let mut open: Vec<i32> = Vec::new();
    let mut depth = 0i32;
    for t in tokens {
        let after_between = out.last().is_some_and(|t| is(t, "between"));
        if after_between && is(&t, "asymmetric") {
            continue;
        }
        if after_between && is(&t, "symmetric") {
            out.push(like(&t, Token::make_word(SYMMETRIC, Some('"'))));
            out.push(like(&t, Token::LParen));
            open.push(depth);
            continue;
        }
        match &t.token {
            Token::LParen | Token::LBracket => depth += 1,
            Token::RParen | Token::RBracket => depth -= 1,
            _ if is(&t, "case") => depth += 1,
            _ if is(&t, "end") => depth -= 1,
            _ if is(&t, "and") && open.last() == Some(&depth) => {
                open.pop();
                out.push(like(&t, Token::RParen));
            }
            _ => {}
        }
        out.push(t);
    }
    out
}

pub(super) fn is(t: &TokenWithSpan, word: &str) -> bool {
    matches!(&t.token, Token::Word(w) if w.quote_style.is_none() && w.value.eq_ignore_ascii_case(word))
}

pub(super) fn is_one_of(t: &TokenWithSpan, words: &[&str]) -> bool {
    words.iter().any(|w| is(t, w))
}

/// A token in the place of another.
pub(super) fn like(t: &TokenWithSpan, token: Token) -> TokenWithSpan {
    TokenWithSpan {
        token,
        span: t.span,
    }
}

/// `int ARRAY` and `int ARRAY[3]` as `int[]`: a type with ARRAY behind it. In an expression no name stands before ARRAY.
fn array_types(tokens: Vec<TokenWithSpan>) -> Vec<TokenWithSpan> {
    let mut out: Vec<TokenWithSpan> = Vec::with_capacity(tokens.len() + 1);
    let mut rest = tokens.into_iter().peekable();
    while let Some(t) = rest.next() {
        let after_type = match (out.last().map(|b| &b.token), out.len()) {
            (Some(Token::Word(w)), _) if w.quote_style.is_none() => {
                let word = w.value.to_lowercase();
                ARRAY_ELEMENTS.contains(&word.as_str())
            }
            _ => false,
        };
        let literal = (rest.peek()).is_some_and(|t| t.token == Token::LParen);
        out.push(t);
        if !after_type || literal || !out.last().is_some_and(|t| is(t, "array")) {
            continue;
        }
        let Some(array) = out.pop() else { continue };
        out.push(like(&array, Token::LBracket));
        if rest.next_if(|t| t.token == Token::LBracket).is_some() {
            let mut inside = true;
            while inside && let Some(t) = rest.next() {
                inside = t.token != Token::RBracket;
            }
        }
        out.push(like(&array, Token::RBracket));
    }
    out
}

/// Names of types before ARRAY.
const ARRAY_ELEMENTS: [&str; 22] = [
    "int",
    "integer",
    "smallint",
    "bigint",
    "int2",
    "int4",
    "int8",
    "real",
    "float",
    "float4",
    "float8",
    "numeric",
    "decimal",
    "text",
    "varchar",
    "boolean",
    "bool",
    "date",
    "timestamp",
    "timestamptz",
    "uuid",
    "jsonb",
];
