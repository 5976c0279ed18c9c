"""Fused kernels of DiffusionGemma's layers, each with a twin in plain torch.

On a CUDA device the kernels are Triton's; everywhere else, and in tests as the reference, the twins
(suffix `_plain`) run. None of them waits for the device or reads values of tensors on the host, so
that a whole denoising step can be captured in a CUDA graph. Internal: what is in here may change.
"""
