"""Conversations with tools: every spelling of a row, and templates that render them, or do not."""

import json
import re
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from tests.data.chat_templates import CITY_TOOLS, FORMATS, TOOL_FORMATS
from toolkit.config.schema import DataSource
from toolkit.data.chat import answer_end, fitting, pairs, rendered, sources, template, tools
from toolkit.data.chat.report import LengthReport, ReadingReport
from toolkit.data.chat.rows import IGNORED, labelled
from toolkit.data.text.documents import Stream
from toolkit.stages.tokenizer import learn

CALL = {"id": "abcdefgh1", "type": "function", "function": {"name": "time_in", "arguments": {"city": "Rome"}}}
USER = {"role": "user", "content": "Q1"}
CALLING = {"role": "assistant", "content": "", "tool_calls": [CALL]}
RESULT = {"role": "tool", "content": "noon", "name": "time_in", "tool_call_id": "abcdefgh1"}
ANSWER = {"role": "assistant", "content": "A2"}
ROW = {"messages": [USER, CALLING, RESULT, ANSWER], "tools": CITY_TOOLS}


class Rows:
    """The rows of a file, as a model with a chat template reads them."""

    def __init__(self, path, rows, tokenizer=None):
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        self.source, self.tokenizers = DataSource(name=str(path)), [tokenizer] if tokenizer else []

    def read(self, reader):
        self.report = ReadingReport()
        return list(reader(self.source, part="all", seed=0, report=self.report, tokenizers=self.tokenizers))

    def left_out(self):
        [found] = self.report.sources
        assert found.read == found.used + found.paired + found.left_out.total()
        return dict(found.left_out)


@pytest.fixture(params=TOOL_FORMATS, scope="module")
def chat_format(request):
    return TOOL_FORMATS[request.param]


@pytest.fixture(scope="module")
def tokenizer(chat_format):
    return chat_format.tokenizer()


@pytest.fixture(scope="module")
def qwen():
    return TOOL_FORMATS["qwen2.5"].tokenizer()


@pytest.fixture
def rows(tmp_path):
    def make(*given, tokenizer=None):
        return Rows(tmp_path / "a.jsonl", given, tokenizer)

    return make


def learned(tokenizer, row):
    return tokenizer.decode([label for label in row["labels"] if label != IGNORED])


# Rendering


def test_text_and_labels_are_those_of_the_template(rows, chat_format, tokenizer):
    [row] = rows(ROW, tokenizer=tokenizer).read(sources.conversations)
    found = labelled(tokenizer, row["prompt"], row["completion"][0], max_length=2000, loss_on="all")
    assert tokenizer.decode(found["input_ids"]) == chat_format.prompt + chat_format.answer
    assert learned(tokenizer, found) == chat_format.call + chat_format.answer
    last = labelled(tokenizer, row["prompt"], row["completion"][0], max_length=2000)
    assert learned(tokenizer, last) == chat_format.answer


def test_a_call_can_be_the_last_answer(rows, chat_format, tokenizer):
    [row] = rows({**ROW, "messages": [USER, CALLING]}, tokenizer=tokenizer).read(sources.conversations)
    found = labelled(tokenizer, row["prompt"], row["completion"][0], max_length=2000)
    assert learned(tokenizer, found) == chat_format.call
    before = chat_format.prompt.partition(chat_format.call)[0]
    assert tokenizer.decode(found["input_ids"]) == before + chat_format.call


def test_prompts_and_preferences_have_the_tools(rows, chat_format, tokenizer):
    side = {"prompt": ROW["messages"][:3], "chosen": "A2", "rejected": "no", "tools": CITY_TOOLS}
    data = rows(side, tokenizer=tokenizer)
    [prompt] = data.read(sources.prompts)
    assert tokenizer.decode(fitting.prompt_ids(tokenizer, prompt["prompt"])) == chat_format.prompt
    [preference] = data.read(sources.preferences)
    [pair] = pairs.encode([preference], tokenizer, max_length=2000)
    assert tokenizer.decode(pair.prompt + pair.chosen) == chat_format.prompt + chat_format.answer
    called = {"prompt": "Q1", "chosen": [CALLING], "rejected": "no", "tools": CITY_TOOLS}
    read = rows(called, tokenizer=tokenizer).read(sources.preferences)
    [pair] = pairs.encode(read, tokenizer, max_length=2000)
    assert tokenizer.decode(pair.chosen) == chat_format.call


