//! A certified output head: the same tokens as the full one, from half the bytes.
//!
//! Decode is bound by memory, and an F16 head can be more than half of what a token reads. A compact copy, 8 or 7 bits
//! and a share of a scale per weight, gives every logit up to a bound that is proven, not estimated; only rows that
//! could still be among the `k` most likely are then computed from the original, by the kernel of the full head and
//! so with its bits.
//!
//! For a row `w` of `n` weights, `w = s q + e` with integers `q`, and an input `x = t p + d` with integers `p`,
//!
//! `|w.x - s t (q.p)| <= |e| |x| + |s q| |d|` (Cauchy-Schwarz; `q.p` is exact), and `|s q| <= |w| + |e|`.
//!
//! The full head computes `w.x` in f32 with at most `n / LANES + 5` roundings per term, each of at most `u = 2^-24`,
//! so its logit is within `m u / (1 - m u) * |w| |x|` of the real one (Higham 2002, section 3.1), and `n 2^-149` for
//! products that underflow.

use memmap2::MmapMut;

use super::linear::{Compute, Input, Line, Matrix};
use super::pages;
use crate::Error;
use crate::blocks::{i7, nearest_int};
use crate::kernels::{Kernel, LANES, Rows, vectorize};

/// Most tokens that a draw may depend on for the certified head to serve it.
pub(super) const MAX_TOP: usize = 64;

/// Rows of the copy that are scored at once.
const TILE_ROWS: usize = 64;

/// Beyond this share of rows that could win, the full head reads less.
const MAX_EXACT_SHARE: usize = 8;

/// Largest code of an input: from the next on, the higher of two int8 overflows. One is to spare for rounding.
const LARGEST_CODE: f64 = 127.0 * 256.0 + 126.0;

/// Norms whose product stays below this cannot overflow an f32 sum.
const LARGEST: f64 = 1e30;

/// Slack for the rounding of the bounds themselves, which are computed in f64 from at most a few thousand terms.
const SLACK: f64 = 1.0 + 1e-9;

/// The compact copy of an output head.
pub(super) struct CompactHead {
    /// `[n_vocab][n_embd]`.
    codes: MmapMut,
    storage: Storage,
    /// `[n_vocab]`.
    rows: Vec<Row>,
    /// Largest finite norm of a row.
    largest_norm: f64,
}

/// How codes are stored.
#[derive(Clone, Copy, PartialEq)]
enum Storage {
    I8,
    /// [`i7`].
    I7,
}

impl Storage {
    fn of(kernel: Kernel, n_embd: usize) -> Self {
        match kernel.prefers_i7() && i7::row_bytes(n_embd) < n_embd {
            true => Storage::I7,
            false => Storage::I8,
        }
    }

    fn row_bytes(self, n_embd: usize) -> usize {
        match self {
            Storage::I8 => n_embd,
            Storage::I7 => i7::row_bytes(n_embd),
        }
    }

    fn largest_code(self) -> i8 {
        match self {
            Storage::I8 => 127,
            Storage::I7 => 63,
        }
    }
}

/// What is known of one row; norms are Euclidean and rounded up.
#[derive(Clone, Copy, Default)]
struct Row {
    scale: f32,
    /// Of what the codes miss; infinite where a weight is not finite.
    residual: f32,
    /// Of the weights.
    norm: f32,
}

/// Room for one token's scores.
#[derive(Default)]
pub(super) struct Scores {
    x: Codes,
    tiles: Vec<Tile>,
    /// The rows that could win, in order.
    pub candidates: Vec<u32>,
    /// Their logits, exact.
    pub logits: Vec<f32>,
}

#[derive(Clone, Copy)]
struct Bound {
    low: f64,
    high: f64,
}

/// Bounds of the logits of [`TILE_ROWS`] rows or, in the last, fewer.
#[derive(Clone)]
struct Tile {
    bounds: [Bound; TILE_ROWS],
    /// The largest of each; `high` is infinite if a bound is not a number.
    largest: Bound,
}

