//! What becomes of views when the columns of a relation change that they read: those that use a column that goes, go with it or keep it;
//! all others go on seeing the columns that they were written for, and keep their state.
//!
//! A view is as before if its optimised plan is; text is rewritten only where it would mean something else now. State belongs to a
//! plan's fingerprints: they are written anew for the plan of before with the columns where they are now. Where the plan that is made of the
//! view's SQL isn't that one, the view is rebuilt as after an upgrade.

use std::sync::Arc;

use tidemill_dataflow::plan::{DataflowPlan, Node, Op};
use tidemill_planner::SqlError;
use tidemill_planner::definition::{ChangedColumns, How};
use tidemill_zset::CollectionId;

use super::{From, statement};
use crate::catalog::record::{Kind, State};
use crate::catalog::{Catalog, Detail, Object};
use crate::coordinator::ddl::notice;
use crate::coordinator::rename::check_readers_whole;
use crate::coordinator::stale;
use crate::coordinator::upgrade::Upgrade;
use crate::define::Definer;
use crate::session::Notice;

/// Those who read a relation.
pub struct Readers<'d> {
    definer: &'d Definer<'d>,
    /// The relation as it was.
    old: &'d Arc<Object>,
    columns: ChangedColumns,
    /// What stands on it, directly or not, in the order of creation.
    all: Vec<Arc<Object>>,
}

/// What changes of them.
#[derive(Default)]
pub struct Followed {
    /// As they will be, in the order of creation.
    pub changed: Vec<Object>,
    /// Those that must be rebuilt.
    pub stale: Upgrade,
}

impl<'d> Readers<'d> {
    pub fn new(definer: &'d Definer<'d>, old: &'d Arc<Object>, columns: ChangedColumns) -> Self {
        Readers {
            all: definer.catalog.dependents_of_all(&[old.record.id]),
            definer,
            old,
            columns,
        }
    }

    /// What couldn't be restored can't follow.
    pub fn check_whole(&self) -> Result<(), SqlError> {
        check_readers_whole("alter", self.old, &self.definer.catalog)
    }

    /// A sink's file has the columns that the relation had.
    pub fn check_sinks(&self) -> Result<(), SqlError> {
        let id = self.old.record.id;
        let mut sinks = self.all.iter();
        let sink = sinks.find(|o| o.record.kind == Kind::Sink && o.record.depends.contains(&id));
        let Some(sink) = sink else { return Ok(()) };
        Err(SqlError::new(
            "0A000",
            format!(
                "cannot alter {} {} because sink {} writes its rows",
                self.old.record.kind.words(),
                self.old.display_name(),
                sink.display_name()
            ),
        )
        .hint("Drop the sink first, or give it a materialized view of the columns that it is to have."))
    }

    /// Columns that go (and whether CASCADE was said) and whose type changes must not be used. Gives the views that go.
    pub fn check_used(
        &self,
        gone: &[(usize, bool)],
        converted: &[usize],
    ) -> Result<(Vec<u64>, Vec<Notice>), SqlError> {
        let (mut dropped, mut notices) = (vec![], vec![]);
        for (column, cascade) in gone {
            let users: Vec<_> = self.users(*column)?;
            let users = users
                .into_iter()
                .filter(|(o, _)| !dropped.contains(&o.record.id));
            let users: Vec<_> = users.collect();
            if !users.is_empty() && !cascade {
                return Err(self.needed(*column, &users));
            }
            for (object, _) in &users {
                let (kind, name) = (object.record.kind.words(), object.display_name());
                notices.push(notice("00000", format!("drop cascades to {kind} {name}")));
                dropped.push(object.record.id);
            }
        }
        for column in converted {
            if let Some((view, _)) = self.users(*column)?.first() {
                let name = self.old.columns.field(*column).name();
                let (kind, view) = (view.record.kind.words(), view.display_name());
                return Err(SqlError::new(
                    "0A000",
                    "cannot alter type of a column used by a view or rule",
                )
                .detail(format!("{kind} {view} depends on column \"{name}\"")));
            }
        }
        Ok((dropped, notices))
    }

    fn needed(&self, column: usize, users: &[(Arc<Object>, String)]) -> SqlError {
        let name = self.old.columns.field(column).name();
        let table = self.old.display_name();
        let list: Vec<String> = users
            .iter()
            .map(|(o, on)| {
                let kind = o.record.kind.words();
                format!("{kind} {} depends on {on}", o.display_name())
            })
            .collect();
        SqlError::new(
            "2BP01",
            format!(
                "cannot drop column {name} of table {table} because other objects depend on it"
            ),
        )
        .detail(list.join("\n"))
        .hint("Use DROP ... CASCADE to drop the dependent objects too.")
    }

