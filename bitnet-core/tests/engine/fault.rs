//! Deliberate errors change what they say, and nothing else.

use std::sync::Arc;

use bitnet_core::ErrorKind;
use bitnet_core::model::Fault;
use bitnet_core::tap::Tap;

use crate::synthetic::{SPECS, Synthetic};
use crate::{bits, record};

const TOKENS: [u32; 6] = [3, 1, 4, 1, 5, 9];

#[test]
fn each_fault_shows_first_where_it_is_made() {
    let clean = Arc::new(Synthetic::new(&SPECS[0]).load().unwrap());
    let (want, _) = record(&clean, &TOKENS, |_, _, _| ());
    for (fault, tap, layer) in [
        ("rope-pairing", Tap::QRope, 0),
        ("skip-attn-sub-norm:1", Tap::AttnSubNorm, 1),
        ("skip-ffn-sub-norm:0", Tap::FfnSubNorm, 0),
        ("activation:1", Tap::FfnAct, 1),
        ("weight-scale:1:attn_k:1.01", Tap::K, 1),
        ("weight-scale:0:ffn_down:0.99", Tap::FfnDown, 0),
        ("weight-scale:0:attn_norm:2", Tap::AttnNorm, 0),
    ] {
        let parsed: Fault = fault.parse().unwrap();
        assert_eq!(parsed.to_string(), fault);
        let mut model = Synthetic::new(&SPECS[0]).load().unwrap();
        model.inject(&parsed).unwrap();
        let (got, _) = record(&Arc::new(model), &TOKENS, |_, _, _| ());
        assert_eq!(got.len(), want.len(), "{fault}: taps stay the same");
        let first = want
            .iter()
            .zip(&got)
            .find(|(a, b)| bits(&a.values) != bits(&b.values));
        let (first, _) = first.unwrap_or_else(|| panic!("{fault} changes nothing"));
        assert_eq!((first.tap, first.layer), (tap, Some(layer)), "{fault}");
    }
}

#[test]
fn impossible_faults_are_refused() {
    for fault in [
        "",
        "rope",
        "activation",
        "activation:x",
        "weight-scale:0:attn_q",
        "rope-pairing:1",
    ] {
        assert!(fault.parse::<Fault>().is_err(), "{fault}");
    }
    // `llama` has no sub-norms, and none of them has nine layers.
    for fault in [
        "skip-attn-sub-norm:0",
        "activation:9",
        "weight-scale:0:attn_qq:2",
    ] {
        let mut model = Synthetic::new(&SPECS[3]).load().unwrap();
        let error = model.inject(&fault.parse().unwrap()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Usage);
        assert!(error.to_string().contains(fault));
    }
}
