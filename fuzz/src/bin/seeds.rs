//! Writes the seeds that are made, not recorded, to `seeds/`: run it in this folder. Those of `report_json` and `trace`
//! come from `crossval run` and `crossval record` on the model `seeds/gguf/bitnet-b1.58`.

use std::fs;
use std::path::Path;

use bitnet_crossval_fuzz::{FIELD, MODELS, PART, model};
use bitnet_model::tap::Tap;
use crossval_protocol::{
    ErrorKind, Hello, JudgeRequest, ModelFacts, Request, Response, RowJudgement, Settings,
    TapHeader, Usage, VERSION, VocabFacts, token_bytes,
};
use serde_json::to_vec;

type Message = (Vec<u8>, Vec<u8>);

fn main() {
    for (name, architecture, ty, parts) in MODELS {
        seed("gguf", name, &model(architecture, ty, parts));
    }
    tokenizers();
    requests();
    responses();
}

fn seed(target: &str, name: &str, bytes: &[u8]) {
    let folder = Path::new("seeds").join(target);
    fs::create_dir_all(&folder).expect("a folder");
    fs::write(folder.join(name), bytes).expect("written");
}

/// Messages as `wire` takes them.
fn messages(messages: &[Message]) -> Vec<u8> {
    let parts = messages
        .iter()
        .map(|(header, payload)| match payload.as_slice() {
            [] => header.clone(),
            payload => [header, &[FIELD][..], payload].concat(),
        });
    parts.collect::<Vec<_>>().join(&PART)
}

fn tokenizers() {
    let list = |items: &[&str]| {
        let items: Vec<&[u8]> = items.iter().map(|item| item.as_bytes()).collect();
        items.join(&FIELD)
    };
    let spm = [
        "<unk>",
        "<s>",
        "</s>",
        "<0x0A>",
        "\u{2581}",
        "a",
        "b",
        "ab",
        "\u{2581}a",
        "<mask>",
    ];
    let types: &[u8] = &[2, 3, 3, 6, 1, 1, 1, 1, 1, 4];
    let scores: &[u8] = &[0, 0, 0, 0, 255, 254, 253, 252, 251, 0];
    seed(
        "tokenizer",
        "spm",
        &[
            b"llama".to_vec(),
            vec![],
            list(&spm),
            types.to_vec(),
            scores.to_vec(),
            vec![],
            vec![0, 1, 1, 2],
            vec![0b11_11_11],
            b"Phi-3".to_vec(),
            b"ab <mask> a\nb".to_vec(),
            vec![1, 5, 8, 3, 200],
        ]
        .join(&PART),
    );
    let bpe = [
        "a",
        "b",
        "ab",
        "Ġ",
        "Ġa",
        "1",
        "12",
        "<|eot_id|>",
        "!",
        "'s",
        "é",
        "Ċ",
    ];
    for pre in [
        "llama-bpe",
        "default",
        "falcon3",
        "deepseek-llm",
        "tekken",
        "chameleon",
        "bloom",
    ] {
        seed(
            "tokenizer",
            &format!("bpe-{pre}"),
            &[
                b"gpt2".to_vec(),
                pre.into(),
                list(&bpe),
                vec![1, 1, 1, 1, 1, 1, 1, 3, 1, 1, 1, 1],
                vec![],
                list(&["a b", "Ġ a", "1 2", "' s"]),
                vec![0, 7, 1, 7],
                vec![0b11],
                vec![],
                "ab 12!\n\n é's <|eot_id|>漢IMGIMGA".into(),
                vec![2, 4, 7, 99],
            ]
            .join(&PART),
        );
    }
    let wpm = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "\u{2581}a",
        "b",
        "\u{2581}ab",
        "\u{2581}!",
        "漢",
    ];
    seed(
        "tokenizer",
        "wpm",
        &[
            b"bert".to_vec(),
            vec![],
            list(&wpm),
            vec![],
            vec![],
            vec![],
            vec![2, 1, 5, 2, 6, 3],
            vec![],
            vec![],
            "Ab áb! 漢 c".into(),
            vec![2, 6, 7, 3],
        ]
        .join(&PART),
    );
}

