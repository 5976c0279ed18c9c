"""The Whisper encoder as a feature extractor. Source: https://arxiv.org/abs/2212.04356"""

import torch
from torch import nn
from transformers import WhisperConfig, WhisperFeatureExtractor, WhisperModel
from transformers.models.whisper.modeling_whisper import WhisperEncoder as HFWhisperEncoder

from speechbrain_diffasr.kernels.graphs import Graphs

# Batches up to this are so small that a GPU waits for the launches of kernels: they are replayed
# as a CUDA graph.
CAPTURED_BATCH = 4
# The two convolutions in front of Whisper's transformer halve the mel frames once.
MEL_FRAMES_PER_FRAME = 2
# 60 dB, as log-mel features count: what is fainter is no recording of anything.
MAX_GAIN = 1.5


class WhisperEncoder(nn.Module):
    """Turns waveforms into acoustic frames with the encoder of a Whisper model.

    The audio is padded with zeros to the window, as in Whisper's own training, so every
    utterance gives the same number of frames, 50 a second. Only the encoder is kept in memory.
    Unlike in SpeechBrain's Whisper lobe the log-mel floor follows the loudest bin of each
    utterance by itself: features do not depend on what else is in the batch.

    Arguments
    ---------
    source : str, optional
        Hub name ("openai/whisper-small") or folder of a Whisper checkpoint.
    config : dict, optional
        Fields of `transformers.WhisperConfig`, for an encoder with random weights. Exactly one
        of `source` and `config` is given.
    window : float
        Seconds of audio that are heard at once. Default: all that the checkpoint allows
        (30 s for the released ones). A smaller window keeps the first position embeddings.
    loudest : float, optional
        What the loudest log-mel feature of each utterance is brought to, so that quiet recordings
        are heard like loud ones; by 60 dB at most. For encoders that have learned one level only.
        Default: levels stay as they are, as Whisper has learned many.
    freeze : bool
        Whether the weights stay as they are, in eval mode whatever `train()` says. Default: True.
    dtype : str
        Precision of the weights ("float32", "bfloat16"). Default: "float32".

    Example
    -------
    >>> config = {"d_model": 32, "encoder_layers": 1, "encoder_attention_heads": 2,
    ...           "encoder_ffn_dim": 64}
    >>> encoder = WhisperEncoder(config=config, window=2.0)
    >>> encoder(torch.rand(3, 16000), torch.tensor([1.0, 0.5, 0.8])).shape
    torch.Size([3, 100, 32])
    """

    def __init__(
        self, source=None, config=None, window=None, loudest=None, freeze=True, dtype="float32"
    ):
        super().__init__()
        if bool(source) == bool(config):
            raise ValueError("WhisperEncoder: give either source or config")
        if source:
            encoder = WhisperModel.from_pretrained(source, dtype=getattr(torch, dtype)).encoder
        else:
            encoder = HFWhisperEncoder._from_config(
                WhisperConfig(**config), dtype=getattr(torch, dtype)
            )
        extractor = WhisperFeatureExtractor(feature_size=encoder.config.num_mel_bins)
        self.sample_rate = extractor.sampling_rate
        self.peak_level = loudest
        self.hop = extractor.hop_length  # samples between two mel frames
        self.n_fft = extractor.n_fft

        # Of all positions, so that the window can be widened again.
        self.register_buffer(
            "positions", encoder.embed_positions.weight.detach().clone(), persistent=False
        )
        self.encoder = encoder
        self.output_size = encoder.config.d_model
        self.set_window(window)

        self.register_buffer(
            "mel_filters",
            torch.as_tensor(extractor.mel_filters, dtype=torch.float32).T.contiguous(),
            persistent=False,
        )
        self.register_buffer("stft_window", torch.hann_window(self.n_fft), persistent=False)
        self.register_load_state_dict_pre_hook(_fit_positions)
        self._graphs = Graphs()
        self.freeze = freeze
        if freeze:
            self.requires_grad_(False)
        self.train(self.training)

    def train(self, mode=True):
        """Sets training mode, which a frozen encoder ignores."""
        return super().train(mode and not self.freeze)

    def set_window(self, window=None):
        """Changes how much audio is heard at once; the first positions are kept.

        Arguments
        ---------
        window : float, optional
            Seconds. Default: all that the checkpoint allows.

        Raises
        ------
        ValueError
            If the encoder has no positions for so much.
        """
        samples_per_frame = self.hop * MEL_FRAMES_PER_FRAME
        longest = len(self.positions) * samples_per_frame / self.sample_rate
        self.window = longest if window is None else float(window)
        if not 0 < self.window <= longest:
            raise ValueError(
                f"WhisperEncoder: window: {window} s, but this encoder has positions for "
                f"{longest:g} s"
            )
        self.num_frames = round(self.window * self.sample_rate / samples_per_frame)
        positions = nn.Embedding(
            self.num_frames, self.output_size, _weight=self.positions[: self.num_frames].clone()
        )
        self.encoder.embed_positions = positions.requires_grad_(False)
        self.encoder.config.max_source_positions = self.num_frames
        self.encoder.max_source_positions = self.num_frames

    @property
    def max_samples(self):
        """Samples that fit into the window."""
        return self.num_frames * self.hop * MEL_FRAMES_PER_FRAME

    def log_mel(self, wavs, wav_lens=None):
        """Computes Whisper's log-mel features, padded with silence to the window.

        Arguments
        ---------
        wavs : torch.Tensor
            Waveforms at 16 kHz, [B, T].
        wav_lens : torch.Tensor, optional
            Lengths relative to T, [B]. What lies behind them is silenced.

        Returns
        -------
        mels : torch.Tensor
            Features in float32, [B, mel bins, 2 * frames].

        Raises
        ------
        ValueError
            If an utterance is longer than the window.
        """
        if wavs.dim() != 2:
            raise ValueError(f"WhisperEncoder: expected wavs [B, T], got {list(wavs.shape)}")
        num_samples = wavs.shape[1]
        wavs = wavs.float()
        if wav_lens is not None:
            lens = (wav_lens.to(wavs.device) * num_samples).round()  # [B], samples
            wavs = wavs * (torch.arange(num_samples, device=wavs.device) < lens[:, None])
            if num_samples > self.max_samples:
                num_samples = int(lens.max())
        if num_samples > self.max_samples:
            raise ValueError(
                f"{num_samples / self.sample_rate:.1f} s of audio, but this model hears "
                f"{self.window:g} s at once; cut it into shorter pieces"
            )
        wavs = wavs[:, : self.max_samples]
        wavs = nn.functional.pad(wavs, (0, self.max_samples - wavs.shape[1]))
        with torch.autocast(wavs.device.type, enabled=False):
            stft = torch.stft(
                wavs, self.n_fft, self.hop, window=self.stft_window, return_complex=True
            )
            power = stft[..., :-1].abs().square()  # [B, n_fft / 2 + 1, 2 * frames]
            mels = (self.mel_filters @ power).clamp(min=1e-10).log10()
            loudest = mels.amax(dim=(1, 2), keepdim=True)  # per utterance, not per batch
            features = (torch.maximum(mels, loudest - 8.0) + 4.0) / 4.0
            if self.peak_level is not None:
                gain = self.peak_level - (loudest + 4.0) / 4.0
                features = features + gain.clamp(max=MAX_GAIN)
            return features

    def encode_mel(self, mels):
        """Runs the transformer on features that `log_mel` made.

        Arguments
        ---------
        mels : torch.Tensor
            [B, mel bins, 2 * frames].

        Returns
        -------
        frames : torch.Tensor
            [B, frames, width].
        """
        weight = self.encoder.conv1.weight
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.freeze):
            trains = torch.is_grad_enabled() or self.training
            if trains or not mels.is_cuda or len(mels) > CAPTURED_BATCH:
                return self._encode(mels)
            # A graph is for weights in one place and for one precision.
            autocast = torch.is_autocast_enabled("cuda")
            precision = torch.get_autocast_dtype("cuda") if autocast else weight.dtype
            key = weight.data_ptr(), precision, mels.shape[1:]
            frames = self._graphs(key, self._encode, [mels], lambda b: [mels[:1].repeat(b, 1, 1)])
            return frames.clone()  # a graph always writes to the same place

    def _encode(self, mels):
        return self.encoder(mels.to(self.encoder.conv1.weight.dtype)).last_hidden_state

    def forward(self, wavs, wav_lens=None):
        """Encodes waveforms.

        Arguments
        ---------
        wavs : torch.Tensor
            Waveforms at 16 kHz, [B, T], T at most the window.
        wav_lens : torch.Tensor, optional
            Lengths relative to T, [B]. Default: all of T.

        Returns
        -------
        frames : torch.Tensor
            [B, frames, width]; 30 s of Whisper-small give [B, 1500, 768].
        """
        return self.encode_mel(self.log_mel(wavs, wav_lens))


def _fit_positions(encoder, weights, prefix, *unused):
    """Lets weights saved with a larger window be loaded: the first positions are kept."""
    name = f"{prefix}encoder.embed_positions.weight"
    saved = weights.get(name)
    if saved is not None and len(saved) > encoder.num_frames:
        encoder.positions = saved.to(encoder.positions)
        weights[name] = saved[: encoder.num_frames]
