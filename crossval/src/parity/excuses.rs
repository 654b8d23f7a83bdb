//! Whom the ledger excuses. What it covers goes before the oracle, row by row: an entry excuses the engine that it names
//! and nobody else.
//!
//! A limit that was exceeded is excused where
//! - every row over it is within the entry's ceiling, and its values are numbers;
//! - of every row judged, the oracle says that the engine named is at fault and no other. In cumulative mode a row may
//!   also be right by itself, in both engines: it inherits what came before;
//! - every engine named is found at fault somewhere in what the entry covers: one that names both excuses two faults,
//!   not one.
//!
//! Up to [`ROWS`] rows of a tap of a layer are judged ([`ROWS_CUMULATIVE`] in cumulative mode, where a row takes every
//! stage of both engines). Of more, the first, the worst, and others drawn at random with a seed that no engine knows: one
//! that errs in a share p of the rest escapes with a chance of (1 - p)^30. Generated tokens that differ are excused where
//! the oracle blames the engine named at the token that differs first, or, where both are right there, in the rows that
//! the ledger covers beside it.

use std::collections::{BTreeMap, BTreeSet};

use bitnet_model::random::Rng;
use bitnet_model::tap::Tap;
use half::f16;
use reports::model::{
    Arbitration, AtFault, Divergence, ElementAt, Generation, KnownDeviation, KnownState, Mode, Role,
};
use reports::number;

use super::arbitration::{Both, Hearing, NoRuling, at_fault, nmse};
use super::court::{Court, Oracle, Wanted, WantedRows, no_answer};
use super::generation::differ;
use super::greedy;
use super::measurements::Measurements;
use super::plan::Plan;
use crate::compare::finite;
use crate::compare::site::Site;
use crate::compare::tap::{Beyond, Exceeded};
use crate::engine::Failed;
use crate::known::{covers_generation, covers_site, names};
use crate::session::batches::Sequence;
use crate::session::loaded::Loaded;
use crate::session::lockstep::{self, Evaluation, ReferenceHashes, aligned};
use crate::session::settings::DECODE_STEPS;
use crate::session::setup::Setup;

/// Rows of a tap of a layer that are judged in isolated mode.
pub(super) const ROWS: usize = 32;

/// The same in cumulative mode.
const ROWS_CUMULATIVE: usize = 8;

/// What is not held against a run.
#[derive(Debug, Default)]
pub(super) struct Excuses {
    /// Whom it excuses for a limit exceeded there.
    sites: BTreeMap<Site, Blame>,
    /// Where the ledger covers what it does not excuse: the row that speaks against it.
    against: BTreeMap<Site, Exceeded>,
    /// Whom it excuses for tokens that differ.
    generation: Option<AtFault>,
}

impl Excuses {
    pub(super) const fn none() -> Excuses {
        Excuses {
            sites: BTreeMap::new(),
            against: BTreeMap::new(),
            generation: None,
        }
    }

    /// Whether a limit exceeded there is not held against the run.
    pub(super) fn site(&self, site: &Site) -> bool {
        self.sites.contains_key(site)
    }

    /// Whether a stage that is wrong there is not held against an engine.
    pub(super) fn engine(&self, site: &Site, role: Role) -> bool {
        self.sites.get(site).is_some_and(|named| named.names(role))
    }

    /// The row at which a site that is not excused leaves what the ledger says of it.
    pub(super) fn against(&self, site: &Site) -> Option<&Exceeded> {
        self.against.get(site)
    }

    /// Whether tokens that differ are not held against an engine, or against nobody in particular.
    pub(super) fn generation(&self, of: Option<Role>) -> bool {
        let excused = self.generation.map(Blame::of);
        excused.is_some_and(|excused| of.is_none_or(|role| excused.names(role)))
    }
}

/// Who is at fault, as a set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Blame {
    reference: bool,
    candidate: bool,
}

impl Blame {
    /// Nobody where it is not known.
    pub(super) fn of(at_fault: AtFault) -> Blame {
        Blame {
            reference: matches!(at_fault, AtFault::Reference | AtFault::Both),
            candidate: matches!(at_fault, AtFault::Candidate | AtFault::Both),
        }
    }

