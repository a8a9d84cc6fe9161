//! ALTER.

use sqlparser::tokenizer::Token;

use super::P;
use super::ddl::column;
use crate::ast::{AlterAction, Constraints, NumberingKind, ObjectKind, Statement};
use crate::bind::types::sql_type;
use crate::error::{Result, SqlError};

/// Words of an action that an error names.
const ACTION_WORDS_MAX: usize = 4;

impl P<'_> {
    pub(super) fn alter(&mut self) -> Result<Statement> {
        self.need("alter")?;
        let kind = self.kind()?;
        let if_exists = self.take("if exists");
        if kind == ObjectKind::Table {
            self.take("only");
        }
        let name = self.name()?;
        if kind == ObjectKind::Schema && self.peek_is(0, "rename") {
            let message = "ALTER SCHEMA … RENAME is not supported";
            return Err(SqlError::unsupported(message)
                .hint("Create another schema, and the objects anew in it."));
        }
        if self.take("rename to") {
            let to = self.ident()?;
            return Ok(Statement::Rename {
                kind,
                name,
                if_exists,
                to,
            });
        }
        if self.take("owner to") {
            self.p.next_token();
            let verb = format!("alter {}", kind.words());
            return Ok(Statement::Other { verb });
        }
        if kind == ObjectKind::Sequence {
            let options = self.sequence_options()?;
            if options == Default::default() {
                return self.unexpected();
            }
            return Ok(Statement::AlterSequence {
                name,
                if_exists,
                options,
            });
        }
        let mut actions = vec![];
        if self.peek_is(0, "rename") {
            actions.push(self.rename_column()?);
        } else {
            actions.extend(self.alter_action(kind, &name.name)?);
            while self.token(&Token::Comma) {
                actions.extend(self.alter_action(kind, &name.name)?);
            }
        }
        Ok(Statement::Alter {
            kind,
            name,
            if_exists,
            actions,
        })
    }

    fn rename_column(&mut self) -> Result<AlterAction> {
        self.need("rename")?;
        if self.peek_is(0, "constraint") && !self.peek_is(1, "to") {
            self.take("constraint");
            let from = self.ident()?;
            self.need("to")?;
            let to = self.ident()?;
            return Ok(AlterAction::RenameConstraint { from, to });
        }
        if !self.peek_is(1, "to") {
            self.take("column");
        }
        let from = self.ident()?;
        self.need("to")?;
        let to = self.ident()?;
        Ok(AlterAction::RenameColumn { from, to })
    }

    fn alter_action(&mut self, kind: ObjectKind, table: &str) -> Result<Option<AlterAction>> {
        if self.take("add") {
            return self.add(table).map(Some);
        }
        if self.take("drop") {
            let constraint = self.take("constraint");
            if !constraint {
                self.take("column");
            }
            let if_exists = self.take("if exists");
            let name = self.ident()?;
            let cascade = self.take("cascade");
            self.take("restrict");
            return Ok(Some(match constraint {
                true => AlterAction::DropConstraint {
                    name,
                    if_exists,
                    cascade,
                },
                false => AlterAction::DropColumn {
                    column: name,
                    if_exists,
                    cascade,
                },
            }));
        }
        if kind == ObjectKind::Table && self.is_about_storage()? {
            return Ok(None);
        }
        if !self.peek_is(0, "alter") || kind == ObjectKind::Index {
            return match self.at_end() {
                true => self.unexpected(),
                false => Err(self.unsupported(kind)),
            };
        }
        self.take("alter");
        self.take("column");
        let column = self.ident()?;
        match self.is_about_storage_of_column()? {
            true => Ok(None),
            false => self.alter_column(column).map(Some),
        }
    }

    /// Takes what says nothing but how PostgreSQL stores, finds or replicates a table's rows, as its dumps do.
    fn is_about_storage(&mut self) -> Result<bool> {
        for words in ["set logged", "set unlogged", "set without cluster"] {
            if self.take(words) {
                return Ok(true);
            }
        }
        if self.take("cluster on") {
            return self.ident().map(|_| true);
        }
        if self.take("replica identity") {
            let all = ["full", "default", "nothing"];
            return match all.into_iter().any(|word| self.take(word)) {
                true => Ok(true),
                false => {
                    self.need("using index")?;
                    self.ident().map(|_| true)
                }
            };
        }
        // There are none.
        for what in ["disable trigger", "enable trigger"] {
            for of in ["all", "user"] {
                if self.take(&format!("{what} {of}")) {
                    return Ok(true);
                }
            }
        }
        self.are_storage_parameters()
    }

    fn is_about_storage_of_column(&mut self) -> Result<bool> {
        if self.take("set statistics") {
            return self.signed().map(|_| true);
        }
        if self.take("set storage") || self.take("set compression") {
            return self.ident().map(|_| true);
        }
        self.are_storage_parameters()
    }

    /// `SET (…)` or `RESET (…)`.
    fn are_storage_parameters(&mut self) -> Result<bool> {
        let set = self.peek_is(0, "set") || self.peek_is(0, "reset");
        if !set || self.p.peek_nth_token(1).token != Token::LParen {
            return Ok(false);
        }
        self.p.next_token();
        while !self.token(&Token::RParen) {
            match self.at_end() {
                true => return self.unexpected(),
                false => self.p.next_token(),
            };
        }
        Ok(true)
    }

    fn alter_column(&mut self, column: String) -> Result<AlterAction> {
        if self.take("set default") {
            let default = Some(self.expr()?.to_string());
            return Ok(AlterAction::SetDefault { column, default });
        }
        if self.take("drop default") {
            let default = None;
            return Ok(AlterAction::SetDefault { column, default });
        }
        if self.take("drop identity") {
            let if_exists = self.take("if exists");
            return Ok(AlterAction::DropIdentity { column, if_exists });
        }
        if self.take("add generated") {
            let kind = self.identity_kind()?;
            self.need("as identity")?;
            let mut options = Default::default();
            if self.token(&Token::LParen) {
                options = self.sequence_options()?;
                self.need_token(&Token::RParen)?;
            }
            return Ok(AlterAction::AddIdentity {
                column,
                kind,
                options,
            });
        }
        if self.take("set generated") {
            let kind = self.identity_kind()?;
            return Ok(AlterAction::SetIdentity { column, kind });
        }
        if self.take("restart") {
            self.take("with");
            let with = match self.at_end() || self.peek_token_is(&Token::Comma) {
                true => None,
                false => Some(self.signed()?),
            };
            return Ok(AlterAction::Restart { column, with });
        }
        for (words, nullable) in [("set not null", false), ("drop not null", true)] {
            if self.take(words) {
                return Ok(AlterAction::SetNullable { column, nullable });
            }
        }
        if self.take("set data type") || self.take("type") {
            return self.set_type(column);
        }
        Err(self.unsupported(ObjectKind::Column))
    }

    /// An action that there isn't, by the words that it begins with.
    fn unsupported(&self, kind: ObjectKind) -> SqlError {
        let words = (0..ACTION_WORDS_MAX).map_while(|n| self.peek_word(n));
        let words: Vec<String> = words.map(|word| word.to_uppercase()).collect();
        let (of, action) = (kind.words().to_uppercase(), words.join(" "));
        SqlError::unsupported(format!("ALTER {of} … {action} is not supported")).hint(
            "Supported are RENAME, ADD and DROP of columns and constraints, and ALTER COLUMN with TYPE, DEFAULT and NOT NULL.",
        )
    }

    fn identity_kind(&mut self) -> Result<NumberingKind> {
        if self.take("always") {
            return Ok(NumberingKind::Always);
        }
        self.need("by default")?;
        Ok(NumberingKind::ByDefault)
    }

    fn set_type(&mut self, column: String) -> Result<AlterAction> {
        let r = self.p.parse_data_type();
        let data_type = sql_type(&self.convert(r)?)?;
        if self.take("collate") {
            self.object_name()?;
        }
        let using = match self.take("using") {
            true => Some(self.expr()?.to_string()),
            false => None,
        };
        Ok(AlterAction::SetType {
            column,
            data_type,
            using,
        })
    }

    fn add(&mut self, table: &str) -> Result<AlterAction> {
        let words = [
            "constraint",
            "primary",
            "unique",
            "check",
            "foreign",
            "exclude",
        ];
        let mut constraints = Constraints::default();
        if words.iter().any(|w| self.peek_is(0, w)) {
            let r = self.p.parse_optional_table_constraint();
            match self.repaired(r)? {
                Some(constraint) => constraints.of_table(&constraint)?,
                None => return self.unexpected(),
            }
            if self.take("not valid") {
                return Err(SqlError::unsupported("NOT VALID is not supported")
                    .hint("Rows that are there already are checked."));
            }
            return Ok(AlterAction::AddConstraint(constraints));
        }
        self.take("column");
        let if_not_exists = self.take("if not exists");
        let r = self.p.parse_column_def();
        let declared = self.repaired(r)?;
        let mut column = column(&declared, table, &mut constraints)?;
        if !constraints.primary_key.is_empty() {
            column.nullable = false;
        }
        Ok(AlterAction::AddColumn {
            column,
            constraints,
            if_not_exists,
        })
    }
}
