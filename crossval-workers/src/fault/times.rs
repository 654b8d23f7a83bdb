//! Mistakes in what an engine says of its times.

use std::cell::Cell;
use std::io::{self, Write};
use std::rc::Rc;

use crossval_protocol::{Response, read_frame, write_frame};

/// A way of telling times wrongly.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TimingMistake {
    /// Seconds, for milliseconds.
    SecondsForMilliseconds,
    /// Half of the time.
    HalfTheTime,
    /// A tenth of the time.
    TenthOfTheTime,
    /// Twice the time.
    TwiceTheTime,
}

/// What is timed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Figure {
    /// Loading the model.
    Load,
    /// The prompt.
    Prefill,
    /// Each step.
    Decode,
}

impl TimingMistake {
    /// Every one.
    pub const ALL: [TimingMistake; 4] = [
        TimingMistake::SecondsForMilliseconds,
        TimingMistake::HalfTheTime,
        TimingMistake::TenthOfTheTime,
        TimingMistake::TwiceTheTime,
    ];

    /// Its name in a fault's text form.
    pub fn name(self) -> &'static str {
        match self {
            TimingMistake::SecondsForMilliseconds => "seconds-for-milliseconds",
            TimingMistake::HalfTheTime => "half-the-time",
            TimingMistake::TenthOfTheTime => "tenth-of-the-time",
            TimingMistake::TwiceTheTime => "twice-the-time",
        }
    }

    /// The mistake of that name.
    pub fn named(name: &str) -> Option<TimingMistake> {
        TimingMistake::ALL.into_iter().find(|m| m.name() == name)
    }

    fn factor(self) -> f64 {
        match self {
            TimingMistake::SecondsForMilliseconds => 1e-3,
            TimingMistake::HalfTheTime => 0.5,
            TimingMistake::TenthOfTheTime => 0.1,
            TimingMistake::TwiceTheTime => 2.0,
        }
    }
}

impl Figure {
    /// Every one.
    pub const ALL: [Figure; 3] = [Figure::Load, Figure::Prefill, Figure::Decode];

    /// Its name in a fault's text form.
    pub fn name(self) -> &'static str {
        match self {
            Figure::Load => "load",
            Figure::Prefill => "prefill",
            Figure::Decode => "decode",
        }
    }

    /// The figure of that name.
    pub fn named(name: &str) -> Option<Figure> {
        Figure::ALL.into_iter().find(|figure| figure.name() == name)
    }
}

/// The way to the driver, on which times are changed: the serve loop takes them, and no backend has a hand in that.
pub(crate) struct Tampered<W> {
    out: W,
    faults: Vec<(TimingMistake, Figure)>,
    /// Figures changed so far.
    changed: Rc<Cell<u64>>,
    /// Written and not yet flushed: one frame.
    frame: Vec<u8>,
}

impl<W: Write> Tampered<W> {
    /// To `out`; figures changed are counted in `changed`.
    pub(crate) fn new(
        out: W,
        faults: Vec<(TimingMistake, Figure)>,
        changed: Rc<Cell<u64>>,
    ) -> Tampered<W> {
        Tampered {
            out,
            faults,
            changed,
            frame: Vec::new(),
        }
    }

    fn change(&self, response: &mut Response) {
        for &(mistake, figure) in &self.faults {
            let mut times: Vec<&mut f64> = match (figure, &mut *response) {
                (Figure::Load, Response::Loaded { load_ms, .. }) => vec![load_ms],
                (Figure::Prefill, Response::Generated { prefill_ms, .. }) => vec![prefill_ms],
                (Figure::Decode, Response::Generated { decode_ms, .. }) => {
                    decode_ms.iter_mut().collect()
                }
                _ => continue,
            };
            times.iter_mut().for_each(|ms| **ms *= mistake.factor());
            self.changed.set(self.changed.get() + times.len() as u64);
        }
    }
}

impl<W: Write> Write for Tampered<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.frame.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        let frame = std::mem::take(&mut self.frame);
        if frame.is_empty() {
            return self.out.flush();
        }
        let mut payload = Vec::new();
        let mut response: Response =
            read_frame(&mut frame.as_slice(), &mut payload).map_err(io::Error::other)?;
        self.change(&mut response);
        write_frame(&mut self.out, &response, &payload)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_changed_and_nothing_else() {
        let changed = Rc::new(Cell::new(0));
        let faults = vec![(TimingMistake::HalfTheTime, Figure::Decode)];
        let mut out = Tampered::new(Vec::new(), faults, Rc::clone(&changed));
        let generated = |decode_ms| Response::Generated {
            prefill_ms: 8.0,
            decode_ms,
        };
        write_frame(&mut out, &generated(vec![2.0, 4.0]), &[7; 5000]).unwrap();
        write_frame(&mut out, &Response::Evaluated, &[1, 2]).unwrap();
        let (mut wire, mut payload) = (out.out.as_slice(), Vec::new());
        let mut read = || {
            let response: Response = read_frame(&mut wire, &mut payload).unwrap();
            (response, payload.len())
        };
        assert_eq!(read(), (generated(vec![1.0, 2.0]), 5000));
        assert_eq!(read(), (Response::Evaluated, 2));
        assert_eq!(changed.get(), 2);
    }

    #[test]
    fn names_are_distinct() {
        for mistake in TimingMistake::ALL {
            assert_eq!(TimingMistake::named(mistake.name()), Some(mistake));
        }
        for figure in Figure::ALL {
            assert_eq!(Figure::named(figure.name()), Some(figure));
        }
    }
}
