//! The backend in front of an engine's, which makes the mistakes around the stages.

use std::cell::Cell;
use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::Path;
use std::rc::Rc;
use std::time::Instant;

use bitnet_core::sampling::greedy;
use crossval_protocol::{
    Backend, CompactHeadUse, DecodeOptions, EncodeOptions, EvalRequest, Hello, KernelTimes,
    ModelFacts, Refusal, Settings, TapStream, VocabFacts,
};

use super::condition::{Asked, Circumstances};
use super::tokenizer::FaultyTokenizer;
use super::{Act, Condition, Faults, Figure, GenerationMistake, TimingMistake};

/// An engine with faults around its stages.
pub(crate) struct FaultyBackend<B> {
    engine: B,
    /// Added to [`Hello::build`].
    facts: BTreeMap<String, String>,
    generation: Vec<(GenerationMistake, usize, Condition)>,
    tokenizers: Vec<FaultyTokenizer>,
    times: Vec<(TimingMistake, Figure)>,
    /// Percent of its time that a step takes longer.
    slower: Option<u32>,
    now: Circumstances,
    generated: Generated,
    /// What was generated, by the length of its prompt.
    stored: HashMap<usize, Vec<u32>>,
    changed: Rc<Cell<u64>>,
}

/// A generation that is under way.
#[derive(Default)]
struct Generated {
    prompt: Vec<u32>,
    tokens: Vec<u32>,
    /// Tokens in the engine's cache.
    position: usize,
    /// The most likely token of the last step.
    late: Option<u32>,
}

impl<B: Backend> FaultyBackend<B> {
    /// In front of an engine, which makes the mistakes in stages itself.
    pub(crate) fn new(engine: B, faults: &Faults, facts: BTreeMap<String, String>) -> Self {
        let mut backend = FaultyBackend {
            engine,
            facts,
            generation: Vec::new(),
            tokenizers: Vec::new(),
            times: Vec::new(),
            slower: None,
            now: Circumstances::default(),
            generated: Generated::default(),
            stored: HashMap::new(),
            changed: Rc::default(),
        };
        for fault in &faults.0 {
            match fault.act {
                Act::Stage(_) => {}
                Act::Generation(mistake, from) => {
                    backend.generation.push((mistake, from, fault.when));
                }
                Act::Tokenizer(mistake, nth) => {
                    backend.tokenizers.push(FaultyTokenizer::new(mistake, nth));
                }
                Act::Times(mistake, figure) => backend.times.push((mistake, figure)),
                Act::Slower(percent) => backend.slower = Some(percent),
            }
        }
        backend
    }

    /// Times to be told wrongly, and where that is to be counted.
    pub(crate) fn times(&self) -> (Vec<(TimingMistake, Figure)>, Rc<Cell<u64>>) {
        (self.times.clone(), Rc::clone(&self.changed))
    }

    fn count(&self, changed: bool) {
        self.changed.set(self.changed.get() + u64::from(changed));
    }

    fn vocabulary(&mut self, n_vocab: usize) -> Result<(), Refusal> {
        let mut tokenizers = self.tokenizers.iter_mut();
        tokenizers.try_for_each(|tokenizer| tokenizer.load(&mut self.engine, n_vocab))
    }

    /// The mistakes to be made at the next token.
    fn mistakes(&self) -> Vec<GenerationMistake> {
        let n = self.generated.tokens.len();
        let position = self.generated.prompt.len() + n;
        let due = self
            .generation
            .iter()
            .filter(|(_, from, when)| n >= *from && when.holds(&self.now, position));
        due.map(|&(mistake, ..)| mistake).collect()
    }

    /// The token after `tokens`, which are evaluated at the engine's position.
    fn step(&mut self, tokens: &[u32]) -> Result<u32, Refusal> {
        let start = Instant::now();
        let request = EvalRequest {
            first_position: self.generated.position,
            tokens,
            taps: &[],
            overwrite: false,
            last_logits: true,
        };
        let mut nobody = TapStream::new(io::empty(), io::sink());
        let logits = self.engine.eval(&request, &mut nobody)?;
        self.generated.position += tokens.len();
        let best = greedy(&logits);
        let mut token = best;
        for mistake in self.mistakes() {
            token = mistake.choose(&logits, &self.generated.tokens, self.generated.late);
        }
        self.generated.late = Some(best);
        self.count(token != best);
        self.generated.tokens.push(token);
        self.dawdle(start);
        Ok(token)
    }

