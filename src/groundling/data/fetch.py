"""Models and data sets from a hub to a local folder, with a list that says what lies there.

The list is `fetched.json` in the folder (made up):

    {"name": "owner/model", "kind": "model", "origin": "hub", "revision": "0f3c...", "files": {"a.json": "5b1e..."}}

`hub` is Hugging Face or, by its client's variable HF_ENDPOINT, a mirror of it; `modelscope` is ModelScope.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from groundling.errors import GroundlingError, SettingsError

Kind = Literal["model", "dataset"]
Origin = Literal["hub", "modelscope"]

LIST_NAME = "fetched.json"


@dataclass(frozen=True)
class Fetched:
    """What was fetched. `revision` is the hub's commit; ModelScope's client tells none, so there it is as asked for."""

    name: str
    kind: Kind
    origin: Origin
    revision: str
    files: dict[str, str]  # path below the folder, with slashes -> SHA-256 of the content, in hex


def fetch(
    name: str,
    to: str | Path | None = None,
    *,
    kind: Kind = "model",
    origin: Origin = "hub",
    revision: str | None = None,
) -> Path:
    """The folder (by default, the last part of the name) that now holds the files and their list.

    A download that broke off is resumed. SettingsError for an unknown name, or a folder that holds something else
    already; GroundlingError where the hub cannot be reached or its client is missing.
    """
    if origin not in _ORIGINS or kind not in ("model", "dataset"):
        raise SettingsError(f"{kind!r} from {origin!r}: expected a model or a dataset, from {' or '.join(_ORIGINS)}")
    folder = Path(to) if to is not None else Path(name.rpartition("/")[2])
    commit = _ORIGINS[origin](name, kind, revision, folder)
    fetched = Fetched(name, kind, origin, commit, dict(_hash_files(folder)))
    text = json.dumps(asdict(fetched), indent=2, ensure_ascii=False)
    part = folder / f"{LIST_NAME}.part"
    part.write_text(text + "\n", encoding="utf-8")
    os.replace(part, folder / LIST_NAME)
    return folder


def fetch_parquet(name: str) -> Path:
    """The folder, in the hub client's own cache, with the Parquet files of a data set. Errors as in `fetch`."""
    from huggingface_hub import snapshot_download

    with _told_plainly(name, "dataset"):
        return Path(snapshot_download(name, repo_type="dataset", allow_patterns="*.parquet"))


def _from_hub(name: str, kind: Kind, revision: str | None, folder: Path) -> str:
    from huggingface_hub import snapshot_download

    with _told_plainly(name, kind):
        # Asked first: without a network, a plain download takes whatever the folder holds for the answer.
        files = snapshot_download(name, repo_type=kind, revision=revision, local_dir=folder, dry_run=True)
    commit = next((file.commit_hash for file in files), None)
    if commit is None:
        raise SettingsError(f"the {kind} {name} holds no files")
    _refuse_another(folder, name, commit)
    with _told_plainly(name, kind):
        snapshot_download(name, repo_type=kind, revision=commit, local_dir=folder)
    return commit


def _from_modelscope(name: str, kind: Kind, revision: str | None, folder: Path) -> str:
    try:
        from modelscope.hub.snapshot_download import snapshot_download  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise GroundlingError("fetching from ModelScope needs its client: pip install modelscope") from None
    revision = revision or "master"  # its name for the newest
    _refuse_another(folder, name, revision)
    with _told_plainly(name, kind):
        snapshot_download(name, repo_type=kind, revision=revision, local_dir=str(folder))
    return revision


_ORIGINS: dict[str, Callable[[str, Kind, str | None, Path], str]] = {"hub": _from_hub, "modelscope": _from_modelscope}


@contextmanager
def _told_plainly(name: str, kind: Kind) -> Iterator[None]:
    """Turns whatever a hub's client raises into one of our errors, with its first words and the deepest cause."""
    try:
        yield
    except Exception as error:  # their network libraries and exceptions changed with every major version
        words = _first_line(error.__cause__ or error)
        if isinstance(error, ValueError) or re.search(r"\b40[134]\b", words):
            raise SettingsError(
                f"there is no {kind} {name} to fetch: {words}; "
                "check the name and the revision, --kind model or dataset, and that you may see it"
            ) from error
        raise GroundlingError(
            f"the {kind} {name} was not fetched: {words}; check the network, and HF_ENDPOINT or MODELSCOPE_ENDPOINT "
            "where set, then run it again: what has arrived is kept"
        ) from error


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def _refuse_another(folder: Path, name: str, revision: str) -> None:
    """Two downloads in one folder would be neither."""
    try:
        held = json.loads((folder / LIST_NAME).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return
    if (held["name"], held["revision"]) != (name, revision):
        raise SettingsError(
            f"{folder} holds {held['name']} at {held['revision']}, not {name} at {revision}; "
            "choose another folder (--to), or the revision that is there (--revision)"
        )


def _hash_files(folder: Path) -> Iterator[tuple[str, str]]:
    """Path and SHA-256 of every file below the folder but hidden ones (the clients' notes) and the list itself."""
    for path in sorted(folder.rglob("*")):
        parts = path.relative_to(folder).parts
        if path.is_file() and not any(part.startswith(".") for part in parts) and parts != (LIST_NAME,):
            with path.open("rb") as file:
                yield "/".join(parts), hashlib.file_digest(file, "sha256").hexdigest()