def test_arguments_that_a_template_would_write_as_python_are_json_text(rows):
    tokenizer = TOOL_FORMATS["deepseek"].tokenizer()
    tokenizer.chat_template = tokenizer.chat_template.replace("'\n' + call", "'\n' ~ call")
    [row] = rows(ROW, tokenizer=tokenizer).read(sources.conversations)
    found = labelled(tokenizer, row["prompt"], row["completion"][0], max_length=2000, loss_on="all")
    assert learned(tokenizer, found) == TOOL_FORMATS["deepseek"].call + "A2</s>"


def test_special_tokens_in_tools_calls_and_results_are_escaped(rows, chat_format, tokenizer):
    end = chat_format.end
    call = {**CALL, "function": {"name": "time_in", "arguments": {"city": end}}}
    tool = json.loads(json.dumps(CITY_TOOLS).replace("The time", end))
    forged = {
        "messages": [USER, {**CALLING, "tool_calls": [call]}, {**RESULT, "content": end}, ANSWER],
        "tools": tool,
    }
    counts = []
    for given in (ROW, forged):
        [row] = rows(given, tokenizer=tokenizer).read(sources.conversations)
        ids = fitting.prompt_ids(tokenizer, row["prompt"])
        counts.append(ids.count(answer_end.turn_end_id(tokenizer)))
    assert counts[0] == counts[1]


# Reading

ROME = {"name": "time_in", "arguments": {"city": "Rome"}}
CALLS = {
    "arguments as text": [{"type": "function", "function": {**ROME, "arguments": '{"city": "Rome"}'}}],
    "flat": [ROME],
    "JSON text": json.dumps([ROME]),
    "one call": {"name": "time_in", "arguments": '{"city": "Rome"}'},
    "parameters": [{"name": "time_in", "parameters": {"city": "Rome"}}],
    "null keys of Arrow": [{"id": None, "function": {**ROME, "arguments": {"city": "Rome", "n": None}}}],
}  # fmt: skip


def sharegpt(role, value):
    return {"from": role, "value": value}


FLAT_TOOL = CITY_TOOLS[0]["function"]
ROWS = {
    **{name: {**ROW, "messages": [USER, {**CALLING, "tool_calls": calls}, RESULT, ANSWER]}
       for name, calls in CALLS.items()},
    "null content": {**ROW, "messages": [USER, {**CALLING, "content": None}, RESULT, ANSWER]},
    "function_call": {
        "messages": [USER, {"role": "assistant", "content": None,
                            "function_call": {"name": "time_in", "arguments": '{"city": "Rome"}'}},
                     {"role": "function", "name": "time_in", "content": "noon"}, ANSWER],
        "functions": [FLAT_TOOL],
    },
    "sharegpt": {
        "conversations": [sharegpt("human", "Q1"),
                          sharegpt("function_call", json.dumps(ROME)),
                          sharegpt("observation", "noon"), sharegpt("gpt", "A2")],
        "tools": json.dumps([FLAT_TOOL]),
    },
    "sharegpt, tags": {
        "conversations": [sharegpt("human", "Q1"),
                          sharegpt("tool_call", f"<tool_call>\n{json.dumps(ROME)}\n</tool_call>"),
                          sharegpt("tool", "noon"), sharegpt("gpt", "A2")],
        "tools": [json.dumps(CITY_TOOLS[0])],
    },
    "tools with null keys": {**ROW, "tools": [{**CITY_TOOLS[0], "strict": None}]},
    "continued prompt": {"prompt": [USER, CALLING], "completion": [RESULT, ANSWER], "tools": CITY_TOOLS},
}  # fmt: skip


@pytest.mark.parametrize("name", ROWS)
def test_every_spelling_of_a_row_is_rendered_alike(rows, qwen, name):
    data = rows(ROWS[name], tokenizer=qwen)
    [row] = data.read(sources.conversations)
    found = labelled(qwen, row["prompt"], row["completion"][0], max_length=2000)
    wanted = TOOL_FORMATS["qwen2.5"]
    assert qwen.decode(found["input_ids"]) == wanted.prompt + wanted.answer
    assert data.report.sources[0].unread == {}


def test_calls_beside_a_query_are_its_answer(rows, qwen):
    """The format of xLAM."""
    data = rows(
        {"query": "Q1", "answers": json.dumps([ROME]), "tools": json.dumps([FLAT_TOOL])}, tokenizer=qwen
    )
    [row] = data.read(sources.conversations)
    found = labelled(qwen, row["prompt"], row["completion"][0], max_length=2000)
    assert learned(qwen, found) == TOOL_FORMATS["qwen2.5"].call
    assert len(data.read(sources.prompts)) == 1


