//! Timings in the report.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Report, Role, Test};

/// Timings, from interleaved pairs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Bench {
    /// Pairs measured, warm-up apart.
    pub repetitions: usize,
    /// One row per engine, thread count and test.
    pub rows: Vec<BenchRow>,
    /// One entry per thread count and test.
    pub ratios: Vec<BenchRatio>,
    /// One entry per engine and thread count, the reference's before the candidate's.
    pub memory: Vec<BenchMemory>,
    /// Whether the tokens generated while timing equal those of the untimed run, for `reference` and
    /// `candidate`.
    pub tokens_reproduced: BTreeMap<String, bool>,
    /// The tokens that each test generates, one entry per thread count and test.
    #[serde(default)]
    pub tokens: Vec<BenchTokens>,
    /// What the machine can do on the cores that the engines are timed on, one entry per thread count.
    #[serde(default)]
    pub roofline: Vec<BenchRoofline>,
    /// What one token costs by the model's shapes; null where the engines do not say.
    #[serde(default)]
    pub work: Option<TokenWork>,
    /// What could not be measured, and why; what the figures are not good for.
    #[serde(default)]
    pub notes: Vec<String>,
    /// The candidate's compact copies of the output head, by thread count.
    #[serde(default)]
    pub compact_heads: Vec<BenchCompactHead>,
    /// Matrix products by themselves, at the model's shapes, of engines that time them; empty where none does.
    #[serde(default)]
    pub kernels: Vec<BenchKernel>,
    /// The quantisers of activations before ternary products by themselves, of engines that time them.
    #[serde(default)]
    pub quantisers: Vec<BenchQuantiser>,
    /// Of the random prompts that repetitions have of their own, one like the other in length (SplitMix64); null in older
    /// reports, whose repetitions all have the prompts of [`Report::inputs`].
    #[serde(default)]
    pub seed: Option<u64>,
}

/// One test of one engine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct BenchRow {
    /// Engine name.
    pub engine: String,
    /// Threads.
    pub threads: usize,
    /// What is timed, with a warm page cache unless it ends in ` cold`:
    /// - `pp128`: prefill of 128 tokens from an empty context, logits of the last one only;
    /// - `tg64`: 64 greedy decode steps;
    /// - `tg64 certified`: the same with the candidate's compact head ([`Bench::compact_heads`]), which draws the same
    ///   tokens; the reference's figures are those of `tg64`;
    /// - `ttft`: from a prompt (of the first `pp` test) to its first token, the model loaded;
    /// - `load`: loading the model;
    /// - `load+ttft`: loading it, then the first token of a one-token prompt. An engine that only maps the file
    ///   when it loads reads it here.
    pub test: String,
    /// Tokens per second; null for tests measured in milliseconds.
    pub tps: Option<Measured>,
    /// Milliseconds; null for tests measured in tokens per second.
    pub ms: Option<Measured>,
    /// The median's share of what the machine can do: of the read bandwidth for `tg`
    /// (`tokens/s * weight_bytes / read_bytes_per_second`), of the int8 peak for `pp`
    /// (`tokens/s * ternary_macs / int8_macs_per_second`). A model that fits the caches, or an engine that
    /// repacks weights to fewer bytes, can exceed 1 in `tg`. Null for other tests, and where one of the factors is not
    /// known.
    #[serde(default)]
    pub roofline_share: Option<f64>,
    /// Time between tokens, of `tg` tests.
    #[serde(default)]
    pub inter_token: Option<InterToken>,
    /// Time of a repetition by the driver's clock, around the request and its answer, milliseconds: the median. Of `tg`
    /// tests it includes the prompt. What the engine reports must fit into it.
    #[serde(default)]
    pub driver_ms: Option<f64>,
    /// CPU time of a repetition, user and system, all threads, seconds: the median. Of `tg` tests it includes the
    /// prompt. By the operating system where it says; else, and in older reports, by the engine itself.
    #[serde(default)]
    pub cpu_seconds: Option<f64>,
    /// Energy of a repetition, joules, all CPU packages and whatever else runs on them (RAPL): the median. Null where
    /// the machine does not say.
    #[serde(default)]
    pub energy: Option<f64>,
}

