"""Settings in ``config.pbtxt``: the user's text is preserved, whatever its form."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tnn_serving.config.prototext import locate
from tnn_serving.config.text import mean_the_same, read_config
from tnn_serving.errors import ConfigError
from tnn_serving.tune.space import DEFAULT, PARAMETER, Candidate
from tnn_serving.tune.write import (
    BEGIN,
    END,
    config_diff,
    earlier_candidate,
    fixed_fields,
    read,
    save,
    with_name,
    with_settings,
    without_block,
)

CHOSEN = Candidate(engine="onnxruntime", threads=2, rows=4, instances=2)

SPELLINGS = {
    "nothing": "",
    "a comment": "# mine",
    "no line end": 'backend: "tnn"',
    "windows": 'backend: "tnn"\r\n# mine\r\nmax_batch_size: 8\r\n',
    "a list": 'parameters [\n  { key: "scale" value: { string_value: "0.5" } } # half\n]\n',
    "blocks": 'parameters { key: "scale" value { string_value: "0.5" } }\nparameters { key: "bias" }',
    "a list and a block": 'parameters: [ { key: "a" } ] parameters: < key: "b"; value: < string_value: "c" >; >;',
    "quotes": "parameters { key: 'scale', value: { string_value: '0' \".5\" } } # \"}",
    "escapes": r'parameters { key: "sc\141le" value { string_value: "\"\x7d\n" } } name: "a\\"',
    "tensors": 'input [ { name: "x" data_type: TYPE_UINT8 dims: [ -1, -1, 3 ] } ]\ndynamic_batching { }\n',
    "one line": 'name:"m"backend:"tnn"max_batch_size:8 instance_group{count:1}',
    "instances": "instance_group [ { kind: KIND_CPU } ] # one\n",
    "bytes": b"# caf\xe9\nmax_batch_size: 4\n".decode("utf-8", "surrogateescape"),
}


@pytest.mark.parametrize("text", SPELLINGS.values(), ids=SPELLINGS.keys())
def test_settings_are_added_and_the_rest_is_unchanged(text: str) -> None:
    chosen = CHOSEN if "instance_group" not in text else Candidate(engine="onnxruntime", threads=2, rows=4)
    made = with_settings(text, chosen, ["why: 1.5 times"])
    assert made.startswith(text)
    added = made[len(text) :]
    assert added.strip().startswith(BEGIN)
    assert added.rstrip().endswith(END)
    assert "# why: 1.5 times" in added
    assert ("\r\n" in text) == ("\r\n" in added)
    before, after = read_config(text), read_config(made)
    assert {key: after.parameters[key] for key in chosen.parameters} == chosen.parameters
    assert after.instances == (2 if chosen.instances else 1)
    others = {key: value for key, value in after.parameters.items() if key not in chosen.parameters}
    groups = before.instance_group if chosen.instances else after.instance_group
    assert mean_the_same(replace(after, parameters=others, instance_group=groups), before)


@pytest.mark.parametrize("text", SPELLINGS.values(), ids=SPELLINGS.keys())
def test_the_block_is_replaced_and_removed_again(text: str) -> None:
    first = with_settings(text, Candidate(engine="openvino", streams=3), ["long ago"])
    assert earlier_candidate(first) == Candidate(engine="openvino", streams=3)
    second = with_settings(first, Candidate(rows=1), ["now"])
    assert "long ago" not in second
    assert second.count(BEGIN) == second.count(END) == 1
    assert earlier_candidate(second) == Candidate(rows=1)
    rest = with_settings(second, DEFAULT)
    assert rest.rstrip() == text.rstrip() == without_block(first).rstrip()
    assert earlier_candidate(rest) is None


USERS = {
    "a value": ('parameters { key: "engine" value { string_value: "openvino" } }', {"engine": "onnxruntime"}),
    "an empty value": ('parameters { key: "engine" value { } }', {"engine": "onnxruntime"}),
    "no value": ("parameters < key: 'engine' >", {"engine": "onnxruntime"}),
    "twice": (
        'parameters [ { key: "engine" value: { string_value: "auto" } }, # old\n'
        '{ value: { string_value: "open" "vino" } key: "eng" "ine" } ]',
        {"engine": "onnxruntime"},
    ),
    "a number": ('parameters { key: "NUM_STREAMS" value { string_value: "AUTO" } }', {"streams": 2}),
    "instances": ("instance_group [ { count: 1 } ] # one", {"instances": 2}),
    "instances without a number": ("instance_group { kind: KIND_CPU }", {"instances": 2}),
}


@pytest.mark.parametrize(("text", "fields"), USERS.values(), ids=USERS.keys())
def test_the_users_values_are_changed_only_by_force(text: str, fields: dict[str, Any]) -> None:
    text = f"# before\n{text}\nmax_batch_size: 8 # after\n"
    chosen = Candidate(**fields)
    assert fields.keys() <= fixed_fields(text)
    with pytest.raises(ConfigError, match=r"config\.pbtxt sets") as error:
        with_settings(text, chosen)
    assert "--force" in str(error.value.hint)
    made = with_settings(text, chosen, force=True)
    after = read_config(made)
    assert {key: after.parameters[key] for key in chosen.parameters} == chosen.parameters
    assert [group.count for group in after.instance_group] == [2] * ("instances" in fields)
    assert made.startswith("# before\n")
    assert made.endswith("max_batch_size: 8 # after\n")
    assert text.count("#") == made.count("#")


def test_another_spelling_of_a_value_is_not_a_contradiction() -> None:
    text = 'parameters { key: "max_joined_rows" value { string_value: "04" } }\n'
    assert with_settings(text, Candidate(rows=4)) == text


def test_only_evidence_is_written_if_the_user_has_the_values() -> None:
    text = 'parameters { key: "engine" value { string_value: "openvino" } }\n'
    made = with_settings(text, Candidate(engine="openvino"), ["it is the best"])
    assert mean_the_same(read_config(made), read_config(text))
    assert "# it is the best\n" in made


def test_one_of_several_instance_groups_is_not_guessed() -> None:
    with pytest.raises(ConfigError, match="several instance groups"):
        with_settings("instance_group [ { count: 1 }, { count: 2 } ]", Candidate(instances=4), force=True)


@pytest.mark.parametrize("text", ["parameters {", "no_such_field: 1", 'name: "a', "max_batch_size: x", "}"])
def test_a_text_that_triton_would_refuse_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"config\.pbtxt cannot be read"):
        with_settings(text, CHOSEN)


@pytest.mark.parametrize("name", ["plain", 'with "quotes"', "back\\slash", "模型"])
def test_a_model_of_another_name(name: str) -> None:
    text = "# name: \"no\"\nname: 'old' 'er' # mine\ninput { name: \"x\" }"
    made = with_name(text, name)
    assert read_config(made).name == name
    assert made.endswith('# mine\ninput { name: "x" }')
    assert with_name("backend: 'tnn'", name) == "backend: 'tnn'"


# ---- any text ----

COMMENTS = ("# a } comment\n", '# "quoted\n')
BLANKS = st.sampled_from([" ", "\n", "\t", f" {COMMENTS[0]}", f"\n{COMMENTS[1]}\n", "  "])
TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=8)


@st.composite
def strings(draw: st.DrawFn, content: st.SearchStrategy[str]) -> str:
    """A string of protobuf's text format, in one or several pieces."""
    value = draw(content)
    cut = draw(st.integers(0, len(value)))
    pieces = [value[:cut], value[cut:]] if draw(st.booleans()) else [value]
    written = []
    for piece in pieces:
        quote = draw(st.sampled_from("\"'"))
        escaped = piece.replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r").replace(quote, "\\" + quote)
        written.append(quote + escaped + quote)
    return draw(BLANKS).join(written)


