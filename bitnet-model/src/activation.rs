//! Which function is on the gate of the feed-forward network, and who says so.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::gguf::Gguf;

/// The function on the gate of the feed-forward network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    /// `x / (1 + exp(-x))`.
    Silu,
    /// `max(0, x)^2`.
    Relu2,
}

impl Activation {
    /// Every one that is known.
    pub const ALL: [Activation; 2] = [Activation::Silu, Activation::Relu2];

    /// Its name in `<arch>.hidden_activation`.
    pub fn name(self) -> &'static str {
        self.names()[0]
    }

    /// Its names in files: Hugging Face's, and those of llama.cpp for the gated function as a whole.
    fn names(self) -> &'static [&'static str] {
        match self {
            Activation::Silu => &["silu", "swish", "swiglu"],
            Activation::Relu2 => &["relu2", "relu_squared"],
        }
    }

    /// The one of that name.
    pub fn named(name: &str) -> Option<Activation> {
        let mut all = Activation::ALL.into_iter();
        all.find(|activation| activation.names().contains(&name))
    }
}

/// As people write it.
impl fmt::Display for Activation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Activation::Silu => "SiLU",
            Activation::Relu2 => "ReLU²",
        })
    }
}

/// Who says what the activation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// The file, by `<arch>.hidden_activation`.
    File,
    /// The architecture, of which there is no other.
    Architecture,
    /// Nobody: the architecture's usual one, where files of its name exist with another.
    Assumed,
    /// Whoever runs the model, whatever the file says.
    Override,
}

/// The activation of a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chosen {
    /// Which it is.
    pub function: Activation,
    /// Who says so.
    pub source: Source,
}

/// The metadata key, without the architecture in front (llama.cpp's `LLM_KV_HIDDEN_ACT`).
pub const KEY: &str = "hidden_activation";

impl Chosen {
    /// That of a model of an architecture: `given` before what the file says, and that before `usual`.
    ///
    /// # Errors
    /// [`Unsupported`](crate::ErrorKind::Unsupported) for a name that stands for no [`Activation`],
    /// [`BadFile`](crate::ErrorKind::BadFile) if the key is no string.
    pub(crate) fn of(
        gguf: &Gguf,
        architecture: &str,
        usual: Chosen,
        given: Option<Activation>,
    ) -> Result<Chosen, Error> {
        if let Some(function) = given {
            return Ok(Chosen {
                function,
                source: Source::Override,
            });
        }
        let key = format!("{architecture}.{KEY}");
        let Some(name) = gguf.metadata().optional::<&str>(&key)? else {
            return Ok(usual);
        };
        let function = Activation::named(name).ok_or_else(|| {
            let known = Activation::ALL.map(Activation::name).join(", ");
            let what = format!("{key}: {name:?} is not supported (known: {known})");
            Error::unsupported(gguf.path(), what)
        })?;
        Ok(Chosen {
            function,
            source: Source::File,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::architecture::Architecture;
    use crate::gguf::{Metadata, Value, Writer};

    fn chosen(
        architecture: Architecture,
        value: Option<Value>,
        given: Option<Activation>,
    ) -> Result<(Activation, Source), Error> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.gguf");
        let mut metadata = Metadata::new(Path::new("m.gguf"));
        if let Some(value) = value {
            let key = format!("{architecture}.{KEY}");
            metadata.insert(&key, value).unwrap();
        }
        let file = std::fs::File::create(&path).unwrap();
        let writer = Writer::new(metadata).unwrap().begin(file).unwrap();
        writer.finish().unwrap();
        let gguf = Gguf::open(&path).unwrap();
        let usual = architecture.activation();
        Chosen::of(&gguf, architecture.name(), usual, given)
            .map(|chosen| (chosen.function, chosen.source))
    }

    #[test]
    fn names_are_read_back_and_name_one_each() {
        for activation in Activation::ALL {
            for name in activation.names() {
                assert_eq!(Activation::named(name), Some(activation));
            }
        }
        assert_eq!(Activation::named("SiLU"), None);
    }

    #[test]
    fn whoever_runs_it_decides_then_the_file_then_the_architecture() {
        use Activation::{Relu2, Silu};
        let b158 = Architecture::BitnetB158;
        for (architecture, key, given, want) in [
            (b158, None, None, (Relu2, Source::Assumed)),
            (Architecture::Bitnet25, None, None, (Relu2, Source::Assumed)),
            (
                Architecture::Bitnet,
                None,
                None,
                (Silu, Source::Architecture),
            ),
            (
                Architecture::Llama,
                None,
                None,
                (Silu, Source::Architecture),
            ),
            (b158, Some("silu"), None, (Silu, Source::File)),
            (
                Architecture::Bitnet,
                Some("relu2"),
                None,
                (Relu2, Source::File),
            ),
            (b158, Some("silu"), Some(Relu2), (Relu2, Source::Override)),
            (b158, Some("gelu"), Some(Silu), (Silu, Source::Override)),
            (b158, None, Some(Relu2), (Relu2, Source::Override)),
        ] {
            let got = chosen(architecture, key.map(Value::from), given).unwrap();
            assert_eq!(got, want, "{architecture} {key:?} {given:?}");
        }
    }

    #[test]
    fn what_no_engine_computes_is_refused_by_name() {
        let error = chosen(Architecture::Bitnet, Some("gelu".into()), None).unwrap_err();
        assert_eq!(error.kind(), crate::ErrorKind::Unsupported);
        assert!(
            error
                .to_string()
                .contains("bitnet.hidden_activation: \"gelu\""),
            "{error}"
        );
        let error = chosen(Architecture::Bitnet, Some(1u32.into()), None).unwrap_err();
        assert_eq!(error.kind(), crate::ErrorKind::BadFile);
    }
}