/// Of a row that cannot win.
const NEVER: Bound = Bound {
    low: f64::NEG_INFINITY,
    high: f64::NEG_INFINITY,
};

/// The integers of an input.
#[derive(Default)]
struct Codes {
    whole: Vec<i16>,
    /// `256 * halves[0] + halves[1]`, padded with zeros to whole blocks of [`i7`].
    halves: [Vec<Line>; 2],
}

impl Codes {
    fn halves(&self) -> [&[i8]; 2] {
        self.halves
            .each_ref()
            .map(|half| bytemuck::cast_slice(half))
    }
}

/// What is known of the integers of an input.
struct Quantized {
    scale: f64,
    norm: f64,
    /// Norm of what the integers miss.
    error: f64,
}

impl CompactHead {
    /// Bytes of the copy of a head of `n_vocab` rows of `n_embd`.
    pub(super) fn bytes(kernel: Kernel, n_vocab: usize, n_embd: usize) -> u64 {
        let row_bytes = Storage::of(kernel, n_embd).row_bytes(n_embd) + size_of::<Row>();
        (n_vocab as u64).saturating_mul(row_bytes as u64)
    }

    /// Copies `head`, a matrix of floats.
    pub(super) fn build(compute: &Compute, head: &Matrix) -> Result<Self, Error> {
        let &Compute {
            gguf, kernel, pool, ..
        } = compute;
        let (n_vocab, n_embd) = head.shape();
        let storage = Storage::of(kernel, n_embd);
        let row_bytes = storage.row_bytes(n_embd);
        let bytes = n_vocab * row_bytes;
        let mut codes = pages::zeroed(bytes).ok_or_else(|| {
            Error::usage(format!("no memory for a compact head of {bytes} bytes"))
        })?;
        let mut rows = vec![Row::default(); n_vocab];
        let mut failures: Vec<Option<Error>> = (0..n_vocab).map(|_| None).collect();
        pool.rows_of_three(
            n_vocab,
            (&mut codes[..], &mut rows, &mut failures),
            |r, packed, row, failure| {
                let mut weights = vec![0f32; n_embd];
                let mut codes = vec![0i8; n_embd];
                match head.row(gguf, r, &mut weights) {
                    Ok(()) => {
                        let largest = storage.largest_code();
                        row[0] = vectorize!(kernel, encode(&weights, largest, &mut codes));
                    }
                    Err(e) => failure[0] = Some(e),
                }
                match storage {
                    Storage::I8 => packed.copy_from_slice(bytemuck::cast_slice(&codes)),
                    Storage::I7 => i7::pack_row(&codes, packed),
                }
            },
        );
        if let Some(error) = failures.into_iter().flatten().next() {
            return Err(error);
        }
        let finite = rows.iter().filter(|row| row.residual.is_finite());
        Ok(Self {
            largest_norm: finite.map(|row| f64::from(row.norm)).fold(0.0, f64::max),
            codes,
            storage,
            rows,
        })
    }

    /// Finds every row that could be among the `k` with the largest logits for the one token of `input`, and their
    /// logits. `false` if that cannot be told, or would take as long as all logits.
    pub(super) fn score(
        &self,
        compute: &Compute,
        head: &Matrix,
        input: &mut Input,
        k: usize,
        scores: &mut Scores,
    ) -> Result<bool, Error> {
        let n_vocab = self.rows.len();
        let x = input.as_seen_by(compute, head);
        let Some(quantized) = quantize(x, &mut scores.x) else {
            return Ok(false);
        };
        if quantized.norm * self.largest_norm >= LARGEST {
            return Ok(false);
        }
        let tile = Tile {
            bounds: [NEVER; TILE_ROWS],
            largest: NEVER,
        };
        scores.tiles.resize(n_vocab.div_ceil(TILE_ROWS), tile);
        self.bound(compute, &quantized, &scores.x, &mut scores.tiles);
        let Some(threshold) = threshold(&scores.tiles, n_vocab, k) else {
            return Ok(false);
        };
        scores.candidates.clear();
        for (first, tile) in (0..).step_by(TILE_ROWS).zip(&scores.tiles) {
            if tile.largest.high < threshold {
                continue;
            }
            // A bound that is not a number counts as able to win.
            let able = (first..n_vocab as u32)
                .zip(&tile.bounds)
                .filter(|(_, b)| b.high >= threshold || b.high.is_nan());
            scores.candidates.extend(able.map(|(row, _)| row));
        }
        if scores.candidates.len() > n_vocab / MAX_EXACT_SHARE + MAX_TOP {
            return Ok(false);
        }
        scores.logits.resize(scores.candidates.len(), 0.0);
        head.apply_to_rows(compute, input, &scores.candidates, &mut scores.logits)?;
        Ok(true)
    }

