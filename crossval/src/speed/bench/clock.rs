//! What a worker says that it took, held against the driver's clock.
//!
//! The driver's time of a request begins before its first byte is written and ends behind the last byte of the answer. The
//! worker's lies within: never above it, and below it by no more than the pipe takes. How long that is, a request that
//! asks for nothing shows. On the workers of `rust` and BitNet.cpp the difference was 0.3 to 0.7 times as long in most
//! repetitions, of requests of 0.1 ms as of 15 ms, and of a load as long: 0.02 to 0.06 ms in a release build, 0.07 to
//! 0.17 ms in a debug build. With eight busy processes on 2 CPUs it was up to 17 ms, nearly all of it spent waiting for a
//! CPU, which the kernel counts.

use crate::engine::{Engine, EngineError, Moment};
use crate::stats::median;

/// What may lie between both clocks beside waiting for a CPU, milliseconds, and how often the time of a request that asks
/// for nothing.
const PIPE_MS: f64 = 0.1;
const PIPE_ROUND_TRIPS: f64 = 4.0;

/// The most of both, milliseconds: an engine may take its time for nothing.
const PIPE_MOST_MS: f64 = 2.0;

/// What may in addition, of the driver's time: work that an engine does between steps, such as looking for the largest
/// logit. It was 0.7% in the Python example.
const PIPE_SHARE: f64 = 0.03;

/// What may lie between them in any one repetition, waiting and all: three times the most seen, milliseconds.
const HELD_UP_MS: f64 = 50.0;

/// By how much clocks of two kinds may differ: steps of a coarse one, milliseconds, and the rate of one that is not
/// disciplined.
const OTHER_CLOCK_MS: f64 = 0.1;
const OTHER_CLOCK_SHARE: f64 = 0.01;

/// A request that is timed, by both clocks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Took {
    /// By the driver's, milliseconds.
    pub(super) driver_ms: f64,
    /// What the worker reports, all of it, milliseconds.
    pub(super) reported_ms: f64,
    /// Of which: a part that other requests tell something about, of the prompt, milliseconds.
    pub(super) prompt_ms: f64,
    /// What worker and driver spent waiting for a CPU meanwhile, milliseconds; `None` where the kernel does not count it.
    pub(super) waited_ms: Option<f64>,
    /// CPU time of the worker's first thread meanwhile, milliseconds: so long at least it worked.
    pub(super) busy_ms: Option<f64>,
    /// What a request that asks for nothing took, by the driver's clock, milliseconds.
    pub(super) round_trip_ms: f64,
}

/// What the operating system counts for a worker during a request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Counted {
    /// The driver's time, milliseconds.
    pub(super) driver_ms: f64,
    /// As in [`Took`].
    pub(super) waited_ms: Option<f64>,
    /// Likewise.
    pub(super) busy_ms: Option<f64>,
    /// CPU time of the worker; `None` where the system does not say.
    pub(super) cpu_seconds: Option<f64>,
}

/// Has a worker answer one request.
pub(super) fn counted<T>(
    engine: &mut Engine,
    ask: impl FnOnce(&mut Engine) -> Result<T, EngineError>,
) -> Result<(T, Counted), EngineError> {
    let processes = engine.processes();
    let before = Moment::of(&processes);
    let answer = ask(engine)?;
    // At once: what threads do behind the answer, or wait for, is not in its time.
    let after = Moment::of(&processes);
    // Less than nothing where a thread or a child has ended.
    let grown = |before: Option<f64>, after: Option<f64>| Some((after? - before?).max(0.0));
    let ms = |seconds: f64| seconds * 1e3;
    let counted = Counted {
        driver_ms: engine.took_ms(),
        waited_ms: grown(before.waited_seconds, after.waited_seconds).map(ms),
        busy_ms: grown(before.first_thread_seconds, after.first_thread_seconds).map(ms),
        cpu_seconds: grown(before.cpu_seconds, after.cpu_seconds),
    };
    Ok((answer, counted))
}

/// Why the times that a worker reports of the repetitions of a test do not fit the driver's, as a predicate of the worker;
/// `None` if they do. Of what it reports for the prompt, more than `most_prompt_ms` and the time waited does not count:
/// time of the steps is not to hide there. (While one thread waits for a CPU, the first may spin, which is busy.)
pub(super) fn contradiction(requests: &[Took], most_prompt_ms: f64) -> Option<String> {
    let hidden = |r: &Took| (r.prompt_ms - most_prompt_ms - r.waited_ms.unwrap_or(0.0)).max(0.0);
    let accounted = |r: &Took| r.reported_ms - hidden(r);
    // Waiting may have been within the worker's time too; working was, or should have been.
    let missing = |r: &Took| {
        let ready = r.driver_ms - r.waited_ms.unwrap_or(0.0);
        let busy = r.busy_ms.unwrap_or(0.0).min(r.driver_ms);
        ready.max(busy) - accounted(r)
    };
    let typical = |of: &dyn Fn(&Took) -> f64| {
        let mut values: Vec<f64> = requests.iter().map(of).collect();
        (!values.is_empty()).then(|| median(&mut values))
    };
    let above =
        |r: &&Took| r.reported_ms > r.driver_ms * (1.0 + OTHER_CLOCK_SHARE) + OTHER_CLOCK_MS;
    let held_up = |r: &&Took| missing(r) > HELD_UP_MS + r.driver_ms * PIPE_SHARE;
    let one = requests.iter().find(above);
    if let Some(one) = one.or(requests.iter().find(held_up)) {
        return Some(said(accounted(one), one.driver_ms, "a repetition"));
    }
    let driver = typical(&|r| r.driver_ms)?;
    let waiting_known = requests.iter().all(|r| r.waited_ms.is_some());
    let pipe = match waiting_known {
        true => PIPE_MOST_MS.min(PIPE_MS + PIPE_ROUND_TRIPS * typical(&|r| r.round_trip_ms)?),
        false => HELD_UP_MS,
    };
    (typical(&missing)? > pipe + driver * PIPE_SHARE).then(|| {
        said(
            typical(&accounted).unwrap_or(driver),
            driver,
            "the median repetition",
        )
    })
}

