//! Baseline files: JSON, small, meant to be committed. Per model, engines and inputs the last runs, each with what it
//! was measured on and with.

use std::fs::File;
use std::io::Write;
use std::path::Path;

use reports::StagedFile;
use reports::model::{BenchRoofline, GateFigure, GateResult, GateSeries, Report};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::TestAt;
use super::key::Key;
use super::speeds::{Speed, speeds};
use crate::error::Error;
use crate::hex::hex;
use crate::stats::median;
use crate::text_file;

/// The value of [`Baseline::schema`].
const SCHEMA: &str = "crossval.baseline/1";

/// Runs kept of each history that can be compared. Those that a level began with stay, half as many: else it would follow
/// a drift, however slow.
const KEPT: usize = 40;

/// A baseline file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Baseline {
    schema: String,
    pub(super) histories: Vec<History>,
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
    /// What it has in common with runs that it can be held against.
    #[serde(flatten)]
    pub key: Key,
    /// As the engine states it.
    pub candidate_version: Option<String>,
    /// Rows compared; null if none were to be.
    pub rows: Option<u64>,
    /// Medians.
    pub speeds: Vec<RunSpeed>,
    /// Tests of the runs before that are given up.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub given_up: Vec<GivenUp>,
}

/// A test that is no longer expected.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GivenUp {
    /// As in a report's `bench`.
    pub test: String,
    /// Threads.
    pub threads: usize,
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
    /// What the machine could do; null in older baselines, and where it was not measured.
    #[serde(default)]
    pub machine: Option<Machine>,
    /// The speed had changed, and was accepted: what came before is no longer the level.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub new_level: bool,
}

/// The roofline at a thread count; null where it was not measured.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    /// Reading memory, bytes per second.
    pub read_bytes_per_second: Option<f64>,
    /// int8 multiply-accumulates per second.
    pub int8_macs_per_second: Option<f64>,
}

impl Machine {
    pub(super) fn of(report: &Report, threads: usize) -> Option<Machine> {
        let rooflines = report.bench.iter().flat_map(|bench| &bench.roofline);
        let of = |roofline: &BenchRoofline| Machine {
            read_bytes_per_second: roofline.read_bytes_per_second,
            int8_macs_per_second: roofline.int8_macs_per_second,
        };
        rooflines.filter(|r| r.threads == threads).map(of).next()
    }
}

