//! The parser of statements: splits a string into statements, recognises those that sqlparser
//! doesn't know, and leaves queries, expressions and column lists to sqlparser.
//!
//! Every token's location is replaced by (line 1, column = character of the whole string, from 1), so the
//! span of any part of the syntax tree is a position as the wire protocol counts it.

mod alter;
mod chains;
mod ddl;
mod dialect;
pub(crate) mod elements;
mod elsewhere;
mod escapes;
mod index;
mod locks;
mod nested_joins;
mod numbering;
mod options;
mod precedence;
mod sequences;
mod session;
pub(crate) mod spelling;
pub(crate) mod spelling_queries;
mod starred;
mod substring;
mod time_windows;
pub(crate) mod variadic;
pub(crate) mod with_change;
pub(crate) mod written;

use sqlparser::ast::{Ident, ObjectName, ObjectNamePart};
use sqlparser::parser::{Parser, ParserError};
use sqlparser::tokenizer::{Location, Span, Token, TokenWithSpan, Tokenizer, TokenizerError};

use crate::ast::{Name, Parsed, Statement, Subscribe, SubscribeTarget};
use crate::error::{Result, SqlError};
use crate::names::DATABASE;

/// Nesting of expressions and queries that is still parsed.
const DEPTH_MAX: usize = 200;

static DIALECT: dialect::PlainNames = dialect::PlainNames;

/// What is left of a query without the statements in its WITH that change data: a query, CREATE TABLE AS, or INSERT, UPDATE or DELETE that
/// stands in its place.
fn around(mut query: Box<sqlparser::ast::Query>) -> Result<Statement> {
    use sqlparser::ast::SetExpr;
    let with = query.with.take_if(|_| {
        matches!(
            *query.body,
            SetExpr::Insert(_) | SetExpr::Update(_) | SetExpr::Delete(_)
        )
    });
    if let (
        Some(with),
        SetExpr::Insert(change) | SetExpr::Update(change) | SetExpr::Delete(change),
    ) = (with, query.body.as_mut())
    {
        with_change::distribute(&with, change);
        return with_change::changing(change.clone());
    }
    if let SetExpr::Select(select) = query.body.as_mut()
        && let Some(into) = select.into.take()
    {
        let mut name = relation_name(&into.name)?;
        if into.temporary && name.schema.is_none() {
            name.schema = Some(ddl::TEMPORARY.into());
        }
        return Ok(Statement::CreateTableAs {
            name,
            if_not_exists: false,
            columns: vec![],
            query,
            with_data: true,
        });
    }
    Ok(Statement::Query { query, as_of: None })
}

/// See [`crate::ast::parse`].
pub(crate) fn parse(sql: &str) -> Result<Vec<Parsed>> {
    let chars: Vec<char> = sql.chars().collect();
    let tokens = tokenize(sql, &chars)?;
    let mut out = Vec::new();
    for part in tokens.split(|t| t.token == Token::SemiColon) {
        let tokens = printable(spelling::respelled(part)?)?;
        // Of what was written: respelled tokens may stand in another order.
        let mut written = (part.iter()).filter(|t| !matches!(t.token, Token::Whitespace(_)));
        let Some(first) = written.next() else {
            continue;
        };
        let last = written.next_back().unwrap_or(first);
        let start = first.span.start.column as usize - 1;
        let end = (last.span.end.column as usize - 1).min(chars.len());
        let text: String = chars[start..end.max(start)].iter().collect();
        out.push(Parsed {
            statement: P::new(tokens, end + 1, &text).whole_statement()?,
            sql: text,
        });
    }
    Ok(out)
}

/// Parses one query, e.g. a view's stored text.
pub(crate) fn parse_query(sql: &str) -> Result<Box<sqlparser::ast::Query>> {
    let mut statements = parse(sql)?;
    match (statements.pop(), statements.is_empty()) {
        (
            Some(Parsed {
                statement: Statement::Query { query, as_of: None },
                ..
            }),
            true,
        ) => Ok(query),
        _ => Err(SqlError::new("42601", "expected one query")),
    }
}

