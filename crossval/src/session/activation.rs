//! What a model is taken to compute on the gate of its feed-forward network, in a report and its verdict.

use bitnet_model::activation::{Chosen, Source};
use bitnet_model::{Architecture, lint};
use crossval_protocol::ModelFacts;
use reports::model::{self, ActivationSource, Finding};
use reports::outcome::Outcome;

/// Its entry in a report.
pub(crate) fn report(activation: Chosen) -> model::Activation {
    model::Activation {
        function: activation.function.name().to_owned(),
        source: match activation.source {
            Source::File => ActivationSource::File,
            Source::Architecture => ActivationSource::Architecture,
            Source::Assumed => ActivationSource::Assumed,
            Source::Override => ActivationSource::Override,
        },
    }
}

/// That nobody says what the activation is. Engines that assume the same agree, and may agree on a wrong model: only the
/// checkpoint can tell.
pub(crate) fn assumed(facts: &ModelFacts) -> Option<Finding> {
    let architecture = Architecture::named(&facts.architecture)?;
    let sentence = lint::activation_assumed(architecture, facts.activation?)?;
    Some(Finding {
        outcome: Outcome::Pass,
        source: model::Source::ModelFile,
        place: None,
        text: format!("{sentence} (--activation decides)"),
    })
}
