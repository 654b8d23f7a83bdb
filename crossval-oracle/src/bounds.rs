//! How far right engines may be from the definition where f32 arithmetic builds up an error: in the angles of RoPE, and in
//! sums of a norm's squares and of products. What is rounded once or twice has limits that are constants.
//!
//! Both follow from how the values come about, in whatever order: an operation in f32 is off by [`UNIT`] of its result at
//! most.

use super::maths::Rope;

/// Largest relative error of one f32 operation.
const UNIT: f64 = f32::EPSILON as f64 / 2.0;

/// Error of a value that is rotated, as a share of its pair, beside that of its angle: a sine and a cosine, two products
/// and their sum.
const ROTATION: f64 = 4.0 * UNIT;

/// The smallest base of frequencies in use.
const SMALLEST_BASE: f64 = 1e4;

/// Numbers of partial sums that engines add up side by side: in order, and in the lanes of vector registers.
const LANES: [usize; 7] = [1, 2, 4, 8, 16, 32, 64];

/// Largest relative error of the angle of a pair that turns by `frequency` per position.
///
/// Carried from pair to pair, it is multiplied `pair` times by a factor that is itself rounded: two errors per pair.
/// Computed as a power of its own, it is not, but either way the exponent is rounded: that is off by its share of the
/// exponent, so the power by that much of its logarithm. Then four operations at most: a power to its last bit, its
/// reciprocal, a product with the position, a factor of the model.
fn angle(pair: usize, frequency: f64) -> f64 {
    (2.0 * pair as f64 - frequency.ln() + 4.0) * UNIT
}

/// Errors of the angles at a position, radians, one per pair that rotates.
///
/// YaRN's mean of two angles takes three operations more, and its weights are off by as much of the larger one.
pub(super) fn angles(rope: &Rope, position: usize) -> Vec<f64> {
    let error = |pair| {
        let error = angle(pair, rope.frequency(pair));
        let position = position as f64;
        let of_mean = match rope.yarn {
            Some(_) => 4.0 * UNIT * rope.unscaled(pair, position).abs(),
            None => 0.0,
        };
        (rope.angle(pair, position) * error).abs() + of_mean
    };
    (0..rope.dims / 2).map(error).collect()
}

/// The largest of [`angles`].
pub(super) fn largest_angle(rope: &Rope, position: usize) -> f64 {
    angles(rope, position).into_iter().fold(0.0, f64::max)
}

/// The largest error of an angle of heads of `head_dim` values per position, radians, where nothing else is known of the
/// model.
pub fn angle_per_position(head_dim: usize) -> f64 {
    let error = |pair: usize| {
        let frequency = SMALLEST_BASE.powf(-2.0 * pair as f64 / head_dim as f64);
        frequency * angle(pair, frequency)
    };
    (0..head_dim / 2).map(error).fold(0.0, f64::max)
}

/// Largest error of a rotated pair as a share of its size, given `limit`, the NMSE without the error of its angle.
pub(super) fn of_pair(limit: f64, angle: f64) -> f64 {
    limit.sqrt().max(ROTATION) + angle
}

/// Largest relative error of a sum of `n` values in f32, in any order, whose errors have no pattern: they wander, and stay
/// below `sqrt(n)` units, which is four standard deviations and more of values that spread like a normal distribution.
pub(super) fn sum(n: usize) -> f64 {
    (n as f64).sqrt() * UNIT
}

/// Largest relative error of a norm's factor beyond its last roundings: half that of the sum of squares under the root.
///
/// Where squares repeat, each partial sum is rounded the same way, and up to `n` units come together: what f32 makes of
/// this row, in several orders, says so, with as much again for others. Beside an `eps` that is larger than the mean square, neither weighs much.
pub(super) fn norm_factor(x: &[f64], eps: f64) -> f64 {
    let n = x.len() as f64;
    let exact: f64 = x.iter().map(|v| v * v).sum();
    let errors = LANES.map(|lanes| (sum_of_squares(x, lanes) - exact).abs() / exact);
    // Sums beyond f32 are no engine's.
    let errors = errors.into_iter().filter(|error| error.is_finite());
    let pattern = 2.0 * errors.fold(0.0, f64::max);
    sum(x.len()).max(pattern) / 2.0 * exact / (exact + n * eps)
}

