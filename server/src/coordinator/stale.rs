//! Which views' stored state another plan has written than the one that this version makes of their SQL, what of that state can be
//! kept, and whether what they read is still there. Nothing is changed here.

use std::sync::Arc;

use arrow::datatypes::{DataType, Schema};
use tidemill_dataflow::plan::{DataflowPlan, OutputStorage, Remainder};
use tidemill_planner::SqlError;
use tidemill_planner::compile::revision;
use tidemill_storage::StoreVersion;
use tidemill_zset::schema::SqlType;
use tidemill_zset::{ArrangementId, CollectionId};

use super::Env;
use super::upgrade::Upgrade;
use crate::catalog::record::Record;
use crate::catalog::{Catalog, Detail, Object, Rows};
use crate::published::Published;
use crate::reader::{Contents, Snapshot, contents_of};
use crate::reread::reread_source;

/// A view to rebuild.
pub struct Stale {
    pub id: u64,
    /// Where the new plan has its rows.
    pub output: OutputStorage,
    /// Nothing of its state can be kept: what it reads may be other than what it was computed from.
    pub whole: bool,
    /// The old contents can be read.
    pub readable: bool,
}

/// A view whose SQL means other columns than when its rows were stored isn't the view that was created: what reads it, and the
/// files that its sinks have written, expect the old ones.
pub fn check_columns(
    object: &Object,
    record: &Record,
    stored: &StoreVersion,
) -> Result<(), SqlError> {
    if !matches!(object.detail, Detail::MaterializedView { .. }) {
        return Ok(());
    }
    let mut old = record.ids.types.clone();
    if old.is_empty()
        && let Some(rows) = record.ids.rows.and_then(|id| stored.arrangement(id))
    {
        old = types_of(&rows.desc().schema);
    }
    let new = types_of(&object.columns);
    if old.is_empty() || old == new {
        return Ok(());
    }
    Err(
        SqlError::new("55000", "its query has other columns in this version").detail(format!(
            "stored are ({}), now it has ({})",
            old.join(", "),
            new.join(", ")
        )),
    )
}

/// The types of columns as SQL.
pub fn types_of(columns: &Schema) -> Vec<String> {
    let fields = columns.fields().iter();
    fields.map(|f| type_text(&SqlType::of(f))).collect()
}

/// It is stored, and must not depend on how a library prints.
fn type_text(ty: &SqlType) -> String {
    match ty {
        SqlType::Array(of) => format!("{}[]", type_text(of)),
        SqlType::Other(DataType::Struct(fields)) => {
            let fields: Vec<String> = fields.iter().map(|f| type_text(&SqlType::of(f))).collect();
            format!("record({})", fields.join(", "))
        }
        ty => ty.to_string(),
    }
}

/// False if an operator with stored state has other columns than that: a function gives another type than it did, which no
/// fingerprint shows.
pub fn state_fits(object: &Object, record: &Record, stored: &StoreVersion) -> bool {
    let Detail::MaterializedView { plan, .. } = &object.detail else {
        return true;
    };
    let specs = plan.arrangements();
    record.ids.states.iter().all(|state| {
        let spec = specs.iter().find(|s| s.fingerprint == state.fingerprint);
        match (spec, stored.arrangement(state.id)) {
            (Some(spec), Some(old)) => types_of(&old.desc().schema) == types_of(&spec.schema),
            _ => true,
        }
    })
}

