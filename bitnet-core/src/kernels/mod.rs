//! Dot products and row operations, with one implementation per instruction set, chosen at run time.
//!
//! Every implementation gives the same bits. Integer dots are exact. Floating-point dots keep [`LANES`] partial
//! sums, element `i` going to lane `i % LANES` (the end of a row padded with zeros), each product rounded before it
//! is added (no fused multiply-add), and add the lanes up pairwise, lane `l` with lane `l + half`. A result depends
//! on its own row and token alone, never on what else is computed beside it.

pub mod elementwise;
mod portable;

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "x86_64")]
mod avx_vnni;
#[cfg(target_arch = "aarch64")]
mod neon;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
mod packed;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
mod panels;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
mod ternary_blocks;

use crate::Error;
use crate::blocks::{i2_s, tq1_0, tq2_0};
pub use crate::gguf::Float;

/// Partial sums of a floating-point dot product.
pub const LANES: usize = 16;
/// Partial sums of a Q8_0 or Q6_K dot product; lane `l` takes elements `4l..4l + 4` of every 32.
const QUANT_LANES: usize = 8;

/// How far ahead rows that are used once are fetched, bytes: reading them is limited by memory.
#[cfg(target_arch = "x86_64")]
const PREFETCH: usize = 8192;

/// Forces a kernel by name: `portable`; on x86-64 `avx2`, `avx-vnni`, `avx512-vnni`,
/// `avx512-vbmi`; on aarch64 `neon`.
pub const KERNEL_VARIABLE: &str = "BITNET_KERNEL";

/// `vectorize!(kernel, body)` runs `body`, compiled for the kernel's instruction set: what is inlined into it is
/// vectorised with its registers. Rust contracts no multiplications and additions, so that the results are the same
/// bits.
macro_rules! vectorize {
    ($kernel:expr, $body:expr) => {
        // A closure that is called and not inlined is compiled for any machine.
        $kernel.vectorize(
            #[inline(always)]
            || $body,
        )
    };
}
pub(crate) use vectorize;

/// An instruction set that this machine has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kernel(Isa);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Isa {
    Portable,
    /// Constructed only where AVX2 and F16C were detected.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// Constructed only where AVX2, F16C and AVX-VNNI were detected.
    #[cfg(target_arch = "x86_64")]
    AvxVnni,
    /// Constructed only where AVX2, F16C and AVX-512 F, BW, VL and VNNI were detected.
    #[cfg(target_arch = "x86_64")]
    Avx512Vnni,
    /// Constructed only where, in addition, AVX-512 VBMI was detected.
    #[cfg(target_arch = "x86_64")]
    Avx512Vbmi,
    /// Constructed only where NEON and its dot products were detected.
    #[cfg(target_arch = "aarch64")]
    Neon,
}

/// Rows of a weight matrix, or of the KV cache, as bytes.
#[derive(Clone, Copy, Debug)]
pub struct Rows<'a> {
    /// Starts with the first row.
    pub data: &'a [u8],
    /// Bytes from one row to the next.
    pub stride: usize,
    /// Rows.
    pub n: usize,
    /// Elements per row.
    pub columns: usize,
}

impl<'a> Rows<'a> {
    /// The bytes of row `row`, `bytes` of them.
    #[inline(always)]
    pub(crate) fn row(&self, row: usize, bytes: usize) -> &'a [u8] {
        &self.data[row * self.stride..][..bytes]
    }
}

/// Activations of tokens as Q8_K: `codes` is `[n_tokens][columns]`, `scales` and `sums` of the codes are
/// `[n_tokens][columns / 256]`.
#[derive(Clone, Copy, Debug)]
pub struct Q8K<'a> {
    /// Integers.
    pub codes: &'a [i8],
    /// What each is multiplied with.
    pub scales: &'a [f32],
    /// Of the codes of a block.
    pub sums: &'a [i32],
}

impl Kernel {
    /// Every kernel that this machine can run, slowest first.
    pub fn available() -> Vec<Kernel> {
        #[allow(unused_mut, reason = "architectures without a kernel of their own")]
        let mut kernels = vec![Kernel(Isa::Portable)];
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("f16c") {
            kernels.push(Kernel(Isa::Avx2));
            if is_x86_feature_detected!("avxvnni") {
                kernels.push(Kernel(Isa::AvxVnni));
            }
            if is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512vl")
                && is_x86_feature_detected!("avx512vnni")
            {
                kernels.push(Kernel(Isa::Avx512Vnni));
                if is_x86_feature_detected!("avx512vbmi") {
                    kernels.push(Kernel(Isa::Avx512Vbmi));
                }
            }
        }
        #[cfg(target_arch = "aarch64")]
        if std::arch::is_aarch64_feature_detected!("dotprod") {
            kernels.push(Kernel(Isa::Neon));
        }
        kernels
    }

