"""Makes the tokenizer goldens in tests/golden/tokenizers/.

    python tests/golden/make_tokenizer.py [NAME...]   # names: v3 v2 added demo

Three little tokenizers are trained here with the pre-tokenizers, decoder and added tokens of the
released DeepSeek files; `demo` is models/demo/tokenizer.json. README.md tells the binary format.
"""

import json
import random
import sys
from pathlib import Path

import tokenizer_text as text
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from tokenizers import processors, trainers

HERE = Path(__file__).parent
DIRECTORY = HERE / "tokenizers"
DEMO = HERE.parents[1] / "models" / "demo" / "tokenizer.json"

# As released: the classes hold CR and LF themselves, not their escapes.
V3_SPLITS = [
    r"\p{N}{1,3}",
    "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+",
    "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+"
    "|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+"
    "| ?[\\p{P}\\p{S}]+[\r\n]*|\\s*[\r\n]+|\\s+(?!\\S)|\\s+",
]

# Letters with case, as the file lists them: pairs of first and last code point.
V2_LETTERS = """
41-5A 61-7A B5 C0-D6 D8-F6 F8-1BA 1BC-1BF 1C4-293 295-2AF 370-373 376 377 37B-37D 37F 386 388-38A
38C 38E-3A1 3A3-3F5 3F7-481 48A-52F 531-556 10A0-10C5 13A0-13F5 13F8-13FD 1C90-1CBA 1CBD-1CBF
1D00-1D2B 1D6B-1D77 1D79-1D9A 1E00-1F15 1F18-1F1D 1F20-1F45 1F48-1F4D 1F50-1F57 1F59 1F5B 1F5D
1F5F-1F7D 1F80-1FB4 1FB6-1FBC 1FBE 1FC2-1FC4 1FC6-1FCC 1FD0-1FD3 1FD6-1FDB 1FE0-1FEC 1FF2-1FF4
1FF6-1FFC 2102 2107 210A-2113 2115 2119-211D 2124 2126 2128 212A-212D 212F-2134 2139 213C-213F
2145-2149 214E 2183 2184 2C00-2C7B 2C7E-2CE4 2CEB-2CEE 2CF2 2CF3 A640-A66D A680-A69B A722-A76F
A771-A787 A78B-A78E AB70-ABBF FB00-FB06 FB13-FB17 FF21-FF3A FF41-FF5A 10400-1044F 104B0-104D3
104D8-104FB 10C80-10CB2 10CC0-10CF2 118A0-118DF 1E900-1E943
""".split()
V2_SPLITS = [
    "[\r\n]",
    r"\s?[" + "".join("-".join(chr(int(p, 16)) for p in r.split("-")) for r in V2_LETTERS) + "]+",
    "\\s?[!-/:-~\uff01-\uff0f\uff1a-\uff5e\u2018-\u201f\u3000-\u3002]+",
    r"\s+$",
    "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+",
]

SPECIAL = ["<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜▁pad▁｜>"]
V3_ADDED = [
    *("<｜fim▁hole｜>", "<｜fim▁begin｜>", "<｜fim▁end｜>", "<｜User｜>", "<｜Assistant｜>"),
    *("<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>", "<｜tool▁call▁begin｜>"),
    *("<｜tool▁call▁end｜>", "<｜tool▁outputs▁begin｜>", "<｜tool▁outputs▁end｜>"),
    *("<｜tool▁output▁begin｜>", "<｜tool▁output▁end｜>", "<｜tool▁sep｜>", "<think>", "</think>"),
]


def placeholder(n):
    return AddedToken(f"<｜place▁holder▁no▁{n}｜>", normalized=False, special=True)


