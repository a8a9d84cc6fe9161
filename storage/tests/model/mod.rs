//! A store in memory that is obviously right, random commits for both, and comparisons.

#![allow(dead_code)]

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::cast::AsArray;
use arrow::array::types::{Float64Type, Int64Type};
use arrow::array::{Array, ArrayRef, Float64Array, Int64Array, RecordBatch, StringViewArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use tidemill_storage::*;
use tidemill_zset::{ArrangementId, Delta, Epoch};

/// key, text, number
pub type Row = (i64, Option<String>, Option<i64>);

pub fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("k", DataType::Int64, true),
        Field::new("t", DataType::Utf8View, true),
        Field::new("f", DataType::Float64, true),
    ]))
}

pub fn batch(rows: &[Row]) -> RecordBatch {
    let columns: Vec<ArrayRef> = vec![
        Arc::new(Int64Array::from_iter_values(rows.iter().map(|r| r.0))),
        Arc::new(StringViewArray::from_iter(rows.iter().map(|r| r.1.clone()))),
        Arc::new(Float64Array::from_iter(
            rows.iter().map(|r| r.2.map(|v| v as f64)),
        )),
    ];
    RecordBatch::try_new(schema(), columns).unwrap()
}

pub fn rows_of(b: &RecordBatch) -> Vec<Row> {
    let k = b.column(0).as_primitive::<Int64Type>();
    let t = b.column(1).as_string_view();
    let f = b.column(2).as_primitive::<Float64Type>();
    (0..b.num_rows())
        .map(|i| {
            (
                k.value(i),
                t.is_valid(i).then(|| t.value(i).to_string()),
                f.is_valid(i).then(|| f.value(i) as i64),
            )
        })
        .collect()
}

#[derive(Clone, Debug)]
pub struct Entry {
    pub epoch: Epoch,
    pub row: Row,
    pub diff: i64,
}

#[derive(Clone, Debug)]
pub struct Arrangement {
    pub kind: ArrangementKind,
    pub key_columns: usize,
    /// Hashes are the key modulo a small number, so that different keys share them.
    pub colliding: bool,
    pub entries: Vec<Entry>,
    pub since: Epoch,
}

impl Arrangement {
    /// An empty one; kind and shape follow from the id.
    pub fn of(id: u64) -> Arrangement {
        let kind = match id % 3 {
            0 if id % 12 == 9 => ArrangementKind::Ordered,
            0 => ArrangementKind::Add,
            1 if id % 12 == 10 => ArrangementKind::OrderedLast,
            1 => ArrangementKind::Last,
            _ => ArrangementKind::Log,
        };
        Arrangement {
            kind,
            key_columns: match kind {
                ArrangementKind::Add if id.is_multiple_of(2) => 3,
                ArrangementKind::Log => 0,
                _ => 1,
            },
            colliding: (id / 3).is_multiple_of(2),
            entries: vec![],
            since: 0,
        }
    }

    pub fn desc(&self, id: u64) -> ArrangementDesc {
        ArrangementDesc {
            id: ArrangementId(id),
            kind: self.kind,
            schema: schema(),
            key_columns: self.key_columns,
        }
    }

    pub fn hashes(&self, rows: &[Row]) -> Vec<u64> {
        match (self.kind, self.colliding) {
            (ArrangementKind::Log, _) => Vec::new(),
            (_, true) => rows
                .iter()
                .map(|r| r.0 as u64 % 5 * (u64::MAX / 5))
                .collect(),
            (_, false) => {
                let batch = batch(rows);
                let keys = &batch.columns()[..self.key_columns];
                self.desc(0).key_hashes(keys, rows.len())
            }
        }
    }

    /// Contents as a multiset.
    pub fn contents(&self, at: Epoch) -> BTreeMap<Row, i64> {
        let mut out = BTreeMap::new();
        let visible = self.entries.iter().filter(|e| e.epoch <= at);
        if self.kind.is_last() {
            let mut newest: BTreeMap<i64, &Entry> = BTreeMap::new();
            for e in visible {
                newest.insert(e.row.0, e);
            }
            out.extend(
                newest
                    .values()
                    .filter(|e| e.diff > 0)
                    .map(|e| (e.row.clone(), 1)),
            );
        } else {
            for e in visible {
                *out.entry(e.row.clone()).or_default() += e.diff;
            }
        }
        out.retain(|_, d| *d != 0);
        out
    }

