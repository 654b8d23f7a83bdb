//! The engine `oracle`: [`crossval_oracle`] behind the protocol.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

use bitnet_core::sampling::greedy;
use bitnet_model::check::{check_weights, zero_tensors};
use bitnet_model::tap::{Tap, sites};
use bitnet_model::{Activation, Hyperparameters};
use half::f16;

use crossval_oracle::inputs::{Inputs, TapAt};
use crossval_oracle::judge::Case;
use crossval_oracle::{Batch, Oracle, OracleError, weights};
use crossval_protocol::{
    self as protocol, Backend, ErrorKind, EvalRequest, Hello, JudgeRequest, ModelFacts, Refusal,
    Response, RoundingSpread, RowJudgement, Settings, TapHeader, TapStream, facts,
};

/// One sequence, evaluated stage by stage.
#[derive(Default)]
pub(crate) struct OracleBackend {
    /// In place of the file's.
    activation: Option<Activation>,
    oracle: Option<Oracle>,
    /// Every stage, in the order of the forward pass.
    stages: Vec<TapAt>,
    inputs: Inputs,
    position: usize,
    n_ctx: usize,
}

/// Sees a tap, and may change its bytes.
type Observe<'a> = dyn FnMut(TapHeader, &mut [u8]) -> Result<(), Refusal> + 'a;

fn refused(e: OracleError) -> Refusal {
    Refusal::new(ErrorKind::BadModel, e)
}

/// Null for what JSON cannot hold.
fn finite(x: f64) -> Option<f64> {
    x.is_finite().then_some(x)
}

fn usage(what: impl ToString) -> Refusal {
    Refusal::new(ErrorKind::Usage, what)
}

fn check_tokens(tokens: &[u32], n_vocab: usize) -> Result<(), Refusal> {
    match tokens.iter().find(|&&t| t as usize >= n_vocab) {
        Some(token) => Err(usage(format!(
            "token {token} is not in the vocabulary of {n_vocab}"
        ))),
        None => Ok(()),
    }
}

impl OracleBackend {
    pub(crate) fn new(activation: Option<Activation>) -> OracleBackend {
        OracleBackend {
            activation,
            ..OracleBackend::default()
        }
    }

    fn oracle(&self) -> Result<&Oracle, Refusal> {
        let oracle = self.oracle.as_ref();
        oracle.ok_or_else(|| usage("no model is loaded"))
    }

    /// Evaluates a batch; what the observer of a tap leaves in its bytes is what the rest starts from. Returns the last
    /// token's logits, if `logits` asks for any.
    fn evaluate(
        &mut self,
        batch: Batch,
        logits: Option<Range<usize>>,
        observe: &mut Observe,
    ) -> Result<Vec<f32>, Refusal> {
        let oracle = self
            .oracle
            .as_ref()
            .ok_or_else(|| usage("no model is loaded"))?;
        let Batch {
            first_position,
            tokens,
        } = batch;
        if first_position == 0 {
            self.inputs.clear();
        } else if first_position == self.position {
            self.inputs.keep_cache();
        } else {
            let at = self.position;
            return Err(usage(format!(
                "tokens for position {first_position}, the sequence is at {at}"
            )));
        }
        let n_vocab = oracle.n_vocab().map_err(refused)?;
        check_tokens(tokens, n_vocab)?;
        if batch.n_kv() > self.n_ctx || tokens.is_empty() {
            let (n, n_ctx) = (tokens.len(), self.n_ctx);
            let what = format!("{n} tokens at position {first_position}, a context of {n_ctx}");
            return Err(usage(what));
        }
        let mut last = Vec::new();
        for &at in &self.stages {
            let positions = match at.0 {
                Tap::Logits => logits.clone().unwrap_or(0..0),
                _ => first_position..batch.n_kv(),
            };
            let rounding = oracle.roundings(at).map_err(refused)?.remove(0);
            let rows = oracle
                .stage(at, batch, positions.clone(), &self.inputs, rounding)
                .map_err(refused)?;
            let Some(width) = rows.first().map(Vec::len) else {
                continue;
            };
            let header = TapHeader {
                tap: at.0,
                layer: at.1,
                first_position: positions.start,
                rows: rows.len(),
                width,
            };
            let mut wire = encode(at.0, &rows);
            observe(header, &mut wire)?;
            let rows = wire.chunks_exact(header.row_bytes());
            if at.0 == Tap::Logits {
                last = bytemuck::allocation::pod_collect_to_vec(rows.last().unwrap_or_default());
            } else {
                for (position, row) in positions.zip(rows) {
                    self.inputs.put(at, position, decode(at.0, row));
                }
            }
        }
        self.position = batch.n_kv();
        Ok(last)
    }

