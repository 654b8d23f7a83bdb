//! Norm weights in F16, as newer converters write them.

use reports::model::{AtFault, Status};

use super::*;

const SHORT: [&str; 7] = [
    "--reference",
    "oracle",
    "--no-bench",
    "--n-predict",
    "2",
    "--tokens",
    "1,5,9",
];

#[test]
fn the_engine_and_the_oracle_read_halves() {
    let scratch = Scratch::new();
    for arch in ["bitnet-b1.58", "llama"] {
        let model = synth(&scratch, arch, &["--norm-type", "f16"]);
        let gguf = Gguf::open(&model).expect("a model");
        let norm = gguf.tensor("blk.1.ffn_norm.weight").expect("a norm");
        assert_eq!(norm.ty.name(), "F16");
        let (_, report, shown) = run(&model, &SHORT);
        assert_eq!(report.verdict.status, Status::Pass, "{arch}: {shown}");
        // The faults' copy of the stage reads them, too.
        let fault = ["--fault", "other-layers-gamma:ffn_norm:1"];
        let (code, report, shown) = run(&model, &[&SHORT[..], &fault].concat());
        assert_eq!(
            (code, report.verdict.at_fault),
            (10, AtFault::Candidate),
            "{shown}"
        );
        let first = report.verdict.first_divergence.expect("a divergence");
        let hint = first.hint.expect("a hint");
        assert!(hint.contains("of another layer"), "{arch}: {hint}");
    }
}
