//! What the rows come to: the report's section, and findings.

use std::collections::BTreeSet;

use crossval_protocol::Settings;
use reports::model::{
    Amplified, Condition, Conditions, Finding, Own, OwnAmplified, OwnLimits, Role, Source,
};
use reports::number;
use reports::outcome::Outcome;

use super::Sequences;
use super::plan::{CUT_BY_ENGINE, Key, Step};
use super::tally::{Met, Parting, Tally, Way};
use crate::compare::finite;
use crate::compare::worst::Worst;
use crate::engine::EngineSpec;
use crate::parity::court::Oracle;
use crate::parity::parted::{Parted, PartedRow};
use crate::parity::plan::Plan;
use crate::parity::strayed::{Case, Strayed};
use crate::profile::Profile;
use crate::session::batches::Sequence;
use crate::session::loaded::Loaded;
use crate::session::setup::Setup;

/// The logits under other conditions, judged.
pub(in crate::parity) struct Judged {
    report: Conditions,
    /// Rows that were not compared, and tokens that do not follow from their engine's logits.
    own: Vec<Finding>,
    /// Engines that differ from themselves.
    strayed: Vec<Strayed>,
    /// Rows that are finite in neither engine.
    not_finite: Option<Finding>,
    /// Engines that differ from each other.
    between: Option<Parted>,
    /// Of each condition.
    within: Vec<Within>,
}

/// What speaks for rows beyond their limits.
#[derive(Default)]
pub(in crate::parity) struct SpokenFor {
    between: Option<Amplified>,
    own: OwnAmplified,
}

impl Judged {
    /// What makes the run other than a pass. Where the logits of the prompts differ, excused or not, those of other tokens
    /// do: that is no finding of its own; nor is it one that they are not finite. Who is wrong is what engines say against
    /// themselves, else the oracle.
    pub(in crate::parity) fn findings(
        &self,
        (prompts_differ, prompts_finite): (bool, bool),
        engines: &mut Loaded,
        oracle: &mut Oracle,
        setup: &Setup,
        plan: &Plan,
    ) -> (Vec<Finding>, SpokenFor) {
        let mut spoken_for = SpokenFor::default();
        let mut findings = self.own.clone();
        for strayed in &self.strayed {
            let (finding, amplified) = strayed.finding(engines, oracle, plan);
            let OwnAmplified {
                reference,
                candidate,
            } = &mut spoken_for.own;
            *strayed.role.of(reference, candidate) = amplified;
            findings.push(finding);
        }
        findings.extend(self.not_finite.clone().filter(|_| prompts_finite));
        let Some(between) = self.between.as_ref().filter(|_| !prompts_differ) else {
            return (findings, spoken_for);
        };
        if findings.iter().any(|f| f.outcome == Outcome::Parity) {
            findings.push(between.undetermined());
            return (findings, spoken_for);
        }
        let (more, amplified) = between.findings(engines, setup, plan);
        findings.extend(more);
        spoken_for.between = amplified;
        (findings, spoken_for)
    }

    /// Says what speaks for rows beyond their limits.
    pub(in crate::parity) fn report(self, spoken_for: SpokenFor) -> Conditions {
        let mut report = self.report;
        for (condition, within) in report.compared.iter_mut().zip(self.within) {
            condition.pass = within.but_for(&spoken_for);
        }
        report.amplified = spoken_for.between;
        report.own_amplified = spoken_for.own;
        report
    }

    /// Where nothing could be compared.
    pub(super) fn not_compared(seed: u64, why: &str) -> Judged {
        Judged {
            report: Conditions {
                seed,
                not_compared: Some(why.to_owned()),
                ..Conditions::default()
            },
            own: Vec::new(),
            strayed: Vec::new(),
            not_finite: None,
            between: None,
            within: Vec::new(),
        }
    }
}

/// The limits on a row's NMSE.
struct Limits {
    between: f64,
    own: [Own<f64>; 2],
}

