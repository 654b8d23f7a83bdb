//! The ledger of known deviations: divergences that are expected, each with a reason, a link and a last day.
//!
//! ```toml
//! [[deviation]]
//! tap = "ffn_act"                # a tap, or "generation"
//! layer = 0                      # optional: every layer without it
//! mode = "isolated"              # optional: both modes without it
//! architecture = "bitnet-b1.58"  # optional, as the next two: where the entry applies
//! reference = "bitnet.cpp"
//! candidate = "rust"
//! at_fault = "reference"         # or "candidate", or "both"
//! ceiling = 0.9                  # of a tap: the largest NMSE that is excused; inf for any
//! reason = "computes SiLU, the model says squared ReLU"
//! link = "https://github.com/microsoft/BitNet/issues/588"
//! expires = "2027-01-31"
//! ```
//!
//! An entry that applies and whose divergence occurs excuses it, as far as the oracle agrees with it: see
//! `parity/excuses.rs`. One whose divergence does not occur fails the run: an out-of-date ledger would hide the next
//! bug. So does one past its day, which excuses nothing, and one that covers more than it excuses.

use std::path::Path;
use std::str::FromStr;

use bitnet_model::nearest::with_what_was_meant;
use bitnet_model::tap::Tap;
use jiff::civil::Date;
use reports::model::{AtFault, Finding, KnownDeviation, KnownState, Mode, Place, Role, Source};
use reports::outcome::Outcome;
use serde::Deserialize;

use crate::compare::site::Site;
use crate::engine::EngineSpec;
use crate::error::Error;
use crate::text_file;

/// The name of [`Subject::Generation`].
pub(crate) const GENERATION: &str = "generation";

/// A checked file.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Ledger {
    entries: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    deviation: Vec<Entry>,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    tap: Subject,
    layer: Option<usize>,
    mode: Option<Mode>,
    architecture: Option<String>,
    reference: Option<String>,
    candidate: Option<String>,
    at_fault: Option<Culprit>,
    ceiling: Option<f64>,
    reason: Text,
    link: Text,
    expires: Day,
}

/// What deviates.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
enum Subject {
    Tap(Tap),
    Generation,
}

impl TryFrom<String> for Subject {
    type Error = String;

    fn try_from(name: String) -> Result<Subject, String> {
        if name == GENERATION {
            return Ok(Subject::Generation);
        }
        Tap::from_str(&name)
            .map(Subject::Tap)
            .map_err(|e| format!("{e}: expected a tap or {GENERATION:?}"))
    }
}

impl Subject {
    fn name(self) -> &'static str {
        match self {
            Subject::Tap(tap) => tap.name(),
            Subject::Generation => GENERATION,
        }
    }
}

/// Whom an entry excuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Culprit {
    Reference,
    Candidate,
    Both,
}

impl From<Culprit> for AtFault {
    fn from(culprit: Culprit) -> AtFault {
        match culprit {
            Culprit::Reference => AtFault::Reference,
            Culprit::Candidate => AtFault::Candidate,
            Culprit::Both => AtFault::Both,
        }
    }
}

/// Text that says something.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(try_from = "String")]
struct Text(String);

impl TryFrom<String> for Text {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Text, &'static str> {
        if text.trim().is_empty() {
            return Err("must not be empty");
        }
        Ok(Text(text))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(try_from = "String")]
struct Day(Date);

impl TryFrom<String> for Day {
    type Error = String;

    fn try_from(text: String) -> Result<Day, String> {
        let date = text.parse().map(Day);
        date.map_err(|_| format!("{text:?} is not a day such as \"2027-01-31\""))
    }
}

