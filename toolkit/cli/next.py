"""`toolkit next`."""

from __future__ import annotations

import json as json_format
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from toolkit.base.console import tell
from toolkit.base.errors import UsageError
from toolkit.cli.parser import MODEL, Parser, add_dtype, add_json, positive_int
from toolkit.inference.token_text import LONE_SPACE, ends_in_lone_space, token_text, visible

if TYPE_CHECKING:
    from toolkit.inference.next_token import Prediction
    from toolkit.inference.opening import OpenModel

BAR_CELLS = 24

EIGHTHS = " ▏▎▍▌▋▊▉█"


def main(arguments: Sequence[str]) -> int:
    parser = Parser(
        "next",
        "Show the probability distribution of the next token as a table with bars.",
        'toolkit next runs/tiny/pretrain "A story about a"\n'
        'toolkit next runs/tiny/sft "The fox" --top 20 --steps 5 --temperature 0.8\n'
        'toolkit next runs/tiny/pretrain "A story about a fox who finds" --truth',
    )
    parser.add_argument("model", metavar="MODEL", help=MODEL)
    parser.add_argument("text", help="the text so far")
    parser.add_argument("--top", type=positive_int, default=10, metavar="K", help="rows of the table")
    parser.add_argument("--steps", type=positive_int, default=1, metavar="N", help="continue for N tokens")
    parser.add_argument(
        "--temperature",
        type=float,
        default=0.0,
        metavar="T",
        help="sampling temperature of the next token; 0 takes the most probable one",
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N")
    parser.add_argument("--chat", action="store_true", help="put the text into the chat template")
    parser.add_argument(
        "--truth", action="store_true", help="beside the true chance of each token; for the small storyworld"
    )
    add_dtype(parser)
    add_json(parser)
    args = parser.parse_intermixed_args(arguments)

    given = vars(args)
    return next_command(given.pop("model"), given.pop("text"), **given)


def next_command(
    model: str,
    text: str,
    *,
    top: int = 10,
    steps: int = 1,
    temperature: float = 0.0,
    seed: int = 0,
    chat: bool = False,
    truth: bool = False,
    json: bool = False,
    dtype: str = "fp32",
) -> int:
    """Print the next-token distribution of `text`, and of `steps` tokens on.

    The most probable token is followed, or with a temperature one drawn from the softened distribution;
    the table always shows the model's own distribution (temperature 1). With `truth`, also the true one of a
    document of the small storyworld that begins with the text. `dtype` is that of the weights, a name of
    `toolkit.models.loading.DTYPES`.
    """
    from toolkit.inference.next_token import as_json, follow
    from toolkit.inference.opening import open_model

    if top < 1 or steps < 1 or temperature < 0:
        raise UsageError("--top and --steps must be at least 1, --temperature at least 0")
    if truth and chat:
        raise UsageError("--truth is that of documents, not of answers", fix="leave out --chat")
    opened = open_model(model, dtype=dtype)
    ids = opened.prompt_ids(text, chat=chat)
    if not chat and ends_in_lone_space(opened.tokenizer, text):
        tell(LONE_SPACE)
    predictions = follow(opened, ids, top=top, steps=steps, temperature=temperature, seed=seed)
    truths = true_chances(opened, text, predictions) if truth else None
    if json:
        about = {"model": model, "text": text, "seed": seed}
        print(json_format.dumps(as_json(opened, predictions, about, truths), ensure_ascii=False))
        return 0
    console = Console(highlight=False, markup=False)
    grown = text
    for prediction, chances in zip(predictions, truths or [None] * len(predictions), strict=True):
        console.print(table(opened, prediction, grown, chances))
        if steps > 1:
            console.print(step_line(opened, prediction))
        grown += token_text(opened.tokenizer, prediction.chosen)
    if steps > 1:
        bits = -sum(math.log2(prediction.chosen_probability) for prediction in predictions)
        ids += [prediction.chosen for prediction in predictions]
        words = opened.tokenizer.decode(ids[-len(predictions) :])
        console.print(
            Text.assemble(text, (words, "bold"), f"\n{bits:.2f} bits together: 1 in {2**bits:,.0f}")
        )
    return 0


def true_chances(
    opened: OpenModel, text: str, predictions: Sequence[Prediction]
) -> list[dict[int, float] | None]:
    """Return token -> true chance at each prediction; None once the tokens have left the small storyworld.

    Raises:
        UsageError: no document of the small storyworld begins with the text, or the truth is not known for
            this tokenizer.
    """
    from toolkit.storyworld.small.stories import next_token_truth

    try:
        truth = next_token_truth(opened.tokenizer)
    except ValueError as error:
        raise UsageError(f"--truth: {error}", fix="leave out --truth") from None
    ids = opened.tokenizer(text, add_special_tokens=False)["input_ids"]
    chances: list[dict[int, float] | None] = []
    for prediction in predictions:
        try:
            chances.append(truth.after(ids))
        except ValueError as error:
            if not chances:
                raise UsageError(
                    f"--truth: no document of the small storyworld begins like this ({error})",
                    fix='begin like its documents: "A story about a fox who finds a key.\\n"',
                ) from None
            chances.append(None)
        ids = [*ids, prediction.chosen]
    return chances


def bar(share: float, cells: int = BAR_CELLS) -> str:
    """A bar of `share` of the cells, to an eighth of a cell; nonzero values show at least an eighth."""
    eighths = round(share * cells * 8)
    eighths = max(eighths, 1) if share > 0 else 0
    full, part = divmod(eighths, 8)
    return "█" * full + (EIGHTHS[part] if part else "")


def table(
    opened: OpenModel, prediction: Prediction, text: str, truth: dict[int, float] | None = None
) -> Table:
    """The candidates, one a row, and what all others have together; with the truth in a column of its own."""
    shown = visible(text)
    shown = "…" + shown[-50:] if len(shown) > 51 else shown
    result = Table(
        title=Text(f"what follows {shown!r}?" if text else "how does a text begin?"),
        title_justify="left",
        box=None,
        pad_edge=False,
    )
    columns = [("rank", "right"), ("token", "left"), ("chance", "right")]
    columns += [("truth", "right")] if truth is not None else []
    for name, justify in [*columns, ("", "left")]:
        result.add_column(name, justify=justify, no_wrap=True)
    for rank, (token, share) in enumerate(zip(prediction.tokens, prediction.probabilities, strict=True), 1):
        style = "bold" if token == prediction.chosen else ""
        word = Text(visible(token_text(opened.tokenizer, token)), style=style)
        true_share = [f"{truth.get(token, 0.0):.2%}"] if truth is not None else []
        result.add_row(str(rank), word, f"{share:.2%}", *true_share, Text(bar(share), style="cyan"))
    others = len(opened.tokenizer) - len(prediction.tokens)
    true_rest = []
    if truth is not None:
        listed = sum(truth.get(token, 0.0) for token in prediction.tokens)
        true_rest = [f"{max(0.0, 1.0 - listed):.2%}"]
    result.add_row(
        "",
        Text(f"{others:,} others", style="dim"),
        f"{prediction.rest:.2%}",
        *true_rest,
        Text(bar(prediction.rest), style="dim"),
    )
    entropy = prediction.entropy_bits
    result.caption = f"entropy {entropy:.2f} bits: as uncertain as {2**entropy:.1f} equally likely tokens"
    if truth is not None:
        true_entropy = sum(chance * math.log2(1 / chance) for chance in truth.values() if chance > 0)
        result.caption += f"; the truth: {true_entropy:.2f} bits"
    result.caption_justify = "left"
    return result


def step_line(opened: OpenModel, prediction: Prediction) -> Text:
    """Which token was followed, its chance and its rank."""
    word = visible(token_text(opened.tokenizer, prediction.chosen))
    bits = -math.log2(prediction.chosen_probability)
    return Text.assemble(
        "→ ",
        (word, "bold"),
        f"  rank {prediction.rank}, chance {prediction.chosen_probability:.2%}, surprise {bits:.2f} bits\n",
    )
