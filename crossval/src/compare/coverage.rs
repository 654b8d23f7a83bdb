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
    /// Sorted, disjoint, not touching.
    compared: Vec<Range<usize>>,
}

impl CoverageLedger {
    /// Positions `0..rows` of `site` are to be compared.
    pub fn expect(&mut self, site: Site, rows: usize) {
        self.sites.entry(site).or_default().expected = rows;
    }

    /// The row at `position` of `site` was compared.
    pub fn record(&mut self, site: Site, position: usize) {
        let ranges = &mut self.sites.entry(site).or_default().compared;
        match ranges.last_mut() {
            Some(last) if last.end == position => last.end += 1,
            Some(last) if position < last.end => {}
            _ => ranges.push(position..position + 1),
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
            coverage.compared += rows.compared.iter().map(|r| r.len() as u64).sum::<u64>();
            for gap in rows.gaps() {
                let (start, end) = (gap.start, gap.end);
                coverage
                    .missing
                    .push(format!("{site}, positions {start}..{end}"));
            }
        }
        coverage
    }
}

impl SiteRows {
    fn gaps(&self) -> Vec<Range<usize>> {
        let mut gaps = Vec::new();
        let mut next = 0;
        for range in &self.compared {
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
    use bitnet_core::tap::Tap;
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
            ledger.record(SITE, position);
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
    fn nothing_compared_is_all_missing() {
        let coverage = report(&[]);
        assert_eq!((coverage.expected, coverage.compared), (8, 0));
        assert_eq!(coverage.missing.len(), 1);
    }
}
