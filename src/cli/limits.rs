//! Flags of the commands that start engines.

use std::num::NonZero;

use bitnet_model::Activation;
use bytesize::ByteSize;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use crossval::engine::{Launcher, Limits};

/// What an engine may take.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(super) struct LimitFlags {
    /// Longest that an engine may take for one message, seconds; then it is ended
    #[arg(long, value_name = "SECONDS", default_value_t = Limits::TIMEOUT)]
    timeout: NonZero<u32>,
    /// Memory that an engine may allocate, such as 4GiB: its data and its threads' stacks, not the mapped model
    #[arg(long, value_name = "SIZE")]
    memory_limit: Option<ByteSize>,
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
