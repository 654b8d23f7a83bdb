//! How far an engine is from itself: with another number of threads, and with another split into batches.

use std::collections::BTreeMap;
use std::path::Path;

use super::batches::{Sequence, rows};
use super::pair::Pair;
use crate::compare::tap::row_nmse;
use crate::engine::Failed;
use crate::engine::{Engine, EngineError, EngineSpec, Launcher};
use crate::profile::NoiseCaps;
use crate::session::lockstep::{self, Evaluation, ReferenceHashes, RowAt, RowSink, aligned};
use bitnet_model::tap::Tap;
use crossval_protocol::Settings;
use crossval_trace::Trace;
use half::f16;

/// Worst NMSE of a row per tap, each run on its own values. NaN if a value is not finite, or a row of the logits has
/// nothing to be compared with.
pub type TapNoise = BTreeMap<Tap, f64>;

/// What was varied, and what came of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Noise {
    /// In words.
    pub varied: String,
    /// Per tap.
    pub nmse: TapNoise,
}

/// How [`Noise::varied`] starts where the number of threads was varied.
const THREADS: &str = "threads ";

/// The largest NMSE of a row of logits that an engine may show, by what was varied.
pub(crate) fn cap(varied: &str, caps: NoiseCaps) -> f64 {
    match is_of_threads(varied) {
        true => caps.threads,
        false => caps.batches,
    }
}

/// Whether it was the number of threads that was varied: a trace keeps no more than the words.
pub(crate) fn is_of_threads(varied: &str) -> bool {
    varied.starts_with(THREADS)
}

/// The other number of threads that an engine with so many is held against.
pub(crate) fn other_threads(threads: usize) -> usize {
    if threads == 1 { 2 } else { 1 }
}

/// Where the noise of an engine is known from.
pub(crate) enum NoiseSource<'a> {
    /// From measuring it.
    Live(Box<NoiseMeter>),
    /// From a trace.
    Recorded(&'a Trace),
    /// It has none.
    Silent,
}

impl NoiseSource<'_> {
    /// Of an engine that is no trace; `settings` are those of the worker that is to be measured.
    ///
    /// # Errors
    /// As for [`NoiseMeter::new`].
    pub(crate) fn live(
        launcher: &Launcher,
        spec: &EngineSpec,
        model: &Path,
        settings: Settings,
    ) -> Result<NoiseSource<'static>, EngineError> {
        match spec {
            // One thread, one token at a time, and slow.
            EngineSpec::Oracle => Ok(NoiseSource::Silent),
            spec => Ok(NoiseSource::Live(
                NoiseMeter::new(launcher, spec, model, settings)?.into(),
            )),
        }
    }

    /// The engine on a prompt and its decode steps.
    ///
    /// # Errors
    /// If a worker fails.
    pub(crate) fn measure(
        &mut self,
        engine: &mut Engine,
        sequence: Sequence,
        taps: &[Tap],
    ) -> Result<Vec<Noise>, EngineError> {
        match self {
            NoiseSource::Live(meter) => Ok(meter.measure(engine, sequence, taps)?.into()),
            NoiseSource::Recorded(trace) => Ok(recorded(trace, sequence.prompt, taps)),
            NoiseSource::Silent => Ok(Vec::new()),
        }
    }
}

/// What a trace holds of a prompt.
fn recorded(trace: &Trace, tokens: &[u32], taps: &[Tap]) -> Vec<Noise> {
    let of_prompt = trace.noise(tokens).iter();
    of_prompt
        .map(|noise| {
            let nmse = noise.nmse.iter().filter(|(tap, _)| taps.contains(tap));
            Noise {
                varied: noise.varied.clone(),
                nmse: nmse
                    .map(|(&tap, nmse)| (tap, nmse.unwrap_or(f64::NAN)))
                    .collect(),
            }
        })
        .collect()
}