/// Parses one expression, e.g. a column's DEFAULT.
pub(crate) fn parse_expr(sql: &str) -> Result<sqlparser::ast::Expr> {
    let chars: Vec<char> = sql.chars().collect();
    let tokens = printable(spelling::respelled(&tokenize(sql, &chars)?)?)?;
    let mut p = P::new(tokens, chars.len() + 1, sql);
    let e = p.expr()?;
    p.end()?;
    Ok(e)
}

/// Tokens with their places among `chars`, which are those of `sql`: a token's columns are from the one, counted from 1, to the other, that
/// one not included.
pub(crate) fn tokenize(sql: &str, chars: &[char]) -> Result<Vec<TokenWithSpan>> {
    // Character index at which each line starts.
    let mut lines = vec![0usize];
    lines.extend(
        chars
            .iter()
            .enumerate()
            .filter(|(_, c)| **c == '\n')
            .map(|(i, _)| i + 1),
    );
    let (mut tokens, mut from, mut rest) = (Vec::new(), 0, sql);
    loop {
        let line_of_from = lines.partition_point(|start| *start <= from) - 1;
        let place = |l: Location| {
            let start = match l.line {
                0 | 1 => from,
                line => lines[(line_of_from + line as usize - 1).min(lines.len() - 1)],
            };
            Location::new(1, start as u64 + l.column)
        };
        let mut found = Vec::new();
        let all = Tokenizer::new(&DIALECT, rest).tokenize_with_location_into_buf(&mut found);
        tokens.extend(found.into_iter().map(|t| TokenWithSpan {
            span: Span::new(place(t.span.start), place(t.span.end)),
            token: t.token,
        }));
        let Err(e) = all else {
            break;
        };
        let at = place(e.location).column;
        let string = escapes::string_at(chars, (at as usize).saturating_sub(1));
        let Some((text, end)) = string.map_err(|e| e.at(at as usize))? else {
            return Err(tokenizer_error(e, place));
        };
        tokens.push(TokenWithSpan {
            span: Span::new(Location::new(1, at), Location::new(1, end as u64 + 1)),
            token: Token::EscapedStringLiteral(text),
        });
        let next = rest.char_indices().nth(end - from);
        (from, rest) = (end, next.map_or("", |(byte, _)| &rest[byte..]));
    }
    chains::check(&tokens)?;
    check_numbers(&tokens)?;
    Ok(tokens)
}

/// A number ends where its digits do: `123abc` isn't 123 under another name.
fn check_numbers(tokens: &[TokenWithSpan]) -> Result<()> {
    for pair in tokens.windows(2) {
        if let (Token::Number(number, _), Token::Word(word)) = (&pair[0].token, &pair[1].token)
            && word.quote_style.is_none()
            && pair[0].span.end == pair[1].span.start
        {
            let message = format!(
                "trailing junk after numeric literal at or near \"{number}{}\"",
                word.value.chars().take(1).collect::<String>()
            );
            let at = pair[0].span.start.column as usize;
            return Err(SqlError::new("42601", message).at(at));
        }
    }
    Ok(())
}

/// Definitions are kept as sqlparser prints them, and it takes two quotes side by side, or one behind a backslash, for one that is
/// written as it must be in SQL. A string with such quotes is one of those with escapes.
fn printable(mut tokens: Vec<TokenWithSpan>) -> Result<Vec<TokenWithSpan>> {
    let is_misprinted = |text: &str, quote: char| {
        let mut before = ' ';
        text.chars().any(|c| {
            let before = std::mem::replace(&mut before, c);
            c == quote && (before == quote || before == '\\')
        })
    };
    for t in &mut tokens {
        match &mut t.token {
            Token::SingleQuotedString(text) if is_misprinted(text, '\'') => {
                t.token = Token::EscapedStringLiteral(std::mem::take(text));
            }
            Token::Word(word) if word.quote_style.is_some() && is_misprinted(&word.value, '"') => {
                let message = "a name with two quotes side by side, or one behind a backslash, is not supported";
                return Err(SqlError::unsupported(message).at(t.span.start.column as usize));
            }
            _ => {}
        }
    }
    Ok(tokens)
}