    fn named_by(known: &KnownDeviation) -> Blame {
        Blame::by(|role| names(known, role))
    }

    pub(super) fn by(is_at_fault: impl Fn(Role) -> bool) -> Blame {
        let [reference, candidate] = Role::BOTH.map(is_at_fault);
        Blame {
            reference,
            candidate,
        }
    }

    pub(super) fn at_fault(self) -> AtFault {
        match (self.reference, self.candidate) {
            (true, true) => AtFault::Both,
            (true, false) => AtFault::Reference,
            (false, true) => AtFault::Candidate,
            (false, false) => AtFault::None,
        }
    }

    pub(super) fn names(self, role: Role) -> bool {
        role.of(self.reference, self.candidate)
    }

    fn and(self, other: Blame) -> Blame {
        Blame {
            reference: self.reference || other.reference,
            candidate: self.candidate || other.candidate,
        }
    }

    /// The first of these engines that `other` does not name.
    fn beyond(self, other: Blame) -> Option<Role> {
        let mut roles = Role::BOTH.into_iter();
        roles.find(|&role| self.names(role) && !other.names(role))
    }
}

/// A row that was judged.
#[derive(Clone, Debug)]
pub(super) struct Judged {
    pub(super) at_fault: AtFault,
    /// What the oracle says of both rows; `None` without a ruling, and in cumulative mode.
    pub(super) arbitration: Option<Arbitration>,
    /// The row as it stands in a report.
    pub(super) row: Exceeded,
}

/// What the oracle says.
#[derive(Debug, Default)]
struct Heard {
    sites: BTreeMap<Site, Vec<Judged>>,
    /// By prompt, of the token that differs first.
    generation: BTreeMap<usize, AtFault>,
}

/// Why an entry does not excuse.
struct Complaint {
    why: String,
    /// Whom it would have to name as well.
    to: Option<Role>,
    row: Option<Box<Exceeded>>,
}

/// Rows over their limit, by site.
pub(super) type Covered<'a> = BTreeMap<Site, &'a [Beyond]>;

/// Has the oracle hear what the ledger covers, and says in its entries what came of it.
///
/// # Errors
/// The engine that failed when it was asked again.
pub(super) fn excuse(
    known: &mut [KnownDeviation],
    engines: &mut Loaded,
    oracle: &mut Oracle,
    setup: &Setup,
    plan: &Plan,
    measured: &Measurements,
) -> Result<Excuses, Failed> {
    let covered: Covered = measured
        .beyond()
        .filter(|(site, _)| known.iter().any(|k| covers_site(k, site)))
        .collect();
    let parted: Vec<&Generation> = match known.iter().any(covers_generation) {
        true => parted(measured.generation.as_ref()).collect(),
        false => Vec::new(),
    };
    if covered.is_empty() && parted.is_empty() {
        return Ok(Excuses::none());
    }
    let seed = jiff::Timestamp::now().as_nanosecond() as u64;
    let heard = match oracle.court() {
        Ok(court) => {
            let mut hearings = Hearings::new(engines, court, setup, plan);
            match hearings.hear(measured, &covered, &parted, seed) {
                Ok(()) => Ok(hearings.heard),
                Err(NoRuling::Engine(failed)) => return Err(failed),
                Err(NoRuling::Oracle(e)) => Err(no_answer(e)),
            }
        }
        Err(why) => Err(why.to_owned()),
    };
    Ok(decide(known, &covered, &parted, &heard, seed))
}

/// Generations that differ by more than near ties, in tokens or in logits.
fn parted(generation: Option<&Generation>) -> impl Iterator<Item = &Generation> {
    let all = generation.into_iter();
    let all = all.flat_map(|first| [first].into_iter().chain(&first.further));
    all.filter(|generation| differ(generation))
}

