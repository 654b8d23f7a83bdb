//! Which faults are put where.

use std::collections::{BTreeSet, VecDeque};

use bitnet_model::nearest::did_you_mean;
use bitnet_model::random::Rng;
use bitnet_model::tap::{Tap, sites};
use reports::Report;

use crate::error::Error;

use super::{FaultAt, FaultKind, Proof, SelfTestOptions};

/// Faults of one kind, in random order.
pub(super) struct Draw {
    pub(super) family: String,
    pub(super) name: String,
    pub(super) proof: Proof,
    pub(super) needs: Option<String>,
    pub(super) may_change_nothing: bool,
    pub(super) behind: Option<String>,
    pub(super) who: Who,
    pub(super) places: VecDeque<Faults>,
}

/// Which engines have the faults.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Who {
    /// The candidate and the reference, by turns.
    ByTurns,
    /// The candidate.
    Candidate,
    /// The reference has the first, the candidate the last.
    Each,
}

/// Faults that are there at once, the earliest in the forward pass first.
pub(super) type Faults = Vec<FaultAt>;

/// What is tried.
pub(super) struct Plan {
    pub(super) draws: Vec<Draw>,
}

impl Plan {
    /// # Errors
    /// [`Error::Usage`] for a family that is none.
    pub(super) fn new(options: &SelfTestOptions, control: &Report) -> Result<Plan, Error> {
        let taps: BTreeSet<Tap> = control
            .taps
            .iter()
            .filter_map(|t| t.tap.parse().ok())
            .collect();
        let taps: Vec<Tap> = taps.into_iter().collect();
        let n_layer = control.model.n_layer;
        let kinds = (options.kinds)(&taps, n_layer);
        let mut rng = Rng::new(options.seed, "places");
        let order: Vec<_> = sites(&taps, n_layer).collect();
        let mut draws = pairs(&kinds, &order, options.places, &mut rng);
        let single = kinds.into_iter().map(|kind| {
            let mut places: Vec<Faults> =
                kind.places.into_iter().map(|place| vec![place]).collect();
            places.sort_by_cached_key(|_| rng.next_u64());
            Draw {
                family: kind.family,
                name: kind.name,
                who: match kind.proof {
                    Proof::Speed => Who::Candidate,
                    _ => Who::ByTurns,
                },
                proof: kind.proof,
                needs: kind.needs,
                may_change_nothing: kind.may_change_nothing,
                behind: kind.behind,
                places: places.into(),
            }
        });
        let mut all: Vec<Draw> = single.collect();
        all.append(&mut draws);
        if !options.families.is_empty() {
            all = of_families(all, options.families)?;
        }
        if let Some(n) = options.kinds_of_family {
            all = some_of_each(all, n, &mut rng);
        }
        Ok(Plan { draws: all })
    }

    /// What has to show the faults, and what they hide behind: without a fault, none of it may go red.
    pub(super) fn controls(&self) -> BTreeSet<(Proof, Option<&str>)> {
        // The baseline of the speed is made of runs without a fault.
        let draws = self.draws.iter().filter(|d| d.proof != Proof::Speed);
        draws.map(|d| (d.proof, d.behind.as_deref())).collect()
    }
}

/// The kinds of some families.
fn of_families(mut draws: Vec<Draw>, families: &[String]) -> Result<Vec<Draw>, Error> {
    let known: BTreeSet<&str> = draws.iter().map(|draw| draw.family.as_str()).collect();
    if let Some(unknown) = families.iter().find(|name| !known.contains(name.as_str())) {
        let meant = did_you_mean(unknown, known.iter().copied());
        let known = known.into_iter().collect::<Vec<_>>().join(", ");
        let what = format!("the model has no family {unknown:?}{meant} of faults: it has {known}");
        return Err(Error::option("families", what));
    }
    draws.retain(|draw| families.contains(&draw.family));
    Ok(draws)
}

/// At most `n` kinds of each family.
fn some_of_each(mut draws: Vec<Draw>, n: usize, rng: &mut Rng) -> Vec<Draw> {
    draws.sort_by_cached_key(|draw| (draw.family.clone(), rng.next_u64()));
    let mut kept: Vec<Draw> = Vec::new();
    for draw in draws {
        let same = kept.iter().filter(|other| other.family == draw.family);
        if same.count() < n {
            kept.push(draw);
        }
    }
    kept
}

