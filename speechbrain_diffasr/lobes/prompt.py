"""The chat prompt: an instruction, a language, and the slots that audio is scattered into."""

from functools import cached_property

import torch

from speechbrain_diffasr.lobes.output_layer import token_log_probs


class AudioPrompt:
    """Builds the prompt that tells the language model to transcribe.

    Arguments
    ---------
    tokenizer : Tokenizer
        Of the language model.
    num_slots : int
        Audio embeddings in the prompt.
    template : str
        The prompt with its special tokens, and the fields {audio} and {instruction}.
    instruction : str
        What is asked for when the language is known, with the field {language}.
    open_instruction : str
        What is asked for when it is not.
    languages : dict
        Name of each language in the instruction, by its code: `{"en": "English"}`.
    slot_token : str
        Stands in the slots before the audio does, and is CTC's blank. Default: "<|audio|>".
    num_frames : int, optional
        Frames that the projector makes of a whole window. Default: `num_slots`, each frame has its
        slot.
    most_blank : float, optional
        Frames that CTC takes for a blank with more than this probability get no slot (`choose`).
        Default: each frame has its slot.

    Raises
    ------
    ValueError
        If there are fewer slots than frames and no `most_blank` to choose by.

    Example
    -------
    >>> from tokenizers import Tokenizer as Backend, models, pre_tokenizers
    >>> from speechbrain_diffasr.lobes import Tokenizer
    >>> words = ["<eos>", "<|audio|>", "write", "English", ":"]
    >>> backend = Backend(models.WordLevel({w: i for i, w in enumerate(words)}, "<eos>"))
    >>> backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    >>> tokenizer = Tokenizer()
    >>> path = getfixture("tmp_path") / "tokenizer.json"
    >>> backend.save(str(path))
    >>> tokenizer.load(path)
    >>> prompt = AudioPrompt(tokenizer, num_slots=2, template=": {audio} {instruction} :",
    ...                      instruction="write {language}", open_instruction="write",
    ...                      languages={"en": "English"})
    >>> tokens, lengths = prompt(["en", None])
    >>> tokens
    tensor([[4, 1, 1, 2, 3, 4],
            [4, 1, 1, 2, 4, 0]])
    >>> lengths
    tensor([6, 5])
    >>> prompt.first_slot
    1
    """

    def __init__(
        self,
        tokenizer,
        num_slots,
        template,
        instruction,
        open_instruction,
        languages,
        slot_token="<|audio|>",
        num_frames=None,
        most_blank=None,
    ):
        self.tokenizer = tokenizer
        self.num_slots = num_slots
        self.num_frames = num_slots if num_frames is None else num_frames
        self.most_blank = most_blank
        if most_blank is None and self.num_frames != num_slots:
            raise ValueError(
                f"num_slots: {num_slots} for {num_frames} frames; with most_blank, such as 0.95, "
                "the prompt has slots for the frames in which something is said"
            )
        self.template = template
        self.instruction = instruction
        self.open_instruction = open_instruction
        self.languages = dict(languages)
        self.slot_token = slot_token
        self._tokens = {}

    @cached_property
    def beginning(self):
        """Tokens before the slots; they are the same in every prompt."""
        return tuple(self._around("")[0])

    @property
    def first_slot(self):
        """Position of the first slot."""
        return len(self.beginning)

    def _around(self, instruction):
        """Tokens before and behind the slots."""
        before, stop = self.template.format(audio="\0", instruction=instruction).split("\0")
        return [self.tokenizer.encode(part) for part in (before, stop)]

    def tokens(self, language=None, slots=None):
        """The prompt for one language.

        Arguments
        ---------
        language : str, optional
            A code of `languages`. Default: the prompt names none.
        slots : int, optional
            Audio embeddings in it. Default: `num_slots`.

        Returns
        -------
        tokens : list of int

        Raises
        ------
        ValueError
            If the language is not known.
        """
        slots = self.num_slots if slots is None else slots
        if (language, slots) not in self._tokens:
            if language is None:
                instruction = self.open_instruction
            elif language in self.languages:
                instruction = self.instruction.format(language=self.languages[language])
            else:
                raise ValueError(
                    f"language {language!r} is not known to this model; "
                    f"choose one of {', '.join(self.languages)}, or none"
                )
            before, stop = self._around(instruction)
            middle = [self.tokenizer.token_id(self.slot_token)] * slots
            self._tokens[language, slots] = before + middle + stop
        return self._tokens[language, slots]

    def __call__(self, languages, transcripts=None, device=None, length=None, slots=None):
        """Builds the prompts of a batch, in training with the transcripts behind them.

        Arguments
        ---------
        languages : list
            A code or None for each utterance.
        transcripts : list of list of int, optional
            Tokens to append to each prompt. Default: none.
        device : torch.device, optional
            Where the tensors live.
        length : int, optional
            To pad to. Default: the longest of the batch.
        slots : list of int, optional
            Audio embeddings in each prompt. Default: `num_slots`.

        Returns
        -------
        tokens : torch.Tensor
            Padded on the right with the end-of-text token, [B, T].
        lengths : torch.Tensor
            Length of each prompt without its transcript, [B].
        """
        slots = [None] * len(languages) if slots is None else slots
        prompts = [self.tokens(*both) for both in zip(languages, slots, strict=True)]
        rows = prompts
        if transcripts is not None:
            rows = [prompt + list(text) for prompt, text in zip(prompts, transcripts, strict=True)]
        length = length or max(map(len, rows))
        padding = [self.tokenizer.eos_id] * length
        tokens = torch.tensor([row + padding[len(row) :] for row in rows])
        lengths = torch.tensor([len(prompt) for prompt in prompts])
        return tokens.to(device), lengths.to(device)

    def choose(self, audio, head, lengths, chunk_size=None):
        """Leaves out the frames in which CTC hears nothing, if `most_blank` says so.

        What is left are about as many slots as tokens, in their order, so that the language model
        need not find its place among silence (as in the CTC compression of Gaido et al.,
        https://arxiv.org/abs/2102.01578). See `keep_spoken`.

        Arguments
        ---------
        audio : torch.Tensor
            Projected audio, [B, T, D].
        head : Head
            The output layer that CTC is trained through.
        lengths : torch.Tensor
            Frames of each utterance, [B].
        chunk_size : int, optional
            Rows of logits in memory at once. Default: as many as the frames of an utterance.

        Returns
        -------
        audio : torch.Tensor
            [B, num_slots, D].
        slots : torch.Tensor
            How many of them are used, [B].
        """
        return keep_spoken(
            audio,
            head,
            self.tokenizer.token_id(self.slot_token),
            lengths,
            self.num_slots,
            self.most_blank,
            chunk_size or audio.shape[1],
        )

    def scatter(self, embeddings, audio, slots=None):
        """Puts audio into the slots.

        Arguments
        ---------
        embeddings : torch.Tensor
            Token embeddings of the prompts, [B, T, D].
        audio : torch.Tensor
            Projected audio, [B, num_slots, D].
        slots : list of int or torch.Tensor, optional
            How many of them each prompt has room for. Default: `num_slots`. A tensor, on the device
            of the audio, leaves open how many there are at most: shapes do not depend on it.

        Returns
        -------
        embeddings : torch.Tensor
            [B, T, D].

        Raises
        ------
        ValueError
            If there are more or fewer audio embeddings than slots.
        """
        if audio.shape[1] != self.num_slots:
            raise ValueError(
                f"{audio.shape[1]} audio embeddings for {self.num_slots} slots; "
                "num_slots must be what the projector makes of a whole window, or num_frames, "
                "if most_blank leaves some out"
            )
        first = self.first_slot
        most = min(self.num_slots, embeddings.shape[1] - first)
        if isinstance(slots, list):
            most, slots = max(slots), torch.tensor(slots, device=audio.device)
        audio = audio[:, :most].to(embeddings.dtype)
        if slots is not None:
            room = slots[:, None]  # [B, 1]
            inside = torch.arange(most, device=audio.device) < room  # [B, most]
            audio = torch.where(inside[..., None], audio, embeddings[:, first : first + most])
        return torch.cat([embeddings[:, :first], audio, embeddings[:, first + most :]], dim=1)