    fn bound(&self, compute: &Compute, quantized: &Quantized, x: &Codes, tiles: &mut [Tile]) {
        let n_embd = x.whole.len();
        let row_bytes = self.storage.row_bytes(n_embd);
        let rounding = rounding_of_a_dot(n_embd);
        let kernel = compute.kernel;
        compute.pool.rows(tiles, 1, |t, tile| {
            let first = t * TILE_ROWS;
            let n = TILE_ROWS.min(self.rows.len() - first);
            let mut dots = [0i32; TILE_ROWS];
            let weights = Rows {
                data: &self.codes[first * row_bytes..],
                stride: row_bytes,
                n,
                columns: n_embd,
            };
            let out = &mut dots[..n];
            match self.storage {
                Storage::I8 => kernel.i8_dots(weights, &x.whole, out),
                Storage::I7 => kernel.i7_dots(weights, x.halves(), out),
            }
            let rows = &self.rows[first..first + n];
            vectorize!(
                kernel,
                tile[0].fill(rows, &dots, quantized, rounding, n_embd)
            );
        });
    }
}

impl Tile {
    #[inline(always)]
    fn fill(&mut self, rows: &[Row], dots: &[i32], x: &Quantized, rounding: f64, n: usize) {
        for ((bound, row), &dot) in self.bounds.iter_mut().zip(rows).zip(dots) {
            *bound = row.bound(x, dot, rounding, n);
        }
        // In lanes, so that no comparison waits for the one before.
        let mut lanes = [NEVER; 8];
        for bounds in self.bounds.as_chunks::<8>().0 {
            for (largest, bound) in lanes.iter_mut().zip(bounds) {
                let high = match bound.high.is_nan() {
                    true => f64::INFINITY,
                    false => bound.high,
                };
                largest.low = largest.low.max(bound.low);
                largest.high = largest.high.max(high);
            }
        }
        self.largest = lanes.into_iter().fold(NEVER, |a, b| Bound {
            low: a.low.max(b.low),
            high: a.high.max(b.high),
        });
    }
}

impl Row {
    #[inline(always)]
    fn bound(&self, x: &Quantized, dot: i32, rounding: f64, n: usize) -> Bound {
        let (residual, norm) = (f64::from(self.residual), f64::from(self.norm));
        let centre = f64::from(self.scale) * x.scale * f64::from(dot);
        let radius = residual * x.norm + (norm + residual) * x.error + rounding * norm * x.norm;
        let underflow = n as f64 * 2f64.powi(-149);
        let radius = radius * SLACK + centre.abs() * 1e-12 + underflow;
        Bound {
            low: centre - radius,
            high: centre + radius,
        }
    }
}

/// Relative error of the f32 dot product of `n` terms, per unit of the product of the norms.
fn rounding_of_a_dot(n: usize) -> f64 {
    // The product, the additions of a lane, those of the lanes, and one to spare.
    let roundings = 1 + n.div_ceil(LANES) + LANES.ilog2() as usize + 1;
    let m = roundings as f64 * 2f64.powi(-24);
    m / (1.0 - m)
}

