//! Files of models held against each other and made of each other: what differs, and whether a mistake that converters make
//! explains it.
//!
//! | module | what |
//! |---|---|
//! | [`weights`] | the weights of a file, row by row, with every scale applied |
//! | [`checkpoint`] | a checkpoint of Hugging Face, seen as what GGUF makes of it |
//! | [`mod@diff`] | two files: keys, vocabulary, tensors |
//! | [`mod@convert`] | a model with its matrices in another type |
//!
//! Files are mapped and gone through row by row: memory does not grow with the model.

pub mod checkpoint;
pub mod convert;
pub mod diff;
mod encode;
pub mod weights;
