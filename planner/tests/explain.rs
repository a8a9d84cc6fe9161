//! EXPLAIN of every query of the list, kept in `tests/explain`, one file per topic: what an upgrade or a
//! change of the compiler does to plans, and so to stored state, shows in a diff.

mod support;

use std::collections::BTreeMap;
use std::fmt::Write;

use support::data::Tables;
use support::queries::QUERIES;
use support::{front, golden};

#[test]
fn plans_are_the_known_ones() {
    let tables = Tables::new();
    let mut files: BTreeMap<&str, String> = BTreeMap::new();
    for (topic, name, sql) in QUERIES {
        let bound = front::bind(&tables, sql).unwrap_or_else(|e| panic!("{name}: {e}"));
        let view = front::view(&tables, &bound).unwrap_or_else(|e| panic!("{name}: {e:?}"));
        let file = files.entry(topic).or_default();
        let _ = writeln!(file, "# {name}\n{sql}\n");
        let _ = writeln!(file, "{}\n", view.logical.display_indent());
        let _ = writeln!(file, "{}", view.plan.explain());
        let facts = format!(
            "unique: {:?}, append only: {}",
            view.unique, view.append_only
        );
        let _ = writeln!(file, "{facts}\n\n");
    }
    let failures: Vec<String> = files
        .iter()
        .filter_map(|(topic, text)| {
            golden::check(&format!("tests/explain/{topic}.txt"), text).err()
        })
        .collect();
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn compiling_twice_gives_equal_fingerprints() {
    let tables = Tables::new();
    for (_, name, sql) in QUERIES {
        let fingerprints = || {
            let bound = front::bind(&tables, sql).unwrap_or_else(|e| panic!("{name}: {e}"));
            let view = front::view(&tables, &bound).unwrap_or_else(|e| panic!("{name}: {e:?}"));
            let specs = view.plan.arrangements().into_iter();
            (
                view.plan.explain(),
                specs.map(|s| s.fingerprint).collect::<Vec<_>>(),
            )
        };
        assert_eq!(fingerprints(), fingerprints(), "{name}");
    }
}
