"""The options of all loaders are those of one definition, with its defaults, and documented."""

import inspect
import re
from dataclasses import MISSING, fields
from typing import get_type_hints

import pytest

from pcrstore import NumpyLoader, OptionError
from pcrstore.loader.options import LoaderOptions, SampleOptions, Spec, check_options

SPEC = {f.name: f.default for f in fields(Spec)}


def defaults_of(call):
    """Return the default of each parameter, MISSING for none."""
    parameters = inspect.signature(call).parameters.values()
    return {p.name: MISSING if p.default is p.empty else p.default for p in parameters}


def torch_classes():
    torch = pytest.importorskip("pcrstore.torch")
    return torch.Loader, torch.IterableDataset, torch.MapDataset


def documented(cls):
    """Return the names in the Args of a class, and what it says of its other options."""
    _, _, args = inspect.getdoc(cls).partition("Args:\n")
    args = re.split(r"\n\n", args)[0]
    named = re.findall(r"(?m)^    (\w+): ", args)
    _, _, others = args.partition("\n    options: ")
    return named, set(re.findall(r"\w+", re.sub(r"\([^)]*\)", "", others)))


@pytest.mark.parametrize("options", [LoaderOptions, SampleOptions])
def test_an_option_that_is_passed_on_is_one_of_the_definition(options):
    of_definition = get_type_hints(Spec)
    assert all(of_definition[name] == kind for name, kind in get_type_hints(options).items())


def test_the_loader_has_every_option_with_the_default_and_type_of_the_definition():
    loader, _, _ = torch_classes()
    given, kinds = defaults_of(loader), get_type_hints(loader.__init__)
    assert {name: given[name] for name in SPEC} == SPEC
    assert {name: kinds[name] for name in SPEC} == get_type_hints(Spec)
    named, _ = documented(loader)
    assert named == list(given)


def test_every_other_loader_names_the_options_that_it_passes_on():
    _, iterable, mapped = torch_classes()
    for cls, options in (
        (NumpyLoader, LoaderOptions),
        (iterable, LoaderOptions),
        (mapped, SampleOptions),
    ):
        named, others = documented(cls)
        assert named == list(defaults_of(cls)), cls
        assert set(options.__annotations__) <= others, cls
        assert not set(options.__annotations__) & set(named), cls


def test_what_a_loader_has_of_its_own_has_the_default_of_the_definition():
    _, iterable, _ = torch_classes()
    for cls in (NumpyLoader, iterable):
        given = {name: d for name, d in defaults_of(cls).items() if name in SPEC}
        assert given == {name: SPEC[name] for name in given}, cls


@pytest.mark.parametrize("name", ["opaque", "on_error"])
def test_a_choice_is_one_of_two(name):
    with pytest.raises(OptionError, match=rf"{name} must be one of \(.*\), got 'drop'"):
        Spec(dataset="a", **{name: "drop"})


def test_an_unknown_option_is_named():
    check_options("Some", ["crop"], SampleOptions.__annotations__)
    with pytest.raises(OptionError, match="Some has no option colour"):
        check_options("Some", ["crop", "size_", "colour"], SampleOptions.__annotations__)