    /// A log's rows in the order of arrival; a retraction cancels the first equal row.
    pub fn log_order(&self, at: Epoch) -> Vec<Row> {
        let mut out = Vec::new();
        for e in self.entries.iter().filter(|e| e.epoch <= at) {
            if e.diff > 0 {
                for _ in 0..e.diff {
                    out.push(e.row.clone());
                }
            } else {
                for _ in 0..-e.diff {
                    let at = out
                        .iter()
                        .position(|r| *r == e.row)
                        .expect("retracts a row");
                    out.remove(at);
                }
            }
        }
        out
    }

    pub fn changes(&self, after: Epoch, until: Epoch) -> BTreeMap<Epoch, BTreeMap<Row, i64>> {
        let mut epochs: Vec<Epoch> = self.entries.iter().map(|e| e.epoch).collect();
        epochs.sort_unstable();
        epochs.dedup();
        let mut out = BTreeMap::new();
        for e in epochs.into_iter().filter(|e| *e > after && *e <= until) {
            let mut delta = self.contents(e);
            for (row, diff) in self.contents(e - 1) {
                *delta.entry(row).or_default() -= diff;
            }
            delta.retain(|_, d| *d != 0);
            if !delta.is_empty() {
                out.insert(e, delta);
            }
        }
        out
    }
}

/// What commits are like.
#[derive(Clone, Copy, Debug)]
pub struct Habits {
    /// How often a change has many rows.
    pub large: f64,
    /// How often the history of an arrangement ends later than before.
    pub forgets: f64,
}

impl Default for Habits {
    fn default() -> Self {
        Habits {
            large: 0.2,
            forgets: 0.15,
        }
    }
}

#[derive(Clone, Debug, Default)]
pub struct Model {
    pub habits: Habits,
    pub epoch: Option<Epoch>,
    pub reserved_upper: Epoch,
    pub arrangements: BTreeMap<u64, Arrangement>,
    pub catalog: BTreeMap<String, serde_json::Value>,
    pub offsets: BTreeMap<(u64, Vec<u8>), Vec<u8>>,
    pub next_id: u64,
}

/// Rows with a diff each.
pub type RowDiffs = Vec<(Row, i64)>;

/// A commit that is built for the store when it runs, so that it can stage.
#[derive(Clone, Debug)]
pub struct Plan {
    pub epoch: Epoch,
    pub create: Vec<u64>,
    pub drop: Vec<u64>,
    /// Arrangement, rows with diffs, staged beforehand?
    pub changes: Vec<(u64, RowDiffs, bool)>,
    pub catalog: Vec<(String, Option<serde_json::Value>)>,
    pub offsets: Vec<OffsetChange>,
    pub since: Vec<(u64, Epoch)>,
    /// Merge after it.
    pub merge: bool,
}

fn random_row(rng: &mut ChaCha8Rng, keys: i64) -> Row {
    let text = match rng.random_range(0..4) {
        0 => None,
        1 => Some("short".to_string()),
        2 => Some("a text that is longer than a view holds inline".to_string()),
        _ => Some(format!("{}", rng.random_range(0..3))),
    };
    let number = rng.random_bool(0.7).then(|| rng.random_range(0..3));
    (rng.random_range(0..keys), text, number)
}

