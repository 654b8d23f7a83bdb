//! Pieces of taps on their way into a trace.

use std::borrow::Cow;
use std::collections::BTreeSet;

use bitnet_model::tap::Tap;
use safetensors::tensor::Dtype;

use crate::error::Error;
use bitnet_model::tap::sites;
use crossval_protocol::TapHeader;
use crossval_trace::tap_tensor;

use super::output::Output;

/// Takes the pieces of one prompt.
pub(super) struct Activations<'a> {
    pub(super) writer: &'a mut Output,
    /// Name of the engine, for messages.
    pub(super) engine: &'a str,
    pub(super) taps: &'a [Tap],
    pub(super) n_layer: usize,
    pub(super) prompt: usize,
    /// Positions of the prompt and its decode steps.
    pub(super) positions: usize,
    /// Taps of which another run sent other values, by name.
    pub(super) differing: BTreeSet<String>,
}

impl Activations<'_> {
    /// Writes a piece of a batch that ends before position `end`.
    pub(super) fn keep(
        &mut self,
        end: usize,
        header: &TapHeader,
        payload: &[u8],
    ) -> Result<(), Error> {
        let name = self.name(header)?;
        let layout = self.layout(end, header)?;
        let mut shape = vec![self.positions];
        shape.extend(layout.row());
        match self.writer.shape(&name) {
            None => {
                let dtype = if header.tap.is_f16() {
                    Dtype::F16
                } else {
                    Dtype::F32
                };
                self.writer.begin(name.clone(), dtype, shape)?;
            }
            Some(begun) if begun != shape => {
                let what = format!("{name} had the shape {begun:?}, and then {shape:?}");
                return Err(self.broken(&what));
            }
            Some(_) => {}
        }
        let in_turn = self.writer.filled(&name) == Some(header.first_position);
        if !in_turn || header.rows > end.saturating_sub(header.first_position) {
            let (first, rows) = (header.first_position, header.rows);
            let what = format!("{rows} rows of {name} from position {first} came out of turn");
            return Err(self.broken(&what));
        }
        for (i, row) in payload.chunks_exact(header.row_bytes()).enumerate() {
            let row = layout.padded(row);
            self.writer
                .put_row(&name, header.first_position + i, &row)?;
        }
        Ok(())
    }

    /// Compares a piece with what was kept.
    pub(super) fn compare(
        &mut self,
        end: usize,
        header: &TapHeader,
        payload: &[u8],
    ) -> Result<(), Error> {
        let name = self.name(header)?;
        let layout = self.layout(end, header)?;
        let mut same = header.rows <= end.saturating_sub(header.first_position);
        for (i, row) in payload.chunks_exact(header.row_bytes()).enumerate() {
            same =
                same && self.writer.row(&name, header.first_position + i)? == *layout.padded(row);
        }
        if !same {
            self.differing.insert(name);
        }
        Ok(())
    }

    /// # Errors
    /// If a tap was not sent for all positions before `end`.
    pub(super) fn check_complete(&self, end: usize) -> Result<(), Error> {
        for (layer, tap) in sites(self.taps, self.n_layer) {
            let name = tap_tensor(self.prompt, layer, tap);
            let filled = self.writer.filled(&name).unwrap_or(0);
            if filled < end {
                return Err(self.broken(&format!("{name} lacks the positions {filled}..{end}")));
            }
        }
        Ok(())
    }

    fn name(&self, header: &TapHeader) -> Result<String, Error> {
        let name = tap_tensor(self.prompt, header.layer, header.tap);
        let layer = match header.layer {
            Some(layer) => header.tap.per_layer() && layer < self.n_layer,
            None => !header.tap.per_layer(),
        };
        if layer && self.taps.contains(&header.tap) {
            Ok(name)
        } else {
            Err(self.broken(&format!("{name} was not asked for")))
        }
    }

    fn layout(&self, end: usize, header: &TapHeader) -> Result<Layout, Error> {
        let width = header.width;
        let (groups, filled, whole) = match header.tap {
            Tap::AttnProbs if !width.is_multiple_of(end) => {
                let what = format!("{width} attention probabilities for {end} positions");
                return Err(self.broken(&what));
            }
            Tap::AttnProbs => (width / end, Some(end), self.positions),
            _ => (1, None, width),
        };
        Ok(Layout {
            groups,
            filled,
            whole,
            value_bytes: header.row_bytes() / width,
        })
    }

    fn broken(&self, what: &str) -> Error {
        super::broken(self.engine, what)
    }
}

/// How a row that was sent lies in the file.
struct Layout {
    groups: usize,
    /// Values per group that are sent, where the file has more.
    filled: Option<usize>,
    /// Values per group in the file.
    whole: usize,
    value_bytes: usize,
}

impl Layout {
    fn row(&self) -> Vec<usize> {
        match self.filled {
            Some(_) => vec![self.groups, self.whole],
            None => vec![self.whole],
        }
    }

    fn padded<'a>(&self, row: &'a [u8]) -> Cow<'a, [u8]> {
        let Some(filled) = self.filled else {
            return row.into();
        };
        let (filled, whole) = (filled * self.value_bytes, self.whole * self.value_bytes);
        let mut padded = Vec::with_capacity(self.groups * whole);
        for group in row.chunks_exact(filled) {
            padded.extend_from_slice(group);
            padded.resize(padded.len() + whole - filled, 0);
        }
        padded.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attention_probabilities_are_padded() {
        let folder = tempfile::tempdir().unwrap();
        let mut writer = Output::create(&folder.path().join("t")).unwrap();
        let mut activations = Activations {
            writer: &mut writer,
            engine: "e",
            taps: &[Tap::AttnProbs],
            n_layer: 1,
            prompt: 0,
            positions: 3,
            differing: BTreeSet::new(),
        };
        let header = |first_position, rows, width| TapHeader {
            tap: Tap::AttnProbs,
            layer: Some(0),
            first_position,
            rows,
            width,
        };
        // Two heads; a batch of two positions, then one of one.
        let bytes = |values: &[f32]| -> Vec<u8> { bytemuck::cast_slice(values).to_vec() };
        let first = bytes(&[1.0, 0.0, 2.0, 0.0, 3.0, 4.0, 5.0, 6.0]);
        activations.keep(2, &header(0, 2, 4), &first).unwrap();
        let error = activations.check_complete(3).unwrap_err();
        assert!(
            error
                .to_string()
                .contains("prompt0.layer00.attn_probs lacks"),
            "{error}"
        );
        for wrong in [header(1, 1, 6), header(2, 1, 9), header(2, 1, 7)] {
            let payload = vec![0; wrong.row_bytes()];
            let error = activations.keep(3, &wrong, &payload).unwrap_err();
            assert_eq!(error.outcome().exit_code(), 30, "{error}");
        }
        let second = bytes(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
        activations.keep(3, &header(2, 1, 6), &second).unwrap();
        activations.check_complete(3).unwrap();
        activations.compare(3, &header(2, 1, 6), &second).unwrap();
        assert!(activations.differing.is_empty());
        activations.compare(2, &header(0, 2, 4), &[0; 32]).unwrap();
        assert_eq!(activations.differing.len(), 1);
        let row = |i| writer.row("prompt0.layer00.attn_probs", i).unwrap();
        assert_eq!(row(0), bytes(&[1.0, 0.0, 0.0, 2.0, 0.0, 0.0]));
        assert_eq!(row(1), bytes(&[3.0, 4.0, 0.0, 5.0, 6.0, 0.0]));
        assert_eq!(row(2), second);
    }
}
