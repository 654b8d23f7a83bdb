//! What an observer sees, and what becomes of what it writes.

use std::sync::Arc;

use bitnet_core::ErrorKind;
use bitnet_core::model::{Logits, Model};
use bitnet_core::tap::{Observer, ObserverError, Tap, TapView};

use crate::synthetic::{N_LAYER, SPECS, Synthetic};
use crate::{Seen, bits, record, session};

const A: [u32; 7] = [3, 1, 4, 1, 5, 9, 2];
const B: [u32; 7] = [2, 7, 1, 8, 2, 8, 1];

fn models() -> [Arc<Model>; 3] {
    // With sub-norms, without, and with norms of heads.
    [0, 3, 6].map(|i| Arc::new(Synthetic::new(&SPECS[i]).load().unwrap()))
}

#[test]
fn every_tap_once_in_order_with_its_shape() {
    for model in models() {
        let config = model.hyperparameters();
        let taps = config.architecture.taps();
        let mut want: Vec<(Tap, Option<usize>)> = vec![(Tap::Embd, None)];
        for layer in 0..N_LAYER {
            let per_layer = taps.iter().filter(|tap| tap.per_layer());
            want.extend(per_layer.map(|&tap| (tap, Some(layer))));
        }
        want.extend([(Tap::FinalNorm, None), (Tap::Logits, None)]);

        let mut session = session(&model, 2);
        session.eval(&A[..3], Logits::None, None).unwrap();
        for (logits, rows) in [(Logits::All, 4), (Logits::Last, 1), (Logits::None, 0)] {
            session.truncate(3);
            let mut recorder = crate::Recorder {
                seen: Vec::new(),
                edit: |_, _, _: &mut [f32]| (),
            };
            let returned = session
                .eval(&A[3..], logits, Some(&mut recorder))
                .unwrap()
                .to_vec();
            let seen = recorder.seen;
            let names: Vec<_> = seen.iter().map(|s| (s.tap, s.layer)).collect();
            assert_eq!(names, want[..want.len() - usize::from(rows == 0)]);
            for s in &seen {
                let width = config.width(s.tap, 7);
                let shape = match s.tap {
                    Tap::Logits => (7 - rows, rows, width),
                    _ => (3, 4, width),
                };
                assert_eq!((s.first_position, s.n_tokens, s.width), shape, "{}", s.tap);
                assert_eq!(s.values.len(), s.n_tokens * s.width);
            }
            assert_eq!(returned.len(), rows * config.n_vocab);
        }
    }
}

#[test]
fn probabilities_are_causal() {
    for model in models() {
        let (seen, _) = record(&model, &A, |_, _, _| ());
        for s in seen.iter().filter(|s| s.tap == Tap::AttnProbs) {
            for (row, p) in s.values.chunks(A.len()).enumerate() {
                let t = row / model.hyperparameters().n_head;
                let total: f32 = p[..=t].iter().sum();
                assert!((total - 1.0).abs() < 1e-5);
                assert!(p[t + 1..].iter().all(|&p| p == 0.0));
            }
        }
    }
}

