"""Text as a projector under CTC would give it: torn drafts, for a denoiser to mend."""

import random

import numpy as np
import torch

from speechbrain_diffasr.dataio.tables import open_table

NEIGHBOURS = 16
MAX_LEAD = 4  # frames


class DraftStore:
    """Batches of lines and of torn drafts of them, drawn without end.

    Arguments
    ---------
    path : str
        CSV file with the columns lang and wrd, as collect_text.py writes it.
    tokenizer : Tokenizer
    num_frames : int
        Of a draft.
    blank : int
        Token of a frame in which nothing is said.
    canvas_length : int
    batch_size : int
        Examples of all frames each.
    shares : list of list, optional
        Shares of the frames that are used and of the batches that use them, as
        `[[0.3, 0.5], [1.0, 0.5]]`: smaller ones hold more examples. Default: all use all.
    trimmed : float
        Share of batches that say how many frames are filled, among those of all frames; all others
        do, and all if there is `num_slots`. Default: 0.
    join : float
        Share of examples made of several lines.
    max_wrong : float
        Largest share of wrong or missing pieces.
    pace : (float, float)
        Fewest and most frames from one piece to the next, 1 or more.
    repeated : float
        Share of pieces that fill two frames, where there is room.
    neighbours : numpy.ndarray, optional
        Tokens that are taken for each other, [V, N]; half of the wrong ones are of these.
    seed : int
    num_slots : int, optional
        Only frames with a piece stay, and some that CTC is not sure of, so many at most. Default:
        all frames.
    unsure : float
        Largest share of the other frames that stay.
    """

    def __init__(
        self,
        path,
        tokenizer,
        num_frames,
        blank,
        canvas_length,
        batch_size,
        join,
        max_wrong,
        pace,
        repeated,
        neighbours=None,
        seed=0,
        shares=None,
        trimmed=0.0,
        num_slots=None,
        unsure=0.0,
    ):
        self.shares, self.trimmed = dict(shares or [[1.0, 1.0]]), trimmed
        if max(self.shares) > 1:
            raise ValueError(f"windows: {max(self.shares):g} times the window of the model")
        self.pace, self.repeated = tuple(pace), repeated
        if not 1 <= self.pace[0] <= self.pace[1]:
            raise ValueError(f"pace: {list(pace)} are not fewest and most frames, 1 or more")
        groups = {}
        with open_table(path) as rows:
            for row in rows:
                groups.setdefault(row["lang"], []).append(row["wrd"])
        # Digits are read in English.
        self.languages = ["en" if name == "digits" else name for name in groups]
        self.lines = [
            tokenizer.backend(lines, add_special_tokens=False)["input_ids"]
            for lines in groups.values()
        ]
        self.vocab_size = len(tokenizer)
        self.eos = tokenizer.eos_id
        self.num_frames, self.blank, self.canvas_length = num_frames, blank, canvas_length
        self.batch_size, self.join, self.max_wrong = batch_size, join, max_wrong
        self.neighbours = neighbours
        self.num_slots, self.unsure = num_slots, unsure
        self.rng, self.dice = np.random.default_rng(seed), random.Random(seed)

    def _line(self, longest):
        """Language and tokens of one example, of which there are at most so many."""
        group = self.dice.randrange(len(self.lines))
        lines = self.lines[group]
        tokens = list(self.dice.choice(lines))
        if self.dice.random() < self.join:
            wanted = self.dice.randrange(min(4, longest - 1), longest)
            while True:
                more = self.dice.choice(lines)
                if len(tokens) + len(more) > wanted:
                    break
                tokens += more
        return self.languages[group], tokens[:longest]

    def batch(self):
        """Draws a batch.

        Returns
        -------
        languages : list of str
        tokens : list of list of int
        draft : numpy.ndarray
            Token of each frame, [B, num_frames], or of each that stays, [B, num_slots].
        filled : list of int or None
            Frames up to the last piece, or a few more, or those that stay; None if the prompts have
            slots for all.
        most : int
            Frames that any draft of such a batch can fill.
        """
        (share,) = self.dice.choices(list(self.shares), list(self.shares.values()))
        num_frames = round(self.num_frames * share)
        longest = min(self.canvas_length, int((num_frames - MAX_LEAD) / self.pace[0]))
        batch_size = int(self.batch_size / share)
        examples = [self._line(longest) for _ in range(batch_size)]
        size = batch_size, longest
        tokens = np.full(size, self.blank)
        lens = np.array([len(tokens) for _, tokens in examples])
        for row, (_, values) in zip(tokens, examples, strict=True):
            row[: len(values)] = values
        inside = np.arange(longest) < lens[:, None]
        wrong = self.rng.uniform(0, self.max_wrong, (batch_size, 1))
        dice = self.rng.random(size)
        others = self.rng.integers(0, self.vocab_size, size)
        if self.neighbours is not None:
            near = self.neighbours[tokens, self.rng.integers(0, self.neighbours.shape[1], size)]
            others = np.where(self.rng.random(size) < 0.5, near, others)
        tokens = np.where(dice < wrong / 4, self.blank, tokens)
        tokens = np.where(dice > 1 - wrong * 3 / 4, others, tokens)
        # Pieces follow each other every `pace` frames on average, as far as there is room.
        pace = self.rng.uniform(*self.pace, (batch_size, 1))
        pace = np.minimum(pace, (num_frames - MAX_LEAD) / np.maximum(lens, 1)[:, None])
        # At least one frame apart, so that none is lost.
        place = np.arange(longest) * pace + self.rng.uniform(0, 1, size) * (pace - 1)
        place = np.minimum(place + self.rng.uniform(0, MAX_LEAD, (batch_size, 1)), num_frames - 1)
        place = np.where(inside, place, num_frames).astype(int)
        draft = np.full((batch_size, self.num_frames + 2), self.blank)
        rows = np.arange(batch_size)[:, None]
        twice = inside & (self.rng.random(size) < self.repeated)
        draft[rows, np.where(twice, place + 1, num_frames)] = tokens
        draft[rows, place] = tokens
        draft[:, num_frames:] = self.blank
        filled = None
        if share < 1 or self.num_slots or self.dice.random() < self.trimmed:
            last = np.where(inside, place, 0).max(axis=1) + self.rng.integers(1, 8, batch_size)
            filled = np.minimum(last, num_frames).tolist()
        draft = draft[:, : self.num_frames]
        if self.num_slots:
            draft, filled = self._pack(draft, filled)
        languages, texts = (list(column) for column in zip(*examples, strict=True))
        return languages, texts, draft, filled, num_frames

    def _pack(self, draft, filled):
        """The frames that get a slot, [B, num_slots], and how many there are."""
        share = self.rng.uniform(0, self.unsure, (len(draft), 1))
        keep = (draft != self.blank) | (self.rng.random(draft.shape) < share)
        keep &= np.arange(self.num_frames) < np.array(filled)[:, None]
        order = np.argsort(~keep, axis=1, kind="stable")
        packed = np.where(
            np.take_along_axis(keep, order, axis=1),
            np.take_along_axis(draft, order, axis=1),
            self.blank,
        )
        return packed[:, : self.num_slots], keep.sum(axis=1).clip(max=self.num_slots).tolist()

    def __iter__(self):
        while True:
            yield self.batch()


