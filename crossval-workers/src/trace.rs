//! The engine `trace`: answers from a recorded run.

use std::collections::BTreeMap;
use std::path::Path;

use bitnet_model::gguf::Gguf;
use bitnet_model::tap::Tap;

use crossval_protocol::{
    self as protocol, Backend, ErrorKind, EvalRequest, Hello, ModelFacts, Refusal, Settings,
    TapHeader, TapStream,
};
use crossval_trace::{RecordedPrompt, Trace, TraceError};

use crate::Error;

/// A trace behind the protocol. It evaluates what was recorded, and refuses everything else.
pub(crate) struct TraceBackend {
    trace: Trace,
    /// Tokens evaluated since position 0.
    sequence: Vec<u32>,
    /// Prompt and number of the token generated last.
    generating: Option<(usize, usize)>,
}

fn refused(e: TraceError) -> Refusal {
    Refusal::new(ErrorKind::BadModel, e)
}

impl TraceBackend {
    pub(crate) fn new(file: &Path) -> Result<TraceBackend, Error> {
        Ok(TraceBackend {
            trace: Trace::open(file).map_err(|e| Error::BadInput(e.to_string()))?,
            sequence: Vec::new(),
            generating: None,
        })
    }

    fn refusal(&self, wanted: &str) -> Refusal {
        let (path, contents) = (self.trace.path().display(), self.trace.contents());
        let message = format!("trace {path}: {wanted} was not recorded; it holds {contents}");
        Refusal::new(ErrorKind::Usage, message)
    }

    /// Whether `sequence`, whose last `n` tokens are one batch, was evaluated like that.
    fn holds(&self, prompt: &RecordedPrompt, sequence: &[u32], n: usize) -> bool {
        let n_prompt = prompt.tokens.len();
        let recorded = prompt.tokens.iter().chain(&prompt.generated);
        if sequence.len() > n_prompt + prompt.generated.len()
            || !sequence.iter().eq(recorded.take(sequence.len()))
        {
            return false;
        }
        let first = sequence.len() - n;
        let n_ubatch = self.trace.info().n_ubatch;
        let batch = match n_prompt.checked_sub(first) {
            Some(left @ 1..) if first.is_multiple_of(n_ubatch) => left.min(n_ubatch),
            Some(1..) => return false,
            _ => 1,
        };
        n == batch
    }

    /// Sends the rows of every tap asked for, in the order of the forward pass.
    fn send_taps(
        &self,
        prompt: &RecordedPrompt,
        request: &EvalRequest,
        stream: &mut TapStream,
    ) -> Result<(), Refusal> {
        for (layer, tap) in self.trace.sites() {
            if request.taps.contains(&tap) {
                self.send_tap(prompt, (layer, tap), request, stream)?;
            }
        }
        Ok(())
    }

    fn send_tap(
        &self,
        prompt: &RecordedPrompt,
        (layer, tap): (Option<usize>, Tap),
        request: &EvalRequest,
        stream: &mut TapStream,
    ) -> Result<(), Refusal> {
        let first = request.first_position;
        let end = first + request.tokens.len();
        let (shape, _) = self
            .trace
            .tap_rows(prompt, (layer, tap), first..first)
            .map_err(refused)?;
        // Of attention probabilities, the file also has the positions after this batch.
        let (groups, width) = match *shape {
            [n_head, _] => (n_head, end),
            _ => (1, shape.iter().product()),
        };
        let whole: usize = shape.iter().product::<usize>() / groups.max(1);
        let mut header = TapHeader {
            tap,
            layer,
            first_position: first,
            rows: 0,
            width: groups * width,
        };
        let value_bytes = header.row_bytes() / header.width.max(1);
        let rows_per_frame = protocol::rows_per_frame(header.row_bytes());
        let mut piece = Vec::new();
        for start in (first..end).step_by(rows_per_frame) {
            header.first_position = start;
            header.rows = rows_per_frame.min(end - start);
            let rows = start..start + header.rows;
            let (_, bytes) = self
                .trace
                .tap_rows(prompt, (layer, tap), rows)
                .map_err(refused)?;
            piece.clear();
            for group in bytes.chunks_exact((whole * value_bytes).max(1)) {
                piece.extend_from_slice(&group[..width * value_bytes]);
            }
            stream
                .send(header, &mut piece, false)
                .map_err(|e| Refusal::new(ErrorKind::Internal, e))?;
        }
        Ok(())
    }

