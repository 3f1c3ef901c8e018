"""Dictionaries on disk: a folder of safetensors and JSON, in circuitlab's layout or that of SAELens."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from circuitlab.core.errors import BadParameterError, ForeignFileError, ScoreFileError
from circuitlab.core.files import replace_file
from circuitlab.methods.sae.dictionary import Dictionary

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["load_dictionary", "save_dictionary"]

_WEIGHTS, _CONFIG = "dictionary.safetensors", "dictionary.json"
_SAELENS_WEIGHTS, _SAELENS_CONFIG = "sae_weights.safetensors", "cfg.json"
_KIND, _VERSION = "circuitlab.dictionary", 1
_SAELENS_NAMES = {"W_enc": "encoder", "b_enc": "encoder_bias", "W_dec": "decoder", "b_dec": "bias", "threshold": "threshold"}
_SAELENS_PLAIN = ("normalize_activations", "reshape_activations", "finetuning_scaling_factor", "rescale_acts_by_decoder_norm")
"""Settings of SAELens that change inputs or activations; all must be off."""
_SAELENS_KINDS = {"standard": "relu", "jumprelu": "jumprelu", "topk": "topk"}


def save_dictionary(dictionary: Dictionary, folder: str | Path) -> Path:
    """Write ``dictionary.safetensors`` and ``dictionary.json`` into a folder, creating it if necessary; each file is replaced atomically.

    Files get the permissions that the umask allows.

    Returns
    -------
    Path
        The folder.

    Raises
    ------
    StoreError
        If the disk is full or the folder cannot be written.
    """
    from safetensors.torch import save  # noqa: PLC0415 - only files need it

    path = Path(folder)
    config = {
        "kind": _KIND,
        "version": _VERSION,
        "n_units": dictionary.n_units,
        "d_model": dictionary.d_model,
        "scale": dictionary.scale,
        "activation": dictionary.activation,
        "k": dictionary.k,
        "centred": dictionary.centred,
    }
    text = (json.dumps(config, indent=2) + "\n").encode()
    replace_file(path / _WEIGHTS, lambda target: target.write_bytes(save(dictionary.tensors())))
    replace_file(path / _CONFIG, lambda target: target.write_bytes(text))
    return path


def load_dictionary(folder: str | Path) -> Dictionary:
    """Read a dictionary that `save_dictionary` wrote, or a SAELens folder of ``sae_weights.safetensors`` and ``cfg.json``.

    Of SAELens, the architectures standard, jumprelu and topk without transformed inputs can be read.

    Raises
    ------
    ForeignFileError
        If the folder holds no dictionary, one of a newer version, or one of an unknown architecture.
    ScoreFileError
        If a file is damaged: its text or its tensors cannot be read, or do not fit each other.
    """
    path = Path(folder)
    for weights, config, build in ((_WEIGHTS, _CONFIG, _ours), (_SAELENS_WEIGHTS, _SAELENS_CONFIG, _saelens)):
        if (path / weights).is_file() and (path / config).is_file():
            about, tensors = _read(path / config, path / weights)
            try:
                return build(about, tensors, path)
            except ForeignFileError:
                raise
            except (BadParameterError, KeyError, TypeError, ValueError, AttributeError, ArithmeticError, RuntimeError) as error:
                what = f"{path} is damaged: {error}"
                raise ScoreFileError(what, "Save or download the dictionary again.") from error
    what = f"{path} holds no dictionary: neither {_WEIGHTS} and {_CONFIG} nor {_SAELENS_WEIGHTS} and {_SAELENS_CONFIG}."
    raise ForeignFileError(what, "Give the folder that holds both files.")


def _read(config: Path, weights: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    from safetensors import SafetensorError  # noqa: PLC0415
    from safetensors.torch import load_file  # noqa: PLC0415

    try:
        about = json.loads(config.read_text(encoding="utf-8"))
        tensors = load_file(weights)
    except (OSError, ValueError, RecursionError, SafetensorError) as error:
        what = f"{config.parent} is damaged: {error}."
        raise ScoreFileError(what, "Save or download the dictionary again.") from error
    if not isinstance(about, dict):
        raise ScoreFileError(f"{config} is damaged: it is not a JSON object.", "Save or download the dictionary again.")
    return about, tensors


def _ours(about: dict[str, Any], tensors: dict[str, Tensor], place: Path) -> Dictionary:
    if about.get("kind") != _KIND or int(about.get("version", 0)) > _VERSION:
        what = f"{place / _CONFIG} is of kind {about.get('kind')!r}, version {about.get('version')!r}; this is version {_VERSION}."
        raise ForeignFileError(what, "Update circuitlab, or train the dictionary again.")
    plain = {name: about[name] for name in ("scale", "activation", "k", "centred")}
    return Dictionary(**tensors, **plain)


def _saelens(about: dict[str, Any], tensors: dict[str, Tensor], place: Path) -> Dictionary:
    kind, function = str(about.get("architecture", "standard")), str(about.get("activation_fn_str", "relu"))
    changed = [name for name in _SAELENS_PLAIN if about.get(name) not in {None, False, "none"}]
    if kind not in _SAELENS_KINDS or function not in {"relu", "topk"} or changed:
        what = f"{place} holds a SAELens dictionary of architecture {kind!r}, activation {function!r}"
        what += f", with {', '.join(f'{name}={about[name]!r}' for name in changed)}." if changed else "."
        raise ForeignFileError(what, f"Use one of {sorted(_SAELENS_KINDS)} without transformed inputs or activations.")
    parameters = {ours: tensors[theirs].float() for theirs, ours in _SAELENS_NAMES.items() if theirs in tensors}
    parameters["encoder"] = parameters["encoder"].T.contiguous()
    activation: Any = "topk" if function == "topk" else _SAELENS_KINDS[kind]
    k = about.get("k", (about.get("activation_fn_kwargs") or {}).get("k"))
    return Dictionary(**parameters, activation=activation, k=k, centred=bool(about.get("apply_b_dec_to_input", True)))
