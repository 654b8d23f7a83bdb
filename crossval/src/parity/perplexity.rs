//! Perplexity of both engines on a text, by the method of llama.cpp's `llama-perplexity`: windows that do not overlap,
//! the second half of each scored, so that every token has at least half a window before it.

use bitnet_model::tap::Tap;
use half::f16;
use reports::model::{Perplexity, PerplexityDifference, Role, Source};
use reports::number;

use super::parted::{Parted, PartedRow};
use crate::compare::finite;
use crate::compare::logits::{kl_divergence, most_likely, negative_log_likelihood};
use crate::compare::tap::row_nmse;
use crate::compare::worst::Worst;
use crate::engine::{Failed, by};
use crate::error::Error;
use crate::profile::{Profile, TextLimits};
use crate::progress::Progress;
use crate::session::loaded::Loaded;
use crate::session::lockstep::{self, Evaluation, ReferenceHashes, RowAt, RowSink};
use crate::session::pair::Pair;
use crate::session::settings::COMPARED_UBATCH;
use crate::stats::grouped_mean;
use crossval_protocol::Settings;

/// Largest window, tokens: what `llama-perplexity` defaults to.
const WINDOW: usize = 512;

/// A text, and how much of it to take.
#[derive(Clone, Debug)]
pub struct TextSource {
    /// The text.
    pub text: String,
    /// The file's path.
    pub source: String,
    /// Windows to evaluate at most; all of them if `None`.
    pub chunks: Option<usize>,
}

/// A text as windows of tokens.
pub(super) struct Windows {
    source: String,
    window: usize,
    tokens: Vec<Vec<u32>>,
}

/// What came of a text.
pub(super) struct OnText {
    pub(super) perplexity: Perplexity,
    /// Its tokens.
    pub(super) first_window: Vec<u32>,
    /// The tokens up to the row of logits in which the engines differ most, and the context they were evaluated in.
    worst: Vec<u32>,
    n_ctx: usize,
}

impl OnText {
    /// That the engines differ by more than they may, if they do.
    pub(super) fn parted(&self, profile: &Profile) -> Option<Parted> {
        let beyond = beyond(&self.perplexity, profile.text, profile.logits_ceiling());
        (!beyond.is_empty()).then(|| Parted {
            source: Source::Perplexity,
            text: format!(
                "the engines read the text differently: {}",
                beyond.join("; ")
            ),
            rows: vec![PartedRow {
                tokens: self.worst.clone(),
                position: self.worst.len().saturating_sub(1),
                cut: Vec::new(),
                n_ctx: self.n_ctx,
                nmse: None,
            }],
        })
    }
}

impl Windows {
    /// Tokenizes a text.
    ///
    /// # Errors
    /// [`Error::BadInput`] if the text does not fill one window; [`Error::Usage`] if an engine does not offer logits,
    /// or the model has no context to speak of; what the tokenizer says.
    pub(super) fn new(text: &TextSource, engines: &mut Loaded) -> Result<Windows, Error> {
        let mut pair = engines.pair();
        for role in Role::BOTH {
            let engine = pair.engine(role);
            if !engine.hello().taps.contains(&Tap::Logits) {
                let what = format!("engine {} does not offer logits", engine.label());
                return Err(Error::option("text", what));
            }
        }
        let window = WINDOW.min(engines.facts.n_ctx_train);
        if scored(window) == 0 {
            let what = format!("the model's context of {window} tokens is too short to score any");
            return Err(Error::option("text", what));
        }
        let (tokens, bos) = engines.tokenize_text(&text.text, &text.source)?;
        let windows: Vec<Vec<u32>> = split(&tokens, window, bos)
            .take(text.chunks.unwrap_or(usize::MAX))
            .collect();
        if windows.is_empty() {
            return Err(Error::BadInput(format!(
                "text {}: {}, fewer than one window of {window}",
                text.source,
                number::plural(tokens.len() as u64, "token")
            )));
        }
        Ok(Windows {
            source: text.source.clone(),
            window,
            tokens: windows,
        })
    }

    /// Tokens that are to be scored.
    pub(super) fn scored(&self) -> usize {
        self.tokens.len() * scored(self.window)
    }

