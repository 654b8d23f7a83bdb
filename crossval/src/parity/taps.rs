//! Who is wrong at each tap. Two engines may each be wrong in a place of their own, and a row in which both are right may
//! lie before one in which one is not: so of every tap that the engines part at, rows go before the oracle, and blame is
//! the union of what it says.
//!
//! In isolated mode, where no fault spreads, of what the ledger does not excuse:
//! 1. up to [`ROWS`] rows of each tap: the first, the worst of each layer and prompt, others drawn at random;
//! 2. of taps at which both engines are right in some of them, as many of each layer and prompt that is not known to hold a
//!    fault;
//! 3. and of those that do, as many before the first that is wrong, to find where it begins.

use std::collections::{BTreeMap, BTreeSet};

use bitnet_model::random::Rng;
use bitnet_model::tap::Tap;
use reports::model::{AtFault, Divergence, Finding, Mode, Place, Role, Source};
use reports::number;
use reports::outcome::Outcome;

use super::arbitration::NoRuling;
use super::court::Oracle;
use super::excuses::{Blame, Covered, Excuses, Hearings, Judged, ROWS};
use super::measurements::Measurements;
use super::plan::Plan;
use crate::compare::site::Site;
use crate::compare::tap::{Beyond, Exceeded};
use crate::engine::Failed;
use crate::session::loaded::Loaded;
use crate::session::setup::Setup;

/// Taps that an engine is blamed for by name, at most.
const NAMED: usize = 8;

/// What the oracle says of rows beyond their limit in isolated mode, by site, in the order of positions.
#[derive(Debug)]
pub(super) struct Rulings {
    sites: BTreeMap<Site, Vec<Judged>>,
}

/// Rows to be judged.
type Rows = BTreeMap<Site, Vec<Beyond>>;

/// Has the oracle judge every tap that is beyond its limit and not excused.
///
/// # Errors
/// The engine that failed when it was asked again.
pub(super) fn hear_taps(
    engines: &mut Loaded,
    oracle: &mut Oracle,
    setup: &Setup,
    plan: &Plan,
    measured: &Measurements,
    excuses: &Excuses,
) -> Result<Rulings, Failed> {
    let beyond: Covered = measured
        .beyond()
        .filter(|(site, _)| site.mode == Mode::Isolated && !excuses.site(site))
        .collect();
    let mut rulings = Rulings::none();
    if beyond.is_empty() {
        return Ok(rulings);
    }
    let Ok(court) = oracle.court() else {
        return Ok(rulings);
    };
    let seed = jiff::Timestamp::now().as_nanosecond() as u64;
    let mut rng = Rng::new(seed, "taps");
    let mut hearings = Hearings::new(engines, court, setup, plan);
    let mut ask = |rulings: &mut Rulings, rows: &Rows, explain: bool| {
        let rows = rows.iter().map(|(&site, rows)| (site, rows.as_slice()));
        let rows: Covered = rows.filter(|(_, rows)| !rows.is_empty()).collect();
        match hearings.judge(measured, &rows, seed, explain) {
            Ok(heard) => rulings.add(heard),
            Err(NoRuling::Engine(failed)) => return Err(failed),
            // What nobody has judged is held against the run.
            Err(NoRuling::Oracle(_)) => {}
        }
        Ok(())
    };
    ask(&mut rulings, &of_taps(&beyond, &mut rng), false)?;
    let rounds: [fn(&Rulings, &Covered) -> Rows; 2] = [Rulings::further, Rulings::before_wrong];
    for next in rounds {
        let rows = next(&rulings, &beyond);
        if !rows.is_empty() {
            ask(&mut rulings, &rows, false)?;
        }
    }
    // Of one place alone, the hearing of the first divergence says it.
    let named = rulings.to_be_named(&beyond);
    if named.values().map(Vec::len).sum::<usize>() > 1 {
        ask(&mut rulings, &named, true)?;
    }
    Ok(rulings)
}

