//! `crossval convert`.

use std::io;
use std::path::{Path, PathBuf};

use bitnet_convert::convert::{self, TARGETS};
use bitnet_convert::weights::Model;
use bitnet_model::ErrorKind;
use bitnet_model::gguf::{Gguf, TensorType};
use clap::builder::{PossibleValuesParser, TypedValueParser};
use reports::StagedFile;
use reports::outcome::Outcome;

use super::diff;
use super::terminal::Terminal;
use crossval::{Error, interrupt};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The model: a GGUF file, or the folder of a checkpoint of Hugging Face
    source: PathBuf,
    /// The file to write
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// Type of the layers' matrices, and of embeddings and output, too, if it is a float
    #[arg(long = "type", value_name = "TYPE", value_parser = types())]
    matrix_type: TensorType,
    /// Print how it compares with the source as JSON, and nothing else
    #[arg(long)]
    json: bool,
}

fn types() -> impl TypedValueParser<Value = TensorType> {
    let names = PossibleValuesParser::new(TARGETS.map(|target| target.name));
    names.try_map(|name| {
        let target = TARGETS.iter().find(|target| target.name == name);
        target.map(|target| target.ty).ok_or("unknown type")
    })
}

pub(super) fn run(args: Args, terminal: Terminal) -> Result<Outcome, Error> {
    let Args {
        source,
        output,
        matrix_type,
        json,
    } = args;
    let model = diff::open(&source)?;
    write(&*model, matrix_type, &output, terminal)?;
    let written = Gguf::open(&output).map_err(|e| Error::Internal(e.to_string()))?;
    diff::between((&source, &*model), (&output, &written), json, terminal)
}

/// The file appears whole or not at all, and may take the place of its source.
fn write(
    model: &dyn Model,
    ty: TensorType,
    output: &Path,
    terminal: Terminal,
) -> Result<(), Error> {
    let failed = |e| Error::io(output, e);
    let mut file = StagedFile::create(output).map_err(failed)?;
    let written = terminal.bar().during(|progress| {
        progress.stage("converting");
        progress.steps(model.size());
        convert::convert(model, ty, output, &mut file, |bytes| {
            progress.done(bytes);
            interrupt::received().is_none()
        })
    });
    written.map_err(|e| match e.kind() {
        ErrorKind::Io => {
            let source = std::error::Error::source(&e).map(ToString::to_string);
            failed(io::Error::other(source.unwrap_or_else(|| e.to_string())))
        }
        _ => bad_input(e),
    })?;
    file.finish().map_err(failed)
}

fn bad_input(e: bitnet_model::Error) -> Error {
    Error::BadInput(e.to_string())
}