    fn next_token(&mut self, first_position: usize, tokens: &[u32]) -> Result<u32, Refusal> {
        let batch = Batch {
            first_position,
            tokens,
        };
        let last = batch.n_kv() - 1;
        let logits = self.evaluate(batch, Some(last..last + 1), &mut |_, _| Ok(()))?;
        Ok(greedy(&logits))
    }
}

/// Values as they go over the wire.
fn encode(tap: Tap, rows: &[Vec<f64>]) -> Vec<u8> {
    let values = rows.iter().flatten();
    if tap.is_f16() {
        values
            .flat_map(|&v| f16::from_f64(v).to_le_bytes())
            .collect()
    } else {
        values.flat_map(|&v| (v as f32).to_le_bytes()).collect()
    }
}

/// The other way round.
fn decode(tap: Tap, bytes: &[u8]) -> Vec<f64> {
    if tap.is_f16() {
        let (values, _) = bytes.as_chunks();
        let values = values.iter().map(|&v| f64::from(f16::from_le_bytes(v)));
        values.collect()
    } else {
        let (values, _) = bytes.as_chunks();
        let values = values.iter().map(|&v| f64::from(f32::from_le_bytes(v)));
        values.collect()
    }
}

impl Backend for OracleBackend {
    fn hello(&self) -> Hello {
        Hello {
            protocol: protocol::VERSION,
            engine: "oracle".into(),
            version: Some(env!("CARGO_PKG_VERSION").to_owned()),
            build: [
                ("arithmetic", "scalar f64, exact integer dots"),
                ("language", "Rust"),
            ]
            .map(|(k, v)| (k.to_owned(), v.to_owned()))
            .into(),
            architectures: crossval_oracle::architectures()
                .map(str::to_owned)
                .collect(),
            taps: Tap::ALL.to_vec(),
            overwrite: true,
            dtypes: weights::types().map(|ty| ty.to_string()).collect(),
            tokenizer: false,
            judges: true,
            graphs: false,
        }
    }

    fn load(&mut self, model: &Path) -> Result<ModelFacts, Refusal> {
        let oracle = Oracle::open_as(model, self.activation).map_err(refused)?;
        let shape = Hyperparameters::read_as(oracle.gguf(), self.activation)?;
        let facts = facts::model(oracle.gguf(), &shape);
        self.stages = sites(&facts.taps, facts.n_layer)
            .map(|(layer, tap)| (tap, layer))
            .collect();
        self.oracle = Some(oracle);
        Ok(facts)
    }

    fn check_weights(&self) -> Result<Vec<String>, Refusal> {
        Ok(check_weights(self.oracle()?.gguf())?)
    }

    fn zero_tensors(&self) -> Result<Vec<String>, Refusal> {
        Ok(zero_tensors(self.oracle()?.gguf())?)
    }

    fn configure(&mut self, settings: Settings) -> Result<BTreeMap<String, String>, Refusal> {
        self.oracle()?;
        self.inputs.clear();
        self.position = 0;
        self.n_ctx = settings.n_ctx;
        let recorded = [
            ("n_ctx", settings.n_ctx.to_string()),
            ("kv_cache", "F16".to_owned()),
        ];
        Ok(recorded.map(|(k, v)| (k.to_owned(), v)).into())
    }

    fn eval(&mut self, request: &EvalRequest, taps: &mut TapStream) -> Result<Vec<f32>, Refusal> {
        let batch = Batch {
            first_position: request.first_position,
            tokens: request.tokens,
        };
        let logits = if request.taps.contains(&Tap::Logits) {
            Some(batch.first_position..batch.n_kv())
        } else {
            request
                .last_logits
                .then(|| batch.n_kv().saturating_sub(1)..batch.n_kv())
        };
        self.evaluate(batch, logits, &mut |header, values| {
            if request.taps.contains(&header.tap) {
                taps.send(header, values, request.overwrite)
                    .map_err(|e| Refusal::new(ErrorKind::Internal, e))?;
            }
            Ok(())
        })
    }

