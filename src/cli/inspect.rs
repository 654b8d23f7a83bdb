//! `crossval inspect`.

use std::path::Path;

use bitnet_model::check::check_weights;
use bitnet_model::gguf::{Array, Gguf, Value};
use bitnet_model::lint;
use comfy_table::CellAlignment;
use reports::number;
use reports::outcome::Outcome;
use serde::Serialize;

use super::doctor::built;
use super::limits::{LimitFlags, ModelFile};
use super::terminal::{Terminal, table};
use crossval::Error;
use crossval::engine::{EngineSpec, Launcher};

/// Metadata arrays and strings are cut to this many characters.
const VALUE_WIDTH: usize = 60;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    model: ModelFile,
    /// Read the weights too: fails if there are any that are not finite, or ternary codes that stand for no weight
    #[arg(long)]
    check: bool,
    /// Print all of it as JSON, and nothing else
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    limits: LimitFlags,
}

/// The value of [`Inspection::schema`].
const SCHEMA: &str = "crossval.inspect/1";

/// What is in a model file, and what there is to know of it.
#[derive(Debug, Serialize)]
struct Inspection {
    schema: &'static str,
    path: String,
    /// Of the container.
    version: u32,
    size_bytes: u64,
    alignment: u64,
    metadata: Vec<Entry>,
    tensors: Vec<Tensor>,
    /// What there is to know of it before anybody runs it.
    remarks: Vec<Remark>,
    /// What no weight should be; null without `--check`.
    bad_weights: Option<Vec<String>>,
    /// Every engine that is built here, asked to load it.
    engines: Vec<Answer>,
}

#[derive(Debug, Serialize)]
struct Entry {
    key: String,
    #[serde(rename = "type")]
    type_name: String,
    /// Null for arrays, and for what JSON cannot hold.
    value: serde_json::Value,
    /// Elements of an array; null for anything else.
    length: Option<usize>,
    #[serde(skip)]
    brief: String,
}

#[derive(Debug, Serialize)]
struct Tensor {
    name: String,
    #[serde(rename = "type")]
    type_name: String,
    type_id: u32,
    /// Row length first.
    shape: Vec<u64>,
    bytes: u64,
}

#[derive(Debug, Serialize)]
struct Remark {
    id: &'static str,
    sentence: String,
    next_step: &'static str,
}

#[derive(Debug, Serialize)]
struct Answer {
    engine: String,
    runs: bool,
    /// Null if it does not.
    load_ms: Option<f64>,
    /// Why it does not run it, in the engine's words.
    refusal: Option<String>,
}

pub(super) fn run(args: Args, terminal: Terminal) -> Result<Outcome, Error> {
    let launcher = args.limits.launcher();
    let model = args.model.required()?;
    let bad_input = |e: bitnet_model::Error| Error::BadInput(e.to_string());
    let gguf = Gguf::open(&model).map_err(bad_input)?;
    let mut inspection = read(&gguf);
    if !args.json {
        terminal.print(&tables(&inspection))?;
    }
    if args.check {
        inspection.bad_weights = Some(check_weights(&gguf).map_err(bad_input)?);
    }
    // A container that is at fault is not mapped while engines are asked.
    drop(gguf);
    inspection.engines = built()
        .iter()
        .map(|spec| ask(spec, &launcher, &model))
        .collect();
    match args.json {
        true => terminal.print_json(&inspection)?,
        false => terminal.print(&conclusions(&inspection))?,
    }
    match inspection.bad_weights.as_deref() {
        Some(bad @ [_, ..]) => {
            let path = model.display();
            Err(Error::BadInput(format!("{path}: {}", bad.join("; "))))
        }
        _ => Ok(Outcome::Pass),
    }
}

