//! CREATE, DROP, ALTER and COMMENT.

use sqlparser::ast::{self as sql, ColumnOption, TableConstraint};
use sqlparser::tokenizer::Token;

use super::spelling::NULLS_NOT_DISTINCT;
use super::{P, elsewhere, fold, numbering};
use crate::ast::{
    Check, ColumnDef, ColumnDefault, Constraints, Including, Name, Nulls, NumberingKind,
    ObjectKind, Statement, TableItem, Unique,
};
use crate::bind::types::sql_type;
use crate::error::{Result, SqlError};

/// The schema of temporary objects, as each session calls its own.
pub(super) const TEMPORARY: &str = "pg_temp";

/// Extensions that what was written for PostgreSQL asks for: of their functions those that make UUIDs are there.
const THERE: [&str; 4] = ["plpgsql", "pgcrypto", "uuid-ossp", "tidemill"];

impl P<'_> {
    pub(super) fn create(&mut self) -> Result<Statement> {
        self.need("create")?;
        let or_replace = self.take("or replace");
        let _ = (self.peek_is(1, "temp") || self.peek_is(1, "temporary"))
            && (self.take("local") || self.take("global"));
        if self.take("temp") || self.take("temporary") {
            return self.create_temporary(or_replace);
        }
        // Every table is durable.
        if self.peek_is(0, "unlogged") && self.peek_is(1, "table") {
            self.take("unlogged");
        }
        if self.peek_is(0, "extension") {
            return self.create_extension();
        }
        if self.peek_is(0, "foreign") && self.peek_is(1, "table") {
            return self.create_foreign_table();
        }
        if self.peek_is(0, "recursive") && self.peek_is(1, "view") {
            self.take("recursive");
            let kind = self.kind()?;
            let view = self.create_view(kind, or_replace, false)?;
            return recursive(view);
        }
        let unique = self.peek_is(0, "unique");
        let kind = self.kind()?;
        if or_replace && kind != ObjectKind::View {
            return Err(
                SqlError::unsupported("OR REPLACE is only supported for views")
                    .hint("Drop the object first."),
            );
        }
        let if_not_exists = self.take("if not exists");
        match kind {
            ObjectKind::Source | ObjectKind::Table => self.create_relation(kind, if_not_exists),
            ObjectKind::View | ObjectKind::MaterializedView => {
                self.create_view(kind, or_replace, if_not_exists)
            }
            ObjectKind::Sink => {
                let name = self.name()?;
                self.refuse_elsewhere(&elsewhere::OF_SINK)?;
                self.need("from")?;
                let from = self.name()?;
                let options = self.with_options()?;
                Ok(Statement::CreateSink {
                    name,
                    if_not_exists,
                    from,
                    options,
                })
            }
            ObjectKind::Schema => {
                let name = self.ident()?;
                if self.take("authorization") {
                    self.ident()?;
                }
                Ok(Statement::CreateSchema {
                    name,
                    if_not_exists,
                })
            }
            ObjectKind::Index => self.create_index(unique, if_not_exists),
            ObjectKind::Sequence => self.create_sequence(if_not_exists),
            ObjectKind::Column => self.unexpected(),
        }
    }

    /// A temporary table or view: one in the schema of the session's own.
    fn create_temporary(&mut self, or_replace: bool) -> Result<Statement> {
        let kind = self.kind()?;
        let if_not_exists = self.take("if not exists");
        let mut statement = match kind {
            ObjectKind::Table if !or_replace => self.create_relation(kind, if_not_exists)?,
            ObjectKind::View => self.create_view(kind, or_replace, if_not_exists)?,
            ObjectKind::Sequence if !or_replace => self.create_sequence(if_not_exists)?,
            _ => return self.unexpected(),
        };
        let (Statement::CreateTable { name, .. }
        | Statement::CreateSequence { name, .. }
        | Statement::CreateTableAs { name, .. }
        | Statement::CreateTableAsExecute { name, .. }
        | Statement::CreateTableLike { name, .. }
        | Statement::CreateView { name, .. }) = &mut statement
        else {
            return Err(SqlError::internal("not a table or view"));
        };
        match name.schema.as_deref() {
            None | Some(TEMPORARY) => name.schema = Some(TEMPORARY.into()),
            Some(_) => {
                return Err(SqlError::new(
                    "42P16",
                    "cannot create temporary relation in non-temporary schema",
                ));
            }
        }
        Ok(statement)
    }

    /// ON COMMIT PRESERVE ROWS, which is how it is anyway.
    fn on_commit(&mut self) -> Result<()> {
        if self.take("on commit") && !self.take("preserve rows") {
            return Err(
                SqlError::unsupported("ON COMMIT DROP and DELETE ROWS are not supported")
                    .hint("A temporary table and its rows last as long as the session."),
            );
        }
        Ok(())
    }

    /// What PostgreSQL knows to say of how a table is stored.
    fn check_no_storage_clause(&mut self) -> Result<()> {
        const CLAUSES: [&str; 4] = ["partition by", "inherits", "tablespace", "using"];
        match CLAUSES.iter().find(|clause| self.take(clause)) {
            Some(clause) => {
                let clause = clause.to_uppercase();
                Err(
                    SqlError::unsupported(format!("CREATE TABLE … {clause} is not supported"))
                        .hint("Leave it out: all tables are stored in the same way."),
                )
            }
            None => Ok(()),
        }
    }

    /// CREATE FOREIGN TABLE, as pg_dump writes a source: the server is its connector.
    fn create_foreign_table(&mut self) -> Result<Statement> {
        self.need("foreign table")?;
        let if_not_exists = self.take("if not exists");
        let mut source = self.create_relation(ObjectKind::Source, if_not_exists)?;
        self.need("server")?;
        let connector = self.ident()?;
        if let Statement::CreateSource { options, .. } = &mut source {
            options.insert("connector".into(), connector);
            if self.take("options") {
                self.need_token(&Token::LParen)?;
                loop {
                    let name = self.ident()?;
                    options.insert(name, self.string()?);
                    if !self.token(&Token::Comma) {
                        break;
                    }
                }
                self.need_token(&Token::RParen)?;
            }
        }
        Ok(source)
    }

    /// CREATE EXTENSION of one whose functions are there, or that has none for SQL.
    fn create_extension(&mut self) -> Result<Statement> {
        self.need("extension")?;
        self.take("if not exists");
        let name = self.ident()?;
        if !THERE.contains(&name.as_str()) {
            let message = format!("extension \"{name}\" is not supported");
            return Err(SqlError::unsupported(message));
        }
        self.take("with");
        if self.take("schema") {
            self.ident()?;
        }
        if self.take("version") {
            self.p.next_token();
        }
        self.take("cascade");
        Ok(Statement::Other {
            verb: "create extension".into(),
        })
    }

    /// SOURCE, TABLE, VIEW, MATERIALIZED VIEW, …
    pub(super) fn kind(&mut self) -> Result<ObjectKind> {
        let kinds = [
            ("materialized view", ObjectKind::MaterializedView),
            ("source", ObjectKind::Source),
            ("foreign table", ObjectKind::Source),
            ("table", ObjectKind::Table),
            ("view", ObjectKind::View),
            ("sink", ObjectKind::Sink),
            ("schema", ObjectKind::Schema),
            ("unique index", ObjectKind::Index),
            ("index", ObjectKind::Index),
            ("sequence", ObjectKind::Sequence),
            ("column", ObjectKind::Column),
        ];
        for (words, kind) in kinds {
            if self.take(words) {
                return Ok(kind);
            }
        }
        match self.peek_word(0) {
            Some(w)
                if matches!(
                    w.as_str(),
                    "function"
                        | "type"
                        | "role"
                        | "user"
                        | "database"
                        | "extension"
                        | "trigger"
                        | "policy"
                        | "domain"
                        | "procedure"
                        | "aggregate"
                        | "operator"
                        | "connection"
                        | "secret"
                        | "server"
                        | "foreign"
                        | "publication"
                        | "language"
                        | "rule"
                        | "cast"
                        | "collation"
                        | "tablespace"
                        | "statistics"
                        | "recursive"
                        | "subscription"
                        | "unlogged"
                ) =>
            {
                let e = SqlError::unsupported(format!("{} is not supported", w.to_uppercase()));
                Err(match w.as_str() {
                    "role" | "user" | "policy" => {
                        e.hint("Every user may read and write everything.")
                    }
                    "type" | "domain" => e.hint(
                        "Declare columns with the type that is meant, and a CHECK for its values.",
                    ),
                    "publication" | "subscription" => {
                        e.hint("SUBSCRIBE and CREATE SINK tell of changes.")
                    }
                    "trigger" | "rule" => {
                        e.hint("A materialized view follows what its tables become.")
                    }
                    "database" => {
                        e.hint("A data directory is one database; CREATE SCHEMA divides it.")
                    }
                    _ => e,
                })
            }
            _ => self.unexpected(),
        }
    }

    fn create_relation(&mut self, kind: ObjectKind, if_not_exists: bool) -> Result<Statement> {
        let name = self.name()?;
        if kind == ObjectKind::Table && self.is_table_as() {
            let columns = self.column_list()?;
            self.on_commit()?;
            self.need("as")?;
            if self.peek_is(0, "execute") {
                let Statement::Execute {
                    name: prepared,
                    args,
                } = self.execute()?
                else {
                    return self.unexpected();
                };
                let with_data = !self.take("with no data");
                self.take("with data");
                return Ok(Statement::CreateTableAsExecute {
                    name,
                    if_not_exists,
                    columns,
                    prepared,
                    args,
                    with_data,
                });
            }
            let query = self.query()?;
            let with_data = !self.take("with no data");
            self.take("with data");
            return Ok(Statement::CreateTableAs {
                name,
                if_not_exists,
                columns,
                query,
                with_data,
            });
        }
        if kind == ObjectKind::Table
            && let Some(items) = self.like_tables()?
        {
            return Ok(Statement::CreateTableLike {
                name,
                if_not_exists,
                items,
            });
        }
        let (mut columns, mut constraints) = (Vec::new(), Constraints::default());
        if self.p.peek_token().token == Token::LParen {
            self.refuse_auto_increment()?;
            let r = self.p.parse_columns();
            let (mut cols, mut of_table) = self.convert(r)?;
            self.repair(&mut cols);
            self.repair(&mut of_table);
            columns = cols
                .iter()
                .map(|c| column(c, &name.name, &mut constraints))
                .collect::<Result<Vec<_>>>()?;
            for c in &of_table {
                constraints.of_table(c)?;
            }
        }
        let Constraints {
            primary_key,
            primary_key_name,
            uniques,
            checks,
        } = constraints;
        let of_source = match kind {
            ObjectKind::Source => &elsewhere::OF_SOURCE[..],
            _ => &[],
        };
        self.refuse_elsewhere(of_source)?;
        self.check_no_storage_clause()?;
        let options = self.own_options()?;
        self.on_commit()?;
        self.check_no_storage_clause()?;
        self.refuse_elsewhere(of_source)?;
        for (i, c) in columns.iter().enumerate() {
            if columns[..i].iter().any(|o| o.name == c.name) {
                return Err(SqlError::new(
                    "42701",
                    format!("column \"{}\" specified more than once", c.name),
                ));
            }
        }
        for k in &primary_key {
            let c = columns.iter_mut().find(|c| c.name == *k).ok_or_else(|| {
                SqlError::new(
                    "42703",
                    format!("column \"{k}\" named in key does not exist"),
                )
            })?;
            c.nullable = false;
        }
        if kind == ObjectKind::Table {
            return Ok(Statement::CreateTable {
                name,
                if_not_exists,
                columns,
                primary_key,
                primary_key_name,
                uniques,
                checks,
                options,
            });
        }
        if !primary_key.is_empty() {
            return Err(SqlError::unsupported(
                "PRIMARY KEY is not supported for sources",
            ));
        }
        if !checks.is_empty() {
            return Err(SqlError::unsupported("CHECK is not supported for sources"));
        }
        if !uniques.is_empty() {
            return Err(SqlError::unsupported("UNIQUE is not supported for sources"));
        }
        Ok(Statement::CreateSource {
            name,
            if_not_exists,
            columns,
            options,
        })
    }

    /// `(LIKE t INCLUDING …, …)`: all items, if one of them is LIKE.
    fn like_tables(&mut self) -> Result<Option<Vec<TableItem>>> {
        if self.p.peek_token().token != Token::LParen || !self.has_like() {
            return Ok(None);
        }
        self.p.next_token();
        let mut items = vec![];
        loop {
            items.push(if self.take("like") {
                self.like_table()?
            } else {
                let constraint = self.p.parse_optional_table_constraint();
                match self.repaired(constraint)? {
                    Some(constraint) => TableItem::Written(constraint.to_string()),
                    None => {
                        let column = self.p.parse_column_def();
                        TableItem::Written(self.repaired(column)?.to_string())
                    }
                }
            });
            if self.p.peek_token().token != Token::Comma {
                break;
            }
            self.p.next_token();
        }
        self.need_token(&Token::RParen)?;
        Ok(Some(items))
    }

    /// Whether an item of the list that comes begins with LIKE.
    fn has_like(&mut self) -> bool {
        let mut depth = 0;
        for n in 0.. {
            match self.p.peek_nth_token(n).token {
                Token::LParen => depth += 1,
                Token::RParen => depth -= 1,
                Token::Comma => {}
                Token::EOF => return false,
                _ => continue,
            }
            if depth == 0 {
                return false;
            }
            if depth == 1 && self.peek_is(n + 1, "like") {
                return true;
            }
        }
        false
    }

    /// `t INCLUDING …` after LIKE.
    fn like_table(&mut self) -> Result<TableItem> {
        let of = self.name()?;
        let mut including = Including::default();
        loop {
            let wanted = match (self.take("including"), self.take("excluding")) {
                (true, _) => true,
                (_, true) => false,
                _ => break,
            };
            match self.ident()?.as_str() {
                "all" => including = Including::all(wanted),
                "defaults" => including.defaults = wanted,
                "constraints" => including.constraints = wanted,
                "indexes" => including.indexes = wanted,
                "identity" => including.identity = wanted,
                // There is nothing of the kind to take over.
                "comments" | "compression" | "generated" | "statistics" | "storage" => {}
                _ => return self.unexpected(),
            }
        }
        Ok(TableItem::Like(of, including))
    }

    /// The parser reads MySQL's AUTO_INCREMENT and forgets it.
    fn refuse_auto_increment(&mut self) -> Result<()> {
        let (mut depth, mut before) = (0, Token::LParen);
        for n in 0.. {
            let token = self.p.peek_nth_token(n).token;
            match &token {
                Token::LParen => depth += 1,
                Token::RParen => depth -= 1,
                Token::Word(w) if w.quote_style.is_none() => {
                    let word = w.value.to_lowercase();
                    let named = matches!(before, Token::LParen | Token::Comma);
                    if !named && matches!(word.as_str(), "auto_increment" | "autoincrement") {
                        let message = format!("syntax error at or near \"{}\"", w.value);
                        let hint = "Write GENERATED BY DEFAULT AS IDENTITY.";
                        return Err(SqlError::new("42601", message).hint(hint));
                    }
                }
                _ => {}
            }
            if depth == 0 || token == Token::EOF {
                break;
            }
            before = token;
        }
        Ok(())
    }

    /// True before `AS` and before `(a, b) AS`, names alone.
    fn is_table_as(&self) -> bool {
        if self.p.peek_token().token != Token::LParen {
            return self.peek_is(0, "as") || self.peek_is(0, "on");
        }
        matches!(self.p.peek_nth_token(2).token, Token::Comma | Token::RParen)
    }

    fn create_view(
        &mut self,
        kind: ObjectKind,
        or_replace: bool,
        if_not_exists: bool,
    ) -> Result<Statement> {
        let name = self.name()?;
        let columns = self.column_list()?;
        self.refuse_elsewhere(&elsewhere::OF_VIEW)?;
        let options = self.own_options()?;
        self.need("as")?;
        let query = self.query()?;
        if kind == ObjectKind::View {
            if let Some(k) = options.keys().next() {
                return Err(SqlError::new(
                    "22023",
                    format!("unrecognized parameter \"{k}\""),
                ));
            }
            return Ok(Statement::CreateView {
                name,
                or_replace,
                if_not_exists,
                columns,
                query,
            });
        }
        // It has its data from the beginning, as after REFRESH: dumps have both.
        let _ = self.take("with no data") || self.take("with data");
        Ok(Statement::CreateMaterializedView {
            name,
            if_not_exists,
            columns,
            query,
            options,
        })
    }

    pub(super) fn drop(&mut self) -> Result<Statement> {
        self.need("drop")?;
        let kind = self.kind()?;
        // Nobody waits for it anyway.
        let _ = kind == ObjectKind::Index && self.take("concurrently");
        let if_exists = self.take("if exists");
        let names = self.names()?;
        let (mut cascade, mut purge) = (false, false);
        loop {
            if self.take("cascade") {
                cascade = true;
            } else if self.take("purge") {
                purge = true;
            } else if !self.take("restrict") {
                break;
            }
        }
        if purge && kind != ObjectKind::Source {
            return Err(SqlError::new("42601", "PURGE is for sources only"));
        }
        Ok(Statement::Drop {
            kind,
            names,
            if_exists,
            cascade,
            purge,
        })
    }

    pub(super) fn comment(&mut self) -> Result<Statement> {
        self.need("comment on")?;
        let kind = self.kind()?;
        let object = self.object_name()?;
        let (name, column) = if kind == ObjectKind::Column {
            let mut p = super::parts(&object);
            let column = p.pop();
            match (p.pop(), p.pop()) {
                (Some(name), schema) => (Name { schema, name }, column),
                _ => return Err(SqlError::new("42601", "column name must be qualified")),
            }
        } else {
            (super::relation_name(&object)?, None)
        };
        self.need("is")?;
        let comment = if self.take("null") {
            None
        } else {
            Some(self.string()?)
        };
        Ok(Statement::Comment {
            kind,
            name,
            column,
            comment,
        })
    }
}