impl Limits {
    /// `noise` is the reference's against itself where the taps were compared. What it shows of noise here counts as well.
    /// Repeating what was asked changes no more than another number of threads does, and nothing in an engine that can
    /// answer with the same bits.
    fn new(setup: &Setup, profile: &Profile, noise: f64, tally: &Tally) -> Limits {
        let here = tally.met.values().filter_map(|met| met.own[0].varied.0);
        let between = profile.cumulative_logits_limit(here.fold(noise, f64::max));
        let own = Role::BOTH.map(|role| match setup.spec(role) {
            // Its results depend on nothing but the tokens.
            EngineSpec::Rust { .. } => Own::default(),
            _ => Own {
                repeated: match tally.repeats_bits(role) {
                    true => 0.0,
                    false => profile.noise.threads,
                },
                varied: profile.noise.batches,
            },
        });
        Limits { between, own }
    }
}

impl Tally {
    /// Judges what was compared, of `all` that could be.
    pub(super) fn judge(
        &self,
        seed: u64,
        all: &[Step],
        setup: &Setup,
        plan: &Plan,
        noise: f64,
        sequences: &Sequences,
    ) -> Judged {
        let limits = Limits::new(setup, &plan.profile, noise, self);
        let compared = self.met.iter();
        let compared = compared.map(|(&key, met)| condition(key, met, &limits));
        let (compared, within): (Vec<Condition>, Vec<Within>) = compared.unzip();
        let met = self.met.values().filter(|met| met.rows > 0);
        let contexts = || self.met.keys().map(|key| key.context);
        let [reference, candidate] = limits.own;
        let report = Conditions {
            seed,
            not_compared: None,
            compared,
            left_out: self.left_out(all),
            largest_batch: met.clone().map(|met| met.largest_batch).max(),
            largest_position: met.map(|met| met.largest_position).max(),
            largest_context: contexts().max(),
            smallest_context: contexts().min(),
            evaluations: self.evaluations(),
            limit: Some(limits.between),
            amplified: None,
            own_limits: Some(OwnLimits {
                reference,
                candidate,
            }),
            own_amplified: OwnAmplified::default(),
        };
        let threads = plan.settings.threads;
        let strayed = Role::BOTH.into_iter();
        let strayed = strayed.filter_map(|role| self.own(role, &limits, sequences, threads));
        let mut own: Vec<Finding> = self.missing().into_iter().collect();
        own.extend(
            Role::BOTH
                .into_iter()
                .filter_map(|role| self.contradicted(role)),
        );
        Judged {
            report,
            own,
            strayed: strayed.collect(),
            not_finite: self.not_finite(),
            between: self.between(&limits, sequences),
            within,
        }
    }

    /// What there is and was not compared: values of each dimension by name, then combinations by number.
    fn left_out(&self, all: &[Step]) -> Vec<String> {
        let met: BTreeSet<Key> = self.met.keys().copied().collect();
        let planned: BTreeSet<Key> = all.iter().flat_map(Step::keys).collect();
        let mut out = Vec::new();
        let mut batches: Vec<&str> = Vec::new();
        for key in planned
            .iter()
            .filter(|key| met.iter().all(|m| m.batch != key.batch))
        {
            if !batches.contains(&key.batch) {
                batches.push(key.batch);
            }
        }
        out.extend(
            batches
                .iter()
                .map(|batch| format!("batches of {batch} tokens")),
        );
        let asked: BTreeSet<_> = planned.iter().map(|key| key.asked).collect();
        let asked = asked
            .iter()
            .filter(|&&asked| met.iter().all(|m| m.asked != asked));
        out.extend(asked.map(|asked| asked.to_string()));
        let positions = all
            .iter()
            .map(|step| step.pass.n_tokens())
            .max()
            .unwrap_or(0);
        let reached = self
            .met
            .values()
            .map(|met| met.largest_position + 1)
            .max()
            .unwrap_or(0);
        if reached < positions {
            out.push(format!("positions from {reached} to {}", positions - 1));
        }
        let met: BTreeSet<_> = met.iter().map(Key::combination).collect();
        let planned: BTreeSet<_> = planned.iter().map(Key::combination).collect();
        let lacking = planned.difference(&met).count();
        if lacking > 0 {
            out.push(format!(
                "{lacking} of {} combinations of batch, place, way of asking and worker",
                planned.len()
            ));
        }
        out
    }

