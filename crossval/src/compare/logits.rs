//! Statistics of the output distributions.

use reports::model::{LogitsAt, LogitsStats, TokenLogit, Top1Disagreement};

use super::finite;
use super::tap::row_nmse;
use crate::stats::quantile;

/// Positions of which the likeliest tokens are kept.
const WORST: usize = 5;

/// Collects the rows of logits of one prompt.
#[derive(Clone, Debug)]
pub struct LogitsAccumulator {
    limit: f64,
    first_position: Option<usize>,
    kl: Vec<f64>,
    top1_agreements: usize,
    top5_share: f64,
    disagreements: Vec<Top1Disagreement>,
    /// Largest KL first.
    worst: Vec<(f64, LogitsAt)>,
}

impl LogitsAccumulator {
    /// `limit` on the NMSE of a row decides what a near tie is.
    pub fn new(limit: f64) -> LogitsAccumulator {
        LogitsAccumulator {
            limit,
            first_position: None,
            kl: Vec::new(),
            top1_agreements: 0,
            top5_share: 0.0,
            disagreements: Vec::new(),
            worst: Vec::new(),
        }
    }

    /// Takes both engines' logits at `position`; positions come in order.
    pub fn add(&mut self, position: usize, reference: &[f32], candidate: &[f32]) {
        self.first_position.get_or_insert(position);
        let kl = kl_divergence(reference, candidate);
        self.kl.push(kl);
        let top_reference = top_k::<5>(reference);
        let top_candidate = top_k::<5>(candidate);
        let shared = top_reference
            .iter()
            .filter(|t| top_candidate.contains(t))
            .count();
        self.top5_share += shared as f64 / top_reference.len().max(1) as f64;
        match (top_reference.first(), top_candidate.first()) {
            (Some(&r), Some(&c)) if r != c => {
                self.disagreements.push(Top1Disagreement {
                    position,
                    reference: r as u32,
                    candidate: c as u32,
                    rank: 1 + candidate.iter().filter(|&&x| x > candidate[r]).count(),
                    margin: finite(f64::from(reference[r]) - f64::from(reference[c])),
                    near_tie: row_nmse(reference, candidate) <= self.limit,
                });
            }
            _ => self.top1_agreements += 1,
        }
        // NaN orders above all.
        let rank = self
            .worst
            .partition_point(|(worse, _)| worse.total_cmp(&kl).is_ge());
        if kl != 0.0 && rank < WORST {
            let differ = self.disagreements.last().filter(|d| d.position == position);
            let at = LogitsAt {
                position,
                kl: finite(kl),
                near_tie: differ.is_some_and(|d| d.near_tie),
                reference: likeliest(reference, &top_reference),
                candidate: likeliest(candidate, &top_candidate),
            };
            self.worst.insert(rank, (kl, at));
            self.worst.truncate(WORST);
        }
    }

    /// The figures for the report; `None` if no position was compared.
    pub fn stats(&self) -> Option<LogitsStats> {
        let n = self.kl.len();
        let first = self.first_position?;
        let mut sorted = self.kl.clone();
        sorted.sort_by(f64::total_cmp);
        let quantile = |q: f64| finite(quantile(&sorted, q)?);
        let (worst, _) = (0..n)
            .map(|i| (i, self.kl[i]))
            .max_by(|a, b| a.1.total_cmp(&b.1))?;
        Some(LogitsStats {
            positions: n as u64,
            kl_mean: finite(self.kl.iter().sum::<f64>() / n as f64),
            kl_p95: quantile(0.95),
            kl_p99: quantile(0.99),
            kl_max: finite(self.kl[worst]),
            kl_max_position: first + worst,
            kl: self.kl.iter().map(|&x| finite(x)).collect(),
            top1_agreement: self.top1_agreements as f64 / n as f64,
            top5_agreement: self.top5_share / n as f64,
            top1_disagreements: self.disagreements.clone(),
            worst: self.worst.iter().map(|(_, at)| at.clone()).collect(),
        })
    }
}

/// Largest absolute difference; NaN if a value is NaN.
pub fn max_difference(a: &[f32], b: &[f32]) -> f64 {
    a.iter()
        .zip(b)
        .map(|(&a, &b)| (f64::from(a) - f64::from(b)).abs())
        .fold(0.0, |max, d| if d > max || d.is_nan() { d } else { max })
}

/// KL(p || q) in nats of the softmax distributions of two rows of logits.
pub fn kl_divergence(p: &[f32], q: &[f32]) -> f64 {
    let (log_p, log_q) = (log_sum_exp(p), log_sum_exp(q));
    let kl: f64 = p
        .iter()
        .zip(q)
        .map(|(&p, &q)| {
            let (p, q) = (f64::from(p) - log_p, f64::from(q) - log_q);
            p.exp() * (p - q)
        })
        .sum();
    // Rounding can leave -1e-17 for equal rows.
    if kl < 0.0 { 0.0 } else { kl }
}

fn likeliest(logits: &[f32], tokens: &[usize]) -> Vec<TokenLogit> {
    let log_sum = log_sum_exp(logits);
    let of_token = |&token: &usize| TokenLogit {
        token: token as u32,
        text: None,
        logit: finite(logits[token].into()),
        probability: finite((f64::from(logits[token]) - log_sum).exp()),
    };
    tokens.iter().map(of_token).collect()
}

/// Negative log-likelihood of `token` under a row of logits, nats; NaN if the row has no such token.
pub fn negative_log_likelihood(logits: &[f32], token: u32) -> f64 {
    match logits.get(token as usize) {
        Some(&logit) => log_sum_exp(logits) - f64::from(logit),
        None => f64::NAN,
    }
}

