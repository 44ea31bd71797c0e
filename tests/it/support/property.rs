//! Properties that hold for all inputs, checked with random inputs. The unit tests of the crate use this file too.
//!
//! `./scripts/test --full` checks a hundred times as many inputs. A failure prints the smallest failing input that was
//! found, and the command that repeats the run: `PROPERTY_SEED=7 PROPERTY_CASES=256 ./scripts/test NAME`. No file stores
//! the inputs.

use std::hash::{BuildHasher, Hasher, RandomState};

use proptest::{
    collection::vec,
    prelude::{Strategy, any, prop_oneof},
    sample::select,
    test_runner::{Config, RngSeed, TestRunner},
};

/// The number of inputs with which a property of `cost` 1 is checked.
const CASES: u32 = 256;
/// As [`CASES`], with `./scripts/test --full`.
const FULL_CASES: u32 = 100 * CASES;

/// Checks that `holds` does not panic for random inputs. `cost` is the relative cost of one check: the number of inputs is
/// [`CASES`] or [`FULL_CASES`] divided by `cost`, unless the variable `PROPERTY_CASES` has another number.
///
/// # Panics
/// If `holds` panics for an input, with the smallest such input that was found and the command that repeats the run.
#[track_caller]
pub fn property<S: Strategy>(cost: u32, inputs: S, holds: impl Fn(S::Value)) {
    let usual = if std::env::var_os("TEST_FULL").is_some() { FULL_CASES } else { CASES };
    let cases = setting("PROPERTY_CASES").unwrap_or_else(|| (usual / cost).max(1));
    let seed = setting("PROPERTY_SEED").unwrap_or_else(|| RandomState::new().build_hasher().finish());
    let config = Config {
        cases,
        rng_seed: RngSeed::Fixed(seed),
        failure_persistence: None,
        max_shrink_iters: 2_000 / cost,
        ..Config::default()
    };
    let result = TestRunner::new(config).run(&inputs, |input| {
        holds(input);
        Ok(())
    });
    if let Err(error) = result {
        let thread = std::thread::current();
        let name = thread.name().unwrap_or_default();
        panic!("{error}\nrepeat it with PROPERTY_SEED={seed} PROPERTY_CASES={cases} ./scripts/test {name}");
    }
}

/// Reads a number from an environment variable. Returns `None` if the variable is not set.
#[track_caller]
fn setting<T: std::str::FromStr>(name: &str) -> Option<T> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} is not a number: {text:?}")))
}

/// Generates texts of up to `length` parts. A part is one of the words in `parts`, a whitespace character, or any
/// character. The words are separated by spaces; they are those that the tested parser treats in a special way.
pub fn text(parts: &'static str, length: usize) -> impl Strategy<Value = String> {
    let part = prop_oneof![
        8 => select(parts.split(' ').collect::<Vec<_>>()).prop_map(str::to_owned),
        1 => select(vec![" ", "\t", "\r", "\n"]).prop_map(str::to_owned),
        2 => any::<char>().prop_map(String::from),
    ];
    vec(part, 0..=length).prop_map(|parts| parts.concat())
}
