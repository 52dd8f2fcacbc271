"""Text for the tokenizer goldens: a little corpus to train on, and the strings to encode."""

import random
import re
import unicodedata
from pathlib import Path

ENGLISH = """The router chose eight experts for this token, and the cluster went on serving.
I'll say it's what we'd hoped for; they've said you're late, and I'm sure he can't stay.
A node died half-way: no request was lost, no client saw a gap, and recovery took 0.8 seconds.
"Why," she asked, "does everybody's cache hit twice?" Nobody knew (except the scheduler).
Prices rose by 12.5% in 2024, from $1,234.56 to $1,388.88 - see https://example.org/a?b=c#d.
UPPER CASE, Title Case, camelCase, snake_case, kebab-case and SCREAMING_SNAKE_CASE words.
Write to someone@example.com before 09:30 on 2025-11-23, or call +49 (0)30 123-4567 ext. 89.
The quick brown fox jumps over the lazy dog while seventeen wizards quietly boil oxygen.
Attention is computed over the compressed latent, then every head expands its own values.
""".splitlines()

CHINESE = """专家节点收到了令牌，然后把结果送回路由器。
今天天气很好，我们去公园散步吧！你想吃什么？
调度器每一步都会组成新的批次：预填充和解码可以同时进行。
二〇二五年十一月二十三日，温度是12.5度，价格为￥1,234.56元。
“请问，最近的车站在哪里？”他说：《红楼梦》很长……
模型、缓存、路由、门控、共享专家；量化、精度、误差。
ひらがなとカタカナ、漢字のテストです。ｶﾀｶﾅもあります。
한국어 문장도 있어요. 안녕하세요, 반갑습니다!
""".splitlines()

CODE = r"""#include <vector>
int main(int argc, char** argv) {
    return argc > 1 ? 0x1F : -1;  // done
}
def forward(self, x):
	'''Doc.'''
	if x is None or x != 3.14e-10:
		return self.fn(x[::-1], key=lambda v: v**2)
for (let i = 0; i < list.length; ++i) { total += list[i] ?? 0; }


const f = async () => await g();
SELECT a.id, COUNT(*) FROM t_items AS a WHERE a.x >= 10 AND b LIKE '%foo_%' GROUP BY 1;
{"model": "deepseek", "stream": true, "messages": [{"role": "user", "content": null}]}
<div class="row">&nbsp;<a href='#'>link</a></div><!-- note -->
$ curl -s http://127.0.0.1:8080/v1/models | jq '.data[].id' && echo $?
let x: Result<Vec<u8>, Box<dyn Error>> = Ok(vec![0; 16]); // r#"raw"#
printf("%s\n", "C:\dir\x00"); // \u00e9 \\ escapes
    if __name__ == '__main__':
        main()
""".splitlines()

OTHER = """Größe, naïve café, ångström, señor, façade, œuvre, Straße, İstanbul, ﬁnal, ℓ₁-norm
Привет, как дела? Съешь ещё этих мягких булок.
Γειά σου Κόσμε, ὗὡς ᾠδή· τί ἐστιν;
שלום עולם, בְּרֵאשִׁית בָּרָא
مرحبا بالعالم، كيف حالك؟ ١٢٣٤٥
नमस्ते दुनिया, क्षत्रिय १२३४
สวัสดีชาวโลก ภาษาไทย ๑๒๓
Xin chào thế giới, tiếng Việt
გამარჯობა ᲒᲐᲛᲐᲠᲯᲝᲑᲐ Ծիրան ᏣᎳᎩ ꮳꮃꭹ
தமிழ் ಕನ್ನಡ తెలుగు മലയാളം ខ្មែរ ᠮᠣᠩᠭᠣᠯ
½ ² ³ Ⅷ ⅓ ① ㊿ 〇 百 𝟘𝟙𝟚 ᛮ 𒐀
€ £ ¥ ₿ + − × ÷ ± ≠ ≤ ∞ ∑ ∫ √ ∂ → ⇒ ■ ● ★ ☃ ♥ © ® ™ ° § ¶ † ‡ • … – — ‘’ “” « » ‹ ›
""".splitlines()

EMOJI = "🙂 🌊 🦓 ❤️ 👍🏽 👩‍👩‍👧‍👦 🏳️‍🌈 🇩🇪🇨🇳 1️⃣ #️⃣ 🧑🏿‍🚀 ☺︎ 🫨 🪿 🫩 🐦‍⬛ ☎ ⌚ 🀄 🕺 🙃".split()