/// A median with its bootstrap interval.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Measured {
    /// Median of the samples.
    pub median: f64,
    /// Lower end of the 95% bootstrap interval of the median.
    pub low: f64,
    /// Upper end of the same.
    pub high: f64,
    /// Every sample, in the order taken.
    pub samples: Vec<f64>,
}

impl Measured {
    /// The median and the interval as `format` writes numbers, the unit of which is said once where all three share it:
    /// `97.1 t/s`, `96.0 to 98.3`.
    pub fn written(&self, format: fn(f64) -> String) -> (String, String) {
        let median = format(self.median);
        let unit = median.split_once(' ').map(|(_, unit)| format!(" {unit}"));
        let end = |x| {
            let text = format(x);
            let bare = unit.as_ref().and_then(|unit| text.strip_suffix(unit));
            bare.map(str::to_owned).unwrap_or(text)
        };
        let interval = format!("{} to {}", end(self.low), end(self.high));
        (median, interval)
    }
}

/// Time between tokens over the decode steps of all repetitions, milliseconds, by nearest rank.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct InterToken {
    /// Median.
    pub p50: f64,
    /// 95th percentile.
    pub p95: f64,
    /// 99th percentile.
    pub p99: f64,
    /// Every step, in the order taken.
    #[serde(default)]
    pub samples: Vec<f64>,
}

/// A matrix product, timed by itself on one thread. Weights of the Rust engine are read from memory, not from a cache, and
/// its activations are quantised before. BitNet.cpp's products are timed in its graph, which reads the weights of one
/// layer after the other, with the quantisation of their activations and the call of a graph of one node; those that do
/// not take much longer than such a call are left out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct BenchKernel {
    /// Whose it is; null in older reports, in which it is the Rust engine's.
    #[serde(default)]
    pub role: Option<Role>,
    /// The instructions it is written for: `avx2`, `avx512-vnni`, `neon`, …; of BitNet.cpp the operation, `ggml MUL_MAT`.
    pub kernel: String,
    /// Type of the weights, as in the model file: `I2_S`, `F16`, …
    pub weights: String,
    /// Rows of the matrix: length of the product.
    pub rows: usize,
    /// Columns of the matrix: length of the activations.
    pub columns: usize,
    /// Tokens at once: 1 as in decoding, more as in prefill.
    pub tokens: usize,
    /// Milliseconds per product.
    pub ms: Measured,
    /// Multiply-accumulates per second, of the median.
    pub macs_per_second: f64,
    /// Bytes of weights per second, of the median.
    pub weight_bytes_per_second: f64,
    /// Share of what one thread of the machine can do: of the read bandwidth for one token, of the int8 peak for more.
    /// Null where that was not measured, and for several tokens with weights that are not ternary. BitNet.cpp's can exceed 1
    /// with weights that fit the caches.
    pub roofline_share: Option<f64>,
}

/// One token's activations quantised to int8 by themselves, on one thread, from a cache.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct BenchQuantiser {
    /// Whose it is.
    pub role: Role,
    /// The instructions it is written for: `avx2`, `avx512-vnni`, `neon`, …; of BitNet.cpp its name.
    pub kernel: String,
    /// Activations of the token: columns of the matrices.
    pub columns: usize,
    /// Milliseconds for the token.
    pub ms: Measured,
    /// Activations per second, of the median.
    pub elements_per_second: f64,
}

/// Candidate over reference, pair by pair: above 1 the candidate is faster.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct BenchRatio {
    /// Threads.
    pub threads: usize,
    /// As in [`BenchRow::test`].
    pub test: String,
    /// Median of the pairs' speed ratios.
    pub median: f64,
    /// Lower end of the 95% bootstrap interval of the median.
    pub low: f64,
    /// Upper end of the same.
    pub high: f64,
}

