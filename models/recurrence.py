"""The network's memory: a diagonal recurrence h = (1 - z) h + z x', its three gates computed from the input alone.

No recurrent matrix to store or quantise, and the whole sequence is one pass over memory (minGRU, Feng et al. 2024,
arXiv 2410.01201). Three forms of the same thing: plain operations for one hop, a doubling scan in PyTorch for any
device, and a compiled loop with its own gradient for processors, which trains faster than the scan.
"""

import contextlib
import functools
import os
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from edge.suppress.network import SLOWEST

SOURCE = r"""
#include <torch/extension.h>
#include <ATen/Parallel.h>
#include <cmath>
#include <vector>

// Fast mathematics takes 1 / infinity by a Newton step and gets NaN, so the exponent is limited to 30.
static inline float sig(float x) { return 1.f / (1.f + expf(-fminf(fmaxf(x, -30.f), 30.f))); }

// gates: (batch, hops, rows, 3, width) as [z | x' | o], start: (batch, rows, width), all float32 and contiguous.
std::vector<torch::Tensor> forward(torch::Tensor gates, torch::Tensor start) {
  const int64_t B = gates.size(0), T = gates.size(1), N = gates.size(2), C = gates.size(4);
  auto held = torch::empty({B, T, N, C}, gates.options());
  auto shown = torch::empty({B, T, N, C}, gates.options());
  const float* g = gates.data_ptr<float>();
  const float* s = start.data_ptr<float>();
  float* h = held.data_ptr<float>();
  float* y = shown.data_ptr<float>();
  at::parallel_for(0, B, 1, [&](int64_t first, int64_t last) {
    for (int64_t b = first; b < last; ++b)
      for (int64_t t = 0; t < T; ++t)
        for (int64_t n = 0; n < N; ++n) {
          const float* row = g + ((b * T + t) * N + n) * 3 * C;
          const float* before = t ? h + ((b * T + t - 1) * N + n) * C : s + (b * N + n) * C;
          float* now = h + ((b * T + t) * N + n) * C;
          float* out = y + ((b * T + t) * N + n) * C;
#pragma GCC ivdep
          for (int64_t c = 0; c < C; ++c) {
            const float z = sig(fmaxf(row[c], SLOWEST)), x = 2.f * sig(2.f * row[C + c]) - 1.f;
            now[c] = before[c] + z * (x - before[c]);
            out[c] = sig(row[2 * C + c]) * now[c];
          }
        }
  });
  return {shown, held};
}

std::vector<torch::Tensor> backward(torch::Tensor gates, torch::Tensor start, torch::Tensor held, torch::Tensor slope,
                                    torch::Tensor end_slope) {
  const int64_t B = gates.size(0), T = gates.size(1), N = gates.size(2), C = gates.size(4);
  auto gate_slope = torch::empty_like(gates);
  auto carried = end_slope.clone();
  const float* g = gates.data_ptr<float>();
  const float* s = start.data_ptr<float>();
  const float* h = held.data_ptr<float>();
  const float* dy = slope.data_ptr<float>();
  float* dg = gate_slope.data_ptr<float>();
  float* carry = carried.data_ptr<float>();
  at::parallel_for(0, B, 1, [&](int64_t first, int64_t last) {
    for (int64_t b = first; b < last; ++b)
      for (int64_t t = T - 1; t >= 0; --t)
        for (int64_t n = 0; n < N; ++n) {
          const int64_t at = ((b * T + t) * N + n);
          const float* row = g + at * 3 * C;
          const float* before = t ? h + ((b * T + t - 1) * N + n) * C : s + (b * N + n) * C;
          const float* now = h + at * C;
          const float* down = dy + at * C;
          float* up = dg + at * 3 * C;
          float* keep = carry + (b * N + n) * C;
#pragma GCC ivdep
          for (int64_t c = 0; c < C; ++c) {
            const float z = sig(fmaxf(row[c], SLOWEST)), x = 2.f * sig(2.f * row[C + c]) - 1.f, o = sig(row[2 * C + c]);
            const float dh = keep[c] + o * down[c];
            up[c] = row[c] > SLOWEST ? dh * (x - before[c]) * z * (1.f - z) : 0.f;
            up[C + c] = dh * z * (1.f - x * x);
            up[2 * C + c] = down[c] * now[c] * o * (1.f - o);
            keep[c] = dh * (1.f - z);
          }
        }
  });
  return {gate_slope, carried};
}

PYBIND11_MODULE(TORCH_EXTENSION_NAME, module) {
  module.def("forward", &forward);
  module.def("backward", &backward);
}
"""


