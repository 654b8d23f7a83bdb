//! `crossval check-worker`: does a worker keep to the protocol? Every message, batches of several sizes, what must be
//! refused, both ways to end. Whether its values are right is for `crossval run` to say.

use std::collections::BTreeMap;
use std::path::Path;

use bitnet_model::tap::{Tap, sites};
use crossval_protocol::{
    DecodeOptions, EncodeOptions, ErrorKind, EvalRequest, ModelFacts, Response, Settings, TapHeader,
};
use half::f16;
use serde::Serialize;
use serde_json::json;

use crate::compare::site::stage;
use crate::compare::tap::row_nmse;
use crate::engine::{Engine, EngineError, EngineSpec, EvalEvent, Launcher};
use crate::error::Error;
use crate::interrupt;
use crate::progress::Progress;
use crate::session::claims;
use crate::session::lockstep::aligned;

/// Of [`Conformance::schema`].
const SCHEMA: &str = "crossval.check-worker/1";

/// Context and batch that workers are configured with.
const N_CTX: usize = 48;
const N_UBATCH: usize = 16;

/// Values of one evaluation that are asked for twice, or in other batches, differ by no more than this, NMSE: what kernels
/// for one token and for many make of a ternary model, with much room. What is not carried on at all is around 1.
const ALIKE: f64 = 0.1;

/// Values that follow from others than before differ by more than this, NMSE.
const OTHER: f64 = 1e-6;

/// How far below the largest logit a generated token's may be, as a share of the root mean square: a near tie.
const NEAR_TIE: f64 = 0.1;

/// What came of checking a worker.
#[derive(Clone, Debug, Serialize)]
pub struct Conformance {
    /// Always `crossval.check-worker/1`.
    pub schema: &'static str,
    /// The worker, as given on the command line.
    pub engine: String,
    /// Path of the model that it was to load; null where it was not asked.
    pub model: Option<String>,
    /// In the order in which they were made.
    pub checks: Vec<Check>,
}

/// One check.
#[derive(Clone, Debug, Serialize)]
pub struct Check {
    /// What a worker must do.
    pub name: &'static str,
    /// Whether it does; null if it offers nothing of the kind.
    pub passed: Option<bool>,
    /// What it does instead, or what it does not offer.
    pub what: Option<String>,
}

impl Conformance {
    /// Whether no check failed.
    pub fn passed(&self) -> bool {
        self.checks.iter().all(|check| check.passed != Some(false))
    }
}

/// Of a worker that cannot be asked anything, for which there is no hello: the first check failed, and no other made.
pub fn without_hello(spec: &EngineSpec, why: &Error) -> Conformance {
    let (name, _) = CHECKS[0];
    let failed = Check {
        name,
        passed: Some(false),
        what: Some(why.to_string()),
    };
    Conformance {
        schema: SCHEMA,
        engine: spec.to_string(),
        model: None,
        checks: vec![failed],
    }
}

/// Makes every check, each with a worker of its own: one that dies has failed that one alone.
///
/// # Errors
/// If the model cannot be read, or the worker's program cannot be started.
pub fn check(
    launcher: &Launcher,
    spec: &EngineSpec,
    model: &Path,
    progress: Progress<'_>,
) -> Result<Conformance, Error> {
    let oracle = launcher.start(&EngineSpec::Oracle, None);
    let facts = oracle.and_then(|mut oracle| {
        let loaded = oracle.load(model);
        Ok(loaded.map_err(|e| e.into_error("oracle"))?.0)
    })?;
    let subject = Subject {
        launcher,
        spec,
        model,
        facts,
    };
    progress.stage("checking");
    progress.steps(CHECKS.len() as u64);
    let mut checks = Vec::new();
    for &(name, run) in CHECKS {
        let (passed, what) = match run(&subject) {
            Ok(()) => (Some(true), None),
            Err(Complaint::Wrong(what)) => (Some(false), Some(what)),
            Err(Complaint::Refused(kind, message)) => (
                Some(false),
                Some(format!("it refuses, as {kind:?}: {message}")),
            ),
            Err(Complaint::NotOffered(what)) => (None, Some(what)),
        };
        checks.push(Check { name, passed, what });
        progress.done(1);
        interrupt::check()?;
        // Without a hello there is nothing to ask.
        if checks.len() == 1 && passed == Some(false) {
            break;
        }
    }
    // How workers ended is a check of its own.
    launcher.bad_ends.take();
    Ok(Conformance {
        schema: SCHEMA,
        engine: spec.to_string(),
        model: Some(model.display().to_string()),
        checks,
    })
}