/// The text of a string literal.
pub(crate) fn string_of(value: &sqlparser::ast::Value) -> Option<&str> {
    use sqlparser::ast::Value;
    match value {
        Value::SingleQuotedString(text) | Value::EscapedStringLiteral(text) => Some(text),
        Value::DollarQuotedString(text) => Some(&text.value),
        _ => None,
    }
}

fn tokenizer_error(e: TokenizerError, place: impl Fn(Location) -> Location) -> SqlError {
    let at = place(e.location).column as usize;
    let message = match e.message.as_str() {
        m if m.contains("nterminated") && m.contains("string") => {
            "unterminated quoted string".to_string()
        }
        m if m.contains("nterminated") && m.contains("dollar") => {
            "unterminated dollar-quoted string".to_string()
        }
        m if m.contains("comment") => "unterminated /* comment".to_string(),
        m if m.contains("quoted identifier") || m.contains("close delimiter") => {
            "unterminated quoted identifier".to_string()
        }
        m => format!("syntax error: {m}"),
    };
    SqlError::new("42601", message).at(at.max(1))
}

/// A name after folding: unquoted identifiers become lower case.
pub(crate) fn fold(i: &Ident) -> String {
    if i.quote_style.is_some() {
        i.value.clone()
    } else {
        i.value.to_lowercase()
    }
}

/// The parts of a dotted name after folding.
pub(crate) fn parts(name: &ObjectName) -> Vec<String> {
    name.0
        .iter()
        .filter_map(|p| match p {
            ObjectNamePart::Identifier(i) => Some(fold(i)),
            ObjectNamePart::Function(_) => None,
        })
        .collect()
}

/// A relation's name: at most `database.schema.name`.
pub(crate) fn relation_name(name: &ObjectName) -> Result<Name> {
    let mut p = parts(name);
    match (p.pop(), p.pop(), p.as_slice()) {
        (Some(name), schema, []) => Ok(Name { schema, name }),
        (Some(_), Some(_), [database]) if database != DATABASE => Err(other_database(name)),
        (Some(name), schema, [_]) => Ok(Name { schema, name }),
        _ => Err(SqlError::new(
            "42601",
            format!("improper relation name (too many dotted names): {name}"),
        )),
    }
}

/// The name of a relation of another database.
pub(crate) fn other_database(name: &ObjectName) -> SqlError {
    let message = format!("cross-database references are not implemented: {name}");
    let hint = format!("There is one database, \"{DATABASE}\".");
    SqlError::new("0A000", message).hint(hint)
}

/// Where a span begins, as a position for [`SqlError::at`].
pub(crate) fn position(span: Span) -> Option<usize> {
    (span.start.line > 0).then_some(span.start.column as usize)
}

/// sqlparser's parser over one statement, with what it lacks.
pub(super) struct P<'a> {
    p: Parser<'a>,
    end: usize,
    text: &'a str,
    /// Index of the token AS of `AS OF` outside parentheses.
    as_of: Option<usize>,
    /// Index of the token ON of `ON CONFLICT` outside parentheses.
    on_conflict: Option<usize>,
    /// `IS [NOT] DISTINCT`, `^` or an operator in front of another one occurs.
    misread: bool,
}

