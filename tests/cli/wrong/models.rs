//! Broken models, and engines that lie about themselves or fall at the end.
