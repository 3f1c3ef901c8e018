"""The same sweeps through TransformerLens' own functions, on a few complete layers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from flops import now

from circuitlab.metrics import LogitDiff
from circuitlab.model.transformer_lens import to_bridge

__all__ = ["PEERS", "peer_attribution", "peer_sweep"]

PEERS = {
    "heads": ("get_act_patch_attn_head_out_all_pos", ("layer", "head")),
    "heads_by_position": ("get_act_patch_attn_head_out_by_pos", ("layer", "pos", "head")),
    "resid_by_position": ("get_act_patch_resid_pre", ("layer", "pos")),
    "attn_by_position": ("get_act_patch_attn_out", ("layer", "pos")),
    "mlp_by_position": ("get_act_patch_mlp_out", ("layer", "pos")),
    "q": ("get_act_patch_attn_head_q_all_pos", ("layer", "head")),
    "k": ("get_act_patch_attn_head_k_all_pos", ("layer", "head")),
    "v": ("get_act_patch_attn_head_v_all_pos", ("layer", "head")),
    "pattern": ("get_act_patch_attn_head_pattern_all_pos", ("layer", "head")),
}
"""Kind of sweep -> the function in transformer_lens.patching, and the axes of its result."""

_LAYERS = (0.1, 0.5, 1.0)


def peer_sweep(model: Any, batch: Any, kind: str) -> dict[str, Any]:
    """Time three complete layers, one after the other; every layer costs the same, so the median stands for all.

    Returns
    -------
    dict
        ``seconds`` (extrapolated to all layers), ``layers``, ``values``: mean metric of each patched run, (layer, ...).
    """
    from transformer_lens import patching

    name, axes = PEERS[kind]
    sweep = getattr(patching, name).keywords
    spec = model.spec
    layers = sorted({min(spec.n_layers - 1, int(share * (spec.n_layers - 1) + 0.5)) for share in _LAYERS})
    sizes = {"pos": batch.clean.shape[1], "head": spec.n_kv_heads if kind in {"k", "v"} else spec.n_heads}
    metric = LogitDiff()
    bridge = to_bridge(model.root)
    seconds, values = [], []
    started = now()
    _, cache = bridge.run_with_cache(batch.clean)
    caching = now() - started
    for layer in layers:
        index = np.stack(np.meshgrid([layer], *[range(sizes[axis]) for axis in axes[1:]], indexing="ij"), -1).reshape(-1, len(axes))
        started = now()
        found = patching.generic_activation_patch(
            bridge,
            batch.corrupt,
            cache,
            lambda logits: metric(logits[:, -1], batch).mean(),
            patch_setter=sweep["patch_setter"],
            activation_name=sweep["activation_name"],
            index_df=pd.DataFrame(index, columns=list(axes)),
        )
        seconds.append(now() - started)
        values.append(found.detach().cpu().numpy().reshape([sizes[axis] for axis in axes[1:]]))
    return {"seconds": caching + float(np.median(seconds)) * spec.n_layers, "layers": layers, "values": np.stack(values)}


def peer_attribution(model: Any, batch: Any) -> dict[str, Any]:
    """TransformerLens' node attribution patching: one pair at a time, and its metric cannot know which pair, so every pair is timed with
    the answers of the first."""
    from transformer_lens.tools.analysis.attribution_patching import attribution_patch

    first = batch.select([0])
    bridge = to_bridge(model.root)
    started = now()
    attribution_patch(bridge, batch.clean, batch.corrupt, lambda logits: LogitDiff()(logits[:, -1], first).mean())
    return {"seconds": now() - started, "layers": [], "values": np.zeros(0)}
