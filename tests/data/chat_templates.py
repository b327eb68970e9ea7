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


@dataclass(frozen=True)
class ToolFormat(Format):
    """A chat format that renders tools.

    Attributes:
        prompt: rendering of CITY_TOOLS, the question "Q1", the answer that calls `time_in`, its result
            "noon", and the beginning of an answer.
        call: rendering of that call with the token that ends it.
        answer: of the answer "A2" after the result.
    """

    call: str = ""


CITY_TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "time_in",
            "description": "The time in a city",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
        },
    }
]
_JSON = (
    '{"type": "function", "function": {"name": "time_in", "description": "The time in a city", '
    '"parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}}'
)
_INDENTED = """{
    "type": "function",
    "function": {
        "name": "time_in",
        "description": "The time in a city",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {
                    "type": "string"
                }
            }
        }
    }
}"""
_LLAMA = "<|start_header_id|>{}<|end_header_id|>\n\n"
_QWEN_CALL = '<tool_call>\n{"name": "time_in", "arguments": {"city": "Rome"}}\n</tool_call><|im_end|>'

TOOL_FORMATS = {
    "qwen2.5": ToolFormat(
        "{%- if tools %}{{- '<|im_start|>system\nBe kind\n\n# Tools\n<tools>' }}"
        "{%- for tool in tools %}{{- '\n' }}{{- tool | tojson }}{%- endfor %}"
        "{{- '\n</tools><|im_end|>\n' }}{%- endif %}"
        "{%- for message in messages %}"
        "{%- if message.role in ['user', 'system']"
        " or (message.role == 'assistant' and not message.tool_calls) %}"
        "{{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}"
        "{%- elif message.role == 'assistant' %}{{- '<|im_start|>' + message.role }}"
        "{%- if message.content %}{{- '\n' + message.content }}{%- endif %}"
        "{%- for tool_call in message.tool_calls %}"
        "{%- if tool_call.function is defined %}{%- set tool_call = tool_call.function %}{%- endif %}"
        "{{- '\n<tool_call>\n{\"name\": \"' }}{{- tool_call.name }}{{- '\", \"arguments\": ' }}"
        "{{- tool_call.arguments | tojson }}{{- '}\n</tool_call>' }}{%- endfor %}{{- '<|im_end|>\n' }}"
        "{%- elif message.role == 'tool' %}"
        "{%- if loop.index0 == 0 or messages[loop.index0 - 1].role != 'tool' %}"
        "{{- '<|im_start|>user' }}{%- endif %}"
        "{{- '\n<tool_response>\n' + message.content + '\n</tool_response>' }}"
        "{%- if loop.last or messages[loop.index0 + 1].role != 'tool' %}{{- '<|im_end|>\n' }}{%- endif %}"
        "{%- endif %}{%- endfor %}{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}"
        "{%- endif %}",
        _IM, "<|im_end|>", "<|im_end|>",
        f"<|im_start|>system\nBe kind\n\n# Tools\n<tools>\n{_JSON}\n</tools><|im_end|>\n"
        f"<|im_start|>user\nQ1<|im_end|>\n<|im_start|>assistant\n{_QWEN_CALL}\n"
        "<|im_start|>user\n<tool_response>\nnoon\n</tool_response><|im_end|>\n<|im_start|>assistant\n",
        "A2<|im_end|>",
        call=_QWEN_CALL,
    ),
    # The functions are in the first request; one call in an answer; its text is not rendered.
    "llama3.1": ToolFormat(
        "{{- '<|begin_of_text|>' }}"
        "{%- for message in messages %}"
        "{%- if message.role == 'user' and loop.index0 == 0 and tools %}"
        "{{- '<|start_header_id|>user<|end_header_id|>\n\nGiven the following functions:\n\n' }}"
        "{%- for t in tools %}{{- t | tojson(indent=4) }}{{- '\n\n' }}{%- endfor %}"
        "{{- message.content + '<|eot_id|>' }}"
        "{%- elif not (message.role == 'ipython' or message.role == 'tool' or 'tool_calls' in message) %}"
        "{{- '<|start_header_id|>' + message.role + '<|end_header_id|>\n\n'"
        " + message.content | trim + '<|eot_id|>' }}"
        "{%- elif 'tool_calls' in message %}"
        "{%- if not message.tool_calls | length == 1 %}"
        "{{- raise_exception('This model only supports single tool-calls at once!') }}{%- endif %}"
        "{%- set tool_call = message.tool_calls[0].function %}"
        "{{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}"
        "{{- '{\"name\": \"' + tool_call.name + '\", \"parameters\": ' }}{{- tool_call.arguments | tojson }}"
        "{{- '}<|eot_id|>' }}"
        "{%- else %}{{- '<|start_header_id|>ipython<|end_header_id|>\n\n' }}"
        "{%- if message.content is mapping or message.content is iterable %}{{- message.content | tojson }}"
        "{%- else %}{{- message.content }}{%- endif %}{{- '<|eot_id|>' }}{%- endif %}{%- endfor %}"
        "{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}"
        "{%- endif %}",
        FORMATS["llama3"].special, "<|end_of_text|>", "<|eot_id|>",
        f"<|begin_of_text|>{_LLAMA.format('user')}"
        f"Given the following functions:\n\n{_INDENTED}\n\nQ1<|eot_id|>"
        f'{_LLAMA.format("assistant")}{{"name": "time_in", "parameters": {{"city": "Rome"}}}}<|eot_id|>'
        f'{_LLAMA.format("ipython")}"noon"<|eot_id|>{_LLAMA.format("assistant")}',
        "A2<|eot_id|>",
        call='{"name": "time_in", "parameters": {"city": "Rome"}}<|eot_id|>',
    ),
    # The functions are before the last request; calls need identifiers of nine letters and digits.
    "mistral": ToolFormat(
        "{%- set requests = messages | selectattr('role', 'equalto', 'user') | list %}{{- '<s>' }}"
        "{%- for message in messages %}{%- if message.role == 'user' %}"
        "{%- if tools and message == requests[-1] %}{{- '[AVAILABLE_TOOLS] [' }}"
        "{%- for tool in tools %}"
        "{{- '{\"type\": \"function\", \"function\": ' + tool.function | tojson + '}' }}"
        "{%- if not loop.last %}{{- ', ' }}{%- endif %}{%- endfor %}{{- '][/AVAILABLE_TOOLS]' }}{%- endif %}"
        "{{- '[INST] ' + message.content + '[/INST]' }}"
        "{%- elif message.tool_calls is defined and message.tool_calls %}{{- '[TOOL_CALLS] [' }}"
        "{%- for call in message.tool_calls %}"
        "{%- if not call.id is defined or call.id | length != 9 %}"
        "{{- raise_exception('Tool call IDs should be alphanumeric strings with length 9!') }}{%- endif %}"
        "{%- set out = call.function | tojson %}{{- out[:-1] + ', \"id\": \"' + call.id + '\"}' }}"
        "{%- if not loop.last %}{{- ', ' }}{%- endif %}{%- endfor %}{{- ']' + eos_token }}"
        "{%- elif message.role == 'assistant' %}{{- ' ' + message.content + eos_token }}"
        "{%- elif message.role == 'tool' %}"
        "{{- '[TOOL_RESULTS] {\"content\": ' + message.content + ', \"call_id\": \"'"
        " + message.tool_call_id + '\"}' }}"
        "{{- '[/TOOL_RESULTS]' }}"
        "{%- else %}{{- raise_exception('Only user, assistant and tool roles are supported!') }}{%- endif %}"
        "{%- endfor %}",
        ("<s>", "</s>", "[INST]", "[/INST]", "[TOOL_CALLS]", "[TOOL_RESULTS]", "[/TOOL_RESULTS]",
         "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]"), "</s>", "</s>",
        f"<s>[AVAILABLE_TOOLS] [{_JSON}][/AVAILABLE_TOOLS][INST] Q1[/INST]"
        '[TOOL_CALLS] [{"name": "time_in", "arguments": {"city": "Rome"}, "id": "abcdefgh1"}]</s>'
        '[TOOL_RESULTS] {"content": noon, "call_id": "abcdefgh1"}[/TOOL_RESULTS]',
        " A2</s>",
        takes_system=False,
        call='[TOOL_CALLS] [{"name": "time_in", "arguments": {"city": "Rome"}, "id": "abcdefgh1"}]</s>',
    ),
    "hermes": ToolFormat(
        "{{- '<|im_start|>system\nYou are a function calling AI model. <tools> ' }}"
        "{%- if tools %}{{- tools | tojson }}{%- endif %}{{- ' </tools><|im_end|>\n' }}"
        "{%- for message in messages %}"
        "{%- if message.role == 'assistant' and message.tool_calls is defined %}"
        "{{- '<|im_start|>assistant' }}{%- for call in message.tool_calls %}"
        "{{- '\n<tool_call>\n' + call.function | tojson + '\n</tool_call>' }}{%- endfor %}"
        "{{- '<|im_end|>\n' }}"
        "{%- elif message.role == 'tool' %}"
        "{{- '<|im_start|>tool\n<tool_response>\n' + message.content + '\n</tool_response><|im_end|>\n' }}"
        "{%- else %}{{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}"
        "{%- endif %}"
        "{%- endfor %}{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}",
        _IM, "<|im_end|>", "<|im_end|>",
        f"<|im_start|>system\nYou are a function calling AI model. <tools> [{_JSON}] </tools><|im_end|>\n"
        f"<|im_start|>user\nQ1<|im_end|>\n<|im_start|>assistant\n{_QWEN_CALL}\n"
        "<|im_start|>tool\n<tool_response>\nnoon\n</tool_response><|im_end|>\n<|im_start|>assistant\n",
        "A2<|im_end|>",
        call=_QWEN_CALL,
    ),
    # Arguments are text, to which an object cannot be appended.
    "deepseek": ToolFormat(
        "{{- '<s>' }}{%- for tool in tools or [] %}{{- 'Tool ' + tool.function.name + '. ' }}{%- endfor %}"
        "{%- for m in messages %}{%- if m.role == 'user' %}{{- '[INST]' + m.content }}"
        "{%- elif m.role == 'tool' %}{{- '[TOOL_RESULTS]' + m.content }}"
        "{%- elif m.tool_calls is defined %}{{- '[/INST]' }}{%- for call in m.tool_calls %}"
        "{{- call.function.name + '\n' + call.function.arguments }}{%- endfor %}{{- '</s>' }}"
        "{%- else %}{{- '[/INST]' + m.content + '</s>' }}{%- endif %}{%- endfor %}"
        "{%- if add_generation_prompt %}{{- '[/INST]' }}{%- endif %}",
        ("<s>", "</s>", "[INST]", "[/INST]", "[TOOL_RESULTS]"), "</s>", "</s>",
        '<s>Tool time_in. [INST]Q1[/INST]time_in\n{"city": "Rome"}</s>[TOOL_RESULTS]noon[/INST]', "A2</s>",
        call='time_in\n{"city": "Rome"}</s>',
    ),
}  # fmt: skip
"""Chat formats with tools; Llama 3.1 writes the result as JSON, as its own template does."""
