//! CREATE and ALTER SEQUENCE.

use sqlparser::tokenizer::Token;
use tidemill_zset::schema::SqlType;

use super::{P, numbering};
use crate::ast::{Name, Numbering, NumberingKind, Sequence, SequenceOptions, Statement};
use crate::bind::types::sql_type;
use crate::error::{Result, SqlError};

impl P<'_> {
    pub(super) fn create_sequence(&mut self, if_not_exists: bool) -> Result<Statement> {
        let name = self.name()?;
        let options = self.sequence_options()?;
        if options.restart.is_some() {
            return Err(SqlError::new("42601", "CREATE SEQUENCE takes no RESTART"));
        }
        Ok(Statement::CreateSequence {
            name,
            if_not_exists,
            options,
        })
    }

    /// Options in any order, each of them once, up to the end or a parenthesis.
    pub(super) fn sequence_options(&mut self) -> Result<SequenceOptions> {
        let mut o = SequenceOptions::default();
        while !self.at_end() && !self.peek_token_is(&Token::RParen) {
            let again = if self.take("as") {
                let r = self.p.parse_data_type();
                o.data_type.replace(sql_type(&self.convert(r)?)?).is_some()
            } else if self.take("increment") {
                self.take("by");
                o.increment.replace(self.signed()?).is_some()
            } else if self.take("no minvalue") {
                o.min.replace(None).is_some()
            } else if self.take("no maxvalue") {
                o.max.replace(None).is_some()
            } else if self.take("no cycle") {
                o.cycle.replace(false).is_some()
            } else if self.take("minvalue") {
                o.min.replace(Some(self.signed()?)).is_some()
            } else if self.take("maxvalue") {
                o.max.replace(Some(self.signed()?)).is_some()
            } else if self.take("start") {
                self.take("with");
                o.start.replace(self.signed()?).is_some()
            } else if self.take("restart") {
                let with = self.take("with");
                let with = (with || self.is_number()).then(|| self.signed());
                o.restart.replace(with.transpose()?).is_some()
            } else if self.take("cache") {
                // Numbers are given one by one anyway.
                if self.signed()? < 1 {
                    return Err(SqlError::new("22023", "CACHE must be greater than zero"));
                }
                false
            } else if self.take("cycle") {
                o.cycle.replace(true).is_some()
            } else if self.take("sequence name") {
                // It is called after its column.
                self.name()?;
                false
            } else if self.take("owned by") {
                let owner = self.owner()?;
                o.owned_by.replace(owner).is_some()
            } else {
                return self.unexpected();
            };
            if again {
                return Err(SqlError::new("42601", "conflicting or redundant options"));
            }
        }
        Ok(o)
    }

    /// `table.column` or NONE.
    fn owner(&mut self) -> Result<Option<(Name, String)>> {
        if self.take("none") {
            return Ok(None);
        }
        let mut parts = super::parts(&self.object_name()?);
        let column = parts.pop();
        match (parts.pop(), parts.pop(), column) {
            (Some(name), schema, Some(column)) => Ok(Some((Name { schema, name }, column))),
            _ => Err(SqlError::new("42601", "invalid OWNED BY option")
                .hint("Specify OWNED BY table.column or OWNED BY NONE.")),
        }
    }

    fn is_number(&self) -> bool {
        self.peek_token_is(&Token::Minus)
            || self.peek_token_is(&Token::Plus)
            || matches!(self.p.peek_token().token, Token::Number(..))
    }

    pub(super) fn peek_token_is(&self, token: &Token) -> bool {
        self.p.peek_token().token == *token
    }

    /// An integer with or without a sign.
    pub(super) fn signed(&mut self) -> Result<i64> {
        let minus = self.token(&Token::Minus);
        if !minus {
            self.token(&Token::Plus);
        }
        let Token::Number(digits, _) = self.p.peek_token().token else {
            return self.unexpected();
        };
        let text = if minus { format!("-{digits}") } else { digits };
        let Ok(number) = text.parse() else {
            return self.unexpected();
        };
        self.p.next_token();
        Ok(number)
    }
}

