"""FOR TESTS ONLY: declares the two operators that a torchvision built for CUDA cannot bring along.

Must run in every process before torchvision is imported; no operator of it can be called.
"""

import os

if os.environ.get("SGLANG_USE_CPU_ENGINE") == "1":
    import torch

    _library = torch.library.Library("torchvision", "DEF")
    _library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
