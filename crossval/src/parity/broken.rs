//! Models that compute nothing, and values that are no numbers: what equality would hide.

use reports::model::{
    AtFault, Coverage, Divergence, Finding, Mode, Perplexity, Place, Role, Source,
};
use reports::number;
use reports::outcome::Outcome;

use crate::compare::coverage::NotFinite;
use crossval_protocol::ModelFacts;

/// How `crossval synth` begins the name of a model, which its file says: its weights are random.
const RANDOM: &str = "synthetic ";

/// Rows that are 0 in both engines say nothing about either; nor about the model where a stage is wrong, by what was
/// `found` otherwise: its zeros may be handed on.
pub(super) fn vacuous(coverage: &Coverage, found: &[Finding]) -> Option<Finding> {
    let first = coverage.vacuous.first()?;
    let of_stages = |f: &Finding| matches!(f.source, Source::Taps | Source::Oracle);
    let mut wrong = found.iter().filter(|f| f.outcome == Outcome::Parity);
    if wrong.any(of_stages) {
        return None;
    }
    let more = match coverage.vacuous.len() - 1 {
        0 => String::new(),
        more => format!(", and {} more", number::plural(more as u64, "range")),
    };
    Some(Finding {
        outcome: Outcome::Incomplete,
        source: Source::Coverage,
        place: None,
        text: format!(
            "rows that are all zero in both engines, which compares nothing: {first}{more}"
        ),
    })
}

/// Names of tensors in one finding.
const NAMES: usize = 8;

/// Tensors of the file that are all zero.
pub(super) fn zero_tensors(zero: &[String]) -> Option<Finding> {
    let (first, others) = zero.split_first()?;
    let (named, rest) = others.split_at(others.len().min(NAMES - 1));
    let mut more: Vec<String> = named.iter().map(|name| format!("{name:?}")).collect();
    if !rest.is_empty() {
        more.push(format!("{} more", rest.len()));
    }
    let more = match more.split_last() {
        None => String::new(),
        Some((last, [])) => format!(", and so is {last}"),
        Some((last, others)) => format!(", and so are {} and {last}", others.join(", ")),
    };
    Some(Finding {
        outcome: Outcome::Incomplete,
        source: Source::ModelFile,
        place: None,
        text: format!(
            "tensor {first:?} of the model is all zero{more}: what is computed from it is the same in any engine"
        ),
    })
}

/// Both engines find the text less likely than chance would. Of a model that says that it is random, that is to be
/// expected, and merely said. Of another, `hypothesis` may know why.
pub(super) fn worse_than_guessing(
    perplexity: Option<&Perplexity>,
    facts: &ModelFacts,
    hypothesis: impl FnOnce() -> Option<String>,
) -> Option<Finding> {
    let perplexity = perplexity?;
    let (reference, candidate) = (perplexity.reference?, perplexity.candidate?);
    let n_vocab = facts.n_vocab;
    let least = reference.min(candidate);
    if n_vocab == 0 || least <= n_vocab as f64 {
        return None;
    }
    let random = facts
        .name
        .as_ref()
        .is_some_and(|name| name.starts_with(RANDOM));
    let (outcome, because) = match random {
        true => (Outcome::Pass, "its weights are random".to_owned()),
        false => {
            let mut because = "it is broken, or the text is none of its own, and the two perplexities compare nothing".to_owned();
            if let Some(hypothesis) = hypothesis() {
                because.push_str(&format!("; {hypothesis}"));
            }
            (Outcome::Incomplete, because)
        }
    };
    Some(Finding {
        outcome,
        source: Source::Perplexity,
        place: None,
        text: format!(
            "the model is worse than guessing on {}: perplexity {} in both engines or more, of a vocabulary of {n_vocab}; {because}",
            perplexity.source,
            number::value(least),
        ),
    })
}

