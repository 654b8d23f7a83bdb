//! No false alarm: random models of every architecture and shape, where both engines are right.
//!
//! `FALSE_ALARM_RUNS=300 cargo test --release --test cli false_alarms -- --nocapture` for more than a handful.
#![cfg(feature = "reference")]

use bitnet_model::random::Rng;
use reports::model::AtFault;

use super::*;

const RUNS: u64 = 6;

struct Random {
    arch: &'static str,
    synth: Vec<String>,
    run: Vec<String>,
}

fn pick<T: Copy>(rng: &mut Rng, of: &[T]) -> T {
    of[rng.below(of.len())]
}

/// GQA of 1 to 8 heads, heads of 32 to 128, 1 to 12 layers, prompts of one token, of several and of several batches.
fn random(seed: u64) -> Random {
    let mut rng = Rng::new(seed, "false alarms");
    let arch = pick(&mut rng, &["bitnet", "bitnet-25", "bitnet-b1.58", "llama"]);
    let ternary = arch != "llama";
    let (head_dim, kv_heads, shared) = loop {
        let head_dim = pick(&mut rng, &[32, 48, 64, 80, 96, 128]);
        let kv_heads = 1 + rng.below(4);
        let shared = 1 + rng.below(8);
        let embd = head_dim * kv_heads * shared;
        let kv = head_dim * kv_heads;
        if embd <= 1024 && (!ternary || (embd.is_multiple_of(128) && kv.is_multiple_of(4))) {
            break (head_dim, kv_heads, shared);
        }
    };
    let ffn = match ternary {
        true => 128 * (1 + rng.below(8)),
        false => 32 * (1 + rng.below(32)),
    };
    let vocab = 300 + rng.below(700);
    let synth = [
        ("--layers", 1 + rng.below(12)),
        ("--embd", head_dim * kv_heads * shared),
        ("--heads", kv_heads * shared),
        ("--kv-heads", kv_heads),
        ("--ffn", ffn),
        ("--vocab", vocab),
        ("--ctx", 512),
        ("--seed", seed as usize),
    ];
    let n_prompt = match rng.below(4) {
        0 => 1,
        1 => 2 + rng.below(6),
        2 => 8 + rng.below(60),
        _ => 100 + rng.below(150),
    };
    let tokens: Vec<String> = (0..n_prompt)
        .map(|_| rng.below(vocab).to_string())
        .collect();
    let run = [
        ("--tokens", tokens.join(",")),
        ("--threads", (1 + rng.below(2)).to_string()),
        ("--n-predict", rng.below(12).to_string()),
    ];
    let words = |(flag, value): (&str, String)| [flag.to_owned(), value];
    Random {
        arch,
        synth: synth
            .map(|(flag, value)| (flag, value.to_string()))
            .into_iter()
            .flat_map(words)
            .collect(),
        run: run.into_iter().flat_map(words).collect(),
    }
}

#[test]
fn random_models_pass() {
    let runs = match std::env::var("FALSE_ALARM_RUNS") {
        Ok(n) => n.parse().expect("a number in FALSE_ALARM_RUNS"),
        Err(_) => RUNS,
    };
    let mut alarms = Vec::new();
    for seed in 0..runs {
        let scratch = Scratch::new();
        let random = random(seed);
        let [more, args] = [&random.synth, &random.run]
            .map(|words| words.iter().map(String::as_str).collect::<Vec<_>>());
        let model = synth(&scratch, random.arch, &more);
        // Either is right in either role.
        let swapped = ["--reference", "rust", "--candidate", "bitnet.cpp"];
        let engines = &swapped[..if seed % 2 == 1 { 4 } else { 0 }];
        let (code, report, _) = run(&model, &[&args[..], engines, &["--no-bench"]].concat());
        if code != 0 || report.verdict.at_fault != AtFault::None {
            alarms.push(format!(
                "seed {seed}: {} {}; {}: {:#?}",
                random.arch,
                more.join(" "),
                args.join(" "),
                report.verdict
            ));
        }
    }
    eprintln!("{runs} random models, {} false alarms", alarms.len());
    assert!(alarms.is_empty(), "{}", alarms.join("\n"));
}
