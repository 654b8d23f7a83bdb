//! What a worker says that it has used, held against what the operating system counts.

use crossval_protocol::Usage;
use reports::number;

use crate::engine::{Consumption, Engine, EngineError};

/// What one count may be above another of the same: pages and ticks that one has and the other has not yet.
const SHARE: f64 = 0.1;

/// Likewise, bytes.
const BYTES: u64 = 16 << 20;

/// Likewise, seconds: ticks of 10 ms of several counts.
const SECONDS: f64 = 0.05;

/// What both say at one time.
pub(super) struct Usages {
    said: Usage,
    counted: Option<Consumption>,
}

impl Usages {
    pub(super) fn now(engine: &mut Engine) -> Result<Usages, EngineError> {
        Ok(Usages {
            said: engine.usage()?,
            counted: engine.consumption(),
        })
    }

    /// Largest resident set, bytes: as counted, else as said.
    pub(super) fn peak_rss_bytes(&self) -> Option<u64> {
        let counted = self.counted.map(|counted| counted.peak_rss_bytes);
        counted.or(self.said.peak_rss_bytes)
    }

    /// Why what is said since `begun` does not fit what is counted, as a predicate of the worker. `driver_peak` is the
    /// driver's own largest resident set, bytes: getrusage counts in a worker what it was a copy of before exec.
    ///
    /// A worker of several processes may speak of one of them alone.
    pub(super) fn contradiction(&self, begun: &Usages, driver_peak: u64) -> Option<String> {
        let (counted, before) = self.counted.zip(begun.counted)?;
        let (said, said_before) = (&self.said, &begun.said);
        if let Some(peak) = said.peak_rss_bytes {
            let most = above(counted.peak_rss_bytes.max(driver_peak) as f64) + BYTES as f64;
            let least = counted.smallest_peak_bytes / 2;
            if peak as f64 > most || peak < least {
                return Some(format!(
                    "says that its memory peaked at {}, and the system says {}",
                    number::bytes(peak as f64),
                    number::bytes(counted.peak_rss_bytes as f64)
                ));
            }
        }
        let (after, earlier) = said.cpu_seconds.zip(said_before.cpu_seconds)?;
        let (grown, used) = (after - earlier, counted.cpu_seconds - before.cpu_seconds);
        let least = match counted.smallest_peak_bytes == counted.peak_rss_bytes {
            true => used / 2.0 - SECONDS,
            false => 0.0,
        };
        let fits = earlier >= 0.0
            && (least..=above(used) + SECONDS).contains(&grown)
            && after <= above(counted.cpu_seconds) + SECONDS;
        (!fits).then(|| {
            let seconds = |s: f64| number::milliseconds(s * 1e3);
            format!(
                "says that it took {} of CPU time, {} of them while timed, and the system says {} and {}",
                seconds(after),
                seconds(grown),
                seconds(counted.cpu_seconds),
                seconds(used)
            )
        })
    }
}

fn above(count: f64) -> f64 {
    count * (1.0 + SHARE)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usages(said: (Option<u64>, Option<f64>), peak: u64, cpu_seconds: f64) -> Usages {
        Usages {
            said: Usage {
                peak_rss_bytes: said.0.map(|mib| mib << 20),
                cpu_seconds: said.1,
                changed_values: None,
                compact_head: None,
            },
            counted: Some(Consumption {
                cpu_seconds,
                peak_rss_bytes: peak << 20,
                smallest_peak_bytes: peak << 20,
            }),
        }
    }

    fn wrong(said: (Option<u64>, Option<f64>)) -> bool {
        let begun = usages((Some(90), Some(1.0)), 95, 1.02);
        usages(said, 100, 3.02)
            .contradiction(&begun, 150 << 20)
            .is_some()
    }

    #[test]
    fn memory_lies_between_the_process_and_what_it_was_forked_from() {
        for (mib, expected) in [
            (100, false),
            (60, false),
            (170, false),
            (40, true),
            (200, true),
        ] {
            assert_eq!(wrong((Some(mib), None)), expected, "{mib} MiB");
        }
        assert!(!wrong((None, None)));
    }

    #[test]
    fn cpu_time_is_neither_invented_nor_kept_back() {
        for (seconds, expected) in [
            (3.0, false),
            (2.5, false),
            (1.5, true),
            (1.0, true),
            (-1.0, true),
            (4.0, true),
        ] {
            assert_eq!(wrong((None, Some(seconds))), expected, "{seconds} s");
        }
        let begun = usages((None, Some(-5.0)), 95, 1.02);
        let ended = usages((None, Some(-3.0)), 100, 3.02);
        assert!(ended.contradiction(&begun, 0).is_some());
    }

    #[test]
    fn of_several_processes_one_may_be_spoken_of() {
        let several = |said| {
            let mut ended = usages(said, 100, 3.02);
            ended.counted.as_mut().unwrap().smallest_peak_bytes = 2 << 20;
            let begun = usages((None, Some(1.0)), 95, 1.02);
            ended.contradiction(&begun, 0)
        };
        assert_eq!(several((Some(3), Some(1.1))), None);
        assert!(several((Some(3), Some(0.9))).is_some());
    }
}
