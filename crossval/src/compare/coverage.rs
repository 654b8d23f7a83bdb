//! Which rows were to be compared, and which were.

use std::collections::BTreeMap;
use std::ops::Range;

use bitnet_model::tap::Tap;
use reports::model::{Coverage, Mode, Role};

use super::site::Site;
use super::tap::Value;

/// Expected and compared rows.
#[derive(Clone, Debug, Default)]
pub struct CoverageLedger {
    sites: BTreeMap<Site, SiteRows>,
}

#[derive(Clone, Debug, Default)]
struct SiteRows {
    expected: usize,
    compared: Positions,
    not_finite: Positions,
    zero: Positions,
    first_not_finite: Option<NotFinite>,
}

/// A row with values that are NaN or infinite.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct NotFinite {
    /// Where.
    pub site: Site,
    /// Its position.
    pub position: usize,
    /// The first element that is not finite in either engine.
    pub element: usize,
    /// Whether the reference has such values.
    pub reference: bool,
    /// Whether the candidate does.
    pub candidate: bool,
}

impl NotFinite {
    /// Whether the engine in a role has such values.
    pub fn of(&self, role: Role) -> bool {
        role.of(self.reference, self.candidate)
    }
}

/// Ranges, sorted, disjoint, not touching.
#[derive(Clone, Debug, Default)]
struct Positions(Vec<Range<usize>>);

impl Positions {
    fn len(&self) -> usize {
        self.0.iter().map(Range::len).sum()
    }

    fn add(&mut self, position: usize) {
        match self.0.last_mut() {
            Some(last) if last.end == position => last.end += 1,
            Some(last) if position < last.end => {}
            _ => self.0.push(position..position + 1),
        }
    }
}

impl CoverageLedger {
    /// Positions `0..rows` of `site` are to be compared.
    pub fn expect(&mut self, site: Site, rows: usize) {
        self.sites.entry(site).or_default().expected = rows;
    }

    /// The row at `position` of `site` was compared.
    pub fn record<T: Value>(
        &mut self,
        site: Site,
        position: usize,
        reference: &[T],
        candidate: &[T],
    ) {
        let rows = self.sites.entry(site).or_default();
        rows.compared.add(position);
        let zero = |row: &[T]| row.iter().all(|v| v.wide() == 0.0);
        if zero(reference) && zero(candidate) {
            rows.zero.add(position);
        }
        let bad = |row: &[T]| row.iter().position(|v| !v.wide().is_finite());
        let bad = [bad(reference), bad(candidate)];
        if let Some(element) = bad.into_iter().flatten().min() {
            rows.not_finite.add(position);
            rows.first_not_finite.get_or_insert(NotFinite {
                site,
                position,
                element,
                reference: bad[0].is_some(),
                candidate: bad[1].is_some(),
            });
        }
    }

    /// The earliest row with values that are not finite: by prompt and position, then by the order of the forward pass;
    /// isolated before cumulative, where such values are inherited.
    pub fn first_not_finite(&self) -> Option<NotFinite> {
        let rows = self.sites.values().filter_map(|rows| rows.first_not_finite);
        rows.min_by_key(|row| {
            let site = row.site;
            (site.mode != Mode::Isolated, site.prompt, row.position, site)
        })
    }

    /// The section of the report.
    pub fn report(&self, not_offered: BTreeMap<String, Vec<String>>) -> Coverage {
        let mut coverage = Coverage {
            not_offered,
            ..Coverage::default()
        };
        for (site, rows) in &self.sites {
            coverage.expected += rows.expected as u64;
            let vacuous = rows.vacuous(site.tap);
            coverage.compared += (rows.compared.len() - vacuous.len()) as u64;
            let name = |range: &Range<usize>| {
                let (start, end) = (range.start, range.end);
                format!("{site}, positions {start}..{end}")
            };
            coverage.missing.extend(rows.gaps().iter().map(name));
            coverage
                .not_finite
                .extend(rows.not_finite.0.iter().map(name));
            coverage.vacuous.extend(vacuous.0.iter().map(name));
        }
        coverage
    }
}

impl SiteRows {
    /// Rows of zeros that compare nothing. A squared ReLU closes where every gate is negative, so that a row behind it may
    /// be zero, and right, among others that are not.
    fn vacuous(&self, tap: Tap) -> Positions {
        let behind_gates = matches!(tap, Tap::FfnAct | Tap::FfnSubNorm | Tap::FfnDown);
        match behind_gates && self.zero.len() < self.compared.len() {
            true => Positions::default(),
            false => self.zero.clone(),
        }
    }

    fn gaps(&self) -> Vec<Range<usize>> {
        let mut gaps = Vec::new();
        let mut next = 0;
        for range in &self.compared.0 {
            gaps.push(next..range.start.min(self.expected));
            next = range.end;
        }
        gaps.push(next..self.expected);
        gaps.retain(|gap| !gap.is_empty());
        gaps
    }
}

