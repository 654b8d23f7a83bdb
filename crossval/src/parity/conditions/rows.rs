//! The rows of logits that an engine answers one evaluation with.

use std::collections::BTreeMap;

use bitnet_model::tap::Tap;
use crossval_protocol::EvalRequest;
use reports::model::Asked;

use super::plan::Batch;
use crate::engine::{Engine, EngineError, EvalEvent};
use crate::session::lockstep::aligned;

/// An evaluation that was asked for, and is still to be answered.
pub(super) struct Asking<'a> {
    pub(super) first: usize,
    pub(super) batch: Batch,
    pub(super) taps: &'a [Tap],
    pub(super) n_vocab: usize,
}

/// What came: the tapped rows by position, and the last one as the answer's payload. What is missing is not there.
#[derive(Debug, Default)]
pub(super) struct Answer {
    pub(super) tapped: BTreeMap<usize, Vec<f32>>,
    pub(super) last: Option<Vec<f32>>,
}

impl Asking<'_> {
    fn last_logits(&self) -> bool {
        self.batch.asked != Asked::Logits
    }

    /// Sends the request.
    ///
    /// # Errors
    /// The engine's.
    pub(super) fn begin(&self, engine: &mut Engine, tokens: &[u32]) -> Result<(), EngineError> {
        engine.begin_eval(EvalRequest {
            first_position: self.first,
            tokens,
            taps: self.taps,
            overwrite: false,
            last_logits: self.last_logits(),
        })
    }

    /// Reads the answer.
    ///
    /// # Errors
    /// The engine's; one that sends taps that nobody asked for breaks the protocol.
    pub(super) fn finish(&self, engine: &mut Engine) -> Result<Answer, EngineError> {
        let mut answer = Answer::default();
        let positions = self.first..self.first + self.batch.size;
        while let EvalEvent::Tap(piece) = engine.next_event()? {
            if !self.taps.contains(&piece.tap) {
                let what = format!("{}, which was not asked for", piece.tap);
                return Err(engine.broke_protocol(&what));
            }
            if piece.tap != Tap::Logits || piece.width != self.n_vocab {
                continue;
            }
            let rows = engine.payload().chunks_exact(piece.row_bytes());
            for (row, bytes) in rows.enumerate() {
                let position = piece.first_position.saturating_add(row);
                if positions.contains(&position) {
                    let row = aligned(bytes).into_owned();
                    answer.tapped.insert(position, row);
                }
            }
        }
        let bytes = engine.payload();
        if self.last_logits() && bytes.len() == self.n_vocab * size_of::<f32>() {
            answer.last = Some(aligned(bytes).into_owned());
        }
        Ok(answer)
    }

    /// The rows that an answer should have, by position, the last one apart.
    pub(super) fn expected(&self) -> impl Iterator<Item = Row> {
        let tapped = self.taps.contains(&Tap::Logits);
        let positions = self.first..self.first + self.batch.size;
        let last = positions.end - 1;
        let tapped = positions.filter(move |_| tapped).map(Row::Tapped);
        tapped.chain(self.last_logits().then_some(Row::Last(last)))
    }
}

/// A row of logits, by its position.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Row {
    /// Of the tap.
    Tapped(usize),
    /// Beside it.
    Last(usize),
}

impl Row {
    pub(super) fn position(self) -> usize {
        match self {
            Row::Tapped(position) | Row::Last(position) => position,
        }
    }
}

impl Answer {
    /// A row, if it came.
    pub(super) fn take(&mut self, row: Row) -> Option<Vec<f32>> {
        match row {
            Row::Tapped(position) => self.tapped.remove(&position),
            Row::Last(_) => self.last.take(),
        }
    }
}