/// Memory of one engine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct BenchMemory {
    /// Engine name.
    pub engine: String,
    /// Threads; null in older reports.
    #[serde(default)]
    pub threads: Option<usize>,
    /// Largest resident set of a worker that ran the `pp` and `tg` tests at this thread count and nothing else,
    /// without taps, bytes. Pages of the mapped file count. By the operating system, of all processes of the worker, where
    /// it says; else, and in older reports, by the engine itself.
    pub peak_rss_bytes: u64,
}

/// A compact copy of the output head, with which the candidate draws the same tokens from less memory traffic: rows of
/// the head that a proven bound leaves in the running are computed from the head itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct BenchCompactHead {
    /// Threads.
    pub threads: usize,
    /// Size of the copy, bytes; part of the resident set.
    pub bytes: u64,
    /// Largest resident set of the worker that ran the `certified` tests and nothing else, bytes.
    pub peak_rss_bytes: Option<u64>,
    /// Tokens generated with it, warm-up included.
    pub tokens: u64,
    /// Of these, those found without all logits; the others fell back to the full head.
    pub certified: u64,
    /// Rows computed from the head itself for those.
    pub exact_rows: u64,
}

/// The tokens that a test generates in both engines.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct BenchTokens {
    /// Threads.
    pub threads: usize,
    /// As in [`BenchRow::test`].
    pub test: String,
    /// How many.
    pub count: usize,
    /// Of the timed repetitions with prompts of their own, those whose tokens were held against the reference's own
    /// logits.
    #[serde(default)]
    pub reference_checked: usize,
    /// The same of the candidate.
    #[serde(default)]
    pub candidate_checked: usize,
    /// XXH3 (64 bits, hex) over the reference's token IDs as little-endian u32, untimed.
    pub reference: String,
    /// The same of the candidate.
    pub candidate: String,
    /// Index of the first token in which the engines differ; null if they do not.
    pub first_mismatch: Option<usize>,
    /// Whether the reference generated the same tokens in every repetition of that prompt: the warm-up, and a later one.
    pub reference_reproduced: bool,
    /// Whether the candidate did.
    pub candidate_reproduced: bool,
}

/// What the cores that the engines are timed on can do, all together.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct BenchRoofline {
    /// Threads.
    pub threads: usize,
    /// The CPUs, by the system's numbers, that both engines are pinned to.
    pub cpus: Vec<usize>,
    /// Reading memory far beyond the caches, bytes per second; null if not measured.
    pub read_bytes_per_second: Option<f64>,
    /// int8 multiply-accumulates per second from registers; null if not measured.
    pub int8_macs_per_second: Option<f64>,
    /// The instructions behind it.
    pub int8_instructions: Option<String>,
}

/// What one token costs by the model's shapes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TokenWork {
    /// Bytes that a decode step reads: the matrices of all layers and the output head.
    pub weight_bytes: u64,
    /// Multiply-accumulates of a token in the ternary matrices; null without any.
    pub ternary_macs: Option<u64>,
}

/// One test at one thread count, both engines side by side.
#[derive(Clone, Copy, Debug)]
pub struct TimedPair<'a> {
    /// As in [`BenchRow::test`].
    pub test: &'a str,
    /// Threads.
    pub threads: usize,
    /// The reference's row.
    pub reference: Option<&'a BenchRow>,
    /// The candidate's row.
    pub candidate: Option<&'a BenchRow>,
    /// Candidate over reference.
    pub ratio: Option<&'a BenchRatio>,
    /// What both generated.
    pub tokens: Option<&'a BenchTokens>,
}

impl<'a> TimedPair<'a> {
    /// The row of the engine in a role.
    pub fn row(&self, role: Role) -> Option<&'a BenchRow> {
        role.of(self.reference, self.candidate)
    }
}

