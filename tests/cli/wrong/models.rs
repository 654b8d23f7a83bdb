//! Models that are broken, and engines that say of themselves or of the model what is not so, or end badly.

use bitnet_core::gguf::TensorType;
use reports::model::{AtFault, Finding, KnownState, Source, Status};
use reports::outcome::Outcome;

use super::*;

/// The engines of these runs: the Rust engine against itself, which shows no difference whatever the model.
const SAME: [&str; 5] = ["--reference", "rust", "--no-bench", "--n-predict", "4"];

/// A copy of a model, with the metadata that `keep` says and the data of the tensors that `which` names changed.
fn rewrite(
    [from, to]: [&Path; 2],
    keep: impl Fn(&str) -> bool,
    which: impl Fn(&str) -> bool,
    change: fn(TensorType, &mut [u8]),
) {
    let gguf = Gguf::open(from).expect("a model");
    let mut metadata = Metadata::new(to);
    for (key, value) in gguf.metadata().iter().filter(|(key, _)| keep(key)) {
        metadata.insert(key, value.clone()).expect("a key");
    }
    let mut writer = Writer::new(metadata).expect("a writer");
    for t in gguf.tensors() {
        writer.tensor(&t.name, &t.shape, t.ty).expect("a tensor");
    }
    let file = BufWriter::new(File::create(to).expect("a file"));
    let mut file = writer.begin(file).expect("a head");
    for t in gguf.tensors() {
        let mut data = gguf.data(t).expect("data").to_vec();
        if which(&t.name) {
            change(t.ty, &mut data);
        }
        file.write_tensor(|out| out.write_all(&data))
            .expect("written");
    }
    file.finish().expect("complete");
}

/// The bundled model with the data of some tensors changed.
fn tiny_with_tensors(to: &Path, which: impl Fn(&str) -> bool, change: fn(TensorType, &mut [u8])) {
    rewrite([Path::new(TINY), to], |_| true, which, change);
}

/// All weights 0, as the type has it.
fn zeros(ty: TensorType, data: &mut [u8]) {
    let n = data.len() - 32;
    match ty {
        TensorType::I2_S => data[..n].fill(0b01_01_01_01),
        _ => data.fill(0),
    }
}

fn no_scale(_: TensorType, data: &mut [u8]) {
    let n = data.len() - 32;
    data[n..].fill(0);
}

#[test]
fn what_is_zero_in_both_engines_is_not_compared() {
    let scratch = Scratch::new();
    let model = scratch.path("model.gguf");
    type Case = (
        fn(&str) -> bool,
        fn(TensorType, &mut [u8]),
        &'static str,
        &'static str,
    );
    let cases: [Case; 4] = [
        // A layer's whole MLP, one matrix without a scale, a norm, and the head with the embeddings.
        (
            |name| name.starts_with("blk.2.ffn_") && !name.contains("norm"),
            zeros,
            "blk.2.ffn_gate.weight",
            "ffn_gate",
        ),
        (
            |name| name == "blk.1.attn_v.weight",
            no_scale,
            "blk.1.attn_v.weight",
            "layer 1, v,",
        ),
        (
            |name| name == "blk.0.attn_norm.weight",
            zeros,
            "blk.0.attn_norm.weight",
            "layer 0, attn_norm",
        ),
        (
            |name| name == "token_embd.weight",
            zeros,
            "token_embd.weight",
            "embd",
        ),
    ];
    for (which, change, tensor, tap) in cases {
        tiny_with_tensors(&model, which, change);
        let (code, report, _) = run(&model, &SAME);
        assert_eq!(
            (code, report.verdict.status),
            (20, Status::Incomplete),
            "{tensor}"
        );
        let coverage = &report.coverage;
        assert!(coverage.compared < coverage.expected && coverage.missing.is_empty());
        assert!(
            coverage.vacuous.iter().any(|rows| rows.contains(tap)),
            "{coverage:?}"
        );
        let reasons = report.verdict.reasons.join("\n");
        for says in [
            tensor,
            "of the model is all zero",
            "all zero in both engines",
            tap,
        ] {
            assert!(reasons.contains(says), "{says:?} in {reasons}");
        }
        // Nobody is at fault for what the file holds.
        assert!(report.verdict.findings.iter().all(|f| f.role().is_none()));
    }
}

