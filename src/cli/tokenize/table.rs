//! Tokens of both engines side by side.

use std::fmt::Write;
use std::ops::Range;

use comfy_table::CellAlignment;
use crossval_protocol::{DecodeOptions, EncodeOptions};
use reports::model::Role;
use reports::number;

use super::{SHOWN_TOKENS, ids_or_refusal};
use crate::cli::terminal::table;
use crossval::engine::{Engine, EngineError, Failed, by};
use crossval::tokens::{Answer, Compared, TextDifference, Tokenizers, escape};

/// Tokens, and bytes of text, shown on either side of a difference.
const CONTEXT: usize = 8;
const CONTEXT_BYTES: usize = 40;

/// The table if it is short or there is a difference, and what it comes to.
pub(super) fn render(
    engines: &mut Tokenizers,
    text: &[u8],
    options: EncodeOptions,
    comparison: &Compared,
) -> Result<String, Failed> {
    let mut out = String::new();
    let names = [&engines.candidate, &engines.reference].map(|engine| engine.name().to_owned());
    let bytes = number::plural(text.len() as u64, "byte");
    let (c, r) = match (&comparison.candidate, &comparison.reference) {
        (Ok(c), Ok(r)) => (c, r),
        (c, r) => {
            for (name, answer) in names.iter().zip([c, r]) {
                let _ = writeln!(out, "{name}: {}", ids_or_refusal(answer));
            }
            let verdict = match comparison.equal() {
                true => "equal: both engines refuse the text",
                false => "different: one engine refuses the text",
            };
            let _ = writeln!(out, "{verdict}, of {bytes}");
            return Ok(out);
        }
    };
    let first = comparison.first_difference();
    let window = match first {
        _ if c.len().max(r.len()) <= SHOWN_TOKENS => 0..usize::MAX,
        Some(first) => first.saturating_sub(CONTEXT)..first + CONTEXT,
        None => 0..0,
    };
    if !window.is_empty() {
        let c = cells(&mut engines.candidate, c, &window).map_err(by(Role::Candidate))?;
        let r = cells(&mut engines.reference, r, &window).map_err(by(Role::Reference))?;
        let _ = writeln!(out, "{}\n", side_by_side(&names, &c, &r));
    }
    if let Some(first) = first {
        let offset = offset(&mut engines.reference, text, &r[..first], options);
        let offset = offset.map_err(by(Role::Reference))?;
        out.push_str(&context(first, text, offset));
    }
    for difference in &comparison.texts {
        out.push_str(&texts(&names, difference));
    }
    let tokens = |ids: &[u32]| number::plural(ids.len() as u64, "token");
    let _ = match comparison.equal() {
        true => writeln!(out, "equal: {} from {bytes}", tokens(c)),
        false => writeln!(
            out,
            "different: {} {}, {} {} from {bytes}",
            names[0],
            tokens(c),
            names[1],
            tokens(r)
        ),
    };
    Ok(out)
}

/// A token of one engine.
struct Cell {
    index: usize,
    id: u32,
    piece: Vec<u8>,
}

fn cells(
    engine: &mut Engine,
    ids: &[u32],
    window: &Range<usize>,
) -> Result<Vec<Cell>, EngineError> {
    let end = window.end.min(ids.len());
    let start = window.start.min(end);
    let pieces = engine.pieces(&ids[start..end])?;
    let cells = (start..end).zip(&ids[start..end]).zip(pieces);
    let cells = cells.map(|((index, &id), piece)| Cell { index, id, piece });
    Ok(cells.collect())
}

fn side_by_side([candidate, reference]: &[String; 2], c: &[Cell], r: &[Cell]) -> String {
    let mut rows = table(&["#", candidate, "piece", "#", reference, "piece", ""]);
    let mut seen = false;
    for row in align(c, r) {
        let ids = row.map(|cell| cell.map(|cell| cell.id));
        let mark = match (ids[0] == ids[1], seen) {
            (true, _) => "",
            (false, false) => "<- first difference",
            (false, true) => "<-",
        };
        seen |= ids[0] != ids[1];
        let cells = row.into_iter().flat_map(|cell| match cell {
            Some(Cell { index, id, piece }) => {
                let piece = format!("\"{}\"", escape(piece));
                [index.to_string(), id.to_string(), piece]
            }
            None => Default::default(),
        });
        rows.add_row(cells.chain([mark.to_owned()]));
    }
    for column in [0, 1, 3, 4] {
        if let Some(column) = rows.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    rows.to_string()
}

/// Puts tokens that begin at the same place of the text side by side.
fn align<'a>(c: &'a [Cell], r: &'a [Cell]) -> Vec<[Option<&'a Cell>; 2]> {
    let (mut c, mut r) = (c.iter().peekable(), r.iter().peekable());
    let mut at = [0, 0];
    let mut rows = Vec::new();
    while c.peek().is_some() || r.peek().is_some() {
        let behind = [
            r.peek().is_none() || at[0] <= at[1],
            c.peek().is_none() || at[1] <= at[0],
        ];
        let row = [c.next_if(|_| behind[0]), r.next_if(|_| behind[1])];
        for (at, cell) in at.iter_mut().zip(row) {
            *at += cell.map_or(0, |cell| cell.piece.len());
        }
        rows.push(row);
    }
    rows
}