impl Model {
    /// Invents the next commit.
    pub fn plan(&mut self, rng: &mut ChaCha8Rng, rows_max: usize) -> Plan {
        let epoch = self.epoch.map_or(1, |e| e + rng.random_range(1..4));
        let mut plan = Plan {
            epoch,
            create: vec![],
            drop: vec![],
            changes: vec![],
            catalog: vec![],
            offsets: vec![],
            since: vec![],
            merge: rng.random_bool(0.1),
        };
        let mut after = self.clone();
        while after.arrangements.len() < 4
            || (rng.random_bool(0.05) && after.arrangements.len() < 7)
        {
            let id = after.next_id;
            after.next_id += 1;
            after.arrangements.insert(id, Arrangement::of(id));
            plan.create.push(id);
        }
        if rng.random_bool(0.04)
            && let Some(id) = after.arrangements.keys().next().copied()
        {
            plan.drop.push(id);
        }
        for (id, a) in &after.arrangements {
            if rng.random_bool(0.7) {
                let n = match rng.random_bool(self.habits.large) {
                    true => rng.random_range(1..=rows_max),
                    false => rng.random_range(1..4),
                };
                let rows = random_changes(rng, a, n);
                plan.changes.push((*id, rows, rng.random_bool(0.1)));
            }
            if rng.random_bool(self.habits.forgets) {
                let since = epoch - rng.random_range(0..6);
                plan.since.push((*id, since.max(0)));
            }
        }
        if rng.random_bool(0.3) {
            let key = format!("view/{}", rng.random_range(0..4));
            let value = rng.random_bool(0.7).then(|| {
                let long = "x".repeat(rng.random_range(0..10_000));
                serde_json::json!({"sql": long, "epoch": epoch})
            });
            plan.catalog.push((key, value));
        }
        for source in 0..2u64 {
            if rng.random_bool(0.5) {
                let key = vec![rng.random_range(0..3u8); rng.random_range(0..3)];
                let value = rng
                    .random_bool(0.8)
                    .then(|| vec![7; rng.random_range(0..5000)]);
                plan.offsets.push(OffsetChange { source, key, value });
            }
        }
        plan
    }

    pub fn apply(&mut self, plan: &Plan) {
        self.epoch = Some(plan.epoch);
        self.reserved_upper = self.reserved_upper.max(plan.epoch + 10);
        for id in &plan.create {
            self.next_id = self.next_id.max(id + 1);
            self.arrangements.insert(*id, Arrangement::of(*id));
        }
        // Staged runs become visible before the changes of the commit.
        let mut changes = plan.changes.clone();
        changes.sort_by_key(|c| !c.2);
        for (id, rows, _) in changes {
            let a = self.arrangements.get_mut(&id).unwrap();
            a.entries.extend(rows.into_iter().map(|(row, diff)| Entry {
                epoch: plan.epoch,
                row,
                diff,
            }));
        }
        for (id, since) in &plan.since {
            let a = self.arrangements.get_mut(id).unwrap();
            a.since = a.since.max(*since);
        }
        for id in &plan.drop {
            self.arrangements.remove(id);
        }
        for (key, value) in &plan.catalog {
            match value {
                Some(v) => self.catalog.insert(key.clone(), v.clone()),
                None => self.catalog.remove(key),
            };
        }
        for o in &plan.offsets {
            match &o.value {
                Some(v) => self.offsets.insert((o.source, o.key.clone()), v.clone()),
                None => self.offsets.remove(&(o.source, o.key.clone())),
            };
        }
    }
}

fn random_changes(rng: &mut ChaCha8Rng, a: &Arrangement, n: usize) -> Vec<(Row, i64)> {
    let keys = 40;
    match a.kind {
        ArrangementKind::Last | ArrangementKind::OrderedLast => {
            let mut by_key = BTreeMap::new();
            for _ in 0..n {
                let row = random_row(rng, keys * 4);
                by_key.insert(row.0, (row, if rng.random_bool(0.8) { 1 } else { -1 }));
            }
            by_key.into_values().collect()
        }
        ArrangementKind::Add | ArrangementKind::Ordered => (0..n)
            .map(|_| {
                let diff = [1, 1, 1, -1, 2, -2][rng.random_range(0..6)];
                (random_row(rng, keys), diff)
            })
            .collect(),
        ArrangementKind::Log => {
            let mut present = a.log_order(Epoch::MAX);
            let mut out = Vec::new();
            for _ in 0..n {
                if rng.random_bool(0.1) && !present.is_empty() {
                    let row = present.swap_remove(rng.random_range(0..present.len()));
                    out.push((row, -1));
                } else {
                    out.push((random_row(rng, keys), 1));
                }
            }
            out
        }
    }
}

