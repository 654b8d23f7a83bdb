//! `crossval record`: one engine, everything that a comparison would ask of it.

mod activations;
mod output;

use std::collections::BTreeSet;
use std::path::PathBuf;

use bitnet_model::tap::Tap;
use reports::model::Environment;
use safetensors::tensor::Dtype;
use serde_json::{Map, Value};

use self::activations::Activations;
use self::output::Output;
use crate::compare::finite;
use crate::compare::tap::row_nmse;
use crate::engine::{Engine, EngineError, EngineSpec, EvalEvent, Launcher};
use crate::error::Error;
use crate::progress::Progress;
use crate::session::batches::Sequence;
use crate::session::chat;
use crate::session::loaded::NO_TOKENIZER;
use crate::session::lockstep::aligned;
use crate::session::model_file::ModelFile;
use crate::session::noise::{Noise, NoiseSource};
use crate::session::prompts::{Prompt, PromptSource, Tokenized, tokenize};
use crate::session::settings::{DECODE_STEPS, compared_settings};
use crossval_protocol::{EvalRequest, ModelFacts, Settings, TapHeader};
use crossval_trace::{
    DECODE_TOKENS, GENERATED, GENERATED_LOGITS, PromptInfo, RecordedNoise, TOKENS, TraceInfo,
    prompt_tensor,
};

/// What to record.
#[derive(Clone, Debug)]
pub struct RecordOptions {
    /// How workers are started.
    pub launcher: Launcher,
    /// The engine.
    pub engine: EngineSpec,
    /// The GGUF file.
    pub model: PathBuf,
    /// At least one.
    pub prompts: Vec<PromptSource>,
    /// As for a run.
    pub chat: bool,
    /// Tokens to generate from each prompt.
    pub n_predict: usize,
    /// Threads.
    pub threads: usize,
    /// Context, tokens; as much as the prompts take if `None`.
    pub n_ctx: Option<usize>,
    /// The file to write.
    pub output: PathBuf,
    /// The command line.
    pub command: Vec<String>,
    /// The machine and build.
    pub environment: Environment,
}

/// Records; returns the size of the file in bytes.
///
/// # Errors
/// Where the engine fails or leaves something out, as for a run; [`Error::Io`] if the file cannot be written.
/// The output is then as it was before.
pub fn record(options: &RecordOptions, progress: Progress<'_>) -> Result<u64, Error> {
    if let Some(path) = options.engine.trace() {
        let path = path.display();
        return Err(Error::option(
            "engine",
            format!("{path} is a trace already"),
        ));
    }
    let created = jiff::Timestamp::now().to_string();
    let writer = Output::create(&options.output)?;
    progress.stage("hashing the model");
    let file = ModelFile::hash(&options.model)?;
    progress.stage("loading");
    let mut engine = options.launcher.start(&options.engine, None)?;
    let failed = |e: EngineError| e.into_error(&options.engine.to_string());
    let (facts, _) = engine.load(&options.model).map_err(failed)?;
    engine.learn_taps().map_err(failed)?;
    let mut sources = options.prompts.clone();
    if options.chat {
        sources = chat::render_prompts(sources, &options.model, facts.vocab.as_ref())?;
    }
    if options.engine.is_ours() && facts.vocab.is_none() {
        engine.without_tokenizer();
        if sources.iter().any(PromptSource::is_text) {
            return Err(Error::Usage(format!("{NO_TOKENIZER}: give --tokens")));
        }
    }
    let tokenizer = engine.hello().tokenizer.then_some(&mut engine);
    let Tokenized { prompts, tokenizer } = tokenize(&sources, tokenizer, facts.n_vocab)?;
    let settings = compared_settings(
        &facts,
        &prompts,
        options.n_predict,
        options.threads,
        options.n_ctx,
    )?;
    let rows = prompts.iter().map(|p| p.tokens.len() + DECODE_STEPS);
    progress.steps(2 * rows.sum::<usize>() as u64);
    let recorded_settings = engine.configure(settings).map_err(failed)?;
    let hello = engine.hello().clone();
    let mut recorder = Recorder {
        taps: Tap::ALL
            .into_iter()
            .filter(|tap| facts.taps.contains(tap) && hello.taps.contains(tap))
            .collect(),
        engine,
        writer,
        facts,
        settings,
        progress,
        noise: NoiseSource::live(&options.launcher, &options.engine, &options.model, settings)
            .map_err(failed)?,
        not_repeatable: BTreeSet::new(),
    };
    let mut about = Vec::new();
    for (index, prompt) in prompts.into_iter().enumerate() {
        about.push(recorder.prompt(index, prompt, options.n_predict)?);
    }
    // What an engine that does not end as it should has computed is nothing to hold others against.
    if let Some(failure) = recorder.engine.end() {
        return Err(EngineError::Failed(failure).into_error(recorder.engine.label()));
    }
    progress.stage("writing");
    let info = TraceInfo {
        created,
        command: options.command.clone(),
        engine: options.engine.to_string(),
        hello,
        settings: recorded_settings,
        model_path: options.model.display().to_string(),
        model_size_bytes: file.size,
        model_sha256: file.sha256,
        model_facts: recorder.facts,
        n_ubatch: settings.n_ubatch,
        n_predict: options.n_predict,
        tokenizer,
        prompts: about,
        not_repeatable: recorder.not_repeatable.into_iter().collect(),
        environment: as_object(&options.environment)?,
    };
    let metadata = info
        .to_metadata()
        .map_err(|e| Error::Internal(format!("metadata of the trace: {e}")))?;
    recorder.writer.finish(metadata)
}

