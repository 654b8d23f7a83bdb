use std::collections::HashSet;
use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;

use bitnet_core::gguf::Gguf;
use bitnet_core::model::{Logits, Model, Session, SessionOptions};
use bitnet_core::sampling::Sampler;
use bitnet_core::tap::{Observer, ObserverError, Tap, TapData, TapView};
use bitnet_core::tokenizer::{DecodeOptions, EncodeOptions, Tokenizer};

use super::*;

const TEXT: &str =
    "The old man and the boy walked to the river. \"What do you see?\" he said, and it was 42.";

struct Written {
    _dir: tempfile::TempDir,
    path: PathBuf,
}

fn synth(options: &SynthOptions) -> Written {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    let mut last = (0, 0);
    let mut file = File::create(&path).unwrap();
    let model = SyntheticModel::new(options, &path).unwrap();
    let written = model.write(&mut file, &mut |done, total| {
        assert!(done > last.0 && done <= total);
        last = (done, total);
        true
    });
    written.unwrap();
    assert!(
        last.0 == last.1 && last.0 > 0,
        "progress ends with the last byte"
    );
    Written { _dir: dir, path }
}

/// Largest and smallest RMS of a row, per tap.
#[derive(Default)]
struct Sizes(Vec<(Tap, Option<usize>, f64, f64)>);

impl Observer for Sizes {
    fn tap(&mut self, view: TapView<'_>) -> Result<(), ObserverError> {
        let values: Vec<f64> = match view.data {
            TapData::F32(v) => v.iter().map(|&v| v.into()).collect(),
            TapData::F16(v) => v.iter().map(|&v| v.into()).collect(),
        };
        let rms = values.chunks(view.width).map(|row| {
            let sum: f64 = row.iter().map(|v| v * v).sum();
            (sum / row.len() as f64).sqrt()
        });
        let (low, high) = rms.fold((f64::MAX, 0f64), |(low, high), r| (low.min(r), high.max(r)));
        self.0.push((view.tap, view.layer, low, high));
        Ok(())
    }
}

/// The same codes, in the form of I2_S and in tiles, at the smallest widths that have any.
#[test]
fn codes_in_tiles_give_the_bits_of_i2_s() {
    let of_type = |matrix_type| SynthOptions {
        n_layer: 1,
        n_embd: 1536,
        n_head: 16,
        n_head_kv: 16,
        n_ff: 4096,
        matrix_type,
        ..SynthOptions::new(Architecture::Bitnet, Preset::Tiny, 5)
    };
    let logits = |ty| {
        let written = synth(&of_type(ty));
        let gguf = Arc::new(Gguf::open(&written.path).unwrap());
        assert_eq!(gguf.tensor("blk.0.ffn_up.weight").unwrap().ty, ty);
        let model = Arc::new(Model::load(gguf).unwrap());
        let session = SessionOptions {
            n_ctx: 32,
            threads: 1,
        };
        let mut session = Session::new(model, session).unwrap();
        let logits = session.eval(&[1, 9, 300, 7], Logits::All, None).unwrap();
        let bits = logits.iter().map(|logit| logit.to_bits());
        bits.collect::<Vec<_>>()
    };
    let want = logits(TensorType::I2_S);
    assert_eq!(want.len(), 4 * 512);
    for ty in [TensorType::TL1, TensorType::TL2, TensorType::TL2_42] {
        assert!(logits(ty) == want, "{ty}");
    }
    let narrow = SynthOptions {
        n_embd: 512,
        ..of_type(TensorType::TL2)
    };
    let refused = SyntheticModel::new(&narrow, Path::new("model.gguf"))
        .err()
        .unwrap();
    let says = "BitNet.cpp has none for 512 rows of 512";
    assert!(refused.to_string().contains(says), "{refused}");
}

