"""Chat formats of widespread checkpoints, written again for small tokenizers, with what they must render."""

from __future__ import annotations

from dataclasses import dataclass

from transformers import PreTrainedTokenizerFast

from toolkit.stages.tokenizer import learn


@dataclass(frozen=True)
class Format:
    """A chat format.

    Attributes:
        special: tokens that the tokenizer gets.
        eos: its end-of-text token.
        end: the token that ends an answer.
        prompt, answer: rendering of the question "Q1", answered by "A1", and the question "Q2"; and of its
            answer "A2" with the token that ends it.
        earlier: what is learned of the answer "A1"; by default as of "A2".
        thought: what is learned of the answer "A2" with the thought "T1"; None if no thought is rendered.
        takes_system: whether a system message is allowed.
        alternates: whether two messages of a user in a row are refused.
    """

    template: str
    special: tuple[str, ...]
    eos: str
    end: str
    prompt: str
    answer: str
    earlier: str | None = None
    thought: str | None = None
    takes_system: bool = True
    alternates: bool = False

    def tokenizer(self) -> PreTrainedTokenizerFast:
        """Return a small tokenizer with this format."""
        tokenizer = learn(
            ["the cat sat on the mat. Q1 A1 Q2 A2 T1 system user assistant\n" * 20], vocab_size=300
        )
        tokenizer.add_special_tokens({"additional_special_tokens": list(self.special)})
        if self.eos not in tokenizer.get_vocab():
            tokenizer.add_special_tokens({"eos_token": self.eos})
        tokenizer.eos_token = self.eos
        tokenizer.chat_template = self.template
        return tokenizer


_NO_SYSTEM = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
)
_ALTERNATE = (
    "{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Roles must alternate user/assistant') }}{% endif %}{% endfor %}"
)
_CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_CHATML_PROMPT = (
    "<|im_start|>user\nQ1<|im_end|>\n<|im_start|>assistant\nA1<|im_end|>\n<|im_start|>user\nQ2<|im_end|>\n"
    "<|im_start|>assistant\n"
)
_IM = ("<|im_start|>", "<|im_end|>")

_THINK = ("<think>", "</think>")
_THOUGHT = (
    "{% set thought = m.reasoning_content or '' %}{% set text = m.content %}{% if '</think>' in text %}"
    "{% set thought = text.split('</think>')[0].split('<think>')[-1].strip('\n') %}"
    "{% set text = text.split('</think>')[-1].lstrip('\n') %}{% endif %}"
)