def test_rows_of_parquet_have_no_nulls_of_other_rows(tmp_path, qwen):
    other = {"name": "sum", "arguments": {"a": 1, "b": 2}}
    table = [
        ROW,
        {"messages": [USER, {**CALLING, "tool_calls": [other]}], "tools": [{**FLAT_TOOL, "name": "sum"}]},
    ]
    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(table), path)
    source = DataSource(name=str(path))
    read = list(sources.conversations(source, part="all", seed=0, tokenizers=[qwen]))
    texts = [
        qwen.decode(labelled(qwen, row["prompt"], row["completion"][0], max_length=2000)["input_ids"])
        for row in read
    ]
    wanted = TOOL_FORMATS["qwen2.5"]
    assert texts[0] == wanted.prompt + wanted.answer
    assert '{"name": "sum", "arguments": {"a": 1, "b": 2}}' in texts[1] and "null" not in texts[1]


def test_calls_that_are_a_list_are_rendered_too(qwen):
    call = TOOL_FORMATS["qwen2.5"].call
    assert call in template.render(qwen, [USER, CALLING], generation_prompt=False)


def test_results_that_are_objects_are_json_text(rows, qwen):
    row = {**ROW, "messages": [USER, CALLING, {**RESULT, "content": {"time": "12:00"}}, ANSWER]}
    [found] = rows(row, tokenizer=qwen).read(sources.conversations)
    assert found["prompt"][-1]["content"] == '{"time": "12:00"}'


def test_tags_of_hermes_belong_to_the_format(rows, qwen):
    result = {**RESULT, "content": "<tool_response>\nnoon\n</tool_response>"}
    spelled = {"role": "assistant", "content": "<tool_call>\n{}\n</tool_call>"}
    data = rows(
        {**ROW, "messages": [USER, CALLING, result, ANSWER]}, {"messages": [USER, spelled]}, tokenizer=qwen
    )
    found = data.read(sources.conversations)
    assert found[0]["prompt"][-1]["content"] == "noon"
    assert found[1]["completion"] == [spelled] and data.report.sources[0].notes == {tools.SPELLED: 1}


def test_text_beside_a_call_is_counted_where_the_template_leaves_it_out(rows, chat_format, tokenizer):
    row = {**ROW, "messages": [USER, {**CALLING, "content": "A1"}, RESULT, ANSWER]}
    data = rows(row, tokenizer=tokenizer)
    [found] = data.read(sources.conversations)
    is_rendered = "A1" in tokenizer.decode(fitting.prompt_ids(tokenizer, found["prompt"]))
    assert data.report.sources[0].notes == ({} if is_rendered else {tools.UNRENDERED_TEXT: 1})
    assert is_rendered == (chat_format is TOOL_FORMATS["qwen2.5"])


def test_calls_without_loss_are_context(rows, qwen):
    row = {**ROW, "messages": [USER, {**CALLING, "weight": 0}, RESULT, ANSWER]}
    [found] = rows(row, tokenizer=qwen).read(sources.conversations)
    row = labelled(qwen, found["prompt"], found["completion"][0], max_length=2000, loss_on="all")
    assert learned(qwen, row) == "A2<|im_end|>"


def test_the_documented_row_is_rendered(rows, qwen):
    page = (Path(__file__).parents[2] / "docs/DATA.md").read_text(encoding="utf-8")
    [example] = re.findall(r'^    \{"tools":.*?\n\n', page, re.DOTALL | re.MULTILINE)
    [row] = rows(json.loads(example), tokenizer=qwen).read(sources.conversations)
    found = labelled(qwen, row["prompt"], row["completion"][0], max_length=2000, loss_on="all")
    assert learned(qwen, found) == TOOL_FORMATS["qwen2.5"].call + "It is noon.<|im_end|>"


# Refusals

ROW_REASON = "a row with tools, which the chat template does not render"
TURN_REASON = "a tool turn, which the chat template does not render"
TWO_CALLS = {**ROW, "messages": [USER, {**CALLING, "tool_calls": [CALL, CALL]}, RESULT, ANSWER]}
PLAIN = {"prompt": "Q", "chosen": "A", "rejected": "B"}


@pytest.mark.parametrize("name", FORMATS)
def test_rows_with_tools_are_left_out_where_the_template_ignores_tools(rows, name):
    tokenizer = FORMATS[name].tokenizer()
    calls = {"messages": ROW["messages"]}
    data = rows(ROW, {**PLAIN, "tools": CITY_TOOLS}, calls, PLAIN, tokenizer=tokenizer)
    assert [row["prompt"][0]["content"] for row in data.read(sources.conversations)] == ["Q"]
    reasons = data.left_out()
    assert sum(reasons.values()) == 3 and reasons[ROW_REASON] >= 1
    assert all(reason in (ROW_REASON, TURN_REASON) or "refuses" in reason for reason in reasons), reasons


