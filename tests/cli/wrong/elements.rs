//! Faults in single elements and heads, and in engines that offer few taps.
