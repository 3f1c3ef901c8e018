"""Download a model repository from the Hugging Face hub: first its config, and the weights only if they can be used."""

from __future__ import annotations

from pathlib import Path

from circuitlab.core.errors import DownloadError
from circuitlab.model.weights.config import check_config

__all__ = ["download"]

_FILES = ["*.json", "model*.safetensors", "*.txt", "*.model", "*.jinja"]
_TIMEOUT = 10.0  # seconds to wait for the hub's answer about a name
_LONGEST = 300


def download(name: str, hint: str, *, trust_remote_code: bool = False) -> Path:
    """The folder of a hub model, downloaded unless the hub's cache has it; its config is checked before weights are downloaded.

    Parameters
    ----------
    name : str
        Name of the repository, for example ``"gpt2"`` or ``"EleutherAI/pythia-70m"``.
    hint : str
        Advice about the name if the hub does not have it.
    trust_remote_code : bool
        Whether the repository's code may be downloaded and run.

    Raises
    ------
    DownloadError
        If the hub cannot be reached, or has no such model, or access to it is not allowed.
    ModelError
        If its config shows that circuitlab cannot run it.
    """
    from huggingface_hub import HfApi, hf_hub_download, snapshot_download  # noqa: PLC0415
    from huggingface_hub.errors import EntryNotFoundError, HFValidationError, HTTPError  # noqa: PLC0415

    files = [*_FILES, "*.py"] if trust_remote_code else _FILES
    reason: Exception | None = None
    try:
        try:
            revision = HfApi().model_info(name, timeout=_TIMEOUT).sha
        except (OSError, HTTPError) as error:  # one try only: the hub's download functions retry for half a minute
            reason, revision = error, None
        offline = revision is None
        config = Path(hf_hub_download(name, "config.json", revision=revision, local_files_only=offline))
        check_config(config.parent, trust_remote_code=trust_remote_code)
        return Path(snapshot_download(name, revision=revision, local_files_only=offline, allow_patterns=files, ignore_patterns=["*/*"]))
    except (OSError, HTTPError, EntryNotFoundError, HFValidationError) as error:
        message = " ".join(str(reason or error).split())[:_LONGEST] or type(error).__name__
        what = f"{name!r} is neither an alias nor a local path, and it could not be downloaded from the hub: {message}."
        raise DownloadError(what, f"{hint}Check the name and the network, or pass a local folder.") from (reason or error)
