//! Engines that generate what their own logits do not say.
