//! Reading a trace. Files come from strangers: everything is checked before it is used.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use bitnet_model::regular_file;
use bitnet_model::tap::{Tap, sites};
use safetensors::tensor::{Dtype, Metadata, TensorInfo};

use super::info::{BadKey, RecordedNoise, TraceInfo};
use super::{DECODE_TOKENS, GENERATED, GENERATED_LOGITS, TOKENS, prompt_tensor, tap_tensor};

/// Largest header, bytes: the limit of the safetensors format.
const MAX_HEADER: u64 = 100_000_000;

/// Why a file is no usable trace.
#[derive(Debug, thiserror::Error)]
#[error("trace {path}: {reason}", path = path.display())]
pub struct TraceError {
    /// The file.
    pub path: PathBuf,
    /// What is wrong with it.
    pub reason: Reason,
}

/// What is wrong with a trace.
#[derive(Debug, thiserror::Error)]
pub enum Reason {
    /// It cannot be opened.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// It is no safetensors file, or not all of it.
    #[error("not a whole safetensors file: {0}")]
    Container(String),
    /// A key of the metadata.
    #[error(transparent)]
    Key(#[from] BadKey),
    /// A tensor.
    #[error("tensor {name}: {what}")]
    Tensor {
        /// Its name.
        name: String,
        /// What is wrong.
        what: String,
    },
}

/// A trace, opened and checked.
#[derive(Debug)]
pub struct Trace {
    path: PathBuf,
    file: File,
    data_start: u64,
    header: Metadata,
    info: TraceInfo,
    taps: Vec<Tap>,
    prompts: Vec<RecordedPrompt>,
}

/// Tokens of a prompt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordedPrompt {
    /// Its number.
    pub index: usize,
    /// The prompt.
    pub tokens: Vec<u32>,
    /// Teacher-forced decode steps.
    pub decode_tokens: Vec<u32>,
    /// Generated, not fewer than `decode_tokens`, which are its start.
    pub generated: Vec<u32>,
}

impl Trace {
    /// Opens a trace and checks that all is there and has the shape that it should.
    ///
    /// # Errors
    /// [`TraceError`], which names the file and the key or tensor at fault.
    pub fn open(path: &Path) -> Result<Trace, TraceError> {
        let at = |reason| TraceError {
            path: path.to_owned(),
            reason,
        };
        // Read in pieces, never mapped: a file that shrinks meanwhile is an error, not a signal.
        let file = regular_file::open(path).map_err(|e| at(e.into()))?;
        let (header, data_start) = header(&file).map_err(at)?;
        let none = Default::default();
        let metadata = header.metadata().as_ref().unwrap_or(&none);
        let info = TraceInfo::from_metadata(metadata).map_err(|e| at(e.into()))?;
        let offered = |tap: &Tap| info.hello.taps.contains(tap);
        let known = &info.model_facts.taps;
        let taps: Vec<Tap> = Tap::ALL
            .into_iter()
            .filter(|tap| known.contains(tap) && offered(tap))
            .collect();
        let mut trace = Trace {
            path: path.to_owned(),
            file,
            data_start,
            header,
            info,
            taps,
            prompts: Vec::new(),
        };
        trace.check_keys().map_err(|e| at(e.into()))?;
        for index in 0..trace.info.prompts.len() {
            let prompt = trace.read_prompt(index)?;
            trace.prompts.push(prompt);
        }
        Ok(trace)
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where it comes from.
    pub fn info(&self) -> &TraceInfo {
        &self.info
    }

    /// Taps of which all rows are there, in the order of the forward pass.
    pub fn taps(&self) -> &[Tap] {
        &self.taps
    }

    /// Every tap of every layer that is there, in the order of the forward pass.
    pub fn sites(&self) -> impl Iterator<Item = (Option<usize>, Tap)> + '_ {
        sites(&self.taps, self.info.model_facts.n_layer)
    }

    /// The prompts, at least one.
    pub fn prompts(&self) -> &[RecordedPrompt] {
        &self.prompts
    }

    /// The prompt of these tokens.
    pub fn prompt(&self, tokens: &[u32]) -> Option<&RecordedPrompt> {
        self.prompts.iter().find(|p| p.tokens == tokens)
    }

    /// The engine against itself on the prompt of these tokens.
    pub fn noise(&self, tokens: &[u32]) -> &[RecordedNoise] {
        let about = self
            .prompt(tokens)
            .and_then(|p| self.info.prompts.get(p.index));
        about.map_or(&[], |prompt| &prompt.noise)
    }

