"""Trains the vocabularies that the tests tokenize with: assets/vocab-{bpe,spm,wpm}.gguf.

    pip install tokenizers sentencepiece babel gguf
    python assets/train_vocabularies.py TEXT

TEXT is any English text. To it come names and sentences of all locales of CLDR, as Babel carries them, so that
scripts of every kind have tokens of more than one character, and a module of Python's for code.
"""

import argparse
import json
import pathlib
import random
import sys
import tempfile

import gguf
import sentencepiece
from babel import Locale, localedata
from tokenizers import Tokenizer, models, pre_tokenizers, trainers, normalizers

ROOT = pathlib.Path(__file__).resolve().parent.parent
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, BYTE = 1, 2, 3, 4, 6


def corpus(text):
    lines = pathlib.Path(text).read_text()[:300_000].splitlines()
    for name in sorted(localedata.locale_identifiers()):
        locale = Locale.parse(name)
        tables = (locale.languages, locale.territories, locale.scripts)
        words = [str(w) for table in tables for w in list(table.values())[:60]]
        for width in ("wide", "abbreviated"):
            words += locale.months["format"][width].values()
            words += locale.days["format"][width].values()
        lines += [" ".join(words[i : i + 8]) for i in range(0, len(words), 8)]
    lines += pathlib.Path(argparse.__file__).read_text().splitlines()
    lines += [f"{n} + {n * n}%  ({n / 7:.3f})" for n in range(300)]
    random.Random(0).shuffle(lines)
    return [line for line in lines if line.strip()]


def write(name, arch, model, tokens, types, scores=None, merges=None, **ids):
    writer = gguf.GGUFWriter(ROOT / "assets" / f"vocab-{name}.gguf", arch)
    writer.add_name(f"test vocabulary, {name}")
    writer.add_tokenizer_model(model)
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    if scores:
        writer.add_token_scores(scores)
    if merges:
        writer.add_token_merges(merges)
    for key, value in ids.items():
        writer.add_uint32(f"tokenizer.ggml.{key}_token_id", value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()


def bpe(lines):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=3000, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(lines, trainer)
    state = json.loads(tokenizer.to_str())["model"]
    tokens = sorted(state["vocab"], key=state["vocab"].get)
    merges = [m if isinstance(m, str) else " ".join(m) for m in state["merges"]]
    types = [NORMAL] * len(tokens)
    special = [("<|begin_of_text|>", CONTROL), ("<|end_of_text|>", CONTROL), ("<|eot_id|>", CONTROL)]
    special += [("<mask>", CONTROL), ("<|user|>", USER_DEFINED), ("<|user|><|user|>", USER_DEFINED)]
    special += [(" " * n, USER_DEFINED) for n in (4, 8)]
    bos = len(tokens)
    tokens += [text for text, _ in special]
    types += [kind for _, kind in special]
    write("bpe", "llama", "gpt2", tokens, types, merges=merges, bos=bos, eos=bos + 1)


def spm(lines):
    with tempfile.TemporaryDirectory() as folder:
        text = pathlib.Path(folder, "text")
        text.write_text("\n".join(lines))
        sentencepiece.SentencePieceTrainer.train(
            input=str(text), model_prefix=f"{folder}/m", model_type="bpe", vocab_size=3000,
            byte_fallback=True, character_coverage=0.98, user_defined_symbols=["<user>", "▁▁<user>", "<|endoftext|>"],
            normalization_rule_name="identity", remove_extra_whitespaces=False,
            allow_whitespace_only_pieces=True, minloglevel=2,
        )
        model = sentencepiece.SentencePieceProcessor(f"{folder}/m.model")
    size = range(model.vocab_size())
    kind = lambda i: (UNKNOWN if model.is_unknown(i) else CONTROL if model.is_control(i)
                      else BYTE if model.is_byte(i) else USER_DEFINED if "<user>" in model.id_to_piece(i)
                      else NORMAL)
    write("spm", "llama", "llama", [model.id_to_piece(i) for i in size], [kind(i) for i in size],
          scores=[model.get_score(i) for i in size], bos=1, eos=2, unknown=0)


def wpm(lines):
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    trainer = trainers.WordPieceTrainer(
        vocab_size=3000, limit_alphabet=700, special_tokens=special, show_progress=False
    )
    tokenizer.train_from_iterator(lines, trainer)
    vocab = tokenizer.get_vocab()
    tokens = sorted(vocab, key=vocab.get)
    types = [CONTROL if t in special else NORMAL for t in tokens]
    # llama.cpp marks the beginnings of words instead of the continuations.
    tokens = [t if t in special else t[2:] if t.startswith("##") else "▁" + t for t in tokens]
    write("wpm", "bert", "bert", tokens, types, unknown=1, cls=2, seperator=3, padding=0, mask=4)


if __name__ == "__main__":
    lines = corpus(sys.argv[1])
    bpe(lines)
    spm(lines)
    wpm(lines)
