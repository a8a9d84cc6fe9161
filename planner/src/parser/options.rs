//! `WITH (name = value, …)`.

use sqlparser::tokenizer::Token;

use super::P;
use crate::ast::Options;
use crate::error::{Result, SqlError};

impl P<'_> {
    /// An option's value: a string, a number or words, as text.
    pub(super) fn option_value(&mut self) -> Result<String> {
        let t = self.p.peek_token().token;
        match t {
            Token::SingleQuotedString(_)
            | Token::EscapedStringLiteral(_)
            | Token::DollarQuotedString(_) => self.string(),
            Token::Minus | Token::Plus => {
                self.p.next_token();
                let rest = self.option_value()?;
                Ok(if t == Token::Minus {
                    format!("-{rest}")
                } else {
                    rest
                })
            }
            Token::Number(n, _) => {
                self.p.next_token();
                Ok(n)
            }
            Token::Word(w) => {
                self.p.next_token();
                if w.quote_style.is_none() && w.value.eq_ignore_ascii_case("interval") {
                    return self.string();
                }
                Ok(if w.quote_style.is_some() {
                    w.value
                } else {
                    w.value.to_lowercase()
                })
            }
            _ => self.unexpected(),
        }
    }

    /// `WITH (a = 'x', b.c = 1, d)`, or nothing. The server judges names and values.
    pub(super) fn with_options(&mut self) -> Result<Options> {
        if !(self.peek_is(0, "with") && self.p.peek_nth_token(1).token == Token::LParen) {
            return Ok(Options::new());
        }
        self.p.next_token();
        self.option_list()
    }

    /// `WITH (…)` without what PostgreSQL's dumps say there of how rows lie on disk, and of rights: that has no effect here.
    pub(super) fn own_options(&mut self) -> Result<Options> {
        const PREFIXES: [&str; 2] = ["autovacuum_", "toast"];
        const NAMES: [&str; 10] = [
            "fillfactor",
            "parallel_workers",
            "vacuum_truncate",
            "vacuum_index_cleanup",
            "user_catalog_table",
            "log_autovacuum_min_duration",
            "deduplicate_items",
            "security_barrier",
            "security_invoker",
            "check_option",
        ];
        let mut options = self.with_options()?;
        options.retain(|name, _| {
            let name = name.as_str();
            !(NAMES.contains(&name) || PREFIXES.iter().any(|p| name.starts_with(p)))
        });
        self.take("without oids");
        Ok(options)
    }

    pub(super) fn option_list(&mut self) -> Result<Options> {
        self.need_token(&Token::LParen)?;
        let mut out = Options::new();
        while !self.token(&Token::RParen) {
            let mut key = match self.p.peek_token().token {
                Token::SingleQuotedString(_) => self.string()?,
                _ => self.ident()?,
            };
            while self.token(&Token::Period) {
                key = format!("{key}.{}", self.ident()?);
            }
            let bare = matches!(self.p.peek_token().token, Token::Comma | Token::RParen);
            let value = if bare {
                "true".to_string()
            } else {
                self.token(&Token::Eq);
                self.option_value()?
            };
            if out.insert(key.to_lowercase(), value).is_some() {
                return Err(SqlError::new(
                    "42601",
                    format!("option \"{key}\" given more than once"),
                ));
            }
            if !self.token(&Token::Comma) {
                self.need_token(&Token::RParen)?;
                break;
            }
        }
        Ok(out)
    }
}
