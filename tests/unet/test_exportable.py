"""The forward pass as others see it: one graph, without branches on data, writes in place, or what
is done for this CPU's speed.
"""

import json
from pathlib import Path

import pytest
import torch

from archsearch.unet import units
from archsearch.unet.config import UNetConfig
from archsearch.unet.model import FAST_HEAD, AttentionLayer, UNet, example_inputs

CONFIGS = {
    path.stem: UNetConfig.model_validate(json.loads(path.read_text())["config"])
    for path in sorted((Path(__file__).parents[1] / "golden" / "configs").glob("*.json"))
    if path.stem
    in (
        "every-option",
        "every-later-option",
        "every-newest-option",
        "mixed-blocks",
        "guidance-weight",
    )
}
every_config = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)


def made(config: UNetConfig) -> tuple[UNet, tuple[torch.Tensor, ...], torch.Tensor]:
    torch.manual_seed(0)
    network, inputs = UNet(config).eval(), example_inputs(config)
    with torch.no_grad():
        return network, inputs, network(*inputs)


@every_config
def test_the_compiler_sees_one_graph(config: UNetConfig) -> None:
    network, inputs, expected = made(config)
    compiled = torch.compile(
        network, backend="eager", fullgraph=True
    )  # a break of the graph would raise
    with torch.no_grad():
        torch.testing.assert_close(compiled(*inputs), expected, rtol=1e-4, atol=1e-5)


@every_config
def test_an_exported_program_changes_nothing_in_place(config: UNetConfig) -> None:
    network, inputs, expected = made(config)
    program = torch.export.export(network, inputs)
    operators = [node.target for node in program.graph.nodes if hasattr(node.target, "_schema")]
    assert operators
    assert [str(operator) for operator in operators if operator._schema.is_mutable] == []
    torch.testing.assert_close(program.module()(*inputs), expected, rtol=1e-4, atol=1e-5)


@every_config
def test_a_trace_has_plain_attention_for_every_softmax_layer(config: UNetConfig) -> None:
    network, inputs, _ = made(config)
    graph = str(torch.jit.trace(network, inputs, check_trace=False).inlined_graph)
    layers = [
        layer
        for layer in network.modules()
        if isinstance(layer, AttentionLayer) and layer.normalizer == "softmax"
    ]
    assert graph.count("aten::scaled_dot_product_attention") == len(layers)
    assert "aten::pad" not in graph
    assert "aten::copy_" not in graph


@pytest.mark.parametrize("dim", [1, FAST_HEAD - 6, FAST_HEAD])
def test_narrow_heads_are_filled_up_without_a_trace(dim: int) -> None:
    """On the CPU they go through the kernel's fast width: the same output and gradients as the
    plain operation.
    """
    torch.manual_seed(0)
    layer = AttentionLayer(units.SelfAttention(4 * dim, 20, 4, False, "softmax"))
    x = torch.randn(2, 20, 4 * dim)
    with torch.no_grad():
        traced = torch.jit.trace(layer, (x,), check_trace=False)
    results = []
    for module in (layer, traced):
        layer.zero_grad()
        output = module(x)
        output.square().sum().backward()
        results.append(
            [
                output.detach(),
                *(
                    parameter.grad.clone()
                    for parameter in layer.parameters()
                    if parameter.grad is not None
                ),
            ]
        )
    for ours, plain in zip(*results, strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-4, atol=1e-5)
