"""A plugin imports the modules beside it, as a script does, and nothing else is hidden or mixed up by that."""

import subprocess
import sys
from pathlib import Path

import pytest

from fedws.core import registry
from fedws.core.error_text import PLUGIN_MODULE_PREFIX, find_user_location
from fedws.core.errors import UsageError
from fedws.core.plugins import load_plugin
from tests.helpers.plugin_cleanup import forgotten as forgotten
from tests.helpers.support import REPOSITORY

PIECE = "import fedws\nfrom {module} import LINE_WIDTH\nfedws.register('model', '{name}')(lambda: LINE_WIDTH)\n"


pytestmark = pytest.mark.usefixtures("forgotten")


def write(folder: Path, **files: str) -> Path:
    """Write ``NAME.py`` files; give the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / f"{name}.py").write_text(text, encoding="utf-8")
    return folder


def test_a_plugin_imports_the_module_beside_it(tmp_path: Path) -> None:
    write(tmp_path, beside_net="LINE_WIDTH = 7", mine=PIECE.format(module="beside_net", name="seven"))
    load_plugin(tmp_path / "mine.py")
    assert registry.build_piece("model", "seven") == 7
    assert sys.path[-1] == str(tmp_path), "last, so that it hides nothing"


def test_it_may_do_so_later_and_through_a_package(tmp_path: Path) -> None:
    write(tmp_path / "beside_package", __init__="from beside_package.inner import LINE_WIDTH", inner="LINE_WIDTH = 8")
    body = "import fedws\n@fedws.register('model', 'late')\ndef make():\n    import beside_package\n"
    write(tmp_path, mine=body + "    return beside_package.LINE_WIDTH\n")
    load_plugin(tmp_path / "mine.py")
    assert registry.build_piece("model", "late") == 8


def test_a_file_in_the_folder_hides_neither_the_standard_library_nor_a_package(tmp_path: Path) -> None:
    """In a process of its own, in which none of them is imported yet."""
    wrong = "raise SystemExit('the wrong one')"
    write(tmp_path, colorsys=wrong, evaluator=wrong, tomli_w=wrong, mine="import fedws, colorsys")
    code = f"import fedws; fedws.load_plugin({str(tmp_path / 'mine.py')!r}); import colorsys, evaluator, tomli_w"
    subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, check=True)


def test_a_file_is_loaded_once_under_every_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "a", mine="import sys\nsys.ran = getattr(sys, 'ran', 0) + 1\n")
    monkeypatch.setattr(sys, "ran", 0, raising=False)
    (tmp_path / "link.py").symlink_to(tmp_path / "a" / "mine.py")
    (tmp_path / "folder").symlink_to(tmp_path / "a")
    monkeypatch.chdir(tmp_path)
    for path in ("a/mine.py", tmp_path / "a" / "mine.py", "link.py", "folder/mine.py", "a/../a/mine.py"):
        load_plugin(path)
    assert sys.ran == 1  # type: ignore[attr-defined]
    assert sys.path.count(str(tmp_path / "a")) == 1


def test_files_of_one_name_are_modules_of_their_own(tmp_path: Path) -> None:
    for folder in ("a", "b", "c"):
        write(tmp_path / folder, same=f"import fedws\nMINE = {folder!r}\nfedws.register('model', MINE)(lambda: MINE)")
        load_plugin(tmp_path / folder / "same.py")
    load_plugin(tmp_path / "a" / "same.py")
    loaded = {module.MINE for name, module in sys.modules.items() if name.startswith(f"{PLUGIN_MODULE_PREFIX}same")}
    assert loaded == {"a", "b", "c"}, "none has taken the place of another"


@pytest.mark.parametrize("late", [False, True])
def test_modules_of_one_name_beside_two_plugins_are_an_error(tmp_path: Path, late: bool) -> None:
    """The second plugin would silently get the first one's module."""
    first = "def make():\n    import beside_net\n" if late else "import beside_net\n"
    write(tmp_path / "a", beside_net="LINE_WIDTH = 1", one=first)
    write(tmp_path / "b", beside_net="LINE_WIDTH = 2", two=PIECE.format(module="beside_net", name="two"))
    load_plugin(tmp_path / "a" / "one.py")
    with pytest.raises(UsageError) as caught:
        load_plugin(tmp_path / "b" / "two.py")
    a, b = tmp_path / "a" / "beside_net.py", tmp_path / "b" / "beside_net.py"
    assert str(caught.value) == (
        f"--plugin {tmp_path / 'b' / 'two.py'}: import of 'beside_net' finds {a} instead of {b}; "
        "rename one of the two files"
    )
    assert str(tmp_path / "b") not in sys.path
    assert "two" not in registry.list_pieces("model")


def test_so_they_are_where_another_module_imports_them(tmp_path: Path) -> None:
    write(tmp_path / "a", beside_net="LINE_WIDTH = 1", one="import beside_net")
    write(
        tmp_path / "b",
        beside_net="LINE_WIDTH = 2",
        beside_more="from beside_net import LINE_WIDTH",
        two="import beside_more",
    )
    load_plugin(tmp_path / "a" / "one.py")
    with pytest.raises(UsageError, match="import of 'beside_net' finds "):
        load_plugin(tmp_path / "b" / "two.py")


def test_modules_of_one_name_that_are_not_imported_are_no_error(tmp_path: Path) -> None:
    write(tmp_path / "a", beside_net="LINE_WIDTH = 1", one="import beside_net")
    write(tmp_path / "b", beside_net="LINE_WIDTH = 2", two="import fedws")
    load_plugin(tmp_path / "a" / "one.py")
    load_plugin(tmp_path / "b" / "two.py")


def test_a_module_beside_it_can_be_corrected_and_loaded_again(tmp_path: Path) -> None:
    write(tmp_path, beside_net="WIDE = 7", mine=PIECE.format(module="beside_net", name="seven"))
    with pytest.raises(UsageError, match="ImportError: cannot import name 'LINE_WIDTH'"):
        load_plugin(tmp_path / "mine.py")
    write(tmp_path, beside_net="import math\nLINE_WIDTH = 7")
    load_plugin(tmp_path / "mine.py")
    assert registry.build_piece("model", "seven") == 7


def test_a_mistake_beside_it_is_located(tmp_path: Path) -> None:
    write(tmp_path, beside_net="\ndef x(:\n", mine="\nimport beside_net", broken="import fedws\n\n{}['label']")
    for name, place in (("mine", "beside_net.py, line 2"), ("broken", "broken.py, line 3")):
        with pytest.raises(UsageError) as caught:
            load_plugin(tmp_path / f"{name}.py")
        assert find_user_location(caught.value.__cause__ or caught.value) == str(tmp_path / place)
