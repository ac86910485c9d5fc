"""TOML files: what is wrong is said with file, line and key."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from scenarios.errors import Malformed
from scenarios.spec.document import Document


class Cat(msgspec.Struct, frozen=True, tag="cat", tag_field="kind"):
    name: str
    lives: int = 9


class Dog(msgspec.Struct, frozen=True, tag="dog", tag_field="kind"):
    name: str


class Home(msgspec.Struct, frozen=True):
    street: str
    pets: tuple[Cat | Dog, ...] = ()
    rooms: dict[str, float] = {}


def wrong(text: str) -> Malformed:
    with pytest.raises(Malformed) as raised:
        Document(Path("home.toml"), text).convert(Home)
    return raised.value


def test_a_document_becomes_its_struct() -> None:
    pets = '[[pets]]\nkind = "cat"\nname = "C"\n[[pets]]\nkind = "dog"\nname = "D"\n'
    text = 'street = "A"\nrooms = { attic = 2 }\n' + pets
    home = Document(Path("home.toml"), text).convert(Home)
    assert home == Home("A", (Cat("C"), Dog("D")), {"attic": 2.0})


def test_an_unknown_key_is_named_with_its_line_and_the_nearest_known_one() -> None:
    error = wrong('street = "A"\n\n[[pets]]\nkind = "cat"\nname = "C"\nlifes = 7\n')
    assert (error.line, error.key) == (6, "pets[0].lifes")
    assert "did you mean lives?" in str(error)


def test_a_missing_key_is_told_at_the_line_of_its_table() -> None:
    error = wrong('street = "A"\n\n[[pets]]\nkind = "dog"\nname = "D"\n\n[[pets]]\nkind = "cat"\n')
    assert (error.line, error.key) == (7, "pets[1]")
    assert "'name' is missing" in str(error)


def test_a_value_of_the_wrong_type_is_told_at_its_line() -> None:
    error = wrong('street = "A"\n[rooms]\nattic = 2\ncellar = "big"\n')
    assert (error.line, error.key) == (4, "rooms.cellar")


def test_an_unknown_kind_lists_the_kinds() -> None:
    error = wrong('street = "A"\n[[pets]]\nkind = "cow"\nname = "B"\n')
    assert error.line == 3
    assert "known: cat, dog" in str(error)


def test_a_key_in_an_inline_table_is_told_at_the_table_s_line() -> None:
    error = wrong('rooms = { attic = "x" }\nstreet = "A"\n')
    assert error.line == 1


def test_brackets_inside_multi_line_strings_and_arrays_are_no_headers() -> None:
    text = 'street = """\n[[pets]]\nname = 3\n"""\n[rooms]\nattic = 1\ncellar = "x"\n'
    assert wrong(text).line == 7


def test_a_document_that_is_not_toml_is_refused_with_the_parser_s_reason() -> None:
    error = wrong("street = \n")
    assert "not TOML" in str(error)
    assert str(error).startswith("home.toml")