    /// Takes as much longer as the fault says. Sleeping would take longer than a step of a small model.
    fn dawdle(&self, start: Instant) {
        if let Some(percent) = self.slower {
            let until = start.elapsed() * (100 + percent) / 100;
            while start.elapsed() < until {
                std::hint::spin_loop();
            }
            self.count(true);
        }
    }

    /// The token that was given to a prompt of that length before, at this step.
    fn stored(&self) -> Option<u32> {
        let Generated { prompt, tokens, .. } = &self.generated;
        self.stored.get(&prompt.len())?.get(tokens.len()).copied()
    }

    fn is_stored(&self) -> bool {
        self.mistakes().contains(&GenerationMistake::AnswersStored)
    }

    /// Keeps what was generated.
    fn store(&mut self) {
        let Generated { prompt, tokens, .. } = &self.generated;
        let known = self.stored.entry(prompt.len()).or_default();
        if known.len() < tokens.len() {
            known.clone_from(tokens);
        }
    }

    /// Whether generation is this backend's, not the engine's.
    fn generates(&self) -> bool {
        !self.generation.is_empty() || self.slower.is_some()
    }
}

impl<B: Backend> Backend for FaultyBackend<B> {
    fn hello(&self) -> Hello {
        let mut hello = self.engine.hello();
        hello.build.extend(self.facts.clone());
        hello
    }

    fn load(&mut self, model: &Path) -> Result<ModelFacts, Refusal> {
        let facts = self.engine.load(model)?;
        self.vocabulary(facts.n_vocab)?;
        Ok(facts)
    }

    fn load_vocab(&mut self, model: &Path) -> Result<VocabFacts, Refusal> {
        let facts = self.engine.load_vocab(model)?;
        self.vocabulary(facts.n_vocab)?;
        Ok(facts)
    }

    fn check_weights(&self) -> Result<Vec<String>, Refusal> {
        self.engine.check_weights()
    }

    fn configure(&mut self, settings: Settings) -> Result<BTreeMap<String, String>, Refusal> {
        self.now.configure(settings);
        self.engine.configure(settings)
    }

    fn tokenize(&mut self, text: &[u8], options: EncodeOptions) -> Result<Vec<u32>, Refusal> {
        match self.tokenizers.first_mut() {
            Some(tokenizer) => tokenizer.tokenize(&mut self.engine, text, options),
            None => self.engine.tokenize(text, options),
        }
    }

    fn detokenize(&mut self, ids: &[u32], options: DecodeOptions) -> Result<Vec<u8>, Refusal> {
        match self.tokenizers.first_mut() {
            Some(tokenizer) => tokenizer.detokenize(&mut self.engine, ids, options),
            None => self.engine.detokenize(ids, options),
        }
    }

    fn piece(&mut self, id: u32) -> Result<Vec<u8>, Refusal> {
        match self.tokenizers.first_mut() {
            Some(tokenizer) => tokenizer.piece(&mut self.engine, id),
            None => self.engine.piece(id),
        }
    }

    fn eval(&mut self, request: &EvalRequest, taps: &mut TapStream) -> Result<Vec<f32>, Refusal> {
        self.engine.eval(request, taps)
    }

    fn prefill(&mut self, tokens: &[u32]) -> Result<u32, Refusal> {
        if !self.generates() {
            return self.engine.prefill(tokens);
        }
        self.now.begin(Asked::Generating, 0, tokens);
        self.generated = Generated {
            prompt: tokens.to_vec(),
            ..Generated::default()
        };
        if self.is_stored()
            && let Some(token) = self.stored()
        {
            self.count(true);
            self.generated.tokens.push(token);
            return Ok(token);
        }
        let cut = self.mistakes().contains(&GenerationMistake::PromptCutShort);
        let kept = match tokens.len() {
            n if cut && n > 1 => n - 1,
            n => n,
        };
        self.count(kept < tokens.len());
        let token = self.step(&tokens[..kept])?;
        self.store();
        Ok(token)
    }

    fn decode(&mut self, token: u32) -> Result<u32, Refusal> {
        if !self.generates() {
            return self.engine.decode(token);
        }
        self.now
            .begin(Asked::Generating, self.generated.position, &[token]);
        if self.is_stored()
            && let Some(next) = self.stored()
        {
            self.count(true);
            self.generated.tokens.push(next);
            return Ok(next);
        }
        let Generated {
            prompt,
            tokens,
            position,
            ..
        } = &self.generated;
        // Stored answers have left the engine where it was.
        let tokens = match position {
            0 => [&prompt[..], tokens].concat(),
            _ => vec![token],
        };
        let next = self.step(&tokens)?;
        self.store();
        Ok(next)
    }

