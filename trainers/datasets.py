"""Where rows and labels come from: data sets known by name, and the kinds of files that others come in."""

import csv
import gzip
import inspect
import os
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import prod
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from spaces.params import did_you_mean
from trainers.contract import DataError


@dataclass(frozen=True, eq=False)
class Dataset:
    """Labelled rows, read and checked: two classes or more, two rows or more of each, nothing missing."""

    name: str
    x: NDArray[Any]
    """(n, height, width, channels) images or (n, features) vectors; uint8 or float32, read-only."""
    y: NDArray[np.int64]
    """(n,) class indices in [0, len(classes)), read-only."""
    classes: tuple[str, ...]
    scale: float
    """``x / scale`` lies in [0, 1] for images; 1.0 for vectors, which are left as they are."""
    test_rows: NDArray[np.int64] | None
    """Rows of a test split that came with the data."""
    source: str
    """A sentence saying where the rows were read from."""


def load_dataset(spec: str | Mapping[str, Any]) -> Dataset:
    """The data set of that name, or as a mapping says: ``{kind: csv, path: faces.csv, label: glasses}``.

    Relative paths start at the working directory. Raises DataError with one line for each fault.
    """
    if faults := dataset_faults(spec):
        raise DataError("\n".join(faults))
    if isinstance(spec, str):
        return DATASETS[spec]()
    loader = KINDS[spec["kind"]]
    options = {name: value for name, value in spec.items() if name != "kind"}
    for name, option in inspect.signature(loader).parameters.items():
        if option.annotation is Path and name in options:
            options[name] = Path(options[name]).expanduser()
    return loader(**options)


def dataset_faults(spec: Any) -> list[str]:
    """What is wrong with a data set's name or mapping, as far as can be told without reading the data."""
    if isinstance(spec, str):
        return _choice_faults("data set", spec, DATASETS)
    if not isinstance(spec, Mapping) or "kind" not in spec:
        return [
            f"data set {spec!r} is neither a name ({', '.join(DATASETS)})"
            f" nor a mapping with a 'kind' ({', '.join(KINDS)})"
        ]
    if faults := _choice_faults("kind", spec["kind"], KINDS):
        return faults
    options = inspect.signature(KINDS[spec["kind"]]).parameters
    faults = [
        fault
        for name in spec
        if name != "kind"
        for fault in _choice_faults(f"kind {spec['kind']}: option", name, options)
    ]
    for name, option in options.items():
        if name in spec:
            faults += _option_faults(f"option {name!r}", option.annotation, spec[name])
        elif option.default is option.empty:
            faults.append(f"option {name!r} is missing; kind {spec['kind']} needs it")
    return faults


# What every kind shares: options, reading several things and reporting all that is wrong, the final check.


def _option_faults(what: str, annotation: Any, value: Any) -> list[str]:
    """A loader's annotations say what its options hold: a path, a text, texts, one of a Literal's texts."""
    if annotation is Path:
        if not isinstance(value, str | Path):
            return [f"{what} is {value!r}; expected a path"]
        return [] if Path(value).expanduser().exists() else [f"{value}: not found ({what})"]
    if annotation is str:
        return [] if isinstance(value, str) else [f"{what} is {value!r}; expected a text"]
    if annotation == Sequence[str]:
        is_texts = isinstance(value, list | tuple) and all(isinstance(item, str) for item in value)
        return [] if is_texts else [f"{what} is {value!r}; expected a list of texts"]
    return _choice_faults(f"{what}:", value, get_args(annotation))


def _choice_faults(what: str, value: Any, known: Iterable[str]) -> list[str]:
    known = list(known)
    if value in known:
        return []
    return [f"{what} {value!r} is unknown; known: {', '.join(known)}{did_you_mean(str(value), known)}"]


def _all(*reads: Callable[[], Any]) -> list[Any]:
    """What each of them returns; what is wrong with any of them is reported together."""
    results, faults = [], []
    for read in reads:
        try:
            results.append(read())
        except DataError as error:
            faults.append(str(error))
    if faults:
        raise DataError("\n".join(faults))
    return results