impl<'a> P<'a> {
    fn new(tokens: Vec<TokenWithSpan>, end: usize, text: &'a str) -> Self {
        let as_of = pair_outside_parentheses(&tokens, "as", "of");
        let on_conflict = pair_outside_parentheses(&tokens, "on", "conflict");
        let misread = tokens.windows(2).any(|t| {
            let is = |t: &TokenWithSpan, word: &str| matches!(&t.token, Token::Word(w) if w.value.eq_ignore_ascii_case(word));
            (is(&t[0], "is") || is(&t[0], "not")) && is(&t[1], "distinct")
                || t[0].token == Token::Caret
                || t.iter().all(|t| precedence::may_be_prefix(&t.token))
        });
        let p = Parser::new(&DIALECT)
            .with_recursion_limit(DEPTH_MAX)
            .with_tokens_with_locations(tokens);
        P {
            p,
            end,
            text,
            as_of,
            on_conflict,
            misread,
        }
    }

    fn convert<T>(&self, r: std::result::Result<T, ParserError>) -> Result<T> {
        r.map_err(|e| match e {
            ParserError::RecursionLimitExceeded => {
                SqlError::new("54001", "stack depth limit exceeded")
            }
            ParserError::TokenizerError(m) => SqlError::new("42601", m),
            ParserError::ParserError(m) => self.syntax_from(&m),
        })
    }

    /// sqlparser says `Expected: a, found: b at Line: 1, Column: n`.
    fn syntax_from(&self, message: &str) -> SqlError {
        let at = message
            .rfind("Column: ")
            .and_then(|i| message[i + 8..].trim().parse::<usize>().ok())
            .filter(|n| *n > 0);
        let found = message.find("found: ").map(|i| {
            let rest = &message[i + 7..];
            rest[..rest.rfind(" at Line").unwrap_or(rest.len())].to_string()
        });
        match found {
            Some(f) if f == "EOF" => {
                SqlError::new("42601", "syntax error at end of input").at(self.end)
            }
            Some(f) => {
                let mut e = SqlError::new("42601", format!("syntax error at or near \"{f}\""));
                e.position = at;
                if let Some(expected) = message.strip_prefix("Expected: ") {
                    let expected = expected[..expected.find(", found:").unwrap_or(0)].trim();
                    if !expected.is_empty() && expected.len() < 60 {
                        e = e.detail(format!("Expected {expected}."));
                    }
                }
                e
            }
            // An operator that the parser doesn't have: Debug of its token.
            None if message.starts_with("No infix parser") => {
                let mut e = SqlError::new("42601", "syntax error");
                e.position = at;
                e
            }
            None => {
                let text = message.rfind(" at Line").map_or(message, |i| &message[..i]);
                let mut e = SqlError::new("42601", format!("syntax error: {text}"));
                e.position = at;
                e
            }
        }
    }

    /// An error at the next token.
    fn unexpected<T>(&self) -> Result<T> {
        let t = self.p.peek_token();
        Err(match t.token {
            Token::EOF => SqlError::new("42601", "syntax error at end of input").at(self.end),
            ref token => SqlError::new("42601", format!("syntax error at or near \"{token}\""))
                .at(t.span.start.column as usize),
        })
    }

    fn peek_word(&self, n: usize) -> Option<String> {
        match self.p.peek_nth_token(n).token {
            Token::Word(w) if w.quote_style.is_none() => Some(w.value.to_lowercase()),
            _ => None,
        }
    }

    fn peek_is(&self, n: usize, word: &str) -> bool {
        self.peek_word(n).as_deref() == Some(word)
    }

    /// Takes the words if all of them come next.
    fn take(&mut self, words: &str) -> bool {
        let all: Vec<&str> = words.split(' ').collect();
        if all.iter().enumerate().all(|(i, w)| self.peek_is(i, w)) {
            for _ in all {
                self.p.next_token();
            }
            true
        } else {
            false
        }
    }

    fn need(&mut self, words: &str) -> Result<()> {
        if self.take(words) {
            Ok(())
        } else {
            self.unexpected()
        }
    }

    fn token(&mut self, t: &Token) -> bool {
        self.p.consume_token(t)
    }

    fn need_token(&mut self, t: &Token) -> Result<()> {
        if self.token(t) {
            Ok(())
        } else {
            self.unexpected()
        }
    }

    fn end(&mut self) -> Result<()> {
        if self.at_end() {
            Ok(())
        } else {
            self.unexpected()
        }
    }