/// The rows to be judged: all of them, or the first, the worst and others drawn at random.
pub(super) fn chosen(rows: &[Beyond], most: usize, rng: &mut Rng) -> Vec<Beyond> {
    if rows.len() <= most {
        return rows.to_vec();
    }
    let worst = rows.iter().enumerate();
    let worst = worst.max_by(|(_, a), (_, b)| a.nmse.total_cmp(&b.nmse));
    let mut drawn: BTreeSet<usize> = [0, worst.map_or(0, |(i, _)| i)].into();
    while drawn.len() < most {
        drawn.insert(rng.below(rows.len()));
    }
    drawn.into_iter().map(|i| rows[i]).collect()
}

/// Has the oracle hear rows over their limit.
pub(super) struct Hearings<'a, 'c> {
    engines: &'a mut Loaded,
    court: &'a mut Court<'c>,
    setup: &'a Setup,
    plan: &'a Plan<'a>,
    /// Whether it matters what is wrong with a wrong row.
    explain: bool,
    heard: Heard,
}

impl<'a, 'c> Hearings<'a, 'c> {
    pub(super) fn new(
        engines: &'a mut Loaded,
        court: &'a mut Court<'c>,
        setup: &'a Setup,
        plan: &'a Plan<'a>,
    ) -> Hearings<'a, 'c> {
        Hearings {
            engines,
            court,
            setup,
            plan,
            explain: false,
            heard: Heard::default(),
        }
    }

    /// What the oracle says of rows, by site: of all of them, or of up to [`ROWS`]. With `explain`, also what is wrong with
    /// those that are.
    pub(super) fn judge(
        &mut self,
        measured: &Measurements,
        rows: &Covered,
        seed: u64,
        explain: bool,
    ) -> Result<BTreeMap<Site, Vec<Judged>>, NoRuling> {
        self.explain = explain;
        self.hear(measured, rows, &[], seed)?;
        Ok(std::mem::take(&mut self.heard.sites))
    }

    fn hear(
        &mut self,
        measured: &Measurements,
        covered: &Covered,
        parted: &[&Generation],
        seed: u64,
    ) -> Result<(), NoRuling> {
        let plan = self.plan;
        let mut rng = Rng::new(seed, "excuses");
        self.engines.configure(plan.settings)?;
        for prompt in 0..plan.prompts.len() {
            for &mode in &plan.modes {
                let most = match mode {
                    Mode::Isolated => ROWS,
                    Mode::Cumulative => ROWS_CUMULATIVE,
                };
                let here = covered.iter();
                let here = here.filter(|(site, _)| (site.prompt, site.mode) == (prompt, mode));
                let cases: Vec<(Site, Divergence)> = here
                    .flat_map(|(&site, rows)| {
                        let rows = chosen(rows, most, &mut rng).into_iter();
                        rows.map(move |row| (site, divergence(site, plan, row)))
                    })
                    .collect();
                let sequence = measured.sequence(prompt);
                match mode {
                    Mode::Isolated => self.isolated(sequence, &cases)?,
                    Mode::Cumulative => self.cumulative(sequence, &cases)?,
                }
            }
        }
        for generation in parted {
            let at_fault = self.generation(generation)?;
            self.heard.generation.insert(generation.prompt, at_fault);
        }
        Ok(())
    }

    /// Of one prompt.
    fn cumulative(
        &mut self,
        sequence: Sequence,
        cases: &[(Site, Divergence)],
    ) -> Result<(), NoRuling> {
        for (site, divergence) in cases {
            let at_fault = self.own_way(sequence, *site, divergence)?;
            self.heard.add(*site, at_fault, None, of_report(divergence));
        }
        Ok(())
    }

    /// Who is at fault at a position of a prompt where each engine went its own way; nobody where all is right there.
    fn own_way(
        &mut self,
        sequence: Sequence,
        site: Site,
        divergence: &Divergence,
    ) -> Result<AtFault, NoRuling> {
        let pair = &mut self.engines.pair();
        pair.set_task(&again(site.prompt));
        let mut hearing = Hearing {
            court: self.court,
            plan: self.plan,
            sequence,
            divergence,
            explain: false,
        };
        let ruling = hearing.all_stages(pair, (site.tap, site.layer))?;
        Ok(ruling.arbitration.map_or(ruling.at_fault, |a| at_fault(&a)))
    }