/// Writes the codes of a row, up to `largest_code`.
#[inline(always)]
fn encode(weights: &[f32], largest_code: i8, codes: &mut [i8]) -> Row {
    let largest = weights.iter().fold(0f32, |max, w| max.max(w.abs()));
    let finite = weights.iter().all(|w| w.is_finite());
    if !finite {
        codes.fill(0);
        return Row {
            scale: 0.0,
            residual: f32::INFINITY,
            norm: f32::INFINITY,
        };
    }
    let scale = largest / f32::from(largest_code);
    let reciprocal = match scale > 0.0 && (1.0 / scale).is_finite() {
        true => 1.0 / scale,
        false => 0.0,
    };
    for (code, w) in codes.iter_mut().zip(weights) {
        *code = nearest_int(w * reciprocal) as i8;
    }
    let scale = if reciprocal == 0.0 { 0.0 } else { scale };
    let (mut residual, mut norm) = ([0f64; 8], [0f64; 8]);
    for (codes, weights) in codes.chunks(8).zip(weights.chunks(8)) {
        for (l, (&code, &w)) in codes.iter().zip(weights).enumerate() {
            let w = f64::from(w);
            let missed = w - f64::from(scale) * f64::from(code);
            residual[l] += missed * missed;
            norm[l] += w * w;
        }
    }
    let up = |lanes: [f64; 8]| (lanes.iter().sum::<f64>().sqrt() * (1.0 + 1e-6)) as f32;
    Row {
        scale,
        residual: up(residual).next_up(),
        norm: up(norm).next_up(),
    }
}

/// Writes `x` as integers, such that no dot product with int8 codes leaves an i32. `None` if a value is not finite.
fn quantize(x: &[f32], codes: &mut Codes) -> Option<Quantized> {
    let largest = x.iter().fold(0f64, |max, &v| max.max(f64::from(v).abs()));
    let total: f64 = x.iter().map(|&v| f64::from(v).abs()).sum();
    if !total.is_finite() {
        return None;
    }
    // Rounding may add a half to each.
    let room = f64::from(i32::MAX) / 128.0 - x.len() as f64;
    let per_unit = (LARGEST_CODE / largest).min(room / total) as f32;
    let per_unit = match per_unit.is_normal() && per_unit > 0.0 {
        true => per_unit,
        false => 0.0,
    };
    let scale = match per_unit > 0.0 {
        true => 1.0 / f64::from(per_unit),
        false => 0.0,
    };
    let Codes { whole, halves } = codes;
    whole.clear();
    whole.extend(x.iter().map(|&v| nearest_int(v * per_unit) as i16));
    let lines = x.len().next_multiple_of(i7::BLOCK) / size_of::<Line>();
    let [high, low] = halves.each_mut().map(|half| {
        half.clear();
        half.resize(lines, bytemuck::Zeroable::zeroed());
        bytemuck::cast_slice_mut(half)
    });
    for ((&code, high), low) in whole.iter().zip(high).zip(low) {
        *low = code as i8;
        *high = ((code - i16::from(*low)) >> 8) as i8;
    }
    let (mut error, mut norm) = (0f64, 0f64);
    for (&code, &v) in whole.iter().zip(x) {
        let v = f64::from(v);
        let missed = v - scale * f64::from(code);
        error += missed * missed;
        norm += v * v;
    }
    let norm = norm.sqrt() * SLACK;
    Some(Quantized {
        scale,
        error: error.sqrt() * SLACK + norm * 1e-12,
        norm,
    })
}

