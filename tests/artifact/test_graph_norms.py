"""One graph for all modalities, each with norms of its own."""

from copy import deepcopy

import numpy as np
import torch
from small_export import mixed_plan, small_config

from small_joint import shake
from unpaired.artifact.graph import GainsGraph
from unpaired.methods import method_of
from unpaired.models import Joint, gains_form


def test_the_graph_of_all_modalities_chooses_the_norms() -> None:
    config = small_config("V3", "model.norms=private")
    joint = method_of(config).joint(config, mixed_plan())
    assert isinstance(joint, Joint)
    shake(joint, 0.2)
    kept = gains_form(joint).eval()
    graph = GainsGraph(deepcopy(kept)).eval()
    exported = torch.export.export(graph, (torch.zeros(1, 6, 16, 24), torch.tensor([0])))
    for k, m in enumerate(kept.modalities):
        x = torch.from_numpy(np.random.default_rng(k).normal(size=(1, 6, 16, 24))).float()
        width = kept.stems[m][0].in_channels
        expected = kept(x[:, :width], m).logits
        for program in (graph, exported.module()):
            torch.testing.assert_close(
                program(x, torch.tensor([k])), expected, atol=1e-4, rtol=1e-4
            )
