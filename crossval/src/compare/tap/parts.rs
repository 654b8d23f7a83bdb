//! Parts of a row, which its NMSE averages away: its heads, and single elements.
//!
//! A part is held against the row's own limit. Its error counts relative to its own size, or to what would be its share
//! of the row where it is smaller than that: a small value beside large ones carries their rounding.
//!
//! Where the limit allows for activation codes that flip, whose errors spread over the whole row, it says nothing about
//! one element: that is held against the errors of the others. One flip moves every element by a column of the weights,
//! whose rows have norms of their own, so that honest errors have longer tails than a normal distribution: [`TAILS`].

use reports::model::PartBeyond;

use super::Value;

/// How seldom the largest of honest errors may lie beyond [`outlier`].
const FALSE_ALARM: f64 = 1e-9;

/// How many standard deviations the largest of `n` errors stays below that spread like a normal distribution, in all but
/// one of 10^9 rows: `sqrt(2 ln(n / p))`, from the bound `exp(-t^2 / 2)` on either tail.
pub fn outlier(n: usize) -> f64 {
    (2.0 * (n.max(1) as f64 / FALSE_ALARM).ln()).sqrt()
}

/// How much further than [`outlier`] the largest error of a row of logits lies where codes flip, and of the mean of
/// several rows. Measured on 40 random models (BitNet.cpp against the Rust engine): 1.67 and 1.30 at most.
const TAILS: [f64; 2] = [2.5, 2.0];

/// The least share of the row's own limit at which an element stands out where codes flip: 3% of the size that the limit
/// allows for. Where hardly any code flips, the errors of a row have few directions, and a trained model's output
/// weights, some of tokens that it has hardly seen, are far from alike: a logit of stories260K was 28 standard deviations
/// off, in a row whose NMSE was 3e-9.
const MATERIAL: f64 = 1e-3;

/// A part, and how far it is off.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Worst {
    /// Error as a share of the part's limit; above 1 is beyond.
    pub share: f64,
    /// What was found.
    pub part: PartBeyond,
    /// Its worst element.
    pub element: usize,
}

/// What the parts of a tap's rows are held against.
#[derive(Clone, Copy, Debug)]
pub(super) struct Parts {
    /// Heads that a row is made of; 0 if of none.
    pub heads: usize,
    /// Limit on the NMSE of a head.
    pub limit: f64,
    /// Whether elements are held against anything.
    pub elements: bool,
    /// What the errors of elements spread by without flips, NMSE, where the limit allows for those.
    pub floor: Option<f64>,
}

impl Parts {
    /// The worst head and the worst element of a row whose values are finite and not all zero. `reference` is the
    /// sum of squares of the reference's row.
    pub(super) fn worst<T: Value>(
        &self,
        reference: &[T],
        candidate: &[T],
        energy: f64,
    ) -> [Option<Worst>; 2] {
        let mean = energy / reference.len() as f64;
        [
            self.head(reference, candidate, mean),
            self.element(reference, candidate, mean),
        ]
    }

    fn head<T: Value>(&self, reference: &[T], candidate: &[T], mean: f64) -> Option<Worst> {
        let width = reference.len().checked_div(self.heads).filter(|&n| n > 0)?;
        let heads = reference.chunks(width).zip(candidate.chunks(width));
        let errors = heads.map(|(r, c)| {
            let (mut error, mut energy) = (0.0, 0.0);
            for (r, c) in r.iter().zip(c) {
                let (r, c) = (r.wide(), c.wide());
                error += (c - r).powi(2);
                energy += r * r;
            }
            relative(error, energy.max(mean * width as f64))
        });
        let (head, nmse) = largest(errors)?;
        let start = head * width;
        let differences = differences(&reference[start..], &candidate[start..]).take(width);
        let (element, _) = largest(differences.map(f64::abs))?;
        Some(Worst {
            share: relative(nmse, self.limit),
            part: PartBeyond {
                head: Some(head),
                rows: 1,
                nmse,
                limit: self.limit,
            },
            element: start + element,
        })
    }

    fn element<T: Value>(&self, reference: &[T], candidate: &[T], mean: f64) -> Option<Worst> {
        if !self.elements {
            return None;
        }
        let errors = || differences(reference, candidate);
        let sizes = reference.iter().map(|r| r.wide().powi(2).max(mean));
        match self.floor {
            None => stands_out(errors, sizes, |outlier| outlier * self.limit),
            Some(floor) => stands_out(errors, sizes, |outlier| {
                let spread = floor.max(spread(errors(), mean));
                (TAILS[0].powi(2) * outlier * spread).max(MATERIAL * self.limit)
            }),
        }
    }
}