/// The `k`-th largest lower bound of `n` rows, NaN passed over; `None` if there are fewer.
fn threshold(tiles: &[Tile], n: usize, k: usize) -> Option<f64> {
    // The largest so far, in ascending order.
    let mut top: Vec<f64> = Vec::with_capacity(k.min(MAX_TOP) + 1);
    for (first, tile) in (0..).step_by(TILE_ROWS).zip(tiles) {
        if top.len() == k && tile.largest.low <= top[0] {
            continue;
        }
        for low in tile.bounds.iter().take(n - first).map(|bound| bound.low) {
            if low.is_nan() || (top.len() == k && low <= top[0]) {
                continue;
            }
            let place = top.partition_point(|&t| t < low);
            top.insert(place, low);
            if top.len() > k {
                top.remove(0);
            }
        }
    }
    (top.len() == k).then(|| top[0])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::Kernel;
    use proptest::prelude::*;

    #[test]
    fn the_kth_largest() {
        let values = [1.0, 5.0, f64::NAN, 3.0, 5.0, f64::NEG_INFINITY];
        // In tiles, the last of them short.
        let lows: Vec<f64> = std::iter::repeat_n(f64::NEG_INFINITY, 2 * TILE_ROWS - 3)
            .chain(values)
            .collect();
        let tiles: Vec<Tile> = lows
            .chunks(TILE_ROWS)
            .map(|lows| {
                let mut bounds = [NEVER; TILE_ROWS];
                for (bound, &low) in bounds.iter_mut().zip(lows) {
                    bound.low = low;
                }
                let low = lows.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let largest = Bound { low, ..NEVER };
                Tile { bounds, largest }
            })
            .collect();
        let n = lows.len();
        for (k, want) in [
            (1, Some(5.0)),
            (2, Some(5.0)),
            (3, Some(3.0)),
            (5, Some(f64::NEG_INFINITY)),
            (n - 1, Some(f64::NEG_INFINITY)),
            (n, None),
        ] {
            assert_eq!(threshold(&tiles, n, k), want, "{k}");
        }
    }

    /// Values that quantise badly: a few large, many small, some zero.
    fn values(n: usize) -> impl Strategy<Value = Vec<f32>> {
        let value = prop_oneof![
            8 => -1f32..1.0,
            2 => -1e-3f32..1e-3,
            1 => -300f32..300.0,
            1 => Just(0f32),
            1 => prop_oneof![Just(1e-38f32), Just(-1e-42), Just(65504.0)],
        ];
        proptest::collection::vec(value, n)
    }

    proptest! {
        #[test]
        fn logits_are_within_their_bounds(
            (w, x) in (1usize..300).prop_flat_map(|n| (values(n), values(n)))
        ) {
            let n = w.len();
            let mut codes = vec![0i8; n];
            let mut x_codes = Codes::default();
            let quantized = quantize(&x, &mut x_codes).unwrap();
            let [high, low] = x_codes.halves();
            for (&whole, (&high, &low)) in x_codes.whole.iter().zip(high.iter().zip(low)) {
                prop_assert_eq!(i32::from(whole), 256 * i32::from(high) + i32::from(low));
            }
            let storages = [(Storage::I8, 0.25), (Storage::I7, 0.5)];
            for (kernel, (storage, width)) in Kernel::available().into_iter().flat_map(|k| storages.map(|s| (k, s))) {
                let row = encode(&w, storage.largest_code(), &mut codes);
                let mut dot = [0i32];
                let rows = Rows { data: bytemuck::cast_slice(&codes), stride: n, n: 1, columns: n };
                kernel.i8_dots(rows, &x_codes.whole, &mut dot);
                let exact: i64 = codes.iter().zip(&x_codes.whole).map(|(&w, &x)| i64::from(w) * i64::from(x)).sum();
                prop_assert_eq!(i64::from(dot[0]), exact);
                let bound = row.bound(&quantized, dot[0], rounding_of_a_dot(n), n);
                let data: Vec<u8> = w.iter().flat_map(|w| w.to_le_bytes()).collect();
                let rows = Rows { data: &data, stride: 4 * n, n: 1, columns: n };
                let mut logit = [0f32];
                kernel.float_dots(crate::kernels::Float::F32, rows, &x, &mut logit);
                let logit = f64::from(logit[0]);
                prop_assert!(bound.low <= logit && logit <= bound.high, "{} {logit} {}", bound.low, bound.high);
                // And not idly wide: the codes give the most of it.
                let size = f64::from(row.norm) * quantized.norm;
                prop_assert!(bound.high - bound.low <= size * width + 1e-30, "{} {size}", bound.high - bound.low);
            }
        }
    }
}
