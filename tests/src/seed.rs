//! Seeds: printed by each randomised test, and repeated with `TIDEMILL_SEED=n`.

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

/// A test's seed.
#[derive(Clone, Copy, Debug)]
pub struct Seed(pub u64);

impl Seed {
    /// The seed of `TIDEMILL_SEED`, or a new one; printed, so that a failure can be repeated.
    pub fn new(test: &str) -> Seed {
        let seed = match std::env::var("TIDEMILL_SEED") {
            Ok(text) => text.parse().expect("TIDEMILL_SEED is a number"),
            Err(_) => rand::random::<u32>() as u64,
        };
        eprintln!("{test}: to repeat, TIDEMILL_SEED={seed}");
        Seed(seed)
    }

    /// A generator; different `stream`s are independent.
    pub fn rng(self, stream: u64) -> ChaCha8Rng {
        let mut rng = ChaCha8Rng::seed_from_u64(self.0);
        rng.set_stream(stream);
        rng
    }
}

/// How often a repeated test repeats: `default`, which keeps CI short, or the number in the
/// environment variable `TIDEMILL_ROUNDS`.
pub fn rounds(default: usize) -> usize {
    match std::env::var("TIDEMILL_ROUNDS") {
        Ok(text) => text.parse().expect("TIDEMILL_ROUNDS is a number"),
        Err(_) => default,
    }
}