/// The index of the largest value, the lowest of several.
pub fn most_likely(logits: &[f32]) -> Option<usize> {
    top_k::<1>(logits).first().copied()
}

fn log_sum_exp(x: &[f32]) -> f64 {
    let max = f64::from(x.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    max + x
        .iter()
        .map(|&x| (f64::from(x) - max).exp())
        .sum::<f64>()
        .ln()
}

/// Indices of the K largest values, largest first, ties to the lowest index.
fn top_k<const K: usize>(x: &[f32]) -> Vec<usize> {
    let mut top: Vec<usize> = Vec::with_capacity(K + 1);
    for (i, &value) in x.iter().enumerate() {
        if top.len() == K && value.total_cmp(&x[top[K - 1]]).is_le() {
            continue;
        }
        let at = top.partition_point(|&t| x[t].total_cmp(&value).is_ge());
        top.insert(at, i);
        top.truncate(K);
    }
    top
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kl_of_a_known_pair() {
        // p = (2/3, 1/3), q = (1/2, 1/2)
        let (p, q) = ([2.0_f32.ln(), 0.0], [5.0_f32, 5.0]);
        let want = 2.0 / 3.0 * (4.0_f64 / 3.0).ln() + 1.0 / 3.0 * (2.0_f64 / 3.0).ln();
        approx::assert_relative_eq!(kl_divergence(&p, &q), want, epsilon = 1e-7);
        assert_eq!(kl_divergence(&p, &p), 0.0);
        assert!(kl_divergence(&[f32::NAN, 0.0], &q).is_nan());
    }

    #[test]
    fn likelihood_of_a_known_row() {
        // Probabilities 2/3 and 1/3.
        let row = [2.0_f32.ln() + 100.0, 100.0];
        approx::assert_relative_eq!(
            negative_log_likelihood(&row, 0),
            1.5_f64.ln(),
            epsilon = 1e-5
        );
        approx::assert_relative_eq!(
            negative_log_likelihood(&row, 1),
            3.0_f64.ln(),
            epsilon = 1e-5
        );
        assert!(negative_log_likelihood(&row, 2).is_nan());
        assert!(negative_log_likelihood(&[f32::NAN, 0.0], 1).is_nan());
        assert_eq!((most_likely(&row), most_likely(&[])), (Some(0), None));
    }

    #[test]
    fn top_k_breaks_ties_by_index() {
        assert_eq!(
            top_k::<5>(&[1.0, 3.0, 3.0, 0.0, 2.0, 5.0, -1.0]),
            [5, 1, 2, 4, 0]
        );
        assert_eq!(top_k::<5>(&[1.0, 2.0]), [1, 0]);
    }

    #[test]
    fn a_near_tie_is_reported_as_one() {
        let mut logits = LogitsAccumulator::new(1e-3);
        logits.add(4, &[1.0, 1.001, 0.0], &[1.002, 1.001, 0.0]);
        logits.add(5, &[1.0, 3.0, 0.0], &[3.0, 2.9, 2.0]);
        logits.add(6, &[1.0, 3.0, 0.0], &[1.0, 3.0, 0.0]);
        let stats = logits.stats().unwrap();
        assert_eq!(stats.positions, 3);
        assert!((stats.top1_agreement - 1.0 / 3.0).abs() < 1e-12);
        let [tie, wrong] = stats.top1_disagreements.as_slice() else {
            panic!("two disagreements")
        };
        assert!(tie.near_tie && tie.position == 4 && tie.rank == 2);
        assert!(!wrong.near_tie && wrong.margin == Some(2.0));
        assert_eq!(stats.kl_max_position, 5);
        // Equal rows are not among the worst.
        let [first, second] = stats.worst.as_slice() else {
            panic!("{:?}", stats.worst)
        };
        assert_eq!((first.position, first.near_tie), (5, false));
        assert_eq!((second.position, second.near_tie), (4, true));
        let tokens = |side: &[TokenLogit]| side.iter().map(|t| t.token).collect::<Vec<_>>();
        assert_eq!(
            (tokens(&first.reference), tokens(&first.candidate)),
            (vec![1, 0, 2], vec![0, 1, 2])
        );
        let sum: f64 = first.reference.iter().filter_map(|t| t.probability).sum();
        assert!((sum - 1.0).abs() < 1e-12 && first.reference[0].logit == Some(3.0));
    }

    #[test]
    fn of_many_positions_the_worst_are_kept() {
        let mut logits = LogitsAccumulator::new(1e-3);
        for position in 0..20 {
            let off = (position * 7 % 20) as f32 * 0.1;
            logits.add(position, &[0.0, 0.0], &[off, 0.0]);
        }
        logits.add(20, &[0.0, 0.0], &[f32::NAN, 0.0]);
        let worst = logits.stats().unwrap().worst;
        let positions: Vec<usize> = worst.iter().map(|at| at.position).collect();
        assert_eq!(positions, [20, 17, 14, 11, 8]);
        assert_eq!(worst[0].kl, None);
    }

    #[test]
    fn nan_is_never_a_near_tie() {
        let mut logits = LogitsAccumulator::new(f64::MAX);
        logits.add(0, &[f32::NAN, 3.0], &[3.0, 4.0]);
        let stats = logits.stats().unwrap();
        assert!(stats.top1_disagreements.iter().all(|d| !d.near_tie));
        assert_eq!(stats.kl_max, None);
    }
}