    /// Of one prompt.
    fn isolated(
        &mut self,
        sequence: Sequence,
        cases: &[(Site, Divergence)],
    ) -> Result<(), NoRuling> {
        let Some((first, _)) = cases.first() else {
            return Ok(());
        };
        let plan = self.plan;
        let pair = &mut self.engines.pair();
        pair.set_task(&again(first.prompt));
        let stages: Vec<_> = cases.iter().map(|(s, _)| (s.tap, s.layer)).collect();
        let mut only = BTreeSet::new();
        for (&at, (_, divergence)) in stages.iter().zip(cases) {
            let needs = self.court.needs(at, &plan.taps);
            only.extend(needs.into_iter().map(|need| (need, divergence.position)));
            only.insert((at, divergence.position));
        }
        let wanted = Wanted {
            rows: WantedRows::Only(only),
            history: self.court.histories(&stages, &plan.taps),
        };
        let mut both = Both::new(&wanted);
        let last = cases.iter().map(|(_, d)| d.position).max().unwrap_or(0);
        for (first_position, tokens) in sequence.batches(plan.settings.n_ubatch) {
            if first_position > last {
                break;
            }
            let evaluation = Evaluation {
                first_position,
                tokens,
                taps: &plan.taps,
                isolated: true,
            };
            lockstep::evaluate(pair, evaluation, &mut ReferenceHashes::default(), &mut both)?;
        }
        for ((site, divergence), at) in cases.iter().zip(stages) {
            let rows = [&both.reference, &both.candidate].map(|c| c.row(at, divergence.position));
            let [Some(reference), Some(candidate)] = rows else {
                let nobody = AtFault::Undetermined;
                self.heard.add(*site, nobody, None, of_report(divergence));
                continue;
            };
            let row = exceeded(plan, *site, divergence, reference, candidate);
            // Rows other than those that were compared say nothing of them.
            if finite(nmse(at.0, reference, candidate)) != divergence.nmse {
                self.heard.add(*site, AtFault::Undetermined, None, row);
                continue;
            }
            let mut hearing = Hearing {
                court: self.court,
                plan,
                sequence,
                divergence,
                explain: self.explain,
            };
            let (_, judged) = hearing.judge(at, &both, 0)?;
            let at_fault = judged.as_ref().map_or(AtFault::Undetermined, at_fault);
            self.heard.add(*site, at_fault, judged, row);
        }
        Ok(())
    }

    /// Who is at fault where generation parts: whose tokens do not follow from its own logits, and who is wrong at the first
    /// token that differs and at the first row of logits beyond the limit, up to which both engines have seen the same.
    fn generation(&mut self, generation: &Generation) -> Result<AtFault, NoRuling> {
        let mut specs = Role::BOTH.map(|role| self.setup.spec(role)).into_iter();
        let traces = specs.any(|spec| spec.trace().is_some());
        let prompt = &self.plan.prompts[generation.prompt].tokens;
        let mut blamed = contradicting(generation);
        let parted = generation.first_mismatch.as_ref().filter(|m| !m.near_tie);
        // No trace holds the taps of what lies behind its decode steps.
        let steps = parted.and_then(|m| generation.reference.get(..m.index));
        let steps = steps.filter(|steps| !traces || steps.len() <= DECODE_STEPS);
        let beyond = greedy::first_beyond(generation, prompt).filter(|_| !traces);
        let beyond = beyond.as_ref().map(|(_, tokens)| tokens.as_slice());
        let of_steps = steps.map(|steps| Sequence::new(prompt, steps));
        let of_row = beyond.map(|prompt| Sequence::new(prompt, &[]));
        for sequence in of_steps.into_iter().chain(of_row) {
            let site = Site {
                mode: Mode::Cumulative,
                prompt: generation.prompt,
                layer: None,
                tap: Tap::Logits,
            };
            let row = Beyond {
                position: (sequence.prompt.len() + sequence.steps.len()).saturating_sub(1),
                nmse: f64::NAN,
            };
            let divergence = divergence(site, self.plan, row);
            match self.own_way(sequence, site, &divergence)? {
                AtFault::Undetermined => return Ok(AtFault::Undetermined),
                at_fault => blamed = blamed.and(Blame::of(at_fault)),
            }
        }
        Ok(blamed.at_fault())
    }
}

