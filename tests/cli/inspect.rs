//! What `crossval inspect` says of a file.

use bitnet_core::gguf::{Gguf, Metadata, TensorType, Value, Writer};
use serde_json::Value as Json;

use super::hostile::file::File as Bytes;
use super::*;

fn inspect(model: &Path, more: &[&str]) -> String {
    let model = model.to_str().expect("UTF-8");
    let output = crossval(&[&["inspect", model], more].concat());
    assert_eq!(exit_code(&output), 0, "{}", stderr(&output));
    String::from_utf8(output.stdout).expect("UTF-8")
}

fn json(model: &Path) -> Json {
    serde_json::from_str(&inspect(model, &["--json"])).expect("JSON")
}

/// The remark of that name.
fn remark(inspection: &Json, id: &str) -> Option<String> {
    let remarks = inspection["remarks"].as_array().expect("remarks");
    let remark = remarks.iter().find(|remark| remark["id"] == id)?;
    assert!(remark["next_step"].as_str().is_some_and(|s| !s.is_empty()));
    Some(remark["sentence"].as_str().expect("a sentence").to_owned())
}

#[test]
fn a_file_as_json_and_as_text() {
    let all = json(Path::new(TINY));
    assert_eq!(all["schema"], "crossval.inspect/1");
    assert_eq!(all["version"], 3);
    assert_eq!(all["bad_weights"], Json::Null);
    let entry = |key: &str| {
        let all = all["metadata"].as_array().expect("metadata");
        all.iter().find(|entry| entry["key"] == key).cloned()
    };
    let layers = entry("bitnet-b1.58.block_count").expect("a key");
    assert_eq!(
        (&layers["type"], &layers["value"]),
        (&"uint32".into(), &6.into())
    );
    let tokens = entry("tokenizer.ggml.tokens").expect("a key");
    assert_eq!(
        (&tokens["value"], &tokens["length"]),
        (&Json::Null, &512.into())
    );
    let tensors = all["tensors"].as_array().expect("tensors");
    let gate = tensors
        .iter()
        .find(|t| t["name"] == "blk.0.ffn_gate.weight");
    let gate = gate.expect("a tensor");
    assert_eq!(
        (&gate["type"], &gate["type_id"]),
        (&"I2_S".into(), &36.into())
    );
    let engines = all["engines"].as_array().expect("engines");
    assert_eq!(
        (&engines[0]["engine"], &engines[0]["runs"]),
        (&"rust".into(), &true.into())
    );
    assert!(engines[0]["load_ms"].is_number());
    let assumed = remark(&all, "activation-assumed").expect("a remark");
    let text = inspect(Path::new(TINY), &["--check"]);
    for says in [
        &*assumed,
        "rust: runs it",
        "weights looked through: 1 of F16, 25 of F32, 42 of I2_S tensors\n",
    ] {
        assert!(text.contains(says), "{says}: {text}");
    }
    assert_eq!(inspect(Path::new(TINY), &["-q"]), "");
}

/// The tiny model with other metadata.
fn with(scratch: &Scratch, changes: &[(&str, Value)]) -> PathBuf {
    let file = scratch.path("changed.gguf");
    tiny_with(&file, |metadata| {
        let mut edited = Metadata::new(&file);
        let kept = metadata.iter();
        for (key, value) in kept.filter(|(key, _)| changes.iter().all(|(of, _)| of != key)) {
            edited.insert(key, value.clone()).expect("a new key");
        }
        for (key, value) in changes {
            edited.insert(key, value.clone()).expect("a new key");
        }
        edited
    });
    file
}

/// Whatever is wrong with the rest.
#[test]
fn what_can_be_read_of_a_damaged_file_is_shown() {
    let scratch = Scratch::new();
    let mut file = Bytes::bundled();
    file.tensor("blk.2.ffn_down.weight").dims[0] = 100;
    let path = scratch.path("damaged.gguf");
    std::fs::write(&path, file.bytes()).expect("a file");
    let path = path.to_str().expect("UTF-8");
    let output = crossval(&["inspect", path]);
    let shown = String::from_utf8_lossy(&output.stdout);
    assert_eq!(exit_code(&output), 65);
    for says in [
        "tokenizer.ggml.model",
        "blk.2.ffn_down.weight",
        "blk.5.ffn_down.weight",
    ] {
        assert!(shown.contains(says), "{says}: {shown}");
    }
    let why = "rows of 100 elements, but I2_S needs a multiple of 128";
    assert!(stderr(&output).contains(why), "{}", stderr(&output));
    let output = crossval(&["inspect", path, "--json"]);
    assert_eq!(exit_code(&output), 65);
    let all: Json = serde_json::from_slice(&output.stdout).expect("JSON");
    assert!(
        all["fault"]
            .as_str()
            .is_some_and(|fault| fault.contains(why))
    );
    assert_eq!(all["engines"], Json::Array(Vec::new()));
}

