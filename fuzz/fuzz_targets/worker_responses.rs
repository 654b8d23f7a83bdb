//! What two workers send, to the driver's side of the conversation: hello, facts, tokens, pieces, taps in lockstep,
//! generation, judgement. The input is cut in two at the first `0xFD`.

#![no_main]

use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::Path;

use bitnet_crossval_fuzz::{MemoryFile, wire};
use bitnet_model::tap::Tap;
use crossval::compare::logits::LogitsAccumulator;
use crossval::compare::tap::{TapAccumulator, Value};
use crossval::engine::Engine;
use crossval::session::lockstep::{Evaluation, ReferenceHashes, RowAt, RowSink, evaluate};
use crossval::session::pair::Pair;
use crossval_protocol::{DecodeOptions, EncodeOptions, JudgeRequest, Settings};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let mut sides = input.splitn(2, |&b| b == 0xFD);
    let engines = ["reference", "candidate"].map(|name| {
        let bytes = wire(sides.next().unwrap_or_default());
        converse(name, &bytes)
    });
    let [Some(mut reference), Some(mut candidate)] = engines else {
        return;
    };
    let mut pair = Pair {
        reference: &mut reference,
        candidate: &mut candidate,
    };
    let mut hashes = ReferenceHashes::default();
    let mut sink = Sink {
        taps: TapAccumulator::new(Some(1e-6), 2, true),
        logits: LogitsAccumulator::new(1e-6),
    };
    for (isolated, first_position) in [(true, 0), (false, 3)] {
        let batch = Evaluation {
            first_position,
            tokens: &[1, 2, 3],
            taps: &Tap::ALL,
            isolated,
        };
        if evaluate(&mut pair, batch, &mut hashes, &mut sink).is_err() {
            break;
        }
    }
    let _ = (sink.taps.stats(), sink.logits.stats());
    for engine in [&mut reference, &mut candidate] {
        let _ = engine.generate(&[1, 2], 2);
        let _ = engine.judge(question(), &[0; 16]);
        let _ = engine.usage();
    }
});

/// Everything up to the first evaluation; `None` if the engine is gone by then.
fn converse(name: &str, bytes: &[u8]) -> Option<Engine> {
    let stdin = File::create("/dev/null").expect("/dev/null");
    let stdout: OwnedFd = MemoryFile::new(bytes).into_file().into();
    let mut engine = Engine::over(name, stdin.into(), stdout).ok()?;
    engine.load(Path::new("model.gguf")).ok()?;
    engine.check_weights().ok()?;
    let settings = Settings {
        n_ctx: 8,
        n_ubatch: 8,
        threads: 1,
        observe: true,
        compact_head_budget: 0,
    };
    engine.configure(settings).ok()?;
    let options = EncodeOptions {
        add_special: true,
        parse_special: false,
    };
    let (ids, _) = engine.tokenize(b"text", options).ok()?;
    engine.detokenize(&ids, DecodeOptions::default()).ok()?;
    engine.pieces(&ids).ok()?;
    Some(engine)
}

fn question() -> JudgeRequest {
    JudgeRequest {
        tap: Tap::Q,
        layer: Some(0),
        first_position: 0,
        n_tokens: 1,
        position: 0,
        inputs: Vec::new(),
        rows: 1,
        element: 0,
        limit: 1e-6,
        element_limit: None,
        outputs: Vec::new(),
        explain: true,
    }
}

struct Sink {
    taps: TapAccumulator,
    logits: LogitsAccumulator,
}

impl Sink {
    fn add<T: Value>(&mut self, at: RowAt, reference: &[T], candidate: &[T]) {
        self.taps.add(at.position, reference, candidate);
    }
}

impl RowSink for Sink {
    fn row_f32(&mut self, at: RowAt, reference: &[f32], candidate: &[f32]) {
        self.add(at, reference, candidate);
        if at.tap == Tap::Logits {
            self.logits.add(at.position, reference, candidate);
        }
    }

    fn row_f16(&mut self, at: RowAt, reference: &[half::f16], candidate: &[half::f16]) {
        self.add(at, reference, candidate);
    }
}