fn again(prompt: usize) -> String {
    format!("evaluating prompt {prompt} again, for the ledger")
}

fn divergence(site: Site, plan: &Plan, row: Beyond) -> Divergence {
    Divergence {
        prompt: site.prompt,
        position: row.position,
        layer: site.layer,
        tap: site.tap.to_string(),
        mode: site.mode,
        element: 0,
        reference: None,
        candidate: None,
        oracle: None,
        nmse: finite(row.nmse),
        limit: plan.limit(site).unwrap_or(0.0),
        part: None,
        hint: None,
        arbitration: None,
    }
}

/// The engines whose tokens do not follow from their own logits.
fn contradicting(generation: &Generation) -> Blame {
    let checks = generation.checks.iter();
    let wrong = checks.filter(|check| !check.contradicted.is_empty());
    wrong.fold(Blame::default(), |all, check| {
        all.and(Blame::of(
            check.role.of(AtFault::Reference, AtFault::Candidate),
        ))
    })
}

impl Heard {
    fn add(
        &mut self,
        site: Site,
        at_fault: AtFault,
        arbitration: Option<Arbitration>,
        row: Exceeded,
    ) {
        let judged = Judged {
            at_fault,
            arbitration,
            row,
        };
        self.sites.entry(site).or_default().push(judged);
    }

    /// Everybody at fault in some row.
    fn blamed(&self) -> Blame {
        let all = self.sites.values().flatten();
        all.fold(Blame::default(), |all, j| all.and(Blame::of(j.at_fault)))
    }
}

/// What is known of a row without its values.
fn of_report(divergence: &Divergence) -> Exceeded {
    Exceeded {
        position: divergence.position,
        at: ElementAt {
            position: divergence.position,
            element: divergence.element,
            reference: None,
            candidate: None,
        },
        nmse: divergence.nmse,
        limit: divergence.limit,
        part: None,
    }
}

fn exceeded(
    plan: &Plan,
    site: Site,
    divergence: &Divergence,
    reference: &[u8],
    candidate: &[u8],
) -> Exceeded {
    let mut row = plan.accumulator(site, Some(divergence.limit));
    let position = divergence.position;
    if site.tap.is_f16() {
        row.add::<f16>(position, &aligned(reference), &aligned(candidate));
    } else {
        row.add::<f32>(position, &aligned(reference), &aligned(candidate));
    }
    let row = row.exceeded().cloned();
    row.unwrap_or_else(|| of_report(divergence))
}