impl Report {
    /// The timings, test by test and thread count by thread count, in the order of the report.
    pub fn timed_pairs(&self) -> Vec<TimedPair<'_>> {
        let Some(bench) = &self.bench else {
            return Vec::new();
        };
        let mut keys: Vec<(&str, usize)> = Vec::new();
        let rows = bench.rows.iter().map(|r| (r.test.as_str(), r.threads));
        let ratios = bench.ratios.iter().map(|r| (r.test.as_str(), r.threads));
        for key in rows.chain(ratios) {
            if !keys.contains(&key) {
                keys.push(key);
            }
        }
        let pair = |(test, threads)| {
            let rows = bench.rows.iter();
            let of_test = rows.filter(|r| r.test == test && r.threads == threads);
            let [reference, candidate] = self.sides(of_test, |r| &r.engine);
            let (mut ratios, mut tokens) = (bench.ratios.iter(), bench.tokens.iter());
            TimedPair {
                test,
                threads,
                reference,
                candidate,
                ratio: ratios.find(|r| r.test == test && r.threads == threads),
                tokens: tokens.find(|t| t.test == test && t.threads == threads),
            }
        };
        keys.into_iter().map(pair).collect()
    }

    /// The CPUs that so many threads were timed on, if those were fewer: then they waited for each other, and the figures
    /// say little about the engines.
    pub fn shared_cpus(&self, threads: usize) -> Option<usize> {
        let mut rooflines = self.bench.iter().flat_map(|bench| &bench.roofline);
        let pinned = rooflines
            .find(|r| r.threads == threads)
            .map(|r| r.cpus.len());
        let cpus = pinned.filter(|&n| n > 0).unwrap_or(self.environment.cpus);
        (cpus < threads).then_some(cpus)
    }

    /// Largest resident sets of the workers that ran a test, reference and candidate, bytes.
    pub fn memory_of(&self, pair: &TimedPair) -> [Option<u64>; 2] {
        let [reference, candidate] = self.timed_memory(pair.threads);
        if !matches!(pair.test.parse(), Ok(Test::Certified(_))) {
            return [reference, candidate];
        }
        let mut heads = self.bench.iter().flat_map(|bench| &bench.compact_heads);
        let head = heads.find(|head| head.threads == pair.threads);
        [reference, head.and_then(|head| head.peak_rss_bytes)]
    }

    /// Largest resident sets of the workers that were timed at a thread count, reference and candidate, bytes.
    pub fn timed_memory(&self, threads: usize) -> [Option<u64>; 2] {
        let memory = self.bench.iter().flat_map(|bench| &bench.memory);
        let of_threads = memory.filter(|m| m.threads.is_none_or(|t| t == threads));
        let sides = self.sides(of_threads, |m| &m.engine);
        sides.map(|m| m.map(|m| m.peak_rss_bytes))
    }

    /// The reference's and the candidate's of some items. An engine compared with itself has two of one name: the
    /// reference's comes first.
    fn sides<'a, T>(
        &self,
        items: impl Iterator<Item = &'a T>,
        name: impl Fn(&T) -> &String,
    ) -> [Option<&'a T>; 2] {
        let items: Vec<&T> = items.collect();
        let reference = items
            .iter()
            .position(|item| name(item) == &self.engines.reference.name);
        let candidate = items
            .iter()
            .rposition(|item| name(item) == &self.engines.candidate.name);
        let candidate = candidate.filter(|&i| Some(i) != reference);
        [reference, candidate].map(|i| i.map(|i| items[i]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::number;

    #[test]
    fn a_unit_is_said_once_where_it_is_shared() {
        let mut m = Measured {
            median: 980.0,
            low: 951.0,
            high: 990.0,
            samples: Vec::new(),
        };
        let said = |m: &Measured| m.written(number::milliseconds);
        assert_eq!(said(&m), ("980 ms".to_owned(), "951 to 990".to_owned()));
        m.high = 1200.0;
        assert_eq!(said(&m).1, "951 to 1.20 s");
    }
}