#[test]
fn models_behave() {
    let usual = Architecture::ALL.map(|a| SynthOptions::new(a, Preset::Tiny, 1));
    let of_type = |(architecture, matrix_type)| SynthOptions {
        matrix_type,
        ..SynthOptions::new(architecture, Preset::Tiny, 1)
    };
    let others = [
        (Architecture::Bitnet, TensorType::F16),
        (Architecture::Bitnet, TensorType::F32),
        (Architecture::Llama, TensorType::I2_S),
        (Architecture::Llama, TensorType::F16),
        (Architecture::Bitnet, TensorType::TQ1_0),
        (Architecture::Llama, TensorType::TQ1_0),
        (Architecture::Bitnet, TensorType::TQ2_0),
        (Architecture::Llama, TensorType::TQ2_0),
        (Architecture::Llama, TensorType::Q1_0),
        (Architecture::Llama, TensorType::Q2_0),
        (Architecture::BitnetB158, TensorType::Q2_0_128),
        (Architecture::Qwen3, TensorType::I2_S),
    ];
    let of_tokens = [
        TensorType::TQ1_0,
        TensorType::TQ2_0,
        TensorType::Q1_0,
        TensorType::Q2_0,
    ];
    let of_tokens = of_tokens.map(|ty| SynthOptions {
        matrix_type: ty,
        token_embedding_type: ty,
        output_type: Some(ty),
        ..SynthOptions::new(Architecture::Qwen3, Preset::Tiny, 1)
    });
    let scaled = SynthOptions {
        matrix_type: TensorType::Q1_0,
        scale_tensors: true,
        ..SynthOptions::new(Architecture::Qwen3, Preset::Tiny, 1)
    };
    let others = others.map(of_type).into_iter().chain(of_tokens);
    for options in usual.into_iter().chain(others).chain([scaled]) {
        let (architecture, matrix_type) = (options.architecture, options.matrix_type);
        let written = synth(&options);
        let gguf = Arc::new(Gguf::open(&written.path).unwrap());
        let down = gguf.tensor("blk.0.ffn_down.weight").unwrap();
        assert_eq!(down.ty, matrix_type);
        let tokenizer = Tokenizer::from_gguf(gguf.metadata()).unwrap();
        let prompt = tokenizer.encode(
            TEXT,
            EncodeOptions {
                add_special: true,
                parse_special: false,
            },
        );
        let prompt = prompt.unwrap();
        assert!(
            prompt.len() < TEXT.len() * 2 / 3,
            "pieces are longer than letters"
        );

        let model = Arc::new(Model::load(gguf).unwrap());
        let session = SessionOptions {
            n_ctx: 256,
            threads: 1,
        };
        let mut session = Session::new(model, session).unwrap();
        let mut sizes = Sizes::default();
        session
            .eval(&prompt, Logits::All, Some(&mut sizes))
            .unwrap();
        for (tap, layer, low, high) in sizes.0 {
            let (least, most) = match tap {
                // Small gamma on purpose; probabilities are what they are.
                Tap::AttnNorm => (0.01, 0.03),
                Tap::AttnProbs => (0.0, 1.0),
                // The BOS token's row is small on purpose.
                Tap::Embd => (0.01, 0.1),
                Tap::Logits => (1.5, 6.0),
                _ => (0.04, 10.0),
            };
            let place = format!("{architecture} {matrix_type} {tap} {layer:?}: {low} to {high}");
            assert!(low >= least && high <= most, "{place}");
        }

        session.clear();
        let generated: Result<Vec<u32>, _> = session
            .generate(&prompt, Sampler::greedy())
            .take(48)
            .collect();
        let generated = generated.unwrap();
        let distinct: HashSet<&u32> = generated.iter().collect();
        assert!(
            distinct.len() >= 16,
            "{architecture} {matrix_type} repeats itself: {generated:?}"
        );
        assert!(
            !generated.iter().any(|&id| tokenizer.is_eog(id)),
            "{generated:?}"
        );
    }
}

/// Moves every embedding by a millionth.
struct Nudge;

impl Observer for Nudge {
    fn tap(&mut self, view: TapView<'_>) -> Result<(), ObserverError> {
        if let (Tap::Embd, TapData::F32(values)) = (view.tap, view.data) {
            let signs = [1e-6, -1e-6].iter().cycle();
            values
                .iter_mut()
                .zip(signs)
                .for_each(|(v, sign)| *v *= 1.0 + sign);
        }
        Ok(())
    }
}