    fn time_kernels(&mut self) -> Result<KernelTimes, Refusal> {
        self.engine.time_kernels()
    }

    fn compact_head(&self) -> Option<CompactHeadUse> {
        self.engine.compact_head()
    }

    fn changed_values(&self) -> Option<u64> {
        let in_texts: u64 = self.tokenizers.iter().map(FaultyTokenizer::changed).sum();
        let in_stages = self.engine.changed_values().unwrap_or(0);
        Some(in_stages + in_texts + self.changed.get())
    }
}

#[cfg(test)]
mod tests {
    use bitnet_model::tap::Tap;
    use crossval_protocol::{Request, Response, read_frame};

    use super::super::Injectors;
    use super::*;
    use crate::rust::RustBackend;

    const DEMO: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../assets/tiny-bitnet.gguf");
    const PROMPT: [u32; 5] = [1, 17, 300, 17, 42];

    fn engine(faults: &str, observe: bool) -> FaultyBackend<RustBackend> {
        let faults = match faults {
            "" => Faults::default(),
            faults => faults.parse().unwrap(),
        };
        let engine = RustBackend::new(Injectors::new(faults.of_stages()), None).unwrap();
        let mut engine = FaultyBackend::new(engine, &faults, BTreeMap::new());
        engine.load(Path::new(DEMO)).unwrap();
        let settings = Settings {
            n_ctx: 32,
            n_ubatch: 32,
            threads: 1,
            observe,
            compact_head_budget: 0,
        };
        engine.configure(settings).unwrap();
        engine
    }

    fn generate(engine: &mut impl Backend, prompt: &[u32], n: usize) -> Vec<u32> {
        let mut tokens = vec![engine.prefill(prompt).unwrap()];
        while tokens.len() < n {
            tokens.push(engine.decode(tokens[tokens.len() - 1]).unwrap());
        }
        tokens
    }

    /// The last logits of a prompt, and the values of a tap in layer 1 if one is asked for.
    fn eval(engine: &mut impl Backend, tokens: &[u32], tap: Option<Tap>) -> (Vec<f32>, Vec<u8>) {
        let request = EvalRequest {
            first_position: 0,
            tokens,
            taps: tap.as_slice(),
            overwrite: false,
            last_logits: true,
        };
        let mut file = tempfile::tempfile().unwrap();
        let mut stream = TapStream::new(io::empty(), file.try_clone().unwrap());
        let logits = engine.eval(&request, &mut stream).unwrap();
        io::Seek::rewind(&mut file).unwrap();
        let (mut values, mut payload) = (Vec::new(), Vec::new());
        while let Ok(Response::Tap(header)) = read_frame(&mut file, &mut payload) {
            if header.layer == Some(1) {
                values.append(&mut payload);
            }
        }
        (logits, values)
    }

    #[test]
    fn tokens_are_wrong_from_the_one_that_the_fault_says() {
        let right = generate(&mut engine("", true), &PROMPT, 8);
        for mistake in ["second-best", "least-likely", "next-id", "drawn-at-random"] {
            let mut faulty = engine(&format!("{mistake}=3"), true);
            let wrong = generate(&mut faulty, &PROMPT, 8);
            assert_eq!(wrong[..3], right[..3], "{mistake}");
            assert_ne!(wrong[3], right[3], "{mistake}");
            assert!(faulty.changed_values().unwrap() > 0, "{mistake}");
            // What it computes is right.
            let same = eval(&mut engine("", true), &PROMPT, Some(Tap::Q));
            assert_eq!(eval(&mut faulty, &PROMPT, Some(Tap::Q)), same);
        }
        let for_ever = generate(&mut engine("one-token-for-ever=3", true), &PROMPT, 8);
        assert_eq!(for_ever, [&right[..3], &[right[2]; 5]].concat());
        let prompt = [1, 280, 295, 419, 432];
        let cut = generate(&mut engine("prompt-cut-short=0", true), &prompt, 8);
        let of_cut = generate(&mut engine("", true), &prompt[..4], 8);
        assert_eq!(cut, of_cut);
        assert_ne!(cut, generate(&mut engine("", true), &prompt, 8));
    }