    /// What the trace holds, for messages.
    pub fn contents(&self) -> String {
        const SHOWN: usize = 4;
        let n_ubatch = self.info.n_ubatch;
        let mut parts: Vec<String> = self
            .prompts
            .iter()
            .take(SHOWN)
            .map(|p| {
                let first: Vec<String> = p.tokens.iter().take(8).map(u32::to_string).collect();
                let more = if p.tokens.len() > first.len() {
                    ",…"
                } else {
                    ""
                };
                format!(
                    "prompt {} of {} tokens ({}{more}) in batches of {n_ubatch}, {} decode steps, {} tokens \
                     generated",
                    p.index,
                    p.tokens.len(),
                    first.join(","),
                    p.decode_tokens.len(),
                    p.generated.len()
                )
            })
            .collect();
        if self.prompts.len() > SHOWN {
            parts.push(format!("{} more prompts", self.prompts.len() - SHOWN));
        }
        parts.join("; ")
    }

    /// Rows of a tap and the shape of one row: `[width]`, or `[n_head, positions]` for attention probabilities.
    ///
    /// # Errors
    /// If the tensor is not there or lacks the rows.
    pub fn tap_rows(
        &self,
        prompt: &RecordedPrompt,
        (layer, tap): (Option<usize>, Tap),
        rows: Range<usize>,
    ) -> Result<(&[usize], Vec<u8>), TraceError> {
        self.rows(&tap_tensor(prompt.index, layer, tap), rows)
    }

    /// The logits that the generated token `index` is the largest of, F32.
    ///
    /// # Errors
    /// If they are not there.
    pub fn generated_logits(
        &self,
        prompt: &RecordedPrompt,
        index: usize,
    ) -> Result<Vec<u8>, TraceError> {
        let name = prompt_tensor(prompt.index, GENERATED_LOGITS);
        Ok(self.rows(&name, index..index.saturating_add(1))?.1)
    }

    fn rows(&self, name: &str, rows: Range<usize>) -> Result<(&[usize], Vec<u8>), TraceError> {
        let info = self.tensor(name)?;
        let lacking = || self.bad_tensor(name, format!("has no rows {rows:?}"));
        let (&n, row) = info.shape.split_first().ok_or_else(lacking)?;
        let (start, end) = info.data_offsets;
        let row_bytes = (end - start).checked_div(n).ok_or_else(lacking)?;
        if rows.start > rows.end || rows.end > n {
            return Err(lacking());
        }
        let mut bytes = vec![0; rows.len() * row_bytes];
        let offset = self.data_start + (start + rows.start * row_bytes) as u64;
        self.file
            .read_exact_at(&mut bytes, offset)
            .map_err(|e| self.bad_tensor(name, format!("cannot be read: {e}")))?;
        Ok((row, bytes))
    }

    fn tensor(&self, name: &str) -> Result<&TensorInfo, TraceError> {
        let info = self.header.info(name);
        info.ok_or_else(|| self.bad_tensor(name, "is missing".into()))
    }

    fn bad_tensor(&self, name: &str, what: String) -> TraceError {
        TraceError {
            path: self.path.clone(),
            reason: Reason::Tensor {
                name: name.to_owned(),
                what,
            },
        }
    }

    fn check_keys(&self) -> Result<(), BadKey> {
        let bad = |key, what: &str| {
            Err(BadKey {
                key,
                what: what.into(),
            })
        };
        let info = &self.info;
        let sha256 = &info.model_sha256;
        if sha256.len() != 64 || !sha256.bytes().all(|b| b.is_ascii_hexdigit()) {
            return bad("model_sha256", "is no SHA-256 in hex");
        }
        if info.n_ubatch == 0 {
            return bad("n_ubatch", "is 0");
        }
        if info.prompts.is_empty() {
            return bad("prompts", "is empty");
        }
        if self.taps.is_empty() {
            return bad("hello", "offers no tap that the model has");
        }
        let noise = info.prompts.iter().flat_map(|p| {
            let taps = p.noise.iter().flat_map(|n| n.nmse.values());
            taps.chain(&p.generation_noise)
        });
        if noise.flatten().any(|nmse| *nmse < 0.0) {
            return bad("prompts", "has a negative NMSE");
        }
        Ok(())
    }

