//! No false alarm: random models of every architecture and shape, where both engines are right.
//!
//! `FALSE_ALARM_RUNS=300 cargo test --release --test cli false_alarms -- --nocapture` for more than a handful.
#![cfg(feature = "reference")]

use reports::model::AtFault;

use super::*;

const RUNS: u64 = 6;

/// Numbers that depend on a seed alone (SplitMix64, Steele et al. 2014).
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % n
    }

    fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len() as u64) as usize]
    }
}

struct Random {
    arch: &'static str,
    synth: Vec<String>,
    run: Vec<String>,
}

/// GQA of 1 to 8 heads, heads of 32 to 128, 1 to 12 layers, prompts of one token, of several and of several batches.
fn random(seed: u64) -> Random {
    let mut numbers = Numbers(seed);
    let arch = numbers.pick(&["bitnet", "bitnet-25", "bitnet-b1.58", "llama"]);
    let ternary = arch != "llama";
    let (head_dim, kv_heads, shared) = loop {
        let head_dim = numbers.pick(&[32, 48, 64, 80, 96, 128]);
        let kv_heads = 1 + numbers.below(4);
        let shared = 1 + numbers.below(8);
        let embd = head_dim * kv_heads * shared;
        let kv = head_dim * kv_heads;
        if embd <= 1024 && (!ternary || (embd.is_multiple_of(128) && kv.is_multiple_of(4))) {
            break (head_dim, kv_heads, shared);
        }
    };
    let ffn = match ternary {
        true => 128 * (1 + numbers.below(8)),
        false => 32 * (1 + numbers.below(32)),
    };
    let vocab = 300 + numbers.below(700);
    let synth = [
        ("--layers", 1 + numbers.below(12)),
        ("--embd", head_dim * kv_heads * shared),
        ("--heads", kv_heads * shared),
        ("--kv-heads", kv_heads),
        ("--ffn", ffn),
        ("--vocab", vocab),
        ("--ctx", 512),
        ("--seed", seed),
    ];
    let n_prompt = match numbers.below(4) {
        0 => 1,
        1 => 2 + numbers.below(6),
        2 => 8 + numbers.below(60),
        _ => 100 + numbers.below(150),
    };
    let tokens: Vec<String> = (0..n_prompt)
        .map(|_| numbers.below(vocab).to_string())
        .collect();
    let run = [
        ("--tokens", tokens.join(",")),
        ("--threads", (1 + numbers.below(2)).to_string()),
        ("--n-predict", numbers.below(12).to_string()),
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
