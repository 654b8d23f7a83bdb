//! The int8 peak: the machine's best multiply-accumulate instruction, over and over, from registers.
//!
//! In assembly, since a compiler would see that the sums are never used. Instructions that depend on each other are
//! further apart than their latency.

use std::time::{Duration, Instant};

use super::best_rate;

/// Together long enough for the clock rate to settle under the load.
const ROUND: Duration = Duration::from_millis(20);
const ROUNDS: usize = 10;

/// Turns of a kernel's loop between two looks at the clock: some tens of microseconds.
const TURNS: u64 = 10_000;

/// A loop of multiply-accumulate instructions.
#[derive(Clone, Copy)]
struct Kernel {
    instructions: &'static str,
    /// Multiply-accumulates per turn of the loop.
    macs: u64,
    run: fn(u64),
}

/// Multiply-accumulates per second of all `cpus` together, and by which instructions.
pub(super) fn peak(cpus: &[usize]) -> Option<(f64, &'static str)> {
    let kernel = kernel();
    let rate = best_rate(
        cpus,
        vec![(); cpus.len()],
        ROUNDS,
        |_| (kernel.run)(TURNS),
        |_, _| {
            let start = Instant::now();
            let mut turns = 0;
            while start.elapsed() < ROUND {
                (kernel.run)(TURNS);
                turns += TURNS;
            }
            turns * kernel.macs
        },
    );
    Some((rate?, kernel.instructions))
}

#[cfg(target_arch = "x86_64")]
fn kernel() -> Kernel {
    if std::arch::is_x86_feature_detected!("avx512vnni") {
        x86::AVX512_VNNI
    } else if std::arch::is_x86_feature_detected!("avxvnni") {
        x86::AVX_VNNI
    } else if std::arch::is_x86_feature_detected!("avx2") {
        x86::AVX2
    } else {
        PORTABLE
    }
}

#[cfg(target_arch = "aarch64")]
fn kernel() -> Kernel {
    if std::arch::is_aarch64_feature_detected!("dotprod") {
        aarch64::DOTPROD
    } else {
        PORTABLE
    }
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn kernel() -> Kernel {
    PORTABLE
}

const PORTABLE_LENGTH: usize = 256;

/// What a compiler makes of a plain loop.
const PORTABLE: Kernel = Kernel {
    instructions: "portable loop",
    macs: PORTABLE_LENGTH as u64,
    run: |turns| {
        use std::hint::black_box;
        let (weights, activations) = (
            black_box([1i8; PORTABLE_LENGTH]),
            black_box([3i8; PORTABLE_LENGTH]),
        );
        for _ in 0..turns {
            let pairs = black_box(&weights).iter().zip(black_box(&activations));
            let products = pairs.map(|(&w, &a)| i32::from(i16::from(w) * i16::from(a)));
            black_box(products.sum::<i32>());
        }
    },
};

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::asm;

    use super::Kernel;

    /// 64 products per instruction, summed by fours into 32 bits.
    pub(super) const AVX512_VNNI: Kernel = Kernel {
        instructions: "AVX-512 VNNI vpdpbusd, 512 bits",
        macs: 16 * 64,
        // SAFETY: chosen only on a CPU that has both features.
        run: |turns| unsafe { avx512_vnni(turns) },
    };

    /// 32 products per instruction, summed by fours into 32 bits.
    pub(super) const AVX_VNNI: Kernel = Kernel {
        instructions: "AVX-VNNI vpdpbusd, 256 bits",
        macs: 12 * 32,
        // SAFETY: chosen only on a CPU that has the feature.
        run: |turns| unsafe { avx_vnni(turns) },
    };

    /// 32 products per pair of instructions, summed by twos into 16 bits.
    pub(super) const AVX2: Kernel = Kernel {
        instructions: "AVX2 vpmaddubsw + vpaddw, 256 bits",
        macs: 6 * 32,
        // SAFETY: chosen only on a CPU that has the feature.
        run: |turns| unsafe { avx2(turns) },
    };

    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    fn avx512_vnni(turns: u64) {
        // SAFETY: touches nothing but the registers named.
        unsafe {
            asm!(
                "vpbroadcastd zmm30, {bytes:e}",
                "vpbroadcastd zmm31, {bytes:e}",
                "2:",
                "vpdpbusd zmm0, zmm30, zmm31", "vpdpbusd zmm1, zmm30, zmm31",
                "vpdpbusd zmm2, zmm30, zmm31", "vpdpbusd zmm3, zmm30, zmm31",
                "vpdpbusd zmm4, zmm30, zmm31", "vpdpbusd zmm5, zmm30, zmm31",
                "vpdpbusd zmm6, zmm30, zmm31", "vpdpbusd zmm7, zmm30, zmm31",
                "vpdpbusd zmm8, zmm30, zmm31", "vpdpbusd zmm9, zmm30, zmm31",
                "vpdpbusd zmm10, zmm30, zmm31", "vpdpbusd zmm11, zmm30, zmm31",
                "vpdpbusd zmm12, zmm30, zmm31", "vpdpbusd zmm13, zmm30, zmm31",
                "vpdpbusd zmm14, zmm30, zmm31", "vpdpbusd zmm15, zmm30, zmm31",
                "dec {turns}",
                "jnz 2b",
                bytes = in(reg) 0x0201_0302,
                turns = inout(reg) turns.max(1) => _,
                out("zmm0") _, out("zmm1") _, out("zmm2") _, out("zmm3") _,
                out("zmm4") _, out("zmm5") _, out("zmm6") _, out("zmm7") _,
                out("zmm8") _, out("zmm9") _, out("zmm10") _, out("zmm11") _,
                out("zmm12") _, out("zmm13") _, out("zmm14") _, out("zmm15") _,
                out("zmm30") _, out("zmm31") _,
                options(nomem, nostack),
            );
        }
    }

    #[target_feature(enable = "avx2,avxvnni")]
    fn avx_vnni(turns: u64) {
        // SAFETY: touches nothing but the registers named.
        unsafe {
            asm!(
                "vmovd xmm15, {bytes:e}",
                "vpbroadcastd ymm15, xmm15",
                "2:",
                "{{vex}} vpdpbusd ymm0, ymm15, ymm15", "{{vex}} vpdpbusd ymm1, ymm15, ymm15",
                "{{vex}} vpdpbusd ymm2, ymm15, ymm15", "{{vex}} vpdpbusd ymm3, ymm15, ymm15",
                "{{vex}} vpdpbusd ymm4, ymm15, ymm15", "{{vex}} vpdpbusd ymm5, ymm15, ymm15",
                "{{vex}} vpdpbusd ymm6, ymm15, ymm15", "{{vex}} vpdpbusd ymm7, ymm15, ymm15",
                "{{vex}} vpdpbusd ymm8, ymm15, ymm15", "{{vex}} vpdpbusd ymm9, ymm15, ymm15",
                "{{vex}} vpdpbusd ymm10, ymm15, ymm15", "{{vex}} vpdpbusd ymm11, ymm15, ymm15",
                "dec {turns}",
                "jnz 2b",
                bytes = in(reg) 0x0201_0302,
                turns = inout(reg) turns.max(1) => _,
                out("ymm0") _, out("ymm1") _, out("ymm2") _, out("ymm3") _,
                out("ymm4") _, out("ymm5") _, out("ymm6") _, out("ymm7") _,
                out("ymm8") _, out("ymm9") _, out("ymm10") _, out("ymm11") _,
                out("ymm15") _,
                options(nomem, nostack),
            );
        }
    }

    #[target_feature(enable = "avx2")]
    fn avx2(turns: u64) {
        // SAFETY: touches nothing but the registers named.
        unsafe {
            asm!(
                "vmovd xmm15, {bytes:e}",
                "vpbroadcastd ymm15, xmm15",
                "2:",
                "vpmaddubsw ymm6, ymm15, ymm15",
                "vpmaddubsw ymm7, ymm15, ymm15",
                "vpmaddubsw ymm8, ymm15, ymm15",
                "vpmaddubsw ymm9, ymm15, ymm15",
                "vpmaddubsw ymm10, ymm15, ymm15",
                "vpmaddubsw ymm11, ymm15, ymm15",
                "vpaddw ymm0, ymm0, ymm6",
                "vpaddw ymm1, ymm1, ymm7",
                "vpaddw ymm2, ymm2, ymm8",
                "vpaddw ymm3, ymm3, ymm9",
                "vpaddw ymm4, ymm4, ymm10",
                "vpaddw ymm5, ymm5, ymm11",
                "dec {turns}",
                "jnz 2b",
                bytes = in(reg) 0x0201_0302,
                turns = inout(reg) turns.max(1) => _,
                out("ymm0") _, out("ymm1") _, out("ymm2") _, out("ymm3") _,
                out("ymm4") _, out("ymm5") _, out("ymm6") _, out("ymm7") _,
                out("ymm8") _, out("ymm9") _, out("ymm10") _, out("ymm11") _,
                out("ymm15") _,
                options(nomem, nostack),
            );
        }
    }
}