/// What a run shows of the divergences that a ledger may list.
#[derive(Clone, Debug)]
pub struct Occurred<'a> {
    /// `general.architecture` of the model.
    pub architecture: &'a str,
    /// Name of the reference.
    pub reference: &'a str,
    /// Name of the candidate.
    pub candidate: &'a str,
    /// Modes that were compared.
    pub modes: &'a [Mode],
    /// Where a limit was exceeded.
    pub sites: Vec<Site>,
    /// Whether generated tokens differ by more than near ties; `None` if none were compared.
    pub generation: Option<bool>,
    /// Whether everything was compared: only then can anything be said not to occur.
    pub complete: bool,
    /// The day of the run.
    pub today: Date,
}

impl Ledger {
    /// Reads and checks a TOML file.
    ///
    /// # Errors
    /// [`Error::BadInput`] naming the file, and the line or the entry that is wrong.
    pub fn open(path: &Path) -> Result<Ledger, Error> {
        let bad =
            |what: String| Error::BadInput(format!("known deviations {}: {what}", path.display()));
        let text = text_file::read(path).map_err(bad)?;
        Ledger::parse(&text).map_err(bad)
    }

    fn parse(text: &str) -> Result<Ledger, String> {
        let wrong = |e: toml::de::Error| with_what_was_meant(e.to_string().trim_end());
        let file: File = toml::from_str(text).map_err(wrong)?;
        let entries = file.deviation;
        for (i, entry) in entries.iter().enumerate() {
            let number = |i: usize| format!("[[deviation]] number {}, {}", i + 1, entry.tap.name());
            entry
                .check()
                .map_err(|what| format!("{}: {what}", number(i)))?;
            if let Some(first) = entries[..i].iter().position(|e| e.scope() == entry.scope()) {
                return Err(format!("{} repeats number {}", number(i), first + 1));
            }
        }
        Ok(Ledger { entries })
    }

    /// The entries that apply to a run, and what came of them.
    pub fn apply(&self, run: &Occurred) -> Vec<KnownDeviation> {
        let applying = self.entries.iter().filter(|entry| entry.applies(run));
        applying
            .filter_map(|entry| {
                let state = if entry.expires.0 < run.today {
                    KnownState::Expired
                } else if entry.occurs(run) {
                    KnownState::Matched
                } else if run.complete {
                    KnownState::Unmatched
                } else {
                    return None;
                };
                Some(KnownDeviation {
                    tap: entry.tap.name().to_owned(),
                    layer: entry.layer,
                    mode: entry.mode,
                    at_fault: entry.at_fault.map(AtFault::from),
                    ceiling: entry.ceiling.filter(|ceiling| ceiling.is_finite()),
                    reason: entry.reason.0.clone(),
                    link: entry.link.0.clone(),
                    expires: entry.expires.0.to_string(),
                    state,
                    rows: 0,
                    judged: 0,
                    seed: None,
                    refused: None,
                    refused_to: None,
                })
            })
            .collect()
    }
}

impl Entry {
    /// Refuses what could never occur, and what would excuse anybody or anything.
    fn check(&self) -> Result<(), String> {
        let wrong = match self.tap {
            Subject::Generation if self.mode.is_some() => "generation has no mode",
            Subject::Generation if self.layer.is_some() => "generation has no layer",
            Subject::Generation if self.ceiling.is_some() => "generation has no ceiling",
            Subject::Tap(tap) if self.layer.is_some() && !tap.per_layer() => {
                "this tap has no layer"
            }
            Subject::Tap(tap) if self.mode == Some(Mode::Cumulative) && tap != Tap::Logits => {
                "in cumulative mode only logits have a limit"
            }
            _ if self.at_fault.is_none() => {
                "`at_fault` is missing: \"reference\", \"candidate\" or \"both\", whom it excuses"
            }
            Subject::Tap(_) if self.ceiling.is_none() => {
                "`ceiling` is missing: the largest NMSE that it excuses"
            }
            _ if self.ceiling.is_some_and(|c| c.is_nan() || c <= 0.0) => {
                "`ceiling` must be above 0"
            }
            _ => "",
        };
        if !wrong.is_empty() {
            return Err(wrong.to_owned());
        }
        // A name that nobody has would apply to nothing, and the entry would rest unseen.
        for name in [&self.reference, &self.candidate].into_iter().flatten() {
            EngineSpec::from_str(name).map_err(|e| e.to_string())?;
        }
        Ok(())
    }

