//! Faults that need a batch size, a position, a path or a history to show.
