"""Kinds folder and files: one folder of images per class, or images that a CSV names in a folder or zip."""

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from string import Formatter

from trainers.contract import DataError
from trainers.images import IMAGE_SUFFIXES, ImageFiles, open_zip
from trainers.sources.rows import (
    Rows,
    column_fault,
    first_five,
    last_part_is_test,
    shortened,
    together,
)
from trainers.sources.tables import read_table

# ---- kind: folder ----


def read_folder(path: Path, test: Path | None = None) -> Rows:
    """One folder per class, named for it, with images at any depth below."""
    folders = [path, *([test] if test else [])]
    parts = together(*(partial(_class_folders, folder) for folder in folders))
    names, labels, notes = zip(*parts, strict=True)
    return Rows(
        path.resolve().name,
        ImageFiles(tuple(name for part in names for name in part)),
        [label for part in labels for label in part],
        scale=255.0,
        source=f"Read from the class folders in {' and '.join(map(str, folders))}.",
        is_test=last_part_is_test(*map(len, names)),
        notes=tuple(note for part in notes for note in part),
    )


def _class_folders(path: Path) -> tuple[list[str], list[str], list[str]]:
    """Images, their labels, and a note on files that are no images or lie beside the class folders."""
    if not path.is_dir():
        raise DataError(f"{path}: is no folder; expected one with a folder for each class")
    classes = sorted(entry.name for entry in path.iterdir() if entry.is_dir() and not _is_hidden(entry.name))
    files = {label: files_below(path / label) for label in classes}
    images = {label: [name for name in names if is_image(name)] for label, names in files.items()}
    if not classes:
        raise DataError(f"{path}: holds no folders; expected one for each class, with its images")
    if empty := [label for label in classes if not images[label]]:
        raise DataError(f"{path}: {len(empty)} class folders hold no images: {first_five(empty)}")
    others = [f"{label}/{name}" for label in classes for name in files[label] if not is_image(name)]
    others += sorted(entry.name for entry in path.iterdir() if entry.is_file() and not _is_hidden(entry.name))
    return (
        [str(path / label / name) for label in classes for name in images[label]],
        [label for label in classes for _ in images[label]],
        [f"{path}: {len(others)} files left out that are no images in a class folder: {first_five(others)}"]
        if others
        else [],
    )


# ---- kind: files ----


def read_files(
    path: Path,
    labels: Path,
    label: str = "label",
    file: str = "",
    test: Path | None = None,
    group: str = "",
) -> Rows:
    """Images in a folder or zip at ``path``, named by the CSV ``labels`` and, the test rows, by ``test``.

    ``file`` is the column with a file's name, or a pattern of columns such as ``face-{id}.png``; if it is not
    given, the column is ``filename`` or ``file``. A name may leave out, or add, folders in front.
    """
    tables = [labels, *([test] if test else [])]
    members, *parts = together(
        partial(_members, path), *(partial(_read_labels, table, label, file, group) for table in tables)
    )
    names, texts, groups = ([item for part in parts for item in part[column]] for column in range(3))
    _check_once(names, tables)
    member_of, faults, lost = _matched(names, members)
    kept = [row for row, name in enumerate(names) if name in member_of]
    if faults or not kept:
        none = f"none of the {len(names)} images named in {labels} is in {path}; it has {shortened(members)}"
        raise DataError("\n".join(f"{path}: {fault}" for fault in faults) or none)
    used = set(member_of.values())
    if unlabelled := [name for name in members if name not in used and is_image(name)]:
        note = f"{path}: {len(unlabelled)} images without a label left out: {first_five(unlabelled)}"
    num_train = sum(row < len(parts[0][0]) for row in kept)
    return Rows(
        labels.resolve().parent.name,
        _image_files(path, [member_of[names[row]] for row in kept]),
        [texts[row] for row in kept],
        scale=255.0,
        source=f"Read from {path} and {' and '.join(map(str, tables))}.",
        is_test=last_part_is_test(*([num_train, len(kept) - num_train] if test else [])),
        groups=[groups[row] for row in kept] if group else None,
        notes=(note,) if unlabelled else (),
        unpaired=(f"{path}: {len(lost)} labels without an image: {first_five(lost)}",) if lost else (),
    )


def _read_labels(path: Path, label: str, file: str, group: str) -> tuple[list[str], list[str], list[str]]:
    """The names of files, labels and groups in one CSV."""
    table = read_table(path)
    faults = [
        column_fault(name, option, list(table))
        for name, option in ((label, "label"), (group, "group"))
        if name and name not in table
    ]
    try:
        names = _names(table, file)
    except DataError as error:
        faults.append(str(error))
    if faults:
        raise DataError("\n".join(f"{path}: {fault}" for fault in faults))
    return names, table[label], table[group] if group else []


