"""The Brain of every recipe: trains projector and LoRA, validates by decoding."""

import speechbrain as sb
import torch
from speechbrain.utils.logger import get_logger

from speechbrain_diffasr.losses import CTCLoss
from speechbrain_diffasr.metrics import ErrorRates
from speechbrain_diffasr.training import LanguageModelLosses

logger = get_logger(__name__)


class DiffusionBrain(sb.Brain):
    """Trains what is not frozen with the three weighted losses.

    Batches carry `id`, `sig` (waveforms), `tokens` (lists), `lang` and `wrd`.

    Modules: `encoder` (waveforms to audio embeddings) and `decoder` (a `DiffusionSearcher`).
    Hyperparameters: `tokenizer`, `blank_token`, `loss_weights` with diffusion, autoregressive and
    ctc, and `denoising_steps` for validation and test; optionally `self_conditioning`,
    `open_language`, `chunk_size`, `compile_losses`, `train_logger`, `test_name`, and
    `make_scheduler`, which takes the optimizer and is stepped after every update.

    Example
    -------
    >>> from types import SimpleNamespace
    >>> from speechbrain.dataio.batch import PaddedData
    >>> from speechbrain_diffasr.inference import DiffusionASR, default_model
    >>> asr = DiffusionASR.from_hparams(default_model(), freeze_params=False)
    >>> brain = DiffusionBrain(
    ...     modules=asr.mods,
    ...     opt_class=lambda parameters: torch.optim.AdamW(parameters, lr=1e-4),
    ...     hparams={"tokenizer": asr.tokenizer, "blank_token": "<|audio|>", "denoising_steps": 2,
    ...              "loss_weights": {"diffusion": 1.0, "autoregressive": 0.5, "ctc": 0.3}},
    ...     run_opts={"device": "cpu"},
    ... )
    >>> batch = SimpleNamespace(
    ...     id=["a"], sig=PaddedData(torch.rand(1, 16000), torch.ones(1)),
    ...     tokens=[asr.tokenizer.encode("hello")], lang=["en"], wrd=["hello"])
    >>> batch.to = lambda device: batch
    >>> brain.on_fit_start()
    >>> bool(torch.isfinite(brain.fit_batch(batch)))
    True
    """

    def on_fit_start(self):
        """Prepares the losses and the optimizer."""
        super().on_fit_start()
        self.parts = {}

    def _prepare_losses(self):
        """Builds the losses from the hyperparameters, once."""
        if hasattr(self, "lm_losses"):
            return
        settings = vars(self.hparams)
        chosen = {
            name: settings[name]
            for name in ("self_conditioning", "open_language", "chunk_size")
            if name in settings
        }
        searcher = self.modules.decoder
        self.lm_losses = LanguageModelLosses(
            searcher.model,
            searcher.prompt,
            searcher.sampler.canvas_length,
            **chosen,
            compile=settings.get("compile_losses", False),
        )
        blank = self.hparams.tokenizer.token_id(self.hparams.blank_token)
        self.ctc = CTCLoss(blank, chosen.get("chunk_size", 1024))

    def init_optimizers(self):
        """Gives the optimizer only what is trained."""
        self.optimizer = self.opt_class([p for p in self.modules.parameters() if p.requires_grad])
        self.optimizers_dict = {"optimizer": self.optimizer}
        self.scheduler = None
        if hasattr(self.hparams, "make_scheduler"):
            self.scheduler = self.hparams.make_scheduler(self.optimizer)
        if self.checkpointer is not None:
            self.checkpointer.add_recoverable("optimizer", self.optimizer)
            if self.scheduler is not None:
                self.checkpointer.add_recoverable("scheduler", self.scheduler)

    def compute_forward(self, batch, stage):
        """Projects the audio; decodes it when validating or testing.

        Arguments
        ---------
        batch : PaddedBatch
        stage : sb.Stage

        Returns
        -------
        audio : torch.Tensor
            Projected audio, [B, num_slots, D].
        hypotheses : Hypotheses or None
        """
        batch = batch.to(self.device)
        audio = self.modules.encoder(*batch.sig)
        hypotheses = None
        if stage != sb.Stage.TRAIN:
            hypotheses = self.modules.decoder.search(
                audio, languages=list(batch.lang), steps=self.hparams.denoising_steps
            )
        return audio, hypotheses

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
        self._prepare_losses()
        audio, hypotheses = predictions
        head = self.modules.decoder.model.head
        tokens = [list(map(int, row)) for row in batch.tokens]
        diffusion, autoregressive = self.lm_losses(audio, list(batch.lang), tokens)
        lens = torch.tensor([len(row) for row in tokens])
        targets = torch.nn.utils.rnn.pad_sequence(
            [torch.tensor(row, dtype=torch.long) for row in tokens], batch_first=True
        )
        ctc, infeasible = self.ctc(
            audio,
            head,
            targets.to(audio.device),
            torch.full_like(lens, audio.shape[1]).to(audio.device),
            lens.to(audio.device),
        )
        parts = {"diffusion": diffusion, "autoregressive": autoregressive, "ctc": ctc}
        weights = self.hparams.loss_weights
        loss = sum(weights[name] * value for name, value in parts.items())
        self._count({**parts, "infeasible": infeasible})
        if hypotheses is not None:
            texts = [self.hparams.tokenizer.decode_ids(row) for row in hypotheses.tokens]
            self.rates.append(batch.id, texts, batch.wrd, batch.lang)
        return loss

    def _count(self, parts):
        """Adds the parts of a loss to the running means, without waiting for the GPU."""
        for name, value in parts.items():
            total, number = self.parts.get(name, (0.0, 0))
            self.parts[name] = (total + torch.as_tensor(value).detach().float(), number + 1)

    def on_fit_batch_end(self, batch, outputs, loss, should_step):
        """Moves the learning rate on."""
        if should_step and self.scheduler is not None:
            self.scheduler.step()

    def on_stage_start(self, stage, epoch=None):
        """Starts the running means and the error counts of a stage."""
        self.parts = {}
        self.rates = ErrorRates()

    def on_stage_end(self, stage, stage_loss, epoch=None):
        """Logs the stage and, after validation, keeps the best checkpoint.

        Arguments
        ---------
        stage : sb.Stage
        stage_loss : float
        epoch : int, optional
        """
        stats = {"loss": stage_loss}
        stats |= {name: float(total) / count for name, (total, count) in self.parts.items()}
        if stage == sb.Stage.TRAIN:
            self.train_stats = stats
            return
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
        if hasattr(self.hparams, "train_logger"):
            self.hparams.train_logger.log_stats(**logged)
        if stage == sb.Stage.VALID and self.checkpointer is not None:
            self.checkpointer.save_and_keep_only(
                meta={"error_rate": stats["error_rate"]}, min_keys=["error_rate"]
            )
