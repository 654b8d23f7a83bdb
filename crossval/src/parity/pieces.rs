//! The text of single tokens, for the report.

use reports::model::{LogitsResult, TokenLogit};

use crate::engine::{EngineError, Failed, by};
use crate::session::pair::Pair;

/// Writes their texts to the likeliest tokens. They stay without where no engine has a tokenizer or it refuses.
pub(super) fn name_tokens(pair: &mut Pair, logits: &mut [LogitsResult]) -> Result<(), Failed> {
    let stats = logits
        .iter_mut()
        .flat_map(|l| [l.isolated.as_mut(), l.cumulative.as_mut()]);
    let positions = stats.flatten().flat_map(|stats| &mut stats.worst);
    let mut tokens: Vec<&mut TokenLogit> = positions
        .flat_map(|at| at.reference.iter_mut().chain(&mut at.candidate))
        .collect();
    let ids: Vec<u32> = tokens.iter().map(|token| token.token).collect();
    let Some((role, engine)) = pair.tokenizer() else {
        return Ok(());
    };
    let pieces = match engine.pieces(&ids) {
        Err(EngineError::Refused { .. }) => return Ok(()),
        pieces => pieces.map_err(by(role))?,
    };
    for (token, piece) in tokens.iter_mut().zip(pieces) {
        token.text = String::from_utf8(piece).ok();
    }
    Ok(())
}