    fn at_end(&self) -> bool {
        self.p.peek_token().token == Token::EOF
    }

    fn ident(&mut self) -> Result<String> {
        let r = self.p.parse_identifier();
        self.convert(r).map(|i| fold(&i))
    }

    fn object_name(&mut self) -> Result<ObjectName> {
        let r = self.p.parse_object_name(false);
        self.convert(r)
    }

    fn name(&mut self) -> Result<Name> {
        relation_name(&self.object_name()?)
    }

    fn names(&mut self) -> Result<Vec<Name>> {
        let mut out = vec![self.name()?];
        while self.token(&Token::Comma) {
            out.push(self.name()?);
        }
        Ok(out)
    }

    /// `(a, b)` or nothing.
    fn column_list(&mut self) -> Result<Vec<String>> {
        let mut out = Vec::new();
        if self.token(&Token::LParen) {
            loop {
                out.push(self.ident()?);
                if !self.token(&Token::Comma) {
                    break;
                }
            }
            self.need_token(&Token::RParen)?;
        }
        Ok(out)
    }

    fn expr(&mut self) -> Result<sqlparser::ast::Expr> {
        let r = self.p.parse_expr();
        self.repaired(r)
    }

    /// What sqlparser has read, repaired.
    fn repaired<T: sqlparser::ast::VisitMut>(
        &self,
        read: std::result::Result<T, ParserError>,
    ) -> Result<T> {
        let mut node = self.convert(read)?;
        self.repair(&mut node);
        Ok(node)
    }

    /// Repairs what sqlparser reads otherwise than PostgreSQL.
    fn repair(&self, node: &mut impl sqlparser::ast::VisitMut) {
        if self.misread {
            precedence::repair(node);
        }
    }

    fn string(&mut self) -> Result<String> {
        match self.p.peek_token().token {
            Token::SingleQuotedString(_)
            | Token::EscapedStringLiteral(_)
            | Token::DollarQuotedString(_) => {}
            _ => return self.unexpected(),
        }
        match self.p.next_token().token {
            Token::SingleQuotedString(s) | Token::EscapedStringLiteral(s) => Ok(s),
            Token::DollarQuotedString(d) => Ok(d.value),
            _ => self.unexpected(),
        }
    }

    fn query(&mut self) -> Result<Box<sqlparser::ast::Query>> {
        if self.peek_is(0, "table") {
            return self.table_query();
        }
        let r = self.p.parse_query();
        self.repaired(r)
    }

    /// `TABLE t …` is `SELECT * FROM t …`.
    fn table_query(&mut self) -> Result<Box<sqlparser::ast::Query>> {
        let at = self.p.next_token().span;
        let mut tokens: Vec<TokenWithSpan> = [
            Token::make_keyword("SELECT"),
            Token::Mul,
            Token::make_keyword("FROM"),
        ]
        .into_iter()
        .map(|token| TokenWithSpan { token, span: at })
        .collect();
        // WITH [NO] DATA is the statement's.
        let ends = |p: &Self| p.peek_is(0, "with") && (p.peek_is(1, "data") || p.peek_is(1, "no"));
        while !ends(self) {
            let t = self.p.next_token();
            if t.token == Token::EOF {
                break;
            }
            tokens.push(t);
        }
        let mut inner = P::new(tokens, self.end, self.text);
        let q = inner.query()?;
        inner.end()?;
        Ok(q)
    }

    fn whole_statement(&mut self) -> Result<Statement> {
        let s = self.statement()?;
        self.end()?;
        Ok(s)
    }