/// Epochs that are committed together.
pub struct Group {
    /// Each with the shapes of the arrangements that it names.
    plans: Vec<(Plan, Model)>,
    /// What there is after them.
    pub after: Model,
    /// Merge after them.
    pub merge: bool,
}

impl Model {
    /// Invents the next group.
    pub fn plan_group(&mut self, rng: &mut ChaCha8Rng, rows_max: usize) -> Group {
        let mut after = self.clone();
        let epochs = match rng.random_bool(0.3) {
            true => rng.random_range(2..5),
            false => 1,
        };
        let mut plans = Vec::new();
        for _ in 0..epochs {
            let plan = after.plan(rng, rows_max);
            let shapes = shapes(&after, &plan);
            after.apply(&plan);
            plans.push((plan, shapes));
        }
        let merge = plans.iter().any(|(plan, _)| plan.merge);
        Group {
            plans,
            after,
            merge,
        }
    }
}

/// Runs `group` on the store.
pub fn commit(store: &Store, group: &Group) -> Result<StoreVersion> {
    let mut commits = Vec::new();
    for (plan, shapes) in &group.plans {
        commits.push(prepare(store, plan, shapes)?);
    }
    store.commit_group(commits)
}

/// The commit that `plan` means; `shapes` knows the arrangements that it names.
fn prepare(store: &Store, plan: &Plan, shapes: &Model) -> Result<Commit> {
    let mut c = Commit {
        epoch: plan.epoch,
        reserved_upper: plan.epoch + 10,
        catalog: plan.catalog.clone(),
        offsets: plan.offsets.clone(),
        create: plan
            .create
            .iter()
            .map(|id| shapes.arrangements[id].desc(*id))
            .collect(),
        drop: plan.drop.iter().map(|id| ArrangementId(*id)).collect(),
        since: plan
            .since
            .iter()
            .map(|(id, s)| (ArrangementId(*id), *s))
            .collect(),
        ..Commit::default()
    };
    for (id, rows, staged) in &plan.changes {
        let a = &shapes.arrangements[id];
        // As if two workers had sent it; real hashes may be left to the store.
        let (left, right) = rows.split_at(rows.len() / 2);
        let mut changes = Vec::new();
        for part in [left, right] {
            let only: Vec<Row> = part.iter().map(|r| r.0.clone()).collect();
            let diffs: Vec<i64> = part.iter().map(|r| r.1).collect();
            changes.push(ArrangementChange {
                arrangement: ArrangementId(*id),
                hashes: match a.colliding || only.len().is_multiple_of(2) {
                    true => a.hashes(&only),
                    false => vec![],
                },
                delta: Delta::new(batch(&only), diffs),
            });
        }
        if *staged {
            c.staged
                .push(store.stage(&a.desc(*id), plan.epoch, changes)?);
        } else {
            c.changes.extend(changes);
        }
    }
    Ok(c)
}

/// The shapes of all arrangements that `plan` names: those of `model` and those it creates.
fn shapes(model: &Model, plan: &Plan) -> Model {
    let mut shapes = model.clone();
    for id in &plan.create {
        shapes.arrangements.insert(*id, Arrangement::of(*id));
    }
    shapes
}

fn sum(deltas: impl IntoIterator<Item = Delta>) -> BTreeMap<Row, i64> {
    let mut out = BTreeMap::new();
    for d in deltas {
        for (i, row) in rows_of(&d.rows).into_iter().enumerate() {
            *out.entry(row).or_default() += d.diffs.get(i);
        }
    }
    out
}

/// Panics unless the store holds exactly what the model does, now.
pub fn assert_equal(store: &Store, model: &Model) {
    if let Some(difference) = difference(store, model) {
        panic!("{difference}");
    }
}

