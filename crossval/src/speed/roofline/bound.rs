//! The least time that any exact engine needs on the CPUs measured.

use std::collections::BTreeSet;
use std::fs;

use reports::model::{BenchRoofline, Test, TokenWork};

/// How far the true limits of a machine may lie above those measured. The bandwidth measured on one machine scatters by
/// a tenth, and by more while others use it: what seems to be beyond it is measured again.
const BANDWIDTH_MARGIN: f64 = 1.5;

/// Of multiplications, table look-ups can do more than the multiply-accumulate instruction: with pairs or triples of
/// ternary weights per entry, less than twice as many.
const PEAK_MARGIN: f64 = 2.0;

/// Bits of a ternary weight that tell all three values apart, log2(3).
const LEAST_BITS: f64 = 1.585;

/// Bits of a ternary weight in a model file at most, with scales: TQ2_0 has 66 bytes for 256.
const MOST_BITS: f64 = 2.0625;

/// What a token of a model costs at least.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LeastWork {
    /// What it costs by the shapes.
    pub(crate) work: TokenWork,
    /// Layers.
    pub(crate) n_layer: usize,
}

impl LeastWork {
    /// The least time of a test, milliseconds. `caches` are the bytes that may be read without going to memory; `None`
    /// if not known, and then memory bounds nothing. `None` if nothing does.
    pub(crate) fn ms(
        self,
        test: Test,
        machine: &BenchRoofline,
        caches: Option<u64>,
    ) -> Option<f64> {
        let macs = self.work.ternary_macs.unwrap_or(0) as f64;
        let peak = machine.int8_macs_per_second.filter(|_| !has_matrix_units());
        let computing = |tokens: f64| Some(tokens * macs / (peak? * PEAK_MARGIN));
        let reading = |head: bool| {
            let ternary = macs * LEAST_BITS / 8.0;
            let others = (self.work.weight_bytes as f64 - macs * MOST_BITS / 8.0).max(0.0);
            let bytes = ternary + if head { others } else { 0.0 };
            let from_memory = (bytes - caches? as f64).max(0.0);
            Some(from_memory / (machine.read_bytes_per_second? * BANDWIDTH_MARGIN))
        };
        let seconds = match test {
            // Of the last layer, one token's logits need the keys and values of the others alone.
            Test::Prefill(n) => {
                let layers = self.n_layer.max(1) as f64;
                let others = (n.saturating_sub(1)) as f64 * (layers - 1.0) / layers;
                computing(others + 1.0)
            }
            Test::Decode(steps) => larger(computing(1.0), reading(true)).map(|s| s * steps as f64),
            // A certified token may do without the head.
            Test::Certified(steps) => {
                larger(computing(1.0), reading(false)).map(|s| s * steps as f64)
            }
            _ => None,
        };
        seconds.map(|s| s * 1e3).filter(|&ms| ms > 0.0)
    }
}

fn larger(a: Option<f64>, b: Option<f64>) -> Option<f64> {
    a.into_iter().chain(b).reduce(f64::max)
}

/// Instructions that multiply matrices, which the peak is not measured with.
fn has_matrix_units() -> bool {
    let flags = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    flags
        .split_whitespace()
        .any(|flag| matches!(flag, "amx_int8" | "i8mm" | "sme"))
}

/// All caches from the second level on that these CPUs have, bytes; `None` where the system does not say.
pub(crate) fn caches(cpus: &[usize]) -> Option<u64> {
    let mut found = BTreeSet::new();
    for cpu in cpus {
        let folder = format!("/sys/devices/system/cpu/cpu{cpu}/cache");
        for entry in fs::read_dir(folder).ok()?.flatten() {
            let read = |file: &str| fs::read_to_string(entry.path().join(file)).ok();
            let Some(level) = read("level") else { continue };
            let level: u32 = level.trim().parse().ok()?;
            if level >= 2 {
                found.insert((level, read("shared_cpu_list")?, kibibytes(&read("size")?)?));
            }
        }
    }
    let bytes: u64 = found.into_iter().map(|(.., kib)| kib << 10).sum();
    (bytes > 0).then_some(bytes)
}

/// `32768K` as the kernel writes it.
fn kibibytes(size: &str) -> Option<u64> {
    size.trim().strip_suffix('K')?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MACHINE: BenchRoofline = BenchRoofline {
        threads: 2,
        cpus: Vec::new(),
        read_bytes_per_second: Some(48.5e9),
        int8_macs_per_second: Some(323e9),
        int8_instructions: None,
    };

    /// The official 2B shape: 1.18 GB and 2.08 G ternary weights per token.
    const LARGE: LeastWork = LeastWork {
        work: TokenWork {
            weight_bytes: 1_177_688_640,
            ternary_macs: Some(2_084_044_800),
        },
        n_layer: 30,
    };

    #[test]
    fn what_is_read_bounds_large_models_and_what_is_computed_small_ones() {
        let caches = Some(34 << 20);
        let ms = |work: LeastWork, test| work.ms(test, &MACHINE, caches);
        // 413 MB of ternary weights and 640 MB of others, less what caches hold.
        let decode = ms(LARGE, Test::Decode(10)).unwrap();
        assert!((decode - 10.0 * 14.0).abs() < 1.0, "{decode}");
        let computed = LARGE.ms(Test::Decode(10), &MACHINE, None).unwrap();
        assert!((computed - 32.3).abs() < 0.1, "{computed}");
        let certified = ms(LARGE, Test::Certified(10)).unwrap();
        assert!(certified < decode / 2.0, "{certified}");
        let prefill = ms(LARGE, Test::Prefill(34)).unwrap();
        assert!((prefill - 106.0).abs() < 1.0, "{prefill}");
        // Fits the caches.
        let tiny = ms(TINY, Test::Decode(1)).unwrap();
        assert!((tiny - 0.00152).abs() < 1e-5, "{tiny}");
        assert_eq!(ms(TINY, Test::TimeToFirstToken), None);
    }

    const TINY: LeastWork = LeastWork {
        work: TokenWork {
            weight_bytes: 400_000,
            ternary_macs: Some(983_040),
        },
        n_layer: 4,
    };

    #[test]
    fn without_ternary_weights_or_limits_there_is_no_bound() {
        let float = LeastWork {
            work: TokenWork {
                weight_bytes: 1 << 30,
                ternary_macs: None,
            },
            n_layer: 2,
        };
        assert_eq!(float.ms(Test::Prefill(8), &MACHINE, Some(0)), None);
        assert!(float.ms(Test::Decode(1), &MACHINE, Some(0)).unwrap() > 10.0);
        let unknown = BenchRoofline {
            read_bytes_per_second: None,
            int8_macs_per_second: None,
            ..MACHINE
        };
        assert_eq!(LARGE.ms(Test::Decode(1), &unknown, Some(0)), None);
    }

    #[test]
    fn sizes_as_the_kernel_writes_them() {
        assert_eq!(kibibytes("32768K\n"), Some(32768));
        assert_eq!(kibibytes("x"), None);
    }
}