    /// What uses a column, directly or by way of another that does, and on what it stands.
    fn users(&self, column: usize) -> Result<Vec<(Arc<Object>, String)>, SqlError> {
        let table = &self.old.record;
        let name = self.old.columns.field(column).name().clone();
        let without = ChangedColumns {
            schema: self.columns.schema.clone(),
            name: self.columns.name.clone(),
            before: self.columns.before.clone(),
            after: (self.columns.before.iter().cloned().zip(0..))
                .filter(|(_, n)| *n != column)
                .map(|(name, n)| (name, Some(n)))
                .collect(),
        };
        let mut trial = Object::clone(self.old);
        let fields = self.old.columns.fields().iter().enumerate();
        let fields = fields.filter(|(n, _)| *n != column);
        trial.columns =
            tidemill_zset::delta::schema_of(fields.map(|(_, f)| f.as_ref().clone()).collect());
        if let Detail::Table { primary_key, .. } = &mut trial.detail {
            let key = primary_key.iter().filter(|n| **n != column);
            *primary_key = key.map(|n| n - usize::from(*n > column)).collect();
        }
        let mut next = Catalog::clone(&self.definer.catalog);
        next.put(Arc::new(trial));
        let mut users: Vec<(Arc<Object>, String)> = vec![];
        for object in &self.all {
            let above = users
                .iter()
                .find(|(user, _)| object.record.depends.contains(&user.record.id));
            if let Some((user, _)) = above {
                let (kind, user) = (user.record.kind.words(), user.display_name());
                users.push((object.clone(), format!("{kind} {user}")));
                continue;
            }
            if !object.is_view() || !object.record.depends.contains(&table.id) {
                continue;
            }
            let catalog = Arc::new(next.clone());
            let before = self.shape(object, &self.definer.catalog, &object.record.sql)?;
            let same = |sql: &str| {
                let now = self.shape(object, &catalog, sql);
                now.is_ok_and(|now| now == before)
            };
            let sql = &object.record.sql;
            if same(sql) {
                continue;
            }
            match without.rewrite(sql, How::Renamed) {
                Ok(renamed) if same(&renamed) => {
                    // Views over it are written for what it gives, which it does with this text.
                    next.put(Arc::new(self.rewritten(object, &catalog, renamed)?));
                }
                _ => {
                    let table = self.old.display_name();
                    users.push((object.clone(), format!("column {name} of table {table}")));
                }
            }
        }
        Ok(users)
    }

    /// What a view's text means with a catalog, as text, and its columns.
    fn shape(
        &self,
        view: &Object,
        catalog: &Arc<Catalog>,
        sql: &str,
    ) -> Result<(String, Vec<Column>), SqlError> {
        let session = view.record.settings.session();
        let definer = self.with(catalog, &session);
        let shape = definer.shape(&statement(sql)?)?;
        Ok((shape, columns(&definer.object(&statement(sql)?, sql)?)))
    }