    /// Evaluates every window with both engines in lockstep. `None` if they had no row of logits in common. `limit` on
    /// the NMSE of a row of logits decides what a near tie is.
    ///
    /// # Errors
    /// The engine that failed.
    pub(super) fn measure(
        &self,
        pair: &mut Pair,
        threads: usize,
        limit: f64,
        progress: Progress<'_>,
    ) -> Result<Option<OnText>, Failed> {
        progress.stage("perplexity");
        progress.steps(self.tokens.len() as u64);
        let settings = Settings {
            n_ctx: self.window.next_multiple_of(32),
            n_ubatch: COMPARED_UBATCH,
            threads,
            observe: true,
            compact_head_budget: 0,
        };
        // The report keeps the settings of the comparison.
        for role in Role::BOTH {
            pair.engine(role).configure(settings).map_err(by(role))?;
        }
        let mut scores = Vec::new();
        for (index, tokens) in self.tokens.iter().enumerate() {
            let mut scorer = Scorer {
                tokens,
                limit,
                score: Score::default(),
            };
            let half = tokens.len() / 2;
            // The last token has nothing to predict.
            let (before, rest) = tokens[..tokens.len() - 1].split_at(half);
            let before = before.chunks(COMPARED_UBATCH).map(|t| (t, &[][..]));
            let rest = rest
                .chunks(COMPARED_UBATCH)
                .map(|t| (t, &[Tap::Logits][..]));
            let mut position = 0;
            for (tokens, taps) in before.chain(rest) {
                let end = position + tokens.len();
                pair.set_task(&format!(
                    "evaluating window {index} of the text, positions {position}..{end}"
                ));
                let evaluation = Evaluation {
                    first_position: position,
                    tokens,
                    taps,
                    isolated: false,
                };
                let hashes = &mut ReferenceHashes::default();
                lockstep::evaluate(pair, evaluation, hashes, &mut scorer)?;
                position = end;
            }
            scores.push(scorer.score);
            progress.done(1);
        }
        let worst = self.tokens.iter().zip(&scores);
        let worst = worst.max_by(|(_, a), (_, b)| a.worst.rank().total_cmp(&b.worst.rank()));
        let worst = worst.and_then(|(tokens, score)| tokens.get(..=score.worst_at));
        let worst = worst.unwrap_or_default().to_vec();
        let perplexity = summarize(&self.source, self.window, &scores);
        Ok(perplexity.map(|perplexity| OnText {
            perplexity,
            first_window: self.tokens.first().cloned().unwrap_or_default(),
            worst,
            n_ctx: settings.n_ctx,
        }))
    }
}

/// Tokens of a window that are scored: those after its first half, each predicted by the one before it.
fn scored(window: usize) -> usize {
    (window - window / 2).saturating_sub(1)
}

/// Whole windows; an incomplete last one is dropped. BOS takes the place of each window's first token.
fn split(tokens: &[u32], window: usize, bos: Option<u32>) -> impl Iterator<Item = Vec<u32>> {
    tokens.chunks_exact(window).map(move |chunk| {
        let mut chunk = chunk.to_vec();
        if let (Some(bos), Some(first)) = (bos, chunk.first_mut()) {
            *first = bos;
        }
        chunk
    })
}

/// Sums over the scored tokens of one window.
#[derive(Clone, Debug, Default)]
struct Score {
    tokens: usize,
    /// Negative log-likelihood, nats.
    reference: f64,
    candidate: f64,
    kl: f64,
    same_top1: usize,
    near_ties: usize,
    /// Of a row of logits, and where that is.
    worst: Worst,
    worst_at: usize,
}

/// Scores the rows of one window as they come.
struct Scorer<'a> {
    tokens: &'a [u32],
    /// On the NMSE of a row that is a near tie.
    limit: f64,
    score: Score,
}

impl RowSink for Scorer<'_> {
    fn row_f32(&mut self, at: RowAt, reference: &[f32], candidate: &[f32]) {
        let next = at
            .position
            .checked_add(1)
            .and_then(|next| self.tokens.get(next));
        if let (Tap::Logits, Some(&next)) = (at.tap, next) {
            let score = &mut self.score;
            score.tokens += 1;
            score.reference += negative_log_likelihood(reference, next);
            score.candidate += negative_log_likelihood(candidate, next);
            score.kl += kl_divergence(reference, candidate);
            let same = most_likely(reference) == most_likely(candidate);
            let nmse = row_nmse(reference, candidate);
            score.same_top1 += usize::from(same);
            score.near_ties += usize::from(!same && nmse <= self.limit);
            if score.worst.add(nmse) {
                score.worst_at = at.position;
            }
        }
    }

    fn row_f16(&mut self, _: RowAt, _: &[f16], _: &[f16]) {}
}

