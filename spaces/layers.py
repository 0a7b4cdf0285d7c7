"""YAML files laid over one another (a sweep, those it extends, overrides), each piece knowing its line."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import reduce
from io import StringIO
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.constructor import SafeConstructor
from ruamel.yaml.error import MarkedYAMLError
from ruamel.yaml.nodes import MappingNode, Node
from ruamel.yaml.reader import ReaderError
from ruamel.yaml.representer import RoundTripRepresenter
from ruamel.yaml.tokens import TagToken

from spaces.params import Fault, SpaceError, shown

_OVERRIDE = "--set"
_DEPTH = 4  # section, param, when, other param: what lies deeper shares their line


@dataclass(frozen=True)
class Branch:
    """A piece of YAML and where it was written. A mapping near the root is a dict of further branches."""

    value: Any
    file: str
    line: int

    @property
    def is_mapping(self) -> bool:
        return isinstance(self.value, dict)

    @property
    def children(self) -> "dict[str, Branch]":
        pairs = self.value.items() if self.is_mapping else ()
        return {key: child for key, child in pairs if isinstance(child, Branch)}

    def plain(self) -> Any:
        children = self.children
        return {key: child.plain() for key, child in children.items()} if children else self.value

    def located(self, fault: Fault) -> Fault:
        """``fault`` with the file and line of the innermost branch on the way to it."""
        branch = self
        for key in fault.where:
            if key not in branch.children:
                break
            branch = branch.children[key]
        return replace(fault, file=branch.file, line=branch.line)


def read_layers(path: Path, overrides: Sequence[str]) -> tuple[Branch, list[Fault]]:
    """The file at ``path`` over those it extends and under ``overrides``, and the faults read past."""
    faults: list[Fault] = []
    root = reduce(_merged, _file_layers(path, faults))
    for override in overrides:
        try:
            sections = _override(override, faults)
        except SpaceError as error:
            faults += error.faults
        else:
            root = _merged(root, replace(root, value=sections))
    return root, faults


class _Representer(RoundTripRepresenter):
    """Quotes any text that is not plainly a word: ruamel.yaml takes `?a` and `:0` for safe, and reads them
    back as something else."""

    def represent_text(self, text: str) -> Any:
        is_word = re.fullmatch(r"[A-Za-z_][\w./+-]*", text, re.ASCII)
        return self.represent_scalar("tag:yaml.org,2002:str", text, style=None if is_word else '"')


_Representer.add_representer(str, _Representer.represent_text)


def dump_yaml(tree: dict[str, Any]) -> str:
    """``tree`` as YAML 1.2, its keys in their order."""
    yaml = YAML()
    yaml.Representer = _Representer
    yaml.default_flow_style = None  # innermost lists and mappings on one line
    yaml.width = 10_000  # never fold a line
    text = StringIO()
    yaml.dump(tree, text)
    return text.getvalue()


# ---- laying one over the other ----


_NAMES_A_TRAINER = ("name", "hypermodel", "estimator")


def _merged(parent: Branch, child: Branch) -> Branch:
    """``child`` over ``parent``, key by key within each section."""
    sections = dict(parent.value)
    for name, branch in child.value.items():
        sections[name] = _merged_section(name, sections.get(name), branch)
    _move(child, "fixed", "space", sections)
    _move(child, "space", "fixed", sections)
    return replace(child, value=sections)


def _merged_section(name: str, parent: Branch | None, child: Branch) -> Branch:
    if parent is None or _is_another(name, parent, child) or not (parent.is_mapping and child.is_mapping):
        return child
    return replace(parent, value=parent.children | child.children)


def _is_another(name: str, parent: Branch, child: Branch) -> bool:
    """Whether it is about something else, which has other keys."""
    if name == "trainer" and parent.is_mapping and child.is_mapping:
        before, now = (
            {key: branch.children[key].value for key in _NAMES_A_TRAINER if key in branch.children}
            for branch in (parent, child)
        )
        return bool(before and now) and before != now
    return name == "dataset" and "kind" in child.children


def _move(child: Branch, to: str, away: str, sections: dict[str, Branch]) -> None:
    """What ``child`` puts in section ``to`` leaves the inherited section ``away``."""
    moved = _names(child, to) - _names(child, away)
    if away in sections and moved & sections[away].children.keys():
        kept = {name: branch for name, branch in sections[away].children.items() if name not in moved}
        sections[away] = replace(sections[away], value=kept)


def _names(root: Branch, section: str) -> set[str]:
    return set(root.children[section].children) if section in root.children else set()


# ---- where layers come from ----


def _file_layers(path: Path, faults: list[Fault], inner: tuple[Path, ...] = ()) -> list[Branch]:
    """The file at ``path`` and, before it, those it extends."""
    root = _read_file(path, faults)
    extends = root.value.pop("extends", None)
    if extends is None:
        return [root]
    try:
        return [*_parent_layers(path, extends.value, faults, (*inner, path)), root]
    except SpaceError as error:
        raise SpaceError(*(_blamed(fault, extends) for fault in error.faults)) from None


def _parent_layers(path: Path, extends: Any, faults: list[Fault], chain: tuple[Path, ...]) -> list[Branch]:
    if not isinstance(extends, str):
        raise SpaceError(Fault((), f"must be the path of a sweep file, got {shown(extends)}"))
    parent = path.parent / extends
    if parent.resolve() in [known.resolve() for known in chain]:
        circle = " -> ".join(known.name for known in (*chain, parent))
        raise SpaceError(Fault((), f"files must not extend each other in a circle: {circle}"))
    return _file_layers(parent, faults, chain)


def _blamed(fault: Fault, extends: Branch) -> Fault:
    """A fault without a line of its own is that of the line which named the file."""
    return fault if fault.line else Fault(("extends",), str(fault), extends.file, extends.line)


def _read_file(path: Path, faults: list[Fault]) -> Branch:
    root = _Reader(str(path), faults).read(_read_text(path))
    if root is None:
        raise SpaceError(Fault((), "is empty; a sweep has keys such as dataset and space", str(path)))
    if not root.is_mapping:
        message = f"must be a mapping with keys such as dataset and space, got {shown(root.value)}"
        raise SpaceError(Fault((), message, root.file, root.line))
    return root


def _read_text(path: Path) -> str:
    name = str(path)
    try:
        data = path.read_bytes()
    except IsADirectoryError:
        raise SpaceError(Fault((), "is a folder; name a sweep file in it", name)) from None
    except (FileNotFoundError, NotADirectoryError):
        raise SpaceError(Fault((), "does not exist", name)) from None
    except OSError as error:
        raise SpaceError(Fault((), f"cannot be read: {error.strerror}", name)) from None
    if b"\0" in data:
        raise SpaceError(Fault((), "is a binary file; a sweep is YAML text", name))
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise SpaceError(Fault((), "is not UTF-8 text; save the file as UTF-8", name, line)) from None


def _override(override: str, faults: list[Fault]) -> dict[str, Branch]:
    """The sections that one "section.key=value" amounts to."""
    name, _, text = override.partition("=")
    where = tuple(key.strip() for key in name.split("."))
    branch = _Reader(_OVERRIDE, faults).read(text, where)
    if branch is None or not all(where) or len(where) > 2 or where == ("extends",):
        message = f"{override!r} must be key=value or section.key=value, such as epochs=5 or search.seed=3"
        raise SpaceError(Fault((), message, _OVERRIDE))
    for key in reversed(where[1:]):
        branch = Branch({key: branch}, _OVERRIDE, 0)
    return {where[0]: branch}


# ---- from text to branches ----


class _Core(SafeConstructor):
    """YAML 1.2's core schema, in which a date is text, and so are = and <<."""


