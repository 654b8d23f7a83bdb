use std::path::Path;

use proptest::prelude::*;

use super::read::parse;
use super::*;
use crate::error::ErrorKind;

fn array(depth: u32) -> BoxedStrategy<Array> {
    use prop::collection::vec;
    let strings = vec(vec(any::<u8>(), 0..12), 0..6);
    let flat = prop_oneof![
        vec(any::<u8>(), 0..9).prop_map(Array::U8),
        vec(any::<i8>(), 0..9).prop_map(Array::I8),
        vec(any::<u16>(), 0..9).prop_map(Array::U16),
        vec(any::<i16>(), 0..9).prop_map(Array::I16),
        vec(any::<u32>(), 0..9).prop_map(Array::U32),
        vec(any::<i32>(), 0..9).prop_map(Array::I32),
        vec(any::<f32>(), 0..9).prop_map(Array::F32),
        vec(any::<bool>(), 0..9).prop_map(Array::Bool),
        strings.prop_map(|s| Array::Str(s.iter().collect())),
        vec(any::<u64>(), 0..9).prop_map(Array::U64),
        vec(any::<i64>(), 0..9).prop_map(Array::I64),
        vec(any::<f64>(), 0..9).prop_map(Array::F64),
    ];
    match depth {
        0 => flat.boxed(),
        _ => {
            prop_oneof![4 => flat, 1 => vec(array(depth - 1), 0..4).prop_map(Array::Array)].boxed()
        }
    }
}

fn value() -> impl Strategy<Value = Value> {
    prop_oneof![
        any::<u8>().prop_map(Value::U8),
        any::<i8>().prop_map(Value::I8),
        any::<u16>().prop_map(Value::U16),
        any::<i16>().prop_map(Value::I16),
        any::<u32>().prop_map(Value::U32),
        any::<i32>().prop_map(Value::I32),
        any::<f32>().prop_map(Value::F32),
        any::<bool>().prop_map(Value::Bool),
        ".{0,20}".prop_map(Value::Str),
        any::<u64>().prop_map(Value::U64),
        any::<i64>().prop_map(Value::I64),
        any::<f64>().prop_map(Value::F64),
        array(2).prop_map(Value::Array),
    ]
}

type Tensors = Vec<(String, Vec<u64>, TensorType)>;

fn tensors() -> impl Strategy<Value = Tensors> {
    let ty = prop::sample::select(TensorType::KNOWN);
    let tensor =
        (ty, 1u64..3, prop::collection::vec(1u64..4, 0..3)).prop_map(|(ty, blocks, rest)| {
            // Of types with one id, small tensors may be as large with padding.
            let columns = if ty.shares_id() {
                1 << 18
            } else {
                blocks * ty.block_len()
            };
            ([vec![columns], rest].concat(), ty)
        });
    prop::collection::vec(tensor, 0..5).prop_map(|list| {
        let named = list.into_iter().enumerate();
        named
            .map(|(i, (shape, ty))| (format!("t.{i}"), shape, ty))
            .collect()
    })
}

fn byte(tensor: usize, i: u64) -> u8 {
    (i as usize * 7 + tensor * 31 + 5) as u8
}

fn build(metadata: &[(String, Value)], alignment: Option<u32>, tensors: &Tensors) -> Vec<u8> {
    let mut m = Metadata::new(Path::new("test.gguf"));
    for (k, v) in metadata {
        m.insert(k, v.clone()).unwrap();
    }
    if let Some(alignment) = alignment {
        m.insert("general.alignment", alignment).unwrap();
    }
    let mut w = Writer::new(m).unwrap();
    for (name, shape, ty) in tensors {
        w.tensor(name, shape, *ty).unwrap();
    }
    let mut w = w.begin(Vec::new()).unwrap();
    let mut n = 0;
    while let Some(info) = w.next_tensor() {
        let size = info.size;
        let bytes: Vec<u8> = (0..size).map(|i| byte(n, i)).collect();
        w.write_tensor(|out| bytes.chunks(13).try_for_each(|c| out.write_all(c)))
            .unwrap();
        n += 1;
    }
    w.finish().unwrap()
}