fn as_object(environment: &Environment) -> Result<Map<String, Value>, Error> {
    match serde_json::to_value(environment) {
        Ok(Value::Object(object)) => Ok(object),
        other => Err(Error::Internal(format!("environment as JSON: {other:?}"))),
    }
}

struct Recorder<'a> {
    engine: Engine,
    writer: Output,
    facts: ModelFacts,
    settings: Settings,
    taps: Vec<Tap>,
    progress: Progress<'a>,
    noise: NoiseSource<'static>,
    not_repeatable: BTreeSet<String>,
}

impl Recorder<'_> {
    fn prompt(
        &mut self,
        index: usize,
        prompt: Prompt,
        n_predict: usize,
    ) -> Result<PromptInfo, Error> {
        let n_generated = n_predict.max(DECODE_STEPS);
        self.progress.stage("generating");
        let task = format!("generating from prompt {index}");
        self.engine.set_task(task);
        let (generated, ..) = self
            .engine
            .generate(&prompt.tokens, n_generated)
            .map_err(|e| e.into_error(self.engine.label()))?;
        if generated.len() != n_generated {
            let what = format!("{} of {n_generated} tokens generated", generated.len());
            return Err(broken(self.engine.label(), &what));
        }
        let steps = &generated[..DECODE_STEPS];
        let sequence = Sequence::new(&prompt.tokens, steps);
        for (what, ids) in [
            (TOKENS, &prompt.tokens[..]),
            (DECODE_TOKENS, steps),
            (GENERATED, &generated),
        ] {
            self.writer.vector(prompt_tensor(index, what), ids)?;
        }
        let generation_noise = self.generated_logits(index, &prompt.tokens, &generated)?;
        self.progress.stage("measuring noise");
        let task = format!("measuring its noise on prompt {index}");
        self.engine.set_task(task);
        let noise = self
            .noise
            .measure(&mut self.engine, sequence, &self.taps)
            .map_err(|e| e.into_error(self.engine.label()))?;
        self.progress.stage("recording");
        self.activations(index, sequence)?;
        Ok(PromptInfo {
            text: prompt.text,
            rendered: prompt.rendered,
            source: prompt.source,
            noise: noise.into_iter().map(recorded).collect(),
            generation_noise,
        })
    }

    /// The logits before each generated token, asked for as where two generations part. Returns their NMSE against
    /// the same rows evaluated as part of the prompt.
    fn generated_logits(
        &mut self,
        index: usize,
        prompt: &[u32],
        generated: &[u32],
    ) -> Result<Vec<Option<f64>>, Error> {
        let name = prompt_tensor(index, GENERATED_LOGITS);
        let row_bytes = self.facts.n_vocab * size_of::<f32>();
        let shape = vec![generated.len(), self.facts.n_vocab];
        self.writer.begin(name.clone(), Dtype::F32, shape)?;
        let by_steps = Sequence::new(prompt, &generated[..generated.len() - 1]);
        let n_ubatch = self.settings.n_ubatch;
        for (position, tokens) in by_steps.batches(n_ubatch) {
            let row = evaluate(&mut self.engine, position, tokens, &[], &mut |_, _| Ok(()))?;
            if row.len() != row_bytes {
                let what = format!("{} of {row_bytes} bytes of logits", row.len());
                return Err(broken(self.engine.label(), &what));
            }
            if let Some(at) = (position + tokens.len()).checked_sub(prompt.len()) {
                self.writer.put_row(&name, at, &row)?;
            }
        }
        let all = by_steps.tokens();
        let as_prompt = Sequence::new(&all, &[]);
        let mut noise = vec![None; generated.len()];
        for (position, tokens) in as_prompt.batches(n_ubatch) {
            let mut compare = |header: &TapHeader, payload: &[u8]| {
                for (i, row) in payload.chunks_exact(header.row_bytes()).enumerate() {
                    let next = header.first_position.saturating_add(i + 1);
                    let at = next.checked_sub(prompt.len());
                    if let Some(at) = at.filter(|&at| at < noise.len()) {
                        let by_steps = self.writer.row(&name, at)?;
                        noise[at] = finite(row_nmse::<f32>(&aligned(&by_steps), &aligned(row)));
                    }
                }
                Ok(())
            };
            let taps = [Tap::Logits];
            evaluate(&mut self.engine, position, tokens, &taps, &mut compare)?;
        }
        Ok(noise)
    }

    /// Every tap of the prompt and its decode steps, in the batches of a comparison; and once more, to tell whether
    /// the engine repeats itself.
    fn activations(&mut self, index: usize, sequence: Sequence) -> Result<(), Error> {
        let engine_name = self.engine.name().to_owned();
        let mut activations = Activations {
            writer: &mut self.writer,
            engine: &engine_name,
            taps: &self.taps,
            n_layer: self.facts.n_layer,
            prompt: index,
            positions: sequence.prompt.len() + sequence.steps.len(),
            differing: BTreeSet::new(),
        };
        for again in [false, true] {
            for (position, tokens) in sequence.batches(self.settings.n_ubatch) {
                let end = position + tokens.len();
                let task = format!("evaluating prompt {index}, positions {position}..{end}");
                self.engine.set_task(task);
                let mut take = |header: &TapHeader, payload: &[u8]| match again {
                    false => activations.keep(end, header, payload),
                    true => activations.compare(end, header, payload),
                };
                evaluate(&mut self.engine, position, tokens, &self.taps, &mut take)?;
                activations.check_complete(end)?;
                self.progress.done(tokens.len() as u64);
            }
        }
        self.not_repeatable.extend(activations.differing);
        Ok(())
    }
}