def test_the_template_of_the_toolkit_renders_no_tools(rows):
    tokenizer = learn([""], vocab_size=1)
    data = rows(
        ROW, {"messages": ROW["messages"]}, {**PLAIN, "tools": CITY_TOOLS}, PLAIN, tokenizer=tokenizer
    )
    assert len(data.read(sources.conversations)) == 1
    assert data.left_out() == {ROW_REASON: 1, TURN_REASON: 2}
    assert len(data.read(sources.prompts)) == 1
    data = rows({**PLAIN, "tools": CITY_TOOLS}, PLAIN, tokenizer=tokenizer)
    assert len(data.read(sources.preferences)) == 1 and data.left_out() == {ROW_REASON: 1}


def test_calls_that_a_template_refuses_are_left_out_with_its_reason(rows):
    tokenizer = TOOL_FORMATS["llama3.1"].tokenizer()
    data = rows(ROW, TWO_CALLS, tokenizer=tokenizer)
    assert len(data.read(sources.conversations)) == 1
    reason = "This model only supports single tool-calls at once!"
    assert data.left_out() == {f"a row with tools, which the chat template refuses: {reason}": 1}


def test_every_template_has_to_render_the_tools(rows, qwen):
    data = rows(ROW, PLAIN, tokenizer=qwen)
    data.tokenizers.append(FORMATS["zephyr"].tokenizer())
    assert len(data.read(sources.prompts)) == 1
    assert data.left_out() == {ROW_REASON: 1}
    data.tokenizers.clear()
    assert len(data.read(sources.prompts)) == 1
    assert data.left_out() == {rendered.NO_TEMPLATE: 1}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"tools": "no JSON"}, "tools that are not a list of functions in JSON"),
        ({"tools": [{"type": "code_interpreter"}]}, "tools that are not a list of functions in JSON"),
        ({"functions": [{"name": "other"}]}, "'tools' and 'functions' differ"),
        ({"messages": [USER, {**CALLING, "tool_calls": ["time_in()"]}, RESULT, ANSWER]},
         "a tool call that is not a function's name with arguments in JSON"),
        ({"messages": [USER, {"role": "function_call", "content": "time_in(city='Rome')"}, RESULT, ANSWER]},
         "a tool call that is not a function's name with arguments in JSON"),
        ({"messages": [USER, {**CALLING, "function_call": {"name": "f", "arguments": "{}"}}, RESULT, ANSWER]},
         "`tool_calls` and `function_call` of a message differ"),
    ],
)  # fmt: skip
def test_tools_that_cannot_be_read_are_counted(rows, qwen, change, reason):
    data = rows({**ROW, **change}, PLAIN, tokenizer=qwen)
    assert len(data.read(sources.conversations)) == 1
    assert data.left_out() == {reason: 1}


def test_corpus_leaves_out_rows_with_tools(rows):
    stream = Stream(rows(ROW, PLAIN).source, part="all", seed=0)
    assert [piece.text for piece in stream] == ["Human: Q\n\nAssistant: A"]
    assert stream.dropped == {"a row with tools, which plain text does not show": 1}


# Length


def test_tools_stay_while_old_turns_are_removed(rows, qwen):
    old = [{"role": "user", "content": "the cat sat on the mat " * 40}, ANSWER]
    [row] = rows({**ROW, "messages": [*old, *ROW["messages"]]}, tokenizer=qwen).read(sources.conversations)
    whole = len(fitting.prompt_ids(qwen, row["prompt"]))
    kept = fitting.shorten(qwen, row["prompt"], max_tokens=whole - 50)
    assert qwen.decode(fitting.prompt_ids(qwen, kept)) == TOOL_FORMATS["qwen2.5"].prompt


def test_conversations_whose_tools_do_not_fit_are_left_out_of_pairs(rows, qwen):
    side = {"prompt": ROW["messages"][:3], "chosen": "A2", "rejected": "no", "tools": CITY_TOOLS}
    read = rows(side, PLAIN, tokenizer=qwen).read(sources.preferences)
    lengths = LengthReport(60)
    found = list(pairs.encode(read, qwen, max_length=60, lengths=lengths))
    assert found[0] is None and found[1] is not None
    assert (lengths.rows, lengths.left_out, lengths.shortened) == (2, 1, 0)
