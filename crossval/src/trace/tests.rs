//! Round trips, and files that are not what they should be.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use reports::model::Environment;
use safetensors::tensor::{Dtype, TensorView, serialize};

use super::activations::Activations;
use super::write::TraceWriter;
use super::*;
use crate::protocol::{Hello, ModelFacts, TapHeader};

pub(crate) const N_VOCAB: usize = 7;
pub(crate) const PROMPT: [u32; 6] = [1, 5, 2, 6, 0, 3];
pub(crate) const GENERATED: [u32; 3] = [4, 4, 1];
const STEPS: usize = 2;
const POSITIONS: usize = PROMPT.len() + STEPS;
const TAPS: [Tap; 4] = [Tap::Embd, Tap::KCache, Tap::AttnProbs, Tap::Logits];

type Tensors = BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)>;

fn info() -> TraceInfo {
    TraceInfo {
        created: "2026-01-02T03:04:05Z".into(),
        command: vec!["crossval".into(), "record".into()],
        engine: "bitnet.cpp".into(),
        hello: Hello {
            // An older trace is a trace still: a worker's version is no part of what it holds.
            protocol: 1,
            engine: "bitnet.cpp".into(),
            version: Some("r1".into()),
            build: BTreeMap::new(),
            architectures: vec!["bitnet".into()],
            taps: Tap::ALL.to_vec(),
            overwrite: false,
            dtypes: Vec::new(),
            tokenizer: true,
            judges: false,
        },
        settings: [("threads".to_owned(), "1".to_owned())].into(),
        model_path: "m.gguf".into(),
        model_size_bytes: 12,
        model_sha256: "0f".repeat(32),
        model_facts: ModelFacts {
            architecture: "bitnet".into(),
            name: None,
            n_layer: 2,
            n_embd: 3,
            n_ff: 4,
            n_head: 2,
            n_head_kv: 1,
            n_vocab: N_VOCAB,
            n_ctx_train: 64,
            taps: TAPS.to_vec(),
            tensor_types: BTreeMap::new(),
            weight_types: BTreeMap::new(),
            vocab: None,
            work: None,
        },
        n_ubatch: 4,
        n_predict: 3,
        tokenizer: Some("bitnet.cpp".into()),
        prompts: vec![PromptInfo {
            text: Some("a \"prompt\"\n".into()),
            rendered: None,
            source: "--prompt".into(),
            noise: vec![RecordedNoise {
                varied: "threads 1 and 2".into(),
                nmse: [(Tap::Embd, Some(0.1 + 0.2)), (Tap::Logits, None)].into(),
            }],
            generation_noise: vec![Some(1.1e-7), None, Some(0.0)],
        }],
        not_repeatable: Vec::new(),
        environment: Environment {
            crossval_version: "0".into(),
            git_revision: None,
            rustc: "rustc".into(),
            profile: "dev".into(),
            target: "x".into(),
            target_features: Vec::new(),
            os: "os".into(),
            cpu: None,
            cpu_features: Vec::new(),
            cpus: 1,
            memory_bytes: None,
        },
    }
}

fn tensors() -> Tensors {
    let mut tensors = Tensors::new();
    let mut add = |name: &str, dtype: Dtype, shape: &[usize]| {
        let n: usize = shape.iter().product::<usize>() * dtype.bitsize() / 8;
        let salt = name.len();
        let bytes = (0..n).map(|i| (i * 31 + salt) as u8).collect();
        tensors.insert(name.to_owned(), (dtype, shape.to_vec(), bytes));
    };
    add("prompt0.generated_logits", Dtype::F32, &[3, N_VOCAB]);
    add("prompt0.embd", Dtype::F32, &[POSITIONS, 3]);
    add("prompt0.logits", Dtype::F32, &[POSITIONS, N_VOCAB]);
    for layer in 0..2 {
        let name = |tap: &str| format!("prompt0.layer0{layer}.{tap}");
        add(&name("k_cache"), Dtype::F16, &[POSITIONS, 5]);
        add(&name("attn_probs"), Dtype::F32, &[POSITIONS, 2, POSITIONS]);
    }
    for (name, ids) in [
        ("tokens", &PROMPT[..]),
        ("decode_tokens", &GENERATED[..STEPS]),
        ("generated", &GENERATED),
    ] {
        let bytes = ids.iter().flat_map(|id| id.to_le_bytes()).collect();
        tensors.insert(
            format!("prompt0.{name}"),
            (Dtype::U32, vec![ids.len()], bytes),
        );
    }
    tensors
}