/// The errors of all rows of a tap so far: what is wrong with an element in each of them does not average out.
#[derive(Clone, Debug, Default)]
pub(super) struct Drift {
    /// Per element: sum of errors, sum of the reference's squares.
    elements: Vec<(f64, f64)>,
    rows: u64,
}

impl Drift {
    /// Adds a row whose values are finite, of an NMSE of up to `limit`; the element that stands out of the others' mean errors, once there are
    /// several rows.
    pub(super) fn add<T: Value>(
        &mut self,
        r: &[T],
        c: &[T],
        floor: f64,
        limit: f64,
    ) -> Option<Worst> {
        self.elements.resize(r.len(), (0.0, 0.0));
        self.rows += 1;
        for ((error, square), (r, c)) in self.elements.iter_mut().zip(r.iter().zip(c)) {
            let (r, c) = (r.wide(), c.wide());
            *error += c - r;
            *square += r * r;
        }
        if self.rows < 2 {
            return None;
        }
        let rows = self.rows as f64;
        let errors = || self.elements.iter().map(|(error, _)| error / rows);
        let mean = self.elements.iter().map(|(_, s)| s).sum::<f64>() / rows / r.len() as f64;
        let sizes = self.elements.iter().map(|(_, s)| (s / rows).max(mean));
        let mut worst = stands_out(errors, sizes, |outlier| {
            let spread = (floor / rows).max(spread(errors(), mean));
            (TAILS[1].powi(2) * outlier * spread).max(MATERIAL * limit)
        })?;
        worst.part.rows = self.rows;
        Some(worst)
    }
}

/// The element whose error is the largest for its size, held against a limit that is made of the square of [`outlier`].
fn stands_out<E: Iterator<Item = f64>>(
    errors: impl Fn() -> E,
    sizes: impl Iterator<Item = f64>,
    limit: impl Fn(f64) -> f64,
) -> Option<Worst> {
    let relative = errors().zip(sizes).map(|(d, size)| relative(d * d, size));
    let (element, nmse) = largest(relative)?;
    let limit = limit(outlier(errors().count()).powi(2));
    Some(Worst {
        share: self::relative(nmse, limit),
        part: PartBeyond {
            head: None,
            rows: 1,
            nmse,
            limit,
        },
        element,
    })
}

/// How far the errors of a row spread, NMSE, whatever stands out of them: from their median, which is 0.6745 standard
/// deviations of a normal distribution.
fn spread(errors: impl Iterator<Item = f64>, mean: f64) -> f64 {
    let mut errors: Vec<f64> = errors.map(f64::abs).collect();
    let middle = errors.len() / 2;
    let (_, median, _) = errors.select_nth_unstable_by(middle, f64::total_cmp);
    relative((*median / 0.6745).powi(2), mean)
}

fn differences<'a, T: Value>(r: &'a [T], c: &'a [T]) -> impl Iterator<Item = f64> + 'a {
    r.iter().zip(c).map(|(r, c)| c.wide() - r.wide())
}

fn relative(error: f64, size: f64) -> f64 {
    if error == 0.0 { 0.0 } else { error / size }
}

/// The largest value and its index; of equals the first.
fn largest(values: impl Iterator<Item = f64>) -> Option<(usize, f64)> {
    values
        .enumerate()
        .reduce(|most, x| if x.1 > most.1 { x } else { most })
}

#[cfg(test)]
mod tests {
    use bitnet_model::random::Rng;

    use crate::compare::tap::TapAccumulator;

    use super::*;