/// A worker to be checked, and a model that it runs.
struct Subject<'a> {
    launcher: &'a Launcher,
    spec: &'a EngineSpec,
    model: &'a Path,
    facts: ModelFacts,
}

/// Why a check did not pass.
enum Complaint {
    Wrong(String),
    Refused(ErrorKind, String),
    NotOffered(String),
}

impl From<EngineError> for Complaint {
    fn from(e: EngineError) -> Complaint {
        match e {
            EngineError::Refused { kind, message } => Complaint::Refused(kind, message),
            EngineError::Failed(failure) => Complaint::Wrong(failure.message),
        }
    }
}

type Outcome = Result<(), Complaint>;

/// How it is found out whether a worker does what it must.
type Trial = fn(&Subject) -> Outcome;

/// Every check: what a worker must do, and how that is found out.
const CHECKS: &[(&str, Trial)] = &[
    ("sends a hello", hello),
    ("loads a model and says what it is", load),
    (
        "refuses a file that is not there, and lives on",
        missing_file,
    ),
    ("is configured, twice", configure),
    ("sends every row of every tap, in order", every_tap),
    (
        "evaluates batches of one and of as many as it may get",
        batches,
    ),
    ("sends no tap that was not asked for", unasked),
    ("goes on where the sequence ends", continued),
    ("starts again at position 0", again),
    ("refuses a gap in the sequence", gap),
    (
        "refuses a token that is not in the vocabulary",
        unknown_token,
    ),
    ("refuses more positions than the context has", overflow),
    ("returns the last token's logits", last_logits),
    ("keeps its own values when told to", keeps),
    ("goes on with values that it is given", overwrites),
    ("generates as many tokens as asked for", generates),
    ("generates the most likely token", greedy),
    ("tokenizes, and back", tokenizer),
    ("says what it used", usage),
    ("ignores fields that it does not know", unknown_fields),
    ("quits when told to", quits),
    ("ends with its standard input", ends_with_input),
];

fn wrong(what: impl Into<String>) -> Complaint {
    Complaint::Wrong(what.into())
}

impl Subject<'_> {
    fn start(&self) -> Result<Engine, Complaint> {
        let engine = self.launcher.start(self.spec, None);
        engine.map_err(|e| wrong(e.to_string()))
    }

    fn loaded(&self) -> Result<Engine, Complaint> {
        let mut engine = self.start()?;
        engine.load(self.model)?;
        engine.learn_taps()?;
        Ok(engine)
    }

    fn settings(&self, n_ctx: usize) -> Settings {
        Settings {
            n_ctx,
            n_ubatch: N_UBATCH,
            threads: 1,
            observe: true,
            compact_head_budget: 0,
        }
    }

    fn n_ctx(&self) -> usize {
        N_CTX.min(self.facts.n_ctx_train)
    }

    /// A worker that is ready to evaluate, and the taps that it offers of this model.
    fn ready(&self) -> Result<(Engine, Vec<Tap>), Complaint> {
        let mut engine = self.loaded()?;
        engine.configure(self.settings(self.n_ctx()))?;
        let offered = &engine.hello().taps;
        let taps = self.facts.taps.iter().copied();
        let taps = taps.filter(|tap| offered.contains(tap)).collect();
        Ok((engine, taps))
    }

    /// Token IDs, another one each.
    fn tokens(&self, n: usize) -> Vec<u32> {
        let n_vocab = self.facts.n_vocab.max(1);
        (0..n).map(|i| ((i * 7 + 1) % n_vocab) as u32).collect()
    }

    /// Every row that an evaluation has to send.
    fn complete(&self, sent: &Sent, first: usize, n: usize, taps: &[Tap]) -> Outcome {
        for (layer, tap) in sites(taps, self.facts.n_layer) {
            for position in first..first + n {
                if !sent.rows.contains_key(&(tap, layer, position)) {
                    let layer = layer.map_or(String::new(), |l| format!("layer {l}, "));
                    return Err(wrong(format!(
                        "of a batch of {n} it does not send {layer}{tap} at position {position}"
                    )));
                }
            }
        }
        Ok(())
    }
}

/// A row's place: tap, layer, position.
type RowAt = (Tap, Option<usize>, usize);