def _dataset(
    name: str,
    x: NDArray[Any],
    labels: Sequence[str] | NDArray[Any],
    scale: float,
    source: str,
    class_names: Sequence[str] = (),
    test_rows: NDArray[np.int64] | None = None,
    faults: Sequence[str] = (),
) -> Dataset:
    """Checks what must hold for rows and labels of any kind.

    Labels are numbers or texts, empty where missing; ``class_names`` say what 0, 1, ... stand for. ``faults``
    are those already found, to be reported with the others.
    """
    y, classes = _encode(labels, class_names)
    faults = list(faults)
    if len(x) != len(y):
        faults.append(f"{len(x)} rows but {len(y)} labels; each row needs one label")
    if x.dtype != np.uint8:
        is_broken = ~np.isfinite(x).all(axis=tuple(range(1, x.ndim)))
        faults += _row_faults("NaN, infinite or missing values", is_broken)
    is_missing = y == (classes.index("") if "" in classes else -1)
    faults += _row_faults("no label", is_missing)
    counts = {text: count for text, count in zip(classes, np.bincount(y), strict=True) if text}
    if lonely := [text for text in counts if counts[text] == 1]:
        faults.append(f"one row only of class {_shortened(lonely)}; each class needs at least 2")
    if len(counts) < 2:
        faults.append(f"only one class ({', '.join(counts) or 'none'}); at least 2 are needed")
    if faults:
        raise DataError("\n".join(f"data set {name}: {fault}" for fault in faults))
    x.flags.writeable = y.flags.writeable = False
    return Dataset(name, x, y, classes, scale, test_rows, source)