def find_neighbours(weight):
    """The tokens whose embeddings point the same way: what CTC learned to tell apart last.

    Arguments
    ---------
    weight : torch.Tensor
        Embeddings, [V, D].

    Returns
    -------
    neighbours : numpy.ndarray
        [V, N], nearest first.

    Example
    -------
    >>> find_neighbours(torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]]))[0].tolist()
    [1, 2]
    """
    unit = torch.nn.functional.normalize(weight.detach().float(), dim=1)
    likeness = (unit @ unit.T).fill_diagonal_(-2)
    return likeness.topk(min(NEIGHBOURS, len(unit) - 1), dim=1).indices.cpu().numpy()


def audio_like(draft, model, max_blur):
    """Embeddings of a draft, blurred with other tokens, as a projector's would be.

    Arguments
    ---------
    draft : torch.Tensor
        Token of each frame, [B, num_frames].
    model : DiffusionGemma
    max_blur : float
        Largest share of another token in a frame, and of noise beside both.

    Returns
    -------
    audio : torch.Tensor
        [B, num_frames, D].
    """
    other = torch.randint(model.vocab_size, draft.shape, device=draft.device)
    share = max_blur * torch.rand((*draft.shape, 1), device=draft.device) ** 2
    mixed = (1 - share) * model.embed(draft) + share * model.embed(other)
    mixed = torch.nn.functional.rms_norm(mixed.float(), mixed.shape[-1:])
    blur = max_blur * torch.rand(len(draft), 1, 1, device=draft.device)
    mixed = mixed + blur * torch.randn_like(mixed)
    return torch.nn.functional.rms_norm(mixed, mixed.shape[-1:])
