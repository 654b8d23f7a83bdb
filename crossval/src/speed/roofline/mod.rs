//! What a machine can do at best: the two limits that inference runs into, measured on given CPUs.
//!
//! - Decoding reads every weight once per token, so it is bound by **read bandwidth**.
//! - Prefill does a multiply-accumulate per ternary weight and token, so it is bound by the **int8 peak**: the best
//!   multiply-accumulate instruction of the machine, from registers. A kernel that replaces multiplications by table
//!   look-ups is not bound by it.
//!
//! An engine's share of the roofline (Williams, Waterman, Patterson 2009) is what it reaches of the limit in question:
//! [`decode_share`], [`prefill_share`].

mod bandwidth;
mod bound;
mod int8;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Instant;

pub(crate) use self::bound::{LeastWork, caches};
use crossval_protocol::ModelFacts;
use reports::model::{BenchRoofline, TokenWork};

/// Measures with one thread on each of `cpus`.
pub fn measure(threads: usize, cpus: &[usize]) -> BenchRoofline {
    let int8 = int8::peak(cpus);
    BenchRoofline {
        threads,
        cpus: cpus.to_vec(),
        read_bytes_per_second: bandwidth::read(cpus),
        int8_macs_per_second: int8.map(|(rate, _)| rate),
        int8_instructions: int8.map(|(_, instructions)| instructions.to_owned()),
    }
}

/// Makes the limits of a machine those of another measurement of it where they are higher.
pub(crate) fn raise(limits: &mut BenchRoofline, other: &BenchRoofline) {
    let higher = |a: Option<f64>, b: Option<f64>| a.into_iter().chain(b).reduce(f64::max);
    limits.read_bytes_per_second =
        higher(limits.read_bytes_per_second, other.read_bytes_per_second);
    limits.int8_macs_per_second = higher(limits.int8_macs_per_second, other.int8_macs_per_second);
}

/// What a token of a model costs, for a report.
pub(crate) fn work_of(facts: &ModelFacts) -> Option<TokenWork> {
    let work = facts.work?;
    Some(TokenWork {
        weight_bytes: work.weight_bytes,
        ternary_macs: work.ternary_macs,
    })
}

/// Share of the read bandwidth that decoding at `tokens_per_second` takes: `t/s * weight_bytes / bandwidth`. `None`
/// where a factor is not known.
pub fn decode_share(
    tokens_per_second: f64,
    work: Option<&TokenWork>,
    roofline: &BenchRoofline,
) -> Option<f64> {
    let bytes = work?.weight_bytes;
    share(
        tokens_per_second * bytes as f64,
        roofline.read_bytes_per_second?,
    )
}

/// Share of the int8 peak that prefill at `tokens_per_second` takes: `t/s * ternary_macs / peak`. `None` where a factor
/// is not known, as for a model without ternary weights.
pub fn prefill_share(
    tokens_per_second: f64,
    work: Option<&TokenWork>,
    roofline: &BenchRoofline,
) -> Option<f64> {
    let macs = work?.ternary_macs?;
    share(
        tokens_per_second * macs as f64,
        roofline.int8_macs_per_second?,
    )
}

fn share(rate: f64, limit: f64) -> Option<f64> {
    Some(rate / limit).filter(|share| share.is_finite())
}

/// Runs `work` on all `cpus` at once, a thread pinned to each, with a state of its own that `prepare` has seen first.
/// `work` is given the number of the round and returns what it has done; the best round counts, from the first start to
/// the last end, in units per second. `None` if a thread cannot be started or pinned.
fn best_rate<S: Send>(
    cpus: &[usize],
    states: Vec<S>,
    rounds: usize,
    prepare: impl Fn(&mut S) + Sync,
    work: impl Fn(&mut S, usize) -> u64 + Sync,
) -> Option<f64> {
    let gate = Gate::new(cpus.len());
    let run = |cpu: usize, mut state: S| {
        if !pin(cpu) {
            gate.abandon();
            return Vec::new();
        }
        prepare(&mut state);
        let mut done = Vec::with_capacity(rounds);
        for round in 0..rounds {
            if !gate.pass(round) {
                break;
            }
            let start = Instant::now();
            let units = work(&mut state, round);
            done.push((start, Instant::now(), units));
        }
        done
    };
    let of_threads: Vec<Vec<(Instant, Instant, u64)>> = std::thread::scope(|scope| {
        let mut threads = Vec::new();
        for (&cpu, state) in cpus.iter().zip(states) {
            let run = &run;
            match std::thread::Builder::new().spawn_scoped(scope, move || run(cpu, state)) {
                Ok(thread) => threads.push(thread),
                Err(_) => gate.abandon(),
            }
        }
        let done = threads.into_iter().filter_map(|thread| thread.join().ok());
        done.collect()
    });
    if gate.abandoned() || of_threads.len() < cpus.len() {
        return None;
    }
    let rates = (0..rounds).filter_map(|round| {
        let of_round = || of_threads.iter().filter_map(|done| done.get(round));
        let start = of_round().map(|(start, ..)| *start).min()?;
        let end = of_round().map(|(_, end, _)| *end).max()?;
        let units: u64 = of_round().map(|(.., units)| units).sum();
        Some(units as f64 / (end - start).as_secs_f64())
    });
    rates
        .filter(|rate| rate.is_finite() && *rate > 0.0)
        .max_by(f64::total_cmp)
}

