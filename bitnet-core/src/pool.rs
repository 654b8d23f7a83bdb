//! A fork-join thread pool: the calling thread works too, workers spin for a while and then sleep.
//!
//! Forks are microseconds apart in a forward pass, which a queue or a futex per fork could not serve. A worker that
//! comes late is not waited for: where there are more threads than CPUs, one that has none would hold up every fork.

use std::cell::{Cell, UnsafeCell};
use std::io;
use std::marker::PhantomData;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;

/// Turns of waiting at full speed: some ten microseconds, more than most serial parts of a forward pass.
const SPINS: u32 = 1_000;
/// Further turns that let other threads run first, before a worker sleeps.
const YIELDS: u32 = 1_000;

type Job = *const (dyn Fn(usize) + Sync);

/// Of [`Shared::fork`]: workers may still join in.
const OPEN: u64 = 1 << 31;
/// Of [`Shared::fork`]: how many workers are at the job.
const WORKERS: u64 = OPEN - 1;
/// Of [`Shared::fork`]: one fork more.
const FORK: u64 = 1 << 32;

#[derive(Default)]
struct Shared {
    /// The number of the last fork in the upper half; below, whether it is [`OPEN`] and how many [`WORKERS`] are at it.
    fork: AtomicU64,
    job: UnsafeCell<Option<Job>>,
    panicked: AtomicBool,
    stop: AtomicBool,
    sleepers: AtomicUsize,
    lock: Mutex<()>,
    wake: Condvar,
}

// SAFETY: `job` is written only by the forking thread while the fork is closed and no worker is at it, and read by
// workers only after they have joined an open one; the closure behind it is `Sync`.
unsafe impl Sync for Shared {}
// SAFETY: as above; nothing in it is tied to a thread.
unsafe impl Send for Shared {}

/// A fixed set of threads that run one job at a time.
///
/// Not `Sync`: only one thread may fork, and a job cannot fork from within.
pub struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    /// What each thread has left of the running fork.
    parts: Box<[Part]>,
    _not_sync: PhantomData<Cell<()>>,
}

impl Pool {
    /// A pool of `threads` threads, the caller's included (0 counts as 1).
    ///
    /// # Errors
    /// The system cannot start a thread.
    pub fn new(threads: usize) -> io::Result<Self> {
        let mut pool = Self {
            shared: Arc::default(),
            workers: Vec::new(),
            parts: (0..threads.max(1)).map(|_| Part::default()).collect(),
            _not_sync: PhantomData,
        };
        for index in 1..threads {
            let shared = Arc::clone(&pool.shared);
            let worker = std::thread::Builder::new()
                .name(format!("bitnet-{index}"))
                .spawn(move || work(&shared, index))?;
            pool.workers.push(worker);
        }
        Ok(pool)
    }

    /// Threads, the caller's included.
    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Runs `job(0)` here and, until that returns, `job(thread)` once on every worker that is free; waits for those.
    ///
    /// # Panics
    /// If `job` does, on any thread.
    fn run(&self, job: &(dyn Fn(usize) + Sync)) {
        let shared = &*self.shared;
        // SAFETY: only the lifetime is erased. `Join` below waits, on unwinding too, until no worker uses the
        // closure; none does now, since the previous fork was joined and `Pool` is not `Sync`.
        unsafe {
            *shared.job.get() = Some(std::mem::transmute::<&(dyn Fn(usize) + Sync), Job>(job));
        }
        shared.panicked.store(false, Ordering::Relaxed);
        shared.announce(OPEN);
        let join = Join(shared);
        job(0);
        drop(join);
        assert!(
            !shared.panicked.load(Ordering::Relaxed),
            "a worker thread panicked"
        );
    }

    /// Runs `body(thread, range)` over `0..n`. Every thread goes through a part of its own in order, as memory is read
    /// fastest, in ranges that get shorter; one that is done takes over half of what another has left. No range is
    /// shorter than `grain`, the last excepted, and all begin at a multiple of it.
    ///
    /// # Panics
    /// If `body` does, or `n` is more than 2^32 times `grain`.
    pub fn ranges(&self, n: usize, grain: usize, body: impl Fn(usize, Range<usize>) + Sync) {
        let grain = grain.max(1);
        if n <= grain || self.workers.is_empty() {
            if n > 0 {
                body(0, 0..n);
            }
            return;
        }
        let grains = n.div_ceil(grain);
        assert!(u32::try_from(grains).is_ok(), "{grains} shares");
        let parts = &*self.parts;
        for (thread, part) in parts.iter().enumerate() {
            let cut = |thread: usize| (grains * thread / parts.len()) as u32;
            part.set(cut(thread)..cut(thread + 1));
        }
        self.run(&|thread| {
            loop {
                while let Some(range) = parts[thread].take_first() {
                    let end = n.min(range.end as usize * grain);
                    body(thread, range.start as usize * grain..end);
                }
                let Some(fullest) = parts.iter().max_by_key(|part| part.left().len()) else {
                    return;
                };
                match fullest.take_last_half() {
                    Some(range) => parts[thread].set(range),
                    None if fullest.left().is_empty() => return,
                    None => (),
                }
            }
        });
    }

