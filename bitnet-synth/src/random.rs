//! Weights at random.

use bitnet_model::random::Rng;

/// Levels of [`normal_table`]: one per 16 random bits.
pub(super) const NORMAL_LEVELS: usize = 1 << 16;

/// Standard normal deviates, to be drawn from with equal probability. Sums of twelve uniform ones: no
/// transcendental function, whose last bit would differ between machines.
pub(super) fn normal_table() -> Vec<f32> {
    let mut rng = Rng::new(0, "normal");
    let deviate = |_| {
        let mut sum = 0;
        for _ in 0..3 {
            let random = rng.next_u64();
            sum += (0..4).map(|i| (random >> (16 * i)) & 0xffff).sum::<u64>();
        }
        // Twelve times [0, 1) in steps of 2^-16, less the mean.
        (sum as f64 / 65536.0 - 6.0 + 6.0 / 65536.0) as f32
    };
    (0..NORMAL_LEVELS).map(deviate).collect()
}

/// Share of ternary weights that are not zero; the other three eighths are as many as trained models have.
pub(super) const TERNARY_NONZERO: f64 = 5.0 / 8.0;

/// Fills packed I2_S weights, two bits each: 0, 1, 2 for -1, 0, +1.
pub(super) fn fill_ternary(rng: &mut Rng, packed: &mut [u8]) {
    const LOW: u64 = 0x5555_5555_5555_5555;
    for bytes in packed.chunks_mut(16) {
        // Each of 64 positions: not zero with probability 1/2 + 1/2 * 1/4.
        let nonzero = rng.next_u64() | (rng.next_u64() & rng.next_u64());
        let sign = rng.next_u64();
        let (zero, plus) = (!nonzero, nonzero & sign);
        let even = (zero & LOW) | ((plus & LOW) << 1);
        let odd = ((zero >> 1) & LOW) | (plus & !LOW);
        let words = [even.to_le_bytes(), odd.to_le_bytes()];
        bytes.copy_from_slice(&words.as_flattened()[..bytes.len()]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn normal_table_is_standard_normal() {
        let table = normal_table();
        let n = table.len() as f64;
        let moment = |k: i32| table.iter().map(|&z| f64::from(z).powi(k)).sum::<f64>() / n;
        assert!(moment(1).abs() < 0.01, "{}", moment(1));
        assert!((moment(2) - 1.0).abs() < 0.02, "{}", moment(2));
        // 3 for a normal distribution, 2.9 for a sum of twelve.
        assert!((moment(4) - 2.9).abs() < 0.1, "{}", moment(4));
    }

    #[test]
    fn ternary_codes_are_valid_and_balanced() {
        let mut packed = vec![0; 1 << 16];
        fill_ternary(&mut Rng::new(1, "t"), &mut packed);
        let mut counts = [0u32; 4];
        for byte in packed {
            (0..4).for_each(|i| counts[usize::from(byte >> (2 * i) & 3)] += 1);
        }
        let n = f64::from(counts.iter().sum::<u32>());
        let share = counts.map(|c| f64::from(c) / n);
        assert_eq!(counts[3], 0, "3 is not a weight");
        let half = TERNARY_NONZERO / 2.0;
        for (code, want) in [(0, half), (1, 1.0 - TERNARY_NONZERO), (2, half)] {
            assert!((share[code] - want).abs() < 0.005, "{share:?}");
        }
    }
}