    /// Logits after the sequence.
    fn last_logits(&self, prompt: &RecordedPrompt, observed: bool) -> Result<Vec<f32>, Refusal> {
        let n = self.sequence.len();
        let bytes = match n.checked_sub(prompt.tokens.len()) {
            Some(index) if !observed && index < prompt.generated.len() => self
                .trace
                .generated_logits(prompt, index)
                .map_err(refused)?,
            _ if self.trace.taps().contains(&Tap::Logits) => {
                self.trace
                    .tap_rows(prompt, (None, Tap::Logits), n - 1..n)
                    .map_err(refused)?
                    .1
            }
            _ => return Err(self.refusal(&format!("logits after {n} tokens"))),
        };
        Ok(bytemuck::allocation::pod_collect_to_vec(&bytes))
    }
}

impl Backend for TraceBackend {
    fn hello(&self) -> Hello {
        let info = self.trace.info();
        let mut hello = info.hello.clone();
        hello.protocol = protocol::VERSION;
        hello.overwrite = false;
        hello.tokenizer = false;
        hello.judges = false;
        hello.graphs = false;
        let environment = |key: &str| Some(info.environment.get(key)?.as_str()?.to_owned());
        let recorded = [
            ("trace_engine", Some(info.engine.clone())),
            ("trace_created", Some(info.created.clone())),
            ("trace_cpu", environment("cpu")),
            ("trace_os", environment("os")),
            ("trace_crossval", environment("crossval_version")),
            ("trace_git_revision", environment("git_revision")),
        ];
        let recorded = recorded
            .into_iter()
            .filter_map(|(k, v)| Some((k.to_owned(), v?)));
        hello.build.extend(recorded);
        hello
    }

    /// The driver has compared the hash of the model; its size is looked at here again.
    fn load(&mut self, path: &Path) -> Result<ModelFacts, Refusal> {
        let bad = |what: String| {
            let (model, trace) = (path.display(), self.trace.path().display());
            Refusal::new(
                ErrorKind::BadModel,
                format!("model {model}: {what} (trace {trace})"),
            )
        };
        let size = match Gguf::open(path) {
            Ok(model) => model.file_size(),
            Err(_) => std::fs::metadata(path)
                .map_err(|e| bad(e.to_string()))?
                .len(),
        };
        let info = self.trace.info();
        if size != info.model_size_bytes {
            let recorded = info.model_size_bytes;
            return Err(bad(format!(
                "has {size} bytes, the recorded one has {recorded}"
            )));
        }
        Ok(info.model_facts.clone())
    }

    fn configure(&mut self, _: Settings) -> Result<BTreeMap<String, String>, Refusal> {
        self.sequence.clear();
        Ok(self.trace.info().settings.clone())
    }

    fn eval(&mut self, request: &EvalRequest, taps: &mut TapStream) -> Result<Vec<f32>, Refusal> {
        let (first, n) = (request.first_position, request.tokens.len());
        let mut sequence = std::mem::take(&mut self.sequence);
        sequence.truncate(if first == 0 { 0 } else { usize::MAX });
        let in_order = sequence.len() == first && n > 0;
        sequence.extend_from_slice(request.tokens);
        let observed = !request.taps.is_empty();
        let prompt = self.trace.prompts().iter().find(|p| {
            let positions = match observed {
                true => p.tokens.len() + p.decode_tokens.len(),
                false => p.tokens.len() + p.generated.len(),
            };
            in_order && sequence.len() <= positions && self.holds(p, &sequence, n)
        });
        let Some(prompt) = prompt.cloned() else {
            let end = first.saturating_add(n);
            return Err(self.refusal(&format!("this evaluation of positions {first}..{end}")));
        };
        self.sequence = sequence;
        if observed {
            self.send_taps(&prompt, request, taps)?;
        }
        if request.last_logits {
            self.last_logits(&prompt, observed)
        } else {
            Ok(Vec::new())
        }
    }

