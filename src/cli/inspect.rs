//! `crossval inspect`.

use std::collections::BTreeMap;
use std::path::Path;

use bitnet_model::check::{self, Weights};
use bitnet_model::gguf::{Array, Gguf, Metadata, Readable, TensorInfo, TensorType, Value};
use bitnet_model::{lint, scales};
use comfy_table::CellAlignment;
use reports::number;
use reports::outcome::Outcome;
use serde::Serialize;

use super::doctor::built;
use super::limits::{LimitFlags, ModelFile};
use super::terminal::{Terminal, table};
use crossval::Error;
use crossval::engine::{EngineSpec, Launcher};
use crossval::session::template;
use crossval_protocol::Settings;

/// Metadata arrays and strings are cut to this many characters.
const VALUE_WIDTH: usize = 60;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    model: ModelFile,
    /// List every check of the file, and read the weights too: fails if there are any that are not finite, or ternary codes
    /// that stand for no weight
    #[arg(long)]
    check: bool,
    /// Print all of it as JSON, and nothing else
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    limits: LimitFlags,
}

/// In which an engine evaluates a token.
const SMALLEST: Settings = Settings {
    n_ctx: 32,
    n_ubatch: 32,
    threads: 1,
    // As it is compared.
    observe: true,
    compact_head_budget: 0,
};

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
    /// Of the layers' matrices, scales included; null if there are none.
    bits_per_weight: Option<f64>,
    /// Where the scales of the layers' matrices are, by type.
    weight_scales: BTreeMap<&'static str, String>,
    metadata: Vec<Entry>,
    tensors: Vec<Tensor>,
    /// What there is to know of it before anybody runs it.
    remarks: Vec<Remark>,
    /// What no weight should be; null without `--check`.
    bad_weights: Option<Vec<String>>,
    /// What the weights are; null without `--check`.
    weights: Option<LookedThrough>,
    /// What is wrong with the file where no more of it can be read; null otherwise.
    fault: Option<String>,
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