FORMATS = {
    "smollm2": Format(
        "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nBe kind<|im_end|>\n{% endif %}"
        + _CHATML,
        _IM, "<|im_end|>", "<|im_end|>",
        "<|im_start|>system\nBe kind<|im_end|>\n" + _CHATML_PROMPT, "A2<|im_end|>",
    ),
    "chatml, other eos": Format(_CHATML, _IM, "<|endoftext|>", "<|im_end|>", _CHATML_PROMPT, "A2<|im_end|>"),
    "qwen2.5": Format(
        "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}{% if m.role == 'assistant' %}"
        "{% generation %}{{ m.content + '<|im_end|>' }}{% endgeneration %}{{ '\n' }}"
        "{% else %}{{ m.content + '<|im_end|>' + '\n' }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
        _IM, "<|im_end|>", "<|im_end|>", _CHATML_PROMPT, "A2<|im_end|>",
    ),
    # The last answer gets an empty thought, earlier ones none.
    "qwen3": Format(
        "{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
        "{% if m['role'] == 'assistant' and loop.last %}"
        "<think>\n{{ m.reasoning_content or '' }}\n</think>\n\n{% endif %}"
        "{{ m['content'] }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
        _IM, "<|im_end|>", "<|im_end|>", _CHATML_PROMPT, "<think>\n\n</think>\n\nA2<|im_end|>",
        earlier="A1<|im_end|>", thought="<think>\nT1\n</think>\n\nA2<|im_end|>",
    ),
    "llama3": Format(
        "{{ '<|begin_of_text|>' }}{% for m in messages %}"
        "{{ '<|start_header_id|>' + m['role'] + '<|end_header_id|>\n\n' + m['content'] | trim }}"
        "{{ '<|eot_id|>' }}"
        "{% endfor %}{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}"
        "{% endif %}",
        ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|end_of_text|>"),
        "<|end_of_text|>", "<|eot_id|>",
        "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nQ1<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\nA1<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nQ2<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n", "A2<|eot_id|>",
    ),
    "gemma": Format(
        _NO_SYSTEM + _ALTERNATE + "{{ '<bos>' }}{% for m in messages %}"
        "{{ '<start_of_turn>' + ('model' if m['role'] == 'assistant' else m['role']) + '\n' }}"
        "{{ m['content'] | trim + '<end_of_turn>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}",
        ("<bos>", "<start_of_turn>", "<end_of_turn>", "<eos>"), "<eos>", "<end_of_turn>",
        "<bos><start_of_turn>user\nQ1<end_of_turn>\n<start_of_turn>model\nA1<end_of_turn>\n"
        "<start_of_turn>user\nQ2<end_of_turn>\n<start_of_turn>model\n", "A2<end_of_turn>",
        takes_system=False, alternates=True,
    ),
    "mistral": Format(
        _NO_SYSTEM + _ALTERNATE + "{{ '<s>' }}{% for m in messages %}{% if m['role'] == 'user' %}"
        "{{ '[INST] ' + m['content'] + ' [/INST]' }}{% else %}{{ ' ' + m['content'] + eos_token }}{% endif %}"
        "{% endfor %}",
        ("<s>", "</s>"), "</s>", "</s>", "<s>[INST] Q1 [/INST] A1</s>[INST] Q2 [/INST]", " A2</s>",
        takes_system=False, alternates=True,
    ),
    # Without a generation prompt the whole conversation ends with end-of-text.
    "phi3": Format(
        "{% for m in messages %}{{ '<|' + m['role'] + '|>\n' + m['content'] + '<|end|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}",
        ("<|end|>",), "<|endoftext|>", "<|end|>",
        "<|user|>\nQ1<|end|>\n<|assistant|>\nA1<|end|>\n<|user|>\nQ2<|end|>\n<|assistant|>\n", "A2<|end|>",
    ),
    "zephyr": Format(
        "{% for m in messages %}{{ '<|' + m['role'] + '|>\n' + m['content'] + eos_token + '\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}",
        ("</s>",), "</s>", "</s>",
        "<|user|>\nQ1</s>\n<|assistant|>\nA1</s>\n<|user|>\nQ2</s>\n<|assistant|>\n", "A2</s>",
    ),
    "tulu": Format(
        "{% for m in messages %}{% if m['role'] == 'assistant' %}"
        "{{ '<|assistant|>\n' + m['content'] + eos_token }}{% if not loop.last %}{{ '\n' }}{% endif %}"
        "{% else %}{{ '<|' + m['role'] + '|>\n' + m['content'] + '\n' }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}",
        ("</s>",), "</s>", "</s>",
        "<|user|>\nQ1\n<|assistant|>\nA1</s>\n<|user|>\nQ2\n<|assistant|>\n", "A2</s>",
    ),
    # A system message becomes the beginning of the first question.
    "gemma3": Format(
        "{{ '<bos>' }}{% if messages[0]['role'] == 'system' %}"
        "{% set first = messages[0]['content'] + '\n\n' %}"
        "{% set rest = messages[1:] %}{% else %}{% set first = '' %}{% set rest = messages %}{% endif %}"
        "{% for m in rest %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
        "{{ raise_exception('Conversation roles must alternate') }}{% endif %}"
        "{{ '<start_of_turn>' + ('model' if m['role'] == 'assistant' else m['role']) + '\n' }}"
        "{{ (first if loop.first else '') + m['content'] | trim + '<end_of_turn>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}",
        ("<bos>", "<start_of_turn>", "<end_of_turn>", "<eos>"), "<eos>", "<end_of_turn>",
        "<bos><start_of_turn>user\nQ1<end_of_turn>\n<start_of_turn>model\nA1<end_of_turn>\n"
        "<start_of_turn>user\nQ2<end_of_turn>\n<start_of_turn>model\n", "A2<end_of_turn>",
        alternates=True,
    ),
    "phi4": Format(
        "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '<|im_sep|>' + m['content'] + '<|im_end|>' }}"
        "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant<|im_sep|>' }}{% endif %}",
        (*_IM, "<|im_sep|>"), "<|endoftext|>", "<|im_end|>",
        "<|im_start|>user<|im_sep|>Q1<|im_end|><|im_start|>assistant<|im_sep|>A1<|im_end|>"
        "<|im_start|>user<|im_sep|>Q2<|im_end|><|im_start|>assistant<|im_sep|>", "A2<|im_end|>",
    ),
    # The generation prompt begins a thought; earlier answers have none.
    "qwen3.5": Format(
        "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% if m['role'] == 'assistant' %}" + _THOUGHT +
        "{% if loop.last %}{{ '<think>\n' + thought + '\n</think>\n\n' }}{% endif %}{{ text }}"
        "{% else %}{{ m['content'] }}{% endif %}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}",
        (*_IM, *_THINK), "<|im_end|>", "<|im_end|>", _CHATML_PROMPT + "<think>\n",
        "\n</think>\n\nA2<|im_end|>",
        earlier="A1<|im_end|>", thought="T1\n</think>\n\nA2<|im_end|>",
    ),
    # The generation prompt holds an empty thought, which answers without a thought do not have.
    "no thought": Format(
        "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n\n</think>\n\n{% endif %}",
        (*_IM, *_THINK), "<|im_end|>", "<|im_end|>", _CHATML_PROMPT + "<think>\n\n</think>\n\n",
        "A2<|im_end|>",
    ),
    "nemotron": Format(
        "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% if m['role'] == 'assistant' %}" + _THOUGHT +
        "{{ '<think>\n' + thought + '\n</think>\n' if thought and loop.last else '<think></think>' }}"
        "{{ text }}"
        "{% else %}{{ m['content'] }}{% endif %}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}",
        (*_IM, *_THINK), "<|im_end|>", "<|im_end|>",
        _CHATML_PROMPT.replace("A1", "<think></think>A1") + "<think>\n", "</think>A2<|im_end|>",
        earlier="</think>A1<|im_end|>", thought="T1\n</think>\nA2<|im_end|>",
    ),
    # The generation prompt begins a thought, which the template removes from every answer.
    "r1": Format(
        "{{ '<|begin|>' }}{% for m in messages %}{% if m['role'] == 'assistant' %}"
        "{{ '<|Assistant|>' + m['content'].split('</think>')[-1] + '<|end|>' }}"
        "{% else %}{{ '<|User|>' + m['content'] }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|Assistant|><think>\n' }}{% endif %}",
        ("<|begin|>", "<|User|>", "<|Assistant|>", "<|end|>", *_THINK), "<|end|>", "<|end|>",
        "<|begin|><|User|>Q1<|Assistant|>A1<|end|><|User|>Q2<|Assistant|><think>\n", "</think>\n\nA2<|end|>",
        earlier="A1<|end|>", thought="T1\n</think>\n\nA2<|end|>",
    ),
    # `<|return|>` ends the last answer, `<|end|>` all other messages. The system message prints today's date.
    "gpt-oss": Format(
        "{{ '<|start|>system<|message|>Today: ' + strftime_now('%Y-%m-%d') + '<|end|>' }}"
        "{% for m in messages %}{% if m['role'] == 'assistant' %}{% if loop.last %}"
        "{% if m.thinking %}{{ '<|start|>assistant<|channel|>analysis<|message|>' + m.thinking + '<|end|>' }}"
        "{% endif %}{{ '<|start|>assistant<|channel|>final<|message|>' + m.content + '<|return|>' }}"
        "{% else %}{{ '<|start|>assistant<|channel|>final<|message|>' + m.content + '<|end|>' }}{% endif %}"
        "{% else %}{{ '<|start|>' + m['role'] + '<|message|>' + m.content + '<|end|>' }}{% endif %}"
        "{% endfor %}{% if add_generation_prompt %}{{ '<|start|>assistant' }}{% endif %}",
        ("<|start|>", "<|message|>", "<|channel|>", "<|end|>", "<|return|>"), "<|endoftext|>", "<|return|>",
        "<|start|>system<|message|>Today: 2024-07-26<|end|><|start|>user<|message|>Q1<|end|>"
        "<|start|>assistant<|channel|>final<|message|>A1<|end|><|start|>user<|message|>Q2<|end|>"
        "<|start|>assistant", "<|channel|>final<|message|>A2<|return|>",
        earlier="<|channel|>final<|message|>A1",
        thought="<|channel|>analysis<|message|>T1<|end|><|start|>assistant<|channel|>final<|message|>A2<|return|>",
    ),
}  # fmt: skip