@st.composite
def messages(draw: st.DrawFn, fields: st.SearchStrategy[list[str]]) -> str:
    opening, closing = draw(st.sampled_from(["{}", "<>"]))
    end = draw(st.sampled_from(["", ",", ";"]))
    return opening + draw(BLANKS) + "".join(f"{one}{end}{draw(BLANKS)}" for one in draw(fields)) + closing


@st.composite
def entries(draw: st.DrawFn) -> str:
    key = draw(strings(st.one_of(TEXTS, st.sampled_from(sorted(PARAMETER.values())))))
    value = draw(messages(st.lists(strings(TEXTS).map(lambda one: f"string_value: {one}"), max_size=1)))
    pair = draw(st.permutations([f"key:{key}", f"value{draw(st.sampled_from(['', ':', ' : ']))}{value}"]))
    return draw(messages(st.just(pair)))


@st.composite
def configurations(draw: st.DrawFn) -> str:
    listed = st.lists(entries(), max_size=3).map(lambda made: f"parameters: [ {', '.join(made)} ]")
    single = entries().map(lambda made: f"parameters {made}")
    group = messages(st.lists(st.just("kind: KIND_CPU"), max_size=1)).map(lambda made: f"instance_group {made}")
    other = st.sampled_from(
        [
            "max_batch_size: 8",
            'backend: "tnn"',
            "dynamic_batching { }",
            "version_policy: { latest { num_versions: 1 } }",
        ]
    )
    parts = draw(st.lists(st.one_of(listed, single, other), max_size=5, unique=True))
    seen: set[str] = set()
    parts = [
        part
        for part in parts
        if (name := part.split(":")[0].split()[0]) == "parameters" or not (name in seen or seen.add(name))
    ]
    if draw(st.booleans()):
        parts.append(draw(group))
    return draw(BLANKS).join(["", *draw(st.permutations(parts)), ""])