#[test]
fn what_was_not_looked_through_is_said() {
    const IQ1_S: u32 = 19;
    let scratch = Scratch::new();
    let mut file = Bytes::bundled();
    file.tensor("blk.1.ffn_gate.weight").ty = IQ1_S;
    let gate = &mut file.tensor("blk.0.ffn_gate.weight").data;
    let n = gate.len();
    gate[n - 32..n - 28].fill(0);
    let path = scratch.path("odd.gguf");
    std::fs::write(&path, file.bytes()).expect("a file");
    let shown = inspect(&path, &["--check"]);
    for says in [
        "not looked through: 1 of IQ1_S",
        "nothing in 67 of 68 tensors",
        "rust: does not run it: ",
    ] {
        assert!(shown.contains(says), "{says}: {shown}");
    }
    let zero = shown.lines().find(|line| line.starts_with(" weights-zero"));
    let zero = zero.expect("a check");
    assert!(zero.contains("blk.0.ffn_gate.weight"), "{zero}");
}

#[test]
fn a_run_says_in_short_that_a_file_is_not_in_order() {
    let scratch = Scratch::new();
    let model = with(&scratch, &[("general.file_type", 1u32.into())]);
    let engines = ["--candidate", "rust", "--reference", "oracle"];
    let more = ["--no-bench", "--n-predict", "2", "--tokens", "1,5"];
    let (code, report, shown) = run(&model, &[&engines[..], &more].concat());
    assert_eq!(code, 0, "{shown}");
    let mut findings = findings(&report).into_iter();
    let says = "the file is not in order: file-type-wrong";
    assert!(findings.any(|f| f.text.starts_with(says)), "{shown}");
}

#[test]
fn what_engines_refuse_is_said_in_their_words() {
    let scratch = Scratch::new();
    let key = "bitnet-b1.58.hidden_activation";
    let gelu = json(&with(&scratch, &[(key, "gelu".into())]));
    let says = remark(&gelu, "activation-unknown").expect("a remark");
    assert!(says.contains(r#"is "gelu""#), "{says}");
    let rust = &gelu["engines"][0];
    assert_eq!(
        (&rust["runs"], &rust["load_ms"]),
        (&false.into(), &Json::Null)
    );
    let refusal = rust["refusal"].as_str().expect("words");
    assert!(refusal.contains(key), "{refusal}");
    let silu = json(&with(&scratch, &[(key, "silu".into())]));
    let says = remark(&silu, "activation-otherwise").expect("a remark");
    assert!(says.contains("said by the file to be SiLU"), "{says}");
    assert_eq!(remark(&silu, "activation-assumed"), None);
}

#[test]
fn a_file_type_is_held_against_the_tensors() {
    let scratch = Scratch::new();
    let newer = json(&with(&scratch, &[("general.file_type", 41u32.into())]));
    let says = remark(&newer, "file-type-ambiguous").expect("a remark");
    assert!(says.contains("Q2_0 in llama.cpp"), "{says}");
    assert_eq!(remark(&newer, "file-type-wrong"), None);
    // As upstream's converter writes it: F16 on a label that says I2_S.
    let gguf = Gguf::open(Path::new(TINY)).expect("the bundled model");
    let file = scratch.path("f16.gguf");
    let mut writer = Writer::new(gguf.metadata().clone()).expect("a writer");
    let f16 = |ty| match ty {
        TensorType::I2_S => TensorType::F16,
        other => other,
    };
    for t in gguf.tensors() {
        writer
            .tensor(&t.name, &t.shape, f16(t.ty))
            .expect("a tensor");
    }
    let mut writer = writer
        .begin(File::create(&file).expect("a file"))
        .expect("a head");
    for t in gguf.tensors() {
        let size = f16(t.ty).data_size(&t.shape).expect("a size");
        let zeros = vec![0; size as usize];
        writer
            .write_tensor(|out| std::io::Write::write_all(out, &zeros))
            .expect("written");
    }
    writer.finish().expect("complete");
    let says = remark(&json(&file), "file-type-wrong").expect("a remark");
    assert!(says.ends_with("no matrix is: they are F16"), "{says}");
}

#[test]
fn a_pre_tokenizer_is_held_against_the_vintages() {
    let scratch = Scratch::new();
    let model = synth(&scratch, "llama", &["--vocab", "33000"]);
    let gguf = Gguf::open(&model).expect("a model");
    let mut edited = Metadata::new(&scratch.path("falcon.gguf"));
    for (key, value) in gguf.metadata().iter() {
        let value = match key {
            "tokenizer.ggml.pre" => "falcon_e".into(),
            _ => value.clone(),
        };
        edited.insert(key, value).expect("a new key");
    }
    let says = remark(&json(&write_metadata(edited)), "pre-tokenizer-refused");
    let says = says.expect("a remark");
    assert!(says.contains("BitNet.cpp 2026-07"), "{says}");
    assert!(!says.contains("2026-01"), "{says}");
}
