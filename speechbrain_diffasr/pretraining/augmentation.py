"""Makes few voices and few microphones many: whole batches are changed where they are, on a GPU."""

import math

import torch

# Of the frequency response that a random equalizer draws: values on a logarithmic scale of hertz.
EQUALIZER_BANDS = 10
MU = 255  # of 8-bit companding, as telephones have it
CODEC_FFT = 512


class WaveformAugmenter:
    """Changes voices, rooms, noise and channels of a batch of waveforms, each in its own way.

    In the order of the world: the voice (speed, and with it pitch and formants), the room (a
    decaying noise for an impulse response), what else sounds there (coloured noise, and the others
    of the batch played backwards as babble), the microphone (an equalizer), the line (band limit,
    companding, clipping, holes in the spectrum as codecs make them).

    Every share is the probability that an utterance is changed so; at 0 nothing is computed.

    Arguments
    ---------
    max_stretch : float
        Largest change of speed, as a share. Default: 0.1.
    tilt : float
        Largest coefficient of a first-order filter, between darker and brighter. Default: 0.6.
    rooms : float
        Share of utterances in a room. Default: 0.
    max_reverberation : float
        Seconds in which the largest room falls by 60 dB. Default: 0.6.
    noise : float
        Share with noise. Default: 0.5.
    min_snr, max_snr : float
        Level of the speech over noise or babble, dB. Default: 10 and 40.
    max_colour : float
        Noise falls by up to so many powers of the frequency: 0 is white, 1 pink. Default: 0.
    babble : float
        Share with other utterances of the batch, backwards, in the background. Default: 0.
    equalizer : float
        Largest gain and loss of a smooth random frequency response, dB. Default: 0.
    band_limit : float
        Share without anything above 3.4 to 4 kHz, as from a telephone. Default: 0.
    companding : float
        Share quantized to 8 bits by the mu-law. Default: 0.
    clipping : float
        Share clipped at a tenth to six tenths of its peak. Default: 0.
    holes : float
        Share that loses the fainter parts of its spectrum. Default: 0.
    sample_rate : int
        Hz. Default: 16000.

    Example
    -------
    >>> augment = WaveformAugmenter(rooms=1.0, babble=0.5, equalizer=6.0, holes=0.5)
    >>> wavs = torch.rand(4, 16000) - 0.5
    >>> ends = torch.full((4, 1), 16000)
    >>> wavs, ends = augment(wavs, ends, torch.Generator().manual_seed(0))
    >>> wavs.shape
    torch.Size([4, 16000])
    """

    def __init__(
        self,
        max_stretch=0.1,
        tilt=0.6,
        rooms=0.0,
        max_reverberation=0.6,
        noise=0.5,
        min_snr=10.0,
        max_snr=40.0,
        max_colour=0.0,
        babble=0.0,
        equalizer=0.0,
        band_limit=0.0,
        companding=0.0,
        clipping=0.0,
        holes=0.0,
        sample_rate=16000,
    ):
        self.max_stretch, self.tilt = max_stretch, tilt
        self.rooms, self.max_reverberation = rooms, max_reverberation
        self.noise, self.babble, self.max_colour = noise, babble, max_colour
        self.min_snr, self.max_snr = min_snr, max_snr
        self.equalizer, self.band_limit = equalizer, band_limit
        self.companding, self.clipping, self.holes = companding, clipping, holes
        self.sample_rate = sample_rate

    def __call__(self, wavs, ends, generator):
        """Changes a batch.

        Arguments
        ---------
        wavs : torch.Tensor
            [B, T].
        ends : torch.Tensor
            Samples behind which nothing was recorded, [B, 1].
        generator : torch.Generator
            On the device of the waveforms.

        Returns
        -------
        wavs : torch.Tensor
            [B, T].
        ends : torch.Tensor
            What became of the ends, [B, 1].
        """
        draw = _Dice(len(wavs), wavs.device, generator)
        wavs, ends = self._voice(wavs, ends, draw)
        if self.rooms:
            wavs = self._room(wavs, draw)
        wavs = self._background(wavs, ends, draw)
        if self.equalizer or self.band_limit:
            wavs = self._channel(wavs, draw)
        return self._line(wavs, draw), ends

    def _voice(self, wavs, ends, draw):
        """Speed by linear interpolation, and the tilt of the spectrum."""
        speed = draw.between(1 - self.max_stretch, 1 + self.max_stretch)
        place = torch.arange(wavs.shape[1], device=wavs.device) * speed
        left = place.long().clamp(max=wavs.shape[1] - 2)
        share = (place - left).clamp(max=1.0)
        inside = place < wavs.shape[1] - 1
        wavs = (wavs.gather(1, left) * (1 - share) + wavs.gather(1, left + 1) * share) * inside
        before = torch.nn.functional.pad(wavs[:, :-1], (1, 0))
        return wavs + draw.between(-self.tilt, self.tilt) * before, ends / speed

    def _room(self, wavs, draw):
        """Convolves with a decaying noise behind the direct sound."""
        size = int(self.max_reverberation * self.sample_rate)
        seconds = torch.arange(size, device=wavs.device) / self.sample_rate
        decay = draw.between(0.1, self.max_reverberation)
        tail = draw.normal(size) * torch.exp(-math.log(1000) * seconds / decay)
        tail = tail * (seconds > draw.between(0.001, 0.02))  # the way to the first wall
        # From a microphone at the mouth to one at the other end of the room.
        distance = 10 ** (draw.between(-20.0, 3.0) / 20)
        tail = tail * distance / tail.square().sum(dim=1, keepdim=True).sqrt()
        tail = tail * draw.happens(self.rooms)
        length = wavs.shape[1]
        points = 1 << (length + size - 1).bit_length()
        spectrum = torch.fft.rfft(wavs, points) * torch.fft.rfft(tail, points)
        return wavs + torch.fft.irfft(spectrum, points)[:, :length]

    def _background(self, wavs, ends, draw):
        """Noise, half of which stops with the recording, and babble."""
        place = torch.arange(wavs.shape[1], device=wavs.device)
        recorded = place < ends + 0.1 * self.sample_rate
        level = wavs.square().sum(dim=1, keepdim=True) / ends.clamp(min=1)
        level = level.sqrt()
        sounds = [(self.noise, self._coloured(wavs, draw))]
        if self.babble:
            # Backwards from where each was recorded to its end, so that it sounds from the start.
            others = wavs.gather(1, (ends.long() - 1 - place) % wavs.shape[1])
            sounds.append((self.babble, others.roll(1, 0) + others.roll(2, 0)))
        behind = recorded | (draw.between(0.0, 1.0) < 0.5)
        added = torch.zeros_like(wavs)
        for share, sound in sounds:
            loudness = sound.square().mean(dim=1, keepdim=True).sqrt().clamp(min=1e-8)
            wanted = level * 10 ** (-draw.between(self.min_snr, self.max_snr) / 20)
            added = added + sound * (wanted / loudness) * draw.happens(share)
        return wavs + added * behind

    def _coloured(self, wavs, draw):
        noise = draw.normal(wavs.shape[1])
        if not self.max_colour:
            return noise
        spectrum = torch.fft.rfft(noise)
        hertz = torch.linspace(0, self.sample_rate / 2, spectrum.shape[1], device=wavs.device)
        colour = (hertz.clamp(min=50.0) / 1000) ** (-draw.between(0.0, self.max_colour))
        return torch.fft.irfft(spectrum * colour, n=wavs.shape[1])

    def _channel(self, wavs, draw):
        """A smooth frequency response, and for some the band of a telephone."""
        spectrum = torch.fft.rfft(wavs)
        hertz = torch.linspace(0, self.sample_rate / 2, spectrum.shape[1], device=wavs.device)
        if self.equalizer:
            bands = draw.uniform(EQUALIZER_BANDS) * 2 - 1  # [B, bands]
            octaves = torch.log2(hertz.clamp(min=60.0) / 60.0)
            place = octaves / octaves[-1] * (EQUALIZER_BANDS - 1)
            left = place.long().clamp(max=EQUALIZER_BANDS - 2)
            share = place - left
            gain = bands[:, left] * (1 - share) + bands[:, left + 1] * share
            spectrum = spectrum * 10 ** (gain * self.equalizer / 20)
        if self.band_limit:
            highest = torch.where(
                draw.happens(self.band_limit), draw.between(3400.0, 4000.0), self.sample_rate
            )
            spectrum = spectrum * (hertz < highest)
        return torch.fft.irfft(spectrum, n=wavs.shape[1])

    def _line(self, wavs, draw):
        """What loses for good: holes in the spectrum, 8 bits, clipping."""
        if self.holes:
            window = torch.hann_window(CODEC_FFT, device=wavs.device)
            spectrum = torch.stft(wavs, CODEC_FFT, window=window, return_complex=True)
            power = spectrum.abs().square()
            around = torch.nn.functional.avg_pool1d(
                power.transpose(1, 2), 17, 1, 8, count_include_pad=False
            ).transpose(1, 2)
            limit = 10 ** (-draw.between(0.0, 15.0) / 10) * draw.happens(self.holes)
            kept = power >= around * limit[..., None]
            wavs = torch.istft(spectrum * kept, CODEC_FFT, window=window, length=wavs.shape[1])
        if self.companding or self.clipping:
            peak = wavs.abs().amax(dim=1, keepdim=True).clamp(min=1e-8)
            scaled = wavs / peak
            ceiling = torch.where(draw.happens(self.clipping), draw.between(0.1, 0.6), 1.0)
            scaled = torch.minimum(torch.maximum(scaled, -ceiling), ceiling)
            small = scaled.sign() * torch.log1p(MU * scaled.abs()) / math.log1p(MU)
            small = (small * (MU // 2)).round() / (MU // 2)
            coarse = small.sign() * torch.expm1(small.abs() * math.log1p(MU)) / MU
            wavs = torch.where(draw.happens(self.companding), coarse, scaled) * peak
        return wavs


class FeatureAugmenter:
    """Blanks stretches of log-mel features, and moves formants up or down.

    Blanking is SpecAugment's (https://arxiv.org/abs/1904.08779); moving formants is vocal tract
    length perturbation (Jaitly and Hinton, 2013) on the mel scale, which leaves time alone.

    Arguments
    ---------
    time_masks, freq_masks : int
        How many stretches of each. Default: 2.
    max_time, max_freq : int
        Their largest size, in mel frames (10 ms) and bins. Default: 40 and 12.
    max_warp : float
        Largest factor minus one by which the bins are stretched. Default: 0.

    Example
    -------
    >>> augment = FeatureAugmenter(max_warp=0.1)
    >>> augment(torch.rand(2, 80, 300), torch.Generator().manual_seed(0)).shape
    torch.Size([2, 80, 300])
    """

    def __init__(self, time_masks=2, max_time=40, freq_masks=2, max_freq=12, max_warp=0.0):
        self.masks = ((2, time_masks, max_time), (1, freq_masks, max_freq))
        self.max_warp = max_warp

    def __call__(self, mels, generator):
        """Changes a batch.

        Arguments
        ---------
        mels : torch.Tensor
            [B, mel bins, frames].
        generator : torch.Generator
            On the device of `mels`.

        Returns
        -------
        mels : torch.Tensor
            [B, mel bins, frames].
        """
        draw = _Dice(len(mels), mels.device, generator)
        if self.max_warp:
            bins = mels.shape[1]
            warp = 1 + draw.between(-self.max_warp, self.max_warp)
            place = (torch.arange(bins, device=mels.device) * warp).clamp(max=bins - 1.0)
            left = place.long().clamp(max=bins - 2)  # [B, bins]
            share = (place - left)[..., None]
            left = left[..., None].expand_as(mels)
            mels = mels.gather(1, left) * (1 - share) + mels.gather(1, left + 1) * share
        for axis, number, largest in self.masks:
            size = mels.shape[axis]
            shape = (number, len(mels), 1)
            width = torch.rand(shape, generator=generator, device=mels.device) * largest
            start = torch.rand(shape, generator=generator, device=mels.device) * (size - width)
            place = torch.arange(size, device=mels.device)
            masked = ((place >= start) & (place < start + width)).any(dim=0)  # [B, size]
            masked = masked[:, None, :] if axis == 2 else masked[:, :, None]
            mels = mels.masked_fill(masked, 0.0)
        return mels


def hush(wavs):
    """Noise with the spectrum of waveforms, but without what they say.

    Arguments
    ---------
    wavs : torch.Tensor
        [B, T].

    Returns
    -------
    noise : torch.Tensor
        [B, T]. A digital silence stays one.

    Example
    -------
    >>> hush(torch.zeros(1, 1600)).any().item()
    False
    """
    spectrum = torch.fft.rfft(wavs)
    # Smoothed over 60 Hz or so: neither pitch nor time is left.
    power = spectrum.abs().square()[:, None]
    width = 2 * (wavs.shape[1] // 512) + 1
    smooth = torch.nn.functional.avg_pool1d(power, width, 1, width // 2, count_include_pad=False)
    phase = torch.rand_like(smooth[:, 0]) * (2 * torch.pi)
    return torch.fft.irfft(torch.polar(smooth[:, 0].sqrt(), phase), n=wavs.shape[1])


class _Dice:
    """Draws a column of numbers, one for each utterance of a batch."""

    def __init__(self, batch, device, generator):
        self.batch, self.options = batch, {"device": device, "generator": generator}

    def uniform(self, number):
        """[B, number]."""
        return torch.rand(self.batch, number, **self.options)

    def normal(self, number):
        """[B, number]."""
        return torch.randn(self.batch, number, **self.options)

    def between(self, low, high):
        """[B, 1]."""
        return low + (high - low) * self.uniform(1)

    def happens(self, share):
        """Bool [B, 1]."""
        return self.uniform(1) < share