    /// Runs `body(row, values)` for every row of `width` values.
    ///
    /// # Panics
    /// If `body` does.
    pub fn rows<T: Send>(
        &self,
        data: &mut [T],
        width: usize,
        body: impl Fn(usize, &mut [T]) + Sync,
    ) {
        let n = data.len() / width.max(1);
        let data = Shares::new(data, width);
        self.ranges(n, 1, |_, rows| {
            for row in rows {
                // SAFETY: every row is dealt out once.
                body(row, unsafe { data.slice(row, 0..width) });
            }
        });
    }

    /// Runs `body(row, a, b, c)` for every row of three matrices of `n` rows.
    ///
    /// # Panics
    /// If `body` does, or a matrix is not of `n` rows.
    pub(crate) fn rows_of_three<A: Send, B: Send, C: Send>(
        &self,
        n: usize,
        (a, b, c): (&mut [A], &mut [B], &mut [C]),
        body: impl Fn(usize, &mut [A], &mut [B], &mut [C]) + Sync,
    ) {
        let (a_width, b_width, c_width) = (a.len() / n, b.len() / n, c.len() / n);
        let (a, b, c) = (
            Shares::new(a, a_width),
            Shares::new(b, b_width),
            Shares::new(c, c_width),
        );
        self.ranges(n, 1, |_, rows| {
            for row in rows {
                // SAFETY: every row is dealt out once.
                unsafe {
                    let (a, b) = (a.slice(row, 0..a_width), b.slice(row, 0..b_width));
                    body(row, a, b, c.slice(row, 0..c_width));
                }
            }
        });
    }

    /// As [`rows`](Self::rows), with a scratch value for each thread.
    ///
    /// # Panics
    /// If `body` does, or there are fewer scratch values than threads.
    pub(crate) fn rows_with<T: Send, S: Send>(
        &self,
        data: &mut [T],
        width: usize,
        scratch: &mut [S],
        body: impl Fn(&mut S, usize, &mut [T]) + Sync,
    ) {
        assert!(scratch.len() >= self.threads());
        let n = data.len() / width.max(1);
        let data = Shares::new(data, width);
        let scratch = Shares::new(scratch, 1);
        self.ranges(n, 1, |thread, rows| {
            // SAFETY: a thread runs one body at a time, and no other thread has its index.
            let scratch = unsafe { &mut scratch.slice(thread, 0..1)[0] };
            for row in rows {
                // SAFETY: every row is dealt out once.
                body(scratch, row, unsafe { data.slice(row, 0..width) });
            }
        });
    }

    /// Runs `body(i, columns)` for ranges of at most `tile` columns of several matrices, each with rows of its width,
    /// dealt out in shares of at least `grain` columns as if the matrices lay side by side.
    ///
    /// # Panics
    /// If `body` does.
    pub(crate) fn columns<T: Send, const N: usize>(
        &self,
        matrices: [(&mut [T], usize); N],
        grain: usize,
        tile: usize,
        body: impl Fn(usize, Columns<T>) + Sync,
    ) {
        let matrices = matrices.map(|(data, width)| Shares::new(data, width));
        let width = matrices.iter().map(|shares| shares.width).sum();
        self.ranges(width, grain, |_, range| {
            let mut first = 0;
            for (i, shares) in matrices.iter().enumerate() {
                let end = range.end.saturating_sub(first).min(shares.width);
                for start in (range.start.saturating_sub(first)..end).step_by(tile) {
                    let range = start..end.min(start + tile);
                    body(i, Columns { shares, range });
                }
                first += shares.width;
            }
        });
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.shared.announce(0);
        for worker in self.workers.drain(..) {
            // Jobs are run under `catch_unwind`; a worker itself does not panic.
            let _ = worker.join();
        }
    }
}

