//! Statements of the session: transactions, cursors, COPY, SET, SHOW, EXPLAIN, PREPARE.

use sqlparser::tokenizer::Token;

use super::{P, boolean, duration_ms, elsewhere};
use crate::ast::{
    CopyOptions, CopySource, CursorSource, ExplainStage, ObjectKind, Parsed, Show, Statement,
    TransactionModes,
};
use crate::error::{Result, SqlError};

impl P<'_> {
    pub(super) fn session_statement(&mut self, verb: &str) -> Result<Statement> {
        match verb {
            "begin" | "start" => {
                self.p.next_token();
                if verb == "start" {
                    self.need("transaction")?;
                } else {
                    let _ = self.take("work") || self.take("transaction");
                }
                Ok(Statement::Begin {
                    start: verb == "start",
                    modes: self.transaction_modes()?,
                })
            }
            "commit" | "end" | "rollback" | "abort" => self.end_of_transaction(verb),
            "savepoint" => {
                self.p.next_token();
                Ok(Statement::Savepoint {
                    name: self.ident()?,
                })
            }
            "release" => {
                self.p.next_token();
                Ok(Statement::Release {
                    name: self.savepoint()?,
                })
            }
            "describe" | "desc" => {
                self.p.next_token();
                Ok(Statement::Show(Show::Columns(self.name()?)))
            }
            "declare" => self.declare(),
            "fetch" | "move" => self.fetch(),
            "close" => {
                self.p.next_token();
                let cursor = if self.take("all") {
                    None
                } else {
                    Some(self.ident()?)
                };
                Ok(Statement::Close { cursor })
            }
            "reset" => {
                self.p.next_token();
                if self.take("all") {
                    return Ok(Statement::Reset { name: None });
                }
                if self.take("role") || self.take("session authorization") {
                    let (reset, name) = (true, None);
                    return Ok(Statement::SetRole { reset, name });
                }
                let name = if self.take("time zone") {
                    "timezone".into()
                } else {
                    self.setting()?
                };
                Ok(Statement::Reset { name: Some(name) })
            }
            "prepare" => self.prepare(),
            "execute" => self.execute(),
            "deallocate" => {
                self.p.next_token();
                self.take("prepare");
                let name = if self.take("all") {
                    None
                } else {
                    Some(self.ident()?)
                };
                Ok(Statement::Deallocate { name })
            }
            "refresh" => {
                self.need("refresh materialized view")?;
                self.take("concurrently");
                let name = self.name()?;
                if self.take("with no data") {
                    return Err(SqlError::unsupported("WITH NO DATA is not supported"));
                }
                self.take("with data");
                Ok(Statement::Refresh { name })
            }
            "discard" => {
                self.p.next_token();
                for what in ["plans", "sequences", "temporary", "temp"] {
                    if self.take(what) {
                        let verb = format!("discard {what}");
                        return Ok(Statement::Other { verb });
                    }
                }
                self.need("all")?;
                Ok(Statement::Discard)
            }
            "lock" => self.lock_table(),
            "flush" | "wait" | "listen" | "unlisten" | "notify" | "vacuum" | "analyze"
            | "checkpoint" | "reindex" | "cluster" | "grant" | "revoke" | "load" | "call"
            | "do" | "security" | "reassign" | "import" => {
                let verb = verb.to_string();
                self.rest();
                Ok(Statement::Other { verb })
            }
            _ => self.unexpected(),
        }
    }

    /// LOCK [TABLE] [ONLY] name [*], … [IN mode MODE] [NOWAIT]
    fn lock_table(&mut self) -> Result<Statement> {
        self.need("lock")?;
        self.take("table");
        let mut names = vec![];
        loop {
            self.take("only");
            names.push(self.name()?);
            self.token(&Token::Mul);
            if !self.token(&Token::Comma) {
                break;
            }
        }
        let mut exclusive = true;
        if self.take("in") {
            let modes = [
                ("access share", false),
                ("row share", false),
                ("row exclusive", false),
                ("share update exclusive", true),
                ("share row exclusive", true),
                ("share", true),
                ("exclusive", true),
                ("access exclusive", true),
            ];
            let Some((_, keeps)) = modes.into_iter().find(|(words, _)| self.take(words)) else {
                return self.unexpected();
            };
            exclusive = keeps;
            self.need("mode")?;
        }
        self.take("nowait");
        Ok(Statement::LockTable { names, exclusive })
    }

    /// All remaining words, lower case.
    fn rest(&mut self) -> String {
        let mut out = String::new();
        while !self.at_end() {
            let t = self.p.next_token().token.to_string().to_lowercase();
            if !out.is_empty() {
                out.push(' ');
            }
            out.push_str(&t);
        }
        out
    }

    fn end_of_transaction(&mut self, verb: &str) -> Result<Statement> {
        self.p.next_token();
        let _ = self.take("work") || self.take("transaction");
        if self.peek_is(0, "prepared") {
            return Err(SqlError::unsupported(
                "transactions in two phases are not supported",
            ));
        }
        if matches!(verb, "rollback" | "abort") && self.take("to") {
            return Ok(Statement::RollbackTo {
                name: self.savepoint()?,
            });
        }
        let chain = self.take("and chain");
        self.take("and no chain");
        Ok(match verb {
            "commit" | "end" => Statement::Commit { chain },
            _ => Statement::Rollback { chain },
        })
    }

    /// `ISOLATION LEVEL …`, `READ ONLY`, `READ WRITE`, `[NOT] DEFERRABLE`, with or without commas.
    fn transaction_modes(&mut self) -> Result<TransactionModes> {
        const LEVELS: [&str; 5] = [
            "read uncommitted",
            "read committed",
            "repeatable read",
            "strict serializable",
            "serializable",
        ];
        let mut modes = TransactionModes::default();
        while !self.at_end() {
            if self.take("isolation level") {
                match LEVELS.into_iter().find(|level| self.take(level)) {
                    Some(level) => modes.isolation = Some(level.into()),
                    None => return self.unexpected(),
                }
            } else if self.take("read only") {
                modes.read_only = Some(true);
            } else if self.take("read write") {
                modes.read_only = Some(false);
            } else if !(self.take("deferrable") || self.take("not deferrable")) {
                return self.unexpected();
            }
            self.token(&Token::Comma);
        }
        Ok(modes)
    }

    /// `[SAVEPOINT] name`; a savepoint may itself be called so.
    fn savepoint(&mut self) -> Result<String> {
        if !matches!(self.p.peek_nth_token(1).token, Token::EOF) {
            self.need("savepoint")?;
        }
        self.ident()
    }

    fn declare(&mut self) -> Result<Statement> {
        self.need("declare")?;
        let cursor = self.ident()?;
        self.refuse_elsewhere(&elsewhere::OF_CURSOR)?;
        while self.take("binary")
            || self.take("insensitive")
            || self.take("asensitive")
            || self.take("no scroll")
            || self.take("scroll")
        {}
        self.need("cursor")?;
        let hold = self.take("with hold");
        self.take("without hold");
        self.need("for")?;
        let source = if self.peek_is(0, "subscribe") {
            CursorSource::Subscribe(Box::new(self.subscribe()?))
        } else {
            CursorSource::Query(self.query()?)
        };
        Ok(Statement::Declare {
            cursor,
            hold,
            source,
        })
    }

    fn fetch(&mut self) -> Result<Statement> {
        let moves = self.take("move");
        if !moves {
            self.need("fetch")?;
        }
        for w in ["prior", "first", "last", "absolute", "relative", "backward"] {
            if self.peek_is(0, w) && !self.p.peek_nth_token(1).token.eq(&Token::EOF) {
                return Err(SqlError::new("55000", "cursor can only scan forward"));
            }
        }
        let directed = self.take("forward") || self.take("next");
        let count = match self.p.peek_token().token {
            Token::Number(n, _) => {
                self.p.next_token();
                Some(
                    n.parse()
                        .map_err(|_| SqlError::new("22003", "FETCH count is out of range"))?,
                )
            }
            Token::Minus => return Err(SqlError::new("55000", "cursor can only scan forward")),
            _ if self.take("all") => None,
            _ => Some(1),
        };
        if !(self.take("from") || self.take("in")) && directed && self.at_end() {
            return self.unexpected();
        }
        let cursor = self.ident()?;
        if moves {
            return Ok(Statement::Move { cursor, count });
        }
        let mut timeout_ms = None;
        for (k, v) in self.with_options()? {
            if k != "timeout" {
                return Err(SqlError::new(
                    "42601",
                    format!("unrecognized FETCH option \"{k}\""),
                ));
            }
            timeout_ms = Some(duration_ms(&v).ok_or_else(|| {
                SqlError::new(
                    "22023",
                    format!("invalid value for option \"timeout\": \"{v}\""),
                )
            })?);
        }
        Ok(Statement::Fetch {
            cursor,
            count,
            timeout_ms,
        })
    }

    fn prepare(&mut self) -> Result<Statement> {
        self.need("prepare")?;
        if self.peek_is(0, "transaction")
            && matches!(self.p.peek_nth_token(1).token, Token::SingleQuotedString(_))
        {
            return Err(SqlError::unsupported(
                "transactions in two phases are not supported",
            ));
        }
        let name = self.ident()?;
        let mut types = Vec::new();
        if self.token(&Token::LParen) {
            loop {
                let r = self.p.parse_data_type();
                types.push(self.convert(r)?.to_string());
                if !self.token(&Token::Comma) {
                    break;
                }
            }
            self.need_token(&Token::RParen)?;
        }
        self.need("as")?;
        let from = self.p.peek_token().span.start.column as usize;
        let statement = self.statement()?;
        // The statement's own text is the tail of this one's.
        let total = self.text.chars().count();
        let skip = total.saturating_sub((self.end - 1).saturating_sub(from - 1));
        let sql = self.text.chars().skip(skip).collect();
        Ok(Statement::Prepare {
            name,
            types,
            statement: Box::new(Parsed { statement, sql }),
        })
    }

    pub(super) fn execute(&mut self) -> Result<Statement> {
        self.need("execute")?;
        let name = self.ident()?;
        let mut args = Vec::new();
        if self.token(&Token::LParen) && !self.token(&Token::RParen) {
            loop {
                args.push(self.expr()?);
                if !self.token(&Token::Comma) {
                    break;
                }
            }
            self.need_token(&Token::RParen)?;
        }
        Ok(Statement::Execute { name, args })
    }

    pub(super) fn explain(&mut self) -> Result<Statement> {
        self.need("explain")?;
        let mut stage = ExplainStage::Logical;
        if self.p.peek_token().token == Token::LParen
            && !matches!(
                self.peek_word(1).as_deref(),
                Some("select" | "values" | "with")
            )
        {
            for (k, v) in self.option_list()? {
                match k.as_str() {
                    "logical" => stage = ExplainStage::Logical,
                    "dataflow" => stage = ExplainStage::Dataflow,
                    "analyze" if boolean(&v) == Some(true) => {
                        return Err(SqlError::unsupported("EXPLAIN ANALYZE is not supported"));
                    }
                    "format" if !v.eq_ignore_ascii_case("text") => {
                        let message = format!("EXPLAIN (FORMAT {v}) is not supported");
                        return Err(SqlError::unsupported(message).hint("Plans are text."));
                    }
                    "analyze" | "verbose" | "costs" | "format" | "settings" | "buffers"
                    | "timing" | "summary" | "wal" => {}
                    _ => {
                        return Err(SqlError::new(
                            "42601",
                            format!("unrecognized EXPLAIN option \"{k}\""),
                        )
                        .hint("Options are LOGICAL and DATAFLOW."));
                    }
                }
            }
        } else if self.take("analyze") {
            return Err(SqlError::unsupported("EXPLAIN ANALYZE is not supported"));
        } else {
            self.take("verbose");
        }
        let statement = Box::new(self.statement()?);
        Ok(Statement::Explain { stage, statement })
    }

    pub(super) fn show(&mut self) -> Result<Statement> {
        self.need("show")?;
        let lists = [
            ("sources", ObjectKind::Source),
            ("tables", ObjectKind::Table),
            ("views", ObjectKind::View),
            ("materialized views", ObjectKind::MaterializedView),
            ("sinks", ObjectKind::Sink),
            ("schemas", ObjectKind::Schema),
            ("indexes", ObjectKind::Index),
        ];
        for (words, kind) in lists {
            if self.take(words) {
                return Ok(Statement::Show(Show::Objects(kind)));
            }
        }
        if self.take("persistent ids") {
            return Ok(Statement::Show(Show::PersistentIds));
        }
        if self.take("columns from") || self.take("columns in") {
            return Ok(Statement::Show(Show::Columns(self.name()?)));
        }
        if self.take("create") {
            let kind = self.kind()?;
            return Ok(Statement::Show(Show::Create(kind, self.name()?)));
        }
        if self.take("all") {
            return Ok(Statement::Show(Show::All));
        }
        if self.take("time zone") {
            return Ok(Statement::Show(Show::Variable("timezone".into())));
        }
        if self.take("transaction isolation level") {
            return Ok(Statement::Show(Show::Variable(
                "transaction_isolation".into(),
            )));
        }
        Ok(Statement::Show(Show::Variable(self.setting()?)))
    }

    /// A setting's name, lower case, maybe dotted.
    fn setting(&mut self) -> Result<String> {
        let mut name = self.ident()?.to_lowercase();
        while self.token(&Token::Period) {
            name = format!("{name}.{}", self.ident()?.to_lowercase());
        }
        Ok(name)
    }

    pub(super) fn set(&mut self) -> Result<Statement> {
        self.need("set")?;
        if self.take("session characteristics as transaction") {
            let modes = self.transaction_modes()?;
            return Ok(Statement::SetTransaction {
                session: true,
                modes,
            });
        }
        if self.take("constraints") {
            self.rest();
            let verb = "set constraints".into();
            return Ok(Statement::Other { verb });
        }
        let local = self.take("local");
        let authorization = self.take("session authorization");
        if authorization || self.take("role") {
            return self.role(authorization);
        }
        if !local {
            self.take("session");
        }
        if self.take("role") {
            return self.role(false);
        }
        if self.take("transaction") {
            let modes = self.transaction_modes()?;
            return Ok(Statement::SetTransaction {
                session: false,
                modes,
            });
        }
        if self.take("schema") {
            let value = Some(quoted(&self.option_value()?));
            let name = "search_path".into();
            return Ok(Statement::Set { local, name, value });
        }
        let name = if self.take("time zone") {
            "timezone".to_string()
        } else if self.take("names") {
            "client_encoding".to_string()
        } else {
            let name = self.setting()?;
            if !(self.token(&Token::Eq) || self.take("to")) {
                return self.unexpected();
            }
            name
        };
        if self.take("default") {
            return Ok(Statement::Set {
                local,
                name,
                value: None,
            });
        }
        if name == "timezone" && self.take("interval") {
            let offset = self.string()?;
            let _ = self.take("hour to minute") || self.take("hour");
            let value = Some(zone_of(&offset));
            return Ok(Statement::Set { local, name, value });
        }
        let path = name.eq_ignore_ascii_case("search_path");
        let one = |value: String| if path { quoted(&value) } else { value };
        let mut value = one(self.option_value()?);
        while self.token(&Token::Comma) {
            value = format!("{value}, {}", one(self.option_value()?));
        }
        // A unit or a second word, e.g. SET transaction_isolation TO repeatable read.
        while let Some(w) = self.peek_word(0) {
            self.p.next_token();
            value = format!("{value} {w}");
        }
        Ok(Statement::Set {
            local,
            name,
            value: Some(value),
        })
    }

    /// What SET ROLE and SET SESSION AUTHORIZATION name.
    fn role(&mut self, authorization: bool) -> Result<Statement> {
        let none = if authorization { "default" } else { "none" };
        let name = match (self.take(none), &self.p.peek_token().token) {
            (true, _) => None,
            (false, Token::SingleQuotedString(name)) => {
                let name = name.clone();
                self.p.next_token();
                Some(name)
            }
            _ => Some(self.ident()?),
        };
        Ok(Statement::SetRole { reset: false, name })
    }

    pub(super) fn copy(&mut self) -> Result<Statement> {
        self.need("copy")?;
        if self.p.peek_token().token == Token::LParen {
            self.p.next_token();
            let change = ["insert", "update", "delete"];
            let source = if self.peek_is(0, "subscribe") {
                CopySource::Subscribe(Box::new(self.subscribe()?))
            } else if change.into_iter().any(|verb| self.peek_is(0, verb)) {
                CopySource::Change(Box::new(self.copied_change()?))
            } else {
                CopySource::Query(self.query()?)
            };
            self.need_token(&Token::RParen)?;
            self.copy_target("to")?;
            let options = self.copy_options()?;
            return Ok(Statement::CopyTo { source, options });
        }
        let table = self.name()?;
        let columns = self.column_list()?;
        if self.peek_is(0, "to") {
            self.copy_target("to")?;
            let options = self.copy_options()?;
            return Ok(Statement::CopyTo {
                source: CopySource::Relation(table, columns),
                options,
            });
        }
        self.copy_target("from")?;
        let options = self.copy_options()?;
        Ok(Statement::CopyFrom {
            table,
            columns,
            options,
        })
    }

    /// The INSERT, UPDATE or DELETE whose rows COPY gives, up to the parenthesis behind it.
    fn copied_change(&mut self) -> Result<Statement> {
        let (mut tokens, mut depth) = (vec![], 0usize);
        loop {
            match self.p.peek_token().token {
                Token::EOF => return self.unexpected(),
                Token::LParen => depth += 1,
                Token::RParen if depth == 0 => break,
                Token::RParen => depth -= 1,
                _ => {}
            }
            tokens.push(self.p.next_token());
        }
        let end = self.p.peek_token().span.start.column as usize;
        let mut inner = P::new(tokens, end, self.text);
        let statement = inner.change()?;
        inner.end()?;
        let returns = match &statement {
            Statement::Insert(insert) => insert.returning.is_some(),
            Statement::Update(update) => matches!(
                update.as_ref(),
                sqlparser::ast::Statement::Update(update) if update.returning.is_some()
            ),
            Statement::Delete(delete) => delete.returning.is_some(),
            _ => false,
        };
        match returns {
            true => Ok(statement),
            false => Err(SqlError::unsupported(
                "COPY query must have a RETURNING clause",
            )),
        }
    }

    /// PostgreSQL takes either word for either direction, and some clients send the other.
    fn copy_target(&mut self, direction: &str) -> Result<()> {
        self.need(direction)?;
        if matches!(self.p.peek_token().token, Token::SingleQuotedString(_))
            || self.peek_is(0, "program")
        {
            return Err(SqlError::unsupported(
                "COPY to or from a file or program on the server is not supported",
            )
            .hint("Use STDIN or STDOUT; psql's \\copy does it for files."));
        }
        if self.take("stdin") {
            return Ok(());
        }
        self.need("stdout")
    }

    fn copy_options(&mut self) -> Result<CopyOptions> {
        let mut o = CopyOptions::default();
        self.take("with");
        if self.p.peek_token().token == Token::LParen {
            for (k, v) in self.option_list()? {
                copy_option(&mut o, &k, &v)?;
            }
            return check_copy_options(o);
        }
        loop {
            if self.take("csv") {
                o.csv = true;
            } else if self.take("binary") {
                o.binary = true;
            } else if self.take("header") {
                o.header = true;
            } else if self.take("delimiter") || self.take("delimiters") {
                self.take("as");
                let v = self.string()?;
                copy_option(&mut o, "delimiter", &v)?;
            } else if self.take("null") {
                self.take("as");
                o.null = Some(self.string()?);
            } else if let Some(option) = ["encoding", "quote", "escape"]
                .into_iter()
                .find(|option| self.take(option))
            {
                if option != "encoding" {
                    self.take("as");
                }
                let v = self.string()?;
                copy_option(&mut o, option, &v)?;
            } else {
                return check_copy_options(o);
            }
        }
    }
}

