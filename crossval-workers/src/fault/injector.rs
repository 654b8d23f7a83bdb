//! Puts a fault into the values that pass by.

use std::sync::Arc;

use bitnet_core::model::{Definition, Model};
use bitnet_model::Hyperparameters;
use bitnet_model::gguf::Gguf;
use bitnet_model::tap::{Observer, ObserverError, Tap, TapData, TapView, Width};
use crossval_protocol::Settings;
use half::f16;

use super::condition::{Asked, Circumstances};
use super::rows::Rows;
use super::stages::{Stage, sources};
use super::{Condition, InjectError, StageFault};

/// NMSE of a row that another order of f32 operations may give: a norm's factor is rounded four times, (2.5 * 2^-24)^2.
/// A mistake that does no more is none.
const ROUNDING: f64 = 3e-14;

/// The faults in an engine's stages.
#[derive(Default)]
pub(crate) struct Injectors {
    faults: Vec<(StageFault, Condition)>,
    injectors: Vec<Injector>,
    now: Circumstances,
}

impl Injectors {
    /// Of these faults, each under its condition.
    pub(crate) fn new(faults: Vec<(StageFault, Condition)>) -> Injectors {
        Injectors {
            faults,
            ..Injectors::default()
        }
    }

    /// The engine has loaded a model.
    pub(crate) fn load(&mut self, model: &Model) {
        let faults = self.faults.iter();
        self.injectors = faults
            .map(|&(fault, when)| Injector::new(fault, when, model))
            .collect();
    }

    /// It is configured.
    pub(crate) fn configure(&mut self, settings: Settings) {
        self.now.configure(settings);
    }

    /// A batch is about to be evaluated.
    pub(crate) fn begin(&mut self, asked: Asked, first_position: usize, tokens: &[u32]) {
        self.now.begin(asked, first_position, tokens);
        let injectors = self.injectors.iter_mut();
        injectors.for_each(|injector| injector.begin(first_position, tokens));
    }

    /// Alters the values of a tap where a fault is at it.
    pub(crate) fn alter(&mut self, view: &mut TapView<'_>) -> Result<(), InjectError> {
        let mut injectors = self.injectors.iter_mut();
        injectors.try_for_each(|injector| injector.alter(view, &self.now))
    }

    /// Remembers what a tap has become where a stage with a fault starts from it.
    pub(crate) fn remember(&mut self, view: &TapView<'_>) {
        let injectors = self.injectors.iter_mut();
        injectors.for_each(|injector| injector.remember(view));
    }

    /// Whether there are none.
    pub(crate) fn is_empty(&self) -> bool {
        self.faults.is_empty()
    }

    /// Values changed so far.
    pub(crate) fn changed(&self) -> u64 {
        self.injectors.iter().map(|injector| injector.changed).sum()
    }
}

impl Observer for Injectors {
    fn tap(&mut self, mut view: TapView<'_>) -> Result<(), ObserverError> {
        self.alter(&mut view)?;
        self.remember(&view);
        Ok(())
    }
}

/// The observer's part of a fault.
struct Injector {
    fault: StageFault,
    when: Condition,
    gguf: Arc<Gguf>,
    config: Hyperparameters,
    definition: Definition,
    inputs: Rows,
    first_position: usize,
    tokens: Vec<u32>,
    changed: u64,
}

impl Injector {
    /// For a model.
    fn new(fault: StageFault, when: Condition, model: &Model) -> Injector {
        Injector {
            fault,
            when,
            gguf: Arc::clone(model.gguf()),
            config: model.hyperparameters().clone(),
            definition: model.definition(),
            inputs: Rows::default(),
            first_position: 0,
            tokens: Vec::new(),
            changed: 0,
        }
    }

    /// A batch is about to be evaluated.
    fn begin(&mut self, first_position: usize, tokens: &[u32]) {
        if first_position == 0 {
            self.inputs.begin_sequence();
        } else {
            self.inputs.keep_cache();
        }
        self.first_position = first_position;
        self.tokens = tokens.to_vec();
    }