#[test]
fn small_differences_stay_small() {
    let options = SynthOptions::new(Architecture::BitnetB158, Preset::Small, 1);
    let written = synth(&options);
    let gguf = Arc::new(Gguf::open(&written.path).unwrap());
    let tokenizer = Tokenizer::from_gguf(gguf.metadata()).unwrap();
    let prompt = tokenizer.encode(TEXT, EncodeOptions::default()).unwrap();
    let model = Arc::new(Model::load(gguf).unwrap());
    let session = SessionOptions {
        n_ctx: 128,
        threads: 1,
    };
    let mut session = Session::new(model, session).unwrap();
    let mut logits = |observer: Option<&mut dyn Observer>| {
        session.clear();
        let logits = session.eval(&prompt, Logits::All, observer).unwrap();
        logits.iter().map(|&v| v.into()).collect::<Vec<f64>>()
    };
    let (plain, nudged) = (logits(None), logits(Some(&mut Nudge)));
    let error: f64 = plain
        .iter()
        .zip(&nudged)
        .map(|(a, b)| (a - b).powi(2))
        .sum();
    let nmse = error / plain.iter().map(|v| v * v).sum::<f64>();
    assert!(nmse > 0.0 && nmse < 1e-3, "{nmse}");
}

#[test]
fn equal_seeds_give_equal_files() {
    let read = |seed| {
        let options = SynthOptions::new(Architecture::Bitnet, Preset::Tiny, seed);
        std::fs::read(synth(&options).path).unwrap()
    };
    let first = read(7);
    assert!(first == read(7));
    assert!(first != read(8));
}

#[test]
fn preset_2b_4t_has_the_official_shape() {
    let options = SynthOptions::new(Architecture::BitnetB158, Preset::TwoB4T, 0);
    options.check().unwrap();
    let tensors = tensors(&options);
    let count = |ty| tensors.iter().filter(|t| t.ty == ty).count();
    assert_eq!(tensors.len(), 332);
    assert_eq!(count(TensorType::I2_S), 210);
    assert_eq!(count(TensorType::F32), 121);
    assert_eq!(count(TensorType::F16), 1);
    let bytes: u64 = tensors
        .iter()
        .map(|t| t.ty.data_size(&t.shape).unwrap())
        .sum();
    assert!((1_170_000_000..1_190_000_000).contains(&bytes), "{bytes}");
    let shape = |name: &str| &tensors.iter().find(|t| t.name == name).unwrap().shape;
    assert_eq!(*shape("token_embd.weight"), [2560, 128_256]);
    assert_eq!(*shape("blk.29.attn_k.weight"), [2560, 640]);
    assert_eq!(*shape("blk.29.ffn_down.weight"), [6912, 2560]);
}

#[test]
fn large_vocabularies_are_byte_level() {
    let options = SynthOptions {
        n_vocab: 40_000,
        n_layer: 1,
        ..SynthOptions::new(Architecture::Bitnet, Preset::Tiny, 1)
    };
    let written = synth(&options);
    let gguf = Gguf::open(&written.path).unwrap();
    let t = Tokenizer::from_gguf(gguf.metadata()).unwrap();
    assert_eq!(t.n_vocab(), 40_000);
    assert_eq!(
        (t.bos(), t.eos(), t.eot()),
        (Some(39_744), Some(39_745), Some(39_753))
    );
    let options = EncodeOptions {
        add_special: true,
        parse_special: true,
    };
    let ids = t
        .encode("the people of the world<|eot_id|>", options)
        .unwrap();
    let pieces: Vec<_> = ids
        .iter()
        .map(|&id| String::from_utf8_lossy(t.piece(id).unwrap()))
        .collect();
    assert_eq!(
        pieces,
        [
            "<|begin_of_text|>",
            "the",
            " people",
            " of",
            " the",
            " world",
            "<|eot_id|>"
        ]
    );
    let ids = t.encode(TEXT, EncodeOptions::default()).unwrap();
    assert_eq!(t.decode(&ids, DecodeOptions::default()), TEXT.as_bytes());
    // Every token that is text is what its own text encodes to.
    for id in (0..39_744).filter(|&id| std::str::from_utf8(t.piece(id).unwrap()).is_ok()) {
        let text = std::str::from_utf8(t.piece(id).unwrap()).unwrap();
        assert_eq!(
            t.encode(text, EncodeOptions::default()).unwrap(),
            [id],
            "{text:?}"
        );
    }
}