    /// Values of a normal distribution (Box and Muller 1958).
    fn normal(rng: &mut Rng, n: usize, scale: f64) -> Vec<f32> {
        let value = |_| {
            let (u, v) = (1.0 - rng.unit(), rng.unit());
            (scale * (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()) as f32
        };
        (0..n).map(value).collect()
    }

    fn sum(a: &[f32], b: &[f32]) -> Vec<f32> {
        a.iter().zip(b).map(|(a, b)| a + b).collect()
    }

    /// The part that is beyond its limit once the rows are in; the rows as wholes are not.
    fn part(mut tap: TapAccumulator, rows: &[(Vec<f32>, Vec<f32>)]) -> Option<PartBeyond> {
        for (position, (reference, candidate)) in rows.iter().enumerate() {
            tap.add(position, reference, candidate);
        }
        let stats = tap.stats().unwrap();
        assert!(stats.nmse <= stats.limit, "{stats:?}");
        let beyond = tap.exceeded().map(|e| (e.part.clone(), e.at.element));
        let shares = [stats.head_share, stats.element_share];
        let any = shares.into_iter().flatten().any(|share| share > 1.0);
        assert_eq!(any, beyond.is_some(), "{stats:?}");
        beyond.and_then(|(part, _)| part)
    }

    #[test]
    fn errors_that_spread_stay_below_the_outlier() {
        let mut rng = Rng::new(0, "errors");
        for n in [1, 64, 4096, 65536] {
            let largest = normal(&mut rng, n, 1.0);
            let largest = largest.iter().fold(0.0, |m: f32, x| m.max(x.abs()));
            assert!(f64::from(largest) < outlier(n), "{n}: {largest}");
            // The limit is one of errors that are honest, not of any.
            assert!(outlier(n) < 9.0);
        }
    }

    #[test]
    fn one_element_or_head_is_seen_in_a_row_within_its_limit() {
        let mut rng = Rng::new(1, "rows");
        let row = normal(&mut rng, 1024, 1.0);
        let noise = normal(&mut rng, 1024, 5e-4);
        let honest = sum(&row, &noise);
        let tap = || TapAccumulator::new(Some(1e-6), 9, false).of_heads(8);
        assert_eq!(part(tap(), &[(row.clone(), honest.clone())]), None);
        let mut element = honest.clone();
        element[77] += 0.02;
        let found = part(tap(), &[(row.clone(), element)]).unwrap();
        assert_eq!((found.head, found.rows), (None, 1));
        let mut head = honest;
        head[256..384].iter_mut().for_each(|v| *v *= 1.002);
        let found = part(tap(), &[(row, head)]).unwrap();
        assert_eq!(found.head, Some(2));
        assert!(found.nmse > found.limit);
    }

    #[test]
    fn a_small_value_carries_the_rounding_of_large_ones() {
        let mut row = vec![1.0; 256];
        row[9] = 0.0;
        let mut candidate = row.clone();
        candidate[9] = 1e-6;
        let tap = TapAccumulator::new(Some(1e-12), 9, false);
        assert_eq!(part(tap, &[(row, candidate)]), None);
    }

    /// All errors but one are next to nothing, and that one is too.
    #[test]
    fn an_element_stands_out_by_something_that_matters() {
        let mut rng = Rng::new(3, "few directions");
        let row = normal(&mut rng, 512, 6.0);
        let mut candidate = sum(&row, &normal(&mut rng, 512, 1e-5));
        candidate[473] += 2e-3;
        let tap = || TapAccumulator::new(Some(1e-2), 9, false).with_flips(1e-12);
        let rows = vec![(row.clone(), candidate.clone()); 4];
        assert_eq!(part(tap(), &rows), None);
        candidate[473] += 0.2;
        assert!(part(tap(), &[(row, candidate)]).is_some());
    }

    #[test]
    fn an_element_stands_out_of_flips_in_a_row_or_in_all_of_them() {
        let mut rng = Rng::new(2, "flips");
        let mut rows = |off: f32, spoilt: usize| -> Vec<(Vec<f32>, Vec<f32>)> {
            let row = |position| {
                let row = normal(&mut rng, 4096, 3.0);
                let flips = normal(&mut rng, 4096, 0.05);
                let mut candidate = sum(&row, &flips);
                if position < spoilt {
                    candidate[33] += off;
                }
                (row, candidate)
            };
            (0..16).map(row).collect()
        };
        let tap = || TapAccumulator::new(Some(1e-3), 9, false).with_flips(1e-6);
        assert_eq!(part(tap(), &rows(0.0, 0)), None);
        let once = part(tap(), &rows(2.0, 1)).unwrap();
        assert_eq!(once.rows, 1);
        // Of one row that would be no more than flips make.
        assert_eq!(part(tap(), &rows(0.6, 1)), None);
        let always = part(tap(), &rows(0.6, 16)).unwrap();
        assert!(always.rows > 1, "{always:?}");
    }
}
