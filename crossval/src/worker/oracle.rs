//! The engine `oracle`: [`crate::oracle`] behind the protocol.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

use bitnet_core::sampling::greedy;
use bitnet_core::tap::Tap;
use half::f16;

use super::{Backend, EvalRequest, Refusal, TapStream, facts};
use crate::compare::finite;
use crate::oracle::inputs::{Inputs, TapAt};
use crate::oracle::judge::Case;
use crate::oracle::{Batch, Oracle, OracleError};
use crate::protocol::{
    self, ErrorKind, Hello, JudgeRequest, ModelFacts, Response, RowJudgement, Settings, TapHeader,
};

/// One sequence, evaluated stage by stage.
#[derive(Default)]
pub(crate) struct OracleBackend {
    oracle: Option<Oracle>,
    inputs: Inputs,
    position: usize,
    n_ctx: usize,
}

/// Sees a tap, and may change its bytes.
type Observe<'a> = dyn FnMut(TapHeader, &mut [u8]) -> Result<(), Refusal> + 'a;

impl From<OracleError> for Refusal {
    fn from(e: OracleError) -> Refusal {
        Refusal::new(ErrorKind::BadModel, e)
    }
}

fn usage(what: impl ToString) -> Refusal {
    Refusal::new(ErrorKind::Usage, what)
}

impl OracleBackend {
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
        let n_vocab = oracle.n_vocab()?;
        if let Some(token) = tokens.iter().find(|&&t| t as usize >= n_vocab) {
            return Err(usage(format!(
                "token {token} is not in the vocabulary of {n_vocab}"
            )));
        }
        if batch.n_kv() > self.n_ctx || tokens.is_empty() {
            let (n, n_ctx) = (tokens.len(), self.n_ctx);
            let what = format!("{n} tokens at position {first_position}, a context of {n_ctx}");
            return Err(usage(what));
        }
        let mut last = Vec::new();
        for at in stages(oracle) {
            let positions = match at.0 {
                Tap::Logits => logits.clone().unwrap_or(0..0),
                _ => first_position..batch.n_kv(),
            };
            let rounding = oracle.roundings(at)?.remove(0);
            let rows = oracle.stage(at, batch, positions.clone(), &self.inputs, rounding)?;
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

/// Every stage, in the order of the forward pass.
fn stages(oracle: &Oracle) -> Vec<TapAt> {
    let taps = oracle.taps();
    let outside = |embd: bool| {
        let taps = taps.iter().filter(move |t| !t.per_layer());
        taps.filter(move |&&t| (t == Tap::Embd) == embd)
            .map(|&t| (t, None))
    };
    let layers = (0..oracle.hyper().n_layer).flat_map(|layer| {
        let taps = taps.iter().filter(|t| t.per_layer());
        taps.map(move |&t| (t, Some(layer)))
    });
    outside(true).chain(layers).chain(outside(false)).collect()
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
            build: [(
                "arithmetic".to_owned(),
                "scalar f64, exact integer dots".to_owned(),
            )]
            .into(),
            architectures: ["bitnet", "bitnet-25", "bitnet-b1.58", "llama"]
                .map(str::to_owned)
                .to_vec(),
            taps: Tap::ALL.to_vec(),
            overwrite: true,
            dtypes: ["F32", "F16", "BF16", "Q8_0", "Q6_K", "I2_S"]
                .map(str::to_owned)
                .to_vec(),
            tokenizer: false,
            judges: true,
        }
    }

    fn load(&mut self, model: &Path) -> Result<ModelFacts, Refusal> {
        let oracle = Oracle::open(model)?;
        let h = oracle.hyper();
        let facts = ModelFacts {
            architecture: h.architecture.clone(),
            name: oracle
                .gguf()
                .metadata()
                .str("general.name")
                .ok()
                .map(str::to_owned),
            n_layer: h.n_layer,
            n_embd: h.n_embd,
            n_ff: h.n_ff,
            n_head: h.n_head,
            n_head_kv: h.n_head_kv,
            n_vocab: oracle.n_vocab()?,
            n_ctx_train: h.n_ctx_train,
            taps: oracle.taps(),
            tensor_types: facts::tensor_types(oracle.gguf()),
            weight_types: facts::weight_types(oracle.gguf()),
            work: Some(facts::token_work(oracle.gguf())),
            vocab: None,
        };
        self.oracle = Some(oracle);
        Ok(facts)
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
            if header.width != oracle.width(header.tap, batch)? {
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
            width: oracle.width(request.tap, batch)?,
        })?;
        let case = Case {
            at: (request.tap, request.layer),
            batch,
            position: request.position,
            inputs: &inputs,
            limit: request.limit,
        };
        let (right, judged) = oracle.judge(case, &rows)?;
        let rows = judged.into_iter().map(|j| RowJudgement {
            nmse: finite(j.nmse),
            right: j.right,
            rounding: j.rounding.name().to_owned(),
            findings: j.findings,
        });
        Ok(Response::Judged {
            value: right.get(request.element).copied().and_then(finite),
            rows: rows.collect(),
        })
    }
}