CANDIDATES = st.builds(
    Candidate,
    engine=st.sampled_from([None, "openvino", "onnxruntime"]),
    hint=st.sampled_from([None, "THROUGHPUT"]),
    threads=st.sampled_from([None, 1, 8]),
    rows=st.sampled_from([None, 1, 4]),
    instances=st.sampled_from([None, 1, 3]),
)


@pytest.mark.slow
@settings(max_examples=60)
@given(configurations(), CANDIDATES)
def test_every_field_of_the_user_survives(text: str, chosen: Candidate) -> None:
    before = read_config(text)
    made = with_settings(text, chosen, ["evidence"], force=True)
    after = read_config(made)
    for key, value in chosen.parameters.items():
        assert after.parameters[key] == value or key in before.parameters
    for key in before.parameters:
        if key not in chosen.parameters:
            assert after.parameters[key] == before.parameters[key]
    assert mean_the_same(replace(after, parameters=before.parameters, instance_group=before.instance_group), before)
    assert [made.count(comment) for comment in COMMENTS] == [text.count(comment) for comment in COMMENTS]
    fixed = fixed_fields(text)
    free = Candidate(**{name: getattr(chosen, name) for name in chosen.set_fields - fixed})
    assert with_settings(text, free, ["evidence"]).startswith(text)


@settings(max_examples=40)
@given(configurations())
def test_fields_are_located_as_protobuf_reads_them(text: str) -> None:
    parameters = "".join(f"parameters {text[one.start : one.end]}\n" for one in locate(text).all("parameters"))
    assert read_config(parameters).parameters == read_config(text).parameters


# ---- files ----


def test_a_file_is_replaced_with_a_backup(tmp_path: Path) -> None:
    file = tmp_path / "config.pbtxt"
    assert read(file) == ""
    assert save(file, "max_batch_size: 1\r\n") is None
    assert file.read_bytes() == b"max_batch_size: 1\r\n"
    file.chmod(0o640)
    backup = save(file, read(file) + "# more\n")
    assert backup == tmp_path / "config.pbtxt.before-tune"
    assert backup.read_bytes() == b"max_batch_size: 1\r\n"
    assert file.read_bytes() == b"max_batch_size: 1\r\n# more\n"
    assert file.stat().st_mode & 0o777 == 0o640
    assert sorted(os.listdir(tmp_path)) == ["config.pbtxt", "config.pbtxt.before-tune"]


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "shared").mkdir()
    real, link = tmp_path / "shared" / "config.pbtxt", tmp_path / "config.pbtxt"
    real.write_text("")
    link.symlink_to(real)
    save(link, "# x\n")
    assert link.is_symlink()
    assert real.read_text() == "# x\n"


def test_a_missing_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot write"):
        save(tmp_path / "nowhere" / "config.pbtxt", "")


def test_the_difference_shows_what_is_added() -> None:
    shown = config_diff("# mine", with_settings("# mine", Candidate(rows=1)), Path("m/config.pbtxt"))
    assert shown.startswith("--- m/config.pbtxt (now)\n+++ m/config.pbtxt (tuned)\n")
    assert '+  { key: "max_joined_rows" value: { string_value: "1" } }\n' in shown