/// What was looked at of the weights, and what is unusual in them.
#[derive(Debug, Serialize)]
struct LookedThrough {
    /// Tensors of each type.
    checked: BTreeMap<String, u64>,
    /// Tensors of types that cannot be read here.
    not_checked: BTreeMap<String, u64>,
    zero_tensors: Vec<String>,
    zero_scales: Vec<String>,
    twos: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Answer {
    engine: String,
    /// Whether it has evaluated a token.
    runs: bool,
    /// Null if it does not load it.
    load_ms: Option<f64>,
    /// Why it does not load or run it, in the engine's words.
    refusal: Option<String>,
}

pub(super) fn run(args: Args, terminal: Terminal) -> Result<Outcome, Error> {
    let launcher = args.limits.launcher();
    let model = args.model.required()?;
    let bad_input = |e: bitnet_model::Error| Error::BadInput(e.to_string());
    let gguf = match Gguf::open(&model) {
        Ok(gguf) => gguf,
        Err(fault) => return unreadable(&model, fault, args.json, terminal),
    };
    let mut inspection = read(&gguf);
    if !args.json {
        terminal.print(&tables(&inspection))?;
    }
    if args.check {
        let Weights {
            bad,
            zero,
            zero_scales,
            twos,
            checked,
            not_checked,
        } = check::weights(&gguf).map_err(bad_input)?;
        inspection.bad_weights = Some(bad);
        inspection.weights = Some(LookedThrough {
            checked,
            not_checked,
            zero_tensors: zero,
            zero_scales,
            twos,
        });
    }
    let times = match gguf.tensors().iter().any(may_be_without_kernels) {
        true => 5,
        false => 1,
    };
    // A container that is at fault is not mapped while engines are asked.
    drop(gguf);
    inspection.engines = built()
        .iter()
        .map(|spec| ask_again(spec, &launcher, &model, times))
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

/// Shows what can be read of a file that is damaged.
fn unreadable(
    model: &Path,
    fault: bitnet_model::Error,
    as_json: bool,
    terminal: Terminal,
) -> Result<Outcome, Error> {
    let bad_input = Error::BadInput(fault.to_string());
    let Ok(readable) = Gguf::readable(model) else {
        return Err(bad_input);
    };
    let Readable {
        version,
        size,
        alignment,
        metadata,
        tensors,
    } = readable;
    let inspection = Inspection {
        fault: Some(fault.to_string()),
        ..Inspection::new(model, (version, size, alignment), &metadata, &tensors)
    };
    match as_json {
        true => terminal.print_json(&inspection)?,
        false => terminal.print(&tables(&inspection))?,
    }
    Err(bad_input)
}

fn read(gguf: &Gguf) -> Inspection {
    let of_chat = template::remarks(gguf.metadata());
    let remarks = lint::remarks(gguf)
        .into_iter()
        .chain(of_chat)
        .map(|remark| Remark {
            id: remark.id,
            sentence: remark.sentence,
            next_step: remark.next_step,
        });
    let head = (gguf.version(), gguf.file_size(), gguf.alignment());
    Inspection {
        remarks: remarks.collect(),
        weight_scales: scales::scales(gguf)
            .into_iter()
            .map(|(ty, scales)| (ty, scales.to_string()))
            .collect(),
        ..Inspection::new(gguf.path(), head, gguf.metadata(), gguf.tensors())
    }
}

impl Inspection {
    /// `head` is the version, the size and the alignment.
    fn new(
        path: &Path,
        head: (u32, u64, u64),
        metadata: &Metadata,
        tensors: &[TensorInfo],
    ) -> Inspection {
        let (version, size_bytes, alignment) = head;
        let metadata = metadata.iter().map(|(key, value)| Entry {
            key: key.to_owned(),
            type_name: value.type_name(),
            value: json(value),
            length: match value {
                Value::Array(array) => Some(array.len()),
                _ => None,
            },
            brief: brief(value),
        });
        let matrices = tensors.iter().filter(|t| lint::is_matrix_of_layer(t));
        let (bytes, weights) = matrices.fold((0, 0), |(bytes, weights), t| {
            (bytes + t.size, weights + t.n_elements())
        });
        let bits_per_weight = (weights > 0).then(|| 8.0 * bytes as f64 / weights as f64);
        let tensors = tensors.iter().map(|tensor| Tensor {
            name: tensor.name.clone(),
            type_name: tensor.ty.to_string(),
            type_id: tensor.ty.id(),
            shape: tensor.shape.clone(),
            bytes: tensor.size,
        });
        Inspection {
            schema: SCHEMA,
            path: path.display().to_string(),
            version,
            size_bytes,
            alignment,
            bits_per_weight,
            weight_scales: BTreeMap::new(),
            metadata: metadata.collect(),
            tensors: tensors.collect(),
            remarks: Vec::new(),
            bad_weights: None,
            weights: None,
            fault: None,
            engines: Vec::new(),
        }
    }
}

/// Whether a library may know a tensor's type and have no kernel for it: it then reads what is not there, and dies of it in
/// most runs, but not in all.
fn may_be_without_kernels(tensor: &TensorInfo) -> bool {
    tensor.tiling().is_some() || matches!(tensor.ty, TensorType::Unknown(_))
}

/// As [`ask`], until it fails.
fn ask_again(spec: &EngineSpec, launcher: &Launcher, model: &Path, times: usize) -> Answer {
    let mut answer = ask(spec, launcher, model);
    for _ in 1..times {
        if answer.refusal.is_some() {
            break;
        }
        answer = ask(spec, launcher, model);
    }
    answer
}

/// Has an engine load the model, and evaluate a token.
fn ask(spec: &EngineSpec, launcher: &Launcher, model: &Path) -> Answer {
    let mut load_ms = None;
    let evaluated = launcher.start(spec, None).and_then(|mut engine| {
        let evaluated = engine.load(model).and_then(|(_, ms)| {
            load_ms = Some(ms);
            engine.configure(SMALLEST)?;
            engine.generate(&[0], 1)
        });
        evaluated.map_err(|e| e.into_error(engine.name()))
    });
    let refusal = evaluated.err().map(|e| e.to_string());
    Answer {
        engine: spec.to_string(),
        runs: refusal.is_none(),
        load_ms,
        refusal,
    }
}

/// What is in the file.
fn tables(inspection: &Inspection) -> String {
    let of_weights = inspection.bits_per_weight.map(|bits| {
        let bits = number::significant(bits, 3);
        format!(", matrices of the layers {bits} bits per weight")
    });
    let head = format!(
        "{}: GGUF v{}, {}, alignment {}{}\n\n",
        inspection.path,
        inspection.version,
        number::bytes(inspection.size_bytes as f64),
        inspection.alignment,
        of_weights.unwrap_or_default()
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
    let scales = inspection.weight_scales.iter();
    let mut scales: String = scales
        .map(|(ty, scales)| format!("scales of {ty} in the layers: {scales}\n"))
        .collect();
    if !scales.is_empty() {
        scales.push('\n');
    }
    format!("{head}{metadata}\n\n{tensors}\n\n{scales}")
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
            (Some(why), None) => format!("does not run it: {why}"),
            (Some(why), Some(_)) => format!("loads it, and cannot run it: {why}"),
            (None, Some(ms)) => format!("runs it (loaded in {})", number::milliseconds(ms)),
            (None, None) => "runs it".to_owned(),
        };
        out.push_str(&format!("{}: {says}\n", answer.engine));
    }
    if let Some(weights) = &inspection.weights {
        out.push('\n');
        out.push_str(&checks(inspection, weights));
    }
    out
}

/// Every check, what it looks for, and what came of it.
fn checks(inspection: &Inspection, weights: &LookedThrough) -> String {
    let mut checks = table(&["check", "looks for", "found"]);
    for (id, looks_for) in lint::all().chain(template::LINTS) {
        let found = inspection.remarks.iter().any(|remark| remark.id == id);
        checks.add_row([id, looks_for, if found { "see above" } else { "nothing" }]);
    }
    let bad = inspection.bad_weights.iter().flatten();
    let bad: Vec<String> = bad.cloned().collect();
    let n_checked: u64 = weights.checked.values().sum();
    let n = n_checked + weights.not_checked.values().sum::<u64>();
    // Tensors in which there could be any.
    let of = |could: fn(TensorType) -> bool| {
        let checked = weights.checked.iter();
        let of = checked.filter(|(ty, _)| TensorType::from_name(ty).is_some_and(could));
        of.map(|(_, n)| n).sum::<u64>()
    };
    let all: [(&str, &str, u64, &[String]); 4] = [
        (
            "weights-bad",
            "values and scales that are not finite, codes of no weight",
            n_checked,
            &bad,
        ),
        (
            "weights-zero",
            "tensors that are all zero",
            n_checked,
            &weights.zero_tensors,
        ),
        (
            "scales-zero",
            "scales of 0 beside others",
            of(TensorType::has_scales_of_blocks),
            &weights.zero_scales,
        ),
        (
            "weights-two",
            "weights of +2, which a ternary model does not have",
            of(|ty| ty.codes_up_to_two().is_some()),
            &weights.twos,
        ),
    ];
    let mut lists = String::new();
    for (id, looks_for, looked_at, found) in all {
        let found = match found {
            [] if looked_at < n => format!("nothing in {looked_at} of {n} tensors"),
            [] => "nothing".to_owned(),
            [one] => one.clone(),
            several => {
                lists.push_str(&format!("\n\n{id}:\n  {}", several.join("\n  ")));
                format!("{}, see below", several.len())
            }
        };
        checks.add_row([id, looks_for, &found]);
    }
    let each = |tensors: &BTreeMap<String, u64>| {
        let each = tensors
            .iter()
            .map(|(ty, n)| format!("{} of {ty}", number::count(*n)));
        each.collect::<Vec<_>>().join(", ")
    };
    let mut out = format!(
        "{checks}{lists}\n\nweights looked through: {} tensors",
        each(&weights.checked)
    );
    if !weights.not_checked.is_empty() {
        let not = each(&weights.not_checked);
        out.push_str(&format!(
            "; not looked through: {not}, a type that is not read here"
        ));
    }
    out.push('\n');
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
        Value::Array(Array::Str(strings)) => {
            let first: Vec<_> = strings
                .iter()
                .take(8)
                .map(String::from_utf8_lossy)
                .collect();
            format!("{} strings: {} …", strings.len(), first.join(" "))
        }
        Value::Array(array) => format!("{} values", array.len()),
        scalar => scalar.scalar().unwrap_or_default(),
    };
    let escaped = text.escape_debug().to_string();
    match escaped.char_indices().nth(VALUE_WIDTH) {
        Some((cut, _)) => format!("{}…", &escaped[..cut]),
        None => escaped,
    }
}
