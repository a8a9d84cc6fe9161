//! BEGIN, COMMIT, ROLLBACK, savepoints, SET and RESET.

use tidemill_planner::SqlError;
use tidemill_planner::ast::{Name, TransactionModes};
use tidemill_planner::catalog::{CatalogView, RelationKind};

use super::sql::SqlSession;
use super::transaction::{Savepoint, Transaction};
use super::{Notice, Response};

impl SqlSession {
    pub(super) fn warn(&mut self, sqlstate: &'static str, message: &str) {
        self.notify(Notice {
            severity: "WARNING",
            sqlstate,
            message: message.into(),
            hint: None,
        });
    }

    /// Says what a transaction leaves that doesn't commit.
    pub(super) fn warn_of_ddl(&mut self, tags: &[String]) {
        if !tags.is_empty() {
            self.notify(Notice {
                severity: "WARNING",
                sqlstate: "01000",
                message: format!("not undone by ROLLBACK: {}", tags.join(", ")),
                hint: Some("DDL takes effect at once. DROP what is not wanted.".into()),
            });
        }
    }

    pub(super) fn begin(
        &mut self,
        start: bool,
        modes: &TransactionModes,
    ) -> Result<Response, SqlError> {
        let began = self.statement_began;
        match &mut self.transaction {
            Some(transaction) if transaction.explicit => {
                self.warn("25001", "there is already a transaction in progress");
            }
            other => {
                match other {
                    Some(transaction) => transaction.explicit = true,
                    None => *other = Some(Transaction::new(true, began)),
                }
                self.settings.begin();
            }
        }
        self.set_modes("transaction", modes, true)?;
        let tag = if start { "START TRANSACTION" } else { "BEGIN" };
        Ok(Response::Tag(tag.into()))
    }

    /// SET ROLE, SET SESSION AUTHORIZATION. Whoever is connected may do everything, and there is no other role.
    pub(super) fn set_role(
        &mut self,
        reset: bool,
        name: Option<&str>,
    ) -> Result<Response, SqlError> {
        match name.filter(|name| *name != self.user) {
            None => Ok(Response::Tag(if reset { "RESET" } else { "SET" }.into())),
            Some(other) => {
                let message = format!("role \"{other}\" does not exist");
                Err(SqlError::new("22023", message))
            }
        }
    }

    /// COMMIT and ROLLBACK. `chain`: then another one begins with its modes.
    pub(super) async fn end(&mut self, commit: bool, chain: bool) -> Result<Response, SqlError> {
        let explicit = self.transaction.as_ref().is_some_and(|t| t.explicit);
        if chain && !explicit {
            let verb = if commit { "COMMIT" } else { "ROLLBACK" };
            let message = format!("{verb} AND CHAIN can only be used in transaction blocks");
            return Err(SqlError::new("25P01", message));
        }
        if !explicit {
            self.warn("25P01", "there is no transaction in progress");
        }
        let modes = TransactionModes {
            isolation: self.settings.get("transaction_isolation"),
            read_only: Some(self.settings.is_on("transaction_read_only")),
        };
        let ended = self.end_here(commit).await?;
        if chain {
            self.begin(false, &modes)?;
        }
        Ok(ended)
    }

    async fn end_here(&mut self, commit: bool) -> Result<Response, SqlError> {
        if !commit {
            if let Some(transaction) = self.transaction.take() {
                self.warn_of_ddl(&transaction.ddl);
            }
            self.ended(false);
            return Ok(Response::Tag("ROLLBACK".into()));
        }
        let committed = self.commit().await?;
        Ok(Response::Tag(
            if committed { "COMMIT" } else { "ROLLBACK" }.into(),
        ))
    }

    /// SET TRANSACTION, or the session's defaults for transactions to come.
    pub(super) fn set_transaction(
        &mut self,
        session: bool,
        modes: &TransactionModes,
    ) -> Result<Response, SqlError> {
        match session {
            true => self.set_modes("default_transaction", modes, false)?,
            false if self.transaction.is_none() => {
                let message = "SET TRANSACTION can only be used in transaction blocks";
                self.warn("25P01", message);
            }
            false => {
                self.check_read_write(modes.read_only == Some(false))?;
                self.set_modes("transaction", modes, true)?
            }
        }
        Ok(Response::Tag("SET".into()))
    }

    /// What a transaction was begun for can't be widened once it is under way.
    fn check_read_write(&self, wanted: bool) -> Result<(), SqlError> {
        let Some(transaction) = &self.transaction else {
            return Ok(());
        };
        let message = match (transaction.savepoints.is_empty(), &transaction.published) {
            _ if !wanted || !self.settings.is_on("transaction_read_only") => return Ok(()),
            (false, _) => "cannot set transaction read-write mode inside a read-only transaction",
            (true, Some(_)) => "transaction read-write mode must be set before any query",
            (true, None) => return Ok(()),
        };
        Err(SqlError::new("25001", message))
    }

    fn set_modes(
        &mut self,
        prefix: &str,
        modes: &TransactionModes,
        local: bool,
    ) -> Result<(), SqlError> {
        let mut set = |name: &str, value: String| {
            self.settings
                .set(&format!("{prefix}_{name}"), Some(value), local)
        };
        if let Some(level) = &modes.isolation {
            set("isolation", level.clone())?;
        }
        if let Some(read_only) = modes.read_only {
            set("read_only", if read_only { "on" } else { "off" }.into())?;
        }
        Ok(())
    }