    fn missing(&self) -> Option<Finding> {
        let sum = |of: fn(&Met) -> u64| self.met.values().map(of).sum::<u64>();
        let (expected, rows) = (sum(|met| met.expected), sum(|met| met.rows));
        let (key, _) = self.met.iter().find(|(_, met)| met.rows < met.expected)?;
        let missing = [0, 1].map(|role| self.met.values().any(|met| met.missing[role] > 0));
        let place = match missing {
            [true, false] => Some(Role::Reference.into()),
            [false, true] => Some(Role::Candidate.into()),
            _ => None,
        };
        Some(Finding {
            outcome: Outcome::Incomplete,
            source: Source::Conditions,
            place,
            text: format!(
                "{rows} of {expected} rows of logits were compared under other conditions; the first missing: {}",
                named(key)
            ),
        })
    }

    fn not_finite(&self) -> Option<Finding> {
        let (key, _) = self.met.iter().find(|(_, met)| met.not_finite > 0)?;
        Some(Finding {
            outcome: Outcome::Incomplete,
            source: Source::Conditions,
            place: None,
            text: format!(
                "logits that are NaN or infinite in both engines: {}",
                named(key)
            ),
        })
    }

    /// An engine that differs from itself. Which of its rows are the wrong ones, the other engine shows.
    fn own(
        &self,
        role: Role,
        limits: &Limits,
        sequences: &Sequences,
        threads: usize,
    ) -> Option<Strayed> {
        let i = role.of(0, 1);
        let Own { repeated, varied } = limits.own[i];
        let differs =
            |own: &Own<Worst>| (own.repeated.exceeds(repeated), own.varied.exceeds(varied));
        let differing = self.met.values().map(|met| differs(&met.own[i]));
        let differing = differing.filter(|differs| *differs != (false, false));
        let n = differing.clone().count();
        let once_more = differing.clone().any(|(repeated, _)| repeated);
        if n == 0 {
            return None;
        }
        let of_own = |met: &Met| match once_more {
            true => met.own[i].repeated,
            false => met.own[i].varied,
        };
        let worst = |of: &dyn Fn(&Met) -> Worst| {
            let rank = |met: &Met| of(met).rank();
            self.met
                .iter()
                .max_by(|(_, a), (_, b)| rank(a).total_cmp(&rank(b)))
        };
        let (_, met) = worst(&of_own)?;
        let parted =
            worst(&|met| met.between).filter(|(_, met)| met.between.exceeds(limits.between));
        let (key, _) = parted.or_else(|| worst(&of_own))?;
        let (what, limit) = match once_more {
            true => ("asked the same again", repeated),
            false => ("asked otherwise", varied),
        };
        // Whoever answers otherwise when asked the same again has rounded nothing in another order.
        let cases = match once_more {
            true => Vec::new(),
            false => self.cases(i, varied, sequences, threads),
        };
        Some(Strayed {
            role,
            source: Source::Conditions,
            text: format!(
                "the {role}'s logits are not its own when {what} ({}, NMSE {}, limit {}); the worst: {}",
                number::plural(n as u64, "condition"),
                of_own(met).text(),
                number::error(limit),
                named(key)
            ),
            nmse: of_own(met).0.unwrap_or(f64::NAN),
            limit,
            cases,
        })
    }

    /// The rows of an engine, by its index, that lie further apart than they may, the worst of each condition.
    fn cases(&self, i: usize, limit: f64, sequences: &Sequences, threads: usize) -> Vec<Case> {
        let met = self.met.values();
        let beyond = met.filter(|met| met.own[i].varied.exceeds(limit));
        let cases = beyond.filter_map(|met| {
            let straying = met.strayed[i].as_ref()?;
            let ways = self.ways(straying)?;
            let end = |way: &Way| way.cut.iter().sum::<usize>();
            let end = ways.iter().map(end).max()?;
            let tokens = &sequences.tokens(straying.fed)[..end];
            let ways = ways.map(|Way { pass, mut cut }| {
                let settings = Settings {
                    observe: true,
                    ..pass.settings(threads)
                };
                // The row is behind none of these.
                let rest = &tokens[cut.iter().sum::<usize>()..];
                cut.extend(Sequence::new(rest, &[]).sizes(settings.n_ubatch));
                (cut, settings)
            });
            Some(Case {
                tokens: tokens.to_vec(),
                ways,
                positions: straying.position..straying.position + 1,
                nmse: met.own[i].varied.0,
            })
        });
        cases.collect()
    }