fn summarize(source: &str, window: usize, scores: &[Score]) -> Option<Perplexity> {
    let tokens: usize = scores.iter().map(|s| s.tokens).sum();
    if tokens == 0 {
        return None;
    }
    let mean = |of: fn(&Score) -> f64| scores.iter().map(of).sum::<f64>() / tokens as f64;
    let mut worst = Worst::default();
    for nmse in scores.iter().filter_map(|s| s.worst.0) {
        worst.add(nmse);
    }
    let differences: Vec<(f64, usize)> = scores
        .iter()
        .map(|s| (s.candidate - s.reference, s.tokens))
        .collect();
    Some(Perplexity {
        source: source.to_owned(),
        window,
        windows: scores.len(),
        tokens,
        reference: finite(mean(|s| s.reference).exp()),
        candidate: finite(mean(|s| s.candidate).exp()),
        difference: grouped_mean(&differences).map(|(mean, interval)| PerplexityDifference {
            mean,
            low: interval.map(|(low, _)| low),
            high: interval.map(|(_, high)| high),
        }),
        kl_mean: finite(mean(|s| s.kl)),
        top1_agreement: mean(|s| s.same_top1 as f64),
        near_ties: Some(mean(|s| s.near_ties as f64)),
        worst_nmse: worst.0.and_then(finite),
    })
}