impl Numbering {
    /// That of an IDENTITY column. Errors: other types than integers, bounds that don't fit (22023).
    pub fn of_identity(
        data_type: &SqlType,
        kind: NumberingKind,
        options: &SequenceOptions,
    ) -> Result<Numbering> {
        if numbering::range(data_type).is_none() {
            return Err(numbering::not_a_number());
        }
        if options.cycle == Some(true) {
            return Err(numbering::no_cycle());
        }
        numbering::declared(data_type, kind, options)
    }

    /// The same of a column whose type changes: bounds that were the type's are the new one's. Errors: others don't fit (22023).
    pub fn retyped(&self, from: &SqlType, to: &SqlType) -> Result<Numbering> {
        let (Some(old), Some(new)) = (numbering::range(from), numbering::range(to)) else {
            return Err(numbering::not_a_number());
        };
        let bound = |bound, of_old, of_new| if bound == of_old { of_new } else { bound };
        let (min, max) = match self.kind {
            // A sequence of its own, which stays as it is but gives no number that the column can't hold.
            NumberingKind::Serial => (self.min.max(new.0), self.max.min(new.1)),
            _ => (bound(self.min, old.0, new.0), bound(self.max, old.1, new.1)),
        };
        let options = SequenceOptions {
            start: Some(self.start),
            increment: Some(self.increment),
            min: Some(Some(min)),
            max: Some(Some(max)),
            cycle: Some(self.cycle),
            ..SequenceOptions::default()
        };
        numbering::declared(to, self.kind, &options)
    }
}

impl Sequence {
    /// What CREATE SEQUENCE declares.
    pub fn declared(options: &SequenceOptions) -> Result<Sequence> {
        let data_type = options.data_type.clone().unwrap_or(SqlType::Int8);
        let numbering = numbering::declared(&data_type, NumberingKind::Sequence, options)?;
        Ok(Sequence {
            data_type,
            numbering,
        })
    }

    /// What ALTER SEQUENCE makes of it. Bounds that are those of the old type become those of the new one.
    pub fn altered(&self, options: &SequenceOptions) -> Result<Sequence> {
        let old = &self.numbering;
        let mut all = options.clone();
        let data_type = all.data_type.get_or_insert(self.data_type.clone()).clone();
        all.increment.get_or_insert(old.increment);
        let type_bounds = numbering::range(&self.data_type);
        let keeps = |bound: i64, of_type: Option<i64>| {
            (data_type == self.data_type || Some(bound) != of_type).then_some(bound)
        };
        all.min
            .get_or_insert(keeps(old.min, type_bounds.map(|b| b.0)));
        all.max
            .get_or_insert(keeps(old.max, type_bounds.map(|b| b.1)));
        all.start.get_or_insert(old.start);
        all.cycle.get_or_insert(old.cycle);
        let numbering = numbering::declared(&data_type, NumberingKind::Sequence, &all)?;
        Ok(Sequence {
            data_type,
            numbering,
        })
    }

    /// Where RESTART begins; fails outside of the bounds.
    pub fn restart(&self, with: Option<i64>) -> Result<i64> {
        let n = &self.numbering;
        let first = with.unwrap_or(n.start);
        numbering::within("RESTART value", first, (n.min, n.max))?;
        Ok(first)
    }

    /// The CREATE SEQUENCE of that name, which says everything.
    pub fn sql(&self, name: &str) -> String {
        let n = &self.numbering;
        let cycle = if n.cycle { " CYCLE" } else { "" };
        format!(
            "CREATE SEQUENCE {name} AS {} START WITH {} INCREMENT BY {} MINVALUE {} MAXVALUE {}{cycle}",
            self.data_type, n.start, n.increment, n.min, n.max
        )
    }
}
