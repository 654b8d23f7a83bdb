//! Sample reports. Their figures are invented but consistent; only their shape matters here.

use std::collections::BTreeMap;

use reports::model::*;
use reports::outcome::Outcome;

use crate::{gate, judged, tokens};

/// Taps of a layer, each with the size of its isolated error.
const LAYER_TAPS: [(&str, f64); 20] = [
    ("attn_norm", 3e-15),
    ("q", 0.0),
    ("k", 0.0),
    ("v", 0.0),
    ("q_rope", 4e-15),
    ("k_rope", 4e-15),
    ("k_cache", 0.0),
    ("v_cache", 0.0),
    ("attn_probs", 2e-15),
    ("attn_out", 2e-8),
    ("attn_sub_norm", 5e-15),
    ("attn_proj", 0.0),
    ("ffn_inp", 0.0),
    ("ffn_norm", 3e-15),
    ("ffn_gate", 0.0),
    ("ffn_up", 0.0),
    ("ffn_act", 6e-15),
    ("ffn_sub_norm", 5e-15),
    ("ffn_down", 0.0),
    ("layer_out", 0.0),
];

/// Everything within its limit.
pub fn pass() -> Report {
    report(6, 1)
}

/// The official 2B model's number of layers, two prompts of 512 positions, and figures with as many digits as real ones.
pub fn large() -> Report {
    let mut report = report(30, 2);
    for prompt in &mut report.inputs.prompts {
        prompt.tokens = (0..504).map(|i| (i * 7919) % 128_256).collect();
    }
    let digits = 1.0 + std::f64::consts::PI * 1e-9;
    for stats in report
        .taps
        .iter_mut()
        .flat_map(|t| [&mut t.isolated, &mut t.cumulative])
    {
        let stats = stats.as_mut().unwrap();
        let figures = [
            &mut stats.nmse,
            &mut stats.nmse_prefill,
            &mut stats.nmse_decode,
            &mut stats.nmse_aggregate,
            &mut stats.cosine,
            &mut stats.max_abs,
        ];
        for figure in figures.into_iter().flatten() {
            *figure *= digits;
        }
        stats.worst_position = 407;
    }
    for stats in report
        .logits
        .iter_mut()
        .flat_map(|l| [&mut l.isolated, &mut l.cumulative])
    {
        let stats = stats.as_mut().unwrap();
        stats.kl = (0..512)
            .map(|i| Some(1e-6 * digits * (1.0 + f64::from(i * 37 % 512).sqrt())))
            .collect();
    }
    let bench = report.bench.as_mut().unwrap();
    for row in &mut bench.rows {
        let Some(tps) = row.tps.as_ref().filter(|_| row.test == "tg64") else {
            continue;
        };
        let ms = 1e3 / tps.median * digits;
        row.inter_token = Some(inter_token(ms));
    }
    report
}