/// Of each tap: the first row, the worst of each site, and others.
fn of_taps(beyond: &Covered, rng: &mut Rng) -> Rows {
    let mut chosen = Rows::new();
    let taps: BTreeSet<Tap> = beyond.keys().map(|site| site.tap).collect();
    for tap in taps {
        let mut rows: Vec<(usize, usize, Site, Beyond)> = Vec::new();
        for (&site, of_site) in beyond.iter().filter(|(site, _)| site.tap == tap) {
            let worst = of_site.iter().map(|row| row.nmse).max_by(f64::total_cmp);
            rows.extend(of_site.iter().map(|&row| {
                let is_worst = worst.is_some_and(|worst| row.nmse.total_cmp(&worst).is_eq());
                let rank = if is_worst { 1 } else { 2 };
                (rank, rng.below(usize::MAX >> 1), site, row)
            }));
        }
        let first = |(_, _, site, row): &&mut (usize, usize, Site, Beyond)| {
            (site.prompt, row.position, *site)
        };
        if let Some(first) = rows.iter_mut().min_by_key(first) {
            first.0 = 0;
        }
        rows.sort_unstable_by_key(|&(rank, drawn, ..)| (rank, drawn));
        for (.., site, row) in rows.into_iter().take(ROWS) {
            chosen.entry(site).or_default().push(row);
        }
    }
    chosen
}

fn is_right(judged: &Judged) -> bool {
    judged.at_fault == AtFault::None
}

impl Rulings {
    pub(super) const fn none() -> Rulings {
        Rulings {
            sites: BTreeMap::new(),
        }
    }

    fn add(&mut self, heard: BTreeMap<Site, Vec<Judged>>) {
        for (site, more) in heard {
            let rows = self.sites.entry(site).or_default();
            let again = |row: &Judged| more.iter().any(|m| m.row.position == row.row.position);
            rows.retain(|row| !again(row));
            rows.extend(more);
            rows.sort_by_key(|row| row.row.position);
        }
    }

    /// What is known of a site.
    pub(super) fn of(&self, site: &Site) -> &[Judged] {
        self.sites.get(site).map_or(&[], Vec::as_slice)
    }

    /// Every site of which something is known.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&Site, &[Judged])> {
        let sites = self.sites.iter();
        sites.map(|(site, rows)| (site, rows.as_slice()))
    }

    /// Taps at which both engines are right in some rows.
    fn partly_right(&self) -> BTreeSet<Tap> {
        let right = self.sites.iter();
        let right = right.filter(|(_, rows)| rows.iter().any(is_right));
        right.map(|(site, _)| site.tap).collect()
    }

    /// Sites without a wrong row, of taps that have right ones.
    fn further(&self, beyond: &Covered) -> Rows {
        let taps = self.partly_right();
        let open = beyond.iter().filter(|(site, rows)| {
            let heard = self.of(site);
            taps.contains(&site.tap) && heard.len() < rows.len() && heard.iter().all(is_right)
        });
        open.map(|(&site, rows)| (site, rows.to_vec())).collect()
    }

    /// Rows before the first wrong one of each site that may be the first to be wrong, of taps that have right ones.
    fn before_wrong(&self, beyond: &Covered) -> Rows {
        let taps = self.partly_right();
        let sites = self.sites.iter();
        let sites = sites.filter(|(site, _)| taps.contains(&site.tap));
        let open = sites.filter_map(|(&site, heard)| {
            let wrong = heard.iter().position(|row| !is_right(row))?;
            let position = |i: usize| heard[i].row.position;
            let after = wrong.checked_sub(1).map(position);
            let rows = beyond.get(&site)?.iter().filter(|row| {
                after.is_none_or(|after| after < row.position) && row.position < position(wrong)
            });
            let rows: Vec<Beyond> = rows.copied().collect();
            let step = rows.len().div_ceil(ROWS).max(1);
            Some((site, rows.into_iter().step_by(step).collect::<Vec<_>>()))
        });
        open.filter(|(_, rows)| !rows.is_empty()).collect()
    }

    /// The row at which a site leaves what is right, of a tap that has right rows; of others that is the first that is
    /// beyond its limit.
    pub(super) fn first_wrong(&self, site: &Site) -> Option<&Exceeded> {
        let mut rows = self.of(site).iter();
        let wrong = rows.find(|row| !is_right(row))?;
        self.partly_right()
            .contains(&site.tap)
            .then_some(&wrong.row)
    }

    /// Whether both engines are right in every row judged.
    pub(super) fn right(&self, site: &Site) -> bool {
        let rows = self.of(site);
        !rows.is_empty() && rows.iter().all(is_right)
    }

    /// The first place at which an engine is wrong, of each tap, earliest first.
    fn places(&self, role: Role) -> Vec<(Site, &Judged)> {
        let key = |&(site, judged): &(Site, &Judged)| (site.prompt, judged.row.position, site);
        let mut places: BTreeMap<Tap, (Site, &Judged)> = BTreeMap::new();
        for (&site, rows) in &self.sites {
            let mut rows = rows.iter();
            let wrong = rows.find(|row| Blame::of(row.at_fault).names(role));
            let Some(place) = wrong.map(|wrong| (site, wrong)) else {
                continue;
            };
            let earliest = places.entry(site.tap).or_insert(place);
            if key(&place) < key(earliest) {
                *earliest = place;
            }
        }
        let mut places: Vec<(Site, &Judged)> = places.into_values().collect();
        places.sort_by_key(key);
        places
    }

    /// The rows that findings are made of, at most.
    fn to_be_named(&self, beyond: &Covered) -> Rows {
        let mut rows = Rows::new();
        for role in Role::BOTH {
            // One of them may be the first divergence.
            for (site, judged) in self.places(role).into_iter().take(NAMED + 1) {
                let position = judged.row.position;
                let row = beyond[&site].iter().find(|row| row.position == position);
                let of_site = rows.entry(site).or_default();
                of_site.extend(row.filter(|_| of_site.iter().all(|r| r.position != position)));
            }
        }
        rows
    }

    /// One finding per engine and tap that it is wrong at, beside what `ruling` says of the first divergence.
    pub(super) fn findings(
        &self,
        first: Option<&Divergence>,
        ruling: Option<AtFault>,
    ) -> Vec<Finding> {
        let first = first.filter(|first| first.mode == Mode::Isolated);
        let mut findings = Vec::new();
        for role in Role::BOTH {
            let said = |(site, _): &(Site, &Judged)| {
                first.is_some_and(|first| first.tap == site.tap.name())
                    && ruling.is_some_and(|ruling| Blame::of(ruling).names(role))
            };
            let places = self.places(role).into_iter().filter(|place| !said(place));
            findings.extend(
                places
                    .take(NAMED)
                    .map(|(site, judged)| blame(role, site, judged)),
            );
        }
        findings
    }
}