/// Which entries hold, by what was heard.
fn decide(
    known: &mut [KnownDeviation],
    covered: &Covered,
    parted: &[&Generation],
    heard: &Result<Heard, String>,
    seed: u64,
) -> Excuses {
    let mut excuses = Excuses::none();
    let mut complaints: Vec<Vec<(Site, Complaint)>> = Vec::new();
    for entry in known.iter_mut() {
        let mine: Vec<Site> = covered.keys().copied().collect();
        let mine = mine.into_iter().filter(|site| covers_site(entry, site));
        let mine: Vec<Site> = mine.collect();
        let judged = |site: &Site| match heard {
            Ok(heard) => heard.sites.get(site).map_or(&[][..], Vec::as_slice),
            Err(_) => &[],
        };
        entry.rows = mine.iter().map(|site| covered[site].len() as u64).sum();
        entry.judged = mine.iter().map(|site| judged(site).len() as u64).sum();
        entry.seed = (0 < entry.judged && entry.judged < entry.rows).then_some(seed);
        let mut against = Vec::new();
        let mut borne_out = Vec::new();
        let mut blamed = Blame::default();
        for site in mine {
            match bears_out(entry, site, covered[&site], heard) {
                Ok(by) => {
                    blamed = blamed.and(by);
                    borne_out.push(site);
                }
                Err(complaint) => against.push((site, complaint)),
            }
        }
        // What is inherited is blamed where it is made.
        if let Ok(heard) = heard
            && borne_out.iter().any(|site| site.mode == Mode::Cumulative)
        {
            blamed = blamed.and(heard.blamed());
        }
        match Blame::named_by(entry).beyond(blamed) {
            Some(role) if against.is_empty() => against.extend(borne_out.into_iter().map(|site| {
                let why = format!(
                    "it excuses the {role}, which is not found at fault in any row of {site}"
                );
                let complaint = Complaint {
                    why,
                    to: None,
                    row: None,
                };
                (site, complaint)
            })),
            _ => borne_out.into_iter().for_each(|site| {
                let excused = excuses.sites.entry(site).or_default();
                *excused = excused.and(Blame::named_by(entry));
            }),
        }
        complaints.push(against);
    }
    for (entry, against) in known.iter_mut().zip(complaints) {
        for (site, complaint) in against {
            if excuses.site(&site) {
                continue;
            }
            let row = complaint.row.map(|row| (site, *row));
            excuses.against.extend(row);
            if entry.refused.is_none() {
                refuse(entry, complaint.why, complaint.to);
            }
        }
    }
    for entry in known.iter_mut().filter(|entry| covers_generation(entry)) {
        match generation_borne_out(entry, parted, heard) {
            Ok(()) => excuses.generation = entry.at_fault,
            Err(complaint) => refuse(entry, complaint.why, complaint.to),
        }
    }
    excuses
}

fn refuse(entry: &mut KnownDeviation, why: String, to: Option<Role>) {
    entry.state = KnownState::Refused;
    entry.refused = Some(why);
    entry.refused_to = to;
}

/// Who is at fault at a site, if an entry excuses that.
fn bears_out(
    entry: &KnownDeviation,
    site: Site,
    rows: &[Beyond],
    heard: &Result<Heard, String>,
) -> Result<Blame, Complaint> {
    let plain = |why| Complaint {
        why,
        to: None,
        row: None,
    };
    let ceiling = entry.ceiling.unwrap_or(f64::INFINITY);
    let above = rows
        .iter()
        .find(|row| row.nmse.is_nan() || row.nmse > ceiling);
    if let Some(Beyond { position, nmse }) = above {
        return Err(plain(match nmse.is_nan() {
            true => format!("{site} has values that are no numbers at position {position}"),
            false => format!(
                "NMSE {} at position {position} of {site} is above its ceiling of {}",
                number::error(*nmse),
                number::error(ceiling)
            ),
        }));
    }
    let heard = match heard {
        Ok(heard) => heard.sites.get(&site).map_or(&[][..], Vec::as_slice),
        Err(why) => return Err(plain(format!("nobody can say who is at fault: {why}"))),
    };
    let named = Blame::named_by(entry);
    let mut blamed = Blame::default();
    for Judged { at_fault, row, .. } in heard {
        let by = Blame::of(*at_fault);
        let place = format!("position {} of {site}", row.position);
        let complaint = |why, to| Complaint {
            why,
            to,
            row: Some(Box::new(row.clone())),
        };
        if let Some(role) = by.beyond(named) {
            let why = match blame_in_words(named) {
                "" => format!("the {role} is at fault at {place}"),
                others => format!("it excuses {others}; the {role} is at fault at {place}"),
            };
            return Err(complaint(why, Some(role)));
        }
        let inherited = *at_fault == AtFault::None && site.mode == Mode::Cumulative;
        if by == Blame::default() && !inherited {
            let why = match at_fault {
                AtFault::None => format!("neither engine is at fault at {place}"),
                _ => format!("nobody can say who is at fault at {place}"),
            };
            return Err(complaint(why, None));
        }
        blamed = blamed.and(by);
    }
    match heard.is_empty() {
        true => Err(plain(format!("nothing was judged of {site}"))),
        false => Ok(blamed),
    }
}