/// The candidate interleaves RoPE; two prompts, and the reference stops a little earlier.
pub fn fail() -> Report {
    let mut report = report(6, 2);
    report.verdict = Verdict {
        status: Status::Fail,
        exit_code: 10,
        reasons: vec![
            "isolated: q_rope and k_rope exceed their limits in every layer".to_owned(),
            "generation differs from token 3, not a near tie".to_owned(),
        ],
        findings: vec![
            Finding {
                outcome: Outcome::Parity,
                source: Source::Taps,
                place: Some(Place {
                    prompt: Some(0),
                    position: Some(1),
                    layer: Some(0),
                    tap: Some("q_rope".to_owned()),
                    ..Place::default()
                }),
                text: "isolated: q_rope and k_rope exceed their limits in every layer".to_owned(),
            },
            Finding {
                outcome: Outcome::Parity,
                source: Source::Generation,
                place: None,
                text: "generation differs from token 3, not a near tie".to_owned(),
            },
        ],
        at_fault: AtFault::Candidate,
        first_divergence: Some(Divergence {
            prompt: 0,
            position: 1,
            layer: Some(0),
            tap: "q_rope".to_owned(),
            mode: Mode::Isolated,
            element: 17,
            reference: Some(0.481_262_3),
            candidate: Some(-0.120_531_1),
            oracle: Some(0.481_262_29),
            nmse: Some(0.31),
            limit: 1e-12,
            hint: Some("candidate equals the reference with interleaved pairs".to_owned()),
            arbitration: None,
            part: None,
        }),
    };
    for entry in &mut report.taps {
        let depth = entry.layer.unwrap_or(6) as f64;
        if entry.tap == "q_rope" || entry.tap == "k_rope" {
            set(entry.isolated.as_mut().unwrap(), 0.3 + depth * 0.01);
        }
        if entry.tap != "embd" {
            set(entry.cumulative.as_mut().unwrap(), 1e-3 * (depth + 1.0));
        }
    }
    let broken = &mut report.taps[50].isolated.as_mut().unwrap();
    broken.nmse = None;
    broken.nmse_decode = None;
    broken.worst_position = 14;
    broken.non_finite = 3;
    broken.pass = Some(false);
    report.coverage.not_finite =
        vec!["isolated, prompt 0, layer 2, v_cache, positions 14..15".to_owned()];
    for entry in &mut report.logits {
        let stats = entry.cumulative.as_mut().unwrap();
        stats.top1_agreement = 0.75;
        stats.kl_max = Some(0.9);
        stats.top1_disagreements = vec![disagreement(4, 0.002, true), disagreement(9, 1.25, false)];
    }
    let generation = report.generation.as_mut().unwrap();
    generation.candidate = vec![310, 5, 77, 12, 900];
    generation.candidate_text = Some("Once upon a dime, rust".to_owned());
    generation.first_mismatch = Some(GenerationMismatch {
        index: 3,
        reference: Some(11),
        candidate: Some(12),
        margin: Some(1.5),
        max_logit_difference: Some(0.2),
        near_tie: false,
    });
    let mut further = report.generation.clone().unwrap();
    further.prompt = 1;
    further.candidate = further.reference[..2].to_vec();
    further.candidate_text = None;
    further.first_mismatch = Some(GenerationMismatch {
        index: 2,
        reference: Some(77),
        candidate: None,
        margin: None,
        max_logit_difference: None,
        near_tie: false,
    });
    report.generation.as_mut().unwrap().further = vec![further];
    report
        .bench
        .as_mut()
        .unwrap()
        .tokens_reproduced
        .insert("candidate".to_owned(), false);
    report
}

/// The reference was killed in the middle of its first prompt.
pub fn died() -> Report {
    let mut report = report(6, 1);
    report.verdict = Verdict {
        status: Status::Error,
        exit_code: 30,
        reasons: vec!["the reference died with SIGSEGV".to_owned()],
        findings: Vec::new(),
        at_fault: AtFault::Reference,
        first_divergence: None,
    };
    report.engines.reference.failure = Some(EngineFailure {
        message: "died with SIGSEGV while evaluating prompt 0, positions 0..12".to_owned(),
        signal: Some("SIGSEGV".to_owned()),
        exit_code: None,
        during: "prefill of prompt 0, layer 2".to_owned(),
        log_tail: vec![
            "llm_load_tensors: mem required = 1.1 MiB".to_owned(),
            "llama_new_context_with_model: n_ubatch = 512".to_owned(),
        ],
        refused_model: false,
    });
    report.engines.reference.peak_rss_bytes = None;
    report.engines.reference.cpu_seconds = None;
    report.taps.truncate(45);
    for entry in &mut report.taps {
        entry.cumulative = None;
    }
    report.coverage.compared = 540;
    report.coverage.missing = (0..30)
        .map(|i| {
            format!(
                "isolated, prompt 0, layer {}, tap {i}, positions 0..20",
                2 + i / 8
            )
        })
        .collect();
    report.logits.clear();
    report.tokenizer = Some(tokens::not_compared());
    report.generation = None;
    report.noise_floor = None;
    report.bench = None;
    report
}

