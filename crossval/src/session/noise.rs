//! How far an engine is from itself: with another number of threads, and with another split into batches.

use std::collections::BTreeMap;
use std::path::Path;

use bitnet_model::tap::Tap;
use half::f16;
use reports::model::Prompt;

use super::batches::{batches, rows};
use super::traces::Traces;
use crate::compare::tap::row_nmse;
use crate::engine::{Engine, EngineError, EngineSpec, Launcher};
use crate::session::lockstep::{self, Batch, ReferenceHashes, RowAt, RowSink, Side, aligned};
use crossval_protocol::{ErrorKind, Settings};
use crossval_trace::Trace;

/// Worst NMSE of a row per tap, each run on its own values. NaN if a value is not finite.
pub type TapNoise = BTreeMap<Tap, f64>;

/// What was varied, and what came of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Noise {
    /// In words.
    pub varied: String,
    /// Per tap.
    pub nmse: TapNoise,
}

/// Where the noise of both engines is known from.
pub(crate) struct Meters<'a> {
    pub(crate) reference: Meter<'a>,
    pub(crate) candidate: Meter<'a>,
}

impl<'a> Meters<'a> {
    pub(crate) fn new(
        launcher: &Launcher,
        [reference, candidate]: [&EngineSpec; 2],
        model: &Path,
        traces: &'a Traces,
        settings: Settings,
    ) -> Result<Meters<'a>, Side> {
        let meter = |spec, trace: Option<&'a Trace>| match trace {
            Some(trace) => Ok(Meter::Recorded(trace)),
            None => Meter::new(launcher, spec, model, settings),
        };
        Ok(Meters {
            reference: meter(reference, traces.reference()).map_err(Side::Reference)?,
            candidate: meter(candidate, traces.candidate()).map_err(Side::Candidate)?,
        })
    }
}

/// Where the noise of an engine is known from.
pub enum Meter<'a> {
    /// From measuring it.
    Live(Box<NoiseMeter>),
    /// From a trace.
    Recorded(&'a Trace),
    /// It has none.
    Silent,
}

