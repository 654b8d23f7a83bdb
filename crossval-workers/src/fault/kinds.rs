//! Kinds of faults, for whoever draws some of each.

use bitnet_model::tap::Tap;

use super::{
    Act, Condition, Fault, Figure, GenerationMistake, Mistake, Scope, StageFault, TimingMistake,
    TokenizerMistake,
};

/// A kind of fault: one mistake, one scope, one condition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FaultKind {
    /// What it is a kind of.
    pub family: &'static str,
    /// In words.
    pub name: String,
    /// What has to show it.
    pub proof: Proof,
    /// What must be there for it to have consequences; `None` if it always has.
    pub needs: Option<&'static str>,
    /// Whether it may change nothing at a place. One that is bound to a condition must not: then the condition did not
    /// arise, and nothing was tested.
    pub may_change_nothing: bool,
    /// What the engine that has it does differently beside, and is right in, in the text form of faults.
    pub behind: Option<String>,
    /// Every place that it can be at.
    pub places: Vec<Place>,
}

/// What has to show a kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proof {
    /// The comparison of one prompt's taps. Whether the whole model computes something else by it than rounding does, so
    /// that it shows in its logits, too.
    Taps {
        /// See above.
        in_logits: bool,
    },
    /// The comparison under several conditions: prompts, batches, threads, with taps and without.
    Conditions,
    /// Tokens generated.
    Generation,
    /// The score of a text.
    Text,
    /// Texts tokenized.
    Tokenizer,
    /// Times, and what is generated meanwhile.
    Times,
    /// The speed, held against a baseline.
    Speed,
}

/// A fault of a kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// In its text form.
    pub fault: String,
    /// The tap at which it is made; `None` for one around the stages.
    pub tap: Option<Tap>,
    /// The layer.
    pub layer: Option<usize>,
    /// The same fault in every layer, where there are layers.
    pub in_every_layer: Option<String>,
}

/// Scopes that narrow a fault down, and the mistakes that they are tried with.
const NARROWED: &[(Mistake, Scope)] = &[
    (Mistake::ScaledByHalfAgain, Scope::LastPosition),
    (Mistake::Negated, Scope::BatchTail),
    (Mistake::ScaledByHalfAgain, Scope::OneTokenBatches),
    (Mistake::Zero, Scope::OneHead),
    (Mistake::ScaledByHalfAgain, Scope::OneHead),
    (Mistake::Zero, Scope::OneThread),
];

/// Mistakes that are made in single heads.
const OF_HEADS: &[Mistake] = &[
    Mistake::Zero,
    Mistake::Negated,
    Mistake::ScaledByAHundredth,
    Mistake::OffByAHundredthRms,
];

/// Mistakes that are made in single elements, and in parts of the vocabulary.
const OF_ELEMENTS: &[Mistake] = &[
    Mistake::OffByRms,
    Mistake::OffByAHundredthRms,
    Mistake::Negated,
];

/// Indices of heads and elements: at both ends of blocks, and between.
const HEADS: [usize; 4] = [0, 1, 2, 3];
const ELEMENTS: [usize; 8] = [0, 1, 31, 33, 64, 100, 127, 255];

/// Parts of a row of logits.
const OF_VOCABULARY: &[Scope] = &[
    Scope::Element(77),
    Scope::LastElements(64),
    Scope::EveryNth(32),
];

/// What conditions are tried with: mistakes, and the taps at which they are made.
struct Bound {
    mistakes: &'static [Mistake],
    taps: &'static [Tap],
    scopes: &'static [Scope],
}

/// Stages of every sort, by mistakes that none could hide; the norm behind it hides a factor.
const ANYWHERE: Bound = Bound {
    mistakes: &[Mistake::OffByRms, Mistake::Negated, Mistake::Zero],
    taps: &[
        Tap::AttnNorm,
        Tap::Q,
        Tap::VCache,
        Tap::AttnOut,
        Tap::FfnUp,
        Tap::FfnAct,
        Tap::LayerOut,
        Tap::Logits,
    ],
    scopes: &[Scope::Everywhere],
};

/// Where tokens are all that shows: mistakes that lead to others.
const SHOWN_BY_TOKENS: Bound = Bound {
    mistakes: &[Mistake::Negated, Mistake::Zero],
    taps: &[Tap::Embd, Tap::FinalNorm, Tap::Logits],
    scopes: &[Scope::Everywhere],
};