/// A run in which nothing was compared and every list is empty.
pub fn empty() -> Report {
    let mut report = died();
    report.tokenizer = None;
    report.verdict.reasons.clear();
    report.verdict.status = Status::Incomplete;
    report.verdict.at_fault = AtFault::None;
    report.engines.reference.failure = None;
    report.command.clear();
    report.taps.clear();
    report.inputs.prompts.clear();
    report.inputs.modes.clear();
    report.inputs.profile.isolated_nmse.clear();
    report.model.tensor_types.clear();
    report.coverage = Coverage::default();
    for engine in [&mut report.engines.reference, &mut report.engines.candidate] {
        engine.version = None;
        engine.build.clear();
        engine.settings.clear();
        engine.load_ms = None;
        engine.peak_rss_bytes = None;
        engine.cpu_seconds = None;
    }
    report
}

/// Everything ran and nothing could be measured: every statistic is null.
pub fn nulls() -> Report {
    let mut report = report(2, 1);
    for entry in &mut report.taps {
        for stats in [&mut entry.isolated, &mut entry.cumulative]
            .into_iter()
            .flatten()
        {
            *stats = TapStats {
                rows: 0,
                bit_equal: false,
                nmse: None,
                worst_position: 0,
                nmse_prefill: None,
                nmse_decode: None,
                nmse_aggregate: None,
                cosine: None,
                max_abs: None,
                max_abs_at: None,
                non_finite: 0,
                code_flip_rate: None,
                max_quantiser_steps: None,
                head_share: None,
                element_share: None,
                allowed: None,
                amplified: None,
                limit: None,
                pass: None,
            };
        }
    }
    for stats in report.logits.iter_mut().flat_map(|e| &mut e.cumulative) {
        stats.kl_mean = None;
        stats.kl_p95 = None;
        stats.kl_p99 = None;
        stats.kl_max = None;
        stats.kl = vec![None; 20];
    }
    let bench = report.bench.as_mut().unwrap();
    for row in &mut bench.rows {
        row.tps = None;
        row.ms = None;
    }
    bench.ratios.clear();
    bench.memory.clear();
    report
}

/// All of them, by name.
pub fn all() -> Vec<(&'static str, Report)> {
    vec![
        ("pass", pass()),
        ("large", large()),
        ("fail", fail()),
        ("died", died()),
        ("empty", empty()),
        ("nulls", nulls()),
        ("reference_at_fault", judged::reference_at_fault()),
        ("known", judged::known()),
        ("stale", judged::stale()),
        ("tokens", tokens::report()),
        ("timed", timed()),
        ("gated", gate::report()),
        ("no_baseline", gate::no_baseline()),
        ("fewer_rows", gate::fewer_rows()),
    ]
}