    pub(super) fn set(
        &mut self,
        local: bool,
        name: &str,
        value: Option<String>,
    ) -> Result<Response, SqlError> {
        self.set_value(name, value, local)?;
        if super::settings::is_without_effect(name) {
            self.inform(format!("parameter \"{name}\" has no effect here"), None);
        }
        if local && !self.transaction.as_ref().is_some_and(|t| t.explicit) {
            self.warn("25P01", "SET LOCAL can only be used in transaction blocks");
        }
        Ok(Response::Tag("SET".into()))
    }

    /// SET and `set_config`.
    pub(super) fn set_value(
        &mut self,
        name: &str,
        value: Option<String>,
        local: bool,
    ) -> Result<(), SqlError> {
        let was_read_only = self.settings.is_on("transaction_read_only");
        let before = self.settings.values();
        self.settings.set(name, value, local)?;
        if was_read_only && !self.settings.is_on("transaction_read_only") {
            let after = self.settings.values();
            self.settings.replace(before);
            self.check_read_write(true)?;
            self.settings.replace(after);
        }
        Ok(())
    }

    pub(super) fn reset(&mut self, name: Option<&str>) -> Result<Response, SqlError> {
        match name {
            Some(name) => self.settings.set(name, None, false)?,
            None => self.settings.reset_all(),
        }
        Ok(Response::Tag("RESET".into()))
    }

    /// The explicit transaction that a statement about savepoints needs.
    fn block(&mut self, verb: &str) -> Result<&mut Transaction, SqlError> {
        let open = self.transaction.as_mut().filter(|t| t.explicit);
        open.ok_or_else(|| {
            SqlError::new(
                "25P01",
                format!("{verb} can only be used in transaction blocks"),
            )
        })
    }

    /// LOCK TABLE. Nobody is kept waiting: in a mode that keeps writers away, COMMIT fails if somebody has written to the table since, as for
    /// rows that are selected FOR UPDATE.
    pub(super) fn lock_tables(
        &mut self,
        names: &[Name],
        exclusive: bool,
    ) -> Result<Response, SqlError> {
        self.block("LOCK TABLE")?;
        let published = self.pin();
        let mut locked = vec![];
        for name in names {
            let found = self
                .names(&published)
                .resolve(name.schema.as_deref(), &name.name);
            let relation = found.ok_or_else(|| self.no_relation(&published, &name.name))?;
            if relation.kind != RelationKind::Table
                && !matches!(relation.kind, RelationKind::View { .. })
            {
                let message = format!("\"{}\" is not a table or view", name.name);
                return Err(SqlError::new("42809", message));
            }
            locked.extend(
                published
                    .catalog
                    .find(&relation.schema, &relation.name)
                    .cloned(),
            );
        }
        if let Some(transaction) = self.transaction.as_ref().filter(|_| exclusive) {
            let mut reads = transaction.reads.lock();
            while let Some(object) = locked.pop() {
                reads.collections.extend(object.record.ids.collection);
                // A view locks what it reads.
                let below = object.record.depends.iter();
                locked.extend(below.filter_map(|id| published.catalog.get(*id).cloned()));
            }
        }
        Ok(Response::Tag("LOCK TABLE".into()))
    }

    pub(super) fn savepoint(&mut self, name: &str) -> Result<Response, SqlError> {
        let cursors_opened = self.cursors_opened;
        let advisory = self.handle.env.system.advisory.mark(self.backend_pid);
        let settings = self.settings.values();
        let transaction = self.block("SAVEPOINT")?;
        let rows_written = transaction.rows_written();
        transaction.savepoints.push(Savepoint {
            name: name.into(),
            rows_written,
            cursors_opened,
            settings,
            advisory,
        });
        Ok(Response::Tag("SAVEPOINT".into()))
    }

    pub(super) fn release(&mut self, name: &str) -> Result<Response, SqlError> {
        let transaction = self.block("RELEASE SAVEPOINT")?;
        let place = place(transaction, name)?;
        transaction.savepoints.truncate(place);
        Ok(Response::Tag("RELEASE".into()))
    }

    /// Takes back what was written since the savepoint, which stays. What was read since still counts at COMMIT.
    pub(super) fn rollback_to(&mut self, name: &str) -> Result<Response, SqlError> {
        let transaction = self.block("ROLLBACK TO SAVEPOINT")?;
        let place = place(transaction, name)?;
        transaction.savepoints.truncate(place + 1);
        let savepoint = transaction.savepoints[place].clone();
        transaction.failed = false;
        transaction.cut_back(&savepoint.rows_written);
        self.cursors
            .retain(|_, cursor| cursor.number <= savepoint.cursors_opened);
        self.settings.replace(savepoint.settings);
        let advisory = &self.handle.env.system.advisory;
        advisory.back_to(self.backend_pid, &savepoint.advisory);
        Ok(Response::Tag("ROLLBACK".into()))
    }
}

/// The number of the newest savepoint of that name.
fn place(transaction: &Transaction, name: &str) -> Result<usize, SqlError> {
    let mut all = transaction.savepoints.iter();
    all.rposition(|s| s.name == name)
        .ok_or_else(|| SqlError::new("3B001", format!("savepoint \"{name}\" does not exist")))
}
