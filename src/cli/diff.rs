//! `crossval diff`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use bitnet_convert::checkpoint::Checkpoint;
use bitnet_convert::diff::{self, Diff, Likeness, TensorDifference};
use bitnet_convert::weights::Model;
use bitnet_model::gguf::Gguf;
use comfy_table::CellAlignment;
use reports::number;
use reports::outcome::Outcome;
use serde::Serialize;

use super::terminal::{Terminal, table};
use crossval::{Error, interrupt};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// A model: a GGUF file, or the folder of a checkpoint of Hugging Face
    a: PathBuf,
    /// Another
    b: PathBuf,
    /// Print all of it as JSON, tensor by tensor
    #[arg(long)]
    json: bool,
}

/// The value of [`Report::schema`].
const SCHEMA: &str = "crossval.diff/1";

#[derive(Debug, Serialize)]
struct Report<'a> {
    schema: &'static str,
    a: String,
    b: String,
    /// The same model, up to the types of its tensors.
    same: bool,
    #[serde(flatten)]
    diff: &'a Diff,
}

pub(super) fn run(args: Args, terminal: Terminal) -> Result<Outcome, Error> {
    let (a, b) = (open(&args.a)?, open(&args.b)?);
    between((&args.a, &*a), (&args.b, &*b), args.json, terminal)
}

/// A model in whichever form it is.
///
/// # Errors
/// [`Error::BadInput`].
pub(super) fn open(path: &Path) -> Result<Box<dyn Model>, Error> {
    if path.join("config.json").is_file() {
        let checkpoint = Checkpoint::open(path).map_err(bad_input)?;
        return Ok(Box::new(checkpoint));
    }
    let gguf = Gguf::open(path).map_err(bad_input)?;
    Ok(Box::new(gguf))
}

/// Shows what differs between two models, which are there.
pub(super) fn between(
    (path, a): (&Path, &dyn Model),
    (other, b): (&Path, &dyn Model),
    as_json: bool,
    terminal: Terminal,
) -> Result<Outcome, Error> {
    let diff = terminal.bar().during(|progress| {
        progress.stage("comparing weights");
        progress.steps(a.size() + b.size());
        diff::diff(a, b, |bytes| {
            progress.done(bytes);
            interrupt::received().is_none()
        })
    });
    let diff = diff.map_err(bad_input)?;
    let same = diff.is_same();
    match as_json {
        true => terminal.print_json(&Report {
            schema: SCHEMA,
            a: path.display().to_string(),
            b: other.display().to_string(),
            same,
            diff: &diff,
        })?,
        false => terminal.print(&shown(&diff, path, other))?,
    }
    Ok(match same {
        true => Outcome::Pass,
        false => Outcome::Parity,
    })
}

fn bad_input(e: bitnet_model::Error) -> Error {
    Error::BadInput(e.to_string())
}

fn shown(diff: &Diff, a: &Path, b: &Path) -> String {
    let mut out = format!("A  {}\nB  {}\n", a.display(), b.display());
    if !diff.keys.is_empty() {
        out.push_str(&format!("\n{}\n", keys(diff)));
    }
    if !diff.tensors.is_empty() {
        out.push_str(&format!("\n{}\n", tensors(diff)));
    }
    out.push_str(&format!("\n{}\n", conclusion(diff)));
    out
}

fn keys(diff: &Diff) -> String {
    let mut table = table(&["key", "A", "B", "what"]);
    for key in &diff.keys {
        let value = |value: &Option<String>| value.clone().unwrap_or_else(|| "-".to_owned());
        let what = key.what.clone().unwrap_or_default();
        table.add_row([key.key.clone(), value(&key.a), value(&key.b), what]);
    }
    table.to_string()
}

/// One line for what is alike in many layers.
fn tensors(diff: &Diff) -> String {
    let mut table = table(&[
        "tensor",
        "n",
        "A",
        "B",
        "equal codes",
        "factor",
        "NMSE",
        "what",
    ]);
    for column in [1, 4, 5, 6] {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    let mut groups: BTreeMap<Alike, Vec<&TensorDifference>> = BTreeMap::new();
    for tensor in &diff.tensors {
        groups.entry(Alike::of(tensor)).or_default().push(tensor);
    }
    for (alike, group) in groups {
        let range = |of: fn(&TensorDifference) -> Option<f64>, show: fn(f64) -> String| {
            let values = || group.iter().filter_map(|tensor| of(tensor));
            let least = values().reduce(f64::min);
            let most = values().reduce(f64::max);
            match (least.map(show), most.map(show)) {
                (Some(least), Some(most)) if least == most => least,
                (Some(least), Some(most)) => format!("{least} to {most}"),
                _ => "-".to_owned(),
            }
        };
        let [first, others @ ..] = &group[..] else {
            continue;
        };
        let what = match first.likeness {
            Likeness::Equal => "equal".to_owned(),
            Likeness::Rounded => "equal, as far as the types hold it".to_owned(),
            Likeness::Different => {
                let findings = first.findings.iter().map(|f| f.sentence.as_str());
                let what = findings.collect::<Vec<_>>().join("; ");
                let differs = others.iter().any(|other| other.findings != first.findings);
                if differs {
                    format!("{}: {what}", first.name)
                } else {
                    what
                }
            }
        };
        let n = group.len();
        table.add_row([
            if n > 1 {
                alike.name
            } else {
                first.name.clone()
            },
            n.to_string(),
            alike.a,
            alike.b,
            range(|t| t.equal_codes, number::share),
            range(|t| t.factor, |factor| number::significant(factor, 4)),
            range(|t| t.nmse, number::error),
            what,
        ]);
    }
    table.to_string()
}

/// What tensors of many layers have in common.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Alike {
    /// Without the number of the layer.
    name: String,
    ids: Vec<&'static str>,
    a: String,
    b: String,
    rounded: bool,
}

impl Alike {
    fn of(tensor: &TensorDifference) -> Alike {
        let mut parts = tensor.name.split('.');
        let name = match (parts.next(), parts.next()) {
            (Some("blk"), Some(_)) => {
                let rest: Vec<&str> = parts.collect();
                format!("blk.*.{}", rest.join("."))
            }
            _ => tensor.name.clone(),
        };
        let side = |stored: &Option<diff::Stored>| match stored {
            Some(stored) => stored.ty.clone(),
            None => "-".to_owned(),
        };
        Alike {
            name,
            ids: tensor.findings.iter().map(|finding| finding.id).collect(),
            a: side(&tensor.a),
            b: side(&tensor.b),
            rounded: tensor.likeness == Likeness::Rounded,
        }
    }
}

fn conclusion(diff: &Diff) -> String {
    let different = |t: &&TensorDifference| t.likeness == Likeness::Different;
    let n = diff.tensors.iter().filter(different).count();
    let all = diff.tensors.len() + diff.equal_tensors;
    let keys = diff.keys.iter().filter(|key| key.matters).count();
    if !diff.is_same() {
        let tensors = (n > 0).then(|| {
            let (n, all) = (number::count(n as u64), number::count(all as u64));
            format!("{n} of {all} tensors")
        });
        let keys = (keys > 0).then(|| number::plural(keys as u64, "key"));
        let what: Vec<String> = tensors.into_iter().chain(keys).collect();
        return format!("DIFFERENT  {}", what.join(", "));
    }
    let other_types = diff.tensors.len();
    match other_types {
        0 => format!("SAME  {} tensors", number::count(all as u64)),
        _ => format!(
            "SAME  {} tensors, up to the types of {}",
            number::count(all as u64),
            number::count(other_types as u64)
        ),
    }
}