pub fn report(layers: usize, prompts: usize) -> Report {
    let strings = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
        pairs
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect()
    };
    let rows = (prompts * (layers * 20 + 3) * 20) as u64;
    Report {
        schema: SCHEMA.to_owned(),
        created: "2026-08-01T12:00:00Z".to_owned(),
        command: [
            "crossval",
            "run",
            "--model",
            "models/tiny.gguf",
            "--prompt",
            "Once upon a time",
        ]
        .map(str::to_owned)
        .to_vec(),
        verdict: Verdict {
            status: Status::Pass,
            exit_code: 0,
            reasons: Vec::new(),
            findings: Vec::new(),
            at_fault: AtFault::None,
            first_divergence: None,
        },
        model: Model {
            path: "models/tiny.gguf".to_owned(),
            size_bytes: 3_400_000,
            sha256: "5f".repeat(32),
            name: Some("tiny".to_owned()),
            architecture: "bitnet-b1.58".to_owned(),
            n_layer: layers,
            n_embd: 256,
            n_ff: 512,
            n_head: 4,
            n_head_kv: 2,
            n_vocab: 512,
            n_ctx_train: 256,
            tensor_types: BTreeMap::from([("F32".to_owned(), 25), ("I2_S".to_owned(), 42)]),
            weight_scales: strings(&[("I2_S", "one F32 per matrix")]),
            activation: None,
        },
        engines: Engines {
            reference: Engine {
                name: "bitnet.cpp".to_owned(),
                version: Some("2026-01".to_owned()),
                build: strings(&[("compiler", "gcc 12.2.0"), ("flags", "-O3 -mavx2 -mfma")]),
                settings: strings(&[
                    ("flash attention", "off"),
                    ("kv cache", "f16"),
                    ("n_ubatch", "512"),
                    ("threads", "1"),
                ]),
                load_ms: Some(12.3),
                peak_rss_bytes: Some(41_000_000),
                cpu_seconds: Some(0.9),
                failure: None,
                label: None,
                changed_values: None,
                abilities: Some(abilities()),
            },
            candidate: Engine {
                name: "rust".to_owned(),
                version: Some("0.1.0".to_owned()),
                build: strings(&[("kernel", "avx2")]),
                settings: strings(&[("kv cache", "f16"), ("threads", "1")]),
                load_ms: Some(4.1),
                peak_rss_bytes: Some(29_000_000),
                cpu_seconds: Some(0.7),
                failure: None,
                label: None,
                changed_values: None,
                abilities: Some(abilities()),
            },
        },
        environment: Environment {
            crossval_version: "0.1.0".to_owned(),
            git_revision: Some("0123456789ab".to_owned()),
            rustc: "rustc 1.95.0".to_owned(),
            profile: "release".to_owned(),
            target: "x86_64-unknown-linux-gnu".to_owned(),
            target_features: vec!["fxsr".to_owned(), "sse2".to_owned()],
            os: "Linux 6.1".to_owned(),
            cpu: Some("Some CPU @ 2.60GHz".to_owned()),
            cpu_id: Some("GenuineVendor, family 26, model 2, stepping 1".to_owned()),
            cpu_features: vec!["avx2".to_owned(), "fma".to_owned(), "f16c".to_owned()],
            cpus: 2,
            memory_bytes: Some(8 << 30),
        },
        inputs: Inputs {
            prompts: (0..prompts)
                .map(|i| Prompt {
                    text: Some(format!("Once upon a time, number {i}, there was a model")),
                    rendered: None,
                    source: "--prompt".to_owned(),
                    tokens: (1..=12).collect(),
                    decode_tokens: (20..28).collect(),
                    sha256: "ab".repeat(32),
                })
                .collect(),
            tokenizer: Some("bitnet.cpp".to_owned()),
            n_predict: 6,
            decode_steps: 8,
            threads: 1,
            modes: vec![Mode::Isolated, Mode::Cumulative],
            activation: None,
            profile: Profile {
                name: "standard".to_owned(),
                isolated_nmse: LAYER_TAPS
                    .iter()
                    .map(|(tap, nmse)| ((*tap).to_owned(), limit(*nmse)))
                    .collect(),
                cumulative_logits_nmse: Some(1e-2),
            },
        },
        coverage: Coverage {
            expected: rows,
            compared: rows,
            missing: Vec::new(),
            not_offered: BTreeMap::from([("bitnet.cpp".to_owned(), vec!["attn_probs".to_owned()])]),
            not_offered_because: BTreeMap::new(),
            not_finite: Vec::new(),
            vacuous: Vec::new(),
        },
        taps: (0..prompts).flat_map(|p| taps(layers, p)).collect(),
        logits: (0..prompts)
            .map(|prompt| LogitsResult {
                prompt,
                isolated: Some(logits(1e-9)),
                cumulative: Some(logits(1e-5)),
            })
            .collect(),
        generation: Some(Generation {
            prompt: 0,
            reference: vec![310, 5, 77, 11, 9, 2],
            candidate: vec![310, 5, 77, 11, 9, 2],
            reference_text: Some("Once upon a time, there".to_owned()),
            candidate_text: Some("Once upon a time, there".to_owned()),
            first_mismatch: None,
            further: Vec::new(),
            checks: Vec::new(),
        }),
        noise_floor: Some(NoiseFloor {
            description: "1 thread against 2; prefill of 12 against 4 and 8 single steps"
                .to_owned(),
            nmse: LAYER_TAPS
                .iter()
                .map(|(tap, nmse)| ((*tap).to_owned(), nmse * 2.0))
                .collect(),
            measurements: noise(),
        }),
        spot_check: None,
        bench: Some(bench()),
        conditions: None,
        perplexity: None,
        tokenizer: Some(tokens::equal(prompts)),
        known: Vec::new(),
        not_compared: None,
        gate: None,
        further: Vec::new(),
        matrix: None,
        took: Some(took(prompts)),
    }
}

