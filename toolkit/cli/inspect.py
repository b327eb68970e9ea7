"""`toolkit inspect`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from toolkit.cli.parser import MODEL, Parser, add_json

if TYPE_CHECKING:
    from toolkit.data.chat.turns import TemplateTurns, Turn
    from toolkit.inference.inspection import Inspection, NamedToken

DTYPE_NAMES = {"F32": "fp32", "BF16": "bf16", "F16": "fp16", "F64": "fp64"}
WIDTH = 15
"""Characters of a line before its value."""
ANSWERS = {True: "yes", False: "no", None: "not checked"}


def main(arguments: Sequence[str]) -> int:
    """Return 0, or 2 if the model cannot be used."""
    parser = Parser(
        "inspect",
        "Show what a model is, and check that it does what the toolkit assumes: architecture, positions, "
        "stop tokens, chat template, tokenizer, whether it is causal and its cache exact, and the memory "
        "that it needs. The weights are loaded once; nothing is trained or written.",
        "toolkit inspect HuggingFaceTB/SmolLM2-135M\ntoolkit inspect runs/tiny/dpo --json",
    )
    parser.add_argument("model", metavar="MODEL", help=f"a language model or a reward model: {MODEL}")
    add_json(parser)
    args = parser.parse_args(arguments)

    from toolkit.base.console import print_json
    from toolkit.base.errors import ToolkitError
    from toolkit.runs import references

    try:
        reference = references.named_model(args.model)
        from transformers.utils.logging import disable_progress_bar

        from toolkit.inference.inspection import inspect_model
        from toolkit.runtime import library_output

        disable_progress_bar()  # of loading weights
        library_output.quiet()
        found = inspect_model(reference)
    except ToolkitError as error:
        error.exit_status = 2
        if args.json:
            reason = {"where": error.where, "reason": error.what, "fix": error.fix}
            print_json({"usable": False, "model": args.model, **reason})
        raise
    if args.json:
        print_json({"usable": True, **found.as_json(), "model": args.model})
    else:
        print("\n".join(_page(found)))
    return 0


def _page(found: Inspection) -> Iterator[str]:
    """Yield the lines of the page."""
    yield _line("model", found.model)
    yield _line("architecture", f"{found.class_name} ({found.model_type}), a {found.kind}")
    if found.adapter_of:
        yield _line("adapter of", f"{found.adapter_of}; merged when it is loaded")
    yield _line("parameters", f"{found.parameters:,}")
    yield _line("stored as", _stored(found))
    yield _line("positions", _positions(found))
    yield ""
    yield _line("causal", _checked(found.causal, found))
    if found.kind == "language model":
        words = _checked(found.cached, found)
        if found.cached is False:
            words += ": it is sampled without a cache, at the cost of a whole pass for each token"
        elif found.cached and not found.batched:
            words += "; rows of different lengths are sampled apart"
        yield _line("cache is exact", words)
    yield ""
    yield _line("tokenizer", _vocabulary(found))
    yield from _lost(found)
    yield _line("before a text", _token(found.start))
    if found.tokenizer_adds:
        yield _line("", f"the tokenizer itself would add {_tokens(found.tokenizer_adds)}")
    yield _line("padding", _token(found.pad))
    for place, token in enumerate(found.stop_tokens):
        yield _line("" if place else "stop tokens", f"{_token(token)}: {', '.join(token.named_by)}")
    if not found.stop_tokens:
        yield _line("stop tokens", "none: answers end at the limit of their length")
    yield ""
    yield from _template(found)
    yield ""
    if found.kind == "language model":
        settings = ", ".join(f"{name} {value:g}" for name, value in found.sampling.items())
        source = "generation_config.json" if found.own_sampling else "the model names none"
        yield _line("sampling", f"{settings} ({source})")
        if found.not_applied:
            others = ", ".join(f"{name} {value}" for name, value in found.not_applied.items())
            yield _line("", f"not applied: {others}")
        yield ""
    yield from _memory(found)


def _line(name: str, value: str) -> str:
    return f"{name:<{WIDTH}}{value}".rstrip()


def _stored(found: Inspection) -> str:
    if found.file:
        return f"{found.file}; its weights are dequantized when it is loaded"
    names = [DTYPE_NAMES.get(name, name.lower()) for name in found.stored]
    first, *others = names or ["unknown"]
    beside = f", and some weights as {', '.join(others)}" if others else ""
    return f"{first}{beside}: {_size(found.stored_bytes)}"


def _positions(found: Inspection) -> str:
    if found.positions is None:
        words = "no limit"
    else:
        words = f"{found.positions:,} ({found.position_key} in config.json)"
    if found.default_length != found.positions:
        words += f"; texts have at most {found.default_length:,} tokens by default"
    return words


def _checked(answer: bool | None, found: Inspection) -> str:
    return ANSWERS[answer] if answer is not None else f"{ANSWERS[None]}: {found.unchecked}"


def _vocabulary(found: Inspection) -> str:
    words = f"{found.entries:,} entries, {found.rows:,} rows in the model"
    if found.logits != found.rows and found.kind == "language model":
        words += f", {found.logits:,} logits"
    if found.unreadable:
        shown = ", ".join(found.unreadable[:3])
        words += (
            f"; without a row, so that no text may contain them: {len(found.unreadable)}, such as {shown}"
        )
    return words


def _lost(found: Inspection) -> Iterator[str]:
    """Yield what the tokenizer loses of the sample texts."""
    if not found.lost:
        yield _line("loses text", "no, of short texts in 10 scripts, emoji and code")
    for place, (name, lost) in enumerate(found.lost.items()):
        kinds = ", ".join(f"{count} {kind}" for kind, count in lost.characters.items())
        unknown = f"; {lost.unknown_tokens} unknown tokens" if lost.unknown_tokens else ""
        yield _line("" if place else "loses text", f"{name}: characters: {kinds}{unknown}")
    if found.lost:
        yield _line("", "such texts have no bits per byte")


def _token(token: NamedToken | None) -> str:
    return "none" if token is None else f"{token.text} ({token.id})"


def _tokens(tokens: Sequence[NamedToken]) -> str:
    return ", ".join(_token(token) for token in tokens)


def _template(found: Inspection) -> Iterator[str]:
    if found.template_refusal:
        yield _line("chat template", f"cannot be used: {found.template_refusal}")
    if found.template is None:
        if not found.template_refusal:
            yield _line("chat template", "none; sft adds one (chat_template)")
        return
    turns = found.template
    yield _line("" if found.template_refusal else "chat template", f"begins with {_text(turns.begins)}")
    if turns.system is None:
        yield _line("  system", f"messages are {turns.system_messages}")
    else:
        yield _line("  system", _turn(turns.system))
    yield _line("  user", _turn(turns.user))
    yield _line("  assistant", _turn(turns.assistant))
    if turns.earlier_answer_closes is None:
        yield _line("", "a second question is refused")
    elif turns.earlier_answer_closes != turns.assistant.closes:
        yield _line("", f"before another question: closes with {_text(turns.earlier_answer_closes)}")
    yield _line("  to answer", f"{_text(turns.generation_prompt)} follows a question{_thought(turns)}")
    if turns.prints_date:
        yield _line("  date", "it prints today's date; here always the same (docs/DATA.md)")


def _thought(turns: TemplateTurns) -> str:
    if turns.thought is None:
        return ""
    return ", and begins a thought" if "/" not in turns.thought else ", with an empty thought"


def _turn(turn: Turn) -> str:
    return f"opens with {_text(turn.opens)}, closes with {_text(turn.closes)}"


def _text(text: str) -> str:
    return json.dumps(text, ensure_ascii=False) if text else "nothing"


def _memory(found: Inspection) -> Iterator[str]:
    """Yield the memory of weights, and of the state of trainings."""
    weights = ", ".join(f"{_size(size)} in {name}" for name, size in found.inference_bytes.items())
    yield _line("to sample", f"{weights}, and the cache")
    for place, (stage, sizes) in enumerate(found.training_bytes.items()):
        lora = f", {_size(sizes['lora'])} with LoRA" if "lora" in sizes else ""
        yield _line("" if place else "to train", f"{stage}: {_size(sizes['full'])}{lora}")
    if found.training_bytes:
        yield _line("", "with AdamW in fp32, without activations; LoRA: r 16 on all linear layers")


def _size(count: int) -> str:
    return f"{count / 2**30:.3g} GiB" if count >= 2**29 else f"{count / 2**20:.3g} MiB"