fn refused(options: &SynthOptions) -> (&'static str, String) {
    match SyntheticModel::new(options, Path::new("m.gguf")) {
        Err(Error::Option { option, what }) => (option, what),
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("{options:?} are no impossible sizes"),
    }
}

#[test]
fn impossible_sizes_name_their_option() {
    type Edit = fn(&mut SynthOptions);
    let cases: [(&str, Edit); 19] = [
        ("layers", |o| o.n_layer = 0),
        ("layers", |o| o.n_layer = 513),
        ("embd", |o| o.n_embd = 192),
        ("embd", |o| o.n_head = 3),
        ("ffn", |o| o.n_ff = 700),
        ("heads", |o| o.n_head_kv = 3),
        ("kv-heads", |o| o.n_head_kv = 0),
        ("embd", |o| o.n_head = 256),
        ("head-dim", |o| o.head_dim = Some(0)),
        ("head-dim", |o| o.head_dim = Some(33)),
        ("head-dim", |o| o.head_dim = Some(72)),
        ("token-embedding-type", |o| {
            o.token_embedding_type = TensorType::I2_S;
        }),
        ("output-tensor-type", |o| {
            (o.architecture, o.output_type) = (Architecture::Llama, Some(TensorType::I2_S));
        }),
        ("output-tensor-type", |o| {
            o.output_type = Some(TensorType::F16);
        }),
        ("embd", |o| {
            (o.matrix_type, o.n_embd) = (TensorType::F32, 192);
            o.token_embedding_type = TensorType::TQ2_0;
        }),
        ("scale-tensors", |o| {
            (o.matrix_type, o.scale_tensors) = (TensorType::F16, true);
        }),
        ("scale-tensors", |o| {
            *o =
                SynthOptions::new(o.architecture, Preset::Tiny, 1).with_stress(Stress::I16Overflow);
            o.scale_tensors = true;
        }),
        ("vocab", |o| o.n_vocab = 200),
        ("vocab", |o| o.n_vocab = 10_000_000),
    ];
    for (expected, edit) in cases {
        let mut options = SynthOptions::new(Architecture::Bitnet, Preset::Tiny, 1);
        edit(&mut options);
        let (option, what) = refused(&options);
        assert_eq!(option, expected, "{what}");
    }
    // What I2_S cannot hold, F32 can.
    let mut llama = SynthOptions::new(Architecture::Llama, Preset::Tiny, 1);
    (llama.n_embd, llama.n_ff) = (64, 172);
    synth(&llama);
    // Nor need heads divide the stream, if their width is named.
    (llama.n_head, llama.n_head_kv, llama.head_dim) = (3, 1, Some(256));
    synth(&llama);
}

/// Keeps the rows of one tap.
struct Keep(Tap, Vec<Vec<f32>>);

impl Observer for Keep {
    fn tap(&mut self, view: TapView<'_>) -> Result<(), ObserverError> {
        if let (true, TapData::F32(values)) = (view.tap == self.0, view.data) {
            self.1
                .extend(values.chunks(view.width).map(<[f32]>::to_vec));
        }
        Ok(())
    }
}

/// The largest of the sums that BitNet.cpp's AVX2 kernel keeps in 16 bits for a row of I2_S weights: a lane takes two
/// neighbours of every 32 values, over 32 blocks of 128. Weights are counted as 0, 1, 2 there.
fn largest_lane(packed: &[u8], codes: &[i8]) -> i32 {
    let groups = packed.chunks(32 * 32).zip(codes.chunks(32 * 128));
    let lanes = groups.flat_map(|(packed, codes)| {
        let mut lanes = [0i32; 16];
        for (packed, codes) in packed.chunks(32).zip(codes.chunks(128)) {
            for (j, &code) in codes.iter().enumerate() {
                let weight = packed[j % 32] >> (6 - 2 * (j / 32)) & 3;
                lanes[j % 32 / 2] += i32::from(weight) * i32::from(code);
            }
        }
        lanes
    });
    lanes.map(i32::abs).max().unwrap_or(0)
}