fn abilities() -> Abilities {
    let names = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
    Abilities {
        architectures: names(&["bitnet-b1.58", "llama"]),
        tensor_types: names(&["F32", "F16", "I2_S"]),
        taps: names(&LAYER_TAPS.map(|(tap, _)| tap)),
        takes_values: true,
        tokenizer: true,
    }
}

fn took(prompts: usize) -> Took {
    let part = |part, prompt, mode, seconds| TookPart {
        part,
        prompt,
        mode,
        seconds,
    };
    let mut parts = vec![part(Source::Conditions, None, None, 1.5)];
    for prompt in 0..prompts {
        parts.push(part(Source::Generation, Some(prompt), None, 0.25));
        parts.push(part(Source::Taps, Some(prompt), Some(Mode::Isolated), 0.75));
        parts.push(part(
            Source::Taps,
            Some(prompt),
            Some(Mode::Cumulative),
            0.5,
        ));
    }
    Took {
        seconds: 12.5,
        parts,
    }
}

fn noise() -> Vec<NoiseMeasurement> {
    let measurement = |engine: &str, varied: &str, factor: f64| NoiseMeasurement {
        engine: engine.to_owned(),
        varied: varied.to_owned(),
        nmse: LAYER_TAPS
            .iter()
            .map(|(tap, nmse)| ((*tap).to_owned(), Some(nmse * factor)))
            .collect(),
        logits_limit: None,
        amplified: None,
    };
    let batches = "8 tokens one by one and as part of the prompt";
    let mut of_candidate = measurement("candidate", batches, 0.0);
    of_candidate.nmse.remove("attn_probs");
    of_candidate.nmse.insert("ffn_act".to_owned(), None);
    vec![
        measurement("reference", "threads 1 and 2", 0.0),
        measurement("reference", batches, 2.0),
        of_candidate,
    ]
}

fn taps(layers: usize, prompt: usize) -> Vec<TapResult> {
    let entry = |layer, tap: &str, isolated: f64, cumulative: f64| TapResult {
        prompt,
        layer,
        tap: tap.to_owned(),
        isolated: Some(stats(isolated, Some(limit(isolated)))),
        cumulative: Some(stats(cumulative, (tap == "logits").then_some(1e-2))),
    };
    let mut taps = vec![entry(None, "embd", 0.0, 0.0)];
    for layer in 0..layers {
        let depth = (layer + 1) as f64 / layers as f64;
        for (tap, nmse) in LAYER_TAPS {
            let cumulative = 1e-9 * 10f64.powf(4.0 * depth) * (1.0 + nmse.sqrt());
            taps.push(entry(Some(layer), tap, nmse * (1.0 + depth), cumulative));
        }
    }
    taps.push(entry(None, "final_norm", 3e-15, 2e-5));
    taps.push(entry(None, "logits", 4e-8, 3e-5));
    taps
}

fn limit(nmse: f64) -> f64 {
    if nmse == 0.0 {
        0.0
    } else if nmse < 1e-13 {
        1e-12
    } else {
        1e-6
    }
}

fn stats(nmse: f64, limit: Option<f64>) -> TapStats {
    let mut stats = TapStats {
        rows: 20,
        bit_equal: false,
        nmse: None,
        worst_position: 5,
        nmse_prefill: None,
        nmse_decode: None,
        nmse_aggregate: None,
        cosine: None,
        max_abs: None,
        max_abs_at: None,
        non_finite: 0,
        code_flip_rate: None,
        max_quantiser_steps: None,
        head_share: None,
        element_share: None,
        allowed: None,
        amplified: None,
        limit,
        pass: None,
    };
    set(&mut stats, nmse);
    stats
}

