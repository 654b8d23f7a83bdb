use std::collections::BTreeMap;
use std::ops::ControlFlow;

use bitnet_sys::{Error, Logits, Node, NodeInfo, NodeObserver, Values};

use crate::{N_LAYER, Recorder, TEXT, all_logits, context, model, nmse, to_f16};

#[test]
fn observing_changes_nothing() {
    let model = model();
    let tokens = model.tokenize(TEXT, true, false).unwrap();
    let run = |threads, observed: bool| {
        let mut context = context(&model, threads, observed);
        let mut recorder = Recorder::default();
        let observer = observed.then_some(&mut recorder as &mut dyn NodeObserver);
        context.decode(&tokens, 0, Logits::All, observer).unwrap();
        all_logits(&context, tokens.len())
    };
    let plain = run(1, false);
    assert_eq!(run(1, true), plain, "bit for bit");
    assert!(nmse(&run(2, true), &plain) < 1e-4);
}

#[test]
fn hands_over_every_node_of_a_layer() {
    let model = model();
    let tokens = model.tokenize(TEXT, true, false).unwrap();
    let n = tokens.len() as i64;
    let n_kv = 32;
    assert!(
        n > 1 && n < n_kv,
        "the shapes below assume one block of the KV cache"
    );
    let mut context = context(&model, 1, true);
    let mut recorder = Recorder::default();
    context
        .decode(&tokens, 0, Logits::All, Some(&mut recorder))
        .unwrap();

    let computed: Vec<(&str, &str, u32, [i64; 4])> = recorder
        .nodes
        .iter()
        .filter(|node| node.name.contains("-3"))
        .filter(|node| !["VIEW", "RESHAPE", "PERMUTE", "TRANSPOSE"].contains(&node.op.as_str()))
        .map(|node| {
            (
                node.name.as_str(),
                node.op.as_str(),
                node.occurrence,
                node.shape,
            )
        })
        .collect();
    let expected = [
        ("norm-3", "RMS_NORM", 0, [128, n, 1, 1]),
        ("attn_norm-3", "MUL", 0, [128, n, 1, 1]),
        ("Qcur-3", "MUL_MAT", 0, [128, n, 1, 1]),
        ("Qcur-3", "ROPE", 0, [32, 4, n, 1]),
        ("Kcur-3", "MUL_MAT", 0, [64, n, 1, 1]),
        ("Kcur-3", "ROPE", 0, [32, 2, n, 1]),
        ("Vcur-3", "MUL_MAT", 0, [64, n, 1, 1]),
        (
            "k_cache_view-3 (copy of Kcur-3)",
            "CPY",
            0,
            [64 * n, 1, 1, 1],
        ),
        (
            "v_cache_view-3 (copy of Vcur-3 (transposed))",
            "CPY",
            0,
            [n, 64, 1, 1],
        ),
        ("kq-3", "MUL_MAT", 0, [n_kv, n, 4, 1]),
        ("kq_soft_max_ext-3", "SOFT_MAX", 0, [n_kv, n, 4, 1]),
        ("kqv-3", "MUL_MAT", 0, [32, n, 4, 1]),
        ("kqv_out-3", "CONT", 0, [128, n, 1, 1]),
        ("norm-3", "RMS_NORM", 1, [128, n, 1, 1]),
        ("attn_sub_norm-3", "MUL", 0, [128, n, 1, 1]),
        ("attn_o_out-3", "MUL_MAT", 0, [128, n, 1, 1]),
        ("ffn_inp-3", "ADD", 0, [128, n, 1, 1]),
        ("norm-3", "RMS_NORM", 2, [128, n, 1, 1]),
        ("ffn_norm-3", "MUL", 0, [128, n, 1, 1]),
        ("ffn_gate-3", "MUL_MAT", 0, [512, n, 1, 1]),
        ("ffn_relu-3", "RELU", 0, [512, n, 1, 1]),
        ("ffn_sqr(relu)-3", "SQR", 0, [512, n, 1, 1]),
        ("ffn_up-3", "MUL_MAT", 0, [512, n, 1, 1]),
        ("ffn_out-3", "MUL", 0, [512, n, 1, 1]),
        ("norm-3", "RMS_NORM", 3, [512, n, 1, 1]),
        ("ffn_sub_norm-3", "MUL", 0, [512, n, 1, 1]),
        ("ffn_down-3", "MUL_MAT", 0, [128, n, 1, 1]),
        ("l_out-3", "ADD", 0, [128, n, 1, 1]),
    ];
    assert_eq!(computed, expected);
    assert_eq!(recorder.find("inp_embd", "GET_ROWS").shape, [128, n, 1, 1]);
    assert_eq!(recorder.find("result_norm", "MUL").shape, [128, n, 1, 1]);
    assert_eq!(
        recorder.find("result_output", "MUL_MAT").shape,
        [512, n, 1, 1]
    );
    assert_eq!(
        recorder
            .nodes
            .iter()
            .filter(|node| node.name.starts_with("l_out-"))
            .count(),
        N_LAYER
    );
    assert_eq!(
        recorder.f32("result_output", "MUL_MAT"),
        all_logits(&context, tokens.len()).concat()
    );
}

