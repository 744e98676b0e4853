"""The strided 1x1 convolutions of the encoder: right numbers, and no write past a buffer on any processor."""

import os
import subprocess
import sys

import pytest
import torch
from torch import nn

from nvs_depth.models.encoder import StridedPointwise
from nvs_depth.models.options import ModelOptions
from nvs_depth.models.synthesis import SynthesisNetwork

NARROW_STEP = """
import torch
from nvs_depth.models.encoder import Encoder
from nvs_depth.models.options import ModelOptions
torch.set_num_threads(1)
for width in (0.0625, 0.09375):
    encoder = Encoder(ModelOptions(image_side=64, width=width, encoder_init="default"))
    encoder = encoder.to(memory_format=torch.channels_last)
    for _ in range(3):
        encoder(torch.rand(2, 3, 64, 64)).latent.sum().backward()
"""


@pytest.mark.parametrize("size", [(8, 8), (7, 9), (1, 2)])
def test_picking_first_equals_the_strided_convolution(size):
    torch.manual_seed(0)
    ours = StridedPointwise(4, 6, stride=2).to(memory_format=torch.channels_last)
    plain = nn.Conv2d(4, 6, 1, stride=2, bias=False)
    plain.load_state_dict(ours.state_dict())
    x = torch.randn(3, 4, *size)
    mine, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    a, b = ours(mine.contiguous(memory_format=torch.channels_last)), plain(theirs)
    torch.testing.assert_close(a, b)
    a.square().sum().backward()
    b.square().sum().backward()
    torch.testing.assert_close(mine.grad, theirs.grad)
    torch.testing.assert_close(ours.weight.grad, plain.weight.grad)


def test_no_other_strided_1x1_convolution_is_in_the_network():
    network = SynthesisNetwork(ModelOptions(image_side=64, width=0.0625, encoder_init="default"))
    strided = [
        module
        for module in network.modules()
        if isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1) and module.stride != (1, 1)
    ]
    assert strided
    assert all(type(module) is StridedPointwise for module in strided)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs glibc's checking allocator")
def test_training_narrow_networks_stays_inside_its_buffers():
    checked = {"LD_PRELOAD": "libc_malloc_debug.so.0", "MALLOC_CHECK_": "3", "ONEDNN_MAX_CPU_ISA": "AVX2"}
    done = subprocess.run([sys.executable, "-c", NARROW_STEP], env=os.environ | checked, timeout=120)
    assert done.returncode == 0