def _encode(
    labels: Sequence[str] | NDArray[Any], class_names: Sequence[str]
) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Class indices and classes, in the order of numbers if all labels are whole numbers, else of texts."""
    values, y = np.unique(np.asarray(labels), return_inverse=True)
    texts = [str(value) for value in values]
    try:
        order = np.argsort([int(text) for text in texts], kind="stable")
    except ValueError:
        order = np.arange(len(texts))
    names = {str(number): name for number, name in enumerate(class_names)}
    return order.argsort()[y], tuple(names.get(texts[i], texts[i]) for i in order)


def _row_faults(what: str, is_faulty: NDArray[np.bool_]) -> list[str]:
    rows = np.flatnonzero(is_faulty)
    if not len(rows):
        return []
    first = ", ".join(map(str, rows[:5])) + (", ..." if len(rows) > 5 else "")
    return [f"{what} in {len(rows)} of {len(is_faulty)} rows (counted from 0: {first}); mend or remove them"]


def _as_float32(x: NDArray[Any]) -> NDArray[np.float32]:
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, and is reported as that
        return x.astype(np.float32)


# kind: idx


def _load_idx(path: Path) -> Dataset:
    """A folder with the IDX files of MNIST and its relatives, packed by gzip or not.

    ``train-images-idx3-ubyte`` and ``train-labels-idx1-ubyte``, and perhaps the same two for ``t10k``,
    which then are the test rows.
    """
    return _images_in_parts(path.resolve().name, *_read_idx_folder(path))


def _read_idx_folder(folder: Path) -> tuple[list[NDArray[np.uint8]], list[NDArray[np.uint8]], str]:
    """Images and labels of each part (train, and t10k where it is there), and where they were read from."""
    has_test = any(_idx_file(folder, f"t10k-{what}").exists() for what in ("images-idx3", "labels-idx1"))
    parts = ("train", "t10k") if has_test else ("train",)
    arrays = _all(
        *(partial(_read_idx, folder, f"{part}-images-idx3", num_dims=3) for part in parts),
        *(partial(_read_idx, folder, f"{part}-labels-idx1", num_dims=1) for part in parts),
    )
    return arrays[: len(parts)], arrays[len(parts) :], f"Read from the IDX files in {folder}."


def _images_in_parts(
    name: str,
    images: Sequence[NDArray[np.uint8]],
    labels: Sequence[NDArray[np.uint8]],
    source: str,
    class_names: Sequence[str] = (),
) -> Dataset:
    """Grey images that came as a training part and perhaps a test part."""
    faults = [
        f"data set {name}: {len(x)} images but {len(y)} labels in the {part} part; each image needs one label"
        for part, x, y in zip(("train", "t10k"), images, labels, strict=False)
        if len(x) != len(y)
    ]
    if len({x.shape[1:] for x in images}) > 1:
        faults.append(
            f"data set {name}: train images are {images[0].shape[1:]}, t10k images {images[1].shape[1:]}"
        )
    if faults:
        raise DataError("\n".join(faults))
    return _dataset(
        name,
        np.concatenate(images)[..., None],
        np.concatenate(labels),
        scale=255.0,
        source=source,
        class_names=class_names,
        test_rows=np.arange(len(images[0]), sum(map(len, images))) if len(images) > 1 else None,
    )


def _idx_file(folder: Path, name: str) -> Path:
    """The packed file, or the plain one where there is no packed one."""
    packed = folder / f"{name}-ubyte.gz"
    return packed if packed.exists() else folder / f"{name}-ubyte"


def _read_idx(folder: Path, name: str, num_dims: int) -> NDArray[np.uint8]:
    """The bytes of one IDX file: a magic number, the size of each dimension, then the values."""
    file = _idx_file(folder, name)
    if not file.exists():
        raise DataError(f"{file}: not found, nor {file.name}.gz")
    try:
        data = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{file}: cannot be read ({error}); fetch it again") from error
    magic = bytes([0, 0, 8, num_dims])  # 8 stands for unsigned bytes
    if data[:4] != magic:
        raise DataError(
            f"{file}: starts with {data[:4].hex()}, not with {magic.hex()}, so it is no {name} file"
        )
    head = 4 + 4 * num_dims
    if len(data) < head:
        raise DataError(f"{file}: truncated: {len(data)} bytes, expected {head} or more; fetch it again")
    shape = [int(size) for size in np.frombuffer(data[4:head], ">u4")]
    if len(data) != head + prod(shape):
        raise DataError(
            f"{file}: truncated: {len(data)} bytes, expected {head + prod(shape)}; fetch it again"
        )
    return np.frombuffer(data, np.uint8, offset=head).reshape(shape)


# kind: npy


def _load_npy(path: Path, labels: Path) -> Dataset:
    """Images (n, height, width[, channels]) or vectors (n, features) in one .npy file, labels in another.

    Labels are a .npy array (n,), or a CSV with a column ``label`` and perhaps ``index``, the label's row.
    """
    read_labels = _read_npy_labels if labels.suffix == ".npy" else _read_csv_labels
    (x, scale), texts = _all(lambda: _read_npy_rows(path), lambda: read_labels(labels))
    name = path.resolve().parent.name
    return _dataset(name, x, texts, scale, source=f"Read from {path} and {labels}.")


def _read_npy(path: Path) -> NDArray[Any]:
    try:
        array = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{path}: cannot be read as .npy: {error}") from error
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "biufU" or not array.size:
        raise DataError(f"{path}: expected one array of numbers in .npy format, not empty")
    return array


def _read_npy_rows(path: Path) -> tuple[NDArray[Any], float]:
    """Rows and their scale: 1.0 for vectors, and for images without a value above 1; else 255."""
    x = _read_npy(path)
    if x.dtype.kind == "U" or x.ndim not in (2, 3, 4):
        raise DataError(
            f"{path}: has shape {x.shape} of {x.dtype}; expected numbers, (n, features) for vectors"
            " or (n, height, width[, channels]) for images"
        )
    if x.ndim == 2:
        return _as_float32(x), 1.0
    x = x if x.ndim == 4 else x[..., None]
    low, high = x.min(), x.max()
    if np.isfinite(low) and np.isfinite(high) and (low < 0 or high > 255):
        raise DataError(f"{path}: images hold values from {low} to {high}; expected 0 to 255 or 0 to 1")
    x = _as_float32(x) if x.dtype.kind == "f" else x.astype(np.uint8, copy=False)
    return x, 1.0 if high <= 1 else 255.0


def _read_npy_labels(path: Path) -> NDArray[Any]:
    labels = _read_npy(path)
    if labels.ndim != 1 or labels.dtype.kind == "f":
        raise DataError(
            f"{path}: has shape {labels.shape} of {labels.dtype}; expected whole numbers or texts, (n,)"
        )
    return labels


def _read_csv_labels(path: Path) -> list[str]:
    """One label a row, put in the order of the column ``index`` where there is one."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:  # -sig: spreadsheets put a mark in front
            reader = csv.DictReader(file)
            lines, columns = list(reader), list(reader.fieldnames or ())
    except (OSError, ValueError, csv.Error) as error:
        raise DataError(f"{path}: cannot be read as CSV: {error}") from error
    if set(columns) not in ({"label"}, {"index", "label"}):
        raise DataError(
            f"{path}: has columns {_shortened(columns)}; expected a first line 'index,label' or 'label'"
        )
    labels = [(line["label"] or "").strip() for line in lines]
    if "index" not in columns:
        return labels
    label_of = {(line["index"] or "").strip(): label for line, label in zip(lines, labels, strict=True)}
    try:
        return [label_of[str(row)] for row in range(len(labels))]
    except KeyError as error:
        raise DataError(
            f"{path}: column 'index' has no {error.args[0]}; {len(labels)} labels need"
            f" the numbers 0 to {len(labels) - 1}, each once"
        ) from error


# kind: csv

_NO_NUMBER = ("", "NA", "N/A", "NaN", "nan", "NULL", "null", "None")


