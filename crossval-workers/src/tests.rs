//! Requests that make no sense: refused, and the next is served.

use std::cell::RefCell;
use std::io::{self, Cursor, Write};
use std::path::PathBuf;
use std::rc::Rc;

use bitnet_model::tap::Tap;
use crossval_protocol::{ErrorKind, JudgeRequest, Request, Response, Settings};
use proptest::prelude::*;

use super::*;
use crossval_protocol::token_bytes;

const TINY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../assets/tiny-bitnet.gguf");

#[derive(Clone, Default)]
struct Answers(Rc<RefCell<Vec<u8>>>);

impl Write for Answers {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.borrow_mut().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Frames that load the bundled model, then make this request, and one that every worker answers.
fn conversation(request: &Request, payload: &[u8]) -> Vec<u8> {
    let load = Request::Load {
        model: PathBuf::from(TINY),
    };
    let configure = Request::Configure(Settings {
        n_ctx: 8,
        n_ubatch: 8,
        threads: 1,
        observe: true,
        compact_head_budget: 0,
    });
    let mut wire = Vec::new();
    for (request, payload) in [
        (&load, &[][..]),
        (&configure, &[]),
        (request, payload),
        (&Request::Usage, &[]),
    ] {
        protocol::write_frame(&mut wire, request, payload).unwrap();
    }
    wire
}

/// What a worker answers to a request.
fn ask(engine: &str, request: &Request, payload: &[u8]) -> Response {
    let wire = conversation(request, payload);
    let answers = Answers::default();
    serve_over(engine, None, Cursor::new(wire), answers.clone()).unwrap();
    let answers = answers.0.take();
    let (mut answers, mut payload) = (answers.as_slice(), Vec::new());
    let mut read = || protocol::read_frame::<Response>(&mut answers, &mut payload);
    assert!(matches!(read(), Ok(Response::Hello(_))));
    assert!(matches!(read(), Ok(Response::Loaded { .. })));
    assert!(matches!(read(), Ok(Response::Configured { .. })));
    let answer = read().unwrap();
    assert!(matches!(read(), Ok(Response::Usage(_))), "it lives");
    answer
}

fn refusal(engine: &str, request: &Request, payload: &[u8]) -> String {
    match ask(engine, request, payload) {
        Response::Error {
            kind: ErrorKind::Usage,
            message,
        } => message,
        other => panic!("{engine}: {request:?}: {other:?}"),
    }
}

fn eval(first_position: usize, taps: &[Tap]) -> Request {
    Request::Eval {
        seq_id: 0,
        first_position,
        taps: taps.to_vec(),
        overwrite: false,
        last_logits: true,
    }
}

#[test]
fn no_tokens() {
    for engine in ["rust", "oracle"] {
        for taps in [&[][..], &[Tap::Logits]] {
            let message = refusal(engine, &eval(0, taps), &[]);
            assert_eq!(message, "there are no tokens");
        }
        let generate = Request::Generate { n_predict: 1 };
        assert_eq!(refusal(engine, &generate, &[]), "there are no tokens");
    }
}

#[test]
fn a_token_cut_short() {
    let generate = Request::Generate { n_predict: 1 };
    for engine in ["rust", "oracle"] {
        for request in [&eval(0, &[]), &generate] {
            let message = refusal(engine, request, &token_bytes(&[1, 2])[..7]);
            assert_eq!(message, "7 bytes of token IDs");
        }
    }
}

#[test]
fn positions_beyond_all_bounds() {
    for engine in ["rust", "oracle"] {
        for first in [1, 1 << 63, usize::MAX] {
            let message = refusal(engine, &eval(first, &[]), &token_bytes(&[1, 2]));
            assert!(message.contains(&format!("position {first}")), "{message}");
        }
        let message = refusal(engine, &eval(0, &[]), &token_bytes(&[1; 9]));
        assert!(message.contains("context of 8"), "{message}");
    }
}

/// Room for what is to come is not taken in advance.
#[test]
fn more_tokens_than_there_is_memory_for() {
    for engine in ["rust", "oracle"] {
        let generate = Request::Generate {
            n_predict: usize::MAX,
        };
        let message = refusal(engine, &generate, &token_bytes(&[1]));
        assert!(message.contains("context of 8"), "{message}");
    }
}

#[test]
fn judging_at_positions_that_are_none() {
    let judge = |n_tokens, first_position, position| {
        Request::Judge(JudgeRequest {
            tap: Tap::AttnProbs,
            layer: Some(0),
            first_position,
            n_tokens,
            position,
            inputs: Vec::new(),
            rows: 1,
            element: 0,
            limit: 0.0,
            element_limit: None,
            outputs: Vec::new(),
            explain: true,
        })
    };
    for (first, position) in [(0, 1), (5, 4), (1 << 60, 1 << 60), (usize::MAX, usize::MAX)] {
        let message = refusal("oracle", &judge(1, first, position), &[0; 16]);
        let says = format!("position {position} of a batch");
        assert!(message.starts_with(&says), "{message}");
    }
    for n_tokens in [5, 1 << 62, usize::MAX] {
        let message = refusal("oracle", &judge(n_tokens, 0, 0), &[0; 16]);
        assert_eq!(message, format!("fewer token IDs than {n_tokens}"));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn tampered_frames(
        engine in prop::sample::select(vec!["rust", "oracle"]),
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut wire = conversation(&eval(0, &Tap::ALL), &token_bytes(&[1, 2]));
        for (at, byte) in edits {
            let at = at.index(wire.len());
            wire[at] = byte;
        }
        wire.truncate(cut.index(wire.len()).max(wire.len() / 2));
        // Refused or served, without a panic.
        let _ = serve_over(engine, None, Cursor::new(wire), io::sink());
    }
}
