//! Model families, by their names in `general.architecture`: one file each, with what sets its model files apart. How
//! a family computes is said by the engine and, again, by the oracle.

mod bitnet;
mod bitnet_25;
mod bitnet_b158;
mod llama;
mod qwen3;

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::activation::{Activation, Chosen, Source};
use crate::tap::Tap;

/// What sets the files of a family apart.
struct Family {
    /// `general.architecture`, which also prefixes the model's keys.
    name: &'static str,
    /// Taps that not every family has; of those, the ones that this one has.
    taps: &'static [Tap],
    /// Whether `output.weight` may stand in the file: else the head is the embedding, always.
    own_head: bool,
    /// The activation of a file that does not name it.
    activation: Activation,
    /// What else files of this name are known to have, without saying so.
    other_activations: &'static [Activation],
}

/// Taps that only some families have.
const OPTIONAL: [Tap; 4] = [Tap::QNorm, Tap::KNorm, Tap::AttnSubNorm, Tap::FfnSubNorm];

/// Makes the enum and the list of all from one list.
macro_rules! architectures {
    ($($(#[$doc:meta])* $architecture:ident = $file:ident;)*) => {
        /// A model family.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
        #[serde(into = "&'static str", try_from = "String")]
        pub enum Architecture {
            $($(#[$doc])* $architecture,)*
        }

        const FAMILIES: &[Family] = &[$($file::FAMILY),*];

        impl Architecture {
            /// Every architecture that is known.
            pub const ALL: [Architecture; FAMILIES.len()] = [$(Architecture::$architecture),*];
        }
    };
}

architectures! {
    /// BitNet b1.58 (the first releases).
    Bitnet = bitnet;
    /// BitNet b1.58 2B4T, earlier name.
    Bitnet25 = bitnet_25;
    /// BitNet b1.58 2B4T, and what newer converters write for every BitNet.
    BitnetB158 = bitnet_b158;
    /// LLaMA.
    Llama = llama;
    /// Qwen3.
    Qwen3 = qwen3;
}

impl Architecture {
    fn family(self) -> &'static Family {
        &FAMILIES[self as usize]
    }

    /// The name in `general.architecture`, which also prefixes the model's keys.
    pub fn name(self) -> &'static str {
        self.family().name
    }

    /// The one of that name.
    pub fn named(name: &str) -> Option<Architecture> {
        Architecture::ALL.into_iter().find(|a| a.name() == name)
    }

    /// The taps that its models have, in the order of the forward pass.
    pub fn taps(self) -> Vec<Tap> {
        let taps = Tap::ALL.into_iter();
        taps.filter(|&tap| self.has(tap)).collect()
    }

    /// Whether its models have a tap.
    pub fn has(self, tap: Tap) -> bool {
        !OPTIONAL.contains(&tap) || self.family().taps.contains(&tap)
    }

    /// The activation of a file that does not name it.
    pub fn activation(self) -> Chosen {
        let family = self.family();
        Chosen {
            function: family.activation,
            source: match family.other_activations {
                [] => Source::Architecture,
                _ => Source::Assumed,
            },
        }
    }

    /// The activations that its files are known to have beside that one, without saying so.
    pub fn other_activations(self) -> &'static [Activation] {
        self.family().other_activations
    }

    /// Whether its models may have an output matrix of their own.
    pub fn may_have_own_head(self) -> bool {
        self.family().own_head
    }
}

impl fmt::Display for Architecture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl From<Architecture> for &'static str {
    fn from(architecture: Architecture) -> &'static str {
        architecture.name()
    }
}

impl TryFrom<String> for Architecture {
    type Error = String;

    fn try_from(name: String) -> Result<Architecture, String> {
        Architecture::named(&name).ok_or_else(|| format!("unknown architecture {name:?}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back_and_name_one_each() {
        for architecture in Architecture::ALL {
            assert_eq!(Architecture::named(architecture.name()), Some(architecture));
        }
        assert_eq!(Architecture::named("bitnet-b1.59"), None);
    }

    #[test]
    fn each_family_has_norms_of_its_own() {
        let own = |architecture: Architecture| -> Vec<Tap> {
            let taps = architecture.taps().into_iter();
            taps.filter(|tap| OPTIONAL.contains(tap)).collect()
        };
        let sub_norms = [Tap::AttnSubNorm, Tap::FfnSubNorm];
        assert_eq!(own(Architecture::BitnetB158), sub_norms);
        assert_eq!(own(Architecture::Llama), []);
        assert_eq!(own(Architecture::Qwen3), [Tap::QNorm, Tap::KNorm]);
        assert_eq!(Architecture::Llama.taps().len(), Tap::ALL.len() - 4);
    }
}