/// In either role, in the first stage and in the logits alone.
#[test]
fn values_that_are_no_numbers_are_the_fault_of_who_has_them() {
    let act = (
        "np.maximum(gate, 0) ** 2 * up",
        "np.maximum(gate, 0) ** 2 * up / 0",
    );
    let logits = (
        "tap(\"logits\", None, apply(m.output, h))",
        "tap(\"logits\", None, np.where(positions[:, None] == 3, f32(np.nan), apply(m.output, h)))",
    );
    let one = (
        "tap(\"logits\", None, apply(m.output, h))",
        "tap(\"logits\", None, np.where(np.arange(m.n_vocab) == 77, f32(np.inf), apply(m.output, h)))",
    );
    for role in Role::BOTH {
        for (change, place) in [
            (act, "layer 0, ffn_act, position 0"),
            (logits, "logits, position 3"),
            (one, "logits, position 0"),
        ] {
            let more = ["--no-bench", "--n-predict", "0"];
            let Some((code, report)) = run_doctored_as(role, &[change], &more) else {
                return;
            };
            assert_eq!(
                (code, report.verdict.status),
                (10, Status::Fail),
                "{:#?}",
                report.verdict
            );
            let at_fault = role.of(AtFault::Reference, AtFault::Candidate);
            assert_eq!(report.verdict.at_fault, at_fault);
            let findings = report.verdict.findings.iter();
            let found: Vec<&Finding> = findings.filter(|f| f.source == Source::Coverage).collect();
            let [finding] = found[..] else {
                panic!("{found:#?}")
            };
            assert_eq!(finding.role(), Some(role));
            let says = format!(
                "the {role} has values that are NaN or infinite in isolated, prompt 0, {place}"
            );
            assert_eq!(finding.text, says);
        }
    }
}

/// No ledger excuses what is no number.
#[test]
fn no_ceiling_covers_what_is_no_number() {
    let scratch = Scratch::new();
    let known = scratch.path("known.toml");
    let entry = |tap| {
        format!(
            "[[deviation]]\ntap = '{tap}'\nat_fault = 'candidate'\nceiling = inf\nreason = 'r'\n\
             link = 'l'\nexpires = '9999-12-31'\n"
        )
    };
    std::fs::write(&known, ["ffn_act", "logits"].map(entry).concat()).expect("a ledger");
    let more = [
        "--no-bench",
        "--n-predict",
        "0",
        "--known",
        known.to_str().expect("UTF-8"),
    ];
    let change = (
        "np.maximum(gate, 0) ** 2 * up",
        "np.maximum(gate, 0) ** 2 * up / 0",
    );
    let Some((code, report)) = run_doctored_as(Role::Candidate, &[change], &more) else {
        return;
    };
    assert_eq!((code, report.known[0].state), (10, KnownState::Refused));
    let reasons = report.verdict.reasons.join("\n");
    assert!(reasons.contains("values that are no numbers"), "{reasons}");
}

#[test]
fn a_model_that_is_worse_than_guessing_is_said_to_be() {
    let scratch = Scratch::new();
    let model = scratch.path("model.gguf");
    // Every token has the embedding of the next one, F16 of 128 values: sure, and wrong.
    tiny_with_tensors(
        &model,
        |name| name == "token_embd.weight",
        |_, data| {
            data.rotate_left(2 * 128);
        },
    );
    let text = scratch.path("text.txt");
    std::fs::write(
        &text,
        "Once upon a time there was a little dog. ".repeat(60),
    )
    .expect("a text");
    let more = ["--text", text.to_str().expect("UTF-8"), "--chunks", "1"];
    let (code, report, _) = run(&model, &[&SAME[..], &more].concat());
    let reasons = report.verdict.reasons.join("\n");
    assert_eq!(code, 20, "{reasons}");
    assert!(
        reasons.contains("worse than guessing") && reasons.contains("vocabulary of 512"),
        "{reasons}"
    );
    // The same of a model that says that its weights are random: it is said, and held against nobody.
    let random = synth(&scratch, "bitnet-b1.58", &["--layers", "1"]);
    let (code, report, _) = run(&random, &[&SAME[..], &more].concat());
    assert_eq!((code, report.verdict.at_fault), (0, AtFault::None));
    let [finding] = findings(&report)[..] else {
        panic!("{:#?}", report.verdict);
    };
    assert_eq!(
        (finding.outcome, finding.source),
        (Outcome::Pass, Source::Perplexity)
    );
    assert!(
        finding.text.contains("its weights are random"),
        "{}",
        finding.text
    );
}