/// Compares a view's plan with what is stored, whose columns are those of the plan if it `fits`; a view that differs is left so that
/// its old contents are read, if they can be.
pub fn check(object: &mut Object, catalog: &Catalog, fits: bool, upgrade: &mut Upgrade) {
    let Detail::MaterializedView { plan, output, .. } = &mut object.detail else {
        return;
    };
    let ids = &object.record.ids;
    let specs = plan.arrangements();
    let same = specs.len() == ids.states.len()
        && specs
            .iter()
            .zip(&ids.states)
            .all(|(s, state)| s.fingerprint == state.fingerprint)
        && matches!(output, OutputStorage::Own) == ids.rows.is_some();
    // What has no state has no fingerprint either.
    let now = revision(plan);
    let revised = now > 1 && ids.revision < now;
    // A view above one whose old contents are unknown may have been computed from others than the new ones.
    let whole = !fits
        || revised
        || object.record.behind
        || object.record.depends.iter().any(|id| {
            let unknown = |s: &Stale| s.id == *id && !s.readable;
            upgrade.queue.iter().any(unknown) || reads_unknown(*id, catalog, upgrade)
        });
    if same && !whole {
        return;
    }
    let new = output.clone();
    let readable = match (ids.rows, &ids.output, &new) {
        (Some(_), ..) => {
            *output = OutputStorage::Own;
            true
        }
        (None, Some(old), OutputStorage::Arrangement { columns, maps, .. })
            if fits && new.layout().as_ref() == Some(&old.layout) =>
        {
            *output = OutputStorage::Arrangement {
                index: old.state,
                columns: columns.clone(),
                maps: maps.clone(),
            };
            true
        }
        (None, None, OutputStorage::Arrangement { .. }) if same && fits => true,
        _ => {
            *output = OutputStorage::Own;
            false
        }
    };
    upgrade.queue.push_back(Stale {
        id: object.record.id,
        output: new,
        whole,
        readable,
    });
}

/// The plain view `id` stands on a view whose old contents are unknown.
fn reads_unknown(id: u64, catalog: &Catalog, upgrade: &Upgrade) -> bool {
    let Some(object) = catalog.get(id) else {
        return false;
    };
    matches!(object.detail, Detail::View { .. })
        && object.record.depends.iter().any(|below| {
            let unknown = |s: &Stale| s.id == *below && !s.readable;
            upgrade.queue.iter().any(unknown) || reads_unknown(*below, catalog, upgrade)
        })
}

/// What of the view's state stays, and what must be computed.
pub(super) struct Parts {
    pub kept: Vec<Option<ArrangementId>>,
    pub remainder: Remainder,
}

pub(super) fn parts(
    object: &Object,
    plan: &DataflowPlan,
    whole: bool,
    id: impl FnMut() -> CollectionId,
) -> Parts {
    let mut left = if whole {
        vec![]
    } else {
        object.record.ids.states.clone()
    };
    let specs = plan.arrangements();
    let kept: Vec<Option<ArrangementId>> = specs
        .iter()
        .map(|spec| {
            let at = left
                .iter()
                .position(|s| s.fingerprint == spec.fingerprint)?;
            Some(left.remove(at).id)
        })
        .collect();
    let flags: Vec<bool> = kept.iter().map(Option::is_some).collect();
    Parts {
        remainder: plan.remainder(&flags, id),
        kept,
    }
}

fn has_errors(object: &Arc<Object>, reader: &Snapshot) -> Result<bool, SqlError> {
    let Contents::Stored(errors) = contents_of(object, Rows::Errors)? else {
        return Ok(false);
    };
    for piece in reader.read(errors)? {
        if !piece?.is_empty() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// A view that must be rebuilt, and why what it reads can't be read.
pub struct Missing {
    pub view: Arc<Object>,
    pub reason: SqlError,
}

/// Reads once, before anything is changed, every input that has to be read from outside: the upgrade must not stop half way.
pub fn check_inputs(
    upgrade: &mut Upgrade,
    env: &Arc<Env>,
    published: &Arc<Published>,
) -> Result<(), Missing> {
    let mut checked = Vec::new();
    let reader = Snapshot::of(env, published);
    for stale in &mut upgrade.queue {
        let Some(object) = published.catalog.get(stale.id) else {
            continue;
        };
        let Detail::MaterializedView { plan, .. } = &object.detail else {
            continue;
        };
        let failed = |reason: SqlError| Missing {
            view: object.clone(),
            reason,
        };
        // Errors of the unchanged parts are among those of the view, and can't be told apart.
        stale.whole |= has_errors(object, &reader).map_err(failed)?;
        let none = || CollectionId(u64::MAX);
        for input in parts(object, plan, stale.whole, none)
            .remainder
            .plan
            .inputs()
        {
            let source = published.catalog.by_collection(input);
            let Some((source, Rows::Data)) = source.filter(|_| !checked.contains(&input)) else {
                continue;
            };
            if let Contents::Unrecorded(source) = contents_of(source, Rows::Data).map_err(failed)? {
                let offsets = published.offsets_of(&source);
                for piece in reread_source(&source, vec![], offsets).map_err(failed)? {
                    piece.map_err(failed)?;
                }
            }
            checked.push(input);
        }
    }
    Ok(())
}
