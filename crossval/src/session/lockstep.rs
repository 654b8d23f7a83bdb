//! Two engines evaluate the same batch in lockstep; every tap is compared as it streams by.
//!
//! Neither engine runs ahead: each blocks on its pipe until the driver reads. The driver follows the
//! candidate and pulls the reference along; pieces of the reference that come before their turn wait, and
//! none waits longer than its layer. So memory does not grow with the prompt.

use std::collections::{HashMap, HashSet};

use bitnet_model::tap::Tap;
use half::f16;
use reports::model::Role;
use xxhash_rust::xxh3::Xxh3Default;

use super::pair::Pair;
use crate::compare::site::stage;
use crate::engine::{Engine, EngineError, EvalEvent, Failed, by};
use crossval_protocol::{EvalRequest, TapHeader};

/// What sees the rows.
pub trait RowSink {
    /// One row of an F32 tap.
    fn row_f32(&mut self, at: RowAt, reference: &[f32], candidate: &[f32]);
    /// One row of an F16 tap.
    fn row_f16(&mut self, at: RowAt, reference: &[f16], candidate: &[f16]);
}

/// Which row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RowAt {
    /// The tap.
    pub tap: Tap,
    /// Layer; `None` outside the layers.
    pub layer: Option<usize>,
    /// Position in the sequence.
    pub position: usize,
}

/// One batch, and what is to be compared of it.
#[derive(Clone, Copy, Debug)]
pub struct Evaluation<'a> {
    /// Position of the first token.
    pub first_position: usize,
    /// Token IDs.
    pub tokens: &'a [u32],
    /// Taps to compare.
    pub taps: &'a [Tap],
    /// Whether the candidate goes on with the reference's values.
    pub isolated: bool,
}

/// Hashes of the reference's taps, to tell whether it repeats itself.
#[derive(Clone, Default)]
pub struct ReferenceHashes {
    taps: HashMap<(Tap, Option<usize>), Xxh3Default>,
}

impl ReferenceHashes {
    fn add(&mut self, header: &TapHeader, payload: &[u8]) {
        let hasher = self.taps.entry((header.tap, header.layer)).or_default();
        hasher.update(payload);
    }

    /// Taps whose values differ between two runs, in order.
    pub fn differences(&self, other: &ReferenceHashes) -> Vec<(Option<usize>, Tap)> {
        let mut differences: Vec<_> = self
            .taps
            .iter()
            .filter(|(key, hasher)| {
                other
                    .taps
                    .get(key)
                    .is_some_and(|o| o.digest() != hasher.digest())
            })
            .map(|(&(tap, layer), _)| (layer, tap))
            .collect();
        differences.sort_by_key(|&(layer, tap)| (stage(tap, layer), tap));
        differences
    }
}

/// Runs one batch through both engines.
///
/// Rows that one engine did not send, or sent in another shape, are not reported to `sink`: coverage shows
/// them as missing.
///
/// # Errors
/// The engine that failed. What was compared until then stays compared.
pub fn evaluate(
    pair: &mut Pair,
    batch: Evaluation,
    hashes: &mut ReferenceHashes,
    sink: &mut dyn RowSink,
) -> Result<(), Failed> {
    let Pair {
        reference,
        candidate,
    } = pair;
    let request = |overwrite| EvalRequest {
        first_position: batch.first_position,
        tokens: batch.tokens,
        taps: batch.taps,
        overwrite,
        last_logits: false,
    };
    reference
        .begin_eval(request(false))
        .map_err(by(Role::Reference))?;
    candidate
        .begin_eval(request(batch.isolated))
        .map_err(by(Role::Candidate))?;
    let mut candidate_pieces = HashSet::new();
    let mut ahead = Ahead {
        engine: reference,
        taps: batch.taps,
        pieces: HashSet::new(),
        waiting: HashMap::new(),
        next: None,
        done: false,
        hashes,
    };
    loop {
        let event = candidate.next_event().map_err(by(Role::Candidate))?;
        let EvalEvent::Tap(header) = event else { break };
        if !candidate_pieces.insert(piece_key(&header)) || !batch.taps.contains(&header.tap) {
            return Err(by(Role::Candidate)(unasked(candidate, &header)));
        }
        let piece = ahead.take(&header).map_err(by(Role::Reference))?;
        let piece = piece.filter(|(of_reference, _)| *of_reference == header);
        if let Some((_, values)) = &piece {
            compare(&header, values, candidate.payload(), sink);
        }
        if batch.isolated {
            let values = piece.as_ref().map(|(_, values)| values.as_slice());
            // What is the same already need not travel.
            let values = values.filter(|values| *values != candidate.payload());
            candidate.overwrite(values).map_err(by(Role::Candidate))?;
        }
    }
    ahead.drain().map_err(by(Role::Reference))
}