def _load_csv(path: Path, label: str, drop: Sequence[str] = ()) -> Dataset:
    """Vectors: one row a line, a column of labels, some columns to drop, and numbers in all the others."""
    import pandas as pd

    columns = list(_read_csv(path, nrows=0))
    if faults := _column_faults(columns, label, drop):
        raise DataError("\n".join(f"{path}: {fault}" for fault in faults))
    frame = _read_csv(
        path,
        dtype={label: str},
        na_values={column: _NO_NUMBER for column in columns if column != label},
        keep_default_na=False,  # "None" and "NA" may be classes
        low_memory=False,
    )
    features = frame.drop(columns=[label, *drop])
    for name in features.select_dtypes(exclude=["number", "bool"]):
        numbers = pd.to_numeric(features[name], errors="coerce")
        is_text = numbers.isna() & features[name].notna()
        if is_text.any():
            row = is_text.argmax()
            faults.append(
                f"column {name!r} is not numeric ({features[name].iloc[row]!r} in row {row});"
                " make it numbers or name it under drop"
            )
        features[name] = 0.0 if is_text.any() else numbers  # told once, not again as missing values
    x = _as_float32(features.to_numpy(dtype=np.float64))
    return _dataset(path.stem, x, frame[label].str.strip().tolist(), 1.0, f"Read from {path}.", faults=faults)


def _read_csv(path: Path, **options: Any) -> Any:
    import pandas as pd

    try:
        return pd.read_csv(path, **options)
    except (OSError, ValueError) as error:  # pandas' own errors are ValueErrors
        raise DataError(f"{path}: cannot be read as CSV: {error}") from error


def _column_faults(columns: Sequence[str], label: str, drop: Sequence[str]) -> list[str]:
    faults = [
        f"column {name!r} ({option}) is not there; it has {_shortened(columns)}{did_you_mean(name, columns)}"
        for option, names in (("label", [label]), ("drop", drop))
        for name in names
        if name not in columns
    ]
    # Mostly row numbers that were saved along, and a row's number must not be learned from.
    faults += [
        f"the first line has no name for column {number}; name it, or list {name!r} under drop"
        for number, name in enumerate(columns, 1)
        if name.startswith("Unnamed: ") and name not in drop
    ]
    if not set(columns) - {label, *drop}:
        faults.append("no column is left to learn from; drop fewer")
    return faults


def _shortened(names: Sequence[str]) -> str:
    return ", ".join(names if len(names) <= 8 else [*names[:4], "...", *names[-3:]]) or "none"


# kind: sklearn


def _load_sklearn(name: Literal["digits", "iris", "wine", "breast_cancer"]) -> Dataset:
    """One of the small sets that scikit-learn ships; digits as images, the others as vectors."""
    import sklearn.datasets

    bunch = getattr(sklearn.datasets, f"load_{name}")()
    if name == "digits":
        x, scale = bunch.images[..., None].astype(np.uint8), 16.0
    else:
        x, scale = _as_float32(bunch.data), 1.0
    source = f"Shipped with scikit-learn {sklearn.__version__}."
    return _dataset(
        name, x, bunch.target, scale, source, class_names=[str(text) for text in bunch.target_names]
    )


# Fashion-MNIST

_DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")

_FASHION_CLASSES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip


def _load_fashion_mnist(
    debian_folder: Path = _DEBIAN_FOLDER, download: Callable[[], Any] | None = None
) -> Dataset:
    """60,000 + 10,000 images (28, 28, 1) from $RUNGWISE_DATA, else Debian's package, else Keras's download.

    A folder with the file of training images is the place: what is wrong there is an error, not a reason to
    go on looking.
    """
    own = os.environ.get("RUNGWISE_DATA")
    for folder in (*((Path(own) / "fashion-mnist", Path(own)) if own else ()), debian_folder):
        if _idx_file(folder, "train-images-idx3").exists():
            return _images_in_parts("fashion_mnist", *_read_idx_folder(folder), _FASHION_CLASSES)
    try:
        (x_train, y_train), (x_test, y_test) = (download or _download_fashion_mnist)()
    except Exception as error:  # whatever Keras, its back end or the network may raise
        raise DataError(
            "data set fashion_mnist was found in none of three places:\n"
            f"  $RUNGWISE_DATA ({own or 'not set'}) holds no IDX files, nor does its folder fashion-mnist;"
            " set it to a folder that does\n"
            f"  {debian_folder} holds none; on Debian and Ubuntu: apt install dataset-fashion-mnist\n"
            f"  keras.datasets cannot download it: {type(error).__name__}: {error}"
        ) from error
    source = "Downloaded by keras.datasets.fashion_mnist."
    return _images_in_parts("fashion_mnist", [x_train, x_test], [y_train, y_test], source, _FASHION_CLASSES)


def _download_fashion_mnist() -> Any:
    import keras

    return keras.datasets.fashion_mnist.load_data()


KINDS: dict[str, Callable[..., Dataset]] = {
    "idx": _load_idx,
    "npy": _load_npy,
    "csv": _load_csv,
    "sklearn": _load_sklearn,
}
"""What a mapping's ``kind`` may be. A loader's parameters are the options, its annotations what they hold."""

DATASETS: dict[str, Callable[[], Dataset]] = {
    "digits": partial(_load_sklearn, "digits"),
    "fashion_mnist": _load_fashion_mnist,
}
"""Data sets that need no mapping."""
