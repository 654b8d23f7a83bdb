//! The CPU that a reference is built for.

use std::str::FromStr;

/// A CPU level: which instructions the compiler may use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CpuLevel {
    /// Whatever the CPU at hand has.
    #[default]
    Native,
    /// x86-64-v3 of the psABI: AVX2, FMA, F16C, BMI2.
    X86_64V3,
    /// x86-64-v4: besides, AVX-512 F, BW, CD, DQ and VL.
    X86_64V4,
}

impl CpuLevel {
    const ALL: [CpuLevel; 3] = [CpuLevel::Native, CpuLevel::X86_64V3, CpuLevel::X86_64V4];

    /// As on the command line, and as compilers name it.
    pub fn name(self) -> &'static str {
        match self {
            CpuLevel::Native => "native",
            CpuLevel::X86_64V3 => "x86-64-v3",
            CpuLevel::X86_64V4 => "x86-64-v4",
        }
    }

    /// Whether compilers for this architecture (Rust's name of it) can build for it.
    pub fn is_of(self, arch: &str) -> bool {
        self == CpuLevel::Native || arch == "x86_64"
    }
}

impl FromStr for CpuLevel {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        if let Some(level) = CpuLevel::ALL.into_iter().find(|level| level.name() == s) {
            return Ok(level);
        }
        let known = CpuLevel::ALL.map(CpuLevel::name).join(", ");
        Err(match s {
            "x86-64" | "x86-64-v1" | "x86-64-v2" => format!(
                "{s}: without AVX2 BitNet.cpp's dot product of I2_S compiles to nothing and leaves its result as it \
                 was; there are {known}"
            ),
            _ => format!("{s:?}: no such CPU level; there are {known}"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_below_avx2_are_refused_with_the_reason() {
        for level in CpuLevel::ALL {
            assert_eq!(level.name().parse(), Ok(level));
        }
        for low in ["x86-64", "x86-64-v1", "x86-64-v2"] {
            let why = low.parse::<CpuLevel>().unwrap_err();
            assert!(why.contains(low) && why.contains("I2_S"), "{why}");
        }
        for unknown in ["", "x86-64-v5", "v3", "Native", "haswell"] {
            let why = unknown.parse::<CpuLevel>().unwrap_err();
            assert!(why.contains("x86-64-v3") && !why.contains("I2_S"), "{why}");
        }
    }

    #[test]
    fn only_native_is_for_every_architecture() {
        assert!(CpuLevel::ALL.iter().all(|level| level.is_of("x86_64")));
        let of_arm = CpuLevel::ALL.map(|level| level.is_of("aarch64"));
        assert_eq!(of_arm, [true, false, false]);
    }
}
