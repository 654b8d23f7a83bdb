use std::collections::BTreeMap;
use std::ffi::{CString, c_char};
use std::fs::File;
use std::path::Path;
use std::ptr::NonNull;

use crate::error::Error;
use crate::log::Mark;
use crate::{ffi, library};

/// How to load a model.
#[derive(Clone, Copy, Debug)]
pub struct LoadOptions {
    /// Load the vocabulary only: enough for the tokenizer, not for a [`Context`](crate::Context).
    pub vocab_only: bool,
    /// Map the file instead of reading it.
    pub mmap: bool,
    /// Leave it to the library whether it lays weights out anew for other kernels, whose results differ in their last
    /// bits (see [`LibraryFacts::repacks`](crate::LibraryFacts::repacks)). Without, they stay as they are in the file.
    pub repack: bool,
}

impl Default for LoadOptions {
    fn default() -> Self {
        LoadOptions {
            vocab_only: false,
            mmap: true,
            repack: true,
        }
    }
}

/// What the library made of the file. Sizes are 0 for a model that was loaded with
/// [`vocab_only`](LoadOptions::vocab_only), where the library does not read them.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ModelFacts {
    /// `general.architecture`.
    pub architecture: String,
    /// The library's one-line description.
    pub description: String,
    /// Vocabulary size.
    pub n_vocab: u32,
    /// Context length the model was trained for.
    pub n_ctx_train: u32,
    /// Width of the residual stream.
    pub n_embd: u32,
    /// Layers.
    pub n_layer: u32,
    /// Query heads, from the metadata; `None` if it does not say or differs by layer.
    pub n_head: Option<u32>,
    /// Key/value heads, likewise.
    pub n_head_kv: Option<u32>,
    /// Weights.
    pub n_params: u64,
    /// Bytes of all tensors.
    pub size: u64,
    /// Whether the file has a tokenizer.
    pub has_tokenizer: bool,
    /// Token that begins a sequence.
    pub bos: Option<u32>,
    /// Token that ends a sequence.
    pub eos: Option<u32>,
    /// Whether the tokenizer puts BOS first.
    pub add_bos: bool,
    /// Whether the tokenizer puts EOS last.
    pub add_eos: bool,
}

/// A loaded model: weights and vocabulary.
#[derive(Debug)]
pub struct Model {
    raw: NonNull<ffi::bn_model>,
    facts: ModelFacts,
    metadata: BTreeMap<String, String>,
    vocab_only: bool,
}

// SAFETY: the library does not change a model once it is loaded, and ties it to no thread.
unsafe impl Send for Model {}
// SAFETY: as above; everything a shared reference can call takes it as const.
unsafe impl Sync for Model {}

impl Model {
    /// Loads a GGUF file.
    ///
    /// # Errors
    /// [`Error::Load`] with the library's words. Some malformed files make it abort the process instead.
    pub fn load(path: &Path, options: LoadOptions) -> Result<Model, Error> {
        library::init()?;
        let mark = Mark::now();
        let failed = |reason: String| {
            let (reason, log) = mark.since(reason);
            Error::Load {
                path: path.to_owned(),
                reason,
                log,
            }
        };
        // The library says only that it failed, so ask the system why.
        File::open(path).map_err(|e| failed(e.to_string()))?;
        let c_path = CString::new(path.as_os_str().as_encoded_bytes())
            .map_err(|_| failed("the path contains a NUL byte".to_owned()))?;
        let c_options = ffi::bn_model_options {
            vocab_only: options.vocab_only,
            use_mmap: options.mmap,
            repack: options.repack,
        };
        // SAFETY: the path is NUL-terminated and outlives the call.
        let raw = unsafe { ffi::bn_model_load(c_path.as_ptr(), c_options) };
        let raw = NonNull::new(raw).ok_or_else(|| failed(ffi::last_error()))?;
        let metadata = read_metadata(raw);
        Ok(Model {
            raw,
            facts: read_facts(raw, &metadata),
            metadata,
            vocab_only: options.vocab_only,
        })
    }

    /// What the library made of the file.
    pub fn facts(&self) -> &ModelFacts {
        &self.facts
    }

    /// The file's metadata as the library prints it, arrays left out.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }

