//! How long the parts of a run take.

use std::time::Instant;

use reports::model::{Mode, Source, Took, TookPart};

/// Times a run from its start, and parts of it.
pub(crate) struct Stopwatch {
    start: Instant,
    parts: Vec<TookPart>,
}

impl Stopwatch {
    pub(crate) fn start() -> Stopwatch {
        Stopwatch {
            start: Instant::now(),
            parts: Vec::new(),
        }
    }

    /// Does `work`, which is what a part of the run consists of.
    pub(crate) fn time<T>(
        &mut self,
        (part, prompt, mode): (Source, Option<usize>, Option<Mode>),
        work: impl FnOnce() -> T,
    ) -> T {
        let start = Instant::now();
        let result = work();
        self.parts.push(TookPart {
            part,
            prompt,
            mode,
            seconds: start.elapsed().as_secs_f64(),
        });
        result
    }

    /// All of it until now.
    pub(crate) fn stop(self) -> Took {
        Took {
            seconds: self.start.elapsed().as_secs_f64(),
            parts: self.parts,
        }
    }
}