fn blame(role: Role, site: Site, judged: &Judged) -> Finding {
    let Site {
        prompt, layer, tap, ..
    } = site;
    let position = judged.row.position;
    let of_layer = layer.map_or(String::new(), |l| format!("layer {l}, "));
    let mut text = format!(
        "the oracle finds the {role} wrong beside the first divergence: {of_layer}{tap} of prompt {prompt} at position \
         {position}"
    );
    if let Some(arbitration) = &judged.arbitration {
        let judgement = arbitration.judgement(role);
        let nmse = judgement.nmse;
        let nmse = nmse.map_or(number::NOT_FINITE.to_owned(), number::error);
        text.push_str(&format!(
            ", NMSE {nmse}, limit {}",
            number::error(judgement.limit)
        ));
        if let Some(found) = judgement.findings.first() {
            text.push_str(&format!(": it {found}"));
        }
    }
    Finding {
        outcome: Outcome::Parity,
        source: Source::Oracle,
        place: Some(Place {
            role: Some(role),
            prompt: Some(prompt),
            position: Some(position),
            layer,
            tap: Some(tap.to_string()),
            ..Place::default()
        }),
        text,
    }
}

#[cfg(test)]
mod tests {
    use reports::model::ElementAt;

    use super::*;

    fn site(tap: Tap, layer: usize) -> Site {
        Site {
            mode: Mode::Isolated,
            prompt: 0,
            layer: Some(layer),
            tap,
        }
    }

    fn judged(position: usize, at_fault: AtFault) -> Judged {
        let at = ElementAt {
            position,
            element: 0,
            reference: None,
            candidate: None,
        };
        Judged {
            at_fault,
            arbitration: None,
            row: Exceeded {
                position,
                at,
                nmse: Some(1e-3),
                limit: 1e-12,
                part: None,
            },
        }
    }

    fn rulings(sites: &[(Site, &[(usize, AtFault)])]) -> Rulings {
        let mut rulings = Rulings::none();
        for (site, rows) in sites {
            let rows = rows.iter().rev();
            let rows = rows.map(|&(position, at_fault)| judged(position, at_fault));
            rulings.add([(*site, rows.collect())].into());
        }
        rulings
    }

    fn rows(positions: std::ops::Range<usize>) -> Vec<Beyond> {
        let row = |position| Beyond {
            position,
            nmse: if position == 50 { f64::INFINITY } else { 1e-3 },
        };
        positions.map(row).collect()
    }

