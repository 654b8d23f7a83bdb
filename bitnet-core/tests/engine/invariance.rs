//! The same bits for every batch split, thread count, kernel, and with or without an observer.

use std::sync::Arc;

use bitnet_core::ErrorKind;
use bitnet_core::kernels::Kernel;
use bitnet_core::model::{Logits, Session, SessionOptions};

use crate::synthetic::{N_VOCAB, SPECS, Synthetic};
use crate::trained::bundled;
use crate::{bits, record, session};

fn tokens(n: usize, n_vocab: usize) -> Vec<u32> {
    (0..n)
        .map(|i| (i * 131 + 7) as u32 % n_vocab as u32)
        .collect()
}

#[test]
fn results_depend_on_nothing_but_the_tokens() {
    let mut models = vec![bundled()];
    models.extend(
        SPECS
            .iter()
            .map(|spec| Arc::new(Synthetic::new(spec).load().unwrap())),
    );
    for mut model in models {
        let n_vocab = model.hyperparameters().n_vocab;
        let tokens = tokens(23, n_vocab);
        let name = format!("{:?}", model);
        let (_, want) = record(&model, &tokens, |_, _, _| ());
        assert_eq!(want.len(), 23 * n_vocab);
        assert!(want.iter().all(|v| v.is_finite()));
        let want = bits(&want);

        for kernel in Kernel::available() {
            let name = format!("{name} {}", kernel.name());
            match Arc::get_mut(&mut model) {
                Some(model) => model.set_kernel(kernel),
                None => unreachable!("sessions are gone"),
            }
            for threads in [1, 3] {
                let mut session = session(&model, threads);
                let all = session.eval(&tokens, Logits::All, None).unwrap();
                assert_eq!(bits(all), want, "{name}, {threads} threads");

                session.clear();
                let mut split = Vec::new();
                for part in [&tokens[..1], &tokens[1..4], &tokens[4..13], &tokens[13..]] {
                    split.extend(bits(session.eval(part, Logits::All, None).unwrap()));
                }
                assert_eq!(split, want, "{name}, {threads} threads, split");

                // One by one, after the rest was forgotten.
                session.truncate(5);
                for (i, &token) in tokens.iter().enumerate().skip(5) {
                    assert_eq!(session.position(), i);
                    let last = session.eval(&[token], Logits::Last, None).unwrap();
                    assert_eq!(bits(last), want[i * n_vocab..][..n_vocab], "{name}, {i}");
                }

                session.clear();
                let none = session.eval(&tokens[..9], Logits::None, None).unwrap();
                assert!(none.is_empty());
                let last = session.eval(&tokens[9..], Logits::Last, None).unwrap();
                assert_eq!(bits(last), want[22 * n_vocab..], "{name}, last only");
            }
        }
    }
}

/// Codes of 3 have no place among trits.
#[test]
fn weights_that_cannot_be_repacked_are_used_as_they_are() {
    let mut synthetic = Synthetic::new(&SPECS[0]);
    synthetic.tensor("blk.0.ffn_down.weight").bytes[..224].fill(0xff);
    let model = Arc::new(synthetic.load().unwrap());
    let tokens = tokens(60, N_VOCAB as usize);
    let mut session = session(&model, 2);
    let want = bits(session.eval(&tokens, Logits::Last, None).unwrap());
    session.clear();
    let mut last = Vec::new();
    for token in tokens {
        last = bits(session.eval(&[token], Logits::Last, None).unwrap());
    }
    assert_eq!(last, want);
}

#[test]
fn more_tokens_than_one_chunk() {
    let model = bundled();
    let tokens = tokens(200, model.hyperparameters().n_vocab);
    let options = |threads| SessionOptions {
        n_ctx: 200,
        threads,
    };
    let mut one = Session::new(Arc::clone(&model), options(1)).unwrap();
    let mut two = Session::new(Arc::clone(&model), options(2)).unwrap();
    let all = bits(one.eval(&tokens, Logits::All, None).unwrap());
    for (i, &token) in tokens.iter().enumerate() {
        let n_vocab = model.hyperparameters().n_vocab;
        let logits = two.eval(&[token], Logits::Last, None).unwrap();
        assert_eq!(bits(logits), all[i * n_vocab..][..n_vocab], "{i}");
    }
    one.clear();
    let last = bits(one.eval(&tokens, Logits::Last, None).unwrap());
    assert_eq!(last, all[all.len() - last.len()..]);
}

#[test]
fn impossible_requests_change_nothing() {
    let model = Arc::new(Synthetic::new(&SPECS[0]).load().unwrap());
    let mut session = session(&model, 1);
    let want = bits(session.eval(&[1, 2, 3], Logits::Last, None).unwrap());
    session.truncate(2);

    let error = session
        .eval(&[1, N_VOCAB as u32], Logits::All, None)
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Usage);
    assert!(error.to_string().contains("token 40"), "{error}");
    let error = session.eval(&[0; 63], Logits::All, None).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Usage);
    assert!(error.to_string().contains("context of 64"), "{error}");

    assert_eq!(session.position(), 2);
    assert_eq!(bits(session.eval(&[3], Logits::Last, None).unwrap()), want);
    assert!(session.eval(&[], Logits::All, None).unwrap().is_empty());
    for (n_ctx, threads) in [(0, 1), (1, 0), (usize::MAX / 8, 1)] {
        let options = SessionOptions { n_ctx, threads };
        let error = Session::new(Arc::clone(&model), options).err().unwrap();
        assert_eq!(error.kind(), ErrorKind::Usage);
    }
}
