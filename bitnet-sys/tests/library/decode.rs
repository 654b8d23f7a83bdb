use bitnet_sys::{Context, ContextOptions, Error, Logits};

use crate::{Recorder, TEXT, all_logits, context, model, nmse};

#[test]
fn prefill_equals_single_steps_within_its_noise() {
    let model = model();
    let tokens = model.tokenize(TEXT, true, false).unwrap();
    let mut context = context(&model, 1, false);
    context.decode(&tokens, 0, Logits::All, None).unwrap();
    let prefill = all_logits(&context, tokens.len());

    context.kv_clear();
    let mut steps = Vec::new();
    for (i, &token) in tokens.iter().enumerate() {
        context
            .decode(&[token], i as u32, Logits::Last, None)
            .unwrap();
        steps.push(context.logits(0).unwrap().to_vec());
    }
    assert_eq!(context.n_past() as usize, tokens.len());
    let noise = nmse(&steps, &prefill);
    assert!(noise < 1e-4, "{noise:e}");
    assert!(
        nmse(&prefill[1..], &prefill[..prefill.len() - 1]) > 1e-2,
        "rows differ from position to position"
    );
}

#[test]
fn clearing_the_cache_forgets_everything() {
    let model = model();
    let tokens = model.tokenize(TEXT, true, false).unwrap();
    let mut context = context(&model, 1, false);
    context.decode(&tokens, 0, Logits::All, None).unwrap();
    let first = all_logits(&context, tokens.len());
    context.kv_clear();
    context.decode(&tokens[..3], 0, Logits::None, None).unwrap();
    context.kv_clear();
    context.decode(&tokens, 0, Logits::All, None).unwrap();
    assert_eq!(all_logits(&context, tokens.len()), first, "bit for bit");
}

#[test]
fn refuses_what_does_not_fit() {
    let model = model();
    let options = ContextOptions {
        n_ctx: 64,
        n_ubatch: 8,
        observe: true,
        ..ContextOptions::default()
    };
    let mut context = Context::new(&model, options).unwrap();
    assert_eq!(
        (context.n_ctx(), context.n_batch(), context.n_ubatch()),
        (64, 64, 8)
    );
    assert!(matches!(
        context.decode(&[], 0, Logits::All, None),
        Err(Error::EmptyBatch)
    ));
    assert!(matches!(
        context.decode(&[1, 512], 0, Logits::All, None),
        Err(Error::Token { token: 512, .. })
    ));
    let too_large = context.decode(&[1; 65], 0, Logits::All, None);
    assert!(matches!(
        too_large,
        Err(Error::BatchTooLarge {
            limit: 64,
            option: "n_batch",
            ..
        })
    ));
    let too_large = context.decode(&[1; 9], 0, Logits::All, Some(&mut Recorder::default()));
    assert!(matches!(
        too_large,
        Err(Error::BatchTooLarge {
            limit: 8,
            option: "n_ubatch",
            ..
        })
    ));

    context.decode(&[1; 60], 0, Logits::Last, None).unwrap();
    assert!(context.logits(59).is_ok());
    assert!(
        matches!(context.logits(58), Err(Error::NoLogits(58))),
        "only those that were asked for"
    );
    assert!(matches!(
        context.decode(&[1], 0, Logits::All, None),
        Err(Error::Position {
            first: 0,
            n_past: 60
        })
    ));
    assert!(matches!(
        context.decode(&[1; 5], 60, Logits::All, None),
        Err(Error::ContextFull { end: 65, n_ctx: 64 })
    ));
    context.decode(&[1; 4], 60, Logits::None, None).unwrap();
    assert!(matches!(context.logits(3), Err(Error::NoLogits(3))));

    let mut unobserved = Context::new(
        &model,
        ContextOptions {
            observe: false,
            ..options
        },
    )
    .unwrap();
    let result = unobserved.decode(&[1], 0, Logits::All, Some(&mut Recorder::default()));
    assert!(matches!(result, Err(Error::NotObservable)));
    let no_threads = Context::new(
        &model,
        ContextOptions {
            threads: 0,
            ..options
        },
    );
    assert!(matches!(
        no_threads,
        Err(Error::Option {
            option: "threads",
            ..
        })
    ));
}

#[test]
fn a_context_outlives_every_other_handle_on_its_model() {
    let mut context = context(&model(), 1, false);
    context.decode(&[1, 300], 0, Logits::Last, None).unwrap();
    assert_eq!(context.logits(1).unwrap().len(), 512);
}
