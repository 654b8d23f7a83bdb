//! How much of its limit an error uses up.

use super::parity::{Cell, Level, Parity, nmse};
use super::{limit, mode_name};
use crate::model::Mode;
use crate::number;

/// The NMSE of the worst row against its limit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Share {
    /// The NMSE over the limit. Equal bits are 0, whatever the limit.
    Of(f64),
    /// Not equal, where the limit is equality bit for bit.
    BitsDiffer,
    /// Not finite, hence beyond any limit.
    NotFinite,
    /// There is no limit to compare with.
    NoLimit,
}

/// One layer and tap of the map.
pub(crate) struct Shade {
    pub share: Share,
    /// The mode's gate holds the tap against the run.
    pub failed: bool,
    pub gated: bool,
    /// `q_rope, layer 3, position 5: NMSE 4.0e-15, 0.40% of its limit 1.0e-12: pass`.
    pub text: String,
}

impl Share {
    pub(super) fn new(level: Level, limit: Option<f64>) -> Option<Share> {
        Some(match (level, limit) {
            (Level::NotMeasured, _) => return None,
            (Level::NotFinite, _) => Share::NotFinite,
            (Level::Value(0.0), _) => Share::Of(0.0),
            (Level::Value(x), Some(limit)) if limit > 0.0 => Share::Of(x / limit),
            (Level::Value(_), Some(_)) => Share::BitsDiffer,
            (Level::Value(_), None) => Share::NoLimit,
        })
    }
}

impl<'a> Parity<'a> {
    /// The worst prompt of a layer and tap against the limit of its mode or, where the mode does not gate the tap, against
    /// what counts as noise there; where nothing does, the limit of isolated mode. `None` if it was not measured.
    pub(crate) fn shade(&self, mode: Mode, tap: &'a str, layer: Option<usize>) -> Option<Shade> {
        let cell = self.cell(mode, tap, layer)?;
        let isolated = self.cell(Mode::Isolated, tap, layer);
        let isolated = isolated.and_then(|c| c.stats.limit);
        let (bound, whose) = match (cell.stats.limit, self.noise(mode, tap)) {
            (Some(own), _) => (Some(own), "its limit"),
            (None, Some((noise, whose))) => (Some(noise), whose),
            (None, None) => (isolated, "its isolated limit"),
        };
        let level = nmse(cell.stats);
        let share = Share::new(level, bound)?;
        let against = match (share, bound) {
            (Share::Of(x), Some(bound)) if bound > 0.0 => {
                let part = if x <= 1.0 {
                    format!("{} of", number::share(x))
                } else {
                    format!("{} times", number::significant(x, 2))
                };
                format!(", {part} {whose} {}", number::error(bound))
            }
            (_, bound) => format!(", {whose}: {}", limit(bound)),
        };
        Some(Shade {
            share,
            failed: cell.failed(),
            gated: cell.stats.pass.is_some(),
            text: format!(
                "{tap}, {}: NMSE {}{against}: {}",
                self.place(cell),
                level.text(),
                gate(cell)
            ),
        })
    }

    /// What counts as noise of a tap that a mode does not gate: how far the reference is from itself or what the mode lets
    /// the logits differ by, to which all of them lead, whichever is more; and which of the two it is.
    fn noise(&self, mode: Mode, tap: &str) -> Option<(f64, &'static str)> {
        let floor = self.report.noise_floor.as_ref();
        let noise = floor.and_then(|floor| floor.nmse.get(tap).copied());
        let logits = self.cell(mode, "logits", None).and_then(|c| c.stats.limit);
        let known = [
            (noise, "the reference's noise"),
            (logits, "the limit on the logits"),
        ];
        let known = known.into_iter().filter_map(|(x, whose)| Some((x?, whose)));
        let positive = known.filter(|(x, _)| *x > 0.0);
        positive.reduce(|a, b| if b.0 > a.0 { b } else { a })
    }

    /// What the colours of a mode's map stand for, where it is not the mode's own limit.
    pub(crate) fn shade_note(&self, mode: Mode) -> Option<String> {
        let gated = |tap: &&&str| {
            let mut column = self.column(mode, tap);
            column.any(|cell| cell.stats.pass.is_some())
        };
        let shown = self
            .taps
            .iter()
            .filter(|tap| self.column(mode, tap).next().is_some());
        let (gated, not): (Vec<&str>, Vec<&str>) = shown.partition(gated);
        (!not.is_empty()).then(|| {
            let gated = if gated.is_empty() { "nothing".to_owned() } else { gated.join(", ") };
            let noise = match not.iter().all(|tap| self.noise(mode, tap).is_some()) {
                true => "how far the reference is from itself or what the logits may differ by, whichever is more",
                false => "their isolated limits, where nothing else is known",
            };
            format!(
                "Gated in {} mode: {gated}. The other {} cannot fail here; what counts as noise is {noise}.",
                mode_name(mode),
                number::plural(not.len() as u64, "tap")
            )
        })
    }
}

fn gate(cell: &Cell<'_>) -> &'static str {
    match cell.stats.pass {
        Some(true) => "pass",
        Some(false) => "fail",
        None => "not gated",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares() {
        let of = |nmse, limit| Share::new(Level::Value(nmse), limit);
        assert_eq!(of(2e-13, Some(1e-12)), Some(Share::Of(2e-13 / 1e-12)));
        assert_eq!(of(0.0, Some(0.0)), Some(Share::Of(0.0)));
        assert_eq!(of(0.0, None), Some(Share::Of(0.0)));
        assert_eq!(of(1e-30, Some(0.0)), Some(Share::BitsDiffer));
        assert_eq!(of(1e-30, None), Some(Share::NoLimit));
        assert_eq!(Share::new(Level::NotFinite, None), Some(Share::NotFinite));
        assert_eq!(Share::new(Level::NotMeasured, Some(1.0)), None);
    }
}