/// Measures one engine, beside which it runs another worker of the same.
pub(crate) struct NoiseMeter {
    twin: Engine,
    settings: Settings,
    twin_threads: usize,
}

impl NoiseMeter {
    /// `settings` are those of the engine that is to be measured.
    ///
    /// # Errors
    /// If the second worker cannot be started, or fails.
    fn new(
        launcher: &Launcher,
        spec: &EngineSpec,
        model: &Path,
        settings: Settings,
    ) -> Result<NoiseMeter, EngineError> {
        let mut twin = launcher.start_another(spec, None)?;
        let twin_threads = other_threads(settings.threads);
        twin.load(model)?;
        twin.configure(Settings {
            threads: twin_threads,
            ..settings
        })?;
        Ok(NoiseMeter {
            twin,
            settings,
            twin_threads,
        })
    }

    /// The engine on a prompt and its decode steps.
    ///
    /// # Errors
    /// If either worker fails.
    fn measure(
        &mut self,
        engine: &mut Engine,
        sequence: Sequence,
        taps: &[Tap],
    ) -> Result<[Noise; 2], EngineError> {
        let (own, twin) = (self.settings.threads, self.twin_threads);
        Ok([
            Noise {
                varied: format!("{THREADS}{} and {}", own.min(twin), own.max(twin)),
                nmse: self.across_threads(engine, sequence, taps)?,
            },
            Noise {
                varied: format!(
                    "{} tokens one by one and as part of the prompt",
                    sequence.steps.len()
                ),
                nmse: self.across_batches(engine, sequence, taps)?,
            },
        ])
    }

    fn across_threads(
        &mut self,
        engine: &mut Engine,
        sequence: Sequence,
        taps: &[Tap],
    ) -> Result<TapNoise, EngineError> {
        let mut worst = Worst::default();
        self.twin.set_task(engine.task());
        let mut pair = Pair {
            reference: engine,
            candidate: &mut self.twin,
        };
        for (first_position, tokens) in sequence.batches(self.settings.n_ubatch) {
            let batch = Evaluation {
                first_position,
                tokens,
                taps,
                isolated: false,
            };
            let hashes = &mut ReferenceHashes::default();
            lockstep::evaluate(&mut pair, batch, hashes, &mut worst)
                .map_err(|Failed { error, .. }| error)?;
        }
        Ok(worst.with_all_logits(taps, sequence.prompt.len() + sequence.steps.len()))
    }

    fn across_batches(
        &self,
        engine: &mut Engine,
        sequence: Sequence,
        taps: &[Tap],
    ) -> Result<TapNoise, EngineError> {
        let n_prompt = sequence.prompt.len();
        let mut stepwise: BTreeMap<(Tap, Option<usize>, usize), Vec<u8>> = BTreeMap::new();
        let n_ubatch = self.settings.n_ubatch;
        let one_by_one = sequence.batches(n_ubatch);
        rows(engine, one_by_one, taps, |at, _, row| {
            if at.position >= n_prompt {
                stepwise.insert((at.tap, at.layer, at.position), row.to_vec());
            }
        })?;
        let tokens = sequence.tokens();
        let mut worst = Worst::default();
        let as_prompt = Sequence::new(&tokens, &[]);
        let as_prompt = as_prompt.batches(n_ubatch);
        rows(engine, as_prompt, taps, |at, n_kv, batched| {
            let Some(single) = stepwise.remove(&(at.tap, at.layer, at.position)) else {
                return;
            };
            if at.tap.is_f16() {
                let [single, batched] = [&single, batched].map(aligned::<f16>);
                worst.row(at.tap, &single, &batched);
            } else {
                let [single, mut batched] = [&single, batched].map(aligned::<f32>);
                if at.tap == Tap::AttnProbs {
                    // Without the positions that are masked, which one token has not.
                    let seen = at.position + 1;
                    batched = batched
                        .chunks(n_kv)
                        .flat_map(|head| &head[..seen.min(head.len())])
                        .copied()
                        .collect();
                }
                worst.row(at.tap, &single, &batched);
            }
        })?;
        Ok(worst.with_all_logits(taps, sequence.steps.len()))
    }
}

