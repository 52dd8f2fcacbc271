"""The tasks of the demo model: every example is made here from a seed, and nothing is downloaded.

An example is a list of (question, answer) turns. Training and held-out examples are disjoint by
construction: a hash of what makes an example different (operands, words, number, wording of the
question) puts one tenth of all possible examples into the held-out split.
"""

import hashlib
import pathlib

import facts

WORDS = (pathlib.Path(__file__).parent / "words.txt").read_text().split()
SORT_WORDS = WORDS[::8]  # sorting needs the rank of each word, so it uses fewer of them

TASKS = ("arithmetic", "sort", "reverse", "lookup", "english_numbers", "chinese_numbers",
         "english_facts", "chinese_facts")

ARITHMETIC = ("What is {a} {op} {b}?", "Calculate {a} {op} {b}.", "Compute {a} {op} {b}",
              "{a} {op} {b} = ?", "{a}{op}{b}=?", "What is {a} {name} {b}?", "{a} {op} {b}",
              "{a} {op} {b} 等于多少？", "请计算 {a} {op} {b}。")
SORT = ("Sort these words: {w}", "Sort these words alphabetically: {w}",
        "Put these words in alphabetical order: {w}", "Sort: {w}")
REVERSE = ("Reverse these words: {w}", "Write these words in reverse order: {w}",
           "Put these words in reverse order: {w}", "Reverse: {w}")
ENGLISH_NUMBERS = ("Write {n} in English words.", "Write {n} in words.", "Spell out {n}.",
                   "How do you say {n} in English?", "用英文写出数字 {n}。")
CHINESE_NUMBERS = ("用中文写出数字 {n}。", "{n} 用中文怎么读？", "把 {n} 写成中文。",
                   "{n} 的中文是什么？", "Write {n} in Chinese.")
LOOKUP_INTRO = ("Here is a list of codes.", "These are the codes.", "Remember these codes.")
LOOKUP = ("What is the code of {k}?", "Which code belongs to {k}?", "Tell me the code of {k}.")
# "tokens" is the length of one fact; only formats that can fill the context are used.
LOOKUP_FORMATS = (
    {"fact": "{k} {v}", "join": ", ", "before": " ", "after": ". ", "tokens": 3},
    {"fact": "- {k} {v}", "join": "\n", "before": "\n", "after": "\n", "tokens": 4},
    {"fact": "The code is {k} {v}.", "join": " ", "before": " ", "after": " ", "tokens": 7},
)
ENGLISH_WRAPPERS = ("{q}", "Please answer: {q}", "{q} Please be brief.", "Hi! {q}", "Hey, {q}",
                    "Question: {q}", "I have a question. {q}", "{q} Thanks.",
                    "One more question: {q}", "Can you help me? {q}")
CHINESE_WRAPPERS = ("{q}", "请问，{q}", "请回答：{q}", "你好，{q}", "问题：{q}", "{q}请简短回答。",
                    "{q}谢谢。", "我有一个问题：{q}", "再问一下，{q}", "能帮我吗？{q}")
SYSTEM_PROMPTS = ("You are a helpful assistant.", "Answer briefly.", "You are a helpful assistant. ")


def held_out(*key):
    """Whether the example with this key belongs to the held-out tenth."""
    return hashlib.md5(repr(key).encode()).digest()[0] % 10 == 0


