"""Writes model/unicode_tables.inc: the character classes that the Hugging Face tokenizers use.

The tables are facts measured from the `tokenizers` library itself: every Unicode scalar value is
given to its regex engine (Oniguruma), its `Digits` pre-tokenizer and its added-token matcher, and
the answers are written down as sorted, closed ranges. So they follow the Unicode version of that
library and not the one of whatever regex library Troupe was built with.

    python tests/golden/make_unicode_tables.py > model/unicode_tables.inc
"""

import tokenizers
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers

SCALARS = [c for c in range(0x110000) if not 0xD800 <= c <= 0xDFFF]


def regex_class(pattern):
    """Code points that the regex engine matches with `pattern`."""
    erase = normalizers.Replace(Regex(pattern), "")
    return [c for c in SCALARS if erase.normalize_str(chr(c)) == ""]


def digits():
    """Code points that the `Digits` pre-tokenizer isolates."""
    split = pre_tokenizers.Digits(individual_digits=True)
    return [c for c in SCALARS if len(split.pre_tokenize_str("a" + chr(c) + "a")) == 3]


def word():
    """Code points that a single_word added token takes for a part of a word."""
    tokenizer = Tokenizer(models.BPE({}, []))
    tokenizer.add_tokens([AddedToken("<t>", normalized=False, single_word=True)])
    return [c for c in SCALARS if not tokenizer.encode(chr(c) + "<t>").ids]


def strip():
    """Code points that an lstrip added token swallows."""
    tokenizer = Tokenizer(models.BPE({}, []))
    tokenizer.add_tokens([AddedToken("<t>", normalized=False, lstrip=True)])
    return [c for c in SCALARS if tokenizer.encode(chr(c) + "<t>").offsets[-1][0] == 0]


def ranges(points):
    out = []
    for c in points:
        if out and out[-1][1] + 1 == c:
            out[-1][1] = c
        else:
            out.append([c, c])
    return out


def print_table(name, comment, points):
    print(f"\n// {comment} {len(points)} code points.")
    print(f"inline constexpr UnicodeRange {name}[] = {{")
    line = "   "
    for start, end in ranges(points):
        item = f" {{0x{start:04X}, 0x{end:04X}}},"
        if len(line) + len(item) > 100:
            print(line)
            line = "   "
        line += item
    print(line)
    print("};")


def main():
    print("// Character classes as the Hugging Face tokenizers see them: sorted, closed ranges.")
    version = tokenizers.__version__
    print(f"// Measured from tokenizers {version} by tests/golden/make_unicode_tables.py.")
    print("// The including file defines `struct UnicodeRange { char32_t first, last; }`.")
    print("// clang-format off")
    space = regex_class(r"\s")
    assert space == strip()
    print_table("kUnicodeLetter", r"Regex \p{L}.", regex_class(r"\p{L}"))
    print_table("kUnicodeMark", r"Regex \p{M}.", regex_class(r"\p{M}"))
    print_table("kUnicodeNumber", r"Regex \p{N}.", regex_class(r"\p{N}"))
    print_table("kUnicodePunctuation", r"Regex \p{P}.", regex_class(r"\p{P}"))
    print_table("kUnicodeSymbol", r"Regex \p{S}.", regex_class(r"\p{S}"))
    print_table(
        "kUnicodeSpace", r"Regex \s, and what lstrip and rstrip of added tokens swallow.", space
    )
    print_table("kUnicodeDigit", "The pre-tokenizer Digits.", digits())
    print_table("kUnicodeWord", "Word characters for single_word of added tokens.", word())
    print("// clang-format on")


if __name__ == "__main__":
    main()