    /// Token IDs of a text, which need not be UTF-8. `add_special` adds BOS and EOS where the model asks for them; `parse_special` reads the
    /// text of control tokens (`<|eot_id|>`) as those tokens.
    ///
    /// # Errors
    /// [`Error::NoTokenizer`]; [`Error::Tokenizer`] if the library throws or the text is 2 GiB or longer.
    pub fn tokenize(
        &self,
        text: impl AsRef<[u8]>,
        add_special: bool,
        parse_special: bool,
    ) -> Result<Vec<u32>, Error> {
        self.need_tokenizer()?;
        let text = text.as_ref();
        let len = c_int(text.len())?;
        // Rarely too small: a token is at least a byte long, specials apart.
        let tokens = sized(text.len().saturating_add(8), |buf: &mut [i32], max| {
            // SAFETY: both buffers outlive the call and have the lengths that are passed.
            unsafe {
                let text = text.as_ptr().cast::<c_char>();
                ffi::bn_tokenize(
                    self.raw.as_ptr(),
                    text,
                    len,
                    buf.as_mut_ptr(),
                    max,
                    add_special,
                    parse_special,
                )
            }
        })?;
        tokens
            .into_iter()
            .map(|id| {
                u32::try_from(id)
                    .map_err(|_| Error::Tokenizer(format!("it returned the token {id}")))
            })
            .collect()
    }

    /// The text of tokens, not always UTF-8. `remove_special` leaves out BOS and EOS where the model adds them;
    /// `unparse_special` writes out control tokens.
    ///
    /// # Errors
    /// [`Error::NoTokenizer`], [`Error::Token`], [`Error::Tokenizer`].
    pub fn detokenize(
        &self,
        tokens: &[u32],
        remove_special: bool,
        unparse_special: bool,
    ) -> Result<Vec<u8>, Error> {
        self.need_tokenizer()?;
        let ids = self.token_ids(tokens)?;
        let n = c_int(ids.len())?;
        sized(
            ids.len().saturating_mul(8).saturating_add(32),
            |buf: &mut [u8], max| {
                // SAFETY: both buffers outlive the call and have the lengths that are passed.
                unsafe {
                    let (raw, buf) = (self.raw.as_ptr(), buf.as_mut_ptr().cast::<c_char>());
                    ffi::bn_detokenize(
                        raw,
                        ids.as_ptr(),
                        n,
                        buf,
                        max,
                        remove_special,
                        unparse_special,
                    )
                }
            },
        )
    }

    /// The bytes of one token; `special` writes out control tokens.
    ///
    /// # Errors
    /// [`Error::NoTokenizer`], [`Error::Token`], [`Error::Tokenizer`].
    pub fn token_to_piece(&self, token: u32, special: bool) -> Result<Vec<u8>, Error> {
        self.need_tokenizer()?;
        let id = self.token_id(token)?;
        sized(32, |buf: &mut [u8], max| {
            // SAFETY: the buffer outlives the call and has the length that is passed; the ID is in the vocabulary.
            unsafe {
                ffi::bn_token_to_piece(self.raw.as_ptr(), id, buf.as_mut_ptr().cast(), max, special)
            }
        })
    }

    /// Whether generation ends at this token.
    ///
    /// # Errors
    /// [`Error::NoTokenizer`], [`Error::Token`].
    pub fn is_eog(&self, token: u32) -> Result<bool, Error> {
        self.need_tokenizer()?;
        let id = self.token_id(token)?;
        // SAFETY: the model is alive and the ID is in the vocabulary.
        Ok(unsafe { ffi::bn_token_is_eog(self.raw.as_ptr(), id) })
    }

    pub(crate) fn raw(&self) -> NonNull<ffi::bn_model> {
        self.raw
    }

    pub(crate) fn vocab_only(&self) -> bool {
        self.vocab_only
    }

    pub(crate) fn token_ids(&self, tokens: &[u32]) -> Result<Vec<i32>, Error> {
        tokens.iter().map(|&token| self.token_id(token)).collect()
    }

    fn token_id(&self, token: u32) -> Result<i32, Error> {
        let n_vocab = self.facts.n_vocab;
        i32::try_from(token)
            .ok()
            .filter(|_| token < n_vocab)
            .ok_or(Error::Token { token, n_vocab })
    }

    fn need_tokenizer(&self) -> Result<(), Error> {
        if self.facts.has_tokenizer {
            Ok(())
        } else {
            Err(Error::NoTokenizer)
        }
    }
}

