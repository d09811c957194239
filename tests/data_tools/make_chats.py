#!/usr/bin/env python3
"""Writes chats.jsonl: conversations and their texts by transformers' apply_chat_template.

Each argument is NAME=FILE: a published template, as the chat_template.jinja of the model has it or as the PyPI packages
trl (trl/chat_templates) and llama-cpp-python (vendor/llama.cpp/models/templates, in the source distribution) hold it.
Needs transformers and jinja2.
Usage: python3 tests/data_tools/make_chats.py chatml=chatml.jinja qwen3=trl/chat_templates/qwen3.jinja ...
"""
import json
import pathlib
import sys

from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

TOKENS = {"llama3": ("<|begin_of_text|>", "<|eot_id|>"), "gemma": ("<bos>", "<eos>"), "mistral": ("<s>", "</s>"),
          "deepseek": ("<\uff5cbegin\u2581of\u2581sentence\uff5c>", "<\uff5cend\u2581of\u2581sentence\uff5c>")}
ANY_ROLE = ("chatml", "qwen2", "smollm2", "llama3")  # these write any role; ssa_tokenize refuses tools for the others


def user(content):
    return {"role": "user", "content": content}


def assistant(content):
    return {"role": "assistant", "content": content}


SYSTEM = {"role": "system", "content": " Be short. <|im_end|>\n"}
TALK = [user("What is 2 + 2?"), assistant("4")]
SPACES = [user(" \u3000\n a\u00a0b \t\u2009\x1c"), assistant("\n\n"), user("\u200b c \u0085")]
THOUGHTS = [user("\u4f60\u597d"), assistant("<think>\nA\n</think>\n\nB"), user("More <think>"),
            assistant("\n<think>\n\nC </think> D</think>\n\nE\n")]
CONVERSATIONS = [
    TALK, SPACES, TALK + TALK, [user(""), assistant("")], [SYSTEM, user("Hi")], [SYSTEM, *SPACES], [SYSTEM, *TALK],
    THOUGHTS, [*THOUGHTS, user("<tool_response>\nx\n</tool_response>"), assistant("</think>\nF")],
    [*TALK, SYSTEM, *TALK], [assistant("A"), assistant("<think>B</think>C"), assistant("D")],
    [*TALK, {"role": "tool", "content": "{}"}],
]


def is_refused(name, messages):
    """Whether ssa_tokenize refuses a conversation that the template renders without some of its text."""
    roles = [message["role"] for message in messages]
    dropped = name.startswith("mistral") and roles[0] == "system" and roles[-1] != "user"
    return dropped or ("tool" in roles and name not in ANY_ROLE)


def main():
    with open(pathlib.Path(__file__).parent / "chats.jsonl", "w", encoding="utf-8") as file:
        for argument in sys.argv[1:]:
            name, path = argument.split("=")
            bos, eos = next((tokens for begin, tokens in TOKENS.items() if name.startswith(begin)), (None, None))
            tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE()), bos_token=bos, eos_token=eos)
            tokenizer.chat_template = pathlib.Path(path).read_text(encoding="utf-8")
            for messages in CONVERSATIONS:
                try:
                    text = tokenizer.apply_chat_template(messages, tokenize=False)
                except Exception as error:  # jinja2's: the template refuses these roles
                    assert "role" in str(error) or "tool" in str(messages), error
                    continue
                if not is_refused(name, messages):
                    file.write(json.dumps({"template": name, "messages": messages, "text": text}) + "\n")


if __name__ == "__main__":
    main()
