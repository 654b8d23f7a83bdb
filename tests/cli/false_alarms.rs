//! No false alarm: random models of every architecture and shape, where both engines are right.
//!
//! `FALSE_ALARM_RUNS=300 cargo test --release --test cli false_alarms -- --nocapture` for more than a handful.
#![cfg(feature = "reference")]

use bitnet_model::random::Rng;
use reports::model::AtFault;

use super::*;

const RUNS: u64 = 6;

/// How large random models are.
struct Extent {
    seeds: &'static str,
    head_dims: &'static [usize],
    kv_heads: usize,
    shared: usize,
    embd: usize,
    layers: usize,
    ffn: usize,
    longest: usize,
}

/// GQA of 1 to 8 heads, heads of 32 to 128, 1 to 12 layers, prompts of one token, of several and of several batches.
const ENGINES: Extent = Extent {
    seeds: "false alarms",
    head_dims: &[32, 48, 64, 80, 96, 128],
    kv_heads: 4,
    shared: 8,
    embd: 1024,
    layers: 12,
    ffn: 1024,
    longest: 250,
};

/// What the oracle evaluates in seconds.
const WITH_ORACLE: Extent = Extent {
    seeds: "false alarms of the oracle",
    head_dims: &[64, 80, 96, 112, 128],
    kv_heads: 2,
    shared: 3,
    embd: 384,
    layers: 4,
    ffn: 384,
    longest: 300,
};

struct Random {
    arch: &'static str,
    synth: Vec<String>,
    run: Vec<String>,
}

fn pick<T: Copy>(rng: &mut Rng, of: &[T]) -> T {
    of[rng.below(of.len())]
}

fn random(seed: u64, extent: &Extent) -> Random {
    let mut rng = Rng::new(seed, extent.seeds);
    let arch = pick(&mut rng, &["bitnet", "bitnet-25", "bitnet-b1.58", "llama"]);
    let ternary = arch != "llama";
    let (head_dim, kv_heads, shared) = loop {
        let head_dim = pick(&mut rng, extent.head_dims);
        let kv_heads = 1 + rng.below(extent.kv_heads);
        let shared = 1 + rng.below(extent.shared);
        let embd = head_dim * kv_heads * shared;
        let kv = head_dim * kv_heads;
        if embd <= extent.embd && (!ternary || (embd.is_multiple_of(128) && kv.is_multiple_of(4))) {
            break (head_dim, kv_heads, shared);
        }
    };
    let ffn = match ternary {
        true => 128 * (1 + rng.below(extent.ffn / 128)),
        false => 32 * (1 + rng.below(extent.ffn / 32)),
    };
    let vocab = 300 + rng.below(700);
    let synth = [
        ("--layers", 1 + rng.below(extent.layers)),
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
        _ => 100 + rng.below(extent.longest - 100),
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

/// Runs random models, with the engines that `roles` gives for each.
fn assert_no_alarms(extent: &Extent, roles: fn(u64) -> &'static [&'static str]) {
    let runs = match std::env::var("FALSE_ALARM_RUNS") {
        Ok(n) => n.parse().expect("a number in FALSE_ALARM_RUNS"),
        Err(_) => RUNS,
    };
    let mut alarms = Vec::new();
    for seed in 0..runs {
        let scratch = Scratch::new();
        let random = random(seed, extent);
        let [more, args] = [&random.synth, &random.run]
            .map(|words| words.iter().map(String::as_str).collect::<Vec<_>>());
        let model = synth(&scratch, random.arch, &more);
        let (code, report, _) = run(&model, &[&args[..], roles(seed), &["--no-bench"]].concat());
        if code != 0 || report.verdict.at_fault != AtFault::None {
            alarms.push(format!(
                "seed {seed}: {:?} {} {}; {}: {:#?}",
                roles(seed),
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

#[test]
fn random_models_pass() {
    // Either is right in either role.
    assert_no_alarms(&ENGINES, |seed| match seed % 2 {
        0 => &[],
        _ => &["--reference", "rust", "--candidate", "bitnet.cpp"],
    });
}

#[test]
fn random_models_pass_with_the_oracle() {
    assert_no_alarms(&WITH_ORACLE, |seed| match seed % 4 {
        0 => &["--candidate", "oracle"],
        1 => &["--reference", "oracle"],
        2 => &["--reference", "rust", "--candidate", "oracle"],
        _ => &["--reference", "oracle", "--candidate", "bitnet.cpp"],
    });
}
