//! What a driver sends, to both Rust engines on a small model. A driver is trusted with the settings, which say how much
//! memory and how many threads an engine takes: they are kept small here.

#![no_main]

use std::cell::RefCell;
use std::io::{self, Cursor, Write};
use std::rc::Rc;
use std::sync::LazyLock;

use bitnet_crossval_fuzz::{MODELS, MemoryFile, model, push_frame, wire};
use crossval_protocol::{FrameError, Request, Response, read_frame};
use crossval_workers::serve_over;
use libfuzzer_sys::fuzz_target;

static FILES: LazyLock<[MemoryFile; MODELS.len()]> = LazyLock::new(|| {
    MODELS.map(|(_, architecture, ty, parts)| MemoryFile::new(&model(architecture, ty, parts)))
});

fuzz_target!(|input: &[u8]| {
    let Some((&engine, input)) = input.split_first() else {
        return;
    };
    let (requests, n) = tamed(&wire(input));
    let engine = ["rust", "oracle"][usize::from(engine) % 2];
    let answers = Answers::default();
    let _ = serve_over(engine, None, Cursor::new(requests), answers.clone());
    let answers = answers.0.take();
    let mut answers = answers.as_slice();
    let mut payload = Vec::new();
    let mut answered = 0;
    loop {
        match read_frame::<Response>(&mut answers, &mut payload) {
            Ok(Response::Tap(header)) => assert_eq!(header.payload_bytes(), Some(payload.len())),
            Ok(_) => answered += 1,
            Err(FrameError::Closed) => break,
            Err(e) => panic!("the worker wrote what no driver reads: {e}"),
        }
    }
    assert!(
        answered <= n + 1,
        "{answered} answers to {n} requests and the hello"
    );
});

/// The messages with settings within bounds and models that exist, and their number; what is no message stays as it is.
fn tamed(mut input: &[u8]) -> (Vec<u8>, usize) {
    let mut requests = Vec::new();
    let mut payload = Vec::new();
    let mut n = 0;
    loop {
        let rest = input;
        let Ok(mut request) = read_frame::<Request>(&mut input, &mut payload) else {
            requests.extend_from_slice(rest);
            return (requests, n + 1);
        };
        match &mut request {
            Request::Load { model } | Request::LoadVocab { model } => {
                *model = FILES[model.as_os_str().len() % FILES.len()].path();
            }
            Request::Configure(settings) => {
                settings.n_ctx %= 64;
                settings.threads %= 3;
            }
            _ => {}
        }
        let header = serde_json::to_vec(&request).expect("a request is JSON");
        push_frame(&mut requests, &header, &payload);
        n += 1;
    }
}

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