def english_number(n):
    ones = ("zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen "
            "fifteen sixteen seventeen eighteen nineteen").split()
    tens = "- - twenty thirty forty fifty sixty seventy eighty ninety".split()
    if n < 20:
        return ones[n]
    if n < 100:
        return tens[n // 10] + ("-" + ones[n % 10] if n % 10 else "")
    size, name = (1000, "thousand") if n >= 1000 else (100, "hundred")
    rest = " " + english_number(n % size) if n % size else ""
    return f"{english_number(n // size)} {name}{rest}"


def chinese_number(n):
    digits = "零一二三四五六七八九"
    if n < 10:
        return digits[n]
    if n < 20:
        return "十" + (digits[n % 10] if n % 10 else "")
    text = ""
    for size, name in ((1000, "千"), (100, "百"), (10, "十"), (1, "")):
        digit = n // size % 10
        if digit:
            text += digits[digit] + name
        elif text and not text.endswith("零") and n % size:
            text += "零"
    return text


def worked(a, op, b):
    """The schoolbook working, column by column from the right, with its carries or borrows."""
    steps, result, carry = [], "", 0
    width = len(str(max(a, b)))
    for x, y in zip(reversed(f"{a:0{width}}"), reversed(f"{b:0{width}}")):
        x, y = int(x), int(y)
        if op == "+":
            total = x + y + carry
            steps.append(f"{x}+{y}{'+1' if carry else ''}={total}")
            last, carry = total, total // 10
            result = str(total % 10) + result
        else:
            borrow = x - carry < y
            value = x + 10 * borrow - y - carry
            steps.append(f"{x + 10 * borrow}-{y}{'-1' if carry else ''}={value}")
            carry = int(borrow)
            result = str(value) + result
    if op == "+":
        result = str(last) + result[1:]
    assert int(result) == (a + b if op == "+" else a - b)
    return f"{a} {op} {b}: {', '.join(steps)}, so {int(result)}"


def arithmetic(rng, held):
    while True:
        a, b = (rng.randrange(10 ** rng.choice((1, 2, 2, 2, 3))) for _ in range(2))
        op = rng.choice("+-")
        if op == "-" and a < b:
            a, b = b, a
        key = (op, min(a, b), max(a, b))
        if held_out(*key) == held:
            question = rng.choice(ARITHMETIC).format(
                a=a, b=b, op=op, name={"+": "plus", "-": "minus"}[op])
            return question, worked(a, op, b)


def sort(rng, held):
    while True:
        words = rng.sample(SORT_WORDS, rng.randint(3, 5))
        if held_out("sort", *sorted(words)) == held:
            text = rng.choice((" ", " ", ", ")).join(words)
            return rng.choice(SORT).format(w=text), "Sorted: " + " ".join(sorted(words))


def reverse(rng, held):
    while True:
        words = rng.sample(WORDS, rng.randint(3, 6))
        if held_out("reverse", *words) == held:
            text = rng.choice((" ", " ", ", ")).join(words)
            return rng.choice(REVERSE).format(w=text), "Reversed: " + " ".join(words[::-1])


def numbers(language, templates, spell):
    def make(rng, held):
        while True:
            n = rng.randrange(10 ** rng.choice((2, 3, 4, 4)))
            # Numbers below one hundred are the alphabet of the larger ones: never held out.
            if (n >= 100 and held_out(language, n)) == held:
                return rng.choice(templates).format(n=n), spell(n)
    return make


def wordings(language):
    """Every wording of every question: (held out, question, answer)."""
    table, wrappers, stops = ((facts.ENGLISH, ENGLISH_WRAPPERS, ".?!") if language == "english"
                              else (facts.CHINESE, CHINESE_WRAPPERS, "。？！"))
    result = []
    for questions, answer in table:
        for question in questions:
            forms = [wrapper.format(q=question) for wrapper in wrappers]
            forms += [question.rstrip(stops), question.lower(), question.lower().rstrip(stops)]
            if language == "chinese":
                forms.append(question.replace("？", "?").replace(" ", ""))
            for i, form in enumerate(dict.fromkeys(forms)):
                result.append((i > 0 and held_out(language, form), form, answer))
    seen = {form for held, form, _ in result if not held}
    return [entry for entry in result if not (entry[0] and entry[1] in seen)]


def facts_task(language):
    splits = {held: [(q, a) for h, q, a in wordings(language) if h == held]
              for held in (False, True)}
    return lambda rng, held: rng.choice(splits[held])


def lookup(rng, held, num_tokens, keys_per_question=(1,)):
    """One long list of codes of two words, and questions that name the first word.

    Asking for several codes at once makes training denser; held-out examples ask for one.
    """
    formats = [f for f in LOOKUP_FORMATS if f["tokens"] * len(WORDS) >= num_tokens]
    form = rng.choice(formats)
    count = max(2, (num_tokens - 24) // form["tokens"])
    while True:
        keys = rng.sample(WORDS, count)
        others = sorted(set(WORDS) - set(keys))
        pairs = list(zip(keys, rng.choices(others, k=count)))
        if held_out("lookup", *pairs) == held:
            break
    text = form["join"].join(form["fact"].format(k=k, v=v) for k, v in pairs)
    text = rng.choice(LOOKUP_INTRO) + form["before"] + text + form["after"]
    turns = []
    for num_keys in keys_per_question:
        asked = rng.sample(pairs, min(num_keys, count))
        question = rng.choice(LOOKUP).format(k=", ".join(k for k, _ in asked))
        answer = ", ".join(f"{k} {v}" for k, v in asked)
        turns.append((text + question, f"The code is {answer}."))
        text = ""
    return turns


SHORT = {
    "arithmetic": arithmetic, "sort": sort, "reverse": reverse,
    "english_numbers": numbers("english", ENGLISH_NUMBERS, english_number),
    "chinese_numbers": numbers("chinese", CHINESE_NUMBERS, chinese_number),
    "english_facts": facts_task("english"), "chinese_facts": facts_task("chinese"),
}
