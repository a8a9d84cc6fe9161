//! Rules of the house that a machine can check: dependency arrows, names with one home, headers, sizes, links.
//!
//! A failing rule prints every offence, so that one run is enough to mend them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use cargo_metadata::{DependencyKind, MetadataCommand};
use regex::Regex;

/// A source file longer than this wants to be two.
const FILE_LINES_MAX: usize = 950;

/// Names of others' interfaces that our documents quote.
const FOREIGN_NAMES: [&str; 3] = ["do_query", "on_execute", "sync_file_range"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("tests/ lies in the workspace")
        .to_owned()
}

/// All files below the root whose name ends in `.ext`, with paths relative to the root and their text.
fn files(ext: &str) -> Vec<(String, String)> {
    fn walk(dir: &Path, ext: &str, out: &mut Vec<PathBuf>) {
        let entries = std::fs::read_dir(dir).expect("a directory of the workspace is readable");
        for path in entries.flatten().map(|e| e.path()) {
            let name = path
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            if path.is_dir()
                && name != "target"
                && name != "node_modules"
                && !name.starts_with(".git")
            {
                walk(&path, ext, out);
            } else if path.extension().is_some_and(|e| e == ext) {
                out.push(path);
            }
        }
    }
    let root = root();
    let mut paths = Vec::new();
    walk(&root, ext, &mut paths);
    paths.sort();
    let text =
        |p: &PathBuf| std::fs::read_to_string(p).unwrap_or_else(|e| panic!("{}: {e}", p.display()));
    paths
        .iter()
        .map(|p| {
            (
                p.strip_prefix(&root)
                    .expect("walked from the root")
                    .display()
                    .to_string(),
                text(p),
            )
        })
        .collect()
}

#[track_caller]
fn none(what: &str, offences: Vec<String>) {
    assert!(offences.is_empty(), "{what}:\n  {}", offences.join("\n  "));
}

#[test]
fn dependency_arrows() -> Result<()> {
    // A crate may use those that it names here, and nothing else of ours.
    let allowed: BTreeMap<&str, &[&str]> = BTreeMap::from([
        ("zset", &[][..]),
        ("storage", &["zset"]),
        ("dataflow", &["zset", "storage"]),
        ("planner", &["zset", "dataflow"]),
        ("connectors", &["zset"]),
        (
            "server",
            &["zset", "storage", "dataflow", "planner", "connectors"],
        ),
        ("tests", &[]),
        ("sqllogictest", &["tests"]),
        (
            "bench",
            &[
                "zset",
                "storage",
                "dataflow",
                "planner",
                "connectors",
                "tests",
            ],
        ),
    ]);
    let metadata = MetadataCommand::new()
        .current_dir(root())
        .no_deps()
        .exec()?;
    let mut offences = Vec::new();
    for package in metadata.workspace_packages() {
        let name = package
            .name
            .strip_prefix("tidemill-")
            .context("crates are named tidemill-*")?;
        let Some(allowed) = allowed.get(name) else {
            offences.push(format!("crate {name} has no line in this test"));
            continue;
        };
        for dependency in package
            .dependencies
            .iter()
            .filter(|d| d.kind == DependencyKind::Normal)
        {
            if let Some(to) = dependency.name.strip_prefix("tidemill-")
                && !allowed.contains(&to)
            {
                offences.push(format!("{name} -> {to}"));
            }
        }
    }
    none("arrows that don't exist in ARCHITECTURE.md", offences);
    Ok(())
}

#[test]
fn names_with_one_home() {
    let homes: &[(&str, &[&str])] = &[
        (r"\bpgwire::", &["server/src/pg/", "server/src/pg_catalog"]),
        (r"\bsled::", &["storage/"]),
        (
            r"\btimely::",
            &["dataflow/src/runtime/", "bench/peers/nexmark_rust/"],
        ),
        (r"\bdatafusion::", &["planner/"]),
        (r"\bsqlparser::", &["planner/"]),
    ];
    let mut offences = Vec::new();
    for (name, allowed) in homes {
        let pattern = Regex::new(name).expect("a valid pattern");
        for (path, text) in files("rs") {
            if allowed.iter().any(|home| path.starts_with(home)) || path == "tests/tests/tidy.rs" {
                continue;
            }
            for (n, line) in text.lines().enumerate() {
                if !line.trim_start().starts_with("//") && pattern.is_match(line) {
                    offences.push(format!("{path}:{}: {}", n + 1, line.trim()));
                }
            }
        }
    }
    none("names outside their home", offences);
}

#[test]
fn every_file_says_what_it_owns() {
    let silent = |(path, text): (String, String)| (!text.starts_with("//!")).then_some(path);
    none(
        "files that don't open with //!",
        files("rs").into_iter().filter_map(silent).collect(),
    );
}

#[test]
fn files_are_short() {
    let long = |(path, text): (String, String)| {
        let lines = text.lines().count();
        (lines > FILE_LINES_MAX).then(|| format!("{path}: {lines} lines"))
    };
    none(
        "files that want to be two",
        files("rs").into_iter().filter_map(long).collect(),
    );
}

