//! The gate in the report: the run held against a baseline.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Test;
use crate::number;

/// The run held against a baseline. What came of it is part of the report's verdict.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Gate {
    /// Path of the baseline.
    pub baseline: String,
    /// The slowdown that is let through however little a series scatters, as a share: 0.05 is 5%.
    pub max_regression: f64,
    /// Rows that the baseline's latest run of this model, these engines and these inputs compared; null if it has none.
    pub baseline_rows: Option<u64>,
    /// Exit code of the run by itself.
    pub ungated_exit_code: u8,
    /// Every speed that was measured; of a test that is another's first part (`ttft`), only the other's.
    pub series: Vec<GateSeries>,
    /// What the gate finds wrong, most severe first; also among the verdict's reasons.
    pub reasons: Vec<String>,
    /// What is to be known beside that: what `--update` accepted, and what it took in without judging it.
    #[serde(default)]
    pub notes: Vec<String>,
    /// What is other here than in every run of the baseline, so that no speed is held against them: `CPU: A, B in the
    /// baseline`. Empty if there is a run to hold them against, and if the baseline knows nothing of this model, these
    /// engines and these inputs.
    #[serde(default)]
    pub changed: Vec<String>,
}

/// One speed, now and in the baseline's history.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct GateSeries {
    /// As in [`BenchRow::test`](super::BenchRow::test).
    pub test: String,
    /// Threads.
    pub threads: usize,
    /// Which speed.
    pub figure: GateFigure,
    /// Runs in the baseline's history, all levels together.
    pub runs: usize,
    /// The level: the median of the runs since it last changed. Null without any.
    pub baseline: Option<f64>,
    /// The best accepted level, which slowdowns count from: the largest median of successive runs since the level last
    /// changed, half of them; of the level before, as long as the last began faster and has fewer than five. Null likewise, and
    /// in older reports.
    #[serde(default)]
    pub best: Option<f64>,
    /// How far single runs lie from their level, as a share of it: the standard deviation over the whole history, by the
    /// differences of successive runs, so that a drift is none of it; larger where the runs are few (Student's t). Null
    /// where they are too few.
    pub noise: Option<f64>,
    /// The slowdown beyond which the series is red: the larger of [`Gate::max_regression`] and three times the noise.
    /// Null where the noise is.
    pub threshold: Option<f64>,
    /// This run, and the repetition if the first was not enough.
    pub measurements: Vec<GateMeasurement>,
    /// How each engine's own speed changed, and the machine's, in the last measurement; null where the baseline does not
    /// say what they were in the same environment.
    #[serde(default)]
    pub alone: Option<GateAlone>,
    /// What came of it.
    pub result: GateResult,
    /// Whether `--update` accepts it as it is: a level of its own begins with this run, or a test is given up.
    #[serde(default)]
    pub accepted: bool,
}

/// Changes of what a ratio is made of, as shares: -0.1 is 10% slower.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct GateAlone {
    /// Of the reference's speed.
    pub reference: f64,
    /// Of the candidate's.
    pub candidate: f64,
    /// Of what the machine can do ([`BenchRoofline`](super::BenchRoofline)): of its read bandwidth or its int8 peak,
    /// whichever fell more. Null where neither is known.
    pub machine: Option<f64>,
}

/// Which speed a series is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum GateFigure {
    /// Candidate over reference, pair by pair: the machine's own noise cancels.
    Ratio,
    /// The candidate's, repetitions per second; only where the baseline was measured in the same environment.
    Absolute,
}

/// One measurement of a series.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct GateMeasurement {
    /// The median.
    pub value: f64,
    /// Samples behind it.
    pub samples: usize,
    /// Change against the baseline's level, as a share of it: -0.1 is 10% slower. Null without a level.
    pub change: Option<f64>,
    /// Lower end of its 95% bootstrap interval, over the samples of this run and the runs of the baseline.
    pub low: Option<f64>,
    /// Upper end of the same.
    pub high: Option<f64>,
    /// The same against the best accepted level. Null without one, and in older reports.
    #[serde(default)]
    pub from_best: Option<GateChange>,
}

/// A change with its 95% bootstrap interval, as shares.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct GateChange {
    /// -0.1 is 10% slower.
    pub change: f64,
    /// Lower end of the interval.
    pub low: f64,
    /// Upper end of the same.
    pub high: f64,
}

/// What came of a series.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum GateResult {
    /// No slower than the threshold allows.
    Pass,
    /// Surely faster than the baseline, by more than the threshold.
    Improved,
    /// Surely slower than the baseline, by more than the threshold, and again when measured again.
    Regressed,
    /// Red at first, and not when measured again.
    NotConfirmed,
    /// Red, and could not be measured again. Not judged.
    NotRepeated,
    /// The baseline's history or this run has too few samples. Not judged.
    TooFewSamples,
    /// The baseline has no such series. Not judged.
    NoBaseline,
    /// In the baseline, and not measured in this run. Not judged.
    NotMeasured,
    /// The history scatters so much that only a slowdown of more than three times [`Gate::max_regression`] could be told
    /// from it. Not judged.
    TooNoisy,
    /// Slower, and the ratio is not surely so: the machine is. Not judged, and no fault.
    MachineChanged,
    /// Slower than the threshold allows, and not surely so; or the interval, or twice the noise, leaves open that it is
    /// slower by three times [`Gate::max_regression`]. Not judged.
    Undecided,
    /// The ratio changed by more than the threshold because the reference's own speed did. Not judged.
    ReferenceChanged,
    /// Both engines are slower, which their ratio does not show, and nothing says that the machine is. Not judged.
    BothSlower,
}

impl Gate {
    /// `99 rows compared, 100 in the baseline's latest run`.
    pub fn rows_sentence((now, before): (u64, u64)) -> String {
        format!(
            "{} compared, {} in the baseline's latest run",
            number::plural(now, "row"),
            number::count(before)
        )
    }
}

impl GateSeries {
    /// `decode, tg64 at 2 threads (candidate over reference)`.
    pub fn name(&self) -> String {
        format!("{} ({})", self.at(), self.figure.name())
    }

    /// `decode, tg64 at 2 threads`.
    pub fn at(&self) -> String {
        let phase = match self.test.parse() {
            Ok(Test::Prefill(_)) => "prefill, ",
            Ok(Test::Decode(_) | Test::Certified(_)) => "decode, ",
            Ok(Test::Load(_) | Test::FirstToken(_)) => "loading, ",
            Ok(Test::TimeToFirstToken) | Err(_) => "",
        };
        let threads = number::plural(self.threads as u64, "thread");
        format!("{phase}{} at {threads}", self.test)
    }
}

impl GateFigure {
    /// In words.
    pub fn name(self) -> &'static str {
        match self {
            GateFigure::Ratio => "candidate over reference",
            GateFigure::Absolute => "candidate alone",
        }
    }
}

impl GateResult {
    /// In a word or two.
    pub fn name(self) -> &'static str {
        match self {
            GateResult::Pass => "pass",
            GateResult::Improved => "faster",
            GateResult::Regressed => "slower",
            GateResult::NotConfirmed => "red once, pass",
            GateResult::NotRepeated => "not confirmed",
            GateResult::TooFewSamples => "too few samples",
            GateResult::NoBaseline => "no baseline",
            GateResult::NotMeasured => "not measured",
            GateResult::TooNoisy => "too noisy",
            GateResult::MachineChanged => "machine changed",
            GateResult::Undecided => "undecided",
            GateResult::ReferenceChanged => "reference changed",
            GateResult::BothSlower => "both slower",
        }
    }
}