/// A perplexity that is no number: of one engine, its fault; of both, it may be the model's.
pub(super) fn perplexity_not_finite(perplexity: Option<&Perplexity>) -> Option<Finding> {
    let perplexity = perplexity?;
    let lacking = |&role: &Role| perplexity.of(role).is_none();
    let lacking: Vec<Role> = Role::BOTH.into_iter().filter(lacking).collect();
    let (outcome, place, of) = match lacking[..] {
        [] => return None,
        [role] => (Outcome::Parity, Some(role.into()), format!("the {role}")),
        _ => (Outcome::Incomplete, None, "both engines".to_owned()),
    };
    Some(Finding {
        outcome,
        source: Source::Perplexity,
        place,
        text: format!("the perplexity of the text is not finite in {of}"),
    })
}

/// Where values stop being numbers, as a divergence for the oracle.
pub(super) fn divergence(row: &NotFinite, limit: f64) -> Divergence {
    let site = row.site;
    Divergence {
        prompt: site.prompt,
        position: row.position,
        layer: site.layer,
        tap: site.tap.to_string(),
        mode: site.mode,
        element: row.element,
        reference: None,
        candidate: None,
        oracle: None,
        nmse: None,
        limit,
        part: None,
        hint: None,
        arbitration: None,
    }
}