/// As BitNet.cpp packs I2_S on ARM: 64 codes in 16 bytes. Engines that read it as on x86 agree.
#[test]
fn weights_that_were_packed_for_another_machine_are_said_to_be() {
    let scratch = Scratch::new();
    let model = scratch.path("model.gguf");
    let is_ternary = |name: &str| {
        [
            "attn_q",
            "attn_k",
            "attn_v",
            "attn_output",
            "ffn_gate",
            "ffn_up",
            "ffn_down",
        ]
        .iter()
        .any(|part| name.ends_with(&format!("{part}.weight")))
    };
    tiny_with_tensors(&model, is_ternary, |_, data| {
        let weights = data.len() - 32;
        for block in data[..weights].as_chunks_mut::<32>().0 {
            let code = |i: usize| block[i % 32] >> (6 - 2 * (i / 32)) & 3;
            let codes: [u8; 128] = std::array::from_fn(code);
            block.fill(0);
            for (i, code) in codes.iter().enumerate() {
                let within = i % 64;
                block[i / 64 * 16 + within % 16] |= code << (6 - 2 * (within / 16));
            }
        }
    });
    let text = scratch.path("text.txt");
    let story = "Once upon a time, there was a little girl named Lily. She loved to play outside in the park. ";
    std::fs::write(&text, story.repeat(30)).expect("a text");
    let more = ["--text", text.to_str().expect("UTF-8"), "--chunks", "1"];
    let (code, report, _) = run(&model, &[&SAME[..], &more].concat());
    let reasons = report.verdict.reasons.join("\n");
    assert_eq!(code, 20, "{reasons}");
    let says = "were its I2_S weights packed as 64 codes in 16 bytes, as BitNet.cpp packs on ARM, its perplexity";
    assert!(reasons.contains(says), "{reasons}");
}

/// Whoever quits badly is an engine that failed, whatever it computed.
#[test]
fn an_end_that_is_none_is_a_failure() {
    let quit = "            if kind == \"quit\":\n                return\n";
    for (end, says) in [
        ("os.kill(os.getpid(), 11)", "died with SIGSEGV while ending"),
        ("sys.exit(3)", "exited with code 3 while ending"),
        ("raise ValueError(7)", "exited with code 1 while ending"),
        (
            "time.sleep(100)",
            "did not end within 10 s of being told to while ending",
        ),
    ] {
        for role in Role::BOTH {
            let bad = quit.replace("return", end);
            let more = ["--no-bench", "--n-predict", "0"];
            let Some((code, report)) = run_doctored_as(role, &[(quit, &bad)], &more) else {
                return;
            };
            assert_eq!((code, report.verdict.status), (30, Status::Error), "{end}");
            let failed = |f: &&Finding| f.outcome == Outcome::Engine;
            let finding = report
                .verdict
                .findings
                .iter()
                .find(failed)
                .expect("a finding");
            assert_eq!(finding.role(), Some(role));
            assert!(finding.text.ends_with(says), "{}", finding.text);
            assert!(report.coverage.compared == report.coverage.expected);
            if end.contains("sleep") {
                break;
            }
        }
    }
}

/// Nothing is recorded of such an engine.
#[test]
fn an_engine_that_ends_badly_is_not_recorded() {
    let scratch = Scratch::new();
    let quit = "            if kind == \"quit\":\n                return\n";
    let bad = quit.replace("return", "sys.exit(3)");
    let Some(engine) = doctored(&scratch, &[(quit, &bad)]) else {
        return;
    };
    let trace = scratch.path("trace.safetensors");
    let output = crossval(&[
        "record",
        "--engine",
        &engine,
        "--model",
        TINY,
        "--tokens",
        "1,2,3",
        "--n-predict",
        "2",
        "-o",
        trace.to_str().expect("UTF-8"),
    ]);
    assert_eq!(exit_code(&output), 30, "{}", stderr(&output));
    assert!(stderr(&output).contains("exited with code 3 while ending"));
    assert!(!trace.exists());
}

