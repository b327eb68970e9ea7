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
        takes_system: whether a system message is allowed.
        alternates: whether two messages of a user in a row are refused.
    """

    template: str
    special: tuple[str, ...]
    eos: str
    end: str
    prompt: str
    answer: str
    takes_system: bool = True
    alternates: bool = False

    def tokenizer(self) -> PreTrainedTokenizerFast:
        """Return a small tokenizer with this format."""
        tokenizer = learn(
            ["the cat sat on the mat. Q1 A1 Q2 A2 system user assistant\n" * 20], vocab_size=300
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
}  # fmt: skip