impl Shared {
    /// Begins the next fork, to be joined if `open`, and wakes the workers that sleep. The last one is closed and no
    /// worker at it, so nobody else changes `fork`.
    fn announce(&self, open: u64) {
        let last = self.fork.load(Ordering::Relaxed) & !(FORK - 1);
        // Sequentially consistent with the worker's `sleepers` then `fork`: either it sees this one, or its
        // registration is seen here.
        self.fork
            .store(last.wrapping_add(FORK) | open, Ordering::SeqCst);
        if self.sleepers.load(Ordering::SeqCst) > 0 {
            drop(self.lock.lock().unwrap_or_else(PoisonError::into_inner));
            self.wake.notify_all();
        }
    }

    /// Whether a worker may begin the job of the fork that it saw: it is open still.
    fn join_in(&self, mut fork: u64) -> bool {
        let number = fork / FORK;
        while fork / FORK == number && fork & OPEN != 0 {
            let joined = self.fork.compare_exchange_weak(
                fork,
                fork + 1,
                Ordering::Acquire,
                Ordering::Relaxed,
            );
            match joined {
                Ok(_) => return true,
                Err(now) => fork = now,
            }
        }
        false
    }
}

/// Closes the fork when dropped, and waits for the workers that are at it.
struct Join<'a>(&'a Shared);

impl Drop for Join<'_> {
    fn drop(&mut self) {
        self.0.fork.fetch_and(!OPEN, Ordering::Relaxed);
        let mut spins = 0;
        while self.0.fork.load(Ordering::Acquire) & WORKERS > 0 {
            wait(&mut spins);
        }
    }
}

/// One turn of waiting.
fn wait(turns: &mut u32) {
    *turns = turns.saturating_add(1);
    if *turns < SPINS {
        std::hint::spin_loop();
    } else {
        std::thread::yield_now();
    }
}

fn work(shared: &Shared, index: usize) {
    let mut seen = 0;
    loop {
        let mut spins = 0;
        let mut fork = shared.fork.load(Ordering::Acquire);
        while fork / FORK == seen {
            if spins < SPINS + YIELDS {
                wait(&mut spins);
                fork = shared.fork.load(Ordering::Acquire);
                continue;
            }
            let mut guard = shared.lock.lock().unwrap_or_else(PoisonError::into_inner);
            shared.sleepers.fetch_add(1, Ordering::SeqCst);
            fork = shared.fork.load(Ordering::SeqCst);
            while fork / FORK == seen {
                guard = shared
                    .wake
                    .wait(guard)
                    .unwrap_or_else(PoisonError::into_inner);
                fork = shared.fork.load(Ordering::SeqCst);
            }
            shared.sleepers.fetch_sub(1, Ordering::SeqCst);
        }
        seen = fork / FORK;
        if shared.stop.load(Ordering::Relaxed) {
            return;
        }
        if !shared.join_in(fork) {
            continue;
        }
        // SAFETY: the job was set before the fork was opened, and it stays valid while a worker is at it.
        let job = unsafe { (*shared.job.get()).map(|job| &*job) };
        if let Some(job) = job
            && catch_unwind(AssertUnwindSafe(|| job(index))).is_err()
        {
            shared.panicked.store(true, Ordering::Relaxed);
        }
        shared.fork.fetch_sub(1, Ordering::Release);
    }
}

/// A range of shares that its thread takes from the front, and others, which have nothing left, from the back. On a
/// cache line of its own.
#[derive(Default)]
#[repr(align(64))]
struct Part(AtomicU64);

impl Part {
    /// Only while nothing is left: no other thread changes it then. Ranges never come back, so that a thread which
    /// still sees the last one cannot take from this by mistake.
    fn set(&self, range: Range<u32>) {
        self.0.store(pack(range), Ordering::Relaxed);
    }

    fn left(&self) -> Range<u32> {
        unpack(self.0.load(Ordering::Relaxed))
    }

    /// A quarter of what is left, at least one.
    fn take_first(&self) -> Option<Range<u32>> {
        self.take(|Range { start, end }| {
            let cut = start + (end - start).div_ceil(4);
            (start..cut, cut..end)
        })
    }

    fn take_last_half(&self) -> Option<Range<u32>> {
        self.take(|Range { start, end }| {
            let cut = start + (end - start) / 2;
            (cut..end, start..cut)
        })
    }

    /// `None` if nothing is left.
    fn take(&self, split: impl Fn(Range<u32>) -> (Range<u32>, Range<u32>)) -> Option<Range<u32>> {
        let rest = |left| {
            let left = unpack(left);
            (!left.is_empty()).then(|| pack(split(left).1))
        };
        // What the ranges stand for is published by the fork, and its results by the join.
        let taken = self
            .0
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, rest);
        taken.ok().map(|left| split(unpack(left)).0)
    }
}

