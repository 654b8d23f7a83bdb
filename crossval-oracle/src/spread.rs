//! How far apart right engines may be in their logits.
//!
//! A rounding moves values by little, but an activation that lies near the middle between two int8 codes by a whole step,
//! and over the layers that grows: how far depends on the model and on the tokens. So it is measured on them. The whole
//! model is computed from the tokens, with nothing rounded but what its definition rounds, and once more with each
//! rounding that an engine may do.

use std::ops::Range;

use bitnet_model::tap::{Tap, sites};

use super::answers::{Choice, engine_error};
use super::inputs::{Inputs, OPTIONAL, TapAt};
use super::maths::Rounding;
use super::{Batch, Oracle, OracleError};

/// What one rounding does to the logits.
#[derive(Clone, Debug, PartialEq)]
pub struct Spread {
    /// The rounding, in words.
    pub rounding: String,
    /// The largest NMSE of a row with it against the same row without.
    pub nmse: f64,
}

impl Oracle {
    /// What each rounding does to the rows of logits at `positions` of a sequence.
    ///
    /// # Errors
    /// If a token is not in the vocabulary, or a tensor is missing.
    pub fn spread(
        &self,
        tokens: &[u32],
        positions: Range<usize>,
    ) -> Result<Vec<Spread>, OracleError> {
        let exact = |_: Tap, _: usize, _: &mut [f64]| ();
        let plain = Choice::ALL[0];
        let own = self.logits(tokens, positions.clone(), plain, &exact)?;
        // NaN is the largest.
        let worst = |rows: Vec<Vec<f64>>| {
            let all = own.iter().zip(&rows).map(|(a, b)| nmse(a, b));
            all.max_by(f64::total_cmp).unwrap_or(0.0)
        };
        let mut spreads = Vec::new();
        let mut tried = vec![self.roundings_of(&self.stages(), plain)?];
        for (choice, what) in Choice::SINGLE {
            let roundings = self.roundings_of(&self.stages(), choice)?;
            if tried.contains(&roundings) {
                continue;
            }
            let rounding = roundings.iter().find(|&&r| r != Rounding::None);
            let name = rounding.map_or("none", |r| r.name());
            let rows = self.logits(tokens, positions.clone(), choice, &exact)?;
            spreads.push(Spread {
                rounding: format!("{what}{name}"),
                nmse: worst(rows),
            });
            tried.push(roundings);
        }
        let mut of_f32 = 0.0;
        for pattern in 0..2 {
            let off = engine_error(self, pattern, 1.0);
            let rows = self.logits(tokens, positions.clone(), plain, &off)?;
            of_f32 = [of_f32, worst(rows)]
                .into_iter()
                .max_by(f64::total_cmp)
                .unwrap_or(of_f32);
        }
        spreads.push(Spread {
            rounding: "every stage: f32 arithmetic".to_owned(),
            nmse: of_f32,
        });
        Ok(spreads)
    }

    /// Every stage of the model, in the order of the forward pass.
    fn stages(&self) -> Vec<TapAt> {
        let has = |tap: &Tap| !OPTIONAL.contains(tap) || self.hyper.norms.contains(tap);
        let taps: Vec<Tap> = Tap::ALL.into_iter().filter(has).collect();
        let sites = sites(&taps, self.hyper.n_layer);
        sites.map(|(layer, tap)| (tap, layer)).collect()
    }

    /// The model from its tokens to the logits at `positions`; `pass_on` sees every row before the next stage does.
    fn logits(
        &self,
        tokens: &[u32],
        positions: Range<usize>,
        choice: Choice,
        pass_on: &dyn Fn(Tap, usize, &mut [f64]),
    ) -> Result<Vec<Vec<f64>>, OracleError> {
        let batch = Batch {
            first_position: 0,
            tokens,
        };
        let mut inputs = Inputs::default();
        for at in self.stages() {
            let rounding = choice.of(at.0, &self.roundings(at)?);
            if at.0 == Tap::Logits {
                return self.stage(at, batch, positions, &inputs, rounding);
            }
            let rows = self.stage(at, batch, 0..tokens.len(), &inputs, rounding)?;
            if at.0 == Tap::LayerOut {
                // All that the next layer starts from.
                inputs.clear();
            }
            for (position, mut row) in rows.into_iter().enumerate() {
                pass_on(at.0, position, &mut row);
                let held = row.into_iter().map(|v| f64::from(v as f32));
                inputs.put(at, position, held.collect());
            }
        }
        Ok(Vec::new())
    }
}

/// sum((b - a)^2) / sum(a^2)
fn nmse(a: &[f64], b: &[f64]) -> f64 {
    let error: f64 = a.iter().zip(b).map(|(a, b)| (b - a).powi(2)).sum();
    let energy: f64 = a.iter().map(|a| a * a).sum();
    if error == 0.0 { 0.0 } else { error / energy }
}