fn bytes_of(tensors: &Tensors, metadata: HashMap<String, String>) -> Vec<u8> {
    let views = tensors.iter().map(|(name, (dtype, shape, bytes))| {
        (name, TensorView::new(*dtype, shape.clone(), bytes).unwrap())
    });
    serialize(views, Some(metadata)).unwrap()
}

fn write(folder: &Path, bytes: &[u8]) -> PathBuf {
    let path = folder.join("run.safetensors");
    std::fs::write(&path, bytes).unwrap();
    path
}

/// A trace of one prompt, evaluated in batches of 4.
pub(crate) fn sample(folder: &Path) -> PathBuf {
    write(folder, &bytes_of(&tensors(), info().to_metadata().unwrap()))
}

/// What opening says of a sample that was edited.
fn complaint(edit: impl FnOnce(&mut Tensors, &mut HashMap<String, String>)) -> String {
    let folder = tempfile::tempdir().unwrap();
    let (mut tensors, mut metadata) = (tensors(), info().to_metadata().unwrap());
    edit(&mut tensors, &mut metadata);
    let path = write(folder.path(), &bytes_of(&tensors, metadata));
    let error = Trace::open(&path).unwrap_err().to_string();
    assert!(error.contains("run.safetensors"), "{error}");
    error
}

#[test]
fn what_is_written_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("run.safetensors");
    let mut writer = TraceWriter::create(&path).unwrap();
    for (name, (dtype, shape, bytes)) in tensors() {
        let row_bytes = bytes.len() / shape[0];
        writer.begin(name.clone(), dtype, shape).unwrap();
        for (row, bytes) in bytes.chunks(row_bytes).enumerate() {
            assert_eq!(writer.filled(&name), Some(row));
            writer.put_row(&name, row, bytes).unwrap();
            assert_eq!(writer.row(&name, row).unwrap(), bytes);
        }
    }
    let size = writer.finish(info().to_metadata().unwrap()).unwrap();
    let bytes = std::fs::read(&path).unwrap();
    assert_eq!(size, bytes.len() as u64);
    // Any reader of the format accepts it, and finds every value aligned.
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(file.len(), tensors().len());
    for (name, (dtype, shape, bytes)) in tensors() {
        let tensor = file.tensor(&name).unwrap();
        assert_eq!((tensor.dtype(), tensor.shape()), (dtype, &shape[..]));
        assert_eq!(tensor.data(), bytes, "{name}");
        assert!(
            tensor
                .data()
                .as_ptr()
                .addr()
                .is_multiple_of(dtype.bitsize() / 8)
        );
    }
    let trace = Trace::open(&path).unwrap();
    assert_eq!((trace.info(), trace.taps()), (&info(), &TAPS[..]));
    let prompt = trace.prompt(&PROMPT).unwrap();
    assert_eq!(prompt.generated, GENERATED);
    assert!(trace.prompt(&GENERATED).is_none());
    let noise = trace.noise(&PROMPT, &[Tap::Logits, Tap::Q]);
    assert_eq!(noise[0].varied, "threads 1 and 2");
    assert_eq!(noise[0].nmse.len(), 1);
    assert!(noise[0].nmse[&Tap::Logits].is_nan());
    assert_eq!(trace.noise(&PROMPT, &TAPS)[0].nmse[&Tap::Embd], 0.1 + 0.2);
    assert!(trace.noise(&GENERATED, &TAPS).is_empty());
    let (shape, rows) = trace
        .tap_rows(prompt, (Some(1), Tap::KCache), 3..5)
        .unwrap();
    assert_eq!(shape, [5]);
    assert_eq!(rows, &tensors()["prompt0.layer01.k_cache"].2[30..50]);
    for beyond in [7..9, 9..10, usize::MAX - 1..usize::MAX] {
        assert!(
            trace
                .tap_rows(prompt, (Some(1), Tap::KCache), beyond)
                .is_err()
        );
    }
    assert!(trace.generated_logits(prompt, 2).is_ok());
    assert!(trace.generated_logits(prompt, 3).is_err());
    let files = std::fs::read_dir(folder.path()).unwrap().count();
    assert_eq!(files, 1, "nothing is left beside it");
}

