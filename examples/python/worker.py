#!/usr/bin/env python3
"""A worker for `crossval run --candidate exec:worker.py`: BitNet in numpy, written from the model's definition.

It shows all that an engine needs to be compared: the protocol (crossval-protocol/src/lib.rs is its reference), and a
forward pass that hands every intermediate result to `tap` and goes on with what comes back. Runs GGUF files of the
architectures bitnet, bitnet-25 and bitnet-b1.58 with I2_S, F32 and F16 weights. No tokenizer: the other engine has one.
"""
import inspect
import json
import os
import resource
import struct
import sys
import time
from collections import Counter

os.environ["OPENBLAS_NUM_THREADS"] = "1"
try:
    import numpy as np
except ImportError:
    sys.exit("worker.py: numpy is missing: pip install numpy")

ARCHITECTURES = ["bitnet", "bitnet-25", "bitnet-b1.58"]
TAPS = ("embd attn_norm q k v q_rope k_rope k_cache v_cache attn_probs attn_out attn_sub_norm attn_proj ffn_inp "
        "ffn_norm ffn_gate ffn_up ffn_act ffn_sub_norm ffn_down layer_out final_norm logits").split()
OUTSIDE_THE_LAYERS = ["embd", "final_norm", "logits"]
MATRICES = {"q": "attn_q", "k": "attn_k", "v": "attn_v", "attn_proj": "attn_output", "ffn_gate": "ffn_gate",
            "ffn_up": "ffn_up", "ffn_down": "ffn_down"}
TAP_FRAME_BYTES = 4 << 20
f16, f32, f64 = np.float16, np.float32, np.float64


class BadModel(Exception):
    """The file cannot be read, or is not a model for this engine."""


class Usage(Exception):
    """The request does not fit the model or the moment."""


# --- GGUF: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md ------------------------------------------------

SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
STRING, ARRAY = 8, 9
TYPES = {0: "F32", 1: "F16", 36: "I2_S"}