/// A worker that runs beside the two of the comparison.
#[test]
fn the_end_of_a_worker_beside_the_two_counts_too() {
    let scratch = Scratch::new();
    // The second to start, which is the twin for the noise.
    let started = scratch.path("started");
    let quit = "            if kind == \"quit\":\n                return\n";
    let bad = quit.replace("return", "os._exit(5) if Worker.second else sys.exit(0)");
    let class = "class Worker:\n";
    let started = started.display();
    let counts = format!(
        "{class}    second = os.path.exists('{started}')\n    open('{started}', 'a').close()\n"
    );
    let changes = [(quit, bad.as_str()), (class, counts.as_str())];
    let more = ["--no-bench", "--n-predict", "0"];
    let Some((code, report)) = run_doctored_as(Role::Candidate, &changes, &more) else {
        return;
    };
    assert_eq!(code, 30, "{:#?}", report.verdict);
    let finding = &report.verdict.findings[0];
    assert_eq!(
        (finding.source, finding.role()),
        (Source::Engine, Some(Role::Candidate))
    );
    assert!(
        finding.text.ends_with("exited with code 5 while ending"),
        "{}",
        finding.text
    );
    assert!(report.engines.candidate.failure.is_none());
}

#[test]
fn what_an_engine_says_is_held_against_the_file() {
    for (part, by, says) in [
        (
            "n_layer=self.n_layer",
            "n_layer=self.n_layer + 1",
            "layers 7, where the file has 6",
        ),
        (
            "n_vocab=self.n_vocab, n_ctx",
            "n_vocab=self.n_vocab - 1, n_ctx",
            "vocabulary 511",
        ),
        (
            "n_embd=self.n_embd,",
            "n_embd=2 * self.n_embd,",
            "embedding width 256",
        ),
        (
            "n_head_kv=self.n_head_kv,\n",
            "n_head_kv=1,\n",
            "key/value heads 1",
        ),
        (
            "n_ctx_train=self.n_ctx_train, taps",
            "n_ctx_train=1 << 20, taps",
            "context 1048576",
        ),
        (
            "architecture=self.arch,",
            "architecture='bitnet',",
            "architecture \"bitnet\"",
        ),
        (
            "taps=TAPS,\n",
            "taps=TAPS[1:],\n",
            "the model lacks the taps embd",
        ),
        ("Counter(kinds.values())", "dict(F32=1)", "tensors of types"),
        (
            "weight_types[\"logits\"] = [kinds[self.head_name]]",
            "weight_types[\"logits\"] = ['F32']",
            "weights of logits in F32",
        ),
        (
            "taps=TAPS, overwrite",
            "taps=TAPS + ['q'], overwrite",
            "it offers q twice",
        ),
        (
            "dtypes=sorted(TYPES.values())",
            "dtypes=['F16', 'F32']",
            "it runs no I2_S",
        ),
        (
            "architectures=ARCHITECTURES, taps",
            "architectures=['llama'], taps",
            "it runs no bitnet-b1.58",
        ),
    ] {
        for role in Role::BOTH {
            let more = ["--no-bench", "--n-predict", "0", "--mode", "cumulative"];
            let Some((code, report)) = run_doctored_as(role, &[(part, by)], &more) else {
                return;
            };
            assert_eq!((code, report.verdict.status), (30, Status::Error), "{by}");
            let finding = &report.verdict.findings[0];
            assert_eq!(
                (finding.source, finding.role()),
                (Source::Engine, Some(role))
            );
            assert!(
                finding.text.contains("says what is not so: "),
                "{}",
                finding.text
            );
            assert!(finding.text.contains(says), "{says:?} in {}", finding.text);
            // What it is compared in is not for it to say.
            assert_eq!(report.model.n_layer, 6);
        }
    }
}

/// Neither of two strangers decides what the model is.
#[test]
fn two_engines_that_tell_the_same_lie_are_both_found_out() {
    let scratch = Scratch::new();
    let lie = ("n_layer=self.n_layer", "n_layer=self.n_layer - 1");
    let Some(liar) = doctored(&scratch, &[lie]) else {
        return;
    };
    let engines = [
        "--reference",
        &liar,
        "--candidate",
        &liar,
        "--tokens",
        "1,2,3",
    ];
    let (code, report, _) = run(
        Path::new(TINY),
        &[&engines[..], &["--no-bench", "--n-predict", "0"]].concat(),
    );
    assert_eq!((code, report.model.n_layer), (30, 6));
    let roles: Vec<_> = findings(&report).into_iter().map(Finding::role).collect();
    assert_eq!(roles, [Some(Role::Reference), Some(Role::Candidate)]);
}

