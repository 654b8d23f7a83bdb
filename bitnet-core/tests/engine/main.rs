//! The engine on small models: the bundled one, and synthetic ones of every architecture and tensor type.

mod head;
mod hostile;
mod invariance;
mod load;
mod memory;
mod observer;
mod stages;
mod synthetic;
mod trained;

use std::sync::Arc;

use bitnet_core::model::{Logits, Model, Session, SessionOptions};
use bitnet_core::tap::{Observer, ObserverError, Tap, TapData, TapView};

fn session(model: &Arc<Model>, threads: usize) -> Session {
    let options = SessionOptions { n_ctx: 64, threads };
    Session::new(Arc::clone(model), options).unwrap()
}

fn bits(x: &[f32]) -> Vec<u32> {
    x.iter().map(|v| v.to_bits()).collect()
}

/// One tap as it was seen.
#[derive(Clone, Debug, PartialEq)]
struct Seen {
    tap: Tap,
    layer: Option<usize>,
    first_position: usize,
    n_tokens: usize,
    width: usize,
    values: Vec<f32>,
}

/// Writes down every tap; what `edit` leaves is written down and computed with.
struct Recorder<F> {
    seen: Vec<Seen>,
    edit: F,
}

impl<F: FnMut(Tap, Option<usize>, &mut [f32])> Observer for Recorder<F> {
    fn tap(&mut self, view: TapView<'_>) -> Result<(), ObserverError> {
        let values = match view.data {
            TapData::F32(data) => {
                (self.edit)(view.tap, view.layer, data);
                data.to_vec()
            }
            TapData::F16(data) => {
                let mut wide: Vec<f32> = data.iter().map(|v| v.to_f32()).collect();
                (self.edit)(view.tap, view.layer, &mut wide);
                for (narrow, v) in data.iter_mut().zip(&wide) {
                    *narrow = half::f16::from_f32(*v);
                }
                wide
            }
        };
        self.seen.push(Seen {
            tap: view.tap,
            layer: view.layer,
            first_position: view.first_position,
            n_tokens: view.n_tokens,
            width: view.width,
            values,
        });
        Ok(())
    }
}

/// Evaluates `tokens` in a new session and returns the taps and all logits.
fn record(
    model: &Arc<Model>,
    tokens: &[u32],
    edit: impl FnMut(Tap, Option<usize>, &mut [f32]),
) -> (Vec<Seen>, Vec<f32>) {
    let mut recorder = Recorder {
        seen: Vec::new(),
        edit,
    };
    let mut session = session(model, 2);
    let logits = session
        .eval(tokens, Logits::All, Some(&mut recorder))
        .unwrap()
        .to_vec();
    (recorder.seen, logits)
}
