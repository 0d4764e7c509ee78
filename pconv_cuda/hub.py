"""Networks on the Hugging Face hub: ``user/repo``, or ``user/repo@revision``. The extra ``[hub]``.

A path that exists, one whose first part is an existing folder, and a text that begins with ``.``, ``/`` or ``~`` or
ends in ``/`` never lead to the hub. ``HF_ENDPOINT``, ``HF_HOME``, ``HF_TOKEN`` and ``HF_HUB_OFFLINE`` mean what they
mean to huggingface_hub.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pconv_cuda.errors import PConvError, require
from pconv_cuda.files import temporary_folder

if TYPE_CHECKING:
    from pconv_cuda.models import InpaintingNetwork

__all__ = ["download", "is_repository", "push"]

_REPOSITORY = re.compile(r"([A-Za-z0-9][\w.-]{0,95})/([A-Za-z0-9][\w.-]{0,95})(?:@([\w./-]{1,255}))?", re.ASCII)
_FILES = (".safetensors", ".pt", ".pth", ".ckpt", ".bin", ".pkl", ".h5", ".hdf5", ".keras", ".onnx", ".pt2")
_CARD = """---
library_name: pconv_cuda
pipeline_tag: image-to-image
tags: [inpainting, partial-convolution]
---
# {name}
A network of pconv_cuda, class `{kind}`, which fills irregular holes in pictures.

```python
from pconv_cuda import {kind}, inpaint

network = {kind}.from_pretrained("{name}")
filled = inpaint(network, picture, mask)  # PIL or numpy: white is the hole
```
On the command line: `pconv inpaint photo.jpg --mask hole.png -o restored.png --weights {name}`.
"""
_GRID_CARD = """---
library_name: pconv_cuda
tags: [inpainting, partial-convolution, gridded-data]
---
# {name}
A network of pconv_cuda, class `{kind}`, which fills gaps in gridded data.

```python
from pconv_cuda import fill

filled = fill("{name}", array)  # numpy, torch or xarray; NaN is missing
```
On the command line: `pconv fill data.nc --var NAME -o filled.nc --weights {name}`.
"""


def is_repository(path: str | Path) -> bool:
    """Whether a path that does not exist can be the name of a repository on the hub."""
    text = str(path)  # as it was written: a Path has no ./ and no last /
    found = _REPOSITORY.fullmatch(text)
    return found is not None and not text.lower().endswith(_FILES) and not Path(found[1]).exists()


def download(repository: str, files: tuple[str, str]) -> Path:
    """The weights of a repository, from the hub or from huggingface_hub's cache.

    Args:
        repository: ``user/repo`` or ``user/repo@revision``, a branch, tag or commit.
        files: names of the weights and of the configuration, which may be missing.

    Returns:
        The weights' file, beside which the configuration lies.

    Raises:
        PConvError: no such repository or revision, one without such a file, a gated one, or no
            network and nothing in the cache.
        MissingExtra: huggingface_hub is not installed.
    """
    why = f"weights: {repository} does not exist here; taken for a repository on a hub (the extra [hub]) it"
    hub = require("huggingface_hub", "hub", why=why)
    name, _, revision = repository.partition("@")
    where: dict[str, Any] = {"revision": revision or None, "endpoint": os.environ.get("HF_ENDPOINT")}
    with _in_words(f"weights: {repository}"):
        with contextlib.suppress(require("huggingface_hub.errors", "hub").EntryNotFoundError):
            hub.hf_hub_download(name, files[1], **where)
        return Path(hub.hf_hub_download(name, files[0], **where))


def push(network: InpaintingNetwork, repository: str, *, private: bool | None, message: str, token: str | None) -> str:
    """See :meth:`pconv_cuda.models.InpaintingNetwork.push_to_hub`."""
    hub = require("huggingface_hub", "hub", why="push_to_hub (the extra [hub])")
    found = _REPOSITORY.fullmatch(repository)
    if not found or found[3]:
        raise PConvError(f"repository: expected user/repo, got {repository!r}")
    with temporary_folder("pconv-hub-") as folder, _in_words(f"push_to_hub: {repository}"):
        network.save_pretrained(folder)
        api = hub.HfApi(endpoint=os.environ.get("HF_ENDPOINT"), token=token)
        api.create_repo(repository, private=private, exist_ok=True)
        if not api.file_exists(repository, "README.md"):  # an existing one is kept
            card = _GRID_CARD if network.not_for_pictures else _CARD
            card = card.format(name=repository, kind=type(network).__name__)
            (folder / "README.md").write_text(card, encoding="utf-8")
        done = api.upload_folder(repo_id=repository, folder_path=folder, commit_message=message)
    return str(done.commit_url)


@contextlib.contextmanager
def _in_words(what: str) -> Iterator[None]:
    """Errors of the library as one sentence each, without its warnings of every try."""
    errors = require("huggingface_hub.errors", "hub")
    logging = require("huggingface_hub.utils.logging", "hub")
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    except errors.GatedRepoError as error:
        raise PConvError(
            f"{what}: its owner has to let you in: ask on its page, then log in (hf auth login)"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise PConvError(
            f"{what} is neither a path here nor a repository on the hub that you may see (a private one: hf auth login)"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise PConvError(f"{what}: the repository has no such revision") from error
    except errors.LocalEntryNotFoundError as error:
        raise PConvError(
            f"{what} does not exist here, is not in the hub's cache, and the hub cannot be reached (no network, or "
            "HF_HUB_OFFLINE is set)"
        ) from error
    except errors.EntryNotFoundError as error:
        raise PConvError(
            f"{what}: the repository has no model.safetensors; expected one of push_to_hub or save_pretrained"
        ) from error
    except (errors.HfHubHTTPError, errors.OfflineModeIsEnabled, errors.HFValidationError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:  # of this machine, such as a full disk
            raise
        # requests' errors are OSErrors without a number
        said = "cannot be reached" if _is_of_http_library(error) else "answered"
        raise PConvError(f"{what}: the hub {said}: {str(error).strip()[:300]}") from error
    except Exception as error:
        if not _is_of_http_library(error):
            raise
        raise PConvError(f"{what}: the hub cannot be reached: {str(error)[:300]}") from error
    finally:
        logging.set_verbosity(verbosity)


def _is_of_http_library(error: Exception) -> bool:
    """Which library for HTTP there is depends on huggingface_hub's version."""
    return type(error).__module__.startswith(("httpx", "httpcore", "requests", "urllib3"))