    /// Alters the values of a tap, if it is the one.
    fn alter(&mut self, view: &mut TapView<'_>, now: &Circumstances) -> Result<(), InjectError> {
        let StageFault {
            mistake,
            tap,
            layer,
            scope,
        } = self.fault;
        if view.tap != tap || layer.is_some_and(|layer| Some(layer) != view.layer) {
            return Ok(());
        }
        let n_tokens = self.tokens.len();
        let positions = view.first_position..view.first_position + view.n_tokens;
        let concerned =
            |&p: &usize| scope.row(p - self.first_position, n_tokens) && self.when.holds(now, p);
        let positions: Vec<usize> = positions.filter(concerned).collect();
        if positions.is_empty() {
            return Ok(());
        }
        let stage = Stage {
            gguf: &self.gguf,
            config: &self.config,
            definition: self.definition,
            inputs: &self.inputs,
            tap,
            layer: view.layer,
            first_position: self.first_position,
            tokens: &self.tokens,
            mistake: None,
        };
        let right = stage.rows(&positions)?;
        let mistaken = Stage {
            mistake: Some(mistake),
            ..stage
        };
        let wrong = mistaken.rows(&positions)?;
        let heads = self.heads();
        for ((position, right), wrong) in positions.into_iter().zip(right).zip(wrong) {
            let energy: f64 = right.iter().map(|v| v * v).sum();
            let pairs = right.iter().zip(&wrong).enumerate();
            let concerned = pairs.filter(|(i, _)| scope.element(*i, view.width, heads));
            let error: f64 = concerned.map(|(_, (r, w))| (w - r).powi(2)).sum();
            // What is no mistake may be as small as that.
            if error <= ROUNDING * energy && mistake.is_wrong() {
                continue;
            }
            let rounding = 1e-12 * (energy / right.len() as f64).sqrt();
            let start = (position - view.first_position) * view.width;
            for (i, (wrong, right)) in wrong.iter().zip(right).enumerate() {
                // Where the mistake changes nothing but the last bits of f64, the engine's own rounding stays.
                if (wrong - right).abs() <= rounding || !scope.element(i, view.width, heads) {
                    continue;
                }
                self.changed += u64::from(match &mut view.data {
                    TapData::F32(values) => replace(&mut values[start + i], *wrong as f32),
                    TapData::F16(values) => replace(&mut values[start + i], f16::from_f64(*wrong)),
                });
            }
        }
        Ok(())
    }

    /// Remembers what a tap has become, if the fault's stage starts from it.
    fn remember(&mut self, view: &TapView<'_>) {
        if !self.starts_from(view.tap, view.layer) {
            return;
        }
        for row in 0..view.n_tokens {
            let values = row * view.width..(row + 1) * view.width;
            let values = match &view.data {
                TapData::F32(all) => all[values].iter().map(|&v| f64::from(v)).collect(),
                TapData::F16(all) => all[values].iter().map(|&v| f64::from(v)).collect(),
            };
            let position = view.first_position + row;
            self.inputs.put(view.tap, view.layer, position, values);
        }
    }

    fn starts_from(&self, tap: Tap, layer: Option<usize>) -> bool {
        let read_in = match tap {
            Tap::Embd => Some(0),
            Tap::LayerOut => layer.map(|layer| layer + 1),
            _ => layer,
        };
        let StageFault { tap: at, layer, .. } = self.fault;
        sources(at).any(|source| source == tap) && (layer.is_none() || layer == read_in)
    }

    /// Heads that a row is made of; otherwise it counts as one.
    fn heads(&self) -> usize {
        match self.fault.tap.width() {
            Width::Heads | Width::Probabilities => self.config.n_head,
            Width::KvHeads => self.config.n_head_kv,
            Width::Embd | Width::Ff | Width::Vocab => 1,
        }
    }
}