fn sample() -> Vec<u8> {
    let pieces: StringArray = ["a", "b", "ab", "\u{2581}the"].iter().collect();
    let metadata = [
        ("general.architecture".to_owned(), Value::from("bitnet")),
        ("tokens".to_owned(), Value::Array(Array::Str(pieces))),
        ("scores".to_owned(), Value::Array(Array::F32(vec![0.5; 4]))),
        (
            "nested".to_owned(),
            Value::Array(Array::Array(vec![Array::U8(vec![1]), Array::Array(vec![])])),
        ),
    ];
    let tensors = vec![
        ("w".to_owned(), vec![128, 2], TensorType::I2_S),
        ("norm".to_owned(), vec![3], TensorType::F32),
    ];
    build(&metadata, None, &tensors)
}

fn open_bytes(bytes: &[u8]) -> Result<Gguf, Error> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    std::fs::write(&path, bytes).unwrap();
    Gguf::open(&path)
}

proptest! {
    #[test]
    fn round_trip(
        values in prop::collection::vec(value(), 0..6),
        alignment in prop::option::of(prop::sample::select(vec![1u32, 8, 32, 64, 4096])),
        tensors in tensors(),
    ) {
        let metadata: Vec<_> =
            values.into_iter().enumerate().map(|(i, v)| (format!("key.{i}"), v)).collect();
        let gguf = open_bytes(&build(&metadata, alignment, &tensors)).unwrap();
        prop_assert_eq!(gguf.version(), 3);
        prop_assert_eq!(gguf.alignment(), u64::from(alignment.unwrap_or(32)));
        let read: Vec<_> = gguf.metadata().iter().take(metadata.len()).collect();
        let wrote: Vec<_> = metadata.iter().map(|(k, v)| (k.as_str(), v)).collect();
        prop_assert_eq!(read, wrote);
        prop_assert_eq!(gguf.tensors().len(), tensors.len());
        for (n, (name, shape, ty)) in tensors.iter().enumerate() {
            let t = gguf.tensor(name).unwrap();
            prop_assert_eq!((&t.shape, t.ty), (shape, *ty));
            prop_assert_eq!(t.offset % gguf.alignment(), 0);
            let data = gguf.data(t).unwrap();
            prop_assert_eq!(data.len() as u64, ty.data_size(shape).unwrap());
            prop_assert!(data.iter().enumerate().all(|(i, &b)| b == byte(n, i as u64)));
        }
    }

    /// Damage anywhere gives a file that parses or an error, never a panic or a large allocation.
    #[test]
    fn damage(flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6), cut: prop::sample::Index) {
        let mut bytes = sample();
        for (at, b) in flips {
            let at = at.index(bytes.len());
            bytes[at] = b;
        }
        bytes.truncate(cut.index(bytes.len()) + bytes.len() / 2);
        if let Ok(header) = parse(&bytes, Path::new("damaged.gguf")) {
            for t in &header.tensors {
                prop_assert!(t.offset + t.size <= bytes.len() as u64);
            }
        }
    }
}

#[test]
fn every_truncation_is_refused() {
    let bytes = sample();
    let whole = parse(&bytes, Path::new("m.gguf")).unwrap();
    let end = whole
        .tensors
        .iter()
        .map(|t| t.offset + t.size)
        .max()
        .unwrap();
    for len in 0..end as usize {
        let e = parse(&bytes[..len], Path::new("m.gguf")).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::BadFile);
        let text = e.to_string();
        assert!(text.starts_with("m.gguf: "), "{text}");
        assert!(len < 4 || text.contains("truncated"), "{len}: {text}");
    }
}