#[cfg(test)]
mod tests {
    use bitnet_model::tap::Tap;
    use reports::model::Mode;

    use super::*;

    const SITE: Site = Site {
        mode: Mode::Isolated,
        prompt: 0,
        layer: Some(3),
        tap: Tap::AttnProbs,
    };

    fn report(positions: &[usize]) -> Coverage {
        let mut ledger = CoverageLedger::default();
        ledger.expect(SITE, 8);
        for &position in positions {
            ledger.record(SITE, position, &[0.0_f32, 1.0], &[0.0, 1.0]);
        }
        ledger.report(BTreeMap::new())
    }

    #[test]
    fn complete() {
        let coverage = report(&[0, 1, 2, 3, 4, 5, 6, 7]);
        assert_eq!((coverage.expected, coverage.compared), (8, 8));
        assert!(coverage.missing.is_empty());
    }

    #[test]
    fn gaps_have_names() {
        let coverage = report(&[1, 2, 2, 5]);
        assert_eq!((coverage.expected, coverage.compared), (8, 3));
        assert_eq!(
            coverage.missing,
            [
                "isolated, prompt 0, layer 3, attn_probs, positions 0..1",
                "isolated, prompt 0, layer 3, attn_probs, positions 3..5",
                "isolated, prompt 0, layer 3, attn_probs, positions 6..8"
            ]
        );
    }

    #[test]
    fn rows_that_are_not_finite_have_names() {
        let mut ledger = CoverageLedger::default();
        ledger.expect(SITE, 4);
        for (position, reference, candidate) in [
            (0, 1.0, 1.0),
            (1, 1.0, f32::NAN),
            (2, f32::INFINITY, f32::NAN),
            (3, 1.0, 1.0),
        ] {
            ledger.record(SITE, position, &[1.0, reference], &[1.0, candidate]);
        }
        let first = ledger.first_not_finite().unwrap();
        assert_eq!((first.position, first.element), (1, 1));
        assert_eq!(
            [Role::Reference, Role::Candidate].map(|r| first.of(r)),
            [false, true]
        );
        let coverage = ledger.report(BTreeMap::new());
        assert_eq!((coverage.compared, coverage.missing.len()), (4, 0));
        assert_eq!(
            coverage.not_finite,
            ["isolated, prompt 0, layer 3, attn_probs, positions 1..3"]
        );
    }

    #[test]
    fn rows_of_zeros_compare_nothing_and_have_names() {
        let site = |tap| Site { tap, ..SITE };
        let report = |tap, rows: &[f32]| {
            let mut ledger = CoverageLedger::default();
            ledger.expect(site(tap), rows.len());
            for (position, &x) in rows.iter().enumerate() {
                ledger.record(site(tap), position, &[0.0, x], &[-0.0, x]);
            }
            ledger.report(BTreeMap::new())
        };
        let coverage = report(Tap::FfnGate, &[1.0, 0.0, 0.0, 2.0]);
        assert_eq!((coverage.expected, coverage.compared), (4, 2));
        assert_eq!(
            coverage.vacuous,
            ["isolated, prompt 0, layer 3, ffn_gate, positions 1..3"]
        );
        assert!(coverage.missing.is_empty());
        // A closed gate, and a dead feed-forward network.
        assert_eq!(report(Tap::FfnAct, &[1.0, 0.0]).compared, 2);
        assert_eq!(report(Tap::FfnDown, &[0.0, 0.0]).compared, 0);
        // Where one engine alone has zeros, they differ.
        let mut ledger = CoverageLedger::default();
        ledger.expect(SITE, 1);
        ledger.record(SITE, 0, &[0.0_f32], &[1.0]);
        assert!(ledger.report(BTreeMap::new()).vacuous.is_empty());
    }

    #[test]
    fn the_first_row_that_is_not_finite_is_where_it_is_made() {
        let mut ledger = CoverageLedger::default();
        let nan = |ledger: &mut CoverageLedger, site: Site, position| {
            ledger.record(site, position, &[1.0_f32], &[f32::NAN]);
        };
        let cumulative = Site {
            mode: Mode::Cumulative,
            layer: Some(0),
            ..SITE
        };
        nan(&mut ledger, cumulative, 0);
        nan(
            &mut ledger,
            Site {
                layer: Some(1),
                ..SITE
            },
            4,
        );
        nan(
            &mut ledger,
            Site {
                layer: Some(4),
                ..SITE
            },
            3,
        );
        nan(
            &mut ledger,
            Site {
                tap: Tap::LayerOut,
                ..SITE
            },
            3,
        );
        let first = ledger.first_not_finite().unwrap();
        assert_eq!(
            (first.site.layer, first.site.tap, first.position),
            (Some(3), Tap::LayerOut, 3)
        );
    }

    #[test]
    fn nothing_compared_is_all_missing() {
        let coverage = report(&[]);
        assert_eq!((coverage.expected, coverage.compared), (8, 0));
        assert_eq!(coverage.missing.len(), 1);
    }
}