    /// The fastest kernel, or the one that the environment variable [`KERNEL_VARIABLE`] names.
    ///
    /// # Errors
    /// As [`by_name`](Self::by_name).
    pub fn select() -> Result<Kernel, Error> {
        match std::env::var_os(KERNEL_VARIABLE) {
            Some(name) => Kernel::by_name(&name.to_string_lossy()),
            None => {
                let available = Kernel::available();
                Ok(available[available.len() - 1])
            }
        }
    }

    /// The kernel of that name.
    ///
    /// # Errors
    /// [`Usage`](crate::ErrorKind::Usage) if the name is unknown or the machine lacks the instructions.
    pub fn by_name(name: &str) -> Result<Kernel, Error> {
        let available = Kernel::available();
        let found = available.iter().find(|kernel| kernel.name() == name);
        found.copied().ok_or_else(|| {
            let names: Vec<_> = available.iter().map(|kernel| kernel.name()).collect();
            let names = names.join(", ");
            let what = format!("no kernel {name:?} on this machine ({KERNEL_VARIABLE}: {names})");
            Error::usage(what)
        })
    }

    /// As [`KERNEL_VARIABLE`] names it.
    pub fn name(self) -> &'static str {
        match self.0 {
            Isa::Portable => "portable",
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => "avx2",
            #[cfg(target_arch = "x86_64")]
            Isa::AvxVnni => "avx-vnni",
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Vnni => "avx512-vnni",
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Vbmi => "avx512-vbmi",
            #[cfg(target_arch = "aarch64")]
            Isa::Neon => "neon",
        }
    }

    /// See `vectorize!`, which is to be used instead.
    #[inline(always)]
    pub(crate) fn vectorize<R>(self, f: impl FnOnce() -> R) -> R {
        match self.0 {
            Isa::Portable => f(),
            #[cfg(target_arch = "x86_64")]
            // SAFETY: they exist only where AVX2 and F16C were detected.
            Isa::Avx2 | Isa::AvxVnni => unsafe { avx2::vectorize(f) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: they exist only where what they need was detected.
            Isa::Avx512Vnni | Isa::Avx512Vbmi => unsafe { avx512::vectorize(f) },
            // NEON is in every build for aarch64.
            #[cfg(target_arch = "aarch64")]
            Isa::Neon => f(),
        }
    }

    /// Dot products of I2_S codes with int8 activations, exact. The codes are 0, 1, 2 for -1, 0, +1; a 3, which
    /// stands for no weight, counts as 3 in every kernel.
    /// `codes` is `[n_tokens][columns]`, `out` is `[n_tokens][weights.n]`.
    ///
    /// # Panics
    /// If the row length is not a multiple of the block, or a slice is too short.
    pub fn i2_s_dots(self, weights: Rows, codes: &[i8], out: &mut [i32]) {
        match self.0 {
            Isa::Portable => portable::i2_s_dots(weights, codes, out),
            #[cfg(target_arch = "x86_64")]
            // SAFETY: `Isa::Avx2` exists only where AVX2 was detected.
            Isa::Avx2 => unsafe { avx2::i2_s::dots(weights, codes, out) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: `Isa::AvxVnni` exists only where AVX2 and AVX-VNNI were detected.
            Isa::AvxVnni => unsafe { avx_vnni::dots(weights, codes, out) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: they exist only where what they need was detected.
            Isa::Avx512Vnni | Isa::Avx512Vbmi => unsafe { avx512::i2_s::dots(weights, codes, out) },
            #[cfg(target_arch = "aarch64")]
            // SAFETY: `Isa::Neon` exists only where NEON and its dot products were detected.
            Isa::Neon => unsafe { neon::i2_s::dots(weights, codes, out) },
        }
    }

    /// Whether [`trit_dots`](Self::trit_dots) takes no longer than [`i2_s_dots`](Self::i2_s_dots), once both are bound
    /// by memory.
    pub fn prefers_trits(self) -> bool {
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Vbmi => true,
            _ => false,
        }
    }

    /// As [`i2_s_dots`](Self::i2_s_dots), of [trits](crate::blocks::trits).
    ///
    /// # Panics
    /// As there; the row length is one of I2_S.
    pub fn trit_dots(self, weights: Rows, codes: &[i8], out: &mut [i32]) {
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: `Isa::Avx512Vbmi` exists only where what it needs was detected.
            Isa::Avx512Vbmi => unsafe { avx512::trits::dots(weights, codes, out) },
            _ => portable::trit_dots(weights, codes, out),
        }
    }

    /// Dot products of rows of floats with f32 activations (rounded to bf16 by the caller beside bf16 weights).
    /// `x` is `[n_tokens][columns]`, `out` is `[n_tokens][weights.n]`.
    ///
    /// # Panics
    /// If a slice is too short.
    pub fn float_dots(self, ty: Float, weights: Rows, x: &[f32], out: &mut [f32]) {
        match self.0 {
            Isa::Portable => portable::float_dots(ty, weights, x, out),
            #[cfg(target_arch = "x86_64")]
            // SAFETY: they exist only where AVX2 and F16C were detected.
            Isa::Avx2 | Isa::AvxVnni => unsafe { avx2::float::dots(ty, weights, x, out) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: they exist only where what they need was detected.
            Isa::Avx512Vnni | Isa::Avx512Vbmi => unsafe {
                avx512::float::dots(ty, weights, x, out)
            },
            #[cfg(target_arch = "aarch64")]
            // SAFETY: `Isa::Neon` exists only where NEON and its dot products were detected.
            Isa::Neon => unsafe { neon::float::dots(ty, weights, x, out) },
        }
    }

    /// Dot products of Q8_0 rows with Q8_0 activations: `codes` is `[n_tokens][columns]`, in -127..=127, `scales`
    /// is `[n_tokens][columns / 32]`, `out` is `[n_tokens][weights.n]`.
    ///
    /// # Panics
    /// If the row length is not a multiple of the block, or a slice is too short.
    pub fn q8_0_dots(self, weights: Rows, codes: &[i8], scales: &[f32], out: &mut [f32]) {
        match self.0 {
            Isa::Portable => portable::q8_0_dots(weights, codes, scales, out),
            #[cfg(target_arch = "x86_64")]
            // SAFETY: they exist only where AVX2 was detected.
            Isa::Avx2 | Isa::AvxVnni | Isa::Avx512Vnni | Isa::Avx512Vbmi => unsafe {
                avx2::blocks::q8_0_dots(weights, codes, scales, out)
            },
            #[cfg(target_arch = "aarch64")]
            // SAFETY: `Isa::Neon` exists only where NEON and its dot products were detected.
            Isa::Neon => unsafe { neon::blocks::q8_0_dots(weights, codes, scales, out) },
        }
    }

    /// Dot products of Q6_K rows with Q8_K activations: `codes` is `[n_tokens][columns]`, `scales` is
    /// `[n_tokens][columns / 256]`, `out` is `[n_tokens][weights.n]`.
    ///
    /// # Panics
    /// If the row length is not a multiple of the block, or a slice is too short.
    pub fn q6_k_dots(self, weights: Rows, codes: &[i8], scales: &[f32], out: &mut [f32]) {
        match self.0 {
            Isa::Portable => portable::q6_k_dots(weights, codes, scales, out),
            #[cfg(target_arch = "x86_64")]
            // SAFETY: they exist only where AVX2 was detected.
            Isa::Avx2 | Isa::AvxVnni | Isa::Avx512Vnni | Isa::Avx512Vbmi => unsafe {
                avx2::blocks::q6_k_dots(weights, codes, scales, out)
            },
            #[cfg(target_arch = "aarch64")]
            // SAFETY: `Isa::Neon` exists only where NEON and its dot products were detected.
            Isa::Neon => unsafe { neon::blocks::q6_k_dots(weights, codes, scales, out) },
        }
    }

    /// Dot products of TQ1_0 rows with Q8_K activations; `out` is `[n_tokens][weights.n]`. A block's is exact, and
    /// multiplied with the product of its scales; a row's adds its blocks up in order.
    ///
    /// # Panics
    /// If the row length is not a multiple of the block, or a slice is too short.
    pub fn tq1_0_dots(self, weights: Rows, x: Q8K, out: &mut [f32]) {
        match self.0 {
            Isa::Portable => portable::ternary_block_dots(weights, x, out, tq1_0::code),
            #[cfg(target_arch = "x86_64")]
            // SAFETY: `Isa::Avx2` exists only where AVX2 and F16C were detected.
            Isa::Avx2 => unsafe { avx2::ternary_blocks::tq1_0_dots(weights, x, out) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: `Isa::AvxVnni` exists only where AVX2, F16C and AVX-VNNI were detected.
            Isa::AvxVnni => unsafe { avx_vnni::tq1_0_dots(weights, x, out) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: they exist only where what they need was detected.
            Isa::Avx512Vnni | Isa::Avx512Vbmi => unsafe {
                avx512::ternary_blocks::tq1_0_dots(weights, x, out)
            },
            #[cfg(target_arch = "aarch64")]
            // SAFETY: `Isa::Neon` exists only where NEON and its dot products were detected.
            Isa::Neon => unsafe { neon::ternary_blocks::tq1_0_dots(weights, x, out) },
        }
    }

    /// As [`tq1_0_dots`](Self::tq1_0_dots), of TQ2_0 rows.
    ///
    /// # Panics
    /// As there.
    pub fn tq2_0_dots(self, weights: Rows, x: Q8K, out: &mut [f32]) {
        match self.0 {
            Isa::Portable => portable::ternary_block_dots(weights, x, out, tq2_0::code),
            #[cfg(target_arch = "x86_64")]
            // SAFETY: `Isa::Avx2` exists only where AVX2 and F16C were detected.
            Isa::Avx2 => unsafe { avx2::ternary_blocks::tq2_0_dots(weights, x, out) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: `Isa::AvxVnni` exists only where AVX2, F16C and AVX-VNNI were detected.
            Isa::AvxVnni => unsafe { avx_vnni::tq2_0_dots(weights, x, out) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: they exist only where what they need was detected.
            Isa::Avx512Vnni | Isa::Avx512Vbmi => unsafe {
                avx512::ternary_blocks::tq2_0_dots(weights, x, out)
            },
            #[cfg(target_arch = "aarch64")]
            // SAFETY: `Isa::Neon` exists only where NEON and its dot products were detected.
            Isa::Neon => unsafe { neon::ternary_blocks::tq2_0_dots(weights, x, out) },
        }
    }

    /// Dot products of [packed](crate::blocks::packed) rows with Q8_0 activations: `codes` is `[n_tokens][columns]`, in
    /// -127..=127, `scales` is `[n_tokens][columns / 32]`, `out` is `[n_tokens][weights.n]`.
    ///
    /// # Panics
    /// If the row length is not a multiple of the block, or a slice is too short.
    pub fn packed_dots<const BITS: usize, const BYTES: usize>(
        self,
        weights: Rows,
        codes: &[i8],
        scales: &[f32],
        out: &mut [f32],
    ) {
        match self.0 {
            Isa::Portable => portable::packed_dots::<BITS, BYTES>(weights, codes, scales, out),
            #[cfg(target_arch = "x86_64")]
            // SAFETY: they exist only where AVX2 and F16C were detected.
            Isa::Avx2 | Isa::AvxVnni => unsafe {
                avx2::packed::dots::<BITS, BYTES>(weights, codes, scales, out)
            },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: they exist only where what they need was detected.
            Isa::Avx512Vnni | Isa::Avx512Vbmi => unsafe {
                avx512::packed::dots::<BITS, BYTES>(weights, codes, scales, out)
            },
            #[cfg(target_arch = "aarch64")]
            // SAFETY: `Isa::Neon` exists only where NEON and its dot products were detected.
            Isa::Neon => unsafe { neon::packed::dots::<BITS, BYTES>(weights, codes, scales, out) },
        }
    }

    /// Dot products of rows of int8 with one row of int16, exact. `x` is `[columns]`, `out` is `[weights.n]`.
    /// The caller sees to it that `128 * sum(|x|)` fits an i32.
    ///
    /// # Panics
    /// If a slice is too short.
    pub fn i8_dots(self, weights: Rows, x: &[i16], out: &mut [i32]) {
        match self.0 {
            Isa::Portable => portable::i8_dots(weights, x, out),
            #[cfg(target_arch = "x86_64")]
            // SAFETY: they exist only where AVX2 was detected.
            Isa::Avx2 | Isa::AvxVnni => unsafe { avx2::i8::dots(weights, x, out) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: they exist only where what they need was detected.
            Isa::Avx512Vnni | Isa::Avx512Vbmi => unsafe { avx512::i8::dots(weights, x, out) },
            #[cfg(target_arch = "aarch64")]
            // SAFETY: `Isa::Neon` exists only where NEON and its dot products were detected.
            Isa::Neon => unsafe { neon::i8::dots(weights, x, out) },
        }
    }

    /// Whether [`i7_dots`](Self::i7_dots) take no longer than [`i8_dots`](Self::i8_dots), once both are bound by memory.
    pub fn prefers_i7(self) -> bool {
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Vnni | Isa::Avx512Vbmi => true,
            _ => false,
        }
    }

    /// As [`i8_dots`](Self::i8_dots), of rows of [7-bit integers](crate::blocks::i7) with `256 * x[0] + x[1]`. `x` is
    /// `[2][columns]`, padded with zeros to whole blocks.
    ///
    /// # Panics
    /// As there.
    pub fn i7_dots(self, weights: Rows, x: [&[i8]; 2], out: &mut [i32]) {
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: they exist only where what they need was detected.
            Isa::Avx512Vnni | Isa::Avx512Vbmi => unsafe { avx512::i7::dots(weights, x, out) },
            _ => portable::i7_dots(weights, x, out),
        }
    }

    /// Quantises one token's activations, as products with I2_S take them: [`i2_s::quantize_row`].
    ///
    /// # Panics
    /// If `codes` is shorter than `x`.
    pub fn quantize_i8(self, x: &[f32], codes: &mut [i8]) -> (f32, i32) {
        vectorize!(self, i2_s::quantize_row(x, codes))
    }

    /// Sums of F16 rows, weighted: `out[t][c] = sum over r of p[t][r] * rows[r][c]`, rows added in order.
    /// `p` is `[n_tokens][rows.n]`, `out` is `[n_tokens][columns]`.
    ///
    /// # Panics
    /// If a slice is too short.
    pub fn f16_weighted_sums(self, rows: Rows, p: &[f32], out: &mut [f32]) {
        match self.0 {
            Isa::Portable => portable::f16_weighted_sums(rows, p, out),
            #[cfg(target_arch = "x86_64")]
            // SAFETY: they exist only where AVX2 and F16C were detected.
            Isa::Avx2 | Isa::AvxVnni => unsafe { avx2::float::f16_weighted_sums(rows, p, out) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: they exist only where what they need was detected.
            Isa::Avx512Vnni | Isa::Avx512Vbmi => unsafe {
                avx512::float::f16_weighted_sums(rows, p, out)
            },
            #[cfg(target_arch = "aarch64")]
            // SAFETY: `Isa::Neon` exists only where NEON and its dot products were detected.
            Isa::Neon => unsafe { neon::float::f16_weighted_sums(rows, p, out) },
        }
    }
}

/// `out[t][r] = dot(row r, codes of token t, scales of token t)`, for rows of blocks of `N` elements in `BYTES` bytes.
/// Inlined, to be compiled for the caller's instruction set.
#[inline(always)]
fn block_dots<const N: usize, const BYTES: usize>(
    weights: Rows,
    codes: &[i8],
    scales: &[f32],
    out: &mut [f32],
    dot: impl Fn(&[[u8; BYTES]], &[[i8; N]], &[f32]) -> f32,
) {
    assert_eq!(weights.columns % N, 0);
    let blocks = weights.columns / N;
    let codes = codes.chunks_exact(weights.columns);
    let tokens = codes.zip(scales.chunks_exact(blocks));
    for ((x, scales), out) in tokens.zip(out.chunks_exact_mut(weights.n)) {
        for (r, out) in out.iter_mut().enumerate() {
            let row = weights.row(r, blocks * BYTES);
            *out = dot(row.as_chunks().0, x.as_chunks().0, scales);
        }
    }
}

/// Rounds to bf16, half to even, as ggml's `ggml_fp32_to_bf16` (which keeps subnormals and quiets NaN).
#[inline(always)]
pub(crate) fn round_to_bf16(x: f32) -> f32 {
    half::bf16::from_f32(x).to_f32()
}

#[cfg(test)]
mod tests;