#[cfg(target_arch = "aarch64")]
mod aarch64 {
    use std::arch::asm;

    use super::Kernel;

    /// 16 products per instruction, summed by fours into 32 bits.
    pub(super) const DOTPROD: Kernel = Kernel {
        instructions: "NEON sdot, 128 bits",
        macs: 16 * 16,
        // SAFETY: chosen only on a CPU that has the feature.
        run: |turns| unsafe { dotprod(turns) },
    };

    #[target_feature(enable = "neon,dotprod")]
    fn dotprod(turns: u64) {
        // SAFETY: touches nothing but the registers named.
        unsafe {
            asm!(
                "movi v30.16b, #2",
                "movi v31.16b, #3",
                "2:",
                "sdot v0.4s, v30.16b, v31.16b", "sdot v1.4s, v30.16b, v31.16b",
                "sdot v2.4s, v30.16b, v31.16b", "sdot v3.4s, v30.16b, v31.16b",
                "sdot v4.4s, v30.16b, v31.16b", "sdot v5.4s, v30.16b, v31.16b",
                "sdot v6.4s, v30.16b, v31.16b", "sdot v7.4s, v30.16b, v31.16b",
                "sdot v16.4s, v30.16b, v31.16b", "sdot v17.4s, v30.16b, v31.16b",
                "sdot v18.4s, v30.16b, v31.16b", "sdot v19.4s, v30.16b, v31.16b",
                "sdot v20.4s, v30.16b, v31.16b", "sdot v21.4s, v30.16b, v31.16b",
                "sdot v22.4s, v30.16b, v31.16b", "sdot v23.4s, v30.16b, v31.16b",
                "subs {turns}, {turns}, #1",
                "b.ne 2b",
                turns = inout(reg) turns.max(1) => _,
                out("v0") _, out("v1") _, out("v2") _, out("v3") _,
                out("v4") _, out("v5") _, out("v6") _, out("v7") _,
                out("v16") _, out("v17") _, out("v18") _, out("v19") _,
                out("v20") _, out("v21") _, out("v22") _, out("v23") _,
                out("v30") _, out("v31") _,
                options(nomem, nostack),
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_run_and_return() {
        for kernel in [kernel(), PORTABLE] {
            (kernel.run)(0);
            (kernel.run)(3);
            assert!(kernel.macs > 0 && !kernel.instructions.is_empty());
        }
    }
}