    /// What no two entries may have in common.
    fn scope(&self) -> impl PartialEq {
        (
            self.tap,
            self.layer,
            self.mode,
            &self.architecture,
            &self.reference,
            &self.candidate,
        )
    }

    fn applies(&self, run: &Occurred) -> bool {
        let is = |wanted: &Option<String>, name: &str| wanted.as_ref().is_none_or(|w| w == name);
        let compared = match (self.tap, self.mode) {
            (Subject::Generation, _) => run.generation.is_some(),
            (Subject::Tap(_), mode) => mode.is_none_or(|mode| run.modes.contains(&mode)),
        };
        compared
            && is(&self.architecture, run.architecture)
            && is(&self.reference, run.reference)
            && is(&self.candidate, run.candidate)
    }

    fn occurs(&self, run: &Occurred) -> bool {
        match self.tap {
            Subject::Generation => run.generation == Some(true),
            Subject::Tap(tap) => run
                .sites
                .iter()
                .any(|site| covers(tap.name(), self.layer, self.mode, site)),
        }
    }
}

fn covers(tap: &str, layer: Option<usize>, mode: Option<Mode>, site: &Site) -> bool {
    tap == site.tap.name()
        && layer.is_none_or(|layer| site.layer == Some(layer))
        && mode.is_none_or(|mode| site.mode == mode)
}

/// Whether an entry speaks of a limit exceeded there, and is to be heard.
pub fn covers_site(known: &KnownDeviation, site: &Site) -> bool {
    known.state == KnownState::Matched && covers(&known.tap, known.layer, known.mode, site)
}

/// Whether an entry speaks of generated tokens that differ, and is to be heard.
pub fn covers_generation(known: &KnownDeviation) -> bool {
    known.state == KnownState::Matched && known.tap == GENERATION
}

/// Whether an entry names an engine as the one at fault.
pub fn names(known: &KnownDeviation, role: Role) -> bool {
    let of_role = role.of(AtFault::Reference, AtFault::Candidate);
    matches!(known.at_fault, Some(at_fault) if at_fault == of_role || at_fault == AtFault::Both)
}

/// That an entry fails the run, if it does.
pub fn finding(known: &KnownDeviation) -> Option<Finding> {
    Some(Finding {
        outcome: Outcome::Parity,
        source: Source::Known,
        place: Some(Place {
            role: known.refused_to,
            layer: known.layer,
            tap: (known.tap != GENERATION).then(|| known.tap.clone()),
            ..Place::default()
        }),
        text: complaint(known)?,
    })
}

/// Why an entry fails the run, if it does.
fn complaint(known: &KnownDeviation) -> Option<String> {
    let layer = known
        .layer
        .map_or(String::new(), |l| format!("layer {l}, "));
    let what = format!("known deviation {layer}{} ({})", known.tap, known.reason);
    match known.state {
        KnownState::Matched => None,
        KnownState::Refused => {
            let why = known.refused.as_deref().unwrap_or("nothing bears it out");
            Some(format!("{what} excuses less than it covers: {why}"))
        }
        KnownState::Unmatched => Some(format!("{what} did not occur: remove it from the ledger")),
        KnownState::Expired => Some(format!(
            "{what} expired after {} and excuses nothing: see {}",
            known.expires, known.link
        )),
    }
}

#[cfg(test)]
mod tests {
    use jiff::civil::date;

    use super::*;

    const WHY: &str = "at_fault = 'candidate'\nceiling = 0.5\nreason = 'r'\nlink = 'https://example.org/1'\nexpires = '2027-01-31'\n";