pub(super) fn column(
    c: &sql::ColumnDef,
    table: &str,
    constraints: &mut Constraints,
) -> Result<ColumnDef> {
    let name = fold(&c.name);
    let serial = numbering::serial(&c.data_type);
    let data_type = match &serial {
        Some(data_type) => data_type.clone(),
        None => sql_type(&c.data_type).map_err(|mut e| {
            e.position = e.position.or(super::position(c.name.span));
            e
        })?,
    };
    let mut out = ColumnDef {
        nullable: serial.is_none(),
        default: match serial {
            Some(_) => Some(numbering::of(&data_type, NumberingKind::Serial, &[])?),
            None => None,
        },
        data_type,
        name,
    };
    for o in &c.options {
        match &o.option {
            ColumnOption::Null => out.nullable = true,
            ColumnOption::NotNull => out.nullable = false,
            ColumnOption::Check(c) => constraints.checks.push(check(c, o.name.as_ref())),
            ColumnOption::Default(e) => {
                numbering::check_alone(&out, table, false)?;
                out.default = Some(ColumnDefault::Expression(e.to_string()));
            }
            ColumnOption::Generated {
                generated_as,
                sequence_options,
                generation_expr: None,
                ..
            } => {
                let kind = match generated_as {
                    sql::GeneratedAs::ByDefault => NumberingKind::ByDefault,
                    _ => NumberingKind::Always,
                };
                numbering::check_alone(&out, table, true)?;
                let options = sequence_options.as_deref().unwrap_or(&[]);
                let numbering = numbering::of(&out.data_type, kind, options)?;
                (out.default, out.nullable) = (Some(numbering), false);
            }
            ColumnOption::PrimaryKey(key) => {
                check_timing(key.characteristics.as_ref())?;
                constraints.set_primary_key(vec![out.name.clone()], o.name.as_ref())?;
            }
            ColumnOption::Unique(unique) => {
                check_timing(unique.characteristics.as_ref())?;
                let name = o.name.as_ref().map(fold);
                let marked = name
                    .as_deref()
                    .and_then(|n| n.strip_prefix(NULLS_NOT_DISTINCT));
                let (name, nulls) = match marked {
                    Some(name) => (
                        (!name.is_empty()).then(|| name.to_string()),
                        Nulls::NotDistinct,
                    ),
                    None => (name, nulls_of(unique)),
                };
                constraints.uniques.push(Unique {
                    name,
                    columns: vec![out.name.clone()],
                    nulls,
                });
            }
            ColumnOption::Collation(_) => {}
            other => return Err(refused(&other.to_string())),
        }
    }
    Ok(out)
}

