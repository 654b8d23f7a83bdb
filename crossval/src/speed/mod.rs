//! How fast: timings of interleaved pairs, what the machine could do at best, and a run held against those before it.

pub mod bench;
pub mod gate;
pub mod roofline;
