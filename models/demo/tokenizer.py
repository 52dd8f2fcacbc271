"""Builds tokenizer.json: byte-level BPE with the pre-tokenizer of DeepSeek-V3.

Digits never merge, and every word of words.txt is one token when a space precedes it.
"""

import re

from tokenizers import (AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors,
                        trainers)

import facts
import tasks

BOS, EOS, PAD = "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜▁pad▁｜>"
USER, ASSISTANT = "<｜User｜>", "<｜Assistant｜>"
SPLITS = (
    r"\p{N}{1,3}",
    r"[一-龥぀-ゟ゠-ヿ]+",
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"
    r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
)


def corpus():
    """The text whose frequencies choose the merges; without digits, so that they stay single."""
    for word in tasks.WORDS:
        yield (" " + word) * 40
    for n in list(range(20)) + list(range(20, 100, 11)):
        yield f" {tasks.english_number(n)}\n" * 30
    yield " hundred hundred thousand thousand\n" * 20
    for numeral in "零一二三四五六七八九十百千":
        yield (numeral + "\n") * 60
    templates = (tasks.ARITHMETIC + tasks.SORT + tasks.REVERSE + tasks.ENGLISH_NUMBERS
                 + tasks.CHINESE_NUMBERS + tasks.LOOKUP_INTRO + tasks.LOOKUP + tasks.SYSTEM_PROMPTS
                 + ("Sorted: ", "Reversed: ", "The code of  is .", " plus  minus ",
                    " + - = + - = + - = ?"))
    for template in templates:
        yield (re.sub(r"\{\w+\}", "", template) + "\n") * 40
    for language in ("english", "chinese"):
        for _, question, answer in tasks.wordings(language):
            yield re.sub(r"\d", "", question + "\n")
        for _, answer in facts.ENGLISH + facts.CHINESE:
            yield re.sub(r"\d", "", answer + "\n") * 8


def build(vocab_size):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(s), "isolated") for s in SPLITS]
        + [pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    tokenizer.train_from_iterator(corpus(), trainers.BpeTrainer(
        vocab_size=vocab_size - 2, special_tokens=[BOS, EOS, PAD], show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    # As in the released tokenizer, the role markers are added tokens that are not "special".
    tokenizer.add_tokens([AddedToken(t, special=False, normalized=True) for t in (USER, ASSISTANT)])

    for word in tasks.WORDS:
        assert len(tokenizer.encode(" " + word).ids) == 1, word
    for n in range(10000):
        text = tasks.chinese_number(n)
        assert len(tokenizer.encode(text).ids) == len(text), text
        assert len(tokenizer.encode(str(n)).ids) == len(str(n)), n
    return tokenizer