impl RunSpeed {
    /// The medians of a speed.
    fn of(speed: &Speed, machine: Option<Machine>, new_level: bool) -> RunSpeed {
        let middle = |samples: &[f64]| median(&mut samples.to_vec());
        RunSpeed {
            test: speed.test.clone(),
            threads: speed.threads,
            samples: speed.reference.len(),
            ratio: middle(&speed.samples(GateFigure::Ratio)),
            reference: middle(&speed.reference),
            candidate: middle(&speed.candidate),
            machine,
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
        let text = match std::fs::read(path) {
            Ok(bytes) => text_file::from_utf8(bytes).map_err(bad)?,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(bad(text_file::in_words(&e))),
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

    /// Takes a run into its history, in place of itself if it is there. Where `judged` says that a speed is accepted as it
    /// is, its level starts anew.
    pub(super) fn record(&mut self, report: &Report, judged: &[GateSeries]) {
        let run = Run::of(report, judged);
        let subject = Subject::of(report);
        let known = self
            .histories
            .iter_mut()
            .find(|h| h.subject.is_same(&subject));
        match known {
            Some(history) => history.take(run),
            None => self.histories.push(History {
                subject,
                runs: vec![run],
            }),
        }
    }

    /// What sets a report apart from the history that has most in common with it, in words. Empty without any.
    pub(super) fn unlike_any(&self, report: &Report) -> Vec<String> {
        let subject = Subject::of(report);
        let unlike = self.histories.iter().map(|h| subject.unlike(&h.subject));
        unlike.min_by_key(Vec::len).unwrap_or_default()
    }
}

impl Run {
    /// A report, and what its gate accepted.
    pub(super) fn of(report: &Report, judged: &[GateSeries]) -> Run {
        let accepted = || judged.iter().filter(|series| series.accepted);
        let given_up = accepted().filter(|series| series.result == GateResult::NotMeasured);
        let speed = |speed: &Speed| {
            let of_speed =
                |s: &GateSeries| (s.test.as_str(), s.threads) == (&speed.test, speed.threads);
            let machine = Machine::of(report, speed.threads);
            RunSpeed::of(speed, machine, accepted().any(of_speed))
        };
        Run {
            created: report.created.clone(),
            key: Key::of(report),
            candidate_version: report.engines.candidate.version.clone(),
            rows: report.compared_rows(),
            speeds: speeds(report).iter().map(speed).collect(),
            given_up: given_up
                .map(|series| GivenUp {
                    test: series.test.clone(),
                    threads: series.threads,
                })
                .collect(),
        }
    }

    pub(super) fn speed(&self, (test, threads): &TestAt) -> Option<&RunSpeed> {
        let mut speeds = self.speeds.iter();
        speeds.find(|s| s.test == *test && s.threads == *threads)
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
        if let Some(activation) = &inputs.activation {
            hash.update(activation);
        }
        Subject {
            model: report.model.file_name().to_owned(),
            model_sha256: report.model.sha256.clone(),
            reference: report.engines.reference.name.clone(),
            candidate: report.engines.candidate.name.clone(),
            inputs_sha256: report.not_compared.is_none().then(|| hex(&hash.finalize())),
        }
    }

    pub(super) fn is_same(&self, other: &Subject) -> bool {
        self.unlike(other).is_empty()
    }

    /// What sets it apart from another, in words.
    fn unlike(&self, other: &Subject) -> Vec<String> {
        let Subject {
            model,
            model_sha256,
            reference,
            candidate,
            inputs_sha256,
        } = other;
        let mut unlike = Vec::new();
        if self.model_sha256 != *model_sha256 {
            unlike.push(match self.model == *model {
                true => format!("{model}, whose contents are others"),
                false => format!("the model {model}"),
            });
        }
        if self.reference != *reference {
            unlike.push(format!("the reference {reference}"));
        }
        if self.candidate != *candidate {
            unlike.push(format!("the candidate {candidate}"));
        }
        unlike.extend(match (&self.inputs_sha256, inputs_sha256) {
            (now, before) if now == before => None,
            (None, _) => Some("values compared, too".to_owned()),
            (_, None) => Some("no values compared".to_owned()),
            _ => Some("other prompts, decode steps, modes or activation".to_owned()),
        });
        unlike
    }
}

impl History {
    /// The runs that one can be held against, oldest first.
    ///
    /// # Errors
    /// Where there are none: what is other than in the run that has most in common with it, in words.
    pub(super) fn comparable(&self, run: &Run, timed: bool) -> Result<Vec<&Run>, Vec<String>> {
        let comparable: Vec<&Run> = self
            .runs
            .iter()
            .filter(|before| run.key.changed(&before.key, timed).is_empty())
            .collect();
        if !comparable.is_empty() {
            return Ok(comparable);
        }
        let latest_first = self.runs.iter().rev();
        let changed = latest_first.map(|before| run.key.changed(&before.key, timed));
        Err(changed.min_by_key(Vec::len).unwrap_or_default())
    }

    fn take(&mut self, run: Run) {
        self.runs.retain(|known| known.created != run.created);
        self.runs.push(run);
        while let Some(i) = self.superfluous() {
            self.runs.remove(i);
        }
    }

    /// Index of the run to drop, if the latest can be compared with too many: the oldest that no level began with.
    fn superfluous(&self) -> Option<usize> {
        let latest = self.runs.last()?;
        let comparable = |i: &usize| latest.key.changed(&self.runs[*i].key, true).is_empty();
        let comparable: Vec<usize> = (0..self.runs.len()).filter(comparable).collect();
        if comparable.len() <= KEPT {
            return None;
        }
        let mut first: Vec<usize> = Vec::new();
        for speed in &latest.speeds {
            let at = (speed.test.clone(), speed.threads);
            let of_test = |&i: &usize| Some((i, self.runs[i].speed(&at)?.new_level));
            let of_test: Vec<(usize, bool)> = comparable.iter().filter_map(of_test).collect();
            let begins = of_test.iter().rposition(|(_, new_level)| *new_level);
            let level = of_test.iter().skip(begins.unwrap_or(0));
            first.extend(level.take(KEPT / 2).map(|(i, _)| *i));
        }
        let earlier = &comparable[..comparable.len() - 1];
        let mut later = earlier.iter().filter(|i| !first.contains(i));
        later.next().or(earlier.first()).copied()
    }
}

/// The runs' medians of one speed, oldest first, by level, of runs that are given oldest first.
pub(super) fn levels<'a>(
    runs: impl Iterator<Item = &'a Run>,
    at: &TestAt,
    figure: fn(&RunSpeed) -> f64,
) -> Vec<Vec<f64>> {
    let mut levels: Vec<Vec<f64>> = Vec::new();
    for speed in runs.filter_map(|run| run.speed(at)) {
        match levels.last_mut() {
            Some(level) if !speed.new_level => level.push(figure(speed)),
            _ => levels.push(vec![figure(speed)]),
        }
    }
    levels
}

/// The tests of any of `runs`, given oldest first, but those given up since.
pub(super) fn expected(runs: &[&Run]) -> Vec<TestAt> {
    let mut expected: Vec<TestAt> = Vec::new();
    for run in runs {
        let given_up = |(test, threads): &TestAt| {
            run.given_up
                .iter()
                .any(|g| (&g.test, g.threads) == (test, *threads))
        };
        expected.retain(|at| !given_up(at));
        for speed in &run.speeds {
            let at = (speed.test.clone(), speed.threads);
            if !expected.contains(&at) {
                expected.push(at);
            }
        }
    }
    expected
}
