"""The Brain of every recipe: trains projector and LoRA, validates by decoding."""

import speechbrain as sb
import torch
import yaml
from speechbrain.dataio.sampler import DistributedSamplerWrapper
from speechbrain.utils.checkpoints import (
    mark_as_loader,
    mark_as_saver,
    register_checkpoint_hooks,
)
from speechbrain.utils.distributed import get_rank, if_main_process
from speechbrain.utils.logger import get_logger
from torch.nn.parallel import DistributedDataParallel

from speechbrain_diffasr.dataio.samplers import DistributedBatchSampler
from speechbrain_diffasr.evaluation.metrics import ErrorRates
from speechbrain_diffasr.training.objective import RecognizerLosses, utterance_seed
from speechbrain_diffasr.training.progress import TrainingBar

logger = get_logger(__name__)

LOSS_SETTINGS = (
    "self_conditioning",
    "unrolled",
    "open_language",
    "min_rate",
    "max_rate",
    "drafted",
    "draft_rate",
    "chunk_size",
)


@register_checkpoint_hooks
class DiffusionBrain(sb.Brain):
    """Trains what is not frozen with the three weighted losses.

    Batches carry `id`, `tokens` (lists), `lang`, `wrd`, and `sig` (waveforms) or `frames` (what
    the frozen encoder made of them); `duration` in seconds is shown as hours per hour.

    Modules: `encoder` (waveforms to audio embeddings) and `decoder` (a `DiffusionSearcher`).
    Hyperparameters: `tokenizer`, `blank_token`, `loss_weights` with diffusion, autoregressive and
    ctc, and `denoising_steps` for validation and test; optionally `seed`, `self_conditioning`,
    `unrolled`, `open_language`, `min_rate`, `max_rate`, `drafted`, `draft_rate`, `chunk_size`,
    `compile_losses`, `train_logger`, `tensorboard_logger`, `test_name`, and `make_scheduler`, which
    takes the optimizer and is stepped after every update; where `number_of_steps` is None, `fit`
    counts the updates and gives it their number as `num_training_steps`.

    What training draws at random follows from `seed`, the step and each utterance: a run that was
    stopped and resumed ends as if it had not been.

    Example
    -------
    >>> from types import SimpleNamespace
    >>> from speechbrain.dataio.batch import PaddedData
    >>> from speechbrain_diffasr import DiffusionASR, shipped_model
    >>> asr = DiffusionASR.from_hparams(shipped_model("diffasr-tiny"), freeze_params=False)
    >>> brain = DiffusionBrain(
    ...     modules=asr.mods,
    ...     opt_class=lambda parameters: torch.optim.AdamW(parameters, lr=1e-4),
    ...     hparams={"tokenizer": asr.tokenizer, "blank_token": "<|audio|>", "denoising_steps": 2,
    ...              "loss_weights": {"diffusion": 1.0, "autoregressive": 0.5, "ctc": 0.3}},
    ...     run_opts={"device": "cpu"},
    ... )
    >>> batch = SimpleNamespace(
    ...     id=["a"], sig=PaddedData(torch.rand(1, 16000), torch.ones(1)),
    ...     tokens=[asr.tokenizer.encode_text("hello")], lang=["en"], wrd=["hello"])
    >>> batch.to = lambda device: batch
    >>> brain.on_fit_start()
    >>> bool(torch.isfinite(brain.fit_batch(batch)))
    True
    """

    def __init__(self, modules, opt_class=None, hparams=None, run_opts=None, checkpointer=None):
        blank = hparams["tokenizer"].token_id(hparams["blank_token"])
        settings = {name: hparams[name] for name in LOSS_SETTINGS if name in hparams}
        # One module, since gradients are synchronized where a module's forward is called.
        losses = RecognizerLosses(
            modules["encoder"],
            modules["decoder"],
            blank,
            compile=hparams.get("compile_losses", False),
            **settings,
        )
        super().__init__({"losses": losses}, opt_class, hparams, run_opts, checkpointer)
        self.epoch = 0
        self.parts = {}
        self.bar = TrainingBar(shown=False)
        self.num_training_steps = None  # that were counted

    @property
    def losses(self):
        """The `RecognizerLosses`, whatever it is wrapped in."""
        wrapped = self.modules.losses
        return wrapped.module if isinstance(wrapped, DistributedDataParallel) else wrapped

    def fit(self, epoch_counter, train_set, valid_set=None, progressbar=None, **kwargs):
        """Trains; see SpeechBrain's Brain.

        Arguments
        ---------
        epoch_counter : iterable
        train_set, valid_set : DataLoader or Dataset
        progressbar : bool, optional
            Whether to show how it goes. Default: unless `--noprogressbar` is given.
        **kwargs : dict
            For `Brain.fit`.
        """
        shown = not self.noprogressbar if progressbar is None else progressbar
        lengths = {sb.Stage.TRAIN: _length(train_set), sb.Stage.VALID: _length(valid_set)}
        self.bar = TrainingBar(shown and if_main_process(), lengths)
        if getattr(self.hparams, "number_of_steps", 0) is None:
            # Batches that are left over at the end of an epoch make no step.
            steps = lengths[sb.Stage.TRAIN] // self.grad_accumulation_factor
            self.num_training_steps = max(1, steps * epoch_counter.limit)
        try:
            super().fit(epoch_counter, train_set, valid_set, progressbar=False, **kwargs)
        finally:
            self.bar.close()

    def _train_loader_specifics(self, dataset, loader_kwargs):
        loader_kwargs = super()._train_loader_specifics(dataset, loader_kwargs)
        sampler = loader_kwargs.get("batch_sampler")
        if isinstance(sampler, DistributedSamplerWrapper):
            self.train_sampler = DistributedBatchSampler(
                sampler.sampler, rank=self.rank, shuffle=sampler.shuffle
            )
            loader_kwargs["batch_sampler"] = self.train_sampler
        return loader_kwargs

    def init_optimizers(self):
        """Gives the optimizer only what is trained."""
        self.optimizer = self.opt_class([p for p in self.modules.parameters() if p.requires_grad])
        self.optimizers_dict = {"optimizer": self.optimizer}
        self.scheduler = None
        if hasattr(self.hparams, "make_scheduler"):
            steps = self.num_training_steps
            counted = {} if steps is None else {"num_training_steps": steps}
            self.scheduler = self.hparams.make_scheduler(self.optimizer, **counted)
        if self.checkpointer is not None:
            self.checkpointer.add_recoverable("optimizer", self.optimizer)
            if self.scheduler is not None:
                self.checkpointer.add_recoverable("scheduler", self.scheduler)

    def compute_forward(self, batch, stage):
        """Computes the parts of the loss; decodes when validating or testing.

        Arguments
        ---------
        batch : PaddedBatch
        stage : sb.Stage

        Returns
        -------
        parts : dict
            Scalars by name; see `RecognizerLosses`.
        hypotheses : list of Hypothesis, or None
        """
        batch = batch.to(self.device)
        if getattr(batch, "frames", None) is not None:
            audio = {"frames": batch.frames.data}
        else:
            wavs, wav_lens = batch.sig
            audio = {"wavs": wavs, "wav_lens": wav_lens}
        languages = list(batch.lang)
        tokens = [list(map(int, row)) for row in batch.tokens]
        place = [self.epoch, self.step] if stage == sb.Stage.TRAIN else []
        seed = getattr(self.hparams, "seed", 0)
        seeds = [utterance_seed(seed, *place, name) for name in batch.id]
        if stage == sb.Stage.TRAIN:
            filled = getattr(batch, "filled", None)
            return self.modules.losses(languages, tokens, seeds, filled, **audio), None
        embeddings = self.losses.embed_audio(**audio)
        parts = self.losses.from_audio(embeddings, languages, tokens, seeds)
        hypotheses = self.losses.decoder.search(
            embeddings, languages=languages, steps=self.hparams.denoising_steps
        )
        return parts, hypotheses

    def compute_objectives(self, predictions, batch, stage):
        """Weighs the three losses; when validating or testing, scores the transcripts too.

        Arguments
        ---------
        predictions : tuple
            From `compute_forward`.
        batch : PaddedBatch
        stage : sb.Stage

        Returns
        -------
        loss : torch.Tensor
            A scalar.
        """
        parts, hypotheses = predictions
        loss = sum(weight * parts[name] for name, weight in self.hparams.loss_weights.items())
        for name, value in parts.items():
            total, number = self.parts.get(name, (0.0, 0))
            # Summed where they are: reading them would wait for the GPU.
            self.parts[name] = (total + value.detach().float(), number + 1)
        if hypotheses is not None:
            texts = [self.hparams.tokenizer.decode_ids(one.tokens) for one in hypotheses]
            self.rates.append(batch.id, texts, batch.wrd, batch.lang)
        return loss

    def on_fit_batch_start(self, batch, should_step):
        """Seeds what draws from torch's own generator, such as dropout."""
        seed = getattr(self.hparams, "seed", 0)
        torch.manual_seed(utterance_seed(seed, self.epoch, self.step, get_rank() or 0))

    def on_fit_batch_end(self, batch, outputs, loss, should_step):
        """Moves the learning rate and the progress bar on."""
        if should_step and self.scheduler is not None:
            self.scheduler.step()
        # Every process has another batch of about this length.
        self.bar.update(self.parts, self._processes * _seconds(batch))

    def evaluate_batch(self, batch, stage):
        """Validates or tests on one batch; see SpeechBrain's Brain."""
        loss = super().evaluate_batch(batch, stage)
        self.bar.update(self.parts, _seconds(batch))
        return loss

    def _should_save_intra_epoch_ckpt(self, last_ckpt_time, steps_since_ckpt):
        wanted = super()._should_save_intra_epoch_ckpt(last_ckpt_time, steps_since_ckpt)
        # Accumulated gradients are not saved: wait until they have been used.
        return wanted and self.step % self.grad_accumulation_factor == 0

    def _save_intra_epoch_ckpt(self):
        self._average_processes()
        super()._save_intra_epoch_ckpt()

    def _average_processes(self):
        """Makes the running means those of the batches of all processes."""
        if self._processes == 1:
            return
        totals = [torch.as_tensor(total, device=self.device) for total, _ in self.parts.values()]
        means = torch.stack(
            [torch.tensor(self.avg_train_loss, device=self.device), *totals]
        ).double()
        torch.distributed.all_reduce(means)
        loss, *totals = means / self._processes
        self.avg_train_loss = float(loss)
        self.parts = {
            name: (total.float(), number)
            for total, (name, (_, number)) in zip(totals, self.parts.items(), strict=True)
        }

    @property
    def _processes(self):
        distributed = torch.distributed.is_initialized()
        return torch.distributed.get_world_size() if distributed else 1

    @mark_as_saver
    def _save(self, path):
        super()._save(path)
        parts = {name: [float(total), number] for name, (total, number) in self.parts.items()}
        with open(path, "a", encoding="utf-8") as file:
            yaml.dump({"parts": parts}, file, sort_keys=False)

    @mark_as_loader
    def _recover(self, path, end_of_epoch):
        super()._recover(path, end_of_epoch)
        with open(path, encoding="utf-8") as file:
            saved = yaml.safe_load(file)
        self.parts = {name: tuple(pair) for name, pair in saved.get("parts", {}).items()}

    def on_stage_start(self, stage, epoch=None):
        """Starts the running means and the error counts of a stage."""
        # A run that goes on within an epoch goes on with its means, too.
        if stage != sb.Stage.TRAIN or self.step == 0:
            self.parts = {}
        self.rates = ErrorRates()
        self.epoch = epoch
        self.bar.start(stage, epoch, done=self.step)

    def on_stage_end(self, stage, stage_loss, epoch=None):
        """Logs the stage and, after validation, keeps the best checkpoint.

        Arguments
        ---------
        stage : sb.Stage
        stage_loss : float
        epoch : int, optional
        """
        self.bar.close()
        if stage == sb.Stage.TRAIN:
            self._average_processes()
            stage_loss = self.avg_train_loss
        stats = {"loss": stage_loss}
        stats |= {name: float(total) / count for name, (total, count) in self.parts.items()}
        if stage == sb.Stage.TRAIN:
            self.train_stats = stats
            return
        # Training needs the memory that decoding takes for its copies of the weights.
        self.losses.decoder.release()
        languages = sorted(self.rates.words)
        rates = {language: self.rates.main_rate(language) for language in languages}
        stats["error_rate"] = sum(rates.values()) / max(1, len(rates))
        stats |= {f"error_rate_{language}": rate for language, rate in rates.items()}
        logged = {
            "stats_meta": {"epoch": epoch, "lr": self.optimizer.param_groups[0]["lr"]}
            if stage == sb.Stage.VALID
            else {"test": getattr(self.hparams, "test_name", "test")},
            f"{'valid' if stage == sb.Stage.VALID else 'test'}_stats": stats,
        }
        if stage == sb.Stage.VALID:
            logged["train_stats"] = self.train_stats
        # Called in all processes: the loggers write in the first, and wait for the others.
        if getattr(self.hparams, "train_logger", None) is not None:
            self.hparams.train_logger.log_stats(**logged)
        board = getattr(self.hparams, "tensorboard_logger", None)
        if board is not None and stage == sb.Stage.VALID:
            # It would count from one again in a run that goes on.
            before = dict.fromkeys([*stats, *self.train_stats], epoch - 1)
            board.global_step = {"train": before, "valid": dict(before), "meta": epoch - 1}
            board.global_step["test"] = {}
            board.log_stats(**logged)
        if stage == sb.Stage.VALID and self.checkpointer is not None:
            self.checkpointer.save_and_keep_only(
                meta={"error_rate": stats["error_rate"]}, min_keys=["error_rate"]
            )


def _seconds(batch):
    """Seconds of audio in a batch; 0 if its utterances have no duration."""
    return float(sum(getattr(batch, "duration", [])))


def _length(batches):
    """How many batches, or None if that is not known."""
    try:
        return len(batches)
    except TypeError:
        return None
