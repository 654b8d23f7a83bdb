//! `crossval selftest`.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;

use reports::StagedFile;
use reports::model::{Mode, Status};
use reports::outcome::Outcome;

use super::inspect::table;
use super::limits::LimitFlags;
use super::terminal::Terminal;
use crossval::Error;
use crossval::engine::EngineSpec;
use crossval::environment::{self, Provenance};
use crossval::parity::{RunOptions, Scope, Texts};
use crossval::profile::Profile;
use crossval::selftest::{FaultKind, Injected, SelfTest, selftest};
use crossval::session::prompts::PromptSource;
use crossval::session::setup::Setup;
use crossval_workers::fault;

const DEMO_MODEL: &[u8] = include_bytes!("../../assets/tiny-bitnet.gguf");
const PROMPT: &str = "Once upon a time, there was a little girl";

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The model, a GGUF file [default: the bundled demo model]
    #[arg(long, value_name = "FILE")]
    model: Option<PathBuf>,
    /// Engine to compare against: bitnet.cpp, bitnet.cpp@NAME, oracle, rust or exec:COMMAND
    #[arg(long, value_name = "ENGINE", default_value = "bitnet.cpp")]
    reference: String,
    /// Places at which each kind of fault is injected
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..))]
    places: u16,
    /// Seed of the places
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Limits: standard, strict, logits or a TOML file
    #[arg(long, value_name = "PROFILE", default_value = "standard")]
    profile: String,
    /// The JSON file to write
    #[arg(
        short,
        long,
        value_name = "FILE",
        default_value = "crossval-selftest.json"
    )]
    out: PathBuf,
    /// Print the result as JSON, and nothing else
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    limits: LimitFlags,
}

pub(super) fn run(
    args: Args,
    provenance: &Provenance,
    terminal: Terminal,
) -> Result<Outcome, Error> {
    let demo = bundled().map_err(|e| Error::io(std::env::temp_dir(), e))?;
    let options = RunOptions {
        setup: Setup {
            launcher: args.limits.launcher(),
            model: args.model.unwrap_or_else(|| demo.path().to_owned()),
            reference: args.reference.parse()?,
            candidate: EngineSpec::Rust { fault: None },
        },
        texts: Texts {
            prompts: vec![PromptSource::Text {
                text: PROMPT.into(),
                source: "default".into(),
            }],
            chat: false,
            text: None,
            // The faults are not in the tokenizer.
            strings: 0,
        },
        scope: Scope {
            n_predict: 0,
            threads: 1,
            modes: vec![Mode::Isolated],
            profile: Profile::open(&args.profile)?,
            spot_check: Some(args.seed),
        },
        bench: false,
        known: Default::default(),
        command: Vec::new(),
        environment: environment::describe(provenance),
    };
    let mut file = StagedFile::create(&args.out).map_err(|e| Error::io(&args.out, e))?;
    let kinds: Vec<FaultKind> = fault::FaultKind::all().into_iter().map(kind).collect();
    let places = args.places.into();
    let test = terminal
        .bar()
        .during(|progress| selftest(&options, &kinds, places, args.seed, progress))?;
    let json = serde_json::to_string_pretty(&test)
        .map_err(|e| Error::Internal(format!("the result as JSON: {e}")))?;
    let written = file.write_all(json.as_bytes()).and_then(|()| file.finish());
    written.map_err(|e| Error::io(&args.out, e))?;
    match args.json {
        true => terminal.print_json(&test)?,
        false => {
            let summary = render(&test);
            terminal.print(&format!("{summary}\nreport  {}\n", args.out.display()))?;
        }
    }
    Ok(match test.passed() {
        true => Outcome::Pass,
        false => Outcome::Parity,
    })
}

fn kind(kind: fault::FaultKind) -> FaultKind {
    FaultKind {
        mistake: kind.mistake.to_owned(),
        scope: kind.scope.map(str::to_owned),
        taps: kind.taps,
        needs: kind.needs.map(str::to_owned),
    }
}

/// The demo model as a file.
fn bundled() -> std::io::Result<tempfile::NamedTempFile> {
    let mut file = tempfile::Builder::new()
        .prefix("tiny-bitnet-")
        .suffix(".gguf")
        .tempfile()?;
    file.write_all(DEMO_MODEL)?;
    file.flush()?;
    Ok(file)
}

fn render(test: &SelfTest) -> String {
    let mut kinds: Vec<&str> = Vec::new();
    for injected in &test.injected {
        if !kinds.contains(&injected.kind.as_str()) {
            kinds.push(&injected.kind);
        }
    }
    let mut rows = table(&["fault", "injected", "detected", "located", "blamed", "hint"]);
    let count = |of: &[&Injected], is: fn(&Injected) -> bool| {
        of.iter().filter(|i| is(i)).count().to_string()
    };
    let row = |name: &str, of: &[&Injected]| {
        [
            name.to_owned(),
            of.len().to_string(),
            count(of, |i| i.detected),
            count(of, |i| i.located),
            count(of, |i| i.blamed),
            count(of, |i| i.hint.is_some()),
        ]
    };
    for kind in &kinds {
        let of: Vec<&Injected> = test.injected.iter().filter(|i| i.kind == *kind).collect();
        rows.add_row(row(kind, &of));
    }
    let all: Vec<&Injected> = test.injected.iter().collect();
    rows.add_row(row(&format!("{} kinds", kinds.len()), &all));
    for column in 1..6 {
        if let Some(column) = rows.column_mut(column) {
            column.set_cell_alignment(comfy_table::CellAlignment::Right);
        }
    }
    let mut out = format!("{rows}\n");
    if test.control != Status::Pass {
        out.push_str("\nFAIL  the run without a fault did not pass\n");
    }
    for i in &test.injected {
        let found = match (&i.first_tap, i.first_layer) {
            (Some(tap), Some(layer)) => format!("found at layer {layer}, {tap}"),
            (Some(tap), None) => format!("found at {tap}"),
            (None, _) => "found nowhere".to_owned(),
        };
        if !i.detected {
            out.push_str(&format!(
                "\nUNDETECTED  {}: {} values",
                i.fault, i.changed_values
            ));
        } else if !i.located {
            out.push_str(&format!("\nmisplaced  {}: {found}", i.fault));
        } else if !i.blamed {
            out.push_str(&format!("\nnot blamed  {}", i.fault));
        }
    }
    if !test.excluded.is_empty() {
        let n = test.excluded.len();
        out.push_str(&format!(
            "\n{n} places excluded, since the fault changes nothing there (each is in the JSON):\n"
        ));
        out.push_str(&excluded(test));
    }
    let verdict = reports::terminal::status(match test.passed() {
        true => Status::Pass,
        false => Status::Fail,
    });
    let located = all.iter().filter(|i| i.located).count();
    out.push_str(&format!(
        "\n{verdict}  {} of {} faults detected, {located} located, {} kinds\n",
        all.iter().filter(|i| i.detected).count(),
        all.len(),
        kinds.len()
    ));
    out
}

/// How many places of each kind, and what they lack.
fn excluded(test: &SelfTest) -> String {
    let mut kinds: BTreeMap<(&str, Option<&str>), usize> = BTreeMap::new();
    for excluded in &test.excluded {
        let needs = excluded.needs.as_deref();
        *kinds.entry((&excluded.kind, needs)).or_default() += 1;
    }
    let line = |((kind, needs), n): ((&str, Option<&str>), usize)| match needs {
        Some(needs) => format!("  {n:>3}  {kind}: needs {needs}\n"),
        None => format!("  {n:>3}  {kind}\n"),
    };
    kinds.into_iter().map(line).collect()
}