/// Parts of the vocabulary.
const VOCABULARY: Bound = Bound {
    mistakes: OF_ELEMENTS,
    taps: &[Tap::Logits],
    scopes: OF_VOCABULARY,
};

/// What the conditions are kinds of.
const CONDITIONS: &[(&str, &Bound, &[Condition])] = &[
    (
        "state",
        &ANYWHERE,
        &[
            Condition::FromEvaluation(3),
            Condition::FromEvaluation(9),
            Condition::FirstEvaluations(1),
            Condition::EveryEvaluation(3),
            Condition::OtherPrompt,
        ],
    ),
    ("threads", &ANYWHERE, &[Condition::Threads(2)]),
    (
        "batch windows",
        &ANYWHERE,
        &[
            Condition::Batches(2, 3),
            Condition::Batches(4, 7),
            Condition::Batches(8, 15),
            Condition::Batches(16, 31),
            Condition::Batches(32, 63),
            Condition::Batches(64, 127),
            Condition::Batches(128, 512),
        ],
    ),
    (
        "positions",
        &ANYWHERE,
        &[
            Condition::FromPosition(1),
            Condition::FromPosition(7),
            Condition::FromPosition(32),
            Condition::FromPosition(64),
            Condition::FromPosition(120),
        ],
    ),
    ("paths", &ANYWHERE, &[Condition::Untapped]),
    ("paths", &SHOWN_BY_TOKENS, &[Condition::Generating]),
    ("vocabulary", &VOCABULARY, &[Condition::Untapped]),
];

impl FaultKind {
    /// Every kind that can be in a model of so many layers that has these taps.
    pub fn all(taps: &[Tap], n_layer: usize) -> Vec<FaultKind> {
        let model = Shape { taps, n_layer };
        let mut kinds = Vec::new();
        for &mistake in Mistake::ALL.iter().filter(|mistake| mistake.is_wrong()) {
            kinds.push(model.stages(mistake, &[Scope::Everywhere]));
        }
        for &(mistake, scope) in NARROWED {
            kinds.push(model.stages(mistake, &[scope]));
        }
        kinds.extend(model.parts());
        kinds.extend(model.behind());
        for &(family, bound, conditions) in CONDITIONS {
            kinds.extend(model.conditional(family, bound, conditions, Proof::Conditions));
        }
        kinds.extend(model.conditional(
            "text",
            &ANYWHERE,
            &[Condition::FromPosition(40)],
            Proof::Text,
        ));
        kinds.extend(model.conditional(
            "times",
            &SHOWN_BY_TOKENS,
            &[Condition::Timed],
            Proof::Times,
        ));
        kinds.extend(around());
        kinds.retain(|kind| !kind.places.is_empty());
        kinds
    }
}

/// What there is of a model.
struct Shape<'a> {
    taps: &'a [Tap],
    n_layer: usize,
}

