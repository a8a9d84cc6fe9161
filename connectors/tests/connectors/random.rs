//! Random appends, renames, new and edited files, with restarts at random batches: each row exactly once.

use std::collections::BTreeMap;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::harness::*;

/// What the files hold now, by name.
type Truth = BTreeMap<String, String>;

fn truth_rows(truth: &Truth) -> Vec<String> {
    let mut rows: Vec<String> = truth
        .values()
        .flat_map(|t| {
            t[..t.rfind('\n').map_or(0, |n| n + 1)]
                .lines()
                .map(String::from)
        })
        .collect();
    rows.sort();
    rows
}

struct World {
    input: Input,
    truth: Truth,
    rng: ChaCha8Rng,
    next: usize,
    edits: bool,
}

impl World {
    fn text(&mut self) -> String {
        let lines = self.rng.random_range(1..200);
        let mut text = String::new();
        for _ in 0..lines {
            self.next += 1;
            text.push_str(&format!(
                "row{}{}\n",
                self.next,
                "x".repeat(self.rng.random_range(0..40))
            ));
        }
        if self.rng.random_bool(0.3) {
            // The last line is finished by the next append.
            text.truncate(text.len() - self.rng.random_range(1..3));
        }
        text
    }

    fn some_file(&mut self) -> Option<String> {
        let n = self.truth.len();
        (n > 0).then(|| {
            let at = self.rng.random_range(0..n);
            self.truth.keys().nth(at).expect("within").clone()
        })
    }

    fn step(&mut self) {
        let action = self.rng.random_range(0..if self.edits { 10 } else { 8 });
        let text = self.text();
        match (action, self.some_file()) {
            (0 | 1, _) | (_, None) => {
                self.next += 1;
                let name = format!("f{}.csv", self.next);
                self.input.put(&name, &text);
                self.truth.insert(name, text);
            }
            (2..=5, Some(name)) => {
                self.input.append(&name, &text);
                self.truth
                    .get_mut(&name)
                    .expect("it is there")
                    .push_str(&text);
            }
            (6 | 7, Some(name)) => {
                self.next += 1;
                let to = format!("r{}.csv", self.next);
                self.input.rename(&name, &to);
                let content = self.truth.remove(&name).expect("it is there");
                self.truth.insert(to, content);
                if action == 7 {
                    // Rotated: a new file takes the old name.
                    self.input.append(&name, &text);
                    self.truth.insert(name, text);
                }
            }
            (8, Some(name)) => {
                self.input.put(&name, &text);
                self.truth.insert(name, text);
            }
            (_, Some(name)) => {
                std::fs::write(self.input.path(&name), &text).expect("written");
                self.truth.insert(name, text);
            }
        }
    }
}

fn run(seed: u64, edits: bool) {
    let mut world = World {
        input: Input::new(),
        truth: Truth::new(),
        rng: ChaCha8Rng::seed_from_u64(seed),
        next: 0,
        edits,
    };
    // A file renamed and then edited between two looks is a deletion and a new file.
    let mut options = vec![("epoch_rows_max", "50")];
    if edits {
        options.push(("on_delete", "retract"));
    }
    let spec = words(world.input.dir.path(), edits, &options);
    let mut kept = Kept::default();
    for _ in 0..12 {
        let running = Running::start(&spec, &kept);
        for _ in 0..world.rng.random_range(0..8) {
            world.step();
            if world.rng.random_bool(0.5) {
                let batches = world.rng.random_range(0..6);
                running.take_some(&mut kept, batches);
            }
        }
        // A crash: what is in the queue is lost.
        running.stop();
    }
    let want = truth_rows(&world.truth);
    let running = Running::start(&spec, &kept);
    running.until(&mut kept, |k| {
        k.rows().len() == want.len() && k.sorted() == want
    });
    running.take_some(&mut kept, 1);
    running.stop();
    assert_eq!(kept.sorted(), want, "seed {seed}");
    assert!(kept.errors().is_empty(), "seed {seed}: {:?}", kept.errors());
    if !edits {
        let consumed: usize = world
            .truth
            .values()
            .map(|t| t.rfind('\n').map_or(0, |n| n + 1))
            .sum();
        assert_eq!(
            kept.bytes, consumed as u64,
            "seed {seed}: nothing is decoded twice"
        );
        let again = read_again(&spec, &kept).expect("nothing was edited");
        assert_eq!(again.sorted(), want, "seed {seed}");
    }
}

#[test]
fn each_row_exactly_once() {
    for seed in 0..12 {
        println!("seed {seed}");
        run(seed, false);
    }
}

#[test]
fn each_row_of_the_newest_generation_exactly_once() {
    for seed in 100..112 {
        println!("seed {seed}");
        run(seed, true);
    }
}
