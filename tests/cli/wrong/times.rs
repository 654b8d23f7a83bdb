//! Engines that lie about their speed.