/// Statistics with that error.
pub fn set(stats: &mut TapStats, nmse: f64) {
    stats.bit_equal = nmse == 0.0;
    stats.nmse = Some(nmse);
    stats.nmse_prefill = Some(nmse);
    stats.nmse_decode = Some(nmse * 0.5);
    stats.nmse_aggregate = Some(nmse * 0.3);
    stats.cosine = Some(1.0 - nmse / 2.0);
    stats.max_abs = Some(nmse.sqrt());
    stats.max_abs_at = Some(ElementAt {
        position: 5,
        element: 17,
        reference: Some(0.5),
        candidate: Some(0.5 + nmse.sqrt()),
    });
    stats.pass = stats.limit.map(|limit| nmse <= limit);
}

fn logits(kl: f64) -> LogitsStats {
    LogitsStats {
        positions: 20,
        kl_mean: Some(kl),
        kl_p95: Some(kl * 2.0),
        kl_p99: Some(kl * 3.0),
        kl_max: Some(kl * 4.0),
        kl_max_position: 7,
        kl: (0..20)
            .map(|i| Some(kl * (1.0 + 3.0 * f64::from(i * 7 % 20) / 20.0)))
            .collect(),
        top1_agreement: 1.0,
        top5_agreement: 0.99,
        top1_disagreements: Vec::new(),
        worst: worst(kl),
    }
}

/// The worst positions, the second of which has the two likeliest tokens in another order.
fn worst(kl: f64) -> Vec<LogitsAt> {
    let likely = |order: [u32; 5]| -> Vec<TokenLogit> {
        (0u8..)
            .zip(order)
            .map(|(rank, token)| TokenLogit {
                token,
                text: (token != 11).then(|| format!(" t{token}\n")),
                logit: (rank != 4).then(|| 12.5 - f64::from(rank)),
                probability: (rank != 4).then(|| 0.5f64.powi(i32::from(rank) + 1)),
            })
            .collect()
    };
    let at = |position, share: f64, near_tie, candidate| LogitsAt {
        position,
        kl: Some(kl * share),
        near_tie,
        reference: likely([77, 78, 5, 11, 9]),
        candidate: likely(candidate),
    };
    vec![
        at(7, 4.0, false, [77, 78, 5, 9, 11]),
        at(4, 3.5, true, [78, 77, 5, 11, 9]),
        at(9, 3.0, false, [77, 78, 5, 11, 9]),
    ]
}

/// Decode steps around `median` milliseconds, every 61st of them ten times as long.
fn inter_token(median: f64) -> InterToken {
    let samples: Vec<f64> = (0..320)
        .map(|i| {
            let slow = if i % 61 == 60 { 10.0 } else { 1.0 };
            let spread = f64::from(i * 37 % 320) / 320.0 - 0.5;
            median * (1.0 + 0.1 * spread.powi(3)) * slow
        })
        .collect();
    let mut sorted = samples.clone();
    sorted.sort_by(f64::total_cmp);
    InterToken {
        p50: sorted[159],
        p95: sorted[303],
        p99: sorted[316],
        samples,
    }
}

fn quantisers() -> Vec<BenchQuantiser> {
    let of = |role, kernel: &str, columns: usize, ms: f64| BenchQuantiser {
        role,
        kernel: kernel.to_owned(),
        columns,
        elements_per_second: columns as f64 / ms * 1e3,
        ms: Measured {
            median: ms,
            low: ms * 0.99,
            high: ms * 1.02,
            samples: vec![ms * 0.98, ms, ms * 1.03],
        },
    };
    let theirs = |columns, ms| of(Role::Reference, "ggml quantize_row_i8_s", columns, ms);
    let ours = |columns, ms| of(Role::Candidate, "avx512-vnni", columns, ms);
    vec![
        theirs(2560, 1.9e-3),
        theirs(6912, 5.1e-3),
        ours(2560, 6.1e-4),
        ours(6912, 1.64e-3),
    ]
}

