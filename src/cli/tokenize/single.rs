//! One engine by itself.

use std::path::Path;

use comfy_table::CellAlignment;
use reports::number;
use reports::outcome::Outcome;
use serde_json::json;

use super::{Args, Entries, SHOWN_TOKENS};
use crate::cli::terminal::{Terminal, table};
use crossval::Error;
use crossval::engine::{EngineError, EngineSpec, Launcher};
use crossval::stats;
use crossval::tokens::{escape, load_one};

pub(super) fn run(
    args: &Args,
    launcher: &Launcher,
    spec: &EngineSpec,
    model: &Path,
    terminal: Terminal,
) -> Result<Outcome, Error> {
    let text = args.text()?;
    let (mut engine, facts) = load_one(launcher, spec, model)?;
    let (text, options) = args.input(text, model, &facts)?;
    let name = spec.to_string();
    let failed = |e: EngineError| match e {
        EngineError::Refused { message, .. } => {
            Error::BadInput(format!("engine {name} refuses the text: {message}"))
        }
        e => e.into_error(&name),
    };
    let (ids, _) = engine.tokenize(&text, options).map_err(failed)?;
    let mut times = Vec::new();
    if args.file.is_some() {
        for _ in 0..args.reps.unwrap_or(1) {
            times.extend(engine.tokenize(&text, options).map_err(failed)?.1);
        }
    }
    let ms = stats::measured(times).map(|m| m.median);
    if args.json {
        let mut out = vec![(name.clone(), json!(ids))];
        out.extend(ms.map(|ms| ("ms".to_owned(), json!({name.as_str(): ms}))));
        terminal.print_json(&Entries(out))?;
    } else if args.ids {
        terminal.print(&format!("{ids:?}\n"))?;
    } else {
        if ids.len() <= SHOWN_TOKENS {
            let pieces = engine.pieces(&ids).map_err(failed)?;
            let mut rows = table(&["#", "ID", "piece"]);
            for (index, (id, piece)) in ids.iter().zip(&pieces).enumerate() {
                let piece = format!("\"{}\"", escape(piece));
                rows.add_row([index.to_string(), id.to_string(), piece]);
            }
            for column in [0, 1] {
                if let Some(column) = rows.column_mut(column) {
                    column.set_cell_alignment(CellAlignment::Right);
                }
            }
            terminal.print(&format!("{rows}\n\n"))?;
        }
        let (tokens, bytes) = (ids.len() as u64, text.len() as u64);
        let time = ms.map(|ms| format!(" in {}", number::milliseconds(ms)));
        terminal.print(&format!(
            "{name}: {} from {}{}\n",
            number::plural(tokens, "token"),
            number::plural(bytes, "byte"),
            time.unwrap_or_default()
        ))?;
    }
    Ok(Outcome::Pass)
}