fn blame_in_words(blame: Blame) -> &'static str {
    match (blame.reference, blame.candidate) {
        (true, true) => "both engines",
        (true, false) => "the reference",
        (false, true) => "the candidate",
        (false, false) => "",
    }
}

fn generation_borne_out(
    entry: &KnownDeviation,
    parted: &[&Generation],
    heard: &Result<Heard, String>,
) -> Result<(), Complaint> {
    let complaint = |why, to| Complaint { why, to, row: None };
    let heard = match heard {
        Ok(heard) => heard,
        Err(why) => {
            let why = format!("nobody can say who is at fault: {why}");
            return Err(complaint(why, None));
        }
    };
    let named = Blame::named_by(entry);
    for generation in parted {
        let at_fault = heard.generation.get(&generation.prompt);
        let at_fault = at_fault.copied().unwrap_or(AtFault::Undetermined);
        // Right there, so that it inherits what came before.
        let by = match at_fault {
            AtFault::None => heard.blamed(),
            at_fault => Blame::of(at_fault),
        };
        let prompt = generation.prompt;
        if let Some(role) = by.beyond(named) {
            let others = blame_in_words(named);
            let why = format!(
                "it excuses {others}; the {role} is at fault where the tokens from prompt {prompt} differ"
            );
            return Err(complaint(why, Some(role)));
        }
        if by == Blame::default() {
            let why = format!(
                "nothing shows who is at fault where the tokens from prompt {prompt} differ"
            );
            return Err(complaint(why, None));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SITE: Site = Site {
        mode: Mode::Isolated,
        prompt: 0,
        layer: Some(1),
        tap: Tap::FfnDown,
    };

    fn entry(at_fault: AtFault, ceiling: Option<f64>) -> KnownDeviation {
        KnownDeviation {
            tap: "ffn_down".into(),
            layer: None,
            mode: None,
            at_fault: Some(at_fault),
            ceiling,
            reason: "r".into(),
            link: "l".into(),
            expires: "2027-01-31".into(),
            state: KnownState::Matched,
            rows: 0,
            judged: 0,
            seed: None,
            refused: None,
            refused_to: None,
        }
    }

    fn rows() -> Vec<Beyond> {
        [(1, 0.1), (4, 0.3), (6, 0.2)]
            .map(|(position, nmse)| Beyond { position, nmse })
            .to_vec()
    }

    fn heard(site: Site, rulings: &[AtFault]) -> Result<Heard, String> {
        let mut heard = Heard::default();
        for (row, &at_fault) in rows().iter().zip(rulings) {
            let at = ElementAt {
                position: row.position,
                element: 0,
                reference: None,
                candidate: None,
            };
            let row = Exceeded {
                position: row.position,
                at,
                nmse: Some(row.nmse),
                limit: 1e-13,
                part: None,
            };
            heard.add(site, at_fault, None, row);
        }
        Ok(heard)
    }

    fn decided(known: &mut [KnownDeviation], site: Site, heard: &Result<Heard, String>) -> Excuses {
        let rows = rows();
        decide(known, &[(site, rows.as_slice())].into(), &[], heard, 7)
    }

    /// What one entry makes of rulings: whether it excuses, why not, and whom not.
    fn made_of(entry: KnownDeviation, rulings: &[AtFault]) -> (bool, Option<String>, Option<Role>) {
        let mut known = [entry];
        let excuses = decided(&mut known, SITE, &heard(SITE, rulings));
        let [known] = known;
        assert_eq!(known.refused.is_none(), excuses.site(&SITE));
        (excuses.site(&SITE), known.refused, known.refused_to)
    }

    #[test]
    fn only_who_is_named_is_excused() {
        use AtFault::{Both, Candidate, None as Neither, Reference, Undetermined};
        let of_reference = || entry(Reference, Some(0.5));
        assert!(made_of(of_reference(), &[Reference; 3]).0);
        for (ruling, says, role) in [
            (
                Candidate,
                "the candidate is at fault at position 4",
                Some(Role::Candidate),
            ),
            (
                Both,
                "excuses the reference; the candidate is at fault",
                Some(Role::Candidate),
            ),
            (Neither, "neither engine is at fault at position 4", None),
            (
                Undetermined,
                "nobody can say who is at fault at position 4",
                None,
            ),
        ] {
            let (excused, why, to) = made_of(of_reference(), &[Reference, ruling, Reference]);
            let why = why.unwrap();
            assert!(!excused && why.contains(says), "{why}");
            assert_eq!(to, role);
        }
        // Both are at fault, each in rows of its own.
        assert!(made_of(entry(Both, None), &[Reference, Candidate, Reference]).0);
        let (excused, why, _) = made_of(entry(Both, None), &[Reference; 3]);
        assert!(
            !excused
                && why
                    .unwrap()
                    .contains("excuses the candidate, which is not found")
        );
    }

    #[test]
    fn what_is_larger_than_the_ceiling_or_no_number_is_not_excused() {
        let (excused, why, _) = made_of(
            entry(AtFault::Reference, Some(0.25)),
            &[AtFault::Reference; 3],
        );
        assert!(!excused && why.unwrap().contains("NMSE 3.0e-1 at position 4"));
        let mut known = [entry(AtFault::Reference, None)];
        let rows = [Beyond {
            position: 2,
            nmse: f64::NAN,
        }];
        let covered = [(SITE, &rows[..])].into();
        let excuses = decide(
            &mut known,
            &covered,
            &[],
            &heard(SITE, &[AtFault::Reference]),
            7,
        );
        assert!(!excuses.site(&SITE));
        assert!(
            known[0]
                .refused
                .as_ref()
                .unwrap()
                .contains("no numbers at position 2")
        );
    }

    #[test]
    fn nothing_is_excused_where_the_oracle_says_nothing() {
        let mut known = [entry(AtFault::Reference, None)];
        let excuses = decided(&mut known, SITE, &Err("oracle died".to_owned()));
        assert!(!excuses.site(&SITE) && known[0].refused.as_ref().unwrap().contains("oracle died"));
        assert!(!made_of(entry(AtFault::Reference, None), &[]).0);
    }

    #[test]
    fn rows_that_inherit_are_excused_where_another_shows_the_fault() {
        let logits = Site {
            mode: Mode::Cumulative,
            layer: None,
            tap: Tap::Logits,
            ..SITE
        };
        for (rulings, excused) in [
            ([AtFault::Reference, AtFault::None, AtFault::None], true),
            ([AtFault::None; 3], false),
            (
                [AtFault::Reference, AtFault::Candidate, AtFault::None],
                false,
            ),
        ] {
            let mut known = [KnownDeviation {
                tap: "logits".into(),
                ..entry(AtFault::Reference, None)
            }];
            let excuses = decided(&mut known, logits, &heard(logits, &rulings));
            assert_eq!(excuses.site(&logits), excused, "{rulings:?}");
        }
    }

    #[test]
    fn an_entry_that_another_makes_good_is_not_refused() {
        let mut known = [
            entry(AtFault::Reference, None),
            KnownDeviation {
                layer: Some(1),
                ..entry(AtFault::Candidate, None)
            },
        ];
        let excuses = decided(&mut known, SITE, &heard(SITE, &[AtFault::Candidate; 3]));
        assert!(excuses.site(&SITE));
        assert_eq!(known.map(|k| k.state), [KnownState::Matched; 2]);
    }

    #[test]
    fn of_many_rows_the_first_and_the_worst_are_among_those_judged() {
        let rows: Vec<Beyond> = (0..1000)
            .map(|position| Beyond {
                position,
                nmse: if position == 777 { 0.9 } else { 0.1 },
            })
            .collect();
        let positions = |seed| {
            let chosen = chosen(&rows, ROWS, &mut Rng::new(seed, "excuses"));
            chosen.iter().map(|row| row.position).collect::<Vec<_>>()
        };
        let one = positions(1);
        assert!(one.len() == ROWS && one.is_sorted());
        assert!(one.contains(&0) && one.contains(&777));
        assert_ne!(one, positions(2));
        assert_eq!(chosen(&rows[..5], ROWS, &mut Rng::new(1, "")).len(), 5);
    }
}
