import importlib
import inspect
import pkgutil
import re
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fedws
from fedws.core import registry
from fedws.core.errors import UnknownName, UsageError
from fedws.core.plugins import load_plugin
from fedws.core.registry import PIECE_KINDS, build_piece, find_piece, list_pieces, register
from fedws.core.spec import Spec, parse_options

PACKAGE = Path(inspect.getfile(fedws)).parent


@pytest.fixture(autouse=True)
def restored(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What a test registers is forgotten after it, and so are its plugins; what ships stays."""
    for kind in PIECE_KINDS:
        for name in list_pieces(kind):
            find_piece(kind, name)
    monkeypatch.setattr(registry, "_pieces", dict(registry._pieces))
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if name.startswith("fedws_plugin_"):
            del sys.modules[name]


@pytest.fixture
def plugin(tmp_path: Path) -> Callable[..., Path]:
    def write(body: str, name: str = "mine.py") -> Path:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"from fedws import register\n{body}\n", encoding="utf-8")
        return path

    return write


MODEL = "@register('model', '{}')\ndef make(*, width: int = 3):\n    return width"

# --------------------------------------------------------------------------- NAME[:value][,key=value...]

_text = st.text(st.characters(codec="ascii", exclude_characters=",=:", categories=["L", "N", "P", "S"]), min_size=1)
_keys = st.from_regex(r"[a-z][a-z_]{0,8}", fullmatch=True)


@settings(deadline=None)
@given(
    name=_text,
    value=st.none() | _text,
    rest=st.dictionaries(_keys, _text, max_size=3),
    spaces=st.sampled_from(["", " "]),
)
def test_what_is_written_is_read(name: str, value: str | None, rest: dict[str, str], spaces: str) -> None:
    text = name + (f":{value}" if value is not None else "")
    text += "".join(f",{spaces}{key}{spaces}={spaces}{setting}" for key, setting in rest.items())
    assert Spec.parse(text) == Spec(name, value, rest)


@settings(deadline=None)
@given(name=_text, rest=st.dictionaries(_keys, _text, min_size=1, max_size=3))
def test_options_may_follow_the_colon_at_once(name: str, rest: dict[str, str]) -> None:
    text = f"{name}:" + ",".join(f"{key}={setting}" for key, setting in rest.items())
    assert Spec.parse(text) == Spec(name, None, rest)


@settings(deadline=None)
@given(st.text())
def test_any_text_is_a_spec_or_a_usage_error(text: str) -> None:
    try:
        spec = Spec.parse(text)
    except UsageError as error:
        assert "is not key=value" in str(error)
    else:
        assert spec.name == spec.name.strip() and all(key.strip() for key in spec.options)


def test_an_option_may_be_written_as_a_flag_is() -> None:
    assert Spec.parse("adam:weight-decay=0.1").options == {"weight_decay": "0.1"}


def test_a_value_may_hold_colons_and_equal_signs_where_they_cannot_be_mistaken() -> None:
    assert Spec.parse("a:b:c") == Spec("a", "b:c", {})
    assert Spec.parse("a:k=x=y") == Spec("a", None, {"k": "x=y"})


@pytest.mark.parametrize("text", ["a,b", "a:1,b", "a:1,", "a,=3", "a:=3", "a, ,k=1"])
def test_what_is_no_option_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match=r"is not key=value; use the form NAME\[:value\]\[,key=value...\]"):
        Spec.parse(text)


# --------------------------------------------------------------------------- options


def piece(
    given: int = 0,
    *,
    first: int = 1,
    rate: float = 0.5,
    flag: bool = False,
    mode: Literal["slow", "fast"] = "slow",
    note: str = "",
) -> dict[str, Any]:
    return {"given": given, "first": first, "rate": rate, "flag": flag, "mode": mode, "note": note}


class Piece:
    def __init__(self, *, first: int = 1) -> None:
        self.first = first


def test_options_have_the_types_that_the_factory_gives_them() -> None:
    register("loss", "piece")(piece)
    made = build_piece("loss", "piece:7,rate=2,flag=true,mode=fast,note=5", 3)
    assert made == {"given": 3, "first": 7, "rate": 2.0, "flag": True, "mode": "fast", "note": "5"}
    assert type(made["rate"]) is float
    assert build_piece("loss", "piece", 3)["first"] == 1


def test_options_of_a_class_are_those_of_its_init() -> None:
    assert parse_options("loss", Piece, Spec("piece", "4", {})) == {"first": 4}


@pytest.mark.parametrize(
    ("spec", "text"),
    [
        ("piece:x", "loss piece: first: Input should be a valid integer"),
        ("piece:1,first=2", "loss piece: duplicate option 'first'"),
        ("piece:first=1.5", "loss piece: first: Input should be a valid integer"),
        ("piece:rate=", "loss piece: rate: Input should be a valid number"),
        ("piece:flag=perhaps", "loss piece: flag: Input should be a valid boolean"),
        ("piece:mode=faster", "loss piece: mode: Input should be 'slow' or 'fast', not 'faster'"),
        ("piece:fist=1", "unknown option of loss piece 'fist'; did you mean 'first'?"),
        ("piece:given=1", "unknown option of loss piece 'given'; "),
        ("none:1", "loss none does not accept a value"),
        ("none:k=1", "unknown option of loss none 'k'; no choices are available"),
        ("pice", "unknown loss 'pice'; did you mean 'piece'?"),
    ],
)
def test_a_wrong_option_is_told_in_one_line(spec: str, text: str) -> None:
    register("loss", "piece")(piece)
    register("loss", "none")(lambda: None)
    with pytest.raises(UsageError) as caught:
        build_piece("loss", spec)
    assert str(caught.value).startswith(text) and "\n" not in str(caught.value)


# --------------------------------------------------------------------------- shipped files


def test_every_shipped_piece_is_in_a_folder_of_pieces() -> None:
    registering = {
        ".".join(path.parent.relative_to(PACKAGE).parts)
        for path in PACKAGE.rglob("*.py")
        if re.search(r"^@(registry\.)?register\(", path.read_text(encoding="utf-8"), re.MULTILINE)
    }
    assert registering == set(PIECE_KINDS.values())


@pytest.mark.parametrize(
    ("kind", "folder"), sorted((kind, folder) for kind, folder in PIECE_KINDS.items() if kind != "task")
)
def test_every_shipped_file_registers_a_piece_of_its_own_name(kind: str, folder: str) -> None:
    files = [module.name for module in pkgutil.iter_modules([str(PACKAGE.joinpath(*folder.split(".")))])]
    assert files and set(files) <= set(list_pieces(kind))
    for file in files:
        module = importlib.import_module(f"fedws.{folder}.{file}")
        assert inspect.getmodule(find_piece(kind, file)) is module


def test_every_task_is_named_after_its_file() -> None:
    assert list_pieces("task")
    for name in list_pieces("task"):
        assert find_piece("task", name).__module__ == f"fedws.algorithms.{name.partition('.')[0]}"


def test_every_algorithm_has_both_halves() -> None:
    assert {name.partition(".")[0] for name in list_pieces("task")} == set(list_pieces("algorithm"))


def test_looking_up_a_name_imports_nothing_that_does_not_ship() -> None:
    before = set(sys.modules)
    for name in ("os", "..cli.main", "fedavg/../../cli", "__init__", "", ".", "pickle.loads", "mlp.os"):
        with pytest.raises(UnknownName):
            find_piece("model", name)
    assert set(sys.modules) - before <= {"fedws.models.mlp"}


def test_a_file_is_no_task() -> None:
    with pytest.raises(UnknownName, match=r"did you mean 'fedavg\.fit'"):
        find_piece("task", "fedavg.fitt")
    with pytest.raises(UnknownName):
        find_piece("task", "fedavg")


# --------------------------------------------------------------------------- registering


def test_an_unknown_kind_is_told_with_the_nearest() -> None:
    with pytest.raises(UnknownName, match="unknown kind of piece 'models'; did you mean 'model'"):
        register("models", "mine")


def test_the_decorated_piece_is_given_back() -> None:
    assert register("loss", "piece")(piece) is piece and find_piece("loss", "piece") is piece
    assert "piece" in list_pieces("loss")


def test_a_name_that_is_taken_is_refused_and_the_first_stays() -> None:
    register("loss", "piece")(piece)
    with pytest.raises(UsageError, match="loss 'piece' is already registered"):
        register("loss", "piece")(Piece)
    assert find_piece("loss", "piece") is piece


def test_the_same_piece_may_be_registered_again() -> None:
    register("loss", "piece")(piece)
    register("loss", "piece")(piece)
    assert find_piece("loss", "piece") is piece


def test_kinds_have_names_of_their_own() -> None:
    register("loss", "piece")(piece)
    register("model", "piece")(Piece)
    assert find_piece("loss", "piece") is piece and find_piece("model", "piece") is Piece


@pytest.mark.parametrize(("kind", "name"), [("model", "mlp"), ("algorithm", "fedavg"), ("task", "fedavg.fit")])
def test_a_shipped_name_is_taken_before_its_file_is_read(kind: str, name: str) -> None:
    registry._pieces.pop((kind, name), None)
    releases: Any = {"releases": "update"} if kind == "task" else {}
    with pytest.raises(UsageError, match=f"{kind} '{name}' is already registered"):
        register(kind, name, **releases)(piece)


# --------------------------------------------------------------------------- entry points


def test_an_installed_entry_point_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    point = EntryPoint("theirs", "collections:OrderedDict", "fedws.model")
    monkeypatch.setattr(registry, "_load_entry_points", lambda kind: {"theirs": point} if kind == "model" else {})
    assert "theirs" in list_pieces("model") and "theirs" not in list_pieces("loss")
    from collections import OrderedDict

    assert find_piece("model", "theirs") is OrderedDict
    with pytest.raises(UnknownName):
        find_piece("loss", "theirs")


def test_entry_points_are_those_of_the_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def entry_points(*, group: str) -> list[EntryPoint]:
        asked.append(group)
        return [EntryPoint("theirs", "collections:OrderedDict", group)]

    monkeypatch.setattr(registry, "entry_points", entry_points)
    assert set(registry._load_entry_points.__wrapped__("loss")) == {"theirs"}
    assert asked == ["fedws.loss"]


def test_a_shipped_piece_goes_before_an_installed_one(monkeypatch: pytest.MonkeyPatch) -> None:
    point = EntryPoint("mlp", "collections:OrderedDict", "fedws.model")
    monkeypatch.setattr(registry, "_load_entry_points", lambda kind: {"mlp": point})
    assert find_piece("model", "mlp").__module__ == "fedws.models.mlp"


# --------------------------------------------------------------------------- plugins


def test_a_plugin_registers_its_pieces(plugin: Callable[..., Path]) -> None:
    load_plugin(plugin(MODEL.format("mine")))
    assert build_piece("model", "mine") == 3 and build_piece("model", "mine:5") == 5
    assert "mine" in list_pieces("model")


def test_a_plugin_is_run_once(plugin: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    path = plugin("import sys\nsys.ran = getattr(sys, 'ran', 0) + 1\n" + MODEL.format("mine"))
    monkeypatch.setattr(sys, "ran", 0, raising=False)
    load_plugin(path)
    load_plugin(str(path))
    load_plugin(path.parent / "x" / ".." / path.name)
    assert sys.ran == 1  # type: ignore[attr-defined]


def test_two_plugins_may_have_files_of_one_name(plugin: Callable[..., Path]) -> None:
    load_plugin(plugin(MODEL.format("one"), "a/same.py"))
    load_plugin(plugin(MODEL.format("two"), "b/same.py"))
    assert {"one", "two"} <= set(list_pieces("model"))


def test_two_plugins_cannot_register_one_name(plugin: Callable[..., Path]) -> None:
    load_plugin(plugin(MODEL.format("mine"), "a/one.py"))
    with pytest.raises(UsageError, match="model 'mine' is already registered"):
        load_plugin(plugin(MODEL.format("mine"), "b/two.py"))


def test_a_plugin_cannot_take_a_shipped_name(plugin: Callable[..., Path]) -> None:
    with pytest.raises(UsageError, match="model 'mlp' is already registered"):
        load_plugin(plugin(MODEL.format("mlp")))
    assert find_piece("model", "mlp").__module__ == "fedws.models.mlp"


@pytest.mark.parametrize("name", ["missing.py", "missing.txt", ".", "missing"])
def test_a_plugin_that_is_not_there_is_named(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    with pytest.raises(UsageError) as caught:
        load_plugin(path)
    assert str(caught.value) == f"--plugin {path}: Python file not found"


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("def", "SyntaxError: invalid syntax"),
        ("import no_such_module", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("register('modell', 'x')", "unknown kind of piece 'modell'; did you mean 'model'"),
    ],
)
def test_a_broken_plugin_is_named_with_what_it_raised(plugin: Callable[..., Path], body: str, text: str) -> None:
    path = plugin(body)
    with pytest.raises(UsageError) as caught:
        load_plugin(path)
    assert str(caught.value).startswith(f"--plugin {path}: ") and text in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_broken_plugin_can_be_mended_and_loaded_again(plugin: Callable[..., Path]) -> None:
    path = plugin("1 / 0")
    for _ in range(2):
        with pytest.raises(UsageError, match="ZeroDivisionError"):
            load_plugin(path)
    load_plugin(plugin(MODEL.format("mine")))
    assert build_piece("model", "mine") == 3


def test_a_cell_that_is_run_again_registers_again() -> None:
    cell = 'import fedws\n@fedws.register("model", "typed_in_a_cell")\nclass Net: pass\n'
    for _ in range(2):
        exec(compile(cell, "<cell>", "exec"), {"__name__": "__main__"})
    assert registry.find_piece("model", "typed_in_a_cell").__name__ == "Net"
