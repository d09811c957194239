#!/usr/bin/env python3
"""Writes chats.jsonl: conversations and their texts by transformers' apply_chat_template.

The templates are those of the published tokenizers: ChatML, Llama 3, Gemma. Needs transformers and jinja2.
Usage: python3 tests/data_tools/make_chats.py
"""
import json
import pathlib

from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

TEMPLATES = {
    "chatml": "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>'"
              " + '\\n'}}{% endfor %}",
    "llama3": "{% set loop_messages = messages %}{% for message in loop_messages %}{% set content = '<|start_header_id|>' + "
              "message['role'] + '<|end_header_id|>\\n\\n'+ message['content'] | trim + '<|eot_id|>' %}{% if loop.index0 == "
              "0 %}{% set content = bos_token + content %}{% endif %}{{ content }}{% endfor %}",
    "gemma": "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}"
             "{% endif %}{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
             "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
             "{% if (message['role'] == 'assistant') %}{% set role = 'model' %}{% else %}{% set role = message['role'] %}"
             "{% endif %}{{ '<start_of_turn>' + role + '\\n' + message['content'] | trim + '<end_of_turn>\\n' }}"
             "{% endfor %}",
}
BOS = {"chatml": None, "llama3": "<|begin_of_text|>", "gemma": "<bos>"}
TALK = [{"role": "user", "content": "What is 2 + 2?"}, {"role": "assistant", "content": "4"}]
SPACES = [{"role": "user", "content": " \u3000\n a\u00a0b \t\u2009\x1c"}, {"role": "assistant", "content": "\n\n"},
          {"role": "user", "content": "\u200b c \u0085"}]
CONVERSATIONS = [TALK, SPACES, TALK + TALK, [{"role": "system", "content": "Be short. <|im_end|>"}, *TALK],
                 [*TALK, {"role": "tool", "content": "{}"}]]


def main():
    out = pathlib.Path(__file__).parent / "chats.jsonl"
    with open(out, "w", encoding="utf-8") as file:
        for name, template in TEMPLATES.items():
            tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE()), bos_token=BOS[name])
            tokenizer.chat_template = template
            for messages in CONVERSATIONS:
                try:
                    text = tokenizer.apply_chat_template(messages, tokenize=False)
                except Exception as error:  # roles that Gemma's template refuses
                    assert name == "gemma", error
                    continue
                file.write(json.dumps({"template": name, "messages": messages, "text": text}) + "\n")


if __name__ == "__main__":
    main()