SPACES = [" ", "  ", "   ", "    ", "\t", "\n", "\n\n", "\r\n", "\r", "\v", "\f", "\x85", "\xa0",
          "\u1680", "\u180e", "\u2003", "\u200b", "\u2028", "\u2029", "\u202f", "\u205f", "\u3000",
          "\ufeff", "\x00", "\x1c", "\x7f"]

# Scripts of Unicode 15 and 16, and beyond: ranges that older tables do not know.
RECENT = [(0x31350, 0x323AF), (0x2EBF0, 0x2EE5D), (0x11F00, 0x11F59), (0x1E4D0, 0x1E4F9),
          (0x105C0, 0x105F3), (0x10D40, 0x10D8F), (0x11380, 0x113E2), (0x11BC0, 0x11BF9),
          (0x16D40, 0x16D79), (0x1CC00, 0x1CCF9), (0x1E5D0, 0x1E5FF), (0x1C89, 0x1C8A),
          (0xA7CB, 0xA7DC), (0x1FAE0, 0x1FAEF), (0x11DE0, 0x11DE9), (0x16EA0, 0x16ED3),
          (0x323B0, 0x33479), (0x88F, 0x897), (0x20C1, 0x20C1), (0x2FFC, 0x2FFF)]

ILL_FORMED = [b"\xc0\xaf", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xff\xfe", b"\xe0\x80\x80",
              b"\xf0\x9f\x98", b"\xe4\xb8", b"\xc3"]
MARKS = [*range(0x300, 0x316), 0x5B8, 0x64B, 0x93F, 0xE31, 0x20D7, 0xFE0F, 0x200D]

KINDS = ["english", "chinese", "code", "digits", "emoji", "spaces", "mixed", "category", "boundary",
         "recent", "combining", "added", "invalid", "random", "long"]


def training_corpus():
    yield from (ENGLISH + CHINESE + CODE + OTHER) * 3
    yield from (" " * n + "return" for n in range(24))
    yield from ("=" * n + "-" * n for n in range(12))


def _pieces(lines):
    return [piece for line in lines for piece in re.findall(r"\S+\s*", line)]


def _table_ends():
    """The first and last code point of every range of the character classes, and their outsides."""
    text = (Path(__file__).parents[2] / "model" / "unicode_tables.inc").read_text()
    ends = set()
    for first, last in re.findall(r"\{0x([0-9A-F]+), 0x([0-9A-F]+)\}", text):
        ends |= {int(first, 16) - 1, int(first, 16), int(last, 16), int(last, 16) + 1}
    return sorted(c for c in ends if c < 0x110000 and not 0xD800 <= c <= 0xDFFF)


def _digits(rng):
    kind = rng.randrange(6)
    number = "".join(rng.choice("0123456789") for _ in range(rng.randrange(1, 14)))
    if kind == 0:
        return f"{int(number):,}.{number[:3]}"
    if kind == 1:
        return rng.choice("٠०๐０𝟎፩") * rng.randrange(1, 5) + number
    if kind == 2:
        return "".join(rng.choice("0123456789²½Ⅷ①一二") for _ in range(rng.randrange(1, 12)))
    if kind == 3:
        return f"a{number}b {number}{number} x_{number}-{number}"
    return number + rng.choice(["", "%", "e-10", " km", "年", "th", ".", "\n"])


def _category_strings(rng):
    """Every general category, many times, between letters, spaces and digits."""
    by_category = {}
    for c in range(0x110000):
        if not 0xD800 <= c <= 0xDFFF:
            by_category.setdefault(unicodedata.category(chr(c)), []).append(c)
    for category in sorted(by_category):
        points = by_category[category]
        for _ in range(70):
            c = [chr(rng.choice(points)) for _ in range(4)]
            if rng.random() < 0.5:
                yield f"a{c[0]} {c[1]}{c[2]}b\n{c[3]}1"
            else:
                yield " ".join(c) + "x" + c[0]