    #[test]
    fn of_each_tap_the_first_row_and_the_worst_of_each_site_are_among_those_judged() {
        let long = rows(3..99);
        let beyond: Covered = (0..40)
            .flat_map(|layer| [site(Tap::Q, layer), site(Tap::FfnDown, layer)])
            .filter(|site| site.tap == Tap::Q || site.layer < Some(4))
            .map(|site| (site, long.as_slice()))
            .collect();
        let chosen = of_taps(&beyond, &mut Rng::new(1, ""));
        let of = |tap| chosen.iter().filter(move |(site, _)| site.tap == tap);
        for tap in [Tap::Q, Tap::FfnDown] {
            assert_eq!(of(tap).map(|(_, rows)| rows.len()).sum::<usize>(), ROWS);
            let first = &chosen[&site(tap, 0)];
            assert!(first.iter().any(|row| row.position == 3), "{tap}");
        }
        for (_, rows) in of(Tap::FfnDown) {
            assert!(rows.iter().any(|row| row.position == 50));
        }
        // One layer each, but for the first.
        let all = of(Tap::Q).flat_map(|(_, rows)| rows);
        assert_eq!(all.filter(|row| row.position == 50).count(), ROWS - 1);
    }

    #[test]
    fn hearing_goes_on_past_right_rows_and_to_the_row_that_is_wrong_first() {
        use AtFault::{Candidate, None as Neither, Reference};
        let [honest, mixed, other, wrong] = [0, 1, 2, 3].map(|layer| site(Tap::QRope, layer));
        let guilty = [0, 1].map(|layer| site(Tap::FfnDown, layer));
        let rulings = rulings(&[
            (honest, &[(6, Neither)]),
            (mixed, &[(6, Neither), (20, Neither), (50, Candidate)]),
            (wrong, &[(90, Candidate)]),
            (guilty[0], &[(6, Reference)]),
        ]);
        let long = rows(6..99);
        let beyond: Covered = [honest, mixed, other, wrong, guilty[0], guilty[1]]
            .map(|site| (site, long.as_slice()))
            .into();
        let further: Vec<Site> = rulings.further(&beyond).into_keys().collect();
        assert_eq!(further, [honest, other]);
        // From the last right row on, or from the beginning.
        let before = rulings.before_wrong(&beyond);
        assert_eq!(before.keys().collect::<Vec<_>>(), [&mixed, &wrong]);
        assert_eq!(before[&mixed].len(), 29);
        assert_eq!(before[&wrong].first().map(|row| row.position), Some(6));
        assert!(before[&wrong].len() <= ROWS);
        assert_eq!(
            rulings.first_wrong(&wrong).map(|row| row.position),
            Some(90)
        );
        assert_eq!(
            rulings.first_wrong(&mixed).map(|row| row.position),
            Some(50)
        );
        // The first row beyond the limit stands, where none is known to be right.
        assert_eq!(rulings.first_wrong(&guilty[0]), None);
        assert!(rulings.right(&honest) && !rulings.right(&mixed) && !rulings.right(&other));
    }

    #[test]
    fn blame_is_the_union_and_each_engine_and_tap_is_named_once() {
        use AtFault::{Both, Candidate, None as Neither, Reference, Undetermined};
        let rulings = rulings(&[
            (site(Tap::FfnDown, 0), &[(0, Reference), (4, Both)]),
            (site(Tap::QRope, 0), &[(3, Neither), (5, Candidate)]),
            (site(Tap::QRope, 1), &[(4, Candidate)]),
            (site(Tap::KRope, 1), &[(2, Undetermined)]),
        ]);
        let named = |ruling| -> Vec<_> {
            let first = Divergence {
                prompt: 0,
                position: 0,
                layer: Some(0),
                tap: "ffn_down".into(),
                mode: Mode::Isolated,
                element: 0,
                reference: None,
                candidate: None,
                oracle: None,
                nmse: None,
                limit: 1e-12,
                part: None,
                hint: None,
                arbitration: None,
            };
            let findings = rulings.findings(Some(&first), ruling).into_iter();
            let place = |f: Finding| {
                let role = f.role();
                let place = f.place?;
                Some((role?, place.tap?, place.layer?, place.position?))
            };
            findings.filter_map(place).collect()
        };
        let down = |role, position| (role, "ffn_down".to_owned(), 0, position);
        let rope = (Role::Candidate, "q_rope".to_owned(), 1, 4);
        let of_candidate = [down(Role::Candidate, 4), rope];
        assert_eq!(named(Some(Reference)), of_candidate);
        let all = [&[down(Role::Reference, 0)], &of_candidate[..]].concat();
        assert_eq!(named(None), all);
    }
}
