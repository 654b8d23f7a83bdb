use std::ffi::c_void;
use std::ptr::{self, NonNull};
use std::sync::Arc;

use crate::error::Error;
use crate::ffi;
use crate::log::Mark;
use crate::model::Model;
use crate::node::{NodeObserver, Watch, on_node};

/// The settings of a context. All of them can change the library's speed or its last bits, so none is left to its
/// defaults; keys and values are cached as F16.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ContextOptions {
    /// Positions; 0 takes the model's. The library rounds up to a multiple of 32.
    pub n_ctx: u32,
    /// Tokens that one [`Context::decode`] takes at most.
    pub n_batch: u32,
    /// Tokens that are evaluated as one graph: longer batches are split.
    pub n_ubatch: u32,
    /// Threads, the calling one among them, for batches and single tokens alike.
    pub threads: u32,
    /// Leave it to the library whether it uses flash attention (see
    /// [`LibraryFacts::flash_attn`](crate::LibraryFacts::flash_attn)): another graph, and other arithmetic. Without, it
    /// uses none.
    pub flash_attn: bool,
    /// Allow observers. It costs a call per node even where no observer is given: leave it off for timing.
    pub observe: bool,
}

impl Default for ContextOptions {
    fn default() -> Self {
        ContextOptions {
            n_ctx: 0,
            n_batch: 2048,
            n_ubatch: 512,
            threads: 1,
            flash_attn: false,
            observe: false,
        }
    }
}

/// Which logits an evaluation computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Logits {
    /// None: the KV cache is filled, the output head not run.
    None,
    /// Those of the last token.
    Last,
    /// Those of every token. The last layer drops all rows whose logits are not asked for, so an observer sees whole
    /// tensors there only with this.
    All,
}

/// A KV cache of one sequence, and the buffers to evaluate its tokens. Keeps its model alive.
#[derive(Debug)]
pub struct Context {
    raw: NonNull<ffi::bn_context>,
    model: Arc<Model>,
    observe: bool,
    n_past: u32,
    /// What the last evaluation computed: its tokens, and which of them have logits.
    computed: (usize, Logits),
}

// SAFETY: the library ties a context to no thread; it must only not be used by two at once, and every call takes &mut
// or, as logits() does, reads.
unsafe impl Send for Context {}

impl Context {
    /// Makes an empty context.
    ///
    /// # Errors
    /// [`Error::VocabOnly`], [`Error::Option`], or [`Error::Context`] with the library's words.
    pub fn new(model: &Arc<Model>, options: ContextOptions) -> Result<Context, Error> {
        if model.vocab_only() {
            return Err(Error::VocabOnly);
        }
        let check = |option, value: u32, low, high| {
            if (low..=high).contains(&value) {
                Ok(value)
            } else {
                Err(Error::Option { option, low, high })
            }
        };
        // ggml refuses more than 512 threads by aborting.
        let threads = check("threads", options.threads, 1, 512)?;
        let n_ctx = match check("n_ctx", options.n_ctx, 0, i32::MAX as u32 - 255)? {
            0 => check(
                "n_ctx (of the model)",
                model.facts().n_ctx_train,
                1,
                i32::MAX as u32 - 255,
            )?,
            n => n,
        };
        let c_options = ffi::bn_context_options {
            n_ctx,
            n_batch: check("n_batch", options.n_batch, 1, i32::MAX as u32)?,
            n_ubatch: check("n_ubatch", options.n_ubatch, 1, i32::MAX as u32)?,
            n_threads: threads as i32,
            flash_attn: options.flash_attn,
            observe: options.observe,
        };
        let mark = Mark::now();
        // SAFETY: the model is alive, and stays so as long as the context: the Arc below holds it.
        let raw = unsafe { ffi::bn_context_new(model.raw().as_ptr(), c_options) };
        let raw = NonNull::new(raw).ok_or_else(|| {
            let (reason, log) = mark.since(ffi::last_error());
            Error::Context { reason, log }
        })?;
        Ok(Context {
            raw,
            model: Arc::clone(model),
            observe: options.observe,
            n_past: 0,
            computed: (0, Logits::None),
        })
    }

    /// The model.
    pub fn model(&self) -> &Arc<Model> {
        &self.model
    }

    /// Positions there is room for: what was asked for, rounded up by the library.
    pub fn n_ctx(&self) -> u32 {
        // SAFETY: the context is alive.
        unsafe { ffi::bn_context_n_ctx(self.raw.as_ptr()) }
    }

    /// Tokens that one [`decode`](Self::decode) takes, as the library set it (at least 32, at most `n_ctx`).
    pub fn n_batch(&self) -> u32 {
        // SAFETY: the context is alive.
        unsafe { ffi::bn_context_n_batch(self.raw.as_ptr()) }
    }