fn recorded(noise: Noise) -> RecordedNoise {
    let nmse = noise.nmse.into_iter();
    RecordedNoise {
        varied: noise.varied,
        nmse: nmse.map(|(tap, nmse)| (tap, finite(nmse))).collect(),
    }
}

/// Takes a piece of a tap.
type TakePiece<'a> = dyn FnMut(&TapHeader, &[u8]) -> Result<(), Error> + 'a;

/// One batch. Without taps, the last token's logits are returned.
fn evaluate(
    engine: &mut Engine,
    first_position: usize,
    tokens: &[u32],
    taps: &[Tap],
    take: &mut TakePiece,
) -> Result<Vec<u8>, Error> {
    let failed = |engine: &Engine, e: EngineError| e.into_error(engine.label());
    let request = EvalRequest {
        first_position,
        tokens,
        taps,
        overwrite: false,
        last_logits: taps.is_empty(),
    };
    engine.begin_eval(request).map_err(|e| failed(engine, e))?;
    while let EvalEvent::Tap(header) = engine.next_event().map_err(|e| failed(engine, e))? {
        take(&header, engine.payload())?;
    }
    Ok(engine.take_payload())
}

pub(super) fn broken(engine: &str, what: &str) -> Error {
    Error::Engine(format!("engine {engine} cannot be recorded: {what}"))
}