def bpe(splits, vocab_size, specials, more_pre_tokenizers=()):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Sequence([])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(split), "isolated") for split in splits]
        + [*more_pre_tokenizers, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[AddedToken(s, normalized=False, special=True) for s in specials],
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(text.training_corpus(), trainer)
    return tokenizer


def make_v3():
    tokenizer = bpe(V3_SPLITS, 1200, SPECIAL)
    tokenizer.add_special_tokens([placeholder(n) for n in range(4)])
    tokenizer.add_tokens([AddedToken(t, normalized=True, special=False) for t in V3_ADDED])
    tokenizer.add_special_tokens([AddedToken("<|EOT|>", normalized=False, special=True)])
    return tokenizer


def make_v2():
    digits = pre_tokenizers.Digits(individual_digits=True)
    tokenizer = bpe(V2_SPLITS, 1200, [], [digits])
    tokenizer.add_tokens([AddedToken(t, normalized=True, special=False) for t in V3_ADDED[:3]])
    tokenizer.add_special_tokens(
        [AddedToken(t, normalized=False, special=True) for t in SPECIAL[:2]]
    )
    return tokenizer


def make_added():
    """Every flag of added tokens, tokens that overlap, and contents the decoder must spell out."""
    tokenizer = bpe(V3_SPLITS, 600, SPECIAL)
    tokenizer.add_tokens(
        [
            AddedToken("<l>", lstrip=True, normalized=False),
            AddedToken("<r>", rstrip=True, normalized=False),
            AddedToken("<lr>", lstrip=True, rstrip=True, normalized=True),
            AddedToken("<w>", single_word=True, normalized=False),
            AddedToken("word", single_word=True, normalized=True),
            AddedToken("<wlr>", single_word=True, lstrip=True, rstrip=True, normalized=True),
            AddedToken("<a>", normalized=False),
            AddedToken("<a><b>", normalized=False),
            AddedToken("<b><c>", normalized=False),
            AddedToken("<c", normalized=True),
            AddedToken("<a b>", normalized=True),
            AddedToken("caf\u00e9", normalized=True),
            AddedToken("\u4e2d\u6587", normalized=True),
            AddedToken("\n\n<p>", normalized=True),
        ]
    )
    tokenizer.add_special_tokens([AddedToken("[S]", normalized=False, special=True, lstrip=True)])
    return tokenizer


def varint(value):
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def block(data):
    return varint(len(data)) + data


def id_list(ids):
    return varint(len(ids)) + b"".join(varint(i) for i in ids)


def write_encodings(path, tokenizer, strings):
    encodings = tokenizer.encode_batch(
        [data.decode("utf-8", "replace") for _, data in strings], add_special_tokens=False
    )
    path.write_bytes(varint(len(strings)) + b"".join(id_list(e.ids) for e in encodings))


def write_strings(path, strings):
    body = b"".join(varint(text.KINDS.index(kind)) + block(data) for kind, data in strings)
    path.write_bytes(varint(len(strings)) + body)


def write_decodings(path, tokenizer, count):
    """Random ids: cut characters, added tokens, and ids that no token has."""
    rng = random.Random(11)
    size = tokenizer.get_vocab_size()
    added = sorted(tokenizer.get_added_tokens_decoder())
    body = b""
    for _ in range(count):
        ids = []
        for _ in range(rng.randrange(1, 11)):
            kind = rng.random()
            if kind < 0.3:
                ids.append(rng.randrange(min(size, 260)))
            elif kind < 0.45:
                ids.append(rng.choice(added))
            elif kind < 0.47:
                ids.append(size + rng.randrange(50))
            else:
                ids.append(rng.randrange(size))
        body += id_list(ids)
        for skip in (False, True):
            body += block(tokenizer.decode(ids, skip_special_tokens=skip).encode())
    path.write_bytes(varint(count) + body)


def write_tokenizer(path, tokenizer, merges_as_strings):
    data = json.loads(tokenizer.to_str())
    if merges_as_strings:
        data["model"]["merges"] = [" ".join(pair) for pair in data["model"]["merges"]]
    path.write_text(json.dumps(data, ensure_ascii=False, indent=0) + "\n")


def main():
    wanted = sys.argv[1:] or ["v3", "v2", "added", "demo"]
    shared = text.strings(SPECIAL + V3_ADDED + ["<|EOT|>", "<｜place▁holder▁no▁1｜>"])
    print(f"{len(shared)} strings")
    DIRECTORY.mkdir(exist_ok=True)
    write_strings(DIRECTORY / "strings.bin", shared)
    makers = {"v3": make_v3, "v2": make_v2, "added": make_added}
    for name in wanted:
        directory = DIRECTORY / name
        directory.mkdir(exist_ok=True)
        strings = shared
        if name == "demo":
            path = DEMO
            strings = shared[::3]
        else:
            path = directory / "tokenizer.json"
            write_tokenizer(path, makers[name](), merges_as_strings=name != "v2")
        tokenizer = Tokenizer.from_file(str(path))
        if name == "added":
            contents = [t.content for t in tokenizer.get_added_tokens_decoder().values()]
            texts = text.added_strings(random.Random(13), contents, 3000)
            strings = [("added", s.encode()) for s in texts]
            write_strings(directory / "strings.bin", strings)
        write_encodings(directory / "ids.bin", tokenizer, strings)
        write_decodings(directory / "decodings.bin", tokenizer, 2000)
        print(name, sum(file.stat().st_size for file in directory.iterdir()))


if __name__ == "__main__":
    main()