/// Two faults at once, from kinds that always have consequences.
fn pairs(
    kinds: &[FaultKind],
    order: &[(Option<usize>, Tap)],
    places: usize,
    rng: &mut Rng,
) -> Vec<Draw> {
    let gross = |kind: &&FaultKind| {
        kind.proof == Proof::Taps { in_logits: true }
            && kind.needs.is_none()
            && kind.behind.is_none()
    };
    let faults: Vec<&FaultAt> = kinds.iter().filter(gross).flat_map(|k| &k.places).collect();
    let rank = |fault: &FaultAt| {
        let at = fault.tap.map(|tap| (fault.layer, tap));
        order.iter().position(|site| Some(*site) == at)
    };
    let mut draw = |name: &str, who, same| {
        let mut drawn = VecDeque::new();
        while !faults.is_empty() && drawn.len() < places {
            let [a, b] = [(); 2].map(|()| faults[rng.below(faults.len())]);
            let b = if same { a } else { b };
            let mut both = vec![a.clone(), b.clone()];
            if same || rank(a) != rank(b) {
                if who == Who::Candidate {
                    both.sort_by_key(rank);
                }
                drawn.push_back(both);
            }
        }
        Draw {
            family: "two at once".to_owned(),
            name: name.to_owned(),
            proof: Proof::Taps { in_logits: true },
            needs: None,
            may_change_nothing: true,
            behind: None,
            who,
            places: drawn,
        }
    };
    let draws = [
        draw("two in the candidate", Who::Candidate, false),
        draw("one in each engine", Who::Each, false),
        draw("the same in both engines", Who::Each, true),
    ];
    draws.into_iter().filter(|d| !d.places.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(family: &str, name: &str, needs: Option<&str>) -> FaultKind {
        let at = |layer| FaultAt {
            fault: format!("{name}:q:{layer}"),
            tap: Some(Tap::Q),
            layer: Some(layer),
            in_every_layer: None,
        };
        FaultKind {
            family: family.to_owned(),
            name: name.to_owned(),
            proof: Proof::Taps { in_logits: true },
            needs: needs.map(str::to_owned),
            may_change_nothing: true,
            behind: None,
            places: (0..4).map(at).collect(),
        }
    }

    #[test]
    fn pairs_are_of_faults_with_consequences_in_the_order_of_the_pass() {
        let kinds = [
            kind("stages", "zero", None),
            kind("stages", "silu", Some("SiLU")),
        ];
        let order: Vec<_> = sites(&[Tap::Q], 4).collect();
        let draws = pairs(&kinds, &order, 5, &mut Rng::new(1, "test"));
        let [two, each, same] = &draws[..] else {
            panic!("three kinds")
        };
        for draw in &draws {
            assert_eq!(draw.places.len(), 5);
            let mut faults = draw.places.iter().flatten();
            assert!(faults.all(|f| f.fault.starts_with("zero")));
        }
        assert!(two.places.iter().all(|pair| pair[0].layer < pair[1].layer));
        assert!(each.places.iter().all(|pair| pair[0] != pair[1]));
        assert!(same.places.iter().all(|pair| pair[0] == pair[1]));
        assert!(pairs(&kinds[1..], &order, 5, &mut Rng::new(1, "test")).is_empty());
    }

    #[test]
    fn a_sample_has_every_family() {
        let draw = |family: &str, name: &str| {
            let kind = kind(family, name, None);
            Draw {
                family: kind.family,
                name: kind.name,
                proof: kind.proof,
                needs: None,
                may_change_nothing: true,
                behind: None,
                who: Who::ByTurns,
                places: VecDeque::new(),
            }
        };
        let draws = || {
            vec![
                draw("a", "1"),
                draw("a", "2"),
                draw("a", "3"),
                draw("b", "4"),
            ]
        };
        let some = some_of_each(draws(), 2, &mut Rng::new(1, "test"));
        let families: Vec<&str> = some.iter().map(|d| d.family.as_str()).collect();
        assert_eq!(families, ["a", "a", "b"]);
        let b = of_families(draws(), &["b".to_owned()]).unwrap();
        assert!(b.iter().map(|d| d.name.as_str()).eq(["4"]));
        let Err(e) = of_families(draws(), &["c".to_owned()]) else {
            panic!("no family c")
        };
        assert!(e.to_string().contains("it has a, b"), "{e}");
    }
}
