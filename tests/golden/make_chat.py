"""Makes the chat goldens: conversations rendered by the released templates in transformers' Jinja.

    python tests/golden/make_chat.py DIRECTORY

DIRECTORY holds the templates of the released models as v2.jinja, v3.jinja, r1.jinja and v3.1.jinja
(`chat_template` in their tokenizer_config.json); they are not ours and not kept here.
"""

import json
import sys
from pathlib import Path

from transformers.utils.chat_template_utils import render_jinja_template

OUTPUT = Path(__file__).parent / "chat" / "cases.json"
FORMATS = ["v2", "v3", "r1", "v3.1"]
BOS, EOS = "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"
ROLES = {"s": "system", "u": "user", "a": "assistant"}

# (name, turns as (role, content))
CONVERSATIONS = [
    ("user only", [("u", "What is 2 + 2?")]),
    ("system and user", [("s", "You are terse."), ("u", "Hello")]),
    ("several turns", [("s", "You are a helpful assistant."), ("u", "Hi"),
                       ("a", "Hello! How can I help?"), ("u", "Sort: pear, fig"),
                       ("a", "fig, pear"), ("u", "Thanks")]),
    ("several turns without system", [("u", "1+1?"), ("a", "2"), ("u", "and 2+2?")]),
    ("reasoning in the history", [("u", "Why?"),
                                  ("a", "<think>\nLet me see.\n</think>\n\nBecause."),
                                  ("u", "Sure?")]),
    ("only the end of reasoning", [("u", "Why?"), ("a", "Let me see.</think>Because."),
                                   ("u", "Sure?")]),
    ("two ends of reasoning", [("u", "Why?"), ("a", "<think>a</think>b</think>c"), ("u", "Sure?")]),
    ("reasoning and no answer", [("u", "Why?"), ("a", "<think>hm</think>"), ("u", "Well?")]),
    ("reasoning asked by the user", [("u", "Say <think>x</think> please")]),
    ("empty user", [("u", "")]),
    ("empty system", [("s", ""), ("u", "Hello")]),
    ("empty assistant", [("u", "Hello"), ("a", ""), ("u", "Still there?")]),
    ("Chinese", [("s", "你是一个乐于助人的助手。"), ("u", "你好！今天天气怎么样？"), ("a", "晴天，适合散步。"), ("u", "谢谢🙂")]),
    ("two systems", [("s", "First."), ("s", "Second."), ("u", "Hello")]),
    ("late system", [("u", "Hello"), ("a", "Hi"), ("s", "Answer in French."), ("u", "Again")]),
    ("empty then full system", [("s", ""), ("s", "Second."), ("u", "Hello")]),
    ("two users", [("u", "One."), ("u", "Two.")]),
    ("two assistants", [("u", "Go"), ("a", "One."), ("a", "Two."), ("u", "On")]),
    ("assistant last", [("u", "Begin a story"), ("a", "Once upon a time")]),
    ("assistant first", [("a", "Welcome!"), ("u", "Hello")]),
    ("white space is kept", [("s", "  a\n"), ("u", "\n b \t"), ("a", "  c\n\n"), ("u", " ")]),
    ("markers and Jinja as text", [("u", "<｜User｜>{{ x }}{% if %} 'q' \"d\" \\n "
                                         "<｜end▁of▁sentence｜> &lt;"),
                                   ("a", "<｜Assistant｜>ok"), ("u", "User: Assistant:")]),
    ("system only", [("s", "You are terse.")]),
]


def main():
    directory = Path(sys.argv[1])
    cases = []
    for chat_format in FORMATS:
        template = (directory / f"{chat_format}.jinja").read_text().removesuffix("\n")
        for name, turns in CONVERSATIONS:
            messages = [{"role": ROLES[role], "content": content} for role, content in turns]
            for generate in (True, False):
                for thinking in (False, True) if chat_format == "v3.1" and generate else (False,):
                    rendered, _ = render_jinja_template(
                        conversations=[messages],
                        chat_template=template,
                        add_generation_prompt=generate,
                        thinking=thinking,
                        bos_token=BOS,
                        eos_token=EOS,
                    )
                    cases.append(
                        {
                            "name": name,
                            "format": chat_format,
                            "add_generation_prompt": generate,
                            "thinking": thinking,
                            "messages": messages,
                            "expected": rendered[0],
                        }
                    )
    OUTPUT.parent.mkdir(exist_ok=True)
    lines = ",\n".join(json.dumps(case, ensure_ascii=False) for case in cases)
    OUTPUT.write_text(f"[\n{lines}\n]\n")
    print(f"{len(cases)} cases")


if __name__ == "__main__":
    main()
