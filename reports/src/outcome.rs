//! Exit codes: one enum, documented, stable.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How a command ended. Where several hold, the one that [`Outcome::worst`] prefers is reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// 0: pass (also with known deviations).
    Pass,
    /// 10: numerical parity failed, or an injected fault went undetected.
    Parity,
    /// 11: performance regressed.
    Performance,
    /// 12: parity failed and performance regressed.
    ParityAndPerformance,
    /// 20: something that was to be compared was not.
    Incomplete,
    /// 21: no baseline to compare with.
    NoBaseline,
    /// 30: an engine is missing or failed.
    Engine,
    /// 64: wrong usage (also: prompt longer than the context).
    Usage,
    /// 65: bad model or input file.
    BadInput,
    /// 70: internal error.
    Internal,
    /// 74: input/output error.
    Io,
    /// 130: interrupted (SIGINT).
    Interrupted,
    /// 143: terminated (SIGTERM).
    Terminated,
}

impl Outcome {
    const ALL: [Outcome; 13] = [
        Outcome::Pass,
        Outcome::Parity,
        Outcome::Performance,
        Outcome::ParityAndPerformance,
        Outcome::Incomplete,
        Outcome::NoBaseline,
        Outcome::Engine,
        Outcome::Usage,
        Outcome::BadInput,
        Outcome::Internal,
        Outcome::Io,
        Outcome::Interrupted,
        Outcome::Terminated,
    ];

    /// The process exit code.
    pub fn exit_code(self) -> u8 {
        match self {
            Outcome::Pass => 0,
            Outcome::Parity => 10,
            Outcome::Performance => 11,
            Outcome::ParityAndPerformance => 12,
            Outcome::Incomplete => 20,
            Outcome::NoBaseline => 21,
            Outcome::Engine => 30,
            Outcome::Usage => 64,
            Outcome::BadInput => 65,
            Outcome::Internal => 70,
            Outcome::Io => 74,
            Outcome::Interrupted => 130,
            Outcome::Terminated => 143,
        }
    }

    /// The outcome to report where both hold: interruption, then
    /// 70 > 74 > 65, 64 > 30 > 20 > 12, 11, 10 > 21 > 0; 10 with 11 is 12.
    pub fn worst(self, other: Outcome) -> Outcome {
        use Outcome::{Parity, ParityAndPerformance, Performance};
        if matches!((self, other), (Parity, Performance) | (Performance, Parity)) {
            return ParityAndPerformance;
        }
        if self.severity() >= other.severity() {
            self
        } else {
            other
        }
    }

    /// The outcome to report where all of these hold; a pass if there are none.
    pub fn worst_of(outcomes: impl IntoIterator<Item = Outcome>) -> Outcome {
        outcomes.into_iter().fold(Outcome::Pass, Outcome::worst)
    }

    /// The outcome with an exit code; one that no command ends with is an internal error.
    pub(crate) fn of_exit_code(code: u8) -> Outcome {
        let outcome = Self::ALL.into_iter().find(|o| o.exit_code() == code);
        outcome.unwrap_or(Outcome::Internal)
    }

    /// Orders outcomes by what is reported where several hold.
    pub fn severity(self) -> u8 {
        match self {
            Outcome::Pass => 0,
            Outcome::NoBaseline => 1,
            Outcome::Parity => 2,
            Outcome::Performance => 3,
            Outcome::ParityAndPerformance => 4,
            Outcome::Incomplete => 5,
            Outcome::Engine => 6,
            Outcome::Usage => 7,
            Outcome::BadInput => 8,
            Outcome::Io => 9,
            Outcome::Internal => 10,
            Outcome::Interrupted => 11,
            Outcome::Terminated => 12,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Outcome::{self, *};

    #[test]
    fn exit_codes_are_read_back() {
        for outcome in Outcome::ALL {
            assert_eq!(Outcome::of_exit_code(outcome.exit_code()), outcome);
        }
        assert_eq!(Outcome::of_exit_code(99), Internal);
    }

    #[test]
    fn precedence() {
        let cases: [(Outcome, Outcome, Outcome); 7] = [
            (Pass, NoBaseline, NoBaseline),
            (Parity, NoBaseline, Parity),
            (Parity, Performance, ParityAndPerformance),
            (ParityAndPerformance, Incomplete, Incomplete),
            (Incomplete, Engine, Engine),
            (Engine, BadInput, BadInput),
            (Io, Internal, Internal),
        ];
        for (a, b, want) in cases {
            assert_eq!(a.worst(b), want, "{a:?} and {b:?}");
            assert_eq!(b.worst(a), want, "{b:?} and {a:?}");
        }
    }
}