/// `sample()` with one field overwritten, given by what precedes it.
fn patched(after: &[u8], skip: usize, new: &[u8]) -> Vec<u8> {
    let mut bytes = sample();
    let found = bytes.windows(after.len()).position(|w| w == after).unwrap();
    let at = found + after.len() + skip;
    bytes[at..at + new.len()].copy_from_slice(new);
    bytes
}

#[test]
fn faults_are_named() {
    let huge = &u64::MAX.to_le_bytes();
    let cases: Vec<(&str, Vec<u8>, ErrorKind, &[&str])> = vec![
        (
            "magic",
            patched(b"GG", 0, b"ML"),
            ErrorKind::BadFile,
            &["not a GGUF file", "GGML"],
        ),
        (
            "v1",
            patched(b"GGUF", 0, &1u32.to_le_bytes()),
            ErrorKind::Unsupported,
            &["version 1"],
        ),
        (
            "big-endian",
            patched(b"GGUF", 0, &3u32.to_be_bytes()),
            ErrorKind::Unsupported,
            &["big-endian"],
        ),
        (
            "tensor count",
            patched(b"GGUF", 4, huge),
            ErrorKind::BadFile,
            &["list of tensors"],
        ),
        (
            "metadata count",
            patched(b"GGUF", 12, huge),
            ErrorKind::BadFile,
            &["metadata"],
        ),
        (
            "array length",
            patched(b"scores", 8, huge),
            ErrorKind::BadFile,
            &["scores"],
        ),
        (
            "string array length",
            patched(b"tokens", 8, huge),
            ErrorKind::BadFile,
            &["tokens", "byte"],
        ),
        (
            "value type",
            patched(b"scores", 0, &[77]),
            ErrorKind::BadFile,
            &["scores", "77", "byte"],
        ),
        (
            "row",
            patched(b"\x01\0\0\0\0\0\0\0w", 4, &[127]),
            ErrorKind::BadFile,
            &["\"w\"", "127", "128"],
        ),
        (
            "dims",
            patched(b"norm", 0, &[5]),
            ErrorKind::BadFile,
            &["norm", "5 dimensions"],
        ),
        (
            "zero",
            patched(b"norm", 4, &[0]),
            ErrorKind::BadFile,
            &["norm", "dimension of 0"],
        ),
        (
            "size",
            patched(b"norm", 4, huge),
            ErrorKind::BadFile,
            &["norm", "too large"],
        ),
        (
            "outside",
            patched(b"norm", 16, &[0, 0, 1]),
            ErrorKind::BadFile,
            &["norm", "truncated"],
        ),
        (
            "misaligned",
            patched(b"norm", 16, &[33]),
            ErrorKind::BadFile,
            &["norm", "33", "alignment"],
        ),
        (
            "overlap",
            patched(b"norm", 16, &[64]),
            ErrorKind::BadFile,
            &["\"w\"", "norm", "overlap"],
        ),
        (
            "overflow",
            patched(b"norm", 16, &(u64::MAX - 31).to_le_bytes()),
            ErrorKind::BadFile,
            &["norm"],
        ),
    ];
    for (name, bytes, kind, needles) in cases {
        let e = open_bytes(&bytes).expect_err(name);
        let text = e.to_string();
        assert_eq!(e.kind(), kind, "{name}: {text}");
        assert!(text.contains("model.gguf"), "{name}: {text}");
        for needle in needles {
            assert!(text.contains(needle), "{name}: {text}");
        }
    }
}

#[test]
fn duplicates_are_refused() {
    let bytes = build(
        &[
            ("k1".to_owned(), Value::U8(1)),
            ("k2".to_owned(), Value::U8(2)),
        ],
        None,
        &vec![
            ("t1".to_owned(), vec![1], TensorType::F32),
            ("t2".to_owned(), vec![1], TensorType::F32),
        ],
    );
    for (first, second) in [(b"k1", b"k2"), (b"t1", b"t2")] {
        let mut bytes = bytes.clone();
        let at = bytes.windows(2).position(|w| w == second).unwrap();
        bytes[at..at + 2].copy_from_slice(first);
        let text = open_bytes(&bytes).unwrap_err().to_string();
        assert!(text.contains("occurs twice"), "{text}");
        assert!(text.contains(std::str::from_utf8(first).unwrap()), "{text}");
    }
}