#[test]
fn values_come_in_logical_order() {
    let model = model();
    let tokens = model.tokenize(TEXT, true, false).unwrap();
    let n = tokens.len();
    let mut context = context(&model, 1, true);
    let mut recorder = Recorder::default();
    context
        .decode(&tokens, 0, Logits::All, Some(&mut recorder))
        .unwrap();
    for layer in 0..N_LAYER {
        let keys = recorder.f16(
            &format!("k_cache_view-{layer} (copy of Kcur-{layer})"),
            "CPY",
        );
        assert_eq!(keys, to_f16(recorder.f32(&format!("Kcur-{layer}"), "ROPE")));

        // Values are stored transposed, one row per channel and n_ctx apart.
        let stored = recorder.f16(
            &format!("v_cache_view-{layer} (copy of Vcur-{layer} (transposed))"),
            "CPY",
        );
        let values = to_f16(recorder.f32(&format!("Vcur-{layer}"), "MUL_MAT"));
        let transposed: Vec<u16> = (0..64)
            .flat_map(|c| values.iter().skip(c).step_by(64))
            .copied()
            .collect();
        assert_eq!(stored, transposed);

        let probabilities = recorder.f32(&format!("kq_soft_max_ext-{layer}"), "SOFT_MAX");
        for (row, p) in probabilities.chunks(32).enumerate() {
            let position = row % n;
            assert!((p.iter().sum::<f32>() - 1.0).abs() < 1e-5);
            assert!(
                p[position + 1..].iter().all(|&p| p == 0.0),
                "causal: layer {layer}, row {row}"
            );
        }
    }
}

#[test]
fn an_observer_takes_only_what_it_wants() {
    struct Counter(BTreeMap<String, (usize, usize)>);
    impl NodeObserver for Counter {
        fn wants(&mut self, node: &NodeInfo<'_>) -> bool {
            self.0.entry(node.name.to_owned()).or_default().0 += 1;
            node.name.starts_with("l_out")
        }
        fn node(&mut self, node: &mut Node<'_>) -> ControlFlow<()> {
            self.0.get_mut(node.info.name).unwrap().1 += 1;
            assert_eq!(node.bytes().unwrap().len(), 128 * 2 * 4);
            ControlFlow::Continue(())
        }
    }
    let model = model();
    let mut context = context(&model, 1, true);
    let mut counter = Counter(BTreeMap::new());
    context
        .decode(&[1, 300], 0, Logits::All, Some(&mut counter))
        .unwrap();
    assert_eq!(counter.0["l_out-0"], (1, 1));
    assert_eq!(counter.0["norm-0"], (4, 0), "asked once per node");
}