impl Drop for Model {
    fn drop(&mut self) {
        // SAFETY: made by bn_model_load, freed once; every Context holds an Arc, so none is left.
        unsafe { ffi::bn_model_free(self.raw.as_ptr()) }
    }
}

fn c_int(n: usize) -> Result<i32, Error> {
    i32::try_from(n)
        .map_err(|_| Error::Tokenizer(format!("{n} items are too many for its interface")))
}

/// Calls `f` with a buffer, and once more with a larger one if it answers with minus the size that it needs: that is
/// no error, it is how the tokenizer functions ask.
fn sized<T: Clone + Default>(
    guess: usize,
    mut f: impl FnMut(&mut [T], i32) -> i32,
) -> Result<Vec<T>, Error> {
    let mut size = guess;
    for _ in 0..2 {
        let mut buf = vec![T::default(); size];
        let n = f(&mut buf, c_int(size)?);
        if n == ffi::BN_FAILED {
            return Err(Error::Tokenizer(ffi::last_error()));
        }
        let count = n.unsigned_abs() as usize;
        if n >= 0 && count <= size {
            buf.truncate(count);
            return Ok(buf);
        }
        size = count;
    }
    Err(Error::Tokenizer(
        "it asked for a larger buffer twice".to_owned(),
    ))
}

/// Reads a string of unknown length through a function that works like `snprintf`.
fn read_string(mut f: impl FnMut(*mut c_char, usize) -> i32) -> Option<String> {
    let mut buf = vec![0u8; 256];
    loop {
        let n = usize::try_from(f(buf.as_mut_ptr().cast(), buf.len())).ok()?;
        if n < buf.len() {
            buf.truncate(n);
            return Some(String::from_utf8_lossy(&buf).into_owned());
        }
        buf.resize(n + 1, 0);
    }
}

fn read_metadata(raw: NonNull<ffi::bn_model>) -> BTreeMap<String, String> {
    let raw = raw.as_ptr();
    // SAFETY: the model is alive.
    let count = unsafe { ffi::bn_model_meta_count(raw) };
    (0..count)
        .filter_map(|i| {
            // SAFETY: the model is alive, and the buffer has the size that is passed.
            let key =
                read_string(|buf, size| unsafe { ffi::bn_model_meta_key(raw, i, buf, size) })?;
            // SAFETY: as above.
            let value =
                read_string(|buf, size| unsafe { ffi::bn_model_meta_value(raw, i, buf, size) })?;
            Some((key, value))
        })
        .collect()
}

fn read_facts(raw: NonNull<ffi::bn_model>, metadata: &BTreeMap<String, String>) -> ModelFacts {
    let mut facts = ffi::bn_model_facts {
        n_vocab: 0,
        n_ctx_train: 0,
        n_embd: 0,
        n_layer: 0,
        has_vocab: false,
        add_bos: false,
        add_eos: false,
        bos: -1,
        eos: -1,
        n_params: 0,
        size: 0,
    };
    // SAFETY: the model is alive, and the facts are a valid place to write to.
    unsafe { ffi::bn_model_get_facts(raw.as_ptr(), &mut facts) };
    // SAFETY: the model is alive, and the buffer has the size that is passed.
    let description =
        read_string(|buf, size| unsafe { ffi::bn_model_desc(raw.as_ptr(), buf, size) });
    let architecture = metadata
        .get("general.architecture")
        .cloned()
        .unwrap_or_default();
    let head_count = |key: &str| {
        metadata
            .get(&format!("{architecture}.attention.{key}"))?
            .parse()
            .ok()
    };
    let (n_head, n_head_kv) = (head_count("head_count"), head_count("head_count_kv"));
    let count = |n: i32| u32::try_from(n).unwrap_or(0);
    ModelFacts {
        n_head,
        // Absent means as many as query heads (GGUF specification).
        n_head_kv: n_head_kv.or(n_head),
        architecture,
        description: description.unwrap_or_default(),
        n_vocab: count(facts.n_vocab),
        n_ctx_train: count(facts.n_ctx_train),
        n_embd: count(facts.n_embd),
        n_layer: count(facts.n_layer),
        n_params: facts.n_params,
        size: facts.size,
        has_tokenizer: facts.has_vocab,
        bos: u32::try_from(facts.bos).ok(),
        eos: u32::try_from(facts.eos).ok(),
        add_bos: facts.add_bos,
        add_eos: facts.add_eos,
    }
}
