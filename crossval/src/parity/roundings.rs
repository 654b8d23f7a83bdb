//! Rows that differ by more than their limit and are right in both engines: each rounds as the model's types allow, and not
//! as the other does.
//!
//! In isolated mode both have computed the stage from the same values, so that the oracle can say of each row which
//! rounding gives it. Where that is so of every row judged, the limit is not held against the run, and the roundings are
//! named. In cumulative mode a rounding spreads, and the limit on logits is there for what comes of it.

use std::collections::BTreeMap;

use bitnet_model::tap::Tap;
use reports::model::{
    AllowedRoundings, Arbitration, AtFault, Finding, KnownDeviation, Mode, Place, Source, TapResult,
};
use reports::number;
use reports::outcome::Outcome;

use super::excuses::Judged;
use super::measurements::Measurements;
use super::taps::Rulings;
use crate::compare::site::Site;
use crate::compare::tap::Beyond;
use crate::known::covers_site;

/// Sites at which both engines are right beyond the limit.
#[derive(Debug, Default)]
pub(super) struct Allowed {
    sites: BTreeMap<Site, AllowedRoundings>,
}

/// The roundings of a site of which these rows were judged; `None` unless both engines are right in each, by other
/// roundings, or as far apart as two that round alike may be. What must be the same bit for bit has no such room.
fn of_rows(judged: &[Judged], rows: u64) -> Option<AllowedRoundings> {
    let all = judged.iter().map(|row| {
        let Arbitration {
            reference,
            candidate,
        } = row.arbitration.as_ref()?;
        let [reference, candidate] = [&reference.rounding, &candidate.rounding];
        let may_differ = reference != candidate || row.row.limit > 0.0;
        (row.at_fault == AtFault::None && may_differ).then_some((reference, candidate))
    });
    let all: Vec<(&String, &String)> = all.collect::<Option<_>>()?;
    let names = |of: fn(&(&'_ String, &'_ String)) -> String| {
        let mut names: Vec<String> = all.iter().map(of).collect();
        names.sort();
        names.dedup();
        names.join(" or ")
    };
    (!all.is_empty()).then(|| AllowedRoundings {
        rows,
        judged: all.len() as u64,
        reference: names(|(reference, _)| (*reference).clone()),
        candidate: names(|(_, candidate)| (*candidate).clone()),
    })
}

impl Allowed {
    /// Of what the oracle has judged, unless the ledger covers it.
    pub(super) fn of(
        rulings: &Rulings,
        known: &[KnownDeviation],
        measured: &Measurements,
    ) -> Allowed {
        let beyond: BTreeMap<Site, &[Beyond]> = measured.beyond().collect();
        let open = rulings.iter().filter(|(site, _)| {
            let mut known = known.iter();
            !known.any(|entry| covers_site(entry, site))
        });
        let sites = open.filter_map(|(site, judged)| {
            let rows = beyond.get(site).map_or(0, |rows| rows.len());
            Some((*site, of_rows(judged, rows as u64)?))
        });
        Allowed {
            sites: sites.collect(),
        }
    }

    /// Whether the limit is not held against the run there.
    pub(super) fn site(&self, site: &Site) -> bool {
        self.sites.contains_key(site)
    }

    /// Says so in the results.
    pub(super) fn mark(&self, mut results: Vec<TapResult>) -> Vec<TapResult> {
        for result in &mut results {
            let Ok(tap) = result.tap.parse::<Tap>() else {
                continue;
            };
            let site = Site {
                mode: Mode::Isolated,
                prompt: result.prompt,
                layer: result.layer,
                tap,
            };
            if let Some(allowed) = self.sites.get(&site)
                && let Some(stats) = &mut result.isolated
            {
                stats.allowed = Some(allowed.clone());
                stats.pass = Some(true);
            }
        }
        results
    }

    /// One finding per pair of roundings, to be known.
    pub(super) fn findings(&self) -> Vec<Finding> {
        let mut pairs: BTreeMap<(&str, &str), Vec<(&Site, &AllowedRoundings)>> = BTreeMap::new();
        for (site, allowed) in &self.sites {
            let pair = (allowed.reference.as_str(), allowed.candidate.as_str());
            pairs.entry(pair).or_default().push((site, allowed));
        }
        let findings = pairs.into_iter().map(|((reference, candidate), sites)| {
            let rows = sites.iter().map(|(_, allowed)| allowed.rows).sum();
            let (first, _) = sites[0];
            Finding {
                outcome: Outcome::Pass,
                source: Source::Oracle,
                place: Some(Place {
                    prompt: Some(first.prompt),
                    layer: first.layer,
                    tap: Some(first.tap.to_string()),
                    ..Place::default()
                }),
                text: format!(
                    "{} beyond the limit in {}, the first of them {first}, and right in both engines, which compute it \
                     in ways that the model allows: in the reference, {}; in the candidate, {}",
                    number::plural(rows, "row"),
                    number::plural(sites.len() as u64, "tap"),
                    in_words(reference),
                    in_words(candidate),
                ),
            }
        });
        findings.collect()
    }
}

fn in_words(rounding: &str) -> &str {
    match rounding {
        "none" => "nothing rounded otherwise than in the model's definition",
        rounding => rounding,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::tap::Exceeded;

    fn judged(at_fault: AtFault, roundings: Option<[&str; 2]>) -> Judged {
        judged_within(at_fault, roundings, 1e-13)
    }

    fn judgement(rounding: &str) -> reports::model::Judgement {
        reports::model::Judgement {
            layer: None,
            tap: "q".to_owned(),
            nmse: Some(0.0),
            limit: 1e-14,
            right: true,
            rounding: rounding.to_owned(),
            findings: Vec::new(),
        }
    }

    fn judged_within(at_fault: AtFault, roundings: Option<[&str; 2]>, limit: f64) -> Judged {
        let at = reports::model::ElementAt {
            position: 3,
            element: 0,
            reference: None,
            candidate: None,
        };
        Judged {
            at_fault,
            arbitration: roundings.map(|[reference, candidate]| Arbitration {
                reference: judgement(reference),
                candidate: judgement(candidate),
            }),
            row: Exceeded {
                position: 3,
                at,
                nmse: Some(1e-5),
                limit,
                part: None,
            },
        }
    }

    #[test]
    fn both_must_be_right_in_every_row_and_may_be_apart() {
        const AWAY: &str = "int8 codes rounded half away from zero";
        let right = || judged(AtFault::None, Some([AWAY, "none"]));
        let found = of_rows(&[right(), right()], 40).unwrap();
        assert_eq!((found.rows, found.judged), (40, 2));
        assert_eq!((&*found.reference, &*found.candidate), (AWAY, "none"));
        for other in [
            judged(AtFault::Candidate, Some([AWAY, "none"])),
            judged(AtFault::Undetermined, None),
            judged(AtFault::None, None),
            // Alike, and yet not bit for bit.
            judged_within(AtFault::None, Some(["none", "none"]), 0.0),
        ] {
            assert_eq!(of_rows(&[right(), other], 2), None);
        }
        let alike = judged(AtFault::None, Some(["none", "none"]));
        assert_eq!(of_rows(&[alike], 1).map(|found| found.rows), Some(1));
        assert_eq!(of_rows(&[], 0), None);
    }
}
