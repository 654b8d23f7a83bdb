//! What is to be compared, and within which limits.

use std::collections::{BTreeMap, BTreeSet};

use bitnet_model::gguf::TensorType;
use bitnet_model::tap::{Tap, Width};
use crossval_oracle::bounds::angle_per_position;
use crossval_protocol::{Hello, ModelFacts, Settings};
use reports::model::{Mode, Profile as ProfileReport, Role};

use super::Scope;
use crate::compare::site::Site;
use crate::compare::tap::TapAccumulator;
use crate::engine::EngineSpec;
use crate::error::Error;
use crate::profile::Profile;
use crate::session::loaded::Loaded;
use crate::session::prompts::Prompt;
use crate::session::settings::compared_settings;
use crate::session::setup::Setup;

/// What is to be compared.
#[derive(Clone)]
pub(super) struct Plan<'a> {
    pub(super) prompts: &'a [Prompt],
    pub(super) modes: Vec<Mode>,
    /// Tokens to generate from each prompt.
    pub(super) n_predict: usize,
    pub(super) settings: Settings,
    pub(super) facts: ModelFacts,
    /// Taps that both engines offer.
    pub(super) taps: Vec<Tap>,
    /// Taps of the model that they do not, by engine.
    pub(super) not_offered: BTreeMap<String, Vec<String>>,
    /// The same for sentences, by what the engine is called.
    pub(super) lacking: Vec<(String, Vec<Tap>)>,
    /// Why not, where the engine says so.
    pub(super) not_offered_because: BTreeMap<String, BTreeMap<String, String>>,
    /// The limit of every tap in isolated mode.
    pub(super) limits: BTreeMap<Tap, f64>,
    /// How far the angles of engines may be from each other beyond that, radians per position.
    pub(super) angle_per_position: f64,
    pub(super) profile: Profile,
}

impl<'a> Plan<'a> {
    /// # Errors
    /// [`Error::Usage`] for a prompt that does not fit the context, and for isolated mode where the candidate takes no
    /// values; what the profile says of the model.
    pub(super) fn new(
        setup: &Setup,
        scope: &Scope,
        engines: &mut Loaded,
        prompts: &'a [Prompt],
    ) -> Result<Plan<'a>, Error> {
        let modes = engines.modes(&scope.modes);
        let facts = engines.facts.clone();
        let n_predict = scope.n_predict;
        let settings = compared_settings(&facts, prompts, n_predict, scope.threads, scope.n_ctx)?;
        let (mut not_offered, mut not_offered_because) = (BTreeMap::new(), BTreeMap::new());
        let mut lacked = Vec::new();
        let mut taps: BTreeSet<Tap> = facts.taps.iter().copied().collect();
        let mut pair = engines.pair();
        for role in Role::BOTH {
            let engine = pair.engine(role);
            let offered = &engine.hello().taps;
            let lacking = facts.taps.iter().filter(|t| !offered.contains(t));
            let lacking: Vec<Tap> = lacking.copied().collect();
            taps.retain(|t| offered.contains(t));
            if !lacking.is_empty() {
                let names = lacking.iter().map(Tap::to_string).collect();
                not_offered.insert(engine.name().to_owned(), names);
                lacked.push((engine.label().to_owned(), lacking));
            }
            let because = engine.not_offered().iter();
            let because: BTreeMap<_, _> = because
                .map(|(tap, reason)| (tap.to_string(), reason.clone()))
                .collect();
            if !because.is_empty() {
                not_offered_because.insert(engine.name().to_owned(), because);
            }
        }
        let oracle = with_oracle(setup, pair.reference.hello());
        let why_not = engines.not_isolated();
        if let Some(why_not) = why_not.filter(|_| modes.contains(&Mode::Isolated)) {
            let what = format!("{why_not}: they can be compared in cumulative mode");
            return Err(Error::option("mode", what));
        }
        Ok(Plan {
            limits: isolated_limits(&scope.profile, &facts, &taps, oracle),
            // Two engines that compute them alike are closer, and others are heard.
            angle_per_position: match oracle {
                true => angle_per_position(facts.head_dim()),
                false => 0.0,
            },
            profile: scope.profile.clone(),
            prompts,
            modes,
            n_predict,
            settings,
            facts,
            taps: taps.into_iter().collect(),
            not_offered,
            lacking: lacked,
            not_offered_because,
        })
    }

    /// The limit at a site, where it has one, before the engines' noise is known.
    pub(super) fn limit(&self, site: Site) -> Option<f64> {
        match site.mode {
            Mode::Isolated => self.limits.get(&site.tap).copied(),
            Mode::Cumulative => (site.tap == Tap::Logits).then_some(self.profile.cumulative_logits),
        }
    }

    /// Collects the rows of a site, up to a limit.
    pub(super) fn accumulator(&self, site: Site, limit: Option<f64>) -> TapAccumulator {
        let n_prefill = self.prompts[site.prompt].tokens.len();
        let quantised = feeds_quantiser(site.tap, &self.facts);
        let rows = TapAccumulator::new(limit, n_prefill, quantised);
        let rows = rows.of_heads(heads(site.tap, &self.facts));
        match (site.mode, site.tap) {
            (Mode::Isolated, Tap::QRope | Tap::KRope) => rows.of_angles(self.angle_per_position),
            (Mode::Isolated, _) => rows,
            (Mode::Cumulative, tap) => {
                rows.with_flips(self.limits.get(&tap).copied().unwrap_or(0.0))
            }
        }
    }

    /// Every place that is to be compared.
    pub(super) fn sites(&self) -> Vec<Site> {
        let mut sites = Vec::new();
        for prompt in 0..self.prompts.len() {
            for &mode in &self.modes {
                for &tap in &self.taps {
                    let layers: Vec<Option<usize>> = match tap.per_layer() {
                        true => (0..self.facts.n_layer).map(Some).collect(),
                        false => vec![None],
                    };
                    sites.extend(layers.into_iter().map(|layer| Site {
                        mode,
                        prompt,
                        layer,
                        tap,
                    }));
                }
            }
        }
        sites
    }

    /// The profile, as it stands in the report.
    pub(super) fn profile(&self) -> ProfileReport {
        let isolated = self.limits.iter();
        ProfileReport {
            name: self.profile.name.clone(),
            isolated_nmse: isolated
                .map(|(tap, &limit)| (tap.to_string(), limit))
                .collect(),
            cumulative_logits_nmse: Some(self.profile.cumulative_logits),
        }
    }

    /// That the profile requires taps which an engine does not offer, if so: which, who, why if it says so, and what can
    /// be done without them.
    pub(super) fn required_not_compared(&self) -> Option<String> {
        let required = self.profile.required.iter();
        let required = required.filter(|tap| self.facts.taps.contains(tap));
        let lacking = required.filter(|tap| !self.taps.contains(tap)).map(|tap| {
            let lacks = self.lacking.iter().filter(|(_, taps)| taps.contains(tap));
            let mut by: Vec<String> = lacks.map(|(engine, _)| engine.clone()).collect();
            let mut because = self.not_offered_because.iter();
            let because = because.find_map(|(engine, taps)| Some((engine, taps.get(tap.name())?)));
            if let Some((engine, reason)) = because {
                by = vec![format!("{engine}: {reason}")];
            }
            format!("{tap} (by {})", by.join(" and "))
        });
        let lacking: Vec<String> = lacking.collect();
        let advice = match self.taps.contains(&Tap::Logits) {
            true => "; --profile logits compares logits and tokens alone",
            false => "",
        };
        let (name, taps) = (&self.profile.name, lacking.join(", "));
        (!lacking.is_empty())
            .then(|| format!("profile {name} requires what is not offered: {taps}{advice}"))
    }
}