    fn contradicted(&self, role: Role) -> Option<Finding> {
        let mut met = self.met.iter();
        let (key, _) = met.find(|(_, met)| met.contradicted.contains(&role))?;
        Some(Finding {
            outcome: Outcome::Parity,
            source: Source::Conditions,
            place: Some(role.into()),
            text: format!(
                "the {role} generates another token than its own logits say: {}",
                named(key)
            ),
        })
    }

    fn between(&self, limits: &Limits, sequences: &Sequences) -> Option<Parted> {
        let met = self.met.iter();
        let beyond = met.filter(|(_, met)| met.between.exceeds(limits.between));
        let mut beyond: Vec<(&Key, &Met)> = beyond.collect();
        beyond.sort_by(|(_, a), (_, b)| b.between.rank().total_cmp(&a.between.rank()));
        let (key, met) = beyond.first()?;
        let text = format!(
            "the engines' logits differ in {}; the worst: {}, NMSE {}, limit {}",
            number::plural(beyond.len() as u64, "condition"),
            named(key),
            met.between.text(),
            number::error(limits.between)
        );
        let rows = beyond.iter().filter_map(|(key, met)| {
            let Parting { fed, position, cut } = met.parting.clone()?;
            let end = cut.iter().sum();
            Some(PartedRow {
                tokens: sequences.tokens(fed)[..end].to_vec(),
                position,
                cut,
                n_ctx: key.context,
                nmse: met.between.0,
            })
        });
        Some(Parted {
            source: Source::Conditions,
            text,
            rows: rows.collect(),
        })
    }
}

/// `batch of 2-8 tokens amid the context, tapped logits, context 256, used worker`.
fn named(key: &Key) -> String {
    let what = match key.batch {
        CUT_BY_ENGINE => "a prompt above n_ubatch".to_owned(),
        batch => format!("a batch of {batch}"),
    };
    format!(
        "{what} {}, {}, context {}, {}",
        key.place, key.asked, key.context, key.worker
    )
}

/// Where a condition is within its limits.
struct Within {
    /// Every row is there and finite, and every token follows.
    sound: bool,
    own: [bool; 2],
    between: bool,
}

impl Within {
    /// Whether it passes, but for what is spoken for.
    fn but_for(&self, spoken_for: &SpokenFor) -> bool {
        let SpokenFor {
            between,
            own: OwnAmplified {
                reference,
                candidate,
            },
        } = spoken_for;
        let mut own = self.own.iter().zip([reference, candidate]);
        self.sound
            && own.all(|(within, amplified)| *within || amplified.is_some())
            && (self.between || between.is_some())
    }
}

/// And where it is within its limits.
fn condition(key: Key, met: &Met, limits: &Limits) -> (Condition, Within) {
    let [reference, candidate] = met.own.map(|own| Own {
        repeated: own.repeated.0.and_then(finite),
        varied: own.varied.0.and_then(finite),
    });
    let within_own = |i: usize| {
        let (own, limit) = (&met.own[i], &limits.own[i]);
        !own.repeated.exceeds(limit.repeated) && !own.varied.exceeds(limit.varied)
    };
    let within = Within {
        sound: met.rows == met.expected && met.not_finite == 0 && met.contradicted.is_empty(),
        own: [0, 1].map(within_own),
        between: !met.between.exceeds(limits.between),
    };
    let condition = Condition {
        batch: key.batch.to_owned(),
        place: key.place,
        asked: key.asked,
        context: key.context,
        worker: key.worker,
        expected: met.expected,
        rows: met.rows,
        largest_batch: met.largest_batch,
        largest_position: met.largest_position,
        nmse: met.between.0.and_then(finite),
        reference,
        candidate,
        contradicted: met.contradicted.clone(),
        pass: within.but_for(&SpokenFor::default()),
    };
    (condition, within)
}