/// What follows from overwritten taps alone is that of the run that they were taken from.
#[test]
fn what_is_overwritten_is_computed_with() {
    // In the last layer; `layer_out` as an input is that of the layer before.
    let cuts: [(&[Tap], &[Tap]); 15] = [
        (&[Tap::AttnNorm], &[Tap::Q, Tap::K, Tap::V]),
        (&[Tap::Q], &[Tap::QNorm, Tap::QRope]),
        (&[Tap::K], &[Tap::KNorm, Tap::KRope]),
        (&[Tap::QNorm, Tap::KNorm], &[Tap::QRope, Tap::KRope]),
        (&[Tap::KRope], &[Tap::KCache]),
        (&[Tap::V], &[Tap::VCache]),
        (&[Tap::QRope, Tap::KCache], &[Tap::AttnProbs]),
        (&[Tap::AttnProbs, Tap::VCache], &[Tap::AttnOut]),
        (&[Tap::AttnOut, Tap::AttnSubNorm], &[Tap::AttnProj]),
        (&[Tap::AttnProj, Tap::LayerOut], &[Tap::FfnInp]),
        (&[Tap::FfnInp], &[Tap::FfnNorm, Tap::LayerOut, Tap::Logits]),
        (&[Tap::FfnNorm], &[Tap::FfnGate, Tap::FfnUp]),
        (&[Tap::FfnGate, Tap::FfnUp], &[Tap::FfnAct]),
        (&[Tap::FfnAct, Tap::FfnSubNorm], &[Tap::FfnDown]),
        (
            &[Tap::FfnInp, Tap::FfnDown],
            &[Tap::LayerOut, Tap::FinalNorm],
        ),
    ];
    let last = N_LAYER - 1;
    for model in models() {
        let (a, a_logits) = record(&model, &A, |_, _, _| ());
        let value = |seen: &[Seen], tap: Tap, layer| {
            let found = seen.iter().find(|s| s.tap == tap && s.layer == layer);
            found.unwrap().values.clone()
        };
        let has = |tap: &&Tap| model.hyperparameters().architecture.has(**tap);
        for (overwritten, followers) in cuts {
            if !overwritten.iter().any(|tap| has(&tap)) {
                continue;
            }
            let (b, _) = record(&model, &B, |tap, layer, data| {
                let due = if tap == Tap::LayerOut { last - 1 } else { last };
                if layer == Some(due) && overwritten.contains(&tap) {
                    data.copy_from_slice(&value(&a, tap, layer));
                }
            });
            for &tap in followers.iter().filter(has) {
                let layer = tap.per_layer().then_some(last);
                let (a, b) = (value(&a, tap, layer), value(&b, tap, layer));
                assert_eq!(bits(&a), bits(&b), "{tap} after {overwritten:?}");
            }
        }
        for cut in [Tap::Embd, Tap::FinalNorm, Tap::Logits] {
            let (_, b_logits) = record(&model, &B, |tap, _, data| {
                if tap == cut {
                    data.copy_from_slice(&value(&a, tap, None));
                }
            });
            assert_eq!(bits(&a_logits), bits(&b_logits), "{cut}");
        }
    }
}

#[test]
fn every_tap_matters() {
    for model in models() {
        let (_, want) = record(&model, &A, |_, _, _| ());
        for tap in model.hyperparameters().architecture.taps() {
            let (_, got) = record(&model, &A, |t, layer, data| {
                if t == tap && layer.is_none_or(|layer| layer == 0) {
                    data.iter_mut().for_each(|v| *v *= -0.5);
                }
            });
            assert_ne!(bits(&got), bits(&want), "{tap}");
        }
    }
}

#[test]
fn weight_on_a_masked_position_counts() {
    let [model, ..] = models();
    let (_, want) = record(&model, &A, |_, _, _| ());
    let (seen, got) = record(&model, &A, |tap, layer, data| {
        if tap == Tap::AttnProbs && layer == Some(0) {
            data[A.len() - 1] = 0.5; // token 0, head 0, the last position
        }
    });
    assert_ne!(bits(&got), bits(&want));
    let of = |tap| {
        seen.iter()
            .find(|s| s.tap == tap && s.layer == Some(0))
            .unwrap()
    };
    let v = &of(Tap::VCache).values;
    let kv_dim = model.hyperparameters().kv_dim();
    let expected = v[0] + 0.5 * v[(A.len() - 1) * kv_dim];
    assert!((of(Tap::AttnOut).values[0] - expected).abs() < 1e-6);
}

struct Stop;

impl Observer for Stop {
    fn tap(&mut self, view: TapView<'_>) -> Result<(), ObserverError> {
        match view.tap {
            Tap::FfnInp => Err("enough".into()),
            _ => Ok(()),
        }
    }
}

#[test]
fn an_observer_can_stop() {
    let [model, ..] = models();
    let mut session = session(&model, 2);
    session.eval(&A[..2], Logits::None, None).unwrap();
    let error = session
        .eval(&A[2..], Logits::All, Some(&mut Stop))
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Observer);
    assert!(error.to_string().contains("enough"));
    assert_eq!(session.position(), 2);
    let (_, all) = record(&model, &A, |_, _, _| ());
    let rest = session.eval(&A[2..], Logits::All, None).unwrap();
    assert_eq!(bits(rest), bits(&all[all.len() - rest.len()..]));
}