/// A CHECK, and the columns in it. `name`: what stands before it, where it belongs to a column.
fn check(c: &sql::CheckConstraint, name: Option<&sql::Ident>) -> Check {
    let mut columns: Vec<String> = Vec::new();
    crate::walk::any_expr(c.expr.as_ref(), |e| {
        let column = match e {
            sql::Expr::Identifier(i) => Some(fold(i)),
            sql::Expr::CompoundIdentifier(parts) => parts.last().map(fold),
            _ => None,
        };
        columns.extend(column.filter(|c| !columns.contains(c)));
        false
    });
    Check {
        name: c.name.as_ref().or(name).map(fold),
        condition: crate::bind::expr::strip(&c.expr).to_string(),
        columns,
    }
}

impl Constraints {
    fn set_primary_key(&mut self, columns: Vec<String>, name: Option<&sql::Ident>) -> Result<()> {
        if !self.primary_key.is_empty() {
            return Err(SqlError::new(
                "42P16",
                "multiple primary keys for table are not allowed",
            ));
        }
        self.primary_key = columns;
        self.primary_key_name = name.map(fold);
        Ok(())
    }

    /// Adds one that stands beside the columns.
    pub(super) fn of_table(&mut self, c: &TableConstraint) -> Result<()> {
        match c {
            TableConstraint::PrimaryKey(key) => {
                check_timing(key.characteristics.as_ref())?;
                self.set_primary_key(constrained(&key.columns)?, key.name.as_ref())
            }
            TableConstraint::Unique(unique) => {
                check_timing(unique.characteristics.as_ref())?;
                self.uniques.push(Unique {
                    name: unique.name.as_ref().map(fold),
                    columns: constrained(&unique.columns)?,
                    nulls: nulls_of(unique),
                });
                Ok(())
            }
            TableConstraint::Check(c) => {
                self.checks.push(check(c, None));
                Ok(())
            }
            other => Err(refused(&other.to_string())),
        }
    }
}