fn read(gguf: &Gguf) -> Inspection {
    let metadata = gguf.metadata().iter().map(|(key, value)| Entry {
        key: key.to_owned(),
        type_name: value.type_name(),
        value: json(value),
        length: match value {
            Value::Array(array) => Some(array.len()),
            _ => None,
        },
        brief: brief(value),
    });
    let tensors = gguf.tensors().iter().map(|tensor| Tensor {
        name: tensor.name.clone(),
        type_name: tensor.ty.to_string(),
        type_id: tensor.ty.id(),
        shape: tensor.shape.clone(),
        bytes: tensor.size,
    });
    let remarks = lint::remarks(gguf).into_iter().map(|remark| Remark {
        id: remark.id,
        sentence: remark.sentence,
        next_step: remark.next_step,
    });
    Inspection {
        schema: SCHEMA,
        path: gguf.path().display().to_string(),
        version: gguf.version(),
        size_bytes: gguf.file_size(),
        alignment: gguf.alignment(),
        metadata: metadata.collect(),
        tensors: tensors.collect(),
        remarks: remarks.collect(),
        bad_weights: None,
        engines: Vec::new(),
    }
}

/// Has an engine load the model.
fn ask(spec: &EngineSpec, launcher: &Launcher, model: &Path) -> Answer {
    let loaded = launcher.start(spec, None).and_then(|mut engine| {
        let loaded = engine.load(model);
        loaded.map_err(|e| e.into_error(engine.name()))
    });
    let (load_ms, refusal) = match loaded {
        Ok((_, load_ms)) => (Some(load_ms), None),
        Err(e) => (None, Some(e.to_string())),
    };
    Answer {
        engine: spec.to_string(),
        runs: refusal.is_none(),
        load_ms,
        refusal,
    }
}

/// What is in the file.
fn tables(inspection: &Inspection) -> String {
    let head = format!(
        "{}: GGUF v{}, {}, alignment {}\n\n",
        inspection.path,
        inspection.version,
        number::bytes(inspection.size_bytes as f64),
        inspection.alignment
    );
    let mut metadata = table(&["key", "type", "value"]);
    for entry in &inspection.metadata {
        metadata.add_row([&entry.key, &entry.type_name, &entry.brief]);
    }
    let mut tensors = table(&["tensor", "type", "shape", "bytes"]);
    for tensor in &inspection.tensors {
        let shape: Vec<String> = tensor.shape.iter().map(u64::to_string).collect();
        tensors.add_row([
            &tensor.name,
            &tensor.type_name,
            &shape.join(" x "),
            &number::count(tensor.bytes),
        ]);
    }
    if let Some(bytes) = tensors.column_mut(3) {
        bytes.set_cell_alignment(CellAlignment::Right);
    }
    format!("{head}{metadata}\n\n{tensors}\n\n")
}

/// What there is to know of it, and who runs it.
fn conclusions(inspection: &Inspection) -> String {
    let mut out = String::new();
    for remark in &inspection.remarks {
        out.push_str(&format!(
            "{}: {}\n  {}\n",
            remark.id, remark.sentence, remark.next_step
        ));
    }
    if !inspection.remarks.is_empty() {
        out.push('\n');
    }
    for answer in &inspection.engines {
        let says = match (&answer.refusal, answer.load_ms) {
            (Some(why), _) => format!("does not run it: {why}"),
            (None, Some(ms)) => format!("runs it (loaded in {})", number::milliseconds(ms)),
            (None, None) => "runs it".to_owned(),
        };
        out.push_str(&format!("{}: {says}\n", answer.engine));
    }
    if inspection.bad_weights.as_ref().is_some_and(Vec::is_empty) {
        out.push_str(
            "every ternary weight is -1, 0 or 1, every other weight and every scale finite\n",
        );
    }
    out
}

/// A scalar as it is.
fn json(value: &Value) -> serde_json::Value {
    match value {
        Value::U8(x) => (*x).into(),
        Value::I8(x) => (*x).into(),
        Value::U16(x) => (*x).into(),
        Value::I16(x) => (*x).into(),
        Value::U32(x) => (*x).into(),
        Value::I32(x) => (*x).into(),
        Value::U64(x) => (*x).into(),
        Value::I64(x) => (*x).into(),
        Value::F32(x) => (*x).into(),
        Value::F64(x) => (*x).into(),
        Value::Bool(x) => (*x).into(),
        Value::Str(s) => s.as_str().into(),
        Value::Array(_) => serde_json::Value::Null,
    }
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
