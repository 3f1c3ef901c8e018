"""A model repository of the Hugging Face hub as a folder on the disk: its config first, weights only if they can be used."""

from __future__ import annotations

from pathlib import Path

from circuitlab.core.errors import DownloadError
from circuitlab.model.weights.config import check_config

__all__ = ["download"]

_FILES = ["*.json", "model*.safetensors", "*.txt", "*.model", "*.jinja"]
_TIMEOUT = 10.0  # seconds to wait for the hub to say that it knows a name
_LONGEST = 300


def download(name: str, hint: str, *, trust_remote_code: bool = False) -> Path:
    """The folder of a hub model, fetched unless the hub's own cache holds it; its config is checked before its weights are fetched.

    Parameters
    ----------
    name : str
        Name of the repository, for example ``"gpt2"`` or ``"EleutherAI/pythia-70m"``.
    hint : str
        What to say of the name where the hub does not deliver it.
    trust_remote_code : bool
        Whether the repository's code may be fetched and run.

    Raises
    ------
    DownloadError
        If the hub cannot be reached, or has no such model that may be read.
    ModelError
        If its config says that it cannot be served.
    """
    from huggingface_hub import HfApi, hf_hub_download, snapshot_download  # noqa: PLC0415
    from huggingface_hub.errors import EntryNotFoundError, HFValidationError, HTTPError  # noqa: PLC0415

    files = [*_FILES, "*.py"] if trust_remote_code else _FILES
    reason: Exception | None = None
    try:
        try:
            revision = HfApi().model_info(name, timeout=_TIMEOUT).sha
        except (OSError, HTTPError) as error:  # one try: the hub's own downloads repeat theirs for half a minute
            reason, revision = error, None
        offline = revision is None
        config = Path(hf_hub_download(name, "config.json", revision=revision, local_files_only=offline))
        check_config(config.parent, trust_remote_code=trust_remote_code)
        return Path(snapshot_download(name, revision=revision, local_files_only=offline, allow_patterns=files, ignore_patterns=["*/*"]))
    except (OSError, HTTPError, EntryNotFoundError, HFValidationError) as error:
        said = " ".join(str(reason or error).split())[:_LONGEST] or type(error).__name__
        what = f"{name!r} is neither an alias nor a local path, and the hub did not deliver it: {said}."
        raise DownloadError(what, f"{hint}Check the name and the network, or pass a local folder.") from (reason or error)