/// The worst row of each tap.
#[derive(Default)]
struct Worst {
    nmse: TapNoise,
    /// Rows of logits that were compared.
    logits: usize,
}

impl Worst {
    fn row<T: crate::compare::tap::Value>(&mut self, tap: Tap, a: &[T], b: &[T]) {
        let nmse = match a.len() == b.len() {
            true => row_nmse(a, b),
            false => f64::NAN,
        };
        let worst = self.nmse.entry(tap).or_insert(0.0);
        if nmse.is_nan() || nmse > *worst {
            *worst = nmse;
        }
        self.logits += usize::from(tap == Tap::Logits);
    }

    /// Per tap, if all `rows` of the logits were compared, where they were asked for.
    fn with_all_logits(mut self, taps: &[Tap], rows: usize) -> TapNoise {
        if taps.contains(&Tap::Logits) && self.logits < rows {
            self.nmse.insert(Tap::Logits, f64::NAN);
        }
        self.nmse
    }
}

impl RowSink for Worst {
    fn row_f32(&mut self, at: RowAt, reference: &[f32], candidate: &[f32]) {
        self.row(at.tap, reference, candidate);
    }

    fn row_f16(&mut self, at: RowAt, reference: &[f16], candidate: &[f16]) {
        self.row(at.tap, reference, candidate);
    }
}

/// The larger of two per tap; NaN is the largest.
pub fn worse(mut a: TapNoise, b: &TapNoise) -> TapNoise {
    for (&tap, &nmse) in b {
        let worst = a.entry(tap).or_insert(0.0);
        if nmse.is_nan() || nmse > *worst {
            *worst = nmse;
        }
    }
    a
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_row_counts_and_nan_is_worst_of_all() {
        let mut worst = Worst::default();
        worst.row(Tap::Q, &[1.0_f32, 0.0], &[1.0, 0.0]);
        assert_eq!(worst.nmse[&Tap::Q], 0.0);
        worst.row(Tap::Q, &[1.0_f32, 0.0], &[1.0, 0.1]);
        worst.row(Tap::Q, &[1.0_f32, 0.0], &[1.0, 0.01]);
        assert!((worst.nmse[&Tap::Q] - 0.01).abs() < 1e-8);
        worst.row(Tap::Q, &[1.0_f32, 0.0], &[f32::NAN, 0.0]);
        worst.row(Tap::Q, &[1.0_f32, 0.0], &[1.0, 0.0]);
        worst.row(Tap::K, &[1.0_f32], &[1.0, 0.0]);
        assert!(worst.nmse[&Tap::Q].is_nan() && worst.nmse[&Tap::K].is_nan());
        let both = worse([(Tap::V, 1.0)].into(), &worst.nmse);
        assert!(both[&Tap::Q].is_nan() && both[&Tap::V] == 1.0);
    }

    #[test]
    fn rows_of_logits_that_are_missing_are_no_agreement() {
        let measured = |rows| {
            let mut worst = Worst::default();
            worst.row(Tap::Logits, &[1.0_f32], &[1.0]);
            worst.with_all_logits(&[Tap::Logits], rows)[&Tap::Logits]
        };
        assert_eq!(measured(1), 0.0);
        assert!(measured(2).is_nan());
        assert!(Worst::default().with_all_logits(&[Tap::Q], 2).is_empty());
    }

    #[test]
    fn threads_have_a_cap_of_their_own() {
        let caps = NoiseCaps {
            threads: 1.0,
            batches: 2.0,
        };
        assert_eq!(cap("threads 1 and 2", caps), 1.0);
        assert_eq!(
            cap("8 tokens one by one and as part of the prompt", caps),
            2.0
        );
    }
}