    fn prefill(&mut self, tokens: &[u32]) -> Result<u32, Refusal> {
        self.generating = None;
        let prompt = self.trace.prompt(tokens);
        let first = prompt.and_then(|p| Some((p.index, *p.generated.first()?)));
        let Some((index, token)) = first else {
            let n = tokens.len();
            return Err(self.refusal(&format!("generation from this prompt of {n} tokens")));
        };
        self.generating = Some((index, 0));
        Ok(token)
    }

    fn decode(&mut self, token: u32) -> Result<u32, Refusal> {
        let next = self.generating.and_then(|(index, at)| {
            let generated = &self.trace.prompts().get(index)?.generated;
            (generated.get(at) == Some(&token)).then_some(())?;
            Some((index, at + 1, *generated.get(at + 1)?))
        });
        let Some((index, at, token)) = next else {
            return Err(self.refusal("generation of more tokens"));
        };
        self.generating = Some((index, at));
        Ok(token)
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{Seek, SeekFrom};

    use super::*;
    use crossval_protocol::Response;
    use crossval_trace::sample::{GENERATED, N_VOCAB, PROMPT, sample};

    struct Replay {
        backend: TraceBackend,
        stream: TapStream,
        output: File,
        _folder: tempfile::TempDir,
    }

    impl Replay {
        fn new() -> Replay {
            let folder = tempfile::tempdir().unwrap();
            let output = tempfile::tempfile().unwrap();
            let stream = TapStream::new(std::io::empty(), output.try_clone().unwrap());
            Replay {
                backend: TraceBackend::new(&sample(folder.path())).unwrap(),
                stream,
                output,
                _folder: folder,
            }
        }

        fn eval(&mut self, first: usize, tokens: &[u32], taps: &[Tap]) -> Result<Vec<f32>, String> {
            let request = EvalRequest {
                first_position: first,
                tokens,
                taps,
                overwrite: false,
                last_logits: true,
            };
            let answer = self.backend.eval(&request, &mut self.stream);
            answer.map_err(|refusal| {
                assert_eq!(refusal.kind, ErrorKind::Usage);
                assert!(
                    refusal.message.contains("was not recorded"),
                    "{}",
                    refusal.message
                );
                refusal.message
            })
        }

        fn sent(mut self) -> Vec<(TapHeader, Vec<u8>)> {
            self.output.seek(SeekFrom::Start(0)).unwrap();
            let mut sent = Vec::new();
            let mut payload = Vec::new();
            while let Ok(Response::Tap(header)) =
                protocol::read_frame(&mut self.output, &mut payload)
            {
                sent.push((header, payload.clone()));
            }
            sent
        }
    }

    /// The sample was recorded in batches of 4, with 2 decode steps and 3 tokens generated.
    #[test]
    fn only_what_was_recorded() {
        let mut replay = Replay::new();
        let q = [Tap::Embd];
        for taps in [&[][..], &q] {
            assert!(replay.eval(0, &PROMPT[..4], taps).is_ok());
            assert!(replay.eval(4, &PROMPT[4..], taps).is_ok());
            assert!(replay.eval(6, &GENERATED[..1], taps).is_ok());
            assert!(replay.eval(7, &GENERATED[1..2], taps).is_ok());
        }
        replay.eval(8, &GENERATED[2..], &q).unwrap_err();
        for (first, tokens) in [
            (0, &PROMPT[..]),
            (0, &PROMPT[..3]),
            (0, &[7, 7, 7, 7]),
            (0, &[]),
            (4, &PROMPT[4..]),
            (usize::MAX, &PROMPT[..1]),
        ] {
            let refusal = replay.eval(first, tokens, &[]).unwrap_err();
            assert!(refusal.contains("prompt 0 of 6 tokens (1,5,2,6,0,3) in batches of 4"));
        }
        replay.eval(0, &PROMPT[..4], &[]).unwrap();
        replay.eval(4, &[9, 9], &[]).unwrap_err();
    }

    #[test]
    fn logits_of_steps_and_of_taps() {
        let mut replay = Replay::new();
        replay.eval(0, &PROMPT[..4], &[]).unwrap();
        let by_steps = replay.eval(4, &PROMPT[4..], &[]).unwrap();
        let trace = &replay.backend.trace;
        let prompt = trace.prompts()[0].clone();
        let expected = trace.generated_logits(&prompt, 0).unwrap();
        assert_eq!(bytemuck::cast_slice::<f32, u8>(&by_steps), expected);
        let expected = trace.tap_rows(&prompt, (None, Tap::Logits), 5..6).unwrap();
        let expected = expected.1.to_vec();
        replay.eval(0, &PROMPT[..4], &[]).unwrap();
        let observed = replay.eval(4, &PROMPT[4..], &[Tap::Logits]).unwrap();
        assert_eq!(bytemuck::cast_slice::<f32, u8>(&observed), expected);
        let sent = replay.sent();
        assert_eq!(sent.len(), 1);
        assert_eq!((sent[0].0.first_position, sent[0].0.rows), (4, 2));
        assert_eq!(sent[0].1.len(), 2 * N_VOCAB * 4);
    }

    #[test]
    fn attention_probabilities_lose_their_padding() {
        let mut replay = Replay::new();
        replay.eval(0, &PROMPT[..4], &[Tap::AttnProbs]).unwrap();
        let trace = &replay.backend.trace;
        let prompt = trace.prompts()[0].clone();
        let (shape, whole) = trace
            .tap_rows(&prompt, (Some(1), Tap::AttnProbs), 0..4)
            .unwrap();
        assert_eq!(shape, [2, 8]);
        let expected: Vec<u8> = whole
            .chunks(8 * 4)
            .flat_map(|head| &head[..4 * 4])
            .copied()
            .collect();
        let sent = replay.sent();
        assert_eq!(sent.len(), 2, "one piece per layer");
        let (header, values) = &sent[1];
        assert_eq!(
            (header.layer, header.rows, header.width),
            (Some(1), 4, 2 * 4)
        );
        assert_eq!(header.payload_bytes(), Some(values.len()));
        assert_eq!(*values, expected);
    }

    #[test]
    fn generates_as_far_as_recorded() {
        let mut replay = Replay::new();
        let backend = &mut replay.backend;
        assert_eq!(backend.prefill(&PROMPT).unwrap(), GENERATED[0]);
        assert_eq!(backend.decode(GENERATED[0]).unwrap(), GENERATED[1]);
        assert_eq!(backend.decode(GENERATED[1]).unwrap(), GENERATED[2]);
        assert!(backend.decode(GENERATED[2]).is_err());
        assert!(backend.prefill(&PROMPT[1..]).is_err());
        assert!(
            backend.decode(GENERATED[0]).is_err(),
            "nothing to go on from"
        );
        backend.prefill(&PROMPT).unwrap();
        assert!(backend.decode(GENERATED[2]).is_err(), "another token");
    }

    #[test]
    fn whatever_the_recorded_worker_spoke_the_replay_speaks_this_version() {
        let backend = Replay::new().backend;
        assert_eq!(backend.trace.info().hello.protocol, 1);
        assert_eq!(backend.hello().protocol, protocol::VERSION);
    }

    #[test]
    fn another_file_size_is_another_model() {
        let mut replay = Replay::new();
        let folder = tempfile::tempdir().unwrap();
        let model = folder.path().join("other.gguf");
        std::fs::write(&model, "eleven byte").unwrap();
        let refusal = replay.backend.load(&model).unwrap_err();
        assert_eq!(refusal.kind, ErrorKind::BadModel);
        assert!(
            refusal
                .message
                .contains("11 bytes, the recorded one has 12")
        );
        std::fs::write(&model, "twelve bytes").unwrap();
        assert_eq!(replay.backend.load(&model).unwrap().n_vocab, N_VOCAB);
    }
}
