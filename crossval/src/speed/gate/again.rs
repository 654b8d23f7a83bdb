//! Measures some tests of a report once more, as they were measured.

use std::path::Path;

use bitnet_model::Activation;
use reports::model::{Cache, Environment, Report, Test};

use super::TestAt;
use crate::engine::{EngineSpec, Launcher};
use crate::progress::Progress;
use crate::session::model_file::ModelFile;
use crate::session::setup::Setup;
use crate::speed::bench::{BenchPlan, Decode, bench};

/// The report with nothing timed but `tests`, measured again.
///
/// # Errors
/// Why not, as a sentence: another machine or build than the report's, another model file, an engine that failed
/// or whose figures are not to be believed.
pub fn measure_again(
    launcher: &Launcher,
    report: &Report,
    tests: &[TestAt],
    here: &Environment,
    progress: Progress<'_>,
) -> Result<Report, String> {
    if report.environment != *here {
        return Err(
            "this machine or this build of crossval is not the one that measured it".to_owned(),
        );
    }
    let model = Path::new(&report.model.path);
    progress.stage("hashing the model");
    let file = ModelFile::hash(model).map_err(|e| e.to_string())?;
    if file.sha256 != report.model.sha256 {
        return Err(format!(
            "{} is no longer the model that it was",
            model.display()
        ));
    }
    let spec = |name: &str| name.parse::<EngineSpec>().map_err(|e| e.to_string());
    let engines = &report.engines;
    let setup = Setup {
        launcher: Launcher {
            activation: activation(report)?,
            ..launcher.clone()
        },
        model: model.to_owned(),
        reference: spec(&engines.reference.name)?,
        candidate: spec(&engines.candidate.name)?,
    };
    let timed = report.bench.as_ref().ok_or("it was not timed")?;
    let prompt = report
        .inputs
        .prompts
        .first()
        .map_or(&[][..], |prompt| &prompt.tokens);
    let wanted = Wanted::new(tests)?;
    // A benchmark's prompts are the starts of one sequence, and it decodes behind the first token.
    let prefill: Vec<&[u32]> = wanted
        .prefill
        .iter()
        .filter_map(|&n| prompt.get(..n))
        .collect();
    let start = match report.not_compared {
        Some(_) => prompt.get(..1).unwrap_or_default(),
        None => prompt,
    };
    let plan = BenchPlan {
        setup: &setup,
        threads: &wanted.threads,
        repetitions: timed.repetitions,
        most_repetitions: timed.repetitions,
        n_ctx: (prompt.len() + report.inputs.n_predict).next_multiple_of(32),
        prefill: &prefill,
        decode: wanted.decode.map(|steps| Decode {
            prompt: start,
            steps,
        }),
        untimed: None,
        load: start.get(..1).filter(|_| wanted.load),
        cold: wanted.cold,
        compact_head_budget: match wanted.certified {
            true => timed
                .compact_heads
                .iter()
                .map(|head| head.bytes)
                .max()
                .unwrap_or(0),
            false => 0,
        },
        work: timed.work,
        n_layer: report.model.n_layer,
        n_vocab: report.model.n_vocab,
        kernels: false,
    };
    let again = bench(&plan, progress).map_err(|failed| {
        let engine = &engines.engine(failed.role).name;
        failed.error.into_failure(engine, "timing").message
    })?;
    if let Some(finding) = again.findings.into_iter().next() {
        return Err(finding.text);
    }
    Ok(Report {
        bench: Some(again.bench),
        ..report.clone()
    })
}

/// The activation that the report was asked for.
fn activation(report: &Report) -> Result<Option<Activation>, String> {
    let named = |name: &String| {
        Activation::named(name).ok_or_else(|| format!("the activation {name:?} is not known"))
    };
    report.inputs.activation.as_ref().map(named).transpose()
}

/// What the names of tests stand for.
#[derive(Debug, Default, PartialEq)]
struct Wanted {
    threads: Vec<usize>,
    prefill: Vec<usize>,
    decode: Option<usize>,
    certified: bool,
    load: bool,
    cold: bool,
}

impl Wanted {
    fn new(tests: &[TestAt]) -> Result<Wanted, String> {
        let mut wanted = Wanted::default();
        for (test, threads) in tests {
            match test.parse()? {
                Test::Prefill(n) => add(&mut wanted.prefill, n),
                Test::Decode(steps) => wanted.decode = Some(steps),
                Test::Certified(steps) => {
                    wanted.decode = Some(steps);
                    wanted.certified = true;
                }
                Test::Load(cache) | Test::FirstToken(cache) => {
                    // Loading is timed at the first thread count.
                    wanted.load = true;
                    wanted.threads.retain(|n| n != threads);
                    wanted.threads.insert(0, *threads);
                    wanted.cold |= cache == Cache::Cold;
                }
                Test::TimeToFirstToken => return Err(format!("{test} is not timed by itself")),
            }
            add(&mut wanted.threads, *threads);
        }
        Ok(wanted)
    }
}

fn add(numbers: &mut Vec<usize>, n: usize) {
    if !numbers.contains(&n) {
        numbers.push(n);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_tests_are_understood() {
        let at = |test: &str, threads| (test.to_owned(), threads);
        let tests = [
            at("tg64", 2),
            at("pp512", 2),
            at("tg64 certified", 2),
            at("load+ttft cold", 1),
        ];
        let want = Wanted {
            threads: vec![1, 2],
            prefill: vec![512],
            decode: Some(64),
            certified: true,
            load: true,
            cold: true,
        };
        assert_eq!(Wanted::new(&tests), Ok(want));
        assert!(Wanted::new(&[at("ppx", 1)]).unwrap_err().contains("ppx"));
    }
}