/// Who makes values that are no numbers: the engines that have them in the first such row, unless the right value does
/// not fit the format, which is the model's.
pub(super) fn not_finite(
    row: &NotFinite,
    judged: &Divergence,
    ruling: Option<AtFault>,
) -> Vec<Finding> {
    let site = row.site;
    let place = format!("{site}, position {}", row.position);
    let largest = match site.tap.is_f16() {
        true => f64::from(half::f16::MAX),
        false => f64::from(f32::MAX),
    };
    let fits = judged.oracle.is_some_and(|right| right.abs() <= largest);
    let heard = ruling.is_some_and(|ruling| ruling != AtFault::Undetermined);
    // In cumulative mode nobody says what would have been right.
    if heard && !fits && site.mode == Mode::Isolated {
        return vec![Finding {
            outcome: Outcome::Incomplete,
            source: Source::ModelFile,
            place: None,
            text: format!(
                "the model computes a value that no float of its format holds in {place}"
            ),
        }];
    }
    let roles = Role::BOTH.into_iter().filter(|&role| row.of(role));
    roles
        .map(|role| Finding {
            outcome: Outcome::Parity,
            source: Source::Coverage,
            place: Some(Place {
                role: Some(role),
                prompt: Some(site.prompt),
                position: Some(row.position),
                layer: site.layer,
                tap: Some(site.tap.to_string()),
                ..Place::default()
            }),
            text: format!("the {role} has values that are NaN or infinite in {place}"),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use bitnet_model::tap::Tap;

    use super::*;
    use crate::compare::site::Site;

    fn row(tap: Tap, reference: bool, candidate: bool) -> NotFinite {
        NotFinite {
            site: Site {
                mode: Mode::Isolated,
                prompt: 0,
                layer: Some(2),
                tap,
            },
            position: 3,
            element: 5,
            reference,
            candidate,
        }
    }

    #[test]
    fn whoever_has_no_number_is_named_unless_there_is_none_to_have() {
        let found = |row: NotFinite, right, ruling| {
            let judged = Divergence {
                oracle: right,
                ..divergence(&row, 1e-12)
            };
            let found = not_finite(&row, &judged, ruling);
            found
                .iter()
                .map(|f| (f.outcome, f.role()))
                .collect::<Vec<_>>()
        };
        let parity = |role| (Outcome::Parity, Some(role));
        let (reference, candidate) = (parity(Role::Reference), parity(Role::Candidate));
        let both = Some(AtFault::Both);
        assert_eq!(
            found(
                row(Tap::FfnAct, false, true),
                Some(1.0),
                Some(AtFault::Candidate)
            ),
            [candidate]
        );
        assert_eq!(
            found(row(Tap::FfnAct, true, false), None, None),
            [reference]
        );
        assert_eq!(
            found(row(Tap::FfnAct, true, true), Some(1.0), both),
            [reference, candidate]
        );
        for (tap, right) in [
            (Tap::FfnAct, None),
            (Tap::FfnAct, Some(1e39)),
            (Tap::KCache, Some(-7e4)),
        ] {
            let none = [(Outcome::Incomplete, None)];
            assert_eq!(
                found(row(tap, true, true), right, both),
                none,
                "{tap} {right:?}"
            );
        }
        assert_eq!(
            found(row(Tap::FfnAct, true, true), Some(-7e4), both).len(),
            2
        );
    }

    #[test]
    fn what_is_zero_in_both_engines_was_not_compared() {
        let coverage = Coverage {
            expected: 10,
            compared: 9,
            vacuous: vec!["isolated, prompt 0, layer 1, q, positions 3..4".into()],
            ..Coverage::default()
        };
        let found = vacuous(&coverage, &[]).unwrap();
        assert_eq!(found.outcome, Outcome::Incomplete);
        assert!(found.text.contains("zero") && found.text.contains("layer 1, q"));
        let other = |source| Finding {
            outcome: Outcome::Parity,
            source,
            ..found.clone()
        };
        assert!(vacuous(&coverage, &[other(Source::Tokenizer)]).is_some());
        for source in [Source::Taps, Source::Oracle] {
            assert_eq!(vacuous(&coverage, &[other(source)]), None);
        }
        assert_eq!(vacuous(&Coverage::default(), &[]), None);
    }

    #[test]
    fn tensors_of_zeros_are_named() {
        let found = |n: usize| {
            let names: Vec<String> = (0..n).map(|i| format!("t{i}")).collect();
            zero_tensors(&names).map(|f| f.text)
        };
        assert_eq!(found(0), None);
        for (n, says) in [
            (1, r#"tensor "t0" of the model is all zero: "#),
            (2, r#"all zero, and so is "t1": "#),
            (3, r#"all zero, and so are "t1" and "t2": "#),
            (20, r#", "t6", "t7" and 12 more: "#),
        ] {
            let found = found(n).unwrap();
            assert!(found.contains(says), "{found}");
        }
    }

    #[test]
    fn a_model_that_is_worse_than_guessing_is_named_and_a_random_one_forgiven() {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/2b-4t.json");
        let report = reports::json::read(file.as_ref()).unwrap();
        let mut facts = ModelFacts {
            architecture: report.model.architecture,
            name: None,
            n_layer: 1,
            n_embd: 1,
            n_ff: 1,
            n_head: 1,
            n_head_kv: 1,
            head_dim: None,
            n_vocab: 512,
            n_ctx_train: 1,
            activation: None,
            taps: Vec::new(),
            tensor_types: Default::default(),
            weight_types: Default::default(),
            vocab: None,
            work: None,
        };
        let perplexity = |reference, candidate| Perplexity {
            source: "a.txt".into(),
            window: 8,
            windows: 1,
            tokens: 3,
            reference,
            candidate,
            difference: None,
            kl_mean: None,
            top1_agreement: 1.0,
            near_ties: None,
            worst_nmse: None,
        };
        let bad = perplexity(Some(700.0), Some(800.0));
        let found = worse_than_guessing(Some(&bad), &facts, || None).unwrap();
        assert_eq!((found.outcome, found.role()), (Outcome::Incomplete, None));
        assert!(
            found.text.contains("worse than guessing on a.txt"),
            "{}",
            found.text
        );
        facts.name = Some("synthetic llama, seed 7".into());
        let found = worse_than_guessing(Some(&bad), &facts, || None).unwrap();
        assert_eq!(found.outcome, Outcome::Pass);
        // One engine alone is off from the other, which is judged elsewhere.
        for good in [
            perplexity(Some(700.0), Some(400.0)),
            perplexity(Some(511.0), Some(400.0)),
            perplexity(None, Some(800.0)),
        ] {
            assert_eq!(worse_than_guessing(Some(&good), &facts, || None), None);
        }
        let of_one = perplexity_not_finite(Some(&perplexity(None, Some(800.0)))).unwrap();
        assert_eq!(
            (of_one.outcome, of_one.role()),
            (Outcome::Parity, Some(Role::Reference))
        );
        let of_both = perplexity_not_finite(Some(&perplexity(None, None))).unwrap();
        assert_eq!(
            (of_both.outcome, of_both.role()),
            (Outcome::Incomplete, None)
        );
        assert_eq!(perplexity_not_finite(Some(&bad)), None);
    }
}
