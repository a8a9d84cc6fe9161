//! `WITH … INSERT`, `WITH … UPDATE` and `WITH … DELETE`: the common table expressions go to the queries within the statement, and a
//! relation in FROM that is one of them becomes a query of it.

use std::ops::ControlFlow;

use sqlparser::ast::{
    Ident, Query, Statement, TableAlias, TableFactor, TableWithJoins, UpdateTableFromKind,
    VisitorMut, With,
};

use super::{fold, parts};
use crate::walk;

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
