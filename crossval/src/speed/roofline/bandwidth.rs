//! Read bandwidth: loading a buffer that no cache holds.

use std::array;

use memmap2::{Advice, MmapMut};

use super::best_rate;
use crate::environment::available_memory;

/// The buffer, all threads together, bytes: beyond any last-level cache of a few cores.
const BUFFER: usize = 512 << 20;

/// What each thread has of it at least: of large machines, whose cores share gigabytes of cache, still several times
/// that.
const PER_THREAD: usize = 64 << 20;

/// Less than this per thread measures caches.
const USELESS: usize = 16 << 20;

/// Every number of streams is tried this often.
const TRIES: usize = 3;

/// A cache line.
const LINE: usize = 64;

type Line = [u8; LINE];

/// Ways to read: one stream after the other lets the prefetcher follow it, several at once keep more lines in flight.
const READERS: [fn(&[Line]); 4] = [
    |lines| in_streams::<1>(lines, load),
    |lines| in_streams::<2>(lines, load),
    |lines| in_streams::<4>(lines, load),
    |lines| in_streams::<8>(lines, load),
];

/// Bytes per second that all `cpus` read together; `None` where memory is too short to say.
pub(super) fn read(cpus: &[usize]) -> Option<f64> {
    let wanted = (BUFFER / cpus.len().max(1)).max(PER_THREAD);
    // Never what others need.
    let room = available_memory().map_or(wanted, |bytes| {
        usize::try_from(bytes / 4).unwrap_or(usize::MAX) / cpus.len().max(1)
    });
    let part = wanted.min(room) / LINE * LINE;
    if part < USELESS {
        return None;
    }
    let mut buffer = MmapMut::map_anon(part.checked_mul(cpus.len())?).ok()?;
    // With small pages the page walks would be measured too. Where the system has no large ones, so be it.
    let _ = buffer.advise(Advice::HugePage);
    let parts: Vec<&mut [u8]> = buffer.chunks_mut(part).collect();
    best_rate(
        cpus,
        parts,
        READERS.len() * TRIES,
        // Touched first by the thread that reads it, memory is near its CPU.
        |part| part.fill(1),
        |part, round| {
            let (lines, _) = part.as_chunks();
            READERS[round % READERS.len()](lines);
            part.len() as u64
        },
    )
}

/// Visits all lines but a few at the end, by `N` streams in turn.
#[inline(always)]
fn in_streams<'a, const N: usize>(lines: &'a [Line], mut visit: impl FnMut(&'a Line)) {
    let length = lines.len() / N;
    let streams: [&[Line]; N] = array::from_fn(|n| &lines[n * length..][..length]);
    for i in 0..length {
        for stream in streams {
            visit(&stream[i]);
        }
    }
}

/// Loads a line into registers. In assembly: what a compiler makes of it would depend on how much it optimises.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn load(line: &Line) {
    // SAFETY: reads the 64 bytes of the line.
    unsafe {
        std::arch::asm!(
            "movups {0}, [{line}]",
            "movups {1}, [{line} + 16]",
            "movups {2}, [{line} + 32]",
            "movups {3}, [{line} + 48]",
            out(xmm_reg) _, out(xmm_reg) _, out(xmm_reg) _, out(xmm_reg) _,
            line = in(reg) line,
            options(readonly, nostack, preserves_flags),
        );
    }
}

#[cfg(target_arch = "aarch64")]
#[inline(always)]
fn load(line: &Line) {
    // SAFETY: reads the 64 bytes of the line.
    unsafe {
        std::arch::asm!(
            "ldp {0:q}, {1:q}, [{line}]",
            "ldp {2:q}, {3:q}, [{line}, #32]",
            out(vreg) _, out(vreg) _, out(vreg) _, out(vreg) _,
            line = in(reg) line,
            options(readonly, nostack, preserves_flags),
        );
    }
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
#[inline(always)]
fn load(line: &Line) {
    let words = line.as_chunks().0.iter().map(|w| u64::from_ne_bytes(*w));
    std::hint::black_box(words.fold(0, u64::wrapping_add));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_is_read_once() {
        fn visited<const N: usize>() -> Vec<u8> {
            let lines: Vec<Line> = (0..32).map(|i| [i; LINE]).collect();
            let mut seen = Vec::new();
            in_streams::<N>(&lines, |line| seen.push(line[0]));
            seen
        }
        assert_eq!(visited::<2>()[..4], [0, 16, 1, 17]);
        for mut seen in [
            visited::<1>(),
            visited::<2>(),
            visited::<4>(),
            visited::<8>(),
        ] {
            seen.sort_unstable();
            assert!(seen.into_iter().eq(0..32));
        }
        for reader in READERS {
            reader(&[[7; LINE]; 32]);
        }
    }
}
