"""The generator's training step in PyTorch, the yardstick of `train_throughput.py`, which starts this file.

  python benchmarks/pytorch_step.py --size=128 --batch=16 --threads=2

The architecture, losses and optimizer are those of `dpr_jax`, written anew for PyTorch's own idioms. Answers every line
of its standard input with the seconds that one step took, so that two frameworks can take turns. Needs only PyTorch.
"""

import argparse
import sys
import time

import torch
from torch import nn
from torch.nn import functional

BASE_FILTERS = 16
LIGHT_CHANNELS = 27


class ResidualBlock(nn.Module):
  """Two 3x3 convolutions and a shortcut."""

  def __init__(self, inputs: int, outputs: int, batch_norm: bool):
    super().__init__()
    norm = nn.BatchNorm2d if batch_norm else nn.InstanceNorm2d
    self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
    self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
    self.norm1, self.norm2 = norm(outputs), norm(outputs)
    self.shortcut = nn.Conv2d(inputs, outputs, 1, bias=False) if inputs != outputs else nn.Identity()

  def forward(self, x):
    y = functional.relu(self.norm1(self.conv1(x)), inplace=True)
    return functional.relu(self.norm2(self.conv2(y)) + self.shortcut(x), inplace=True)


class LightNet(nn.Module):
  """The light's way out of the bottleneck and into it."""

  def __init__(self):
    super().__init__()
    self.estimate = nn.Sequential(nn.Linear(LIGHT_CHANNELS, 128, bias=False), nn.PReLU(), nn.Linear(128, 9, bias=False))
    self.embed = nn.Sequential(nn.Linear(9, 128, bias=False), nn.PReLU(), nn.Linear(128, LIGHT_CHANNELS, bias=False))

  def forward(self, x, light):
    features, face = x.split([LIGHT_CHANNELS, x.shape[1] - LIGHT_CHANNELS], dim=1)
    embedded = functional.relu(self.embed(light))[:, :, None, None].expand_as(features)
    return torch.cat([embedded, face], dim=1), self.estimate(features.mean((2, 3)))


class Level(nn.Module):
  """One level of the hourglass around the next."""

  def __init__(self, outer: int, inner: int, middle: nn.Module):
    super().__init__()
    self.skip = ResidualBlock(outer, outer, batch_norm=False)
    self.down = ResidualBlock(outer, inner, batch_norm=True)
    self.middle = middle
    self.up = ResidualBlock(inner, outer, batch_norm=False)

  def forward(self, x, light):
    y, source_light = self.middle(self.down(functional.max_pool2d(x, 2)), light)
    return functional.interpolate(self.up(y), scale_factor=2) + self.skip(x), source_light


class HourglassNet(nn.Module):
  """The 512 network, all its skip connections on."""

  def __init__(self):
    super().__init__()
    c = BASE_FILTERS
    self.stem = nn.Sequential(nn.Conv2d(1, c, 5, padding=2), nn.BatchNorm2d(c), nn.ReLU(inplace=True))
    middle = LightNet()
    for outer, inner in ((4 * c, 8 * c + LIGHT_CHANNELS), (2 * c, 4 * c), (c, 2 * c), (c, c)):
      middle = Level(outer, inner, middle)
    self.trunk = middle
    head = []
    for kernel_size in (3, 1, 1):
      head += [nn.Conv2d(c, c, kernel_size, padding=kernel_size // 2), nn.BatchNorm2d(c), nn.ReLU(inplace=True)]
    self.head = nn.Sequential(*head, nn.Conv2d(c, 1, 1), nn.Sigmoid())

  def forward(self, luminance, light):
    features, source_light = self.trunk(self.stem(luminance), light)
    return self.head(features), source_light


def losses(relit, target, source_light, light):
  """Image L1, gradient L1 and light L2."""
  error = relit - target
  return (
    error.abs().mean()
    + error.diff(dim=3).abs().mean()
    + error.diff(dim=2).abs().mean()
    + (source_light - light).square().mean()
  )


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--size", type=int, default=128)
  parser.add_argument("--batch", type=int, default=16)
  parser.add_argument("--threads", type=int, default=2)
  parser.add_argument("--layout", choices=("channels_last", "contiguous"), default="channels_last")
  parser.add_argument("--compile", action="store_true", help="torch.compile; needs a C++ compiler on a CPU")
  arguments = parser.parse_args()

  torch.set_num_threads(arguments.threads)
  torch.manual_seed(0)
  device = "cuda" if torch.cuda.is_available() else "cpu"
  memory_format = torch.channels_last if arguments.layout == "channels_last" else torch.contiguous_format
  network = HourglassNet().to(device, memory_format=memory_format).train()
  optimizer = torch.optim.Adam(network.parameters(), lr=1e-3, fused=True)
  shape = (arguments.batch, 1, arguments.size, arguments.size)
  photo, target = (torch.rand(shape, device=device).to(memory_format=memory_format) for _ in range(2))
  light, target_light = (torch.randn(arguments.batch, 9, device=device) for _ in range(2))

  def loss_of(photo, target_light, target, light):
    relit, source_light = network(photo, target_light)
    return losses(relit, target, source_light, light)

  if arguments.compile:
    loss_of = torch.compile(loss_of)

  def step() -> None:
    optimizer.zero_grad(set_to_none=True)
    loss_of(photo, target_light, target, light).backward()
    optimizer.step()
    if device == "cuda":
      torch.cuda.synchronize()

  for _ in range(3):
    step()
  print(f"torch {torch.__version__}, {device}, {torch.get_num_threads()} threads, {arguments.layout}", flush=True)
  for _ in sys.stdin:
    start = time.perf_counter()
    step()
    print(time.perf_counter() - start, flush=True)


if __name__ == "__main__":
  main()
