//! Ternary by int8 dot products by VPDPBUSD, which adds four products to each 32-bit lane, exactly.

use std::arch::x86_64::*;

use super::{Rows, dots_of_rows};
use crate::blocks::i2_s::{BLOCK, BLOCK_BYTES};
use crate::kernels::PREFETCH;
use crate::kernels::avx2::load_bytes as load;
use crate::kernels::panels::{self, Dot, I2_S_STEPS, Panel, ROWS, Step, Tile, Tokens};

/// See [`Kernel::i2_s_dots`](crate::kernels::Kernel::i2_s_dots).
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl,avx512vnni")]
pub(in crate::kernels) fn dots(weights: Rows, codes: &[i8], out: &mut [i32]) {
    // SAFETY: this function's own instruction set.
    unsafe { panels::dots::<Vnni, BLOCK_BYTES, I2_S_STEPS>(weights, codes, out) }
}

/// The sums of a row by one token, still to be added up.
#[inline]
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl,avx512vnni")]
fn row_by_token(weights: Rows, row: usize, x: &[i8]) -> __m512i {
    let n_blocks = weights.columns / BLOCK;
    assert!(x.len() >= n_blocks * BLOCK);
    let row = weights.row(row, n_blocks * BLOCK_BYTES).as_ptr();
    // One per group of a block. Codes are multiplied where they lie in their bytes, so the sums are 64, 16, 4 and 1
    // times too large. They hold: a lane takes at most 4 * 192 * 128 from 256 columns, no more per column than the
    // 3 * 128 that the result has to hold as well.
    let mut sums = [_mm512_setzero_si512(); 4];
    let mut b = 0;
    while b + 1 < n_blocks {
        // SAFETY: two blocks of the row, and of activations, are left; no load needs alignment, and a prefetch may
        // name any address.
        unsafe {
            let packed = row.add(b * BLOCK_BYTES);
            _mm_prefetch::<_MM_HINT_T1>(packed.wrapping_add(PREFETCH).cast());
            let w = _mm512_loadu_si512(packed.cast());
            let x = x.as_ptr().add(b * BLOCK);
            for (group, sum) in sums.iter_mut().enumerate() {
                let x = x.add(32 * group);
                let x = _mm512_inserti64x4::<1>(
                    _mm512_castsi256_si512(_mm256_loadu_si256(x.cast())),
                    _mm256_loadu_si256(x.add(BLOCK).cast()),
                );
                *sum = add_group(*sum, w, group, x);
            }
        }
        b += 2;
    }
    if b < n_blocks {
        // SAFETY: a block of the row, and of activations, is left; no load needs alignment.
        unsafe {
            let w = _mm256_loadu_si256(row.add(b * BLOCK_BYTES).cast());
            for (group, sum) in sums.iter_mut().enumerate() {
                let x = x.as_ptr().add(b * BLOCK + 32 * group);
                let x = _mm512_zextsi256_si512(_mm256_loadu_si256(x.cast()));
                *sum = add_group(*sum, _mm512_zextsi256_si512(w), group, x);
            }
        }
    }
    let [g0, g1, g2, g3] = sums;
    let high = _mm512_add_epi32(_mm512_srai_epi32::<6>(g0), _mm512_srai_epi32::<4>(g1));
    let low = _mm512_add_epi32(_mm512_srai_epi32::<2>(g2), g3);
    _mm512_add_epi32(high, low)
}

/// `sum` and the products of one group of the codes, left in place, with its activations.
#[inline]
#[target_feature(enable = "avx512f,avx512vnni")]
pub(super) fn add_group(sum: __m512i, packed: __m512i, group: usize, x: __m512i) -> __m512i {
    let mask = _mm512_set1_epi8((0xc0u8 >> (2 * group)) as i8);
    _mm512_dpbusd_epi32(sum, _mm512_and_si512(packed, mask), x)
}

struct Vnni;

impl Dot<BLOCK_BYTES, I2_S_STEPS> for Vnni {
    const PANELS: usize = 2;
    const TOKENS: usize = 12;
    const FEW: usize = 12;

    #[inline]
    #[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl,avx512vnni")]
    unsafe fn token(weights: Rows, x: &[i8], out: &mut [i32]) {
        assert_eq!(weights.columns % BLOCK, 0);
        dots_of_rows!(&mut out[..weights.n], row => row_by_token(weights, row, x));
    }

    #[inline]
    #[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl,avx512vnni")]
    unsafe fn unpack(rows: [&[u8; BLOCK_BYTES]; ROWS], steps: &mut [Step; I2_S_STEPS]) {
        // Eight words of rows `4i..4i + 4` and `4i + 4..4i + 8`, transposed by fours of both.
        let transposed = |first: usize| {
            let mut v = [_mm512_setzero_si512(); 4];
            for (r, v) in v.iter_mut().enumerate() {
                *v = _mm512_inserti64x4::<1>(
                    _mm512_castsi256_si512(load(rows[first + r])),
                    load(rows[first + 4 + r]),
                );
            }
            let low = [
                _mm512_unpacklo_epi32(v[0], v[1]),
                _mm512_unpacklo_epi32(v[2], v[3]),
            ];
            let high = [
                _mm512_unpackhi_epi32(v[0], v[1]),
                _mm512_unpackhi_epi32(v[2], v[3]),
            ];
            [
                _mm512_unpacklo_epi64(low[0], low[1]),
                _mm512_unpackhi_epi64(low[0], low[1]),
                _mm512_unpacklo_epi64(high[0], high[1]),
                _mm512_unpackhi_epi64(high[0], high[1]),
            ]
        };
        let (top, bottom) = (transposed(0), transposed(8));
        for i in 0..4 {
            // Word `i` of every row, and word `i + 4`.
            let near = _mm512_shuffle_i32x4::<0b10_00_10_00>(top[i], bottom[i]);
            let far = _mm512_shuffle_i32x4::<0b11_01_11_01>(top[i], bottom[i]);
            store_groups(near, i, steps);
            store_groups(far, i + 4, steps);
        }
    }