/// Whether one of the engines is the oracle, now or while a trace of the reference was recorded.
fn with_oracle(setup: &Setup, reference: &Hello) -> bool {
    [&setup.reference, &setup.candidate].contains(&&EngineSpec::Oracle)
        || (setup.reference.trace().is_some() && reference.engine == "oracle")
}

/// The limit of every tap in isolated mode. The oracle, if it is one of the engines, rounds less than engines do.
fn isolated_limits(
    profile: &Profile,
    facts: &ModelFacts,
    compared: &BTreeSet<Tap>,
    oracle: bool,
) -> BTreeMap<Tap, f64> {
    let mut limits = profile.isolated(facts);
    for (tap, limit) in &mut limits {
        // Several stages at once, between which codes may flip, where an engine does not offer what lies between.
        let mut sources = tap.sources().iter().filter(|t| facts.taps.contains(t));
        if !sources.all(|source| compared.contains(source)) {
            *limit = limit.max(profile.cumulative_logits);
        }
    }
    if oracle {
        for (&tap, limit) in &mut limits {
            *limit = limit.max(profile.oracle_limit(tap, facts));
        }
    }
    limits
}

/// Heads that a row of a tap is made of; 0 if of none.
fn heads(tap: Tap, facts: &ModelFacts) -> usize {
    match tap.width() {
        Width::Heads | Width::Probabilities if tap.has_heads() => facts.n_head,
        Width::KvHeads if tap.has_heads() => facts.n_head_kv,
        _ => 0,
    }
}

/// Whether the tap is the input of a ternary product, which quantises it to int8.
fn feeds_quantiser(tap: Tap, facts: &ModelFacts) -> bool {
    let product = match tap {
        Tap::AttnNorm => Tap::Q,
        Tap::AttnSubNorm => Tap::AttnProj,
        Tap::FfnNorm => Tap::FfnGate,
        Tap::FfnSubNorm => Tap::FfnDown,
        _ => return false,
    };
    let types = facts.weight_types.get(&product);
    let ternary = |ty: &String| TensorType::from_name(ty).is_some_and(TensorType::is_ternary);
    types.is_some_and(|types| types.iter().any(ternary))
}