/// How the engines differ on a text by more than they may. `ceiling` is the largest limit that the NMSE of a row of
/// logits may have, however noisy the reference.
pub(super) fn beyond(p: &Perplexity, limits: TextLimits, ceiling: f64) -> Vec<String> {
    let mut beyond = Vec::new();
    if let Some(difference) = &p.difference {
        let nats = |x| number::significant(x, 3);
        let interval = difference.low.zip(difference.high);
        let settled = interval.is_none_or(|(low, high)| low > 0.0 || high < 0.0);
        if settled && difference.mean.abs() > limits.difference {
            beyond.push(format!(
                "the candidate's negative log-likelihood less the reference's is {} nats per token, limit {}",
                nats(difference.mean),
                nats(limits.difference)
            ));
        }
    }
    if let Some(kl) = p.kl_mean.filter(|kl| *kl > limits.kl) {
        let [kl, limit] = [kl, limits.kl].map(number::error);
        beyond.push(format!("mean KL {kl} nats, limit {limit}"));
    }
    let agree = p.top1_agreement + p.near_ties.unwrap_or(0.0);
    if agree < limits.top1 {
        beyond.push(format!(
            "the same most likely token at {} of positions, near ties among them, least {}",
            number::share(agree),
            number::share(limits.top1)
        ));
    }
    if let Some(nmse) = p.worst_nmse.filter(|nmse| *nmse > ceiling) {
        let [nmse, limit] = [nmse, ceiling].map(number::error);
        beyond.push(format!(
            "NMSE {nmse} in the worst row of logits, limit {limit}"
        ));
    }
    beyond
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_are_whole_and_start_with_bos() {
        let tokens: Vec<u32> = (10..21).collect();
        let windows = |bos| split(&tokens, 4, bos).collect::<Vec<_>>();
        assert_eq!(windows(Some(1)), [[1, 11, 12, 13], [1, 15, 16, 17]]);
        assert_eq!(windows(None), [[10, 11, 12, 13], [14, 15, 16, 17]]);
        assert_eq!(split(&tokens, 12, None).count(), 0);
        // llama-perplexity scores n_ctx - n_ctx / 2 - 1 of each.
        assert_eq!(
            [512, 256, 7, 3, 2, 1, 0].map(scored),
            [255, 127, 3, 1, 0, 0, 0]
        );
    }

    /// The probabilities of both engines are chosen so that the sums can be done by hand.
    #[test]
    fn perplexity_of_known_rows() {
        let log = |p: [f32; 2]| p.map(f32::ln);
        let at = |position| RowAt {
            tap: Tap::Logits,
            layer: None,
            position,
        };
        let window = |tokens: &[u32], rows: &[([f32; 2], [f32; 2])]| {
            let mut scorer = Scorer {
                tokens,
                limit: 0.5,
                score: Score::default(),
            };
            for (position, (reference, candidate)) in (2..).zip(rows) {
                scorer.row_f32(at(position), &log(*reference), &log(*candidate));
            }
            scorer.score
        };
        let scores = [
            // Token 1 at p 1/2 against 1/4, then token 0 at 1/4 against 1/4.
            window(
                &[0, 0, 0, 1, 0],
                &[([0.5, 0.5], [0.75, 0.25]), ([0.25, 0.75], [0.25, 0.75])],
            ),
            // Token 1 at 1/2 against 1/2, then token 1 at 1/2 against 1/2; a row too many is not scored.
            window(&[0, 0, 0, 1, 1], &[([0.5, 0.5], [0.5, 0.5]); 3]),
        ];
        let p = summarize("a.txt", 5, &scores).unwrap();
        assert_eq!((p.window, p.windows, p.tokens), (5, 2, 4));
        let close = |x: Option<f64>, want: f64| {
            approx::assert_relative_eq!(x.unwrap(), want, max_relative = 1e-6);
        };
        // exp of the mean of ln 2, ln 4, ln 2, ln 2: 2^(5/4); the candidate has ln 4, ln 4: 2^(6/4).
        close(p.reference, 2_f64.powf(1.25));
        close(p.candidate, 2_f64.powf(1.5));
        let difference = p.difference.unwrap();
        close(Some(difference.mean), 2_f64.ln() / 4.0);
        // One of the windows has ln 2 over two tokens, the other nothing.
        close(difference.high, 2_f64.ln() / 2.0);
        assert_eq!(difference.low, Some(0.0));
        let kl = 0.5 * (0.5_f64 / 0.75).ln() + 0.5 * (0.5_f64 / 0.25).ln();
        close(p.kl_mean, kl / 4.0);
        assert_eq!(p.top1_agreement, 1.0);
    }

    #[test]
    fn what_is_not_finite_is_null() {
        let nan = Score {
            tokens: 2,
            candidate: f64::NAN,
            reference: 2.0,
            kl: f64::INFINITY,
            same_top1: 1,
            near_ties: 0,
            worst: Worst(Some(f64::NAN)),
            worst_at: 1,
        };
        let p = summarize("a.txt", 5, &[nan]).unwrap();
        assert_eq!((p.candidate, p.difference, p.kl_mean), (None, None, None));
        assert_eq!(p.worst_nmse, None);
        assert_eq!(p.reference, Some(1_f64.exp()));
        assert_eq!(p.top1_agreement, 0.5);
        assert_eq!(summarize("a.txt", 5, &[Score::default()]), None);
    }

    #[test]
    fn near_ties_do_not_count_against_an_engine() {
        let row = |reference: &[f32], candidate: &[f32]| {
            let mut scorer = Scorer {
                tokens: &[0, 1],
                limit: 1e-3,
                score: Score::default(),
            };
            let at = RowAt {
                tap: Tap::Logits,
                layer: None,
                position: 0,
            };
            scorer.row_f32(at, reference, candidate);
            let p = summarize("a.txt", 2, &[scorer.score]).unwrap();
            (p.top1_agreement, p.near_ties)
        };
        assert_eq!(row(&[1.0, 1.001], &[1.001, 1.0]), (0.0, Some(1.0)));
        assert_eq!(row(&[1.0, 2.0], &[2.0, 1.0]), (0.0, Some(0.0)));
        assert_eq!(row(&[1.0, 2.0], &[1.0, 2.0]), (1.0, Some(0.0)));
    }

    #[test]
    fn every_figure_has_its_limit() {
        let limits = TextLimits {
            difference: 0.02,
            kl: 0.01,
            top1: 0.95,
        };
        let right = Perplexity {
            source: "a.txt".into(),
            window: 256,
            windows: 2,
            tokens: 254,
            reference: Some(3.0),
            candidate: Some(3.0),
            difference: Some(PerplexityDifference {
                mean: 0.01,
                low: Some(0.005),
                high: Some(0.015),
            }),
            kl_mean: Some(0.005),
            top1_agreement: 0.9,
            near_ties: Some(0.08),
            worst_nmse: Some(0.03),
        };
        let of = |p: &Perplexity| beyond(p, limits, 0.04);
        assert_eq!(of(&right), [""; 0]);
        let difference = |mean, interval: Option<(f64, f64)>| Perplexity {
            difference: Some(PerplexityDifference {
                mean,
                low: interval.map(|(low, _)| low),
                high: interval.map(|(_, high)| high),
            }),
            ..right.clone()
        };
        assert_eq!(of(&difference(-0.5, Some((-1.1, 0.1)))), [""; 0]);
        let wrong = [
            (difference(-0.5, Some((-0.6, -0.4))), "-0.500 nats"),
            (difference(0.5, None), "0.500 nats"),
            (
                Perplexity {
                    kl_mean: Some(0.02),
                    ..right.clone()
                },
                "mean KL",
            ),
            (
                Perplexity {
                    near_ties: Some(0.0),
                    ..right.clone()
                },
                "90",
            ),
            (
                Perplexity {
                    worst_nmse: Some(0.05),
                    ..right.clone()
                },
                "worst row",
            ),
        ];
        for (wrong, says) in wrong {
            let [text] = &of(&wrong)[..] else {
                panic!("{says}")
            };
            assert!(text.contains(says), "{text}");
        }
    }
}