def _names(table: Mapping[str, Sequence[str]], file: str) -> list[str]:
    """Each row's file name, from a column or from a pattern with columns in braces."""
    if not file:
        file = next((name for name in ("filename", "file") if name in table), "")
        if not file:
            raise DataError(
                f"no column 'filename' or 'file'; it has {shortened(list(table))}; name the column that holds"
                " the name of each file under file, or a pattern such as 'face-{id}.png'"
            )
    columns = _columns(file) if "{" in file else [file]
    if faults := [column_fault(name, "file", list(table)) for name in columns if name not in table]:
        raise DataError("\n".join(faults))
    rows = list(zip(*(table[name] for name in columns), strict=True))
    if empty := [row for row, texts in enumerate(rows) if not all(texts)]:
        raise DataError(
            f"no file name in {len(empty)} of {len(rows)} rows (counted from 0: {first_five(empty)})"
        )
    if "{" not in file:
        return [text for (text,) in rows]
    pieces = [(literal, name) for literal, name, *_ in Formatter().parse(file)]
    return [_filled(pieces, dict(zip(columns, texts, strict=True))) for texts in rows]


def _filled(pieces: Sequence[tuple[str, str | None]], texts: Mapping[str, str]) -> str:
    """Not by ``format``, which would take a dot in a column's name for an attribute."""
    return "".join(literal + ("" if name is None else texts[name]) for literal, name in pieces)


def _columns(pattern: str) -> list[str]:
    """The columns that a pattern names; a format, as in {id:04}, would want numbers where there are texts."""
    try:
        fields = [field for field in Formatter().parse(pattern) if field[1] is not None]
    except ValueError as error:
        raise DataError(f"file {pattern!r} is no pattern such as 'face-{{id}}.png' ({error})") from error
    if any(not name or spec or conversion for _, name, spec, conversion in fields):
        raise DataError(f"file {pattern!r} may have nothing but names of columns in its braces")
    return list(dict.fromkeys(str(name) for _, name, *_ in fields))


def _check_once(names: Sequence[str], tables: Sequence[Path]) -> None:
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        places = " and ".join(map(str, tables))
        raise DataError(
            f"{places}: {len(twice)} file names stand there more than once: {first_five(twice)}; keep one"
        )


def _matched(names: Sequence[str], members: Sequence[str]) -> tuple[dict[str, str], list[str], list[str]]:
    """{name: member}, names that fit several members or share one, and names that fit none.

    A name and a member fit where one is the end of the other, folder by folder: ``7.png`` and ``all/7.png``
    do, ``cats/7.png`` and ``dogs/7.png`` do not.
    """
    called: dict[str, list[str]] = {}
    for member in members:
        called.setdefault(member.rpartition("/")[2], []).append(member)
    fitting = {name: list(_fitting(name, called)) for name in names}
    several = [f"{name} ({first_five(fits)})" for name, fits in fitting.items() if len(fits) > 1]
    member_of = {name: fits[0] for name, fits in fitting.items() if len(fits) == 1}
    shared = [member for member, count in Counter(member_of.values()).items() if count > 1]
    faults = [
        f"{len(found)} {what}: {first_five(found)}; name them with their folders"
        for what, found in (("names fit several images", several), ("images fit several names", shared))
        if found
    ]
    return member_of, faults, [name for name, fits in fitting.items() if not fits]


def _fitting(name: str, called: Mapping[str, Sequence[str]]) -> Iterator[str]:
    members = called.get(name.rpartition("/")[2], ())
    if name in members:
        yield name
        return
    for member in members:
        if f"/{member}".endswith(f"/{name}") or f"/{name}".endswith(f"/{member}"):
            yield member


# ---- folders and zips ----


def _members(path: Path) -> list[str]:
    """The files in a folder or zip, at any depth, as names with slashes."""
    if path.is_dir():
        return files_below(path)
    with open_zip(path) as file:
        return sorted({name for name in file.namelist() if not name.endswith("/") and not _is_hidden(name)})


def _image_files(path: Path, members: Sequence[str]) -> ImageFiles:
    if path.is_dir():
        return ImageFiles(tuple(str(path / name) for name in members))
    return ImageFiles(tuple(members), zip=path)


def files_below(folder: Path) -> list[str]:
    """Files in a folder, at any depth, as names with slashes; hidden ones and those in hidden folders not."""
    names = (
        (Path(place) / name).relative_to(folder).as_posix()
        for place, _, files in os.walk(folder)
        for name in files
    )
    return sorted(name for name in names if not _is_hidden(name))


def _is_hidden(name: str) -> bool:
    """Whether a system put the file there for itself, as macOS does in every zip."""
    return any(part.startswith(".") or part in ("__MACOSX", "Thumbs.db") for part in name.split("/"))


def is_image(name: str) -> bool:
    """Whether a file's name ends like an image's."""
    return os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES
