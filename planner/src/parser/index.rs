//! CREATE INDEX.

use sqlparser::tokenizer::Token;

use super::P;
use crate::ast::{Nulls, Statement};
use crate::error::{Result, SqlError};

impl P<'_> {
    /// After CREATE [UNIQUE] INDEX [IF NOT EXISTS].
    pub(super) fn create_index(&mut self, unique: bool, if_not_exists: bool) -> Result<Statement> {
        self.take("concurrently");
        let if_not_exists = if_not_exists || self.take("if not exists");
        let name = match self.peek_is(0, "on") {
            true if if_not_exists => {
                return Err(SqlError::new(
                    "42601",
                    "IF NOT EXISTS requires that you name the index",
                ));
            }
            true => None,
            false => Some(self.ident()?),
        };
        self.need("on")?;
        self.take("only");
        let on = self.name()?;
        if self.take("using") {
            let method = self.ident()?;
            if !matches!(method.as_str(), "btree" | "hash") {
                return Err(SqlError::unsupported(format!(
                    "access method \"{method}\" is not supported"
                ))
                .hint("There is one kind of index: USING btree, which is the default."));
            }
        }
        let (mut columns, mut classes) = (Vec::new(), Vec::new());
        self.need_token(&Token::LParen)?;
        loop {
            let (column, class) = self.index_column()?;
            classes.extend(class.map(|class| (column.clone(), class)));
            columns.push(column);
            if !self.token(&Token::Comma) {
                break;
            }
        }
        self.need_token(&Token::RParen)?;
        // An index holds all columns as it is.
        if self.take("include") {
            self.column_list()?;
        }
        let nulls = if self.take("nulls not distinct") {
            Nulls::NotDistinct
        } else {
            self.take("nulls distinct");
            Nulls::Distinct
        };
        if self.peek_is(0, "where") {
            return Err(SqlError::unsupported("partial indexes are not supported")
                .hint("Create a materialized view with that condition and an index on it."));
        }
        let unknown = !self.own_options()?.is_empty();
        if unknown || self.peek_is(0, "with") || self.peek_is(0, "tablespace") {
            return Err(SqlError::unsupported(
                "storage options of indexes are not supported",
            ));
        }
        Ok(Statement::CreateIndex {
            name,
            if_not_exists,
            on,
            columns,
            classes,
            unique: unique.then_some(nulls),
        })
    }

    /// A column's name and operator class; the direction says nothing here, as an index is read both ways.
    fn index_column(&mut self) -> Result<(String, Option<String>)> {
        let expression = || {
            SqlError::unsupported("indexes on expressions are not supported")
                .hint("Create a materialized view that has the expression as a column, and an index on that.")
        };
        if self.token(&Token::LParen) {
            return Err(expression());
        }
        let column = self.ident()?;
        if self.token(&Token::LParen) {
            return Err(expression());
        }
        // Text has one order, as everywhere.
        if self.take("collate") {
            self.name()?;
        }
        let more = ["asc", "desc", "nulls"];
        let class = match self.p.peek_token().token {
            Token::Word(_) if !more.iter().any(|w| self.peek_is(0, w)) => Some(self.name()?.name),
            _ => None,
        };
        let _ = self.take("asc") || self.take("desc");
        let _ = self.take("nulls first") || self.take("nulls last");
        Ok((column, class))
    }
}