    #[inline]
    #[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl,avx512vnni")]
    unsafe fn multiply(panels: &[Panel], n_steps: usize, x: Tokens, sums: &mut Tile) {
        // SAFETY: the caller's contract.
        unsafe { by_tokens(panels, n_steps, x, sums) }
    }
}

/// See [`Dot::multiply`].
///
/// # Safety
/// As there.
#[target_feature(enable = "avx512f,avx512vnni")]
pub(super) unsafe fn by_tokens(panels: &[Panel], n_steps: usize, x: Tokens, sums: &mut Tile) {
    // SAFETY: the caller's contract.
    unsafe {
        match panels {
            [a, b] => by_panels([a, b], n_steps, x, sums),
            [a] => by_panels([a], n_steps, x, sums),
            _ => unreachable!("one or two panels"),
        }
    }
}

/// # Safety
/// As [`Dot::multiply`].
#[target_feature(enable = "avx512f,avx512vnni")]
unsafe fn by_panels<const G: usize>(
    panels: [&Panel; G],
    n_steps: usize,
    x: Tokens,
    sums: &mut Tile,
) {
    // SAFETY: the caller's contract.
    unsafe {
        match x.n {
            1 => tile::<G, 1>(panels, n_steps, x, sums),
            2 => tile::<G, 2>(panels, n_steps, x, sums),
            3 => tile::<G, 3>(panels, n_steps, x, sums),
            4 => tile::<G, 4>(panels, n_steps, x, sums),
            5 => tile::<G, 5>(panels, n_steps, x, sums),
            6 => tile::<G, 6>(panels, n_steps, x, sums),
            7 => tile::<G, 7>(panels, n_steps, x, sums),
            8 => tile::<G, 8>(panels, n_steps, x, sums),
            9 => tile::<G, 9>(panels, n_steps, x, sums),
            10 => tile::<G, 10>(panels, n_steps, x, sums),
            11 => tile::<G, 11>(panels, n_steps, x, sums),
            12 => tile::<G, 12>(panels, n_steps, x, sums),
            _ => unreachable!("at most `TOKENS`"),
        }
    }
}

/// # Safety
/// As [`Dot::multiply`], with `T` tokens.
#[target_feature(enable = "avx512f,avx512vnni")]
unsafe fn tile<const G: usize, const T: usize>(
    panels: [&Panel; G],
    n_steps: usize,
    x: Tokens,
    out: &mut Tile,
) {
    let mut sums = [[_mm512_setzero_si512(); G]; T];
    for s in 0..n_steps {
        let mut w = [_mm512_setzero_si512(); G];
        for (w, panel) in w.iter_mut().zip(panels) {
            // SAFETY: a step has 64 bytes and is aligned to them; the caller keeps `n_steps` within a panel.
            *w = unsafe { _mm512_load_si512(panel.as_ptr().add(s).cast()) };
        }
        for (t, sums) in sums.iter_mut().enumerate() {
            // SAFETY: every token has four activations per step.
            let x = unsafe {
                x.first
                    .add(t * x.stride + 4 * s)
                    .cast::<i32>()
                    .read_unaligned()
            };
            let x = _mm512_set1_epi32(x);
            for (sum, w) in sums.iter_mut().zip(w) {
                *sum = _mm512_dpbusd_epi32(*sum, w, x);
            }
        }
    }
    for (out, sums) in out.iter_mut().zip(sums) {
        for (out, sum) in out.iter_mut().zip(sums) {
            // SAFETY: sixteen i32 are writable; the store needs no alignment.
            unsafe { _mm512_storeu_si512(out.as_mut_ptr().cast(), sum) };
        }
    }
}

/// Unpacks the words `word` of all rows to one step per group.
#[inline]
#[target_feature(enable = "avx512f")]
fn store_groups(words: __m512i, word: usize, steps: &mut [Step; I2_S_STEPS]) {
    let low_bits = _mm512_set1_epi8(3);
    let groups = [
        _mm512_srli_epi32::<6>(words),
        _mm512_srli_epi32::<4>(words),
        _mm512_srli_epi32::<2>(words),
        words,
    ];
    for (group, codes) in groups.into_iter().enumerate() {
        let step = &mut steps[8 * group + word];
        // SAFETY: a step has 64 bytes and is aligned to them.
        unsafe {
            _mm512_store_si512(
                step.0.as_mut_ptr().cast(),
                _mm512_and_si512(codes, low_bits),
            )
        };
    }
}