/// What came of an evaluation.
#[derive(Default)]
struct Sent {
    rows: BTreeMap<RowAt, Vec<u8>>,
    /// The last token's logits, if they were asked for.
    last_logits: Vec<f32>,
}

/// Evaluates a batch; what `given` makes of a piece is what the worker is to go on with, where `overwrite` is set.
fn evaluate(
    engine: &mut Engine,
    request: EvalRequest,
    mut given: impl FnMut(&TapHeader, &[u8]) -> Option<Vec<u8>>,
) -> Result<Sent, Complaint> {
    let mut sent = Sent::default();
    let mut before: Option<(Tap, Option<usize>)> = None;
    engine.begin_eval(request)?;
    while let EvalEvent::Tap(piece) = engine.next_event()? {
        let TapHeader { tap, layer, .. } = piece;
        if !request.taps.contains(&tap) {
            return Err(wrong(format!("it sends {tap}, which was not asked for")));
        }
        if let Some((earlier, of_layer)) = before
            && stage(earlier, of_layer) > stage(tap, layer)
        {
            return Err(wrong(format!(
                "it sends {tap} after {earlier}, which follows from it"
            )));
        }
        before = Some((tap, layer));
        let rows = engine.payload().chunks_exact(piece.row_bytes());
        for (i, row) in rows.enumerate() {
            let at = (tap, layer, piece.first_position + i);
            if sent.rows.insert(at, row.to_vec()).is_some() {
                return Err(wrong(format!("it sends {tap} at position {} twice", at.2)));
            }
        }
        if request.overwrite {
            let values = given(&piece, engine.payload());
            engine.overwrite(values.as_deref())?;
        }
    }
    if request.last_logits {
        sent.last_logits = aligned(engine.payload()).into_owned();
    }
    Ok(sent)
}

fn look(
    engine: &mut Engine,
    first: usize,
    tokens: &[u32],
    taps: &[Tap],
) -> Result<Sent, Complaint> {
    let request = EvalRequest {
        first_position: first,
        tokens,
        taps,
        overwrite: false,
        last_logits: false,
    };
    evaluate(engine, request, |_, _| None)
}

/// NMSE of the rows that both have, by the worst; attention sees other positions in other batches.
fn apart(a: &Sent, b: &Sent) -> f64 {
    let mut worst = 0.0_f64;
    for (at, row) in &a.rows {
        let Some(other) = b.rows.get(at).filter(|other| other.len() == row.len()) else {
            continue;
        };
        let nmse = match at.0.is_f16() {
            true => row_nmse::<f16>(&aligned(row), &aligned(other)),
            false => row_nmse::<f32>(&aligned(row), &aligned(other)),
        };
        worst = worst.max(if nmse.is_nan() { f64::INFINITY } else { nmse });
    }
    worst
}

/// That an evaluation was refused as it must be, and the worker is ready for the next.
fn refused(answer: Result<Sent, Complaint>, engine: &mut Engine, subject: &Subject) -> Outcome {
    match answer {
        Ok(_) => return Err(wrong("it answers as if nothing were wrong")),
        Err(Complaint::Refused(ErrorKind::Usage, _)) => {}
        Err(Complaint::Refused(kind, message)) => {
            return Err(wrong(format!(
                "it refuses it as {kind:?}, not as usage: {message}"
            )));
        }
        Err(other) => return Err(other),
    }
    match look(engine, 0, &subject.tokens(2), &[]) {
        Ok(_) => Ok(()),
        Err(Complaint::Wrong(what) | Complaint::Refused(_, what)) => {
            Err(wrong(format!("what comes after that fails: {what}")))
        }
        Err(other) => Err(other),
    }
}

fn hello(subject: &Subject) -> Outcome {
    let engine = subject.start()?;
    let hello = engine.hello();
    let mut taps = hello.taps.clone();
    taps.sort_unstable();
    taps.dedup();
    if hello.architectures.is_empty() {
        return Err(wrong("it names no architecture that it runs"));
    }
    match taps.len() == hello.taps.len() {
        true => Ok(()),
        false => Err(wrong("it offers a tap twice")),
    }
}