#[test]
fn i16_overflow_is_in_the_down_projection_and_nowhere_else() {
    for architecture in [
        Architecture::Bitnet,
        Architecture::Bitnet25,
        Architecture::BitnetB158,
    ] {
        let options = SynthOptions::new(architecture, Preset::Tiny, 1);
        let options = SynthOptions {
            n_layer: 2,
            ..options.with_stress(Stress::I16Overflow)
        };
        assert_eq!(options.n_ff, 8192);
        let written = synth(&options);
        let gguf = Arc::new(Gguf::open(&written.path).unwrap());
        let model = Arc::new(Model::load(Arc::clone(&gguf)).unwrap());
        for (input, product, overflows) in [
            (Tap::AttnNorm, "attn_q", false),
            (Tap::AttnSubNorm, "attn_output", false),
            (Tap::FfnNorm, "ffn_up", false),
            (Tap::FfnSubNorm, "ffn_down", true),
        ] {
            let session = SessionOptions {
                n_ctx: 64,
                threads: 1,
            };
            let mut session = Session::new(Arc::clone(&model), session).unwrap();
            let mut kept = Keep(input, Vec::new());
            let prompt: Vec<u32> = (300..330).collect();
            session.eval(&prompt, Logits::All, Some(&mut kept)).unwrap();
            assert_eq!(kept.1.len(), 60);
            let wrapping = kept.1.iter().enumerate().filter(|(i, row)| {
                let name = format!("blk.{}.{product}.weight", i / 30);
                let data = gguf.data(gguf.tensor(&name).unwrap()).unwrap();
                let mut codes = vec![0; row.len()];
                bitnet_core::blocks::i2_s::quantize_row(row, &mut codes);
                largest_lane(&data[..row.len() / 4], &codes) > i32::from(i16::MAX)
            });
            let wrapping = wrapping.count();
            // Where gate or up comes to exactly 0, so do all values.
            let expected = if overflows { 57..=60 } else { 0..=0 };
            let name = format!("{architecture} {product}");
            assert!(expected.contains(&wrapping), "{name}: {wrapping} of 60");
        }
    }
}

#[test]
fn stress_has_its_conditions() {
    let overflow = |architecture, n_ff| {
        let options = SynthOptions::new(architecture, Preset::Tiny, 1);
        SynthOptions {
            n_ff,
            ..options.with_stress(Stress::I16Overflow)
        }
    };
    for (options, option, says) in [
        (
            overflow(Architecture::Llama, 8192),
            "stress",
            "llama has no I2_S",
        ),
        (overflow(Architecture::Bitnet, 4096), "ffn", "4096 is not"),
    ] {
        let (found, what) = refused(&options);
        assert!(found == option && what.contains(says), "{found}: {what}");
    }
}

/// A full disk.
#[cfg(target_os = "linux")]
#[test]
fn a_failing_write_is_an_io_error() {
    let options = SynthOptions::new(Architecture::Bitnet, Preset::Tiny, 1);
    let mut full = File::options().write(true).open("/dev/full").unwrap();
    let model = SyntheticModel::new(&options, Path::new("full")).unwrap();
    let e = model.write(&mut full, &mut |_, _| true).unwrap_err();
    assert!(
        matches!(&e, Error::Model(e) if e.kind() == bitnet_model::ErrorKind::Io),
        "{e}"
    );
    assert!(e.to_string().starts_with("full: "), "{e}");
}

#[test]
fn progress_can_end_the_work() {
    let options = SynthOptions::new(Architecture::Bitnet, Preset::Tiny, 1);
    let mut file = Vec::new();
    let model = SyntheticModel::new(&options, Path::new("m.gguf")).unwrap();
    let e = model.write(&mut file, &mut |_, _| false).unwrap_err();
    assert!(e.to_string().contains("interrupted"), "{e}");
}

/// What a product starts from.
const INPUTS: [Tap; 6] = [
    Tap::AttnNorm,
    Tap::AttnOut,
    Tap::AttnSubNorm,
    Tap::FfnNorm,
    Tap::FfnAct,
    Tap::FfnSubNorm,
];