impl Meter<'_> {
    /// `settings` are those of the engine that is to be measured.
    ///
    /// # Errors
    /// As for [`NoiseMeter::new`].
    pub fn new(
        launcher: &Launcher,
        spec: &EngineSpec,
        model: &Path,
        settings: Settings,
    ) -> Result<Meter<'static>, EngineError> {
        match spec {
            // One thread, one token at a time, and slow.
            EngineSpec::Oracle => Ok(Meter::Silent),
            spec => Ok(Meter::Live(
                NoiseMeter::new(launcher, spec, model, settings)?.into(),
            )),
        }
    }

    /// The engine on a prompt and its decode steps.
    ///
    /// # Errors
    /// If a worker fails.
    pub fn measure(
        &mut self,
        engine: &mut Engine,
        prompt: &Prompt,
        taps: &[Tap],
    ) -> Result<Vec<Noise>, EngineError> {
        match self {
            Meter::Live(meter) => Ok(meter.measure(engine, prompt, taps)?.into()),
            Meter::Recorded(trace) => Ok(recorded(trace, &prompt.tokens, taps)),
            Meter::Silent => Ok(Vec::new()),
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
pub struct NoiseMeter {
    twin: Engine,
    settings: Settings,
    twin_threads: usize,
}

impl NoiseMeter {
    /// `settings` are those of the engine that is to be measured.
    ///
    /// # Errors
    /// If the second worker cannot be started, or fails.
    pub fn new(
        launcher: &Launcher,
        spec: &EngineSpec,
        model: &Path,
        settings: Settings,
    ) -> Result<NoiseMeter, EngineError> {
        let mut twin = launcher
            .start(spec, None)
            .map_err(|e| EngineError::Refused {
                kind: ErrorKind::Internal,
                message: e.to_string(),
            })?;
        let twin_threads = if settings.threads == 1 { 2 } else { 1 };
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
    pub fn measure(
        &mut self,
        engine: &mut Engine,
        prompt: &Prompt,
        taps: &[Tap],
    ) -> Result<[Noise; 2], EngineError> {
        let (own, twin) = (self.settings.threads, self.twin_threads);
        Ok([
            Noise {
                varied: format!("threads {} and {}", own.min(twin), own.max(twin)),
                nmse: self.across_threads(engine, prompt, taps)?,
            },
            Noise {
                varied: format!(
                    "{} tokens one by one and as part of the prompt",
                    prompt.decode_tokens.len()
                ),
                nmse: self.across_batches(engine, prompt, taps)?,
            },
        ])
    }

    fn across_threads(
        &mut self,
        engine: &mut Engine,
        prompt: &Prompt,
        taps: &[Tap],
    ) -> Result<TapNoise, EngineError> {
        let mut worst = Worst::default();
        let Prompt {
            tokens,
            decode_tokens,
            ..
        } = prompt;
        for (first_position, tokens) in batches(tokens, decode_tokens, self.settings.n_ubatch) {
            let batch = Batch {
                first_position,
                tokens,
                taps,
                isolated: false,
            };
            let hashes = &mut ReferenceHashes::default();
            lockstep::evaluate(engine, &mut self.twin, batch, hashes, &mut worst).map_err(
                |side| match side {
                    Side::Reference(e) | Side::Candidate(e) => e,
                },
            )?;
        }
        Ok(worst.0)
    }

    fn across_batches(
        &self,
        engine: &mut Engine,
        prompt: &Prompt,
        taps: &[Tap],
    ) -> Result<TapNoise, EngineError> {
        let n_prompt = prompt.tokens.len();
        let mut stepwise: BTreeMap<(Tap, Option<usize>, usize), Vec<u8>> = BTreeMap::new();
        let n_ubatch = self.settings.n_ubatch;
        let one_by_one = batches(&prompt.tokens, &prompt.decode_tokens, n_ubatch);
        rows(engine, one_by_one, taps, |at, _, row| {
            if at.position >= n_prompt {
                stepwise.insert((at.tap, at.layer, at.position), row.to_vec());
            }
        })?;
        let tokens = [&prompt.tokens[..], &prompt.decode_tokens].concat();
        let mut worst = Worst::default();
        let as_prompt = batches(&tokens, &[], n_ubatch);
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
        Ok(worst.0)
    }
}

/// The worst row of each tap.
#[derive(Default)]
struct Worst(TapNoise);

impl Worst {
    fn row<T: crate::compare::tap::Value>(&mut self, tap: Tap, a: &[T], b: &[T]) {
        let nmse = match a.len() == b.len() {
            true => row_nmse(a, b),
            false => f64::NAN,
        };
        let worst = self.0.entry(tap).or_insert(0.0);
        if nmse.is_nan() || nmse > *worst {
            *worst = nmse;
        }
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
        assert_eq!(worst.0[&Tap::Q], 0.0);
        worst.row(Tap::Q, &[1.0_f32, 0.0], &[1.0, 0.1]);
        worst.row(Tap::Q, &[1.0_f32, 0.0], &[1.0, 0.01]);
        assert!((worst.0[&Tap::Q] - 0.01).abs() < 1e-8);
        worst.row(Tap::Q, &[1.0_f32, 0.0], &[f32::NAN, 0.0]);
        worst.row(Tap::Q, &[1.0_f32, 0.0], &[1.0, 0.0]);
        worst.row(Tap::K, &[1.0_f32], &[1.0, 0.0]);
        assert!(worst.0[&Tap::Q].is_nan() && worst.0[&Tap::K].is_nan());
        let both = worse([(Tap::V, 1.0)].into(), &worst.0);
        assert!(both[&Tap::Q].is_nan() && both[&Tap::V] == 1.0);
    }
}
