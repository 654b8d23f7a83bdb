//! `crossval inspect`.

use std::path::PathBuf;

use bitnet_model::check::check_weights;
use bitnet_model::gguf::{Array, Gguf, Value};
use comfy_table::{CellAlignment, Table, presets};
use reports::number;
use reports::outcome::Outcome;

use super::limits::LimitFlags;
use super::terminal::Terminal;
use crossval::Error;
use crossval::engine::EngineSpec;

/// Metadata arrays and strings are cut to this many characters.
const VALUE_WIDTH: usize = 60;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// A GGUF file
    model: PathBuf,
    /// Read the weights too: fails if there are any that are not finite, or ternary codes that stand for no weight
    #[arg(long)]
    check: bool,
    #[command(flatten)]
    limits: LimitFlags,
}

pub(super) fn run(args: Args, terminal: Terminal) -> Result<Outcome, Error> {
    let launcher = args.limits.launcher();
    let gguf = Gguf::open(&args.model).map_err(|e| Error::BadInput(e.to_string()))?;
    terminal.print(&format!(
        "{}: GGUF v{}, {}, alignment {}\n\n",
        gguf.path().display(),
        gguf.version(),
        number::bytes(gguf.file_size() as f64),
        gguf.alignment()
    ))?;
    let mut metadata = table(&["key", "type", "value"]);
    for (key, value) in gguf.metadata().iter() {
        metadata.add_row([key, &value.type_name(), &brief(value)]);
    }
    terminal.print(&format!("{metadata}\n\n"))?;
    let mut tensors = table(&["tensor", "type", "shape", "bytes"]);
    for tensor in gguf.tensors() {
        let shape: Vec<String> = tensor.shape.iter().map(u64::to_string).collect();
        tensors.add_row([
            &tensor.name,
            tensor.ty.name(),
            &shape.join(" x "),
            &number::count(tensor.size),
        ]);
    }
    if let Some(bytes) = tensors.column_mut(3) {
        bytes.set_cell_alignment(CellAlignment::Right);
    }
    terminal.print(&format!("{tensors}\n\n"))?;
    let findings = match args.check {
        true => check_weights(&gguf).map_err(|e| Error::BadInput(e.to_string()))?,
        false => Vec::new(),
    };
    drop(gguf);
    for spec in [EngineSpec::Rust { fault: None }, EngineSpec::BitnetCpp] {
        let verdict = launcher.start(&spec, None).and_then(|mut engine| {
            let loaded = engine.load(&args.model);
            loaded.map_err(|e| e.into_error(engine.name()))
        });
        match verdict {
            Ok((_, load_ms)) => {
                terminal.print(&format!(
                    "{spec}: runs it (loaded in {})\n",
                    number::milliseconds(load_ms)
                ))?;
            }
            Err(e) => terminal.print(&format!("{spec}: does not run it: {e}\n"))?,
        }
    }
    if !findings.is_empty() {
        let path = args.model.display();
        return Err(Error::BadInput(format!("{path}: {}", findings.join("; "))));
    }
    if args.check {
        terminal.print(
            "every ternary weight is -1, 0 or 1, every other weight and every scale finite\n",
        )?;
    }
    Ok(Outcome::Pass)
}

pub(super) fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_header(header);
    table
}

/// A scalar as it is; of an array its length and first strings.
fn brief(value: &Value) -> String {
    let text = match value {
        Value::U8(x) => x.to_string(),
        Value::I8(x) => x.to_string(),
        Value::U16(x) => x.to_string(),
        Value::I16(x) => x.to_string(),
        Value::U32(x) => x.to_string(),
        Value::I32(x) => x.to_string(),
        Value::U64(x) => x.to_string(),
        Value::I64(x) => x.to_string(),
        Value::F32(x) => x.to_string(),
        Value::F64(x) => x.to_string(),
        Value::Bool(x) => x.to_string(),
        Value::Str(s) => String::from_utf8_lossy(s.as_ref()).into_owned(),
        Value::Array(Array::Str(strings)) => {
            let first: Vec<_> = strings
                .iter()
                .take(8)
                .map(String::from_utf8_lossy)
                .collect();
            format!("{} strings: {} …", strings.len(), first.join(" "))
        }
        Value::Array(array) => format!("{} values", array.len()),
    };
    let escaped = text.escape_debug().to_string();
    match escaped.char_indices().nth(VALUE_WIDTH) {
        Some((cut, _)) => format!("{}…", &escaped[..cut]),
        None => escaped,
    }
}
