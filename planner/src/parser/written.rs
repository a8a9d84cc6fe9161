//! The way back from [`super::spelling`]: stored text, in which names stand for words that sqlparser doesn't know, as PostgreSQL
//! spells it.

use sqlparser::tokenizer::{Token, TokenWithSpan};

use super::spelling::{ALL_FIELDS, JOIN_ALIAS, ROWS_FROM, SYMMETRIC, WHOLE_ROW, is};
use super::spelling_queries::{DISTINCT_SETS, EXCLUDED, TIES};
use super::tokenize;
use super::variadic::VARIADIC;
use crate::functions::strings::quote_ident;

/// The text of a query in PostgreSQL's spelling.
pub(crate) fn written(sql: &str) -> String {
    if !sql.contains("\"#") {
        return sql.to_string();
    }
    let chars: Vec<char> = sql.chars().collect();
    let Ok(tokens) = tokenize(sql, &chars) else {
        return sql.to_string();
    };
    let blank = |t: &TokenWithSpan| matches!(t.token, Token::Whitespace(_));
    let tokens: Vec<TokenWithSpan> = tokens.into_iter().filter(|t| !blank(t)).collect();
    let mut edits: Vec<Edit> = (0..tokens.len())
        .flat_map(|at| edits_at(&tokens, at))
        .collect();
    edits.sort_by_key(|e| (e.from, e.to));
    let mut out = String::with_capacity(sql.len());
    let mut done = 0;
    for edit in edits.into_iter().filter(|e| e.to <= chars.len()) {
        if edit.from < done {
            return sql.to_string();
        }
        out.extend(&chars[done..edit.from]);
        out.push_str(&edit.text);
        done = edit.to;
    }
    out.extend(&chars[done..]);
    out
}

/// Characters to be replaced, by their numbers.
struct Edit {
    from: usize,
    to: usize,
    text: String,
}

/// What becomes of the name at `at`, if it stands for something.
fn edits_at(tokens: &[TokenWithSpan], at: usize) -> Vec<Edit> {
    let Token::Word(word) = &tokens[at].token else {
        return vec![];
    };
    if word.quote_style.is_none() || !word.value.starts_with('#') {
        return vec![];
    }
    let start = |i: usize| tokens[i].span.start.column as usize - 1;
    let edit = |from, to, text: &str| Edit {
        from,
        to,
        text: text.to_string(),
    };
    // Up to what follows.
    let Some(next) = tokens.get(at + 1).map(|_| start(at + 1)) else {
        return vec![];
    };
    let from = start(at);
    if word.value == ROWS_FROM {
        return vec![edit(from, next, "ROWS FROM ")];
    }
    // What was made a call has the parentheses of the call.
    let calls = [
        (SYMMETRIC, "SYMMETRIC "),
        (VARIADIC, "VARIADIC "),
        (WHOLE_ROW, ""),
    ];
    if let Some((_, text)) = calls.iter().find(|(name, _)| *name == word.value) {
        return match closing(tokens, at + 2).map(start) {
            Some(end) => vec![edit(from, next + 1, text), edit(end, end + 1, "")],
            None => vec![],
        };
    }
    if word.value == TIES && at > 0 && is(&tokens[at - 1], "limit") {
        return match closing(tokens, at + 2).map(start) {
            Some(end) => vec![
                edit(start(at - 1), next + 1, "FETCH FIRST ("),
                edit(end, end + 1, ") ROWS WITH TIES"),
            ],
            None => vec![],
        };
    }
    let comma = tokens[at + 1].token == Token::Comma && at + 2 < tokens.len();
    if word.value == DISTINCT_SETS && comma {
        return vec![edit(from, start(at + 2), "DISTINCT ")];
    }
    if word.value == ALL_FIELDS {
        let closes = closing(tokens, at + 2).map(|i| start(i) + 1);
        return closes.map_or(vec![], |end| {
            vec![edit(from, next, ""), edit(end, end, ".*")]
        });
    }
    if let Some(alias) = word.value.strip_prefix(JOIN_ALIAS)
        && comma
    {
        let closes = closing(tokens, at + 1).map(|i| start(i) + 1);
        return closes.map_or(vec![], |end| {
            let alias = format!(" AS {}", quote_ident(alias));
            vec![edit(from, start(at + 2), ""), edit(end, end, &alias)]
        });
    }
    let Some((_, excluded)) = EXCLUDED.iter().find(|(mark, _)| *mark == word.value) else {
        return vec![];
    };
    let partition = at >= 2 && is(&tokens[at - 1], "by") && is(&tokens[at - 2], "partition");
    let Some(end) = closing(tokens, at + 1).map(start).filter(|_| partition) else {
        return vec![];
    };
    let text = format!(" EXCLUDE {}", excluded.join(" ").to_uppercase());
    let mark = match comma {
        true => edit(from, start(at + 2), ""),
        false => edit(start(at - 2), next, ""),
    };
    vec![mark, edit(end, end, &text)]
}

/// Where the parenthesis closes within which `from` stands.
fn closing(tokens: &[TokenWithSpan], from: usize) -> Option<usize> {
    let mut depth = 0usize;
    for (i, t) in tokens.iter().enumerate().skip(from) {
        match t.token {
            Token::LParen => depth += 1,
            Token::RParen if depth == 0 => return Some(i),
            Token::RParen => depth -= 1,
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::super::parse_query;
    use super::*;

    #[test]
    fn stored_text_is_spelled_as_postgres_has_it_and_read_again() {
        let queries = [
            "SELECT sum(b) OVER (PARTITION BY a ORDER BY (b) ROWS 1 PRECEDING EXCLUDE TIES) FROM t",
            "SELECT sum(b) OVER (ORDER BY b ROWS 1 PRECEDING EXCLUDE CURRENT ROW), 'ü' FROM t WINDOW w AS (ROWS 2 PRECEDING EXCLUDE GROUP)",
            "SELECT a BETWEEN SYMMETRIC b + 1 AND 2 FROM t",
            "SELECT * FROM ROWS FROM (f(1), g(2)) AS x",
            "SELECT a FROM t GROUP BY DISTINCT ROLLUP (a), CUBE (a)",
            "SELECT x.a FROM t JOIN u USING(a, b) AS x",
            "SELECT x.a FROM t JOIN u USING(a) AS \"X y\" JOIN v USING(a)",
            "SELECT concat(',', VARIADIC ARRAY['#', '\"#variadic\"'])",
            "SELECT a, (f(b)).* FROM t",
            "SELECT a FROM t ORDER BY a FETCH FIRST (1 + 1) ROWS WITH TIES OFFSET 1",
        ];
        for query in queries {
            let stored = parse_query(query).expect(query).to_string();
            assert!(stored.contains("\"#"), "{stored}");
            let again = written(&stored);
            assert_eq!(again, query);
            assert_eq!(parse_query(&again).expect(&again).to_string(), stored);
        }
        for plain in ["SELECT '\"#symmetric\"'", "SELECT \"#x\" FROM t"] {
            assert_eq!(written(plain), plain);
        }
    }
}