/// What the options must be together.
fn check_copy_options(o: CopyOptions) -> Result<CopyOptions> {
    let invalid = |message: String| Err(SqlError::new("22023", message));
    if o.binary && (o.delimiter.is_some() || o.null.is_some()) {
        let option = if o.delimiter.is_some() {
            "DELIMITER"
        } else {
            "NULL"
        };
        let message = format!("cannot specify {option} in BINARY mode");
        return Err(SqlError::new("42601", message));
    }
    let line_end = |b: u8| matches!(b, b'\n' | b'\r');
    let null = o.null.as_deref().unwrap_or_default();
    if null.bytes().any(line_end) {
        return invalid("COPY null representation cannot use newline or carriage return".into());
    }
    if o.csv && null.contains('"') {
        let message = "CSV quote character must not appear in the NULL specification";
        return Err(SqlError::unsupported(message));
    }
    let delimiter = o.delimiter.unwrap_or(if o.csv { b',' } else { b'\t' });
    if line_end(delimiter) {
        return invalid("COPY delimiter cannot be newline or carriage return".into());
    }
    let meaning = matches!(delimiter, b'\\' | b'.' | b'a'..=b'z' | b'0'..=b'9');
    if !o.csv && meaning {
        let delimiter = char::from(delimiter);
        return invalid(format!("COPY delimiter cannot be \"{delimiter}\""));
    }
    if o.csv && delimiter == b'"' {
        return invalid("COPY delimiter and quote must be different".into());
    }
    if null.bytes().any(|b| b == delimiter) {
        let message = "COPY delimiter must not appear in the NULL specification";
        return Err(SqlError::unsupported(message));
    }
    Ok(o)
}

