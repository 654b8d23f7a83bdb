//! Engines that differ from themselves, or from the other on a text.