/// Keeps every product of a layer. Before it, puts whole numbers in its place that no type rounds, if asked to: up to
/// 127, which is in every 32.
#[derive(Default)]
struct Products {
    of_whole_numbers: bool,
    values: Vec<(Tap, Option<usize>, Vec<f32>)>,
}

impl Observer for Products {
    fn tap(&mut self, view: TapView<'_>) -> Result<(), ObserverError> {
        let TapData::F32(values) = view.data else {
            return Ok(());
        };
        if self.of_whole_numbers && INPUTS.contains(&view.tap) {
            let whole = |i: usize| match i % 32 {
                5 => 127.0,
                _ => (i * i % 255) as f32 - 127.0,
            };
            values
                .iter_mut()
                .enumerate()
                .for_each(|(i, v)| *v = whole(i));
        }
        if view.tap.is_product() && view.tap.per_layer() {
            self.values.push((view.tap, view.layer, values.to_vec()));
        }
        Ok(())
    }
}

/// Width 256 and 768. Activations are rounded to int8 by rows beside I2_S, by 256 beside TQ, and by 32 beside Q2_0.
#[test]
fn a_scale_in_a_tensor_does_what_one_in_the_type_does() {
    let types = [
        TensorType::I2_S,
        TensorType::TQ1_0,
        TensorType::TQ2_0,
        TensorType::Q2_0,
        TensorType::Q2_0_128,
    ];
    for architecture in [
        Architecture::Bitnet,
        Architecture::Llama,
        Architecture::Qwen3,
    ] {
        let run = |matrix_type, scale_tensors, of_whole_numbers| {
            let written = synth(&SynthOptions {
                matrix_type,
                scale_tensors,
                ..SynthOptions::new(architecture, Preset::Tiny, 1)
            });
            let gguf = Arc::new(Gguf::open(&written.path).unwrap());
            let scales = gguf.tensors().iter().filter(|t| t.name.ends_with(".scale"));
            assert_eq!(scales.count(), if scale_tensors { 7 * 3 } else { 0 });
            let model = Arc::new(Model::load(gguf).unwrap());
            let session = SessionOptions {
                n_ctx: 64,
                threads: 1,
            };
            let mut session = Session::new(model, session).unwrap();
            let mut products = Products {
                of_whole_numbers,
                ..Products::default()
            };
            let prompt: Vec<u32> = (300..340).collect();
            let logits = session.eval(&prompt, Logits::All, Some(&mut products));
            (logits.unwrap().to_vec(), products.values)
        };
        let (_, exact) = run(TensorType::I2_S, false, true);
        let (logits, rounded) = run(TensorType::I2_S, false, false);
        assert_eq!(exact.len(), 7 * 3);
        for ty in types {
            // The same codes, and the same scale.
            assert!(run(ty, true, true).1 == exact, "{architecture} {ty}");
            let (others, products) = run(ty, true, false);
            // A row of 256 is one block of TQ's activations. A step of its largest value, evenly distributed, makes of a
            // product (3 / 127)^2 / 12 = 5e-5 for normal values, and three layers of four products each make of that, by
            // either type, 1.2e-3. Measured: 6.6e-5, and 6.7e-4 (TQ) and 1.5e-3 (Q2_0).
            let limits = match ty {
                TensorType::I2_S => (0.0, 0.0),
                TensorType::TQ1_0 | TensorType::TQ2_0 => (1e-13, 1.2e-3),
                _ => (1e-4, 3e-3),
            };
            let (first, all) = (nmse(&products[0].2, &rounded[0].2), nmse(&others, &logits));
            assert!(first <= limits.0, "{architecture} {ty}: {first} in q");
            assert!(all <= limits.1, "{architecture} {ty}: {all} in logits");
        }
    }
}

fn nmse(values: &[f32], right: &[f32]) -> f64 {
    let pairs = values.iter().zip(right);
    let error: f64 = pairs.map(|(v, r)| f64::from(v - r).powi(2)).sum();
    error / right.iter().map(|&r| f64::from(r).powi(2)).sum::<f64>()
}