/// What differs between the newest contents, if anything.
pub fn difference(store: &Store, model: &Model) -> Option<String> {
    if store.epoch() != model.epoch {
        return Some(format!("epoch {:?}, not {:?}", store.epoch(), model.epoch));
    }
    let catalog: BTreeMap<_, _> = store.catalog().unwrap().into_iter().collect();
    if catalog != model.catalog {
        return Some("catalog".into());
    }
    for source in 0..2 {
        let stored: Vec<_> = store.offsets(source).unwrap();
        let of = model.offsets.iter().filter(|((s, _), _)| *s == source);
        let expected: Vec<_> = of.map(|((_, k), v)| (k.clone(), v.clone())).collect();
        if stored != expected {
            return Some(format!("offsets of {source}"));
        }
    }
    let version = store.version();
    let ids: Vec<u64> = version.arrangements().iter().map(|a| a.0).collect();
    if ids != model.arrangements.keys().copied().collect::<Vec<_>>() {
        return Some("arrangements".into());
    }
    for (id, a) in &model.arrangements {
        let stored = version.arrangement(ArrangementId(*id)).unwrap();
        let found = sum(stored.scan(Epoch::MAX).map(|d| d.unwrap()));
        let expected = a.contents(Epoch::MAX);
        if found != expected {
            return Some(format!(
                "arrangement {id} {:?}: {found:?}\nnot {expected:?}",
                a.kind
            ));
        }
    }
    None
}

/// Compares scans, projections, look-ups and changes at random epochs that are still readable.
pub fn assert_reads(store: &Store, model: &Model, rng: &mut ChaCha8Rng) {
    let version = store.version();
    let newest = model.epoch.unwrap_or(0);
    for (id, a) in &model.arrangements {
        let stored = version.arrangement(ArrangementId(*id)).unwrap();
        let since = a.since.max(stored.since());
        let at = rng.random_range(since..=newest.max(since) + 1);
        let expected = a.contents(at);
        let scanned: Vec<Delta> = stored.scan(at).map(|d| d.unwrap()).collect();
        assert!(
            scanned
                .iter()
                .all(|d| !d.is_empty() && d.len() <= SCAN_ROWS_MAX)
        );
        if a.kind == ArrangementKind::Log {
            let mut found = Vec::new();
            for d in &scanned {
                for (i, row) in rows_of(&d.rows).into_iter().enumerate() {
                    assert!(d.diffs.get(i) > 0);
                    found.extend(std::iter::repeat_n(row, d.diffs.get(i) as usize));
                }
            }
            // Where a merge cancelled, the order is the same.
            assert_eq!(found, a.log_order(at), "log {id} at {at}");
        } else {
            let rows: usize = scanned.iter().map(|d| d.len()).sum();
            assert_eq!(
                rows,
                expected.len(),
                "arrangement {id} at {at} is consolidated"
            );
        }
        assert_eq!(
            sum(scanned),
            expected,
            "arrangement {id} {:?} at {at}",
            a.kind
        );
        assert_projection(&stored, at, &expected);
        assert_changes(&stored, a, since, newest, rng);
        if a.kind != ArrangementKind::Log {
            assert_lookups(&stored, a, at, rng);
            assert_range(&stored, a, at, rng);
            assert_ranges(&stored, a, at, rng);
        }
    }
}

fn assert_projection(stored: &Arc<ArrangementVersion>, at: Epoch, expected: &BTreeMap<Row, i64>) {
    let mut found: BTreeMap<Option<i64>, i64> = BTreeMap::new();
    for d in stored.scan_columns(at, &[2]) {
        let d = d.unwrap();
        assert_eq!(d.rows.num_columns(), 1);
        let f = d.rows.column(0).as_primitive::<Float64Type>();
        for i in 0..d.len() {
            let value = f.is_valid(i).then(|| f.value(i) as i64);
            *found.entry(value).or_default() += d.diffs.get(i);
        }
    }
    found.retain(|_, d| *d != 0);
    let mut projected: BTreeMap<Option<i64>, i64> = BTreeMap::new();
    for (row, diff) in expected {
        *projected.entry(row.2).or_default() += diff;
    }
    projected.retain(|_, d| *d != 0);
    assert_eq!(found, projected);
    let mut count = 0;
    for d in stored.scan_columns(at, &[]) {
        let d = d.unwrap();
        assert_eq!(d.rows.num_columns(), 0);
        count += (0..d.len()).map(|i| d.diffs.get(i)).sum::<i64>();
    }
    assert_eq!(count, expected.values().sum::<i64>());
}