    fn statement(&mut self) -> Result<Statement> {
        let Some(verb) = self.peek_word(0) else {
            return if self.p.peek_token().token == Token::LParen {
                self.select()
            } else {
                self.unexpected()
            };
        };
        match verb.as_str() {
            "select" | "values" | "with" | "table" => self.select(),
            "create" => self.create(),
            "drop" => self.drop(),
            "alter" => self.alter(),
            "comment" => self.comment(),
            "insert" | "update" | "delete" | "merge" => self.change(),
            "truncate" => {
                self.p.next_token();
                self.take("table");
                self.take("only");
                let names = self.names()?;
                let restart_identity = self.take("restart identity");
                let _ = restart_identity || self.take("continue identity");
                let _ = self.take("restrict") || self.take("cascade");
                Ok(Statement::Truncate {
                    names,
                    restart_identity,
                })
            }
            "subscribe" => Ok(Statement::Subscribe(Box::new(self.subscribe()?))),
            "copy" => self.copy(),
            "explain" => self.explain(),
            "show" => self.show(),
            "set" => self.set(),
            _ => self.session_statement(&verb),
        }
    }

    /// A query; with `AS OF t` at its end. `SELECT … INTO t` is CREATE TABLE AS. `WITH … INSERT`, UPDATE and DELETE are
    /// changes whose queries have it.
    fn select(&mut self) -> Result<Statement> {
        let Some(cut) = self.find_as_of() else {
            let mut query = self.query()?;
            let changes = with_change::taken_out(&mut query)?;
            let main = around(query)?;
            if changes.is_empty() {
                return Ok(main);
            }
            if let Statement::CreateTableAs { .. } = main {
                return Err(with_change::not_at_the_top());
            }
            let main = Box::new(main);
            return Ok(Statement::Together { changes, main });
        };
        let mut tokens = Vec::with_capacity(cut);
        for _ in 0..cut {
            tokens.push(self.p.next_token());
        }
        let end = self.p.peek_token().span.start.column as usize;
        let mut inner = P::new(tokens, end, self.text);
        let query = inner.query()?;
        inner.end()?;
        self.need("as of")?;
        Ok(Statement::Query {
            query,
            as_of: Some(self.expr()?),
        })
    }

    /// Number of tokens before `AS OF` outside parentheses. sqlparser would take OF for an alias.
    fn find_as_of(&self) -> Option<usize> {
        self.as_of?.checked_sub(self.p.index())
    }

    pub(super) fn change(&mut self) -> Result<Statement> {
        use sqlparser::ast::Statement as S;
        if let Some(cut) = self.on_conflict.take()
            && self.peek_is(0, "insert")
        {
            return self.insert_on_conflict(cut);
        }
        let r = self.p.parse_statement();
        let mut statement = self.convert(r)?;
        self.repair(&mut statement);
        match statement {
            S::Query(query) => Ok(Statement::Query { query, as_of: None }),
            statement => with_change::changing(statement),
        }
    }

    /// An INSERT whose ON CONFLICT is the token `cut`: the two are parsed apart, as sqlparser would take ON for an alias at
    /// the end of a query.
    fn insert_on_conflict(&mut self, cut: usize) -> Result<Statement> {
        let mut tokens = Vec::with_capacity(cut);
        while self.p.index() < cut {
            tokens.push(self.p.next_token());
        }
        let end = self.p.peek_token().span.start.column as usize;
        let mut head = P::new(tokens, end, self.text);
        let Statement::Insert(mut insert) = head.change()? else {
            return self.unexpected();
        };
        head.end()?;
        let mut tokens: Vec<TokenWithSpan> = Tokenizer::new(&DIALECT, "INSERT INTO x VALUES (1) ")
            .tokenize_with_location()
            .unwrap_or_default()
            .into_iter()
            .filter(|t| !matches!(t.token, Token::Whitespace(_)))
            .collect();
        // The predicate of a partial index says nothing: an index of all rows is unique among some of them, too.
        let mut target_ends = false;
        while !self.at_end() {
            if target_ends && self.take("where") {
                self.expr()?;
            }
            let token = self.p.next_token();
            target_ends =
                token.token == Token::RParen && tokens.iter().all(|t| !spelling::is(t, "do"));
            tokens.push(token);
        }
        let mut tail = P::new(tokens, self.end, self.text);
        let r = tail.p.parse_statement();
        let mut rest = tail.convert(r)?;
        tail.repair(&mut rest);
        let sqlparser::ast::Statement::Insert(rest) = rest else {
            return tail.unexpected();
        };
        tail.end()?;
        insert.on = rest.on;
        insert.returning = rest.returning;
        Ok(Statement::Insert(insert))
    }