def keep_spoken(audio, head, blank, lengths, count, most_blank, chunk_size=64):
    """Leaves out the frames that CTC takes for blanks.

    Frames keep their order and gradient; which of them stay has none. Nothing waits for the GPU,
    and shapes do not depend on what is heard.

    Arguments
    ---------
    audio : torch.Tensor
        Projected audio, [B, T, D]. It is multiplied in the precision of the output layer, or in
        autocast's.
    head : Head
        The output layer that CTC is trained through.
    blank : int
        Index of the blank in the vocabulary.
    lengths : torch.Tensor
        Frames of each utterance, [B].
    count : int
        Frames that are kept at most: those that are least likely blanks.
    most_blank : float
        Probability of a blank above which a frame is not kept.
    chunk_size : int
        Frames whose logits are in memory at once, counted over the whole batch. Default: 64.

    Returns
    -------
    kept : torch.Tensor
        The frames that stay, and zeros, [B, count, D].
    lens : torch.Tensor
        Their number, [B].

    Example
    -------
    >>> from speechbrain_diffasr.lobes.output_layer import Head
    >>> heard = torch.tensor([[0, 3, 3, 0, 3, 2, 0, 4]])  # the most probable token of each frame
    >>> audio = torch.nn.functional.one_hot(heard, 5).float()
    >>> head = Head(9 * torch.eye(5))
    >>> kept, lens = keep_spoken(audio, head, 0, torch.tensor([7]), count=5, most_blank=0.9)
    >>> kept.argmax(dim=-1).tolist(), lens.tolist()
    ([[3, 3, 3, 2, 0]], [4])
    """
    batch, num_frames, size = audio.shape
    with torch.no_grad():
        rows = audio.reshape(-1, size).to(head.weight.dtype)
        tokens = torch.full((len(rows), 1), blank, device=audio.device)
        inside = torch.arange(num_frames, device=audio.device) < lengths[:, None]  # [B, T]
        log_probs = token_log_probs(
            rows, head.weight, tokens, inside.reshape(-1), head.softcap, chunk_size
        )
        probs = log_probs.view(batch, num_frames).float().exp()
        probs = probs.masked_fill(~inside | (probs > most_blank), torch.inf)
        best = probs.topk(min(count, num_frames), dim=1, largest=False)
        spoken = best.values <= most_blank
        # What stays goes back into its order, what does not goes behind it, to a frame of zeros.
        places = best.indices.masked_fill(~spoken, num_frames).sort(dim=1).values
        places = torch.nn.functional.pad(places, (0, count - places.shape[1]), value=num_frames)
    padded = torch.nn.functional.pad(audio, (0, 0, 0, 1))
    kept = padded.gather(1, places[..., None].expand(-1, -1, size))
    return kept, spoken.sum(dim=1)