fn load(subject: &Subject) -> Outcome {
    let mut engine = subject.start()?;
    let (said, load_ms) = engine.load(subject.model)?;
    let wrong_claims = claims::false_claims(engine.hello(), &said, &subject.facts);
    if !wrong_claims.is_empty() {
        return Err(wrong(wrong_claims.join("; ")));
    }
    match load_ms.is_finite() && load_ms >= 0.0 {
        true => Ok(()),
        false => Err(wrong(format!("it loaded in {load_ms} ms"))),
    }
}

fn missing_file(subject: &Subject) -> Outcome {
    let mut engine = subject.start()?;
    match engine.load(Path::new("/nonexistent/model.gguf")) {
        Ok(_) => return Err(wrong("it loads a file that is not there")),
        Err(EngineError::Refused {
            kind: ErrorKind::BadModel,
            ..
        }) => {}
        Err(EngineError::Refused { kind, .. }) => {
            return Err(wrong(format!(
                "it refuses the file as {kind:?}, not as bad_model"
            )));
        }
        Err(e) => return Err(e.into()),
    }
    engine.load(subject.model)?;
    Ok(())
}

fn configure(subject: &Subject) -> Outcome {
    let mut engine = subject.loaded()?;
    for n_ctx in [subject.n_ctx(), subject.n_ctx() / 2] {
        engine.configure(subject.settings(n_ctx))?;
        look(&mut engine, 0, &subject.tokens(1), &[])?;
    }
    Ok(())
}

fn every_tap(subject: &Subject) -> Outcome {
    let (mut engine, taps) = subject.ready()?;
    if taps.is_empty() {
        return Err(wrong(
            "it offers no tap of this model: logits are the least",
        ));
    }
    let sent = look(&mut engine, 0, &subject.tokens(5), &taps)?;
    subject.complete(&sent, 0, 5, &taps)
}

fn batches(subject: &Subject) -> Outcome {
    let (mut engine, taps) = subject.ready()?;
    for n in [1, N_UBATCH, 2] {
        let sent = look(&mut engine, 0, &subject.tokens(n), &taps)?;
        subject.complete(&sent, 0, n, &taps)?;
    }
    Ok(())
}

fn unasked(subject: &Subject) -> Outcome {
    let (mut engine, taps) = subject.ready()?;
    for asked in [&taps[..taps.len().min(1)], &[]] {
        let sent = look(&mut engine, 0, &subject.tokens(3), asked)?;
        subject.complete(&sent, 0, 3, asked)?;
    }
    Ok(())
}

fn continued(subject: &Subject) -> Outcome {
    let (mut engine, taps) = subject.ready()?;
    let tokens = subject.tokens(8);
    let whole = look(&mut engine, 0, &tokens, &taps)?;
    look(&mut engine, 0, &tokens[..5], &taps)?;
    for first in 5..8 {
        let sent = look(&mut engine, first, &tokens[first..first + 1], &taps)?;
        subject.complete(&sent, first, 1, &taps)?;
        let nmse = apart(&whole, &sent);
        if nmse > ALIKE {
            return Err(wrong(format!(
                "position {first} by itself is another than in a batch from 0 on, NMSE {nmse:.1e}"
            )));
        }
    }
    Ok(())
}

fn again(subject: &Subject) -> Outcome {
    let (mut engine, taps) = subject.ready()?;
    let tokens = subject.tokens(6);
    let first = look(&mut engine, 0, &tokens, &taps)?;
    let second = look(&mut engine, 0, &tokens, &taps)?;
    match apart(&first, &second) {
        nmse if nmse > ALIKE => Err(wrong(format!(
            "the same tokens from position 0 on give other values, NMSE {nmse:.1e}"
        ))),
        _ => Ok(()),
    }
}

fn gap(subject: &Subject) -> Outcome {
    let (mut engine, _) = subject.ready()?;
    look(&mut engine, 0, &subject.tokens(3), &[])?;
    let answer = look(&mut engine, 5, &subject.tokens(1), &[]);
    refused(answer, &mut engine, subject)
}

fn unknown_token(subject: &Subject) -> Outcome {
    let (mut engine, _) = subject.ready()?;
    let n_vocab = u32::try_from(subject.facts.n_vocab).unwrap_or(u32::MAX);
    let answer = look(&mut engine, 0, &[1, n_vocab], &[]);
    refused(answer, &mut engine, subject)
}