impl Shape<'_> {
    /// Every fault that makes a mistake.
    fn places(
        &self,
        mistake: Mistake,
        taps: &[Tap],
        scopes: &[Scope],
        when: Condition,
    ) -> Vec<Place> {
        let mut places = Vec::new();
        for &tap in taps.iter().filter(|tap| self.taps.contains(tap)) {
            let layers: Vec<Option<usize>> = match tap.per_layer() {
                true => (0..self.n_layer).map(Some).collect(),
                false => vec![None],
            };
            for layer in layers {
                places.extend(scopes.iter().map(|&scope| {
                    let fault = |layer| {
                        let act = Act::Stage(StageFault {
                            mistake,
                            tap,
                            layer,
                            scope,
                        });
                        Fault { act, when }.to_string()
                    };
                    Place {
                        fault: fault(layer),
                        tap: Some(tap),
                        layer,
                        in_every_layer: layer.map(|_| fault(None)),
                    }
                }));
            }
        }
        places
    }

    /// A mistake at every tap at which it can be made.
    fn stages(&self, mistake: Mistake, scopes: &[Scope]) -> FaultKind {
        let scope = scopes.first().copied().unwrap_or_default();
        let taps = mistake.taps().iter().copied();
        let taps: Vec<Tap> = taps
            .filter(|tap| !scope.of_heads() || tap.has_heads())
            .collect();
        FaultKind {
            family: match mistake {
                Mistake::EarlierRow | Mistake::EarlierSequenceSeen => "state",
                _ => "stages",
            },
            name: match scope {
                Scope::Everywhere => mistake.name().to_owned(),
                scope => format!("{}, {scope}", mistake.name()),
            },
            proof: match mistake {
                Mistake::EarlierRow | Mistake::EarlierSequenceSeen => Proof::Conditions,
                _ => Proof::Taps {
                    in_logits: mistake.shows_in_logits() && scope == Scope::Everywhere,
                },
            },
            needs: mistake.needs(),
            may_change_nothing: true,
            behind: None,
            places: self.places(mistake, &taps, scopes, Condition::Always),
        }
    }

    /// Mistakes in single heads and elements, and in parts of the vocabulary.
    fn parts(&self) -> Vec<FaultKind> {
        let mut kinds = Vec::new();
        let mut add = |family, name: String, places, in_logits| {
            kinds.push(FaultKind {
                family,
                name,
                proof: Proof::Taps { in_logits },
                needs: None,
                may_change_nothing: true,
                behind: None,
                places,
            });
        };
        let (of_heads, rows): (Vec<Tap>, Vec<Tap>) =
            Tap::ALL.iter().partition(|tap| tap.has_heads());
        let all: Vec<Tap> = of_heads.iter().chain(&rows).copied().collect();
        for &mistake in OF_HEADS {
            let places = self.places(
                mistake,
                &of_heads,
                &HEADS.map(Scope::Head),
                Condition::Always,
            );
            add(
                "heads and elements",
                format!("{}, one head", mistake.name()),
                places,
                false,
            );
        }
        for &mistake in OF_ELEMENTS {
            let scopes = ELEMENTS.map(Scope::Element);
            let places = self.places(mistake, &all, &scopes, Condition::Always);
            add(
                "heads and elements",
                format!("{}, one element", mistake.name()),
                places,
                false,
            );
            for &scope in OF_VOCABULARY {
                let places = self.places(mistake, &[Tap::Logits], &[scope], Condition::Always);
                add(
                    "vocabulary",
                    format!("{}, {scope}", mistake.name()),
                    places,
                    false,
                );
            }
        }
        kinds
    }

    /// Mistakes in an engine that also differs where it is right.
    fn behind(&self) -> Vec<FaultKind> {
        let everywhere = |honest: Mistake| {
            let taps = honest.taps().iter().filter(|tap| self.taps.contains(tap));
            let faults = taps.map(|&tap| {
                let act = Act::Stage(StageFault {
                    mistake: honest,
                    tap,
                    layer: None,
                    scope: Scope::Everywhere,
                });
                let when = Condition::Always;
                Fault { act, when }.to_string()
            });
            faults.collect::<Vec<_>>().join("+")
        };
        let kind = |honest: Mistake, name: &str, mistakes: &[Mistake], taps: &[Tap]| FaultKind {
            family: "behind an honest difference",
            name: format!("{}, {name}", honest.name()),
            proof: Proof::Taps { in_logits: true },
            needs: None,
            may_change_nothing: false,
            behind: Some(everywhere(honest)),
            places: mistakes
                .iter()
                .flat_map(|&m| self.places(m, taps, &[Scope::Everywhere], Condition::Always))
                .collect(),
        };
        let honest = [Mistake::F32Angles, Mistake::F16Inputs, Mistake::HalvesAway];
        let kinds = honest.into_iter().flat_map(|honest| {
            let mistakes = ANYWHERE.mistakes;
            [
                kind(honest, "elsewhere", mistakes, ANYWHERE.taps),
                kind(honest, "at the same tap", mistakes, honest.taps()),
            ]
        });
        kinds.collect()
    }

    fn conditional(
        &self,
        family: &'static str,
        bound: &Bound,
        conditions: &[Condition],
        proof: Proof,
    ) -> Vec<FaultKind> {
        let kind = |&when: &Condition| FaultKind {
            family,
            name: when.to_string(),
            proof,
            needs: None,
            may_change_nothing: false,
            behind: None,
            places: bound
                .mistakes
                .iter()
                .flat_map(|&m| self.places(m, bound.taps, bound.scopes, when))
                .collect(),
        };
        conditions.iter().map(kind).collect()
    }
}