fn types_of(tensors: &[(&[u64], TensorType)]) -> Vec<TensorType> {
    let named = tensors.iter().enumerate();
    let tensors = named.map(|(i, (shape, ty))| (format!("t.{i}"), shape.to_vec(), *ty));
    let bytes = build(&[], None, &tensors.collect());
    let gguf = open_bytes(&bytes).unwrap();
    assert!(gguf.tensors().iter().all(|t| gguf.data(t).is_ok()));
    gguf.tensors().iter().map(|t| t.ty).collect()
}

#[test]
fn the_size_tells_types_of_one_id() {
    use TensorType::{F32, Q2_0, Q2_0_128};
    let (large, small) = (&[2048u64, 3][..], &[128u64, 3][..]);
    for ty in [Q2_0, Q2_0_128] {
        assert_eq!(types_of(&[(large, ty)]), [ty]);
        assert_eq!(types_of(&[(large, ty), (&[5], F32)]), [ty, F32]);
        // Of a small one, padding leaves it open: it is as the others are.
        assert_eq!(types_of(&[(small, ty), (large, ty)]), [ty, ty]);
        assert_eq!(types_of(&[(large, ty), (small, ty)]), [ty, ty]);
    }
    assert_eq!(
        types_of(&[(large, Q2_0), (large, Q2_0_128)]),
        [Q2_0, Q2_0_128]
    );
    assert_eq!(types_of(&[(small, Q2_0_128)]), [Q2_0]);
    // No whole blocks of 128.
    assert_eq!(types_of(&[(&[64], Q2_0)]), [Q2_0]);
    // An id of others' too, and of one that is written under two.
    let wide = &[1536u64, 1536][..];
    for ty in [TensorType::TL2, TensorType::TL2_42, Q2_0, Q2_0_128] {
        assert_eq!(types_of(&[(wide, ty), (wide, F32)]), [ty, F32]);
    }
    let bytes = build(
        &[],
        None,
        &vec![("t".to_owned(), wide.to_vec(), TensorType::Q8_0)],
    );
    let at = bytes.windows(4).position(|b| b == [8, 0, 0, 0]).unwrap();
    let mut mxfp4 = bytes;
    mxfp4[at] = 39;
    let t = open_bytes(&mxfp4).unwrap().tensors()[0].clone();
    assert_eq!(
        (t.ty, t.ty.to_string()),
        (TensorType::Unknown(39), "id 39".to_owned())
    );
}

#[test]
fn a_size_of_no_type_with_that_id() {
    let large = |ty| ("t".to_owned(), vec![2048, 3], ty);
    let tensors = vec![
        large(TensorType::Q2_0_128),
        ("cut".to_owned(), vec![2048, 3], TensorType::Q2_0_128),
    ];
    let bytes = build(&[], None, &tensors);
    let e = open_bytes(&bytes[..bytes.len() - 100]).unwrap_err();
    let says = "truncated or damaged: tensor \"cut\" has 1632 bytes";
    assert!(e.to_string().contains(says), "{e}");
    // Nothing tells which it was.
    let bytes = build(&[], None, &vec![large(TensorType::Q2_0)]);
    let gguf = open_bytes(&bytes[..bytes.len() - 32]).unwrap();
    let t = gguf.tensor("t").unwrap();
    assert_eq!((t.ty, t.size), (TensorType::Unknown(42), 1696));
    let e = gguf.data(t).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Unsupported);
    assert!(
        e.to_string()
            .ends_with("its size is not that of Q2_0 or Q2_0_128 or TL2_42"),
        "{e}"
    );
}

