import inspect
import re

import pytest

from fedws.core import errors
from fedws.core.errors import FedwsError, LinkRefused, UnknownName, UsageError
from fedws.core.untrusted_text import to_printable

ALL = {name: kind for name, kind in vars(errors).items() if inspect.isclass(kind) and issubclass(kind, Exception)}


def drawn() -> dict[str, str]:
    """Each error and its base, as the tree in the module's docstring draws them."""
    base: dict[int, str] = {0: "FedwsError"}
    found = {"FedwsError": "Exception"}
    for line in (errors.__doc__ or "").splitlines():
        matched = re.match(r"    ([│ ]*)[├└]── (\w+)", line)
        if matched:
            depth = len(matched[1]) // 4 + 1
            found[matched[2]] = base[depth - 1]
            base[depth] = matched[2]
    return found


def test_the_tree_that_is_drawn_is_the_one_that_is_there() -> None:
    assert drawn() == {name: kind.__base__.__name__ for name, kind in ALL.items() if kind.__base__}


def test_every_error_is_caught_as_the_root() -> None:
    assert all(issubclass(kind, FedwsError) and kind.__doc__ for kind in ALL.values())


def test_an_unknown_name_is_told_with_the_nearest_first() -> None:
    error = UnknownName("model", "mnist_cn", ["mlp", "mnist_cnn", "linear"])
    assert str(error) == "unknown model 'mnist_cn'; did you mean 'mnist_cnn'? (choose from linear, mlp, mnist_cnn)"
    assert isinstance(error, UsageError)


def test_no_guess_is_made_when_nothing_is_near() -> None:
    assert str(UnknownName("model", "zzz", ["mlp"])) == "unknown model 'zzz'; choose from mlp"
    assert str(UnknownName("model", "zzz", [])) == "unknown model 'zzz'; no choices are available"


def test_names_may_come_from_a_generator() -> None:
    assert "did you mean 'mlp'? (choose from linear, mlp)" in str(UnknownName("model", "mlpp", iter(["mlp", "linear"])))


@pytest.mark.parametrize("name", ["a\nb", "\x1b[2J", "x\r\ny"])
def test_a_name_with_control_characters_stays_one_harmless_line(name: str) -> None:
    assert str(UnknownName("model", name, [])).isprintable()


def test_a_refusal_keeps_its_kind_and_says_its_reason() -> None:
    error = LinkRefused("busy", "alice is busy with run 1")
    assert (error.kind, str(error)) == ("busy", "alice is busy with run 1")


def test_a_peer_text_becomes_one_harmless_line() -> None:
    assert to_printable("gone\r\n\x1b[31mred") == "gone???[31mred"
    assert to_printable("é and 漢字 stay") == "é and 漢字 stay"
    assert len(to_printable("x" * 10_000)) == 500