fn kernels() -> Vec<BenchKernel> {
    let kernel = |weights: &str, rows, tokens: usize, ms: f64, share| BenchKernel {
        role: Some(Role::Candidate),
        kernel: "avx512-vnni".to_owned(),
        weights: weights.to_owned(),
        rows,
        columns: 2560,
        tokens,
        ms: Measured {
            median: ms,
            low: ms * 0.99,
            high: ms * 1.02,
            samples: vec![ms * 0.98, ms, ms * 1.03],
        },
        macs_per_second: (rows * 2560 * tokens) as f64 / ms * 1e3,
        weight_bytes_per_second: (rows * 2560 / 4) as f64 / ms * 1e3,
        roofline_share: share,
    };
    let of_reference = BenchKernel {
        role: Some(Role::Reference),
        kernel: "ggml MUL_MAT".to_owned(),
        ..kernel("I2_S", 6912, 128, 7.3, Some(0.61))
    };
    vec![
        of_reference,
        kernel("I2_S", 6912, 1, 0.12, Some(0.92)),
        kernel("I2_S", 6912, 128, 5.1, Some(0.88)),
        kernel("F16", 128_256, 128, 95.0, None),
    ]
}

fn disagreement(position: usize, margin: f64, near_tie: bool) -> Top1Disagreement {
    Top1Disagreement {
        position,
        reference: 77,
        candidate: 78,
        rank: 2,
        margin: Some(margin),
        near_tie,
    }
}

fn bench() -> Bench {
    let measured = |median: f64| Measured {
        median,
        low: median * 0.97,
        high: median * 1.02,
        samples: [0.96, 0.97, 1.0, 1.02, 1.03].map(|x| median * x).to_vec(),
    };
    let row = |engine: &str, threads: usize, test: &str| BenchRow {
        engine: engine.to_owned(),
        threads,
        test: test.to_owned(),
        tps: None,
        ms: None,
        roofline_share: None,
        inter_token: None,
        driver_ms: None,
        cpu_seconds: None,
        energy: None,
    };
    let mut rows = Vec::new();
    let mut ratios = Vec::new();
    for (test, reference, candidate) in [("pp128", 52.1, 61.7), ("tg64", 17.4, 16.9)] {
        for threads in [1, 2] {
            for (engine, tps) in [("bitnet.cpp", reference), ("rust", candidate)] {
                rows.push(BenchRow {
                    tps: Some(measured(tps * threads as f64)),
                    ..row(engine, threads, test)
                });
            }
            let median = candidate / reference;
            ratios.push(BenchRatio {
                threads,
                test: test.to_owned(),
                median,
                low: median * 0.98,
                high: median * 1.01,
            });
        }
    }
    for (engine, ms) in [("bitnet.cpp", 2450.0), ("rust", 980.0)] {
        rows.push(BenchRow {
            ms: Some(measured(ms)),
            ..row(engine, 1, "ttft")
        });
    }
    Bench {
        repetitions: 5,
        rows,
        ratios,
        memory: [("bitnet.cpp", 1_320_000_000), ("rust", 1_240_000_000)]
            .map(|(engine, peak_rss_bytes)| BenchMemory {
                engine: engine.to_owned(),
                threads: None,
                peak_rss_bytes,
            })
            .to_vec(),
        tokens_reproduced: BTreeMap::from([
            ("candidate".to_owned(), true),
            ("reference".to_owned(), true),
        ]),
        tokens: Vec::new(),
        roofline: Vec::new(),
        work: None,
        notes: Vec::new(),
        compact_heads: Vec::new(),
        kernels: Vec::new(),
        quantisers: Vec::new(),
        seed: None,
    }
}

