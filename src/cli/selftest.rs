//! `crossval selftest`.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::PathBuf;

use reports::StagedFile;
use reports::model::{Mode, Role, Status};
use reports::outcome::Outcome;

use super::limits::{LimitFlags, ModelFile, ModelFlags};
use super::terminal::{Terminal, table};
use bitnet_model::Hyperparameters;
use bitnet_model::gguf::Gguf;
use bitnet_model::tap::Tap;
use crossval::Error;
use crossval::engine::EngineSpec;
use crossval::environment::{self, Provenance};
use crossval::parity::{Conditions, RunOptions, Scope, Texts};
use crossval::profile::Profile;
use crossval::selftest::{
    BLAMED, FaultAt, FaultKind, Injected, LOCATED, Proof, SelfTest, SelfTestOptions, selftest,
};
use crossval::session::prompts::PromptSource;
use crossval::session::setup::Setup;
use crossval_workers::fault;

const DEMO_MODEL: &[u8] = include_bytes!("../../assets/tiny-bitnet.gguf");
const PROMPT: &str = "Once upon a time, there was a little girl";

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    model: ModelFile,
    /// Engine to compare against: bitnet.cpp, bitnet.cpp@NAME, llama.cpp, oracle, rust or exec:COMMAND
    #[arg(long, value_name = "ENGINE", default_value = "bitnet.cpp")]
    reference: String,
    /// Faults of each kind, at random places, in the candidate and in the reference, in isolated and in cumulative mode
    #[arg(long, value_name = "N", default_value_t = 6, value_parser = clap::value_parser!(u16).range(1..))]
    places: u16,
    /// Families of faults to try, such as stages,times [default: all]
    #[arg(long, value_name = "NAME,…", value_delimiter = ',')]
    families: Vec<String>,
    /// Kinds of each family to try, at random [default: all]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    kinds: Option<u16>,
    /// Seed of kinds and places
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Limits: standard, strict, logits or a TOML file
    #[arg(long, value_name = "PROFILE", default_value = "standard")]
    profile: String,
    /// Write the result as JSON to this file
    #[arg(short, long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Print the result as JSON, and nothing else
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    of_model: ModelFlags,
    #[command(flatten)]
    limits: LimitFlags,
}

pub(super) fn run(
    args: Args,
    provenance: &Provenance,
    terminal: Terminal,
) -> Result<Outcome, Error> {
    let temporary = |e| Error::io(std::env::temp_dir(), e);
    let demo = bundled().map_err(temporary)?;
    let scratch = tempfile::tempdir().map_err(temporary)?;
    let options = RunOptions {
        setup: Setup {
            launcher: args.of_model.apply(args.limits.launcher()),
            model: args
                .model
                .given()?
                .unwrap_or_else(|| demo.path().to_owned()),
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
            strings: 0,
        },
        scope: Scope {
            n_predict: 0,
            threads: 1,
            n_ctx: None,
            modes: vec![Mode::Isolated],
            profile: Profile::open(&args.profile)?,
            spot_check: Some(args.seed),
            conditions: Conditions::None,
        },
        bench: false,
        known: Default::default(),
        command: Vec::new(),
        environment: environment::describe(provenance),
    };
    // Before what takes long.
    let out = args.out.as_deref();
    let staged = out.map(|path| StagedFile::create(path).map_err(|e| Error::io(path, e)));
    let staged = staged.transpose()?;
    let model = Gguf::open(&options.setup.model).map_err(of_model)?;
    let model =
        Hyperparameters::read_as(&model, options.setup.launcher.activation).map_err(of_model)?;
    let options = SelfTestOptions {
        run: &options,
        kinds: &kinds,
        families: &args.families,
        kinds_of_family: args.kinds.map(usize::from),
        places: args.places.into(),
        seed: args.seed,
        n_ctx: model.n_ctx_train,
        n_vocab: model.n_vocab,
        scratch: scratch.path(),
    };
    let test = terminal
        .bar()
        .during(|progress| selftest(&options, progress))?;
    let mut summary = render(&test);
    if let Some((path, mut file)) = out.zip(staged) {
        let json = serde_json::to_string_pretty(&test)
            .map_err(|e| Error::Internal(format!("the result as JSON: {e}")))?;
        let written = file.write_all(json.as_bytes()).and_then(|()| file.finish());
        written.map_err(|e| Error::io(path, e))?;
        summary.push_str(&format!("\nreport  {}\n", path.display()));
    }
    match args.json {
        true => terminal.print_json(&test)?,
        false => terminal.print(&summary)?,
    }
    Ok(match test.passed() {
        true => Outcome::Pass,
        false => Outcome::Parity,
    })
}

fn of_model(e: bitnet_model::Error) -> Error {
    Error::BadInput(e.to_string())
}

fn kinds(taps: &[Tap], n_layer: usize) -> Vec<FaultKind> {
    let kinds = fault::FaultKind::all(taps, n_layer).into_iter();
    kinds.map(kind).collect()
}