/// An engine that says that it takes values, and goes on with its own: in isolated mode nothing else would show it.
#[test]
fn an_engine_that_ignores_what_it_is_given_is_found_out() {
    let takes = "piece[:] = np.frombuffer(payload, piece.dtype).reshape(piece.shape)";
    for (ignores, place) in [
        ("pass", (None, "attn_norm")),
        ("if name != 'k_cache': ", (Some(0), "attn_probs")),
        (
            "if layer != 5 or name != 'ffn_down': ",
            (Some(5), "layer_out"),
        ),
    ] {
        let by = match ignores {
            "pass" => "pass".to_owned(),
            unless => format!("{unless}{takes}"),
        };
        let more = ["--no-bench", "--n-predict", "0"];
        let Some((code, report)) = run_doctored_as(Role::Candidate, &[(takes, &by)], &more) else {
            return;
        };
        assert_eq!(code, 30, "{:#?}", report.verdict);
        let finding = &report.verdict.findings[0];
        assert_eq!(
            (finding.source, finding.role()),
            (Source::Engine, Some(Role::Candidate))
        );
        let says = format!("{} is wrong from those, and right from its own", place.1);
        assert!(finding.text.contains(&says), "{}", finding.text);
        let found = finding.place.as_ref().expect("a place");
        assert!(place.0.is_none_or(|layer| found.layer == Some(layer)));
    }
    // In cumulative mode nothing is given.
    let more = ["--no-bench", "--n-predict", "0", "--mode", "cumulative"];
    let Some((code, _)) = run_doctored_as(Role::Candidate, &[(takes, "pass")], &more) else {
        return;
    };
    assert_eq!(code, 0);
}

/// What the reference says in its log of what it makes of the file.
#[cfg(feature = "reference")]
#[test]
fn what_the_reference_warns_of_is_said() {
    let scratch = Scratch::new();
    // Large enough for a vocabulary of merges.
    let shape = [
        "--layers", "1", "--vocab", "40000", "--embd", "128", "--heads", "2",
    ];
    let shape = [&shape[..], &["--kv-heads", "1", "--ffn", "128"]].concat();
    let whole = synth(&scratch, "bitnet-b1.58", &shape);
    let model = scratch.path("model.gguf");
    let without = |key: &str| key != "tokenizer.ggml.pre";
    rewrite([&whole, &model], without, |_| false, |_, _| {});
    let more = ["--no-bench", "--n-predict", "0"];
    let (code, report, summary) = run(&model, &more);
    assert_eq!(
        (code, report.verdict.at_fault),
        (0, AtFault::None),
        "{:#?}",
        report.verdict
    );
    let [finding, of_file] = findings(&report)[..] else {
        panic!("{:#?}", report.verdict);
    };
    assert_eq!(
        (finding.outcome, finding.role()),
        (Outcome::Pass, Some(Role::Reference))
    );
    assert!(
        of_file.text.contains("pre-tokenizer-missing"),
        "{}",
        of_file.text
    );
    for says in [
        "(bitnet.cpp) warns:",
        "GENERATION QUALITY WILL BE DEGRADED!",
        "missing pre-tokenizer type",
    ] {
        assert!(finding.text.contains(says), "{}", finding.text);
    }
    assert!(summary.contains("QUALITY WILL BE DEGRADED"), "{summary}");
    // The bundled model gives no reason to.
    let (code, report, _) = run(Path::new(TINY), &more);
    assert!(code == 0 && findings(&report).is_empty());
}

/// So does a candidate of somebody else's, whose log is read as well.
#[test]
fn what_a_candidate_warns_of_is_said() {
    let change = (
        "self.model = Model(model)",
        "self.model = Model(model)\n            print('Generation quality will be degraded', file=sys.stderr)",
    );
    let more = ["--no-bench", "--n-predict", "0"];
    let Some((code, report)) = run_doctored_as(Role::Candidate, &[change], &more) else {
        return;
    };
    assert_eq!(code, 0);
    let finding = &report.verdict.findings[0];
    assert_eq!(
        (finding.outcome, finding.role()),
        (Outcome::Pass, Some(Role::Candidate))
    );
    assert!(
        finding
            .text
            .ends_with("warns: Generation quality will be degraded"),
        "{}",
        finding.text
    );
}