/// `crossval bench`: nothing but timings, at two thread counts; the cold load could not be measured.
pub fn timed() -> Report {
    let mut report = report(6, 1);
    report.command.truncate(4);
    report.command[1] = "bench".to_owned();
    report.not_compared = Some("crossval bench times the engines".to_owned());
    report.coverage = Coverage::default();
    (report.taps, report.logits) = (Vec::new(), Vec::new());
    (report.generation, report.noise_floor, report.tokenizer) = (None, None, None);
    for engine in [&mut report.engines.reference, &mut report.engines.candidate] {
        (engine.load_ms, engine.peak_rss_bytes, engine.cpu_seconds) = (None, None, None);
    }
    let inputs = &mut report.inputs;
    (inputs.tokenizer, inputs.decode_steps, inputs.n_predict) = (None, 0, 65);
    inputs.modes.clear();
    inputs.profile = Profile {
        name: "none".to_owned(),
        isolated_nmse: BTreeMap::new(),
        cumulative_logits_nmse: None,
    };
    inputs.prompts[0].text = None;
    inputs.prompts[0].source = "random token IDs, seed 0".to_owned();
    inputs.prompts[0].decode_tokens.clear();
    let bench = report.bench.as_mut().unwrap();
    for row in &mut bench.rows {
        let Some(tps) = row.tps.as_ref().map(|tps| tps.median) else {
            continue;
        };
        row.cpu_seconds = Some(64.0 / tps * row.threads as f64);
        row.energy = (row.threads == 2).then_some(41.5);
        if row.test == "tg64" {
            row.roofline_share = Some(tps / 34.0 / row.threads as f64);
            row.inter_token = Some(inter_token(1e3 / tps));
        } else {
            row.roofline_share = Some(tps * 2.08e9 / 505e9 / row.threads as f64);
        }
    }
    // Of a variant of the candidate, which the reference does not have.
    let mut certified = bench.rows[5].clone();
    certified.test = "tg64 certified".to_owned();
    certified.roofline_share = None;
    let mut ratio = bench.ratios[2].clone();
    ratio.test.clone_from(&certified.test);
    bench.rows.insert(6, certified);
    bench.ratios.push(ratio);
    for engine in ["bitnet.cpp", "rust"] {
        let mut cold = bench.rows[0].clone();
        cold = BenchRow {
            engine: engine.to_owned(),
            test: "load cold".to_owned(),
            tps: None,
            roofline_share: None,
            cpu_seconds: None,
            energy: None,
            ..cold
        };
        bench.rows.push(cold);
    }
    bench.memory = [1, 2]
        .into_iter()
        .flat_map(|threads| {
            [("bitnet.cpp", 1_320), ("rust", 1_240)].map(|(engine, millions)| BenchMemory {
                engine: engine.to_owned(),
                threads: Some(threads),
                peak_rss_bytes: (millions + 10 * threads as u64) * 1_000_000,
            })
        })
        .collect();
    for (threads, first_mismatch) in [(1, None), (2, Some(17))] {
        bench.tokens.push(BenchTokens {
            threads,
            test: "tg64".to_owned(),
            count: 65,
            reference_checked: 0,
            candidate_checked: 0,
            reference: "8d3f2a10c4b5e697".to_owned(),
            candidate: first_mismatch
                .map_or("8d3f2a10c4b5e697", |_| "0123456789abcdef")
                .to_owned(),
            first_mismatch,
            reference_reproduced: true,
            candidate_reproduced: true,
        });
        bench.roofline.push(BenchRoofline {
            threads,
            cpus: (0..threads).collect(),
            read_bytes_per_second: Some(40e9 * threads as f64),
            int8_macs_per_second: (threads == 1).then_some(505e9),
            int8_instructions: (threads == 1).then(|| "AVX-512 VNNI vpdpbusd, 512 bits".to_owned()),
        });
    }
    bench.work = Some(TokenWork {
        weight_bytes: 1_177_000_000,
        ternary_macs: Some(2_083_520_000),
    });
    bench.compact_heads = vec![BenchCompactHead {
        threads: 1,
        bytes: 329_874_432,
        peak_rss_bytes: None,
        tokens: 390,
        certified: 389,
        exact_rows: 9_725,
    }];
    bench.kernels = kernels();
    bench.quantisers = quantisers();
    bench.notes = vec!["load cold: 12 of the file's 831 pages stay in the page cache".to_owned()];
    report
}