#[test]
fn types_whose_activations_are_transformed_are_refused_with_the_reason() {
    for (id, name) in [(142u8, "PQ2_0"), (143, "PTQ1_0")] {
        let gguf = open_bytes(&patched(b"norm", 12, &[id])).unwrap();
        let e = gguf.data(gguf.tensor("norm").unwrap()).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Unsupported);
        let says = format!("has type {name}, which is not supported: its products need a Hadamard");
        assert!(e.to_string().contains(&says), "{e}");
    }
}

#[test]
fn unknown_type_is_listed_but_not_read() {
    // Q4_K is known to llama.cpp only, 99 to nobody.
    for (id, name) in [(12u8, "Q4_K"), (99, "id 99")] {
        let gguf = open_bytes(&patched(b"norm", 12, &[id])).unwrap();
        let t = gguf.tensor("norm").unwrap();
        assert_eq!(t.ty, TensorType::Unknown(id.into()));
        assert_eq!(t.ty.to_string(), name);
        assert_eq!(t.size, gguf.file_size() - t.offset);
        let e = gguf.data(t).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Unsupported);
        assert!(
            e.to_string().contains("norm") && e.to_string().contains(name),
            "{e}"
        );
    }
}

#[test]
fn a_foreign_tensor_is_refused() {
    let gguf = open_bytes(&sample()).unwrap();
    let mut t = gguf.tensors()[0].clone();
    t.offset = u64::MAX;
    assert_eq!(gguf.data(&t).unwrap_err().kind(), ErrorKind::Usage);
}

#[test]
fn typed_getters_name_the_key() {
    let gguf = open_bytes(&sample()).unwrap();
    let m = gguf.metadata();
    assert_eq!(m.str("general.architecture").unwrap(), "bitnet");
    assert_eq!(m.required::<&[f32]>("scores").unwrap(), [0.5; 4]);
    assert_eq!(
        m.required::<&StringArray>("tokens").unwrap().get(2),
        Some(&b"ab"[..])
    );
    assert_eq!(m.optional::<u32>("absent").unwrap(), None);
    let missing = m.u32("absent").unwrap_err().to_string();
    assert!(
        missing.contains("\"absent\" (uint32) is missing"),
        "{missing}"
    );
    let wrong = m.u32("tokens").unwrap_err().to_string();
    assert!(
        wrong.contains("\"tokens\" has type array of string, not uint32"),
        "{wrong}"
    );
}

#[test]
fn version_2_reads_alike() {
    let gguf = open_bytes(&patched(b"GGUF", 0, &2u32.to_le_bytes())).unwrap();
    assert_eq!((gguf.version(), gguf.tensors().len()), (2, 2));
}

#[test]
fn writer_holds_its_caller_to_the_sizes() {
    let begin = |ty, shape: &[u64]| {
        let mut w = Writer::new(Metadata::default()).unwrap();
        w.tensor("t", shape, ty)?;
        w.begin(Vec::new())
    };
    let e = begin(TensorType::I2_S, &[100, 4]).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Usage);
    assert!(e.to_string().contains("100"), "{e}");
    let mut w = begin(TensorType::F32, &[4]).unwrap();
    let e = w.write_tensor(|out| out.write_all(&[0; 15])).unwrap_err();
    assert!(
        e.to_string().contains("takes 16 bytes, 15 were written"),
        "{e}"
    );
    let e = begin(TensorType::F32, &[4]).unwrap().finish().unwrap_err();
    assert!(e.to_string().contains("\"t\" was not written"), "{e}");
}

#[test]
fn no_such_file() {
    let e = Gguf::open(Path::new("/nonexistent/m.gguf")).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Io);
    assert!(e.to_string().contains("/nonexistent/m.gguf"), "{e}");
    let e = Gguf::open(Path::new("/")).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::BadFile);
}
