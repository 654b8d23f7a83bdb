//! Baseline files: JSON, small, meant to be committed. Per model, engines and inputs the last runs, each with what it
//! was measured on and with.

use std::fs::File;
use std::io::Write;
use std::path::Path;

use reports::StagedFile;
use reports::model::{Environment, GateFigure, GateResult, GateSeries, Report};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::TestAt;
use super::speeds::{Speed, speeds};
use crate::error::Error;
use crate::hex::hex;
use crate::stats::median;

/// The value of [`Baseline::schema`].
const SCHEMA: &str = "crossval.baseline/1";

/// Runs kept of each history; the oldest go first.
const KEPT: usize = 40;

/// A baseline file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Baseline {
    schema: String,
    histories: Vec<History>,
}

/// The runs of one model, one pair of engines and one set of inputs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct History {
    /// What was run.
    pub subject: Subject,
    /// Oldest first.
    pub runs: Vec<Run>,
}

/// What runs have in common that can be compared.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subject {
    /// File name of the model; not compared.
    pub model: String,
    /// Its SHA-256, hex.
    pub model_sha256: String,
    /// Engine name.
    pub reference: String,
    /// Engine name.
    pub candidate: String,
    /// SHA-256 (hex) over what decides which rows are compared; null for runs that compare none.
    pub inputs_sha256: Option<String>,
}

/// One run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Run {
    /// When, RFC 3339, UTC.
    pub created: String,
    /// The machine and the build of crossval.
    pub environment: Environment,
    /// As the engine states it.
    pub reference_version: Option<String>,
    /// As the engine states it.
    pub candidate_version: Option<String>,
    /// Rows compared; null if none were to be.
    pub rows: Option<u64>,
    /// Medians.
    pub speeds: Vec<RunSpeed>,
}

/// One test of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunSpeed {
    /// As in a report's `bench`.
    pub test: String,
    /// Threads.
    pub threads: usize,
    /// Pairs measured.
    pub samples: usize,
    /// Candidate over reference.
    pub ratio: f64,
    /// Of the reference, tokens (or, of tests that are timed as a whole, repetitions) per second.
    pub reference: f64,
    /// Of the candidate.
    pub candidate: f64,
    /// The speed had changed, and was accepted: what came before is no longer the level.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub new_level: bool,
}

impl RunSpeed {
    /// The medians of a speed.
    fn of(speed: &Speed, new_level: bool) -> RunSpeed {
        let middle = |samples: &[f64]| median(&mut samples.to_vec());
        RunSpeed {
            test: speed.test.clone(),
            threads: speed.threads,
            samples: speed.reference.len(),
            ratio: middle(&speed.samples(GateFigure::Ratio)),
            reference: middle(&speed.reference),
            candidate: middle(&speed.candidate),
            new_level,
        }
    }
}