fn assert_changes(
    stored: &Arc<ArrangementVersion>,
    a: &Arrangement,
    since: Epoch,
    newest: Epoch,
    rng: &mut ChaCha8Rng,
) {
    let after = rng.random_range(since..=newest.max(since));
    let until = rng.random_range(after..=newest.max(after) + 1);
    let mut found = BTreeMap::new();
    let mut last = Epoch::MIN;
    for (epoch, delta) in stored.changes(after, until).unwrap() {
        assert!(epoch > last);
        last = epoch;
        let diffs: Vec<i64> = (0..delta.len()).map(|i| delta.diffs.get(i)).collect();
        assert!(
            diffs.windows(2).all(|w| w[0] < 0 || w[1] > 0),
            "retractions first"
        );
        found.insert(epoch, sum([delta]));
    }
    // In parts it is the same, and a limit of nothing makes every epoch a part.
    let bytes_max = [0, 200, 1 << 20][rng.random_range(0..3)];
    let mut from = after;
    let mut of_parts = BTreeMap::new();
    for cut in stored.cuts(after, until, bytes_max).unwrap() {
        assert!(cut > from && cut <= until);
        let part = stored.changes(from, cut).unwrap();
        assert!(bytes_max > 0 || part.len() <= 1);
        of_parts.extend(part.into_iter().map(|(epoch, d)| (epoch, sum([d]))));
        from = cut;
    }
    assert_eq!(from, until);
    assert_eq!(of_parts, found);
    let mut expected = a.changes(after, until);
    found.retain(|_, rows| {
        rows.retain(|_, d| *d != 0);
        !rows.is_empty()
    });
    expected.retain(|_, rows| !rows.is_empty());
    assert_eq!(found, expected, "changes in ({after}, {until}]");
}

fn assert_lookups(
    stored: &Arc<ArrangementVersion>,
    a: &Arrangement,
    at: Epoch,
    rng: &mut ChaCha8Rng,
) {
    let mut candidates: Vec<Row> = a.entries.iter().map(|e| e.row.clone()).collect();
    candidates.retain(|_| rng.random_bool(0.3));
    candidates.push((1_000_000, None, None));
    let mut hashes = a.hashes(&candidates);
    hashes.sort_unstable();
    hashes.dedup();
    let mut expected = a.contents(at);
    expected.retain(|row, _| {
        hashes
            .binary_search(&a.hashes(std::slice::from_ref(row))[0])
            .is_ok()
    });
    let mut found = BTreeMap::new();
    let mut last = 0;
    for b in stored.get_many_at(&hashes, at).unwrap() {
        let rows = rows_of(&b.rows);
        assert_eq!(b.hashes.len(), rows.len());
        assert_eq!(&b.hashes[..], a.hashes(&rows));
        for (i, row) in rows.into_iter().enumerate() {
            assert!(b.hashes[i] >= last);
            last = b.hashes[i];
            assert!(found.insert(row, b.diffs[i]).is_none(), "consolidated");
        }
    }
    assert_eq!(found, expected, "look-ups at {at}");
}

