//! A trace: opened, read tensor by tensor, and replayed as an engine.

#![no_main]

use std::io::{Cursor, sink};

use bitnet_crossval_fuzz::{MemoryFile, push_frame};
use crossval_protocol::{Request, Settings, token_bytes};
use crossval_trace::Trace;
use crossval_workers::serve_over;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let file = MemoryFile::new(bytes);
    let path = file.path();
    let Ok(trace) = Trace::open(&path) else {
        return;
    };
    let mut requests = Requests::default();
    requests.push(
        &Request::Load {
            model: path.clone(),
        },
        &[],
    );
    let configure = Request::Configure(Settings {
        n_ctx: 8,
        n_ubatch: trace.info().n_ubatch,
        threads: 1,
        observe: true,
        compact_head_budget: 0,
    });
    requests.push(&configure, &[]);
    trace.contents();
    for prompt in trace.prompts() {
        let positions = prompt.tokens.len() + prompt.decode_tokens.len();
        for at in trace.sites() {
            trace
                .tap_rows(prompt, at, 0..positions)
                .expect("checked when it was opened");
        }
        for index in 0..prompt.generated.len() {
            trace
                .generated_logits(prompt, index)
                .expect("checked when it was opened");
        }
        let mut first = 0;
        let batches = prompt.tokens.chunks(trace.info().n_ubatch);
        for batch in batches.chain(prompt.decode_tokens.chunks(1)) {
            let eval = Request::Eval {
                seq_id: 0,
                first_position: first,
                taps: trace.taps().to_vec(),
                overwrite: false,
                last_logits: true,
            };
            requests.push(&eval, batch);
            first += batch.len();
        }
        let generate = Request::Generate {
            n_predict: prompt.generated.len(),
        };
        requests.push(&generate, &prompt.tokens);
    }
    serve_over("trace", Some(&path), Cursor::new(requests.0), sink()).expect("a conversation");
});

#[derive(Default)]
struct Requests(Vec<u8>);

impl Requests {
    fn push(&mut self, request: &Request, tokens: &[u32]) {
        let header = serde_json::to_vec(request).expect("a request is JSON");
        push_frame(&mut self.0, &header, &token_bytes(tokens));
    }
}