fn request(request: &Request, payload: &[u8]) -> Message {
    (to_vec(request).expect("JSON"), payload.to_vec())
}

fn eval(first_position: usize, tokens: &[u32], taps: &[Tap], overwrite: bool) -> Message {
    let eval = Request::Eval {
        seq_id: 0,
        first_position,
        taps: taps.to_vec(),
        overwrite,
        last_logits: true,
    };
    request(&eval, &token_bytes(tokens))
}

fn requests() {
    let ids = token_bytes(&[1, 3, 5]);
    let settings = |compact_head_budget| {
        Request::Configure(Settings {
            n_ctx: 16,
            n_ubatch: 8,
            threads: 1,
            observe: true,
            compact_head_budget,
        })
    };
    let load = |model: &str| Request::Load {
        model: model.into(),
    };
    for (name, engine) in [("rust", 0), ("oracle", 1)] {
        let mut all = vec![
            request(&load("0"), &[]),
            request(&Request::CheckWeights, &[]),
            request(&settings(1 << 20), &[]),
        ];
        if name == "rust" {
            all.extend([
                request(&Request::LoadVocab { model: "00".into() }, &[]),
                request(
                    &Request::Tokenize {
                        add_special: true,
                        parse_special: true,
                    },
                    b"ab <s>",
                ),
                request(
                    &Request::Detokenize {
                        remove_special: true,
                        unparse_special: false,
                    },
                    &ids,
                ),
                request(&Request::Pieces, &ids),
            ]);
        }
        all.extend([
            eval(0, &[1, 3], &Tap::ALL, false),
            eval(2, &[5], &[], false),
            request(&Request::Generate { n_predict: 3 }, &token_bytes(&[1, 3])),
            eval(0, &[3], &[Tap::KCache, Tap::Q], true),
            request(&Request::Keep, &[]),
            request(&Request::Overwrite, &[0x3C; 8]),
            request(&Request::Usage, &[]),
            request(&Request::Quit, &[]),
        ]);
        seed(
            "worker_requests",
            name,
            &[&[engine][..], &messages(&all)].concat(),
        );
    }
    let row = |tap, width| TapHeader {
        tap,
        layer: Some(0),
        first_position: 0,
        rows: 1,
        width,
    };
    for (name, inputs, tap, rows, values) in [
        ("judge-rope", vec![row(Tap::Q, 8)], Tap::QRope, 1, 16),
        (
            "judge-q",
            vec![row(Tap::AttnNorm, 128)],
            Tap::Q,
            2,
            128 + 16,
        ),
        (
            "judge-probs",
            vec![row(Tap::QRope, 8), row(Tap::KCache, 4)],
            Tap::AttnProbs,
            1,
            8 + 2 + 2,
        ),
    ] {
        let judge = Request::Judge(JudgeRequest {
            tap,
            layer: Some(0),
            first_position: 0,
            n_tokens: 1,
            position: 0,
            inputs,
            rows,
            element: 0,
            limit: 1e-6,
            element_limit: Some(1e-5),
            outputs: Vec::new(),
            explain: true,
        });
        let payload = [token_bytes(&[1]), [0, 0, 0x80, 0x3E].repeat(values)].concat();
        let all = [
            request(&load("000"), &[]),
            request(&settings(0), &[]),
            request(&judge, &payload),
        ];
        seed(
            "worker_requests",
            name,
            &[&[1][..], &messages(&all)].concat(),
        );
    }
}

fn response(response: &Response, payload: &[u8]) -> Message {
    (to_vec(response).expect("JSON"), payload.to_vec())
}