fn replace<T: Copy + PartialEq>(value: &mut T, by: T) -> bool {
    let changed = *value != by;
    *value = by;
    changed
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use bitnet_core::model::{Logits, Session, SessionOptions};
    use bitnet_model::tap::{Observer, ObserverError};

    use super::super::{Faults, Mistake, Scope};
    use super::*;

    const DEMO: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../assets/tiny-bitnet.gguf");
    const BATCHES: [&[u32]; 2] = [&[1, 17, 300, 17, 42], &[7]];

    fn demo() -> Arc<Model> {
        let gguf = Gguf::open(Path::new(DEMO)).unwrap();
        Arc::new(Model::load(Arc::new(gguf)).unwrap())
    }

    fn injector(model: &Model, fault: StageFault) -> Injector {
        Injector::new(fault, Condition::Always, model)
    }

    fn injectors(model: &Model, faults: &str) -> Injectors {
        let faults: Faults = faults.parse().unwrap();
        let mut injectors = Injectors::new(faults.of_stages());
        injectors.load(model);
        injectors
    }

    fn session(model: &Arc<Model>) -> Session {
        let options = SessionOptions {
            n_ctx: 16,
            threads: 1,
        };
        Session::new(Arc::clone(model), options).unwrap()
    }

    /// Compares the stages that make no mistake to the engine's.
    struct Recomputed {
        injector: Injector,
        compared: Vec<Tap>,
    }

    impl Observer for Recomputed {
        fn tap(&mut self, view: TapView<'_>) -> Result<(), ObserverError> {
            let TapView { tap, layer, .. } = view;
            let Injector {
                gguf,
                config,
                definition,
                inputs,
                first_position,
                tokens,
                ..
            } = &mut self.injector;
            let values: Vec<f64> = match &view.data {
                TapData::F32(values) => values.iter().map(|&v| f64::from(v)).collect(),
                TapData::F16(values) => values.iter().map(|&v| f64::from(v)).collect(),
            };
            let positions = view.first_position..view.first_position + view.n_tokens;
            let positions: Vec<usize> = positions.collect();
            let stage = Stage {
                gguf,
                config,
                definition: *definition,
                inputs,
                tap,
                layer,
                first_position: *first_position,
                tokens,
                mistake: None,
            };
            let rows = stage.rows(&positions)?;
            // The engine rounds queries to F16.
            let limit = match tap {
                Tap::AttnProbs => 1e-6,
                _ => 1e-11,
            };
            for ((row, values), position) in
                rows.iter().zip(values.chunks(view.width)).zip(positions)
            {
                assert_eq!(row.len(), values.len(), "{tap}");
                let pairs = row.iter().zip(values);
                let error: f64 = pairs.map(|(r, v)| (r - v).powi(2)).sum();
                let energy: f64 = values.iter().map(|v| v * v).sum();
                assert!(error <= limit * energy, "{tap}: {}", error / energy);
                inputs.put(tap, layer, position, values.to_vec());
            }
            self.compared.push(tap);
            Ok(())
        }
    }

    #[test]
    fn stages_without_a_mistake_are_the_engines() {
        let model = demo();
        let mut comparison = Recomputed {
            injector: injector(&model, "zero:q:*".parse().unwrap()),
            compared: Vec::new(),
        };
        let mut session = session(&model);
        for tokens in BATCHES {
            comparison.injector.begin(session.position(), tokens);
            let observer = Some(&mut comparison as &mut dyn Observer);
            session.eval(tokens, Logits::All, observer).unwrap();
        }
        for tap in model.hyperparameters().architecture.taps() {
            assert!(comparison.compared.contains(&tap), "{tap}");
        }
    }

    #[test]
    fn every_mistake_changes_something_or_says_what_it_needs() {
        let model = demo();
        let mut without_consequences = Vec::new();
        for &mistake in Mistake::ALL {
            let mut changed = 0;
            let has = |tap: &&Tap| model.hyperparameters().architecture.has(**tap);
            for &tap in mistake.taps().iter().filter(has) {
                let fault = StageFault {
                    mistake,
                    tap,
                    layer: tap.per_layer().then_some(1),
                    scope: Scope::Everywhere,
                };
                let mut injectors = injectors(&model, &fault.to_string());
                injectors.begin(Asked::Tapped, 0, BATCHES[0]);
                let observer = Some(&mut injectors as &mut dyn Observer);
                let mut session = session(&model);
                session.eval(BATCHES[0], Logits::All, observer).unwrap();
                changed += injectors.changed();
                assert!(
                    injectors.changed() > 0 || mistake.needs().is_some(),
                    "{fault}"
                );
            }
            if changed == 0 {
                without_consequences.push(mistake.name());
            }
        }
        // The demo model has no codes in blocks and no `.scale`; none of its activations is a half, no sum large, no head its
        // own, no rotation scaled; and no sequence came before.
        assert_eq!(
            without_consequences,
            [
                "block-scale-of-the-next",
                "block-scale-bf16",
                "two-read-as-minus-one",
                "scale-tensor-left-out",
                "bias-scaled",
                "activation-scale-per-row",
                "halves-towards-zero",
                "halves-away",
                "sums-wrap-at16-bits",
                "bias-left-out",
                "tied-head",
                "norm-over-the-row",
                "rotated-before-norm",
                "rope-unscaled",
                "yarn-on-every-pair",
                "rope-magnitude-left-out",
                "earlier-row",
                "earlier-sequence-seen",
                "relu2"
            ]
        );
    }

    /// What a fault makes of a tap, beside what the engine has there.
    struct Altered {
        injector: Injector,
        before: Vec<f32>,
        after: Vec<f32>,
    }

    impl Observer for Altered {
        fn tap(&mut self, mut view: TapView<'_>) -> Result<(), ObserverError> {
            let here = (view.tap, view.layer) == (self.injector.fault.tap, Some(1));
            let values = |view: &TapView<'_>| match &view.data {
                TapData::F32(values) => values.to_vec(),
                TapData::F16(_) => Vec::new(),
            };
            if here {
                self.before = values(&view);
            }
            self.injector.alter(&mut view, &Circumstances::default())?;
            if here {
                self.after = values(&view);
            }
            self.injector.remember(&view);
            Ok(())
        }
    }

    #[test]
    fn a_fault_stays_in_its_layer_and_scope() {
        let model = demo();
        let mut altered = Altered {
            injector: injector(&model, "negated:attn_out:1:one-head".parse().unwrap()),
            before: Vec::new(),
            after: Vec::new(),
        };
        altered.injector.begin(0, BATCHES[0]);
        let observer = Some(&mut altered as &mut dyn Observer);
        session(&model)
            .eval(BATCHES[0], Logits::All, observer)
            .unwrap();
        let (width, dim) = (
            model.hyperparameters().q_dim(),
            model.hyperparameters().head_dim,
        );
        let pairs = altered.before.iter().zip(&altered.after).enumerate();
        for (i, (before, after)) in pairs {
            if i % width < width - dim {
                assert_eq!(before.to_bits(), after.to_bits(), "element {i}");
            } else {
                approx::assert_relative_eq!(*after, -before, max_relative = 1e-3);
            }
        }
        assert_eq!(altered.injector.changed, (dim * BATCHES[0].len()) as u64);
    }
}
