//! What a file is that is no GGUF, by its first bytes, and what to do about it.

use std::path::Path;

/// How far into a file is looked.
const LOOKED_AT: usize = 4096;

/// How a file starts, what it then is, and the next step.
const MAGICS: [(&[u8], &str, &str); 17] = [
    (b"lmgg", "a GGML file, the format before GGUF", OLD_GGML),
    (b"fmgg", "a GGMF file, the format before GGUF", OLD_GGML),
    (b"tjgg", "a GGJT file, the format before GGUF", OLD_GGML),
    (
        b"algg",
        "a GGLA file, an adapter for the format before GGUF",
        OLD_GGML,
    ),
    (b"\x1f\x8b", "gzip", UNPACK),
    (b"\x28\xb5\x2f\xfd", "Zstandard", UNPACK),
    (b"\xfd7zXZ\0", "xz", UNPACK),
    (b"BZh", "bzip2", UNPACK),
    (b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive", UNPACK),
    (b"\x80\x02", CHECKPOINT, CONVERT),
    (b"\x80\x04", CHECKPOINT, CONVERT),
    (
        b"\x89HDF\r\n\x1a\n",
        "an HDF5 file, as Keras writes them",
        CONVERT,
    ),
    (b"\x93NUMPY", "a NumPy array", CONVERT),
    (b"\x7fELF", "a program", MODEL),
    (b"MZ", "a program", MODEL),
    (b"%PDF", "a PDF", MODEL),
    (
        b"\0\0\0\0",
        "zeros at its start",
        "the download was not finished: download it again",
    ),
];
const CHECKPOINT: &str = "a PyTorch checkpoint";
const OLD_GGML: &str = "convert the original model anew, with llama.cpp's convert_hf_to_gguf.py";
const CONVERT: &str = "convert the model to GGUF first, with llama.cpp's convert_hf_to_gguf.py or BitNet's setup_env.py";
const UNPACK: &str = "unpack it first";
const MODEL: &str = "give the model's file";
const PAGE: &str = "the download got a page in place of the file: use the link that downloads it, and log in where the model \
                    needs it";

/// What these bytes of a file are, and the next step: a clause behind "not a GGUF file".
pub(super) fn what_it_is(bytes: &[u8]) -> String {
    let start = &bytes[..bytes.len().min(LOOKED_AT)];
    if start.is_empty() {
        return "it is empty: download it again".to_owned();
    }
    let of_text = std::str::from_utf8(start)
        .ok()
        .or_else(|| cut_within_a_character(start));
    if let Some(text) = of_text.filter(|text| is_text(text)) {
        return of_words(text.trim_start_matches('\u{feff}').trim_start());
    }
    let said = |what: &str, next: &str| format!("it is {what}: {next}");
    if is_safetensors(bytes) {
        return said("a safetensors file", CONVERT);
    }
    if start.starts_with(b"PK") {
        let has = |name: &[u8]| start.windows(name.len()).any(|window| window == name);
        return match (has(b"data.pkl"), has(b".npy")) {
            (true, _) => said("a PyTorch checkpoint (a ZIP archive)", CONVERT),
            (_, true) => said("NumPy arrays (a ZIP archive)", CONVERT),
            _ => said("a ZIP archive", UNPACK),
        };
    }
    if start.get(257..262) == Some(b"ustar") {
        return said("a tar archive", UNPACK);
    }
    let mut magics = MAGICS.iter();
    match magics.find(|(magic, ..)| start.starts_with(magic)) {
        Some((_, what, next)) => said(what, next),
        None => {
            let seen = &start[..start.len().min(4)];
            format!(
                "it starts with \"{}\", where GGUF has \"GGUF\"",
                seen.escape_ascii()
            )
        }
    }
}

/// What a folder is, where a file belongs.
pub(super) fn what_the_folder_is(path: &Path) -> String {
    let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    let ending = |ending: &str| names.iter().find(|name| name.ends_with(ending));
    let checkpoint = [".safetensors", ".bin", ".pt", ".pth"]
        .into_iter()
        .find_map(ending);
    match (ending(".gguf"), checkpoint) {
        (Some(model), _) => format!("a folder: give a file in it, such as {model}"),
        (None, Some(file)) => format!(
            "a folder with a checkpoint ({file}): convert it to GGUF, as crossval convert does"
        ),
        (None, None) => "a folder, in which there is no GGUF file".to_owned(),
    }
}

/// The text up to where the bytes end within a character.
fn cut_within_a_character(bytes: &[u8]) -> Option<&str> {
    let valid = std::str::from_utf8(bytes).err()?;
    let cut = valid.error_len().is_none();
    std::str::from_utf8(&bytes[..valid.valid_up_to()])
        .ok()
        .filter(|_| cut)
}

fn is_text(text: &str) -> bool {
    let control = |c: char| c.is_control() && !c.is_whitespace();
    !text.is_empty() && !text.contains(control)
}

fn of_words(text: &str) -> String {
    let starts = |with: &str| {
        text.get(..with.len())
            .is_some_and(|start| start.eq_ignore_ascii_case(with))
    };
    if text.starts_with("version https://git-lfs.github.com/spec/") {
        let size = text
            .lines()
            .find_map(|line| line.strip_prefix("size ")?.trim().parse().ok());
        let what = match size.map(gigabytes) {
            Some(size) => format!("a Git LFS pointer: {size} not downloaded"),
            None => "a Git LFS pointer: the file itself is not downloaded".to_owned(),
        };
        return format!("it is {what} (git lfs pull)");
    }
    if starts("<!doctype html") || starts("<html") {
        return format!("it is an HTML page: {PAGE}");
    }
    if starts("<?xml") {
        return format!("it is XML: {PAGE}");
    }
    if starts("{") || starts("[") {
        return match text.contains("\"weight_map\"") {
            true => format!("it is JSON, the index of a checkpoint: {CONVERT}"),
            false => format!("it is JSON: {MODEL}"),
        };
    }
    let line: String = text
        .lines()
        .next()
        .unwrap_or_default()
        .chars()
        .take(60)
        .collect();
    format!("it is text, \"{}\": {MODEL}", line.trim_end())
}

/// `1.19 GB`, as download pages count.
fn gigabytes(bytes: u64) -> String {
    match bytes {
        0..1_000_000 => format!("{bytes} bytes"),
        1_000_000..1_000_000_000 => format!("{:.0} MB", bytes as f64 / 1e6),
        _ => format!("{:.2} GB", bytes as f64 / 1e9),
    }
}

/// The length of a JSON header, then the header (safetensors' README, "Format").
fn is_safetensors(bytes: &[u8]) -> bool {
    let Some((length, rest)) = bytes.split_first_chunk::<8>() else {
        return false;
    };
    let length = u64::from_le_bytes(*length);
    rest.starts_with(b"{") && (2..100_000_000).contains(&length)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_files_are_that_are_no_gguf() {
        let pointer =
            b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 1187801280\n";
        let safetensors = [&9u64.to_le_bytes()[..], b"{\"a\":1}  "].concat();
        let torch = [&b"PK\x03\x04\0\0"[..], b"archive/data.pkl"].concat();
        let tar = [&[b'x'; 100][..], &[0; 157], b"ustar\0"].concat();
        let cases: [(&[u8], &[&str]); 19] = [
            (b"", &["empty"]),
            (pointer, &["Git LFS pointer", "1.19 GB not downloaded"]),
            (
                b"version https://git-lfs.github.com/spec/v1\n",
                &["is not downloaded"],
            ),
            (&safetensors, &["safetensors", "convert"]),
            (&torch, &["PyTorch", "ZIP", "convert"]),
            (b"PK\x03\x04\0\0model.gguf", &["ZIP archive", "unpack"]),
            (b"\x80\x02}q\0", &["PyTorch", "convert"]),
            (b"lmgg\x01\0\0\0", &["GGML", "convert"]),
            (b"tjgg\x03\0\0\0", &["GGJT", "convert"]),
            (b"\x1f\x8b\x08\0", &["gzip", "unpack"]),
            (&tar, &["tar", "unpack"]),
            (b"  {\"model_type\": \"bitnet\"}", &["JSON"]),
            (
                b"{\"weight_map\": {}}",
                &["index of a checkpoint", "convert"],
            ),
            (
                b"\n<!DOCTYPE html><html>",
                &["HTML", "in place of the file"],
            ),
            (
                b"<?xml version=\"1.0\"?><Error>",
                &["XML", "in place of the file"],
            ),
            (b"Entry not found", &["\"Entry not found\""]),
            (&[0; 64], &["zeros", "download"]),
            (b"\x01\xfe\x02\xff\x03", &["\\x01\\xfe\\x02\\xff"]),
            ("Modèle é".as_bytes().split_last().unwrap().1, &["\"Modèle"]),
        ];
        for (bytes, says) in cases {
            let what = what_it_is(bytes);
            for says in says {
                assert!(what.contains(says), "{says}: {what}");
            }
        }
    }

    #[test]
    fn folders() {
        let folder = tempfile::tempdir().unwrap();
        let what = || what_the_folder_is(folder.path());
        assert!(what().contains("no GGUF file"), "{}", what());
        for (name, says) in [
            ("config.json", "no GGUF file"),
            ("model.safetensors", "a checkpoint (model.safetensors)"),
            ("ggml-model.gguf", "such as ggml-model.gguf"),
        ] {
            std::fs::write(folder.path().join(name), "").unwrap();
            assert!(what().contains(says), "{says}: {}", what());
        }
    }
}