def _invalid(rng):
    """UTF-8 with damage: cut, stray, overlong, surrogate and too large sequences."""
    data = bytearray("".join(rng.sample(_pieces(CHINESE + OTHER) + EMOJI, 2)).encode())
    for _ in range(rng.randrange(1, 4)):
        at = rng.randrange(len(data) + 1)
        kind = rng.randrange(4)
        if kind == 0 and data:
            del data[at : at + 1]
        elif kind == 1:
            data[at:at] = bytes([rng.randrange(0x80, 0x100)])
        elif kind == 2:
            data[at:at] = rng.choice(ILL_FORMED)
        else:
            data = data[:at]
    return bytes(data)


def added_strings(rng, tokens, count):
    """Added tokens, whole and broken, next to words and spaces."""
    around = SPACES[:12] + ["a", "Z", "9", "_", "é", "中", "!", "<", "\u200d", "\u0301", "²", "", ""]
    words = _pieces(ENGLISH + CHINESE)
    for _ in range(count):
        out = ""
        for _ in range(rng.randrange(1, 5)):
            token = rng.choice(tokens)
            if rng.random() < 0.15:
                token = token[: rng.randrange(1, len(token) + 1)]
            out += rng.choice(around) + token + rng.choice(around)
            if rng.random() < 0.4:
                out += rng.choice(words)
        yield out


def strings(added_tokens):
    """(kind, bytes) of everything to encode; the same list at every call."""
    rng = random.Random(7)

    def some(kind, count, make):
        return [(kind, make()) for _ in range(count)]

    def join(pieces, low, high, separators=("",)):
        chosen = [rng.choice(pieces) for _ in range(rng.randrange(low, high))]
        return rng.choice(separators).join(chosen)

    english, chinese, code = _pieces(ENGLISH), _pieces(CHINESE), _pieces(CODE)
    han = sorted(set("".join(CHINESE)))
    scripts = _pieces(OTHER)
    everything = english + chinese + code + scripts + EMOJI + SPACES + SPACES
    marks = [chr(c) for c in MARKS]
    out = []
    out += [("english", line) for line in ENGLISH] + [("chinese", line) for line in CHINESE]
    out += [("code", line) for line in CODE] + [("mixed", line) for line in OTHER + ["", " "]]
    out += some("english", 2200, lambda: join(english, 1, 7))
    out += some("chinese", 1200, lambda: join(chinese, 1, 3))
    out += some("chinese", 1200, lambda: join(han, 1, 12))
    out += some("code", 2000, lambda: join(code, 1, 7, ("", "\n", "\r\n", "    ")))
    out += some("digits", 1500, lambda: _digits(rng))
    out += some("emoji", 800, lambda: join(EMOJI + [" ", "a", "1"], 1, 5))
    out += some("spaces", 2500, lambda: join(SPACES + ["a", "Be", "1", "。", "!"], 2, 7))
    out += some("mixed", 2500, lambda: join(everything, 2, 7))
    out += [("category", text) for text in _category_strings(rng)]
    ends = _table_ends()
    rng.shuffle(ends)
    for at in range(0, len(ends), 3):
        c = [chr(point) for point in ends[at : at + 3]]
        joined = rng.choice(["a", " ", "1", "!"]).join(c)
        out.append(("boundary", joined + rng.choice(["b", "\n", "2"])))
    for first, last in RECENT:
        out += some("recent", 40, lambda: "".join(
            chr(rng.randint(first, last)) + rng.choice(["", "a", " ", "!"]) for _ in range(3)))
    out += some("combining", 800, lambda: "".join(
        rng.choice("aeoZ 1.中क") + "".join(rng.choice(marks) for _ in range(rng.randrange(3)))
        for _ in range(rng.randrange(1, 6))))
    out += [("combining", unicodedata.normalize("NFD", line)) for line in OTHER + CHINESE]
    out += [("added", text) for text in added_strings(rng, added_tokens, 1500)]
    out += some("invalid", 1000, lambda: _invalid(rng))
    out += some("random", 1500, lambda: "".join(
        chr(rng.choice(
            [rng.randrange(0x80), rng.randrange(0xD800), rng.randrange(0xE000, 0x110000)]))
        for _ in range(rng.randrange(1, 9))))
    out += [("long", text) for text in (
        "a" * 3000, " " * 3000, "\n" * 2000, " \n" * 1000, "=" * 2000, "中" * 1000, "1" * 1000,
        "ab" * 1500, "🙂" * 500, "\t" * 999 + "x", " " * 1000 + "x", "é" * 1000, "a\u0301" * 800)]
    return [(kind, text if isinstance(text, bytes) else text.encode()) for kind, text in out]
