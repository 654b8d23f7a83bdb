//! What every part of bitnet-crossval says of a model: its file, its tensors, its shape, and the places at which
//! engines are compared.
//!
//! | module | what |
//! |---|---|
//! | [`gguf`] | the container: reading, with every count and offset checked, and writing |
//! | [`tap`] | the places in the forward pass at which engines are compared, in one table |
//! | [`activation`] | the function on the gate of the feed-forward network, and who says so |
//! | [`architecture`] | model families: one file of keys, tensors and taps each |
//! | [`hyperparameters`] | what a file says of its model's shape |
//! | `foreign_keys` | keys of what is computed in no way that is known here |
//! | [`layout`] | which tensors a model's file must hold, and in which shapes |
//! | [`lint`] | files that are not what they say, or that engines read in different ways |
//! | [`check`] | weights that no file should hold |
//! | [`encode`] | codes of ternary weights as blocks of a file |
//! | [`packing`] | in which bits I2_S has which code |
//! | [`scales`] | where the scales of a model's weights are |
//! | [`regular_file`] | opening what is read from its start to its end |
//! | [`nearest`] | names that nobody has, and what was meant |
//! | [`random`] | random numbers that are the same on every machine |
//! | `chat` | chat templates (feature `chat`) |
//!
//! How a model computes is said elsewhere, and twice: by the engine and by the oracle.
//!
//! ```
//! use bitnet_model::{Hyperparameters, gguf::Gguf, layout};
//!
//! # fn main() -> Result<(), bitnet_model::Error> {
//! # let path = std::path::Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../assets/tiny-bitnet.gguf"));
//! let gguf = Gguf::open(path)?;
//! let model = Hyperparameters::read(&gguf)?;
//! layout::check(&gguf, &model)?;
//! assert_eq!((model.n_layer, model.n_embd), (6, 128));
//! # Ok(())
//! # }
//! ```

pub mod activation;
pub mod architecture;
#[cfg(feature = "chat")]
pub mod chat;
pub mod check;
pub mod encode;
mod error;
mod foreign_keys;
pub mod gguf;
pub mod hyperparameters;
pub mod layout;
pub mod lint;
pub mod nearest;
pub mod packing;
pub mod random;
pub mod regular_file;
pub mod scales;
pub mod tap;
mod zeros;

pub use activation::Activation;
pub use architecture::Architecture;
pub use error::{Error, ErrorKind};
pub use hyperparameters::Hyperparameters;
pub use tap::Tap;
