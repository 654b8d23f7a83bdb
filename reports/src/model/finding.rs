//! What a verdict rests on.

use std::borrow::Cow;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Report, Role, Verdict};
use crate::outcome::Outcome;

/// Something that makes a run other than a pass, or, where its outcome is one, that is to be known beside it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Finding {
    /// What the run comes to by this alone.
    pub outcome: Outcome,
    /// What found it.
    pub source: Source,
    /// Where; null where it has no one place.
    #[serde(default)]
    pub place: Option<Place>,
    /// The sentence that stands in [`Verdict::reasons`].
    pub text: String,
}

/// What found something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// An engine that is missing or failed.
    Engine,
    /// Rows and taps that were to be compared.
    Coverage,
    /// The values of the taps, against their limits.
    Taps,
    /// Rows that the oracle judged, whether or not the engines agree.
    Oracle,
    /// What both engines generated.
    Generation,
    /// An engine against itself.
    Noise,
    /// The logits under other conditions: batches, positions, ways of asking, workers.
    Conditions,
    /// The tokens of a text, scored.
    Perplexity,
    /// Both tokenizers on the same texts.
    Tokenizer,
    /// Timings, and the tokens generated meanwhile.
    Timing,
    /// The run held against a baseline.
    Gate,
    /// The ledger of known deviations.
    Known,
    /// The comparison with a further reference.
    Reference,
    /// The model's file.
    ModelFile,
    /// A signal.
    Interruption,
    /// A report from before there were findings does not say.
    Unknown,
}

/// Where something was found, as far as that is known.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Place {
    /// The engine; null for both.
    pub role: Option<Role>,
    /// Index into `inputs.prompts`.
    pub prompt: Option<usize>,
    /// Position in the sequence, from 0.
    pub position: Option<usize>,
    /// Layer, from 0.
    pub layer: Option<usize>,
    /// Tap name.
    pub tap: Option<String>,
    /// As in [`BenchRow::test`](super::BenchRow::test).
    pub test: Option<String>,
    /// Threads.
    pub threads: Option<usize>,
}

impl From<Role> for Place {
    fn from(role: Role) -> Place {
        Place {
            role: Some(role),
            ..Place::default()
        }
    }
}

impl Finding {
    /// The engine that it is about; `None` if it is about both.
    pub fn role(&self) -> Option<Role> {
        self.place.as_ref()?.role
    }
}

impl Verdict {
    /// What the run comes to.
    pub fn outcome(&self) -> Outcome {
        let found = self.findings.iter().map(|finding| finding.outcome);
        Outcome::worst_of(found.chain([Outcome::of_exit_code(self.exit_code)]))
    }
}

impl Report {
    /// What the verdict rests on. Of a report from before there were findings, what its reasons and exit codes say; an
    /// exit code worse than all of that is held against it too.
    pub fn findings(&self) -> Cow<'_, [Finding]> {
        let verdict = &self.verdict;
        let unexplained = |outcome: Outcome| Finding {
            outcome,
            source: Source::Unknown,
            place: None,
            text: format!("exit code {}, without a reason", outcome.exit_code()),
        };
        if !verdict.findings.is_empty() {
            let found = Outcome::worst_of(verdict.findings.iter().map(|f| f.outcome));
            return match verdict.outcome() {
                stated if found.worst(stated) == found => Cow::Borrowed(&verdict.findings),
                stated => {
                    let mut findings = verdict.findings.clone();
                    findings.push(unexplained(stated));
                    Cow::Owned(findings)
                }
            };
        }
        let gate = self.gate.as_ref();
        let ungated = match gate {
            Some(gate) => Outcome::of_exit_code(gate.ungated_exit_code),
            None => verdict.outcome(),
        };
        let finding = |text: &String| {
            let (outcome, source) = match gate {
                Some(gate) if gate.reasons.contains(text) => (verdict.outcome(), Source::Gate),
                _ => (ungated, Source::Unknown),
            };
            Finding {
                outcome,
                source,
                place: None,
                text: text.clone(),
            }
        };
        let mut findings: Vec<Finding> = verdict.reasons.iter().map(finding).collect();
        if ungated != Outcome::Pass && findings.iter().all(|f| f.source == Source::Gate) {
            findings.push(unexplained(ungated));
        }
        Cow::Owned(findings)
    }
}
