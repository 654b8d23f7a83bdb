//! Rows that differ by more than their limit and are right in both engines: each rounds as the model's types allow, and not
//! as the other does.
//!
//! In isolated mode both have computed the stage from the same values, so that the oracle can say of each row which
//! rounding gives it. Where that is so of every row judged, the limit is not held against the run, and the roundings are
//! named. In cumulative mode a rounding spreads, and the limit on logits is there for what comes of it.

use std::collections::BTreeMap;

use bitnet_model::tap::Tap;
use reports::model::{
    AllowedRoundings, AtFault, Finding, KnownDeviation, Mode, Place, Source, TapResult,
};
use reports::number;
use reports::outcome::Outcome;

use super::arbitration::NoRuling;
use super::court::Oracle;
use super::excuses::{Covered, Judged, hear};
use super::measurements::Measurements;
use super::plan::Plan;
use crate::compare::site::Site;
use crate::engine::Failed;
use crate::known::covers_site;
use crate::session::loaded::Loaded;
use crate::session::setup::Setup;

/// Sites at which both engines are right beyond the limit.
#[derive(Debug, Default)]
pub(super) struct Allowed {
    sites: BTreeMap<Site, AllowedRoundings>,
}

/// Has the oracle judge what is beyond its limit, unless the ledger covers it, and finds where both engines are right.
///
/// # Errors
/// The engine that failed when it was asked again.
pub(super) fn allowed(
    known: &[KnownDeviation],
    engines: &mut Loaded,
    oracle: &mut Oracle,
    setup: &Setup,
    plan: &Plan,
    measured: &Measurements,
) -> Result<Allowed, Failed> {
    let beyond: Covered = measured
        .beyond()
        .filter(|(site, _)| site.mode == Mode::Isolated && may_be_rounded(site.tap))
        .filter(|(site, _)| !known.iter().any(|entry| covers_site(entry, site)))
        .collect();
    let first = beyond
        .iter()
        .min_by_key(|(site, rows)| (site.prompt, rows.first().map(|row| row.position), **site));
    let Some((&first, rows)) = first else {
        return Ok(Allowed::default());
    };
    let Ok(court) = oracle.court() else {
        return Ok(Allowed::default());
    };
    let seed = jiff::Timestamp::now().as_nanosecond() as u64;
    let mut hear = |rows: &Covered| {
        match hear(engines, court, setup, plan, measured, rows, seed) {
            Ok(heard) => Ok(heard),
            Err(NoRuling::Engine(failed)) => Err(failed),
            // What nobody has judged is held against the run.
            Err(NoRuling::Oracle(_)) => Ok(BTreeMap::new()),
        }
    };
    // Of most engines that are wrong, the first row says so.
    let heard = hear(&[(first, &rows[..1])].into())?;
    if heard
        .get(&first)
        .and_then(|rows| of_rows(rows, 1))
        .is_none()
    {
        return Ok(Allowed::default());
    }
    let heard = hear(&beyond)?;
    let sites = heard.iter().filter_map(|(site, rows)| {
        let n = beyond.get(site).map_or(0, |rows| rows.len());
        Some((*site, of_rows(rows, n as u64)?))
    });
    Ok(Allowed {
        sites: sites.collect(),
    })
}

/// Whether engines may round before the stage, and how far apart that makes them.
fn may_be_rounded(tap: Tap) -> bool {
    tap.is_product() || matches!(tap, Tap::AttnProbs | Tap::AttnOut)
}

/// The roundings of a site of which these rows were judged; `None` unless both engines are right in each, by other
/// roundings.
fn of_rows(judged: &[Judged], rows: u64) -> Option<AllowedRoundings> {
    let all = judged.iter().map(|row| {
        let [reference, candidate] = row.roundings.as_ref()?;
        let right = row.at_fault == AtFault::None && reference != candidate;
        right.then_some((reference, candidate))
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
                    "{} beyond the limit in {}, the first of them {first}, and right in both engines, which round as the \
                     model's types allow: in the reference, {}; in the candidate, {}",
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
        let at = reports::model::ElementAt {
            position: 3,
            element: 0,
            reference: None,
            candidate: None,
        };
        Judged {
            at_fault,
            roundings: roundings.map(|names| names.map(str::to_owned)),
            row: Exceeded {
                position: 3,
                at,
                nmse: Some(1e-5),
                limit: 1e-13,
                part: None,
            },
        }
    }

    #[test]
    fn both_must_be_right_in_every_row_and_by_other_roundings() {
        const AWAY: &str = "int8 codes rounded half away from zero";
        let right = || judged(AtFault::None, Some([AWAY, "none"]));
        let found = of_rows(&[right(), right()], 40).unwrap();
        assert_eq!((found.rows, found.judged), (40, 2));
        assert_eq!((&*found.reference, &*found.candidate), (AWAY, "none"));
        for other in [
            judged(AtFault::Candidate, Some([AWAY, "none"])),
            judged(AtFault::Undetermined, None),
            judged(AtFault::None, None),
            // Alike, and yet apart: nothing explains that.
            judged(AtFault::None, Some(["none", "none"])),
        ] {
            assert_eq!(of_rows(&[right(), other], 2), None);
        }
        assert_eq!(of_rows(&[], 0), None);
    }
}