fn overflow(subject: &Subject) -> Outcome {
    let mut engine = subject.loaded()?;
    let n_ctx = N_UBATCH.min(subject.n_ctx());
    engine.configure(subject.settings(n_ctx))?;
    look(&mut engine, 0, &subject.tokens(n_ctx), &[])?;
    let answer = look(&mut engine, n_ctx, &subject.tokens(1), &[]);
    refused(answer, &mut engine, subject)
}

/// The last token's logits of a batch.
fn logits(engine: &mut Engine, tokens: &[u32], taps: &[Tap]) -> Result<Sent, Complaint> {
    let request = EvalRequest {
        first_position: 0,
        tokens,
        taps,
        overwrite: false,
        last_logits: true,
    };
    evaluate(engine, request, |_, _| None)
}

fn last_logits(subject: &Subject) -> Outcome {
    let (mut engine, taps) = subject.ready()?;
    let tokens = subject.tokens(4);
    let logits = logits(&mut engine, &tokens, &[])?.last_logits;
    if !logits.iter().all(|x| x.is_finite()) {
        return Err(wrong("they are not finite"));
    }
    if !taps.contains(&Tap::Logits) {
        return Ok(());
    }
    let tapped = look(&mut engine, 0, &tokens, &[Tap::Logits])?;
    let row = tapped.rows.get(&(Tap::Logits, None, tokens.len() - 1));
    let nmse = row.map_or(f64::NAN, |row| row_nmse::<f32>(&aligned(row), &logits));
    match nmse > ALIKE || nmse.is_nan() {
        true => Err(wrong(format!(
            "they are others than the tap's, NMSE {nmse:.1e}"
        ))),
        false => Ok(()),
    }
}

/// An evaluation in which the worker is told what to go on with.
fn overwriting(
    engine: &mut Engine,
    tokens: &[u32],
    taps: &[Tap],
    given: impl FnMut(&TapHeader, &[u8]) -> Option<Vec<u8>>,
) -> Result<Sent, Complaint> {
    if !engine.hello().overwrite {
        return Err(Complaint::NotOffered("it takes no values".to_owned()));
    }
    let request = EvalRequest {
        first_position: 0,
        tokens,
        taps,
        overwrite: true,
        last_logits: false,
    };
    evaluate(engine, request, given)
}

fn keeps(subject: &Subject) -> Outcome {
    let (mut engine, taps) = subject.ready()?;
    let tokens = subject.tokens(4);
    let own = look(&mut engine, 0, &tokens, &taps)?;
    let kept = overwriting(&mut engine, &tokens, &taps, |_, _| None)?;
    subject.complete(&kept, 0, 4, &taps)?;
    match apart(&own, &kept) {
        nmse if nmse > ALIKE => Err(wrong(format!("it sends others then, NMSE {nmse:.1e}"))),
        _ => Ok(()),
    }
}

/// Each tap in turn gets the values of the same rows of other tokens: whatever comes last must show it.
fn overwrites(subject: &Subject) -> Outcome {
    let (mut engine, taps) = subject.ready()?;
    let tokens = subject.tokens(4);
    let Some(last) = sites(&taps, subject.facts.n_layer).last() else {
        return Err(Complaint::NotOffered("it offers no tap".to_owned()));
    };
    let own = overwriting(&mut engine, &tokens, &taps, |_, _| None)?;
    let end = |sent: &Sent| Sent {
        rows: sent
            .rows
            .iter()
            .filter(|((tap, layer, position), _)| (*layer, *tap) == last && *position == 3)
            .map(|(&at, row)| (at, row.clone()))
            .collect(),
        last_logits: Vec::new(),
    };
    for &tap in taps.iter().filter(|&&tap| tap != last.1) {
        let given = overwriting(&mut engine, &tokens, &taps, |piece, values| {
            (piece.tap == tap).then(|| other_values(piece, values))
        })?;
        if apart(&end(&own), &end(&given)) < OTHER {
            return Err(wrong(format!(
                "{} is what it was before {tap} got other values",
                last.1
            )));
        }
    }
    Ok(())
}

/// Values of the same size, with every head's and every row's share in another order.
fn other_values(piece: &TapHeader, values: &[u8]) -> Vec<u8> {
    let mut values = values.to_vec();
    let value = piece.row_bytes() / piece.width.max(1);
    for row in values.chunks_exact_mut(piece.row_bytes().max(1)) {
        row.rotate_left(value.min(row.len()));
    }
    values
}