    fn prefill(&mut self, tokens: &[u32]) -> Result<u32, Refusal> {
        self.next_token(0, tokens)
    }

    fn decode(&mut self, token: u32) -> Result<u32, Refusal> {
        self.next_token(self.position, &[token])
    }

    fn judge(
        &mut self,
        request: &JudgeRequest,
        tokens: &[u32],
        mut values: &[u8],
    ) -> Result<Response, Refusal> {
        let oracle = self.oracle()?;
        let batch = Batch {
            first_position: request.first_position,
            tokens,
        };
        // Widths of attention probabilities follow from the positions.
        let possible = batch.n_kv() <= u32::MAX as usize;
        if !possible || !(batch.first_position..batch.n_kv()).contains(&request.position) {
            let (position, first, n) = (request.position, batch.first_position, batch.tokens.len());
            let what = format!("position {position} of a batch of {n} tokens from {first}");
            return Err(usage(what));
        }
        let mut take = |header: &TapHeader| {
            let bytes = header.payload_bytes().filter(|&n| n <= values.len());
            let bytes = bytes.ok_or_else(|| usage(format!("too few values of {}", header.tap)))?;
            let (taken, rest) = values.split_at(bytes);
            values = rest;
            if header.width != oracle.width(header.tap, batch).map_err(refused)? {
                let (tap, width) = (header.tap, header.width);
                return Err(usage(format!("a row of {tap} has {width} values")));
            }
            let rows = taken.chunks_exact(header.row_bytes());
            Ok(rows.map(|row| decode(header.tap, row)).collect::<Vec<_>>())
        };
        let mut inputs = Inputs::default();
        for header in &request.inputs {
            for (row, values) in take(header)?.into_iter().enumerate() {
                let position = header.first_position.saturating_add(row);
                inputs.put((header.tap, header.layer), position, values);
            }
        }
        let rows = take(&TapHeader {
            tap: request.tap,
            layer: request.layer,
            first_position: request.position,
            rows: request.rows,
            width: oracle.width(request.tap, batch).map_err(refused)?,
        })?;
        let outputs = Some(request.outputs.as_slice()).filter(|outputs| !outputs.is_empty());
        let width = oracle.width(request.tap, batch).map_err(refused)?;
        if let Some(&element) = outputs.into_iter().flatten().find(|&&i| i >= width) {
            let tap = request.tap;
            return Err(usage(format!("element {element} of {width} of {tap}")));
        }
        let case = Case {
            at: (request.tap, request.layer),
            batch,
            position: request.position,
            inputs: &inputs,
            limit: request.limit,
            element_limit: request.element_limit,
            outputs,
            explain: request.explain,
        };
        let (right, judged) = oracle.judge(case, &rows).map_err(refused)?;
        // Of the elements looked at, if not of all.
        let at = match outputs {
            Some(outputs) => outputs.iter().position(|&i| i == request.element),
            None => Some(request.element),
        };
        let rows = judged.into_iter().map(|j| RowJudgement {
            nmse: finite(j.nmse),
            limit: finite(j.limit),
            right: j.right,
            rounding: j.rounding.name().to_owned(),
            findings: j.findings,
        });
        Ok(Response::Judged {
            value: at.and_then(|at| finite(*right.get(at)?)),
            rows: rows.collect(),
        })
    }

    fn spread(
        &mut self,
        tokens: &[u32],
        first_position: usize,
    ) -> Result<Vec<RoundingSpread>, Refusal> {
        let oracle = self.oracle()?;
        let n_vocab = oracle.n_vocab().map_err(refused)?;
        check_tokens(tokens, n_vocab)?;
        if first_position >= tokens.len() {
            let n = tokens.len();
            return Err(usage(format!("position {first_position} of {n} tokens")));
        }
        let spreads = oracle.spread(tokens, first_position..tokens.len());
        let spreads = spreads.map_err(refused)?.into_iter();
        let spreads = spreads.map(|spread| RoundingSpread {
            rounding: spread.rounding,
            nmse: finite(spread.nmse),
        });
        Ok(spreads.collect())
    }
}