fn responses() {
    let ids = token_bytes(&[1, 3]);
    let start = vec![
        response(&Response::Hello(hello()), &[]),
        response(
            &Response::Loaded {
                facts: Box::new(facts()),
                load_ms: 1.5,
            },
            &[],
        ),
        response(
            &Response::WeightsChecked {
                zero: Vec::new(),
                findings: vec!["tensor \"q\": 3".into()],
            },
            &[],
        ),
        response(
            &Response::Configured {
                settings: [("threads".into(), "1".into())].into(),
            },
            &[],
        ),
        response(&Response::Tokens { ms: Some(0.5) }, &ids),
        response(&Response::Text, b"ab"),
        response(
            &Response::Pieces {
                lengths: vec![1, 2],
            },
            b"abc",
        ),
    ];
    let tap = |tap: Tap, layer, first_position, rows, width: usize, value: u8| {
        let header = TapHeader {
            tap,
            layer,
            first_position,
            rows,
            width,
        };
        let bytes = header.payload_bytes().expect("a size");
        response(&Response::Tap(header), &vec![value; bytes])
    };
    let batch = |value, first| {
        vec![
            tap(Tap::Embd, None, first, 3, 2, value),
            tap(Tap::Q, Some(0), first, 2, 2, value),
            tap(Tap::Q, Some(0), first + 2, 1, 2, value),
            tap(Tap::KCache, Some(0), first, 3, 2, value),
            tap(Tap::AttnProbs, Some(0), first, 3, 3 + first, value),
            tap(Tap::Logits, None, first, 3, 4, value),
            response(&Response::Evaluated, &[]),
        ]
    };
    let end = vec![
        response(
            &Response::Generated {
                prefill_ms: 1.0,
                decode_ms: vec![0.5],
            },
            &token_bytes(&[1, 2]),
        ),
        response(
            &Response::Judged {
                value: Some(0.5),
                rows: vec![judgement()],
            },
            &[],
        ),
        response(
            &Response::Usage(Usage {
                peak_rss_bytes: Some(1 << 20),
                ..Usage::default()
            }),
            &[],
        ),
    ];
    let side = |value: u8| {
        messages(&[start.clone(), batch(value, 0), batch(value, 3), end.clone()].concat())
    };
    seed(
        "worker_responses",
        "alike",
        &[side(0x3E), side(0x3E)].join(&0xFD),
    );
    seed(
        "worker_responses",
        "apart",
        &[side(0x3E), side(0x3F)].join(&0xFD),
    );
    let refused = Response::Error {
        kind: ErrorKind::BadModel,
        message: "no".into(),
    };
    let refused = [start[0].clone(), response(&refused, &[])];
    seed(
        "worker_responses",
        "refused",
        &[messages(&refused), side(0)].join(&0xFD),
    );
    let mut raw = b"!".to_vec();
    for (header, payload) in &start {
        bitnet_crossval_fuzz::push_frame(&mut raw, header, payload);
    }
    seed("worker_responses", "raw", &raw);
}

fn judgement() -> RowJudgement {
    RowJudgement {
        nmse: Some(1e-9),
        limit: Some(1e-9),
        right: true,
        rounding: "none".into(),
        findings: Vec::new(),
    }
}

fn hello() -> Hello {
    Hello {
        protocol: VERSION,
        engine: "rust".into(),
        version: Some("1".into()),
        build: [("kernel".into(), "avx2".into())].into(),
        architectures: vec!["bitnet".into()],
        taps: Tap::ALL.to_vec(),
        overwrite: true,
        dtypes: vec!["I2_S".into()],
        tokenizer: true,
        judges: true,
        graphs: false,
    }
}

fn facts() -> ModelFacts {
    ModelFacts {
        architecture: "bitnet".into(),
        name: None,
        n_layer: 1,
        n_embd: 2,
        n_ff: 2,
        n_head: 1,
        n_head_kv: 1,
        head_dim: None,
        n_vocab: 4,
        n_ctx_train: 16,
        activation: None,
        taps: Tap::ALL.to_vec(),
        tensor_types: [("I2_S".into(), 7)].into(),
        weight_types: [(Tap::Q, vec!["I2_S".into()])].into(),
        vocab: Some(VocabFacts {
            n_vocab: 4,
            tokenizer: "llama".into(),
            pre: None,
            chat_template: None,
            bos: Some("<s>".into()),
            eos: None,
            add_bos: true,
            special: vec!["<s>".into()],
        }),
        work: None,
    }
}