    #[test]
    fn stored_answers_are_those_of_before_and_go_on_where_they_end() {
        let right = generate(&mut engine("", true), &PROMPT, 8);
        let mut faulty = engine("answers-stored=0", true);
        assert_eq!(generate(&mut faulty, &PROMPT, 4), right[..4]);
        assert_eq!(faulty.changed_values(), Some(0));
        assert_eq!(generate(&mut faulty, &PROMPT, 8), right);
        assert_eq!(faulty.changed_values(), Some(4));
        let other: Vec<u32> = PROMPT.iter().map(|id| id + 1).collect();
        assert_eq!(generate(&mut faulty, &other, 8), right);
    }

    #[test]
    fn an_engine_that_is_slower_is_right() {
        let right = generate(&mut engine("", true), &PROMPT, 4);
        let mut faulty = engine("slower=50", true);
        assert_eq!(generate(&mut faulty, &PROMPT, 4), right);
        assert_eq!(faulty.changed_values(), Some(4));
    }

    #[test]
    fn a_fault_of_the_untapped_path_or_of_timed_runs_is_in_nothing_else() {
        let right = eval(&mut engine("", true), &PROMPT, Some(Tap::Logits));
        let untapped = "negated:logits:last-elements=64@untapped";
        let mut faulty = engine(untapped, true);
        assert_eq!(eval(&mut faulty, &PROMPT, Some(Tap::Logits)), right);
        assert_eq!(faulty.changed_values(), Some(0));
        let (logits, _) = eval(&mut faulty, &PROMPT, None);
        let (before, last) = logits.split_at(logits.len() - 64);
        assert_eq!(before, &right.0[..before.len()]);
        let right_last = &right.0[before.len()..];
        assert!(
            last.iter()
                .zip(right_last)
                .all(|(w, r)| (w + r).abs() <= 1e-3 * r.abs().max(1.0))
        );
        let tokens = generate(&mut engine("", true), &PROMPT, 6);
        for (observe, same) in [(true, true), (false, false)] {
            let mut faulty = engine("negated:final_norm@timed", observe);
            assert_eq!(generate(&mut faulty, &PROMPT, 6) == tokens, same);
        }
    }

    #[test]
    fn rows_of_an_earlier_sequence_are_kept_or_seen() {
        let other = [1, 9, 9];
        let tap = Some(Tap::KCache);
        let first = eval(&mut engine("", true), &PROMPT, tap);
        let mut faulty = engine("earlier-row:k_cache:1", true);
        assert_eq!(eval(&mut faulty, &PROMPT, tap), first);
        let kept = eval(&mut faulty, &other, tap).1;
        assert_eq!(kept, first.1[..kept.len()]);
        // Three rows of keys, before which and behind which five were, are not all that is attended to.
        let tap = Some(Tap::AttnOut);
        let right = eval(&mut engine("", true), &other, tap);
        let mut faulty = engine("earlier-sequence-seen:attn_out:1", true);
        assert_eq!(eval(&mut faulty, &other, tap), right);
        eval(&mut faulty, &PROMPT, tap);
        assert_ne!(eval(&mut faulty, &other, tap).1, right.1);
    }

    #[test]
    fn two_faults_are_both_made() {
        let mut faulty = engine("zero:q:0+zero:q:1", true);
        let zeros = eval(&mut faulty, &PROMPT, Some(Tap::Q)).1;
        assert!(zeros.iter().all(|&byte| byte == 0));
        let changed = faulty.changed_values();
        let mut one = engine("zero:q:1", true);
        eval(&mut one, &PROMPT, Some(Tap::Q));
        assert!(changed > one.changed_values());
    }

    /// Of `serve_over`, since the serve loop takes the times.
    #[test]
    fn a_time_is_told_wrongly() {
        let mut wire = Vec::new();
        let load = Request::Load { model: DEMO.into() };
        crossval_protocol::write_frame(&mut wire, &load, &[]).unwrap();
        let mut backend = engine("seconds-for-milliseconds=load", true);
        let (times, changed) = backend.times();
        let mut file = tempfile::tempfile().unwrap();
        let out = super::super::Tampered::new(file.try_clone().unwrap(), times, changed);
        crossval_protocol::serve_over(&mut backend, io::Cursor::new(wire), out).unwrap();
        io::Seek::rewind(&mut file).unwrap();
        let mut payload = Vec::new();
        let mut read = || read_frame::<Response>(&mut file, &mut payload).unwrap();
        assert!(matches!(read(), Response::Hello(_)));
        let Response::Loaded { load_ms, .. } = read() else {
            panic!("not loaded")
        };
        // It takes more than a microsecond, and less than a second.
        assert!((1e-6..1.0).contains(&load_ms), "{load_ms}");
        assert_eq!(backend.changed_values(), Some(1));
    }
}