    fn ledger(entries: &[&str]) -> Result<Ledger, String> {
        let text = entries.iter().map(|e| {
            let why = match e.contains("generation") {
                true => WHY.replace("ceiling = 0.5\n", ""),
                false => WHY.to_owned(),
            };
            format!("[[deviation]]\n{e}\n{why}")
        });
        Ledger::parse(&text.collect::<String>())
    }

    fn site(mode: Mode, layer: usize, tap: Tap) -> Site {
        Site {
            mode,
            prompt: 0,
            layer: Some(layer),
            tap,
        }
    }

    /// `ffn_act` of layer 4 is off in isolated mode, and so is what was generated.
    fn run() -> Occurred<'static> {
        Occurred {
            architecture: "bitnet",
            reference: "bitnet.cpp",
            candidate: "rust",
            modes: &[Mode::Isolated, Mode::Cumulative],
            sites: vec![site(Mode::Isolated, 4, Tap::FfnAct)],
            generation: Some(true),
            complete: true,
            today: date(2027, 1, 31),
        }
    }

    fn states(entry: &str, run: &Occurred) -> Vec<KnownState> {
        let known = ledger(&[entry]).unwrap().apply(run);
        known.iter().map(|k| k.state).collect()
    }

    #[test]
    fn what_occurs_is_matched_and_what_does_not_is_not() {
        use KnownState::{Matched, Unmatched};
        for (entry, state) in [
            ("tap = 'ffn_act'", Matched),
            ("tap = 'ffn_act'\nlayer = 4\nmode = 'isolated'", Matched),
            ("tap = 'generation'", Matched),
            ("tap = 'ffn_act'\nlayer = 3", Unmatched),
            ("tap = 'ffn_norm'", Unmatched),
            ("tap = 'logits'\nmode = 'cumulative'", Unmatched),
        ] {
            assert_eq!(states(entry, &run()), [state], "{entry}");
        }
    }

    #[test]
    fn entries_for_other_models_engines_and_modes_are_left_out() {
        for entry in [
            "tap = 'ffn_act'\narchitecture = 'llama'",
            "tap = 'ffn_act'\nreference = 'rust'",
            "tap = 'ffn_act'\ncandidate = 'oracle'",
        ] {
            assert_eq!(states(entry, &run()), [], "{entry}");
        }
        let all = "tap = 'ffn_act'\narchitecture = 'bitnet'\nreference = 'bitnet.cpp'\ncandidate = 'rust'";
        assert_eq!(states(all, &run()), [KnownState::Matched]);
        let isolated_only = Occurred {
            modes: &[Mode::Isolated],
            generation: None,
            ..run()
        };
        for entry in ["tap = 'logits'\nmode = 'cumulative'", "tap = 'generation'"] {
            assert_eq!(states(entry, &isolated_only), [], "{entry}");
        }
    }

    #[test]
    fn an_incomplete_run_does_not_show_that_something_is_gone() {
        let incomplete = Occurred {
            complete: false,
            ..run()
        };
        assert_eq!(states("tap = 'ffn_norm'", &incomplete), []);
        assert_eq!(
            states("tap = 'ffn_act'", &incomplete),
            [KnownState::Matched]
        );
    }

    #[test]
    fn past_its_day_an_entry_excuses_nothing() {
        let expired = Occurred {
            today: date(2027, 2, 1),
            ..run()
        };
        let known = ledger(&["tap = 'ffn_act'"]).unwrap().apply(&expired);
        assert_eq!(known[0].state, KnownState::Expired);
        assert!(!covers_site(&known[0], &expired.sites[0]));
        let complaint = complaint(&known[0]).unwrap();
        assert!(
            complaint.contains("expired after 2027-01-31"),
            "{complaint}"
        );
    }

    #[test]
    fn only_what_the_entry_names_is_excused() {
        let known = ledger(&["tap = 'ffn_act'\nlayer = 4\nmode = 'isolated'"])
            .unwrap()
            .apply(&run());
        let [known] = &known[..] else {
            panic!("{known:?}");
        };
        assert!(covers_site(known, &site(Mode::Isolated, 4, Tap::FfnAct)));
        for other in [
            site(Mode::Isolated, 5, Tap::FfnAct),
            site(Mode::Isolated, 4, Tap::FfnUp),
            site(Mode::Cumulative, 4, Tap::FfnAct),
        ] {
            assert!(!covers_site(known, &other), "{other}");
        }
        assert!(!covers_generation(known) && complaint(known).is_none());
        assert!(names(known, Role::Candidate) && !names(known, Role::Reference));
    }

    #[test]
    fn mistakes_are_named_by_line_or_entry() {
        for (entries, says) in [
            (&["tap = 'ffn_akt'"][..], &["line 2", "ffn_akt"][..]),
            (&["tap = 'q'\nlayers = 3"], &["line 3", "layers"]),
            (&["layer = 3"], &["line 1", "missing field `tap`"]),
            (&["tap = 'q'\nmode = 'both'"], &["line 3", "both"]),
            (
                &["tap = 'q'", "tap = 'k'", "tap = 'q'"],
                &["number 3, q repeats number 1"],
            ),
            (
                &["tap = 'k'", "tap = 'generation'\nlayer = 1"],
                &["number 2, generation", "no layer"],
            ),
            (&["tap = 'logits'\nlayer = 1"], &["no layer"]),
            (&["tap = 'q'\nmode = 'cumulative'"], &["only logits"]),
            (
                &["tap = 'q'\nreference = 'bitnet_cpp'"],
                &["number 1, q", "unknown engine \"bitnet_cpp\""],
            ),
            (
                &["tap = 'q'\ncandidate = 'Rust'"],
                &["unknown engine \"Rust\""],
            ),
        ] {
            let error = ledger(entries).unwrap_err();
            for part in says {
                assert!(error.contains(part), "{part:?} in {error}");
            }
        }
        let whole = format!("[[deviation]]\ntap = 'q'\n{WHY}");
        for (from, to, says) in [
            ("'candidate'", "'engine'", "engine"),
            ("0.5", "'high'", "high"),
            ("reason = 'r'", "", "missing field `reason`"),
            ("reason = 'r'", "reason = ' '", "must not be empty"),
            ("link = 'https://example.org/1'", "", "missing field `link`"),
            ("2027-01-31", "31 January", "31 January"),
            ("2027-01-31", "2027-02-30", "2027-02-30"),
            ("[[deviation]]", "[[deviations]]", "deviations"),
        ] {
            let error = Ledger::parse(&whole.replace(from, to)).unwrap_err();
            assert!(error.contains(says) && error.contains("line"), "{error}");
        }
        for (from, to, says) in [
            (
                "at_fault = 'candidate'\n",
                "",
                "number 1, q: `at_fault` is missing",
            ),
            ("ceiling = 0.5\n", "", "number 1, q: `ceiling` is missing"),
            ("0.5", "0.0", "above 0"),
            ("0.5", "-1.0", "above 0"),
            ("0.5", "nan", "above 0"),
            ("'q'", "'generation'", "generation has no ceiling"),
        ] {
            let error = Ledger::parse(&whole.replace(from, to)).unwrap_err();
            assert!(error.contains(says), "{error}");
        }
        let any = Ledger::parse(&whole.replace("0.5", "inf")).unwrap();
        let all = Occurred {
            sites: vec![site(Mode::Isolated, 4, Tap::Q)],
            ..run()
        };
        assert_eq!(any.apply(&all)[0].ceiling, None);
        let missing = Ledger::open(Path::new("/nonexistent.toml")).unwrap_err();
        assert_eq!(missing.outcome().exit_code(), 65);
        assert!(missing.to_string().contains("/nonexistent.toml"));
    }
}