fn generates(subject: &Subject) -> Outcome {
    let (mut engine, _) = subject.ready()?;
    for n in [4, 1, 0] {
        let (tokens, prefill_ms, decode_ms) = engine.generate(&subject.tokens(3), n)?;
        if tokens.len() != n || decode_ms.len() != n.saturating_sub(1) {
            let (got, times) = (tokens.len(), decode_ms.len());
            return Err(wrong(format!(
                "asked for {n}, it sends {got}, and {times} times of steps"
            )));
        }
        let beyond = tokens
            .iter()
            .find(|&&t| t as usize >= subject.facts.n_vocab);
        if let Some(token) = beyond {
            return Err(wrong(format!("token {token} is not in the vocabulary")));
        }
        let mut times = decode_ms.iter().chain([&prefill_ms]);
        if !times.all(|ms| ms.is_finite() && *ms >= 0.0) {
            return Err(wrong("a time is none"));
        }
    }
    Ok(())
}

fn greedy(subject: &Subject) -> Outcome {
    let (mut engine, _) = subject.ready()?;
    let prompt = subject.tokens(5);
    let (tokens, ..) = engine.generate(&prompt, 2)?;
    for (i, &token) in tokens.iter().enumerate() {
        let all = [&prompt, &tokens[..i]].concat();
        let logits = logits(&mut engine, &all, &[])?.last_logits;
        let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let squares = logits.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>();
        let rms = (squares / logits.len().max(1) as f64).sqrt();
        let of_token = logits.get(token as usize).copied().unwrap_or(f32::NAN);
        let below = f64::from(largest) - f64::from(of_token);
        if below.is_nan() || below > NEAR_TIE * rms {
            return Err(wrong(format!(
                "token {i} is {token}, whose logit is {below:.3} below the largest"
            )));
        }
    }
    Ok(())
}

fn tokenizer(subject: &Subject) -> Outcome {
    let mut engine = subject.start()?;
    if !engine.hello().tokenizer {
        return Err(Complaint::NotOffered("it has no tokenizer".to_owned()));
    }
    let (vocab, _) = engine.load_vocab(subject.model)?;
    let text = "Once upon a time";
    let options = EncodeOptions {
        add_special: false,
        parse_special: false,
    };
    let (ids, _) = engine.tokenize(text.as_bytes(), options)?;
    if ids.is_empty() || ids.iter().any(|&id| id as usize >= vocab.n_vocab) {
        return Err(wrong(format!("{text:?} becomes {ids:?}")));
    }
    engine.tokenize(b"", options)?;
    // Bytes that are no UTF-8 may be refused, and may not be its end.
    match engine.tokenize(b"\xff", options) {
        Ok(_) | Err(EngineError::Refused { .. }) => {}
        Err(e) => return Err(e.into()),
    }
    engine.pieces(&ids)?;
    let back = engine.detokenize(&ids, DecodeOptions::default())?;
    let back = String::from_utf8_lossy(&back).into_owned();
    match back.trim_start() == text {
        true => Ok(()),
        false => Err(wrong(format!("{text:?} comes back as {back:?}"))),
    }
}

fn usage(subject: &Subject) -> Outcome {
    let (mut engine, _) = subject.ready()?;
    let usage = engine.usage()?;
    let bad = usage.cpu_seconds.is_some_and(|s| !s.is_finite() || s < 0.0);
    match bad || usage.peak_rss_bytes == Some(0) {
        true => Err(wrong(format!("{usage:?}"))),
        false => Ok(()),
    }
}

fn unknown_fields(subject: &Subject) -> Outcome {
    let mut engine = subject.start()?;
    let request = json!({"type": "usage", "of": "a later version"});
    match engine.ask(&request)? {
        Response::Usage(_) => {}
        other => return Err(wrong(format!("it answers {other:?}"))),
    }
    let request = json!({"type": "load", "model": subject.model, "lazily": true});
    match engine.ask(&request)? {
        Response::Loaded { .. } => Ok(()),
        other => Err(wrong(format!("it answers {other:?}"))),
    }
}

fn quits(subject: &Subject) -> Outcome {
    let (mut engine, _) = subject.ready()?;
    let failure = engine.end();
    failure.map_or(Ok(()), |failure| Err(wrong(failure.message)))
}

fn ends_with_input(subject: &Subject) -> Outcome {
    let (mut engine, _) = subject.ready()?;
    let failure = engine.end_by_closing();
    failure.map_or(Ok(()), |failure| Err(wrong(failure.message)))
}