/// As mapped memory, it would be a signal.
#[test]
fn a_trace_that_shrinks_while_it_is_open() {
    let folder = tempfile::tempdir().unwrap();
    let path = sample(folder.path());
    let trace = Trace::open(&path).unwrap();
    let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.set_len(100).unwrap();
    let prompt = &trace.prompts()[0];
    let error = trace.generated_logits(prompt, 0).unwrap_err().to_string();
    assert!(error.contains(path.to_str().unwrap()), "{error}");
    assert!(
        error.contains("tensor prompt0.generated_logits: cannot be read"),
        "{error}"
    );
}

#[test]
fn an_unfinished_trace_leaves_the_old_one_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = write(folder.path(), b"old");
    let mut writer = TraceWriter::create(&path).unwrap();
    writer.begin("x".into(), Dtype::F32, vec![2, 1]).unwrap();
    writer.put_row("x", 0, &[0; 4]).unwrap();
    assert!(writer.put_row("x", 0, &[0; 4]).is_err());
    let error = writer.finish(HashMap::new()).unwrap_err().to_string();
    assert!(error.contains("1 of 2 rows"), "{error}");
    assert_eq!(std::fs::read(&path).unwrap(), b"old");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn attention_probabilities_are_padded() {
    let folder = tempfile::tempdir().unwrap();
    let mut writer = TraceWriter::create(&folder.path().join("t")).unwrap();
    let mut activations = Activations {
        writer: &mut writer,
        engine: "e",
        taps: &[Tap::AttnProbs],
        n_layer: 1,
        prompt: 0,
        positions: 3,
        differing: BTreeSet::new(),
    };
    let header = |first_position, rows, width| TapHeader {
        tap: Tap::AttnProbs,
        layer: Some(0),
        first_position,
        rows,
        width,
    };
    // Two heads; a batch of two positions, then one of one.
    let bytes = |values: &[f32]| -> Vec<u8> { bytemuck::cast_slice(values).to_vec() };
    let first = bytes(&[1.0, 0.0, 2.0, 0.0, 3.0, 4.0, 5.0, 6.0]);
    activations.keep(2, &header(0, 2, 4), &first).unwrap();
    let error = activations.check_complete(3).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("prompt0.layer00.attn_probs lacks"),
        "{error}"
    );
    for wrong in [header(1, 1, 6), header(2, 1, 9), header(2, 1, 7)] {
        let payload = vec![0; wrong.row_bytes()];
        let error = activations.keep(3, &wrong, &payload).unwrap_err();
        assert_eq!(error.outcome().exit_code(), 30, "{error}");
    }
    let second = bytes(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    activations.keep(3, &header(2, 1, 6), &second).unwrap();
    activations.check_complete(3).unwrap();
    activations.compare(3, &header(2, 1, 6), &second).unwrap();
    assert!(activations.differing.is_empty());
    activations.compare(2, &header(0, 2, 4), &[0; 32]).unwrap();
    assert_eq!(activations.differing.len(), 1);
    let row = |i| writer.row("prompt0.layer00.attn_probs", i).unwrap();
    assert_eq!(row(0), bytes(&[1.0, 0.0, 0.0, 2.0, 0.0, 0.0]));
    assert_eq!(row(1), bytes(&[3.0, 4.0, 0.0, 5.0, 6.0, 0.0]));
    assert_eq!(row(2), second);
}

#[test]
fn sites_follow_the_forward_pass() {
    let expected = [
        (None, Tap::Embd),
        (Some(0), Tap::KCache),
        (Some(0), Tap::AttnProbs),
        (Some(1), Tap::KCache),
        (Some(1), Tap::AttnProbs),
        (None, Tap::Logits),
    ];
    assert!(sites(&TAPS, 2).eq(expected));
    assert_eq!(sites(&[Tap::Embd], usize::MAX).count(), 1);
}