fn said(reported: f64, driver: f64, of: &str) -> String {
    let ms = reports::number::milliseconds;
    format!(
        "accounts for {} of {of}, which took {} by the driver's clock",
        ms(reported),
        ms(driver)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn took(driver_ms: f64, reported_ms: f64, waited_ms: f64) -> Took {
        let waited_ms = Some(waited_ms);
        Took {
            driver_ms,
            reported_ms,
            prompt_ms: 0.0,
            waited_ms,
            busy_ms: None,
            round_trip_ms: 0.06,
        }
    }

    fn wrong(requests: &[Took]) -> bool {
        contradiction(requests, f64::INFINITY).is_some()
    }

    #[test]
    fn the_pipe_may_take_its_time_and_waiting_too() {
        assert!(!wrong(&[]));
        assert!(!wrong(&[took(0.4, 0.1, 0.0)]));
        let slow_pipe = |round_trip_ms| Took {
            round_trip_ms,
            ..took(2.4, 0.9, 0.0)
        };
        assert!(wrong(&[slow_pipe(0.06); 3]) && !wrong(&[slow_pipe(0.4); 3]));
        assert!(!wrong(&[took(1000.0, 971.0, 0.0)]));
        // Waiting for a CPU.
        assert!(!wrong(&[took(25.0, 5.0, 19.0)]));
        let uncounted = Took {
            waited_ms: None,
            ..took(25.0, 5.0, 0.0)
        };
        assert!(!wrong(&[uncounted; 3]));
        // Held up by something else, sometimes.
        assert!(!wrong(&[
            took(25.0, 5.0, 0.0),
            took(5.2, 5.0, 0.0),
            took(5.1, 5.0, 0.0)
        ]));
    }

    #[test]
    fn less_than_it_took_is_wrong_and_more_is_too() {
        let why = contradiction(&[took(1000.0, 1.0, 0.0)], f64::INFINITY).unwrap();
        assert_eq!(
            why,
            "accounts for 1.00 ms of a repetition, which took 1.00 s by the driver's clock"
        );
        assert!(wrong(&[took(5.0, 0.005, 0.0); 3]));
        assert!(wrong(&[took(0.8, 0.4, 0.0); 3]));
        // However slow it is when nothing is asked for.
        let idles = Took {
            round_trip_ms: 100.0,
            ..took(5.0, 0.005, 0.0)
        };
        assert!(wrong(&[idles; 3]));
        assert!(wrong(&[took(1000.0, 960.0, 0.0); 2]));
        // Once among many.
        let mut most = vec![took(100.0, 99.8, 0.0); 20];
        most.push(took(100.0, 0.1, 0.0));
        assert!(wrong(&most));
        assert!(wrong(&[took(1.0, 1.2, 0.0)]));
        assert!(!wrong(&[took(1.0, 1.05, 0.0)]));
        // Sleeping is no waiting for a CPU.
        assert!(wrong(&[took(30.0, 5.0, 0.1); 3]));
        // Nor is working.
        let busy = |ms| Took {
            busy_ms: Some(ms),
            ..took(30.0, 5.0, 24.0)
        };
        assert!(!wrong(&[busy(6.0); 3]));
        assert!(wrong(&[busy(20.0); 3]));
        // What is used behind the answer is in other time.
        let spins = Took {
            busy_ms: Some(8.0),
            ..took(5.2, 5.0, 0.0)
        };
        assert!(!wrong(&[spins; 3]));
    }

    #[test]
    fn steps_do_not_hide_in_the_prompt() {
        let hidden = Took {
            prompt_ms: 90.0,
            ..took(100.0, 99.8, 0.0)
        };
        assert_eq!(contradiction(&[hidden; 3], f64::INFINITY), None);
        assert_eq!(contradiction(&[hidden; 3], 89.0), None);
        let why = contradiction(&[hidden; 3], 60.0).unwrap();
        assert!(why.starts_with("accounts for 69.8 ms"), "{why}");
        // The first thread spun in the prompt while another had no CPU.
        let spun = Took {
            prompt_ms: 26.0,
            busy_ms: Some(27.0),
            ..took(27.0, 26.9, 22.0)
        };
        assert_eq!(contradiction(&[spun; 2], 4.0), None);
        let slept = Took {
            waited_ms: Some(0.0),
            ..spun
        };
        assert!(contradiction(&[slept; 2], 4.0).is_some());
    }
}
