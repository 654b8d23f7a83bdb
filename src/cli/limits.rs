//! Flags of the commands that start engines.

use std::num::NonZero;
use std::path::PathBuf;

use bitnet_model::Activation;
use bitnet_model::nearest::did_you_mean;
use bytesize::ByteSize;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use crossval::Error;
use crossval::engine::{Launcher, Limits};
use reports::Format;

/// Less than this no engine starts with.
const LEAST_MEMORY: ByteSize = ByteSize::mib(16);

/// The model's file, by its place or by a flag.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct ModelFile {
    /// The model, a GGUF file
    #[arg(value_name = "MODEL", help_heading = None::<&'static str>)]
    model: Option<PathBuf>,
    /// The model, by a flag
    #[arg(short = 'm', long = "model", value_name = "FILE")]
    model_by_flag: Option<PathBuf>,
}

impl ModelFile {
    /// The file, if one is given.
    ///
    /// # Errors
    /// [`Error::Usage`] for two different ones.
    pub(super) fn given(self) -> Result<Option<PathBuf>, Error> {
        match (self.model, self.model_by_flag) {
            (Some(model), Some(by_flag)) if model != by_flag => Err(Error::Usage(format!(
                "two models are given: {}, and --model {}",
                model.display(),
                by_flag.display()
            ))),
            (model, by_flag) => Ok(model.or(by_flag)),
        }
    }

    /// The file.
    ///
    /// # Errors
    /// [`Error::Usage`] for none, and for two different ones.
    pub(super) fn required(self) -> Result<PathBuf, Error> {
        let none = "no model is given: name a GGUF file, with or without --model in front";
        self.given()?.ok_or_else(|| Error::Usage(none.to_owned()))
    }
}

/// What an engine may take.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(super) struct LimitFlags {
    /// Longest that an engine may take for one message, seconds; then it is ended
    #[arg(long, value_name = "SECONDS", default_value_t = Limits::TIMEOUT, value_parser = seconds, allow_negative_numbers = true)]
    timeout: NonZero<u32>,
    /// Memory that an engine may allocate, such as 4GiB: its data and its threads' stacks, not the mapped model
    #[arg(long, value_name = "SIZE", value_parser = memory)]
    memory_limit: Option<ByteSize>,
}

fn seconds(text: &str) -> Result<NonZero<u32>, String> {
    let what = "must be a whole number of seconds, 1 or more, such as 600";
    text.parse().map_err(|_| what.to_owned())
}

fn memory(text: &str) -> Result<ByteSize, String> {
    match text.parse() {
        Ok(size) if size >= LEAST_MEMORY => Ok(size),
        Ok(size) => Err(format!(
            "{size} is too little: no engine starts with less than {LEAST_MEMORY}"
        )),
        Err(_) => Err("must be a size, such as 4GiB or 500MB".to_owned()),
    }
}

/// The format of that name.
pub(super) fn format(name: &str) -> Result<Format, String> {
    let meant = did_you_mean(name, Format::ALL.map(Format::name));
    name.parse()
        .map_err(|e: reports::Error| format!("{e}{meant}"))
}

impl LimitFlags {
    pub(super) fn launcher(self) -> Launcher {
        Launcher {
            limits: Limits {
                timeout: self.timeout,
                memory: self.memory_limit,
            },
            ..launcher()
        }
    }
}

/// What the model is taken to be.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(super) struct ModelFlags {
    /// Take the model to have this activation, whatever its file says; engines behind exec: are not told
    #[arg(long, value_name = "NAME", value_parser = activation())]
    activation: Option<Activation>,
}

impl ModelFlags {
    pub(super) fn apply(self, launcher: Launcher) -> Launcher {
        Launcher {
            activation: self.activation,
            ..launcher
        }
    }
}

pub(super) fn activation() -> impl TypedValueParser<Value = Activation> {
    let names = PossibleValuesParser::new(Activation::ALL.map(Activation::name));
    names.try_map(|name| Activation::named(&name).ok_or("unknown activation"))
}

/// Starts engines without limits of their own.
pub(super) fn launcher() -> Launcher {
    Launcher {
        has_reference: crossval_workers::has_reference(),
        ..Launcher::default()
    }
}