fn assert_range(
    stored: &Arc<ArrangementVersion>,
    a: &Arrangement,
    at: Epoch,
    rng: &mut ChaCha8Rng,
) {
    let contents = a.contents(at);
    let rows: Vec<Row> = contents.keys().cloned().collect();
    let hashes = a.hashes(&rows);
    let bound = |rng: &mut ChaCha8Rng, open: u64| match rng.random_range(0..3) {
        0 => open,
        1 => rng.random(),
        _ if hashes.is_empty() => open,
        _ => hashes[rng.random_range(0..hashes.len())],
    };
    let (from, until) = (bound(rng, 0), bound(rng, u64::MAX));
    let mut expected = contents;
    let mut inside = hashes.iter().map(|h| (from..=until).contains(h));
    expected.retain(|_, _| inside.next().expect("one hash per row"));
    let mut found = BTreeMap::new();
    let mut last = 0;
    for b in stored.range_batches(at, (from, until)).unwrap() {
        let b = b.unwrap();
        let rows = rows_of(&b.rows);
        assert!((1..=SCAN_ROWS_MAX).contains(&rows.len()));
        assert_eq!(&b.hashes[..], a.hashes(&rows));
        for (i, row) in rows.into_iter().enumerate() {
            assert!(b.hashes[i] >= last);
            last = b.hashes[i];
            assert!(found.insert(row, b.diffs[i]).is_none(), "consolidated");
        }
    }
    assert_range_rows(stored, a, &[(from, until)]);
    if from <= until {
        let (rows, backwards) = (rng.random_range(1..20), rng.random());
        let end = stored.first_of_range((from, until), rows, backwards);
        let end = end.unwrap();
        assert!((from..=until).contains(&end));
        let (part, rest) = match backwards {
            false => ((from, end), end < until),
            true => ((end, until), end > from),
        };
        assert!(!rest || 16 * stored.range_rows(&[part]).unwrap() >= rows);
    }
    assert_eq!(found, expected, "hashes {from:x} to {until:x} at {at}");
}

/// Of blocks that are read as a whole no fewer rows are announced than there are now; of others a sixteenth.
fn assert_range_rows(stored: &ArrangementVersion, a: &Arrangement, ranges: &[(u64, u64)]) {
    let rows: Vec<Row> = a.contents(Epoch::MAX).into_keys().collect();
    let wanted = |h: &u64| ranges.iter().any(|(from, until)| from <= h && h <= until);
    let there = a.hashes(&rows).into_iter().filter(wanted).count();
    assert!(16 * stored.range_rows(ranges).unwrap() >= there as u64);
    if ranges.contains(&(0, u64::MAX)) {
        assert!(stored.range_rows(ranges).unwrap() >= there as u64);
    }
}

/// Several ranges at once.
fn assert_ranges(
    stored: &Arc<ArrangementVersion>,
    a: &Arrangement,
    at: Epoch,
    rng: &mut ChaCha8Rng,
) {
    let mut expected = a.contents(at);
    let rows: Vec<Row> = expected.keys().cloned().collect();
    let hashes = a.hashes(&rows);
    let mut bounds: Vec<u64> = vec![];
    for _ in 0..rng.random_range(1..5) {
        match hashes.is_empty() || rng.random() {
            true => bounds.extend([rng.random::<u64>(), rng.random()]),
            false => {
                let hash = hashes[rng.random_range(0..hashes.len())];
                bounds.extend([hash, hash.saturating_add(rng.random_range(0..3))]);
            }
        }
    }
    if rng.random_bool(0.1) {
        bounds = vec![0, u64::MAX];
    }
    bounds.sort_unstable();
    let mut ranges: Vec<(u64, u64)> = vec![];
    for pair in bounds.chunks(2) {
        if ranges.last().is_none_or(|last| last.1 < pair[0]) {
            ranges.push((pair[0], pair[1]));
        }
    }
    let wanted = |h: &u64| ranges.iter().any(|(from, until)| from <= h && h <= until);
    let mut inside = hashes.iter().map(wanted);
    expected.retain(|_, _| inside.next().expect("one hash per row"));
    let all: Vec<usize> = (0..stored.desc().schema.fields().len()).collect();
    let mut found = BTreeMap::new();
    let mut last = 0;
    for b in stored.ranges_at(&ranges, at, &all).unwrap() {
        let rows = rows_of(&b.rows);
        assert!((1..=SCAN_ROWS_MAX).contains(&rows.len()));
        assert_eq!(&b.hashes[..], a.hashes(&rows));
        for (i, row) in rows.into_iter().enumerate() {
            assert!(b.hashes[i] >= last);
            last = b.hashes[i];
            assert!(found.insert(row, b.diffs[i]).is_none(), "consolidated");
        }
    }
    assert_range_rows(stored, a, &ranges);
    assert_eq!(found, expected, "{ranges:x?} at {at}");
}
