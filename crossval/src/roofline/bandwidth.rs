//! Read bandwidth: summing a buffer that no cache holds.

use std::array;
use std::hint::black_box;

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

/// Ways to read: one stream after the other lets the prefetcher follow it, several at once keep more lines in flight.
const READERS: [fn(&[[u8; LINE]]) -> u64; 4] = [
    read_streams::<1>,
    read_streams::<2>,
    read_streams::<4>,
    read_streams::<8>,
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
            black_box(READERS[round % READERS.len()](lines));
            part.len() as u64
        },
    )
}

/// The sum of all words, `N` streams at a time.
fn read_streams<const N: usize>(lines: &[[u8; LINE]]) -> u64 {
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx2") {
        // SAFETY: the CPU has AVX2.
        return unsafe { read_streams_avx2::<N>(lines) };
    }
    sum::<N>(lines)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn read_streams_avx2<const N: usize>(lines: &[[u8; LINE]]) -> u64 {
    sum::<N>(lines)
}

#[inline(always)]
fn sum<const N: usize>(lines: &[[u8; LINE]]) -> u64 {
    let length = lines.len() / N;
    let streams: [&[[u8; LINE]]; N] = array::from_fn(|n| &lines[n * length..][..length]);
    let mut sums = [0u64; LINE / 8];
    for i in 0..length {
        for stream in streams {
            for (sum, word) in sums.iter_mut().zip(stream[i].as_chunks().0) {
                *sum = sum.wrapping_add(u64::from_ne_bytes(*word));
            }
        }
    }
    sums.into_iter().fold(0, u64::wrapping_add)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reader_reads_every_line_once() {
        let mut bytes = vec![0; LINE * 32];
        for (i, byte) in bytes.iter_mut().enumerate() {
            *byte = (i * 7 % 251) as u8;
        }
        let words = bytes.as_chunks::<8>().0.iter();
        let want = words.fold(0, |sum: u64, w| sum.wrapping_add(u64::from_ne_bytes(*w)));
        for reader in READERS {
            assert_eq!(reader(bytes.as_chunks().0), want);
        }
    }
}
