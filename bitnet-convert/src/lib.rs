//! Files of models held against each other: what differs, and whether a mistake that converters make explains it.
//!
//! | module | what |
//! |---|---|
//! | [`weights`] | the weights of a file, row by row, with every scale applied |
//! | [`mod@diff`] | two files: keys, vocabulary, tensors |
//!
//! Files are mapped and gone through row by row: memory does not grow with the model.

pub mod diff;
pub mod weights;