fn pack(range: Range<u32>) -> u64 {
    u64::from(range.start) << 32 | u64::from(range.end)
}

fn unpack(packed: u64) -> Range<u32> {
    (packed >> 32) as u32..packed as u32
}

/// Some columns of a row-major matrix.
pub(crate) struct Columns<'a, T> {
    shares: &'a Shares<'a, T>,
    range: Range<usize>,
}

impl<T> Columns<'_, T> {
    /// Which columns.
    pub(crate) fn range(&self) -> Range<usize> {
        self.range.clone()
    }

    /// These columns of one row.
    pub(crate) fn row(&mut self, row: usize) -> &mut [T] {
        // SAFETY: a column is dealt out once, and `self` is borrowed as long as the slice.
        unsafe { self.shares.slice(row, self.range.clone()) }
    }
}

/// A row-major matrix whose disjoint parts are written by several threads.
struct Shares<'a, T> {
    data: *mut T,
    len: usize,
    width: usize,
    _borrow: PhantomData<&'a mut [T]>,
}

// SAFETY: it hands out disjoint `&mut [T]` only (the contract of `slice`), which may cross threads if `T: Send`.
unsafe impl<T: Send> Sync for Shares<'_, T> {}

impl<'a, T> Shares<'a, T> {
    /// `data` as rows of `width`.
    fn new(data: &'a mut [T], width: usize) -> Self {
        Self {
            data: data.as_mut_ptr(),
            len: data.len(),
            width,
            _borrow: PhantomData,
        }
    }

    /// Part of one row.
    ///
    /// # Safety
    /// No two live slices may overlap.
    ///
    /// # Panics
    /// If the part lies outside the matrix.
    #[expect(clippy::mut_from_ref, reason = "disjointness is the caller's contract")]
    unsafe fn slice(&self, row: usize, columns: Range<usize>) -> &mut [T] {
        let start = row * self.width + columns.start;
        let len = columns.len();
        assert!(columns.end <= self.width && start + len <= self.len);
        // SAFETY: in bounds by the assertion; disjoint by the caller's contract.
        unsafe { std::slice::from_raw_parts_mut(self.data.add(start), len) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn every_index_once() {
        for threads in [1, 2, 3, 5] {
            let pool = Pool::new(threads).unwrap();
            for n in [0, 1, 2, 7, 100] {
                let hits: Vec<AtomicU64> = (0..n).map(|_| AtomicU64::new(0)).collect();
                pool.ranges(n, 3, |thread, range| {
                    assert!(thread < threads);
                    for i in range {
                        hits[i].fetch_add(1, Ordering::Relaxed);
                    }
                });
                assert!(hits.iter().all(|h| h.load(Ordering::Relaxed) == 1));
            }
        }
    }

    #[test]
    fn many_forks_with_sleep_between() {
        let pool = Pool::new(3).unwrap();
        let mut data = vec![0u32; 7 * 5];
        for round in 0..200 {
            pool.rows(&mut data, 5, |row, values| {
                values.fill((row + round) as u32)
            });
            assert_eq!(data[34], (6 + round) as u32);
            if round % 50 == 0 {
                std::thread::sleep(Duration::from_millis(5));
            }
        }
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_pool_survives() {
        let pool = Pool::new(2).unwrap();
        let both_are_there = || {
            let there = AtomicUsize::new(0);
            move || {
                there.fetch_add(1, Ordering::Relaxed);
                while there.load(Ordering::Relaxed) < 2 {
                    std::thread::yield_now();
                }
            }
        };
        let meet = both_are_there();
        let result = catch_unwind(AssertUnwindSafe(|| {
            pool.run(&|thread| {
                meet();
                assert_ne!(thread, 1, "on purpose");
            });
        }));
        assert!(result.is_err());
        let meet = both_are_there();
        pool.run(&|_| meet());
    }

    #[test]
    fn a_worker_that_comes_late_is_not_waited_for() {
        let pool = Pool {
            shared: Arc::default(),
            workers: vec![std::thread::spawn(|| {})],
            parts: [Part::default(), Part::default()].into(),
            _not_sync: PhantomData,
        };
        let done = AtomicUsize::new(0);
        pool.ranges(100, 1, |_, range| {
            done.fetch_add(range.len(), Ordering::Relaxed);
        });
        assert_eq!(done.into_inner(), 100);
    }
}