/// The columns of a PRIMARY KEY or UNIQUE.
fn constrained(columns: &[sql::IndexColumn]) -> Result<Vec<String>> {
    let name = |k: &sql::IndexColumn| match &k.column.expr {
        sql::Expr::Identifier(i) => Ok(fold(i)),
        e => Err(SqlError::new(
            "42601",
            format!("syntax error at or near \"{e}\""),
        )),
    };
    columns.iter().map(name).collect()
}

fn nulls_of(unique: &sql::UniqueConstraint) -> Nulls {
    match unique.nulls_distinct {
        sql::NullsDistinctOption::NotDistinct => Nulls::NotDistinct,
        _ => Nulls::Distinct,
    }
}

/// Keys are checked at the end of each statement, as those of PostgreSQL that are DEFERRABLE INITIALLY IMMEDIATE.
fn check_timing(given: Option<&sql::ConstraintCharacteristics>) -> Result<()> {
    match given.and_then(|g| g.initially.as_ref()) {
        Some(sql::DeferrableInitial::Deferred) => {
            Err(SqlError::unsupported("INITIALLY DEFERRED is not supported")
                .hint("Constraints are checked at the end of each statement."))
        }
        _ => Ok(()),
    }
}

fn refused(what: &str) -> SqlError {
    SqlError::unsupported(format!(
        "column or table constraint is not supported: {what}"
    ))
    .hint("Supported are NOT NULL, DEFAULT, CHECK, PRIMARY KEY and UNIQUE.")
}

/// CREATE RECURSIVE VIEW: the view of a query that names itself.
fn recursive(view: Statement) -> Result<Statement> {
    let Statement::CreateView {
        name,
        or_replace,
        if_not_exists,
        columns,
        query,
    } = view
    else {
        return Err(SqlError::internal("a view"));
    };
    if columns.is_empty() {
        return Err(SqlError::new("42601", "syntax error at or near \"AS\"")
            .hint("CREATE RECURSIVE VIEW needs a list of columns."));
    }
    let quoted = |name: &String| crate::functions::strings::quote_ident(name);
    let list: Vec<String> = columns.iter().map(quoted).collect();
    let (list, itself) = (list.join(", "), quoted(&name.name));
    let text = format!("WITH RECURSIVE {itself} ({list}) AS ({query}) SELECT {list} FROM {itself}");
    Ok(Statement::CreateView {
        name,
        or_replace,
        if_not_exists,
        columns,
        query: super::parse_query(&text)?,
    })
}
