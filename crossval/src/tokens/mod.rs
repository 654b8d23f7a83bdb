//! Tokenizers side by side: the same bytes go to both engines, and what comes back must be the same, token for token
//! and byte for byte.

mod alphabet;
mod compare;
mod dice;
mod escape;
mod fuzz;
mod generate;

use std::path::Path;

pub(crate) use self::alphabet::PASSAGE;
pub use self::compare::{Answer, Compared, DECODINGS, TextDifference, compare};
pub use self::escape::{escape, printf_argument};
pub use self::fuzz::{FuzzOptions, FuzzReport, Mismatch, PieceMismatch, fuzz};
pub use self::generate::{Case, Generator, Vocabulary};
use crate::engine::{Engine, EngineSpec, Failed, Launcher};
use crate::error::Error;
use crate::session::pair::Pair;
use crate::session::setup::Setup;
use crossval_protocol::VocabFacts;

/// Two engines that have loaded the vocabulary of one file, and nothing else of it.
#[derive(Debug)]
pub struct Tokenizers {
    /// The engine compared against.
    pub reference: Engine,
    /// The engine under test.
    pub candidate: Engine,
    /// The candidate's view of the vocabulary.
    pub facts: VocabFacts,
}

impl Tokenizers {
    /// Starts both and loads the vocabulary.
    ///
    /// # Errors
    /// If an engine cannot be started, has no tokenizer, or does not load the file; if they see different
    /// vocabularies.
    pub fn load(setup: &Setup) -> Result<Tokenizers, Error> {
        let Setup {
            launcher, model, ..
        } = setup;
        let candidate = start(launcher, &setup.candidate)?;
        let reference = start(launcher, &setup.reference)?;
        // Ours first: it names what is wrong with a file, where the reference aborts.
        let (candidate, facts) = load(candidate, model)?;
        let name = reference.label().to_owned();
        let (reference, of_reference) = load(reference, model).map_err(|e| match e {
            // One engine takes the file: it is not damaged.
            Error::BadInput(message) => Error::Engine(format!("engine {name}: {message}")),
            other => other,
        })?;
        if of_reference.n_vocab != facts.n_vocab {
            return Err(Error::BadInput(format!(
                "the engines read the vocabulary differently: {} tokens in {}, {} in {}",
                of_reference.n_vocab,
                reference.label(),
                facts.n_vocab,
                candidate.label()
            )));
        }
        Ok(Tokenizers {
            reference,
            candidate,
            facts,
        })
    }

    /// Both, for comparing.
    pub fn pair(&mut self) -> Pair<'_> {
        Pair {
            reference: &mut self.reference,
            candidate: &mut self.candidate,
        }
    }

    /// An engine that failed, as an error of the command; `what` says what it was at.
    pub fn failed(&self, Failed { role, error }: Failed, what: &str) -> Error {
        let engine = role.of(&self.reference, &self.candidate);
        match error.into_error(engine.label()) {
            Error::Engine(message) => Error::Engine(format!("{message} ({what})")),
            other => other,
        }
    }
}

/// One engine with the vocabulary of a file, and what that is.
///
/// # Errors
/// As [`Tokenizers::load`].
pub fn load_one(
    launcher: &Launcher,
    spec: &EngineSpec,
    model: &Path,
) -> Result<(Engine, VocabFacts), Error> {
    load(start(launcher, spec)?, model)
}

fn start(launcher: &Launcher, spec: &EngineSpec) -> Result<Engine, Error> {
    let engine = launcher.start(spec, None)?;
    match engine.hello().tokenizer {
        true => Ok(engine),
        false => Err(Error::Usage(format!("engine {spec} has no tokenizer"))),
    }
}

fn load(mut engine: Engine, model: &Path) -> Result<(Engine, VocabFacts), Error> {
    let loaded = engine.load_vocab(model);
    let (facts, _) = loaded.map_err(|e| e.into_error(engine.label()))?;
    Ok((engine, facts))
}
