//! Which rows were to be compared, and which were.

use std::collections::BTreeMap;
use std::ops::Range;

use reports::model::Coverage;

use super::site::Site;

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
}

/// Ranges, sorted, disjoint, not touching.
#[derive(Clone, Debug, Default)]
struct Positions(Vec<Range<usize>>);

impl Positions {
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

    /// The row at `position` of `site` was compared; `finite` says whether all of its values are, in both engines.
    pub fn record(&mut self, site: Site, position: usize, finite: bool) {
        let rows = self.sites.entry(site).or_default();
        rows.compared.add(position);
        if !finite {
            rows.not_finite.add(position);
        }
    }

    /// The section of the report.
    pub fn report(&self, not_offered: BTreeMap<String, Vec<String>>) -> Coverage {
        let mut coverage = Coverage {
            not_offered,
            ..Coverage::default()
        };
        for (site, rows) in &self.sites {
            coverage.expected += rows.expected as u64;
            let compared = rows.compared.0.iter().map(|r| r.len() as u64);
            coverage.compared += compared.sum::<u64>();
            let name = |range: &Range<usize>| {
                let (start, end) = (range.start, range.end);
                format!("{site}, positions {start}..{end}")
            };
            coverage.missing.extend(rows.gaps().iter().map(name));
            coverage
                .not_finite
                .extend(rows.not_finite.0.iter().map(name));
        }
        coverage
    }
}

impl SiteRows {
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
            ledger.record(SITE, position, true);
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
        for (position, finite) in [(0, true), (1, false), (2, false), (3, true)] {
            ledger.record(SITE, position, finite);
        }
        let coverage = ledger.report(BTreeMap::new());
        assert_eq!((coverage.compared, coverage.missing.len()), (4, 0));
        assert_eq!(
            coverage.not_finite,
            ["isolated, prompt 0, layer 3, attn_probs, positions 1..3"]
        );
    }

    #[test]
    fn nothing_compared_is_all_missing() {
        let coverage = report(&[]);
        assert_eq!((coverage.expected, coverage.compared), (8, 0));
        assert_eq!(coverage.missing.len(), 1);
    }
}