/// Each further type of visitor or closure compiles a library's walk anew.
#[test]
fn trees_are_walked_in_one_place() {
    let sqlparsers = r"\.visit\(|\bVisit(Mut)?::visit\b|\bvisit_(expressions|relations|statements)";
    let datafusions = r"\bTreeNode\b|_with_subqueries\(|\.map_expressions\(|\.map_subqueries\(";
    for (home, walks) in [
        ("planner/src/walk.rs", sqlparsers),
        ("planner/src/tree.rs", datafusions),
    ] {
        let walks = Regex::new(walks).expect("a regex");
        let mut offences = Vec::new();
        for (path, text) in files("rs") {
            let ours = path.starts_with("planner/src") || path.starts_with("server/src");
            if ours && path != home {
                let found = text.lines().enumerate().filter(|(_, l)| walks.is_match(l));
                offences.extend(found.map(|(n, l)| format!("{path}:{}: {}", n + 1, l.trim())));
            }
        }
        none(&format!("walks over trees outside {home}"), offences);
    }
}

#[test]
fn nothing_unfinished() {
    let words = [
        "todo!",
        "unimplemented!",
        "dbg!",
        "#[ignore",
        "FIXME",
        "XXX",
    ];
    let mut offences = Vec::new();
    for (path, text) in files("rs")
        .into_iter()
        .chain(files("md"))
        .chain(files("slt"))
    {
        if path == "tests/tests/tidy.rs" {
            continue;
        }
        for (n, line) in text.lines().enumerate() {
            offences.extend(
                words
                    .iter()
                    // Four of them stand for the digits of an escape.
                    .filter(|w| line.replace("XXXX", "").contains(**w))
                    .map(|w| format!("{path}:{}: {w}", n + 1)),
            );
        }
    }
    none("unfinished work", offences);
}

/// The text of a Markdown file without fenced blocks.
fn prose(text: &str) -> String {
    let mut fenced = false;
    let mut out = String::new();
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        } else if !fenced && !line.starts_with("    ") {
            out.push_str(line);
            out.push('\n');
        }
    }
    out
}

/// GitHub's anchor of a heading.
fn anchor(heading: &str) -> String {
    let kept = heading.trim().to_lowercase().replace(' ', "-");
    kept.chars()
        .filter(|c| c.is_alphanumeric() || *c == '-' || *c == '_')
        .collect()
}

#[test]
fn links_lead_somewhere() {
    let link = Regex::new(r"\]\(([^)\s]+)\)").expect("a valid pattern");
    let mut offences = Vec::new();
    for (path, text) in files("md") {
        let dir = root()
            .join(&path)
            .parent()
            .expect("a file has a directory")
            .to_owned();
        for target in link.captures_iter(&prose(&text)).map(|c| c[1].to_owned()) {
            if target.contains("://") || target.starts_with("mailto:") {
                continue;
            }
            let (file, fragment) = target.split_once('#').unwrap_or((&target, ""));
            let to = if file.is_empty() {
                root().join(&path)
            } else {
                dir.join(file)
            };
            if !to.exists() {
                offences.push(format!("{path}: {target}"));
            } else if !fragment.is_empty() && to.extension().is_some_and(|e| e == "md") {
                let text = std::fs::read_to_string(&to).expect("an existing file");
                let mut headings = text
                    .lines()
                    .filter(|l| l.starts_with('#'))
                    .map(|l| l.trim_start_matches('#'));
                if !headings.any(|h| anchor(h) == fragment) {
                    offences.push(format!("{path}: {target} (no such heading)"));
                }
            }
        }
    }
    none("broken links", offences);
}

/// Names, paths and flags quoted in the documents exist in the code.
#[test]
fn quoted_names_exist() {
    let span = Regex::new(r"`([^`\n]+)`").expect("a valid pattern");
    let word = Regex::new(r"[A-Za-z_][A-Za-z0-9_]*").expect("a valid pattern");
    let name =
        Regex::new(r"^(?:[a-z][a-z0-9]*(?:_[a-z0-9]+)+)(?:\(\))?$").expect("a valid pattern");
    let path_like = Regex::new(r"^[a-z][\w.-]*(?:/[\w.-]+)*/?$").expect("a valid pattern");
    let mut known: BTreeSet<String> = BTreeSet::new();
    known.extend(FOREIGN_NAMES.map(str::to_owned));
    let mut sources = String::new();
    for ext in ["rs", "toml", "slt", "sql", "py", "sh"] {
        for (path, text) in files(ext) {
            known.extend(word.find_iter(&text).map(|w| w.as_str().to_owned()));
            known.extend(path.split(['/', '.']).map(str::to_owned));
            sources.push_str(&text);
        }
    }
    let tops: Vec<String> = std::fs::read_dir(root())
        .expect("the root is readable")
        .flatten()
        .filter(|e| e.path().is_dir())
        .map(|e| format!("{}/", e.file_name().to_string_lossy()))
        .collect();
    let mut offences = Vec::new();
    for (path, text) in files("md") {
        for quoted in span.captures_iter(&prose(&text)).map(|c| c[1].to_owned()) {
            let missing = if let Some(flag) = quoted.strip_prefix("--") {
                let flag = flag.split([' ', '=']).next().unwrap_or("");
                !(flag.is_empty()
                    || sources.contains(&format!("--{flag}"))
                    || known.contains(&flag.replace('-', "_")))
            } else if name.is_match(&quoted) {
                !known.contains(quoted.trim_end_matches("()"))
            } else if path_like.is_match(&quoted)
                && tops.iter().any(|t| quoted.starts_with(t.as_str()))
            {
                !root().join(&quoted).exists()
            } else {
                false
            };
            if missing {
                offences.push(format!("{path}: `{quoted}`"));
            }
        }
    }
    none("names in documents that the code doesn't know", offences);
}
