//! `crossval gate`, and the gate of `crossval run`.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use reports::Report;
use reports::model::{Gate, Verdict};
use reports::outcome::Outcome;
use serde::Serialize;

use super::limits::LimitFlags;
use super::report::{Files, read_report};
use super::terminal::{self, Terminal};
use crossval::Error;
use crossval::environment::{self, Provenance};
use crossval::interrupt;
use crossval::speed::gate::{self, Again, Baseline, MAX_REGRESSION, Standard, measure_again};

/// When a series is red, for `--help`.
const NOTES: &str = "\
A speed is red if it is slower than the best level of the baseline since a change was last accepted, by more than \
--max-regression and by more than three times what successive runs of its history differ by of themselves, and its 95% \
interval excludes no change. What is red is measured once more (taken from another of the reports if one is of the same \
model, engines, inputs, builds and machine; else measured here and now, if this is the machine and the build of the \
report), and counts if it is red again.

Not judged, which is exit code 21: fewer than five runs in the baseline, or five pairs in the report; noise, or an \
uncertainty, beyond three times --max-regression; a ratio that changed because the reference did, or hides that both \
engines are slower; a test of the baseline that was not measured. Runs are held against those with the same reference \
(version and build), limits, known deviations and tokens to generate, speeds against those on the same kind of CPU: \
where the baseline has none, what is other is said.

The verdict of a report counts for what its contents bear out: one that passes and holds a failing tap does not.

--update takes in what passes. A slowdown that comes at once, by more than twice what is let through since the run \
before, is accepted, and a level of its own begins. Any other is red all the same, and not taken in, for it may have crept \
in over runs that were each let through; nor is what could not be measured again, nor a run that leaves out a test. To accept those, give --update a report that says so: that of `crossval run`, or \
what `crossval gate --out` wrote.";

#[derive(Debug, clap::Args)]
#[command(after_help = NOTES)]
pub(super) struct Args {
    /// Reports (report.json) of `crossval run` or `crossval bench`
    #[arg(required = true, value_name = "REPORT")]
    reports: Vec<PathBuf>,
    /// Speeds of earlier runs, a JSON file
    #[arg(long, value_name = "FILE")]
    baseline: PathBuf,
    #[command(flatten)]
    rule: Rule,
    #[command(flatten)]
    files: Files,
    /// Print the result as JSON, and nothing else
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    limits: LimitFlags,
}

/// How a report is held against a baseline.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(super) struct Rule {
    /// The slowdown that is let through however little a series scatters
    #[arg(long, value_name = "PERCENT", default_value_t = Percent(MAX_REGRESSION), requires = "baseline")]
    max_regression: Percent,
    /// Add the run to the baseline if it passes, and accept its speeds unless they have crept there (see `crossval gate
    /// --help`)
    #[arg(long, requires = "baseline")]
    update: bool,
}

/// A share, written as `5%`.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Percent(f64);

impl FromStr for Percent {
    type Err = &'static str;

    fn from_str(s: &str) -> Result<Percent, Self::Err> {
        let number = s.strip_suffix('%').and_then(|number| number.parse().ok());
        match number {
            Some(percent @ 0.0..100.0) => Ok(Percent(percent / 100.0)),
            _ => Err("must be a percentage such as 5%, below 100%"),
        }
    }
}

impl fmt::Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}%", self.0 * 100.0)
    }
}

/// What `--json` prints.
#[derive(Serialize)]
struct Gated<'a> {
    schema: &'static str,
    exit_code: u8,
    reports: Vec<GatedReport<'a>>,
}

#[derive(Serialize)]
struct GatedReport<'a> {
    path: String,
    verdict: &'a Verdict,
    gate: Option<&'a Gate>,
}

pub(super) fn run(
    args: Args,
    provenance: &Provenance,
    terminal: Terminal,
) -> Result<Outcome, Error> {
    let launcher = args.limits.launcher();
    if args.files.out.is_some() && args.reports.len() > 1 {
        let message = format!("--out: one report, not {}", args.reports.len());
        return Err(Error::Usage(message));
    }
    let mut baseline = Baseline::open(&args.baseline)?;
    let reports = args.reports.iter().map(|file| read_report(file));
    let reports = reports.collect::<Result<Vec<Report>, Error>>()?;
    let here = environment::describe(provenance);
    let bar = terminal.bar();
    let mut gated = reports.clone();
    for (i, report) in gated.iter_mut().enumerate() {
        // The next that repeats it, around the end.
        let others = reports[i + 1..].iter().chain(&reports[..i]);
        let before = report.clone();
        let standard = args.rule.standard(&args.baseline, baseline.as_ref());
        hold(report, standard, &mut |tests| match others
            .clone()
            .find(|other| gate::repeats(other, &before, tests))
        {
            Some(other) => Ok(other.clone()),
            None => {
                bar.during(|progress| measure_again(&launcher, &before, tests, &here, progress))
            }
        });
        interrupt::check()?;
        args.files.write(report)?;
        if let Some(updated) = args.rule.update(&args.baseline, report)? {
            baseline = Some(updated);
        }
    }
    drop(bar);
    let outcome = Outcome::worst_of(gated.iter().map(|report| report.verdict.outcome()));
    let gated = args
        .reports
        .iter()
        .map(|file| file.display().to_string())
        .zip(&gated);
    match args.json {
        true => terminal.print_json(&Gated {
            schema: "crossval.gate/1",
            exit_code: outcome.exit_code(),
            reports: gated
                .map(|(path, report)| GatedReport {
                    path,
                    verdict: &report.verdict,
                    gate: report.gate.as_ref(),
                })
                .collect(),
        })?,
        false => {
            let summaries = gated.map(|(path, report)| reports::terminal::gate(report, &path));
            terminal.print(&summaries.collect::<Vec<_>>().join("\n"))?;
        }
    }
    Ok(outcome)
}

/// Holds a report against the baseline. One that was interrupted is not timed once more.
pub(super) fn hold(report: &mut Report, standard: Standard, again: &mut Again) {
    if interrupt::received().is_none() {
        gate::apply(report, standard, again);
    }
}

impl Rule {
    /// What a report is held against by this rule.
    pub(super) fn standard<'a>(
        self,
        path: &'a Path,
        baseline: Option<&'a Baseline>,
    ) -> Standard<'a> {
        Standard {
            path,
            baseline,
            max_regression: self.max_regression.0,
            update: self.update,
        }
    }

    /// Takes a report that was held against the baseline into it, if that is asked for and nothing is wrong with it;
    /// returns what the baseline is then.
    ///
    /// # Errors
    /// As [`Baseline::add`].
    pub(super) fn update(self, file: &Path, report: &Report) -> Result<Option<Baseline>, Error> {
        if !self.update {
            return Ok(None);
        }
        if let Some(what) = gate::refusal(report) {
            terminal::complain(&format!("warning: the baseline does not take {what}"));
            return Ok(None);
        }
        let judged = report.gate.as_ref().map_or(&[][..], |gate| &gate.series);
        Baseline::add(file, report, judged).map(Some)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentages() {
        let parse = |s: &str| s.parse::<Percent>();
        assert_eq!(parse("5%"), Ok(Percent(0.05)));
        assert_eq!(parse("12.5%").unwrap().to_string(), "12.5%");
        for bad in ["5", "0.05", "-1%", "NaN%", "%", "100%"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
