"""Dictionaries: training by its definition, codes, files, SAELens folders."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from circuitlab.core.errors import BadParameterError, ForeignFileError, ScoreFileError, UnknownNameError
from circuitlab.methods.sae import Dictionary, Training, load_dictionary, save_dictionary, train
from circuitlab.methods.sae.training import _loss

JUMP = {"activation": "jumprelu", "centred": False}


def rows(seeds: int = 2, n: int = 40, width: int = 6) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(seeds, n, 2, generator=generator) @ torch.randn(2, width, generator=generator)


def made(**changes) -> Dictionary:
    generator = torch.Generator().manual_seed(1)
    parts = {"encoder": torch.randn(5, 6, generator=generator), "encoder_bias": torch.randn(5, generator=generator)}
    parts |= {"decoder": torch.randn(5, 6, generator=generator), "bias": torch.randn(6, generator=generator)}
    return Dictionary(**(parts | changes))


def plain_training(x: torch.Tensor, settings: Training, seed: int) -> list[torch.Tensor]:
    """One dictionary, one step at a time, straight from the equations; Adam written out."""
    width, units = x.shape[1], settings.size
    generator = torch.Generator().manual_seed(seed)
    encoder = (torch.rand(units, width, generator=generator) * 2 - 1) / width**0.5
    decoder = (torch.rand(units, width, generator=generator) * 2 - 1) / units**0.5
    weights = [encoder, torch.zeros(units), decoder, torch.zeros(width)]
    first, second = ([torch.zeros_like(w) for w in weights] for _ in range(2))
    for step in range(1, settings.epochs + 1):
        encoder, encoder_bias, decoder, bias = (w.detach().requires_grad_() for w in weights)
        activations = torch.relu((x - bias) @ encoder.T + encoder_bias)
        loss = ((activations @ decoder + bias - x) ** 2).mean() + settings.sparsity * activations.abs().mean()
        gradients = torch.autograd.grad(loss, (encoder, encoder_bias, decoder, bias))
        for i, gradient in enumerate(gradients):
            first[i] = 0.9 * first[i] + 0.1 * gradient
            second[i] = 0.999 * second[i] + 0.001 * gradient**2
            hat, square = first[i] / (1 - 0.9**step), second[i] / (1 - 0.999**step)
            weights[i] = (weights[i] - settings.rate * hat / (square.sqrt() + 1e-8)).detach()
    return weights


def test_training_equals_the_equations_seed_by_seed() -> None:
    x, settings = rows(), Training(size=7, epochs=40, rate=1e-2)
    for found, seed, data in zip(train(x, settings, [3, 4]), [3, 4], x, strict=True):
        wanted = plain_training(data, settings, seed)
        for got, right in zip((found.encoder, found.encoder_bias, found.decoder, found.bias), wanted, strict=True):
            torch.testing.assert_close(got, right, atol=1e-4, rtol=1e-3)


def test_training_lowers_the_loss_and_explains_the_outputs() -> None:
    x = rows(1)
    short, long = (train(x, Training(size=20, epochs=epochs, rate=1e-2), [0])[0] for epochs in (1, 300))
    losses = [float(_loss(x, [p[None] for p in (d.encoder, d.encoder_bias, d.decoder, d.bias)], 0.02)[0]) for d in (short, long)]
    assert losses[1] < 0.2 * losses[0]
    assert long.explained(x[0]) > 0.95 > short.explained(x[0])


def test_more_sparsity_activates_fewer_units() -> None:
    x = rows(1)
    dense, sparse = (train(x, Training(size=20, epochs=200, rate=1e-2, sparsity=weight), [0])[0] for weight in (0.0, 0.5))
    assert (sparse.encode(x) > 0).float().mean() < (dense.encode(x) > 0).float().mean()


def test_options_do_what_they_say() -> None:
    x = rows(1) * 1000
    unit = train(x, Training(size=9, epochs=5, decoder="unit"), [0])[0]
    torch.testing.assert_close(unit.decoder.norm(dim=1), torch.ones(9))
    scaled, again = (train(data, Training(size=9, epochs=20, scale="rms"), [0])[0] for data in (x, x * 8))
    assert scaled.scale == pytest.approx(float(x.pow(2).mean().sqrt()))
    torch.testing.assert_close(scaled.encoder, again.encoder)
    assert torch.equal(scaled.codes(x), again.codes(x * 8))


def test_training_leaves_the_random_state_and_works_without_gradients() -> None:
    state = torch.get_rng_state()
    with torch.no_grad():
        train(rows(), Training(size=3, epochs=2), [0, 1])
    assert torch.equal(state, torch.get_rng_state())


def test_code_is_the_most_active_unit_and_silence_is_no_unit() -> None:
    dictionary = Dictionary(torch.eye(3), torch.tensor([0.0, 0.0, -1.0]), torch.eye(3), torch.zeros(3))
    outputs = torch.tensor([[2.0, 1.0, 0.0], [0.0, 0.0, 3.0], [-1.0, -1.0, 0.5]])
    assert dictionary.codes(outputs).tolist() == [0, 2, -1]
    assert dictionary.codes(outputs.reshape(1, 3, 3)).shape == (1, 3)


def test_bias_and_scale_enter_as_stated() -> None:
    dictionary, outputs = made(scale=2.5), torch.randn(4, 6)
    wanted = torch.relu((outputs / 2.5 - dictionary.bias) @ dictionary.encoder.T + dictionary.encoder_bias)
    torch.testing.assert_close(dictionary.encode(outputs), wanted)
    torch.testing.assert_close(dictionary.decode(wanted), 2.5 * (wanted @ dictionary.decoder + dictionary.bias))
    torch.testing.assert_close(made(centred=False).encode(outputs), torch.relu(outputs @ dictionary.encoder.T + dictionary.encoder_bias))


def test_other_activations() -> None:
    outputs = torch.randn(8, 6)
    before = made().encode(outputs)
    jump = made(activation="jumprelu", threshold=torch.full((5,), 1.0)).encode(outputs)
    torch.testing.assert_close(jump, torch.where(before > 1.0, before, 0.0))
    top = made(activation="topk", k=2).encode(outputs)
    assert ((top > 0).sum(1) <= 2).all() and torch.equal(top.amax(1), before.amax(1))


@pytest.mark.parametrize("kind", ["relu", "jumprelu", "topk"])
def test_files_give_back_the_same_dictionary(kind: str, tmp_path) -> None:
    extra = {"jumprelu": {"threshold": torch.rand(5)}, "topk": {"k": 3}, "relu": {"scale": 0.3}}[kind]
    dictionary, outputs = made(activation=kind, **extra), torch.randn(9, 6)
    back = load_dictionary(save_dictionary(dictionary, tmp_path / "here"))
    assert all(torch.equal(value, dictionary.tensors()[name]) for name, value in back.tensors().items())
    torch.testing.assert_close(back.encode(outputs), dictionary.encode(outputs))
    assert sorted(path.name for path in (tmp_path / "here").iterdir()) == ["dictionary.json", "dictionary.safetensors"]


def saelens_folder(folder, about: dict, dictionary: Dictionary, **more) -> None:
    tensors = {"W_enc": dictionary.encoder.T.contiguous(), "b_enc": dictionary.encoder_bias, "W_dec": dictionary.decoder}
    save_file(tensors | {"b_dec": dictionary.bias} | more, folder / "sae_weights.safetensors")
    (folder / "cfg.json").write_text(json.dumps({"d_in": 6, "d_sae": 5} | about))


@pytest.mark.parametrize(
    ("about", "tensors", "changes"),
    [
        ({"architecture": "standard", "apply_b_dec_to_input": True, "normalize_activations": "none"}, {}, {}),
        ({"apply_b_dec_to_input": False, "finetuning_scaling_factor": False}, {}, {"centred": False}),
        (
            {"architecture": "jumprelu", "apply_b_dec_to_input": False},
            {"threshold": torch.ones(5)},
            {"activation": "jumprelu", "centred": False},
        ),
        ({"architecture": "topk", "k": 2}, {}, {"activation": "topk", "k": 2}),
        ({"activation_fn_str": "topk", "activation_fn_kwargs": {"k": 2}}, {}, {"activation": "topk", "k": 2}),
    ],
)
def test_saelens_folders_are_read(about, tensors, changes, tmp_path) -> None:
    wanted = made(**changes, **tensors)
    saelens_folder(tmp_path, about, wanted, **tensors)
    outputs = torch.randn(9, 6)
    torch.testing.assert_close(load_dictionary(tmp_path).encode(outputs), wanted.encode(outputs))


@pytest.mark.parametrize(
    ("about", "said"),
    [
        ({"architecture": "gated"}, "architecture 'gated'"),
        ({"normalize_activations": "layer_norm"}, "normalize_activations='layer_norm'"),
        ({"activation_fn_str": "tanh-relu"}, "activation 'tanh-relu'"),
    ],
)
def test_saelens_folders_of_another_kind_are_refused(about, said, tmp_path) -> None:
    saelens_folder(tmp_path, about, made())
    with pytest.raises(ForeignFileError, match=said):
        load_dictionary(tmp_path)


def test_damaged_foreign_and_newer_files_are_named(tmp_path) -> None:
    with pytest.raises(ForeignFileError, match="holds no dictionary"):
        load_dictionary(tmp_path)
    folder = save_dictionary(made(), tmp_path / "one")
    config, weights = folder / "dictionary.json", folder / "dictionary.safetensors"
    about = json.loads(config.read_text())
    config.write_text(json.dumps(about | {"version": 99}))
    with pytest.raises(ForeignFileError, match="version 99"):
        load_dictionary(folder)
    config.write_text(json.dumps({key: value for key, value in about.items() if key != "scale"}))
    with pytest.raises(ScoreFileError, match="damaged"):
        load_dictionary(folder)
    config.write_text(json.dumps(about))
    weights.write_bytes(weights.read_bytes()[:-40])
    with pytest.raises(ScoreFileError, match="damaged"):
        load_dictionary(folder)
    config.write_text("{")
    with pytest.raises(ScoreFileError, match="damaged"):
        load_dictionary(folder)


def test_misuse_is_refused() -> None:
    with pytest.raises(BadParameterError, match="encodes outputs of width 6"):
        made().encode(torch.zeros(2, 7))
    with pytest.raises(BadParameterError, match="cannot have biases"):
        made(bias=torch.zeros(5))
    with pytest.raises(BadParameterError, match="incomplete"):
        made(activation="topk")
    with pytest.raises(UnknownNameError, match="Did you mean 'rms'"):
        Training(scale="rm")
    with pytest.raises(UnknownNameError, match="Did you mean 'unit'"):
        Training(decoder="units")
    with pytest.raises(BadParameterError, match="epochs=0"):
        Training(epochs=0)
    with pytest.raises(BadParameterError, match="do not fit 3 seeds"):
        train(rows(2), Training(), [1, 2, 3])
    assert np.isfinite(made().explained(torch.zeros(3, 6)))


@pytest.mark.parametrize("umask", [0o022, 0o002, 0o077], ids=oct)
def test_files_follow_the_umask(umask: int, tmp_path) -> None:
    before = os.umask(umask)
    try:
        save_dictionary(made(), tmp_path / "codes")
        save_dictionary(made(), tmp_path / "codes")
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "codes").iterdir()}
    assert modes == dict.fromkeys(("dictionary.json", "dictionary.safetensors"), 0o666 & ~umask)