/// How much of the text the first tokens cover, bytes. `None` where they do not spell it, as in a vocabulary of
/// lower-case letters.
fn offset(
    engine: &mut Engine,
    text: &[u8],
    ids: &[u32],
    options: EncodeOptions,
) -> Result<Option<usize>, EngineError> {
    // BOS is not part of the text; names of control tokens are if they were parsed.
    for without_first in [false, true] {
        for unparse_special in [options.parse_special, false] {
            let ids = if without_first {
                ids.get(1..).unwrap_or_default()
            } else {
                ids
            };
            let options = DecodeOptions {
                remove_special: false,
                unparse_special,
            };
            let covered = engine.detokenize(ids, options)?;
            // Some tokenizers put a space in front.
            for covered in [Some(covered.as_slice()), covered.strip_prefix(b" ")] {
                if let Some(covered) = covered.filter(|covered| text.starts_with(covered)) {
                    return Ok(Some(covered.len()));
                }
            }
        }
    }
    Ok(None)
}

fn context(first: usize, text: &[u8], offset: Option<usize>) -> String {
    let Some(offset) = offset else {
        return format!("first difference: token {first}\n");
    };
    let (before, after) = text.split_at(offset);
    format!(
        "first difference: token {first}, at byte {offset} of the text\n  after  {}\n  before {}\n",
        tail(before),
        head(after)
    )
}

/// Where the texts part.
pub(super) fn texts(names: &[String; 2], difference: &TextDifference) -> String {
    let options = difference.options;
    let mut out = format!(
        "the same tokens become different texts (remove_special {}, unparse_special {}):\n",
        options.remove_special, options.unparse_special
    );
    let [c, r] = [&difference.candidate, &difference.reference];
    let common = match (c, r) {
        (Ok(c), Ok(r)) => c.iter().zip(r).take_while(|(c, r)| c == r).count(),
        _ => 0,
    };
    for (name, answer) in names.iter().zip([c, r]) {
        let _ = writeln!(out, "  {name}: {}", around(answer, common));
    }
    out
}

fn around(answer: &Answer<Vec<u8>>, at: usize) -> String {
    match answer {
        Ok(text) => {
            let (before, after) = text.split_at(at.min(text.len()));
            format!("{} then {}", tail(before), head(after))
        }
        Err(message) => format!("refuses the tokens: {message}"),
    }
}

fn tail(text: &[u8]) -> String {
    let cut = text.len().saturating_sub(CONTEXT_BYTES);
    let ellipsis = if cut > 0 { "…" } else { "" };
    format!("{ellipsis}\"{}\"", escape(&text[cut..]))
}

fn head(text: &[u8]) -> String {
    let cut = text.len().min(CONTEXT_BYTES);
    let ellipsis = if cut < text.len() { "…" } else { "" };
    format!("\"{}\"{ellipsis}", escape(&text[..cut]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cells(pieces: &[&str]) -> Vec<Cell> {
        let cells = pieces.iter().enumerate().map(|(index, piece)| Cell {
            index,
            id: piece.len() as u32,
            piece: piece.as_bytes().to_vec(),
        });
        cells.collect()
    }

    #[test]
    fn tokens_meet_again_after_a_difference() {
        let (c, r) = (
            cells(&["a", "bc", "d", "ef"]),
            cells(&["a", "b", "cd", "ef", "g"]),
        );
        let rows = align(&c, &r);
        let indices: Vec<_> = rows
            .iter()
            .map(|row| row.map(|c| c.map(|c| c.index)))
            .collect();
        let expected = [
            [Some(0), Some(0)],
            [Some(1), Some(1)],
            [None, Some(2)],
            [Some(2), None],
            [Some(3), Some(3)],
            [None, Some(4)],
        ];
        assert_eq!(indices, expected);
    }

    #[test]
    fn context_is_cut() {
        let text = "x".repeat(100);
        let shown = context(3, text.as_bytes(), Some(50));
        let x = "x".repeat(40);
        assert_eq!(
            shown,
            format!(
                "first difference: token 3, at byte 50 of the text\n  after  …\"{x}\"\n  before \"{x}\"…\n"
            )
        );
    }
}