    fn subscribe(&mut self) -> Result<Subscribe> {
        self.need("subscribe")?;
        self.take("to");
        let target = if self.p.peek_token().token == Token::LParen {
            self.p.next_token();
            let q = self.query()?;
            self.need_token(&Token::RParen)?;
            SubscribeTarget::Query(q)
        } else if self.peek_is(0, "select") || self.peek_is(0, "values") {
            SubscribeTarget::Query(self.query()?)
        } else {
            SubscribeTarget::Relation(self.name()?)
        };
        let mut s = Subscribe {
            target,
            snapshot: true,
            progress: false,
            as_of: None,
            up_to: None,
        };
        loop {
            if self.take("as of") {
                if self.take("at least") {
                    return Err(SqlError::unsupported("AS OF AT LEAST is not supported"));
                }
                s.as_of = Some(self.expr()?);
            } else if self.take("up to") {
                s.up_to = Some(self.expr()?);
            } else if self.peek_is(0, "envelope") || self.peek_is(0, "within") {
                return Err(SqlError::unsupported(
                    "ENVELOPE and WITHIN TIMESTAMP are not supported yet",
                ));
            } else if self.peek_is(0, "with") {
                for (k, v) in self.with_options()? {
                    let on = boolean(&v).ok_or_else(|| {
                        SqlError::new(
                            "22023",
                            format!("invalid value for option \"{k}\": \"{v}\""),
                        )
                    })?;
                    match k.as_str() {
                        "snapshot" => s.snapshot = on,
                        "progress" => s.progress = on,
                        _ => {
                            return Err(SqlError::new(
                                "42601",
                                format!("unrecognized SUBSCRIBE option \"{k}\""),
                            )
                            .hint("Options are SNAPSHOT and PROGRESS."));
                        }
                    }
                }
            } else {
                return Ok(s);
            }
        }
    }
}

/// A boolean as options spell it.
pub(super) fn boolean(text: &str) -> Option<bool> {
    match text.to_lowercase().as_str() {
        "true" | "t" | "on" | "yes" | "1" => Some(true),
        "false" | "f" | "off" | "no" | "0" => Some(false),
        _ => None,
    }
}

/// A duration such as `1s`, `100 ms`, `1.5 minutes` in milliseconds; a bare number is seconds.
pub(super) fn duration_ms(text: &str) -> Option<u64> {
    let t = text.trim().to_lowercase();
    let split = t
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(t.len());
    let value: f64 = t[..split].parse().ok()?;
    let factor = match t[split..].trim() {
        "ms" | "millisecond" | "milliseconds" => 1.0,
        "" | "s" | "sec" | "second" | "seconds" => 1e3,
        "m" | "min" | "minute" | "minutes" => 6e4,
        "h" | "hour" | "hours" => 3.6e6,
        "d" | "day" | "days" => 8.64e7,
        _ => return None,
    };
    Some((value * factor) as u64)
}

/// Where two words stand one after the other outside parentheses.
fn pair_outside_parentheses(tokens: &[TokenWithSpan], first: &str, second: &str) -> Option<usize> {
    let word = |n: usize, w: &str| {
        matches!(tokens.get(n).map(|t| &t.token),
            Some(Token::Word(x)) if x.quote_style.is_none() && x.value.eq_ignore_ascii_case(w))
    };
    let mut depth = 0i32;
    for (n, t) in tokens.iter().enumerate() {
        match t.token {
            Token::LParen => depth += 1,
            Token::RParen => depth -= 1,
            Token::Word(_) if depth == 0 && word(n, first) && word(n + 1, second) => {
                return Some(n);
            }
            _ => {}
        }
    }
    None
}