class Gguf:
    """The metadata of a file, and where its tensors lie."""

    def __init__(self, path):
        try:
            self.data = np.memmap(path, dtype=np.uint8, mode="r")
            self.at = 0
            magic, version = self.unpack("4sI")
            if magic != b"GGUF" or version not in (2, 3):
                raise BadModel(f"{path}: not a GGUF file of version 2 or 3")
            n_tensors, n_keys = self.unpack("QQ")
            self.metadata = {}
            for _ in range(n_keys):
                key, (kind,) = self.string(), self.unpack("I")
                self.metadata[key] = self.value(kind)
            self.tensors = {}
            for _ in range(n_tensors):
                name, (n_dims,) = self.string(), self.unpack("I")
                shape, (kind, offset) = self.unpack(f"{n_dims}Q"), self.unpack("IQ")
                self.tensors[name] = (shape, TYPES.get(kind, str(kind)), offset)
            alignment = self.metadata.get("general.alignment", 32)
            self.start = -(-self.at // alignment) * alignment
        except (OSError, ValueError, struct.error, UnicodeDecodeError) as e:
            raise BadModel(f"{path}: damaged or unreadable: {e}") from e

    def unpack(self, layout):
        layout = "<" + layout
        values = struct.unpack_from(layout, self.data, self.at)
        self.at += struct.calcsize(layout)
        return values

    def string(self):
        (length,) = self.unpack("Q")
        return self.unpack(f"{length}s")[0].decode()

    def value(self, kind):
        if kind == STRING:
            return self.string()
        if kind == ARRAY:
            kind, length = self.unpack("IQ")
            return [self.value(kind) for _ in range(length)]
        if kind not in SCALARS:
            raise BadModel(f"unknown metadata type {kind}")
        return self.unpack(SCALARS[kind])[0]

    def tensor(self, name, shape):
        """A matrix as [outputs, inputs] or a vector; I2_S as its ternary values, with their scale."""
        if name not in self.tensors:
            raise BadModel(f"tensor {name} is missing")
        found, kind, offset = self.tensors[name]
        if found != shape[::-1]:
            raise BadModel(f"tensor {name} has shape {found}, not {shape[::-1]}")
        data, n = self.data[self.start + offset:], int(np.prod(shape))
        if kind in ("F32", "F16"):
            dtype = np.dtype(f32 if kind == "F32" else f16)
            return np.array(data[:n * dtype.itemsize]).view(dtype).reshape(shape)
        if kind == "I2_S" and shape[-1] % 128 == 0:
            # Blocks of 128 weights in 32 bytes; weight j in byte j % 32, bits 6 - 2 * (j / 32), as 0, 1, 2.
            blocks = data[:n // 4].reshape(-1, 1, 32)
            codes = blocks >> np.array([6, 4, 2, 0], np.uint8).reshape(4, 1) & 3
            (scale,) = np.array(data[n // 4:][:4]).view(f32)
            return Ternary((codes.reshape(shape).astype(np.int8) - 1).astype(f32), scale)
        raise BadModel(f"tensor {name} of {shape[-1]} columns has type {kind}")


# --- The model ------------------------------------------------------------------------------------------------------

class Ternary:
    """A matrix of -1, 0, +1 with one scale, applied to activations in int8."""

    def __init__(self, values, scale):
        self.values, self.scale = values, scale

    def apply(self, x):
        largest = np.maximum(np.abs(x).max(axis=-1, keepdims=True).astype(f64), 1e-5)
        act_scale = (127.0 / largest).astype(f32)
        codes = np.rint(x.astype(f64) * act_scale).clip(-128, 127)
        # Exact whatever the order: every partial sum is an integer below 2^24.
        sums = codes.astype(f32) @ self.values.T
        return sums / act_scale * self.scale


def apply(matrix, x):
    return matrix.apply(x) if isinstance(matrix, Ternary) else (x.astype(f64) @ matrix.T.astype(f64)).astype(f32)


class Model:
    """What a file holds, checked."""

    def __init__(self, path):
        gguf = Gguf(path)
        self.gguf = gguf
        self.arch = gguf.metadata.get("general.architecture")
        if self.arch not in ARCHITECTURES:
            raise BadModel(f"{path}: architecture {self.arch!r} is none of {', '.join(ARCHITECTURES)}")
        key = self.key
        self.n_layer, self.n_embd, self.n_ff = key("block_count"), key("embedding_length"), key("feed_forward_length")
        self.n_head = key("attention.head_count")
        self.n_head_kv = key("attention.head_count_kv", self.n_head)
        self.n_ctx_train = key("context_length")
        self.eps = key("attention.layer_norm_rms_epsilon")
        self.rope_base = key("rope.freq_base", 10000.0)
        self.head_dim = self.n_embd // self.n_head
        scaling = [key(f"rope.scaling.{part}", 1.0) for part in ("factor", "attn_factor")]
        if key("rope.dimension_count", self.head_dim) != self.head_dim or scaling != [1.0, 1.0]:
            raise BadModel(f"{path}: partial or scaled RoPE")
        self.n_vocab = len(gguf.metadata.get("tokenizer.ggml.tokens", [])) or key("vocab_size")

        unread = set(gguf.tensors)

        def tensor(name, *shape):
            unread.discard(f"{name}.weight")
            return gguf.tensor(f"{name}.weight", shape)

        embd, ff, kv = self.n_embd, self.n_ff, self.n_head_kv * self.head_dim
        shapes = {"attn_norm": [embd], "attn_q": [embd, embd], "attn_k": [kv, embd], "attn_v": [kv, embd],
                  "attn_sub_norm": [embd], "attn_output": [embd, embd], "ffn_norm": [embd], "ffn_gate": [ff, embd],
                  "ffn_up": [ff, embd], "ffn_sub_norm": [ff], "ffn_down": [embd, ff]}
        self.embedding = tensor("token_embd", self.n_vocab, embd)
        self.layers = [{name: tensor(f"blk.{i}.{name}", *shape) for name, shape in shapes.items()}
                       for i in range(self.n_layer)]
        self.output_norm = tensor("output_norm", embd)
        self.head_name = "output.weight" if "output.weight" in unread else "token_embd.weight"
        tied = self.head_name == "token_embd.weight"
        self.output = self.embedding if tied else tensor("output", self.n_vocab, embd)
        if unread:
            raise BadModel(f"{path}: nothing is known of tensor {min(unread)}")

    def key(self, name, default=None):
        value = self.gguf.metadata.get(f"{self.arch}.{name}", default)
        if value is None:
            raise BadModel(f"{self.arch}.{name} is missing")
        return value

    def facts(self):
        kinds = {name: kind for name, (_, kind, _) in self.gguf.tensors.items()}
        weight_types = {tap: sorted({kinds[f"blk.{i}.{name}.weight"] for i in range(self.n_layer)})
                        for tap, name in MATRICES.items()}
        weight_types["logits"] = [kinds[self.head_name]]
        return dict(architecture=self.arch, name=self.gguf.metadata.get("general.name"), n_layer=self.n_layer,
                    n_embd=self.n_embd, n_ff=self.n_ff, n_head=self.n_head, n_head_kv=self.n_head_kv,
                    n_vocab=self.n_vocab, n_ctx_train=self.n_ctx_train, taps=TAPS,
                    tensor_types=Counter(kinds.values()), weight_types=weight_types)


class Session:
    """A sequence: the KV cache, and how far it is filled."""

    def __init__(self, model, n_ctx):
        self.model, self.position = model, 0
        self.cache = [np.zeros((2, n_ctx, model.n_head_kv * model.head_dim), f16) for _ in model.layers]

    def norm(self, x, gamma):
        x = x.astype(f64)
        return (x / np.sqrt((x * x).mean(axis=-1, keepdims=True) + self.model.eps) * gamma).astype(f32)

    def rope(self, x, positions):
        """Value i of a head turns with value i + head_dim / 2. Angles are carried from pair to pair in f32."""
        half = self.model.head_dim // 2
        factors = np.full((len(positions), half), f32(self.model.rope_base) ** f32(-1 / half))
        factors[:, 0] = positions
        angles = np.multiply.accumulate(factors, axis=1).astype(f64)[:, None]
        low, high = np.split(x.astype(f64).reshape(len(x), -1, 2 * half), 2, axis=-1)
        sin, cos = np.sin(angles), np.cos(angles)
        turned = np.concatenate([low * cos - high * sin, low * sin + high * cos], axis=-1)
        return turned.reshape(x.shape).astype(f32)

    def probabilities(self, q, keys, positions):
        """[tokens, n_head * positions so far], masked ones 0. The query is rounded to F16 as the keys are."""
        m, n = self.model, len(q)
        q = q.astype(f16).astype(f64).reshape(n, m.n_head_kv, -1, m.head_dim)
        k = keys.astype(f64).reshape(-1, m.n_head_kv, m.head_dim)
        scores = np.einsum("tkgd,pkd->tkgp", q, k) / np.sqrt(m.head_dim)
        seen = np.arange(len(keys)) <= positions[:, None]
        scores = np.where(seen[:, None, None], scores, -np.inf)
        weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
        return (weights / weights.sum(axis=-1, keepdims=True)).reshape(n, -1).astype(f32)

    def attend(self, probs, values):
        m, n = self.model, len(probs)
        probs = probs.astype(f64).reshape(n, m.n_head_kv, -1, len(values))
        v = values.astype(f64).reshape(-1, m.n_head_kv, m.head_dim)
        return np.einsum("tkgp,pkd->tkgd", probs, v).reshape(n, -1).astype(f32)

    def activate(self, gate, up):
        gate = gate.astype(f64)
        if self.model.arch == "bitnet":
            with np.errstate(over="ignore"):
                return (gate / (1 + np.exp(-gate)) * up).astype(f32)
        return (np.maximum(gate, 0) ** 2 * up).astype(f32)

    def evaluate(self, tokens, tap=lambda name, layer, values: values):
        """Logits of all `tokens`, which follow what the session holds. `tap` may replace any value."""
        m, first, end = self.model, self.position, self.position + len(tokens)
        if end > self.cache[0].shape[1]:
            raise Usage(f"positions {first}..{end} do not fit a context of {self.cache[0].shape[1]}")
        if not tokens or max(tokens) >= m.n_vocab:
            raise Usage(f"token IDs must be 0 to {m.n_vocab - 1}, and at least one")
        positions = np.arange(first, end)
        x = tap("embd", None, m.embedding[tokens].astype(f32))
        for i, (w, (keys, values)) in enumerate(zip(m.layers, self.cache)):
            h = tap("attn_norm", i, self.norm(x, w["attn_norm"]))
            q = tap("q", i, apply(w["attn_q"], h))
            k = tap("k", i, apply(w["attn_k"], h))
            v = tap("v", i, apply(w["attn_v"], h))
            q = tap("q_rope", i, self.rope(q, positions))
            k = tap("k_rope", i, self.rope(k, positions))
            keys[first:end] = tap("k_cache", i, k.astype(f16))
            values[first:end] = tap("v_cache", i, v.astype(f16))
            probs = tap("attn_probs", i, self.probabilities(q, keys[:end], positions))
            h = tap("attn_out", i, self.attend(probs, values[:end]))
            h = tap("attn_sub_norm", i, self.norm(h, w["attn_sub_norm"]))
            h = tap("attn_proj", i, apply(w["attn_output"], h))
            x = tap("ffn_inp", i, x + h)
            h = tap("ffn_norm", i, self.norm(x, w["ffn_norm"]))
            gate = tap("ffn_gate", i, apply(w["ffn_gate"], h))
            up = tap("ffn_up", i, apply(w["ffn_up"], h))
            h = tap("ffn_act", i, self.activate(gate, up))
            h = tap("ffn_sub_norm", i, self.norm(h, w["ffn_sub_norm"]))
            h = tap("ffn_down", i, apply(w["ffn_down"], h))
            x = tap("layer_out", i, x + h)
        h = tap("final_norm", None, self.norm(x, m.output_norm))
        self.position = end
        return tap("logits", None, apply(m.output, h))


# --- The protocol ---------------------------------------------------------------------------------------------------

class Worker:
    def __init__(self):
        self.input = os.fdopen(os.dup(0), "rb")
        self.output = os.fdopen(os.dup(1), "wb")
        os.dup2(2, 1)  # so that whatever prints ends up in the log, not among the frames
        self.model = self.session = None
        self.n_ctx = 0

    def send(self, kind, payload=b"", /, **fields):
        header = json.dumps({"type": kind, **fields}).encode()
        self.output.write(struct.pack("<II", len(header), len(payload)) + header)
        self.output.write(payload)
        self.output.flush()

    def receive(self):
        lengths = self.input.read(8)
        if len(lengths) < 8:
            sys.exit()  # the driver's way of ending a worker early
        header, payload = (self.input.read(n) for n in struct.unpack("<II", lengths))
        return json.loads(header), payload

    def serve(self):
        self.send("hello", protocol=2, engine="numpy", version="1", build={"numpy": np.__version__},
                  architectures=ARCHITECTURES, taps=TAPS, overwrite=True, dtypes=sorted(TYPES.values()),
                  tokenizer=False)
        while True:
            request, payload = self.receive()
            kind = request.pop("type")
            if kind == "quit":
                return
            answer = getattr(self, f"on_{kind}", None)
            try:
                if answer is None:
                    raise Usage(f"no answer to a request {kind!r}")
                # What requests carry as payload is token IDs. Fields that are not known are ignored, as the protocol
                # has it: newer drivers send more.
                request["tokens"] = self.token_ids(payload)
                known = inspect.signature(answer).parameters
                answer(**{field: value for field, value in request.items() if field in known})
            except BadModel as e:
                self.send("error", kind="bad_model", message=str(e))
            except Usage as e:
                self.send("error", kind="usage", message=str(e))
            except Exception as e:
                self.send("error", kind="internal", message=f"{type(e).__name__}: {e}")

    def token_ids(self, payload):
        if len(payload) % 4 != 0:
            raise Usage(f"{len(payload)} bytes of token IDs")
        return np.frombuffer(payload, "<u4").tolist()

    def on_load(self, model):
        start = time.perf_counter()
        try:
            self.model = Model(model)
        except (ValueError, TypeError, ArithmeticError) as e:
            raise BadModel(f"{model}: {e}") from e
        self.send("loaded", facts=self.model.facts(), load_ms=milliseconds(start))

    def on_configure(self, n_ctx, n_ubatch, threads, observe):
        if self.model is None:
            raise Usage("no model is loaded")
        self.n_ctx = n_ctx
        self.session = Session(self.model, n_ctx)
        self.send("configured", settings={"n_ctx": str(n_ctx), "threads": "1", "kv_cache": "F16"})

    def clear(self):
        if self.session is None:
            raise Usage("the engine is not configured")
        self.session.position = 0

    def on_eval(self, seq_id, first_position, tokens, taps, overwrite, last_logits):
        if seq_id != 0:
            raise Usage("only sequence 0 is there")
        if first_position == 0:
            self.clear()
        if self.session is None or first_position != self.session.position:
            raise Usage(f"tokens for position {first_position} do not follow")

        def tap(name, layer, values):
            if name not in taps:
                return values
            return self.send_tap(name, layer, first_position, values, overwrite)

        logits = self.session.evaluate(tokens, tap)
        self.send("evaluated", logits[-1].tobytes() if last_logits else b"")

    def send_tap(self, name, layer, first_position, values, overwrite):
        values = np.ascontiguousarray(values)
        rows_per_frame = max(1, TAP_FRAME_BYTES // values[0].nbytes)
        for start in range(0, len(values), rows_per_frame):
            piece = values[start:start + rows_per_frame]
            self.send("tap", piece.tobytes(), tap=name, layer=layer, first_position=first_position + start,
                      rows=len(piece), width=piece.shape[1])
            if overwrite:
                answer, payload = self.receive()
                if answer["type"] == "overwrite":
                    piece[:] = np.frombuffer(payload, piece.dtype).reshape(piece.shape)
        return values

    def on_generate(self, tokens, n_predict):
        self.clear()
        start, generated, decode_ms = time.perf_counter(), [], []
        logits = self.session.evaluate(tokens)
        prefill_ms = milliseconds(start)
        while len(generated) < n_predict:
            generated.append(int(logits[-1].argmax()))  # the first of equals
            if len(generated) < n_predict:
                start = time.perf_counter()
                logits = self.session.evaluate(generated[-1:])
                decode_ms.append(milliseconds(start))
        self.send("generated", np.array(generated, "<u4").tobytes(), prefill_ms=prefill_ms, decode_ms=decode_ms)

    def on_usage(self):
        used = resource.getrusage(resource.RUSAGE_SELF)
        unit = 1 if sys.platform == "darwin" else 1024
        self.send("usage", peak_rss_bytes=used.ru_maxrss * unit, cpu_seconds=used.ru_utime + used.ru_stime)


def milliseconds(start):
    return (time.perf_counter() - start) * 1e3


if __name__ == "__main__":
    Worker().serve()