LONGEST_BUILD_S = 200
"""A build takes half a minute, three times that on a busy machine. PyTorch waits without end for the lock of another
build; one that is older was left behind by a process that was killed."""


def build_folder() -> Path:
    """Where the compiled loop is kept, by Python and PyTorch; a lock that nobody holds any more is removed."""
    top = Path(os.environ.get("TORCH_EXTENSIONS_DIR") or Path.home() / ".cache/torch_extensions")
    folder = top / f"quietbox-{sys.implementation.cache_tag}-{torch.__version__}"
    folder.mkdir(parents=True, exist_ok=True)
    lock = folder / "lock"
    with contextlib.suppress(OSError):
        if time.time() - lock.stat().st_mtime > LONGEST_BUILD_S:
            lock.unlink()
    return folder


@functools.cache
def compiled() -> Any:
    """The compiled loop, or None where there is no compiler: training is then slower, not different."""
    try:
        from torch.utils.cpp_extension import load_inline

        flags = ["-O3", "-ffast-math", "-march=native", "-fopenmp"]
        return load_inline(
            "quietbox_memory",
            SOURCE.replace("SLOWEST", f"{SLOWEST}f"),
            extra_cflags=flags,
            extra_ldflags=["-lmvec", "-lm"],
            build_directory=str(build_folder()),
        )
    except Exception as reason:  # whatever a toolchain can do wrong, PyTorch's own operations remain
        warnings.warn(f"no compiled recurrence ({type(reason).__name__}); training is slower", stacklevel=2)
        return None


class Loop(torch.autograd.Function):
    """The compiled loop as one differentiable operation."""

    @staticmethod
    def forward(ctx: Any, gates: Tensor, start: Tensor) -> tuple[Tensor, Tensor]:
        gates, start = gates.contiguous(), start.contiguous()
        shown, held = compiled().forward(gates, start)
        ctx.save_for_backward(gates, start, held)
        return shown, held[:, -1].clone()

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor, Tensor]:
        gates, start, held = ctx.saved_tensors
        gate_slope, carried = compiled().backward(gates, start, held, slopes[0].contiguous(), slopes[1].contiguous())
        return gate_slope, carried


def doubling_scan(keep: Tensor, add: Tensor) -> Tensor:
    """(batch, hops, ...): h[t] = keep[t] h[t-1] + add[t] in log2(hops) passes; stable because keep is in [0, 1]."""
    distance = 1
    while distance < keep.shape[1]:
        add = torch.cat([add[:, :distance], add[:, distance:] + keep[:, distance:] * add[:, :-distance]], 1)
        keep = torch.cat([keep[:, :distance], keep[:, distance:] * keep[:, :-distance]], 1)
        distance *= 2
    return add


def remember(gates: Tensor, start: Tensor, use_compiled: bool = True) -> tuple[Tensor, Tensor]:
    """Gates (batch, hops, rows, 3, width) before their sigmoids and tanh, [z | x' | o]; start (batch, rows, width).

    Returns what the output gate shows, (batch, hops, rows, width), and the last state.
    """
    if gates.shape[1] > 1 and use_compiled and gates.device.type == "cpu" and compiled() is not None:
        shown, last = Loop.apply(gates, start)
        return shown, last
    z, candidate, shutter = gates.unbind(3)
    z, candidate, shutter = torch.sigmoid(z.clamp(min=SLOWEST)), torch.tanh(candidate), torch.sigmoid(shutter)
    if gates.shape[1] == 1:
        held = start.unsqueeze(1) + z * (candidate - start.unsqueeze(1))
    else:
        add = z * candidate
        add = torch.cat([add[:, :1] + (1 - z[:, :1]) * start.unsqueeze(1), add[:, 1:]], 1)
        held = doubling_scan(1 - z, add)
    return shutter * held, held[:, -1]