    fn with<'s>(
        &'s self,
        catalog: &Arc<Catalog>,
        session: &'s tidemill_planner::query::SessionContextInfo,
    ) -> Definer<'s> {
        Definer {
            catalog: catalog.clone(),
            system: self.definer.system.clone(),
            planner: self.definer.planner,
            session,
        }
    }

    /// Those that stay, as they read the relation `new`, whose columns come `from` those that it had. `next` is the catalog with it
    /// and without what goes.
    pub fn follow(
        &self,
        new: &Object,
        from: &[From],
        mut next: Catalog,
    ) -> Result<Followed, SqlError> {
        let moved = Moved {
            from: self.old.record.ids.collection,
            to: new.record.ids.collection,
            columns: (0..self.old.columns.fields().len())
                .map(|n| from.iter().position(|f| *f == From::Column(n)))
                .collect(),
        };
        let mut followed = Followed::default();
        for object in &self.all {
            if !object.is_view() || next.get(object.record.id).is_none() {
                continue;
            }
            let catalog = Arc::new(next.clone());
            let sql = self.text(object, &catalog)?;
            let mut changed = self.rewritten(object, &catalog, sql)?;
            let mut differs =
                changed.record.sql != object.record.sql || changed.columns != object.columns;
            if let (
                Detail::MaterializedView { plan: old, .. },
                Detail::MaterializedView { plan: new, .. },
            ) = (&object.detail, &changed.detail)
            {
                let reads = old.inputs().iter().any(|i| Some(*i) == moved.from);
                differs |= reads && moved.is_change();
                relabel(&mut changed.record.ids.states, old, new, &moved);
                let before = followed.stale.queue.len();
                stale::check(&mut changed, &next, true, &mut followed.stale);
                differs |= followed.stale.queue.len() > before;
            }
            next.put(Arc::new(changed.clone()));
            if differs {
                followed.changed.push(changed);
            }
        }
        Ok(followed)
    }

    /// The view with another text.
    fn rewritten(
        &self,
        view: &Object,
        catalog: &Arc<Catalog>,
        sql: String,
    ) -> Result<Object, SqlError> {
        let session = view.record.settings.session();
        let definer = self.with(catalog, &session);
        let mut object = definer.object(&statement(&sql)?, &sql)?;
        let depends = object.record.depends;
        object.record = view.record.clone();
        (object.record.sql, object.record.depends) = (sql, depends);
        Ok(object)
    }

    /// The text of a view that means with the new columns what it meant.
    fn text(&self, object: &Object, next: &Arc<Catalog>) -> Result<String, SqlError> {
        let sql = &object.record.sql;
        if !object.record.depends.contains(&self.old.record.id) {
            return Ok(sql.clone());
        }
        let before = self.shape(object, &self.definer.catalog, sql)?;
        let mut reason = None;
        for how in [How::Followed, How::Renamed, How::Listed] {
            let text = self.columns.rewrite(sql, how)?;
            match self.shape(object, next, &text) {
                Ok(now) if now == before => return Ok(text),
                // All columns are named, so that there is nothing left that could mean something else.
                Ok((_, columns)) if how == How::Listed && columns == before.1 => {
                    return Ok(text);
                }
                Ok(_) => {}
                // Cancelled, or the session ends: it says nothing of the text.
                Err(e) if e.sqlstate.starts_with("57") => return Err(e),
                Err(e) => reason = Some(e),
            }
        }
        let (kind, name) = (object.record.kind.words(), object.display_name());
        let e = SqlError::new(
            "0A000",
            format!("the query of {kind} {name} can't be rewritten for the new columns"),
        )
        .hint("Drop it first and create it again afterwards.");
        Err(match reason {
            Some(reason) => e.detail(reason.message),
            None => e,
        })
    }
}

/// Name and type of a column.
type Column = (String, arrow::datatypes::DataType);

fn columns(object: &Object) -> Vec<Column> {
    let fields = object.columns.fields().iter();
    fields
        .map(|f| (f.name().clone(), f.data_type().clone()))
        .collect()
}

/// A collection whose columns stand elsewhere now.
struct Moved {
    from: Option<CollectionId>,
    to: Option<CollectionId>,
    /// Of each column, where it is now, if it is as it was.
    columns: Vec<Option<usize>>,
}

impl Moved {
    fn is_change(&self) -> bool {
        self.from != self.to
    }

    /// The plan with the columns where they are now; `None`: some aren't any more.
    fn plan(&self, node: &Node) -> Option<Node> {
        let op = match &node.op {
            Op::Input {
                collection,
                columns,
            } if Some(*collection) == self.from => Op::Input {
                collection: self.to?,
                columns: columns
                    .iter()
                    .map(|c| self.columns.get(*c).copied().flatten())
                    .collect::<Option<_>>()?,
            },
            other => other.clone(),
        };
        let inputs = node.inputs.iter().map(|input| self.plan(input));
        Some(Node {
            op,
            inputs: inputs.collect::<Option<_>>()?,
            ..node.clone()
        })
    }
}

/// Gives state the fingerprints of what it is a function of with the columns where they are now.
fn relabel(states: &mut [State], old: &DataflowPlan, new: &DataflowPlan, moved: &Moved) {
    if !moved.is_change() || new.inputs() == old.inputs() {
        return;
    }
    let Some(root) = moved.plan(&old.root) else {
        return;
    };
    let before = old.arrangements();
    let now = DataflowPlan { root }.arrangements();
    for state in states {
        let at = before
            .iter()
            .position(|s| s.fingerprint == state.fingerprint);
        if let Some(now) = at.and_then(|at| now.get(at)) {
            state.fingerprint = now.fingerprint.clone();
        }
    }
}