/// A barrier that can be given up: a thread that does not come must not keep the others waiting.
struct Gate {
    threads: usize,
    arrived: AtomicUsize,
    abandoned: AtomicBool,
}

impl Gate {
    fn new(threads: usize) -> Gate {
        Gate {
            threads,
            arrived: AtomicUsize::new(0),
            abandoned: AtomicBool::new(false),
        }
    }

    /// Waits for all threads to arrive in this round, counted from 0. False if one never will.
    fn pass(&self, round: usize) -> bool {
        self.arrived.fetch_add(1, Ordering::AcqRel);
        while self.arrived.load(Ordering::Acquire) < self.threads * (round + 1) {
            if self.abandoned() {
                return false;
            }
            std::thread::yield_now();
        }
        true
    }

    fn abandon(&self) {
        self.abandoned.store(true, Ordering::Release);
    }

    fn abandoned(&self) -> bool {
        self.abandoned.load(Ordering::Acquire)
    }
}

/// Pins the calling thread.
pub(crate) fn pin(cpu: usize) -> bool {
    // SAFETY: an all-zero cpu_set_t is a valid, empty set; CPU_SET checks the index against its size, and the call only
    // reads it.
    unsafe {
        let mut mask: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(cpu, &mut mask);
        libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &mask) == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn roofline(bandwidth: Option<f64>, int8: Option<f64>) -> BenchRoofline {
        BenchRoofline {
            threads: 1,
            cpus: vec![0],
            read_bytes_per_second: bandwidth,
            int8_macs_per_second: int8,
            int8_instructions: None,
        }
    }

    #[test]
    fn shares_follow_from_work_and_limits() {
        // The official 2B shape: 1.18 GB and 2.08 G ternary weights per token.
        let work = TokenWork {
            weight_bytes: 1_180_000_000,
            ternary_macs: Some(2_080_000_000),
        };
        let known = roofline(Some(35e9), Some(505e9));
        let decode = decode_share(17.4, Some(&work), &known).unwrap();
        assert!((decode - 17.4 * 1.18 / 35.0).abs() < 1e-12, "{decode}");
        let prefill = prefill_share(58.0, Some(&work), &known).unwrap();
        assert!((prefill - 58.0 * 2.08 / 505.0).abs() < 1e-12, "{prefill}");
    }

    #[test]
    fn what_is_not_known_has_no_share() {
        let float = TokenWork {
            weight_bytes: 1,
            ternary_macs: None,
        };
        let known = roofline(Some(1.0), Some(1.0));
        assert_eq!(prefill_share(1.0, Some(&float), &known), None);
        assert_eq!(decode_share(1.0, None, &known), None);
        let unknown = roofline(None, None);
        assert_eq!(decode_share(1.0, Some(&float), &unknown), None);
        assert_eq!(
            decode_share(1.0, Some(&float), &roofline(Some(0.0), None)),
            None
        );
    }

    #[test]
    fn a_thread_that_cannot_be_pinned_leaves_nobody_waiting() {
        let cpu = crate::environment::allowed_cpus()[0];
        let beyond = libc::CPU_SETSIZE as usize - 1;
        let rate = |cpus: &[usize]| best_rate(cpus, vec![(); cpus.len()], 2, |_| (), |_, _| 1000);
        assert!(rate(&[cpu]).unwrap() > 0.0);
        assert_eq!(rate(&[cpu, beyond]), None);
    }
}
