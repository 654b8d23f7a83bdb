//! Round trips, and files that are not what they should be.

use std::collections::HashMap;

use bitnet_model::tap::Tap;
use proptest::prelude::*;
use safetensors::tensor::Dtype;

use super::sample::{
    GENERATED, POSITIONS, PROMPT, TAPS, Tensors, bytes_of, info, sample, tensors, write,
};
use super::{Trace, TraceWriter};

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
    let mut writer = TraceWriter::new(folder.path()).unwrap();
    for (name, (dtype, shape, bytes)) in tensors() {
        let row_bytes = bytes.len() / shape[0];
        writer.begin(name.clone(), dtype, shape).unwrap();
        for (row, bytes) in bytes.chunks(row_bytes).enumerate() {
            assert_eq!(writer.filled(&name), Some(row));
            writer.put_row(&name, row, bytes).unwrap();
            assert_eq!(writer.row(&name, row).unwrap(), bytes);
        }
    }
    let mut bytes = Vec::new();
    let size = writer.finish(info().to_metadata().unwrap(), &mut bytes);
    assert_eq!(size.unwrap(), bytes.len() as u64);
    let path = write(folder.path(), &bytes);
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
    assert_eq!(trace.noise(&PROMPT), info().prompts[0].noise);
    assert!(trace.noise(&GENERATED).is_empty());
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
fn an_unfinished_trace_is_none() {
    let folder = tempfile::tempdir().unwrap();
    let mut writer = TraceWriter::new(folder.path()).unwrap();
    writer.begin("x".into(), Dtype::F32, vec![2, 1]).unwrap();
    writer.put_row("x", 0, &[0; 4]).unwrap();
    assert!(writer.put_row("x", 0, &[0; 4]).is_err());
    let mut out = Vec::new();
    let error = writer.finish(HashMap::new(), &mut out).unwrap_err();
    assert!(error.to_string().contains("1 of 2 rows"), "{error}");
    assert!(out.is_empty());
    let files = std::fs::read_dir(folder.path()).unwrap().count();
    assert_eq!(files, 0, "the spool has no name");
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