/// A piece of a tap and its values.
type Piece = (TapHeader, Vec<u8>);

/// What the pieces of both engines are paired by: tap, layer, first position.
type PieceKey = (Tap, Option<usize>, usize);

fn piece_key(header: &TapHeader) -> PieceKey {
    (header.tap, header.layer, header.first_position)
}

/// A piece that was sent before, or that nobody asked for.
fn unasked(engine: &mut Engine, header: &TapHeader) -> EngineError {
    let layer = header
        .layer
        .map_or(String::new(), |l| format!("layer {l}, "));
    let (tap, position) = (header.tap, header.first_position);
    engine.broke_protocol(&format!(
        "{layer}{tap} from position {position}, which was not asked for, or for the second time"
    ))
}

/// The reference's pieces, reordered within a layer.
struct Ahead<'a> {
    engine: &'a mut Engine,
    /// What it was asked for, and what it has sent.
    taps: &'a [Tap],
    pieces: HashSet<PieceKey>,
    waiting: HashMap<PieceKey, Piece>,
    /// Read, but of a later stage than anything asked for so far.
    next: Option<Piece>,
    done: bool,
    hashes: &'a mut ReferenceHashes,
}

impl Ahead<'_> {
    /// The reference's piece for `wanted`; `None` if it sends none.
    fn take(&mut self, wanted: &TapHeader) -> Result<Option<Piece>, EngineError> {
        let now = stage(wanted.tap, wanted.layer);
        self.waiting
            .retain(|&(tap, layer, _), _| stage(tap, layer) >= now);
        if let Some(piece) = self.waiting.remove(&piece_key(wanted)) {
            return Ok(Some(piece));
        }
        while let Some((header, values)) = self.read()? {
            if stage(header.tap, header.layer) > now {
                self.next = Some((header, values));
                break;
            }
            if piece_key(&header) == piece_key(wanted) {
                return Ok(Some((header, values)));
            }
            self.waiting.insert(piece_key(&header), (header, values));
        }
        Ok(None)
    }

    fn read(&mut self) -> Result<Option<Piece>, EngineError> {
        if let Some(piece) = self.next.take() {
            return Ok(Some(piece));
        }
        if self.done {
            return Ok(None);
        }
        match self.engine.next_event()? {
            EvalEvent::Tap(header) => {
                if !self.pieces.insert(piece_key(&header)) || !self.taps.contains(&header.tap) {
                    return Err(unasked(self.engine, &header));
                }
                let values = self.engine.take_payload();
                self.hashes.add(&header, &values);
                Ok(Some((header, values)))
            }
            EvalEvent::Done => {
                self.done = true;
                Ok(None)
            }
        }
    }

    fn drain(&mut self) -> Result<(), EngineError> {
        while self.read()?.is_some() {}
        Ok(())
    }
}

fn compare(header: &TapHeader, reference: &[u8], candidate: &[u8], sink: &mut dyn RowSink) {
    let rows = reference
        .chunks_exact(header.row_bytes())
        .zip(candidate.chunks_exact(header.row_bytes()));
    for (row, (reference, candidate)) in rows.enumerate() {
        let at = RowAt {
            tap: header.tap,
            layer: header.layer,
            position: header.first_position.saturating_add(row),
        };
        // A Vec<u8> need not be aligned for f32: copied only if it is not.
        if header.tap.is_f16() {
            let (r, c) = (aligned(reference), aligned(candidate));
            sink.row_f16(at, &r, &c);
        } else {
            let (r, c) = (aligned(reference), aligned(candidate));
            sink.row_f32(at, &r, &c);
        }
    }
}

/// Values as they came over the wire.
pub(crate) fn aligned<T: bytemuck::Pod>(bytes: &[u8]) -> std::borrow::Cow<'_, [T]> {
    match bytemuck::try_cast_slice(bytes) {
        Ok(values) => values.into(),
        Err(_) => bytemuck::allocation::pod_collect_to_vec(bytes).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_tell_which_tap_changed() {
        let header = |tap, layer| TapHeader {
            tap,
            layer,
            first_position: 0,
            rows: 1,
            width: 1,
        };
        let mut runs = [ReferenceHashes::default(), ReferenceHashes::default()];
        for (i, run) in runs.iter_mut().enumerate() {
            run.add(&header(Tap::Embd, None), &[1, 2, 3, 4]);
            run.add(&header(Tap::Q, Some(2)), &[i as u8, 0, 0, 0]);
            run.add(&header(Tap::Q, Some(1)), &[i as u8, 0, 0, 0]);
        }
        assert_eq!(
            runs[0].differences(&runs[1]),
            [(Some(1), Tap::Q), (Some(2), Tap::Q)]
        );
        assert!(runs[0].differences(&runs[0].clone()).is_empty());
    }
}