    /// Tokens that are evaluated as one graph, as the library set it.
    pub fn n_ubatch(&self) -> u32 {
        // SAFETY: the context is alive.
        unsafe { ffi::bn_context_n_ubatch(self.raw.as_ptr()) }
    }

    /// Positions in the KV cache.
    pub fn n_past(&self) -> u32 {
        self.n_past
    }

    /// Evaluates tokens at the positions from `first_position`, which must be where the KV cache ends.
    ///
    /// With an observer at most [`n_ubatch`](Self::n_ubatch) tokens are taken, so that one evaluation is one graph
    /// and occurrences have a meaning.
    ///
    /// # Errors
    /// Arguments that do not fit leave the context as it was. After [`Error::Decode`], [`Error::Stopped`] and
    /// [`Error::ObserverPanicked`] the KV cache is empty.
    pub fn decode(
        &mut self,
        tokens: &[u32],
        first_position: u32,
        logits: Logits,
        observer: Option<&mut dyn NodeObserver>,
    ) -> Result<(), Error> {
        let end = self.check(tokens, first_position, observer.is_some())?;
        let ids = self.model.token_ids(tokens)?;
        let c_logits = match logits {
            Logits::None => ffi::BN_LOGITS_NONE,
            Logits::Last => ffi::BN_LOGITS_LAST,
            Logits::All => ffi::BN_LOGITS_ALL,
        };
        let mut watch = observer.map(Watch::new);
        let (callback, user_data): (ffi::bn_node_fn, *mut c_void) = match &mut watch {
            Some(watch) => (Some(on_node), ptr::from_mut(watch).cast()),
            None => (None, ptr::null_mut()),
        };
        self.computed = (0, Logits::None);
        let mark = Mark::now();
        // SAFETY: the context is alive, the IDs are in the vocabulary, and check() found that their count and
        // positions fit n_ctx, which fits an i32. The watch outlives the call and only the callback uses it.
        let status = unsafe {
            ffi::bn_decode(
                self.raw.as_ptr(),
                ids.as_ptr(),
                ids.len() as i32,
                first_position as i32,
                c_logits,
                callback,
                user_data,
            )
        };
        if status == ffi::BN_OK {
            self.n_past = end;
            self.computed = (tokens.len(), logits);
            return Ok(());
        }
        self.kv_clear();
        if let Some(message) = watch.and_then(|watch| watch.panic) {
            return Err(Error::ObserverPanicked(message));
        }
        if status == ffi::BN_STOPPED {
            return Err(Error::Stopped);
        }
        let (reason, log) = mark.since(ffi::last_error());
        Err(Error::Decode { reason, log })
    }

    /// The position after the last token, if the arguments fit.
    fn check(&self, tokens: &[u32], first: u32, observed: bool) -> Result<u32, Error> {
        if observed && !self.observe {
            return Err(Error::NotObservable);
        }
        if tokens.is_empty() {
            return Err(Error::EmptyBatch);
        }
        let (limit, option) = if observed {
            (self.n_ubatch(), "n_ubatch")
        } else {
            (self.n_batch(), "n_batch")
        };
        if tokens.len() > limit as usize {
            return Err(Error::BatchTooLarge {
                n_tokens: tokens.len(),
                limit,
                option,
            });
        }
        if first != self.n_past {
            return Err(Error::Position {
                first,
                n_past: self.n_past,
            });
        }
        let (end, n_ctx) = (first as usize + tokens.len(), self.n_ctx());
        u32::try_from(end)
            .ok()
            .filter(|&end| end <= n_ctx)
            .ok_or(Error::ContextFull { end, n_ctx })
    }

    /// The logits that follow token `i` of the last evaluation, `n_vocab` values.
    ///
    /// # Errors
    /// [`Error::NoLogits`] if they were not asked for.
    pub fn logits(&self, i: usize) -> Result<&[f32], Error> {
        let (n, which) = self.computed;
        let computed = match which {
            Logits::None => false,
            Logits::Last => i + 1 == n,
            Logits::All => i < n,
        };
        if !computed {
            return Err(Error::NoLogits(i));
        }
        // SAFETY: the context is alive, and i is less than n, which fits an i32.
        let row = unsafe { ffi::bn_logits_row(self.raw.as_ptr(), i as i32) };
        if row.is_null() {
            return Err(Error::NoLogits(i));
        }
        // SAFETY: a row holds n_vocab values and stays valid until the next evaluation, which takes &mut self.
        Ok(unsafe { std::slice::from_raw_parts(row, self.model.facts().n_vocab as usize) })
    }

    /// Empties the KV cache: the next evaluation starts at position 0.
    pub fn kv_clear(&mut self) {
        // SAFETY: the context is alive.
        unsafe { ffi::bn_kv_clear(self.raw.as_ptr()) };
        self.n_past = 0;
        self.computed = (0, Logits::None);
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: made by bn_context_new, freed once, before the model that the Arc holds.
        unsafe { ffi::bn_context_free(self.raw.as_ptr()) }
    }
}
