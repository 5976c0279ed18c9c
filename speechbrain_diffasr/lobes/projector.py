"""From acoustic frames to embeddings that a language model can read."""

from torch import nn


class ConvProjector(nn.Module):
    """Maps acoustic frames into the embedding space of a language model.

    Convolutions of stride 2 shorten the sequence, a linear layer widens it: with three of them
    30 s of Whisper-small become 188 embeddings of 160 ms each.

    Arguments
    ---------
    input_size : int
        Width of a frame (768 for Whisper-small).
    hidden_size : int
        Channels of the convolutions.
    output_size : int
        Width of the language model's embeddings (2816 for DiffusionGemma 26B-A4B).
    num_convs : int
        Convolutions, each of which halves the frame rate. Default: 3.
    kernel_size : int
        Frames under each convolution, odd. Default: 3.
    output_rms : float, optional
        Root mean square to which each embedding is scaled. Token embeddings enter DiffusionGemma
        multiplied by the root of its width, at about 1; audio that is much louder or fainter is
        not heard. Default: no scaling.
    dropout : float
        Share of channels that training leaves out, behind each convolution. Default: 0.

    Example
    -------
    >>> import torch
    >>> projector = ConvProjector(input_size=768, hidden_size=1408, output_size=2816)
    >>> projector(torch.rand(2, 1500, 768)).shape
    torch.Size([2, 188, 2816])
    >>> sum(p.numel() for p in projector.parameters())
    19110784
    """

    def __init__(
        self,
        input_size,
        hidden_size,
        output_size,
        num_convs=3,
        kernel_size=3,
        output_rms=None,
        dropout=0.0,
    ):
        super().__init__()
        if kernel_size % 2 == 0:
            raise ValueError(
                f"ConvProjector: kernel_size: {kernel_size} is even; choose an odd one"
            )
        widths = [input_size] + [hidden_size] * num_convs
        self.convs = nn.ModuleList(
            nn.Conv1d(width, hidden_size, kernel_size, stride=2, padding=kernel_size // 2)
            for width in widths[:-1]
        )
        self.linear = nn.Linear(widths[-1], output_size)
        self.output_rms = output_rms
        self.dropout = nn.Dropout(dropout)

    def output_length(self, num_frames):
        """Number of embeddings that `num_frames` frames give.

        Example
        -------
        >>> ConvProjector(8, 8, 8).output_length(1500)
        188
        """
        for _ in self.convs:
            num_frames = (num_frames + 1) // 2
        return num_frames

    def forward(self, frames):
        """Projects a batch.

        Arguments
        ---------
        frames : torch.Tensor
            [B, T, input_size].

        Returns
        -------
        embeddings : torch.Tensor
            [B, ceil(T / 2^num_convs), output_size].
        """
        hidden = frames.to(self.linear.weight.dtype).transpose(1, 2)  # [B, input_size, T]
        for conv in self.convs:
            hidden = self.dropout(nn.functional.gelu(conv(hidden)))
        embeddings = self.linear(hidden.transpose(1, 2))
        if self.output_rms is not None:
            embeddings = self.output_rms * nn.functional.rms_norm(
                embeddings.float(), embeddings.shape[-1:], eps=1e-6
            )
        return embeddings