fn copy_option(o: &mut CopyOptions, name: &str, value: &str) -> Result<()> {
    let invalid = || {
        SqlError::new(
            "22023",
            format!("invalid value for COPY option \"{name}\": \"{value}\""),
        )
    };
    match name {
        "format" => match value {
            "text" => {}
            "csv" => o.csv = true,
            "binary" => o.binary = true,
            _ => {
                return Err(SqlError::new(
                    "22023",
                    format!("COPY format \"{value}\" not recognized"),
                ));
            }
        },
        "header" => o.header = boolean(value).ok_or_else(invalid)?,
        "delimiter" => {
            let text = if value == "\\t" { "\t" } else { value };
            match text.as_bytes() {
                [b] => o.delimiter = Some(*b),
                _ => {
                    return Err(SqlError::unsupported(
                        "COPY delimiter must be a single one-byte character",
                    ));
                }
            }
        }
        "null" => o.null = Some(value.to_string()),
        "encoding" if matches!(value.to_lowercase().as_str(), "utf8" | "utf-8" | "unicode") => {}
        "quote" if value == "\"" => {}
        "escape" if value == "\"" => {}
        "freeze" => {}
        "encoding" | "quote" | "escape" => {
            return Err(SqlError::unsupported(format!(
                "COPY option \"{name}\" is not supported with this value"
            )));
        }
        _ => {
            return Err(SqlError::new(
                "42601",
                format!("option \"{name}\" not recognized"),
            ));
        }
    }
    Ok(())
}

/// A name of the search path as it is shown, and read again.
fn quoted(name: &str) -> String {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    match !name.starts_with(|c: char| c.is_ascii_digit()) && name.chars().all(plain) {
        true if !name.is_empty() => name.to_string(),
        _ => format!("\"{name}\""),
    }
}

/// An interval as a zone: `+02:00` is two hours east, which as a zone is a number. Others are left to whoever knows zones.
fn zone_of(offset: &str) -> String {
    let (hours, minutes) = offset.split_once(':').unwrap_or((offset, "0"));
    match (hours.trim().parse::<i8>(), minutes.trim().parse::<i8>()) {
        (Ok(0), Ok(0)) => "UTC".into(),
        (Ok(hours), Ok(0)) => hours.to_string(),
        _ => offset.to_string(),
    }
}