#[test]
fn what_is_wrong_has_a_name() {
    for name in tensors().keys() {
        let error = complaint(|t, _| drop(t.remove(name)));
        assert!(error.contains(name), "{name}: {error}");
    }
    for key in info().to_metadata().unwrap().keys() {
        let error = complaint(|_, m| drop(m.remove(key)));
        assert!(error.contains(&format!("{key:?}")), "{key}: {error}");
    }
    type Edit = fn(&mut Tensors, &mut HashMap<String, String>);
    let cases: [(&str, Edit); 10] = [
        ("crossval.trace/2", |_, m| {
            m.insert("format".into(), "crossval.trace/2".into());
        }),
        ("\"hello\"", |_, m| {
            m.insert("hello".into(), "{}".into());
        }),
        ("\"n_ubatch\": is 0", |_, m| {
            m.insert("n_ubatch".into(), "0".into());
        }),
        ("\"model_sha256\"", |_, m| {
            m.insert("model_sha256".into(), "xyz".into());
        }),
        ("\"prompts\": is empty", |_, m| {
            m.insert("prompts".into(), "[]".into());
        }),
        ("negative", |_, m| {
            let prompts = m["prompts"].replace("1.1e-7", "-1.0");
            m.insert("prompts".into(), prompts);
        }),
        ("prompt0.generated: has 3 of 4 tokens", |_, m| {
            m.insert("n_predict".into(), "4".into());
        }),
        ("prompt0.tokens: token ID 9 is out of range", |t, _| {
            t.get_mut("prompt0.tokens").unwrap().2[0] = 9;
        }),
        ("prompt0.decode_tokens: is not the start", |t, _| {
            t.get_mut("prompt0.decode_tokens").unwrap().2[0] = 5;
        }),
        ("prompt0.layer01.k_cache: is F16 [5, 8]", |t, _| {
            t.get_mut("prompt0.layer01.k_cache").unwrap().1 = vec![5, 8];
        }),
    ];
    for (says, edit) in cases {
        let error = complaint(edit);
        assert!(error.contains(says), "no {says:?} in {error:?}");
    }
}

#[test]
fn headers_that_lie() {
    let folder = tempfile::tempdir().unwrap();
    let open = |bytes: &[u8]| Trace::open(&write(folder.path(), bytes)).unwrap_err();
    let with_header = |json: &str| {
        let mut bytes = (json.len() as u64).to_le_bytes().to_vec();
        bytes.extend_from_slice(json.as_bytes());
        bytes
    };
    let huge = u64::MAX;
    let lies = [
        with_header(&format!(
            r#"{{"a":{{"dtype":"U8","shape":[{huge}],"data_offsets":[0,{huge}]}}}}"#
        )),
        with_header(r#"{"a":{"dtype":"U8","shape":[4],"data_offsets":[4,0]}}"#),
        with_header("{}"),
        with_header("[]"),
        u64::MAX.to_le_bytes().to_vec(),
        (1_u64 << 40).to_le_bytes().to_vec(),
        Vec::new(),
    ];
    for lie in lies {
        let error = open(&lie).to_string();
        assert!(error.contains("run.safetensors"), "{error}");
    }
    assert!(Trace::open(folder.path()).is_err(), "a folder");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_file_cut_short_is_refused(cut in 0.0..1.0) {
        let folder = tempfile::tempdir().unwrap();
        let path = sample(folder.path());
        let mut bytes = std::fs::read(&path).unwrap();
        bytes.truncate((bytes.len() as f64 * cut) as usize);
        let error = Trace::open(&write(folder.path(), &bytes)).unwrap_err();
        prop_assert!(error.to_string().contains("run.safetensors"));
    }

    #[test]
    fn garbage_never_panics(
        edits in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..20),
        garbage in proptest::collection::vec(any::<u8>(), 0..100),
    ) {
        let folder = tempfile::tempdir().unwrap();
        let mut bytes = std::fs::read(sample(folder.path())).unwrap();
        for (at, value) in edits {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        for bytes in [bytes, garbage] {
            if let Ok(trace) = Trace::open(&write(folder.path(), &bytes)) {
                for site in trace.sites() {
                    prop_assert!(trace.tap_rows(&trace.prompts()[0], site, 0..POSITIONS).is_ok());
                }
            }
        }
    }
}
