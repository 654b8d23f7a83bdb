//! `crossval check-worker`.

use std::path::{Path, PathBuf};

use bitnet_model::Architecture;
use bitnet_model::gguf::TensorType;
use bitnet_synth::{Preset, SynthOptions, SyntheticModel};
use crossval_protocol::Hello;
use reports::model::Status;
use reports::number;
use reports::outcome::Outcome;

use super::limits::{LimitFlags, ModelFile};
use super::terminal::{Terminal, table};
use crossval::Error;
use crossval::conformance::{Conformance, check, without_hello};
use crossval::engine::EngineSpec;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The worker: exec:COMMAND, or any other engine
    #[arg(value_name = "ENGINE")]
    engine: String,
    #[command(flatten)]
    model: ModelFile,
    /// Print the result as JSON, and nothing else
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    limits: LimitFlags,
}

pub(super) fn run(args: Args, terminal: Terminal) -> Result<Outcome, Error> {
    let launcher = args.limits.launcher();
    let spec: EngineSpec = args.engine.parse()?;
    let scratch = tempfile::tempdir().map_err(|e| Error::io(std::env::temp_dir(), e))?;
    let checked = |model: &Path| {
        terminal
            .bar()
            .during(|progress| check(&launcher, &spec, model, progress))
    };
    let result = match args.model.given()? {
        Some(model) => checked(&model)?,
        None => match launcher.start(&spec, None) {
            Ok(engine) => {
                let model = of_its_own(engine.hello(), scratch.path())?;
                drop(engine);
                checked(&model)?
            }
            Err(why) => without_hello(&spec, &why),
        },
    };
    match args.json {
        true => terminal.print_json(&result)?,
        false => terminal.print(&text(&result))?,
    }
    Ok(match result.passed() {
        true => Outcome::Pass,
        false => Outcome::Engine,
    })
}

/// A small model with random weights that a worker says it runs.
fn of_its_own(hello: &Hello, folder: &Path) -> Result<PathBuf, Error> {
    let path = folder.join("model.gguf");
    let io = |e| Error::io(&path, e);
    let runs = |ty: &TensorType| hello.dtypes.iter().any(|name| name == ty.name());
    let mut known = hello.architectures.iter();
    let Some(architecture) = known.find_map(|name| Architecture::named(name)) else {
        let what = "it runs no architecture that is known here: give a model";
        return Err(Error::Usage(format!("{what} that it runs")));
    };
    let mut options = SynthOptions::new(architecture, Preset::Tiny, 1);
    if !runs(&options.matrix_type) {
        let types = [TensorType::F32, TensorType::F16];
        options.matrix_type = types.into_iter().find(runs).unwrap_or(options.matrix_type);
    }
    let synthetic = |e: bitnet_synth::Error| Error::Internal(format!("a model to load: {e}"));
    let model = SyntheticModel::new(&options, &path).map_err(synthetic)?;
    let mut file = std::fs::File::create(&path).map_err(io)?;
    model
        .write(&mut file, &mut |_, _| true)
        .map_err(synthetic)?;
    Ok(path)
}

fn text(result: &Conformance) -> String {
    let mut rows = table(&["", "a worker", ""]);
    for check in &result.checks {
        let word = match check.passed {
            Some(true) => "ok",
            Some(false) => "FAILED",
            None => "-",
        };
        let what = check.what.as_deref().unwrap_or_default();
        rows.add_row([word, check.name, what]);
    }
    let count = |passed| {
        let checks = result.checks.iter();
        checks.filter(|check| check.passed == passed).count() as u64
    };
    let verdict = match result.passed() {
        true => reports::terminal::status(Status::Pass),
        false => reports::terminal::status(Status::Fail),
    };
    format!(
        "{rows}\n\n{verdict}  {}: {} of {}, {} without what they are about\n",
        result.engine,
        number::count(count(Some(true))),
        number::plural(result.checks.len() as u64, "check"),
        number::count(count(None))
    )
}
