//! Whether a model that is worse than guessing is only packed otherwise. Engines that read the same file alike agree on the
//! wrong model; a text tells.

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use bitnet_model::gguf::{Gguf, TensorType};
use bitnet_model::packing::{OTHERS, Packing};
use bitnet_model::tap::Tap;
use crossval_protocol::Settings;

use crate::compare::logits::negative_log_likelihood;
use crate::engine::{EngineSpec, Launcher};
use crate::session::batches::{Sequence, rows};
use crate::session::lockstep::aligned;

/// What the file would have to be packed in for the model to know the text, as a clause; `None` where that is in no way
/// that is known, or it cannot be tried. `window` is some of the text, the second half of which is scored, and the model
/// is to be better than a guess among `n_vocab`.
pub(super) fn hypothesis(
    launcher: &Launcher,
    model: &Path,
    window: &[u32],
    n_vocab: usize,
    threads: usize,
) -> Option<String> {
    let gguf = Gguf::open(model).ok()?;
    gguf.tensors().iter().find(|t| t.ty == TensorType::I2_S)?;
    let folder = tempfile::tempdir().ok()?;
    let perplexities = OTHERS.iter().filter_map(|packing| {
        let copy = repacked(&gguf, *packing, folder.path()).ok()?;
        let perplexity = perplexity(launcher, &copy, window, threads)?;
        Some((perplexity, packing.name()))
    });
    let best = perplexities.min_by(|(a, _), (b, _)| a.total_cmp(b));
    let (perplexity, name) = best.filter(|(perplexity, _)| *perplexity < n_vocab as f64)?;
    Some(format!(
        "were its I2_S weights packed as {name}, its perplexity on the first window would be {}",
        reports::number::value(perplexity)
    ))
}

/// Copies a model, with its I2_S weights as every engine here reads them, if they are packed in that way.
fn repacked(gguf: &Gguf, packing: Packing, folder: &Path) -> io::Result<PathBuf> {
    let mut copies = Vec::new();
    for path in gguf.paths() {
        let copy = folder.join(path.file_name().unwrap_or_default());
        let mut from = std::fs::File::open(path)?;
        // Not as a copy of the file, which may be read-only.
        io::copy(&mut from, &mut std::fs::File::create(&copy)?)?;
        copies.push(copy);
    }
    for tensor in gguf.tensors().iter().filter(|t| t.ty == TensorType::I2_S) {
        let codes = (tensor.n_elements() / 4) as usize;
        let data = gguf.data(tensor).map_err(io::Error::other)?;
        let data = data.get(..codes).ok_or(io::ErrorKind::UnexpectedEof)?;
        let copy = copies.get(tensor.part).ok_or(io::ErrorKind::NotFound)?;
        let file = OpenOptions::new().write(true).open(copy)?;
        file.write_all_at(&packing.to_ours(data), tensor.offset)?;
    }
    copies
        .into_iter()
        .next()
        .ok_or(io::ErrorKind::NotFound.into())
}

/// Of the second half of a window, by the Rust engine.
fn perplexity(launcher: &Launcher, model: &Path, window: &[u32], threads: usize) -> Option<f64> {
    let mut engine = launcher
        .start(&EngineSpec::Rust { fault: None }, None)
        .ok()?;
    engine.load(model).ok()?;
    let settings = Settings {
        n_ctx: window.len().next_multiple_of(32),
        n_ubatch: window.len(),
        threads,
        observe: true,
        compact_head_budget: 0,
    };
    engine.configure(settings).ok()?;
    let (mut sum, mut n) = (0.0, 0);
    let (_, before) = window.split_last()?;
    let batches = Sequence::new(before, &[]).batches(window.len());
    let scored = rows(&mut engine, batches, &[Tap::Logits], |at, _, row| {
        if let Some(&next) = window.get(at.position + 1)
            && at.position >= window.len() / 2
        {
            sum += negative_log_likelihood(&aligned::<f32>(row), next);
            n += 1;
        }
    });
    scored.ok()?;
    (n > 0).then(|| (sum / f64::from(n)).exp())
}