for _name in ("timestamp", "value", "merge"):
    _Core.add_constructor(f"tag:yaml.org,2002:{_name}", SafeConstructor.construct_yaml_str)


class _Reader:
    """Turns YAML text into branches; faults that it can read past go to ``faults``, others are raised."""

    def __init__(self, file: str, faults: list[Fault]) -> None:
        self._file = file
        self._faults = faults
        self._yaml = YAML(typ="safe", pure=True)
        self._yaml.Constructor = _Core

    def read(self, text: str, where: tuple[str, ...] = ()) -> Branch | None:
        """The whole text; None if there is nothing in it."""
        node = self._composed(text, where)
        return None if node is None else self._branch(node, where)

    def _composed(self, text: str, where: tuple[str, ...]) -> Node | None:
        try:
            tags = [token.start_mark.line for token in self._yaml.scan(text) if isinstance(token, TagToken)]
            node: Node | None = self._yaml.compose(text)
        except ReaderError as error:
            line = text.count("\n", 0, error.position)
            raise self._error(where, "holds a character that YAML does not allow", line) from None
        except MarkedYAMLError as error:
            reason = ", ".join(part for part in (error.context, error.problem) if part)
            mark = error.problem_mark or error.context_mark
            raise self._error(where, f"is not YAML: {reason}", mark.line if mark else 0) from None
        except RecursionError:
            raise self._error(where, "is nested too deeply", 0) from None
        if tags:
            raise self._error(where, "tags such as !name are not allowed", *tags)
        return node

    def _branch(self, node: Node, where: tuple[str, ...]) -> Branch:
        if isinstance(node, MappingNode) and len(where) < _DEPTH:
            value: Any = self._children(node, where)
        else:
            value = self._value(node, where)
        return Branch(value, self._file, self._line(node.start_mark.line))

    def _value(self, node: Node, where: tuple[str, ...]) -> Any:
        try:
            return self._yaml.constructor.construct_object(node, deep=True)
        except (MarkedYAMLError, ValueError):  # a key given twice far down, a number of 5,000 digits
            raise self._error(where, "cannot be read", node.start_mark.line) from None

    def _children(self, node: MappingNode, where: tuple[str, ...]) -> dict[str, Branch]:
        children: dict[str, Branch] = {}
        for key_node, value_node in node.value:
            key, line = key_node.value, key_node.start_mark.line
            # Classes are often called 0, 1, 2; the options that name them take what is written as a text.
            is_class = len(where) > 1 and where[0] == "dataset" and key_node.tag == "tag:yaml.org,2002:int"
            if key_node.tag != "tag:yaml.org,2002:str" and not is_class:
                got = key if isinstance(key, str) else "a collection"
                self._faults.append(self._fault(where, f"a key must be text, got {got}", line))
                continue
            if key in children:
                self._faults.append(self._fault((*where, key), "is given twice; keep one", line))
            branch = self._branch(value_node, (*where, key))
            children[key] = replace(branch, line=self._line(line))
        return children

    def _error(self, where: tuple[str, ...], message: str, *lines: int) -> SpaceError:
        return SpaceError(*(self._fault(where, message, line) for line in lines))

    def _fault(self, where: tuple[str, ...], message: str, line: int) -> Fault:
        return Fault(where, message, self._file, self._line(line))

    def _line(self, index: int) -> int:
        return 0 if self._file == _OVERRIDE else index + 1