    /// Checks every tensor of a prompt.
    fn read_prompt(&self, index: usize) -> Result<RecordedPrompt, TraceError> {
        let facts = &self.info.model_facts;
        let prompt = RecordedPrompt {
            index,
            tokens: self.tokens(index, TOKENS)?,
            decode_tokens: self.tokens(index, DECODE_TOKENS)?,
            generated: self.tokens(index, GENERATED)?,
        };
        if !prompt.generated.starts_with(&prompt.decode_tokens) {
            let name = prompt_tensor(index, DECODE_TOKENS);
            return Err(self.bad_tensor(&name, format!("is not the start of {GENERATED}")));
        }
        let n_generated = prompt.generated.len();
        if n_generated < self.info.n_predict {
            let name = prompt_tensor(index, GENERATED);
            let wanted = self.info.n_predict;
            return Err(self.bad_tensor(&name, format!("has {n_generated} of {wanted} tokens")));
        }
        if self.info.prompts[index].generation_noise.len() != n_generated {
            return Err(TraceError {
                path: self.path.clone(),
                reason: Reason::Key(BadKey {
                    key: "prompts",
                    what: format!(
                        "generation_noise of prompt {index} has not {n_generated} entries"
                    ),
                }),
            });
        }
        let logits = prompt_tensor(index, GENERATED_LOGITS);
        self.check_shape(&logits, Dtype::F32, [n_generated, facts.n_vocab])?;
        let positions = prompt.tokens.len() + prompt.decode_tokens.len();
        for (layer, tap) in self.sites() {
            let name = tap_tensor(index, layer, tap);
            let dtype = if tap.is_f16() { Dtype::F16 } else { Dtype::F32 };
            let shape = &self.tensor(&name)?.shape;
            let last = shape.last().copied().unwrap_or(0);
            match tap {
                Tap::AttnProbs => {
                    let n_head = shape.get(1).copied().unwrap_or(0);
                    self.check_shape(&name, dtype, [positions, n_head, positions])?;
                }
                Tap::Logits => self.check_shape(&name, dtype, [positions, facts.n_vocab])?,
                _ => self.check_shape(&name, dtype, [positions, last])?,
            }
        }
        Ok(prompt)
    }

    fn check_shape<const N: usize>(
        &self,
        name: &str,
        dtype: Dtype,
        shape: [usize; N],
    ) -> Result<(), TraceError> {
        let info = self.tensor(name)?;
        if info.dtype == dtype && info.shape == shape && !shape.contains(&0) {
            return Ok(());
        }
        let what = format!(
            "is {} {:?}, expected {dtype} {shape:?}, without a 0",
            info.dtype, info.shape
        );
        Err(self.bad_tensor(name, what))
    }

    /// Token IDs, each of which is in the vocabulary; at least one.
    fn tokens(&self, prompt: usize, what: &str) -> Result<Vec<u32>, TraceError> {
        let name = prompt_tensor(prompt, what);
        let n = self.tensor(&name)?.shape.first().copied().unwrap_or(0);
        self.check_shape(&name, Dtype::U32, [n])?;
        let (_, bytes) = self.rows(&name, 0..n)?;
        let tokens: Vec<u32> = bytes
            .chunks_exact(4)
            .map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]))
            .collect();
        let n_vocab = self.info.model_facts.n_vocab;
        match tokens.iter().find(|&&id| id as usize >= n_vocab) {
            Some(id) => {
                let what = format!("token ID {id} is out of range, the vocabulary has {n_vocab}");
                Err(self.bad_tensor(&name, what))
            }
            None => Ok(tokens),
        }
    }
}

/// The header of a safetensors file, and where its data starts. The tensors cover the rest of the file exactly.
fn header(file: &File) -> Result<(Metadata, u64), Reason> {
    let bad = |what: &str| Reason::Container(what.to_owned());
    let size = file.metadata()?.len();
    if size < 8 {
        return Err(bad("it has no header"));
    }
    let mut length = [0; 8];
    file.read_exact_at(&mut length, 0)?;
    let length = u64::from_le_bytes(length);
    if length > MAX_HEADER {
        return Err(Reason::Container(format!(
            "it announces a header of {length} bytes"
        )));
    }
    let data_start = 8 + length;
    if data_start > size {
        return Err(bad("it ends within its header"));
    }
    let mut header = vec![0; length as usize];
    file.read_exact_at(&mut header, 8)?;
    let header: Metadata =
        serde_json::from_slice(&header).map_err(|e| Reason::Container(format!("header: {e}")))?;
    let (needed, there) = (header.data_len() as u64, size - data_start);
    if needed != there {
        return Err(Reason::Container(format!(
            "its tensors take {needed} bytes, {there} follow the header"
        )));
    }
    Ok((header, data_start))
}
