//! Engines on a model: how they are started, fed, kept in step, and held against themselves.

pub(crate) mod activation;
pub mod batches;
pub mod chat;
pub(crate) mod claims;
pub mod loaded;
pub mod lockstep;
pub mod model_file;
pub mod noise;
pub(crate) mod own_logits;
pub mod pair;
pub mod prompts;
pub mod settings;
pub mod setup;
pub mod template;
pub mod traces;
