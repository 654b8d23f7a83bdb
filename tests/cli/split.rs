//! Models in several files.

use bitnet_core::gguf::Value;

use super::*;

/// The bundled model in as many files, the first of which has no tensors if it is `alone`; their paths.
pub(super) fn split(scratch: &Scratch, count: u16, alone: bool) -> Vec<PathBuf> {
    let tiny = Gguf::open(Path::new(TINY)).expect("the bundled model");
    let tensors: Vec<_> = tiny.tensors().iter().collect();
    let holding = count - u16::from(alone);
    let of_part = tensors.len().div_ceil(holding.into());
    let mut pieces: Vec<&[_]> = tensors.chunks(of_part).collect();
    if alone {
        pieces.insert(0, &[]);
    }
    let mut paths = Vec::new();
    for (no, piece) in (0u16..).zip(pieces) {
        let path = scratch.path(&format!("m-{:05}-of-{count:05}.gguf", no + 1));
        let mut metadata = Metadata::new(&path);
        if no == 0 {
            for (key, value) in tiny.metadata().iter() {
                metadata.insert(key, value.clone()).expect("a new key");
            }
        }
        metadata
            .insert("split.no", Value::U16(no))
            .expect("a new key");
        metadata
            .insert("split.count", Value::U16(count))
            .expect("a new key");
        let n = tensors.len() as i32;
        metadata
            .insert("split.tensors.count", n)
            .expect("a new key");
        let mut writer = Writer::new(metadata).expect("a writer");
        for tensor in piece {
            writer
                .tensor(&tensor.name, &tensor.shape, tensor.ty)
                .expect("a tensor");
        }
        let file = File::create(&path).expect("a file");
        let mut file = writer.begin(file).expect("a head");
        for tensor in piece {
            let data = tiny.data(tensor).expect("data");
            file.write_tensor(|out| out.write_all(data))
                .expect("written");
        }
        file.finish().expect("complete");
        paths.push(path);
    }
    paths
}

#[cfg(feature = "reference")]
#[test]
fn a_model_in_parts_runs_as_the_whole_does() {
    let whole = std::fs::metadata(TINY).expect("the bundled model").len();
    for (count, alone) in [(2, false), (3, true)] {
        let scratch = Scratch::new();
        let parts = split(&scratch, count, alone);
        let sizes = parts
            .iter()
            .map(|path| std::fs::metadata(path).expect("a part").len());
        let size: u64 = sizes.sum();
        for reference in ["bitnet.cpp", "oracle"] {
            let more = ["--reference", reference, "--candidate", "rust"];
            let (code, report, shown) = run(&parts[0], &[&more[..], &["--no-bench"]].concat());
            assert_eq!(code, 0, "{shown}");
            assert_eq!(report.model.size_bytes, size);
            assert!(size >= whole);
        }
    }
}

#[test]
fn a_part_that_cannot_be_found_is_named() {
    let scratch = Scratch::new();
    let refused = |path: &Path, says: &[&str]| {
        let path = path.to_str().expect("UTF-8");
        for args in [
            &[
                "run",
                "--candidate",
                "rust",
                "--reference",
                "oracle",
                "--model",
                path,
            ][..],
            &["inspect", path],
        ] {
            let output = crossval(args);
            let said = stderr(&output);
            assert!(
                says.iter().all(|part| said.contains(part)),
                "{args:?}: {said}"
            );
            assert_eq!(exit_code(&output), 65, "{args:?}: {said}");
        }
    };
    let parts = split(&scratch, 3, false);
    refused(
        &parts[1],
        &["part 2 of 3", "give the first", "m-00001-of-00003.gguf"],
    );
    let renamed = scratch.path("renamed.gguf");
    std::fs::copy(&parts[0], &renamed).expect("a copy");
    refused(
        &renamed,
        &["first of 3 parts", "does not end in -00001-of-00003.gguf"],
    );
    std::fs::copy(&parts[1], &parts[2]).expect("a copy");
    refused(
        &parts[0],
        &[
            "m-00003-of-00003.gguf",
            "does not say that it is part 3 of 3",
        ],
    );
    std::fs::remove_file(&parts[2]).expect("a part");
    refused(&parts[0], &["part 3 is missing", "m-00003-of-00003.gguf"]);
}