impl Baseline {
    /// Reads a file. `None` if there is none.
    ///
    /// # Errors
    /// [`Error::BadInput`] naming the file and what is wrong with it.
    pub fn open(path: &Path) -> Result<Option<Baseline>, Error> {
        let bad = |what: String| Error::BadInput(format!("baseline {}: {what}", path.display()));
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(bad(e.to_string())),
        };
        let baseline: Baseline = serde_json::from_str(&text).map_err(|e| bad(e.to_string()))?;
        if baseline.schema != SCHEMA {
            return Err(bad(format!("schema {:?}, not {SCHEMA:?}", baseline.schema)));
        }
        let mut subjects = baseline.histories.iter().map(|h| &h.subject);
        while let Some(subject) = subjects.next() {
            if subjects.clone().any(|other| other.is_same(subject)) {
                return Err(bad(format!("two histories of {}", subject.model)));
            }
        }
        let speeds = baseline
            .histories
            .iter()
            .flat_map(|h| &h.runs)
            .flat_map(|r| &r.speeds);
        for speed in speeds {
            let figures = [speed.ratio, speed.reference, speed.candidate];
            if !figures.iter().all(|x| x.is_finite() && *x > 0.0) {
                let at = format!("{} at threads = {}", speed.test, speed.threads);
                return Err(bad(format!("a speed of {at} is not above 0")));
            }
        }
        Ok(Some(baseline))
    }

    /// One without any history.
    pub(super) fn empty() -> Baseline {
        Baseline {
            schema: SCHEMA.to_owned(),
            histories: Vec::new(),
        }
    }

    /// Takes a run into the file, which is written anew, whole or not at all, and returns what it holds then. Others who
    /// do the same wait.
    ///
    /// # Errors
    /// As [`open`](Self::open), and [`Error::Io`] naming the file.
    pub fn add(path: &Path, report: &Report, judged: &[GateSeries]) -> Result<Baseline, Error> {
        // Behind a symbolic link the file is replaced, not the link.
        let target = path.canonicalize().unwrap_or_else(|_| path.to_owned());
        let folder = match target.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        std::fs::create_dir_all(folder).map_err(|e| Error::io(folder, e))?;
        let lock = File::open(folder).and_then(|folder| folder.lock().map(|()| folder));
        let _lock = lock.map_err(|e| Error::io(folder, e))?;
        let mut baseline = Self::open(path)?.unwrap_or_else(Self::empty);
        baseline.record(report, judged);
        let text = serde_json::to_string_pretty(&baseline)
            .map_err(|e| Error::Internal(format!("the baseline as JSON: {e}")))?;
        let written = StagedFile::create(&target).and_then(|mut file| {
            writeln!(file, "{text}")?;
            file.finish()
        });
        written.map_err(|e| Error::io(path, e))?;
        Ok(baseline)
    }

    /// The history that a report belongs to.
    pub fn history(&self, report: &Report) -> Option<&History> {
        let subject = Subject::of(report);
        self.histories.iter().find(|h| h.subject.is_same(&subject))
    }

    /// Takes a run into its history, in place of itself if it is there. Where `judged` says that a speed changed, and did
    /// so when measured again, its level starts anew.
    pub(super) fn record(&mut self, report: &Report, judged: &[GateSeries]) {
        let subject = Subject::of(report);
        let changed = |speed: &Speed| {
            judged.iter().any(|series| {
                let same = (series.test.as_str(), series.threads) == (&speed.test, speed.threads);
                let moved = matches!(series.result, GateResult::Regressed | GateResult::Improved);
                same && moved && series.measurements.len() > 1
            })
        };
        let run = Run {
            created: report.created.clone(),
            environment: report.environment.clone(),
            reference_version: report.engines.reference.version.clone(),
            candidate_version: report.engines.candidate.version.clone(),
            rows: report.compared_rows(),
            speeds: speeds(report)
                .iter()
                .map(|speed| RunSpeed::of(speed, changed(speed)))
                .collect(),
        };
        let known = self
            .histories
            .iter_mut()
            .find(|h| h.subject.is_same(&subject));
        match known {
            Some(history) => {
                history.runs.retain(|known| known.created != run.created);
                history.runs.push(run);
                let excess = history.runs.len().saturating_sub(KEPT);
                history.runs.drain(..excess);
            }
            None => self.histories.push(History {
                subject,
                runs: vec![run],
            }),
        }
    }
}

impl Subject {
    pub(super) fn of(report: &Report) -> Subject {
        let (inputs, mut hash) = (&report.inputs, Sha256::new());
        for prompt in &inputs.prompts {
            hash.update((prompt.tokens.len() as u64).to_le_bytes());
            prompt
                .tokens
                .iter()
                .for_each(|token| hash.update(token.to_le_bytes()));
        }
        hash.update(format!("{} {:?}", inputs.decode_steps, inputs.modes));
        Subject {
            model: report.model.file_name().to_owned(),
            model_sha256: report.model.sha256.clone(),
            reference: report.engines.reference.name.clone(),
            candidate: report.engines.candidate.name.clone(),
            inputs_sha256: report.not_compared.is_none().then(|| hex(&hash.finalize())),
        }
    }

    pub(super) fn is_same(&self, other: &Subject) -> bool {
        let key = |s: &Subject| {
            let Subject {
                model: _,
                model_sha256,
                reference,
                candidate,
                inputs_sha256,
            } = s.clone();
            (model_sha256, reference, candidate, inputs_sha256)
        };
        key(self) == key(other)
    }
}

impl History {
    /// The runs' medians of one speed, oldest first, by level. `machine` chooses among the runs.
    pub fn levels(
        &self,
        (test, threads): &TestAt,
        figure: fn(&RunSpeed) -> f64,
        machine: impl Fn(&Environment) -> bool,
    ) -> Vec<Vec<f64>> {
        let mut levels: Vec<Vec<f64>> = Vec::new();
        for run in self.runs.iter().filter(|run| machine(&run.environment)) {
            let mut speeds = run.speeds.iter();
            let Some(speed) = speeds.find(|s| s.test == *test && s.threads == *threads) else {
                continue;
            };
            match levels.last_mut() {
                Some(level) if !speed.new_level => level.push(figure(speed)),
                _ => levels.push(vec![figure(speed)]),
            }
        }
        levels
    }

    /// The tests of the last run that was timed.
    pub fn latest(&self) -> impl Iterator<Item = (&str, usize)> {
        let timed = self.runs.iter().rev().find(|run| !run.speeds.is_empty());
        let speeds = timed.into_iter().flat_map(|run| &run.speeds);
        speeds.map(|speed| (speed.test.as_str(), speed.threads))
    }
}