/// Whatever shape a node's values have in memory: rows, a cache's transposed columns, padded probabilities.
#[test]
fn the_evaluation_goes_on_with_what_an_observer_leaves() {
    /// Puts a constant in the place of a node's values, and keeps those of another.
    struct Replacer {
        replaced: &'static str,
        by: f32,
        kept: &'static str,
        values: Vec<f32>,
    }
    impl NodeObserver for Replacer {
        fn wants(&mut self, node: &NodeInfo<'_>) -> bool {
            node.name.starts_with(self.replaced) || node.name == self.kept
        }
        fn node(&mut self, node: &mut Node<'_>) -> ControlFlow<()> {
            if node.info.name == self.kept {
                if let Ok(Values::F32(values)) = node.values() {
                    self.values = values;
                }
                return ControlFlow::Continue(());
            }
            let values = match node.values().unwrap() {
                Values::F32(values) => Values::F32(vec![self.by; values.len()]),
                Values::F16(values) => {
                    Values::F16(vec![half::f16::from_f32(self.by); values.len()])
                }
            };
            node.replace(&values).unwrap();
            assert_eq!(node.values().unwrap(), values);
            let none = node.replace(&Values::F32(Vec::new())).unwrap_err();
            assert!(none.to_string().contains(node.info.name), "{none}");
            ControlFlow::Continue(())
        }
    }
    let model = model();
    for (replaced, by, kept, expected) in [
        ("ffn_inp-2", 3.0, "ffn_norm-2", None),
        ("v_cache_view-2 (copy", 0.0, "kqv_out-2", Some(0.0)),
        ("v_cache_view-2 (copy", 0.5, "kqv_out-2", Some(0.5)),
        ("kq_soft_max_ext-2", 0.0, "kqv_out-2", Some(0.0)),
    ] {
        let mut context = context(&model, 1, true);
        let mut observer = Replacer {
            replaced,
            by,
            kept,
            values: Vec::new(),
        };
        let tokens = [1, 300, 301];
        context
            .decode(&tokens, 0, Logits::All, Some(&mut observer))
            .unwrap();
        let rows: Vec<&[f32]> = observer.values.chunks(128).collect();
        assert_eq!(rows.len(), 3);
        assert!(
            rows.iter().all(|row| *row == rows[0]),
            "{replaced}: every row the same"
        );
        if let Some(expected) = expected {
            let near = |v: &f32| (v - expected).abs() < 1e-3;
            assert!(rows[0].iter().all(near), "{replaced} by {by}: {rows:?}");
        }
    }
}

#[test]
fn an_observer_can_end_the_evaluation() {
    let model = model();
    let mut context = context(&model, 2, true);
    context
        .decode(&[1, 300, 301], 0, Logits::All, None)
        .unwrap();
    let plain = all_logits(&context, 3);

    context.kv_clear();
    let mut recorder = Recorder {
        stop_at: Some("ffn_gate-2"),
        ..Recorder::default()
    };
    let result = context.decode(&[1, 300, 301], 0, Logits::All, Some(&mut recorder));
    assert!(matches!(result, Err(Error::Stopped)), "{result:?}");
    assert_eq!(
        recorder.nodes.last().unwrap().name,
        "ffn_norm-2",
        "nothing is seen after it"
    );
    assert!(matches!(context.logits(0), Err(Error::NoLogits(0))));

    let mut recorder = Recorder {
        panic_at: Some("kq-1"),
        ..Recorder::default()
    };
    let result = context.decode(&[1, 300, 301], 0, Logits::All, Some(&mut recorder));
    assert!(
        matches!(&result, Err(Error::ObserverPanicked(m)) if m.contains("asked to")),
        "{result:?}"
    );

    context
        .decode(&[1, 300, 301], 0, Logits::All, None)
        .unwrap();
    assert_eq!(all_logits(&context, 3), plain, "usable as before");
}