/// In f32, in the order of as many lanes.
fn sum_of_squares(x: &[f64], lanes: usize) -> f64 {
    let mut sums = vec![0.0_f32; lanes];
    for chunk in x.chunks(lanes) {
        for (sum, &v) in sums.iter_mut().zip(chunk) {
            *sum += (v as f32) * (v as f32);
        }
    }
    f64::from(sums.into_iter().sum::<f32>())
}

#[cfg(test)]
mod tests {
    use bitnet_model::random::Rng;

    use super::*;

    fn rope(base: f64, dims: usize) -> Rope {
        Rope {
            head_dim: dims,
            dims,
            split_halves: true,
            base,
            scale: 1.0,
            factors: None,
            yarn: None,
            magnitude: 1.0,
        }
    }

    /// Ways in which engines compute the angles of a position, each in f32.
    fn computed(rope: &Rope, position: f32) -> [Vec<f32>; 3] {
        let (base, dims) = (rope.base as f32, rope.dims as f32);
        let pairs = rope.dims / 2;
        let step = base.powf(-2.0 / dims);
        let carried = std::iter::successors(Some(position), |theta| Some(theta * step));
        let inverse = |pair: usize| position * (1.0 / base.powf((2 * pair) as f32 / dims));
        let exponent = |pair: usize| position * (-(base.ln()) * (2 * pair) as f32 / dims).exp();
        [
            carried.take(pairs).collect(),
            (0..pairs).map(inverse).collect(),
            (0..pairs).map(exponent).collect(),
        ]
    }

    #[test]
    fn angles_in_f32_are_within_their_bound_and_use_a_fair_part_of_it() {
        for base in [1e3, 1e4, 5e5, 1e6] {
            for dims in [16, 32, 48, 64, 80, 96, 128, 256] {
                let rope = rope(base, dims);
                let mut used = 0.0_f64;
                for position in (1..300).chain((300..4096).step_by(97)) {
                    let bounds = angles(&rope, position);
                    for way in computed(&rope, position as f32) {
                        for (pair, (&angle, bound)) in way.iter().zip(&bounds).enumerate() {
                            let exact = rope.angle(pair, position as f64);
                            used = used.max((f64::from(angle) - exact).abs() / bound);
                        }
                    }
                }
                assert!((0.1..1.0).contains(&used), "{base} {dims}: {used}");
                if base >= SMALLEST_BASE {
                    let largest = 100.0 * angle_per_position(dims);
                    assert!(largest_angle(&rope, 100) <= largest, "{base} {dims}");
                }
            }
        }
    }

    #[test]
    fn sums_in_f32_are_within_their_bound_in_any_order() {
        let mut rng = Rng::new(3, "squares");
        for n in [32, 128, 1000, 4096] {
            for kind in 0..4 {
                let scale = 0.5 + rng.unit();
                let mut x: Vec<f64> = (0..n)
                    .map(|i| match kind {
                        0 => rng.unit() - 0.5,
                        1 => (rng.unit() - 0.5).powi(5),
                        2 => scale,
                        _ => scale * ((i * 7 % 3) as f64 - 1.0),
                    })
                    .map(|v| f64::from(v as f32))
                    .collect();
                let bound = norm_factor(&x, 0.0);
                let exact: f64 = x.iter().map(|v| v * v).sum();
                for _ in 0..20 {
                    for i in (1..n).rev() {
                        x.swap(i, rng.below(i + 1));
                    }
                    for lanes in [1, 3, 8, 24] {
                        let error = (sum_of_squares(&x, lanes) / exact).sqrt() - 1.0;
                        assert!(error.abs() <= bound, "{n} {kind} {lanes}: {error} {bound}");
                    }
                }
                // Nothing like an eps that is left out beside inputs of its own size.
                assert!(bound < n as f64 * UNIT, "{n} {kind}: {bound}");
                assert!(norm_factor(&x, 1e3) < bound / 100.0);
            }
        }
    }
}
