//! Files that were tampered with: refused or run, but never with a panic, and in memory that follows from their size.

use std::path::Path;
use std::sync::{Arc, LazyLock};

use bitnet_core::gguf::{Array, Gguf, Metadata, TensorType, Value, Writer};
use bitnet_core::model::{Logits, Model, Session, SessionOptions};
use bitnet_core::tokenizer::{EncodeOptions, Tokenizer};
use bitnet_model::check::check_weights;
use proptest::prelude::*;
use proptest::sample::{Index, select};

use crate::memory::most_bytes;

/// Bytes that may be taken: so many for each byte of the file, and so many besides.
const PER_BYTE: usize = 16;
const BESIDES: usize = 2 << 20;

/// Everything that is done with a file; whether a token could be evaluated.
fn use_file(bytes: Vec<u8>) -> bool {
    let Ok(gguf) = Gguf::from_bytes(Path::new("tampered"), bytes) else {
        return false;
    };
    if let Ok(tokenizer) = Tokenizer::from_gguf(gguf.metadata()) {
        let options = EncodeOptions {
            add_special: true,
            parse_special: true,
        };
        let _ = tokenizer.encode("Once upon <s> a time, 123!", options);
    }
    let _ = check_weights(&gguf);
    let Ok(model) = Model::load(Arc::new(gguf)) else {
        return false;
    };
    let options = SessionOptions {
        n_ctx: 4,
        threads: 1,
    };
    let session = Session::new(Arc::new(model), options);
    session.is_ok_and(|mut session| session.eval(&[0, 1], Logits::Last, None).is_ok())
}

fn bounded(bytes: &[u8]) -> bool {
    let size = bytes.len();
    let (used, most) = most_bytes(|| use_file(bytes.to_vec()));
    assert!(
        most <= PER_BYTE * size + BESIDES,
        "{most} bytes for a file of {size}"
    );
    used
}

/// The bundled files, and where their tensor data starts.
static FILES: LazyLock<Vec<(Vec<u8>, usize)>> = LazyLock::new(|| {
    let names = ["tiny-bitnet", "vocab-spm", "vocab-bpe", "vocab-wpm"];
    let file = |name| {
        let path = format!("{}/../assets/{name}.gguf", env!("CARGO_MANIFEST_DIR"));
        let bytes = std::fs::read(path).unwrap();
        let gguf = Gguf::from_bytes(Path::new(name), bytes.clone()).unwrap();
        let data = gguf.tensors().first().map(|t| t.offset as usize);
        let head = data.unwrap_or(bytes.len());
        (bytes, head)
    };
    names.map(file).into()
});

#[derive(Clone, Debug)]
enum Edit {
    Flip(Index, u8),
    /// A number in the place of one.
    Number(Index, u64, usize),
    /// Bytes from elsewhere in the head, in the place of others or between them.
    Splice(Index, Index, usize, bool),
    Remove(Index, usize),
    Cut(Index),
}

fn edit() -> impl Strategy<Value = Edit> {
    let index = any::<Index>;
    let small = any::<u16>().prop_map(u64::from);
    let around = (0..64u32, -1..2i64).prop_map(|(bit, d)| (1u64 << bit).wrapping_add_signed(d));
    let number = prop_oneof![small, around, any::<u64>()];
    prop_oneof![
        4 => (index(), 0..8u8).prop_map(|(at, bit)| Edit::Flip(at, bit)),
        4 => (index(), number, select(vec![1, 4, 8])).prop_map(|(at, n, w)| Edit::Number(at, n, w)),
        2 => (index(), index(), 1..200usize, any::<bool>())
            .prop_map(|(from, to, n, insert)| Edit::Splice(from, to, n, insert)),
        1 => (index(), 1..100usize).prop_map(|(at, n)| Edit::Remove(at, n)),
        1 => index().prop_map(Edit::Cut),
    ]
}

fn apply(edit: &Edit, bytes: &mut Vec<u8>, head: usize) {
    let head = head.min(bytes.len());
    if head == 0 {
        return;
    }
    match *edit {
        Edit::Flip(at, bit) => bytes[at.index(head)] ^= 1 << bit,
        Edit::Number(at, n, width) => {
            let at = at.index(head);
            let end = (at + width).min(bytes.len());
            bytes[at..end].copy_from_slice(&n.to_le_bytes()[..end - at]);
        }
        Edit::Splice(from, to, n, insert) => {
            let from = from.index(head);
            let piece = bytes[from..(from + n).min(head)].to_vec();
            let to = to.index(head);
            let end = match insert {
                true => to,
                false => (to + n).min(head),
            };
            bytes.splice(to..end, piece);
        }
        Edit::Remove(at, n) => {
            let at = at.index(head);
            bytes.drain(at..(at + n).min(head));
        }
        Edit::Cut(at) => bytes.truncate(at.index(head)),
    }
}

#[test]
fn the_bundled_model_is_within_bounds() {
    assert!(bounded(&FILES[0].0));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn tampered_heads(file in 0..4usize, edits in prop::collection::vec(edit(), 1..5)) {
        let (mut bytes, head) = FILES[file].clone();
        for edit in &edits {
            apply(edit, &mut bytes, head);
        }
        bounded(&bytes);
    }
}

/// A file of these entries, and of scalars of these names.
fn file(entries: impl IntoIterator<Item = (String, Value)>, tensors: usize) -> Vec<u8> {
    let mut metadata = Metadata::new(Path::new("dense"));
    for (key, value) in entries {
        metadata.insert(&key, value).unwrap();
    }
    let mut writer = Writer::new(metadata).unwrap();
    for i in 0..tensors {
        writer
            .tensor(&format!("{i:x}"), &[], TensorType::F32)
            .unwrap();
    }
    let mut out = writer.begin(Vec::new()).unwrap();
    for _ in 0..tensors {
        out.write_tensor(|out| out.write_all(&[0; 4])).unwrap();
    }
    out.finish().unwrap()
}

/// What takes the most memory for its bytes in a file.
#[test]
fn dense_files_are_within_bounds() {
    let empty = |n: usize| Array::Array(vec![Array::U8(Vec::new()); n]);
    let entry = |value: Value| file([("x".to_owned(), value)], 0);
    let strings = Array::Str((0..200_000).map(|_| "").collect());
    let keys = (0..50_000).map(|i| (format!("{i:x}"), Value::U8(0)));
    let tokens = Array::Str((0..100_000).map(|i| format!("{i:x}")).collect());
    let vocabulary = |model: &str| {
        let entries = [
            ("tokenizer.ggml.model", Value::from(model)),
            ("tokenizer.ggml.pre", "default".into()),
            ("tokenizer.ggml.tokens", tokens.clone().into()),
            ("tokenizer.ggml.merges", tokens.clone().into()),
        ];
        file(entries.map(|(key, value)| (key.to_owned(), value)), 0)
    };
    let merges = Array::Str((0..100_000).map(|i| format!("{i:x} {i:x}")).collect());
    let merges = [
        ("tokenizer.ggml.model", Value::from("gpt2")),
        ("tokenizer.ggml.tokens", tokens.clone().into()),
        ("tokenizer.ggml.merges", merges.into()),
    ];
    let merges = file(merges.map(|(key, value)| (key.to_owned(), value)), 0);
    for bytes in [
        file(keys, 0),
        file([], 20_000),
        entry(strings.into()),
        entry(empty(200_000).into()),
        entry(Array::Array(vec![empty(1); 100_000]).into()),
        vocabulary("llama"),
        vocabulary("gpt2"),
        vocabulary("bert"),
        merges,
    ] {
        bounded(&bytes);
    }
}