/// Kinds around the stages.
fn around() -> Vec<FaultKind> {
    let kind =
        |family, name: &str, proof, needs: Option<&'static str>, acts: Vec<(Act, Condition)>| {
            let place = |(act, when)| Place {
                fault: Fault { act, when }.to_string(),
                tap: None,
                layer: None,
                in_every_layer: None,
            };
            FaultKind {
                family,
                name: name.to_owned(),
                proof,
                needs,
                may_change_nothing: needs.is_some(),
                behind: None,
                places: acts.into_iter().map(place).collect(),
            }
        };
    let mut kinds = Vec::new();
    for mistake in GenerationMistake::ALL {
        let (family, proof) = match mistake {
            GenerationMistake::AnswersStored => ("times", Proof::Times),
            _ => ("generation", Proof::Generation),
        };
        let from: &[usize] = match mistake {
            GenerationMistake::PromptCutShort | GenerationMistake::AnswersStored => &[0],
            GenerationMistake::OneTokenForEver | GenerationMistake::StepLate => &[1, 2, 5],
            _ => &[0, 1, 3, 6],
        };
        let acts = from
            .iter()
            .map(|&n| (Act::Generation(mistake, n), Condition::Always));
        let name = mistake.name();
        kinds.push(kind(family, name, proof, mistake.needs(), acts.collect()));
    }
    let timed = [0, 1, 3].map(|n| {
        let act = Act::Generation(GenerationMistake::SecondBest, n);
        (act, Condition::Timed)
    });
    kinds.push(kind(
        "times",
        "second-best@timed",
        Proof::Times,
        None,
        timed.into(),
    ));
    for mistake in TokenizerMistake::ALL {
        let which: &[usize] = match mistake.of_one_token() {
            true => &[0, 1, 2, 3, 5, 8],
            false => &[0],
        };
        let acts = which
            .iter()
            .map(|&n| (Act::Tokenizer(mistake, n), Condition::Always));
        let name = mistake.name();
        kinds.push(kind(
            "tokenizers",
            name,
            Proof::Tokenizer,
            mistake.needs(),
            acts.collect(),
        ));
    }
    for mistake in TimingMistake::ALL {
        let figures = Figure::ALL.into_iter();
        // A small model is loaded in less time than what may lie between two clocks: there is no less to be told.
        let figures =
            figures.filter(|&f| f != Figure::Load || mistake == TimingMistake::TwiceTheTime);
        let acts = figures.map(|figure| (Act::Times(mistake, figure), Condition::Always));
        kinds.push(kind(
            "times",
            mistake.name(),
            Proof::Times,
            None,
            acts.collect(),
        ));
    }
    let slower = [50, 75, 100].map(|percent| (Act::Slower(percent), Condition::Always));
    kinds.push(kind("speed", "slower", Proof::Speed, None, slower.into()));
    kinds
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::super::Faults;
    use super::*;

    #[test]
    fn kinds_are_faults_wherever_they_can_be() {
        let kinds = FaultKind::all(&Tap::ALL, 3);
        assert!(kinds.len() >= 130, "{}", kinds.len());
        let names: BTreeSet<(&str, &str)> =
            kinds.iter().map(|k| (k.family, k.name.as_str())).collect();
        assert_eq!(names.len(), kinds.len(), "names are distinct");
        for kind in &kinds {
            for place in &kind.places {
                let faults: Faults = place.fault.parse().unwrap();
                assert_eq!(faults.to_string(), place.fault);
                let [fault] = faults.0[..] else {
                    panic!("{faults}")
                };
                let at = match fault.act {
                    Act::Stage(stage) => (Some(stage.tap), stage.layer),
                    _ => (None, None),
                };
                assert_eq!((place.tap, place.layer), at, "{faults}");
            }
        }
    }

    #[test]
    fn a_model_has_no_faults_at_taps_that_it_lacks() {
        let kinds = FaultKind::all(&[Tap::Q], 1);
        let mut places = kinds.iter().flat_map(|kind| &kind.places);
        assert!(places.all(|place| place.tap.is_none_or(|tap| tap == Tap::Q)));
        assert!(kinds.iter().all(|kind| !kind.name.starts_with("silu")));
    }
}
