"""From votes to a better model, through the interface that people use.

    toolkit run recipes/tiny
    python -m benchmarks.feedback runs/tiny/sft --votes 100 400 --seeds 3

Starts `toolkit playground` on the model, and simulated annotators compare its answers over HTTP, as the page
does: they ask for a pair, and vote on it. An annotator knows the gold utility of the storyworld and is noisy:
they prefer an answer with the probability sigmoid(difference / temperature); equal answers are a tie.
recipes/feedback/dpo.yaml then trains on the file of votes, and the gold judge compares the result with the
model on held-out prompts.

The output is a Markdown table, one row a training, with 95% intervals over prompts. Votes on repeated pairs
and on attention checks do not count; pairs with a tie are not trained on.
"""

from __future__ import annotations

import argparse
import http.client
import json
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any
from urllib.parse import urlsplit

from benchmarks.commands import header
from toolkit.base.progress import Progress
from toolkit.base.rng import derive
from toolkit.data import vote_file
from toolkit.storyworld import WORLDS, get_world, preference_probability

ROOT = Path(__file__).resolve().parents[1]
RECIPE = ROOT / "recipes/feedback/dpo.yaml"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", help="a run that answers prompts of the storyworld, such as runs/tiny/sft")
    parser.add_argument("--world", choices=list(WORLDS), default="small")
    parser.add_argument("--votes", type=int, nargs="+", default=[100, 400], metavar="N")
    parser.add_argument(
        "--seeds", type=int, default=1, metavar="N", help="trainings for each number of votes"
    )
    parser.add_argument("--annotators", type=int, default=5, metavar="N")
    parser.add_argument("--noise", type=float, default=0.5, metavar="T", help="temperature of the annotators")
    parser.add_argument("--temperature", type=float, default=1.0, metavar="T", help="of the answers")
    parser.add_argument(
        "--prompts", type=int, default=400, metavar="N", help="held-out prompts of the evaluation"
    )
    parser.add_argument("--folder", type=Path, default=Path("build/feedback"), metavar="DIR")
    parser.add_argument("settings", nargs="*", metavar="key=value", help="settings of the recipe")
    args = parser.parse_intermixed_args(arguments)
    columns = (
        "votes",
        "seed",
        "that count",
        "pairs trained on",
        "agreement with gold",
        "gold win rate",
        "verdict",
    )
    print(header(*columns), flush=True)
    for seed in range(args.seeds):
        for count in args.votes:
            print(row(args, count, seed), flush=True)
    return 0


def row(args: argparse.Namespace, count: int, seed: int) -> str:
    """Collect votes, train and evaluate; return the row of the table."""
    folder = args.folder / f"{count}-votes-seed-{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "feedback.sqlite"
    if not is_complete(file, count):
        for left in folder.glob(f"{file.name}*"):
            left.unlink()
        with playground(args.model, file, seed) as address:
            collect(address, args, count, seed)
    toolkit("run", RECIPE, "--runs-dir", folder / "runs", "--fresh", f"seed={seed}",
            f"model={Path(args.model).resolve()}", f"data.name={file.resolve()}", *args.settings)  # fmt: skip
    trained = folder / "runs/feedback/dpo"
    found = json.loads(toolkit(
        "evaluate", trained, "--baseline", args.model, "--data", "storyworld", "--world", args.world,
        "--config", "prompts", "--examples", args.prompts, "--judge", "gold", "--json",
    ))  # fmt: skip
    result = next(model for model in found["models"].values() if model.get("win_rate"))["win_rate"]
    pairs, agreement = agreement_with_gold(file, args.world)
    counted = len(vote_file.read_votes(file)[0])
    return (
        f"| {count} | {seed} | {counted} | {pairs} | {agreement:.1%} | {result['estimate']:.1%} "
        f"[{result['low']:.1%}, {result['high']:.1%}] | {result['verdict']} |"
    )


def is_complete(file: Path, count: int) -> bool:
    """Return whether an earlier call collected the votes."""
    return file.exists() and vote_file.count_rows(file) >= count


def toolkit(*arguments: object) -> str:
    """Run a command of the toolkit and return what it prints."""
    command = [sys.executable, "-m", "toolkit", *map(str, arguments)]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


@contextmanager
def playground(model: str, feedback: Path, seed: int) -> Iterator[str]:
    """Run `toolkit playground`; yield its host and port."""
    options = ["--port", "0", "--feedback", str(feedback), "--seed", str(seed)]
    command = [sys.executable, "-m", "toolkit", "playground", model, *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            yield urlsplit(server.stdout.readline().strip()).netloc
        finally:
            server.terminate()


def collect(address: str, args: argparse.Namespace, count: int, seed: int) -> None:
    """Let the annotators vote, side by side, until there are `count` votes."""
    left, lock = [count], threading.Lock()
    errors: list[BaseException] = []
    with Progress(f"{count} votes", count, "vote") as progress:

        def is_wanted() -> bool:
            with lock:
                left[0] -= 1
                progress.update(count - max(left[0], 0))
                return left[0] >= 0

        def annotate(number: int) -> None:
            try:
                Annotator(address, args, number, seed).work(is_wanted)
            except BaseException as error:
                errors.append(error)

        threads = [threading.Thread(target=annotate, args=(number,)) for number in range(args.annotators)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    if errors:
        raise errors[0]


class Annotator:
    """A noisy annotator who knows the gold utility, and a connection to the server."""

    def __init__(self, address: str, args: argparse.Namespace, number: int, seed: int):
        self.connection = http.client.HTTPConnection(address, timeout=600)
        self.world, self.noise = get_world(args.world), args.noise
        self.random = Random(derive(seed, "annotator", number))
        self.request = {"voter": f"annotator {number}", "models": [args.model.rstrip("/")],
                        "temperature": args.temperature, "max_new_tokens": 80}  # fmt: skip

    def work(self, is_wanted: Any) -> None:
        """Vote while another vote is wanted."""
        while is_wanted():
            item = self.post("next", {})
            self.post("vote", {"item": item["item"], "vote": self.vote(item)})
        self.connection.close()

    def vote(self, item: dict[str, Any]) -> str:
        """Return left, right or tie."""
        utilities = [self.world.utility(item["prompt"], answer["text"]).total for answer in item["answers"]]
        difference = utilities[0] - utilities[1]
        if difference == 0:
            return "tie"
        return "left" if self.random.random() < preference_probability(difference, self.noise) else "right"

    def post(self, path: str, more: dict[str, Any]) -> Any:
        """Send a request of the Compare room."""
        body = json.dumps({**self.request, **more})
        self.connection.request("POST", f"/api/compare/{path}", body, {"content-type": "application/json"})
        answer = self.connection.getresponse()
        content = json.loads(answer.read())
        if answer.status != 200:
            raise RuntimeError(f"{path}: {answer.status} {content}")
        return content


def agreement_with_gold(file: Path, world: str) -> tuple[int, float]:
    """Return the pairs with a preferred answer, and the share of them in which gold prefers it, too."""
    agrees = []
    for _, row in vote_file.comparisons(file):
        if row["winner"] == "tie":
            continue
        values = [get_world(world).utility(row["prompt"], row[f"answer_{side}"]).total for side in "ab"]
        agrees.append((values[0] > values[1]) == (row["winner"] == "a"))
    return len(agrees), sum(agrees) / len(agrees)


if __name__ == "__main__":
    sys.exit(main())
