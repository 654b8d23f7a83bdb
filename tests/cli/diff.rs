//! `crossval diff`.

use super::*;

fn diff(a: &Path, b: &Path, more: &[&str]) -> (i32, String) {
    let mut args = vec![
        "diff",
        a.to_str().expect("UTF-8"),
        b.to_str().expect("UTF-8"),
    ];
    args.extend(more);
    let output = crossval(&args);
    let out = String::from_utf8_lossy(&output.stdout).into_owned();
    (exit_code(&output), out + &stderr(&output))
}

/// The bundled model with other keys, and with gate and up exchanged in every layer.
fn spoilt(scratch: &Scratch) -> PathBuf {
    let to = scratch.path("spoilt.gguf");
    let gguf = Gguf::open(Path::new(TINY)).expect("a model");
    let mut metadata = Metadata::new(&to);
    for (key, value) in gguf.metadata().iter() {
        match key {
            "bitnet-b1.58.rope.freq_base" => metadata.insert(key, 500_000.0),
            "general.name" => metadata.insert(key, "another"),
            _ => metadata.insert(key, value.clone()),
        }
        .expect("a new key");
    }
    let mut writer = Writer::new(metadata).expect("a writer");
    for t in gguf.tensors() {
        writer.tensor(&t.name, &t.shape, t.ty).expect("a tensor");
    }
    let file = BufWriter::new(File::create(&to).expect("a file"));
    let mut file = writer.begin(file).expect("a head");
    for t in gguf.tensors() {
        let from = match t.name.rsplit_once("ffn_") {
            Some((layer, "gate.weight")) => format!("{layer}ffn_up.weight"),
            Some((layer, "up.weight")) => format!("{layer}ffn_gate.weight"),
            _ => t.name.clone(),
        };
        let from = gguf.tensor(&from).expect("a tensor");
        let data = gguf.data(from).expect("data");
        file.write_tensor(|out| out.write_all(data))
            .expect("written");
    }
    file.finish().expect("complete");
    to
}

#[test]
fn mistakes_of_a_converter_are_named() {
    let scratch = Scratch::new();
    let spoilt = spoilt(&scratch);
    let (code, shown) = diff(Path::new(TINY), &spoilt, &[]);
    assert_eq!(code, 10, "{shown}");
    let shown = shown
        .replace(TINY, "<TINY>")
        .replace(spoilt.to_str().expect("UTF-8"), "<SPOILT>");
    insta::assert_snapshot!("diff", shown);
}

#[test]
fn json_holds_every_tensor() {
    let scratch = Scratch::new();
    let (code, json) = diff(Path::new(TINY), &spoilt(&scratch), &["--json"]);
    assert_eq!(code, 10, "{json}");
    let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(json["schema"], "crossval.diff/1");
    assert_eq!(json["same"], false);
    assert_eq!(json["equal_tensors"], 56);
    let tensors = json["tensors"].as_array().expect("tensors");
    assert_eq!(tensors.len(), 12);
    for tensor in tensors {
        assert_eq!(tensor["findings"][0]["id"], "exchanged");
    }
    let matters = |key: &&serde_json::Value| key["matters"] == true;
    let keys = json["keys"].as_array().expect("keys");
    let keys: Vec<_> = keys.iter().filter(matters).map(|key| &key["key"]).collect();
    assert_eq!(keys, ["bitnet-b1.58.rope.freq_base"]);
}

#[test]
fn a_model_is_the_same_as_itself_in_parts() {
    let scratch = Scratch::new();
    let (code, shown) = diff(Path::new(TINY), Path::new(TINY), &[]);
    assert_eq!(code, 0, "{shown}");
    assert!(shown.ends_with("\nSAME  68 tensors\n"), "{shown}");
    let parts = super::split::split(&scratch, 2, false);
    let (code, shown) = diff(Path::new(TINY), &parts[0], &[]);
    assert_eq!(code, 0, "{shown}");
}

#[test]
fn what_is_no_model_is_named() {
    let (code, shown) = diff(Path::new(TINY), Path::new("absent.gguf"), &[]);
    assert_eq!(code, 65, "{shown}");
    assert!(shown.contains("absent.gguf"), "{shown}");
}