fn kind(kind: fault::FaultKind) -> FaultKind {
    let place = |place: fault::Place| FaultAt {
        fault: place.fault,
        tap: place.tap,
        layer: place.layer,
        in_every_layer: place.in_every_layer,
    };
    FaultKind {
        family: kind.family.to_owned(),
        name: kind.name,
        proof: match kind.proof {
            fault::Proof::Taps { in_logits } => Proof::Taps { in_logits },
            fault::Proof::Conditions => Proof::Conditions,
            fault::Proof::Generation => Proof::Generation,
            fault::Proof::Text => Proof::Text,
            fault::Proof::Tokenizer => Proof::Tokenizer,
            fault::Proof::Times => Proof::Times,
            fault::Proof::Speed => Proof::Speed,
        },
        needs: kind.needs.map(str::to_owned),
        may_change_nothing: kind.may_change_nothing,
        behind: kind.behind,
        places: kind.places.into_iter().map(place).collect(),
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
    let mut out = tables(test);
    for reason in &test.control_reasons {
        out.push_str(&format!("\nFAIL  a run without a fault: {reason}\n"));
    }
    for i in &test.injected {
        out.push_str(&wrong(i));
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
    let count = |is: fn(&Injected) -> bool| test.injected.iter().filter(|i| is(i)).count();
    let kinds: BTreeSet<(&str, &str)> = test.injected.iter().map(kind_of).collect();
    out.push_str(&format!(
        "\n{verdict}  {} of {} faults detected, {} located (of which {:.0}% must be), {} blamed on the right engine \
         ({:.0}%), {} kinds\n",
        count(|i| i.detected),
        test.injected.len(),
        count(|i| i.located),
        LOCATED * 100.0,
        count(|i| i.blamed),
        BLAMED * 100.0,
        kinds.len()
    ));
    out
}

/// Family and kind.
fn kind_of(injected: &Injected) -> (&str, &str) {
    (&injected.family, &injected.kind)
}

/// Every kind, then every family, role and mode, with what became of their faults.
fn tables(test: &SelfTest) -> String {
    let mut kinds: Vec<(&str, &str)> = Vec::new();
    for injected in &test.injected {
        if !kinds.contains(&kind_of(injected)) {
            kinds.push(kind_of(injected));
        }
    }
    let head = ["injected", "detected", "located", "blamed", "hint"];
    let mut of_kinds = table(&[&["fault"][..], &head].concat());
    for kind in &kinds {
        of_kinds.add_row(row(kind.1, test, |i| kind_of(i) == *kind));
    }
    let mut of_families = table(&[&["family"][..], &head].concat());
    let mut families: Vec<&str> = kinds.iter().map(|kind| kind.0).collect();
    families.sort_unstable();
    families.dedup();
    for family in families {
        of_families.add_row(row(family, test, |i| i.family == family));
    }
    for role in Role::BOTH {
        let name = format!("in the {role}");
        of_families.add_row(row(&name, test, |i| i.roles == [role]));
    }
    of_families.add_row(row("in both engines", test, |i| i.roles.len() == 2));
    for (name, modes) in [
        ("isolated alone", &[Mode::Isolated][..]),
        ("cumulative alone", &[Mode::Cumulative]),
    ] {
        of_families.add_row(row(name, test, |i| i.modes == modes));
    }
    of_families.add_row(row(&format!("{} kinds", kinds.len()), test, |_| true));
    for rows in [&mut of_kinds, &mut of_families] {
        for column in 1..6 {
            if let Some(column) = rows.column_mut(column) {
                column.set_cell_alignment(comfy_table::CellAlignment::Right);
            }
        }
    }
    format!("{of_kinds}\n\n{of_families}\n")
}

fn row(name: &str, test: &SelfTest, belongs: impl Fn(&Injected) -> bool) -> [String; 6] {
    let of: Vec<&Injected> = test.injected.iter().filter(|i| belongs(i)).collect();
    let count = |is: fn(&Injected) -> bool| of.iter().filter(|i| is(i)).count().to_string();
    [
        name.to_owned(),
        of.len().to_string(),
        count(|i| i.detected),
        count(|i| i.located),
        count(|i| i.blamed),
        count(|i| i.hint.is_some()),
    ]
}

/// What is wrong with what became of a fault; nothing if all is well.
fn wrong(i: &Injected) -> String {
    let roles: Vec<String> = i.roles.iter().map(Role::to_string).collect();
    let fault = match &i.other_fault {
        Some(other) => format!("{other} in the reference, {} in the candidate", i.fault),
        None => format!("{} in the {}", i.fault, roles.concat()),
    };
    let found = match (&i.first_tap, i.first_layer) {
        (Some(tap), Some(layer)) => format!("found at layer {layer}, {tap}"),
        (Some(tap), None) => format!("found at {tap}"),
        (None, _) => i.reasons.first().map_or("found nowhere", |r| r).to_owned(),
    };
    if !i.detected {
        format!("\nUNDETECTED  {fault}: {} values", i.changed_values)
    } else if !i.located {
        format!("\nmisplaced  {fault}: {found}")
    } else if !i.blamed {
        format!("\nnot blamed  {fault}: {:?}, {found}", i.at_fault)
    } else {
        String::new()
    }
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
