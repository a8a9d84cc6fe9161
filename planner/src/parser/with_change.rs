//! WITH and statements that change data.
//!
//! `WITH … INSERT`, `WITH … UPDATE` and `WITH … DELETE`: the common table expressions go to the queries within the statement, and a
//! relation in FROM that is one of them becomes a query of it. `WITH name AS (INSERT …) …`: the INSERT becomes a statement of its own, and
//! `name` a query of what it returns.

use std::ops::ControlFlow;

use sqlparser::ast::{
    Ident, Query, SetExpr, Statement, TableAlias, TableFactor, TableWithJoins, UpdateTableFromKind,
    VisitMut, VisitorMut, With,
};

use super::{fold, parts};
use crate::ast::{self, CHANGED, Changing};
use crate::error::{Result, SqlError};
use crate::walk;

/// The statement as one of the dialect's.
pub(super) fn changing(statement: Statement) -> Result<ast::Statement> {
    Ok(match statement {
        Statement::Insert(insert) => ast::Statement::Insert(Box::new(insert)),
        statement @ Statement::Update(_) => ast::Statement::Update(Box::new(statement)),
        Statement::Delete(delete) => ast::Statement::Delete(Box::new(delete)),
        _ => return Err(SqlError::unsupported("MERGE is not supported")),
    })
}

/// Takes the statements that change data out of the WITH of `query`. Those that return something are queries of it from then on.
pub(super) fn taken_out(query: &mut Query) -> Result<Vec<Changing>> {
    let mut changes = vec![];
    let Some(with) = &mut query.with else {
        return Ok(changes);
    };
    let is_change = |e: &SetExpr| {
        matches!(
            e,
            SetExpr::Insert(_) | SetExpr::Update(_) | SetExpr::Delete(_)
        )
    };
    if !with.cte_tables.iter().any(|c| is_change(&c.query.body)) {
        return Ok(changes);
    }
    let unreturned = |name: &str| {
        SqlError::unsupported(format!(
            "WITH query \"{name}\" does not have a RETURNING clause"
        ))
    };
    let mut silent: Vec<String> = vec![];
    // Those that stand before.
    let mut before = With {
        cte_tables: vec![],
        ..with.clone()
    };
    for mut cte in with.cte_tables.drain(..) {
        if let Some(name) = silent.iter().find(|name| names(&*cte.query, name)) {
            return Err(unreturned(name));
        }
        let name = fold(&cte.alias.name);
        let recursive = before.recursive && names(&*cte.query, &name);
        if let SetExpr::Insert(change) | SetExpr::Update(change) | SetExpr::Delete(change) =
            cte.query.body.as_mut()
        {
            if let Some(own) = &cte.query.with {
                distribute(own, change);
            }
            distribute(&before, change);
            if recursive {
                let message = format!(
                    "recursive query \"{name}\" must not contain data-modifying statements"
                );
                return Err(SqlError::new("42P19", message));
            }
            let returns = returns(change);
            if changes.iter().any(|c: &Changing| c.name == name) {
                let message = format!("WITH query name \"{name}\" specified more than once");
                return Err(SqlError::new("42712", message));
            }
            changes.push(Changing {
                name: name.clone(),
                statement: changing(change.clone())?,
            });
            if !returns {
                silent.push(name);
                continue;
            }
            let quoted = name.replace('"', "\"\"");
            cte.query = super::parse_query(&format!("SELECT * FROM \"{CHANGED}\".\"{quoted}\""))?;
        }
        before.cte_tables.push(cte);
    }
    let is_query = !is_change(&query.body);
    if let Some(name) = silent
        .iter()
        .find(|name| is_query && names(&*query.body, name))
    {
        return Err(unreturned(name));
    }
    let needed = !before.cte_tables.is_empty() || !is_query;
    query.with = needed.then_some(before);
    Ok(changes)
}

/// Whether a relation of that name is in the query.
fn names(node: &(impl VisitMut + Clone), name: &str) -> bool {
    walk::any_relation(node, |r| parts(r).as_slice() == [name])
}

fn returns(change: &Statement) -> bool {
    match change {
        Statement::Insert(insert) => insert.returning.is_some(),
        Statement::Update(update) => update.returning.is_some(),
        Statement::Delete(delete) => delete.returning.is_some(),
        _ => false,
    }
}

/// The error for one elsewhere.
pub(crate) fn not_at_the_top() -> SqlError {
    SqlError::unsupported(
        "WITH clause containing a data-modifying statement must be at the top level",
    )
}

/// Gives `with` to everything in `change` that may name its queries.
pub(super) fn distribute(with: &With, change: &mut Statement) {
    walk::change(change, &mut Queries { with, depth: 0 });
    let others: Vec<&mut TableWithJoins> = match change {
        Statement::Update(u) => match &mut u.from {
            Some(UpdateTableFromKind::BeforeSet(from) | UpdateTableFromKind::AfterSet(from)) => {
                from.iter_mut().collect()
            }
            None => vec![],
        },
        Statement::Delete(d) => d.using.iter_mut().flatten().collect(),
        _ => vec![],
    };
    for item in others {
        relation(with, &mut item.relation);
        for join in &mut item.joins {
            relation(with, &mut join.relation);
        }
    }
}

/// Adds the WITH to the outermost queries.
struct Queries<'w> {
    with: &'w With,
    depth: usize,
}

impl VisitorMut for Queries<'_> {
    type Break = ();

    fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<()> {
        if self.depth == 0 {
            add(self.with, query);
        }
        self.depth += 1;
        ControlFlow::Continue(())
    }

    fn post_visit_query(&mut self, _: &mut Query) -> ControlFlow<()> {
        self.depth -= 1;
        ControlFlow::Continue(())
    }
}

fn add(with: &With, query: &mut Query) {
    match &mut query.with {
        None => query.with = Some(with.clone()),
        // The query's own hide those around it.
        Some(own) => {
            own.recursive |= with.recursive;
            let own_names: Vec<String> =
                own.cte_tables.iter().map(|c| fold(&c.alias.name)).collect();
            let outer = with.cte_tables.iter();
            let outer = outer.filter(|c| !own_names.contains(&fold(&c.alias.name)));
            own.cte_tables = outer.cloned().chain(own.cte_tables.drain(..)).collect();
        }
    }
}

fn relation(with: &With, factor: &mut TableFactor) {
    match factor {
        TableFactor::Table {
            name,
            alias,
            args: None,
            ..
        } => {
            let [name] = &parts(name)[..] else { return };
            if !with.cte_tables.iter().any(|c| fold(&c.alias.name) == *name) {
                return;
            }
            let quoted = name.replace('"', "\"\"");
            let Ok(mut subquery) = super::parse_query(&format!("SELECT * FROM \"{quoted}\""))
            else {
                return;
            };
            add(with, &mut subquery);
            let alias = alias.take().unwrap_or_else(|| TableAlias {
                explicit: true,
                name: Ident::with_quote('"', name.clone()),
                columns: vec![],
                at: None,
            });
            *factor = TableFactor::Derived {
                lateral: false,
                subquery,
                alias: Some(alias),
                sample: None,
            };
        }
        TableFactor::NestedJoin {
            table_with_joins, ..
        } => {
            relation(with, &mut table_with_joins.relation);
            for join in &mut table_with_joins.joins {
                relation(with, &mut join.relation);
            }
        }
        _ => {}
    }
}
